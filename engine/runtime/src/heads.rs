//! The receive buffers of a thread: a ring of provided buffers that the kernel picks from when bytes arrive.
//!
//! A connection on which nothing arrives holds no memory here, so ten thousand idle ones cost nothing. A filled buffer is parsed
//! at once and given back before the next enter; what is left of a half frame moves to the connection's own stash.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;
use memmap2::MmapMut;

use crate::ring::{Ring, RingError};

/// Bytes of one receive buffer: hundreds of small frames, or several with a payload of 4 KiB, whose copy costs less than a receive of its own.
pub(crate) const HEAD_BUFFER_BYTES: usize = 32 << 10;
/// Receive buffers of a thread, so completions of one turn; 4 MiB. Beyond, receives are tried again in the next turn.
const HEAD_BUFFERS: u16 = 128;
/// The group's name towards the kernel; a thread has one.
pub(crate) const HEAD_GROUP: u16 = 0;

/// The receive buffers.
pub(crate) struct HeadBuffers {
    /// The ring of descriptors that the kernel reads: page-aligned, mapped as long as the uring lives.
    ring: MmapMut,
    data: MmapMut,
    tail: u16,
}

impl HeadBuffers {
    /// All buffers, given to the kernel.
    pub(crate) fn new(ring: &mut Ring) -> Result<Self, RingError> {
        let setup = |source| RingError::Setup { step: "mapping receive buffers", source };
        let entries =
            MmapMut::map_anon(usize::from(HEAD_BUFFERS) * size_of::<BufRingEntry>()).map_err(setup)?;
        let data = MmapMut::map_anon(usize::from(HEAD_BUFFERS) * HEAD_BUFFER_BYTES).map_err(setup)?;
        let mut buffers = Self { ring: entries, data, tail: 0 };
        let address = buffers.ring.as_mut_ptr() as u64;
        // SAFETY: the mapping is page-aligned, has room for all entries and outlives the uring (field order in `Driver`).
        unsafe { ring.register_buffer_ring(address, HEAD_BUFFERS, HEAD_GROUP) }.map_err(
            |source: io::Error| match source.raw_os_error() {
                Some(libc::EINVAL) => RingError::TooOld { missing: "rings of provided buffers" },
                Some(libc::ENOMEM) => RingError::LockedMemory { limit: crate::sys::memlock_limit().0 },
                _ => RingError::Setup { step: "registering receive buffers", source },
            },
        )?;
        for buffer in 0..HEAD_BUFFERS {
            buffers.give_back(buffer);
        }
        Ok(buffers)
    }

    /// What the kernel wrote into a buffer that it picked.
    pub(crate) fn bytes(&self, buffer: u16, len: usize) -> &[u8] {
        assert!(len <= HEAD_BUFFER_BYTES);
        let start = usize::from(buffer) * HEAD_BUFFER_BYTES;
        &self.data[start..start + len]
    }

    /// Gives a picked buffer back to the kernel.
    pub(crate) fn give_back(&mut self, buffer: u16) {
        assert!(buffer < HEAD_BUFFERS);
        let address = self.data.as_mut_ptr().wrapping_add(usize::from(buffer) * HEAD_BUFFER_BYTES) as u64;
        let base: *mut BufRingEntry = self.ring.as_mut_ptr().cast();
        let place = base.wrapping_add(usize::from(self.tail % HEAD_BUFFERS));
        // SAFETY: `place` is inside the mapping, aligned, and the kernel reads it only after the tail has passed it.
        let entry = unsafe { &mut *place };
        entry.set_addr(address);
        entry.set_len(u32::try_from(HEAD_BUFFER_BYTES).expect("a small constant"));
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `base` is the first entry of the ring, initialized.
        let tail = unsafe { BufRingEntry::tail(base) };
        // SAFETY: the tail is an aligned u16 inside the mapping that the kernel loads atomically and nobody else stores.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}
