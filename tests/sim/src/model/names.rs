//! What makes, moves and removes names.

use std::rc::Rc;

use wire::Status;
use wire::meta::RenameMode;

use super::resolve::{Spot, join};
use super::{Effect, Executed, Kind, NAME_MODE, Node, Tree, bare, below};
use crate::history::{Action, Path};

impl Tree {
    pub(super) fn execute_name(&mut self, action: &Action) -> Executed {
        match action {
            Action::MakeDirectory { path, parents: false } => {
                let spot = self.resolve(path, false).map_err(bare)?;
                if self.at(&spot).is_some() || spot.at.is_empty() {
                    return Err(bare(Status::AlreadyExists));
                }
                self.make(spot.at, Kind::Directory);
                Ok(Effect::default())
            }
            Action::MakeDirectory { path, .. } => self.make_parents(path),
            Action::MakeLink { path, target, replace } => {
                let spot = self.resolve(path, false).map_err(bare)?;
                match self.at(&spot) {
                    Some(_) if !replace => return Err(bare(Status::AlreadyExists)),
                    Some(node) if node.kind == Kind::Directory => return Err(bare(Status::IsDirectory)),
                    _ => {}
                }
                self.make(spot.at, Kind::Link(target.clone()));
                Ok(Effect { size: Some(target.len() as u64), ..Effect::default() })
            }
            Action::RemoveFile { path, condition } => {
                let spot = self.resolve(path, false).map_err(bare)?;
                self.check(&spot, *condition)?;
                if self.present(&spot)?.kind == Kind::Directory {
                    return Err(bare(Status::IsDirectory));
                }
                self.0.remove(&spot.at);
                Ok(Effect::default())
            }
            Action::RemoveDirectory { path } => {
                let spot = self.resolve(path, false).map_err(bare)?;
                if self.present(&spot)?.kind != Kind::Directory {
                    return Err(bare(Status::NotDirectory));
                }
                if self.children(&spot.at) > 0 {
                    return Err(bare(Status::NotEmpty));
                }
                self.0.remove(&spot.at);
                Ok(Effect::default())
            }
            Action::Rename { from, to, mode } => self.rename(from, to, *mode),
            _ => unreachable!("only what makes, moves and removes names"),
        }
    }

    fn make(&mut self, path: Path, kind: Kind) {
        self.0.insert(path, Rc::new(Node::new(kind, NAME_MODE)));
    }

    /// A directory with its missing parents; one that is there already will do.
    fn make_parents(&mut self, path: &str) -> Executed {
        match self.resolve(path, true) {
            Err(Status::NotFound) => {}
            Err(status) => return Err(bare(status)),
            Ok(spot) => {
                return match self.at(&spot) {
                    Some(node) if node.kind != Kind::Directory => Err(bare(Status::AlreadyExists)),
                    Some(_) => Ok(Effect::default()),
                    None => {
                        self.make(spot.at, Kind::Directory);
                        Ok(Effect::default())
                    }
                };
            }
        }
        // Down as far as there is something, then the rest; nothing is made through a dangling link.
        let mut here = Path::new();
        let mut left = path.split('/');
        for name in left.by_ref() {
            let plain = join(&here, name);
            let spot = self.resolve(&plain, true).map_err(bare)?;
            match self.at(&spot) {
                Some(node) if node.kind != Kind::Directory => return Err(bare(Status::NotDirectory)),
                Some(_) => here = spot.at,
                None if spot.at != plain => return Err(bare(Status::NotFound)),
                None => {
                    here = plain;
                    self.make(here.clone(), Kind::Directory);
                    break;
                }
            }
        }
        for name in left {
            here = join(&here, name);
            self.make(here.clone(), Kind::Directory);
        }
        Ok(Effect::default())
    }

    fn rename(&mut self, from: &str, to: &str, mode: RenameMode) -> Executed {
        let from = self.resolve(from, false).map_err(bare)?;
        let source = self.present(&from)?.clone();
        let to = self.resolve(to, false).map_err(bare)?;
        let target = self.at(&to).cloned();
        if from == to {
            let exists = Err(bare(Status::AlreadyExists));
            return if mode == RenameMode::NoReplace { exists } else { Ok(Effect::default()) };
        }
        if source.kind == Kind::Directory && below(&from.at, &to.at).is_some() {
            return Err(bare(Status::Cycle));
        }
        let Some(target) = target else {
            if mode == RenameMode::Exchange {
                return Err(bare(Status::NotFound));
            }
            return Ok(self.carry(&from, &to));
        };
        match (mode, &source.kind, &target.kind) {
            (RenameMode::NoReplace, ..) => return Err(bare(Status::AlreadyExists)),
            (RenameMode::Exchange, _, target) => {
                if *target == Kind::Directory && below(&to.at, &from.at).is_some() {
                    return Err(bare(Status::Cycle));
                }
                let (from_tree, to_tree) = (self.take(&from.at), self.take(&to.at));
                self.attach(&to.at, from_tree);
                self.attach(&from.at, to_tree);
                return Ok(Effect::default());
            }
            (_, Kind::Directory, Kind::Directory) if self.children(&to.at) > 0 => {
                return Err(bare(Status::NotEmpty));
            }
            (_, Kind::Directory, Kind::Directory) => {}
            (_, Kind::Directory, _) => return Err(bare(Status::NotDirectory)),
            (_, _, Kind::Directory) => {
                return Err(bare(Status::IsDirectory));
            }
            _ => {}
        }
        Ok(self.carry(&from, &to))
    }

    fn carry(&mut self, from: &Spot, to: &Spot) -> Effect {
        let moved = self.take(&from.at);
        self.0.remove(&to.at);
        self.attach(&to.at, moved);
        Effect::default()
    }

    /// Takes out a path with everything below it; keys are relative to it.
    fn take(&mut self, path: &str) -> Vec<(String, Rc<Node>)> {
        let keys: Vec<String> =
            self.0.keys().filter(|at| *at == path || below(path, at).is_some()).cloned().collect();
        keys.into_iter()
            .map(|key| {
                let node = self.0.remove(&key).expect("listed above");
                (key[path.len()..].to_owned(), node)
            })
            .collect()
    }

    fn attach(&mut self, path: &str, nodes: Vec<(String, Rc<Node>)>) {
        for (rest, node) in nodes {
            self.0.insert(format!("{path}{rest}"), node);
        }
    }
}
