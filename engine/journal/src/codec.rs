//! Little-endian cursors over byte slices. The reader is total: past the end it yields `None`, never a panic.

/// Writes fields one after the other.
pub(crate) struct Writer<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn at(&self) -> usize {
        self.at
    }

    pub(crate) fn bytes(&mut self, field: &[u8]) {
        self.bytes[self.at..self.at + field.len()].copy_from_slice(field);
        self.at += field.len();
    }

    pub(crate) fn u8(&mut self, field: u8) {
        self.bytes(&[field]);
    }

    pub(crate) fn u16(&mut self, field: u16) {
        self.bytes(&field.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, field: u32) {
        self.bytes(&field.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, field: u64) {
        self.bytes(&field.to_le_bytes());
    }

    pub(crate) fn zeros(&mut self, count: usize) {
        self.bytes[self.at..self.at + count].fill(0);
        self.at += count;
    }
}

/// Reads fields one after the other.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (field, rest) = self.bytes.split_at_checked(count)?;
        self.bytes = rest;
        Some(field)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}
