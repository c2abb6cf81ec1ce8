//! Where quickstart keeps its nodes: a directory that supports direct I/O and has room, found or named; and what of it is removed.

use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::{Exit, Failure, Result};
use crate::interrupt::Temporary;
use crate::local::walk::FileId;
use crate::local_cluster;
use crate::local_node::{self, Kind};
use crate::text::size;

/// Room that is wanted beside four times the data, which is kept in three copies: of each node its reserve and its logs.
const SPARE_BYTES: u64 = 4 << 30;

/// A directory for quickstart's node.
#[derive(Debug)]
pub(crate) struct Home {
    directory: PathBuf,
    /// Whether a node is there from before.
    pub(crate) is_formatted: bool,
    /// What goes at the end: the directory, or what was put into one that was there; nothing of former nodes.
    temporaries: Vec<Temporary>,
}

impl Home {
    /// Makes ready the directory that was named, or the first suitable one.
    pub(crate) fn prepare(named: Option<&Path>, data_bytes: u64, keep: bool) -> Result<Self> {
        if let Some(directory) = named {
            return Self::named(directory, data_bytes, keep);
        }
        let parent = first_suitable(data_bytes)?;
        Self::make(parent.join(format!("catena-quickstart-{}", std::process::id())), keep)
    }

    fn named(directory: &Path, data_bytes: u64, keep: bool) -> Result<Self> {
        let kind = local_node::look(directory)?;
        if kind == Kind::Foreign {
            return Err(Failure::new(
                Exit::Conflict,
                directory.display().to_string(),
                "isn't empty and isn't Catena's; nothing was touched",
            )
            .next("name an empty or new directory: catena quickstart --dir DIR"));
        }
        let exists = directory.is_dir();
        let parent =
            directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let place = if exists { directory } else { parent };
        if let Err((exit, reason)) = suits(place, data_bytes) {
            return Err(Failure::new(exit, place.display().to_string(), reason)
                .next("name a directory on a disk: catena quickstart --dir DIR"));
        }
        match kind {
            Kind::Catena if local_cluster::configured(directory) == 0 => Err(Failure::new(
                Exit::Conflict,
                directory.display().to_string(),
                "holds a node that is alone; nothing was touched",
            )
            .next("name an empty or new directory: catena quickstart --dir DIR")),
            Kind::Catena => {
                Ok(Self { directory: directory.to_owned(), is_formatted: true, temporaries: Vec::new() })
            }
            _ if exists => {
                let mut home =
                    Self { directory: directory.to_owned(), is_formatted: false, temporaries: Vec::new() };
                for number in 1..=super::NODES {
                    let node = Self::make(local_cluster::node_directory(directory, number), keep)?;
                    home.temporaries.extend(node.temporaries);
                }
                Ok(home)
            }
            _ => Self::make(directory.to_owned(), keep),
        }
    }

    /// Makes `directory`, to be removed again unless it is to be kept.
    fn make(directory: PathBuf, keep: bool) -> Result<Self> {
        let failed = |error: &std::io::Error| Failure::path(&directory, error);
        let temporaries = if keep {
            fs::create_dir(&directory).map_err(|error| failed(&error))?;
            Vec::new()
        } else {
            let made = Temporary::make(directory.clone(), |path| fs::create_dir(path));
            vec![made.map_err(|error| failed(&error))?.0]
        };
        Ok(Self { directory, is_formatted: false, temporaries })
    }

    /// The directory that a person would name.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// What must not be stored with everything else, if it lies there.
    pub(crate) fn file_id(&self) -> Option<FileId> {
        FileId::at(&self.directory)
    }

    /// Removes what was made; whether anything was.
    pub(crate) fn remove(self) -> bool {
        !self.temporaries.is_empty()
    }
}

/// The first of `$TMPDIR`, `/var/tmp` and `./target` that can hold a node for so much data.
fn first_suitable(data_bytes: u64) -> Result<PathBuf> {
    let named = std::env::var_os("TMPDIR").map(PathBuf::from);
    let mut reasons = Vec::new();
    for directory in named.into_iter().chain(["/var/tmp".into(), "target".into()]) {
        match suits(&directory, data_bytes) {
            Ok(()) => return Ok(directory),
            Err((_, reason)) => reasons.push(format!("{}: {reason}", directory.display())),
        }
    }
    Err(Failure::new(Exit::Failed, "no directory", format!("can hold the node ({})", reasons.join("; ")))
        .next("name one on a disk with enough room: catena quickstart --dir DIR"))
}

/// Whether a directory can hold a node for so much data; else why not.
fn suits(directory: &Path, data_bytes: u64) -> std::result::Result<(), (Exit, String)> {
    let failed = |error: std::io::Error| {
        let failure = Failure::path(directory, &error);
        (failure.exit, failure.reason)
    };
    let unsuitable = |reason: String| Err((Exit::Failed, reason));
    let system = runtime::file_system(directory).map_err(failed)?;
    if matches!(system.name.as_str(), "tmpfs" | "ramfs") {
        return unsuitable(format!("is {}, which lives in memory", system.name));
    }
    if !runtime::takes_direct_io(directory).map_err(failed)? {
        return unsuitable(format!("{} takes no direct I/O there", system.name));
    }
    let wanted = data_bytes.saturating_mul(4).saturating_add(SPARE_BYTES);
    if system.free_bytes < wanted {
        let (free, wanted) = (size::human(system.free_bytes), size::human(wanted));
        return unsuitable(format!("has {free} free, {wanted} are needed"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_disk_with_room_is_refused_with_the_reason() {
        assert!(
            suits(Path::new("/nowhere/at/all"), 0)
                .is_err_and(|(exit, reason)| exit == Exit::NotFound && reason.contains("no such"))
        );
        let directory = tempfile::tempdir().expect("a directory");
        assert!(suits(directory.path(), u64::MAX).is_err());
    }

    #[test]
    fn somebody_elses_directory_is_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("thesis.txt"), b"precious").expect("written");
        let failure = Home::prepare(Some(directory.path()), 0, false).expect_err("not empty");
        assert_eq!(failure.exit, Exit::Conflict);
        assert!(directory.path().join("thesis.txt").exists());
    }
}
