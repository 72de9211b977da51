//! Numbers in tables that others wrote, least significant byte first. Where a table ends too early there are zeros: whoever reads it
//! checks its length before, or refuses a number that makes no sense.

/// The number of 16 bits at `at`.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

/// The number of 32 bits at `at`.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

/// The number of 64 bits at `at`.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

/// The number of 32 bits with a sign at `at`.
pub(crate) fn i32_at(bytes: &[u8], at: usize) -> i32 {
    i32::from_le_bytes(array_at(bytes, at))
}

/// The number of 64 bits with a sign at `at`.
pub(crate) fn i64_at(bytes: &[u8], at: usize) -> i64 {
    i64::from_le_bytes(array_at(bytes, at))
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .copied()
        .unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_zero() {
        let bytes = [1, 2, 3, 0xff, 5, 6, 7, 0x80, 9];
        assert_eq!(u16_at(&bytes, 1), 0x0302);
        assert_eq!(u32_at(&bytes, 0), 0xff03_0201);
        assert_eq!(i32_at(&bytes, 0), -0x00fc_fdff);
        assert_eq!(u64_at(&bytes, 0), 0x8007_0605_ff03_0201);
        assert!(i64_at(&bytes, 0) < 0);
        for at in [8, 9, 10, usize::MAX] {
            assert_eq!(u16_at(&bytes, at), 0);
        }
    }
}
