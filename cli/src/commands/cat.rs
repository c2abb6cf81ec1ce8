//! `catena cat`.

use std::ffi::OsString;

use client::{Download, Piece, ReadRange};

use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::output::Output;
use crate::range::ByteRange;
use crate::remote::RemotePath;
use crate::remote_failure::failure;
use crate::tally::Tally;
use crate::text;

/// Zeros for holes, printed piece by piece.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Print files' bytes
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena cat /notes/todo.txt
  catena cat --range -100 /logs/today
  catena cat /backups/a.tar | tar x")]
pub(crate) struct Cat {
    /// Files: /VOLUME/path
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
    /// Only these bytes: A-B (both included), A- or -N
    #[arg(long, allow_hyphen_values = true)]
    range: Option<ByteRange>,
}

impl Cat {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        // Whatever can be known to be wrong is said before the first byte is printed.
        let mut tally = Tally::default();
        for place in RemotePath::parse_all(&self.paths)? {
            let printed = open(context, &place, self.range)
                .and_then(|download| print(&mut context.output, &place, download));
            tally.take(&context.output, printed)?;
        }
        tally.finish("file")
    }
}

/// Begins to read the file at `place`, or the part of it that `range` names.
pub(crate) fn open(context: &mut Context, place: &RemotePath, range: Option<ByteRange>) -> Result<Download> {
    context.check_slash(place)?;
    let volume = context.volume_of(place)?;
    let download = volume.download(&place.path, read_range(range)).wait();
    let download = download.map_err(|error| context.failure_behind_links(place, &error))?;
    check_range(place, range, download.entry().attributes.size)?;
    Ok(download)
}

/// The client's form of a range.
pub(crate) fn read_range(range: Option<ByteRange>) -> ReadRange {
    match range {
        None => ReadRange::Whole,
        Some(ByteRange::Between { first, last }) => {
            ReadRange::Span { offset: first, length: (last - first).saturating_add(1) }
        }
        Some(ByteRange::From(first)) => ReadRange::From(first),
        Some(ByteRange::Last(count)) => ReadRange::Last(count),
    }
}

/// Refuses a range that begins behind the end of the file of that name.
pub(crate) fn check_range(place: &RemotePath, range: Option<ByteRange>, size: u64) -> Result<()> {
    match range {
        Some(range) if range.of(size).is_none() => {
            let reason =
                format!("the range begins behind the end: the file has {}", text::count(size, "byte"));
            Err(Failure::new(Exit::Failed, place.to_string(), reason)
                .next(format!("look how long it is: catena stat {}", place.typed())))
        }
        _ => Ok(()),
    }
}

/// Prints everything that comes.
pub(crate) fn print(output: &mut Output, place: &RemotePath, download: Download) -> Result<()> {
    for piece in download {
        match piece.map_err(|error| failure(place, &error))? {
            Piece::Data { bytes, .. } => output.bytes(&bytes)?,
            Piece::Hole { length, .. } => {
                let mut rest = length;
                while rest > 0 {
                    let count = usize::try_from(rest).unwrap_or(usize::MAX).min(ZEROS.len());
                    output.bytes(&ZEROS[..count])?;
                    rest -= count as u64;
                }
            }
        }
    }
    Ok(())
}
