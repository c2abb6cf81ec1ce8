//! Writing a file: bytes are cut into chunks, sent while more come, and made visible by one commit at the end.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use wire::limits::{FILE_BYTES_MAX, FILE_EXTENTS_MAX};
use wire::meta::{Change, Commit, Compact, NewAttributes, Operation, Place, Precondition};
use wire::{Layout, MapNumber, Version};

use crate::core::Call;
use crate::core::extents::ExtentBuilder;
use crate::executor::{UploadScope, Value};
use crate::handle::{CallFuture, Share};
use crate::{Committed, Error, Pending, Subject, Volume};

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
    place: Place,
    what: Subject,
    options: UploadOptions,
    chunk_bytes: usize,
    /// Where the next byte goes, in the file (for an append: behind its end).
    position: u64,
    /// The chunk that is being filled. Behind its first `filled` bytes, which end at `position`, is room for more.
    buffer: Vec<u8>,
    filled: usize,
    /// A chunk that ended early, because a hole follows.
    sealed: Option<(u64, Vec<u8>)>,
    opening: Option<CallFuture>,
    scope: Option<UploadScope>,
    in_flight: VecDeque<InFlight>,
    extents: ExtentBuilder,
    is_staged: bool,
    /// The version and layout whose bytes these are again (R26).
    compacts: Option<(Version, Layout)>,
    /// Lowest map under which a chunk was acked (R8).
    map: Option<MapNumber>,
    failure: Option<Error>,
}

#[derive(Debug)]
struct InFlight {
    offset: u64,
    length: u32,
    call: CallFuture,
    _share: Share,
}

impl Upload {
    pub(crate) fn new(volume: Volume, path: &[u8], options: UploadOptions) -> Result<Self, Error> {
        let place = volume.place(path)?;
        let what = volume.subject(path);
        let chunk_bytes = volume.info().policy.chunk_bytes;
        let hint = options.size_hint.unwrap_or(0);
        if hint.div_ceil(u64::from(chunk_bytes).max(1)) > FILE_EXTENTS_MAX {
            return Err(Error::TooLarge { what }); // R37
        }
        let position = match options.change {
            UploadChange::Write { offset } => offset,
            UploadChange::Replace | UploadChange::Append => 0,
        };
        Ok(Self {
            volume,
            place,
            what,
            options,
            chunk_bytes: chunk_bytes as usize,
            position,
            buffer: Vec::new(),
            filled: 0,
            sealed: None,
            opening: None,
            scope: None,
            in_flight: VecDeque::new(),
            extents: ExtentBuilder::new(chunk_bytes),
            is_staged: false,
            compacts: None,
            map: None,
            failure: None,
        })
    }

    /// Bytes that the file has already, in this version and layout, from `offset` on.
    pub(crate) fn compaction(file: Volume, offset: u64, of: (Version, Layout)) -> Result<Self, Error> {
        let change = UploadChange::Write { offset };
        let upload = Self::new(file, b"", UploadOptions { change, ..UploadOptions::default() })?;
        Ok(Self { compacts: Some(of), ..upload })
    }

    /// Takes the next bytes of the file. Pending while the window is full. An error is final: the upload can only be dropped.
    pub async fn push(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        // Whoever drops this future may have lost bytes on the way: nothing of the upload may become visible then.
        self.failure = Some(Error::Canceled { what: self.what.clone() });
        let result = self.take(bytes).await;
        self.failure = result.as_ref().err().cloned();
        result
    }

    /// Room for the next bytes of the file, some and at most `wanted`, without a copy on the way: what was written to its beginning is taken by
    /// [`filled`](Self::filled). Its content is of no meaning.
    pub fn room(&mut self, wanted: usize) -> &mut [u8] {
        let wanted = wanted.clamp(1, self.chunk_bytes - self.filled);
        self.reserve(wanted);
        let end = self.filled + wanted;
        if self.buffer.len() < end {
            self.buffer.resize(end, 0);
        }
        &mut self.buffer[self.filled..end]
    }

    /// Takes the first `count` bytes of the [`room`](Self::room) as the next of the file. Like [`push`](Self::push).
    ///
    /// # Panics
    /// If there was less room.
    pub async fn filled(&mut self, count: usize) -> Result<(), Error> {
        assert!(count <= self.buffer.len() - self.filled, "no more is taken than there was room for");
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        self.failure = Some(Error::Canceled { what: self.what.clone() });
        let result = self.take_filled(count).await;
        self.failure = result.as_ref().err().cloned();
        result
    }

    /// [`filled`](Self::filled), waiting on this thread.
    pub fn filled_wait(&mut self, count: usize) -> Result<(), Error> {
        crate::pending::block_on(self.filled(count))
    }

    /// The next `bytes` bytes of the file are a hole: they read as zeros and take no space. In a [`UploadChange::Write`] they keep what is there.
    pub fn skip(&mut self, bytes: u64) -> Result<(), Error> {
        if bytes == 0 {
            return Ok(());
        }
        if self.filled > 0 {
            assert!(
                self.sealed.is_none(),
                "bytes between two holes are taken by `push`, which sends what is sealed"
            );
            self.sealed = Some(self.take_chunk());
        }
        self.position = self.advanced(bytes)?;
        Ok(())
    }

    /// Where the next byte goes, counted as [`UploadChange`] does: from the beginning of the file, or of what is appended.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Sends what is left and commits: when this is done, the file is durable and visible, whole.
    ///
    /// [`Error::OutcomeUnknown`]: the commit was sent and not answered; the file is there whole or not at all.
    pub fn finish(mut self) -> Pending<Committed> {
        Pending::start(async move { self.complete().await })
    }

    /// Gives up; the same as dropping it. Its chunks are freed by the server later.
    pub fn abort(self) {}

    fn advanced(&self, bytes: u64) -> Result<u64, Error> {
        let position = self.position.checked_add(bytes).filter(|position| *position <= FILE_BYTES_MAX);
        position.ok_or_else(|| Error::TooLarge { what: self.what.clone() })
    }

    /// Room for `more` bytes behind those in the buffer.
    fn reserve(&mut self, more: usize) {
        if self.buffer.capacity() == 0 {
            // A small file's buffer is as small as the file.
            self.buffer = self.volume.handle().buffers().take(more);
        } else if self.buffer.capacity() < self.filled + more {
            self.buffer.reserve_exact(self.chunk_bytes - self.buffer.len());
        }
    }

    async fn take(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(self.chunk_bytes - self.filled));
            self.reserve(now.len());
            self.buffer.truncate(self.filled);
            self.buffer.extend_from_slice(now);
            bytes = later;
            self.take_filled(now.len()).await?;
        }
        Ok(())
    }

    async fn take_filled(&mut self, count: usize) -> Result<(), Error> {
        if let Some((offset, chunk)) = self.sealed.take() {
            self.send(offset, chunk).await?;
        }
        self.position = self.advanced(count as u64)?;
        self.filled += count;
        if self.filled == self.chunk_bytes {
            let (offset, chunk) = self.take_chunk();
            self.send(offset, chunk).await?;
        }
        Ok(())
    }

    /// What is in the buffer, and where in the file it begins.
    fn take_chunk(&mut self) -> (u64, Vec<u8>) {
        let mut chunk = std::mem::take(&mut self.buffer);
        chunk.truncate(std::mem::take(&mut self.filled));
        (self.position - chunk.len() as u64, chunk)
    }

    async fn send(&mut self, offset: u64, chunk: Vec<u8>) -> Result<(), Error> {
        self.open().await?;
        self.settle_ready().await?;
        let share = loop {
            if let Some(share) = self.volume.handle().budget().try_take(chunk.len()) {
                break share;
            }
            if self.in_flight.is_empty() {
                break self.volume.handle().budget().take(chunk.len());
            }
            self.settle_first().await?;
        };
        let length = u32::try_from(chunk.len()).expect("at most the volume's chunk size");
        let upload = self.scope.as_ref().expect("just opened").id;
        let call = self.volume.handle().put(upload, chunk);
        self.in_flight.push_back(InFlight { offset, length, call, _share: share });
        Ok(())
    }

    /// Enters a session, with the first chunk (R21).
    async fn open(&mut self) -> Result<(), Error> {
        if self.scope.is_some() {
            return Ok(());
        }
        let handle = self.volume.handle();
        let group = self.volume.group();
        let opening = self.opening.get_or_insert_with(|| handle.call(Call::OpenUpload { group }));
        let opened = opening.await;
        self.opening = None;
        match opened {
            Ok(Value::Upload(scope)) => self.scope = Some(scope),
            Ok(_) => return Err(self.volume.handle().protocol_error(self.what.clone())),
            Err(failure) => return Err(self.volume.handle().error(failure, &self.what)),
        }
        Ok(())
    }

    /// Takes the results that are there already, without waiting.
    async fn settle_ready(&mut self) -> Result<(), Error> {
        while let Some(first) = self.in_flight.front_mut() {
            let Poll::Ready(result) = Pin::new(&mut first.call).poll(&mut Context::from_waker(Waker::noop()))
            else {
                return Ok(());
            };
            self.settle(result).await?;
        }
        Ok(())
    }

    async fn settle_first(&mut self) -> Result<(), Error> {
        let first = self.in_flight.front_mut().expect("the caller has looked");
        let result = (&mut first.call).await;
        self.settle(result).await
    }

    /// The first chunk in flight is stored, or the upload has failed.
    async fn settle(&mut self, result: Result<Value, crate::core::Failure>) -> Result<(), Error> {
        let InFlight { offset, length, .. } = self.in_flight.pop_front().expect("it is its result");
        match result {
            Ok(Value::Chunk { id, root, map }) => {
                self.map = Some(self.map.map_or(map, |lowest| lowest.min(map)));
                let pushed = self.extents.push(offset, id, length, root);
                pushed.map_err(|_| Error::TooLarge { what: self.what.clone() })?;
            }
            Ok(_) => return Err(self.volume.handle().protocol_error(self.what.clone())),
            Err(failure) => return Err(self.volume.handle().error(failure, &self.what)),
        }
        if self.extents.is_full() {
            self.stage().await?;
        }
        Ok(())
    }

    /// Leaves the extents so far in the session, since they would not fit into one message (R37).
    async fn stage(&mut self) -> Result<(), Error> {
        let scope = self.scope.as_ref().expect("chunks were sent");
        let operation = Operation::Stage { upload: scope.number, extents: self.extents.take() };
        let handle = self.volume.handle();
        handle.mutate(self.volume.group(), Some(scope.id), operation, &self.what).await?;
        self.is_staged = true;
        Ok(())
    }

    pub(crate) async fn complete(&mut self) -> Result<Committed, Error> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        if let Some((offset, chunk)) = self.sealed.take() {
            self.send(offset, chunk).await?;
        }
        if self.filled > 0 {
            let (offset, chunk) = self.take_chunk();
            self.send(offset, chunk).await?;
        }
        while !self.in_flight.is_empty() {
            self.settle_first().await?;
        }
        let map = match self.map {
            Some(map) => map,
            None => self.volume.handle().map(&self.what).await?.number(),
        };
        if let Some((version, layout)) = self.compacts {
            assert!(!self.is_staged, "a round of a compaction fits into a message");
            let (place, extents) = (self.place.clone(), self.extents.take());
            return self.mutate(Operation::Compact(Compact { place, version, layout, extents, map })).await;
        }
        let change = match self.options.change {
            UploadChange::Replace => Change::Replace { size: self.position },
            UploadChange::Write { .. } => Change::Write,
            UploadChange::Append => Change::Append,
        };
        let staged = self.scope.as_ref().filter(|_| self.is_staged);
        let commit = Commit {
            place: self.place.clone(),
            change,
            extents: self.extents.take(),
            upload: staged.map_or(0, |scope| scope.number),
            attributes: self.options.attributes.take(),
            precondition: self.options.precondition,
            map,
        };
        self.mutate(Operation::Commit(commit)).await
    }

    async fn mutate(&self, operation: Operation) -> Result<Committed, Error> {
        let upload = self.scope.as_ref().map(|scope| scope.id);
        let handle = self.volume.handle();
        Ok(handle.mutate(self.volume.group(), upload, operation, &self.what).await?.into())
    }
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
