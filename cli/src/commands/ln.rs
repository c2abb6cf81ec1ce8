//! `catena ln -s`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;

use client::{InodeKind, NewAttributes};

use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::json::Object;
use crate::remote::RemotePath;
use crate::remote_failure::failure_making;
use crate::text::quote;

/// Make a symbolic link
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena ln -s 2026/cat.jpg /photos/newest
  catena ln -s -f 2026/dog.jpg /photos/newest")]
pub(crate) struct Ln {
    /// Needed: there are no hard links
    #[arg(short, long, required = true)]
    symbolic: bool,
    /// Replace a file or link that is there
    #[arg(short, long)]
    force: bool,
    /// What the link holds: relative to its own directory, or from the volume's root with a leading /
    target: OsString,
    /// Where the link is made: /VOLUME/path, or a directory
    #[arg(value_name = "PATH")]
    path: OsString,
}

impl Ln {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        let mut place = RemotePath::parse(&self.path)?;
        if self.target.is_empty() {
            return Err(Failure::usage(place.to_string(), "the link's target is empty, which leads nowhere")
                .next("name what the link is to hold: catena ln -s TARGET PATH"));
        }
        let existing = context.entry_if_any(&place, true)?;
        if existing.is_some_and(|entry| entry.attributes.kind == InodeKind::Directory) {
            let name = self.target.as_bytes().rsplit(|&byte| byte == b'/').find(|part| !part.is_empty());
            let name = name.ok_or_else(|| {
                Failure::new(
                    Exit::Conflict,
                    place.to_string(),
                    "is a directory, and the target gives the link no name",
                )
                .next("name the link itself")
            })?;
            place = place.join(name);
        } else if place.trailing_slash {
            context.check_slash(&place)?;
            return Err(Failure::new(Exit::NotFound, format!("{place}/"), "the directory doesn't exist")
                .next(format!("make it: catena mkdir -p {}", place.typed())));
        }
        let attributes = NewAttributes { mode: 0o777, ..crate::local::meta::owner_attributes() };
        let volume = context.volume_of(&place)?;
        let made = volume.symlink(self.target.as_bytes(), &place.path, attributes, self.force).wait();
        made.map_err(|error| match error {
            client::Error::AlreadyExists { .. } => {
                Failure::new(Exit::Conflict, place.to_string(), "exists already").next("replace it with -f")
            }
            error => failure_making(&place, &error),
        })?;
        let target = quote(self.target.as_bytes());
        context.output.note(
            || {
                Object::new()
                    .with_bytes("name", &place.to_bytes())
                    .with_bytes("target", self.target.as_bytes())
            },
            || format!("{place} -> {target}"),
        )
    }
}
