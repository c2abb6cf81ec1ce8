//! Whether a local file has the bytes that are stored: by the stored checksums, without reading a remote byte.

use std::fs::File;

use client::{Entry, Volume};
use wire::limits::CHUNK_BYTES_MAX;

use crate::failure::{Failure, Result};
use crate::local::passing::Passing;
use crate::local::sparse;
use crate::remote::RemotePath;
use crate::remote_failure::failure;

/// Whether `file`, which is as long as the stored version that `entry` describes, has its very bytes.
///
/// A chunk that the file shows only in part (after an overwrite) can't be compared by its checksum: the answer is no, and the bytes
/// are moved. Local errors and remote ones are failures about `local` and `remote`, as shown to a person.
pub(crate) fn same_bytes(
    volume: &Volume,
    entry: &Entry,
    file: &File,
    local: &str,
    remote: &RemotePath,
) -> Result<bool> {
    let size = entry.attributes.size;
    let mut buffer = vec![0; usize::try_from(u64::from(CHUNK_BYTES_MAX).min(size)).expect("at most 4 MiB")];
    let mut reader = Passing::reader(file, size);
    let mut position = 0;
    for chunk in volume.stored_chunks(entry) {
        let chunk = chunk.map_err(|error| failure(remote, &error))?;
        let fits = chunk.is_whole() && chunk.offset >= position && chunk.length <= buffer.len() as u64;
        if !fits {
            return Ok(false);
        }
        let zeros = position < chunk.offset;
        if zeros
            && !sparse::is_zero(file, position..chunk.offset, &mut buffer)
                .map_err(|error| Failure::io(local, &error))?
        {
            return Ok(false);
        }
        let bytes = &mut buffer[..usize::try_from(chunk.length).expect("no longer than the buffer")];
        let count = reader.read_at(bytes, chunk.offset).map_err(|error| Failure::io(local, &error))?;
        if count < bytes.len() || !chunk.matches(bytes) {
            return Ok(false);
        }
        position = chunk.offset + chunk.length;
    }
    Ok(position >= size
        || sparse::is_zero(file, position..size, &mut buffer).map_err(|error| Failure::io(local, &error))?)
}
