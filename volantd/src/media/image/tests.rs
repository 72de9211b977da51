//! Good and bad artifacts of every kind that users will try.

use flate2::Compression;
use flate2::write::GzEncoder;
use fledge::image::initramfs;
use fledge::tree::{Content, Node, Tree};

use super::*;

fn packed(nodes: Vec<(&str, Node)>) -> Vec<u8> {
    let mut tree = Tree::default();
    for (path, node) in nodes {
        tree.replace(path.as_bytes(), node).unwrap();
    }
    initramfs::write(&tree, Vec::new()).unwrap()
}

fn archive(init_permissions: u32, init: &[u8]) -> Vec<u8> {
    let file = |permissions, bytes| Node::file(permissions, Content::Bytes(bytes));
    packed(vec![
        ("bin/data", file(0o644, vec![7; 100_000])),
        ("init", file(init_permissions, init.to_vec())),
    ])
}

fn good() -> Vec<u8> {
    archive(0o755, b"#!/bin/sh\n")
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn zstd(plain: &[u8]) -> Vec<u8> {
    zstd::compress(Vec::new(), std::num::NonZeroUsize::MIN, |input| {
        input.write_all(plain)
    })
    .unwrap()
}

struct Place {
    temp: tempfile::TempDir,
    images: Images,
}

impl Place {
    fn new(max_bytes: u64) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let images = Images::open(&temp.path().join("media"), max_bytes).unwrap();
        Self { temp, images }
    }

    fn prepare(&self, artifact: &[u8]) -> Result<PathBuf, ImageError> {
        let file = self.temp.path().join("artifact");
        fs_err::write(&file, artifact).unwrap();
        self.images.ensure(&file, &Digest::of(artifact))
    }

    /// How many files there are, finished or not.
    fn files(&self) -> usize {
        let count = |path: &Path| {
            fs_err::read_dir(path)
                .unwrap()
                .filter(|entry| entry.as_ref().unwrap().path().is_file())
                .count()
        };
        count(&self.images.folder) + count(&self.images.folder.join(PARTIAL))
    }
}

#[test]
fn every_way_to_pack_gives_the_same_image() {
    let plain = good();
    let two_members = [gzip(&plain[..1000]), gzip(&plain[1000..])].concat();
    let padded = [gzip(&plain), vec![0; 700]].concat();
    let two_frames = [zstd(&plain[..1000]), zstd(&plain[1000..])].concat();
    for artifact in [
        plain.clone(),
        gzip(&plain),
        two_members,
        padded,
        zstd(&plain),
        two_frames,
    ] {
        let place = Place::new(MAX_IMAGE_BYTES);
        let image = place.prepare(&artifact).unwrap();
        assert_eq!(fs_err::read(&image).unwrap(), plain);
        assert_eq!(place.files(), 1);
    }
}

#[test]
fn an_image_is_prepared_once() {
    let place = Place::new(MAX_IMAGE_BYTES);
    let artifact = gzip(&good());
    let image = place.prepare(&artifact).unwrap();
    // The artifact itself is not needed any more.
    let again = place
        .images
        .ensure(Path::new("/nonexistent"), &Digest::of(&artifact))
        .unwrap();
    assert_eq!(image, again);
}

#[test]
fn bad_artifacts_are_refused_with_the_reason() {
    let good_gzip = gzip(&good());
    let good_zstd = zstd(&good());
    let mut bad_checksum = good_gzip.clone();
    let crc = bad_checksum.len() - 8;
    bad_checksum[crc] ^= 1;
    let mut bad_data = good_gzip.clone();
    bad_data[40..60].fill(0xff);
    let table = [
        (Vec::new(), "neither a cpio archive"),
        (b"hello".to_vec(), "neither a cpio archive"),
        (b"\x28\xb5\x2f\xfd....".to_vec(), "Its zstd data is broken"),
        (good_zstd[..good_zstd.len() - 1].to_vec(), "cut off"),
        (
            [&good_zstd[..], b"junk"].concat(),
            "Its zstd data is broken",
        ),
        (zstd(b"hello world"), "no cpio header"),
        (b"\xfd7zXZ\0....".to_vec(), "It is xz"),
        (b"070707....".to_vec(), "old cpio format"),
        (gzip(b"hello world"), "no cpio header"),
        (gzip(b""), "cut off"),
        (good_gzip[..good_gzip.len() / 2].to_vec(), "cut off"),
        (good_gzip[..good_gzip.len() - 4].to_vec(), "cut off"),
        (good_gzip[..3].to_vec(), "cut off"),
        (good()[..2000].to_vec(), "cut off"),
        (bad_checksum, "gzip data is broken"),
        (bad_data, "gzip data is broken"),
        (
            [good_gzip.clone(), b"junk".to_vec()].concat(),
            "gzip data is broken",
        ),
        (
            [good_gzip, b"\x1fjunk-junk-junk".to_vec()].concat(),
            "gzip data is broken",
        ),
        ([good(), b"junkjunk".to_vec()].concat(), "no cpio header"),
        (gzip(&packed(Vec::new())), "has no `/init`"),
        (gzip(&archive(0o644, b"x")), "is not executable"),
        (gzip(&archive(0o755, b"")), "is empty"),
        (
            gzip(&packed(vec![("init", Node::directory(0o755))])),
            "is no file",
        ),
    ];
    let place = Place::new(MAX_IMAGE_BYTES);
    for (artifact, expected) in table {
        let refused = place.prepare(&artifact).unwrap_err();
        let message = common::error_chain::Chain(&refused).to_string();
        assert!(message.contains(expected), "{message}, not {expected}");
        assert_eq!(place.files(), 0, "{expected}");
    }
}

#[test]
fn a_bomb_is_stopped_at_the_limit() {
    let place = Place::new(50_000);
    let bomb = gzip(&good());
    assert!(bomb.len() < 5_000, "it is small while it is packed");
    let refused = place.prepare(&bomb).unwrap_err();
    assert!(
        matches!(
            refused,
            ImageError::Archive(ReadError::TooLarge { limit: 50_000, .. })
        ),
        "{refused:?}"
    );
    assert_eq!(place.files(), 0);
}

#[test]
fn a_missing_artifact_is_not_a_bad_one() {
    let place = Place::new(MAX_IMAGE_BYTES);
    let missing = place
        .images
        .ensure(Path::new("/nonexistent"), &Digest::of(b""))
        .unwrap_err();
    assert!(matches!(missing, ImageError::Read { .. }), "{missing:?}");
}

#[test]
fn garbage_is_collected_and_nothing_else() {
    let place = Place::new(MAX_IMAGE_BYTES);
    let (kept, dropped) = (good(), gzip(&good()));
    place.prepare(&kept).unwrap();
    place.prepare(&dropped).unwrap();
    let foreign = place.images.folder.join("notes.txt");
    fs_err::write(&foreign, "x").unwrap();
    let keep = HashSet::from([Digest::of(&kept)]);
    assert_eq!(
        place.images.collect_garbage(&keep).unwrap(),
        [Digest::of(&dropped)]
    );
    assert_eq!(place.images.collect_garbage(&keep).unwrap(), []);
    assert!(foreign.exists() && place.images.path_of(&Digest::of(&kept)).exists());
}

#[test]
fn opening_removes_what_a_crash_left() {
    let place = Place::new(MAX_IMAGE_BYTES);
    fs_err::write(place.images.folder.join(PARTIAL).join("half"), "x").unwrap();
    Images::open(&place.images.folder, MAX_IMAGE_BYTES).unwrap();
    assert_eq!(place.files(), 0);
}
