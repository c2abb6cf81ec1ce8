//! Profiles: what a load consists of. A file of TOML, or one of the built-in ones.

use serde::Deserialize;
use thiserror::Error;

use crate::block::{BLOCK_BYTES, HEADER_BYTES};

/// What a load consists of. Every key but `operations` and `sizes` has a default.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// What a person may want to know of it, in a line.
    #[serde(default)]
    pub about: String,
    /// How often each operation is asked for, compared with the others.
    pub operations: Weights,
    /// Sizes of files that are put.
    pub sizes: Vec<Sizes>,
    /// Sizes of what is appended; rounded up to whole blocks.
    #[serde(default = "append_sizes")]
    pub append_sizes: Vec<Sizes>,
    /// Sizes of ranges that are read; rounded up to whole blocks.
    #[serde(default = "ranges")]
    pub ranges: Vec<Sizes>,
    /// Paths, at most so many files at once.
    #[serde(default = "paths")]
    pub paths: u32,
    /// Directories that the paths lie in.
    #[serde(default = "directories")]
    pub directories: u32,
    /// Which paths are asked for.
    #[serde(default)]
    pub keys: Keys,
    /// Clients, each with a connection and a session of its own.
    #[serde(default = "clients")]
    pub clients: u32,
    /// Operations that each client has under way.
    #[serde(default = "in_flight")]
    pub in_flight: u32,
    /// A file isn't appended to beyond this many bytes: it is put anew.
    #[serde(default = "append_limit")]
    pub append_limit: u64,
    /// Whether each path is put once before anything is measured.
    #[serde(default = "fill")]
    pub fill: bool,
}

/// Weights of operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Weights {
    /// A file becomes new bytes.
    pub put: u32,
    /// Bytes are put behind a file's end. Only every fourth path is ever appended to: what is put there has whole blocks.
    pub append: u32,
    /// A file is read from the first byte to the last.
    pub get: u32,
    /// Some blocks of a file are read.
    pub ranged_get: u32,
    /// Attributes of a file are read.
    pub stat: u32,
    /// A directory is listed.
    pub list: u32,
    /// A file is removed.
    pub delete: u32,
    /// A file is moved to one of the neighbouring paths.
    pub rename: u32,
}

impl Weights {
    /// In the order of [`crate::Kind`].
    pub(crate) fn all(&self) -> [u32; 8] {
        let Self { put, append, get, ranged_get, stat, list, delete, rename } = *self;
        [put, append, get, ranged_get, stat, list, delete, rename]
    }
}

/// Some sizes, each power of two in it as probable as the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    /// How often these, compared with the others.
    pub weight: u32,
    /// The least, in bytes.
    pub from: u64,
    /// The largest, in bytes.
    pub to: u64,
}

/// How often each path is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, tag = "skew", rename_all = "lowercase")]
pub enum Keys {
    /// All alike.
    #[default]
    Uniform,
    /// The path of rank r as often as 1 / r^exponent.
    Zipf {
        /// 0.99 is what caches are measured with.
        exponent: f64,
    },
}

fn append_sizes() -> Vec<Sizes> {
    vec![Sizes { weight: 1, from: 4096, to: 65536 }]
}

fn ranges() -> Vec<Sizes> {
    vec![Sizes { weight: 1, from: 4096, to: 65536 }]
}

fn paths() -> u32 {
    1000
}

fn directories() -> u32 {
    16
}

fn clients() -> u32 {
    16
}

fn in_flight() -> u32 {
    1
}

fn append_limit() -> u64 {
    1 << 20
}

fn fill() -> bool {
    true
}

/// A profile that can't be used.
#[derive(Debug, Error)]
pub enum ProfileError {
    /// It isn't TOML of this form.
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    /// A value makes no sense.
    #[error("`{key}` {reason}")]
    Value {
        /// Which key.
        key: &'static str,
        /// What is wrong with its value.
        reason: &'static str,
    },
}

/// A built-in profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuiltIn {
    /// Its name.
    pub name: &'static str,
    /// Its file.
    pub text: &'static str,
}

impl BuiltIn {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self { name: "mixed", text: include_str!("profiles/mixed.toml") },
        Self { name: "small-files", text: include_str!("profiles/small-files.toml") },
        Self { name: "large-files", text: include_str!("profiles/large-files.toml") },
        Self { name: "read-mostly", text: include_str!("profiles/read-mostly.toml") },
        Self { name: "metadata", text: include_str!("profiles/metadata.toml") },
    ];

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.name == name)
    }

    /// The profile.
    pub fn profile(self) -> Profile {
        Profile::parse(self.text).expect("a test reads each of them")
    }
}

/// Paths that a run may have: what is known of each is kept in memory.
const PATHS_MAX: u32 = 10_000_000;
/// Operations under way, of all clients together.
const LANES_MAX: u64 = 4096;
/// Clients: each has a thread and an arena.
const CLIENTS_MAX: u32 = 1024;

impl Profile {
    /// Reads a profile's file.
    pub fn parse(text: &str) -> Result<Self, ProfileError> {
        let profile: Self = toml::from_str(text)?;
        profile.check()?;
        Ok(profile)
    }

    /// Refuses what can't be run; also for a profile whose values were changed.
    pub fn check(&self) -> Result<(), ProfileError> {
        let refuse = |key, reason| Err(ProfileError::Value { key, reason });
        if self.operations.all().iter().all(|weight| *weight == 0) {
            return refuse("operations", "gives no operation a weight");
        }
        for (key, sizes) in
            [("sizes", &self.sizes), ("append_sizes", &self.append_sizes), ("ranges", &self.ranges)]
        {
            if sizes.iter().all(|sizes| sizes.weight == 0) {
                return refuse(key, "gives no size a weight");
            }
            if sizes.iter().any(|sizes| sizes.from > sizes.to || sizes.to == 0) {
                return refuse(key, "has a `from` above its `to`, or nothing between them");
            }
            if sizes.iter().any(|sizes| sizes.to > SIZE_MAX) {
                return refuse(key, "has sizes above 16 GiB");
            }
        }
        if !(1..=PATHS_MAX).contains(&self.paths) {
            return refuse("paths", "isn't between 1 and 10,000,000");
        }
        if !(1..=self.paths).contains(&self.directories) {
            return refuse("directories", "isn't between 1 and the number of paths");
        }
        if !(1..=CLIENTS_MAX).contains(&self.clients) {
            return refuse("clients", "isn't between 1 and 1,024");
        }
        if self.in_flight == 0 || u64::from(self.clients) * u64::from(self.in_flight) > LANES_MAX {
            return refuse("in_flight", "is 0, or more than 4,096 with all clients together");
        }
        if let Keys::Zipf { exponent } = self.keys
            && !(0.0..=10.0).contains(&exponent)
        {
            return refuse("keys", "has an exponent that isn't between 0 and 10");
        }
        Ok(())
    }
}

/// The largest file of a profile.
const SIZE_MAX: u64 = 16 << 30;

/// The length that a write gets: so that its last block, too, has room for a header; with `whole`, of blocks alone.
pub(crate) fn write_length(wanted: u64, whole: bool) -> u64 {
    let block = BLOCK_BYTES as u64;
    let rest = wanted % block;
    match rest {
        _ if whole => wanted.max(1).next_multiple_of(block),
        0 if wanted > 0 => wanted,
        _ => wanted - rest + rest.max(HEADER_BYTES as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_profiles_are_usable() {
        for built_in in BuiltIn::ALL {
            let profile = Profile::parse(built_in.text).expect(built_in.name);
            assert!(!profile.about.is_empty() && profile == built_in.profile());
        }
        assert_eq!(BuiltIn::named("mixed").map(|profile| profile.name), Some("mixed"));
        assert_eq!(BuiltIn::named("none"), None);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let check = |text: &str, expected: &str| {
            let said = Profile::parse(text).expect_err(text).to_string();
            assert!(said.contains(expected), "{text}: {said}");
        };
        let with =
            |more: &str| format!("operations.put = 1\nsizes = [{{ weight = 1, from = 1, to = 2 }}]\n{more}");
        assert!(Profile::parse(&with("")).is_ok());
        check("", "operations");
        check(&with("colour = 1"), "colour");
        check(&with("operations.fly = 1"), "fly");
        check(&with("paths = 0"), "`paths` isn't between");
        check(&with("directories = 2000"), "`directories` isn't");
        check(&with("clients = 5000"), "`clients` isn't");
        check(&with("clients = 1000\nin_flight = 10"), "`in_flight` is 0, or more");
        check(&with("ranges = []"), "`ranges` gives no size");
        check(&with("ranges = [{ weight = 1, from = 2, to = 1 }]"), "`from` above");
        check(&with("keys = { skew = \"zipf\", exponent = -1.0 }"), "`keys` has an exponent");
        check("operations = {}\nsizes = [{ weight = 1, from = 1, to = 2 }]", "no operation");
    }

    #[test]
    fn each_block_has_room_for_its_header() {
        for (wanted, length, whole) in [
            (0, 48, 4096),
            (1, 48, 4096),
            (48, 48, 4096),
            (4096, 4096, 4096),
            (4097, 4144, 8192),
            (5000, 5000, 8192),
        ] {
            assert_eq!(write_length(wanted, false), length, "{wanted}");
            assert_eq!(write_length(wanted, true), whole, "{wanted}");
        }
    }
}
