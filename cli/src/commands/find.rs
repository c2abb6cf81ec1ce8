//! `catena find`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;

use client::{InodeKind, Timestamp};

use crate::context::Context;
use crate::failure::Result;
use crate::glob;
use crate::present;
use crate::remote::RemotePath;
use crate::tally::Tally;
use crate::text::{size, time};
use crate::walk::{Stage, Visit};

/// Find files and directories by name, type, size or time
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena find /photos --name '*.jpg'
  catena find /photos --type f --size +100M
  catena find /photos --newer 2026-01-01 --print0 | xargs -0 -n1 catena stat")]
pub(crate) struct Find {
    /// Where to look: /VOLUME/path
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
    /// Names that match this pattern: * ? [a-z]
    #[arg(long, value_name = "PATTERN")]
    name: Option<OsString>,
    /// Only files (f), directories (d) or links (l)
    #[arg(long = "type", value_name = "f|d|l", value_parser = parse_kind)]
    kind: Option<InodeKind>,
    /// Files of at least (+10M), at most (-10M) or exactly this size
    #[arg(long, value_name = "[+-]SIZE", allow_hyphen_values = true, value_parser = parse_size_test)]
    size: Option<SizeTest>,
    /// Contents modified after this time, UTC; chmod, mv and the like don't count
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    newer: Option<Timestamp>,
    /// Contents modified before this time, UTC
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    older: Option<Timestamp>,
    /// Go down at most so many directories
    #[arg(long, value_name = "N")]
    max_depth: Option<usize>,
    /// End each name with a NUL byte instead of a newline
    #[arg(short = '0', long)]
    print0: bool,
}

/// A condition on a file's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SizeTest {
    AtLeast(u64),
    AtMost(u64),
    Exactly(u64),
}

impl Find {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        let mut tally = Tally::default();
        for path in &self.paths {
            let place = RemotePath::parse(path)?;
            let result = self.search(context, &place, &mut tally);
            tally.take(&context.output, result)?;
        }
        tally.finish("name")
    }

    fn search(&self, context: &mut Context, place: &RemotePath, tally: &mut Tally) -> Result<()> {
        let mut walk = context.walk(place, place.trailing_slash)?;
        while let Some(visit) = walk.next() {
            let visit = match visit {
                Ok(visit) => visit,
                Err(failure) => {
                    tally.take(&context.output, Err(failure))?;
                    continue;
                }
            };
            if visit.stage == Stage::Leave {
                continue;
            }
            if self.matches(place, &visit) {
                self.print(context, place, &visit)?;
            }
            if visit.stage == Stage::Enter && self.max_depth.is_some_and(|max| visit.depth >= max) {
                walk.pass_over();
            }
        }
        Ok(())
    }

    fn matches(&self, place: &RemotePath, visit: &Visit) -> bool {
        let name =
            if visit.is_root() { place.name().unwrap_or(place.volume.as_bytes()) } else { visit.name() };
        let attributes = &visit.attributes;
        self.name.as_ref().is_none_or(|pattern| glob::matches(pattern.as_bytes(), name))
            && self.kind.is_none_or(|kind| attributes.kind == kind)
            && self.size.is_none_or(|test| attributes.kind == InodeKind::File && test.holds(attributes.size))
            && self.newer.is_none_or(|time| attributes.modified > time)
            && self.older.is_none_or(|time| attributes.modified < time)
    }

    fn print(&self, context: &mut Context, place: &RemotePath, visit: &Visit) -> Result<()> {
        let mut path = place.join(&visit.below).to_bytes();
        if self.print0 && !context.output.is_json() {
            path.push(0);
            return context.output.bytes(&path);
        }
        context
            .output
            .result(|| present::object(&path, &visit.attributes, &visit.target), |output| output.name(&path))
    }
}

impl SizeTest {
    fn holds(self, size: u64) -> bool {
        match self {
            Self::AtLeast(bytes) => size >= bytes,
            Self::AtMost(bytes) => size <= bytes,
            Self::Exactly(bytes) => size == bytes,
        }
    }
}

fn parse_size_test(text: &str) -> std::result::Result<SizeTest, String> {
    match (text.strip_prefix('+'), text.strip_prefix('-')) {
        (Some(bytes), _) => size::parse(bytes).map(SizeTest::AtLeast),
        (_, Some(bytes)) => size::parse(bytes).map(SizeTest::AtMost),
        (None, None) => size::parse(text).map(SizeTest::Exactly),
    }
}

fn parse_kind(text: &str) -> std::result::Result<InodeKind, String> {
    match text {
        "f" | "file" => Ok(InodeKind::File),
        "d" | "directory" => Ok(InodeKind::Directory),
        "l" | "symlink" => Ok(InodeKind::Symlink),
        _ => Err(format!("`{text}` is no type; write f, d or l")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_tests() {
        assert_eq!(parse_size_test("+1K"), Ok(SizeTest::AtLeast(1024)));
        assert_eq!(parse_size_test("-1K"), Ok(SizeTest::AtMost(1024)));
        assert_eq!(parse_size_test("7"), Ok(SizeTest::Exactly(7)));
        assert!(parse_size_test("+").is_err());
        assert!(SizeTest::AtLeast(5).holds(5) && !SizeTest::AtLeast(5).holds(4));
        assert!(SizeTest::AtMost(5).holds(5) && !SizeTest::AtMost(5).holds(6));
    }
}
