//! The records of a PAX extended header: `25 ctime=1084839148.1212\n` (POSIX.1-2001, pax(1), "pax Extended Header"). Those that say
//! nothing about an inode are passed over.

use std::collections::BTreeMap;

/// How Linux programs call extended attributes in a PAX header, since Schilling's star.
const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// GNU's way to leave out holes.
const SPARSE_PREFIX: &[u8] = b"GNU.sparse.";

/// What a PAX header says of the entry after it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Records {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link_target: Option<Vec<u8>>,
    pub(crate) size_bytes: Option<u64>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) mtime_s: Option<i64>,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) is_sparse: bool,
}

impl Records {
    /// Reads the records, or nothing where they are not well formed.
    pub(crate) fn parse(mut bytes: &[u8]) -> Option<Self> {
        let mut records = Self::default();
        while !bytes.is_empty() {
            let blank = bytes.iter().position(|&byte| byte == b' ')?;
            let length: usize = decimal(&bytes[..blank])?;
            // The length counts itself, the blank and the line break.
            let record = bytes.get(blank + 1..length)?;
            bytes = &bytes[length..];
            let record = record.strip_suffix(b"\n")?;
            let equals = record.iter().position(|&byte| byte == b'=')?;
            records.set(&record[..equals], &record[equals + 1..])?;
        }
        Some(records)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
            self.xattrs.insert(name.to_vec(), value.to_vec());
            return Some(());
        }
        if key.starts_with(SPARSE_PREFIX) {
            self.is_sparse = true;
            return Some(());
        }
        match key {
            b"path" => assign(&mut self.path, value, |value| Some(value.to_vec())),
            b"linkpath" => assign(&mut self.link_target, value, |value| Some(value.to_vec())),
            b"size" => assign(&mut self.size_bytes, value, decimal),
            b"uid" => assign(&mut self.uid, value, decimal),
            b"gid" => assign(&mut self.gid, value, decimal),
            b"mtime" => assign(&mut self.mtime_s, value, seconds),
            _ => Some(()),
        }
    }
}

/// Sets what a value says; an empty one takes back what was said before.
fn assign<T>(
    field: &mut Option<T>,
    value: &[u8],
    parse: impl Fn(&[u8]) -> Option<T>,
) -> Option<()> {
    *field = if value.is_empty() {
        None
    } else {
        Some(parse(value)?)
    };
    Some(())
}

fn decimal<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    if text.iter().all(u8::is_ascii_digit) {
        str::from_utf8(text).ok()?.parse().ok()
    } else {
        None
    }
}

/// The whole seconds of a time that may have a fraction, rounded down.
fn seconds(text: &[u8]) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix(b"-") {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    let mut parts = digits.splitn(2, |&byte| byte == b'.');
    let whole: i64 = decimal(parts.next()?)?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let rounds_down = sign < 0 && fraction.iter().any(|&digit| digit != b'0');
    (sign * whole).checked_sub(i64::from(rounds_down))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read() {
        let record = |key: &str, value: &[u8]| {
            let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
            let length =
                (1..1000_usize).find(|length| length.to_string().len() + rest.len() == *length);
            [length.unwrap().to_string().as_bytes(), &rest].concat()
        };
        let text = [
            record("path", b"a/b"),
            record("mtime", b"-1.500000"),
            record("comment", b"a = b\n"),
            record("SCHILY.xattr.user.x", b"1\n=\0\xff2"),
            record("uid", b"70"),
            record("size", b"11"),
            record("gid", b"7"),
            record("gid", b""),
        ];
        let records = Records::parse(&text.concat()).unwrap();
        assert_eq!(records.path.as_deref(), Some(&b"a/b"[..]));
        assert_eq!(records.mtime_s, Some(-2));
        assert_eq!(records.xattrs[&b"user.x"[..]], b"1\n=\0\xff2");
        assert_eq!(
            (records.uid, records.gid, records.size_bytes),
            (Some(70), None, Some(11))
        );
        assert_eq!(records.link_target, None);
        assert!(!records.is_sparse);
        assert!(
            Records::parse(b"22 GNU.sparse.major=1\n")
                .unwrap()
                .is_sparse
        );
    }

    #[test]
    fn malformed_records_are_refused() {
        for text in [
            &b"x path=a\n"[..],
            b"11 path=a\n",
            b"8 path=a\n",
            b"2 ",
            b"0 path=a\n",
            b"99999999999999999999 path=a\n",
            b"9 path a\n",
            b"9 uid=-1\n",
            b"11 mtime=x\n",
            b"13 mtime=1.x\n",
            b"18 uid=4294967296\n",
            b"9 path=ab",
            b"1",
        ] {
            assert_eq!(Records::parse(text), None, "{}", text.escape_ascii());
        }
    }
}
