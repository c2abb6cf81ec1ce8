//! The executor thread.
