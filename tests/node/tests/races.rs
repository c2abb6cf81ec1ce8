//! Clients that race for one path: a reader sees one version whole, exclusive creation succeeds once, appends never mix.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};

use client::{Precondition, ReadRange, UploadChange, UploadOptions, Volume};
use harness::Content;
use node_tests::{World, fetch, store};

/// Length of the raced file: several chunks and a bit.
const LENGTH: u64 = 200_001;
const ROUNDS: u64 = 25;

/// Whose content this is; a mixture is nobody's.
fn writer_of(bytes: &[u8], writers: u64) -> Option<u64> {
    (0..writers * ROUNDS).find(|seed| Content::new(*seed, LENGTH).difference(bytes).is_none())
}

#[test]
fn a_reader_sees_one_writers_file_whole() {
    let world = World::new();
    let done = AtomicBool::new(false);
    store(&world.volume, b"f", &Content::new(0, LENGTH).bytes(), UploadOptions::default()).expect("stored");
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2_u64)
            .map(|writer| {
                let volume = world.volume.clone();
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let content = Content::new(writer * ROUNDS + round, LENGTH).bytes();
                        store(&volume, b"f", &content, UploadOptions::default()).expect("stored");
                    }
                })
            })
            .collect();
        let (volume, done) = (world.volume.clone(), &done);
        let reader = scope.spawn(move || {
            let mut reads = 0;
            while !done.load(Ordering::Acquire) {
                let bytes = fetch(&volume, b"f", ReadRange::Whole).expect("read");
                assert!(writer_of(&bytes, 2).is_some(), "a mixture of two versions");
                reads += 1;
            }
            reads
        });
        for writer in writers {
            writer.join().expect("a writer");
        }
        done.store(true, Ordering::Release);
        assert!(reader.join().expect("the reader") > 0);
    });
    let last = fetch(&world.volume, b"f", ReadRange::Whole).expect("read");
    assert_eq!(
        writer_of(&last, 2).expect("somebody's") % ROUNDS,
        ROUNDS - 1,
        "the last round of one of them"
    );
}

#[test]
fn a_file_replaced_while_it_is_read_stays_one_version() {
    let world = World::new();
    let (old, new) = (Content::new(1, 2 << 20).bytes(), Content::new(2, 2 << 20).bytes());
    store(&world.volume, b"f", &old, UploadOptions::default()).expect("stored");
    let mut download = world.volume.download(b"f", ReadRange::Whole).wait().expect("opened");
    let mut found = vec![0; 1000];
    download.read_exact(&mut found).expect("begun");
    store(&world.volume, b"f", &new, UploadOptions::default()).expect("replaced");
    download.read_to_end(&mut found).expect("read to the end");
    assert!(found == old, "the old version, whole");
    assert!(fetch(&world.volume, b"f", ReadRange::Whole).expect("read") == new);
}

#[test]
fn exclusive_creation_succeeds_once() {
    let world = World::new();
    for round in 0..10 {
        let path = format!("lock-{round}");
        let create = |volume: Volume, content: u8| {
            let options = UploadOptions { precondition: Precondition::Absent, ..UploadOptions::default() };
            store(&volume, path.as_bytes(), &[content], options).map(|_| content)
        };
        let create = &create;
        let won: Vec<u8> = std::thread::scope(|scope| {
            let tries: Vec<_> = (0..4_u8)
                .map(|content| {
                    let volume = world.volume.clone();
                    scope.spawn(move || create(volume, content))
                })
                .collect();
            tries.into_iter().filter_map(|attempt| attempt.join().expect("a thread").ok()).collect()
        });
        assert_eq!(won.len(), 1, "one of four");
        assert_eq!(fetch(&world.volume, path.as_bytes(), ReadRange::Whole).expect("read"), won);
    }
}

#[test]
fn appends_never_mix() {
    const RECORD: usize = 1000;
    let world = World::new();
    std::thread::scope(|scope| {
        for writer in 0..3_u8 {
            let volume = world.volume.clone();
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    let options = UploadOptions { change: UploadChange::Append, ..UploadOptions::default() };
                    store(&volume, b"log", &[writer; RECORD], options).expect("appended");
                }
            });
        }
    });
    let bytes = fetch(&world.volume, b"log", ReadRange::Whole).expect("read");
    assert_eq!(bytes.len(), 3 * RECORD * usize::try_from(ROUNDS).expect("small"));
    for record in bytes.chunks(RECORD) {
        assert!(record.iter().all(|byte| *byte == record[0]), "two writers in one record");
    }
}
