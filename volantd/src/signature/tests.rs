//! What is accepted and what is refused, with and without a requirement.

use std::path::PathBuf;

use super::*;

// The key and signature of minisign-verify's own documentation, made by `minisign` over the four bytes `test`.
const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
const SIGNATURE: &str = "untrusted comment: signature from minisign secret key
RUQf6LRCGA9i559r3g7V1qNyJDApGip8MfqcadIgT9CuhV3EMhHoN1mGTkUidF/z7SrlQgXdy8ofjb7bNJJylDOocrCo8KLzZwo=
trusted comment: timestamp:1556193335\tfile:test
y/rUw2y8/hOUYjZU71eHp/Wo1KZ40fGy2VJEDl34XMJM+TX48Ss/17u3IvIfbVR1FkZZSNCisQbuQY+bHwhEBg==
";

fn required() -> Signatures {
    Signatures::new(vec![KEY.parse().unwrap()], Policy::Required)
}

/// A stored artifact with this content, and with the signature beside it if there is one.
fn stored(content: &str, signature: Option<&str>) -> (tempfile::TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("artifact");
    fs_err::write(&path, content).unwrap();
    if let Some(text) = signature {
        fs_err::write(temp.path().join("artifact.minisig"), text).unwrap();
    }
    (temp, path)
}

#[test]
fn only_what_a_trusted_key_signed_passes() {
    let digest = Digest::of(b"test");
    let (_temp, path) = stored("test", Some(SIGNATURE));
    required().verify_stored(&path, &digest).unwrap();
    let nobody = Signatures::new(Vec::new(), Policy::Required);
    assert!(matches!(
        nobody.verify_stored(&path, &digest),
        Err(Refusal::Signature(SignatureError::OtherKey { .. }))
    ));
    let (_temp, path) = stored("tesT", Some(SIGNATURE));
    assert!(matches!(
        required().verify_stored(&path, &digest),
        Err(Refusal::Signature(SignatureError::Mismatch))
    ));
    let (_temp, path) = stored("test", None);
    assert!(matches!(
        required().verify_stored(&path, &digest),
        Err(Refusal::Missing)
    ));
    for text in ["", "x", &"x".repeat(5000)] {
        let (_temp, path) = stored("test", Some(text));
        assert!(matches!(
            required().verify_stored(&path, &digest),
            Err(Refusal::Signature(SignatureError::Format))
        ));
    }
}

#[test]
fn a_signed_file_under_anothers_digest_is_refused() {
    let (_temp, path) = stored("test", Some(SIGNATURE));
    assert!(matches!(
        required().verify_stored(&path, &Digest::of(b"other")),
        Err(Refusal::Changed { .. })
    ));
}

#[test]
fn nothing_is_read_where_nothing_is_required() {
    let optional = Signatures::default();
    optional
        .verify_stored(Path::new("/nonexistent"), &Digest::of(b""))
        .unwrap();
    assert!(!optional.are_required());
    assert!(matches!(
        required().verify_stored(Path::new("/nonexistent"), &Digest::of(b"")),
        Err(Refusal::Missing)
    ));
}

#[test]
fn signatures_lie_beside_their_artifacts() {
    for (artifact, expected) in [
        ("/srv/a.gz", "/srv/a.gz.minisig"),
        ("https://host/a.gz", "https://host/a.gz.minisig"),
        (
            "https://host/a.gz?token=x#y",
            "https://host/a.gz.minisig?token=x#y",
        ),
    ] {
        let source = Source::parse(artifact).unwrap();
        assert_eq!(source_beside(&source), Source::parse(expected).unwrap());
    }
}
