//! The runtime with real sockets, files and threads.

#![expect(unreachable_pub, reason = "items of a test binary")]

mod echo;
mod files;
mod support;
