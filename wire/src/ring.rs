//! The consistent-hash ring's arithmetic: chunk id → position → slice.

use xxhash_rust::xxh3::xxh3_64;

use crate::{ChunkId, SliceIndex};

/// The chunk's place on the 64-bit ring: xxh3-64 of the id's 16 bytes. Part of the format: golden vectors pin it.
pub fn position(id: ChunkId) -> u64 {
    xxh3_64(&id.to_bytes())
}

/// The slice that holds `id` on a ring of `2^bits` slices, `bits` ≤ 16 (R40): the position's top bits, so that raising
/// `bits` by one splits every slice in two.
pub fn slice_of(id: ChunkId, bits: u32) -> SliceIndex {
    assert!(bits <= 16, "a ring has at most 2^16 slices");
    let top = if bits == 0 { 0 } else { position(id) >> (64 - bits) };
    SliceIndex(u16::try_from(top).expect("at most 16 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SessionId;

    /// Where every stored chunk lives depends on these values: a change here is a change of the format.
    #[test]
    fn golden_vectors() {
        for (session, ordinal, expected_position, expected_slice) in GOLDEN {
            let id = ChunkId { session: SessionId(session), ordinal };
            assert_eq!(format!("{:016x}", position(id)), expected_position, "{id}");
            assert_eq!(slice_of(id, 12), SliceIndex(expected_slice), "{id}");
        }
    }

    /// Session, ordinal, position, slice on a ring of 4,096; computed with the reference library in C.
    const GOLDEN: [(u64, u64, &str, u16); 4] = [
        (0, 0, "d0a66a65c7528968", 3338),
        (1, 1, "6ca7f978e15828a6", 1738),
        (0x0010_0400_0000_0007, 42, "e42f9714cf8fe287", 3650),
        (u64::MAX, u64::MAX, "722a202f07a4b313", 1826),
    ];

    #[test]
    fn one_bit_more_splits_every_slice_in_two() {
        for ordinal in 0..1_000 {
            let id = ChunkId { session: SessionId(7), ordinal };
            assert_eq!(slice_of(id, 0), SliceIndex(0));
            for bits in 0..16 {
                assert_eq!(slice_of(id, bits + 1).0 / 2, slice_of(id, bits).0);
            }
        }
    }

    #[test]
    fn chunks_of_one_session_spread_evenly() {
        let mut counts = [0_u32; 16];
        for ordinal in 0..16_000 {
            let id = ChunkId { session: SessionId(7), ordinal };
            counts[usize::from(slice_of(id, 4).0)] += 1;
        }
        // The standard deviation is 31: five of them.
        assert!(counts.iter().all(|count| (845..1_155).contains(count)), "{counts:?}");
    }
}
