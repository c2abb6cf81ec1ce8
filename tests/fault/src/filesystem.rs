//! The disk's face to the kernel: each FUSE request is one call of [`Disk`].

use std::ffi::OsStr;
use std::io;
use std::path::Path;
#[expect(
    clippy::disallowed_types,
    reason = "FUSE's threads and the control thread share one disk; nothing here is measured"
)]
use std::sync::Mutex;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite,
    Request, TimeOrNow, WriteFlags,
};
use rustix::fs::FallocateFlags;
use std::os::unix::fs::MetadataExt;

use crate::disk::{Disk, Entry};
use crate::faults::Delays;

/// Threads that serve the kernel: a delayed operation doesn't hold up the others.
const THREADS: usize = 4;
/// Largest write that the kernel hands over in one piece.
const WRITE_BYTES_MAX: u32 = 1 << 20;
/// The kernel caches neither names nor attributes: a power cut changes them behind its back.
const UNCACHED: Duration = Duration::ZERO;

/// A disk shared by the threads that serve the kernel and the one that takes commands.
#[derive(Clone, Debug)]
#[expect(clippy::disallowed_types, reason = "as above")]
pub struct Shared(Arc<Mutex<Disk>>);

impl Shared {
    /// Shares a disk.
    #[must_use]
    #[expect(clippy::disallowed_types, reason = "as above")]
    pub fn new(disk: Disk) -> Self {
        Self(Arc::new(Mutex::new(disk)))
    }

    /// The disk, for one operation.
    pub fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits as long as an operation has to take, without holding the disk.
    fn delay(&self, choose: fn(&Delays) -> Duration) {
        let delay = choose(&self.lock().faults.delays);
        if !delay.is_zero() {
            sleep(delay);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a slow disk is what a test asked for")]
fn sleep(length: Duration) {
    std::thread::sleep(length);
}

/// How the disk is mounted.
#[must_use]
pub fn config() -> Config {
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("faulty-disk".to_owned()), MountOption::NoAtime];
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    config
}

fn attributes(entry: &Entry) -> FileAttr {
    let metadata = &entry.metadata;
    let changed = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    FileAttr {
        ino: INodeNo(entry.number),
        size: metadata.len(),
        blocks: metadata.blocks(),
        atime: changed,
        mtime: changed,
        ctime: changed,
        crtime: changed,
        kind: if metadata.is_dir() { FileType::Directory } else { FileType::RegularFile },
        perm: u16::try_from(metadata.mode() & 0o7777).unwrap_or_default(),
        nlink: u32::try_from(metadata.nlink()).unwrap_or(u32::MAX),
        uid: metadata.uid(),
        gid: metadata.gid(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn reply_empty(result: io::Result<()>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error.into()),
    }
}

fn reply_entry(result: io::Result<Entry>, reply: ReplyEntry) {
    match result {
        Ok(entry) => reply.entry(&UNCACHED, &attributes(&entry), Generation(0)),
        Err(error) => reply.error(error.into()),
    }
}

/// Direct, so that each operation of the node is one of the disk; several writes to one file may be under way at once.
fn open_flags() -> FopenFlags {
    FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES
}

impl Filesystem for Shared {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Kernels that don't offer it serve direct I/O one by one, which is slower and as right.
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        config.set_max_write(WRITE_BYTES_MAX).map_err(|_| io::ErrorKind::InvalidInput)?;
        config.set_max_background(64).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        reply_entry(self.lock().lookup(parent.0, Path::new(name)), reply);
    }

    fn getattr(&self, _request: &Request, number: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.lock().metadata(number.0, handle.map(|handle| handle.0)) {
            Ok(metadata) => reply.attr(&UNCACHED, &attributes(&Entry { number: number.0, metadata })),
            Err(error) => reply.error(error.into()),
        }
    }

    fn setattr(
        &self,
        _request: &Request,
        number: INodeNo,
        mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut disk = self.lock();
        let changed = disk.change(number.0, size, mode);
        match changed.and_then(|()| disk.metadata(number.0, handle.map(|handle| handle.0))) {
            Ok(metadata) => reply.attr(&UNCACHED, &attributes(&Entry { number: number.0, metadata })),
            Err(error) => reply.error(error.into()),
        }
    }

    fn mkdir(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        reply_entry(self.lock().make_directory(parent.0, Path::new(name)), reply);
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(self.lock().remove(parent.0, Path::new(name)), reply);
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(self.lock().remove(parent.0, Path::new(name)), reply);
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let renamed = self.lock().rename((parent.0, Path::new(name)), (new_parent.0, Path::new(new_name)));
        reply_empty(renamed, reply);
    }

    fn create(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        match self.lock().create(parent.0, Path::new(name), mode & !umask) {
            Ok((entry, handle)) => {
                reply.created(
                    &UNCACHED,
                    &attributes(&entry),
                    Generation(0),
                    FileHandle(handle),
                    open_flags(),
                );
            }
            Err(error) => reply.error(error.into()),
        }
    }

    fn open(&self, _request: &Request, number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.lock().open(number.0) {
            Ok(handle) => reply.opened(FileHandle(handle), open_flags()),
            Err(error) => reply.error(error.into()),
        }
    }

    fn read(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.delay(|delays| delays.read);
        match self.lock().read(handle.0, offset, size as usize) {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(error.into()),
        }
    }

    fn write(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.delay(|delays| delays.write);
        match self.lock().write(handle.0, offset, data) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(error) => reply.error(error.into()),
        }
    }

    /// A close; nothing becomes durable by it.
    fn flush(
        &self,
        _request: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsync(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.delay(|delays| delays.flush);
        reply_empty(self.lock().flush(handle.0, data_only), reply);
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.delay(|delays| delays.flush);
        reply_empty(self.lock().flush_directory(number.0), reply);
    }

    fn release(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.lock().close(handle.0);
        reply.ok();
    }

    fn readdir(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        match self.lock().list(number.0) {
            Ok(entries) => {
                for (index, (name, number, is_directory)) in (0_u64..).zip(entries) {
                    let kind = if is_directory { FileType::Directory } else { FileType::RegularFile };
                    if index >= offset && reply.add(INodeNo(number), index + 1, kind, name.as_os_str()) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(error.into()),
        }
    }

    fn statfs(&self, _request: &Request, _number: INodeNo, reply: ReplyStatfs) {
        match self.lock().space() {
            Ok(space) => {
                let block = u32::try_from(space.f_frsize).unwrap_or(4096);
                reply.statfs(
                    space.f_blocks,
                    space.f_bfree,
                    space.f_bavail,
                    space.f_files,
                    space.f_ffree,
                    block,
                    255,
                    block,
                );
            }
            Err(error) => reply.error(error.into()),
        }
    }

    fn access(&self, _request: &Request, _number: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fallocate(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        match u32::try_from(mode).ok().and_then(FallocateFlags::from_bits) {
            Some(flags) => reply_empty(self.lock().allocate(handle.0, offset, length, flags), reply),
            None => reply.error(Errno::EOPNOTSUPP),
        }
    }
}
