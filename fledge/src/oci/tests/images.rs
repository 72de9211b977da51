//! Whole images in files of every format, good and bad.

use serde_json::json;
use tar::EntryType;

use super::*;

/// Two layers and a config.
fn made() -> Made {
    let mut first = Tar::default();
    first.directory("etc/");
    first.file("etc/motd", b"hello");
    first.file("gone", b"x");
    let mut second = Tar::default();
    second.file(".wh.gone", b"");
    second.link("motd", EntryType::Link, "etc/motd");
    Made {
        layers: vec![first.finish(), second.finish()],
        config: json!({"Entrypoint": ["/app"], "Cmd": ["-x"]}),
        architecture: None,
    }
}

const TREE: [&str; 3] = ["etc a directory", "etc/motd = hello", "motd = hello"];

/// An archive of a layout.
fn archive(layout: &Path) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    builder.append_dir_all(".", layout).unwrap();
    builder.into_inner().unwrap()
}

#[tokio::test]
async fn every_format_gives_the_same_image() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let made = made();
    made.write_layout(&path("layout"));
    let layout = archive(&path("layout"));
    let docker = made.docker_archive("example/app:1");
    fs_err::write(path("layout.tar"), &layout).unwrap();
    fs_err::write(path("layout.tar.gz"), gzip(&layout)).unwrap();
    fs_err::write(path("docker.tar"), &docker).unwrap();
    fs_err::write(
        path("docker.tar.zst"),
        zstd::encode_all(&docker[..], 1).unwrap(),
    )
    .unwrap();
    let manifest = Digest::of(made.blobs().last().unwrap());
    let compressed: Vec<Digest> = made
        .layers
        .iter()
        .map(|layer| Digest::of(&gzip(layer)))
        .collect();
    let plain: Vec<Digest> = made.layers.iter().map(|layer| Digest::of(layer)).collect();
    for (text, is_oci) in [
        ("oci:layout", true),
        ("oci:layout:latest", true),
        ("./layout", true),
        ("oci-archive:layout.tar", true),
        ("oci-archive:layout.tar.gz:latest", true),
        ("layout.tar", true),
        ("docker-archive:docker.tar", false),
        ("docker-archive:docker.tar:example/app:1", false),
        ("docker-archive:docker.tar:docker.io/example/app:1", false),
        ("docker.tar.zst", false),
    ] {
        let image = load(text, directory.path()).await.unwrap();
        assert_eq!(seen(&image.tree), TREE, "{text}");
        assert_eq!(image.config.defaults().entrypoint, ["/app", "-x"]);
        let identity = image.identity;
        assert_eq!(identity.reference, text);
        assert_eq!(identity.manifest, is_oci.then_some(manifest), "{text}");
        assert_eq!(identity.config, Digest::of(&made.config()));
        let expected = if is_oci { &compressed } else { &plain };
        assert_eq!(&identity.layers, expected, "{text}");
    }
    // Nothing was left behind.
    assert_eq!(fs_err::read_dir(path("cache")).unwrap().count(), 0);
}

#[tokio::test]
async fn what_is_no_image_is_refused_in_one_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let made = made();
    made.write_layout(&path("layout"));
    fs_err::write(path("docker.tar"), made.docker_archive("example/app:1")).unwrap();
    fs_err::write(path("text.tar"), b"some text").unwrap();
    fs_err::write(path("gzip.tar"), &gzip(b"some text")[..20]).unwrap();
    fs_err::write(path("empty.tar"), Tar::default().finish()).unwrap();
    let cut = made.docker_archive("example/app:1");
    fs_err::write(path("cut.tar"), &cut[..cut.len() - 1024]).unwrap();
    fs_err::create_dir(path("dir")).unwrap();
    let arm = Made {
        architecture: Some("arm64"),
        ..made.clone()
    };
    arm.write_layout(&path("arm"));
    for (text, expected, code) in [
        ("./none", "There is no image at", 3),
        ("./dir", "is not a container image", 1),
        ("empty.tar", "is not a container image", 1),
        ("text.tar", "ends in the middle of", 1),
        ("cut.tar", "without the mark of an archive's end", 1),
        ("gzip.tar", "cannot be decompressed as gzip", 1),
        (
            "oci:layout:other",
            "There is no image `other`; there is only `latest`",
            3,
        ),
        ("oci-archive:docker.tar", "is not a container image", 1),
        (
            "docker-archive:docker.tar:other",
            "there is only `example/app:1`",
            3,
        ),
        (
            "oci:arm",
            "The image is for `linux/arm64`; only `linux/amd64`",
            1,
        ),
    ] {
        let error = load(text, directory.path()).await.unwrap_err();
        let message = whole(&error);
        assert!(message.contains(expected), "{text}: {message}");
        assert_eq!(error.exit_code().number(), code, "{text}: {message}");
    }
}

#[tokio::test]
async fn damaged_and_hostile_layers_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let layout = directory.path().join("layout");
    let made = made();
    let blob = |at: usize| {
        let digest = Digest::of(&made.blobs()[at]);
        (digest, layout.join("blobs/sha256").join(digest.to_hex()))
    };
    let with = async |at: usize, bytes: Option<Vec<u8>>| {
        made.write_layout(&layout);
        match bytes {
            Some(bytes) => fs_err::write(blob(at).1, bytes).unwrap(),
            None => fs_err::remove_file(blob(at).1).unwrap(),
        }
        let error = load("oci:layout", directory.path()).await.unwrap_err();
        (whole(&error), error.exit_code().number())
    };
    let size = made.blobs()[1].len();
    // Another archive in the same place, of the same size.
    let mut other = made.blobs()[1].clone();
    other[4] ^= 1;
    let (message, code) = with(1, Some(other)).await;
    let expected = format!(
        "Layer 2 is not the one that the image names: expected {}",
        blob(1).0
    );
    assert!(message.contains(&expected), "{message}");
    assert_eq!(code, 6);
    // Damage that breaks the compression is damage as well.
    for magic in [&[0x1f, 0x8b, 8][..], &[0x28, 0xb5, 0x2f, 0xfd], b"BZh9"] {
        let mut broken = vec![0x1f; size];
        broken[..magic.len()].copy_from_slice(magic);
        let (message, code) = with(1, Some(broken)).await;
        assert!(message.contains(&expected), "{message}");
        assert_eq!(code, 6);
    }
    let mut broken = made.blobs()[1].clone();
    broken[size / 2..].fill(0xff);
    let (message, code) = with(1, Some(broken)).await;
    assert!(message.contains(&expected), "{message}");
    assert_eq!(code, 6);
    let (message, code) = with(0, Some(b"short".to_vec())).await;
    assert!(message.contains("is damaged"), "{message}");
    assert_eq!(code, 6);
    let (message, _) = with(0, None).await;
    assert!(message.contains("is missing in the image"), "{message}");
    let (message, _) = with(2, Some(b"{}".to_vec())).await;
    assert!(message.contains("is damaged"), "{message}");

    let mut hostile = Tar::default();
    hostile.file("../../etc/cron.d/x", b"");
    let hostile = Made {
        layers: vec![made.layers[0].clone(), hostile.finish()],
        ..Made::default()
    };
    hostile.write_layout(&directory.path().join("hostile"));
    let error = load("oci:hostile", directory.path()).await.unwrap_err();
    let digest = Digest::of(&hostile.blobs()[1]);
    let expected = format!(
        "Cannot use the image `oci:hostile`: Layer 2 ({digest}) is refused: `../../etc/cron.d/x` leads out of the image through `..`"
    );
    assert_eq!(whole(&error), expected);
}

/// A blob of a layout, and what names it in an index.
fn add_blob(layout: &Path, media_type: &str, blob: &[u8]) -> serde_json::Value {
    let digest = Digest::of(blob);
    fs_err::write(layout.join("blobs/sha256").join(digest.to_hex()), blob).unwrap();
    json!({"mediaType": media_type, "digest": digest.to_string(), "size": blob.len()})
}

fn write_index(layout: &Path, manifests: &[serde_json::Value]) {
    let index = json!({"schemaVersion": 2, "manifests": manifests});
    fs_err::write(layout.join("index.json"), index.to_string()).unwrap();
}

#[tokio::test]
async fn an_image_is_pinned_by_its_digest() {
    let directory = tempfile::tempdir().unwrap();
    let layout = directory.path().join("layout");
    let (first, mut second) = (made(), made());
    second.layers.pop();
    first.write_layout(&layout);
    second.write_layout(&layout);
    let manifest_type = descriptor::MANIFEST_TYPES[0];
    let manifest = |made: &Made| made.blobs().last().unwrap().clone();
    let mut named = add_blob(&layout, manifest_type, &manifest(&first));
    named["annotations"] = json!({"org.opencontainers.image.ref.name": "first"});
    let mut inner = add_blob(&layout, manifest_type, &manifest(&second));
    inner["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let nested = json!({"schemaVersion": 2, "manifests": [inner]}).to_string();
    let nested_digest = Digest::of(nested.as_bytes());
    let nested = add_blob(&layout, descriptor::INDEX_TYPES[0], nested.as_bytes());
    write_index(&layout, &[named, nested]);
    let tar = archive(&layout);
    fs_err::write(directory.path().join("layout.tar"), &tar).unwrap();
    let digest = |made: &Made| Digest::of(&manifest(made));
    for (pin, expected) in [
        (digest(&first), digest(&first)),
        (digest(&second), digest(&second)),
        (nested_digest, digest(&second)),
    ] {
        for text in [
            "oci:layout",
            "oci-archive:layout.tar",
            "./layout",
            "layout.tar",
        ] {
            let text = format!("{text}@{pin}");
            let image = load(&text, directory.path()).await.unwrap();
            assert_eq!(image.identity.manifest, Some(expected), "{text}");
        }
    }
    let text = format!("oci:layout:first@{}", digest(&first));
    assert!(load(&text, directory.path()).await.is_ok());

    let absent = Digest::of(b"absent");
    let docker = first.docker_archive("example/app:1");
    fs_err::write(directory.path().join("docker.tar"), docker).unwrap();
    let only = format!(
        "There is no image `{absent}`; there is only `{}` (`first`), `{nested_digest}`, `{}`",
        digest(&first),
        digest(&second)
    );
    for (text, expected, code) in [
        (format!("oci:layout@{absent}"), only.as_str(), 3),
        (
            format!("oci:layout:first@{}", digest(&second)),
            "(`first`)",
            3,
        ),
        (
            format!("docker.tar@{absent}"),
            "is not an OCI layout, which alone has images with digests",
            1,
        ),
    ] {
        let error = load(&text, directory.path()).await.unwrap_err();
        let message = whole(&error);
        assert!(message.contains(expected), "{message}");
        assert_eq!(error.exit_code().number(), code, "{message}");
    }
    // The name of a blob proves nothing.
    let blob = layout.join("blobs/sha256").join(digest(&first).to_hex());
    fs_err::write(blob, vec![b' '; manifest(&first).len()]).unwrap();
    let text = format!("oci:layout@{}", digest(&first));
    let error = load(&text, directory.path()).await.unwrap_err();
    assert!(whole(&error).contains("is damaged"), "{}", whole(&error));
    assert_eq!(error.exit_code().number(), 6);
}

#[tokio::test]
async fn an_index_names_images_only() {
    let directory = tempfile::tempdir().unwrap();
    let layout = directory.path().join("layout");
    made().write_layout(&layout);
    let manifest = made().blobs().last().unwrap().clone();
    for (media_type, expected) in [
        (
            "application/vnd.in-toto+json",
            "`application/vnd.in-toto+json` is not the media type of a container image's manifest",
        ),
        (
            descriptor::MANIFEST_TYPES[1],
            "is `application/vnd.oci.image.manifest.v1+json`, but is named as `application/vnd.docker.distribution.manifest.v2+json`",
        ),
    ] {
        write_index(&layout, &[add_blob(&layout, media_type, &manifest)]);
        let error = load("oci:layout", directory.path()).await.unwrap_err();
        assert!(whole(&error).contains(expected), "{}", whole(&error));
        assert_eq!(error.exit_code().number(), 1);
    }
}

#[tokio::test]
async fn many_layers_are_applied_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let layers = (0..60).map(|at| {
        let mut tar = Tar::default();
        tar.file("same", format!("{at}").as_bytes());
        tar.file(&format!("own-{at:02}"), &vec![b'x'; 100_000 / (at + 1)]);
        tar.finish()
    });
    let made = Made {
        layers: layers.collect(),
        ..Made::default()
    };
    made.write_layout(&directory.path().join("layout"));
    let image = load("oci:layout", directory.path()).await.unwrap();
    assert_eq!(image.tree.len(), 61);
    assert_eq!(seen(&image.tree).last().unwrap(), "same = 59");
}

#[tokio::test]
async fn an_engine_that_has_the_image_is_asked_first() {
    let directory = tempfile::tempdir().unwrap();
    let saved = directory.path().join("saved.tar");
    fs_err::write(&saved, made().docker_archive("mine:latest")).unwrap();
    let text = format!(
        r#"case "$1" in image) echo '[]' ;; save) cat {} ;; esac"#,
        saved.display()
    );
    command::tests::script(directory.path(), "docker", &text);
    let keyring = Keyring {
        files: Vec::new(),
        programs: Programs::in_path(Some(directory.path().as_os_str())),
    };
    for text in ["mine", "docker-daemon:mine"] {
        let image = load_with(text, directory.path(), keyring.clone())
            .await
            .unwrap();
        assert_eq!(seen(&image.tree), TREE);
        assert_eq!(image.identity.manifest, None);
    }
    let error = load_with("containers-storage:mine", directory.path(), keyring)
        .await
        .unwrap_err();
    assert_eq!(whole(&error), "`podman` is not installed");
    assert_eq!(error.exit_code().number(), 3);
    assert_eq!(
        fs_err::read_dir(directory.path().join("cache"))
            .unwrap()
            .count(),
        0
    );
}

#[tokio::test]
async fn ctrl_c_ends_it() {
    let directory = tempfile::tempdir().unwrap();
    made().write_layout(&directory.path().join("layout"));
    let (sender, interrupted) = watch::channel(false);
    sender.send(true).unwrap();
    let client = Client::new(interrupted.clone());
    let loader = Loader {
        client: &client,
        cache: directory.path().join("cache"),
        keyring: Keyring::default(),
        ui: &Ui::new(crate::ui::Verbosity::Quiet),
        interrupted,
    };
    let source = Source::parse("oci:layout", directory.path()).unwrap();
    let error = loader.load(&source).await.unwrap_err();
    assert_eq!(error.exit_code().number(), 130);
}

#[tokio::test]
async fn skopeo_s_copies_are_the_same_image() {
    let directory = tempfile::tempdir().unwrap();
    made().write_layout(&directory.path().join("layout"));
    for target in [
        "oci-archive:copy-oci.tar:latest",
        "docker-archive:copy-docker.tar:example/app:1",
        "oci:copy-layout:latest",
    ] {
        let copied = std::process::Command::new("skopeo")
            .args([
                "--insecure-policy",
                "copy",
                "--quiet",
                "oci:layout:latest",
                target,
            ])
            .current_dir(directory.path())
            .output();
        let Ok(output) = copied else {
            println!("SKIPPED: there is no skopeo");
            return;
        };
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let image = load(target, directory.path()).await.unwrap();
        assert_eq!(seen(&image.tree), TREE, "{target}");
        assert_eq!(image.config.entrypoint, ["/app"], "{target}");
    }
}
