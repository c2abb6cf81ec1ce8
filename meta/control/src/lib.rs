//! The control group's side of things: [`Membership`] decides about the cluster map. Pure.

#![forbid(unsafe_code)]

mod membership;

pub use membership::{
    Config, Effect, Effects, Event, Membership, Note, Refused, Rule, apply, lease_at_control,
};
