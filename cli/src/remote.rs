//! Remote names: `/VOLUME/path/in/it`. Pure; checks what the server would refuse, so that the answer names the argument.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;

use wire::limits::{NAME_BYTES_MAX, PATH_BYTES_MAX, VOLUME_NAME_BYTES_MAX};

use crate::failure::{Failure, Result};
use crate::text::{quote, shell};

/// A place on the server: a volume and a path in it, without empty components.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RemotePath {
    /// The volume's name.
    pub(crate) volume: String,
    /// The path in it, components separated by single slashes; empty: the volume's root.
    pub(crate) path: Vec<u8>,
    /// Whether the argument ended in `/`: the caller means a directory.
    pub(crate) trailing_slash: bool,
}

impl RemotePath {
    /// Reads an argument.
    pub(crate) fn parse(argument: &OsStr) -> Result<Self> {
        let bytes = argument.as_bytes();
        let refuse = |reason: String| Failure::usage(quote(bytes), reason);
        let Some(rest) = bytes.strip_prefix(b"/") else {
            return Err(refuse("isn't a remote name: those begin with a /".to_owned())
                .next(format!("name the volume: /VOLUME/{}", quote(bytes))));
        };
        let mut components = rest.split(|&byte| byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
        let Some(volume) = components.next() else {
            return Err(refuse("no volume is named".to_owned())
                .next("write /VOLUME/path; `catena volume list` shows the volumes"));
        };
        let volume = volume_name(volume).map_err(refuse)?;
        let mut path = Vec::new();
        for component in components {
            check_name(component).map_err(refuse)?;
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(component);
        }
        if path.len() > PATH_BYTES_MAX {
            return Err(refuse(format!(
                "the path is {} bytes long, {PATH_BYTES_MAX} are allowed",
                path.len()
            ))
            .next(format!(
                "where something has such a path, move a directory on the way to a shorter place: catena mv DIRECTORY /{volume}/NAME"
            )));
        }
        Ok(Self { volume, path, trailing_slash: bytes.ends_with(b"/") || bytes.ends_with(b"/.") })
    }

    /// Reads all arguments; the first that can't be read is the failure, before anything is done.
    pub(crate) fn parse_all(arguments: &[OsString]) -> Result<Vec<Self>> {
        arguments.iter().map(|argument| Self::parse(argument)).collect()
    }

    /// Whether this is the volume itself.
    pub(crate) fn is_root(&self) -> bool {
        self.path.is_empty()
    }

    /// The last component; `None` for a volume's root.
    pub(crate) fn name(&self) -> Option<&[u8]> {
        self.path.rsplit(|&byte| byte == b'/').next().filter(|name| !name.is_empty())
    }

    /// The directory that this is in; `None` for a volume's root.
    pub(crate) fn parent(&self) -> Option<Self> {
        let name = self.name()?;
        let end = self.path.len().saturating_sub(name.len() + 1);
        Some(Self { volume: self.volume.clone(), path: self.path[..end].to_vec(), trailing_slash: false })
    }

    /// Whether the server takes this path in one piece; moves of directories can make longer ones.
    pub(crate) fn is_too_long(&self) -> bool {
        self.path.len() > PATH_BYTES_MAX
    }

    /// The innermost directory on the way whose path is no longer than a path may be.
    pub(crate) fn nameable(&self) -> Self {
        let mut place = self.clone();
        while place.is_too_long() {
            place = place.parent().expect("a volume's root is short enough");
        }
        place
    }

    /// As it is typed in a shell.
    pub(crate) fn typed(&self) -> String {
        shell(&self.to_bytes())
    }

    /// `below` (a relative path, maybe empty) in this directory.
    pub(crate) fn join(&self, below: &[u8]) -> Self {
        Self { volume: self.volume.clone(), path: join(&self.path, below), trailing_slash: false }
    }

    /// Whether `other` is this or somewhere below it.
    pub(crate) fn contains(&self, other: &Self) -> bool {
        self.volume == other.volume
            && other.path.starts_with(&self.path)
            && (self.is_root() || matches!(other.path.get(self.path.len()), None | Some(b'/')))
    }

    /// `/VOLUME/path` as bytes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = format!("/{}", self.volume).into_bytes();
        if !self.is_root() {
            bytes.push(b'/');
            bytes.extend_from_slice(&self.path);
        }
        bytes
    }
}

impl fmt::Display for RemotePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&quote(&self.to_bytes()))
    }
}

/// `directory/below`, where either may be empty.
pub(crate) fn join(directory: &[u8], below: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(directory.len() + below.len() + 1);
    path.extend_from_slice(directory);
    if !directory.is_empty() && !below.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(below);
    path
}

/// Checks a volume's name: `[a-z0-9][a-z0-9-]{0,62}`.
pub(crate) fn volume_name(name: &[u8]) -> std::result::Result<String, String> {
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let fits = name.len() <= VOLUME_NAME_BYTES_MAX
        && name.first().is_some_and(plain)
        && name.iter().all(|byte| plain(byte) || *byte == b'-');
    match std::str::from_utf8(name) {
        Ok(text) if fits => Ok(text.to_owned()),
        _ => Err(format!(
            "`{}` can't be a volume's name: 1 to {VOLUME_NAME_BYTES_MAX} of a-z, 0-9 and -, the first no -",
            quote(name)
        )),
    }
}

/// Checks one name: 1 to 255 bytes without NUL and `/`, never `.` or `..`.
pub(crate) fn check_name(name: &[u8]) -> std::result::Result<(), String> {
    match name {
        b"" => Err("a name can't be empty".into()),
        b"." | b".." => Err(format!("`{}` can't be used in a remote name", quote(name))),
        _ if name.contains(&0) => Err("a name can't hold a NUL byte".into()),
        _ if name.contains(&b'/') => Err("a name can't hold a `/`".into()),
        _ if name.len() > NAME_BYTES_MAX => {
            Err(format!("a name is {} bytes long, {NAME_BYTES_MAX} are allowed", name.len()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    fn parse(text: &str) -> Result<RemotePath> {
        RemotePath::parse(OsStr::new(text))
    }

    #[test]
    fn names_are_taken_apart() {
        for (text, volume, path, slash) in [
            ("/v", "v", "", false),
            ("/v/", "v", "", true),
            ("//v//a/./b//", "v", "a/b", true),
            ("/my-volume-2/a b", "my-volume-2", "a b", false),
            ("/v/a/.", "v", "a", true),
        ] {
            let place = parse(text).expect(text);
            assert_eq!((place.volume.as_str(), place.path.as_slice()), (volume, path.as_bytes()), "{text}");
            assert_eq!(place.trailing_slash, slash, "{text}");
        }
    }

    #[test]
    fn names_are_refused_with_usage() {
        let long_name = format!("/v/{}", "n".repeat(256));
        let long_path = format!("/v/{}", "d/".repeat(2050));
        let long_volume = format!("/{}/a", "v".repeat(64));
        for text in [
            "",
            "/",
            "//",
            "v/a",
            "a",
            "/V/a",
            "/-v/a",
            "/v_1/a",
            "/v/../a",
            "/v/a/..",
            "/../v",
            &long_name,
            &long_path,
            &long_volume,
        ] {
            assert_eq!(parse(text).expect_err(text).exit, Exit::Usage, "{text}");
        }
        assert!(parse(&format!("/v/{}", "n".repeat(255))).is_ok());
    }

    #[test]
    fn parents_and_children() {
        let place = parse("/v/a/b").expect("a name");
        assert_eq!(place.parent(), parse("/v/a").ok());
        assert_eq!(place.parent().and_then(|p| p.parent()), parse("/v").ok());
        assert_eq!(parse("/v").expect("a name").parent(), None);
        assert_eq!(place.join(b"c").to_bytes(), b"/v/a/b/c");
        assert_eq!(parse("/v").expect("a name").join(b"c").to_bytes(), b"/v/c");
        assert_eq!(place.name(), Some(&b"b"[..]));
    }

    #[test]
    fn what_is_too_deep_has_a_directory_on_the_way_that_is_not() {
        let deep = parse("/v/a").expect("a name").join(&b"d/".repeat(3000)[..5999]);
        assert!(deep.is_too_long());
        let above = deep.nameable();
        assert!(!above.is_too_long() && above.contains(&deep));
        assert_eq!(above.path.len(), PATH_BYTES_MAX - 1);
        assert_eq!(above.nameable(), above);
    }

    #[test]
    fn containment_is_by_component() {
        let contains = |a: &str, b: &str| parse(a).expect(a).contains(&parse(b).expect(b));
        assert!(contains("/v", "/v/a"));
        assert!(contains("/v/a", "/v/a"));
        assert!(contains("/v/a", "/v/a/b"));
        assert!(!contains("/v/a", "/v/ab"));
        assert!(!contains("/v/a/b", "/v/a"));
        assert!(!contains("/v", "/w/a"));
    }
}
