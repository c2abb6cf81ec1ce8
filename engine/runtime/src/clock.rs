//! The two clocks, and the kernel's randomness. Drivers read them here and hand the values to pure code.

use wire::{Nanos, Timestamp};

use crate::sys;

/// Monotonic time that also runs while the machine is suspended (`CLOCK_BOOTTIME`): for leases, time-outs and measurements.
pub fn now() -> Nanos {
    sys::boottime()
}

/// Wall-clock time: for people and for file attributes, never for order.
pub fn wall() -> Timestamp {
    sys::realtime()
}

/// `N` bytes from the kernel's generator: for ids, secrets and seeds.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    sys::random(&mut bytes);
    bytes
}
