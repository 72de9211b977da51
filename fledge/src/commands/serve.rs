//! `fledge serve`: builds for others over HTTP. Reads flags, environment and key; what is served is [`crate::serve`].

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use common::error_chain::Chain;
use common::exit_code::ExitCode;
use common::guest_config::Secret;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::Failure;
use super::build::{self, Limits, Settings, What};
use super::small_file::{self, FileError};
use crate::confinement::Confinement;
use crate::plan::Overrides;
use crate::serve::{Gate, KEY_VARIABLE, Request, Service};
use crate::ui::Ui;

/// The shortest key, in characters: what can be guessed protects nothing.
const MIN_KEY_CHARS: usize = 16;

/// The longest key file, in bytes.
const MAX_KEY_BYTES: u64 = 1024;

/// Permissions by which others than the owner can read a file.
const OTHERS_PERMISSIONS: u32 = 0o077;

const HELP: &str = "\
There is no flag for the key itself: every user of this machine could read it in the list of processes. Put it into a file and name
that with --api-key-file, or set FLEDGE_API_KEY. Without a key, only addresses of this machine itself (127.0.0.1, ::1) are served.

Examples:
  fledge serve
      build what lies in this directory and below, for programs of this machine
  fledge serve --root plugins --jobs 2
      for another directory, two builds at once
  fledge serve --addr 0.0.0.0:7070 --api-key-file key
      for other machines, behind something that speaks TLS

docs/fledge-serve.md describes the API.";

/// Flags of `fledge serve`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct ServeArgs {
    /// The address and port to listen on; port 0 takes a free one
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "FLEDGE_ADDR",
        default_value = "127.0.0.1:7070"
    )]
    addr: SocketAddr,
    /// The file with the key that clients must present [default: the variable `FLEDGE_API_KEY`]
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Web pages that may use the API, as exact origins such as `https://ci.example.com`, separated by commas
    #[arg(
        long,
        value_name = "ORIGINS",
        env = "FLEDGE_CORS_ORIGINS",
        value_delimiter = ',',
        value_parser = origin
    )]
    cors_origins: Vec<String>,
    /// Names that clients use for this server beside `localhost` and addresses, separated by commas
    #[arg(
        long,
        value_name = "NAMES",
        env = "FLEDGE_HOSTS",
        value_delimiter = ',',
        value_parser = host
    )]
    hosts: Vec<String>,
    /// The directory that builds may read and write; nothing outside is touched but the cache of downloads
    #[arg(long, value_name = "DIR", default_value = ".")]
    root: PathBuf,
    /// How many builds run at once; each uses all processors
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: u8,
    /// Time of all files that are not of a container image, and the latest of those that are, in seconds since 1970 [default: 0, and none]
    #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH")]
    source_date_epoch: Option<u32>,
}

/// A server that cannot be started, or did not end as it should.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The file with the key cannot be read.
    #[error(transparent)]
    KeyFile(#[from] FileError),
    /// The key is too short, or holds what a header cannot.
    #[error(
        "The API key in {place} is not one: it needs at least {MIN_KEY_CHARS} letters, digits or signs, without blanks"
    )]
    Key {
        /// Where it was found.
        place: String,
    },
    /// Other machines could build without a key.
    #[error("{addr} can be reached from other machines, and there is no API key to keep them out")]
    Open {
        /// The address.
        addr: SocketAddr,
    },
    /// The directory is none.
    #[error("Cannot serve the directory `{}`", path.display())]
    Root {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The address is taken, or not this machine's.
    #[error("Cannot listen on {addr}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The runtime or its signals cannot be had.
    #[error("Cannot start")]
    Runtime(#[source] io::Error),
    /// A build does not stop.
    #[error("A build did not stop in time; files beginning with a dot may be left of it")]
    Unstopped(#[source] io::Error),
}

impl Failure for ServeError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::KeyFile(error) => error.exit_code(),
            Self::Root { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                ExitCode::NotFound
            }
            Self::Key { .. } | Self::Open { .. } | Self::Root { .. } => ExitCode::Invalid,
            Self::Listen { .. } => ExitCode::Unavailable,
            Self::Runtime(_) | Self::Unstopped(_) => ExitCode::Internal,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Open { .. } | Self::Key { .. } => vec![format!(
                "`openssl rand -hex 32 > key` makes one; name it with --api-key-file, or set {KEY_VARIABLE}"
            )],
            Self::Listen { .. } => {
                vec!["--addr or FLEDGE_ADDR names another address or port".to_owned()]
            }
            _ => Vec::new(),
        }
    }
}

/// Serves until `ending` becomes true.
///
/// # Errors
/// Where the server cannot be started, or a build does not stop.
pub async fn run(
    args: ServeArgs,
    ui: &Ui,
    ending: watch::Receiver<bool>,
) -> Result<(), ServeError> {
    let key = key(args.api_key_file.as_deref(), ui)?;
    if key.is_none() && !args.addr.ip().is_loopback() {
        return Err(ServeError::Open { addr: args.addr });
    }
    let root = |source| ServeError::Root {
        path: args.root.clone(),
        source,
    };
    let confinement = Confinement::new(&args.root).map_err(root)?;
    // From here on all paths are relative to it, in requests, messages and answers.
    std::env::set_current_dir(confinement.root()).map_err(root)?;
    let listen = |source| ServeError::Listen {
        addr: args.addr,
        source,
    };
    let listener = TcpListener::bind(args.addr).await.map_err(listen)?;
    let addr = listener.local_addr().map_err(listen)?;
    ui.result(&format!("Listening on http://{addr}"));
    if key.is_none() {
        ui.note("every program of this machine may build, because there is no API key");
    }
    ui.detail(&format!("Serving `{}`", confinement.root().display()));
    let service = Service {
        gate: Gate {
            key,
            origins: named(args.cors_origins),
            hosts: named(args.hosts),
        },
        build: build_in(&confinement, args.source_date_epoch, ui.clone()),
        confinement,
        max_running: usize::from(args.jobs),
        run: another_number(),
    };
    crate::serve::serve(listener, service, ending)
        .await
        .map_err(ServeError::Unstopped)
}

/// A list without what is empty, as from a variable that is set to nothing.
fn named(list: Vec<String>) -> BTreeSet<String> {
    list.into_iter().filter(|text| !text.is_empty()).collect()
}

/// A build as `fledge build` makes it, confined to the directory that is served. `operator` learns which builds there are.
fn build_in(
    confinement: &Confinement,
    source_date_epoch_s: Option<u32>,
    operator: Ui,
) -> Box<crate::serve::Build> {
    let confinement = confinement.clone();
    let cache = crate::cache::default_directory();
    let threads = std::thread::available_parallelism().unwrap_or(std::num::NonZeroUsize::MIN);
    Box::new(move |request: &Request, ui, stop| {
        let settings = Settings {
            what: What::Spec(request.config.clone()),
            manifest: request.manifest.clone(),
            output: request.output.clone(),
            overrides: Overrides::default(),
            limits: Limits::default(),
            source_date_epoch_s,
            cache: cache.clone(),
            threads,
            confine_to: Some(confinement.clone()),
        };
        let name = request.config.display();
        operator.note(&format!("building `{name}`"));
        // This runs on a thread of its own, which packing may keep busy.
        let built = build::run(&settings, ui, stop);
        let built = tokio::runtime::Handle::current().block_on(built);
        operator.note(&match &built {
            Ok(built) => format!("built `{}` from `{name}`", built.artifact.display()),
            Err(error) => format!("`{name}` was not built: {}", Chain(error)),
        });
        let mut built = built?;
        if request.absolute_output {
            let root = confinement.root();
            built.artifact = root.join(&built.artifact);
            built.manifest = built.manifest.map(|path| root.join(path));
        }
        Ok(built)
    })
}

/// The key that clients must present, if there is one.
fn key(file: Option<&Path>, ui: &Ui) -> Result<Option<Secret>, ServeError> {
    let (text, place) = if let Some(path) = file {
        let place = format!("`{}`", path.display());
        (key_in(path, ui)?, place)
    } else if let Some(text) = std::env::var_os(KEY_VARIABLE) {
        let place = format!("the variable {KEY_VARIABLE}");
        (text.to_string_lossy().into_owned(), place)
    } else {
        return Ok(None);
    };
    let key = text.trim();
    if key.len() < MIN_KEY_CHARS || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ServeError::Key { place });
    }
    Ok(Some(Secret::from_stored(key.to_owned())))
}

fn key_in(path: &Path, ui: &Ui) -> Result<String, FileError> {
    let text = small_file::read(path, "API key", MAX_KEY_BYTES)?;
    let mode = fs_err::metadata(path).map(|metadata| metadata.permissions().mode());
    if mode.is_ok_and(|mode| mode & OTHERS_PERMISSIONS != 0) {
        ui.warn(&format!(
            "others than you can read `{0}`: `chmod 600 {0}` helps",
            path.display()
        ));
    }
    Ok(text)
}

/// A number that is another one in the next run; nobody must be unable to guess it.
fn another_number() -> u32 {
    let [a, b, c, d, ..] = RandomState::new().build_hasher().finish().to_ne_bytes();
    u32::from_ne_bytes([a, b, c, d])
}

/// An origin as browsers send it: scheme, host, and port unless it is the scheme's own.
fn origin(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(String::new());
    }
    let wrong = Err("write it as a browser sends it, like `https://ci.example.com` or `http://localhost:3000`: no path, no `*`".to_owned());
    let Some((scheme, host)) = text.split_once("://") else {
        return wrong;
    };
    let fits =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.:[]".contains(&byte);
    if scheme.is_empty() || host.is_empty() || !host.bytes().all(fits) {
        return wrong;
    }
    Ok(text.to_owned())
}

/// A name of this server.
fn host(text: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let text = text.trim();
    if !text.bytes().all(fits) {
        return Err("write a name without a port, like `builds.example.com`".to_owned());
    }
    Ok(text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_exact() {
        for good in [
            "https://ci.example.com",
            "http://localhost:3000",
            "http://[::1]:8080",
        ] {
            assert_eq!(origin(good), Ok(good.to_owned()));
        }
        assert_eq!(origin(" "), Ok(String::new()));
        for wrong in [
            "*",
            "null",
            "localhost:3000",
            "://x",
            "https://",
            "https://*.example.com",
            "https://ci.example.com/",
            "https://CI.example.com",
            "https://user@ci.example.com",
        ] {
            assert!(origin(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_have_no_port() {
        assert_eq!(
            host("Builds.Example.com"),
            Ok("builds.example.com".to_owned())
        );
        for wrong in ["a:1", "https://a", "*.a"] {
            assert!(host(wrong).is_err(), "{wrong}");
        }
    }
}
