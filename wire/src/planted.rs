//! Planted bugs: faults that the checkers must catch. They exist only in builds with `--cfg planted`, which never ship; there one of them
//! is chosen at run time. In every other build [`planted`] is the constant `false`.
//!
//! Each stands at the place of the rule that it breaks; `cargo run -p sim -- --planted` shows that each is caught, and `replica`'s `planted.rs` the same of
//! those of chains.

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
    /// A voter's messages leave before what they say is durable (R35).
    VoterSendsEarly,
    /// A leader confirms its own term without asking anybody (R18).
    VoterTrustsItself,
    /// A restarted voter has entries again that a later leader's had replaced.
    VoterKeepsTruncated,
    /// A voter votes on although its log is damaged (R35).
    VoterForgetsDamage,
    /// An epoch acks before its members have promised it (R5).
    ControlActivatesEarly,
    /// An epoch acks while a member that was removed may still serve (R5).
    ControlForgetsRemoved,
    /// A lease is granted by a leader whose term nobody confirmed (R18).
    ControlGrantsUnconfirmed,
    /// A new leader removes nodes while leases of the one before may run (R18).
    ControlSkipsElectionWait,
    /// A chain goes on with a member that isn't a seed (R6).
    ControlSeedsOutside,
    /// A store that cut its log's end seeds although a clean one can come back (R7).
    ControlSeedsCut,
    /// An epoch that can't ack replaces the seeds (R6).
    ControlReplacesSeedsEarly,
    /// A member serves that synced in an earlier epoch.
    ControlAcceptsLateSync,
    /// A store that was rolled back takes part as if it hadn't been (R34).
    ControlIgnoresIncarnation,
    /// Syncing members count as in sync (R6).
    ControlCountsSyncing,
    /// A node promises a map that isn't stored (R1).
    AgentPromisesUnstored,
    /// A node promises a map that a unit of it doesn't follow yet (R5).
    AgentPromisesUnfollowed,
    /// A lease runs from its grant instead of from what was answered (R18).
    AgentCountsLeaseFromGrant,
    /// The last member of a chain takes its own flush for everybody's (R12).
    ChainCommitsAtTail,
    /// A member that has promised a higher epoch goes on as before (R1).
    ChainServesSealed,
    /// A read trusts a lease that has run out since (R13).
    ChainTrustsOldLease,
    /// A new head knows no results of the one before (I7).
    ChainHeadForgetsResults,
    /// A learner answers queries (R13).
    ChainReadsAtLearner,
    /// A new head drops what it doesn't know to be committed (I6).
    ChainHeadDropsQueue,
    /// A member confirms an epoch that it has left (R13).
    ChainConfirmsSealed,
    /// A member takes what it has received for durable (R12).
    ChainCommitsUnflushed,
    /// Two logs are taken for one up to the shorter one's end (I5).
    ChainMatchesByIndex,
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
    /// Those that the simulator of whole nodes catches (`tests/sim`). The others are caught by simulations beside their code.
    pub const SIMULATED: &'static [Self] = &[
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
    ];

    /// Those of the control group's voters (`meta/control/src/voter/tests.rs`).
    pub const VOTER: &'static [Self] = &[
        Self::VoterSendsEarly,
        Self::VoterTrustsItself,
        Self::VoterKeepsTruncated,
        Self::VoterForgetsDamage,
    ];

    /// Those of the membership (`meta/control/src/membership/membership_fuzz.rs`).
    pub const CONTROL: &'static [Self] = &[
        Self::ControlActivatesEarly,
        Self::ControlForgetsRemoved,
        Self::ControlGrantsUnconfirmed,
        Self::ControlSkipsElectionWait,
        Self::ControlSeedsOutside,
        Self::ControlSeedsCut,
        Self::ControlReplacesSeedsEarly,
        Self::ControlAcceptsLateSync,
        Self::ControlIgnoresIncarnation,
        Self::ControlCountsSyncing,
    ];

    /// Those of the control agents (`engine/agent/src/tests/fuzz.rs`).
    pub const AGENT: &'static [Self] =
        &[Self::AgentPromisesUnstored, Self::AgentPromisesUnfollowed, Self::AgentCountsLeaseFromGrant];

    /// Those of a metadata group's chain (`meta/replica/src/chain_fuzz.rs`).
    pub const CHAIN: &'static [Self] = &[
        Self::ChainCommitsAtTail,
        Self::ChainServesSealed,
        Self::ChainTrustsOldLease,
        Self::ChainHeadForgetsResults,
        Self::ChainReadsAtLearner,
        Self::ChainHeadDropsQueue,
        Self::ChainConfirmsSealed,
        Self::ChainCommitsUnflushed,
        Self::ChainMatchesByIndex,
    ];

    /// Those of the replicas of a slice among each other (`engine/shard/src/tests`).
    pub const SHARD: &'static [Self] = &[
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
