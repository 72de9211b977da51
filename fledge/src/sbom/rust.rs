//! What `cargo auditable` writes into programs about their crates: section `.dep-v0`, JSON compressed by zlib
//! (<https://github.com/rust-secure-code/cargo-auditable>, `PARSING.md`). Programs built without it say nothing.

use std::io::Read;

use flate2::read::ZlibDecoder;
use serde::Deserialize;

use super::purl::purl;
use super::{Package, is_plausible};

/// The section.
pub(super) const SECTION: &str = ".dep-v0";

/// The largest list that is unpacked, in bytes: 1000 crates make 150 KB.
const MAX_LIST_BYTES: u64 = 8 << 20;

/// More crates than this are left out.
const MAX_CRATES: usize = 20_000;

#[derive(Deserialize)]
struct List {
    packages: Vec<Crate>,
}

#[derive(Deserialize)]
struct Crate {
    name: String,
    version: String,
    #[serde(default)]
    kind: Kind,
}

#[derive(Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    #[default]
    Runtime,
    /// What ran while the program was built, and is not in it.
    #[serde(other)]
    Build,
}

/// The crates of a program; nothing where the section is in no known form.
pub(super) fn packages(section: &[u8]) -> Option<Vec<Package>> {
    let list = ZlibDecoder::new(section).take(MAX_LIST_BYTES);
    let list: List = serde_json::from_reader(list).ok()?;
    let runtime = list
        .packages
        .into_iter()
        .filter(|one| one.kind == Kind::Runtime)
        .filter(|one| is_plausible(&one.name) && is_plausible(&one.version));
    let packages = runtime.take(MAX_CRATES).map(|one| Package {
        purl: purl("cargo", &one.name, Some(&one.version), &[]),
        name: one.name,
        version: Some(one.version),
        licence: None,
    });
    Some(packages.collect())
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;

    use super::*;

    pub(in crate::sbom) fn section(json: &str) -> Vec<u8> {
        let mut encoder =
            flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(json.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn crates_are_read_without_what_only_built_them() {
        let json = r#"{"packages":[
            {"name":"app","version":"0.1.0","source":"local","dependencies":[1],"root":true},
            {"name":"serde","version":"1.0.2","source":"registry"},
            {"name":"cc","version":"1.0.0","source":"registry","kind":"build"}]}"#;
        let found = packages(&section(json)).unwrap();
        let purls: Vec<_> = found.into_iter().map(|package| package.purl).collect();
        assert_eq!(purls, ["pkg:cargo/app@0.1.0", "pkg:cargo/serde@1.0.2"]);
        assert_eq!(packages(b"text"), None);
        assert_eq!(packages(&section("{}")), None);
    }

    #[test]
    fn a_bomb_is_cut_off() {
        let bomb = format!("{{\"packages\":[{}", " ".repeat(9 << 20));
        assert_eq!(packages(&section(&bomb)), None);
    }
}
