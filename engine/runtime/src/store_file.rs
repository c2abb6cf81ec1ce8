//! A file for direct I/O that belongs to this process alone.
//!
//! The lock is taken on the open file description that the uring writes through, before anything is read (R33): it lives until
//! the last write through that description ended, even if the process that began it is dead, so a straggler's writes and a new
//! owner's never meet.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;
use wire::limits::BLOCK_BYTES;

use crate::{clock, sys};

/// How long opening waits for another process to let go of the file.
pub const LOCK_WAIT: Duration = Duration::from_secs(10);

/// Why a store's file can't be used.
#[derive(Debug, Error)]
pub enum OpenFileError {
    /// It can't be opened or made.
    #[error("{}: cannot be opened: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Its file system has no direct I/O.
    #[error("{}: is on {file_system}, which has no direct I/O (O_DIRECT): use ext4 or xfs", path.display())]
    NoDirectIo {
        /// The file.
        path: PathBuf,
        /// The file system's name.
        file_system: String,
    },
    /// Its file system is memory, whether or not it takes direct I/O (tmpfs does since Linux 6.6).
    #[error("{}: is on {file_system}, which is memory: nothing in it survives a power cut; use ext4 or xfs on a disk", path.display())]
    InMemory {
        /// The file.
        path: PathBuf,
        /// The file system's name.
        file_system: String,
    },
    /// Its direct I/O wants an alignment above a block's.
    #[error("{}: direct I/O wants {bytes}-byte alignment, more than the 4096 of Catena's formats", path.display())]
    Alignment {
        /// The file.
        path: PathBuf,
        /// The alignment.
        bytes: u32,
    },
    /// Another process has it.
    #[error("{}: is in use by another process (waited {} s for its lock)", path.display(), waited.as_secs())]
    Locked {
        /// The file.
        path: PathBuf,
        /// How long it was waited for.
        waited: Duration,
    },
    /// Something else failed.
    #[error("{}: {step} it failed: {source}", path.display())]
    Io {
        /// What was attempted.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
}

impl OpenFileError {
    /// The file; messages begin with it.
    pub fn path(&self) -> &Path {
        match self {
            Self::Open { path, .. }
            | Self::NoDirectIo { path, .. }
            | Self::InMemory { path, .. }
            | Self::Alignment { path, .. }
            | Self::Locked { path, .. }
            | Self::Io { path, .. } => path,
        }
    }
}

/// A file opened for direct I/O and locked.
#[derive(Debug)]
pub struct StoreFile {
    file: File,
    path: PathBuf,
    memory_alignment: u32,
    offset_alignment: u32,
}

impl StoreFile {
    /// Makes a file, which must not exist; readable and writable by the owner.
    pub fn create(path: &Path) -> Result<Self, OpenFileError> {
        Self::begin(path, OpenOptions::new().create_new(true).mode(0o600), LOCK_WAIT)
    }

    /// Opens a file, which must exist.
    pub fn open(path: &Path) -> Result<Self, OpenFileError> {
        Self::begin(path, &mut OpenOptions::new(), LOCK_WAIT)
    }

    /// As [`open`](Self::open), with another time to wait for the lock.
    pub fn open_within(path: &Path, wait: Duration) -> Result<Self, OpenFileError> {
        Self::begin(path, &mut OpenOptions::new(), wait)
    }

    fn begin(path: &Path, options: &mut OpenOptions, wait: Duration) -> Result<Self, OpenFileError> {
        let file_system = file_system_of(path);
        if matches!(file_system.as_str(), "tmpfs" | "ramfs") {
            return Err(OpenFileError::InMemory { path: path.into(), file_system });
        }
        let opened = options.read(true).write(true).custom_flags(libc::O_DIRECT).open(path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                return Err(OpenFileError::NoDirectIo { path: path.into(), file_system });
            }
            Err(source) => return Err(OpenFileError::Open { path: path.into(), source }),
        };
        lock(&file, path, wait)?;
        let told = sys::direct_alignment(file.as_fd());
        let (memory_alignment, offset_alignment) = told
            .map_err(|source| io_error("asking for the alignment of", path, source))?
            .unwrap_or((512, 512));
        let alignment = memory_alignment.max(offset_alignment);
        if alignment as usize > BLOCK_BYTES {
            return Err(OpenFileError::Alignment { path: path.into(), bytes: alignment });
        }
        Ok(Self { file, path: path.into(), memory_alignment, offset_alignment })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length now.
    pub fn len(&self) -> io::Result<u64> {
        self.file.metadata().map(|metadata| metadata.len())
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|len| len == 0)
    }

    /// Alignment that direct I/O wants of memory and of offsets, at most 4,096.
    pub fn alignment(&self) -> (u32, u32) {
        (self.memory_alignment, self.offset_alignment)
    }

    /// Reserves space before the thread runs; see also [`Io::allocate`](crate::Io::allocate).
    pub fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        sys::allocate(self.file.as_fd(), offset, len)
    }

    /// Makes the file's data and length durable, for set-up; and the name, by its directory.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()?;
        match self.path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => sync_directory(Path::new(".")),
            Some(parent) => sync_directory(parent),
            None => Ok(()),
        }
    }

    /// Another descriptor of the same open file description: it shares the lock.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.file.as_fd().try_clone_to_owned()
    }
}

/// Makes the names in a directory durable.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn io_error(step: &'static str, path: &Path, source: io::Error) -> OpenFileError {
    OpenFileError::Io { step, path: path.into(), source }
}

fn lock(file: &File, path: &Path, wait: Duration) -> Result<(), OpenFileError> {
    let begin = clock::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if sys::try_lock(file.as_fd()).map_err(|source| io_error("locking", path, source))? {
            return Ok(());
        }
        let waited = Duration::from_nanos(clock::now().since(begin));
        if waited >= wait {
            return Err(OpenFileError::Locked { path: path.into(), waited });
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "a set-up step outside any runtime thread; flock has no time limit"
        )]
        std::thread::sleep(pause.min(wait.saturating_sub(waited)));
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// What a file system is and how much room it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// Its type's name, or its magic number in hexadecimal.
    pub name: String,
    /// Bytes in all.
    pub total_bytes: u64,
    /// Bytes that this process may still use.
    pub free_bytes: u64,
}

/// The file system that a file or directory is on.
pub fn file_system(path: &Path) -> io::Result<FileSystem> {
    let file = File::open(path)?;
    let status = sys::file_system(file.as_fd())?;
    let unit = u64::try_from(status.f_bsize).unwrap_or(0);
    Ok(FileSystem {
        name: name_of(status.f_type),
        total_bytes: status.f_blocks.saturating_mul(unit),
        free_bytes: status.f_bavail.saturating_mul(unit),
    })
}

fn file_system_of(path: &Path) -> String {
    let at = if path.exists() {
        Some(path)
    } else {
        path.parent().filter(|parent| !parent.as_os_str().is_empty())
    };
    file_system(at.unwrap_or(Path::new("."))).map_or_else(|_| "a file system".into(), |system| system.name)
}

/// Names of common file systems, by the magic numbers of `statfs(2)`.
fn name_of(magic: i64) -> String {
    match magic {
        0xEF53 => "ext4".into(),
        0x5846_5342 => "xfs".into(),
        0x9123_683E => "btrfs".into(),
        0xF2F5_2010 => "f2fs".into(),
        0x0102_1994 => "tmpfs".into(),
        0x8584_58F6 => "ramfs".into(),
        0x794C_7630 => "overlayfs".into(),
        0x2FC1_2FC1 => "zfs".into(),
        0x6969 => "nfs".into(),
        0x6573_5546 => "fuse".into(),
        0x0102_1997 => "9p".into(),
        _ => format!("file system {magic:#x}"),
    }
}

/// Whether files with direct I/O can be made in a directory; tried with a temporary one that has no name.
pub fn takes_direct_io(directory: &Path) -> io::Result<bool> {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_TMPFILE | libc::O_DIRECT)
        .open(directory);
    match opened {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_have_names() {
        for (magic, name) in
            [(0xEF53, "ext4"), (0x5846_5342, "xfs"), (0x0102_1994, "tmpfs"), (0x1234, "file system 0x1234")]
        {
            assert_eq!(name_of(magic), name);
        }
        assert_eq!(file_system_of(Path::new("/proc/nothing-there")), name_of(0x9FA0));
    }

    #[test]
    fn the_missing_feature_and_the_mend_are_said() {
        let error = OpenFileError::NoDirectIo { path: "/d/store".into(), file_system: "tmpfs".into() };
        assert_eq!(
            error.to_string(),
            "/d/store: is on tmpfs, which has no direct I/O (O_DIRECT): use ext4 or xfs"
        );
    }
}
