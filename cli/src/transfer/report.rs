//! What a transfer of many files did, counted and said.

use crate::failure::{Exit, Failure, Result};
use crate::json::Object;
use crate::output::Output;
use crate::remote::RemotePath;
use crate::text::{count, size, time};

/// What became of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A file's bytes were moved: so many.
    File(u64),
    /// The same of a file that was stored: its size and version, too.
    Stored { bytes: u64, size: u64, version: u64 },
    /// A file was the same already; only its attributes were set.
    Attributes,
    /// A file or link was the same already.
    Unchanged,
    /// A symbolic link was made.
    Link,
    /// A directory was made, or is merged into.
    Directory,
    /// Something exists and was to be left alone.
    Skipped,
    /// The end of a directory that was counted before.
    Settled,
}

/// The only file of a transfer.
#[derive(Clone, Debug)]
pub(crate) struct Only {
    /// Where it is stored.
    pub(crate) place: RemotePath,
    /// Its size and version; none: it wasn't stored anew.
    pub(crate) stored: Option<(u64, u64)>,
}

/// Counts of a transfer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    files: u64,
    bytes: u64,
    attributes: u64,
    unchanged: u64,
    links: u64,
    directories: u64,
    skipped: u64,
    /// Files with several names, each of which became a file of its own.
    pub(crate) hard_links: u64,
    /// Things that are neither file, directory nor link.
    pub(crate) other_types: u64,
    failed: u64,
    /// What is said of the transfer's only file.
    pub(crate) only: Option<Only>,
    first: Option<Failure>,
    mixed: bool,
}

impl Report {
    /// Files whose bytes were moved, and their bytes.
    pub(crate) fn files(&self) -> (u64, u64) {
        (self.files, self.bytes)
    }

    /// Directories made or merged into, and symbolic links made.
    pub(crate) fn directories_and_links(&self) -> (u64, u64) {
        (self.directories, self.links)
    }

    /// How many names failed.
    pub(crate) fn failed(&self) -> u64 {
        self.failed
    }

    /// Takes one result: a failure is printed and counted, one that ends everything is handed back.
    pub(crate) fn take(&mut self, output: &Output, result: Result<Outcome>) -> Result<()> {
        match result {
            Ok(Outcome::File(bytes)) => {
                self.files += 1;
                self.bytes += bytes;
            }
            Ok(Outcome::Stored { bytes, size, version }) => {
                self.files += 1;
                self.bytes += bytes;
                if let Some(only) = &mut self.only {
                    only.stored = Some((size, version));
                }
            }
            Ok(Outcome::Attributes) => self.attributes += 1,
            Ok(Outcome::Unchanged) => self.unchanged += 1,
            Ok(Outcome::Link) => self.links += 1,
            Ok(Outcome::Directory) => self.directories += 1,
            Ok(Outcome::Skipped) => self.skipped += 1,
            Ok(Outcome::Settled) => {}
            Err(failure) if failure.is_final() => return Err(failure),
            Err(failure) => {
                output.failure(&failure);
                self.failed += 1;
                self.mixed |= self.first.as_ref().is_some_and(|first| first.exit != failure.exit);
                self.first.get_or_insert(failure);
            }
        }
        Ok(())
    }

    /// Prints the summary and says how the command ends. `verb`: what was done, as in "stored 3 files".
    pub(crate) fn finish(self, output: &mut Output, verb: &str, nanoseconds: u64) -> Result<()> {
        let done =
            self.files + self.attributes + self.unchanged + self.links + self.directories + self.skipped;
        if done > 0 || self.failed == 0 || output.is_json() {
            output.note(|| self.object(nanoseconds), || format!("{verb} {}", self.sentence(nanoseconds)))?;
        }
        let Some(first) = &self.first else { return Ok(()) };
        let exit = match first.exit {
            _ if done > 0 => Exit::Partial,
            _ if self.mixed => Exit::Failed,
            exit => exit,
        };
        if done == 0 && self.failed == 1 {
            return Err(first.clone().printed());
        }
        let reason = format!("{} failed, as said above", count(self.failed, "name"));
        Err(Failure::new(exit, "", reason)
            .next("mend it, then run the same command again: it sends only what differs"))
    }

    fn sentence(&self, nanoseconds: u64) -> String {
        let mut parts = vec![count(self.files, "file")];
        let others = [
            (self.directories, "directory", ""),
            (self.links, "symbolic link", ""),
            (self.attributes, "file", " with new attributes only"),
            (self.unchanged, "file", " unchanged"),
            (self.skipped, "file", " skipped because it exists"),
            (self.hard_links, "name", " of hard links stored as files of their own"),
            (self.other_types, "special file", " skipped"),
            (self.failed, "name", " failed"),
        ];
        parts.extend(
            others
                .iter()
                .filter(|(number, ..)| *number > 0)
                .map(|(number, what, rest)| count(*number, what) + rest),
        );
        let rate = if self.bytes > 0 {
            format!(
                "; {} in {}, {}",
                size::human(self.bytes),
                time::duration(nanoseconds),
                size::rate(self.bytes, nanoseconds)
            )
        } else {
            String::new()
        };
        parts.join(", ") + &rate
    }

    fn object(&self, nanoseconds: u64) -> Object {
        let object = match &self.only {
            Some(only) => Object::new()
                .with_bytes("name", &only.place.to_bytes())
                .with_some("size", only.stored.map(|(size, _)| size))
                .with_some("version", only.stored.map(|(_, version)| version)),
            None => Object::new(),
        };
        object
            .with("files", self.files)
            .with("bytes", self.bytes)
            .with("directories", self.directories)
            .with("symlinks", self.links)
            .with("attributes_only", self.attributes)
            .with("unchanged", self.unchanged)
            .with("skipped", self.skipped)
            .with("hard_links", self.hard_links)
            .with("other_types_skipped", self.other_types)
            .with("failed", self.failed)
            .with("seconds", std::time::Duration::from_nanos(nanoseconds).as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_say_only_what_happened() {
        let report = Report { files: 2, bytes: 3 << 20, directories: 1, hard_links: 1, ..Report::default() };
        assert_eq!(
            report.sentence(1_500_000_000),
            "2 files, 1 directory, 1 name of hard links stored as files of their own; 3.0 MiB in 1.5 s, 2.0 MiB/s"
        );
        assert_eq!(Report { unchanged: 3, ..Report::default() }.sentence(1), "0 files, 3 files unchanged");
    }
}
