//! What lints can't check, as ordinary tests (`cargo test -p tidy`).
//!
//! Each check is a function from the tree to a list of findings, one line each that names file, line and the way out; a test
//! asserts that the list is empty. Beside every check stands a test that it finds a planted offence.
//!
//! | module | checks |
//! |---|---|
//! | [`edges`] | which of our crates may name which, and which may name others' crates |
//! | [`sizes`] | lines a file and a function, with a ratchet: offenders may shrink, never grow |
//! | [`names`] | every crate and path that ARCHITECTURE.md names, and links between pages |
//! | [`words`] | `unsafe`, `#[ignore]`, skips, unfinished words, paths of one machine |
//!
//! That the generated code belongs to the schema is checked beside the codec, in `wire/tests/schema.rs`.

#![forbid(unsafe_code)]

pub mod edges;
pub mod names;
pub mod sizes;
pub mod source;
pub mod tree;
pub mod words;
