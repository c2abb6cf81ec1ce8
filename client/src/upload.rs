//! Writing a file: bytes are cut into chunks, sent while more come, and made visible by one commit at the end.

use std::io;

use wire::limits::FILE_EXTENTS_MAX;
use wire::meta::{NewAttributes, Precondition};

use crate::{Committed, Error, Pending, Volume};

/// How a file is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UploadOptions {
    /// Attributes of a file that is made or replaced. `None`: a replaced file keeps its own, a new one gets mode 0644.
    pub attributes: Option<NewAttributes>,
    /// Condition on what is at the path when the commit executes.
    pub precondition: Precondition,
    /// What happens to the bytes that are there.
    pub change: UploadChange,
    /// Bytes that will come, holes included, where that is known: a file that can't fit is refused before anything is sent.
    pub size_hint: Option<u64>,
}

/// What an upload does with the bytes of a file that exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UploadChange {
    /// They are replaced.
    #[default]
    Replace,
    /// They are overwritten from this offset on, and stay where nothing is written.
    Write {
        /// Where in the file the first byte goes.
        offset: u64,
    },
    /// The new bytes come behind them. Appends from several clients never mix.
    Append,
}

/// A file that is being written. Bytes go in by [`io::Write`] or [`push`](Self::push); nothing is visible before [`finish`](Self::finish), and nothing
/// ever where it is dropped instead.
///
/// Memory: the chunks in flight, at most [`Config::window_bytes`](crate::Config::window_bytes) together with all other transfers (one chunk more for
/// each upload when the window is full), and one chunk that is being filled.
#[derive(Debug)]
pub struct Upload {
    volume: Volume,
}

impl Upload {
    pub(crate) fn new(volume: Volume, path: &[u8], options: UploadOptions) -> Result<Self, Error> {
        let _ = (path, options, FILE_EXTENTS_MAX);
        Ok(Self { volume })
    }

    /// Takes the next bytes of the file. Pending while the window is full. An error is final: the upload can only be dropped.
    pub async fn push(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let _ = (bytes, &self.volume);
        todo!()
    }

    /// The next `bytes` bytes of the file are a hole: they read as zeros and take no space.
    pub fn skip(&mut self, bytes: u64) -> Result<(), Error> {
        let _ = bytes;
        todo!()
    }

    /// Bytes taken so far, holes included.
    pub fn position(&self) -> u64 {
        todo!()
    }

    /// Sends what is left and commits: when this is done, the file is durable and visible, whole.
    ///
    /// [`Error::OutcomeUnknown`]: the commit was sent and not answered; the file is there whole or not at all.
    pub fn finish(self) -> Pending<Committed> {
        todo!()
    }

    /// Gives up; the same as dropping it. Its chunks are freed by the server later.
    pub fn abort(self) {}
}

/// Blocks while the window is full. `flush` does nothing: durability comes with [`Upload::finish`].
impl io::Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        crate::pending::block_on(self.push(bytes)).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
