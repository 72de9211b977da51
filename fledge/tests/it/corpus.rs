//! What the fuzzers begin with, and what they once found: every file goes through what its target does, on every run of the tests. The
//! fuzzing itself needs a nightly compiler: see CONTRIBUTING.md.

use std::path::Path;

use common::build_spec::{BuildSpec, ManifestTemplate};
use common::manifest::Manifest;
use fledge::image::cpio::Limits;
use fledge::image::{erofs, initramfs};
use fledge::inspect::Spool;
use fledge::inspect::cpio::read_cpio;
use fledge::manifest_out;
use fledge::oci::{self, Config};

/// Calls `check` with every file of a target's corpus, and says how many it took.
fn taken(target: &str, check: impl Fn(&[u8]) -> bool) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    fs_err::read_dir(folder)
        .unwrap()
        .filter(|entry| check(&fs_err::read(entry.as_ref().unwrap().path()).unwrap()))
        .count()
}

#[test]
fn build_specs_and_templates() {
    let count = taken("build_spec", |bytes| {
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        BuildSpec::parse(text).is_ok() || ManifestTemplate::from_toml(text).is_ok()
    });
    assert!(count >= 5, "{count}");
}

#[test]
fn manifests() {
    let count = taken("manifest", |json| match Manifest::from_json(json) {
        Ok(manifest) => {
            let again = Manifest::from_json(manifest.to_json().as_bytes());
            assert_eq!(again.as_ref(), Ok(&manifest));
            true
        }
        Err(_) => false,
    });
    assert!(count >= 2, "{count}");
}

#[test]
fn image_configs() {
    let count = taken("image_config", |json| {
        let config = Config::parse(json);
        config.is_ok_and(|config| manifest_out::defaults(&config, "image", "1").is_object())
    });
    assert!(count >= 1, "{count}");
}

#[test]
fn layers() {
    let count = taken("layer", |archive| match oci::tree_of(&[archive, archive]) {
        Ok(tree) => {
            initramfs::write(&tree, std::io::sink()).unwrap();
            erofs::write(&tree, 0, std::io::sink()).unwrap();
            true
        }
        Err(_) => false,
    });
    assert!(count >= 1, "{count}");
}

#[test]
fn archives() {
    let count = taken("cpio", |archive| {
        let mut spool = Spool::new(tempfile::tempfile().unwrap());
        read_cpio(archive, &Limits::default(), &mut spool).is_ok()
    });
    assert!(count >= 1, "{count}");
}
