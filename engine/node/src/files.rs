//! The files of a formatted node, looked at before anything in them or about them is changed.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use group::OpenFailure;
use journal::{
    Expected, Kind, OpenError, SUPERBLOCK_BYTES, SUPERBLOCK_COPIES, Superblock, SuperblockError,
    superblock_offset,
};
use runtime::StoreFile;
use wire::GroupId;

use crate::config::Config;
use crate::error::Error;
use crate::identity::{Identity, data_files, metadata_path};
use crate::start::open_file;
use crate::{meta_log, shard_thread};

/// That all of them are there (R34). Each that is opened begins a new life: none does for a start that can't succeed.
pub(crate) fn check_there(config: &Config) -> Result<(), Error> {
    data_files(config).into_iter().try_for_each(|path| match fs::metadata(&path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::Missing { path }),
        Err(source) => Err(Error::file("look at", &path, source)),
    })
}

/// Locks all of them, and makes sure that they are this node's.
pub(crate) fn lock_own(config: &Config, identity: &Identity) -> Result<Vec<StoreFile>, Error> {
    check_there(config)?;
    let mut locked = Vec::new();
    for (index, store) in (0..).zip(&identity.stores) {
        let path = config.store_path(index);
        locked.push(open_file(&path, false)?);
        let expected = Expected {
            cluster: Some(identity.cluster),
            store: Some(*store),
            node: identity.node,
            unit: index,
        };
        check_owner(&path, Kind::Chunks, expected)?
            .map_err(|error| shard_thread::open_failure(&path, error).into_error("the shard"))?;
    }
    let path = metadata_path(config.metadata_directory());
    locked.push(open_file(&path, false)?);
    let expected =
        Expected { cluster: Some(identity.cluster), store: None, node: identity.node, unit: GroupId(0).0 };
    check_owner(&path, Kind::Records, expected)?.map_err(|error| {
        meta_log::open_failure(&path, &OpenFailure::Log(error)).into_error("the metadata replica")
    })?;
    Ok(locked)
}

/// What a start would say of a file's superblock.
fn check_owner(path: &Path, kind: Kind, expected: Expected) -> Result<Result<(), OpenError>, Error> {
    let file = File::open(path).map_err(|source| Error::file("open", path, source))?;
    let copies = (0..SUPERBLOCK_COPIES).map(|copy| {
        let mut bytes = vec![0; SUPERBLOCK_BYTES];
        match file.read_exact_at(&mut bytes, superblock_offset(copy)) {
            Ok(()) => Superblock::decode(copy, &bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(SuperblockError::Absent),
            // Another copy suffices.
            Err(_) => Err(SuperblockError::Damaged),
        }
    });
    Ok(journal::identify(&copies.collect::<Vec<_>>(), kind, expected).map(drop))
}
