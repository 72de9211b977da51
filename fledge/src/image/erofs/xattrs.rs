//! The extended attributes of an inode, as they lie behind it. None are shared between inodes: images have few.

use std::collections::BTreeMap;

use crate::image::WriteError;
use crate::image::write_error::shown;

/// What each name begins with, and the number that stands for it (`EROFS_XATTR_INDEX_USER` and so on in `erofs_fs.h`). Those of
/// access lists are whole names.
const PREFIXES: [(&[u8], u8); 5] = [
    (b"user.", 1),
    (ACL_ACCESS, 2),
    (ACL_DEFAULT, 3),
    (b"trusted.", 4),
    (b"security.", 6),
];

const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

/// `struct erofs_xattr_ibody_header`: a filter of names that is not used, how many are shared, and room.
const HEADER_BYTES: usize = 12;

/// Each attribute begins at a multiple of this, in bytes; the inode says how many there are.
const UNIT_BYTES: usize = 4;

/// The longest name, with its prefix (`XATTR_NAME_MAX` of Linux).
const MAX_NAME_BYTES: usize = 255;

/// What can lie behind an inode: the first unit is the header, and their count has 16 bits.
const MAX_BYTES: usize = HEADER_BYTES + 65_534 * UNIT_BYTES;

/// The attributes as they follow the inode at `path`: nothing where there are none.
///
/// # Errors
/// Where one does not fit the format, or they do not together.
pub(super) fn encode(
    path: &[u8],
    xattrs: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> Result<Vec<u8>, WriteError> {
    if xattrs.is_empty() {
        return Ok(Vec::new());
    }
    let mut bytes = vec![0; HEADER_BYTES];
    for (name, value) in xattrs {
        let refuse = |why: &str| {
            let name = String::from_utf8_lossy(name);
            let name: String = name
                .chars()
                .take(300)
                .flat_map(char::escape_debug)
                .collect();
            WriteError::Unsupported {
                path: shown(path),
                why: format!("its extended attribute `{name}` {why}"),
            }
        };
        let (index, rest) = split(name).ok_or_else(|| {
            refuse("is neither of `user.`, `trusted.` or `security.`, nor an access list")
        })?;
        if name.contains(&0) {
            return Err(refuse("has a NUL in its name"));
        }
        let rest_bytes = u8::try_from(rest.len())
            .ok()
            .filter(|_| name.len() <= MAX_NAME_BYTES)
            .ok_or_else(|| refuse("has a name of more than 255 bytes"))?;
        let value_bytes =
            u16::try_from(value.len()).map_err(|_| refuse("has more than 65535 bytes"))?;
        bytes.extend([rest_bytes, index]);
        bytes.extend(value_bytes.to_le_bytes());
        bytes.extend(rest);
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(UNIT_BYTES), 0);
        if bytes.len() > MAX_BYTES {
            return Err(WriteError::Unsupported {
                path: shown(path),
                why: format!("its extended attributes have more than {MAX_BYTES} bytes together"),
            });
        }
    }
    Ok(bytes)
}

/// What the inode says of attributes that take `bytes`: how many units there are, the header being one (`i_xattr_icount`).
pub(super) fn count(bytes: usize) -> u16 {
    bytes
        .checked_sub(HEADER_BYTES)
        .and_then(|entries| u16::try_from(entries / UNIT_BYTES + 1).ok())
        .unwrap_or(0)
}

/// The number of a name's prefix, and the rest of the name.
fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    PREFIXES.into_iter().find_map(|(prefix, index)| {
        let rest = name.strip_prefix(prefix)?;
        let is_whole = prefix == ACL_ACCESS || prefix == ACL_DEFAULT;
        (rest.is_empty() == is_whole).then_some((index, rest))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &[u8], value: Vec<u8>) -> Result<Vec<u8>, String> {
        let xattrs = BTreeMap::from([(name.to_vec(), value)]);
        encode(b"a", &xattrs).map_err(|error| error.to_string())
    }

    #[test]
    fn names_are_split_as_linux_does() {
        for (name, index, rest) in [
            ("user.a", 1, "a"),
            ("system.posix_acl_access", 2, ""),
            ("system.posix_acl_default", 3, ""),
            ("trusted.overlay.opaque", 4, "overlay.opaque"),
            ("security.capability", 6, "capability"),
        ] {
            let expected = Some((index, rest.as_bytes()));
            assert_eq!(split(name.as_bytes()), expected, "{name}");
        }
        for name in [
            "user.",
            "system.posix_acl_access2",
            "com.apple.quarantine",
            "",
        ] {
            assert_eq!(split(name.as_bytes()), None, "{name}");
        }
    }

    #[test]
    fn attributes_lie_as_the_format_says() {
        assert_eq!(of(b"user.ab", b"xyz".to_vec()).unwrap(), {
            let mut bytes = vec![0; 12];
            bytes.extend([2, 1, 3, 0]);
            bytes.extend(b"abxyz\0\0\0");
            bytes
        });
        assert_eq!(count(0), 0);
        assert_eq!(count(24), 4);
        assert_eq!(count(MAX_BYTES), u16::MAX);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        of(&[b"user.", [b'n'; 250].as_slice()].concat(), Vec::new()).unwrap();
        of(b"user.a", vec![1; 65_535]).unwrap();
        let error = of(b"user.a", vec![1; 65_536]).unwrap_err();
        assert_eq!(
            error,
            "`/a` cannot be in such an image: its extended attribute `user.a` has more than 65535 bytes"
        );
        let error = of(&[b"user.", [b'n'; 251].as_slice()].concat(), Vec::new()).unwrap_err();
        assert!(
            error.ends_with("has a name of more than 255 bytes"),
            "{error}"
        );
        let error = of(b"user.a\0b", Vec::new()).unwrap_err();
        assert!(error.ends_with("has a NUL in its name"), "{error}");
        let error = of(b"system.nfs4_acl", Vec::new()).unwrap_err();
        assert!(error.contains("`system.nfs4_acl` is neither"), "{error}");
        let many = (0..5).map(|index| (format!("user.{index}").into_bytes(), vec![1; 60_000]));
        let error = encode(b"a", &many.collect()).unwrap_err().to_string();
        assert!(
            error.ends_with("have more than 262148 bytes together"),
            "{error}"
        );
    }
}
