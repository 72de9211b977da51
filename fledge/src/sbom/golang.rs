//! What Go's linker writes into programs about their modules: section `.go.buildinfo`, in the form of Go 1.18 and later (Go's
//! `debug/buildinfo` reads the same). Older programs only point to it, and are left out.

use super::purl::purl;
use super::{Package, is_plausible};

/// The section.
pub(super) const SECTION: &str = ".go.buildinfo";

/// What it begins with; then pointer size and flags, one byte each.
const MAGIC: &[u8] = b"\xff Go buildinf:";

/// Flag: the two texts follow the header.
const INLINE: u8 = 2;

/// Where they do.
const TEXTS_AT: usize = 32;

/// The list of modules has marks of this length before and after it.
const MARK_BYTES: usize = 16;

/// More modules than this are left out; large programs have 1000.
const MAX_MODULES: usize = 20_000;

/// The modules of a program, its own first, then Go's library; nothing where the section is in no known form.
pub(super) fn packages(section: &[u8]) -> Option<Vec<Package>> {
    if !section.starts_with(MAGIC) || section.get(MAGIC.len() + 1)? & INLINE == 0 {
        return None;
    }
    let (go, rest) = text(section.get(TEXTS_AT..)?)?;
    let (marked, _) = text(rest)?;
    let modules = marked
        .get(MARK_BYTES..marked.len().checked_sub(MARK_BYTES)?)
        .and_then(|modules| std::str::from_utf8(modules).ok())
        .unwrap_or_default();
    let mut packages = parse(modules);
    let go = std::str::from_utf8(go).ok()?;
    // `go1.24.4 X:experiment`
    let version = go.strip_prefix("go").and_then(|go| go.split(' ').next());
    packages.extend(version.and_then(|version| package("stdlib", version)));
    Some(packages)
}

/// A text with its length before it, in seven bits a byte, the lowest first; and what follows it.
fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut length = 0_usize;
    for (index, &byte) in bytes.iter().enumerate().take(4) {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return bytes.get(index + 1..)?.split_at_checked(length);
        }
    }
    None
}

/// Lines such as `dep\tpath\tversion\tsum`; one that begins with `=>` stands in place of the one before.
fn parse(modules: &str) -> Vec<Package> {
    let mut packages: Vec<Option<Package>> = Vec::new();
    for line in modules.lines() {
        let words: Vec<&str> = line.split('\t').collect();
        let (Some(&kind), Some(&path)) = (words.first(), words.get(1)) else {
            continue;
        };
        let version = words.get(2).copied().unwrap_or_default();
        match kind {
            "mod" | "dep" if packages.len() < MAX_MODULES => packages.push(package(path, version)),
            "=>" => {
                packages.pop();
                packages.push(package(path, version));
            }
            _ => {}
        }
    }
    packages.into_iter().flatten().collect()
}

fn package(path: &str, version: &str) -> Option<Package> {
    // What was built in its own working copy has no version.
    let version = Some(version).filter(|version| is_plausible(version) && *version != "(devel)");
    is_plausible(path).then(|| Package {
        purl: purl("golang", path, version, &[]),
        name: path.to_owned(),
        version: version.map(str::to_owned),
        licence: None,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    /// The section of a program with these modules.
    pub(in crate::sbom) fn section(go: &str, modules: &str) -> Vec<u8> {
        let mut section = MAGIC.to_vec();
        section.extend([8, INLINE]);
        section.resize(TEXTS_AT, 0);
        let marked = [&[1; MARK_BYTES], modules.as_bytes(), &[2; MARK_BYTES]].concat();
        for text in [go.as_bytes(), &marked] {
            let mut length = text.len();
            while length >= 0x80 {
                section.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
                length >>= 7;
            }
            section.push(u8::try_from(length).unwrap());
            section.extend_from_slice(text);
        }
        section
    }

    const MODULES: &str = "path\tgithub.com/x/app\nmod\tgithub.com/x/app\t(devel)\t\n\
        dep\tgolang.org/x/net\tv0.1.0\th1:abc=\ndep\tgithub.com/old\tv1.0.0\n=>\tgithub.com/new\tv1.0.1\th1:x=\n\
        build\t-trimpath=true\n";

    #[test]
    fn modules_are_read() {
        let found = packages(&section("go1.24.4 X:loopvar", MODULES)).unwrap();
        let purls: Vec<_> = found.into_iter().map(|package| package.purl).collect();
        assert_eq!(
            purls,
            [
                "pkg:golang/github.com/x/app",
                "pkg:golang/golang.org/x/net@v0.1.0",
                "pkg:golang/github.com/new@v1.0.1",
                "pkg:golang/stdlib@1.24.4",
            ]
        );
    }

    #[test]
    fn other_sections_are_none() {
        let whole = section("go1.24.4", MODULES);
        let mut pointers = whole.clone();
        pointers[15] = 0;
        for other in [&b""[..], b"text", &pointers, &whole[..50]] {
            assert_eq!(packages(other), None);
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(at in 0..300_usize, bytes in proptest::collection::vec(any::<u8>(), 0..30)) {
            let mut section = section("go1.24.4", MODULES);
            let end = section.len().min(at + bytes.len());
            let at = at.min(end);
            section[at..end].copy_from_slice(&bytes[..end - at]);
            drop(packages(&section));
        }
    }
}
