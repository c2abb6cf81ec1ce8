//! A directory, page by page.

use wire::meta::{Attributes, ListEntry};

use crate::{Error, Volume};

/// A directory's entries in order of the names' bytes: an iterator that fetches pages as it goes. Entries that stay while the listing runs are
/// seen exactly once; those made or removed meanwhile may or may not be seen.
#[derive(Debug)]
pub struct Lister {
    volume: Volume,
    directory: Attributes,
}

impl Lister {
    pub(crate) async fn open(volume: Volume, path: &[u8]) -> Result<Self, Error> {
        let _ = (volume, path);
        todo!()
    }

    /// The directory's own attributes, as of the first page.
    pub fn directory(&self) -> &Attributes {
        &self.directory
    }

    /// The next entry; `None` at the end.
    pub async fn next_entry(&mut self) -> Result<Option<ListEntry>, Error> {
        let _ = &self.volume;
        todo!()
    }
}

impl Iterator for Lister {
    type Item = Result<ListEntry, Error>;

    /// [`next_entry`](Lister::next_entry), waiting on this thread.
    fn next(&mut self) -> Option<Self::Item> {
        crate::pending::block_on(self.next_entry()).transpose()
    }
}
