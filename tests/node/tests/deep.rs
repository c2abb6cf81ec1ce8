//! Moves of directories make paths that are longer than a path may be: what is there is listed, summed up, verified and removed like all else, and
//! what can't be copied or fetched by such a path is named, with a way that works.

use client::{InodeKind, NewAttributes, RenameMode, UploadOptions};
use harness::Scratch;
use node_tests::{World, store};

/// Two chains of sixteen directories with names of 255 bytes, one under the other: more than 8,000 bytes down to the file.
fn build(world: &World) -> String {
    let chain = |letter: &str| vec![letter.repeat(255); 15].join("/");
    for (root, letter) in [("top", "a"), ("other", "b")] {
        let path = format!("{root}/{}", chain(letter));
        world.volume.mkdir(path.as_bytes(), NewAttributes::default(), true).wait().expect("made");
        let file = format!("{path}/f");
        store(&world.volume, file.as_bytes(), letter.as_bytes(), UploadOptions::default()).expect("stored");
    }
    let end = format!("top/{}/other", chain("a"));
    world.volume.rename(b"other", end.as_bytes(), RenameMode::NoReplace).wait().expect("moved");
    let beside = "top/beside";
    store(&world.volume, beside.as_bytes(), b"beside", UploadOptions::default()).expect("stored");
    format!("{end}/{}/f", chain("b"))
}

#[test]
fn what_is_too_deep_to_be_named_is_reached_all_the_same() {
    let world = World::new();
    let deepest = format!("/v/{}", build(&world));
    assert!(deepest.len() > 7000);
    let lists = |command: &[&str]| {
        let outcome = world.node.run(command).run().ok();
        assert!(outcome.text().lines().any(|line| line == deepest), "{command:?} has the deepest file");
    };
    lists(&["find", "/v/top"]);
    lists(&["find", "/v", "--name", "f", "--type", "f"]);
    let listed = world.node.run(["ls", "-R", "/v/top"]).run().ok().text();
    assert_eq!(listed.lines().count(), 15 + 1 + 1 + 1 + 15 + 1, "{listed}");
    let sums = world.node.run(["du", "-s", "--json", "/v/top"]).run().ok().json();
    assert_eq!(sums[0]["files"], 3);
    let verified = world.node.run(["verify", "--json", "/v"]).run().ok().json();
    assert_eq!(verified[0]["files"], 3);
    world.node.run(["chmod", "-R", "go-w", "/v/top"]).run().ok();
    world.node.run(["compact", "-r", "/v/top"]).run().ok();

    // Named as an argument it is refused, with a way out.
    let said = world.node.run(["stat", &deepest]).run().exits(2).messages();
    assert!(said.contains("4096 are allowed") && said.contains("catena mv"), "{said}");

    world.node.run(["rm", "-r", "--dry-run", "/v/top"]).run().ok();
    let removed = world.node.run(["rm", "-r", "/v/top"]).run().ok();
    let said = removed.text() + &removed.messages();
    assert!(said.contains("removed /v/top: 35 names"), "{said}");
    assert_eq!(world.volume.list(b"").wait().expect("listed").count(), 0);
}

/// `get -r` said of such a place that a file name is too long, and to choose a shorter one; `cp -r` that a limit was exceeded.
#[test]
fn what_is_too_deep_to_be_fetched_is_named_and_the_way_out_works() {
    let world = World::new();
    let scratch = Scratch::new();
    build(&world);
    let copy = scratch.join("copy");
    let copy = copy.to_str().expect("text");
    let outcome = world.node.run(["get", "-r", "/v/top", copy]).run().exits(8);
    let said = outcome.messages();
    assert_eq!(
        std::fs::read(format!("{copy}/beside")).expect("fetched"),
        b"beside",
        "everything else is there"
    );
    assert_eq!(said.matches("next: ").count(), 2, "one name, and the sum: {said}");
    let next = said.lines().find(|line| line.contains("next: ")).expect("a next step");
    assert!(said.contains("4,096 are allowed") || said.contains("the system takes 4,095"), "{said}");

    // What it says, done.
    let step = next.split("catena ").nth(1).expect("a command");
    let step = step.replace("/v/NAME", "/v/moved").replace(" DIR", &format!(" {copy}-2"));
    world.node.run(step.split(' ')).run().ok();
    if step.starts_with("mv") {
        world.node.run(["get", "-r", "/v/moved", &format!("{copy}-2")]).run().ok();
    }
    let found = files(std::path::Path::new(&format!("{copy}-2")));
    assert!(found.iter().any(|content| content == b"b"), "{} files, without the deepest", found.len());
}

/// The contents of all files below a directory.
fn files(directory: &std::path::Path) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry"));
    let contents = entries.flat_map(|entry| {
        let path = entry.path();
        if path.is_dir() { files(&path) } else { vec![std::fs::read(&path).expect("readable")] }
    });
    contents.collect()
}

#[test]
fn a_copy_that_would_be_too_deep_is_named_and_the_rest_is_copied() {
    let world = World::new();
    build(&world);
    let outcome = world.node.run(["cp", "-r", "/v/top", "/v/copy"]).run().exits(8);
    let said = outcome.messages();
    assert!(said.contains("its copy's path would have"), "{said}");
    assert!(said.contains("next: name a target less deep"), "{said}");
    let entry = world.volume.stat(b"copy/beside", false).wait().expect("copied");
    assert_eq!(entry.attributes.kind, InodeKind::File);
}
