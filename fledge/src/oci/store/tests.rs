//! Names in archives, which come from whoever made them. Whole images are in the module's own tests.

use super::super::tests::{Made, Tar};
use super::*;

fn opened(tar: Vec<u8>, name: Option<&str>) -> Result<Stored, StoreError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image.tar");
    fs_err::write(&path, tar).unwrap();
    let budget = Budget::default();
    let workplace = Workplace {
        directory: directory.path(),
        budget: &budget,
        stop: &|| false,
    };
    let wanted = Wanted {
        name: name.map(str::to_owned),
        ..Wanted::ONLY
    };
    open(&path, &wanted, workplace)
}

fn docker(manifest: &str) -> String {
    let mut tar = Tar::default();
    tar.file("manifest.json", manifest.as_bytes());
    tar.file("config.json", b"{}");
    match opened(tar.finish(), None) {
        Ok(stored) => format!("{stored:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn names_lead_nowhere_else() {
    for name in ["../../etc/passwd", "/etc/passwd", "x/../../y", "none"] {
        let manifest = format!(r#"[{{"Config":"config.json","Layers":["{name}"]}}]"#);
        let expected = format!("`{name}` is missing in the image");
        assert_eq!(docker(&manifest), expected);
        let manifest = format!(r#"[{{"Config":"{name}","Layers":[]}}]"#);
        assert_eq!(docker(&manifest), expected);
    }
    assert!(docker("{").contains("`manifest.json` of the image is malformed"));
    assert!(docker("[]").contains("name one of them"));
    let layers = vec!["\"config.json\""; 501].join(",");
    let manifest = format!(r#"[{{"Config":"config.json","Layers":[{layers}]}}]"#);
    assert!(docker(&manifest).contains("501 layers"));
}

#[test]
fn one_of_several_images_is_chosen() {
    let mut tar = Tar::default();
    let manifest = r#"[{"Config":"1","RepoTags":["a:1"]},{"Config":"2","RepoTags":["b/c:latest"],"Layers":null},{"Config":"1","RepoTags":null}]"#;
    tar.file("manifest.json", manifest.as_bytes());
    tar.file("1", b"one");
    tar.file("2", b"two");
    let tar = tar.finish();
    for (name, expected) in [
        ("a:1", "one"),
        ("b/c", "two"),
        ("docker.io/b/c:latest", "two"),
    ] {
        let stored = opened(tar.clone(), Some(name)).unwrap();
        assert_eq!(stored.config, expected.as_bytes(), "{name}");
    }
    for (name, expected) in [
        (None, "name one of them: `a:1`, `b/c:latest`"),
        (Some("c"), "there is only `a:1`, `b/c:latest`"),
    ] {
        let message = opened(tar.clone(), name).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn indexes_that_contain_themselves_end() {
    let directory = tempfile::tempdir().unwrap();
    let made = Made::default();
    made.write_layout(directory.path());
    let budget = Budget::default();
    let workplace = Workplace {
        directory: directory.path(),
        budget: &budget,
        stop: &|| false,
    };
    // Each index names the next; a chain longer than any builder makes.
    let mut inner = fs_err::read(directory.path().join("index.json")).unwrap();
    for _ in 0..6 {
        let digest = Digest::of(&inner);
        fs_err::write(directory.path().join(blob_name(digest)), &inner).unwrap();
        inner = serde_json::json!({"schemaVersion": 2, "manifests": [{
            "mediaType": descriptor::INDEX_TYPES[0], "digest": digest.to_string(), "size": inner.len(),
        }]})
        .to_string()
        .into_bytes();
    }
    fs_err::write(directory.path().join("index.json"), inner).unwrap();
    let wanted = Wanted {
        format: Format::Oci,
        ..Wanted::ONLY
    };
    let error = open(directory.path(), &wanted, workplace).unwrap_err();
    assert!(matches!(error, StoreError::NotAnImage { .. }), "{error}");
}
