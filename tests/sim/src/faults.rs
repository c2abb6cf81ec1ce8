//! What goes wrong, when, and for how long. Each seed switches a random subset of the kinds on, so that seeds differ in character and not
//! only in order.

use journal::fake_disk::Faults as DiskFaults;
use wire::Nanos;

use crate::disk::SimDisk;
use crate::network::Weather;
use crate::random::Random;

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// The node's process dies.
    Kill,
    /// The node's machine loses power; what its disks had not flushed is lost in any subset.
    PowerCut,
    /// A client's process dies.
    ClientCrash,
    /// A client's process stands still, perhaps longer than its session lives.
    ClientPause,
    /// The node's process stands still.
    NodePause,
    /// Connections are slow, break, and flip bits.
    Weather,
    /// Nothing arrives for a while.
    Partition,
    /// Half of the connections break.
    Reset,
    /// A disk is slow.
    SlowDisk,
    /// A disk's requests fail.
    DiskErrors,
    /// The file system under a disk is full.
    FullDisk,
    /// A bit of a disk flips.
    Flip,
    /// A sector of a disk can't be read any more.
    BreakSector,
    /// A store's disk loses and misdirects writes.
    LostWrites,
    /// The node's wall clock is set.
    SetClock,
    /// All nodes' machines lose power at once.
    PowerCutAll,
    /// A node is cut off from everybody.
    Isolate,
    /// Nodes and clients fall apart into two halves.
    Split,
    /// From some machines nothing gets to some others, and everything back.
    OneWay,
    /// Each node reaches only its neighbours in a ring.
    Ring,
    /// A node's control port and its agent's connections are cut off alone.
    ControlCut,
    /// A node is lost for ever, and an operator puts an empty one in its place.
    Replace,
    /// An operator changes how many nodes vote.
    Voters,
    /// An operator changes how many copies a write needs.
    MinInSync,
}

/// Every kind, with how often it comes where it is switched on.
const KINDS: &[(Fault, u64)] = &[
    (Fault::Kill, 4),
    (Fault::PowerCut, 5),
    (Fault::ClientCrash, 2),
    (Fault::ClientPause, 2),
    (Fault::NodePause, 1),
    (Fault::Weather, 3),
    (Fault::Partition, 2),
    (Fault::Reset, 3),
    (Fault::SlowDisk, 2),
    (Fault::DiskErrors, 4),
    (Fault::FullDisk, 1),
    (Fault::Flip, 3),
    (Fault::BreakSector, 1),
    (Fault::LostWrites, 2),
];

/// Of clusters: every kind that may be switched on.
const CLUSTER_KINDS: &[(Fault, u64)] = &[
    (Fault::Kill, 6),
    (Fault::PowerCut, 5),
    (Fault::PowerCutAll, 1),
    (Fault::ClientCrash, 1),
    (Fault::ClientPause, 1),
    (Fault::NodePause, 4),
    (Fault::Weather, 3),
    (Fault::Partition, 1),
    (Fault::Isolate, 3),
    (Fault::Split, 2),
    (Fault::OneWay, 3),
    (Fault::Ring, 2),
    (Fault::ControlCut, 2),
    (Fault::Reset, 3),
    (Fault::SlowDisk, 2),
    (Fault::DiskErrors, 3),
    (Fault::FullDisk, 1),
    (Fault::SetClock, 1),
    (Fault::Replace, 2),
    (Fault::Voters, 2),
    (Fault::MinInSync, 2),
    (Fault::Flip, 3),
    (Fault::BreakSector, 1),
    (Fault::LostWrites, 2),
];

impl Fault {
    /// Its name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::PowerCut => "power cut",
            Self::ClientCrash => "client crash",
            Self::ClientPause => "client pause",
            Self::NodePause => "node pause",
            Self::Weather => "weather",
            Self::Partition => "partition",
            Self::Reset => "reset",
            Self::SlowDisk => "slow disk",
            Self::DiskErrors => "disk errors",
            Self::FullDisk => "full disk",
            Self::Flip => "flipped bit",
            Self::BreakSector => "broken sector",
            Self::LostWrites => "lost writes",
            Self::SetClock => "clock set",
            Self::PowerCutAll => "power cut of all",
            Self::Isolate => "isolated",
            Self::Split => "split",
            Self::OneWay => "one way",
            Self::Ring => "ring",
            Self::ControlCut => "control cut",
            Self::Replace => "replaced",
            Self::Voters => "voters",
            Self::MinInSync => "min in sync",
        }
    }

    /// Whether a chain of one can't mend it.
    fn is_damage(self) -> bool {
        matches!(self, Self::Flip | Self::BreakSector | Self::LostWrites)
    }
}

/// A seed's faults.
#[derive(Debug)]
pub(crate) struct Faults {
    random: Random,
    kinds: Vec<(Fault, u64)>,
    /// Typical nanoseconds between two.
    interval: u64,
}

impl Faults {
    /// The faults of `seed`: three in ten seeds damage disks, one in twenty has no fault at all.
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::stream(seed, "faults");
        let damages = random.per_mille(300);
        let is_calm = random.per_mille(50);
        let mut kinds: Vec<(Fault, u64)> = KINDS
            .iter()
            .filter(|(fault, _)| !is_calm && (damages || !fault.is_damage()) && random.per_mille(500))
            .copied()
            .collect();
        let interval = random.between(40, 800) * Nanos::MILLISECOND;
        // Drawn apart: seeds without it are what they were before it was thought of.
        if !is_calm && Random::stream(seed, "clock").per_mille(150) {
            kinds.push((Fault::SetClock, 2));
        }
        Self { random, kinds, interval }
    }

    /// The faults of a cluster of `seed`. One seed in three damages the disks of one node.
    pub(crate) fn of_cluster(seed: u64) -> Self {
        let mut random = Random::stream(seed, "cluster faults");
        let damages = random.per_mille(330);
        let is_calm = random.per_mille(30);
        let kinds = CLUSTER_KINDS
            .iter()
            .filter(|(fault, _)| !is_calm && (damages || !fault.is_damage()) && random.per_mille(500))
            .copied()
            .collect();
        let interval = random.between(1_500, 9_000) * Nanos::MILLISECOND;
        Self { random, kinds, interval }
    }

    /// Whether it damages what was stored.
    pub(crate) fn damages(&self) -> bool {
        self.kinds.iter().any(|(fault, _)| fault.is_damage())
    }

    /// How long a dead process of a cluster stays away.
    pub(crate) fn downtime(&mut self) -> u64 {
        let (low, high) = *self.random.pick(&[(50, 500), (50, 500), (1_000, 5_000), (5_000, 40_000)]);
        self.random.between(low, high) * Nanos::MILLISECOND
    }

    /// One of so many.
    pub(crate) fn index(&mut self, count: usize) -> usize {
        self.random.index(count)
    }

    /// How long one lasts in a cluster, where leases, elections and patience take seconds.
    pub(crate) fn cluster_duration(&mut self, fault: Fault) -> u64 {
        let (low, high) = match fault {
            Fault::ClientCrash | Fault::ClientPause => (100, 15_000),
            Fault::NodePause => *self.random.pick(&[(10, 1_000), (1_000, 3_000), (2_000, 9_000)]),
            Fault::Weather | Fault::SlowDisk => (100, 10_000),
            Fault::DiskErrors | Fault::FullDisk | Fault::LostWrites => (100, 12_000),
            _ => *self.random.pick(&[(10, 1_500), (1_000, 6_000), (4_000, 25_000)]),
        };
        self.random.between(low, high) * Nanos::MILLISECOND
    }

    /// What is switched on, for the trace.
    pub(crate) fn profile(&self) -> Vec<Fault> {
        self.kinds.iter().map(|(fault, _)| *fault).collect()
    }

    /// The next one; `None` where none is switched on.
    pub(crate) fn choose(&mut self) -> Option<Fault> {
        let total: u64 = self.kinds.iter().map(|(_, weight)| weight).sum();
        let mut at = self.random.below(total.max(1));
        for (fault, weight) in &self.kinds {
            if at < *weight {
                return Some(*fault);
            }
            at -= weight;
        }
        None
    }

    /// Nanoseconds until the next one.
    pub(crate) fn pause(&mut self) -> u64 {
        self.random.latency(self.interval)
    }

    /// How long one lasts.
    pub(crate) fn duration(&mut self, fault: Fault) -> u64 {
        let milliseconds = match fault {
            // Sessions live for three seconds.
            Fault::ClientCrash => self.random.between(1, 5_000),
            Fault::ClientPause => self.random.between(100, 6_000),
            Fault::NodePause => self.random.between(10, 4_000),
            Fault::Partition => self.random.between(10, 8_000),
            Fault::Weather | Fault::SlowDisk => self.random.between(100, 4_000),
            _ => self.random.between(10, 1_500),
        };
        milliseconds * Nanos::MILLISECOND
    }

    /// Nanoseconds by which a clock is set: a correction, a wrong hour, a wrong year.
    pub(crate) fn clock_step(&mut self) -> i64 {
        let seconds = *self.random.pick(&[3, 3_600, 10 * 365 * 24 * 3_600]);
        let sign = if self.random.per_mille(500) { 1 } else { -1 };
        sign * seconds * 1_000_000_000
    }

    /// Bad weather.
    pub(crate) fn weather(&mut self) -> Weather {
        let latency = [20_000, 200_000, 2_000_000, 20_000_000];
        Weather {
            latency: *self.random.pick(&latency),
            resets: self.random.below(30),
            flips: self.random.below(120),
            slow: self.random.below(300),
        }
    }

    /// Switches a disk's fault on.
    pub(crate) fn apply(&mut self, fault: Fault, disk: &mut SimDisk) {
        let random = &mut self.random;
        match fault {
            Fault::SlowDisk => disk.slowness = random.between(2, 200),
            Fault::DiskErrors => {
                disk.fake.faults = DiskFaults {
                    read_errors: random.below(300),
                    write_errors: random.below(800),
                    flush_errors: random.below(800),
                    allocate_errors: random.below(3_000),
                    ..DiskFaults::default()
                };
            }
            Fault::FullDisk => disk.fill(),
            Fault::LostWrites => disk.lose(random.below(2_000), random.below(2_000)),
            _ => unreachable!("not a disk's fault"),
        }
    }
}
