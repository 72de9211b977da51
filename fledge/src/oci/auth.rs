//! Credentials for registries, where docker and podman keep them: a JSON file, or a program beside it. Secrets appear in no error.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oci_client::Reference;
use serde::Deserialize;
use tokio::sync::watch;

use super::command::{CommandError, Output, Programs, Run};

/// How long a credential helper may take: some ask the user to unlock a keychain.
const HELPER_TIMEOUT: Duration = Duration::from_mins(1);

/// The largest file of credentials, in bytes.
const MAX_FILE_BYTES: usize = 1024 * 1024;

/// How docker calls its own registry in its files.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// The user name with which helpers mark a token that is not a password (docker-credential-helpers).
const TOKEN_USER: &str = "<token>";

/// Credentials that are there but cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The file cannot be read.
    #[error("Cannot read the credentials in `{}`", path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is not what docker writes. What is in it is not shown.
    #[error("The credentials in `{}` are malformed in line {line}", path.display())]
    Malformed {
        /// Its path.
        path: PathBuf,
        /// The line, 0 where it is too large.
        line: usize,
    },
    /// An entry is not what docker writes.
    #[error("The credentials for `{registry}` in `{}` are malformed", path.display())]
    Entry {
        /// The registry.
        registry: String,
        /// The file.
        path: PathBuf,
    },
    /// The credentials are of a kind that is not supported.
    #[error(
        "The credentials for `{registry}` are an identity token, which is not supported: log in with a user name and a password or access token"
    )]
    IdentityToken {
        /// The registry.
        registry: String,
    },
    /// A helper is not a program's name, or not there.
    #[error("There is no credential helper `docker-credential-{name}`, which `{}` names", path.display())]
    NoHelper {
        /// What comes after `docker-credential-`.
        name: String,
        /// The file.
        path: PathBuf,
    },
    /// A helper does not work.
    #[error(
        "The credential helper `docker-credential-{name}` does not give the credentials for `{registry}`"
    )]
    Helper {
        /// What comes after `docker-credential-`.
        name: String,
        /// The registry.
        registry: String,
        /// Why; nothing where its answer is malformed.
        #[source]
        source: Option<CommandError>,
    },
}

/// A user name and a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub username: String,
    /// The password or token.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// Where credentials may be.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    /// The files, the first that has something wins.
    pub files: Vec<PathBuf>,
    /// Where helpers are looked for.
    pub programs: Programs,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AuthFile {
    auths: BTreeMap<String, Auth>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    #[serde(rename = "auth")]
    pair: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

impl Keyring {
    /// The files that docker and podman would read, by what `variable` says of the environment.
    pub fn from_environment(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let directory = |name| variable(name).map(PathBuf::from);
        let home = directory("HOME");
        let in_home = |path: &str| home.as_ref().map(|home| home.join(path));
        let config = directory("XDG_CONFIG_HOME").or_else(|| in_home(".config"));
        let files = [
            directory("REGISTRY_AUTH_FILE"),
            directory("DOCKER_CONFIG")
                .map(|docker| docker.join("config.json"))
                .or_else(|| in_home(".docker/config.json")),
            directory("XDG_RUNTIME_DIR").map(|runtime| runtime.join("containers/auth.json")),
            config.map(|config| config.join("containers/auth.json")),
        ];
        Self {
            files: files.into_iter().flatten().collect(),
            programs: Programs::in_path(variable("PATH").as_deref()),
        }
    }

    /// The credentials for the registry of `reference`; none for anonymous use.
    ///
    /// # Errors
    /// Where there are some that cannot be used.
    pub async fn find(
        &self,
        reference: &Reference,
        interrupted: &watch::Receiver<bool>,
    ) -> Result<Option<Credentials>, AuthError> {
        let keys = keys(reference);
        for path in &self.files {
            let Some(file) = read(path)? else { continue };
            if let Some(found) = self.look_up(&file, &keys, path, interrupted).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    async fn look_up(
        &self,
        file: &AuthFile,
        keys: &[String],
        path: &Path,
        interrupted: &watch::Receiver<bool>,
    ) -> Result<Option<Credentials>, AuthError> {
        let host = keys.last().map(String::as_str).unwrap_or_default();
        let helper = file
            .cred_helpers
            .iter()
            .find(|(name, _)| normal(name) == host)
            .map(|(_, helper)| helper)
            .or(file.creds_store.as_ref().filter(|store| !store.is_empty()));
        if let Some(helper) = helper
            && let Some(found) = self.ask(helper, host, path, interrupted).await?
        {
            return Ok(Some(found));
        }
        for key in keys {
            let entry = file.auths.iter().find(|(name, _)| normal(name) == *key);
            if let Some((_, auth)) = entry
                && let Some(found) = auth.credentials(host, path)?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Asks a helper, whose protocol is that of docker-credential-helpers: the registry on stdin, JSON on stdout.
    async fn ask(
        &self,
        name: &str,
        registry: &str,
        path: &Path,
        interrupted: &watch::Receiver<bool>,
    ) -> Result<Option<Credentials>, AuthError> {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let program = if name.bytes().all(is_name) {
            self.programs.find(&format!("docker-credential-{name}"))
        } else {
            None
        };
        let Some(program) = program else {
            return Err(AuthError::NoHelper {
                name: name.chars().take(80).collect(),
                path: path.to_path_buf(),
            });
        };
        let server = if registry == "index.docker.io" {
            DOCKER_HUB
        } else {
            registry
        };
        let answer = Run {
            program: &program,
            arguments: vec!["get".into()],
            variables: Vec::new(),
            input: server.as_bytes().to_vec(),
            output: Output::Keep,
            limit: Some(HELPER_TIMEOUT),
            on_line: &|_| {},
            interrupted: interrupted.clone(),
        }
        .finish()
        .await;
        let failed = |source| AuthError::Helper {
            name: name.to_owned(),
            registry: registry.to_owned(),
            source,
        };
        let answer = match answer {
            Ok(answer) => answer,
            // It has none. Helpers say so on stdout and end with 1, as they do when they fail.
            Err(CommandError::Failed { last_lines, .. }) if last_lines.is_empty() => {
                return Ok(None);
            }
            Err(error) => return Err(failed(Some(error))),
        };
        let answer: HelperAnswer = serde_json::from_slice(&answer).map_err(|_| failed(None))?;
        if answer.username == TOKEN_USER {
            return Err(AuthError::IdentityToken {
                registry: registry.to_owned(),
            });
        }
        Ok(Some(Credentials {
            username: answer.username,
            password: answer.secret,
        }))
    }
}

impl Auth {
    fn credentials(&self, registry: &str, path: &Path) -> Result<Option<Credentials>, AuthError> {
        let present = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if present(&self.identitytoken).is_some() {
            return Err(AuthError::IdentityToken {
                registry: registry.to_owned(),
            });
        }
        if let Some(auth) = present(&self.pair) {
            let decoded = STANDARD.decode(auth.trim()).ok();
            let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
            // Docker pads with NUL.
            let pair = text
                .as_deref()
                .and_then(|text| text.trim_end_matches('\0').split_once(':'));
            return match pair {
                Some((username, password)) => Ok(Some(Credentials {
                    username: username.to_owned(),
                    password: password.to_owned(),
                })),
                None => Err(AuthError::Entry {
                    registry: registry.to_owned(),
                    path: path.to_path_buf(),
                }),
            };
        }
        // An empty entry says only that a helper has it.
        Ok(present(&self.username)
            .zip(present(&self.password))
            .map(|(username, password)| Credentials { username, password }))
    }
}

/// What an entry for the image can be called, the most exact first, the registry last.
fn keys(reference: &Reference) -> Vec<String> {
    let host = reference.resolve_registry();
    let mut keys = Vec::new();
    let whole = format!("{host}/{}", reference.repository());
    let mut rest = whole.as_str();
    while let Some((above, _)) = rest.rsplit_once('/') {
        keys.push(rest.to_owned());
        rest = above;
    }
    keys.push(host.to_owned());
    keys
}

/// The name of an entry without what means nothing: `https://index.docker.io/v1/` is `index.docker.io`.
fn normal(name: &str) -> &str {
    let name = name
        .strip_prefix("https://")
        .or(name.strip_prefix("http://"))
        .unwrap_or(name);
    let name = name.trim_end_matches('/');
    let name = name
        .strip_suffix("/v1")
        .or(name.strip_suffix("/v2"))
        .unwrap_or(name);
    match name {
        "docker.io" => "index.docker.io",
        name => name,
    }
}

fn read(path: &Path) -> Result<Option<AuthFile>, AuthError> {
    let bytes = match fs_err::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(AuthError::Read {
                path: path.to_path_buf(),
                source,
            });
        }
    };
    let malformed = |line| AuthError::Malformed {
        path: path.to_path_buf(),
        line,
    };
    if bytes.len() > MAX_FILE_BYTES {
        return Err(malformed(0));
    }
    // Its own error would show what it found.
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| malformed(error.line()))
}

#[cfg(test)]
mod tests {
    use super::super::command::tests::{never, script};
    use super::*;

    async fn find(
        files: &[&str],
        helpers: &[(&str, &str)],
        image: &str,
    ) -> Result<Option<String>, AuthError> {
        let directory = tempfile::tempdir().unwrap();
        let mut keyring = Keyring {
            programs: Programs::in_path(Some(directory.path().as_os_str())),
            ..Keyring::default()
        };
        for (at, text) in files.iter().enumerate() {
            let path = directory.path().join(format!("{at}.json"));
            fs_err::write(&path, text).unwrap();
            keyring.files.push(path);
        }
        for (name, text) in helpers {
            script(directory.path(), &format!("docker-credential-{name}"), text);
        }
        keyring.files.insert(0, directory.path().join("none.json"));
        let found = keyring.find(&image.parse().unwrap(), &never()).await?;
        Ok(found.map(|found| format!("{}:{}", found.username, found.password)))
    }

    #[tokio::test]
    async fn files_are_searched_in_order() {
        let hub = format!(
            r#"{{"auths":{{"https://index.docker.io/v1/":{{"auth":"{}"}}}}}}"#,
            STANDARD.encode("u:p:q")
        );
        let other = r#"{"auths":{"r.example":{"username":"a","password":"b"},"r.example/team":{"username":"c","password":"d"}},"unknown":1}"#;
        for (image, expected) in [
            ("nginx", Some("u:p:q")),
            ("docker.io/library/nginx", Some("u:p:q")),
            ("r.example/x", Some("a:b")),
            ("r.example/team/x/y", Some("c:d")),
            ("r.example/teams/x", Some("a:b")),
            ("other.example/x", None),
        ] {
            let found = find(&[&hub, other], &[], image).await.unwrap();
            assert_eq!(found.as_deref(), expected, "{image}");
        }
    }

    #[tokio::test]
    async fn helpers_are_asked() {
        let file = r#"{"credsStore":"all","credHelpers":{"r.example":"one"},"auths":{"index.docker.io":{}}}"#;
        let all = r#"read s; [ "$s" = https://index.docker.io/v1/ ] || { echo none; exit 1; }; [ "$1" = get ] && echo '{"ServerURL":"x","Username":"h","Secret":"s"}'"#;
        let one = r#"echo '{"Username":"<token>","Secret":"very"}'"#;
        let helpers = [("all", all), ("one", one)];
        let found = async |image: &str| find(&[file], &helpers, image).await;
        assert_eq!(found("nginx").await.unwrap().as_deref(), Some("h:s"));
        assert_eq!(found("other.example/x").await.unwrap(), None);
        let message = found("r.example/x").await.unwrap_err().to_string();
        assert!(
            message.contains("identity token") && !message.contains("very"),
            "{message}"
        );
    }

    #[tokio::test]
    async fn secrets_are_in_no_error() {
        let broken = r#"{"auths":{"r.example":{"auth":["hunter2"]}}}"#;
        let not_base64 = r#"{"auths":{"r.example":{"auth":"hunter2"}}}"#;
        let helper = r#"{"credsStore":"bad"}"#;
        for (file, expected) in [
            (broken, "malformed in line 1"),
            (not_base64, "for `r.example`"),
            (r#"{"credsStore":"../x"}"#, "no credential helper"),
            (helper, "does not give"),
        ] {
            let helpers = [("bad", "echo hunter2")];
            let error = find(&[file], &helpers, "r.example/x").await.unwrap_err();
            let message = format!("{error} {error:?}");
            assert!(
                message.contains(expected) && !message.contains("hunter2"),
                "{message}"
            );
        }
        let credentials = Credentials {
            username: "u".to_owned(),
            password: "hunter2".to_owned(),
        };
        assert!(!format!("{credentials:?}").contains("hunter2"));
    }

    #[test]
    fn the_environment_says_where_files_are() {
        let keyring = Keyring::from_environment(|name| match name {
            "HOME" => Some("/h".into()),
            "XDG_RUNTIME_DIR" => Some("/run/u".into()),
            _ => None,
        });
        let expected = [
            "/h/.docker/config.json",
            "/run/u/containers/auth.json",
            "/h/.config/containers/auth.json",
        ];
        assert_eq!(keyring.files, expected.map(PathBuf::from));
        let keyring = Keyring::from_environment(|name| Some(format!("/{name}").into()));
        assert_eq!(
            keyring.files[..2],
            ["/REGISTRY_AUTH_FILE", "/DOCKER_CONFIG/config.json"].map(PathBuf::from)
        );
    }
}
