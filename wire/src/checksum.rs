//! A chunk's checksums (R36): a hash tree whose leaves are 4 KiB blocks.
//!
//! ```text
//! level 0   leaf_i = xxh3-64(block i's real bytes, seed = xxh3-64(cluster uuid ‖ chunk id, seed = i))
//! level k   node_j = xxh3-64(children 16j .. 16j+16 of level k-1, little-endian, seed = k)      until one node is left
//!           root   = xxh3-64(top ‖ length as u64, little-endian)
//! ```
//!
//! The last block is hashed unpadded. The seed binds a leaf to its cluster, chunk and block, so that a block written to, or read
//! from, the wrong place never verifies. Metadata and the store's index hold the root; a batch's descriptor holds the leaves. A range of
//! blocks is verified against the root with the siblings along its edges ([`proof`]): at most 240 bytes for one block of 1 MiB.
//!
//! xxh3 finds accidents, not forgers.

use std::ops::Range;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::limits::{BLOCK_BYTES, LEAVES_MAX};
use crate::{ChunkId, ClusterId};

/// Children of an inner node.
pub const FAN_OUT: usize = 16;

/// Hashes one chunk's blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHasher {
    prefix: [u8; 32],
}

impl BlockHasher {
    /// The hasher of `id` in `cluster`.
    pub fn new(cluster: ClusterId, id: ChunkId) -> Self {
        let mut prefix = [0; 32];
        prefix[..16].copy_from_slice(&cluster.0);
        prefix[16..].copy_from_slice(&id.to_bytes());
        Self { prefix }
    }

    /// The leaf of block number `index`: `block` holds its 1 to 4,096 real bytes.
    pub fn leaf(&self, index: usize, block: &[u8]) -> u64 {
        debug_assert!(!block.is_empty() && block.len() <= BLOCK_BYTES);
        xxh3_64_with_seed(block, xxh3_64_with_seed(&self.prefix, index as u64))
    }

    /// The leaves of the blocks from `first` on that `bytes` holds, written to the front of `leaves`; returns how many.
    pub fn leaves(&self, first: usize, bytes: &[u8], leaves: &mut [u64]) -> usize {
        let mut count = 0;
        for (leaf, block) in leaves.iter_mut().zip(bytes.chunks(BLOCK_BYTES)) {
            *leaf = self.leaf(first + count, block);
            count += 1;
        }
        assert_eq!(count, leaf_count(bytes.len()), "room for every leaf");
        count
    }

    /// Whether the blocks from `first` on that `bytes` holds are those with these `leaves`.
    pub fn matches(&self, first: usize, bytes: &[u8], leaves: &[u64]) -> bool {
        leaf_count(bytes.len()) == leaves.len()
            && bytes
                .chunks(BLOCK_BYTES)
                .zip(leaves)
                .enumerate()
                .all(|(i, (block, leaf))| self.leaf(first + i, block) == *leaf)
    }

    /// The root of a whole chunk; one pass over `bytes`, which holds 1 to 4 Mi bytes.
    pub fn root(&self, bytes: &[u8]) -> u64 {
        let mut leaves = [0; LEAVES_MAX];
        let count = self.leaves(0, bytes, &mut leaves);
        root(&leaves[..count], bytes.len())
    }
}

/// Leaves of a chunk of `length` bytes.
pub fn leaf_count(length: usize) -> usize {
    length.div_ceil(BLOCK_BYTES)
}

/// The root over a chunk's `leaves` (1 to 1,024 of them) and `length` in bytes.
pub fn root(leaves: &[u64], length: usize) -> u64 {
    assert!(!leaves.is_empty() && leaves.len() <= LEAVES_MAX);
    let mut nodes = [0; LEAVES_MAX];
    nodes[..leaves.len()].copy_from_slice(leaves);
    let mut count = leaves.len();
    let mut level = 1;
    while count > 1 {
        count = fold(&mut nodes, count, level);
        level += 1;
    }
    seal(nodes[0], length)
}

/// What a reader of the blocks `range` needs beside their leaves to reach the root: per level, first the siblings left of the range
/// in its first group of 16, then those right of it in its last group. Appended to `out`.
pub fn proof(leaves: &[u64], range: Range<usize>, out: &mut Vec<u64>) {
    assert!(range.start < range.end && range.end <= leaves.len() && leaves.len() <= LEAVES_MAX);
    let mut nodes = [0; LEAVES_MAX];
    nodes[..leaves.len()].copy_from_slice(leaves);
    let mut span = Span { start: range.start, end: range.end, count: leaves.len() };
    let mut level = 1;
    while span.count > 1 {
        out.extend_from_slice(&nodes[span.group_start()..span.start]);
        out.extend_from_slice(&nodes[span.end..span.group_end()]);
        fold(&mut nodes, span.count, level);
        span = span.parent();
        level += 1;
    }
}

/// Values in the [`proof`] of `range` for a chunk of `count` leaves.
pub fn proof_len(count: usize, range: Range<usize>) -> usize {
    let mut span = Span { start: range.start, end: range.end, count };
    let mut len = 0;
    while span.count > 1 {
        len += span.start - span.group_start() + span.group_end() - span.end;
        span = span.parent();
    }
    len
}

/// Whether blocks `range` with these `leaves`, in a chunk of `length` bytes, belong to `expected_root`, given their [`proof`].
/// False for anything malformed: all three may come from a peer.
pub fn verify_range(
    length: usize,
    range: Range<usize>,
    leaves: &[u64],
    proof: &[u64],
    expected_root: u64,
) -> bool {
    let count = leaf_count(length);
    let shape_holds =
        range.start < range.end && range.end <= count && count <= LEAVES_MAX && leaves.len() == range.len();
    if !shape_holds || proof.len() != proof_len(count, range.clone()) {
        return false;
    }
    let mut nodes = [0; LEAVES_MAX];
    nodes[range.clone()].copy_from_slice(leaves);
    let mut span = Span { start: range.start, end: range.end, count };
    let mut rest = proof;
    let mut level = 1;
    while span.count > 1 {
        let (left, after) = rest.split_at(span.start - span.group_start());
        nodes[span.group_start()..span.start].copy_from_slice(left);
        let (right, after) = after.split_at(span.group_end() - span.end);
        nodes[span.end..span.group_end()].copy_from_slice(right);
        rest = after;
        let parent = span.parent();
        for node in parent.start..parent.end {
            nodes[node] = inner(&nodes[node * FAN_OUT..span.count.min((node + 1) * FAN_OUT)], level);
        }
        span = parent;
        level += 1;
    }
    seal(nodes[0], length) == expected_root
}

/// Nodes `start..end` of a level that has `count`.
struct Span {
    start: usize,
    end: usize,
    count: usize,
}

impl Span {
    fn group_start(&self) -> usize {
        self.start / FAN_OUT * FAN_OUT
    }

    fn group_end(&self) -> usize {
        self.end.next_multiple_of(FAN_OUT).min(self.count)
    }

    fn parent(&self) -> Self {
        Self {
            start: self.start / FAN_OUT,
            end: self.end.div_ceil(FAN_OUT),
            count: self.count.div_ceil(FAN_OUT),
        }
    }
}

/// Replaces the first `count` nodes by their parents of `level`; returns how many those are.
fn fold(nodes: &mut [u64], count: usize, level: u64) -> usize {
    let parents = count.div_ceil(FAN_OUT);
    for node in 0..parents {
        nodes[node] = inner(&nodes[node * FAN_OUT..count.min((node + 1) * FAN_OUT)], level);
    }
    parents
}

fn inner(children: &[u64], level: u64) -> u64 {
    let mut bytes = [0; FAN_OUT * 8];
    for (to, child) in bytes.chunks_exact_mut(8).zip(children) {
        to.copy_from_slice(&child.to_le_bytes());
    }
    xxh3_64_with_seed(&bytes[..children.len() * 8], level)
}

fn seal(top: u64, length: usize) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&top.to_le_bytes());
    bytes[8..].copy_from_slice(&(length as u64).to_le_bytes());
    xxh3_64(&bytes)
}

/// What an entry of a store's index adds to the digest of its range (R3): xxh3-64 of id, length and root, 28 bytes. A digest is the sum of its
/// entries', modulo 2⁶⁴, so it doesn't depend on their order, and an entry can be added and taken out again.
pub fn entry_digest(id: ChunkId, length: u32, root: u64) -> u64 {
    let mut bytes = [0; 28];
    bytes[..16].copy_from_slice(&id.to_bytes());
    bytes[16..20].copy_from_slice(&length.to_le_bytes());
    bytes[20..].copy_from_slice(&root.to_le_bytes());
    xxh3_64(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SessionId;

    /// R3: the digest covers id, length and root, and its value is part of the protocol.
    #[test]
    fn an_entrys_digest_covers_all_of_it() {
        let id = ChunkId { session: SessionId(0x0012_3456_789a_bcde), ordinal: 42 };
        let digest = entry_digest(id, 5_000, 7);
        assert_eq!(format!("{digest:016x}"), "f22aa1bab24f5f3f");
        assert_ne!(digest, entry_digest(ChunkId { ordinal: 43, ..id }, 5_000, 7));
        assert_ne!(digest, entry_digest(id, 5_001, 7));
        assert_ne!(digest, entry_digest(id, 5_000, 8));
    }

    fn hasher() -> BlockHasher {
        let cluster = ClusterId(std::array::from_fn(|i| u8::try_from(i).expect("below 16")));
        BlockHasher::new(cluster, ChunkId { session: SessionId(0x0012_3456_789a_bcde), ordinal: 42 })
    }

    fn sample(length: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let step = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        };
        (0..length).map(step).collect()
    }

    fn leaves_of(bytes: &[u8]) -> Vec<u64> {
        let mut leaves = vec![0; leaf_count(bytes.len())];
        hasher().leaves(0, bytes, &mut leaves);
        leaves
    }

    /// Stored chunks depend on these values: a change here is a change of the format.
    #[test]
    fn golden_vectors() {
        let lengths = [1, 4095, 4096, 4097, (64 << 10) + 1, 1 << 20];
        // Miri takes minutes for a mebibyte.
        let lengths = if cfg!(miri) { &lengths[..5] } else { &lengths[..] };
        let roots: Vec<String> =
            lengths.iter().map(|&length| format!("{:016x}", hasher().root(&sample(length)))).collect();
        assert_eq!(roots, GOLDEN_ROOTS[..lengths.len()]);
    }

    const GOLDEN_ROOTS: [&str; 6] = [
        "d39b92c3dd977522",
        "649ade47f0f173b3",
        "3954ec82f34d60a8",
        "6127e6f0d7662e59",
        "f094f122203b2bdc",
        "de4fb53839b34f95",
    ];

    #[test]
    fn every_range_of_every_shape_verifies_and_no_other() {
        let counts = [1, 2, 15, 16, 17, 31, 33, 255, 256, 257, 300, 1024];
        for &count in if cfg!(miri) { &counts[..5] } else { &counts[..] } {
            let bytes = sample((count - 1) * BLOCK_BYTES + 100);
            let leaves = leaves_of(&bytes);
            let expected = root(&leaves, bytes.len());
            for (start, end) in [
                (0, 1),
                (0, count),
                (count - 1, count),
                (count / 2, count / 2 + 1),
                (count / 3, count - count / 4),
            ] {
                let mut path = Vec::new();
                proof(&leaves, start..end, &mut path);
                assert_eq!(path.len(), proof_len(count, start..end));
                assert!(
                    verify_range(bytes.len(), start..end, &leaves[start..end], &path, expected),
                    "{count} {start}..{end}"
                );
                let mut wrong = leaves[start..end].to_vec();
                wrong[0] ^= 1;
                assert!(!verify_range(bytes.len(), start..end, &wrong, &path, expected));
                assert!(!verify_range(bytes.len() - 1, start..end, &leaves[start..end], &path, expected));
                if !path.is_empty() {
                    let last = path.len() - 1;
                    path[last] ^= 1;
                    assert!(!verify_range(bytes.len(), start..end, &leaves[start..end], &path, expected));
                    assert!(!verify_range(
                        bytes.len(),
                        start..end,
                        &leaves[start..end],
                        &path[..last],
                        expected
                    ));
                }
            }
        }
    }

    #[test]
    fn one_block_of_a_mebibyte_needs_at_most_256_bytes() {
        assert_eq!(proof_len(256, 7..8) * 8, 240);
    }

    #[test]
    fn a_block_of_another_place_does_not_match() {
        let bytes = sample(BLOCK_BYTES);
        let leaf = [hasher().leaf(3, &bytes)];
        assert!(hasher().matches(3, &bytes, &leaf));
        assert!(!hasher().matches(4, &bytes, &leaf));
        let other = BlockHasher::new(ClusterId([9; 16]), ChunkId { session: SessionId(1), ordinal: 42 });
        assert!(!other.matches(3, &bytes, &leaf));
    }
}
