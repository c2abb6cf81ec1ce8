//! Buffers as pure code sees them: a slot's number, and a memory to look it up in.

/// One buffer of the arena. Events and effects carry slots, never bytes (DESIGN: payloads are only ever slots).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    /// The buffer's place in the arena.
    pub index: u32,
    /// Raised at each release: a slot used after its release is a programmer error that is noticed.
    pub generation: u32,
}

/// The arena, as pure code uses it. The runtime's is one mapping of 2 MiB pages; the simulator's is a table of vectors.
///
/// A slot's buffer is aligned to 4,096 bytes and its capacity is a power of two ≥ 4,096. A slot is counted: it returns to the
/// arena when as many [`release`](Memory::release)s as references were made. The driver holds a reference of its own while
/// an I/O on the slot is in flight, so a release never frees a buffer under the kernel.
pub trait Memory {
    /// A buffer of at least `bytes`, or `None` when the arena has no room: the caller answers `Busy` or waits, never retries
    /// in a loop. Its contents are whatever was there before.
    fn allocate(&mut self, bytes: usize) -> Option<Slot>;
    /// Bytes in all; where nobody set a limit (tools, tests), as many as can be.
    fn total_bytes(&self) -> usize {
        usize::MAX
    }
    /// Bytes that aren't allocated now. They may be in pieces: an allocation can fail with as much free.
    fn free_bytes(&self) -> usize {
        usize::MAX
    }
    /// One more reference to `slot`.
    fn retain(&mut self, slot: Slot);
    /// Gives a reference back.
    fn release(&mut self, slot: Slot);
    /// The whole buffer, its capacity long.
    fn bytes(&self, slot: Slot) -> &[u8];
    /// The whole buffer, to be written.
    fn bytes_mut(&mut self, slot: Slot) -> &mut [u8];
}
