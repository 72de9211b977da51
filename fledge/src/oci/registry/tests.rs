//! A registry on this machine that does all that real ones do, and what they should not.

use std::collections::BTreeMap;
use std::sync::Mutex as Lock;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response as Answer, StatusCode as Code};
use base64::Engine as _;
use serde_json::json;

use super::super::tests::{Made, Tar, load_with, seen, whole};
use super::super::{Image, ImageError, Keyring};
use super::*;

/// What is wrong with the registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fault {
    #[default]
    None,
    /// Wants a token, for anybody or for `user:secret`.
    Token,
    LoginOnly,
    /// Takes name and password with every request.
    Basic,
    Forbidden,
    /// Sends half of each blob the first time.
    Truncated,
    /// Always.
    AlwaysTruncated,
    /// As the first, and does not know ranges.
    TruncatedWithoutRanges,
    WrongBlob,
    WrongManifest,
    Redirect,
    Busy,
    Endless,
    NotForUs,
    MediaType,
    /// Answers with the page of a portal.
    Html,
    /// Says of the manifest that it is an index.
    WrongType,
    /// Forgets the token after a few requests.
    ShortToken,
}

struct Fake {
    fault: Fault,
    blobs: BTreeMap<String, Vec<u8>>,
    manifest: Vec<u8>,
    address: String,
    /// What was asked for, with the range.
    log: Lock<Vec<String>>,
    tokens: AtomicUsize,
    oldest_token: AtomicUsize,
}

fn typed(body: Vec<u8>, media_type: &str) -> Answer<Body> {
    let mut answer = answer(Code::OK, body);
    let media_type = media_type.parse().unwrap();
    answer.headers_mut().insert(CONTENT_TYPE, media_type);
    answer
}

fn answer(code: Code, body: impl Into<Body>) -> Answer<Body> {
    let mut answer = Answer::new(body.into());
    *answer.status_mut() = code;
    answer
}

impl Fake {
    fn allows(&self, headers: &HeaderMap) -> bool {
        let given = headers
            .get("authorization")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let basic = base64::engine::general_purpose::STANDARD.encode("user:secret");
        match self.fault {
            Fault::Token | Fault::LoginOnly => given == "Bearer letmein",
            Fault::ShortToken => given
                .strip_prefix("Bearer t")
                .and_then(|number| number.parse::<usize>().ok())
                .is_some_and(|number| number >= self.oldest_token.load(Ordering::SeqCst)),
            Fault::Basic => given == format!("Basic {basic}"),
            _ => true,
        }
    }

    fn token(&self, headers: &HeaderMap) -> Answer<Body> {
        if self.fault == Fault::LoginOnly {
            let basic = base64::engine::general_purpose::STANDARD.encode("user:secret");
            let expected = format!("Basic {basic}");
            if headers
                .get("authorization")
                .is_none_or(|given| given != expected.as_str())
            {
                return answer(Code::UNAUTHORIZED, "you sent: hunter2");
            }
        }
        if self.fault == Fault::ShortToken {
            let number = self.tokens.fetch_add(1, Ordering::SeqCst) + 1;
            return answer(Code::OK, json!({"token": format!("t{number}")}).to_string());
        }
        answer(Code::OK, json!({"token": "letmein"}).to_string())
    }

    fn challenge(&self) -> Answer<Body> {
        let mut refusal = answer(Code::UNAUTHORIZED, "");
        let text = match self.fault {
            Fault::Basic => "Basic realm=\"fake\"".to_owned(),
            _ => format!(
                "Bearer realm=\"http://{}/token\",service=\"fake\"",
                self.address
            ),
        };
        refusal
            .headers_mut()
            .insert("www-authenticate", text.parse().unwrap());
        refusal
    }

    fn manifest(&self) -> Answer<Body> {
        match self.fault {
            Fault::WrongManifest => answer(Code::OK, [&self.manifest[..], b" "].concat()),
            Fault::MediaType => {
                let json = r#"{"schemaVersion":2,"mediaType":"application/vnd.example.thing"}"#;
                answer(Code::OK, json)
            }
            Fault::Html => typed(b"<html>".to_vec(), "text/html; charset=utf-8"),
            Fault::WrongType => typed(self.manifest.clone(), INDEX_TYPES[0]),
            Fault::NotForUs => {
                let entry = json!({
                    "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "digest": Digest::of(b"").to_string(), "size": 1,
                    "platform": {"os": "linux", "architecture": "s390x"},
                });
                answer(
                    Code::OK,
                    json!({"schemaVersion": 2, "manifests": [entry.clone(), entry]}).to_string(),
                )
            }
            Fault::Endless => {
                let endless = vec![b' '; MAX_MANIFEST_BYTES + 10];
                answer(Code::OK, endless)
            }
            _ => answer(Code::OK, self.manifest.clone()),
        }
    }

    fn blob(&self, digest: &str, range: Option<&str>, is_first: bool) -> Answer<Body> {
        let Some(blob) = self.blobs.get(digest) else {
            return answer(Code::NOT_FOUND, "");
        };
        let is_config = blob.starts_with(b"{");
        let mut blob = blob.clone();
        if self.fault == Fault::WrongBlob && !is_config {
            blob[0] ^= 1;
        }
        let is_cut = match self.fault {
            Fault::Truncated | Fault::TruncatedWithoutRanges => is_first,
            Fault::AlwaysTruncated => true,
            _ => false,
        };
        let start = range
            .filter(|_| self.fault != Fault::TruncatedWithoutRanges)
            .and_then(|range| {
                range
                    .strip_prefix("bytes=")?
                    .strip_suffix('-')?
                    .parse()
                    .ok()
            });
        let whole = blob.len();
        let rest = blob.split_off(start.unwrap_or(0));
        let end = if is_cut && !is_config {
            rest.len() / 2
        } else {
            rest.len()
        };
        let mut answer = answer(Code::OK, rest[..end].to_vec());
        if let Some(start) = start {
            *answer.status_mut() = Code::PARTIAL_CONTENT;
            let range = format!("bytes {start}-{}/{whole}", whole - 1);
            answer
                .headers_mut()
                .insert("content-range", range.parse().unwrap());
        }
        answer
    }

    fn serve(&self, request: &Request) -> Answer<Body> {
        let path = request.uri().path();
        if path == "/token" {
            return self.token(request.headers());
        }
        if let Some(digest) = path.strip_prefix("/elsewhere/") {
            // Signed URLs must not be sent somebody's token.
            assert!(
                request.headers().get("authorization").is_none() || self.fault == Fault::Redirect
            );
            return self.blob(digest, None, false);
        }
        if !self.allows(request.headers()) {
            return self.challenge();
        }
        let range = request
            .headers()
            .get("range")
            .map(|range| range.to_str().unwrap());
        let line = format!("{path} {}", range.unwrap_or_default());
        let is_first = {
            let mut log = self.log.lock().unwrap();
            let is_first = !log.iter().any(|line| line.starts_with(path));
            log.push(line);
            is_first
        };
        match (self.fault, path) {
            (_, "/v2/") => answer(Code::OK, ""),
            (Fault::Forbidden, _) => answer(Code::FORBIDDEN, ""),
            (Fault::Busy, _) => answer(Code::SERVICE_UNAVAILABLE, ""),
            (fault, path) if path.starts_with("/v2/team/app/blobs/") => {
                let digest = path.rsplit('/').next().unwrap();
                let next = self.tokens.load(Ordering::SeqCst) + 1;
                let oldest = &self.oldest_token;
                if fault == Fault::ShortToken
                    && oldest
                        .compare_exchange(1, next, Ordering::SeqCst, Ordering::SeqCst)
                        .is_ok()
                {
                    // All tokens that were given out are too old from now on.
                    return self.challenge();
                }
                if fault == Fault::Redirect {
                    let mut redirect = answer(Code::TEMPORARY_REDIRECT, "");
                    let target = format!("http://{}/elsewhere/{digest}", self.address);
                    redirect
                        .headers_mut()
                        .insert("location", target.parse().unwrap());
                    return redirect;
                }
                self.blob(digest, range, is_first)
            }
            (_, path) if path.starts_with("/v2/team/app/manifests/") => {
                let name = path.rsplit('/').next().unwrap();
                let digest = Digest::of(&self.manifest).to_string();
                if name == "latest" || name == digest || self.fault == Fault::WrongManifest {
                    self.manifest()
                } else {
                    answer(Code::NOT_FOUND, "")
                }
            }
            _ => answer(Code::NOT_FOUND, ""),
        }
    }
}

/// An image of two layers, the second of which is large enough to be cut.
fn made() -> Made {
    let mut low = Tar::default();
    low.file("a", b"1");
    let mut high = Tar::default();
    let noise: Vec<u8> = (0..200_000_u32)
        .map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .collect();
    high.file("noise", &noise);
    Made {
        layers: vec![low.finish(), high.finish()],
        ..Made::default()
    }
}

async fn start(fault: Fault) -> Arc<Fake> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut blobs = made().blobs();
    let manifest = blobs.pop().unwrap();
    let fake = Arc::new(Fake {
        fault,
        blobs: blobs
            .into_iter()
            .map(|blob| (Digest::of(&blob).to_string(), blob))
            .collect(),
        manifest,
        address: listener.local_addr().unwrap().to_string(),
        log: Lock::default(),
        tokens: AtomicUsize::new(0),
        oldest_token: AtomicUsize::new(1),
    });
    let handler = async |State(fake): State<Arc<Fake>>, request: Request| fake.serve(&request);
    let router = Router::new()
        .fallback(handler)
        .with_state(Arc::clone(&fake));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    fake
}

struct Setup {
    fake: Arc<Fake>,
    directory: tempfile::TempDir,
}

impl Setup {
    async fn new(fault: Fault) -> Self {
        Self {
            fake: start(fault).await,
            directory: tempfile::tempdir().unwrap(),
        }
    }

    async fn load(&self, name: &str, login: Option<&str>) -> Result<Image, ImageError> {
        let path = self.directory.path();
        let auth = path.join("auth.json");
        let entry = login.map(|login| {
            let login = base64::engine::general_purpose::STANDARD.encode(login);
            json!({"auths": {self.fake.address.clone(): {"auth": login}}})
        });
        fs_err::write(&auth, entry.unwrap_or_else(|| json!({})).to_string()).unwrap();
        let keyring = Keyring {
            files: vec![auth],
            ..Keyring::default()
        };
        load_with(
            &format!("docker://{}/{name}", self.fake.address),
            path,
            keyring,
        )
        .await
    }

    /// The names in the cache.
    fn cached(&self) -> Vec<String> {
        self.files("sha256")
    }

    fn files(&self, name: &str) -> Vec<String> {
        let directory = self.directory.path().join("cache").join(name);
        let Ok(entries) = fs_err::read_dir(directory) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn log(&self) -> Vec<String> {
        self.fake.log.lock().unwrap().clone()
    }
}

fn check(image: &Image) {
    assert_eq!(seen(&image.tree)[0], "a = 1");
    assert_eq!(image.tree.content_bytes(), 200_001);
    assert_eq!(image.identity.layers.len(), 2);
}

#[tokio::test]
async fn images_are_pulled_in_spite_of_all() {
    for (fault, login) in [
        (Fault::None, None),
        (Fault::None, Some("user:wrong")),
        (Fault::Token, None),
        (Fault::Token, Some("user:secret")),
        (Fault::LoginOnly, Some("user:secret")),
        (Fault::Basic, Some("user:secret")),
        (Fault::Truncated, None),
        (Fault::TruncatedWithoutRanges, None),
        (Fault::Redirect, None),
        (Fault::ShortToken, None),
    ] {
        let setup = Setup::new(fault).await;
        let image = setup.load("team/app", login).await;
        check(&image.unwrap_or_else(|error| panic!("{fault:?}: {}", whole(&error))));
        assert_eq!(setup.cached().len(), 2, "{fault:?}: {:?}", setup.cached());
        let log = setup.log();
        let is_resumed = log
            .iter()
            .any(|line| line.ends_with('-') && line.contains("bytes="));
        let is_cut = matches!(fault, Fault::Truncated | Fault::TruncatedWithoutRanges);
        assert_eq!(is_resumed, is_cut, "{fault:?}: {log:?}");
    }
}

#[tokio::test]
async fn what_is_in_the_cache_is_not_downloaded_again() {
    let setup = Setup::new(Fault::None).await;
    check(&setup.load("team/app", None).await.unwrap());
    let blobs = |log: &[String]| log.iter().filter(|line| line.contains("/blobs/")).count();
    let before = blobs(&setup.log());
    check(&setup.load("team/app", None).await.unwrap());
    // The config only.
    assert_eq!(blobs(&setup.log()), before + 1);
    // One that was damaged is.
    let name = setup.cached().remove(0);
    let path = setup.directory.path().join("cache/sha256").join(&name);
    let mut bytes = fs_err::read(&path).unwrap();
    bytes[20] ^= 1;
    fs_err::write(&path, bytes).unwrap();
    check(&setup.load("team/app", None).await.unwrap());
    assert_eq!(Digest::of(&fs_err::read(&path).unwrap()).to_hex(), name);
}

#[tokio::test]
async fn the_next_run_goes_on_where_one_broke_off() {
    let broken = Setup::new(Fault::AlwaysTruncated).await;
    let error = broken.load("team/app", None).await.unwrap_err();
    assert_eq!(error.exit_code().number(), 6, "{}", whole(&error));
    assert!(broken.cached().is_empty());
    assert!(!broken.files("partial").is_empty());
    // Another registry, the same cache.
    let working = Setup {
        fake: start(Fault::None).await,
        directory: broken.directory,
    };
    check(&working.load("team/app", None).await.unwrap());
    assert!(
        working.log().iter().any(|line| line.contains("bytes=")),
        "{:?}",
        working.log()
    );
    assert!(working.cached().iter().all(|name| !name.starts_with('.')));
}

#[tokio::test]
async fn a_pinned_image_is_that_very_one() {
    let digest = Digest::of(made().blobs().last().unwrap());
    let setup = Setup::new(Fault::None).await;
    let image = setup
        .load(&format!("team/app@{digest}"), None)
        .await
        .unwrap();
    assert_eq!(image.identity.manifest, Some(digest));
    check(
        &setup
            .load(&format!("team/app:any@{digest}"), None)
            .await
            .unwrap(),
    );
    let error = setup
        .load(&format!("team/app@sha512:{}", "0".repeat(128)), None)
        .await
        .unwrap_err();
    assert!(
        whole(&error).contains("pinned by `sha256:`"),
        "{}",
        whole(&error)
    );
    let setup = Setup::new(Fault::WrongManifest).await;
    let error = setup
        .load(&format!("team/app@{digest}"), None)
        .await
        .unwrap_err();
    assert!(
        whole(&error).contains(&format!("expected {digest}")),
        "{}",
        whole(&error)
    );
    assert_eq!(error.exit_code().number(), 6);
}

#[tokio::test]
async fn every_refusal_has_its_sentence() {
    for (fault, name, login, expected, code) in [
        (Fault::Token, "team/none", None, "has no `", 3),
        (Fault::None, "team/app:none", None, "team/app:none`", 3),
        (
            Fault::LoginOnly,
            "team/app",
            None,
            "does not allow to read",
            1,
        ),
        (
            Fault::LoginOnly,
            "team/app",
            Some("user:hunter2"),
            "does not allow to read",
            1,
        ),
        (Fault::Basic, "team/app", None, "does not allow to read", 1),
        (
            Fault::Forbidden,
            "team/app",
            None,
            "does not allow to read",
            1,
        ),
        (Fault::Busy, "team/app", None, "answered 503", 5),
        (
            Fault::WrongBlob,
            "team/app",
            None,
            "is not what it should be",
            6,
        ),
        (
            Fault::NotForUs,
            "team/app",
            None,
            "only for `linux/s390x`",
            1,
        ),
        (
            Fault::MediaType,
            "team/app",
            None,
            "`application/vnd.example.thing` is not the media type",
            1,
        ),
        (
            Fault::Html,
            "team/app",
            None,
            "answered with `text/html` for",
            1,
        ),
        (Fault::WrongType, "team/app", None, "but is named as", 1),
        (Fault::Endless, "team/app", None, "has more than", 1),
    ] {
        let setup = Setup::new(fault).await;
        let error = setup.load(name, login).await.unwrap_err();
        let message = whole(&error);
        assert!(message.contains(expected), "{fault:?}: {message}");
        assert_eq!(error.exit_code().number(), code, "{fault:?}: {message}");
        assert!(
            !format!("{message} {error:?}").contains("hunter2"),
            "{message}"
        );
        // Nothing that is not whole and right has the name of a blob.
        let cached = setup.cached();
        assert!(cached.is_empty(), "{fault:?}: {cached:?}");
    }
}

#[tokio::test]
async fn an_unreachable_registry_is_named() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let directory = tempfile::tempdir().unwrap();
    let text = format!("docker://{address}/x");
    let error = load_with(&text, directory.path(), Keyring::default())
        .await
        .unwrap_err();
    let message = whole(&error);
    // The cause that says something, and none of those above it.
    let expected =
        format!("Cannot reach the registry `{address}`: Connection refused (os error 111)");
    assert_eq!(message, expected);
    assert_eq!(error.exit_code().number(), 5);
    assert_eq!(error.hints().len(), 1);
}

#[test]
fn only_this_machine_is_asked_in_plain_http() {
    for (host, expected) in [
        ("localhost", true),
        ("localhost:5000", true),
        ("127.0.0.1:80", true),
        ("127.9.9.9", true),
        ("localhost.example", false),
        ("r.example:5000", false),
        ("192.168.0.1:5000", false),
        ("127.0.0.1.example", false),
    ] {
        assert_eq!(is_loopback(host), expected, "{host}");
    }
}
