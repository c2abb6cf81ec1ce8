//! The power fails in the middle of a mixed load: what the disk hadn't flushed is lost, kept or torn at random, again and again
//! on the same data. Every acknowledged change is there and whole.

use std::sync::atomic::Ordering;

use fault::crash::{self, Trial};
use harness::{Dev, Scratch, count, skip};

#[test]
fn power_cuts_lose_nothing_that_was_acknowledged() {
    let rounds = count("CATENA_CUTS", 5);
    let scratch = Scratch::new();
    let mut disk = match crash::disk(env!("CARGO_BIN_EXE_faulty-disk"), &scratch) {
        Ok(disk) => disk,
        Err(reason) => return skip("fuse", &reason),
    };
    let mut trial = Trial::start(Dev::new(&disk.path().join("node")), count("CATENA_SEED", 1));
    let (mut lost_writes, mut lost_sectors) = (0, 0);
    for _ in 0..rounds {
        trial.round(|node, random| {
            // Half of the cuts catch the node before it can notice, the others leave it alive on a dead disk for a moment: it
            // must not acknowledge anything there.
            if random.below(2) == 0 {
                node.pause();
            }
            let (writes, sectors) = disk.cut(random.number());
            node.kill();
            disk.restore();
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
