//! The disk as a value: operations on files, with its caches and its faults. Knows nothing of the kernel.

use std::collections::BTreeMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use harness::Random;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::cache::{Cache, Loss};
use crate::faults::{Faults, Kind};
use crate::names::{Change, Names};
use crate::nodes::Nodes;

/// A disk over a backing directory.
#[derive(Debug)]
pub struct Disk {
    served: PathBuf,
    nodes: Nodes,
    names: Names,
    caches: BTreeMap<u64, Cache>,
    handles: BTreeMap<u64, (u64, File)>,
    handle_last: u64,
    /// What goes wrong.
    pub faults: Faults,
    down: bool,
    counts: Counts,
}

/// What the disk was asked for since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Flushes of files.
    pub flushes: u64,
}

/// A file's number and what is known of it.
#[derive(Debug)]
pub struct Entry {
    /// Its number.
    pub number: u64,
    /// The backing file's metadata.
    pub metadata: Metadata,
}

impl Disk {
    /// A disk that keeps its files in `backing`, which is made.
    pub fn new(backing: &Path) -> io::Result<Self> {
        let served = backing.join("served");
        std::fs::create_dir_all(&served)?;
        Ok(Self {
            names: Names::new(&served, &backing.join("removed"))?,
            served,
            nodes: Nodes::new(),
            caches: BTreeMap::new(),
            handles: BTreeMap::new(),
            handle_last: 0,
            faults: Faults::default(),
            down: false,
            counts: Counts::default(),
        })
    }

    /// What it was asked for.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Bytes that a power cut could lose, and changes of names.
    #[must_use]
    pub fn volatile(&self) -> (usize, usize) {
        (self.caches.values().map(Cache::held_bytes).sum(), self.names.pending())
    }

    /// Cuts the power: what isn't flushed is lost as `seed` chooses, and every operation fails until [`Self::restore`].
    pub fn cut(&mut self, seed: u64) -> io::Result<Loss> {
        self.down = true;
        let mut random = Random::new(seed);
        let pending = self.names.pending() as u64;
        let kept = usize::try_from(random.below(pending + 1)).map_err(io::Error::other)?;
        for change in self.names.cut(kept)? {
            match change {
                Change::Made(path) => self.nodes.forget(&path),
                // What comes back is a file that nobody has open.
                Change::Removed { .. } => {}
                Change::Renamed { from, to, .. } => self.nodes.rename(&to, &from),
            }
        }
        let mut total = Loss::default();
        for (number, mut cache) in std::mem::take(&mut self.caches) {
            // A file without a name is gone with what was in its cache.
            let Some(path) = self.nodes.path(number) else { continue };
            let file = OpenOptions::new().read(true).write(true).open(self.served.join(path))?;
            let loss = cache.cut(&file, &mut random)?;
            total.writes += loss.writes;
            total.sectors += loss.sectors;
        }
        Ok(total)
    }

    /// Gives the power back.
    pub fn restore(&mut self) {
        self.down = false;
    }

    /// Flips the lowest bit of the byte at `offset` of `path`, at rest and for good.
    pub fn rot(&mut self, path: &str, offset: u64) -> io::Result<()> {
        let file = OpenOptions::new().read(true).write(true).open(self.served.join(path))?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset)?;
        byte[0] ^= 1;
        file.write_all_at(&byte, offset)
    }

    fn up(&self) -> io::Result<()> {
        if self.down { Err(Errno::IO.into()) } else { Ok(()) }
    }

    fn path(&self, number: u64) -> io::Result<&Path> {
        self.up()?;
        self.nodes.path(number).ok_or_else(|| Errno::STALE.into())
    }

    fn entry(&mut self, path: &Path) -> io::Result<Entry> {
        let metadata = std::fs::symlink_metadata(self.served.join(path))?;
        Ok(Entry { number: self.nodes.number(path), metadata })
    }

    fn strikes(&mut self, kind: Kind, number: u64) -> bool {
        let path = self.nodes.path(number).map(Path::to_owned).unwrap_or_default();
        self.faults.strikes(kind, &path)
    }

    /// Looks a name up.
    pub fn lookup(&mut self, parent: u64, name: &Path) -> io::Result<Entry> {
        let path = self.path(parent)?.join(name);
        self.entry(&path)
    }

    /// Metadata of a number; of an open file without a name by its handle.
    pub fn metadata(&self, number: u64, handle: Option<u64>) -> io::Result<Metadata> {
        self.up()?;
        match (self.nodes.path(number), handle.and_then(|handle| self.handles.get(&handle))) {
            (Some(path), _) => std::fs::symlink_metadata(self.served.join(path)),
            (None, Some((_, file))) => file.metadata(),
            (None, None) => Err(Errno::STALE.into()),
        }
    }

    /// Names in a directory, with `true` for directories.
    pub fn list(&mut self, number: u64) -> io::Result<Vec<(PathBuf, u64, bool)>> {
        let folder = self.path(number)?.to_owned();
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.served.join(&folder))? {
            let entry = entry?;
            let name = PathBuf::from(entry.file_name());
            found.push((name.clone(), self.nodes.number(&folder.join(&name)), entry.file_type()?.is_dir()));
        }
        found.sort();
        Ok(found)
    }

    /// Makes a directory.
    pub fn make_directory(&mut self, parent: u64, name: &Path) -> io::Result<Entry> {
        let path = self.path(parent)?.join(name);
        std::fs::create_dir(self.served.join(&path))?;
        self.names.made(&path);
        self.entry(&path)
    }

    /// Removes a file or an empty directory.
    pub fn remove(&mut self, parent: u64, name: &Path) -> io::Result<()> {
        let path = self.path(parent)?.join(name);
        let at = self.served.join(&path);
        if at.is_dir() && std::fs::read_dir(&at)?.next().is_some() {
            return Err(Errno::NOTEMPTY.into());
        }
        self.names.remove(&path)?;
        self.nodes.forget(&path);
        Ok(())
    }

    /// Renames, over what has the new name.
    pub fn rename(&mut self, from: (u64, &Path), to: (u64, &Path)) -> io::Result<()> {
        let from = self.path(from.0)?.join(from.1);
        let to = self.path(to.0)?.join(to.1);
        self.names.rename(&from, &to)?;
        self.nodes.rename(&from, &to);
        Ok(())
    }

    /// Makes a file and opens it.
    pub fn create(&mut self, parent: u64, name: &Path, mode: u32) -> io::Result<(Entry, u64)> {
        let path = self.path(parent)?.join(name);
        if self.faults.strikes(Kind::NoSpace, &path) {
            return Err(Errno::NOSPC.into());
        }
        let at = self.served.join(&path);
        let is_new = !at.exists();
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(mode).open(at)?;
        if is_new {
            self.names.made(&path);
        }
        let entry = self.entry(&path)?;
        let handle = self.keep(entry.number, file);
        Ok((entry, handle))
    }

    /// Opens a file.
    pub fn open(&mut self, number: u64) -> io::Result<u64> {
        let path = self.served.join(self.path(number)?);
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(self.keep(number, file))
    }

    fn keep(&mut self, number: u64, file: File) -> u64 {
        self.handle_last += 1;
        self.handles.insert(self.handle_last, (number, file));
        self.handle_last
    }

    /// Closes a handle.
    pub fn close(&mut self, handle: u64) {
        self.handles.remove(&handle);
    }

    fn opened(&self, handle: u64) -> io::Result<(u64, File)> {
        self.up()?;
        let (number, file) = self.handles.get(&handle).ok_or(Errno::BADF)?;
        Ok((*number, file.try_clone()?))
    }

    /// Reads.
    pub fn read(&mut self, handle: u64, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let (number, file) = self.opened(handle)?;
        self.counts.reads += 1;
        if self.strikes(Kind::ReadError, number) {
            return Err(Errno::IO.into());
        }
        let mut data = vec![0; length];
        let mut done = 0;
        while done < length {
            match file.read_at(&mut data[done..], offset + done as u64)? {
                0 => break,
                count => done += count,
            }
        }
        data.truncate(done);
        if done > 0 && self.strikes(Kind::FlippedRead, number) {
            data[done / 2] ^= 1;
        }
        Ok(data)
    }

    /// Writes all of `data`.
    pub fn write(&mut self, handle: u64, offset: u64, data: &[u8]) -> io::Result<()> {
        let (number, file) = self.opened(handle)?;
        self.counts.writes += 1;
        if self.strikes(Kind::WriteError, number) {
            return Err(Errno::IO.into());
        }
        if self.strikes(Kind::NoSpace, number) {
            return Err(Errno::NOSPC.into());
        }
        if self.strikes(Kind::LostWrite, number) {
            return Ok(());
        }
        self.caches.entry(number).or_default().before_write(&file, offset, data.len() as u64)?;
        file.write_all_at(data, offset)
    }

    /// Allocates space, or punches a hole or zeroes a range as `flags` say.
    pub fn allocate(
        &mut self,
        handle: u64,
        offset: u64,
        length: u64,
        flags: FallocateFlags,
    ) -> io::Result<()> {
        let (number, file) = self.opened(handle)?;
        if self.strikes(Kind::NoSpace, number) {
            return Err(Errno::NOSPC.into());
        }
        let cache = self.caches.entry(number).or_default();
        let file_length = file.metadata()?.len();
        if flags.intersects(FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE) {
            // What a hole replaces comes back at a cut like what a write replaces.
            cache.before_write(&file, offset, length.min(file_length.saturating_sub(offset)))?;
        }
        if !flags.contains(FallocateFlags::KEEP_SIZE) {
            cache.before_growth(file_length, offset + length);
        }
        Ok(rustix::fs::fallocate(&file, flags, offset, length)?)
    }

    /// Sets length and mode of a file.
    pub fn change(&mut self, number: u64, length: Option<u64>, mode: Option<u32>) -> io::Result<()> {
        let path = self.served.join(self.path(number)?);
        if let Some(length) = length {
            let file = OpenOptions::new().write(true).open(&path)?;
            self.caches.entry(number).or_default().before_growth(file.metadata()?.len(), length);
            file.set_len(length)?;
        }
        if let Some(mode) = mode {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
        }
        Ok(())
    }

    /// Makes a file durable, and with its own metadata all names (they share a journal); `data_only` writes metadata only where
    /// the file has grown.
    pub fn flush(&mut self, handle: u64, data_only: bool) -> io::Result<()> {
        let (number, _) = self.opened(handle)?;
        self.counts.flushes += 1;
        if self.strikes(Kind::FlushError, number) {
            return Err(Errno::IO.into());
        }
        if self.strikes(Kind::LostFlush, number) {
            return Ok(());
        }
        let cache = self.caches.remove(&number).unwrap_or_default();
        if !data_only || cache.has_grown() {
            self.names.flush()?;
        }
        Ok(())
    }

    /// Makes a directory's names durable, and with them all others.
    pub fn flush_directory(&mut self, number: u64) -> io::Result<()> {
        self.up()?;
        if self.strikes(Kind::FlushError, number) {
            return Err(Errno::IO.into());
        }
        self.names.flush()
    }

    /// The backing file system's figures.
    pub fn space(&mut self) -> io::Result<rustix::fs::StatVfs> {
        self.up()?;
        let mut space = rustix::fs::statvfs(&self.served)?;
        if self.faults.strikes(Kind::NoRoom, Path::new("")) {
            (space.f_bfree, space.f_bavail) = (0, 0);
        }
        Ok(space)
    }
}
