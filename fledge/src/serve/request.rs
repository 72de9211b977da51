//! Reads what a client wants built: bounded in size and time, every path inside the directory that is served.

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request as HttpRequest};
use axum::http::StatusCode;
use serde::Deserialize;

use super::jobs::Request;
use super::problem::HttpError;
use crate::confinement::{Confinement, ConfinementError};

/// The largest body in bytes: three paths, each of which the kernel limits to 4096 bytes, with room for escapes.
pub(super) const MAX_BODY_BYTES: usize = 64 * 1024;

/// Time for a client to send the body.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// A body. The Go system knows `config_path` and `output_path`, and takes an empty text for a missing one.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with a `config_path`")]
#[expect(clippy::struct_field_names, reason = "the names are the API's")]
struct Wanted {
    config_path: String,
    #[serde(default)]
    output_path: Option<String>,
    #[serde(default)]
    manifest_path: Option<String>,
}

/// Reads a request for a build. The router limits its body to [`MAX_BODY_BYTES`].
pub(super) async fn read(
    request: HttpRequest,
    confinement: &Confinement,
) -> Result<Request, HttpError> {
    let body = Bytes::from_request(request, &());
    let bytes = match tokio::time::timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            return Err(HttpError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too-large",
                format!("The body is larger than {MAX_BODY_BYTES} bytes"),
            ));
        }
        Ok(Err(_)) => {
            let detail = "The body cannot be read";
            return Err(HttpError::invalid(StatusCode::BAD_REQUEST, detail));
        }
        Err(_) => {
            return Err(HttpError::invalid(
                StatusCode::REQUEST_TIMEOUT,
                format!(
                    "The body did not arrive within {} s",
                    BODY_TIMEOUT.as_secs()
                ),
            ));
        }
    };
    let wanted = serde_json::from_slice(&bytes).map_err(|error| {
        let status = if error.is_data() {
            StatusCode::UNPROCESSABLE_ENTITY
        } else {
            StatusCode::BAD_REQUEST
        };
        HttpError::invalid(status, format!("The body is not valid: {error}"))
    })?;
    understand(&wanted, confinement)
}

fn understand(wanted: &Wanted, confinement: &Confinement) -> Result<Request, HttpError> {
    let named = |path: &Option<String>| {
        let path = path.as_deref().filter(|path| !path.is_empty());
        path.map(PathBuf::from)
    };
    if wanted.config_path.is_empty() {
        return Err(HttpError::invalid(
            StatusCode::UNPROCESSABLE_ENTITY,
            "`config_path` is empty: name the build spec",
        ));
    }
    let manifest = named(&wanted.manifest_path);
    let output = named(&wanted.output_path);
    Ok(Request {
        config: input(Path::new(&wanted.config_path), confinement)?,
        manifest: manifest.map(|path| input(&path, confinement)).transpose()?,
        absolute_output: output.as_ref().is_some_and(|path| path.is_absolute()),
        output: output.map(|path| place(&path, confinement)).transpose()?,
    })
}

/// A file to read. It keeps its name, from which the paths in it are taken, even if that is a link's.
fn input(path: &Path, confinement: &Confinement) -> Result<PathBuf, HttpError> {
    confinement
        .check_file(path)
        .map_err(|error| refused(&error))?;
    place(path, confinement)
}

/// Where `path` is: its directory without links, and its own name.
fn place(path: &Path, confinement: &Confinement) -> Result<PathBuf, HttpError> {
    let Some(name) = path.file_name() else {
        return Err(HttpError::invalid(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!("`{}` does not name a file", path.display()),
        ));
    };
    let directory = path.parent().unwrap_or(Path::new(""));
    let directory = confinement
        .resolve(directory)
        .map_err(|error| refused(&error))?;
    Ok(directory.join(name))
}

fn refused(error: &ConfinementError) -> HttpError {
    let detail = common::error_chain::Chain(error).to_string();
    match error {
        ConfinementError::Outside { .. } => {
            HttpError::new(StatusCode::FORBIDDEN, "outside-root", detail)
        }
        ConfinementError::TooManyLinks { .. }
        | ConfinementError::NotAFile { .. }
        | ConfinementError::Look { .. } => {
            HttpError::invalid(StatusCode::UNPROCESSABLE_ENTITY, detail)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use axum::body::Body;

    use super::*;

    #[tokio::test]
    async fn requests_are_understood_or_refused() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs_err::create_dir(path("app")).unwrap();
        fs_err::write(path("app/fledge.toml"), "").unwrap();
        symlink("app", path("link")).unwrap();
        symlink("/etc", path("etc")).unwrap();
        symlink("/etc/shadow", path("app/shadow.toml")).unwrap();
        let confinement = Confinement::new(root.path()).unwrap();
        let ask = async |body: &str| {
            let request = HttpRequest::new(Body::from(body.to_owned()));
            read(request, &confinement).await
        };
        let good = ask(r#"{"config_path": "link/fledge.toml", "output_path": "link/../out.gz"}"#);
        let expected = Request {
            config: "app/fledge.toml".into(),
            manifest: None,
            output: Some("out.gz".into()),
            absolute_output: false,
        };
        assert_eq!(good.await.unwrap(), expected);
        let absolute = path("app/out.gz");
        let body = format!(
            r#"{{"config_path": "missing.toml", "output_path": "{}", "manifest_path": ""}}"#,
            absolute.display()
        );
        let expected = Request {
            config: "missing.toml".into(),
            manifest: None,
            output: Some("app/out.gz".into()),
            absolute_output: true,
        };
        assert_eq!(ask(&body).await.unwrap(), expected);
        for (body, status) in [
            ("", 400),
            ("{", 400),
            ("[]", 422),
            ("{}", 422),
            (r#"{"config_path": 1}"#, 422),
            (r#"{"config_path": ""}"#, 422),
            (r#"{"config_path": "app"}"#, 422),
            (r#"{"config_path": "app/fledge.toml", "output": "x"}"#, 422),
            (
                r#"{"config_path": "app/fledge.toml", "output_path": ".."}"#,
                422,
            ),
            (r#"{"config_path": "/etc/fledge.toml"}"#, 403),
            (r#"{"config_path": "app/shadow.toml"}"#, 403),
            (
                r#"{"config_path": "app/fledge.toml", "manifest_path": "etc/passwd"}"#,
                403,
            ),
            (
                r#"{"config_path": "app/fledge.toml", "output_path": "etc/x"}"#,
                403,
            ),
            (
                r#"{"config_path": "app/fledge.toml", "output_path": "../x"}"#,
                403,
            ),
        ] {
            let error = ask(body).await.unwrap_err();
            assert_eq!(error.0.status, status, "{body:.80}");
        }
    }
}
