//! Bills of small trees, and broken databases.

use std::collections::BTreeSet;
use std::io::Write;

use serde_json::Value;

use super::*;
use crate::tree::{Content, Node, Origin};

const STATUS: &str = "\
Package: libc6
Status: install ok installed
Architecture: amd64
Source: glibc
Version: 2.36-9+deb12u10
Description: GNU C Library
 Package: not-a-package

Package: gone
Status: deinstall ok config-files
Version: 1

Package: broken
Status: install ok installed
";

const APK: &str = "\
C:Q1abc=
P:musl
V:1.2.5-r0
A:x86_64
L:MIT

P:odd
V:1
L:some licence, or other
o:source
";

fn tree(files: &[(&str, &[u8])]) -> Tree {
    let mut tree = Tree::default();
    for (path, bytes) in files {
        let node = Node::file(0o755, Content::Bytes(bytes.to_vec()));
        tree.insert(&path.parse().unwrap(), node, Origin::File)
            .unwrap();
    }
    tree
}

fn subject() -> Subject<'static> {
    Subject {
        name: "app",
        version: Some("1.0"),
        digest: Some(Digest::of(b"artifact")),
        timestamp_s: None,
    }
}

fn bill(tree: &Tree) -> (Value, Vec<String>) {
    let bill = compose(tree, &subject(), &|| false).unwrap();
    (serde_json::from_slice(&bill.json).unwrap(), bill.warnings)
}

fn purls(bill: &Value) -> Vec<&str> {
    let components = bill["components"].as_array().unwrap();
    components
        .iter()
        .filter_map(|one| one["purl"].as_str())
        .collect()
}

fn whole() -> Tree {
    let go = sections::tests::elf_with(
        golang::SECTION,
        &golang::tests::section("go1.24.4", "dep\tgolang.org/x/net\tv0.1.0\th1:\n"),
    );
    let list = r#"{"packages":[{"name":"serde","version":"1.0.2"}]}"#;
    let rust = sections::tests::elf_with(rust::SECTION, &rust::tests::section(list));
    let os: &[u8] = b"ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n";
    let mut tree = tree(&[
        ("/usr/lib/os-release", os),
        ("/var/lib/dpkg/status", STATUS.as_bytes()),
        (
            "/var/lib/dpkg/status.d/tzdata",
            b"Package: tzdata\nVersion: 2024a\n",
        ),
        ("/var/lib/dpkg/status.d/tzdata.md5sums", b"0 x\n"),
        ("/lib/apk/db/installed", APK.as_bytes()),
        ("/usr/bin/a", &go),
        ("/usr/bin/b", &go),
        ("/usr/bin/c", &rust),
        ("/etc/é", b""),
    ]);
    tree.replace(b"etc/os-release", Node::symlink("../usr/lib/os-release"))
        .unwrap();
    tree.hard_link(b"usr/bin/d", b"usr/bin/a").unwrap();
    tree.replace(b"etc/\xff", Node::file(0o644, Content::Bytes(Vec::new())))
        .unwrap();
    tree
}

#[test]
fn packages_of_every_kind_are_listed() {
    let (bill, warnings) = bill(&whole());
    assert_eq!(
        purls(&bill),
        [
            "pkg:apk/debian/musl@1.2.5-r0?arch=x86_64&distro=debian-12",
            "pkg:apk/debian/odd@1?distro=debian-12&upstream=source",
            "pkg:cargo/serde@1.0.2",
            "pkg:deb/debian/libc6@2.36-9%2Bdeb12u10?arch=amd64&distro=debian-12&upstream=glibc",
            "pkg:deb/debian/tzdata@2024a?distro=debian-12",
            "pkg:golang/golang.org/x/net@v0.1.0",
            "pkg:golang/stdlib@1.24.4",
        ]
    );
    assert_eq!(
        warnings,
        ["Entries in `/var/lib/dpkg/status` cannot be understood and are left out: 1"]
    );
    let components = bill["components"].as_array().unwrap();
    assert_eq!(components[0]["type"], "operating-system");
    assert_eq!(components[1]["licenses"][0]["expression"], "MIT");
    assert_eq!(
        components[2]["licenses"][0]["license"]["name"],
        "some licence, or other"
    );
    let net = components
        .iter()
        .find(|one| one["name"] == "golang.org/x/net");
    let places = &net.unwrap()["evidence"]["occurrences"];
    assert_eq!(places[0]["location"], "/usr/bin/a");
    assert_eq!(places[1]["location"], "/usr/bin/b");
    assert_eq!(bill["metadata"]["component"]["name"], "app");
}

#[test]
fn every_file_is_listed_with_its_digest() {
    let (bill, _) = bill(&whole());
    let components = bill["components"].as_array().unwrap();
    let files: Vec<_> = components
        .iter()
        .filter(|one| one["type"] == "file")
        .map(|one| (one["name"].as_str().unwrap(), &one["hashes"][0]["content"]))
        .collect();
    let names: Vec<_> = files.iter().map(|(name, _)| *name).collect();
    assert_eq!(names.len(), 11, "{names:?}");
    assert!(names.contains(&"/etc/é") && names.contains(&"/etc/\\xff"));
    // A link has the digest of its inode, a symbolic one is no file.
    let digest = |path: &str| {
        files
            .iter()
            .find(|(name, _)| *name == path)
            .map(|file| file.1)
    };
    assert_eq!(digest("/usr/bin/d"), digest("/usr/bin/a"));
    assert_eq!(digest("/etc/os-release"), None);
    let empty = Digest::of(b"").to_hex();
    assert_eq!(digest("/etc/é").unwrap(), &empty);
}

#[test]
fn the_same_tree_gives_the_same_bytes() {
    let first = compose(&whole(), &subject(), &|| false).unwrap();
    assert_eq!(compose(&whole(), &subject(), &|| false).unwrap(), first);
    let dated = Subject {
        timestamp_s: Some(0),
        ..subject()
    };
    let dated = compose(&whole(), &dated, &|| false).unwrap();
    let (first, dated): (Value, Value) = (
        serde_json::from_slice(&first.json).unwrap(),
        serde_json::from_slice(&dated.json).unwrap(),
    );
    assert_eq!(first["metadata"].get("timestamp"), None);
    assert_eq!(dated["metadata"]["timestamp"], "1970-01-01T00:00:00Z");
    assert_ne!(first["serialNumber"], dated["serialNumber"]);
}

#[test]
fn broken_databases_are_warnings() {
    let broken = sections::tests::elf_with(golang::SECTION, b"?");
    let (bill, warnings) = bill(&tree(&[
        ("/var/lib/dpkg/status", b"\xff\xfe\n\n\n\nx"),
        ("/etc/os-release", b"\0\0"),
        ("/a", &broken),
    ]));
    assert_eq!(purls(&bill), [""; 0]);
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[1].contains("What `/a` says"), "{warnings:?}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let mut tree = whole();
    let gone = Content::Host {
        path: "/nonexistent".into(),
        size_bytes: 1,
    };
    tree.replace(b"usr/bin/gone", Node::file(0o644, gone))
        .unwrap();
    let error = compose(&tree, &subject(), &|| false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Cannot read the file behind `/usr/bin/gone`"
    );
}

/// What the published JSON schema of `CycloneDX` 1.6 asks for, as far as these documents use it.
#[test]
fn the_document_keeps_the_rules_of_the_format() {
    let (bill, _) = bill(&whole());
    assert_eq!(bill["bomFormat"], "CycloneDX");
    assert_eq!(bill["specVersion"], "1.6");
    let serial = bill["serialNumber"].as_str().unwrap();
    let uuid = serial.strip_prefix("urn:uuid:").unwrap();
    let groups: Vec<_> = uuid.split('-').map(str::len).collect();
    assert_eq!(groups, [8, 4, 4, 4, 12]);
    assert!(uuid.chars().all(|c| "0123456789abcdef-".contains(c)));
    let known = [
        "type",
        "bom-ref",
        "name",
        "version",
        "description",
        "hashes",
        "licenses",
        "purl",
        "evidence",
    ];
    let types = ["application", "library", "file", "operating-system"];
    let mut references = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for component in bill["components"].as_array().unwrap() {
        assert!(seen.insert(component.to_string()), "twice: {component}");
        let members = component.as_object().unwrap();
        assert!(members.keys().all(|key| known.contains(&key.as_str())));
        assert!(types.contains(&component["type"].as_str().unwrap()));
        assert!(!component["name"].as_str().unwrap().is_empty());
        if let Some(reference) = component["bom-ref"].as_str() {
            assert!(references.insert(reference), "twice: {reference}");
        }
        for hash in component["hashes"].as_array().into_iter().flatten() {
            assert_eq!(hash["alg"], "SHA-256");
            assert_eq!(hash["content"].as_str().unwrap().len(), 64);
        }
    }
}

#[test]
fn somebody_elses_validator_accepts_the_document() {
    const VALIDATE: &str = "
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(sys.argv[1]).read())
sys.exit(str(error) if error else 0)
";
    let python = |arguments: &[&str]| {
        std::process::Command::new("python3")
            .args(arguments)
            .output()
    };
    let found = python(&["-c", "import cyclonedx.validation.json, jsonschema"]);
    if !found.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: there is no python3 with cyclonedx-python-lib[json-validation]");
        return;
    }
    let dated = Subject {
        timestamp_s: Some(1_700_000_000),
        ..subject()
    };
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&compose(&whole(), &dated, &|| false).unwrap().json)
        .unwrap();
    let output = python(&["-c", VALIDATE, file.path().to_str().unwrap()]).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn what_nobody_wants_any_more_is_not_read_to_its_end() {
    let file = tempfile::NamedTempFile::new().unwrap();
    // It would take hours.
    let size_bytes = 1 << 43;
    file.as_file().set_len(size_bytes).unwrap();
    let mut tree = Tree::default();
    let content = Content::Host {
        path: file.path().to_path_buf(),
        size_bytes,
    };
    tree.replace(b"x", Node::file(0o644, content)).unwrap();
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let is_unwanted = || asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) > 2;
    let error = compose(&tree, &subject(), &is_unwanted).unwrap_err();
    assert!(matches!(error, SbomError::Interrupted), "{error}");
}
