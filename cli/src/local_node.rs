//! A node inside this process, as `dev`, `server` and `quickstart` run it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use node::{Config, ConfigError, Node};
use runtime::{OpenFileError, StartError};

use crate::failure::{Exit, Failure, Result};

/// The node's directory inside the directory that a person names.
pub(crate) const NODE_DIRECTORY: &str = "node-1";

/// What a directory is, seen from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It doesn't exist, or nothing is in it.
    Free,
    /// A node was formatted in its [`NODE_DIRECTORY`].
    Catena,
    /// It holds something else.
    Foreign,
}

/// Looks at a directory that is to hold a node.
pub(crate) fn look(directory: &Path) -> Result<Kind> {
    let is_empty = |path: &Path| match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(Failure::path(path, &error)),
    };
    if is_empty(directory)? {
        return Ok(Kind::Free);
    }
    let node_directory = directory.join(NODE_DIRECTORY);
    let config = Config::development(&node_directory, Some(1), None);
    Ok(if node::is_initialized(&config).map_err(|error| failure(&error))? {
        Kind::Catena
    } else {
        Kind::Foreign
    })
}

/// The shards that a development node was formatted with.
pub(crate) fn formatted_shards(node_directory: &Path) -> Result<Option<u16>> {
    node::formatted_shards(&Config::development(node_directory, Some(1), None))
        .map_err(|error| failure(&error))
}

/// Formats a node where there is none.
pub(crate) fn format(config: &Config) -> Result<()> {
    fs::create_dir_all(&config.directory).map_err(|error| Failure::path(&config.directory, &error))?;
    node::init(config).map(drop).map_err(|error| failure(&error))
}

/// Starts a formatted node; returns when it serves.
pub(crate) fn start(config: Config) -> Result<Node> {
    node::start(config).map_err(|error| failure(&error))
}

/// Stops a node in good order.
pub(crate) fn stop(node: Node) -> Result<()> {
    node.stop().map_err(|error| failure(&error))
}

/// A node's error: its message says what, why and what to do.
pub(crate) fn failure(error: &node::Error) -> Failure {
    let exit = match error {
        node::Error::Config(error) => return config_failure(error),
        _ if is_denied(error) => Exit::Denied,
        node::Error::Exists { .. } => Exit::Conflict,
        node::Error::NotInitialized { .. }
        | node::Error::Missing { .. }
        | node::Error::IdentityMissing { .. } => Exit::NotFound,
        node::Error::Changed { .. } => Exit::Usage,
        node::Error::Damaged { .. } | node::Error::Refused { is_damage: true, .. } => Exit::Integrity,
        _ if is_locked(error) => Exit::Conflict,
        _ => Exit::Failed,
    };
    let text = plain(&error.to_string());
    let thing = error.path().map(|path| path.display().to_string()).unwrap_or_default();
    let reason = text.strip_prefix(&thing).map_or(text.as_str(), |rest| rest.trim_start_matches(": "));
    // A node's message says what to do behind the first semicolon.
    let failure = match reason.split_once("; ") {
        Some((reason, step)) => Failure::new(exit, thing, reason).next(step),
        None => Failure::new(exit, thing, reason),
    };
    match error {
        _ if failure.next.is_some() => failure,
        _ if is_locked(error) => {
            failure.next("stop the node that runs on it first; one runs on one directory")
        }
        _ if is_denied(error) => failure.next("check the owner and mode, or run as another user: ls -ld"),
        node::Error::File { .. } => failure.next("check the path, its owner and its mode: ls -ld"),
        node::Error::Start { source, .. } if matches!(**source, StartError::Arena(_)) => {
            failure.next("set a smaller `limits.buffers` in the configuration: each shard takes so much memory; or free some")
        }
        node::Error::Start { .. } | node::Error::OpenFile(_) => {
            failure.next("`catena doctor DIR` says what this machine or its file system lacks")
        }
        _ => failure,
    }
}

/// Whether the system allows a file to others only.
fn is_denied(error: &node::Error) -> bool {
    let source = match error {
        node::Error::File { source, .. } => source,
        node::Error::OpenFile(error) => match &**error {
            OpenFileError::Open { source, .. } => source,
            _ => return false,
        },
        _ => return false,
    };
    source.kind() == io::ErrorKind::PermissionDenied
}

/// Whether another process has the node's files.
fn is_locked(error: &node::Error) -> bool {
    matches!(error, node::Error::OpenFile(error) if matches!(**error, OpenFileError::Locked { .. }))
}

/// A configuration that can't be used.
pub(crate) fn config_failure(error: &ConfigError) -> Failure {
    let failure = match error {
        ConfigError::Read { path, source } if source.kind() == io::ErrorKind::InvalidData => {
            Failure::usage(path.display().to_string(), "isn't text in UTF-8")
        }
        ConfigError::Read { path, source } => return Failure::path(path, source),
        _ => Failure::usage("", plain(error.to_string().trim_end())),
    };
    failure.next("`catena server --print-config` shows every key with its default")
}

/// The message without the system's error numbers.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(" (os error ") {
        out.push_str(before);
        rest = after.split_once(')').map_or("", |(_, after)| after);
    }
    out + rest
}

/// Writes one line into a file, atomically: whoever reads it sees all of it or nothing.
pub(crate) fn write_line(path: &Path, line: &str) -> Result<()> {
    use std::io::Write as _;
    let (draft, mut file) = crate::local::place::Draft::file(path)?;
    let written = file
        .write_all(format!("{line}\n").as_bytes())
        .and_then(|()| file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644)));
    written.map_err(|error| Failure::path(path, &error))?;
    draft.finish()
}

/// Where development nodes live unless a directory is named: `$XDG_DATA_HOME/catena/dev`.
pub(crate) fn default_directory() -> Result<PathBuf> {
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let data = data.or_else(|| std::env::home_dir().map(|home| home.join(".local/share")));
    data.map(|data| data.join("catena/dev")).ok_or_else(|| {
        Failure::usage("--dir", "there is no home directory to keep a node in; name a directory")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_lose_the_systems_numbers() {
        assert_eq!(
            plain("cannot open a: No such file (os error 2); try b (os error 13)"),
            "cannot open a: No such file; try b"
        );
    }

    #[test]
    fn a_nodes_next_step_is_told_apart() {
        let missing = failure(&node::Error::NotInitialized { directory: "d".into() });
        assert_eq!(missing.exit, Exit::NotFound);
        assert_eq!(
            (missing.thing.as_str(), missing.reason.as_str()),
            ("d", "isn't a Catena node's directory")
        );
        assert!(missing.next.is_some_and(|next| next.starts_with("format it with `catena server init")));
        let source = io::Error::from(io::ErrorKind::PermissionDenied);
        let denied = failure(&node::Error::File { action: "read", path: "d".into(), source });
        assert_eq!((denied.exit, denied.next.is_some()), (Exit::Denied, true));
    }

    /// A node that refused to start since its log was damaged ended with code 1, as for a full disk, and its service manager started it for ever.
    #[test]
    fn damage_has_the_code_of_damage() {
        for (is_damage, exit) in [(true, Exit::Integrity), (false, Exit::Failed)] {
            let reason = "its end is missing; mend the disk".to_owned();
            let failure = failure(&node::Error::Refused { path: "d/metadata.log".into(), is_damage, reason });
            assert_eq!((failure.exit, failure.thing.as_str()), (exit, "d/metadata.log"));
            assert_eq!(failure.reason, "its end is missing");
            assert_eq!(failure.next.as_deref(), Some("mend the disk"));
        }
    }

    /// A program had to look for the path inside the reason.
    #[test]
    fn what_it_is_about_is_named_apart() {
        let locked =
            OpenFileError::Locked { path: "d/a.store".into(), waited: std::time::Duration::from_secs(1) };
        let source = io::Error::from(io::ErrorKind::NotADirectory);
        for (error, thing) in [
            (node::Error::Exists { path: "d/a.store".into() }, "d/a.store"),
            (node::Error::OpenFile(Box::new(locked)), "d/a.store"),
            (node::Error::File { action: "read", path: "d/b".into(), source }, "d/b"),
            (node::Error::Stopped { what: "shard 0".into() }, ""),
        ] {
            let failure = failure(&error);
            assert_eq!(failure.thing, thing);
            assert!(!failure.reason.contains("d/") && !failure.reason.starts_with(':'), "{failure}");
        }
    }

    #[test]
    fn buffers_that_are_not_to_be_had_are_named_by_their_key() {
        let source = runtime::ArenaError::Map {
            bytes: 100 << 30,
            source: io::Error::from(io::ErrorKind::OutOfMemory),
        };
        let error = node::Error::Start { what: "shard 0".into(), source: Box::new(source.into()) };
        assert!(failure(&error).next.is_some_and(|next| next.contains("`limits.buffers`")));
    }

    #[test]
    fn directories_are_told_apart() {
        let directory = tempfile::tempdir().expect("a directory");
        assert_eq!(look(directory.path()).ok(), Some(Kind::Free));
        assert_eq!(look(&directory.path().join("missing")).ok(), Some(Kind::Free));
        fs::write(directory.path().join("thesis.txt"), b"precious").expect("written");
        assert_eq!(look(directory.path()).ok(), Some(Kind::Foreign));
    }

    #[test]
    fn a_line_is_replaced_whole() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("endpoint");
        for line in ["127.0.0.1:1", "127.0.0.1:2"] {
            write_line(&path, line).expect("written");
            assert_eq!(fs::read_to_string(&path).expect("readable"), format!("{line}\n"));
        }
        assert_eq!(fs::read_dir(directory.path()).expect("readable").count(), 1);
    }
}
