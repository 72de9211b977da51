//! Reads a manifest from a path or URL and checks it, before anything is sent to the daemon. Fetches no artifact.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::manifest::{
    FieldProblem, MAX_MANIFEST_BYTES, Manifest, ManifestError, Source, resolve,
};

/// How long fetching a manifest may take: it is one small file.
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the connection for it may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Redirects that are followed: releases of a forge need two.
const MAX_REDIRECTS: usize = 5;

/// A manifest that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file cannot be read.
    #[error("Cannot read the manifest")]
    Read(#[source] io::Error),
    /// The working directory, which relative paths begin at, is not known.
    #[error("Cannot find the working directory")]
    WorkingDirectory(#[source] io::Error),
    /// The HTTP client could not be set up.
    #[error("Cannot set up the HTTP client to fetch the manifest")]
    SetUp(#[source] reqwest::Error),
    /// The URL cannot be fetched.
    #[error("Cannot fetch the manifest from `{url}`")]
    Fetch {
        /// The URL as it was given.
        url: String,
        /// The cause.
        #[source]
        source: reqwest::Error,
    },
    /// The server says no.
    #[error("`{url}` was answered with HTTP status {status}")]
    Status {
        /// The URL as it was given.
        url: String,
        /// The status.
        status: u16,
    },
    /// No manifest is that large.
    #[error("`{place}` has more than {MAX_MANIFEST_BYTES} bytes: that is no manifest")]
    TooLarge {
        /// Path or URL.
        place: String,
    },
    /// It is read, and wrong.
    #[error("The manifest `{place}` is not valid")]
    Invalid {
        /// Path or URL.
        place: String,
        /// Everything that is wrong.
        problems: Vec<FieldProblem>,
    },
}

/// Whether paths of the manifest can be looked up here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Daemon {
    /// It runs on this host and sees the same files.
    Local,
    /// It runs elsewhere.
    Remote,
}

/// Reads and checks the manifest at `place`, and makes its URLs absolute.
///
/// # Errors
/// [`SourceError`]; with [`SourceError::Invalid`] everything that is wrong is told at once.
pub async fn load(place: &str, daemon: Daemon) -> Result<Manifest, SourceError> {
    let (json, base) = match Source::parse(place) {
        Ok(Source::Http(url)) => (fetch(&url).await?, url),
        Ok(Source::File(path)) => read(&path, place)?,
        Err(_) => read(Path::new(place), place)?,
    };
    check(&json, &base, daemon).map_err(|error| SourceError::Invalid {
        place: place.to_owned(),
        problems: error.problems,
    })
}

/// The manifest and the directory that relative URLs in it begin at.
fn read(path: &Path, place: &str) -> Result<(Vec<u8>, String), SourceError> {
    let file = fs_err::File::open(path).map_err(SourceError::Read)?;
    let mut json = Vec::new();
    let limit = u64::try_from(MAX_MANIFEST_BYTES).unwrap_or(u64::MAX);
    file.take(limit.saturating_add(1))
        .read_to_end(&mut json)
        .map_err(SourceError::Read)?;
    if json.len() > MAX_MANIFEST_BYTES {
        return Err(SourceError::TooLarge {
            place: place.to_owned(),
        });
    }
    let absolute: PathBuf = std::path::absolute(path).map_err(SourceError::WorkingDirectory)?;
    let directory = absolute.parent().unwrap_or(Path::new("/"));
    Ok((json, directory.to_string_lossy().into_owned()))
}

async fn fetch(url: &str) -> Result<Vec<u8>, SourceError> {
    crate::tls::install_provider();
    let client = reqwest::Client::builder()
        .timeout(FETCH_TIMEOUT)
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::limited(MAX_REDIRECTS))
        .user_agent(concat!("volar/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(SourceError::SetUp)?;
    let broken = |source: reqwest::Error| SourceError::Fetch {
        url: url.to_owned(),
        source: source.without_url(),
    };
    let mut response = client.get(url).send().await.map_err(broken)?;
    let status = response.status();
    if !status.is_success() {
        return Err(SourceError::Status {
            url: url.to_owned(),
            status: status.as_u16(),
        });
    }
    let mut json = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        if json.len() + chunk.len() > MAX_MANIFEST_BYTES {
            return Err(SourceError::TooLarge {
                place: url.to_owned(),
            });
        }
        json.extend_from_slice(&chunk);
    }
    Ok(json)
}

fn check(json: &[u8], base: &str, daemon: Daemon) -> Result<Manifest, ManifestError> {
    let mut manifest = Manifest::from_json(json)?;
    let artifact = manifest.artifact();
    let pointer = artifact.kind.pointer("url");
    let url = resolve(artifact.url, base);
    manifest.set_artifact_url(url.clone());
    let source =
        Source::parse(&url).map_err(|error| ManifestError::one(&pointer, error.to_string()))?;
    if let (Source::File(path), Daemon::Local) = (&source, daemon)
        && is_missing(path)
    {
        let detail = format!("There is no file `{}`", path.display());
        return Err(ManifestError::one(&pointer, detail));
    }
    Ok(manifest)
}

/// Whether a file is certainly not there. One that only root may see is for volantd to judge.
fn is_missing(path: &Path) -> bool {
    fs_err::metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = r#"{"name":"caddy","version":"1","initramfs":{"url":"p.gz"},
        "workload":{"type":"exec","entrypoint":["/x"]}}"#;

    #[test]
    fn relative_urls_begin_at_the_manifest() {
        let url = |base| {
            check(MANIFEST.as_bytes(), base, Daemon::Remote)
                .unwrap()
                .artifact()
                .url
                .to_owned()
        };
        assert_eq!(url("/srv/caddy"), "/srv/caddy/p.gz");
        assert_eq!(url("https://h/a/caddy.json"), "https://h/a/p.gz");
    }

    #[test]
    fn a_file_that_is_not_there_is_told_before_anything_is_sent() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().to_str().unwrap();
        let error = check(MANIFEST.as_bytes(), base, Daemon::Local).unwrap_err();
        assert!(error.to_string().contains("There is no file"), "{error}");
        fs_err::write(dir.path().join("p.gz"), "x").unwrap();
        assert!(check(MANIFEST.as_bytes(), base, Daemon::Local).is_ok());
    }

    #[test]
    fn an_unknown_scheme_is_refused() {
        let manifest = MANIFEST.replace("p.gz", "ftp://h/p.gz");
        let error = check(manifest.as_bytes(), "/srv", Daemon::Remote).unwrap_err();
        assert_eq!(error.problems[0].pointer, "/initramfs/url");
    }

    #[test]
    fn the_size_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.json");
        fs_err::write(&path, vec![b' '; MAX_MANIFEST_BYTES + 1]).unwrap();
        let error = read(&path, "m.json").unwrap_err();
        assert!(matches!(error, SourceError::TooLarge { .. }), "{error}");
        // An endless file is not read to its end.
        let error = read(Path::new("/dev/zero"), "/dev/zero").unwrap_err();
        assert!(matches!(error, SourceError::TooLarge { .. }), "{error}");
    }
}
