//! Ties are broken by a hash of what competes, so that placement is declustered and yet a function of its input alone.

/// A hash of two numbers: splitmix64's finalizer over their combination (Steele, Lea, Flood 2014).
pub(super) fn mix(a: usize, b: usize) -> u64 {
    let widen = |x: usize| u64::try_from(x).unwrap_or(u64::MAX);
    let mut z = widen(a).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ widen(b).wrapping_add(0x632b_e59b_d9b4_e019);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// `0..count` in an order that says nothing about the numbers; another `salt`, another order.
pub(super) fn shuffled(count: usize, salt: usize) -> Vec<usize> {
    let mut order: Vec<(u64, usize)> = (0..count).map(|i| (mix(i, salt), i)).collect();
    order.sort_unstable();
    order.into_iter().map(|(_, i)| i).collect()
}
