//! What a command works with: flag, else environment, else default, resolved once. Commands read no environment themselves.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use common::api::{DEFAULT_API_LISTEN, DEFAULT_API_SOCKET, DEFAULT_TOKEN_FILE};
use nix::unistd::AccessFlags;

use crate::cli::{ColorChoice, Format, GlobalArgs};
use crate::client::{Authorities, Endpoint, InvalidEndpoint, Token};
use crate::contexts::{self, Contexts, ContextsError};

/// The largest token file that is read: a token has 64 characters.
const MAX_TOKEN_FILE_BYTES: u64 = 4096;

/// The largest file of certificates that is read: all that a host trusts are 250 KiB.
const MAX_CA_FILE_BYTES: u64 = 1024 * 1024;

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// `--api` or its variable.
    #[error("The API address from {origin} cannot be used")]
    Endpoint {
        /// Flag or variable.
        origin: &'static str,
        /// What is wrong with it.
        #[source]
        source: InvalidEndpoint,
    },
    /// A token file that was named and cannot be read.
    #[error("The token file from {origin} cannot be read")]
    ReadToken {
        /// Flag or variable.
        origin: &'static str,
        /// The cause, with the path.
        #[source]
        source: io::Error,
    },
    /// The contexts, where one was asked for or is there.
    #[error("The context cannot be used")]
    Contexts(#[from] ContextsError),
    /// A token that anybody on the way could read.
    #[error("The token is not sent to {shown}, because plain http would show it on the way")]
    PlainToken {
        /// Where it would have gone.
        shown: String,
    },
    /// A file of certificates that was named and cannot be read.
    #[error("The CA file from {origin} cannot be read")]
    ReadAuthorities {
        /// Flag or context.
        origin: &'static str,
        /// The cause, with the path.
        #[source]
        source: io::Error,
    },
    /// One that holds none.
    #[error("The CA file from {origin} holds no certificates")]
    Authorities {
        /// Flag or context.
        origin: &'static str,
    },
    /// A token that is none.
    #[error("{origin} holds no usable token: it must be one line of printable characters")]
    Token {
        /// Flag or variable.
        origin: &'static str,
    },
}

/// The parts of the process's surroundings that settings depend on.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Environment variables.
    pub variables: BTreeMap<String, String>,
    /// The daemon's default unix socket.
    pub socket: DefaultSocket,
    /// The token file of this host's daemon.
    pub default_token_file: PathBuf,
    /// Whether stdin is a terminal.
    pub stdin_is_terminal: bool,
    /// Whether stdout is a terminal.
    pub stdout_is_terminal: bool,
    /// Whether stderr is a terminal.
    pub stderr_is_terminal: bool,
}

/// What is known about the daemon's default socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultSocket {
    /// It is not there.
    Absent,
    /// It is there and may be used.
    Usable,
    /// It is there, or may be, and may not be used.
    Denied,
}

impl Surroundings {
    /// Looks at this process and host.
    pub fn look(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let variables = variables
            .into_iter()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self {
            variables,
            socket: look_at_socket(Path::new(DEFAULT_API_SOCKET)),
            default_token_file: PathBuf::from(DEFAULT_TOKEN_FILE),
            stdin_is_terminal: io::stdin().is_terminal(),
            stdout_is_terminal: io::stdout().is_terminal(),
            stderr_is_terminal: io::stderr().is_terminal(),
        }
    }

    /// Where the user's contexts are.
    pub fn contexts_file(&self) -> Option<PathBuf> {
        contexts::file(self.variable("XDG_CONFIG_HOME"), self.variable("HOME"))
    }

    /// A variable that is set and not empty.
    pub fn variable(&self, name: &str) -> Option<&str> {
        let value = self.variables.get(name)?.trim();
        (!value.is_empty()).then_some(value)
    }
}

fn look_at_socket(path: &Path) -> DefaultSocket {
    match fs_err::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => DefaultSocket::Denied,
        Err(_) => DefaultSocket::Absent,
        Ok(_) => match nix::unistd::access(path, AccessFlags::R_OK | AccessFlags::W_OK) {
            Ok(()) => DefaultSocket::Usable,
            Err(_) => DefaultSocket::Denied,
        },
    }
}

/// Whether a command talks to the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Talks {
    /// It does: where that is must be clear.
    ToDaemon,
    /// It does not: a context that cannot be used is none of its business.
    ToNobody,
}

/// How much is said on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbosity {
    /// Errors only.
    Quiet,
    /// Progress and hints.
    Normal,
    /// Each call to the daemon as well.
    Verbose,
}

/// What a command works with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where volantd is.
    pub endpoint: Endpoint,
    /// What proves to it who we are, over TCP.
    pub token: Option<Token>,
    /// What vouches for it over TLS, if not what the host trusts.
    pub authorities: Option<Authorities>,
    /// How results are printed.
    pub format: Format,
    /// How much is said on stderr.
    pub verbosity: Verbosity,
    /// Whether results may have colours.
    pub color_stdout: bool,
    /// Whether errors and progress may have colours.
    pub color_stderr: bool,
    /// The surroundings, for what only single commands ask.
    pub surroundings: Surroundings,
}

impl Settings {
    /// Resolves all settings.
    ///
    /// # Errors
    /// [`SettingsError`] if a flag or variable is given and cannot be used.
    pub fn resolve(
        flags: &GlobalArgs,
        surroundings: Surroundings,
        talks: Talks,
    ) -> Result<Self, SettingsError> {
        let (endpoint, token, authorities) = match talks {
            Talks::ToDaemon => {
                let place = place(flags, &surroundings)?;
                let token = match place.endpoint {
                    Endpoint::Unix(_) => None,
                    Endpoint::Tcp(_) => token(flags, &surroundings, &place)?,
                };
                if token.is_some() && !place.endpoint.is_tls() && !place.endpoint.is_local() {
                    let shown = place.endpoint.to_string();
                    return Err(SettingsError::PlainToken { shown });
                }
                let authorities = authorities(flags, &place)?;
                (place.endpoint, token, authorities)
            }
            Talks::ToNobody => (default_endpoint(flags, &surroundings)?, None, None),
        };
        let verbosity = match (flags.quiet, flags.verbose) {
            (true, _) => Verbosity::Quiet,
            (false, true) => Verbosity::Verbose,
            (false, false) => Verbosity::Normal,
        };
        Ok(Self {
            endpoint,
            token,
            authorities,
            format: flags.output,
            verbosity,
            color_stdout: color(flags.color, &surroundings, surroundings.stdout_is_terminal),
            color_stderr: color(flags.color, &surroundings, surroundings.stderr_is_terminal),
            surroundings,
        })
    }
}

/// Whether a stream has colours; also needed for the errors of settings themselves.
pub fn color(choice: ColorChoice, surroundings: &Surroundings, is_terminal: bool) -> bool {
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => {
            let dumb = surroundings.variable("TERM") == Some("dumb");
            is_terminal && !dumb && surroundings.variable("NO_COLOR").is_none()
        }
    }
}

/// Where volantd is, and the token that belongs to that place.
struct Place {
    endpoint: Endpoint,
    token_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
}

impl Place {
    const fn bare(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            token_file: None,
            ca_file: None,
        }
    }
}

fn place(flags: &GlobalArgs, surroundings: &Surroundings) -> Result<Place, SettingsError> {
    let at = |origin, text: &str| {
        let endpoint = text
            .parse()
            .map_err(|source| SettingsError::Endpoint { origin, source })?;
        Ok(Place::bare(endpoint))
    };
    if let Some(text) = &flags.api {
        return at("--api", text);
    }
    let variable = surroundings.variable("VOLANT_API_BASE");
    if let (None, Some(text)) = (&flags.context, variable) {
        return at("VOLANT_API_BASE", text);
    }
    let named = flags
        .context
        .as_ref()
        .map(common::name::Name::as_str)
        .or_else(|| surroundings.variable("VOLANT_CONTEXT"));
    let contexts = match (surroundings.contexts_file(), named) {
        (Some(path), _) => Contexts::load(&path)?,
        (None, Some(_)) => return Err(ContextsError::NoHome.into()),
        (None, None) => Contexts::default(),
    };
    match named.or(contexts.current.as_ref().map(common::name::Name::as_str)) {
        Some(name) => {
            let saved = contexts.get(name)?;
            Ok(Place {
                token_file: saved.token_file.clone(),
                ca_file: saved.ca_file.clone(),
                ..at("the context", &saved.api)?
            })
        }
        None => Ok(Place::bare(default_endpoint(flags, surroundings)?)),
    }
}

fn default_endpoint(
    flags: &GlobalArgs,
    surroundings: &Surroundings,
) -> Result<Endpoint, SettingsError> {
    let unix = Endpoint::Unix(PathBuf::from(DEFAULT_API_SOCKET));
    let has_token = || {
        flags.token_file.is_some()
            || surroundings.variable("VOLANT_API_KEY").is_some()
            || surroundings.variable("VOLANT_TOKEN_FILE").is_some()
            || read_token(&surroundings.default_token_file).is_ok()
    };
    match surroundings.socket {
        DefaultSocket::Usable => return Ok(unix),
        // Without a token TCP would only say that there is no token; the socket says what is really missing.
        DefaultSocket::Denied if !has_token() => return Ok(unix),
        DefaultSocket::Denied | DefaultSocket::Absent => {}
    }
    format!("http://{DEFAULT_API_LISTEN}")
        .parse()
        .map_err(|source| SettingsError::Endpoint {
            origin: "the default",
            source,
        })
}

fn token(
    flags: &GlobalArgs,
    surroundings: &Surroundings,
    place: &Place,
) -> Result<Option<Token>, SettingsError> {
    if let Some(path) = &flags.token_file {
        return token_from_file("--token-file", path).map(Some);
    }
    // A variable may hold the token of another daemon: what belongs to the context goes before it.
    if let Some(path) = &place.token_file {
        return token_from_file("the context", path).map(Some);
    }
    if let Some(text) = surroundings.variable("VOLANT_API_KEY") {
        let origin = "VOLANT_API_KEY";
        return Token::new(text)
            .map(Some)
            .ok_or(SettingsError::Token { origin });
    }
    if let Some(path) = surroundings.variable("VOLANT_TOKEN_FILE") {
        return token_from_file("VOLANT_TOKEN_FILE", Path::new(path)).map(Some);
    }
    // The token of this host's daemon is nobody else's business.
    if !place.endpoint.is_local() {
        return Ok(None);
    }
    // Nobody asked for this file: if it cannot be read, the daemon says that a token is missing.
    let text = read_token(&surroundings.default_token_file).ok();
    Ok(text.and_then(|text| Token::new(&text)))
}

/// Only TLS needs any.
fn authorities(flags: &GlobalArgs, place: &Place) -> Result<Option<Authorities>, SettingsError> {
    let (origin, path) = match (&flags.ca_file, &place.ca_file) {
        (Some(path), _) => ("--ca-file", path),
        (None, Some(path)) => ("the context", path),
        (None, None) => return Ok(None),
    };
    if !place.endpoint.is_tls() {
        return Ok(None);
    }
    let pem = read_bounded(path, MAX_CA_FILE_BYTES)
        .map_err(|source| SettingsError::ReadAuthorities { origin, source })?;
    let authorities = Authorities::from_pem(pem.as_bytes());
    authorities
        .map(Some)
        .ok_or(SettingsError::Authorities { origin })
}

fn token_from_file(origin: &'static str, path: &Path) -> Result<Token, SettingsError> {
    let text = read_token(path).map_err(|source| SettingsError::ReadToken { origin, source })?;
    Token::new(&text).ok_or(SettingsError::Token { origin })
}

fn read_token(path: &Path) -> io::Result<String> {
    read_bounded(path, MAX_TOKEN_FILE_BYTES)
}

fn read_bounded(path: &Path, limit_bytes: u64) -> io::Result<String> {
    let mut text = String::new();
    fs_err::File::open(path)?
        .take(limit_bytes)
        .read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surroundings(variables: &[(&str, &str)], socket: DefaultSocket) -> Surroundings {
        Surroundings {
            variables: variables
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            socket,
            default_token_file: PathBuf::from("/nonexistent/token"),
            stdin_is_terminal: false,
            stdout_is_terminal: true,
            stderr_is_terminal: true,
        }
    }

    fn resolve(flags: &GlobalArgs, surroundings: Surroundings) -> Settings {
        Settings::resolve(flags, surroundings, Talks::ToDaemon).unwrap()
    }

    #[test]
    fn a_flag_beats_the_environment_and_that_the_default() {
        let flag = GlobalArgs {
            api: Some("unix:///flag".to_owned()),
            ..GlobalArgs::default()
        };
        let none = GlobalArgs::default();
        let set: &[(&str, &str)] = &[("VOLANT_API_BASE", "http://env:1")];
        let table = [
            (&flag, set, DefaultSocket::Usable, "unix:///flag"),
            (&none, set, DefaultSocket::Usable, "http://env:1"),
            (
                &none,
                &[],
                DefaultSocket::Usable,
                "unix:///run/volant/volantd.sock",
            ),
            (&none, &[], DefaultSocket::Absent, "http://127.0.0.1:7777"),
            (
                &none,
                &[],
                DefaultSocket::Denied,
                "unix:///run/volant/volantd.sock",
            ),
            (
                &none,
                &[("VOLANT_API_KEY", "k")],
                DefaultSocket::Denied,
                "http://127.0.0.1:7777",
            ),
            (
                &none,
                &[("VOLANT_API_BASE", " ")],
                DefaultSocket::Absent,
                "http://127.0.0.1:7777",
            ),
        ];
        for (flags, variables, socket, expected) in table {
            let settings = resolve(flags, surroundings(variables, socket));
            assert_eq!(
                settings.endpoint.to_string(),
                expected,
                "{variables:?} {socket:?}"
            );
        }
    }

    #[test]
    fn a_token_is_found_in_its_order() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            let path = dir.path().join(name);
            fs_err::write(&path, format!("{name}\n")).unwrap();
            path
        };
        let (flag, file, default) = (write("flag"), write("file"), write("default"));
        let token = |flag: Option<&PathBuf>, variables: &[(&str, &str)], api: &str| {
            let flags = GlobalArgs {
                api: Some(api.to_owned()),
                token_file: flag.cloned(),
                ..GlobalArgs::default()
            };
            let mut around = surroundings(variables, DefaultSocket::Absent);
            around.default_token_file.clone_from(&default);
            resolve(&flags, around).token
        };
        let file = file.to_str().unwrap();
        let both = [("VOLANT_API_KEY", "key"), ("VOLANT_TOKEN_FILE", file)];
        let local = "http://127.0.0.1:1";
        assert_eq!(token(Some(&flag), &both, local), Token::new("flag"));
        assert_eq!(token(None, &both, local), Token::new("key"));
        assert_eq!(token(None, &both[1..], local), Token::new("file"));
        assert_eq!(token(None, &[], local), Token::new("default"));
        assert_eq!(token(None, &[], "http://elsewhere:1"), None);
        let tls = "https://elsewhere:1";
        assert_eq!(token(None, &both, tls), Token::new("key"));
        assert_eq!(token(None, &both, "unix:///x"), None);
    }

    #[test]
    fn a_context_has_its_place_in_the_order() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_str().unwrap();
        let token_file = dir.path().join("t");
        fs_err::write(&token_file, "of-the-context").unwrap();
        let text = format!(
            "current = 'a'\n[contexts.a]\napi = 'https://a'\n[contexts.b]\napi = 'https://b'\ntoken_file = '{}'",
            token_file.display()
        );
        let path = dir.path().join(".config/volant/config.toml");
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(&path, text).unwrap();
        let flag = |name: &str| GlobalArgs {
            context: Some(name.parse().unwrap()),
            ..GlobalArgs::default()
        };
        let none = GlobalArgs::default();
        let home = ("HOME", home);
        let (api, context) = (("VOLANT_API_BASE", "http://env:1"), ("VOLANT_CONTEXT", "b"));
        let resolved = |flags: &GlobalArgs, variables: &[(&str, &str)]| {
            let around = surroundings(variables, DefaultSocket::Usable);
            resolve(flags, around).endpoint.to_string()
        };
        assert_eq!(resolved(&flag("b"), &[home, api]), "https://b");
        assert_eq!(resolved(&none, &[home, api, context]), "http://env:1");
        assert_eq!(resolved(&none, &[home, context]), "https://b");
        assert_eq!(resolved(&none, &[home]), "https://a");
        let variables = [home, ("VOLANT_API_KEY", "of-another")];
        let settings = resolve(&flag("b"), surroundings(&variables, DefaultSocket::Usable));
        assert_eq!(settings.token, Token::new("of-the-context"));
        let around = surroundings(&[home], DefaultSocket::Usable);
        let error = Settings::resolve(&flag("c"), around.clone(), Talks::ToDaemon).unwrap_err();
        assert!(matches!(
            error,
            SettingsError::Contexts(ContextsError::Unknown { .. })
        ));
        assert!(Settings::resolve(&flag("c"), around, Talks::ToNobody).is_ok());
    }

    #[test]
    fn what_was_asked_for_must_be_usable() {
        let with_api = |api: &str, token_file: Option<&str>| GlobalArgs {
            api: Some(api.to_owned()),
            token_file: token_file.map(PathBuf::from),
            ..GlobalArgs::default()
        };
        let error = |flags: &GlobalArgs, variables: &[(&str, &str)]| {
            let around = surroundings(variables, DefaultSocket::Absent);
            Settings::resolve(flags, around, Talks::ToDaemon).unwrap_err()
        };
        assert!(matches!(
            error(&with_api("nowhere", None), &[]),
            SettingsError::Endpoint {
                origin: "--api",
                ..
            }
        ));
        assert!(matches!(
            error(&with_api("http://h", Some("/nonexistent")), &[]),
            SettingsError::ReadToken {
                origin: "--token-file",
                ..
            }
        ));
        assert!(matches!(
            error(&with_api("http://h", None), &[("VOLANT_API_KEY", "a b")]),
            SettingsError::Token {
                origin: "VOLANT_API_KEY"
            }
        ));
        let plain = error(
            &with_api("http://10.1.2.3:7777", None),
            &[("VOLANT_API_KEY", "s3cret")],
        );
        assert_eq!(
            plain.to_string(),
            "The token is not sent to http://10.1.2.3:7777, because plain http would show it on the way"
        );
    }

    #[test]
    fn colours_follow_flag_terminal_and_no_color() {
        let colored = |choice, variables: &[(&str, &str)], terminal| {
            color(
                choice,
                &surroundings(variables, DefaultSocket::Absent),
                terminal,
            )
        };
        let no_color: &[(&str, &str)] = &[("NO_COLOR", "1")];
        assert!(colored(ColorChoice::Auto, &[], true));
        assert!(!colored(ColorChoice::Auto, &[], false));
        assert!(!colored(ColorChoice::Auto, no_color, true));
        assert!(!colored(ColorChoice::Auto, &[("TERM", "dumb")], true));
        assert!(colored(ColorChoice::Always, no_color, false));
        assert!(!colored(ColorChoice::Never, &[], true));
    }

    #[test]
    fn a_socket_is_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        assert_eq!(look_at_socket(&path), DefaultSocket::Absent);
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(look_at_socket(&path), DefaultSocket::Usable);
    }

    #[test]
    fn debug_does_not_show_a_token() {
        assert!(!format!("{:?}", Token::new("hunter2")).contains("hunter2"));
    }
}
