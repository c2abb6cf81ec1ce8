//! The model does what POSIX and the contract in `wire::meta` say.

use wire::meta::RenameMode;

use super::*;

fn execute(tree: &mut Tree, stamp: u64, action: &Action) -> Executed {
    tree.execute(action, Stamp(stamp), Made::At(stamp))
}

fn put(tree: &mut Tree, path: &str, stamp: u64) -> Executed {
    let action = Action::Replace { path: path.into(), length: 3, condition: Condition::Any, dress: None };
    execute(tree, stamp, &action)
}

fn directory(tree: &mut Tree, path: &str) -> Executed {
    execute(tree, 1, &Action::MakeDirectory { path: path.into(), parents: false })
}

fn link(tree: &mut Tree, path: &str, target: &str) -> Executed {
    execute(tree, 1, &Action::MakeLink { path: path.into(), target: target.into(), replace: false })
}

fn rename(tree: &mut Tree, from: &str, to: &str, mode: RenameMode) -> Executed {
    execute(tree, 99, &Action::Rename { from: from.into(), to: to.into(), mode })
}

fn names(tree: &Tree, path: &str) -> Vec<(String, InodeKind)> {
    tree.rows(path, "").into_iter().map(|row| (row.name, row.kind)).collect()
}

#[test]
fn renames_are_as_posix_says() {
    let mut tree = Tree::default();
    for path in ["a", "a/b", "c"] {
        directory(&mut tree, path).expect("new");
    }
    put(&mut tree, "a/b/f", 2).expect("new");
    put(&mut tree, "g", 3).expect("new");
    let replace = RenameMode::Replace;
    assert_eq!(rename(&mut tree, "a", "a/b/x", replace), Err(bare(Status::Cycle)));
    assert_eq!(rename(&mut tree, "c", "a", replace), Err(bare(Status::NotEmpty)));
    assert_eq!(rename(&mut tree, "c", "g", replace), Err(bare(Status::NotDirectory)));
    assert_eq!(rename(&mut tree, "g", "c", replace), Err(bare(Status::IsDirectory)));
    assert_eq!(rename(&mut tree, "g", "a/b/f", RenameMode::NoReplace), Err(bare(Status::AlreadyExists)));
    rename(&mut tree, "a/b", "c", replace).expect("onto an empty directory");
    assert_eq!(names(&tree, "c"), [("f".to_owned(), InodeKind::File)]);
    assert_eq!(names(&tree, "a"), []);
    rename(&mut tree, "c", "g", RenameMode::Exchange).expect("both are there");
    assert_eq!(names(&tree, "g"), [("f".to_owned(), InodeKind::File)]);
    assert_eq!(tree.look("g/f", false).expect("a path").map(|(_, node)| node.kind()), Some(InodeKind::File));
    assert_eq!(tree.look("c/f", false), Err(Status::NotDirectory));
}

#[test]
fn links_are_followed_on_the_way_and_where_asked_for() {
    let mut tree = Tree::default();
    directory(&mut tree, "d").expect("new");
    link(&mut tree, "l", "d").expect("new");
    link(&mut tree, "d/up", "../f").expect("new");
    put(&mut tree, "l/a", 2).expect("through a link");
    assert_eq!(names(&tree, "d"), [("a".into(), InodeKind::File), ("up".into(), InodeKind::Symlink)]);
    let append = |path: &str| Action::Append { path: path.into(), length: 4 };
    execute(&mut tree, 3, &append("l/up")).expect("a dangling link's target is made");
    assert_eq!(tree.look("f", false).expect("a path").map(|(_, node)| node.kind()), Some(InodeKind::File));
    put(&mut tree, "l/up", 4).expect("a link is replaced, not followed");
    let look = |tree: &Tree, path: &str, follow| tree.look(path, follow).expect("a path").map(|(at, _)| at);
    assert_eq!(look(&tree, "l/up", true), Some("d/up".into()));
    link(&mut tree, "m", "m").expect("new");
    assert_eq!(tree.look("m", true), Err(Status::TooManyLinks));
    assert_eq!(tree.look("m/x", false), Err(Status::TooManyLinks));
    assert_eq!(look(&tree, "m", false), Some("m".into()));
    rename(&mut tree, "m", "d/m", RenameMode::Replace).expect("a link is moved, not followed");
    assert_eq!(link(&mut tree, "l", "x"), Err(bare(Status::AlreadyExists)));
    execute(&mut tree, 5, &Action::RemoveFile { path: "l".into(), condition: Condition::Present })
        .expect("a link is removed, not followed");
    assert_eq!(tree.look("l/a", false), Err(Status::NotFound));
    assert_eq!(join_target("d/e/l", "../../a/b"), "a/b");
}

#[test]
fn parents_are_made_but_not_through_a_dangling_link() {
    let mut tree = Tree::default();
    let parents = |path: &str| Action::MakeDirectory { path: path.into(), parents: true };
    execute(&mut tree, 1, &parents("d/f/g")).expect("all new");
    execute(&mut tree, 1, &parents("d/f")).expect("there already");
    put(&mut tree, "d/a", 2).expect("new");
    assert_eq!(execute(&mut tree, 1, &parents("d/a")), Err(bare(Status::AlreadyExists)));
    assert_eq!(execute(&mut tree, 1, &parents("d/a/x")), Err(bare(Status::NotDirectory)));
    link(&mut tree, "l", "nowhere").expect("new");
    assert_eq!(execute(&mut tree, 1, &parents("l/x")), Err(bare(Status::NotFound)));
    execute(&mut tree, 1, &parents("l")).expect("the link's target is made, as an open would");
    assert_eq!(names(&tree, "nowhere"), []);
}

#[test]
fn attributes_stay_with_the_file_and_go_with_a_copy() {
    let mut tree = Tree::default();
    put(&mut tree, "a", 2).expect("new");
    let set = Action::SetXattr { path: "a".into(), follow: true, name: "user.b", mode: XattrMode::Create };
    execute(&mut tree, 3, &set).expect("new");
    assert_eq!(execute(&mut tree, 4, &set), Err(bare(Status::AlreadyExists)));
    let change =
        Action::SetAttributes { path: "a".into(), follow: true, mode: Some(0o600), modified: Some(7) };
    execute(&mut tree, 5, &change).expect("there");
    let copy = |to: &str, part| Action::Copy { from: "a".into(), to: to.into(), part, version: None };
    execute(&mut tree, 6, &copy("b", None)).expect("there");
    let node = |tree: &Tree, path: &str| tree.look(path, false).expect("a path").expect("there").1;
    let attributes = |node: &Node| (node.mode, node.modified, node.xattrs.clone());
    assert_eq!(attributes(&node(&tree, "a")), attributes(&node(&tree, "b")));
    let part = Part { from: 1, length: 9, to: 5 };
    let effect = execute(&mut tree, 7, &copy("b", Some(part))).expect("there");
    assert_eq!((effect.offset, effect.size), (Some(5), Some(7)));
    assert_eq!(attributes(&node(&tree, "b")), (0o600, None, [("user.b", Stamp(3))].into()));
    let dress = Some(Dress { mode: 0o640, modified: None, xattr: true });
    let put = Action::Replace { path: "b".into(), length: 1, condition: Condition::Any, dress };
    execute(&mut tree, 8, &put).expect("a file");
    assert_eq!(attributes(&node(&tree, "b")), (0o640, None, [("user.a", Stamp(8))].into()));
}
