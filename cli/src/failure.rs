//! What a command says when it can't do what it was asked: the thing, the reason, the next step, and an exit code.
//!
//! Every error that reaches a person is a [`Failure`]. Nothing here prints; [`crate::output`] does.

use std::borrow::Cow;
use std::fmt;
use std::io;

use serde_json::json;

use crate::invocation;
use crate::json::Object;
use crate::text::{quote, shell};

/// How the process ends. The codes are part of the command's interface and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Ok,
    /// Something failed that has no code of its own.
    Failed,
    /// The command line makes no sense.
    Usage,
    /// A named thing doesn't exist.
    NotFound,
    /// The caller may not do this.
    Denied,
    /// Something exists already, or isn't as a precondition says.
    Conflict,
    /// No server answers, or not in time.
    Unavailable,
    /// Stored bytes are damaged or missing.
    Integrity,
    /// Some of many things were done and some not.
    Partial,
    /// A change was sent and whether it took effect can't be known.
    Unknown,
    /// A signal ended the command.
    Interrupted,
    /// Who reads the output has gone: not an error, and nothing to say.
    ClosedPipe,
}

impl Exit {
    /// The process's exit code.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Ok | Self::ClosedPipe => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Denied => 4,
            Self::Conflict => 5,
            Self::Unavailable => 6,
            Self::Integrity => 7,
            Self::Partial => 8,
            Self::Unknown => 9,
            Self::Interrupted => 130,
        }
    }
}

/// Why a command, or its work on one thing, ended without success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The exit code's meaning.
    pub(crate) exit: Exit,
    /// What it is about, ready to be shown; may be empty.
    pub(crate) thing: String,
    /// What is wrong with it.
    pub(crate) reason: String,
    /// What to do next.
    pub(crate) next: Option<String>,
    /// Whether it was printed already: only its exit code is still needed.
    pub(crate) is_printed: bool,
}

/// The result of everything that can fail here.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure without a next step.
    pub(crate) fn new(exit: Exit, thing: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { exit, thing: thing.into(), reason: reason.into(), next: None, is_printed: false }
    }

    /// A command line that makes no sense.
    pub(crate) fn usage(thing: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::new(Exit::Usage, thing, reason)
    }

    /// An error of the local system about `thing`.
    pub(crate) fn io(thing: impl Into<String>, error: &io::Error) -> Self {
        Self::new(exit_of_io(error), thing, io_reason(error)).next(io_next(error))
    }

    /// An error of the local system about a path.
    pub(crate) fn path(path: &std::path::Path, error: &io::Error) -> Self {
        use std::os::unix::ffi::OsStrExt as _;
        Self::io(quote(path.as_os_str().as_bytes()), error)
    }

    /// An error of standard output; a reader that has gone is not one.
    pub(crate) fn stdout(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::new(Exit::ClosedPipe, "", "");
        }
        Self::io("standard output", error)
    }

    /// Ended by a signal.
    pub(crate) fn interrupted() -> Self {
        Self::new(Exit::Interrupted, "", "interrupted")
            .next("what was finished stays; run the same command again to go on")
    }

    /// The same failure with a next step.
    #[must_use]
    pub(crate) fn next(mut self, step: impl Into<String>) -> Self {
        self.next = Some(step.into());
        self
    }

    /// The same failure, whose next step names the configuration that the command was given where it stands for any.
    #[must_use]
    pub(crate) fn with_config(mut self, file: &std::path::Path) -> Self {
        use std::os::unix::ffi::OsStrExt as _;
        let named = format!("--config {}", shell(file.as_os_str().as_bytes()));
        self.next = self.next.map(|step| step.replace("--config FILE", &named));
        self
    }

    /// What to do next: what was said, else what such a failure asks for in general.
    fn step(&self) -> Cow<'_, str> {
        if let Some(step) = &self.next {
            return step.into();
        }
        let step = match self.exit {
            Exit::Usage => {
                return format!("`{} --help` shows how it is written, with examples", invocation::command())
                    .into();
            }
            Exit::NotFound => "check the name",
            Exit::Denied => "check the owner and mode, or run as another user",
            Exit::Conflict => "choose another target, or remove what is there if it may go",
            Exit::Unavailable => "check that the server runs: catena status",
            Exit::Integrity => "restore it from its source or a backup",
            Exit::Unknown => "look whether it happened before you repeat it: catena stat",
            Exit::Ok | Exit::Failed | Exit::Partial | Exit::Interrupted | Exit::ClosedPipe => {
                "mend what is said above, then run the command again"
            }
        };
        step.into()
    }

    /// Whether there is nothing to say.
    pub(crate) fn is_silent(&self) -> bool {
        self.exit == Exit::ClosedPipe || self.is_printed
    }

    /// The same failure, marked as printed.
    #[must_use]
    pub(crate) fn printed(mut self) -> Self {
        self.is_printed = true;
        self
    }

    /// Whether the whole command has to end here, whatever else it was to do.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self.exit, Exit::ClosedPipe | Exit::Interrupted | Exit::Unavailable | Exit::Unknown)
    }

    /// The failure as one JSON object.
    pub(crate) fn to_json(&self) -> Object {
        Object::new().with(
            "error",
            json!({
                "exit": self.exit.code(), "thing": self.thing, "reason": self.reason, "next": self.step(),
            }),
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.thing.as_str() {
            "" => f.write_str(&self.reason)?,
            thing => write!(f, "{thing}: {}", self.reason)?,
        }
        write!(f, "\n  next: {}", self.step())
    }
}

/// The exit code of a local error.
fn exit_of_io(error: &io::Error) -> Exit {
    match error.kind() {
        io::ErrorKind::NotFound => Exit::NotFound,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Exit::Denied,
        io::ErrorKind::AlreadyExists
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::DirectoryNotEmpty => Exit::Conflict,
        io::ErrorKind::BrokenPipe => Exit::ClosedPipe,
        io::ErrorKind::TimedOut | io::ErrorKind::ConnectionRefused => Exit::Unavailable,
        _ => Exit::Failed,
    }
}

/// What to do about a local error.
fn io_next(error: &io::Error) -> &'static str {
    if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
        return "look where the symbolic links lead: ls -l";
    }
    match error.kind() {
        io::ErrorKind::NotFound => "check the name, and the directory that it begins in",
        io::ErrorKind::PermissionDenied => "check the owner and mode, or run as another user",
        io::ErrorKind::ReadOnlyFilesystem => "name a place on another file system",
        io::ErrorKind::AlreadyExists => "name another place, or remove what is there if it may go",
        io::ErrorKind::NotADirectory => "a part of the path is a file: name another place",
        io::ErrorKind::IsADirectory => "name a file",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some space, then run the command again"
        }
        io::ErrorKind::FileTooLarge => "name a place on a file system that takes such large files",
        io::ErrorKind::InvalidFilename => "choose a shorter name, or a place less deep",
        _ => "mend that, then run the command again; the system's log (dmesg) may say more",
    }
}

/// An error of the system in words: its text in lower case, without the number.
pub(crate) fn io_reason(error: &io::Error) -> String {
    let text = error.to_string();
    let words = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = words.chars();
    match (chars.next(), chars.next()) {
        // `No such file…` becomes `no such file…`; an abbreviation such as `I/O error` stays.
        (Some(first), Some(second)) if second.is_lowercase() || second == ' ' => {
            first.to_lowercase().chain(words.chars().skip(1)).collect()
        }
        _ => words.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_errors_are_words_without_numbers() {
        for (number, exit, words) in [
            (2, Exit::NotFound, "no such file or directory"),
            (13, Exit::Denied, "permission denied"),
            (17, Exit::Conflict, "file exists"),
            (28, Exit::Failed, "no space left on device"),
            (5, Exit::Failed, "input/output error"),
            (36, Exit::Failed, "file name too long"),
        ] {
            let error = io::Error::from_raw_os_error(number);
            let failure = Failure::io("x", &error);
            assert_eq!((failure.exit, failure.reason.as_str()), (exit, words));
        }
    }

    #[test]
    fn a_failure_names_thing_reason_and_next_step() {
        let failure = Failure::new(Exit::NotFound, "/v/a", "not found").next("make it: catena mkdir -p /v/a");
        assert_eq!(failure.to_string(), "/v/a: not found\n  next: make it: catena mkdir -p /v/a");
        // One that says no next step gets its exit code's.
        let bare = Failure::new(Exit::NotFound, "", "stopped");
        assert_eq!(bare.to_string(), "stopped\n  next: check the name");
        assert!(bare.to_json().line().contains(r#""next":"check the name""#));
    }

    /// The command that mends a damaged log was printed without the option that it needs.
    #[test]
    fn a_next_step_names_the_configuration() {
        let step = "accept the loss with `catena server recover --accept-data-loss --config FILE`";
        let failure = Failure::new(Exit::Integrity, "log", "damaged").next(step);
        for (file, named) in
            [("a.toml", "--config a.toml`"), ("my node/a.toml", "--config 'my node/a.toml'`")]
        {
            let next = failure.clone().with_config(std::path::Path::new(file)).next;
            assert!(next.as_ref().is_some_and(|next| next.ends_with(named)), "{next:?}");
        }
    }

    #[test]
    fn no_answer_ends_a_command_over_many_names() {
        for (exit, ends) in [(Exit::Unavailable, true), (Exit::Unknown, true), (Exit::NotFound, false)] {
            assert_eq!(Failure::new(exit, "x", "y").is_final(), ends, "{exit:?}");
        }
    }

    #[test]
    fn a_gone_reader_is_no_error() {
        let failure = Failure::stdout(&io::Error::from_raw_os_error(32));
        assert!(failure.is_silent());
        assert_eq!(failure.exit.code(), 0);
    }
}
