//! The member by hand: who is answered and when, what an end leaves behind, what stores are asked.

mod bench;
mod chain;
mod ending;
mod greeting;
mod lives;
mod loss;
mod stores;
