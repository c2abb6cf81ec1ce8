//! Checks of single values: what names, paths, modes and sizes may be. Used on whatever arrives.

use super::DecodeError;
use crate::limits::{
    CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, FILE_BYTES_MAX, LIST_ENTRIES_MAX, MESSAGE_ROOTS_MAX, NAME_BYTES_MAX,
    PATH_BYTES_MAX, SYMLINK_BYTES_MAX, VOLUME_NAME_BYTES_MAX, XATTR_BYTES_MAX, XATTR_NAME_BYTES_MAX,
};
use crate::meta::{NewAttributes, VolumePolicy, Xattr};

/// Permission bits, set-id and sticky bits included.
const MODE_MAX: u32 = 0o7777;

/// At most `max` bytes.
pub(super) fn length(field: &'static str, length: usize, max: usize) -> Result<(), DecodeError> {
    if length <= max { Ok(()) } else { Err(DecodeError::TooLarge(field)) }
}

/// Holds, or the field has no valid value.
pub(super) fn that(holds: bool, field: &'static str) -> Result<(), DecodeError> {
    if holds { Ok(()) } else { Err(DecodeError::Invalid(field)) }
}

/// A path: components of at most 255 bytes, no NUL. What `.` and `..` do is the group's business.
pub(super) fn path(path: &[u8]) -> Result<(), DecodeError> {
    length("path", path.len(), PATH_BYTES_MAX)?;
    that(!path.contains(&0), "path")?;
    path.split(|byte| *byte == b'/').try_for_each(|name| length("name", name.len(), NAME_BYTES_MAX))
}

/// A directory entry's name: a client may make a file of it.
pub(super) fn entry_name(name: &[u8]) -> Result<(), DecodeError> {
    length("name", name.len(), NAME_BYTES_MAX)?;
    that(!name.is_empty() && name != b"." && name != b"..", "name")?;
    that(!name.contains(&0) && !name.contains(&b'/'), "name")
}

/// A symbolic link's target.
pub(super) fn target(target: &[u8]) -> Result<(), DecodeError> {
    length("link target", target.len(), SYMLINK_BYTES_MAX)?;
    that(!target.contains(&0), "link target")
}

/// `[a-z0-9][a-z0-9-]{0,62}`.
pub(super) fn volume_name(name: &[u8]) -> Result<(), DecodeError> {
    length("volume name", name.len(), VOLUME_NAME_BYTES_MAX)?;
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    that(name.first().is_some_and(plain), "volume name")?;
    that(name.iter().all(|byte| plain(byte) || *byte == b'-'), "volume name")
}

/// A volume's policy.
pub(super) fn volume_policy(policy: &VolumePolicy) -> Result<(), DecodeError> {
    let bytes = policy.chunk_bytes;
    that(bytes.is_power_of_two() && (CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&bytes), "chunk size")
}

/// An extended attribute's name.
pub(super) fn xattr_name(name: &[u8]) -> Result<(), DecodeError> {
    length("attribute name", name.len(), XATTR_NAME_BYTES_MAX)?;
    that(!name.is_empty() && !name.contains(&0), "attribute name")
}

/// All extended attributes of something: each name once.
pub(super) fn xattrs(xattrs: &[Xattr]) -> Result<(), DecodeError> {
    xattr_bytes(xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len()).sum())?;
    xattrs.iter().try_for_each(|xattr| xattr_name(&xattr.name))?;
    let mut names: Vec<&[u8]> = xattrs.iter().map(|xattr| xattr.name.as_slice()).collect();
    names.sort_unstable();
    that(names.windows(2).all(|pair| pair[0] != pair[1]), "extended attributes")
}

/// Attributes of something new.
pub(super) fn new_attributes(attributes: &NewAttributes) -> Result<(), DecodeError> {
    mode(attributes.mode)?;
    xattrs(&attributes.xattrs)
}

/// Names and values of an inode's extended attributes together.
pub(super) fn xattr_bytes(bytes: usize) -> Result<(), DecodeError> {
    length("extended attributes", bytes, XATTR_BYTES_MAX)
}

/// Permission bits.
pub(super) fn mode(mode: u32) -> Result<u32, DecodeError> {
    that(mode <= MODE_MAX, "mode").map(|()| mode)
}

/// A file's size, or an offset in it.
pub(super) fn file_bytes(field: &'static str, bytes: u64) -> Result<u64, DecodeError> {
    if bytes <= FILE_BYTES_MAX { Ok(bytes) } else { Err(DecodeError::TooLarge(field)) }
}

/// Entries that a page may have.
pub(super) fn list_limit(limit: u32) -> Result<(), DecodeError> {
    that((1..=LIST_ENTRIES_MAX).contains(&limit), "limit")
}

/// Roots that a page may have.
pub(super) fn roots_limit(roots: u32) -> Result<(), DecodeError> {
    length("roots", roots as usize, MESSAGE_ROOTS_MAX)
}
