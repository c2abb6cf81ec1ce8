//! Putting a new file in place: written under a name of its own beside it, finished, renamed. Nobody sees it half done, and what is
//! left unfinished is removed, at a signal too.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::failure::{Exit, Failure, Result};
use crate::interrupt::Temporary;

/// How often another name is drawn where one is taken: with 64 random bits once is more than will ever be seen.
const DRAWS_MAX: u32 = 8;

/// What is at a local path; links aren't followed.
#[derive(Debug)]
pub(crate) enum Found {
    /// Nothing.
    Nothing,
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A device, pipe or socket: written to, never replaced.
    Special,
}

/// What is at `path`.
pub(crate) fn look(path: &Path) -> Result<Found> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound) => return Ok(Found::Nothing),
        Err(error) => return Err(Failure::path(path, &error)),
    };
    let kind = metadata.file_type();
    Ok(if kind.is_dir() {
        Found::Directory
    } else if kind.is_symlink() {
        Found::Link
    } else if kind.is_char_device() || kind.is_block_device() || kind.is_fifo() || kind.is_socket() {
        Found::Special
    } else {
        Found::File
    })
}

/// Where a name that a person typed leads: a link that is there is written through, as everywhere.
pub(crate) fn resolve(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// A file that isn't in place yet.
#[derive(Debug)]
pub(crate) struct Draft {
    temporary: Temporary,
    target: PathBuf,
}

impl Draft {
    /// Begins a regular file for `target`.
    pub(crate) fn file(target: &Path) -> Result<(Self, File)> {
        Self::begin(target, |path| {
            OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
        })
    }

    /// Begins a symbolic link for `target`.
    pub(crate) fn link(target: &Path, points_at: &Path) -> Result<Self> {
        Self::begin(target, |path| std::os::unix::fs::symlink(points_at, path)).map(|(draft, ())| draft)
    }

    /// The name is drawn, so that what is stored can't hold it: a tree with drafts that a killed process left has names of that form, and a
    /// worker that put one in place would put it over another's draft, were they numbered.
    fn begin<T>(target: &Path, make: impl Fn(&Path) -> io::Result<T>) -> Result<(Self, T)> {
        let mut left = DRAWS_MAX;
        loop {
            let name = format!(".catena-{:016x}", u64::from_le_bytes(runtime::clock::random_bytes()));
            match Temporary::make(target.with_file_name(name), &make) {
                Ok((temporary, made)) => return Ok((Self { temporary, target: target.to_owned() }, made)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && left > 0 => left -= 1,
                Err(error) => return Err(cannot_create(target, &error)),
            }
        }
    }

    /// Where it is for now.
    pub(crate) fn path(&self) -> &Path {
        self.temporary.path()
    }

    /// Puts it in place of whatever file or link is there.
    pub(crate) fn finish(self) -> Result<()> {
        let target = self.target;
        self.temporary.keep(|path| fs::rename(path, &target)).map_err(|error| cannot_create(&target, &error))
    }
}

/// The failure to make `target`: where its directory is missing, that is what is said.
fn cannot_create(target: &Path, error: &io::Error) -> Failure {
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
    match parent {
        Some(parent) if error.kind() == io::ErrorKind::NotFound && !parent.exists() => Failure::new(
            Exit::NotFound,
            target.display().to_string(),
            format!("the directory {} doesn't exist", parent.display()),
        )
        .next(format!("make it: mkdir -p {}", parent.display())),
        _ => Failure::path(target, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let directory = tempfile::tempdir().expect("a directory");
        let target = directory.path().join("f");
        let (draft, mut file) = Draft::file(&target).expect("begun");
        file.write_all(b"half").expect("written");
        assert!(matches!(look(&target), Ok(Found::Nothing)));
        drop(draft);
        assert_eq!(fs::read_dir(directory.path()).expect("readable").count(), 0);

        fs::write(&target, b"old").expect("written");
        let (draft, mut file) = Draft::file(&target).expect("begun");
        file.write_all(b"new").expect("written");
        assert_eq!(fs::read(&target).expect("readable"), b"old");
        draft.finish().expect("finished");
        assert_eq!(fs::read(&target).expect("readable"), b"new");
        assert_eq!(fs::read_dir(directory.path()).expect("readable").count(), 1);
    }

    /// A killed `get` leaves its draft; in a container the next one has the same process number, and refused to write anything.
    #[test]
    fn drafts_of_killed_processes_are_passed_over() {
        let directory = tempfile::tempdir().expect("a directory");
        let number = std::process::id();
        for index in 0..50 {
            fs::write(directory.path().join(format!(".catena-{number}-{index}")), b"left").expect("written");
        }
        let target = directory.path().join("f");
        let (draft, _file) = Draft::file(&target).expect("begun");
        draft.finish().expect("finished");
        assert!(target.exists());
        assert_eq!(fs::read_dir(directory.path()).expect("readable").count(), 51);
    }

    /// Drafts were numbered: one of a stored tree's leftovers was put in place over the live draft of the same name, and files were swapped and lost.
    #[test]
    fn names_of_former_drafts_are_names_like_others() {
        let directory = tempfile::tempdir().expect("a directory");
        let target = |index: u64| directory.path().join(format!(".catena-{}-{index}", std::process::id()));
        let drafts: Vec<_> = (0..100)
            .map(|index| {
                let (draft, mut file) = Draft::file(&target(index)).expect("begun");
                file.write_all(index.to_string().as_bytes()).expect("written");
                draft
            })
            .collect();
        drafts.into_iter().for_each(|draft| draft.finish().expect("finished"));
        for index in 0..100 {
            assert_eq!(fs::read_to_string(target(index)).expect("in place"), index.to_string());
        }
        assert_eq!(fs::read_dir(directory.path()).expect("readable").count(), 100);
    }

    #[test]
    fn a_missing_directory_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let failure = Draft::file(&directory.path().join("missing/f")).expect_err("no directory");
        assert_eq!(failure.exit, Exit::NotFound);
        assert!(failure.next.is_some_and(|next| next.contains("mkdir -p")));
    }

    #[test]
    fn what_is_there_is_told_apart() {
        let directory = tempfile::tempdir().expect("a directory");
        let link = directory.path().join("l");
        std::os::unix::fs::symlink("nowhere", &link).expect("linked");
        assert!(matches!(look(&link), Ok(Found::Link)));
        assert!(matches!(look(directory.path()), Ok(Found::Directory)));
        assert!(matches!(look(Path::new("/dev/null")), Ok(Found::Special)));
    }
}
