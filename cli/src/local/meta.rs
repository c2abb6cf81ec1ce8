//! Attributes of local files, as they are sent and as they are set.

use std::fs::{File, FileTimes, Metadata, Permissions};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use client::{Attributes, NewAttributes, Timestamp, Xattr};
use rustix::process::{getegid, geteuid};
use xattr::FileExt as _;

use crate::clock;
use crate::failure::{Exit, Failure, Result};
use crate::text::{self, quote};

/// Permission bits that mean something everywhere.
const MODE_BITS: u32 = 0o7777;
/// Bits that lend the owner's rights: kept only where the owner is kept, too.
const SET_ID_BITS: u32 = 0o6000;

/// Attributes of something new that belongs to whoever runs this.
pub(crate) fn owner_attributes() -> NewAttributes {
    NewAttributes { uid: geteuid().as_raw(), gid: getegid().as_raw(), ..NewAttributes::default() }
}

/// A local file's attributes as they are sent.
pub(crate) fn sent(metadata: &Metadata, xattrs: Vec<Xattr>) -> NewAttributes {
    NewAttributes {
        mode: metadata.mode() & MODE_BITS,
        uid: metadata.uid(),
        gid: metadata.gid(),
        modified: Some(modified(metadata)),
        xattrs,
    }
}

/// When a local file's bytes were changed last.
pub(crate) fn modified(metadata: &Metadata) -> Timestamp {
    let nanoseconds =
        metadata.mtime().checked_mul(1_000_000_000).and_then(|time| time.checked_add(metadata.mtime_nsec()));
    Timestamp(nanoseconds.unwrap_or(if metadata.mtime() < 0 { i64::MIN } else { i64::MAX }))
}

/// Whether an extended attribute belongs to the file and not to this machine: labels of security modules are its own.
fn is_portable(name: &[u8]) -> bool {
    name.starts_with(b"user.")
        || name.starts_with(b"trusted.")
        || name == b"security.capability"
        || name.starts_with(b"system.posix_acl_")
}

/// The extended attributes of an open file or directory, in order of their names; none where the file system has none.
pub(crate) fn xattrs(file: &File) -> io::Result<Vec<Xattr>> {
    let names = match file.list_xattr() {
        Ok(names) => names,
        Err(error) if is_unsupported(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut xattrs = Vec::new();
    for name in names.filter(|name| is_portable(name.as_bytes())) {
        // One that was removed in between has no value.
        if let Some(value) = file.get_xattr(&name)? {
            xattrs.push(Xattr { name: name.into_vec(), value });
        }
    }
    xattrs.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(xattrs)
}

/// Beginnings of the names of extended attributes that Linux knows; no other name can be set here.
pub(crate) const NAMESPACES: [&str; 4] = ["user.", "trusted.", "security.", "system."];

/// Whether Linux could know an extended attribute of this name: one in a namespace, with something behind it.
pub(crate) fn is_in_namespace(name: &[u8]) -> bool {
    NAMESPACES.iter().any(|space| name.len() > space.len() && name.starts_with(space.as_bytes()))
}

/// Gives an open file or directory extended attributes, mode and time. What can't be
/// set keeps the rest from nothing: the first failure is returned when everything else is done. `path` is its name in what is said.
pub(crate) fn apply(file: &File, attributes: &Attributes, xattrs: &[Xattr], path: &Path) -> Result<()> {
    let set = set_xattrs(file, xattrs).map_err(|(xattr, error)| refused_xattr(xattr, &error, path));
    let rest = set_mode_and_time(file, attributes).map_err(|error| Failure::path(path, &error));
    set.and(rest)
}

/// Sets all that can be set; the first that should have been and couldn't, and why.
fn set_xattrs<'a>(file: &File, xattrs: &'a [Xattr]) -> std::result::Result<(), (&'a Xattr, io::Error)> {
    let mut first = Ok(());
    for xattr in xattrs {
        let name = std::ffi::OsStr::from_bytes(&xattr.name);
        if file.get_xattr(name).ok().flatten().as_deref() == Some(&xattr.value) {
            continue;
        }
        match file.set_xattr(name, &xattr.value) {
            Err(error) if first.is_ok() => first = Err((xattr, error)),
            _ => {}
        }
    }
    first
}

/// What is said of an attribute that the file at `path` didn't get.
fn refused_xattr(xattr: &Xattr, error: &io::Error, path: &Path) -> Failure {
    let name = quote(&xattr.name);
    let without = format!("is there without the extended attribute {name}");
    let reason = if !is_in_namespace(&xattr.name) {
        format!("{without}, whose name is in no namespace of Linux ({})", NAMESPACES.join(", "))
    } else if is_forbidden(error) {
        format!("{without}, which you may not set here")
    } else if is_unsupported(error) && xattr.name.starts_with(b"user.") {
        "its file system has no extended attributes, and what is fetched has some".to_owned()
    } else if is_too_large(error) {
        let bytes = text::count(xattr.value.len() as u64, "byte");
        format!("{without} ({bytes}), which its file system can't hold")
    } else if is_unsupported(error) {
        format!("{without}, which its file system doesn't know")
    } else {
        return Failure::path(path, error);
    };
    let next = if is_forbidden(error) {
        "run it as root, or leave them behind: --no-xattrs"
    } else if !is_in_namespace(&xattr.name) {
        "leave them behind: --no-xattrs"
    } else {
        "name a place on another file system, or leave them behind: --no-xattrs"
    };
    Failure::new(Exit::Failed, quote(path.as_os_str().as_bytes()), reason).next(next)
}

fn set_mode_and_time(file: &File, attributes: &Attributes) -> io::Result<()> {
    let metadata = file.metadata()?;
    let owner_is_kept = metadata.uid() == attributes.uid && metadata.gid() == attributes.gid;
    // Somebody else's set-id file would lend *our* rights.
    let mode = attributes.mode & if owner_is_kept { MODE_BITS } else { MODE_BITS & !SET_ID_BITS };
    if metadata.mode() & MODE_BITS != mode {
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    if modified(&metadata) != attributes.modified {
        file.set_times(FileTimes::new().set_modified(clock::system_time(attributes.modified)))?;
    }
    Ok(())
}

/// Gives a symbolic link its time.
pub(crate) fn apply_to_link(path: &Path, time: Timestamp) -> io::Result<()> {
    let point = rustix::fs::Timespec {
        tv_sec: time.0.div_euclid(1_000_000_000),
        tv_nsec: time.0.rem_euclid(1_000_000_000),
    };
    let times = rustix::fs::Timestamps { last_access: point, last_modification: point };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
        .map_err(Into::into)
}

/// What a file system without extended attributes answers.
fn is_unsupported(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported
        || [rustix::io::Errno::NOTSUP, rustix::io::Errno::NOSYS]
            .iter()
            .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// What is answered where only a privileged user may set an attribute.
fn is_forbidden(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// What a file system answers that has attributes, and no room for this one: ext4 keeps all of a file's in one block, and says that there is
/// no space where they don't fit into it, however much of the disk is free.
fn is_too_large(error: &io::Error) -> bool {
    [rustix::io::Errno::NOSPC, rustix::io::Errno::TOOBIG, rustix::io::Errno::RANGE]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::{InodeId, InodeKind, Version};

    /// Of a file with the same owner.
    fn attributes_of(metadata: &Metadata) -> Attributes {
        Attributes {
            inode: InodeId(2),
            kind: InodeKind::File,
            mode: 0o4751,
            uid: metadata.uid(),
            gid: metadata.gid(),
            size: 0,
            stored_bytes: 0,
            modified: Timestamp(1_234_567_890_123_456_789),
            changed: Timestamp(0),
            created: Timestamp(0),
            version: Version(1),
            layout: wire::Layout(0),
            xattr_count: 0,
        }
    }

    /// A file with attributes failed as "operation not supported", with no way out.
    #[test]
    fn a_file_system_without_attributes_is_named() {
        let file = File::open("/proc/self/maps").expect("every Linux has it");
        let xattrs = [Xattr { name: b"user.a".to_vec(), value: b"b".to_vec() }];
        let (_, refused) = set_xattrs(&file, &xattrs).expect_err("no attributes there");
        assert!(is_unsupported(&refused), "{refused}");
        let metadata = file.metadata().expect("metadata");
        let failure = apply(&file, &attributes_of(&metadata), &xattrs, Path::new("f"))
            .expect_err("no attributes there");
        assert!(failure.next.is_some_and(|next| next.contains("--no-xattrs")));
    }

    /// ext4 refused a large attribute as "no space left on device", and that was all that was said: not what, nor that the disk isn't full.
    #[test]
    fn an_attribute_that_does_not_fit_is_named() {
        let xattr = Xattr { name: b"user.large".to_vec(), value: vec![1; 5000] };
        for errno in [28, 7, 34] {
            let failure = refused_xattr(&xattr, &io::Error::from_raw_os_error(errno), Path::new("f"));
            assert_eq!(failure.exit, Exit::Failed);
            assert!(
                failure.reason.contains("without the extended attribute user.large (5,000 bytes)"),
                "{failure}"
            );
            assert!(failure.next.is_some_and(|next| next.contains("--no-xattrs")));
        }
        let other = refused_xattr(&xattr, &io::Error::from_raw_os_error(5), Path::new("f"));
        assert_eq!(other.reason, "input/output error");
        // Those of no user were left out, without a word.
        for (name, errno, said) in [
            (&b"noprefix"[..], 95, "without the extended attribute noprefix, whose name is in no namespace"),
            (b"user.", 22, "without the extended attribute user., whose name is in no namespace"),
            (b"trusted.a", 1, "without the extended attribute trusted.a, which you may not set here"),
            (b"system.a", 95, "without the extended attribute system.a, which its file system doesn't know"),
        ] {
            let xattr = Xattr { name: name.to_vec(), value: Vec::new() };
            let failure = refused_xattr(&xattr, &io::Error::from_raw_os_error(errno), Path::new("f"));
            assert!(failure.reason.contains(said), "{failure}");
            assert!(failure.next.is_some_and(|next| next.contains("--no-xattrs")));
        }
    }

    /// Attributes that nobody can set here were left out, and the command said that all was well.
    #[test]
    fn an_attribute_without_a_namespace_is_named() {
        let file = tempfile::tempfile().expect("a file");
        let attributes = attributes_of(&file.metadata().expect("metadata"));
        let xattrs = [Xattr { name: b"noprefix".to_vec(), value: b"b".to_vec() }];
        let failure = apply(&file, &attributes, &xattrs, Path::new("f")).expect_err("no such namespace");
        assert!(failure.reason.contains("noprefix"), "{failure}");
    }

    /// One attribute that can't be set left the others, mode and time unset.
    #[test]
    fn what_cannot_be_set_leaves_the_rest_alone() {
        let file = tempfile::tempfile().expect("a file");
        let attributes = attributes_of(&file.metadata().expect("metadata"));
        // No file system takes a name as long as this one.
        let endless = [b"user.".to_vec(), vec![b'a'; 300]].concat();
        let xattrs = [
            Xattr { name: endless, value: b"b".to_vec() },
            Xattr { name: b"user.author".to_vec(), value: b"Ada".to_vec() },
        ];
        apply(&file, &attributes, &xattrs, Path::new("f")).expect_err("a name that is too long");
        let back = sent(&file.metadata().expect("metadata"), self::xattrs(&file).expect("listed"));
        assert_eq!((back.mode, back.modified), (0o4751, Some(attributes.modified)));
        let is_supported = file.set_xattr("user.probe", b"").is_ok();
        assert_eq!(back.xattrs.len(), usize::from(is_supported));
    }

    #[test]
    fn attributes_go_both_ways() {
        let file = tempfile::tempfile().expect("a file");
        let metadata = file.metadata().expect("metadata");
        let attributes = attributes_of(&metadata);
        apply(&file, &attributes, &[], Path::new("f")).expect("applied");
        let back = sent(&file.metadata().expect("metadata"), Vec::new());
        assert_eq!((back.mode, back.modified), (0o4751, Some(attributes.modified)));

        let foreign = Attributes { uid: metadata.uid() + 1, mode: 0o6755, ..attributes };
        apply(&file, &foreign, &[], Path::new("f")).expect("applied");
        assert_eq!(file.metadata().expect("metadata").mode() & MODE_BITS, 0o755);
    }

    #[test]
    fn labels_of_this_machine_stay_here() {
        assert!(is_portable(b"user.author"));
        assert!(!is_portable(b"security.selinux"));
    }
}
