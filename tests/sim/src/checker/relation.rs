//! Which open mutations a step may depend on: those that touch what it touches, or what those touch. All others commute with it and can wait.
//!
//! With links one path stands for others. A path's *footprint* is every path that it may stand for with the links that are there, those that an open
//! mutation may make, and those that an open rename may carry to another place: too many rather than too few.

use std::collections::BTreeSet;

use crate::history::{Action, Path, Record};
use crate::model::{Kind, Tree, below, join_target};

/// Paths of one footprint, at most: with more, everything is related to it.
const FOOTPRINT_MAX: usize = 64;
/// Rounds in which links carry links: more links on one way than the workload makes.
const ROUNDS: usize = 4;

/// A link that may be there, and what it says.
type Alias = (Path, Path);

/// See the module.
pub(super) fn related(records: &[Record], place: usize, open: &BTreeSet<usize>, tree: &Tree) -> Vec<usize> {
    let aliases = aliases(records, open, tree);
    let print = |at: usize| -> Vec<BTreeSet<Path>> {
        let action = &records[at].action;
        let mut paths: Vec<&str> = action.paths().into_iter().flatten().map(String::as_str).collect();
        if let Action::MakeDirectory { path, parents: true } = action {
            paths.extend(path.match_indices('/').map(|(end, _)| &path[..end]));
        }
        paths.into_iter().map(|path| footprint(path, &aliases)).collect()
    };
    let mut touched = vec![print(place)];
    let mut rest: Vec<(usize, Vec<BTreeSet<Path>>)> = open.iter().map(|&at| (at, print(at))).collect();
    let mut found = Vec::new();
    while let Some(one) = touched.pop() {
        let (related, others) = rest.into_iter().partition(|(_, other)| touch(&one, other));
        rest = others;
        for (at, prints) in related {
            found.push(at);
            touched.push(prints);
        }
    }
    found
}

/// Whether two operations have a path in common, or one has a path below the other's.
fn touch(one: &[BTreeSet<Path>], other: &[BTreeSet<Path>]) -> bool {
    let near = |a: &Path, b: &Path| a == b || below(a, b).is_some() || below(b, a).is_some();
    let is_wide = |prints: &[BTreeSet<Path>]| prints.iter().any(|print| print.len() >= FOOTPRINT_MAX);
    is_wide(one) || is_wide(other) || one.iter().flatten().any(|a| other.iter().flatten().any(|b| near(a, b)))
}

/// Links that are there, that may be made, and where they may be carried.
fn aliases(records: &[Record], open: &BTreeSet<usize>, tree: &Tree) -> BTreeSet<Alias> {
    let mut aliases: BTreeSet<Alias> = tree
        .iter()
        .filter_map(|(path, node)| match &node.kind {
            Kind::Link(target) => Some((path.clone(), target.clone())),
            _ => None,
        })
        .collect();
    let makes = |at: &usize| matches!(records[*at].action, Action::MakeLink { .. });
    if aliases.is_empty() && !open.iter().any(makes) {
        return aliases;
    }
    for _ in 0..ROUNDS {
        let mut more = BTreeSet::new();
        for &at in open {
            match &records[at].action {
                Action::MakeLink { path, target, .. } => {
                    more.extend(footprint(path, &aliases).into_iter().map(|path| (path, target.clone())));
                }
                Action::Rename { from, to, .. } => {
                    carry(&aliases, from, to, &mut more);
                    // An exchange carries back; a rename that never happened does no harm here.
                    carry(&aliases, to, from, &mut more);
                }
                _ => {}
            }
        }
        let before = aliases.len();
        aliases.extend(more);
        if aliases.len() == before || aliases.len() >= FOOTPRINT_MAX {
            break;
        }
    }
    aliases
}

/// The links at or below `from`, as they are when that is moved to `to`.
fn carry(aliases: &BTreeSet<Alias>, from: &str, to: &str, more: &mut BTreeSet<Alias>) {
    let targets = footprint(to, aliases);
    for source in footprint(from, aliases) {
        for (path, target) in aliases {
            let rest = if *path == source { Some("") } else { below(&source, path) };
            let Some(rest) = rest else { continue };
            for to in &targets {
                let moved = if rest.is_empty() { to.clone() } else { format!("{to}/{rest}") };
                more.insert((moved, target.clone()));
            }
        }
    }
}

/// Every path that `path` may stand for.
fn footprint(path: &str, aliases: &BTreeSet<Alias>) -> BTreeSet<Path> {
    let mut print = BTreeSet::from([path.to_owned()]);
    let mut queue = vec![path.to_owned()];
    while let Some(path) = queue.pop() {
        for (link, target) in aliases {
            let rest = if path == *link { Some("") } else { below(link, &path) };
            let Some(rest) = rest else { continue };
            let base = join_target(link, target);
            let through = match (base.is_empty(), rest.is_empty()) {
                (_, true) => base,
                (true, false) => rest.to_owned(),
                (false, false) => format!("{base}/{rest}"),
            };
            if print.len() < FOOTPRINT_MAX && print.insert(through.clone()) {
                queue.push(through);
            }
        }
    }
    print
}
