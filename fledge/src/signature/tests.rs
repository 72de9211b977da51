//! Signatures as minisign writes them, whole and damaged.

use std::io::Cursor;

use proptest::prelude::{any, proptest};

use super::*;

// The key and signatures of minisign-verify's own documentation, made by `minisign` over the four bytes `test`.
const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
const SIGNATURE: &str = "untrusted comment: signature from minisign secret key
RUQf6LRCGA9i559r3g7V1qNyJDApGip8MfqcadIgT9CuhV3EMhHoN1mGTkUidF/z7SrlQgXdy8ofjb7bNJJylDOocrCo8KLzZwo=
trusted comment: timestamp:1556193335\tfile:test
y/rUw2y8/hOUYjZU71eHp/Wo1KZ40fGy2VJEDl34XMJM+TX48Ss/17u3IvIfbVR1FkZZSNCisQbuQY+bHwhEBg==
";
const LEGACY: &str = "untrusted comment: signature from minisign secret key
RWQf6LRCGA9i59SLOFxz6NxvASXDJeRtuZykwQepbDEGt87ig1BNpWaVWuNrm73YiIiJbq71Wi+dP9eKL8OC351vwIasSSbXxwA=
trusted comment: timestamp:1555779966\tfile:test
QtKMXWyYcwdpZAlPF7tE2ENJkRd1ujvKjlj1m9RtHTBnZPa5WKU5uWRs5GoP5M/VqE81QFuMKI5k/SfNQUaOAA==
";

fn verify(signature: &str, content: &[u8]) -> Result<(), SignatureError> {
    let key = KEY.parse::<PublicKey>().unwrap();
    let signature = Signature::parse(signature.as_bytes())?;
    signature.verify(content, &[key]).map(|_| ())
}

#[test]
fn a_signature_of_minisign_holds_for_its_content_only() {
    verify(SIGNATURE, b"test").unwrap();
    assert!(matches!(
        verify(SIGNATURE, b"tesT"),
        Err(SignatureError::Mismatch)
    ));
    let comment = SIGNATURE.replace("file:test", "file:other");
    assert!(matches!(
        verify(&comment, b"test"),
        Err(SignatureError::Mismatch)
    ));
    assert!(matches!(
        verify(LEGACY, b"test"),
        Err(SignatureError::Legacy)
    ));
    let parsed = Signature::parse(SIGNATURE.as_bytes()).unwrap();
    assert_eq!(parsed.trusted_comment(), "timestamp:1556193335\tfile:test");
    assert_eq!(parsed.key().to_string(), "E7620F1842B4E81F");
}

#[test]
fn keys_are_read_in_both_forms() {
    let key: PublicKey = KEY.parse().unwrap();
    assert_eq!(key.to_string(), KEY);
    assert_eq!(key.id().to_string(), "E7620F1842B4E81F");
    let text = format!("untrusted comment: x\n{KEY}\n");
    assert_eq!(PublicKey::from_file_text(&text).unwrap(), key);
    assert_eq!(
        PublicKey::from_file_text(KEY),
        Err(PublicKeyError::NoKey),
        "a key alone is no key file"
    );
    for text in ["", "RW", "x", &KEY[1..], &KEY.replace('R', "A")] {
        assert!(text.parse::<PublicKey>().is_err(), "{text}");
    }
}

#[test]
fn any_trusted_key_will_do_and_no_other() {
    let key: PublicKey = KEY.parse().unwrap();
    let other = other_key();
    let signature = Signature::parse(SIGNATURE.as_bytes()).unwrap();
    let trusted = [other.clone(), key.clone()];
    let signed_by = signature.verify(&b"test"[..], &trusted).unwrap();
    assert_eq!(signed_by, &key);
    let error = signature.verify(&b"test"[..], &[other]).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("It was signed with key E7620F1842B4E81F, not with "),
        "{error}"
    );
    let error = signature.verify(&b"test"[..], &[]).unwrap_err();
    assert!(error.to_string().contains("none is known"), "{error}");
}

/// The same key with one bit of its number flipped.
fn other_key() -> PublicKey {
    let mut bytes = BASE64.decode(KEY).unwrap();
    bytes[2] ^= 1;
    BASE64.encode(bytes).parse().unwrap()
}

#[test]
fn a_key_that_only_claims_the_number_is_not_believed() {
    let mut bytes = BASE64.decode(KEY).unwrap();
    bytes[20] ^= 1;
    let forged: PublicKey = BASE64.encode(bytes).parse().unwrap();
    let signature = Signature::parse(SIGNATURE.as_bytes()).unwrap();
    assert!(matches!(
        signature.verify(&b"test"[..], &[forged]),
        Err(SignatureError::Mismatch)
    ));
}

#[test]
fn what_is_no_signature_is_refused() {
    let long = format!(
        "untrusted comment: {}\n{}",
        "x".repeat(5000),
        SIGNATURE.split_once('\n').unwrap().1
    );
    for text in ["", "x", "\n\n\n\n", &SIGNATURE[..150], &long] {
        assert!(
            matches!(
                Signature::parse(text.as_bytes()),
                Err(SignatureError::Format)
            ),
            "{text}"
        );
    }
    assert!(Signature::parse(b"\xff\xfe").is_err());
}

#[test]
fn it_lies_beside_its_artifact() {
    assert_eq!(
        path_beside(Path::new("a/p.cpio.gz")),
        Path::new("a/p.cpio.gz.minisig")
    );
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(at in 0..SIGNATURE.len(), bytes in proptest::collection::vec(any::<u8>(), 0..40), cut in 0..400_usize) {
        let mut text = SIGNATURE.as_bytes().to_vec();
        let end = text.len().min(at + bytes.len());
        text[at..end].copy_from_slice(&bytes[..end - at]);
        text.truncate(cut);
        let key = KEY.parse::<PublicKey>().unwrap();
        if let Ok(signature) = Signature::parse(&text) {
            drop(signature.verify(Cursor::new(b"test"), &[key]));
        }
    }
}

#[cfg(feature = "cli")]
mod secret_keys {
    use super::super::secret::{self, MAX_COMMENT_BYTES, Password, SecretError};
    use super::*;

    fn password(text: &str) -> Password {
        Password::new(text.to_owned()).unwrap()
    }

    #[test]
    fn what_is_signed_verifies() {
        for with in [None, Some(password("secret")), Some(password(""))] {
            let keys = secret::generate(with.clone()).unwrap();
            assert_eq!(secret::is_encrypted(&keys.secret), with.is_some());
            let text = secret::sign(&keys.secret, with, &b"content"[..], " v1\tfinal ").unwrap();
            let signature = Signature::parse(text.as_bytes()).unwrap();
            assert_eq!(signature.trusted_comment(), "v1\tfinal");
            let key = [PublicKey::from_file_text(&keys.public).unwrap()];
            signature.verify(&b"content"[..], &key).unwrap();
            assert!(signature.verify(&b"Content"[..], &key).is_err());
        }
    }

    #[test]
    fn what_cannot_sign_says_why() {
        let keys = secret::generate(Some(password("right"))).unwrap();
        let sign = |key: &str, with, comment: &str| {
            secret::sign(key, with, &b""[..], comment).unwrap_err()
        };
        assert!(matches!(
            sign(&keys.secret, Some(password("wrong")), "x"),
            SecretError::WrongPassword
        ));
        assert!(matches!(
            sign(&keys.secret, None, "x"),
            SecretError::NoPassword
        ));
        for comment in ["a\nb", "\u{1b}[2J", &"x".repeat(MAX_COMMENT_BYTES + 1)] {
            assert!(matches!(
                sign(&keys.secret, None, comment),
                SecretError::Comment
            ));
        }
        for text in ["", "x\ny", &keys.public, &keys.secret[..100]] {
            assert!(
                matches!(sign(text, Some(password("x")), "x"), SecretError::Format),
                "{text}"
            );
        }
        assert!(Password::new("x".repeat(1025)).is_err());
        let keys = secret::generate(None).unwrap();
        let (comment, key) = keys.secret.trim_end().split_once('\n').unwrap();
        for zeros in [0, 32] {
            // Without its checksum too the public half gives the damage away.
            let mut bytes = BASE64.decode(key).unwrap();
            bytes[70] ^= 1;
            bytes[158 - zeros..].fill(0);
            let damaged = format!("{comment}\n{}\n", BASE64.encode(bytes));
            assert!(matches!(sign(&damaged, None, "x"), SecretError::Damaged));
        }
    }

    #[test]
    fn nothing_shows_a_secret() {
        let keys = secret::generate(Some(password("hush"))).unwrap();
        let shown = format!("{keys:?} {:?}", password("hush"));
        assert!(!shown.contains("hush"));
        assert!(!shown.contains(keys.secret.lines().nth(1).unwrap()));
    }
}
