//! `catena append|write|truncate`: changes to a file's bytes.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use client::{Committed, Precondition, UploadChange, UploadOptions, Version};

use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::json::Object;
use crate::remote::RemotePath;
use crate::remote_failure::{failure, failure_making};
use crate::text::{self, size};
use crate::transfer::destination::split_target;
use crate::transfer::send;

/// Bytes read from a source the first time: what is piped in is small more often than not.
const FIRST_READ_BYTES: usize = 64 << 10;

/// Put bytes behind a file's end, atomically
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "catena append [OPTIONS] SRC… DST",
    after_help = "\
Examples:
  date | catena append - /logs/today
  catena append part1 part2 /backups/whole"
)]
pub(crate) struct Append {
    /// Local files, - for standard input; then the file: /VOLUME/path, made if it doesn't exist
    #[arg(required = true, value_name = "SRC… DST")]
    names: Vec<OsString>,
    /// Only a file of this version
    #[arg(long, value_name = "N", value_parser = version)]
    if_version: Option<u64>,
}

/// Overwrite a part of a file, atomically
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  printf new | catena write --offset 100 - /data/file
  catena write --offset 1MiB patch.bin /data/file")]
pub(crate) struct Write {
    /// A local file, - for standard input
    source: OsString,
    /// The file: /VOLUME/path, made if it doesn't exist
    #[arg(value_name = "DST")]
    target: OsString,
    /// Where in the file the first byte goes
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = size::parse)]
    offset: u64,
    /// Only a file of this version
    #[arg(long, value_name = "N", value_parser = version)]
    if_version: Option<u64>,
}

/// Cut files, or extend them by a hole
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena truncate --size 0 /logs/today
  catena truncate --size 10GiB /images/disk")]
pub(crate) struct Truncate {
    /// The new size
    #[arg(short, long, value_name = "SIZE", allow_hyphen_values = true, value_parser = size::parse)]
    size: u64,
    /// Files: /VOLUME/path; they have to exist
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
    /// Only a file of this version
    #[arg(long, value_name = "N", value_parser = version)]
    if_version: Option<u64>,
}

impl Append {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        let (sources, target) = split_target(&self.names)?;
        let place = RemotePath::parse(target)?;
        let committed = change(context, sources, &place, UploadChange::Append, self.if_version)?;
        report(context, &place, &committed, "appended to")
    }
}

impl Write {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        let place = RemotePath::parse(&self.target)?;
        let sources = std::slice::from_ref(&self.source);
        let committed =
            change(context, sources, &place, UploadChange::Write { offset: self.offset }, self.if_version)?;
        report(context, &place, &committed, "wrote into")
    }
}

impl Truncate {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        for place in RemotePath::parse_all(&self.paths)? {
            context.check_slash(&place)?;
            let volume = context.volume_of(&place)?;
            let cut = volume.truncate(&place.path, self.size, precondition(self.if_version)).wait();
            let committed = cut.map_err(|error| failure(&place, &error))?;
            report(context, &place, &committed, "truncated")?;
        }
        Ok(())
    }
}

/// The number of `--if-version`.
pub(crate) fn version(text: &str) -> std::result::Result<u64, String> {
    text.parse().map_err(|_| format!("`{text}` is no version: a number, as `catena stat` shows it"))
}

/// `--if-version` as the server's condition.
pub(crate) fn precondition(if_version: Option<u64>) -> Precondition {
    if_version.map_or(Precondition::Any, |version| Precondition::Version(Version(version)))
}

/// Sends all of `sources`, one after the other, as one change.
fn change(
    context: &mut Context,
    sources: &[OsString],
    place: &RemotePath,
    change: UploadChange,
    if_version: Option<u64>,
) -> Result<Committed> {
    if place.is_root() || place.trailing_slash {
        return Err(Failure::usage(place.to_string(), "a file's name is needed here, not a directory")
            .next("name the file: /VOLUME/path"));
    }
    let options =
        UploadOptions { attributes: None, precondition: precondition(if_version), change, size_hint: None };
    let mut upload =
        context.volume_of(place)?.upload(&place.path, options).map_err(|error| failure(place, &error))?;
    for source in sources {
        let mut reader = open(source)?;
        copy(source, &mut *reader, &mut upload, place)?;
    }
    upload.finish().wait().map_err(|error| failure_making(place, &error))
}

/// A local file, or standard input.
fn open(source: &OsStr) -> Result<Box<dyn Read>> {
    if source == "-" {
        return Ok(Box::new(io::stdin().lock()));
    }
    let path = Path::new(source);
    let file = File::open(path).map_err(|error| Failure::path(path, &error))?;
    if file.metadata().map_err(|error| Failure::path(path, &error))?.is_dir() {
        return Err(Failure::new(Exit::Conflict, path.display().to_string(), "is a directory")
            .next("name a file, or - for standard input"));
    }
    Ok(Box::new(file))
}

/// Sends everything that `reader` gives.
pub(crate) fn copy(
    source: &OsStr,
    reader: &mut dyn Read,
    upload: &mut client::Upload,
    place: &RemotePath,
) -> Result<u64> {
    let mut total = 0;
    loop {
        let wanted = if total == 0 { FIRST_READ_BYTES } else { send::READ_BYTES };
        let count = send::fill(upload, wanted, place, |room| {
            loop {
                match reader.read(room) {
                    Ok(count) => return Ok(count),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if source == "-" => return Err(Failure::io("standard input", &error)),
                    Err(error) => return Err(Failure::path(Path::new(source), &error)),
                }
            }
        })?;
        if count == 0 {
            return Ok(total);
        }
        total += count as u64;
    }
}

fn report(context: &mut Context, place: &RemotePath, committed: &Committed, did: &str) -> Result<()> {
    context.output.note(
        || {
            Object::new()
                .with_bytes("name", &place.to_bytes())
                .with("size", committed.size)
                .with("version", committed.version.0)
                .with("offset", committed.offset)
        },
        || {
            format!(
                "{did} {place}: now {}, version {}",
                text::count(committed.size, "byte"),
                committed.version
            )
        },
    )
}
