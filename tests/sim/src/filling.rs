//! What fills a metadata log, and empties it again: directories with a large attribute each.

use client::core::{Call, Ticket};
use wire::meta::{NewAttributes, Operation, Place, Precondition, RemoveKind, Xattr};
use wire::{GroupId, InodeId, VolumeId};

/// What one directory takes in the log, and in its image.
const VALUE_BYTES: usize = 16 << 10;
/// Directories that fill any log of a seed.
pub(crate) const DIRECTORIES_MAX: u64 = 4_000;
/// Asked at once.
pub(crate) const WIDTH: usize = 4;
/// Tickets beyond any workload's.
const TICKETS: u64 = 1 << 60;

/// The ticket of call `number`.
pub(crate) fn ticket(number: u64) -> Ticket {
    Ticket(TICKETS + number)
}

/// Makes directory `number`.
pub(crate) fn make_directory(volume: VolumeId, number: u64) -> Call {
    let xattrs = vec![Xattr { name: b"filling".to_vec(), value: vec![7; VALUE_BYTES] }];
    let attributes = NewAttributes { mode: 0o755, xattrs, ..NewAttributes::default() };
    mutate(Operation::MakeDirectory { place: place(volume, number), attributes, parents: false })
}

/// Removes it.
pub(crate) fn remove(volume: VolumeId, number: u64) -> Call {
    let (place, kind) = (place(volume, number), RemoveKind::Directory);
    mutate(Operation::Remove { place, kind, precondition: Precondition::Any })
}

fn place(volume: VolumeId, number: u64) -> Place {
    Place { volume, directory: InodeId::ROOT, path: format!("fill-{number}").into_bytes() }
}

fn mutate(operation: Operation) -> Call {
    Call::Mutate { group: GroupId(0), upload: None, operation: Box::new(operation) }
}
