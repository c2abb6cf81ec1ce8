//! One file per command or family: its options with their explanations and examples, and what it does.

pub(crate) mod attributes;
pub(crate) mod bench;
pub(crate) mod cat;
pub(crate) mod change;
pub(crate) mod compact;
pub(crate) mod cp;
pub(crate) mod debug;
pub(crate) mod dev;
pub(crate) mod doctor;
pub(crate) mod find;
pub(crate) mod get;
pub(crate) mod ln;
pub(crate) mod ls;
pub(crate) mod mkdir;
pub(crate) mod mv;
pub(crate) mod put;
pub(crate) mod quickstart;
pub(crate) mod rm;
pub(crate) mod server;
pub(crate) mod shell;
pub(crate) mod stat;
pub(crate) mod status;
pub(crate) mod usage;
pub(crate) mod verify;
pub(crate) mod volume;
pub(crate) mod xattr;
