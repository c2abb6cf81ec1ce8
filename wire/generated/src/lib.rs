//! What flatc made of `wire/schema`: readers, writers and verifiers of the messages and of the cluster map.
//!
//! Nothing here is edited by hand, and nothing but `wire` uses it. After a change of a schema run `wire/schema/generate.sh` (it needs
//! flatc 25.12.19; building doesn't) and commit what it writes. `schema.hash` beside `src` is the xxh3-64, in hexadecimal, of all
//! `wire/schema/*.fbs` in order of their names: a test compares it, so that a schema can't change without its code.
//!
//! This crate is exempt from the workspace's lints: flatc's output is what it is, `unsafe` included. Its safety rests on the verifier, which
//! every message passes before any accessor is called.

#![allow(
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    unused_imports,
    dead_code,
    mismatched_lifetime_syntaxes,
    missing_docs,
    unsafe_op_in_unsafe_fn,
    non_camel_case_types,
    non_snake_case,
    reason = "generated code"
)]

#[rustfmt::skip]
pub mod cluster_map_generated;
#[rustfmt::skip]
pub mod common_generated;
#[rustfmt::skip]
pub mod control_generated;
#[rustfmt::skip]
pub mod message_generated;
#[rustfmt::skip]
pub mod meta_generated;
