//! The client's errors as failures: what happened, in words, and what to do next.

use std::fmt::Display;

use client::{Error, ErrorKind, UnavailableReason};
use wire::limits::PATH_BYTES_MAX;

use crate::failure::{Exit, Failure};
use crate::remote::RemotePath;
use crate::text::{self, quote, shell, size};

/// The failure that `error` about `thing` is.
pub(crate) fn failure(thing: impl Display, error: &Error) -> Failure {
    let failure = Failure::new(exit(error.kind()), thing.to_string(), reason(error));
    match next_about(&failure.thing, error).or_else(|| next(error).map(str::to_owned)) {
        Some(step) => failure.next(step),
        None => failure,
    }
}

/// The failure that `error` is about making something at `place`: where a directory on the way is missing, it says how to make it.
pub(crate) fn failure_making(place: &RemotePath, error: &Error) -> Failure {
    let missing_parent = place.parent().filter(|parent| !parent.is_root());
    match (error, missing_parent) {
        (Error::NotFound { .. }, Some(parent)) => {
            Failure::new(Exit::NotFound, place.to_string(), format!("the directory {parent} doesn't exist"))
                .next(format!("make it: catena mkdir -p {}", parent.typed()))
        }
        _ => failure(place, error),
    }
}

/// The failure that `place` can't be named to the server, since moves of directories made its path longer than a path may be.
pub(crate) fn too_long(place: &RemotePath) -> Failure {
    let bytes = text::count(place.path.len() as u64, "byte");
    let reason = format!("its path has {bytes}, and {} are allowed", size::grouped(PATH_BYTES_MAX as u64));
    Failure::new(Exit::Failed, place.to_string(), reason).next(format!(
        "move a directory on the way to a shorter place, then go on with it there: catena mv {} /{}/NAME",
        place.nameable().typed(),
        place.volume
    ))
}

/// The exit code of a kind of error.
fn exit(kind: ErrorKind) -> Exit {
    match kind {
        ErrorKind::Failed => Exit::Failed,
        ErrorKind::Usage => Exit::Usage,
        ErrorKind::NotFound => Exit::NotFound,
        ErrorKind::Denied => Exit::Denied,
        ErrorKind::Conflict => Exit::Conflict,
        ErrorKind::Unavailable => Exit::Unavailable,
        ErrorKind::Integrity => Exit::Integrity,
        ErrorKind::OutcomeUnknown => Exit::Unknown,
    }
}

/// The reason without the thing, which the failure names by itself.
fn reason(error: &Error) -> String {
    match error {
        Error::NotFound { .. } => "not found".into(),
        Error::AlreadyExists { .. } => "exists already".into(),
        Error::VersionConflict { found, .. } if found.0 == 0 => "it has another version than expected".into(),
        Error::VersionConflict { found, .. } => format!("it has version {found}, another one than expected"),
        Error::PreconditionFailed { .. } => "a precondition doesn't hold".into(),
        Error::NotDirectory { .. } => "a part of the path isn't a directory".into(),
        Error::IsDirectory { .. } => "is a directory".into(),
        Error::NotEmpty { .. } => "isn't empty".into(),
        Error::Cycle { .. } => "a directory can't be moved or copied into itself".into(),
        Error::TooManyLinks { .. } => "too many symbolic links on the way, maybe a loop".into(),
        Error::Denied { .. } => "permission denied".into(),
        Error::NoSpace { .. } => "the server has no space left".into(),
        Error::QuotaExceeded { .. } => "over its quota".into(),
        Error::Busy { endpoint, .. } => format!("{endpoint} is at a limit and stayed so; nothing was done"),
        Error::Unavailable { endpoint, reason, .. } => format!("{endpoint} is unavailable: {reason}"),
        Error::Timeout { endpoint, waited_ms, .. } => {
            format!("no answer from {endpoint} within {} s", waited_ms.div_ceil(1000))
        }
        Error::OutcomeUnknown { .. } => {
            "the change was sent and not answered: whether it was made, whole or not at all, isn't known"
                .into()
        }
        Error::Integrity { offset, length, chunk, damage, .. } => {
            format!("bytes {offset}-{} are {damage} (chunk {chunk})", offset + length.saturating_sub(1))
        }
        Error::IdTaken { endpoint, chunk, .. } => format!(
            "nothing was stored: {endpoint} holds other bytes under chunk {chunk}, an id that the metadata log hands out again; the log is older \
             than the store, as one from an old backup"
        ),
        Error::Replaced { .. } => "it was replaced while it was read, and the old version is gone".into(),
        Error::SessionExpired { .. } => {
            "the connection was lost for too long; nothing of it is visible".into()
        }
        Error::ChunksLost { .. } => {
            "parts of it were lost by an operator's decision; nothing of it is visible".into()
        }
        Error::IndexGone { .. } => "that point in time is no longer kept".into(),
        Error::StoreFailed { endpoint, .. } => {
            format!("the store behind {endpoint} failed and takes no writes")
        }
        Error::Unsupported { .. } => "this server can't do that".into(),
        Error::TooLarge { .. } => "over a limit of the size of files, names or attributes".into(),
        Error::BadRequest { .. } => "the server refuses this as malformed".into(),
        other => other.to_string(),
    }
}

/// The next step about a remote name, as a command that can be typed; `thing` is the name as it is shown.
fn next_about(thing: &str, error: &Error) -> Option<String> {
    // What is shown in the `$'…'` form is typed so, too.
    let typed = |name: &str| if name.starts_with('$') { name.to_owned() } else { shell(name.as_bytes()) };
    let is_name = thing.starts_with('/') || thing.starts_with("$'/");
    let name = typed(thing);
    let (what, command) = match error {
        _ if !is_name => return None,
        Error::NotFound { depth, .. } => {
            ("look what is there", format!("ls {}", typed(&there(thing, *depth))))
        }
        Error::VersionConflict { .. } | Error::PreconditionFailed { .. } => {
            ("look at what is there, then decide again", format!("stat {name}"))
        }
        Error::OutcomeUnknown { .. } => {
            ("look whether it happened before you repeat it", format!("stat {name}"))
        }
        Error::AlreadyExists { .. } => {
            ("choose another name, or look at what is there", format!("stat {name}"))
        }
        Error::NotDirectory { depth, .. } => (
            "name a place in a directory; see what is there",
            format!("ls -l {}", typed(&there(thing, *depth))),
        ),
        Error::IsDirectory { .. } => ("name a file in it", format!("ls {name}")),
        Error::NotEmpty { .. } => ("look what is in it", format!("ls {name}")),
        Error::TooManyLinks { .. } => ("look where the links point", format!("ls -l {name}")),
        _ => return None,
    };
    Some(format!("{what}: catena {command}"))
}

/// The volume of a name that is shown, and so many components of its path, which exist; the last one never does.
fn there(thing: &str, depth: u16) -> String {
    let thing = thing.trim_end_matches('/');
    let mut slashes = thing.match_indices('/').map(|(end, _)| end).skip(1);
    let last = slashes.clone().last().unwrap_or(thing.len());
    let end = slashes.nth(usize::from(depth)).unwrap_or(last);
    let quote = if thing.starts_with('$') && end < thing.len() { "'" } else { "" };
    format!("{}{quote}", &thing[..end])
}

/// The next step, where there is one that isn't obvious.
fn next(error: &Error) -> Option<&'static str> {
    Some(match error {
        Error::Unavailable { reason: UnavailableReason::Connections, .. } => {
            "run it again when other clients have ended, with a longer --timeout to wait for that; the operator can raise limits.connections"
        }
        Error::Unavailable { .. } => {
            "check that the server runs (`catena dev` or `catena server`) and that the endpoint is right (--endpoint, $CATENA_ENDPOINT)"
        }
        Error::Busy { .. } => "try again; a longer --timeout may help: catena status",
        Error::Timeout { .. } => {
            "try again with a longer --timeout; check that the endpoint is the node's and no other program's: catena status"
        }
        Error::Integrity { .. } => {
            "restore the file from its source by `catena put --resend`; `catena verify` names everything that is damaged"
        }
        Error::IdTaken { .. } => {
            "the operator stops the node and restores the log that belongs to the store, or else begins a new generation of ids: \
             catena server recover --accept-data-loss --config FILE"
        }
        Error::NoSpace { .. } => "remove something (deletes still work) or add space: catena df",
        Error::Replaced { .. } | Error::SessionExpired { .. } | Error::ChunksLost { .. } => {
            "run the command again"
        }
        Error::StoreFailed { .. } => "the operator's log names the disk: catena status",
        Error::Start(_) => "`catena doctor` says what is missing",
        Error::Cycle { .. } => "name a target outside of it",
        Error::Denied { .. } => "ask whoever runs the server",
        Error::QuotaExceeded { .. } => "remove something, or ask for more",
        Error::TooLarge { .. } => TOO_LARGE,
        Error::Unsupported { .. } | Error::BadRequest { .. } => {
            "compare the versions of this command and of the server: catena --version, catena status"
        }
        _ => return None,
    })
}

/// The limits that a person can meet: `wire::limits`, in words.
const TOO_LARGE: &str = "a name has at most 255 bytes, a path 4,096, all attributes of a file 64 KiB, a file 2^63 - 1 bytes and \
                         1,048,576 chunks of its volume (catena volume info)";

/// A remote name made of a directory's bytes and a relative path, ready to be shown.
pub(crate) fn shown(place: &RemotePath, below: &[u8]) -> String {
    quote(&place.join(below).to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::Subject;
    use std::ffi::OsStr;

    #[test]
    fn a_missing_parent_says_how_to_make_it() {
        let place = RemotePath::parse(OsStr::new("/v/a/b")).expect("a name");
        let error = Error::NotFound { what: Subject::Cluster, depth: 0 };
        let failure = failure_making(&place, &error);
        assert_eq!(failure.exit, Exit::NotFound);
        assert_eq!(failure.next.as_deref(), Some("make it: catena mkdir -p /v/a"));
    }

    /// Next steps named a command and not what it is to be about: typed as they were said, they failed.
    #[test]
    fn next_steps_can_be_typed() {
        let check = |thing: &str, error: Error, step: &str| {
            assert_eq!(failure(thing, &error).next.as_deref(), Some(step));
        };
        let what = || Subject::Cluster;
        check("/v/a/b/c", Error::NotFound { what: what(), depth: 1 }, "look what is there: catena ls /v/a");
        check("/v/a", Error::NotFound { what: what(), depth: 0 }, "look what is there: catena ls /v");
        check("/v/a", Error::NotFound { what: what(), depth: 9 }, "look what is there: catena ls /v");
        check("/v", Error::NotFound { what: what(), depth: 0 }, "look what is there: catena ls /v");
        check(
            "/v/a b/c",
            Error::NotFound { what: what(), depth: 1 },
            "look what is there: catena ls '/v/a b'",
        );
        check(
            r"$'/v/a\nb/c'",
            Error::NotFound { what: what(), depth: 1 },
            r"look what is there: catena ls $'/v/a\nb'",
        );
        check("/v/a b", Error::IsDirectory { what: what() }, "name a file in it: catena ls '/v/a b'");
        check(r"$'/v/\n'", Error::NotEmpty { what: what() }, r"look what is in it: catena ls $'/v/\n'");
    }

    #[test]
    fn limits_are_said_as_they_are() {
        use wire::limits::{
            FILE_BYTES_MAX, FILE_EXTENTS_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX, XATTR_BYTES_MAX,
        };
        assert_eq!((NAME_BYTES_MAX, PATH_BYTES_MAX, XATTR_BYTES_MAX), (255, 4096, 64 << 10));
        assert_eq!((FILE_BYTES_MAX, FILE_EXTENTS_MAX), ((1 << 63) - 1, 1_048_576));
    }

    #[test]
    fn damage_is_named_by_bytes() {
        let error = Error::Integrity {
            what: Subject::Cluster,
            offset: 4096,
            length: 4096,
            chunk: client::ChunkId::default(),
            damage: client::Damage::Corrupt,
        };
        let failure = failure("/v/f", &error);
        assert_eq!(failure.exit, Exit::Integrity);
        assert!(failure.reason.starts_with("bytes 4096-8191 are damaged"), "{}", failure.reason);
    }
}
