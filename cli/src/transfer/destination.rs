//! Where things go: the rules of `put`, `get`, `cp` and `mv` for their last argument. Pure.
//!
//! - A single file goes inside the target if that is a directory or is written with a trailing `/`; else the target is its name.
//! - One tree (`-r`): the target *is* the copy, whether or not it exists, so that a second run merges into it and never nests.
//! - Several sources: the target is a directory, which exists.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;

use crate::failure::{Exit, Failure, Result};
use crate::text::{quote, shell};

/// Sources and target of a command that takes `SRC… DST`.
pub(crate) fn split_target(names: &[OsString]) -> Result<(&[OsString], &OsString)> {
    match names.split_last() {
        Some((target, sources)) if !sources.is_empty() => Ok((sources, target)),
        _ => {
            let only = names.first().map_or_else(String::new, |name| quote(name.as_bytes()));
            Err(Failure::usage(only, "is the only name, and a source and a target are needed")
                .next("write SRC… DST"))
        }
    }
}

/// What is at the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    /// Nothing.
    Nothing,
    /// A directory.
    Directory,
    /// Something else.
    Other,
}

/// Where a source goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placement {
    /// The target is its name.
    Itself,
    /// Into the target, under its own name.
    Inside,
}

/// The target as it was named.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    /// As shown to a person.
    pub(crate) shown: &'a str,
    /// What is there.
    pub(crate) existing: Existing,
    /// Whether it was written with a trailing `/`.
    pub(crate) trailing_slash: bool,
    /// The command that makes directories there.
    pub(crate) mkdir: &'a str,
}

impl Target<'_> {
    /// The target as it is typed in a shell.
    fn typed(&self) -> String {
        let shown = self.shown.trim_end_matches('/');
        if shown.starts_with("$'") { shown.to_owned() } else { shell(shown.as_bytes()) }
    }

    /// Where one of `count` sources goes, all of which are named. `is_tree`: it is a directory to be copied as a whole.
    pub(crate) fn place(&self, count: usize, is_tree: bool) -> Result<Placement> {
        let missing = || {
            Failure::new(Exit::NotFound, self.shown, "the directory doesn't exist").next(format!(
                "make it: {} {}",
                self.mkdir,
                self.typed()
            ))
        };
        let not_directory = || Failure::new(Exit::Conflict, self.shown, "isn't a directory");
        match (self.existing, count) {
            (Existing::Other, 2..) => Err(not_directory().next("several sources need a directory to go to")),
            (Existing::Nothing, 2..) => Err(missing()),
            (Existing::Other, _) if is_tree || self.trailing_slash => Err(not_directory()),
            (Existing::Nothing, _) if self.trailing_slash && !is_tree => Err(missing()),
            (_, 2..) => Ok(Placement::Inside),
            (Existing::Directory, _) if !is_tree => Ok(Placement::Inside),
            _ => Ok(Placement::Itself),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Existing::{Directory, Nothing, Other};
    use Placement::{Inside, Itself};

    #[test]
    fn destinations() {
        for (existing, trailing_slash, count, is_tree, expected) in [
            // A single file.
            (Nothing, false, 1, false, Ok(Itself)),
            (Other, false, 1, false, Ok(Itself)),
            (Directory, false, 1, false, Ok(Inside)),
            (Directory, true, 1, false, Ok(Inside)),
            (Nothing, true, 1, false, Err(Exit::NotFound)),
            (Other, true, 1, false, Err(Exit::Conflict)),
            // One tree: never nested.
            (Nothing, false, 1, true, Ok(Itself)),
            (Nothing, true, 1, true, Ok(Itself)),
            (Directory, false, 1, true, Ok(Itself)),
            (Directory, true, 1, true, Ok(Itself)),
            (Other, false, 1, true, Err(Exit::Conflict)),
            // Several.
            (Directory, false, 2, false, Ok(Inside)),
            (Directory, false, 2, true, Ok(Inside)),
            (Nothing, false, 2, true, Err(Exit::NotFound)),
            (Nothing, true, 3, false, Err(Exit::NotFound)),
            (Other, false, 2, false, Err(Exit::Conflict)),
        ] {
            let target = Target { shown: "/v/a", existing, trailing_slash, mkdir: "catena mkdir -p" };
            let placed = target.place(count, is_tree).map_err(|failure| failure.exit);
            assert_eq!(placed, expected, "{existing:?} {trailing_slash} {count} {is_tree}");
        }
    }

    #[test]
    fn a_missing_directory_says_how_to_make_it() {
        let target =
            Target { shown: "/v/a/", existing: Nothing, trailing_slash: true, mkdir: "catena mkdir -p" };
        let failure = target.place(1, false).expect_err("missing");
        assert_eq!(failure.next.as_deref(), Some("make it: catena mkdir -p /v/a"));
    }
}
