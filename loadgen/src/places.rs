//! The paths of a run: their names, which of them take appends, and which belong together.
//!
//! Path *i* lies in directory *i* mod the number of directories. Sixteen paths that follow each other are a *group*: a rename leads to another path of
//! the group, so that what a checker has to look at together stays small. Every fourth path takes appends, and its renames lead to such paths only: all
//! writes to those have whole blocks.

use std::sync::Arc;

use crate::profile::{Keys, Profile};
use crate::random::{Random, Weighted};

/// Paths of a group.
const GROUP: u32 = 16;
/// Every so many-th path takes appends.
const APPENDED: u32 = 4;

/// All paths.
#[derive(Debug)]
pub(crate) struct Places {
    names: Vec<Arc<str>>,
    directories: Vec<Arc<str>>,
    /// How often each rank is asked for; `None`: all alike.
    ranks: Option<Weighted>,
    /// Ranks are spread over the paths by steps of this length, so that popular paths aren't neighbours.
    step: u64,
}

impl Places {
    pub(crate) fn new(directory: &str, profile: &Profile) -> Self {
        let folder = |path: u32| format!("{directory}/d{:03}", path % profile.directories);
        let ranks = match profile.keys {
            Keys::Uniform => None,
            Keys::Zipf { exponent } => Some(Weighted::zipf(profile.paths as usize, exponent)),
        };
        Self {
            names: (0..profile.paths).map(|path| Arc::from(format!("{}/f{path:06}", folder(path)))).collect(),
            directories: (0..profile.directories).map(|number| Arc::from(folder(number))).collect(),
            ranks,
            step: step(u64::from(profile.paths)),
        }
    }

    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.names.len()).expect("a profile's number of paths")
    }

    pub(crate) fn name(&self, path: u32) -> &Arc<str> {
        &self.names[path as usize]
    }

    pub(crate) fn directories(&self) -> &[Arc<str>] {
        &self.directories
    }

    /// The path that is asked for next.
    pub(crate) fn pick(&self, random: &mut Random) -> u32 {
        let count = self.names.len() as u64;
        let path = match &self.ranks {
            None => random.below(count),
            Some(ranks) => ranks.pick(random) as u64 * self.step % count,
        };
        u32::try_from(path).expect("below the number of paths")
    }

    /// A path near `path` that takes appends; `path` itself where none does.
    pub(crate) fn appended(&self, path: u32) -> u32 {
        let near = path - path % APPENDED + APPENDED - 1;
        if near < self.count() { near } else { path }
    }

    /// Whether all writes to a path have whole blocks.
    pub(crate) fn is_appended(&self, path: u32) -> bool {
        self.appended(path) == path
    }

    /// Another path that a file of this one may be moved to, if there is one.
    pub(crate) fn neighbour(&self, path: u32, random: &mut Random) -> Option<u32> {
        let group = path - path % GROUP;
        let fits = |other: &u32| *other != path && self.is_appended(*other) == self.is_appended(path);
        let others = (group..(group + GROUP).min(self.count())).filter(fits);
        let count = others.clone().count() as u64;
        let chosen = random.below(count.max(1));
        others.into_iter().nth(usize::try_from(chosen).expect("below sixteen"))
    }

    /// Whether bytes that were written to one of the paths may be found at the other.
    pub(crate) fn are_near(left: u32, right: u32) -> bool {
        left / GROUP == right / GROUP
    }
}

/// A number without a common divisor with `count`, near its golden section.
fn step(count: u64) -> u64 {
    let is_coprime = |step: &u64| {
        let (mut left, mut right) = (*step, count);
        while right != 0 {
            (left, right) = (right, left % right);
        }
        left == 1
    };
    (count * 618 / 1000..=count + 1).find(is_coprime).expect("the number above `count` is one")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::profile::BuiltIn;

    fn places(paths: u32) -> Places {
        let profile = Profile { paths, directories: 3, ..BuiltIn::ALL[0].profile() };
        Places::new("d", &profile)
    }

    #[test]
    fn ranks_reach_every_path() {
        for paths in [3, 4, 16, 100, 1000] {
            let places = places(paths);
            let reached: BTreeSet<u64> =
                (0..u64::from(paths)).map(|rank| rank * places.step % u64::from(paths)).collect();
            assert_eq!(reached.len() as u64, u64::from(paths));
        }
    }

    #[test]
    fn renames_stay_among_their_like() {
        let mut random = Random::stream(1, 1);
        for paths in [3, 20, 100] {
            let places = places(paths);
            for path in 0..paths {
                let Some(other) = places.neighbour(path, &mut random) else { continue };
                assert!(other < paths && other != path && Places::are_near(path, other));
                assert_eq!(places.is_appended(path), places.is_appended(other));
                assert!(places.is_appended(places.appended(path)));
            }
        }
        assert_eq!(&**places(9).name(7), "d/d001/f000007");
    }
}
