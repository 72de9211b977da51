//! The query of a request, as forms write it (application/x-www-form-urlencoded): `key=value&key=value` with escapes. Pure.

/// The first value of `key`, decoded. It may be any bytes.
pub(super) fn value(query: &str, key: &str) -> Option<Vec<u8>> {
    query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find(|(found, _)| decode(found) == key.as_bytes())
        .map(|(_, value)| decode(value))
}

/// The first value of `key` as a number.
///
/// # Errors
/// A sentence if it is something else.
pub(super) fn number(query: &str, key: &str) -> Result<Option<u64>, String> {
    let Some(value) = value(query, key) else {
        return Ok(None);
    };
    std::str::from_utf8(&value)
        .ok()
        .and_then(|text| text.parse().ok())
        .map(Some)
        .ok_or_else(|| format!("`{key}` must be a whole number"))
}

/// `%` with two hexadecimal digits is a byte, `+` a blank. What is not an escape is itself.
fn decode(text: &str) -> Vec<u8> {
    let mut rest = text.as_bytes();
    let mut decoded = Vec::with_capacity(rest.len());
    while let Some((byte, after)) = rest.split_first() {
        let (byte, after) = match (byte, after) {
            (b'%', [high, low, beyond @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, beyond),
                _ => (b'%', after),
            },
            (b'+', _) => (b' ', after),
            _ => (*byte, after),
        };
        decoded.push(byte);
        rest = after;
    }
    decoded
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded() {
        let table: [(&str, Option<&[u8]>); 9] = [
            ("", None),
            ("other=1", None),
            ("path", Some(b"")),
            ("path=/etc/hosts&path=/x", Some(b"/etc/hosts")),
            ("a=b&path=%2Fsrv%2Fa+b%2bc", Some(b"/srv/a b+c")),
            ("p%61th=1", Some(b"1")),
            ("path=%C3%A9%ff", Some(b"\xc3\xa9\xff")),
            ("path=100%&x", Some(b"100%")),
            ("path=%zz%4", Some(b"%zz%4")),
        ];
        for (query, expected) in table {
            assert_eq!(value(query, "path").as_deref(), expected, "{query}");
        }
    }

    #[test]
    fn numbers_are_whole() {
        let wrong = Err("`after` must be a whole number".to_owned());
        let table = [
            ("", Ok(None)),
            ("x=1&after=7", Ok(Some(7))),
            ("after=", wrong.clone()),
            ("after=-1", wrong.clone()),
            ("after=1s", wrong),
        ];
        for (query, expected) in table {
            assert_eq!(number(query, "after"), expected, "{query}");
        }
    }
}
