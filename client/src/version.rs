//! One version of one file: its extents page by page, and whether it is still there.

use wire::Status;
use wire::limits::MESSAGE_ROOTS_MAX;
use wire::meta::{Answer, Entry, ExtentPage, Pin, Query};

use crate::core::extents::Walk;
use crate::core::{Call, Failure};
use crate::executor::Value;
use crate::handle::CallFuture;
use crate::{Error, Subject, UnavailableReason, Volume};

/// A version that is being read.
#[derive(Debug)]
pub(crate) struct VersionReader {
    pub(crate) volume: Volume,
    /// What errors name.
    pub(crate) what: Subject,
    pub(crate) entry: Entry,
    relayouts: u32,
}

impl VersionReader {
    pub(crate) fn new(volume: Volume, what: Subject, entry: Entry) -> Self {
        Self { volume, what, entry, relayouts: 0 }
    }

    /// A walk over `start..end`; the page that came with the entry is used where it reaches.
    pub(crate) fn walk(&mut self, start: u64, end: u64) -> Walk {
        let mut walk = Walk::new(start, end);
        let page = std::mem::take(&mut self.entry.page);
        let reaches =
            page.extents.runs.last().is_some_and(|run| run.file_offset.saturating_add(run.length) > start);
        // A page without extents that is the last one may be the answer to a lookup that asked for none.
        if reaches {
            // A page that contradicts itself is asked for again, and reported then.
            let _ = walk.load(page);
        }
        walk
    }

    /// Loads the page that the walk asked for.
    pub(crate) async fn load_page(&mut self, walk: &mut Walk, offset: u64) -> Result<(), Error> {
        loop {
            if let Some(page) = self.page(offset, MESSAGE_ROOTS_MAX).await? {
                self.relayouts = 0;
                return walk.load(page).map_err(|_| self.malformed());
            }
            self.find_again().await?;
        }
    }

    /// Before a chunk is called lost, the version is looked up again (R25): `Ok` where it is still there, so that the chunk is lost.
    /// Returns whether its extents have to be walked again, because its layout changed.
    pub(crate) async fn confirm(&mut self, offset: u64) -> Result<bool, Error> {
        if self.page(offset, 1).await?.is_some() {
            return Ok(false);
        }
        self.find_again().await?;
        Ok(true)
    }

    /// Keeps the version from being reclaimed while it is read (R25).
    pub(crate) fn open_read(&self) -> CallFuture {
        let pin = Pin {
            volume: self.volume.info().volume,
            inode: self.entry.attributes.inode,
            version: self.entry.attributes.version,
        };
        self.volume.handle().call(Call::OpenRead { group: self.volume.group(), pin })
    }

    /// A page of the version's extents; `None` where the version isn't there in this layout.
    async fn page(&self, offset: u64, roots: usize) -> Result<Option<ExtentPage>, Error> {
        let attributes = &self.entry.attributes;
        let query = Query::ReadExtents {
            volume: self.volume.info().volume,
            inode: attributes.inode,
            version: attributes.version,
            layout: attributes.layout,
            offset,
            roots: u32::try_from(roots).expect("a limit of the protocol"),
        };
        let call = Call::Query { group: self.volume.group(), query: Box::new(query) };
        match self.volume.handle().call(call).await {
            Ok(Value::Answer(answer)) => match *answer {
                Answer::Extents(page) => Ok(Some(page)),
                _ => Err(self.malformed()),
            },
            Ok(_) => Err(self.malformed()),
            Err(Failure::Refused { status: Status::VersionConflict | Status::NotFound, .. }) => Ok(None),
            Err(failure) => Err(self.volume.handle().error(failure, &self.what)),
        }
    }

    /// The version isn't there in the layout that was known: was it compacted (R26), or is it gone?
    async fn find_again(&mut self) -> Result<(), Error> {
        let version = self.entry.attributes.version;
        let replaced = Error::Replaced { what: self.what.clone(), version };
        let volume = self.volume.at(self.entry.attributes.inode);
        let found = match volume.lookup(b"", false, false, 0).await {
            Ok(entry) => entry,
            Err(Error::NotFound { .. }) => return Err(replaced),
            Err(error) => return Err(error),
        };
        let is_same = found.attributes.version == version;
        self.relayouts += 1;
        if !is_same
            || found.attributes.layout == self.entry.attributes.layout
            || self.relayouts > RELAYOUTS_MAX
        {
            return Err(replaced);
        }
        self.entry.attributes.layout = found.attributes.layout;
        Ok(())
    }

    fn malformed(&self) -> Error {
        Error::Unavailable {
            what: self.what.clone(),
            endpoint: "the metadata group".to_owned(),
            reason: UnavailableReason::Protocol,
        }
    }
}

/// Compactions of one version while one page of it is asked for.
const RELAYOUTS_MAX: u32 = 64;
