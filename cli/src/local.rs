//! This machine's files: walking them, what is data and what is hole, their attributes, and putting new ones in place atomically.

pub(crate) mod meta;
pub(crate) mod passing;
pub(crate) mod place;
pub(crate) mod sparse;
pub(crate) mod walk;
