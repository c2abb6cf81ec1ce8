//! Large files pass the page cache by: what one transfer reads or writes once would push out what other programs use, and memory that the
//! kernel has to find first costs more than the disk does (a guest whose host gives it page by page: three times the time of a write).
//!
//! The kernel does it (`RWF_DONTCACHE`, Linux 6.14): what is cached already is used and stays. Where it can't, the cache is filled as ever.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::FileExt as _;

use rustix::io::{Errno, ReadWriteFlags, preadv2, pwritev2};

/// Smaller files are read by way of the cache: most are there, and reading ahead pays.
const READ_BYTES_MIN: u64 = 1 << 20;
/// Smaller files are written into the cache: whoever fetches one mostly wants to use it, and the disk need not be waited for.
const WRITE_BYTES_MIN: u64 = 16 << 20;
/// `RWF_DONTCACHE`, which has no name in the library yet.
const DONT_CACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// A file that is read or written once, from its beginning to its end.
#[derive(Debug)]
pub(crate) struct Passing<'a> {
    file: &'a File,
    passes: bool,
}

impl<'a> Passing<'a> {
    /// One of `size` bytes that is read.
    pub(crate) fn reader(file: &'a File, size: u64) -> Self {
        Self { file, passes: size >= READ_BYTES_MIN }
    }

    /// One that will have `size` bytes.
    pub(crate) fn writer(file: &'a File, size: u64) -> Self {
        Self { file, passes: size >= WRITE_BYTES_MIN }
    }

    /// Fills `buffer` from `offset` on as far as the file goes.
    pub(crate) fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let rest = &mut buffer[filled..];
            let at = offset + filled as u64;
            let read = if self.passes {
                preadv2(self.file, &mut [IoSliceMut::new(rest)], at, DONT_CACHE).map_err(io::Error::from)
            } else {
                self.file.read_at(rest, at)
            };
            match read {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) => self.go_on(error)?,
            }
        }
        Ok(filled)
    }

    /// Writes all of `bytes` at `offset`.
    pub(crate) fn write_at(&mut self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = if self.passes {
                pwritev2(self.file, &[IoSlice::new(bytes)], offset, DONT_CACHE).map_err(io::Error::from)
            } else {
                self.file.write_at(bytes, offset)
            };
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    bytes = &bytes[count..];
                    offset += count as u64;
                }
                Err(error) => self.go_on(error)?,
            }
        }
        Ok(())
    }

    /// Whether to try again: interrupted, or the kernel or file system knows nothing of it.
    fn go_on(&mut self, error: io::Error) -> io::Result<()> {
        if error.kind() == io::ErrorKind::Interrupted {
            return Ok(());
        }
        let is_unknown =
            matches!(Errno::from_io_error(&error), Some(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL));
        if is_unknown && std::mem::take(&mut self.passes) { Ok(()) } else { Err(error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_the_same_whichever_way_they_go() {
        // A disk's file system, and memory's: the latter knows no such flag.
        let elsewhere = tempfile::tempfile_in("/dev/shm").ok();
        for file in std::iter::once(tempfile::tempfile().expect("a file")).chain(elsewhere) {
            for size in [WRITE_BYTES_MIN, 1] {
                let bytes: Vec<u8> = (0..300_001_u32).map(|i| (i % 251) as u8).collect();
                let mut writer = Passing::writer(&file, size);
                writer.write_at(&bytes, 5).expect("written");
                writer.write_at(&bytes[..10], 0).expect("written");
                let mut found = vec![0; 400_000];
                let mut reader = Passing::reader(&file, size);
                assert_eq!(reader.read_at(&mut found, 10).expect("read"), bytes.len() - 5);
                assert!(found[..bytes.len() - 5] == bytes[5..]);
                assert_eq!(reader.read_at(&mut found[..10], 0).expect("read"), 10);
                assert_eq!(found[..10], bytes[..10]);
            }
        }
    }

    #[test]
    fn a_real_error_is_told() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("f");
        std::fs::write(&path, b"x").expect("written");
        let file = File::open(&path).expect("open");
        let mut writer = Passing::writer(&file, WRITE_BYTES_MIN);
        writer.write_at(b"y", 0).expect_err("it is open for reading only");
        assert!(writer.passes, "and the way it went isn't to blame");
    }
}
