//! Putting a new file in place: written under a name of its own beside it, finished, renamed. Nobody sees it half done, and what is
//! left unfinished is removed, at a signal too.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::failure::{Exit, Failure, Result};
use crate::interrupt::Temporary;
use crate::text::{quote, shell};

/// How often another name is drawn where one is taken: with 64 random bits once is more than will ever be seen.
const DRAWS_MAX: u32 = 8;
/// Links that are followed one behind the other, as the kernel does.
const LINKS_MAX: u32 = 40;

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
    /// A symbolic link that leads nowhere, where a person named it.
    Dangling,
    /// A device, pipe or socket, or whatever a descriptor of a process is open on: written to, never replaced.
    Special,
}

/// What is at `path` where a person named it: a link there is followed to what is written to and not replaced.
pub(crate) fn look_named(path: &Path) -> Result<Found> {
    let found = look(path)?;
    if !matches!(found, Found::Link) {
        return Ok(found);
    }
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(Found::Link),
        Ok(metadata) if !metadata.is_file() || descriptor(path).is_some() => Ok(Found::Special),
        Ok(_) => Ok(Found::Link),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Dangling),
        Err(error) => Err(Failure::path(path, &error)),
    }
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
/// A descriptor's link stays: it leads to what is open, which another file of the same name isn't.
pub(crate) fn resolve(path: &Path) -> PathBuf {
    if descriptor(path).is_some() {
        return path.to_owned();
    }
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// A descriptor of a running process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor(PathBuf);

impl Descriptor {
    /// Whether it is the one of this number of this very process.
    pub(crate) fn is_own(&self, number: u32) -> bool {
        self.0 == Path::new(&format!("/proc/{}/fd/{number}", std::process::id()))
    }
}

/// The descriptor that `path` leads to, by whatever links: `/dev/stdout`, `/dev/fd/3`, `/proc/self/fd/3`, or what a shell makes of `<(…)`. What
/// the last of these links holds is the name of a file at best, and not what the descriptor is open on.
pub(crate) fn descriptor(path: &Path) -> Option<Descriptor> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        let target = fs::read_link(&path).ok()?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let parent = fs::canonicalize(parent).ok()?;
        if parent.starts_with("/proc") && parent.ends_with("fd") {
            return Some(Descriptor(parent.join(path.file_name()?)));
        }
        path = parent.join(target);
    }
    None
}

/// Opens what is written to and not replaced. A file gets what is written behind its end, since others write to it, too.
pub(crate) fn open_special(path: &Path) -> Result<File> {
    let failed = |error: io::Error| Failure::path(path, &error);
    let is_file = fs::metadata(path).map_err(failed)?.is_file();
    OpenOptions::new().write(true).append(is_file).open(path).map_err(failed)
}

/// The failure that `path` is a link that leads nowhere.
pub(crate) fn dangling(path: &Path) -> Failure {
    let (bytes, target) = (path.as_os_str().as_bytes(), fs::read_link(path).unwrap_or_default());
    let reason =
        format!("is a symbolic link to {}, which doesn't exist", quote(target.as_os_str().as_bytes()));
    Failure::new(Exit::NotFound, quote(bytes), reason)
        .next(format!("make what it points at, or remove the link: rm {}", shell(bytes)))
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
pub(crate) fn cannot_create(target: &Path, error: &io::Error) -> Failure {
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
    match parent {
        Some(parent) if error.kind() == io::ErrorKind::NotFound && !parent.exists() => Failure::new(
            Exit::NotFound,
            quote(target.as_os_str().as_bytes()),
            format!("the directory {} doesn't exist", quote(parent.as_os_str().as_bytes())),
        )
        .next(format!("make it: mkdir -p {}", shell(parent.as_os_str().as_bytes()))),
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
        // Last names first: a draft's own number would be that of its target.
        let drafts: Vec<_> = (0..100)
            .rev()
            .map(|index| {
                let (draft, mut file) = Draft::file(&target(index)).expect("begun");
                file.write_all(index.to_string().as_bytes()).expect("written");
                draft
            })
            .collect();
        for draft in drafts {
            draft.finish().expect("finished");
        }
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

    /// A link to standard output was replaced by a file: its target's name is none, or the name of another file by now.
    #[test]
    fn links_are_followed_to_what_is_not_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let link = |name: &str, target: &str| {
            let path = directory.path().join(name);
            std::os::unix::fs::symlink(target, &path).expect("linked");
            path
        };
        fs::write(directory.path().join("f"), b"x").expect("written");
        let open = File::open(directory.path().join("f")).expect("open");
        let number = std::os::fd::AsRawFd::as_raw_fd(&open);
        let open = link("open", &format!("/proc/self/fd/{number}"));
        assert!(matches!(look_named(&link("again", "open")), Ok(Found::Special)));
        assert!(descriptor(&open).is_some_and(|it| it.is_own(number.cast_unsigned()) && !it.is_own(77_777)));
        assert_eq!(resolve(&open), open);
        assert!(matches!(look_named(&link("null", "/dev/null")), Ok(Found::Special)));
        assert!(matches!(look_named(&link("file", "f")), Ok(Found::Link)));
        assert!(matches!(look_named(&link("directory", ".")), Ok(Found::Link)));
        let lost = link("lost", "nowhere");
        assert!(matches!(look_named(&lost), Ok(Found::Dangling)));
        assert!(dangling(&lost).reason.contains("nowhere"));
        look_named(&link("loop", "loop")).expect_err("leads to itself");
        assert_eq!(descriptor(&directory.path().join("f")), None);
    }
}
