//! Package URLs, the names of packages across ecosystems (<https://github.com/package-url/purl-spec>). Only writes them.

/// `pkg:kind/path@version?qualifiers`: `path` is split at its slashes, qualifiers without a value are left out.
pub(super) fn purl(
    kind: &str,
    path: &str,
    version: Option<&str>,
    qualifiers: &[(&str, Option<&str>)],
) -> String {
    let mut purl = format!("pkg:{kind}");
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        purl.push('/');
        encode(&mut purl, segment);
    }
    if let Some(version) = version {
        purl.push('@');
        encode(&mut purl, version);
    }
    let mut separator = '?';
    for (key, value) in qualifiers {
        let Some(value) = value.filter(|value| !value.is_empty()) else {
            continue;
        };
        purl.push(separator);
        purl.push_str(key);
        purl.push('=');
        encode(&mut purl, value);
        separator = '&';
    }
    purl
}

/// Percent-encodes everything but what the specification wants as it is: letters, digits, `.-_~` and the colon.
fn encode(purl: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b".-_~:".contains(&byte) {
            purl.push(char::from(byte));
        } else {
            purl.push_str(&format!("%{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_written_as_the_specification_does() {
        let deb = purl(
            "deb",
            "debian/libstdc++6",
            Some("1:12.2.0-14+deb12u1"),
            &[
                ("arch", Some("amd64")),
                ("upstream", None),
                ("distro", Some("debian-12")),
            ],
        );
        assert_eq!(
            deb,
            "pkg:deb/debian/libstdc%2B%2B6@1:12.2.0-14%2Bdeb12u1?arch=amd64&distro=debian-12"
        );
        let go = purl("golang", "github.com/a/b/v2", Some("v2.0.1"), &[]);
        assert_eq!(go, "pkg:golang/github.com/a/b/v2@v2.0.1");
        assert_eq!(purl("cargo", "x y", None, &[]), "pkg:cargo/x%20y");
    }
}
