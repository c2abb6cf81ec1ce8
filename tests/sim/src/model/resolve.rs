//! Walking a path through links, as the contract in `wire::meta` says.

use std::rc::Rc;

use wire::Status;

use super::{Kind, NAME_MODE, Node, Tree};
use crate::history::Path;

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    /// The real path: no component of it is a link.
    pub at: Path,
}

/// Links on one way, at most.
const HOPS_MAX: u32 = 40;

impl Tree {
    /// Walks to `path`. With `follow` a link there is followed too; where it dangles, the spot is the one that it names.
    pub(crate) fn resolve(&self, path: &str, follow: bool) -> Result<Spot, Status> {
        let mut rest = components(path);
        let mut here = Path::new();
        let mut hops = 0;
        while let Some(component) = rest.pop() {
            if !here.is_empty() && self.0[&here].kind != Kind::Directory {
                return Err(Status::NotDirectory);
            }
            if component == ".." {
                here = parent(&here).to_owned();
                continue;
            }
            let child = join(&here, &component);
            match self.0.get(&child).map(|node| &node.kind) {
                None if rest.is_empty() => return Ok(Spot { at: child }),
                None => return Err(Status::NotFound),
                Some(Kind::Link(target)) if follow || !rest.is_empty() => {
                    hops += 1;
                    if hops > HOPS_MAX {
                        return Err(Status::TooManyLinks);
                    }
                    if target.starts_with('/') {
                        here.clear();
                    }
                    rest.extend(components(target));
                }
                Some(_) => here = child,
            }
        }
        Ok(Spot { at: here })
    }

    /// What is at `path`, and where that really is, or why nothing can be there.
    pub(crate) fn look(&self, path: &str, follow: bool) -> Result<Option<(Path, Rc<Node>)>, Status> {
        let spot = self.resolve(path, follow)?;
        if spot.at.is_empty() {
            return Ok(Some((spot.at, Rc::new(Node::new(Kind::Directory, NAME_MODE)))));
        }
        let node = self.0.get(&spot.at).cloned();
        Ok(node.map(|node| (spot.at, node)))
    }

    /// What is at a spot.
    pub(super) fn at(&self, spot: &Spot) -> Option<&Node> {
        self.0.get(&spot.at).map(|node| &**node)
    }
}

/// A path's components, the first one last.
fn components(path: &str) -> Vec<String> {
    path.split('/').filter(|part| !part.is_empty()).rev().map(str::to_owned).collect()
}

pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

pub(super) fn join(directory: &str, name: &str) -> Path {
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}

/// What of `path` comes below `directory`.
pub(crate) fn below<'a>(directory: &str, path: &'a str) -> Option<&'a str> {
    if directory.is_empty() {
        return (!path.is_empty()).then_some(path);
    }
    path.strip_prefix(directory)?.strip_prefix('/')
}

/// The path that a link at `link` with this target stands for, as text: links on the target's own way are not followed.
pub(crate) fn join_target(link: &str, target: &str) -> Path {
    let mut here = if target.starts_with('/') { Path::new() } else { parent(link).to_owned() };
    for component in target.split('/').filter(|part| !part.is_empty()) {
        here = if component == ".." { parent(&here).to_owned() } else { join(&here, component) };
    }
    here
}
