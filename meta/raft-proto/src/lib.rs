// Copyright 2019 TiKV Project Authors. Licensed under Apache-2.0.

//! The messages of the `raft` crate, which names this crate: `raft-proto` 0.7.0 with what its build script makes checked in, because making it takes
//! a `protoc` on every machine that builds Catena. Nothing else is changed; `Cargo.toml` of the workspace puts this crate in its place.
//!
//! `src/protos` was made from `eraftpb.proto` by the published crate's build script, with protoc 35.1; its licence is the Apache license 2.0, as ours.
//! The crate is exempt from the workspace's lints: generated code is what it is. No byte of a network is parsed by it: `control` has a codec of its own.

#![allow(
    mismatched_lifetime_syntaxes,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    missing_docs,
    unreachable_pub,
    reason = "generated code"
)]

mod confchange;
mod confstate;

pub use crate::confchange::{new_conf_change_single, parse_conf_change, stringify_conf_change, ConfChangeI};
pub use crate::confstate::conf_state_eq;
pub use crate::protos::eraftpb;

#[rustfmt::skip]
mod protos {
    pub mod eraftpb {
        include!("protos/eraftpb.rs");
        include!("protos/wrapper_eraftpb.rs");
    }

    use self::eraftpb::Snapshot;

    impl Snapshot {
        /// For a given snapshot, determine if it's empty or not.
        pub fn is_empty(&self) -> bool {
            self.get_metadata().index == 0
        }
    }
}

pub mod prelude {
    pub use crate::eraftpb::{
        ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry,
        EntryType, HardState, Message, MessageType, Snapshot, SnapshotMetadata,
    };
}

pub mod util {
    use crate::eraftpb::ConfState;

    impl<Iter1, Iter2> From<(Iter1, Iter2)> for ConfState
    where
        Iter1: IntoIterator<Item = u64>,
        Iter2: IntoIterator<Item = u64>,
    {
        fn from((voters, learners): (Iter1, Iter2)) -> Self {
            let mut conf_state = ConfState::default();
            conf_state.mut_voters().extend(voters.into_iter());
            conf_state.mut_learners().extend(learners.into_iter());
            conf_state
        }
    }
}
