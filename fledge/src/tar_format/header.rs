//! The 512-byte header of a tar entry: what its fields say. Formats and offsets as in POSIX.1-1988 (`ustar`) and GNU tar's manual,
//! "Basic Tar Format". Extensions in other entries are not looked at here.

/// The unit of a tar archive in bytes.
pub(crate) const BLOCK_BYTES: usize = 512;

/// A header whose checksum is right.
#[derive(Debug)]
pub(crate) struct Header([u8; BLOCK_BYTES]);

impl Header {
    /// The header in a block, unless its checksum is wrong.
    pub(crate) fn parse(block: &[u8; BLOCK_BYTES]) -> Option<Self> {
        let header = Self(*block);
        let stored = number(&header.0[148..156])?;
        let (mut unsigned, mut signed) = (0_i64, 0_i64);
        for (at, &byte) in header.0.iter().enumerate() {
            // The checksum is computed with its own field blank.
            let byte = if (148..156).contains(&at) { b' ' } else { byte };
            unsigned += i64::from(byte);
            // Some old programs added up signed characters.
            signed += i64::from(i8::from_ne_bytes([byte]));
        }
        (stored == unsigned || stored == signed).then_some(header)
    }

    /// The type flag.
    pub(crate) fn kind(&self) -> u8 {
        self.0[156]
    }

    /// The name, with the prefix of `ustar`.
    pub(crate) fn name(&self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        let prefix = text(&self.0[345..500]);
        // GNU's magic is `ustar  `; it uses the room of the prefix otherwise.
        if &self.0[257..263] == b"ustar\0" && !prefix.is_empty() {
            [prefix, b"/", name].concat()
        } else {
            name.to_vec()
        }
    }

    /// Where a link leads.
    pub(crate) fn link_target(&self) -> &[u8] {
        text(&self.0[157..257])
    }

    pub(crate) fn mode(&self) -> Option<u32> {
        number(&self.0[100..108]).and_then(|mode| u32::try_from(mode).ok())
    }

    pub(crate) fn uid(&self) -> Option<u32> {
        number(&self.0[108..116]).and_then(|uid| u32::try_from(uid).ok())
    }

    pub(crate) fn gid(&self) -> Option<u32> {
        number(&self.0[116..124]).and_then(|gid| u32::try_from(gid).ok())
    }

    pub(crate) fn size_bytes(&self) -> Option<u64> {
        number(&self.0[124..136]).and_then(|size| u64::try_from(size).ok())
    }

    pub(crate) fn mtime_s(&self) -> Option<i64> {
        number(&self.0[136..148])
    }

    pub(crate) fn device_major(&self) -> Option<u32> {
        number(&self.0[329..337]).and_then(|major| u32::try_from(major).ok())
    }

    pub(crate) fn device_minor(&self) -> Option<u32> {
        number(&self.0[337..345]).and_then(|minor| u32::try_from(minor).ok())
    }
}

/// A field up to its first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// A number: octal digits between blanks, or GNU's base 256 where the first bit is set.
fn number(field: &[u8]) -> Option<i64> {
    let (&first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        // Two's complement without its first bit; the next one is the sign.
        let mut value: i64 = if first & 0x40 == 0 {
            i64::from(first & 0x3f)
        } else {
            i64::from(first & 0x3f) - 0x40
        };
        for &byte in rest {
            value = value.checked_mul(256)?.checked_add(i64::from(byte))?;
        }
        return Some(value);
    }
    let is_blank = |byte: &u8| matches!(byte, b' ' | 0);
    let Some(start) = field.iter().position(|byte| !is_blank(byte)) else {
        return Some(0);
    };
    let digits = field[start..].split(is_blank).next().unwrap_or_default();
    digits.iter().try_fold(0_i64, |value, &digit| {
        let digit = (b'0'..=b'7').contains(&digit).then(|| digit - b'0')?;
        value.checked_mul(8)?.checked_add(i64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        let table: [(&[u8], Option<i64>); 13] = [
            (b"0000644\0", Some(0o644)),
            (b"  644 \0\0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"", None),
            (b"0000648\0", None),
            (b"-1", None),
            (b"77777777777\0", Some(0o77_777_777_777)),
            (b"\x80\0\0\0\0\0\0\x01", Some(1)),
            (b"\x80\0\0\0\0\0\0\x02\0\0\0\0", Some(0x2_0000_0000)),
            (
                b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe",
                Some(-2),
            ),
            (
                b"\xbf\xff\xff\xff\xff\xff\xff\xff",
                Some(0x3fff_ffff_ffff_ffff),
            ),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ];
        for (field, expected) in table {
            assert_eq!(number(field), expected, "{field:x?}");
        }
    }
}
