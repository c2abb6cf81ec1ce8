//! `catena ls`.

use std::ffi::OsString;

use client::InodeKind;

use crate::context::Context;
use crate::failure::Result;
use crate::present;
use crate::remote::RemotePath;
use crate::remote_failure::failure;
use crate::tally::Tally;
use crate::walk::Stage;

/// List directories; `ls /` lists the volumes
#[derive(Debug, clap::Args)]
#[command(
    // `-h` means sizes with a unit here, as in every other `ls`.
    disable_help_flag = true,
    arg(clap::Arg::new("help").long("help").action(clap::ArgAction::Help).help("Print help")),
    after_help = "\
Examples:
  catena ls /photos
  catena ls -l /photos/2026
  catena ls -R --json /photos"
)]
pub(crate) struct Ls {
    /// What to list: /VOLUME/path
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
    /// Mode, owner, group, size and time too
    #[arg(short, long)]
    long: bool,
    /// Everything below, each with its path
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Describe a directory itself, not what is in it
    #[arg(short, long)]
    directory: bool,
    /// Sizes with a unit
    #[arg(short = 'h', long)]
    human: bool,
}

impl Ls {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        let mut tally = Tally::default();
        for path in &self.paths {
            let result = if path == "/" {
                volumes(context)
            } else {
                self.list(context, &RemotePath::parse(path)?, &mut tally)
            };
            tally.take(&context.output, result)?;
        }
        tally.finish("name")
    }

    fn list(&self, context: &mut Context, place: &RemotePath, tally: &mut Tally) -> Result<()> {
        let entry = context.entry(place, place.trailing_slash)?;
        if entry.attributes.kind != InodeKind::Directory || self.directory {
            return self.print(
                context,
                &place.to_bytes(),
                &place.to_bytes(),
                &entry.attributes,
                &entry.target,
            );
        }
        // With several arguments, names alone wouldn't say where they are.
        let prefix = if self.paths.len() > 1 { place.to_bytes() } else { Vec::new() };
        if !self.recursive {
            let listing = context.volume_of(place)?.at(entry.attributes.inode).list(b"").wait();
            for item in listing.map_err(|error| failure(place, &error))? {
                let item = item.map_err(|error| failure(place, &error))?;
                let name = crate::remote::join(&prefix, &item.name);
                self.print(
                    context,
                    &place.join(&item.name).to_bytes(),
                    &name,
                    &item.attributes,
                    &item.target,
                )?;
            }
            return Ok(());
        }
        for visit in context.walk(place, place.trailing_slash)? {
            match visit {
                Ok(visit) if visit.stage == Stage::Leave || visit.is_root() => {}
                Ok(visit) => {
                    let name = crate::remote::join(&prefix, &visit.below);
                    self.print(
                        context,
                        &place.join(&visit.below).to_bytes(),
                        &name,
                        &visit.attributes,
                        &visit.target,
                    )?;
                }
                Err(failure) => tally.take(&context.output, Err(failure))?,
            }
        }
        Ok(())
    }

    fn print(
        &self,
        context: &mut Context,
        path: &[u8],
        name: &[u8],
        attributes: &client::Attributes,
        target: &[u8],
    ) -> Result<()> {
        context.output.result(
            || present::object(path, attributes, target),
            |output| {
                let mut line =
                    if self.long { present::long(attributes, self.human).into_bytes() } else { Vec::new() };
                line.extend(output.name(name));
                if self.long && attributes.kind == InodeKind::Symlink {
                    line.extend(b" -> ");
                    line.extend(output.name(target));
                }
                if attributes.kind == InodeKind::Directory && output.is_terminal() {
                    line.push(b'/');
                }
                line
            },
        )
    }
}

/// The volumes, as if they were directories.
fn volumes(context: &mut Context) -> Result<()> {
    let volumes = context.client()?.volumes().wait().map_err(|error| failure("the volumes", &error))?;
    for info in volumes {
        context.output.result(
            || crate::json::Object::new().with("name", format!("/{}", info.name)).with("type", "volume"),
            |_| info.name.clone().into_bytes(),
        )?;
    }
    Ok(())
}
