//! The tree under test: its text files, read once.
//!
//! A directory walk rather than a list from git, so that a file counts before it is committed and an unpacked archive can be
//! checked too. Build output, hidden directories (but `.ci` and `.cargo`) and what [`Tree::read`] can't decode are left out.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// One text file.
#[derive(Clone, Debug)]
pub struct File {
    /// Path from the root, with `/`.
    pub path: String,
    /// Its whole text.
    pub text: String,
}

impl File {
    /// A file made up by a test.
    #[must_use]
    pub fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    /// Whether this is Rust source.
    #[must_use]
    pub fn is_rust(&self) -> bool {
        self.has_extension("rs")
    }

    /// Whether this is a page of text.
    #[must_use]
    pub fn is_page(&self) -> bool {
        self.has_extension("md")
    }

    fn has_extension(&self, extension: &str) -> bool {
        Path::new(&self.path).extension().is_some_and(|found| found == extension)
    }

    /// Whether `flatc` or another generator wrote it: nobody edits it, so no house rule applies.
    #[must_use]
    pub fn is_generated(&self) -> bool {
        ["wire/generated/src/", "meta/raft-proto/"].iter().any(|folder| self.path.starts_with(folder))
    }
}

/// All text files of the workspace, sorted by path.
#[derive(Clone, Debug)]
pub struct Tree {
    root: PathBuf,
    files: Vec<File>,
}

impl Tree {
    /// The workspace that this crate was built in.
    pub fn workspace() -> io::Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).ok_or(io::ErrorKind::NotFound)?;
        Self::read(root)
    }

    /// Everything below `root`.
    pub fn read(root: &Path) -> io::Result<Self> {
        let mut files = Vec::new();
        collect(root, "", &mut files)?;
        files.sort_by(|left, right| left.path.cmp(&right.path));
        Ok(Self { root: root.to_owned(), files })
    }

    /// A tree made up by a test; nothing in it exists on disk.
    #[must_use]
    pub fn from_files(files: Vec<File>) -> Self {
        Self { root: PathBuf::new(), files }
    }

    /// All files.
    #[must_use]
    pub fn files(&self) -> &[File] {
        &self.files
    }

    /// Rust source that people wrote.
    pub fn rust(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.is_rust() && !file.is_generated())
    }

    /// The file at `path`, if there is one.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&File> {
        self.files.binary_search_by(|file| file.path.as_str().cmp(path)).ok().map(|found| &self.files[found])
    }

    /// The text at `path`, empty if there is no such file.
    #[must_use]
    pub fn text(&self, path: &str) -> &str {
        self.file(path).map_or("", |file| &file.text)
    }

    /// Whether `path` is a file or a directory of the tree.
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let folder = format!("{path}/");
        self.file(path).is_some()
            || self.files.iter().any(|file| file.path.starts_with(&folder))
            || (!self.root.as_os_str().is_empty() && self.root.join(path).exists())
    }
}

/// Largest file that is read as text; the tree has no text near it.
const TEXT_BYTES_MAX: u64 = 4 << 20;

fn collect(root: &Path, folder: &str, files: &mut Vec<File>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(folder))? {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
        let kind = entry.file_type()?;
        if kind.is_dir() {
            let hidden = name.starts_with('.') && name != ".ci" && name != ".cargo";
            if !hidden && name != "target" {
                collect(root, &path, files)?;
            }
        } else if kind.is_file() && entry.metadata()?.len() <= TEXT_BYTES_MAX {
            // What isn't UTF-8 (golden frames, pictures) has no words to check.
            if let Ok(text) = String::from_utf8(fs::read(entry.path())?) {
                files.push(File { path, text });
            }
        }
    }
    Ok(())
}
