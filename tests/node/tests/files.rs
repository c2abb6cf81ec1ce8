//! Files of every awkward size and shape come back byte for byte, whole or in ranges; names may be anything that the rules allow.

#![expect(clippy::cast_possible_truncation, reason = "small numbers, 64-bit machines")]

use client::{ErrorKind, NewAttributes, ReadRange, RemoveKind, UploadChange, UploadOptions};
use harness::{Content, Scratch};
use node_tests::{CHUNK_BYTES, World, fetch, store};

#[test]
fn every_size_comes_back() {
    let world = World::new();
    let chunk = u64::from(CHUNK_BYTES);
    for size in [0, 1, 4095, 4096, 4097, chunk - 1, chunk, chunk + 1, 3 * chunk, 5 * chunk + 4097] {
        let content = Content::new(size, size).bytes();
        let path = format!("size-{size}");
        let committed =
            store(&world.volume, path.as_bytes(), &content, UploadOptions::default()).expect("stored");
        assert_eq!(committed.size, size);
        assert!(fetch(&world.volume, path.as_bytes(), ReadRange::Whole).expect("read") == content, "{size}");
        for (offset, length) in
            [(0, 1), (size / 2, 5000), (size.saturating_sub(1), 10), (chunk - 1, 2), (size, 1)]
        {
            let expected = &content[offset.min(size) as usize..(offset + length).min(size) as usize];
            let found =
                fetch(&world.volume, path.as_bytes(), ReadRange::Span { offset, length }).expect("read");
            assert!(found == expected, "{size}: {length} bytes at {offset}");
        }
    }
}

#[test]
fn holes_overwrites_appends_and_cuts_compose() {
    let world = World::new();
    let mut model = Content::new(1, 300_000).bytes();
    store(&world.volume, b"f", &model, UploadOptions::default()).expect("stored");
    let change = |change| UploadOptions { change, ..UploadOptions::default() };
    for (seed, offset, length) in
        [(2, 10, 5), (3, 65_530, 20), (4, 0, 70_000), (5, 299_990, 40_000), (6, 500_000, 10)]
    {
        let patch = Content::new(seed, length).bytes();
        store(&world.volume, b"f", &patch, change(UploadChange::Write { offset })).expect("written");
        let end = (offset + length) as usize;
        model.resize(model.len().max(end), 0);
        model[offset as usize..end].copy_from_slice(&patch);
        assert!(
            fetch(&world.volume, b"f", ReadRange::Whole).expect("read") == model,
            "{length} bytes at {offset}"
        );
    }
    let tail = Content::new(7, 100_000).bytes();
    let appended = store(&world.volume, b"f", &tail, change(UploadChange::Append)).expect("appended");
    assert_eq!(appended.offset, model.len() as u64);
    model.extend_from_slice(&tail);
    for size in [400_000, 65_536, 65_537, 1, 0, 90_000] {
        world.volume.truncate(b"f", size, client::Precondition::Any).wait().expect("truncated");
        model.resize(size as usize, 0);
        assert!(fetch(&world.volume, b"f", ReadRange::Whole).expect("read") == model, "cut to {size}");
    }
}

#[test]
fn names_are_bytes() {
    let world = World::new();
    let long = vec![b'n'; 255];
    let names: [&[u8]; 6] = [b"new\nline", b"\xff\xfe not UTF-8", b" ", b"-rf", b"\\\"'*?", &long];
    for name in names {
        store(&world.volume, name, name, UploadOptions::default()).expect("stored");
    }
    let listed: Vec<Vec<u8>> =
        world.volume.list(b"").wait().expect("listed").map(|entry| entry.expect("an entry").name).collect();
    let mut expected: Vec<Vec<u8>> = names.iter().map(|name| name.to_vec()).collect();
    expected.sort();
    assert_eq!(listed, expected);
    for name in names {
        assert_eq!(fetch(&world.volume, name, ReadRange::Whole).expect("read"), name);
    }
    for (name, kind) in [
        (vec![b'n'; 256], ErrorKind::Usage),
        (b"a\0b".to_vec(), ErrorKind::Usage),
        (b"../x".to_vec(), ErrorKind::Usage),
        (b"absent/x".to_vec(), ErrorKind::NotFound),
    ] {
        let error = store(&world.volume, &name, b"x", UploadOptions::default()).expect_err("refused");
        assert_eq!(error.kind(), kind, "{error}");
    }
}

#[test]
fn a_thousand_directories_deep() {
    let world = World::new();
    let path = vec!["d"; 1000].join("/");
    world.volume.mkdir(path.as_bytes(), NewAttributes::default(), true).wait().expect("made");
    let file = format!("{path}/file");
    store(&world.volume, file.as_bytes(), b"deep", UploadOptions::default()).expect("stored");
    assert_eq!(fetch(&world.volume, file.as_bytes(), ReadRange::Whole).expect("read"), b"deep");
    let error = world
        .volume
        .remove(path.as_bytes(), RemoveKind::Directory, client::Precondition::Any)
        .wait()
        .expect_err("not empty");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
}

/// ext4 keeps a file's extended attributes in one block. A larger one was told as a full disk, and the file's content wasn't kept either.
#[test]
fn an_attribute_that_the_file_system_cannot_hold_costs_no_content() {
    let world = World::new();
    let scratch = Scratch::new();
    store(&world.volume, b"f", b"content", UploadOptions::default()).expect("stored");
    let value = "x".repeat(20_000);
    world.node.run(["xattr", "set", "/v/f", "user.large", &value]).run().ok();
    world.node.run(["xattr", "set", "/v/f", "user.small", "y"]).run().ok();
    let probe = scratch.join("probe");
    std::fs::write(&probe, b"").expect("written");
    let place = scratch.join("f");
    let fetched = world.node.run(["get", "/v/f", place.to_str().expect("text")]).run();
    if rustix::fs::setxattr(&probe, "user.large", value.as_bytes(), rustix::fs::XattrFlags::empty()).is_ok() {
        fetched.ok();
    } else {
        let said = fetched.exits(1).messages();
        assert!(said.contains("user.large") && said.contains("--no-xattrs"), "{said}");
        assert!(!said.contains("space"), "{said}");
        world.node.run(["get", "--no-xattrs", "/v/f", place.to_str().expect("text")]).run().ok();
    }
    assert_eq!(std::fs::read(&place).expect("kept"), b"content");
}
