//! Bytes that describe themselves: what a client writes is a function of (seed, write, offset in the write), so that a wrong byte anywhere is
//! noticed, and whoever looks at it can say where it came from.

use crate::random::Random;

/// One write's bytes: the number of the operation that wrote them. 0 is a hole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Stamp(pub u64);

impl Stamp {
    /// Not written: reads as zeros.
    pub(crate) const HOLE: Self = Self(0);
}

/// A run of bytes of one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Piece {
    /// Which write.
    pub stamp: Stamp,
    /// Where the run begins in that write.
    pub offset: u64,
    /// Its bytes.
    pub length: u64,
}

/// A file's bytes as pieces, in order, without gaps.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Content(Vec<Piece>);

/// Fills `out` with the bytes of `stamp` from `offset` on.
pub(crate) fn fill(seed: u64, stamp: Stamp, offset: u64, out: &mut [u8]) {
    if stamp == Stamp::HOLE {
        out.fill(0);
        return;
    }
    let mut at = 0;
    while at < out.len() {
        let position = offset + at as u64;
        let word = word_of(seed, stamp, position / 8).to_le_bytes();
        let skip = usize::try_from(position % 8).expect("below 8");
        let take = (8 - skip).min(out.len() - at);
        out[at..at + take].copy_from_slice(&word[skip..skip + take]);
        at += take;
    }
}

/// Every eighth word is the stamp and offset in clear, for whoever reads a dump; the others are mixed from them and the seed.
fn word_of(seed: u64, stamp: Stamp, index: u64) -> u64 {
    if index.is_multiple_of(8) {
        return stamp.0 << 40 | index & 0xff_ffff_ffff;
    }
    let mut mixed =
        seed ^ stamp.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index.wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
    mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 32)
}

impl Content {
    /// `length` bytes of one write.
    pub(crate) fn written(stamp: Stamp, length: u64) -> Self {
        let mut content = Self::default();
        content.push(Piece { stamp, offset: 0, length });
        content
    }

    /// How many bytes there are.
    pub(crate) fn len(&self) -> u64 {
        self.0.iter().map(|piece| piece.length).sum()
    }

    /// The bytes `from..to`, holes behind the end.
    #[must_use]
    pub(crate) fn range(&self, from: u64, to: u64) -> Self {
        let mut out = Self::default();
        let mut at = 0;
        for piece in &self.0 {
            let (start, end) = (from.max(at), to.min(at + piece.length));
            if start < end {
                let offset = if piece.stamp == Stamp::HOLE { 0 } else { piece.offset + (start - at) };
                out.push(Piece { stamp: piece.stamp, offset, length: end - start });
            }
            at += piece.length;
        }
        let missing = to.saturating_sub(from.max(at)).min(to.saturating_sub(from));
        out.push(Piece { stamp: Stamp::HOLE, offset: 0, length: missing });
        out
    }

    /// Cut or extended by a hole to `size` bytes.
    #[must_use]
    pub(crate) fn resized(&self, size: u64) -> Self {
        self.range(0, size)
    }

    /// With `other` put over it from `offset` on.
    #[must_use]
    pub(crate) fn overwritten(&self, offset: u64, other: &Self) -> Self {
        let end = offset + other.len();
        let mut out = self.range(0, offset);
        other.0.iter().for_each(|piece| out.push(*piece));
        if end < self.len() {
            self.range(end, self.len()).0.iter().for_each(|piece| out.push(*piece));
        }
        out
    }

    /// The bytes.
    pub(crate) fn bytes(&self, seed: u64) -> Vec<u8> {
        let mut out = vec![0; usize::try_from(self.len()).expect("simulated files are small")];
        let mut at = 0;
        for piece in &self.0 {
            let length = usize::try_from(piece.length).expect("simulated files are small");
            fill(seed, piece.stamp, piece.offset, &mut out[at..at + length]);
            at += length;
        }
        out
    }

    fn push(&mut self, piece: Piece) {
        if piece.length == 0 {
            return;
        }
        if let Some(last) = self.0.last_mut()
            && last.stamp == piece.stamp
            && (last.stamp == Stamp::HOLE || last.offset + last.length == piece.offset)
        {
            last.length += piece.length;
        } else {
            self.0.push(piece);
        }
    }
}

/// Where `found` first differs from `content`, described for a person.
pub(crate) fn difference(seed: u64, content: &Content, found: &[u8]) -> Option<String> {
    let expected = content.bytes(seed);
    if expected.len() != found.len() {
        return Some(format!("{} bytes instead of {}", found.len(), expected.len()));
    }
    let at = expected.iter().zip(found).position(|(a, b)| a != b)?;
    let aligned = at / 64 * 64;
    let window =
        |bytes: &[u8]| -> String { format!("{:02x?}", &bytes[aligned..bytes.len().min(aligned + 16)]) };
    Some(format!("byte {at}: expected {}, found {}", window(&expected), window(found)))
}

/// A length that tests edges: 0, 1, around a block, around a chunk, up to four chunks.
pub(crate) fn interesting_length(random: &mut Random, chunk_bytes: u64) -> u64 {
    match random.below(10) {
        0 => 0,
        1 => 1,
        2 => random.between(4095, 4097),
        3 => random.between(chunk_bytes - 1, chunk_bytes + 1),
        4 => random.between(1, 4 * chunk_bytes),
        5 | 6 => random.between(1, 4096),
        _ => random.between(1, 2 * chunk_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_what_plain_bytes_would_be() {
        let mut random = Random::stream(3, "content");
        let mut content = Content::default();
        let mut plain: Vec<u8> = Vec::new();
        for step in 1..400 {
            let length = random.between(0, 50);
            let offset = random.between(0, 120);
            match random.below(3) {
                0 => {
                    content = content.resized(offset);
                    plain.resize(usize::try_from(offset).expect("small"), 0);
                }
                1 => {
                    let new = Content::written(Stamp(step), length);
                    plain.extend(new.bytes(9));
                    content = content.overwritten(content.len(), &new);
                }
                _ => {
                    let new = Content::written(Stamp(step), length);
                    let (start, end) = (
                        usize::try_from(offset).expect("small"),
                        usize::try_from(offset + length).expect("small"),
                    );
                    plain.resize(plain.len().max(end).max(start), 0);
                    plain[start..end].copy_from_slice(&new.bytes(9));
                    content = content.overwritten(offset, &new);
                }
            }
            assert_eq!(content.bytes(9), plain, "step {step}");
            assert!(difference(9, &content, &plain).is_none());
        }
    }

    #[test]
    fn a_difference_is_named() {
        let content = Content::written(Stamp(4), 100);
        let mut bytes = content.bytes(1);
        bytes[77] ^= 1;
        assert!(difference(1, &content, &bytes).expect("differs").starts_with("byte 77"));
        assert!(difference(1, &content, &bytes[..99]).expect("differs").contains("99 bytes"));
    }
}
