//! The power fails in the middle of a mixed load: what the disk hadn't flushed is lost, kept or torn at random, again and again
//! on the same data. Every acknowledged change is there and whole.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use fault::crash::{self, Trial};
use fault::{FaultyDisk, Kind};
use harness::{Dev, Node, Random, Scratch, count, skip};

/// Cuts the power under a node and gives it back. Half of the cuts catch the node before it can notice, the others leave it alive
/// on a dead disk for a moment: it must not acknowledge anything there.
fn cut(disk: &mut FaultyDisk, node: &mut Node, random: &mut Random) -> (u64, u64) {
    if random.below(2) == 0 {
        node.pause();
    }
    let loss = disk.cut(random.number());
    node.kill();
    disk.restore();
    loss
}

#[test]
fn power_cuts_lose_nothing_that_was_acknowledged() {
    let rounds = count("CATENA_CUTS", 5);
    let scratch = Scratch::new();
    let mut disk = match crash::disk(env!("CARGO_BIN_EXE_faulty-disk"), &scratch) {
        Ok(disk) => disk,
        Err(reason) => return skip("fuse", &reason),
    };
    let mut trial = Trial::start(
        Dev::new(&disk.path().join("node")).log(&scratch.join("node.log")),
        count("CATENA_SEED", 1),
    );
    let (mut lost_writes, mut lost_sectors) = (0, 0);
    for _ in 0..rounds {
        trial.round(|node, random| {
            let (writes, sectors) = cut(&mut disk, node, random);
            lost_writes += writes;
            lost_sectors += sectors;
        });
    }
    trial.report("power cuts", rounds);
    eprintln!("the cuts met {lost_writes} writes that weren't flushed and put {lost_sectors} sectors back");
    assert!(lost_writes > 0, "no cut met a write: nothing was tested");
    assert!(trial.tally.unknown.load(Ordering::Relaxed) > 0, "no cut met a command: nothing was tested");
    assert!(trial.node.stop().success(), "an orderly end");
}

/// The test above would find a node that doesn't flush: here the disk doesn't.
#[test]
fn a_disk_that_lies_about_flushes_is_caught() {
    /// Cuts until acknowledged data has to be gone; the first one nearly always does it.
    const ROUNDS: u64 = 8;
    let scratch = Scratch::new();
    let mut disk = match crash::disk(env!("CARGO_BIN_EXE_faulty-disk"), &scratch) {
        Ok(disk) => disk,
        Err(reason) => return skip("fuse", &reason),
    };
    let mut trial = Trial::start(
        Dev::new(&disk.path().join("node")).log(&scratch.join("node.log")),
        count("CATENA_SEED", 1),
    );
    disk.always(Kind::LostFlush);
    let caught = (0..ROUNDS).any(|_| {
        let round = || {
            trial.round(|node, random| {
                cut(&mut disk, node, random);
            });
        };
        catch_unwind(AssertUnwindSafe(round)).is_err()
    });
    assert!(caught, "{ROUNDS} cuts on a disk that flushes nothing, and nothing was missed");
}
