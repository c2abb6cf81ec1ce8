//! The codec from outside: golden frames, round trips of random values, and hostile bytes.

mod control;
mod fuzz;
mod golden;
mod limits;
mod map;
mod random;
mod samples;
