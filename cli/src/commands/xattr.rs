//! `catena xattr list|get|set|remove`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use client::{Xattr as Pair, XattrMode};

use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::json::Object;
use crate::local::meta;
use crate::remote::RemotePath;
use crate::remote_failure::failure;
use crate::text::quote;

/// List, read, set and remove extended attributes
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Xattr {
    List(List),
    Get(Get),
    Set(Set),
    Remove(Remove),
}

/// List a file's extended attributes
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena xattr list /photos/cat.jpg")]
pub(crate) struct List {
    /// /VOLUME/path
    path: OsString,
    /// Of a symbolic link itself, not of what it points at
    #[arg(long)]
    no_dereference: bool,
}

/// Print an extended attribute's value: into a pipe or file byte for byte, on a terminal as a line
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena xattr get /photos/cat.jpg user.author")]
pub(crate) struct Get {
    /// /VOLUME/path
    path: OsString,
    /// The attribute's name
    name: OsString,
    /// Of a symbolic link itself, not of what it points at
    #[arg(long)]
    no_dereference: bool,
}

/// Set an extended attribute
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena xattr set /photos/cat.jpg user.author Ada
  catena xattr set --new /photos/cat.jpg user.checked yes")]
pub(crate) struct Set {
    /// /VOLUME/path
    path: OsString,
    /// The attribute's name: user.…, trusted.…, security.… or system.…, the namespaces of Linux
    name: OsString,
    /// Its value
    value: OsString,
    /// Only if it doesn't exist yet
    #[arg(long, conflicts_with = "existing")]
    new: bool,
    /// Only if it exists
    #[arg(long)]
    existing: bool,
    /// Of a symbolic link itself, not of what it points at
    #[arg(long)]
    no_dereference: bool,
}

/// Remove an extended attribute
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena xattr remove /photos/cat.jpg user.author")]
pub(crate) struct Remove {
    /// /VOLUME/path
    path: OsString,
    /// The attribute's name
    name: OsString,
    /// Of a symbolic link itself, not of what it points at
    #[arg(long)]
    no_dereference: bool,
}

impl Xattr {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        match self {
            Self::List(command) => command.run(context),
            Self::Get(command) => command.run(context),
            Self::Set(command) => command.run(context),
            Self::Remove(command) => command.run(context),
        }
    }
}

fn pairs(context: &mut Context, place: &RemotePath, follow: bool) -> Result<Vec<Pair>> {
    context.check_slash(place)?;
    let volume = context.volume_of(place)?;
    let entry =
        volume.stat_with_xattrs(&place.path, follow).wait().map_err(|error| failure(place, &error))?;
    Ok(entry.xattrs)
}

fn absent(place: &RemotePath, name: &[u8]) -> Failure {
    Failure::new(Exit::NotFound, place.to_string(), format!("has no attribute {}", quote(name)))
        .next(format!("see what it has: catena xattr list {}", place.typed()))
}

impl List {
    fn run(self, context: &mut Context) -> Result<()> {
        let place = RemotePath::parse(&self.path)?;
        for pair in pairs(context, &place, !self.no_dereference)? {
            context.output.result(
                || object(&place, &pair.name).with_bytes("value", &pair.value),
                |output| output.name(&pair.name),
            )?;
        }
        Ok(())
    }
}

impl Get {
    fn run(self, context: &mut Context) -> Result<()> {
        let place = RemotePath::parse(&self.path)?;
        let name = attribute(&self.name)?;
        let all = pairs(context, &place, !self.no_dereference)?;
        let pair = all.into_iter().find(|pair| pair.name == name).ok_or_else(|| absent(&place, name))?;
        let output = &mut context.output;
        if output.is_json() || output.is_terminal() {
            let object = || object(&place, &pair.name).with_bytes("value", &pair.value);
            return output.result(object, |output| output.name(&pair.value));
        }
        output.bytes(&pair.value)
    }
}

impl Set {
    fn run(self, context: &mut Context) -> Result<()> {
        let place = RemotePath::parse(&self.path)?;
        let name = attribute(&self.name)?;
        if !meta::is_in_namespace(name) {
            let reason = format!("is in no namespace of Linux ({})", meta::NAMESPACES.join(", "));
            return Err(Failure::usage(quote(name), format!("{reason}, and no file could get it back"))
                .next(format!("name it user.{}", quote(name))));
        }
        let pair = Pair { name: name.to_vec(), value: self.value.as_bytes().to_vec() };
        let mode = match (self.new, self.existing) {
            (true, _) => XattrMode::Create,
            (_, true) => XattrMode::Replace,
            (false, false) => XattrMode::Any,
        };
        context.check_slash(&place)?;
        let volume = context.volume_of(&place)?;
        let set = volume.set_xattr(&place.path, !self.no_dereference, pair, mode).wait();
        set.map_err(|error| match error {
            client::Error::AlreadyExists { .. } => {
                let reason = format!("has an attribute {} already", quote(self.name.as_bytes()));
                Failure::new(Exit::Conflict, place.to_string(), reason).next("replace it without --new")
            }
            client::Error::NotFound { .. } if mode == XattrMode::Replace => match context.entry(&place, true)
            {
                Ok(_) => absent(&place, self.name.as_bytes()),
                Err(failure) => failure,
            },
            error => failure(&place, &error),
        })?;
        changed(context, &place, self.name.as_bytes(), "set")
    }
}

/// An attribute of a file: the same keys from every command.
fn object(place: &RemotePath, name: &[u8]) -> Object {
    Object::new().with_bytes("name", &place.to_bytes()).with_bytes("attribute", name)
}

/// An attribute's name, as it was given.
fn attribute(name: &OsStr) -> Result<&[u8]> {
    if name.is_empty() {
        return Err(Failure::usage("the attribute's name", "is empty"));
    }
    Ok(name.as_bytes())
}

/// Says in JSON what was done; people want to hear nothing.
fn changed(context: &mut Context, place: &RemotePath, name: &[u8], what: &str) -> Result<()> {
    if !context.output.is_json() {
        return Ok(());
    }
    let object = object(place, name).with(what, true);
    context.output.result(|| object, |_| Vec::new())
}

impl Remove {
    fn run(self, context: &mut Context) -> Result<()> {
        let place = RemotePath::parse(&self.path)?;
        let name = attribute(&self.name)?;
        context.check_slash(&place)?;
        let volume = context.volume_of(&place)?;
        let removed = volume.remove_xattr(&place.path, !self.no_dereference, name).wait();
        removed.map_err(|error| match error {
            client::Error::NotFound { .. } => match context.entry(&place, !self.no_dereference) {
                Ok(_) => absent(&place, name),
                Err(failure) => failure,
            },
            error => failure(&place, &error),
        })?;
        changed(context, &place, name, "removed")
    }
}
