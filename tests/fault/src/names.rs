//! Names that a power cut can lose: files and directories made, removed and renamed since the file system's journal was flushed.
//!
//! The journal keeps their order, so that a cut undoes them from the last one backwards, never one in the middle. What was
//! removed lies in a folder of its own until it is durably gone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// One change of a name, with what undoes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A file or directory was made.
    Made(PathBuf),
    /// A file or directory was removed; it lies at `saved`.
    Removed {
        /// Its former name.
        path: PathBuf,
        /// Where it lies, in the folder of removed things.
        saved: PathBuf,
    },
    /// A name became another one.
    Renamed {
        /// The former name.
        from: PathBuf,
        /// The present name.
        to: PathBuf,
        /// Where what had that name before lies.
        replaced: Option<PathBuf>,
    },
}

/// Changes that aren't durable, oldest first. Paths are relative to the served folder.
#[derive(Debug)]
pub struct Names {
    served: PathBuf,
    removed: PathBuf,
    changes: Vec<Change>,
    count: u64,
}

impl Names {
    /// Names below `served`; what is removed lies in `removed`, which is made.
    pub fn new(served: &Path, removed: &Path) -> io::Result<Self> {
        fs::create_dir_all(removed)?;
        Ok(Self { served: served.to_owned(), removed: removed.to_owned(), changes: Vec::new(), count: 0 })
    }

    /// Something was made at `path`.
    pub fn made(&mut self, path: &Path) {
        self.changes.push(Change::Made(path.to_owned()));
    }

    /// Takes `path` away.
    pub fn remove(&mut self, path: &Path) -> io::Result<()> {
        let saved = self.save(path)?;
        self.changes.push(Change::Removed { path: path.to_owned(), saved });
        Ok(())
    }

    /// Renames, over what stands at `to`: one change, as a journal has it.
    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let replaced = if self.served.join(to).exists() { Some(self.save(to)?) } else { None };
        fs::rename(self.served.join(from), self.served.join(to))?;
        self.changes.push(Change::Renamed { from: from.to_owned(), to: to.to_owned(), replaced });
        Ok(())
    }

    fn save(&mut self, path: &Path) -> io::Result<PathBuf> {
        self.count += 1;
        let saved = self.removed.join(self.count.to_string());
        fs::rename(self.served.join(path), &saved)?;
        Ok(saved)
    }

    /// How many changes aren't durable.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.changes.len()
    }

    /// Makes all changes durable.
    pub fn flush(&mut self) -> io::Result<()> {
        for change in self.changes.drain(..) {
            match change {
                Change::Removed { saved, .. } | Change::Renamed { replaced: Some(saved), .. } => {
                    remove_any(&saved)?;
                }
                Change::Made(_) | Change::Renamed { replaced: None, .. } => {}
            }
        }
        Ok(())
    }

    /// Undoes all changes but the first `kept`, and returns the undone ones, last first.
    pub fn cut(&mut self, kept: usize) -> io::Result<Vec<Change>> {
        let undone: Vec<Change> = self.changes.drain(kept.min(self.changes.len())..).rev().collect();
        for change in &undone {
            match change {
                Change::Made(path) => remove_any(&self.served.join(path))?,
                Change::Removed { path, saved } => fs::rename(saved, self.served.join(path))?,
                Change::Renamed { from, to, replaced } => {
                    fs::rename(self.served.join(to), self.served.join(from))?;
                    if let Some(saved) = replaced {
                        fs::rename(saved, self.served.join(to))?;
                    }
                }
            }
        }
        self.flush()?;
        Ok(undone)
    }
}

fn remove_any(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use harness::Scratch;

    /// Makes `new`, writes it and renames it over `file`, as an atomic replacement does; then makes another file.
    fn replaced(scratch: &Scratch) -> Names {
        let served = scratch.join("served");
        fs::create_dir_all(&served).expect("a folder");
        fs::write(served.join("file"), "old").expect("a file");
        let mut names = Names::new(&served, &scratch.join("removed")).expect("names");
        fs::write(served.join("new"), "new").expect("a file");
        names.made(Path::new("new"));
        names.rename(Path::new("new"), Path::new("file")).expect("renamed");
        fs::create_dir(served.join("more")).expect("a folder");
        names.made(Path::new("more"));
        names
    }

    #[test]
    fn a_cut_undoes_from_the_end() {
        let check = |kept: usize, expected: &[(&str, &str)]| {
            let scratch = Scratch::new();
            replaced(&scratch).cut(kept).expect("cut");
            let mut found: Vec<(String, String)> = fs::read_dir(scratch.join("served"))
                .expect("a folder")
                .map(|entry| entry.expect("an entry").path())
                .map(|path| {
                    let name = path.file_name().expect("a name").to_string_lossy().into_owned();
                    (name, fs::read_to_string(path).unwrap_or_default())
                })
                .collect();
            found.sort();
            let expected: Vec<(String, String)> =
                expected.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
            assert_eq!(found, expected, "{kept} kept");
        };
        check(3, &[("file", "new"), ("more", "")]);
        check(2, &[("file", "new")]);
        check(1, &[("file", "old"), ("new", "new")]);
        check(0, &[("file", "old")]);
    }

    #[test]
    fn what_was_flushed_isnt_undone() {
        let scratch = Scratch::new();
        let mut names = replaced(&scratch);
        names.flush().expect("flushed");
        assert_eq!(names.pending(), 0);
        assert_eq!(names.cut(0).expect("cut"), []);
        assert_eq!(fs::read_to_string(scratch.join("served/file")).expect("there"), "new");
        assert_eq!(fs::read_dir(scratch.join("removed")).expect("a folder").count(), 0);
    }
}
