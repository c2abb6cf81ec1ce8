//! `catena volume create|list|info|remove`.

use client::{VolumeInfo, VolumePolicy, VolumeUsage};
use wire::limits::{CHUNK_BYTES_DEFAULT, CHUNK_BYTES_MAX, CHUNK_BYTES_MIN};

use crate::context::{Context, volume_not_found};
use crate::failure::{Exit, Failure, Result};
use crate::json::Object;
use crate::output;
use crate::remote;
use crate::remote_failure::failure;
use crate::text::{self, size, time};

/// Make, list, describe and remove volumes
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Volume {
    Create(Create),
    List(List),
    Info(Info),
    Remove(Remove),
}

/// Make a volume
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena volume create photos
  catena volume create backups --chunk-size 4M --retention 7d")]
pub(crate) struct Create {
    /// Its name: a-z, 0-9 and -, at most 63 bytes
    name: String,
    /// Bytes of a full chunk: a power of two, 4K to 4M; it can't be changed later [default: 1M]
    #[arg(long, value_name = "SIZE", value_parser = parse_chunk_bytes)]
    chunk_size: Option<u32>,
    /// How long removed versions are kept, for example 90s, 12h or 7d
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_seconds)]
    retention: u64,
}

/// List the volumes
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena volume list
  catena volume list --json")]
pub(crate) struct List {}

/// Describe a volume: its policy, and what is in it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena volume info photos")]
pub(crate) struct Info {
    /// Its name
    name: String,
}

/// Remove a volume; one that isn't empty only with --recursive
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena volume remove photos
  catena volume remove photos --recursive --dry-run
  catena volume remove photos --recursive --yes")]
pub(crate) struct Remove {
    /// Its name
    name: String,
    /// Remove it with everything in it
    #[arg(short, long)]
    recursive: bool,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Don't ask on a terminal
    #[arg(short, long)]
    yes: bool,
}

impl Volume {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        match self {
            Self::Create(command) => command.run(context),
            Self::List(_) => list(context),
            Self::Info(command) => command.run(context),
            Self::Remove(command) => command.run(context),
        }
    }
}

impl Create {
    fn run(self, context: &mut Context) -> Result<()> {
        let name = check(&self.name)?;
        let policy = VolumePolicy {
            chunk_bytes: self.chunk_size.unwrap_or(CHUNK_BYTES_DEFAULT),
            retention_seconds: self.retention,
        };
        let made = context.client()?.create_volume(&name, policy).wait();
        let volume = made.map_err(|error| match error {
            client::Error::AlreadyExists { .. } => {
                Failure::new(Exit::Conflict, format!("/{name}"), "there is a volume of that name already")
                    .next(format!("look at it: catena volume info {name}"))
            }
            error => failure(format!("/{name}"), &error),
        })?;
        let info = volume.info().clone();
        context.output.note(|| object(&info), || format!("made volume /{name}"))
    }
}

fn list(context: &mut Context) -> Result<()> {
    let volumes = context.client()?.volumes().wait().map_err(|error| failure("the volumes", &error))?;
    for info in &volumes {
        context.output.result(|| object(info), |_| info.name.clone().into_bytes())?;
    }
    if volumes.is_empty() && context.output.is_terminal() {
        context.output.line("no volumes yet; make one: catena volume create NAME")?;
    }
    Ok(())
}

impl Info {
    fn run(self, context: &mut Context) -> Result<()> {
        let name = check(&self.name)?;
        let volume = context.volume(&name)?;
        let usage = volume.usage().wait().map_err(|error| failure(format!("/{name}"), &error))?;
        let info = volume.info();
        context.output.result(
            || usage_fields(object(info), &usage),
            |_| {
                let retention = match info.policy.retention_seconds {
                    0 => "not kept".to_owned(),
                    seconds => format!("kept for {}", time::duration(seconds.saturating_mul(1_000_000_000))),
                };
                format!(
                    "volume            /{}\n\
                     id                {}\n\
                     created           {}\n\
                     chunk size        {}\n\
                     removed versions  {retention}\n\
                     holds             {}, {}, {}\n\
                     size              {}\n\
                     stored            {}",
                    info.name,
                    info.volume,
                    time::utc(info.created, false),
                    size::human(u64::from(info.policy.chunk_bytes)),
                    text::count(usage.files, "file"),
                    text::count(usage.directories.saturating_sub(1), "directory"),
                    text::count(usage.symlinks, "link"),
                    size::human(usage.logical_bytes),
                    stored(&usage),
                )
                .into_bytes()
            },
        )
    }
}

impl Remove {
    fn run(self, context: &mut Context) -> Result<()> {
        let name = check(&self.name)?;
        let volume = context.volume(&name)?;
        let usage = volume.usage().wait().map_err(|error| failure(format!("/{name}"), &error))?;
        let directories = usage.directories.saturating_sub(1);
        let is_empty = usage.files == 0 && directories == 0 && usage.symlinks == 0;
        let contents = format!(
            "{}, {} and {}, {}",
            text::count(usage.files, "file"),
            text::count(directories, "directory"),
            text::count(usage.symlinks, "link"),
            size::human(usage.logical_bytes)
        );
        if !is_empty && !self.recursive {
            return Err(Failure::new(
                Exit::Conflict,
                format!("/{name}"),
                format!("isn't empty: it holds {contents}"),
            )
            .next(format!("to remove all of it: catena volume remove {name} --recursive")));
        }
        let removal = || {
            usage_fields(Object::new().with("name", format!("/{name}")).with("dry_run", self.dry_run), &usage)
        };
        if self.dry_run {
            return context
                .output
                .result(removal, |_| format!("would remove /{name} with {contents}").into_bytes());
        }
        let question = format!("Remove /{name} with {contents}?");
        if !is_empty && !self.yes && !output::confirm(&question)? {
            return Err(Failure::new(Exit::Failed, format!("/{name}"), "not removed, as you answered")
                .next("answer y, or pass --yes"));
        }
        context.client()?.remove_volume(&name, self.recursive).wait().map_err(|error| match error {
            client::Error::NotFound { .. } => volume_not_found(&name),
            error => failure(format!("/{name}"), &error),
        })?;
        context.output.note(removal, || format!("removed /{name} with {contents}"))
    }
}

/// The name without a leading slash, which people type.
fn check(name: &str) -> Result<String> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    remote::volume_name(bare.as_bytes()).map_err(|reason| Failure::usage(name, reason))
}

fn object(info: &VolumeInfo) -> Object {
    Object::new()
        .with("name", format!("/{}", info.name))
        .with("id", info.volume.0)
        .with("group", info.group.0)
        .with("chunk_bytes", info.policy.chunk_bytes)
        .with("retention_seconds", info.policy.retention_seconds)
        .with("created", time::utc(info.created, true))
}

/// What a volume's chunks hold. Those of which nothing is live any more count as chunks until they are freed.
fn stored(usage: &VolumeUsage) -> String {
    let (live, chunks) = (size::human(usage.stored_bytes), text::count(usage.chunks, "chunk"));
    match usage.reclaimable_bytes {
        0 => format!("{live} in {chunks}"),
        bytes => format!("{live}, and {} to be reclaimed, in {chunks}", size::human(bytes)),
    }
}

/// A volume's counts as fields.
pub(crate) fn usage_fields(object: Object, usage: &VolumeUsage) -> Object {
    let reclaimable_from = (usage.reclaimable_from.0 != 0).then(|| time::utc(usage.reclaimable_from, true));
    object
        .with("files", usage.files)
        .with("directories", usage.directories.saturating_sub(1))
        .with("symlinks", usage.symlinks)
        .with("logical_bytes", usage.logical_bytes)
        .with("stored_bytes", usage.stored_bytes)
        .with("chunks", usage.chunks)
        .with("reclaimable_bytes", usage.reclaimable_bytes)
        .with_some("reclaimable_from", reclaimable_from)
}

fn parse_chunk_bytes(text: &str) -> std::result::Result<u32, String> {
    let bytes = size::parse(text)?;
    let range = u64::from(CHUNK_BYTES_MIN)..=u64::from(CHUNK_BYTES_MAX);
    match u32::try_from(bytes) {
        Ok(small) if bytes.is_power_of_two() && range.contains(&bytes) => Ok(small),
        _ => Err(format!("`{text}` is no chunk size: a power of two from 4K to 4M")),
    }
}

/// `90`, `90s`, `15m`, `12h`, `7d` in seconds.
pub(crate) fn parse_seconds(text: &str) -> std::result::Result<u64, String> {
    let expectation = || format!("`{text}` is no time; write for example 90s, 15m, 12h or 7d");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| expectation())?;
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(expectation()),
    };
    number.checked_mul(seconds).ok_or_else(expectation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_sizes_are_powers_of_two() {
        assert_eq!(parse_chunk_bytes("4K"), Ok(4096));
        assert_eq!(parse_chunk_bytes("4MiB"), Ok(4 << 20));
        for text in ["0", "2K", "8M", "5000", "x"] {
            assert!(parse_chunk_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn retention_has_a_unit() {
        assert_eq!(parse_seconds("7d"), Ok(604_800));
        assert_eq!(parse_seconds("90"), Ok(90));
        for text in ["", "d", "1w", "-1s", "99999999999999999999d"] {
            assert!(parse_seconds(text).is_err(), "{text}");
        }
    }

    /// A volume whose files were just removed had "0 B in 25 chunks".
    #[test]
    fn chunks_are_counted_with_their_bytes() {
        let live = VolumeUsage { stored_bytes: 5, chunks: 1, ..VolumeUsage::default() };
        assert_eq!(stored(&live), "5 B in 1 chunk");
        let dead = VolumeUsage { reclaimable_bytes: 7, chunks: 2, ..VolumeUsage::default() };
        assert_eq!(stored(&dead), "0 B, and 7 B to be reclaimed, in 2 chunks");
    }
}
