//! A directory, page by page.

use std::collections::VecDeque;

use wire::limits::LIST_ENTRIES_MAX;
use wire::meta::{Answer, Attributes, ListEntry, Place, Query};

use crate::{Error, Subject, Volume};

/// A directory's entries in order of the names' bytes: an iterator that fetches pages as it goes. Entries that stay while the listing runs are
/// seen exactly once; those made or removed meanwhile may or may not be seen.
#[derive(Debug)]
pub struct Lister {
    volume: Volume,
    what: Subject,
    directory: Attributes,
    page: VecDeque<ListEntry>,
    last: Vec<u8>,
    is_end: bool,
}

struct Page {
    directory: Attributes,
    entries: Vec<ListEntry>,
    end: bool,
}

impl Lister {
    pub(crate) async fn open(volume: Volume, path: &[u8]) -> Result<Self, Error> {
        let (place, what) = (volume.place(path)?, volume.subject(path));
        let page = fetch(&volume, &what, place, Vec::new()).await?;
        let mut lister = Self {
            volume,
            what,
            directory: page.directory,
            page: VecDeque::new(),
            last: Vec::new(),
            is_end: false,
        };
        lister.accept(page)?;
        Ok(lister)
    }

    /// The directory's own attributes, as of the first page.
    pub fn directory(&self) -> &Attributes {
        &self.directory
    }

    /// The next entry; `None` at the end. After an error the same page is asked for again.
    pub async fn next_entry(&mut self) -> Result<Option<ListEntry>, Error> {
        while self.page.is_empty() && !self.is_end {
            // By its number: a rename meanwhile leads to no other directory.
            let place = self.volume.at(self.directory.inode).place(b"")?;
            let page = fetch(&self.volume, &self.what, place, self.last.clone()).await?;
            self.accept(page)?;
        }
        Ok(self.page.pop_front())
    }

    fn accept(&mut self, page: Page) -> Result<(), Error> {
        if let Some(last) = page.entries.last() {
            self.last.clone_from(&last.name);
        } else if !page.end {
            // It would be asked for for ever.
            return Err(self.volume.handle().protocol_error(self.what.clone()));
        }
        self.is_end = page.end;
        self.page = page.entries.into();
        Ok(())
    }
}

async fn fetch(volume: &Volume, what: &Subject, place: Place, after: Vec<u8>) -> Result<Page, Error> {
    let query = Query::List { place, after, limit: LIST_ENTRIES_MAX };
    match volume.handle().query(volume.group(), query, what).await? {
        Answer::List { directory, entries, end, .. } => Ok(Page { directory, entries, end }),
        _ => Err(volume.handle().protocol_error(what.clone())),
    }
}

impl Iterator for Lister {
    type Item = Result<ListEntry, Error>;

    /// [`next_entry`](Lister::next_entry), waiting on this thread.
    fn next(&mut self) -> Option<Self::Item> {
        crate::pending::block_on(self.next_entry()).transpose()
    }
}
