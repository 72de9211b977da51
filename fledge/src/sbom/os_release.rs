//! Which system the image is made of, from `os-release` (os-release(5)).

use super::{Packages, SbomError, is_plausible, text};
use crate::tree::Tree;

/// A system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct System {
    /// Such as `debian`.
    pub(super) id: String,
    /// Such as `12`.
    pub(super) version: Option<String>,
    /// For people.
    pub(super) pretty_name: Option<String>,
}

impl System {
    /// As package URLs name it: `debian-12`.
    pub(super) fn distro(&self) -> String {
        match &self.version {
            Some(version) => format!("{}-{version}", self.id),
            None => self.id.clone(),
        }
    }
}

/// Reads `/etc/os-release`, else `/usr/lib/os-release`.
pub(super) fn read(tree: &Tree, packages: &mut Packages) -> Result<Option<System>, SbomError> {
    for path in ["etc/os-release", "usr/lib/os-release"] {
        if let Some(text) = text(tree, path, packages)? {
            return Ok(parse(&text));
        }
    }
    Ok(None)
}

fn parse(text: &str) -> Option<System> {
    let value = |key: &str| {
        let found = text.lines().find_map(|line| {
            let (name, value) = line.trim().split_once('=')?;
            (name == key).then_some(value)
        })?;
        let plain = unquoted(found);
        is_plausible(&plain).then_some(plain)
    };
    Some(System {
        id: value("ID")?,
        version: value("VERSION_ID"),
        pretty_name: value("PRETTY_NAME"),
    })
}

/// A value as a shell reads it, for the forms that occur: quoted or not, with backslashes.
fn unquoted(value: &str) -> String {
    let inner = ['"', '\''].iter().find_map(|&quote| {
        let inner = value.strip_prefix(quote)?;
        inner.strip_suffix(quote)
    });
    let mut plain = String::new();
    let mut is_escaped = false;
    for c in inner.unwrap_or(value).chars() {
        if c == '\\' && !is_escaped {
            is_escaped = true;
        } else {
            plain.push(c);
            is_escaped = false;
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systems_are_read() {
        let debian = "PRETTY_NAME=\"Debian \\\"12\\\"\"\nVERSION_ID='12'\nID=debian\n";
        let system = parse(debian).unwrap();
        assert_eq!(system.distro(), "debian-12");
        assert_eq!(system.pretty_name.unwrap(), "Debian \"12\"");
        let rolling = parse("# comment\nID=arch\nVERSION_ID=\n").unwrap();
        assert_eq!(rolling.distro(), "arch");
        for text in ["", "ID", "ID=", "ID=\"\"", "ID=a\u{1b}b"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
