//! Writes bits, the lowest first, as RFC 1951 §3.1.1 wants them. Knows nothing of codes.

/// The most bytes that one stored block holds: its length has 16 bits.
const MAX_STORED_BYTES: usize = 0xffff;

/// Appends bits to a vector.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    /// Bits that are not written yet; fewer than 32 between calls.
    pending: u64,
    pending_bits: u32,
}

impl<'a> Writer<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        Self {
            out,
            pending: 0,
            pending_bits: 0,
        }
    }

    /// Writes the lowest `count` bits of `value`, at most 32; the others must be 0.
    #[inline]
    pub(super) fn put(&mut self, value: u32, count: u32) {
        self.pending |= u64::from(value) << self.pending_bits;
        self.pending_bits += count;
        if self.pending_bits >= 32 {
            let [a, b, c, d, ..] = self.pending.to_le_bytes();
            self.out.extend_from_slice(&[a, b, c, d]);
            self.pending >>= 32;
            self.pending_bits -= 32;
        }
    }

    /// Fills up with zeros to a byte boundary.
    fn align(&mut self) {
        while self.pending_bits > 0 {
            let [low, ..] = self.pending.to_le_bytes();
            self.out.push(low);
            self.pending >>= 8;
            self.pending_bits = self.pending_bits.saturating_sub(8);
        }
    }

    /// Writes `bytes` as they are, in as many stored blocks as it takes, at least one (RFC 1951 §3.2.4).
    pub(super) fn stored_block(&mut self, bytes: &[u8], is_last: bool) {
        let mut rest = bytes;
        loop {
            let (block, after) = rest.split_at(rest.len().min(MAX_STORED_BYTES));
            self.put(u32::from(is_last && after.is_empty()), 3);
            self.align();
            let length = u16::try_from(block.len()).unwrap_or(u16::MAX);
            self.out.extend_from_slice(&length.to_le_bytes());
            self.out.extend_from_slice(&(!length).to_le_bytes());
            self.out.extend_from_slice(block);
            rest = after;
            if rest.is_empty() {
                return;
            }
        }
    }

    /// Writes what is pending.
    pub(super) fn finish(mut self) {
        self.align();
    }
}
