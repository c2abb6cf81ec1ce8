//! The fault disk itself, through the kernel: plain and direct I/O, faults, and power cuts.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use fault::faults::Delays;
use fault::{Fault, FaultyDisk, Kind};
use harness::{Content, Scratch, scratch, skip};

/// Runs a test on a fresh disk, or says why it can't.
fn on_disk(test: impl FnOnce(&mut FaultyDisk)) {
    let scratch = Scratch::new();
    match FaultyDisk::start(Path::new(env!("CARGO_BIN_EXE_faulty-disk")), scratch.path()) {
        Ok(mut disk) => test(&mut disk),
        Err(reason) => skip("fuse", &reason),
    }
}

fn open(path: &Path) -> File {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .expect("a file on the disk")
}

#[test]
fn files_are_files() {
    on_disk(|disk| {
        let path = disk.path().join("folder/file");
        fs::create_dir(path.parent().expect("a folder")).expect("made");
        let content = Content::new(1, 3_000_001);
        let mut file = open(&path);
        file.write_all(&content.bytes()).expect("written");
        file.seek(SeekFrom::Start(0)).expect("rewound");
        let mut found = Vec::new();
        file.read_to_end(&mut found).expect("read");
        assert_eq!(content.difference(&found), None);
        file.set_len(100).expect("cut short");
        assert_eq!(fs::metadata(&path).expect("there").len(), 100);
        fs::rename(&path, disk.path().join("other")).expect("renamed");
        assert_eq!(fs::read(disk.path().join("other")).expect("read").len(), 100);
        assert_eq!(fs::read_dir(disk.path()).expect("listed").count(), 2);
        fs::remove_dir(disk.path().join("folder")).expect("removed");
        fs::remove_file(disk.path().join("other")).expect("removed");
        assert_eq!(fs::read_dir(disk.path()).expect("listed").count(), 0);
        assert!(fs::read_dir(disk.backing()).expect("listed").next().is_none());
    });
}

/// Aligned memory without unsafe code: the aligned part of a vector that is longer by the alignment.
fn aligned(memory: &mut [u8], length: usize) -> &mut [u8] {
    let start = memory.as_ptr().align_offset(4096);
    &mut memory[start..start + length]
}

#[test]
fn direct_io_passes_and_locks_hold() {
    on_disk(|disk| {
        let path = disk.path().join("file");
        open(&path).set_len(1 << 20).expect("a length");
        let file = scratch::direct(&path).expect("direct I/O");
        file.try_lock().expect("the first lock");
        assert!(
            scratch::direct(&path).expect("direct I/O").try_lock().is_err(),
            "the second one has to wait"
        );
        let mut memory = vec![0; (64 << 10) + 4096];
        let buffer = aligned(&mut memory, 64 << 10);
        let content = Content::new(2, 64 << 10);
        content.fill(0, buffer);
        assert_eq!(file.write_at(buffer, 128 << 10).expect("written"), 64 << 10);
        file.sync_data().expect("flushed");
        buffer.fill(0);
        assert_eq!(file.read_at(buffer, 128 << 10).expect("read"), 64 << 10);
        assert_eq!(content.difference(buffer), None);
        assert_eq!(disk.statistics().volatile_bytes, 0, "the flush reached the disk");
    });
}

#[test]
fn faults_strike_what_they_should() {
    on_disk(|disk| {
        let (store, log) = (open(&disk.path().join("store")), open(&disk.path().join("log")));
        for file in [&store, &log] {
            file.write_all_at(&[1; 4096], 0).expect("written");
        }
        let io = |error: std::io::Error| error.raw_os_error().expect("from the system");
        let read = |file: &File| file.read_exact_at(&mut [0; 4096], 0);

        disk.set(&Fault::once(Kind::WriteError).on("store"));
        log.write_all_at(&[2], 0).expect("another file");
        assert_eq!(io(store.write_all_at(&[2], 0).expect_err("struck")), 5);
        store.write_all_at(&[2], 0).expect("once");

        disk.always(Kind::ReadError);
        assert_eq!(io(read(&store).expect_err("struck")), 5);
        disk.heal();
        read(&store).expect("healed");

        disk.set(&Fault::once(Kind::FlushError));
        assert_eq!(io(store.sync_all().expect_err("struck")), 5);
        assert!(disk.statistics().volatile_bytes > 0, "what wasn't flushed stays volatile");
        store.sync_all().expect("once");

        disk.set(&Fault::once(Kind::NoSpace));
        assert_eq!(store.write_all_at(&[3], 0).expect_err("struck").kind(), std::io::ErrorKind::StorageFull);

        disk.set(&Fault::once(Kind::LostWrite));
        store.write_all_at(&[9; 4096], 0).expect("acknowledged");
        let mut found = [0; 4096];
        store.read_exact_at(&mut found, 0).expect("read");
        assert_eq!(found[0], 2, "and lost");

        let flipped = |times: usize| {
            let mut found = [0; 4096];
            store.read_exact_at(&mut found, 0).expect("read");
            let wrong = found.iter().skip(1).filter(|byte| **byte != 1).count();
            assert_eq!(wrong, times);
        };
        disk.set(&Fault::once(Kind::FlippedRead));
        flipped(1);
        flipped(0);
        disk.rot("store", 100);
        flipped(1);
        flipped(1);
        assert_eq!(disk.statistics().struck, 6);
    });
}

#[test]
#[expect(clippy::disallowed_methods, reason = "what is tested is how long an operation takes")]
fn delays_are_kept() {
    on_disk(|disk| {
        let file = open(&disk.path().join("file"));
        disk.delay(Delays { write: Duration::from_millis(80), ..Delays::default() });
        let began = Instant::now();
        file.write_all_at(&[1], 0).expect("written");
        assert!(began.elapsed() >= Duration::from_millis(80));
    });
}

#[test]
fn a_power_cut_loses_what_wasnt_flushed_and_nothing_else() {
    on_disk(|disk| {
        let path = disk.path().join("file");
        let (mut lost, mut kept) = (0, 0);
        for seed in 0..40 {
            let file = open(&path);
            file.write_all_at(&[1; 8192], 0).expect("written");
            file.sync_all().expect("flushed");
            file.write_all_at(&[2; 4096], 4096).expect("written");
            let made = open(&disk.path().join("made"));
            drop(made);
            disk.cut(seed);
            assert_eq!(file.write_at(&[3], 0).expect_err("no power").raw_os_error(), Some(5));
            drop(file);
            disk.restore();
            let found = fs::read(&path).expect("there");
            assert!(found[..4096].iter().all(|&byte| byte == 1), "flushed");
            for sector in found[4096..].as_chunks::<512>().0 {
                match sector[0] {
                    1 => lost += 1,
                    2 => kept += 1,
                    other => panic!("a sector of neither write: {other}"),
                }
                assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is whole");
            }
            let _ = fs::remove_file(disk.path().join("made"));
        }
        assert!(lost > 0 && kept > 0, "{lost} sectors lost, {kept} kept");
    });
}

#[test]
fn a_lost_disk_goes_away_under_its_users() {
    let scratch = Scratch::new();
    let program = Path::new(env!("CARGO_BIN_EXE_faulty-disk"));
    let disk = match FaultyDisk::start(program, scratch.path()) {
        Ok(disk) => disk,
        Err(reason) => return skip("fuse", &reason),
    };
    let path = disk.path().to_owned();
    let file = open(&path.join("file"));
    drop(disk);
    assert!(file.write_at(&[1], 0).is_err(), "the disk is gone");
    assert_eq!(
        fs::read_dir(&path).expect("an empty folder").count(),
        0,
        "unmounted although a file was open"
    );
}
