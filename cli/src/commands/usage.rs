//! `catena du` and `catena df`.

use std::ffi::OsString;

use client::{ClusterStatus, InodeKind, VolumeInfo, VolumeUsage};

use crate::commands::volume::usage_fields;
use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::json::Object;
use crate::remote::{self, RemotePath};
use crate::remote_failure::failure;
use crate::tally::Tally;
use crate::text::{size, time};
use crate::walk::{Stage, Visit};

/// Sum up sizes of directories
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena du /photos
  catena du -s /photos/2025 /photos/2026
  catena du --bytes --json /photos")]
pub(crate) struct Du {
    /// What to sum up: /VOLUME/path
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
    /// One line for each PATH, none for the directories in it
    #[arg(short, long)]
    summarize: bool,
    /// Exact bytes, without a unit
    #[arg(short, long)]
    bytes: bool,
}

/// Show the space of the cluster and of its volumes
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena df
  catena df photos
  catena df --json")]
pub(crate) struct Df {
    /// Volumes to show [default: all]
    volumes: Vec<String>,
    /// Exact bytes, without a unit
    #[arg(short, long)]
    bytes: bool,
}

/// What is in a directory, everything below included.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    files: u64,
    size: u64,
    stored: u64,
}

impl Sum {
    fn add(&mut self, other: Self) {
        self.files += other.files;
        // Files with holes may add up to more than 64 bits say.
        self.size = self.size.saturating_add(other.size);
        self.stored = self.stored.saturating_add(other.stored);
    }
}

impl Du {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        let mut tally = Tally::default();
        for path in &self.paths {
            let place = RemotePath::parse(path)?;
            let result = self.sum_up(context, &place, &mut tally);
            tally.take(&context.output, result)?;
        }
        tally.finish("name")
    }

    fn sum_up(&self, context: &mut Context, place: &RemotePath, tally: &mut Tally) -> Result<()> {
        // One sum for each directory on the way down.
        let mut sums: Vec<Sum> = Vec::new();
        for visit in context.walk(place, place.trailing_slash)? {
            let visit = match visit {
                Ok(visit) => visit,
                Err(failure) => {
                    tally.take(&context.output, Err(failure))?;
                    continue;
                }
            };
            match visit.stage {
                Stage::Enter => sums.push(Sum::default()),
                Stage::Leaf => {
                    let sum = sum_of(&visit);
                    match sums.last_mut() {
                        Some(directory) => directory.add(sum),
                        None => self.print(context, &place.to_bytes(), sum)?,
                    }
                }
                Stage::Leave => {
                    let sum = sums.pop().expect("a directory that is left was entered");
                    if let Some(parent) = sums.last_mut() {
                        parent.add(sum);
                    }
                    if sums.is_empty() || !self.summarize {
                        self.print(context, &place.join(&visit.below).to_bytes(), sum)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn print(&self, context: &mut Context, path: &[u8], sum: Sum) -> Result<()> {
        context.output.result(
            || {
                Object::new()
                    .with_bytes("name", path)
                    .with("files", sum.files)
                    .with("size", sum.size)
                    .with("stored_bytes", sum.stored)
            },
            |output| {
                let mut line = format!("{:>12}  ", shown(sum.stored, self.bytes)).into_bytes();
                line.extend(output.name(path));
                line
            },
        )
    }
}

fn sum_of(visit: &Visit) -> Sum {
    match visit.attributes.kind {
        InodeKind::File => {
            Sum { files: 1, size: visit.attributes.size, stored: visit.attributes.stored_bytes }
        }
        InodeKind::Directory | InodeKind::Symlink => Sum::default(),
    }
}

/// Space of a cluster, of all its stores together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Space {
    /// Bytes that the stores may grow to.
    pub(crate) capacity: u64,
    /// Bytes in use.
    pub(crate) used: u64,
    /// Bytes that clients may still write.
    pub(crate) free: u64,
    /// Bytes of dead chunks that will come back.
    pub(crate) reclaimable: u64,
    /// Stores that didn't answer.
    pub(crate) silent: usize,
}

impl Space {
    /// How much of what may be used is used, rounded up as by df(1): what is kept in reserve can't be.
    fn percent(self) -> u128 {
        let (used, free) = (u128::from(self.used), u128::from(self.free));
        if used + free == 0 { 0 } else { (used * 100).div_ceil(used + free) }
    }
}

/// Adds the stores of a cluster up.
pub(crate) fn space(status: &ClusterStatus) -> Space {
    status.shards.iter().fold(Space::default(), |mut space, shard| {
        match &shard.state {
            Ok(state) => {
                space.capacity += state.capacity_bytes;
                space.used += state.used_bytes;
                space.free += state.free_bytes;
                space.reclaimable += state.reclaimable_bytes;
            }
            Err(_) => space.silent += 1,
        }
        space
    })
}

impl Df {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        let client = context.client()?;
        let status = client.status().wait().map_err(|error| failure("the cluster", &error))?;
        let all = client.volumes().wait().map_err(|error| failure("the volumes", &error))?;
        let wanted = self.wanted(all)?;
        self.print_space(context, space(&status))?;
        if !wanted.is_empty() {
            context.output.line("")?;
            context.output.line(&format!(
                "{:<24} {:>12} {:>12} {:>12} {:>12}  from",
                "volume", "files", "size", "stored", "reclaimable"
            ))?;
        }
        for info in wanted {
            let usage = context
                .volume(&info.name)?
                .usage()
                .wait()
                .map_err(|error| failure(format!("/{}", info.name), &error))?;
            self.print_volume(context, &info, &usage)?;
        }
        Ok(())
    }

    fn wanted(&self, all: Vec<VolumeInfo>) -> Result<Vec<VolumeInfo>> {
        if self.volumes.is_empty() {
            return Ok(all);
        }
        let find = |name: &String| {
            let bare = name.trim_matches('/');
            remote::volume_name(bare.as_bytes()).map_err(|reason| Failure::usage(name.as_str(), reason))?;
            let found = all.iter().find(|info| info.name == bare).cloned();
            found.ok_or_else(|| crate::context::volume_not_found(bare))
        };
        self.volumes.iter().map(find).collect()
    }

    fn print_space(&self, context: &mut Context, space: Space) -> Result<()> {
        context.output.result(
            || {
                Object::new()
                    .with("type", "cluster")
                    .with("capacity_bytes", space.capacity)
                    .with("used_bytes", space.used)
                    .with("free_bytes", space.free)
                    .with("reclaimable_bytes", space.reclaimable)
                    .with("silent_stores", space.silent)
            },
            |_| {
                let percent = space.percent();
                format!(
                    "{:<24} {:>12} {:>12} {:>12} {:>12} {:>4}\n{:<24} {:>12} {:>12} {:>12} {:>12} {percent:>3}%",
                    "space", "capacity", "used", "free", "reclaimable", "use", "cluster",
                    shown(space.capacity, self.bytes),
                    shown(space.used, self.bytes),
                    shown(space.free, self.bytes),
                    shown(space.reclaimable, self.bytes),
                )
                .into_bytes()
            },
        )?;
        if space.silent > 0 {
            let reason = format!("{} of its stores don't answer, so the sums are incomplete", space.silent);
            let failure = Failure::new(Exit::Unavailable, "the cluster", reason).next("catena status");
            context.output.failure(&failure);
        }
        Ok(())
    }

    fn print_volume(&self, context: &mut Context, info: &VolumeInfo, usage: &VolumeUsage) -> Result<()> {
        context.output.result(
            || {
                usage_fields(
                    Object::new().with("type", "volume").with("name", format!("/{}", info.name)),
                    usage,
                )
            },
            |_| {
                let from = match usage.reclaimable_from.0 {
                    0 => "-".to_owned(),
                    _ => time::utc(usage.reclaimable_from, false),
                };
                format!(
                    "{:<24} {:>12} {:>12} {:>12} {:>12}  {from}",
                    format!("/{}", info.name),
                    size::grouped(usage.files),
                    shown(usage.logical_bytes, self.bytes),
                    shown(usage.stored_bytes, self.bytes),
                    shown(usage.reclaimable_bytes, self.bytes),
                )
                .into_bytes()
            },
        )
    }
}

fn shown(bytes: u64, exact: bool) -> String {
    if exact { bytes.to_string() } else { size::human(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A full cluster was 71 % used: what it keeps for deletes counted as free.
    #[test]
    fn the_reserve_is_not_free() {
        let percent = |used, free| Space { capacity: 2000, used, free, ..Space::default() }.percent();
        assert_eq!([percent(1420, 0), percent(0, 0), percent(0, 1420), percent(1, 1419)], [100, 0, 0, 1]);
    }
}
