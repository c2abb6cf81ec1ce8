//! Numbers of files and directories, as the kernel names them, and their paths.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Number of the served folder itself.
pub(crate) const ROOT: u64 = 1;

/// Which number has which path, relative to the served folder. A number is given once and never to another file.
#[derive(Debug)]
pub(crate) struct Nodes {
    paths: BTreeMap<u64, PathBuf>,
    numbers: BTreeMap<PathBuf, u64>,
    last: u64,
}

impl Nodes {
    pub(crate) fn new() -> Self {
        let root = PathBuf::new();
        Self {
            paths: BTreeMap::from([(ROOT, root.clone())]),
            numbers: BTreeMap::from([(root, ROOT)]),
            last: ROOT,
        }
    }

    /// The path of a number that still has one.
    pub(crate) fn path(&self, number: u64) -> Option<&Path> {
        self.paths.get(&number).map(PathBuf::as_path)
    }

    /// The number of a path, given now if it has none.
    pub(crate) fn number(&mut self, path: &Path) -> u64 {
        if let Some(number) = self.numbers.get(path) {
            return *number;
        }
        self.last += 1;
        self.paths.insert(self.last, path.to_owned());
        self.numbers.insert(path.to_owned(), self.last);
        self.last
    }

    /// A name went away: its number has no path any more.
    pub(crate) fn forget(&mut self, path: &Path) {
        for (path, number) in self.below(path) {
            self.numbers.remove(&path);
            self.paths.remove(&number);
        }
    }

    /// A name changed, and with it all names below.
    pub(crate) fn rename(&mut self, from: &Path, to: &Path) {
        self.forget(to);
        for (path, number) in self.below(from) {
            let rest = path.strip_prefix(from).expect("below its prefix");
            let new = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
            self.numbers.remove(&path);
            self.paths.insert(number, new.clone());
            self.numbers.insert(new, number);
        }
    }

    fn below(&self, path: &Path) -> Vec<(PathBuf, u64)> {
        let inside =
            |(found, number): (&PathBuf, &u64)| found.starts_with(path).then(|| (found.clone(), *number));
        self.numbers.iter().filter_map(inside).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_their_files() {
        let mut nodes = Nodes::new();
        let folder = nodes.number(Path::new("a"));
        let file = nodes.number(Path::new("a/f"));
        let other = nodes.number(Path::new("ab"));
        nodes.rename(Path::new("a"), Path::new("b"));
        assert_eq!(nodes.path(folder), Some(Path::new("b")));
        assert_eq!(nodes.path(file), Some(Path::new("b/f")));
        assert_eq!(nodes.path(other), Some(Path::new("ab")), "no prefix by letters");
        nodes.rename(Path::new("ab"), Path::new("b/f"));
        assert_eq!(nodes.path(file), None, "replaced");
        assert_eq!(nodes.path(other), Some(Path::new("b/f")));
        nodes.forget(Path::new("b"));
        assert_eq!((nodes.path(folder), nodes.path(other)), (None, None));
        assert!(nodes.number(Path::new("a/f")) > other, "never given again");
    }
}
