//! What of a file is data and what is hole.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use rustix::fs::{SeekFrom, seek};

/// Where data lies in a file of a known size.
#[derive(Debug)]
pub(crate) struct DataRanges<'a> {
    file: &'a File,
    size: u64,
    position: u64,
    /// Whether the file can have holes, and its file system says where.
    is_sparse: bool,
}

impl<'a> DataRanges<'a> {
    /// The ranges of `file`, as far as `size`.
    pub(crate) fn new(file: &'a File, size: u64) -> io::Result<Self> {
        // A file whose blocks hold all its bytes has no hole worth a system call.
        let is_sparse = file.metadata()?.blocks().saturating_mul(512) < size;
        Ok(Self { file, size, position: 0, is_sparse })
    }
}

impl Iterator for DataRanges<'_> {
    type Item = io::Result<Range<u64>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.position >= self.size {
            return None;
        }
        if !self.is_sparse {
            let range = self.position..self.size;
            self.position = self.size;
            return Some(Ok(range));
        }
        let start = match seek(self.file, SeekFrom::Data(self.position)) {
            Ok(start) => start.min(self.size),
            // No data behind the position.
            Err(rustix::io::Errno::NXIO) => self.size,
            // A file system that knows no holes: everything is data.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOTSUP) => {
                self.is_sparse = false;
                return self.next();
            }
            Err(error) => {
                self.position = self.size;
                return Some(Err(error.into()));
            }
        };
        if start >= self.size {
            self.position = self.size;
            return None;
        }
        let end = match seek(self.file, SeekFrom::Hole(start)) {
            Ok(end) => end.min(self.size),
            Err(rustix::io::Errno::NXIO) => start,
            Err(error) => {
                self.position = self.size;
                return Some(Err(error.into()));
            }
        };
        if end <= start {
            // The file was cut meanwhile; whoever reads it will notice.
            self.position = self.size;
            return None;
        }
        self.position = end;
        Some(Ok(start..end))
    }
}

/// Whether all bytes of `range` are zero; holes are not read.
pub(crate) fn is_zero(file: &File, range: Range<u64>, buffer: &mut [u8]) -> io::Result<bool> {
    let ranges = DataRanges { file, size: range.end, position: range.start, is_sparse: true };
    for data in ranges {
        let data = data?;
        let mut position = data.start;
        while position < data.end {
            let wanted = usize::try_from(data.end - position).unwrap_or(usize::MAX).min(buffer.len());
            let count = read_at(file, &mut buffer[..wanted], position)?;
            if count == 0 {
                return Ok(false);
            }
            if buffer[..count].iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            position += count as u64;
        }
    }
    Ok(true)
}

/// Fills `buffer` from `offset` on as far as the file goes.
pub(crate) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(parts: &[(u64, &[u8])], size: u64) -> File {
        let file = tempfile::tempfile().expect("a file");
        for (offset, bytes) in parts {
            file.write_all_at(bytes, *offset).expect("written");
        }
        file.set_len(size).expect("sized");
        file
    }

    fn ranges(file: &File, size: u64) -> Vec<Range<u64>> {
        DataRanges::new(file, size).and_then(Iterator::collect).expect("readable")
    }

    /// Whatever the file system's granularity, everything outside the ranges is zero and nothing written is outside.
    fn check(parts: &[(u64, &[u8])], size: u64) {
        let file = sample(parts, size);
        let found = ranges(&file, size);
        assert!(found.is_sorted_by_key(|range| range.start));
        for (offset, bytes) in parts {
            let end = offset + bytes.len() as u64;
            assert!(
                found.iter().any(|range| range.start <= *offset && end <= range.end),
                "{offset} in {found:?}"
            );
        }
        assert!(found.iter().all(|range| range.start < range.end && range.end <= size));
    }

    #[test]
    fn data_is_found_between_holes() {
        check(&[], 0);
        check(&[], 1 << 20);
        check(&[(0, b"x")], 1);
        check(&[(0, b"x")], 1 << 20);
        check(&[(1 << 20, b"x")], (1 << 20) + 1);
        check(&[(1 << 16, &[7; 4096]), (1 << 20, &[7; 9000])], 3 << 20);
    }

    #[test]
    fn zeros_are_zeros_written_or_not() {
        let file = sample(&[(1 << 16, &[0; 8192]), (1 << 20, b"x")], 2 << 20);
        let mut buffer = vec![1; 4096];
        assert!(is_zero(&file, 0..1 << 20, &mut buffer).expect("readable"));
        assert!(!is_zero(&file, 0..2 << 20, &mut buffer).expect("readable"));
        assert!(is_zero(&file, (1 << 20) + 1..2 << 20, &mut buffer).expect("readable"));
    }
}
