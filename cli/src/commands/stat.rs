//! `catena stat`.

use std::ffi::OsString;

use client::{Entry, InodeKind};

use crate::context::Context;
use crate::failure::Result;
use crate::output::Output;
use crate::present;
use crate::remote::RemotePath;
use crate::remote_failure::failure;
use crate::tally::Tally;
use crate::text::{quote, size, time};

/// Show everything about files and directories
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena stat /photos/cat.jpg
  catena stat --json /photos/cat.jpg")]
pub(crate) struct Stat {
    /// What to describe: /VOLUME/path
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
    /// Describe what a symbolic link points at
    #[arg(short = 'L', long)]
    follow: bool,
}

impl Stat {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        let mut tally = Tally::default();
        for path in &self.paths {
            let result = RemotePath::parse(path).and_then(|place| self.show(context, &place));
            tally.take(&context.output, result)?;
        }
        tally.finish("name")
    }

    fn show(&self, context: &mut Context, place: &RemotePath) -> Result<()> {
        let volume = context.volume_of(place)?;
        context.check_slash(place)?;
        let follow = self.follow || place.trailing_slash;
        let entry =
            volume.stat_with_xattrs(&place.path, follow).wait().map_err(|error| failure(place, &error))?;
        let chunks = match entry.attributes.kind {
            InodeKind::File => {
                let mut count = 0_u64;
                for chunk in volume.stored_chunks(&entry) {
                    chunk.map_err(|error| failure(place, &error))?;
                    count += 1;
                }
                Some(count)
            }
            InodeKind::Directory | InodeKind::Symlink => None,
        };
        let path = place.to_bytes();
        context.output.result(
            || {
                present::object(&path, &entry.attributes, &entry.target)
                    .with_some("chunks", chunks)
                    .with("xattrs", present::xattr_values(&entry.xattrs))
            },
            |output| text(output, &path, &entry, chunks),
        )
    }
}

/// The description for people.
fn text(output: &Output, path: &[u8], entry: &Entry, chunks: Option<u64>) -> Vec<u8> {
    let attributes = &entry.attributes;
    let mut lines = b"name      ".to_vec();
    lines.extend(output.name(path));
    let mut field = |name: &str, value: &str| lines.extend(format!("\n{name:<9} {value}").into_bytes());
    field("type", present::kind_word(attributes.kind));
    match attributes.kind {
        InodeKind::Directory => field("entries", &size::grouped(attributes.size)),
        InodeKind::Symlink => field("target", &quote(&entry.target)),
        InodeKind::File => {
            let bytes = size::grouped(attributes.size);
            field("size", &format!("{} ({bytes} bytes)", size::human(attributes.size)));
            let holes = attributes.size.saturating_sub(attributes.stored_bytes);
            let stored = match holes {
                0 => size::human(attributes.stored_bytes),
                holes => format!("{}, {} in holes", size::human(attributes.stored_bytes), size::human(holes)),
            };
            field("stored", &format!("{stored}, in {}", crate::text::count(chunks.unwrap_or(0), "chunk")));
            field("version", &attributes.version.to_string());
        }
    }
    field("mode", &format!("{:04o}", attributes.mode));
    field("owner", &format!("{}:{}", attributes.uid, attributes.gid));
    field("modified", &time::utc(attributes.modified, true));
    field("changed", &time::utc(attributes.changed, true));
    field("created", &time::utc(attributes.created, true));
    field("inode", &attributes.inode.to_string());
    for xattr in &entry.xattrs {
        field("xattr", &format!("{} = {}", quote(&xattr.name), quote(&xattr.value)));
    }
    lines
}
