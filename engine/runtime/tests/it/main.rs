//! The runtime with real sockets, files and threads.

#![expect(unreachable_pub, reason = "items of a test binary")]

mod background;
mod ceilings;
mod connect;
mod echo;
mod files;
mod limits;
mod mail;
mod soak;
mod start;
mod support;
mod together;
