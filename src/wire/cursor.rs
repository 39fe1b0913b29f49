//! `[both]` Reading and writing little-endian fields, bounds checked, without allocating.

/// Takes fields off the front of received bytes. Every method answers `None` when too few bytes are left.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (front, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*front)
    }

    /// What is left.
    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }

    /// `Some` only when nothing is left: trailing bytes are malformed.
    pub(super) fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// Puts fields into a buffer, front to back. After the first field that does not fit, nothing more is written
/// and [`Writer::len`] answers `None`.
pub(super) struct Writer<'b> {
    buffer: &'b mut [u8],
    len: Option<usize>,
}

impl<'b> Writer<'b> {
    pub(super) fn new(buffer: &'b mut [u8]) -> Self {
        Self { buffer, len: Some(0) }
    }

    pub(super) fn put(&mut self, field: &[u8]) {
        self.len = self.len.and_then(|start| {
            let end = start.checked_add(field.len())?;
            self.buffer.get_mut(start..end)?.copy_from_slice(field);
            Some(end)
        });
    }

    /// Bytes written, if all of them fitted.
    pub(super) fn len(&self) -> Option<usize> {
        self.len
    }
}
