//! `catena mkdir`.

use std::ffi::OsString;

use client::NewAttributes;

use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::json::Object;
use crate::mode::ModeChange;
use crate::remote::RemotePath;
use crate::remote_failure::{failure, failure_making};
use crate::tally::Tally;

/// Make directories
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena mkdir /photos/2026
  catena mkdir -p /photos/2026/november/week-1")]
pub(crate) struct Mkdir {
    /// Directories: /VOLUME/path
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
    /// Make missing parents too, and accept a directory that exists
    #[arg(short, long)]
    parents: bool,
    /// Permission bits
    #[arg(short, long, default_value = "755")]
    mode: ModeChange,
}

impl Mkdir {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        let mut tally = Tally::default();
        for place in RemotePath::parse_all(&self.paths)? {
            let result = self.make(context, &place);
            tally.take(&context.output, result)?;
        }
        tally.finish("directory")
    }

    fn make(&self, context: &mut Context, place: &RemotePath) -> Result<()> {
        let volume = context.volume_of(place)?;
        if place.is_root() {
            return if self.parents {
                Ok(())
            } else {
                Err(Failure::new(
                    Exit::Conflict,
                    place.to_string(),
                    "exists already: it is the volume itself",
                )
                .next("name a directory in it"))
            };
        }
        let attributes =
            NewAttributes { mode: self.mode.apply(0o755, true), ..crate::local::meta::owner_attributes() };
        volume.mkdir(&place.path, attributes, self.parents).wait().map_err(|error| match error {
            client::Error::AlreadyExists { .. } if self.parents => {
                Failure::new(Exit::Conflict, place.to_string(), "exists and is no directory")
                    .next("choose another name, or remove it if it may go")
            }
            client::Error::AlreadyExists { .. } => {
                let failure = failure(place, &error);
                failure.next("-p accepts a directory that exists")
            }
            error => failure_making(place, &error),
        })?;
        context
            .output
            .note(|| Object::new().with_bytes("name", &place.to_bytes()), || format!("made {place}"))
    }
}
