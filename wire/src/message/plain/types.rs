//! Which fields each of the control port's types has, in order. An enum's codes are part of the protocol.

use super::{Input, Plain};
use crate::control::{
    Answer, CaughtUp, ChainId, ChainLoss, ChainTally, Command, Condition, Done, Health, Heartbeat,
    HeartbeatReply, Led, Life, LogEnd, LossScope, NodeStatus, Reason, Refusal, Registration,
    RegistrationRefusal, RegistrationReply, Slow, StopRisk, StoreBeat, StoreReport, StoreVerdict, Subject,
    Synced, Waits,
};
use crate::map::{Phase, ReplicaState, Unit};
use crate::message::DecodeError;
use crate::{
    CommitIndex, Epoch, GroupId, Incarnation, MapNumber, Nanos, NodeId, ShardIndex, SliceIndex, StoreId,
};

macro_rules! newtypes {
    ($($name:ident)*) => {$(
        impl Plain for $name {
            fn put(&self, out: &mut Vec<u8>) {
                self.0.put(out);
            }

            fn take(input: &mut Input<'_>) -> Result<Self, DecodeError> {
                Plain::take(input).map(Self)
            }
        }
    )*};
}

newtypes! {
    CommitIndex Epoch GroupId Incarnation Life MapNumber Nanos NodeId ShardIndex SliceIndex StoreId
}

macro_rules! structs {
    ($($name:ident { $($field:ident),* })*) => {$(
        impl Plain for $name {
            fn put(&self, out: &mut Vec<u8>) {
                let Self { $($field),* } = self;
                $($field.put(out);)*
            }

            fn take(input: &mut Input<'_>) -> Result<Self, DecodeError> {
                $(let $field = Plain::take(input)?;)*
                Ok(Self { $($field),* })
            }
        }
    )*};
}

structs! {
    Registration { node, life, join, name, rack, control, sent, installed, stores }
    StoreReport {
        store, unit, address, incarnation, lives, recovered_cut, lacks, log_end, sequence,
        capacity_bytes, used_bytes, condition
    }
    LogEnd { epoch, index }
    Heartbeat { node, life, sent, installed, stores, suspects, synced, caught_up, slow }
    StoreBeat { store, condition, sequence, used_bytes, lag }
    Synced { chain, epoch, store, missing }
    CaughtUp { group, store }
    Slow { chain, epoch, store }
    HeartbeatReply { node, life, sent, lease, number, is_known }
    ChainLoss { chain, seed }
    StopRisk { writes_stop, reads_stop, chains, control_stops }
    ChainTally {
        chains, full, degraded, read_only, down, changing, syncing, stuck, redundancy_min
    }
    Health {
        number, nodes, nodes_alive, stores, stores_unfit, slices, groups, chain_length, domains,
        chunks_missing, is_whole
    }
    NodeStatus { node, life, heard, is_alive, installed, members, serving, stores }
}

/// Enums: unit variants, variants with one value, variants with named fields.
macro_rules! enums {
    ($($name:ident = $what:literal {
        $($code:literal $variant:ident $(($value:ident))? $({ $($field:ident),* })?,)*
    })*) => {$(
        impl Plain for $name {
            fn put(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$variant $(($value))? $({ $($field),* })? => {
                        out.push($code);
                        $($value.put(out);)?
                        $($($field.put(out);)*)?
                    })*
                }
            }

            fn take(input: &mut Input<'_>) -> Result<Self, DecodeError> {
                Ok(match u8::take(input)? {
                    $($code => {
                        $(let $value = Plain::take(input)?;)?
                        $($(let $field = Plain::take(input)?;)*)?
                        Self::$variant $(($value))? $({ $($field),* })?
                    })*
                    _ => return Err(DecodeError::Unknown($what)),
                })
            }
        }
    )*};
}

enums! {
    ChainId = "chain" { 1 Slice(slice), 2 Group(group), }
    Unit = "unit" { 1 Shard(shard), 2 Group(group), }
    Condition = "condition" { 1 Well, 2 Fenced, 3 Failed, }
    Phase = "phase" { 1 Prepared, 2 Active, }
    ReplicaState = "replica state" { 1 Serving, 2 Syncing, 3 Waiting, 4 LastServing, 5 Offline, }
    RegistrationReply = "answer to a registration" {
        1 Accepted { node, number, stores },
        2 Refused(refusal),
    }
    StoreVerdict = "verdict on a store" {
        1 Accepted,
        2 Unknown,
        3 Stale { known, known_sequence },
        4 Expelled,
        5 Forgotten,
        6 Elsewhere { node },
    }
    RegistrationRefusal = "refusal of a registration" {
        1 NodeUnknown,
        2 NotEmpty { store },
        3 NodeAlive,
        4 NameTaken,
        5 Malformed,
        6 Full,
        7 Busy,
    }
    Command = "command" {
        1 ReplaceNode { old, new },
        2 ReplaceStore { old, new },
        3 ForgetNode { node, force },
        4 AcceptDataLoss { scope, expel },
        5 SetMinInSync(count),
        6 SetVoters(count),
        7 OkToStop(node),
        8 Why(subject),
        9 Health,
        10 Nodes,
    }
    LossScope = "scope of a loss" { 1 Chain(chain), 2 All, }
    Answer = "answer" {
        1 Done { number, done },
        2 Refused(refusal),
        3 OkToStop(risk),
        4 Why(reasons),
        5 Health(health),
        6 Nodes(nodes),
    }
    Done = "what was done" {
        1 Replacing { chains },
        2 Forgotten { chains, short },
        3 LossAccepted { chains, expelled },
        4 Set,
        5 VotersChanging { added, removed },
    }
    Refusal = "refusal" {
        1 NotLeader(leader),
        2 Unknown,
        3 Busy,
        4 NodeUnknown(node),
        5 StoreUnknown(store),
        6 ChainUnknown(chain),
        7 NodeAlive(node),
        8 NodeAbsent(node),
        9 StoreAlive(store),
        10 NotEmpty(store),
        11 WrongUnit(store),
        12 TwoOnOneNode(chain),
        13 TooFewNodes { left, chain_length },
        14 LastCopy(chain),
        15 NothingLost,
        16 NobodyPresent(chain),
        17 OutOfRange,
        18 Full,
    }
    Subject = "subject" { 1 Node(node), 2 Store(store), 3 Chain(chain), }
    Reason = "reason" {
        1 Well,
        2 NotInMap,
        3 NodeAlive { life, heard, installed },
        4 NodeSilent { silent, dead_in },
        5 NodeSuspected { by },
        6 StoreUnfit { condition },
        7 StoreStale,
        8 StoreLeaves,
        9 Chain { chain, epoch, phase, serving, min_in_sync, since },
        10 Member { chain, store, state, lag },
        11 Waiting(waits),
    }
    Waits = "what is waited for" {
        1 Promise { node, number },
        2 Lease { node, left },
        3 Sync(store),
        4 CatchUp(store),
        5 Return(store),
        6 Seeds { missing, left },
        7 CleanSeed { missing },
        8 AnySeed,
        9 MoreNodes,
        10 HoldDown { store, left },
        11 Turn,
        12 Control,
    }
}

impl<T: Plain> Plain for Led<T> {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Here(value) => {
                out.push(1);
                value.put(out);
            }
            Self::Elsewhere(leader) => {
                out.push(2);
                leader.put(out);
            }
        }
    }

    fn take(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        match u8::take(input)? {
            1 => T::take(input).map(Self::Here),
            2 => Plain::take(input).map(Self::Elsewhere),
            _ => Err(DecodeError::Unknown("leader")),
        }
    }
}
