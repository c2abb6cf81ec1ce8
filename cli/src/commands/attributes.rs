//! `catena chmod|chown|touch`.

use std::ffi::OsString;

use client::{AttributeChange, InodeKind, NewAttributes, Precondition, Timestamp, UploadOptions};

use crate::clock;
use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::json::Object;
use crate::mode::ModeChange;
use crate::owner::Owner;
use crate::present;
use crate::remote::RemotePath;
use crate::remote_failure::{failure, failure_making};
use crate::tally::Tally;
use crate::text::time;
use crate::walk::{Stage, Visit};

/// Change permission bits
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena chmod 640 /notes/todo.txt
  catena chmod -R u+rwX,go-w /photos/2026")]
pub(crate) struct Chmod {
    /// 644, u+x, go-w,a+r …
    #[arg(allow_hyphen_values = true)]
    mode: ModeChange,
    /// What to change: /VOLUME/path
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
    /// Everything below, too
    #[arg(short = 'R', long)]
    recursive: bool,
}

/// Change owner and group
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena chown ada /notes/todo.txt
  catena chown -R 1000:100 /photos")]
pub(crate) struct Chown {
    /// USER, USER:GROUP or :GROUP; names of this machine, or numbers
    owner: String,
    /// What to change: /VOLUME/path
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
    /// Everything below, too
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Change a symbolic link itself, not what it points at
    #[arg(long)]
    no_dereference: bool,
}

/// Set the time of the last change, and make files that don't exist
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena touch /notes/todo.txt
  catena touch --date 2026-01-01T12:00:00Z /notes/todo.txt")]
pub(crate) struct Touch {
    /// What to touch: /VOLUME/path
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
    /// Make nothing
    #[arg(short = 'c', long)]
    no_create: bool,
    /// This time instead of now: 2026-01-01, 2026-01-01T12:00:00Z or @SECONDS; always UTC
    #[arg(short, long, value_name = "TIME", value_parser = time::parse)]
    date: Option<Timestamp>,
    /// Touch a symbolic link itself, not what it points at
    #[arg(long)]
    no_dereference: bool,
}

impl Chmod {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        let mut tally = Tally::default();
        for place in RemotePath::parse_all(&self.paths)? {
            let change = |visit: &Visit| {
                // A link's own mode means nothing; in a tree it is left alone.
                let is_link = visit.attributes.kind == InodeKind::Symlink;
                let mode =
                    self.mode.apply(visit.attributes.mode, visit.attributes.kind == InodeKind::Directory);
                (!is_link).then(|| AttributeChange { mode: Some(mode), ..AttributeChange::default() })
            };
            apply(context, &place, self.recursive, true, &mut tally, &change)?;
        }
        tally.finish("name")
    }
}

impl Chown {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        let owner = Owner::parse(&self.owner)?;
        let change = AttributeChange { uid: owner.uid, gid: owner.gid, ..AttributeChange::default() };
        let mut tally = Tally::default();
        for place in RemotePath::parse_all(&self.paths)? {
            apply(context, &place, self.recursive, !self.no_dereference, &mut tally, &|_| Some(change))?;
        }
        tally.finish("name")
    }
}

/// Changes what is at `place` and, with `recursive`, everything below. `follow`: a link at the place itself is followed.
fn apply(
    context: &mut Context,
    place: &RemotePath,
    recursive: bool,
    follow: bool,
    tally: &mut Tally,
    change: &dyn Fn(&Visit) -> Option<AttributeChange>,
) -> Result<()> {
    let mut walk = match context.walk(place, follow && !recursive || place.trailing_slash) {
        Ok(walk) => walk,
        Err(failure) => return tally.take(&context.output, Err(failure)),
    };
    let volume = context.volume_of(place)?;
    while let Some(visit) = walk.next() {
        let result = visit.and_then(|visit| {
            // A directory is changed when it is left: taking its bits away first could close it.
            let due = if recursive { visit.stage != Stage::Enter } else { true };
            let Some(change) = change(&visit).filter(|_| due) else { return Ok(()) };
            let inode = volume.at(visit.attributes.inode);
            let set = inode.set_attributes(b"", false, change).wait();
            set.map_err(|error| failure(walk.shown(&visit.below), &error))?;
            let attributes = client::Attributes {
                mode: change.mode.unwrap_or(visit.attributes.mode),
                uid: change.uid.unwrap_or(visit.attributes.uid),
                gid: change.gid.unwrap_or(visit.attributes.gid),
                ..visit.attributes
            };
            if context.output.is_json() {
                let path = place.join(&visit.below).to_bytes();
                context
                    .output
                    .result(|| present::object(&path, &attributes, &visit.target), |_| Vec::new())?;
            }
            Ok(())
        });
        tally.take(&context.output, result)?;
        if !recursive {
            break;
        }
    }
    Ok(())
}

impl Touch {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        let mut tally = Tally::default();
        for place in RemotePath::parse_all(&self.paths)? {
            let result = self.touch(context, &place);
            tally.take(&context.output, result)?;
        }
        tally.finish("name")
    }

    fn touch(&self, context: &mut Context, place: &RemotePath) -> Result<()> {
        context.check_slash(place)?;
        let modified = self.date.unwrap_or_else(clock::now);
        let volume = context.volume_of(place)?;
        let change = AttributeChange { modified: Some(modified), ..AttributeChange::default() };
        let made = match volume.set_attributes(&place.path, !self.no_dereference, change).wait() {
            Ok(_) => false,
            Err(client::Error::NotFound { .. }) if self.no_create => return Ok(()),
            Err(client::Error::NotFound { .. }) if place.trailing_slash => {
                return Err(Failure::new(Exit::NotFound, format!("{place}/"), "the directory doesn't exist")
                    .next(format!("make it: catena mkdir -p {}", place.typed())));
            }
            Err(client::Error::NotFound { .. }) => {
                let attributes = NewAttributes {
                    mode: 0o644,
                    modified: Some(modified),
                    ..crate::local::meta::owner_attributes()
                };
                // Whoever makes it in between has made it: an empty file never replaces one.
                let options = UploadOptions {
                    attributes: Some(attributes),
                    precondition: Precondition::Absent,
                    ..UploadOptions::default()
                };
                let upload = volume.upload(&place.path, options).map_err(|error| failure(place, &error))?;
                match upload.finish().wait() {
                    Ok(_) => true,
                    Err(client::Error::AlreadyExists { .. }) => false,
                    Err(error) => return Err(failure_making(place, &error)),
                }
            }
            Err(error) => return Err(failure(place, &error)),
        };
        if context.output.is_json() {
            let object = Object::new().with_bytes("name", &place.to_bytes()).with("made", made);
            context.output.result(|| object, |_| Vec::new())?;
        }
        Ok(())
    }
}
