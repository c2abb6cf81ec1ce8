//! What this process was told of each path, to see by itself what can't be: stale reads, and lost files.
//!
//! A read that names an index below one that was known when it began is *stale*, whatever it is about. A read of an older version than one known,
//! or of nothing where a file was, is *lost*, if no removal or rename of this process came between and nobody else works on the directory. So what is
//! found here is wrong for certain; what isn't, the checkers find.

/// What is known of a path.
#[derive(Clone, Copy, Debug, Default)]
struct Path {
    /// As of this index.
    index: u64,
    /// 0: nothing is there.
    version: u64,
    size: u64,
    /// Removals and renames that touch it, under way or of unknown outcome.
    open: u32,
    /// How many began or ended.
    changes: u32,
}

/// All paths.
#[derive(Debug)]
pub(crate) struct Known {
    paths: Vec<Path>,
    /// The highest index that anybody here was told.
    index: u64,
    /// Nobody else changes these paths.
    is_alone: bool,
}

/// What was known when a read began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Before {
    path: Path,
    index: u64,
}

/// What a read should not have seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contradiction {
    Stale,
    Lost,
}

impl Known {
    pub(crate) fn new(paths: u32, is_alone: bool) -> Self {
        Self { paths: vec![Path::default(); paths as usize], index: 0, is_alone }
    }

    pub(crate) fn size(&self, path: u32) -> u64 {
        self.paths[path as usize].size
    }

    pub(crate) fn before(&self, path: u32) -> Before {
        Before { path: self.paths[path as usize], index: self.index }
    }

    /// A removal or rename that touches the path begins.
    pub(crate) fn open(&mut self, path: u32) {
        let path = &mut self.paths[path as usize];
        path.open += 1;
        path.changes += 1;
    }

    /// It has ended; one whose outcome is unknown never does.
    pub(crate) fn close(&mut self, path: u32) {
        let path = &mut self.paths[path as usize];
        path.open -= 1;
        path.changes += 1;
    }

    /// The path has this version as of an index.
    pub(crate) fn learn(&mut self, path: u32, index: u64, version: u64, size: u64) {
        self.index = self.index.max(index);
        let path = &mut self.paths[path as usize];
        if index > path.index {
            (path.index, path.version, path.size) = (index, version, size);
        }
    }

    /// Whether a read that began with `before` can have seen this: index and version, or nothing.
    pub(crate) fn judge(
        &self,
        path: u32,
        before: &Before,
        seen: Option<(u64, u64)>,
    ) -> Result<(), Contradiction> {
        let now = &self.paths[path as usize];
        let is_quiet = self.is_alone && before.path.open == 0 && now.changes == before.path.changes;
        let is_older = seen.is_none_or(|(_, version)| version < before.path.version);
        match seen {
            Some((index, _)) if index < before.index => Err(Contradiction::Stale),
            _ if is_quiet && is_older && before.path.version > 0 => Err(Contradiction::Lost),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictions_are_seen() {
        let mut known = Known::new(3, true);
        let nothing = known.before(1);
        known.learn(1, 10, 10, 100);
        known.learn(2, 12, 12, 100);
        let before = known.before(1);
        assert_eq!(known.judge(1, &before, Some((12, 10))), Ok(()));
        assert_eq!(known.judge(1, &before, Some((14, 13))), Ok(()));
        assert_eq!(known.judge(1, &before, Some((11, 10))), Err(Contradiction::Stale), "12 was known");
        assert_eq!(known.judge(1, &before, Some((12, 9))), Err(Contradiction::Lost));
        assert_eq!(known.judge(1, &before, None), Err(Contradiction::Lost));
        assert_eq!(known.judge(1, &nothing, None), Ok(()));
        // A removal under way, one that came between, and one of unknown outcome explain it.
        known.open(1);
        assert_eq!(known.judge(1, &before, None), Ok(()));
        let during = known.before(1);
        known.close(1);
        assert_eq!(known.judge(1, &during, None), Ok(()));
        assert_eq!(known.judge(1, &before, None), Ok(()));
        assert_eq!(known.judge(1, &known.before(1), None), Err(Contradiction::Lost));
        known.open(1);
        assert_eq!(known.judge(1, &known.before(1), None), Ok(()));
    }

    #[test]
    fn others_may_have_done_it() {
        let mut known = Known::new(1, false);
        known.learn(0, 10, 10, 100);
        assert_eq!(known.judge(0, &known.before(0), None), Ok(()));
        assert_eq!(known.judge(0, &known.before(0), Some((9, 9))), Err(Contradiction::Stale));
    }

    #[test]
    fn what_is_older_is_not_learnt() {
        let mut known = Known::new(1, true);
        known.learn(0, 10, 10, 100);
        known.learn(0, 9, 9, 50);
        assert_eq!(known.size(0), 100);
    }
}
