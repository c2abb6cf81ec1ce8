//! How files and directories are shown: fields of JSON objects, and lines for people. Pure.

use client::{Attributes, InodeKind, Xattr};

use crate::json::Object;
use crate::mode;
use crate::text::{size, time};

/// The word for a kind in JSON and `find --type`.
pub(crate) fn kind_word(kind: InodeKind) -> &'static str {
    match kind {
        InodeKind::File => "file",
        InodeKind::Directory => "directory",
        InodeKind::Symlink => "symlink",
    }
}

/// The letter for a kind in `ls -l`.
fn kind_letter(kind: InodeKind) -> char {
    match kind {
        InodeKind::File => '-',
        InodeKind::Directory => 'd',
        InodeKind::Symlink => 'l',
    }
}

/// The object that describes what is at `path`.
pub(crate) fn object(path: &[u8], attributes: &Attributes, target: &[u8]) -> Object {
    let object = Object::new().with_bytes("name", path).with("type", kind_word(attributes.kind));
    let object = match attributes.kind {
        InodeKind::Symlink => object.with_bytes("target", target),
        InodeKind::File | InodeKind::Directory => object,
    };
    let object = object
        .with("mode", format!("{:04o}", attributes.mode))
        .with("uid", attributes.uid)
        .with("gid", attributes.gid)
        .with("size", attributes.size)
        .with("stored_bytes", attributes.stored_bytes)
        .with("modified", time::utc(attributes.modified, true))
        .with("changed", time::utc(attributes.changed, true))
        .with("created", time::utc(attributes.created, true))
        .with("inode", attributes.inode.0);
    match attributes.kind {
        InodeKind::File => object.with("version", attributes.version.0),
        InodeKind::Directory | InodeKind::Symlink => object,
    }
}

/// Extended attributes as an array of objects.
pub(crate) fn xattr_values(xattrs: &[Xattr]) -> serde_json::Value {
    let values = xattrs.iter().map(|xattr| {
        let object = Object::bare().with_bytes("name", &xattr.name).with_bytes("value", &xattr.value);
        serde_json::to_value(object).expect("an object of plain values is a value")
    });
    serde_json::Value::Array(values.collect())
}

/// The line of `ls -l` without the name: mode, owner, group, size, time.
pub(crate) fn long(attributes: &Attributes, human: bool) -> String {
    let bytes = if human { size::human(attributes.size) } else { attributes.size.to_string() };
    format!(
        "{} {:>5} {:>5} {:>12} {} ",
        mode::letters(kind_letter(attributes.kind), attributes.mode),
        attributes.uid,
        attributes.gid,
        bytes,
        time::utc(attributes.modified, false),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::{InodeId, Timestamp, Version};

    fn attributes(kind: InodeKind) -> Attributes {
        Attributes {
            inode: InodeId(7),
            kind,
            mode: 0o644,
            uid: 1000,
            gid: 100,
            size: 1536,
            stored_bytes: 1024,
            modified: Timestamp(0),
            changed: Timestamp(1),
            created: Timestamp(2),
            version: Version(9),
            layout: wire::Layout(0),
            xattr_count: 0,
        }
    }

    #[test]
    fn objects_have_every_attribute() {
        assert_eq!(
            object(b"/v/f", &attributes(InodeKind::File), b"").line(),
            r#"{"v":1,"name":"/v/f","type":"file","mode":"0644","uid":1000,"gid":100,"size":1536,"stored_bytes":1024,"modified":"1970-01-01T00:00:00.000000000Z","changed":"1970-01-01T00:00:00.000000001Z","created":"1970-01-01T00:00:00.000000002Z","inode":7,"version":9}"#
        );
        let link = object(b"\xff", &attributes(InodeKind::Symlink), b"t").line();
        assert!(link.starts_with(r#"{"v":1,"name_b64":"/w==","type":"symlink","target":"t""#), "{link}");
    }

    #[test]
    fn lines_are_as_in_ls() {
        assert_eq!(
            long(&attributes(InodeKind::File), false),
            "-rw-r--r--  1000   100         1536 1970-01-01T00:00:00Z "
        );
        assert!(long(&attributes(InodeKind::Directory), true).contains("     1.5 KiB "));
    }
}
