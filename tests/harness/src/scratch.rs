//! Directories for data under test, on a disk that takes direct I/O, and small disks on loop devices.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{OFlags, statfs};

use crate::binary;
use crate::command::Run;
use crate::deadline;

/// `statfs` type of tmpfs, where direct I/O isn't what it is on a disk.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// How long a disk may stay in use after its last user has ended.
const UNMOUNT_WITHIN: Duration = Duration::from_secs(20);

/// A directory that goes with its test.
#[derive(Debug)]
pub struct Scratch {
    directory: tempfile::TempDir,
}

impl Scratch {
    /// A new directory in the first of `$CATENA_TEST_DIR`, the target directory, `/var/tmp` and `$TMPDIR` that is on a disk and
    /// takes direct I/O.
    ///
    /// # Panics
    /// If none does: nothing durable can be tested there.
    #[must_use]
    pub fn new() -> Self {
        let chosen = std::env::var_os("CATENA_TEST_DIR").map(PathBuf::from);
        let target = binary::target_directory().0.join("tmp");
        let candidates = [chosen, Some(target), Some("/var/tmp".into()), Some(std::env::temp_dir())];
        for base in candidates.iter().flatten() {
            if std::fs::create_dir_all(base).is_ok() && takes_direct_io(base) {
                let directory = tempfile::Builder::new().prefix("catena-").tempdir_in(base);
                return Self { directory: directory.expect("a writable directory") };
            }
        }
        panic!("no directory takes direct I/O: set CATENA_TEST_DIR to one on a disk");
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A path in it.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

fn takes_direct_io(base: &Path) -> bool {
    let on_disk = statfs(base).is_ok_and(|status| status.f_type != TMPFS_MAGIC);
    let Ok(probe) = tempfile::NamedTempFile::new_in(base) else { return false };
    on_disk && direct(probe.path()).is_ok()
}

/// Opens a file for reading past the page cache.
///
/// # Errors
/// `EINVAL` where the file system doesn't offer it.
pub fn direct(path: &Path) -> std::io::Result<File> {
    let flag = i32::try_from(OFlags::DIRECT.bits()).expect("a flag below 2³¹");
    OpenOptions::new().read(true).write(true).custom_flags(flag).open(path)
}

/// A small ext4 on a loop device, mounted. It is unmounted and detached when dropped.
#[derive(Debug)]
pub struct LoopDisk {
    device: String,
    mounted: bool,
    // Last, so that the backing file goes when nothing uses it any more.
    scratch: Scratch,
}

impl LoopDisk {
    /// A file system on a disk of `bytes`.
    ///
    /// # Errors
    /// What this machine lacks (root, loop devices, mkfs), in words for [`crate::skip()`].
    pub fn ext4(bytes: u64) -> Result<Self, String> {
        let scratch = Scratch::new();
        let backing = scratch.join("disk");
        File::create(&backing).and_then(|file| file.set_len(bytes)).map_err(|error| format!("{error}"))?;
        let device = attempt(&["losetup", "--find", "--show", "--direct-io=on"], &backing)?;
        // From here on dropping the value undoes what was done.
        let mut disk = Self { device: device.trim().to_owned(), mounted: false, scratch };
        let path = disk.path();
        std::fs::create_dir(&path).map_err(|error| format!("{error}"))?;
        // No blocks reserved for root, whom the tests run as: full is full.
        attempt(&["mkfs.ext4", "-q", "-m", "0"], Path::new(&disk.device))?;
        attempt(&["mount", &disk.device], &path)?;
        disk.mounted = true;
        Ok(disk)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.scratch.join("mounted")
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        // A uring lets go of its files a moment after its process has ended, and until then the disk is in use.
        let free = || attempt(&["umount"], &self.path()).ok();
        let is_free = !self.mounted || deadline::poll(UNMOUNT_WITHIN, free).is_some();
        let unmount =
            if is_free { Ok(String::new()) } else { Err("still in use: it stays mounted".to_owned()) };
        // What can't be undone is said: a mount that stays would puzzle the next run.
        let detach = attempt(&["losetup", "--detach"], Path::new(&self.device));
        for reason in [unmount, detach].into_iter().filter_map(Result::err) {
            eprintln!("{}: {reason}", self.device);
        }
    }
}

/// Runs an administrator's command on `last`; its output, or what it said.
fn attempt(command: &[&str], last: &Path) -> Result<String, String> {
    let found =
        ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].iter().map(|folder| Path::new(folder).join(command[0]));
    let Some(program) = found.into_iter().find(|path| path.exists()) else {
        return Err(format!("{} isn't installed", command[0]));
    };
    let outcome = Run::new(program).args(&command[1..]).args([last]).run();
    if outcome.code() == 0 {
        Ok(outcome.text())
    } else {
        Err(format!("{}: {}", command[0], outcome.messages().trim()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_directory_takes_direct_io_and_goes() {
        let scratch = Scratch::new();
        std::fs::write(scratch.join("file"), [0; 4096]).expect("writable");
        assert!(direct(&scratch.join("file")).is_ok());
        let path = scratch.path().to_owned();
        drop(scratch);
        assert!(!path.exists());
    }

    #[test]
    fn a_small_disk_fills_up_and_goes() {
        let disk = match LoopDisk::ext4(16 << 20) {
            Ok(disk) => disk,
            Err(reason) => return crate::skip("loop-device", &reason),
        };
        let (path, backing) = (disk.path(), disk.scratch.join("disk"));
        let attached = || attempt(&["losetup", "--associated"], &backing).expect("a list");
        assert!(attached().contains("/dev/loop"));
        let error = std::fs::write(path.join("large"), vec![1; 32 << 20]).expect_err("more than fits");
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        drop(disk);
        assert!(!path.exists(), "unmounted, and its mount point gone");
        assert_eq!(attached(), "", "detached");
    }
}
