//! Planted bugs: faults that the checkers must catch. They exist only in builds with `--cfg planted`, which never ship; there one of them
//! is chosen at run time. In every other build [`planted`] is the constant `false`.
//!
//! Each stands at the place of the rule that it breaks; `cargo run -p sim -- --planted` shows that each is caught, but for those that the tests of their
//! own crate catch ([`Bug::IN_THEIR_CRATE`]).

/// A fault that can be switched on in a build with `--cfg planted`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bug {
    /// The store acknowledges a batch before its flush (I2, R31).
    StoreSkipsFlush,
    /// The store returns a chunk whose checksum doesn't match (I11).
    StoreIgnoresChecksum,
    /// The store recycles a segment before two checkpoints are beyond it (R32).
    StoreReusesSegmentEarly,
    /// Recovery cuts a damaged batch as if it were a torn tail (R29).
    StoreCutsDamage,
    /// The namespace drops the target of a rename.
    NamespaceLosesRename,
    /// The table of results forgets: a retry executes again (I7).
    ReplicaForgetsResults,
    /// The group answers before its entry is durable (R12).
    ReplicaAnswersEarly,
    /// A chunk is reclaimed although a version still references it (I10).
    ReclaimsReferenced,
    /// Garbage of dead writers stays for ever (I12).
    OrphansStay,
    /// A log that is short of space refuses removals too (R17).
    ReplicaRefusesRemovals,
    /// A pinned version is reclaimed under its reader (R25).
    ReplicaForgetsPins,
    /// A commit's extended attributes are dropped.
    NamespaceDropsXattrs,
    /// A volume's counters miss a removal.
    NamespaceMiscounts,
    /// The client hands out bytes that it did not verify (I11).
    ClientSkipsVerify,
    /// A slot is never given back.
    StoreLeaksSlot,
    /// The last checkpoint of an orderly end misses a chunk.
    StoreEndsEarly,
    /// An orderly end is marked although the log goes on behind the checkpoint: the next start doesn't look there.
    LogEndsEarly,
    /// From the first checkpoint on mutations are refused as if the log were full.
    ReplicaStaysFull,
    /// A chain's head acks once its own copy is durable (I2).
    ShardAcksAlone,
    /// Resync deletes what only the joiner holds (R2).
    SyncDeletesExtras,
    /// A source lists a slice before what it admitted in a lower epoch is on its disk (R1).
    SyncDigestsEarly,
    /// Digests cover ids alone (R3).
    SyncDigestsIds,
    /// A joiner says that it is done without having fetched what it lacks.
    SyncSkipsFetching,
    /// A joiner stores what it fetched without having verified it (R9).
    SyncSkipsVerify,
    /// A chunk that was deleted while it was being fetched is stored (R23).
    SyncRevivesDead,
    /// A put is acked in an epoch above which another one was promised (R1).
    ShardAcksLowerEpoch,
    /// A repeated put is acked without the successor (R4).
    ShardAcksRepeatsAlone,
    /// Chunks that wait for other stores may take all buffers (R38).
    ShardSharesBuffers,
}

impl Bug {
    /// Every planted bug.
    pub const ALL: &'static [Self] = &[
        Self::StoreSkipsFlush,
        Self::StoreIgnoresChecksum,
        Self::StoreReusesSegmentEarly,
        Self::StoreCutsDamage,
        Self::NamespaceLosesRename,
        Self::ReplicaForgetsResults,
        Self::ReplicaAnswersEarly,
        Self::ReclaimsReferenced,
        Self::OrphansStay,
        Self::ReplicaRefusesRemovals,
        Self::ReplicaForgetsPins,
        Self::NamespaceDropsXattrs,
        Self::NamespaceMiscounts,
        Self::ClientSkipsVerify,
        Self::StoreLeaksSlot,
        Self::StoreEndsEarly,
        Self::LogEndsEarly,
        Self::ReplicaStaysFull,
        Self::ShardAcksAlone,
        Self::SyncDeletesExtras,
        Self::SyncDigestsEarly,
        Self::SyncDigestsIds,
        Self::SyncSkipsFetching,
        Self::SyncSkipsVerify,
        Self::SyncRevivesDead,
        Self::ShardAcksLowerEpoch,
        Self::ShardAcksRepeatsAlone,
        Self::ShardSharesBuffers,
    ];

    /// Those that the tests of the crate catch in which they stand: they need chains that lose members, or memory of a certain size.
    pub const IN_THEIR_CRATE: &'static [Self] = &[
        Self::SyncDeletesExtras,
        Self::SyncDigestsEarly,
        Self::SyncDigestsIds,
        Self::SyncSkipsFetching,
        Self::SyncSkipsVerify,
        Self::SyncRevivesDead,
        Self::ShardAcksLowerEpoch,
        Self::ShardAcksRepeatsAlone,
        Self::ShardSharesBuffers,
    ];
}

#[cfg(planted)]
static CHOSEN: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(u32::MAX);

/// Whether `bug` is switched on.
#[cfg(planted)]
pub fn planted(bug: Bug) -> bool {
    CHOSEN.load(std::sync::atomic::Ordering::Relaxed) == bug as u32
}

/// Whether `bug` is switched on: never, in this build.
#[cfg(not(planted))]
#[inline]
pub const fn planted(_bug: Bug) -> bool {
    false
}

/// Switches one bug on for the whole process, or all off.
#[cfg(planted)]
pub fn choose(bug: Option<Bug>) {
    CHOSEN.store(bug.map_or(u32::MAX, |bug| bug as u32), std::sync::atomic::Ordering::Relaxed);
}
