//! What can keep a node from being formatted, started or recovered. Each message says what happened, to what, and what to do next.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::config::ConfigError;

/// Why a node can't be formatted or started. The operator recovers, by what the message says.
#[derive(Debug, Error)]
pub enum Error {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file can't be read or written.
    #[error("{path}: cannot {action} it: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The directory is no node's.
    #[error(
        "{directory}: isn't a Catena node's directory; format it with `catena server init --config FILE`"
    )]
    NotInitialized {
        /// The directory.
        directory: PathBuf,
    },
    /// The directory was formatted by a release without control groups.
    #[error(
        "{directory}: was formatted by an earlier release, before clusters had a control group; adopt it once, on its only node: \
         `catena server init --adopt --config FILE`"
    )]
    NotAdopted {
        /// The directory.
        directory: PathBuf,
    },
    /// There is nothing to adopt.
    #[error("{directory}: has a control group already; nothing was changed")]
    Adopted {
        /// The directory.
        directory: PathBuf,
    },
    /// Formatting would overwrite something.
    #[error(
        "{path}: exists already; nothing was changed. `init` formats only what is new: remove it yourself if its data may go"
    )]
    Exists {
        /// What is in the way.
        path: PathBuf,
    },
    /// Another process formats a node in the directory.
    #[error("{directory}: another process is formatting it; nothing was changed")]
    Formatting {
        /// The directory.
        directory: PathBuf,
    },
    /// Something that a formatted node has isn't there (R34).
    #[error(
        "{path}: is missing although this node was formatted; is its disk mounted? Catena never formats by itself"
    )]
    Missing {
        /// What is missing.
        path: PathBuf,
    },
    /// The file that says who the node is isn't there, but others of its files are (R34).
    #[error(
        "{path}: is missing although {found} is there: it was lost, or formatting was cut off; restore it from a backup, or, if nothing was \
         ever stored here, remove what formatting left and format again"
    )]
    IdentityMissing {
        /// The identity's file.
        path: PathBuf,
        /// What of the node's files is there.
        found: PathBuf,
    },
    /// A file's contents can't be right.
    #[error("{path}: is damaged: {reason}; restore it from a backup")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file was written by a newer version.
    #[error(
        "{path}: has format {found}, and this version knows {known} at most; start the newer version again"
    )]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest that is known here.
        known: u32,
    },
    /// The configuration and the formatted node differ in something that is fixed.
    #[error(
        "`{key}` is {configured} in the configuration, but this node was formatted with {formatted}; it can't be changed afterwards"
    )]
    Changed {
        /// The key.
        key: &'static str,
        /// What the configuration says.
        configured: String,
        /// What was formatted.
        formatted: String,
    },
    /// A thread can't be started.
    #[error("cannot start {what}: {source}")]
    Start {
        /// Which.
        what: String,
        /// Why not.
        source: Box<runtime::StartError>,
    },
    /// A store's or log's file can't be opened or made.
    #[error(transparent)]
    OpenFile(Box<runtime::OpenFileError>),
    /// A port can't be had.
    #[error("{what} cannot listen on {address}: {}", not_listening(.source))]
    Listen {
        /// Who.
        what: &'static str,
        /// Where.
        address: std::net::SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A store or log isn't opened.
    #[error("{path}: {reason}")]
    Refused {
        /// Its file.
        path: PathBuf,
        /// Whether bytes that it had are damaged, missing or unreadable. A start that is repeated finds the same.
        is_damage: bool,
        /// Why not, and what to do.
        reason: String,
    },
    /// A thread can't begin its work.
    #[error("{what} can't be started: {reason}")]
    Failed {
        /// Which.
        what: String,
        /// Why not, and what to do.
        reason: String,
    },
    /// A thread ended or didn't answer in time.
    #[error("{what} stopped while the node was starting; the log says why")]
    Stopped {
        /// Which.
        what: String,
    },
}

/// Why nothing can listen at an address, and what to do.
pub(crate) fn not_listening(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "the port is taken; is another node running there?".into(),
        io::ErrorKind::AddrNotAvailable => "this machine hasn't got that address; name one of its own".into(),
        io::ErrorKind::PermissionDenied => {
            "permission denied; ports below 1024 are root's, choose another".into()
        }
        _ => format!("{error}; choose another address or port"),
    }
}

impl Error {
    /// What it is about, if that is a file or directory: the message begins with it.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File { path, .. }
            | Self::NotInitialized { directory: path }
            | Self::NotAdopted { directory: path }
            | Self::Adopted { directory: path }
            | Self::Exists { path }
            | Self::Formatting { directory: path }
            | Self::Missing { path }
            | Self::IdentityMissing { path, .. }
            | Self::Damaged { path, .. }
            | Self::NewerFormat { path, .. }
            | Self::Refused { path, .. } => Some(path),
            Self::OpenFile(error) => Some(error.path()),
            Self::Config(_)
            | Self::Changed { .. }
            | Self::Start { .. }
            | Self::Listen { .. }
            | Self::Failed { .. }
            | Self::Stopped { .. } => None,
        }
    }

    pub(crate) fn file(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::File { action, path: path.into(), source }
    }
}
