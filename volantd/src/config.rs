//! The daemon's configuration: flag > `VOLANT_*` > file > default, resolved once into values without options.
//!
//! This is the only place that reads the environment. Nothing is created or opened here, except the file itself.

mod reader;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use common::api::{DEFAULT_API_LISTEN, DEFAULT_API_SOCKET, DEFAULT_TOKEN_FILE};
use common::guest_config::Secret;
use common::net::Subnet;
use serde::Deserialize;

use crate::access::{Access, Origins};
use crate::limits::{self, Limits};
use crate::signature::Signatures;
use crate::vmm::detect::Wish;
use reader::Reader;

/// Where the file is unless told otherwise. It need not exist there.
pub const DEFAULT_CONFIG_FILE: &str = "/etc/volant/volantd.toml";

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file was asked for and cannot be read.
    #[error("Cannot read the configuration")]
    Read(#[source] std::io::Error),
    /// The file is not what it should be.
    #[error("`{}` is not a valid configuration: {detail}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        detail: String,
    },
    /// A value is not what it should be.
    #[error("`{value}` is not valid for {key} (from {origin}): {reason}")]
    Value {
        /// The key.
        key: &'static str,
        /// The text.
        value: String,
        /// Where the text came from.
        origin: Origin,
        /// What is expected.
        reason: String,
    },
    /// Anybody on the network could drive the daemon.
    #[error(
        "The API would listen on {listen} without a token; name a token file (`token_file`) or listen on 127.0.0.1"
    )]
    OpenListener {
        /// The address.
        listen: SocketAddr,
    },
    /// Any page that a browser on this host shows, or a listed one that is not what it was, could drive the daemon.
    #[error(
        "Web pages could use the API (`cors_origins`) without a token; name a token file (`token_file`), or no pages"
    )]
    OpenToPages,
}

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// The configuration file.
    File,
    /// A `VOLANT_*` variable.
    Environment,
    /// The command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Environment => "environment",
            Self::Flag => "flag",
        })
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people and journald.
    Text,
    /// One JSON object a line.
    Json,
}

/// The daemon's configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Database, artifacts, media, VM folders.
    pub state_dir: PathBuf,
    /// Sockets; lost at a reboot of the host.
    pub runtime_dir: PathBuf,
    /// Where the API listens on TCP, if it does.
    pub api_listen: Option<SocketAddr>,
    /// The address that others reach the API at.
    pub api_advertise: String,
    /// The API's unix socket.
    pub api_socket: PathBuf,
    /// Where the token for TCP is, made on first use.
    pub token_file: Option<PathBuf>,
    /// A token given by the environment; used instead of the file's.
    pub api_key: Option<Secret>,
    /// Who may reach the API over TCP, besides having the token.
    pub access: Access,
    /// How much there may be of everything.
    pub limits: Limits,
    /// The bridge.
    pub bridge: String,
    /// The guests' subnet.
    pub subnet: Subnet,
    /// The host's address on the bridge.
    pub host_ip: Ipv4Addr,
    /// Which VMM.
    pub hypervisor: Wish,
    /// The program, else searched in PATH.
    pub cloud_hypervisor: Option<PathBuf>,
    /// The program, else searched in PATH.
    pub qemu: Option<PathBuf>,
    /// The guest kernel.
    pub kernel: PathBuf,
    /// The folders from which a user may choose another kernel for a VM.
    pub kernel_dirs: Vec<PathBuf>,
    /// The folders from which a user may give files to a VM as disks.
    pub disk_dirs: Vec<PathBuf>,
    /// How long a guest may take from its VMM's start to its agent's first word; by the accelerator if not given.
    pub boot_timeout: Option<Duration>,
    /// Whose signatures artifacts need, if they need any.
    pub signatures: Arc<Signatures>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// The collector that traces go to (OTLP over HTTP), if they go anywhere.
    pub otlp_endpoint: Option<reqwest::Url>,
}

/// One line of `volantd config`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The key in the file.
    pub key: &'static str,
    /// The value as text.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

macro_rules! settings {
    ($($(#[doc = $doc:literal])* $field:ident, $flag:literal, $env:literal, $default:expr;)*) => {
        /// Flags of the daemon; each has a `VOLANT_*` variable and a key in the file.
        #[derive(Debug, Clone, Default, Args)]
        pub struct Flags {
            $($(#[doc = $doc])* #[arg(long = $flag, global = true, value_name = "VALUE")] pub $field: Option<String>,)*
        }

        #[derive(Debug, Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        struct File {
            $($field: Option<Scalar>,)*
        }

        fn gather(flags: &Flags, file: &File, env: &dyn Fn(&str) -> Option<String>) -> Vec<Setting> {
            vec![$({
                let (value, origin) = if let Some(value) = &flags.$field {
                    (value.clone(), Origin::Flag)
                } else if let Some(value) = env($env) {
                    (value, Origin::Environment)
                } else if let Some(value) = &file.$field {
                    (value.0.clone(), Origin::File)
                } else {
                    ($default.to_string(), Origin::Default)
                };
                Setting { key: stringify!($field), value, origin }
            },)*]
        }
    };
}

settings! {
    /// Folder of the database, artifacts and VMs
    state_dir, "state-dir", "VOLANT_STATE_DIR", "/var/lib/volant";
    /// Folder of sockets, emptied by a reboot
    runtime_dir, "runtime-dir", "VOLANT_RUNTIME_DIR", "/run/volant";
    /// TCP address of the API, or `none`
    api_listen, "api-listen", "VOLANT_API_LISTEN", DEFAULT_API_LISTEN;
    /// Address that others reach the API at; empty for the listen address
    api_advertise, "api-advertise", "VOLANT_API_ADVERTISE", "";
    /// Unix socket of the API
    api_socket, "api-socket", "VOLANT_API_SOCKET", DEFAULT_API_SOCKET;
    /// File with the token that TCP clients need, made if missing; `none` for no token (loopback only)
    token_file, "token-file", "VOLANT_TOKEN_FILE", DEFAULT_TOKEN_FILE;
    /// Names of this host that the API may be reached by, besides `localhost` and addresses: a list in the file, else with commas between
    api_hosts, "api-hosts", "VOLANT_API_HOSTS", "";
    /// Web pages that may use the API, such as `https://volant.example.com`, or `*`: a list in the file, else with commas between
    cors_origins, "cors-origins", "VOLANT_CORS_ORIGINS", "";
    /// Networks whose clients may use the API over TCP; empty for all: a list in the file, else with commas between
    api_allow_cidr, "api-allow-cidr", "VOLANT_API_ALLOW_CIDR", "";
    /// Bridge that guests are on
    bridge, "bridge", "VOLANT_BRIDGE", "vbr0";
    /// Subnet of the guests
    subnet, "subnet", "VOLANT_SUBNET", "192.168.127.0/24";
    /// Address of the host on the bridge
    host_ip, "host-ip", "VOLANT_HOST_IP", "192.168.127.1";
    /// `auto`, `cloud-hypervisor` or `qemu`
    hypervisor, "hypervisor", "VOLANT_HYPERVISOR", "auto";
    /// The cloud-hypervisor program; empty to search PATH
    cloud_hypervisor, "cloud-hypervisor", "VOLANT_CLOUD_HYPERVISOR", "";
    /// The qemu-system-x86_64 program; empty to search PATH
    qemu, "qemu", "VOLANT_QEMU", "";
    /// The guest kernel, a PVH vmlinux
    kernel, "kernel", "VOLANT_KERNEL_VMLINUX", "/var/lib/volant/kernel/vmlinux";
    /// Folders from which users may choose another kernel for a VM: a list in the file, else with commas between; empty for the folder of `kernel`
    kernel_dirs, "kernel-dirs", "VOLANT_KERNEL_DIRS", "";
    /// Folders from which users may give files to a VM as disks: a list in the file, else with commas between; empty for `disks` in the state folder
    disk_dirs, "disk-dirs", "VOLANT_DISK_DIRS", "";
    /// Seconds that a guest may take to its agent's first word; `auto` is 60 with KVM and 300 with software emulation
    boot_timeout_s, "boot-timeout-s", "VOLANT_BOOT_TIMEOUT_S", "auto";
    /// Connections at a time, on the unix socket and on TCP each
    max_connections, "max-connections", "VOLANT_MAX_CONNECTIONS", limits::CONNECTIONS.default;
    /// Seconds that the head of a request may take, and that a connection may be silent
    header_timeout_s, "header-timeout-s", "VOLANT_HEADER_TIMEOUT_S", limits::HEADER_TIMEOUT.default;
    /// Seconds that a client may take nothing of what it asked for
    write_timeout_s, "write-timeout-s", "VOLANT_WRITE_TIMEOUT_S", limits::WRITE_TIMEOUT.default;
    /// Requests that are answered at once, on the unix socket and on TCP each
    max_requests, "max-requests", "VOLANT_MAX_REQUESTS", limits::REQUESTS.default;
    /// Consoles, logs and other streams that are open at once, on the unix socket and on TCP each
    max_streams, "max-streams", "VOLANT_MAX_STREAMS", limits::STREAMS.default;
    /// Largest body of a request in KiB
    max_body_kib, "max-body-kib", "VOLANT_MAX_BODY_KIB", limits::BODY.default;
    /// Seconds that a client may take to send a body
    body_timeout_s, "body-timeout-s", "VOLANT_BODY_TIMEOUT_S", limits::BODY_TIMEOUT.default;
    /// Seconds that a guest may take for a piece of files that are copied
    copy_timeout_s, "copy-timeout-s", "VOLANT_COPY_TIMEOUT_S", limits::COPY_TIMEOUT.default;
    /// Seconds that a workload may take to begin its answer to what is passed on
    proxy_timeout_s, "proxy-timeout-s", "VOLANT_PROXY_TIMEOUT_S", limits::PROXY_TIMEOUT.default;
    /// Largest number of VMs
    max_vms, "max-vms", "VOLANT_MAX_VMS", limits::VMS.default;
    /// Largest number of installed plugins
    max_plugins, "max-plugins", "VOLANT_MAX_PLUGINS", limits::PLUGINS.default;
    /// Artifacts that are kept for one plugin
    max_artifacts_per_plugin, "max-artifacts-per-plugin", "VOLANT_MAX_ARTIFACTS_PER_PLUGIN", limits::PLUGIN_ARTIFACTS.default;
    /// Largest artifact in MiB
    max_artifact_mib, "max-artifact-mib", "VOLANT_MAX_ARTIFACT_MIB", limits::ARTIFACT.default;
    /// Artifacts that are fetched at once
    max_fetches, "max-fetches", "VOLANT_MAX_FETCHES", limits::FETCHES.default;
    /// Seconds that one artifact may take to come
    fetch_timeout_s, "fetch-timeout-s", "VOLANT_FETCH_TIMEOUT_S", limits::FETCH_TIMEOUT.default;
    /// Largest description of an API in KiB
    max_openapi_kib, "max-openapi-kib", "VOLANT_MAX_OPENAPI_KIB", limits::DOCUMENT.default;
    /// Versions of a VM's configuration that are kept
    kept_config_versions, "kept-config-versions", "VOLANT_KEPT_CONFIG_VERSIONS", limits::CONFIG_VERSIONS.default;
    /// Answers to requests with an idempotency key that are kept
    kept_idempotency_keys, "kept-idempotency-keys", "VOLANT_KEPT_IDEMPOTENCY_KEYS", limits::IDEMPOTENCY_KEYS.default;
    /// Events that are kept in the database
    kept_events, "kept-events", "VOLANT_KEPT_EVENTS", limits::EVENTS.default;
    /// Events that are kept in memory: what a reader may fall behind
    ring_events, "ring-events", "VOLANT_RING_EVENTS", limits::RING_EVENTS.default;
    /// Readers of events at a time
    max_event_readers, "max-event-readers", "VOLANT_MAX_EVENT_READERS", limits::EVENT_READERS.default;
    /// Largest file of a VM's log in MiB; two are kept
    max_log_mib, "max-log-mib", "VOLANT_MAX_LOG_MIB", limits::LOG.default;
    /// Readers of logs at a time
    max_log_readers, "max-log-readers", "VOLANT_MAX_LOG_READERS", limits::LOG_READERS.default;
    /// Largest file of a VM's console in MiB; two are kept
    max_console_log_mib, "max-console-log-mib", "VOLANT_MAX_CONSOLE_LOG_MIB", limits::CONSOLE_LOG.default;
    /// What a new watcher of a console sees first, in KiB
    console_scrollback_kib, "console-scrollback-kib", "VOLANT_CONSOLE_SCROLLBACK_KIB", limits::SCROLLBACK.default;
    /// Watchers of one console at a time
    max_console_watchers, "max-console-watchers", "VOLANT_MAX_CONSOLE_WATCHERS", limits::WATCHERS.default;
    /// Commands that run in one VM at a time
    max_sessions_per_vm, "max-sessions-per-vm", "VOLANT_MAX_SESSIONS_PER_VM", limits::SESSIONS.default;
    /// Copies of files of one VM at a time
    max_copies_per_vm, "max-copies-per-vm", "VOLANT_MAX_COPIES_PER_VM", limits::COPIES.default;
    /// Requests that are passed on to one VM at a time
    max_proxied_per_vm, "max-proxied-per-vm", "VOLANT_MAX_PROXIED_PER_VM", limits::PROXIED.default;
    /// Public keys of minisign whose signatures are trusted: a list in the file, else with commas between
    trusted_keys, "trusted-keys", "VOLANT_TRUSTED_KEYS", "";
    /// Whether nothing is installed or booted without a signature of a trusted key: `true` or `false`
    require_signatures, "require-signatures", "VOLANT_REQUIRE_SIGNATURES", "false";
    /// `text` or `json`
    log_format, "log-format", "VOLANT_LOG_FORMAT", "text";
    /// Collector that traces are sent to (OTLP over HTTP), such as `http://127.0.0.1:4318`; empty for none
    otlp_endpoint, "otlp-endpoint", "VOLANT_OTLP_ENDPOINT", "";
}

/// A TOML string, number, truth value or list of strings, as text: flags and variables are text too.
#[derive(Debug, Deserialize)]
#[serde(try_from = "toml::Value")]
struct Scalar(String);

impl TryFrom<toml::Value> for Scalar {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Self, String> {
        match value {
            toml::Value::String(text) => Ok(Self(text)),
            toml::Value::Integer(number) => Ok(Self(number.to_string())),
            toml::Value::Boolean(value) => Ok(Self(value.to_string())),
            toml::Value::Array(values) => {
                let texts = values
                    .iter()
                    .map(|value| value.as_str().unwrap_or_default());
                Ok(Self(texts.collect::<Vec<_>>().join(",")))
            }
            other => Err(format!(
                "expected a string, a number, a truth value or a list of strings, found {}",
                other.type_str()
            )),
        }
    }
}

/// Reads the file, the environment and the flags.
///
/// # Errors
/// [`ConfigError`] with the key and where its value came from.
pub fn load(flags: &Flags, file: Option<&Path>) -> Result<(Config, Vec<Setting>), ConfigError> {
    let path = file.unwrap_or(Path::new(DEFAULT_CONFIG_FILE));
    let text = match fs_err::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && file.is_none() => {
            String::new()
        }
        Err(error) => return Err(ConfigError::Read(error)),
    };
    let api_key = std::env::var("VOLANT_API_KEY")
        .ok()
        .filter(|key| !key.is_empty())
        .map(Secret::from_stored);
    resolve(flags, &text, path, &|key| std::env::var(key).ok(), api_key)
}

fn resolve(
    flags: &Flags,
    text: &str,
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    api_key: Option<Secret>,
) -> Result<(Config, Vec<Setting>), ConfigError> {
    let file: File = toml::from_str(text).map_err(|error| ConfigError::File {
        path: path.to_path_buf(),
        detail: error.to_string().trim_end().to_owned(),
    })?;
    let settings = gather(flags, &file, env);
    let read = Reader {
        settings: &settings,
    };
    let state_dir = read.path("state_dir")?;
    let kernel = read.path("kernel")?;
    let api_listen = read.listen()?;
    let token_file = match read.text("token_file") {
        "none" | "" => None,
        _ => Some(read.path("token_file")?),
    };
    let access = read.access()?;
    let open = api_listen.filter(|_| token_file.is_none() && api_key.is_none());
    if let Some(listen) = open.filter(|listen| !listen.ip().is_loopback()) {
        return Err(ConfigError::OpenListener { listen });
    }
    if open.is_some() && access.origins != Origins::default() {
        return Err(ConfigError::OpenToPages);
    }
    let subnet: Subnet = read.parse("subnet", "an IPv4 subnet such as 192.168.127.0/24")?;
    let host_ip: Ipv4Addr = read.parse("host_ip", "an IPv4 address")?;
    if !subnet.has_host(host_ip) {
        return Err(read.wrong("host_ip", format!("it does not lie in {subnet}")));
    }
    let advertise = read.text("api_advertise");
    let config = Config {
        api_advertise: match (advertise, api_listen) {
            ("", Some(listen)) => listen.to_string(),
            (given, _) => given.to_owned(),
        },
        runtime_dir: read.path("runtime_dir")?,
        api_socket: read.path("api_socket")?,
        access,
        limits: read.limits()?,
        bridge: read.interface("bridge")?,
        hypervisor: read.choice(
            "hypervisor",
            &[
                ("auto", Wish::Auto),
                ("cloud-hypervisor", Wish::CloudHypervisor),
                ("qemu", Wish::Qemu),
            ],
        )?,
        cloud_hypervisor: read.program("cloud_hypervisor")?,
        qemu: read.program("qemu")?,
        kernel_dirs: read.folders("kernel_dirs", kernel.parent())?,
        disk_dirs: read.folders("disk_dirs", Some(&state_dir.join("disks")))?,
        kernel,
        boot_timeout: read.boot_timeout()?,
        signatures: Arc::new(read.signatures()?),
        log_format: read.choice(
            "log_format",
            &[("text", LogFormat::Text), ("json", LogFormat::Json)],
        )?,
        otlp_endpoint: read.collector("otlp_endpoint")?,
        state_dir,
        api_listen,
        token_file,
        api_key,
        subnet,
        host_ip,
    };
    Ok((config, settings))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(
        flags: &Flags,
        text: &str,
        env: &[(&str, &str)],
    ) -> Result<(Config, Vec<Setting>), ConfigError> {
        let lookup = |key: &str| {
            env.iter()
                .find(|(name, _)| *name == key)
                .map(|(_, value)| (*value).to_owned())
        };
        resolve(flags, text, Path::new("volantd.toml"), &lookup, None)
    }

    #[test]
    fn each_source_beats_the_one_below() {
        let flags = Flags {
            bridge: Some("br-flag".to_owned()),
            ..Flags::default()
        };
        let text = "bridge = \"br-file\"\nruntime_dir = \"/run/file\"\nboot_timeout_s = 7";
        let env = [
            ("VOLANT_BRIDGE", "br-env"),
            ("VOLANT_RUNTIME_DIR", "/run/env"),
        ];
        let (config, settings) = run(&flags, text, &env).unwrap();
        assert_eq!(config.bridge, "br-flag");
        assert_eq!(config.runtime_dir, Path::new("/run/env"));
        assert_eq!(config.boot_timeout, Some(Duration::from_secs(7)));
        assert_eq!(config.subnet.to_string(), "192.168.127.0/24");
        let origin = |key| {
            settings
                .iter()
                .find(|setting| setting.key == key)
                .unwrap()
                .origin
        };
        assert_eq!(
            [
                origin("bridge"),
                origin("runtime_dir"),
                origin("boot_timeout_s"),
                origin("subnet")
            ],
            [
                Origin::Flag,
                Origin::Environment,
                Origin::File,
                Origin::Default
            ]
        );
    }

    #[test]
    fn the_defaults_are_safe() {
        let (config, _) = run(&Flags::default(), "", &[]).unwrap();
        assert!(config.api_listen.unwrap().ip().is_loopback());
        assert!(config.token_file.is_some());
        assert_eq!(config.kernel_dirs, [Path::new("/var/lib/volant/kernel")]);
        assert_eq!(config.disk_dirs, [Path::new("/var/lib/volant/disks")]);
    }

    #[test]
    fn signatures_are_required_of_trusted_keys() {
        const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
        let (config, _) = run(&Flags::default(), "", &[]).unwrap();
        assert!(!config.signatures.are_required());
        for text in [
            format!("require_signatures = true\ntrusted_keys = [\"{KEY}\", \"{KEY}\"]"),
            format!("require_signatures = \"true\"\ntrusted_keys = \"{KEY},{KEY}\""),
        ] {
            let (config, _) = run(&Flags::default(), &text, &[]).unwrap();
            assert!(config.signatures.are_required());
        }
        for (text, expected) in [
            ("require_signatures = true", "no key is trusted"),
            ("require_signatures = 1", "expected one of false, true"),
            (
                "trusted_keys = [\"RWx\"]",
                "`RWx` is not a minisign public key",
            ),
            ("trusted_keys = [1, 2]", "is not a minisign public key"),
            ("trusted_keys = 1.5", "expected a string, a number"),
        ] {
            let error = run(&Flags::default(), text, &[]).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn who_may_reach_the_api_is_read() {
        let text = "cors_origins = [\"https://a.example.com\", \"http://b:3000\"]\napi_advertise = \"Volant.example.com:7777\"";
        let env = [
            ("VOLANT_API_ALLOW_CIDR", "10.0.0.0/8, ::1"),
            ("VOLANT_MAX_BODY_KIB", "64"),
        ];
        let (config, _) = run(&Flags::default(), text, &env).unwrap();
        assert!(config.access.knows("volant.example.com:7777"));
        assert!(!config.access.knows("other.example.com"));
        assert!(config.access.page("http://b:3000", "localhost").is_some());
        assert!(config.access.page("http://c", "localhost").is_none());
        assert!(!config.access.admits("192.168.0.1".parse().unwrap()));
        assert_eq!(config.limits.requests.max_body_bytes, 64 * 1024);
        let (config, _) = run(&Flags::default(), "cors_origins = \"*\"", &[]).unwrap();
        assert_eq!(config.access.origins, Origins::Any);
        let (config, _) = run(&Flags::default(), "", &[]).unwrap();
        assert_eq!(config.limits, Limits::default());
    }

    #[test]
    fn each_limit_is_a_key_with_its_bounds() {
        let (_, settings) = run(&Flags::default(), "", &[]).unwrap();
        for bound in limits::ALL {
            let key = bound.key;
            let setting = settings.iter().find(|setting| setting.key == key).unwrap();
            assert_eq!(setting.value, bound.default.to_string(), "{key}");
            for number in [bound.least, bound.most] {
                assert!(
                    run(&Flags::default(), &format!("{key} = {number}"), &[]).is_ok(),
                    "{key}"
                );
            }
            for number in [bound.least - 1, bound.most + 1] {
                let error = run(&Flags::default(), &format!("{key} = {number}"), &[]).unwrap_err();
                assert!(error.to_string().contains(key), "{error}");
            }
        }
    }

    #[test]
    fn an_open_listener_is_refused() {
        let env = [
            ("VOLANT_API_LISTEN", "0.0.0.0:7777"),
            ("VOLANT_TOKEN_FILE", "none"),
        ];
        assert!(matches!(
            run(&Flags::default(), "", &env),
            Err(ConfigError::OpenListener { .. })
        ));
        assert!(
            run(&Flags::default(), "", &env[..1]).is_ok(),
            "with a token it may listen anywhere"
        );
    }

    #[test]
    fn pages_need_a_token() {
        for origins in ["*", "http://localhost:3000"] {
            let text = |listen: &str| {
                format!(
                    "cors_origins = \"{origins}\"\ntoken_file = \"none\"\napi_listen = \"{listen}\""
                )
            };
            let run = |text: &str| run(&Flags::default(), text, &[]);
            let refused = run(&text("127.0.0.1:7777"));
            assert!(matches!(refused, Err(ConfigError::OpenToPages)));
            assert!(run(&text("none")).is_ok(), "no page reaches the socket");
            let key = Some(Secret::from_stored("x".repeat(40)));
            let path = Path::new("volantd.toml");
            let with_key = resolve(
                &Flags::default(),
                &text("127.0.0.1:7777"),
                path,
                &|_| None,
                key,
            );
            assert!(with_key.is_ok());
        }
    }

    #[test]
    fn bad_values_name_their_key_and_origin() {
        let table = [
            ("VOLANT_SUBNET", "10.0.0.1/24"),
            ("VOLANT_HOST_IP", "10.0.0.1"),
            ("VOLANT_STATE_DIR", "relative"),
            ("VOLANT_KERNEL_DIRS", "/a,relative"),
            ("VOLANT_API_LISTEN", "7777"),
            ("VOLANT_BRIDGE", "a name that is much too long"),
            ("VOLANT_HYPERVISOR", "xen"),
            ("VOLANT_BOOT_TIMEOUT_S", "0"),
            ("VOLANT_MAX_ARTIFACT_MIB", "many"),
            ("VOLANT_LOG_FORMAT", "xml"),
            ("VOLANT_CORS_ORIGINS", "ui.example.com"),
            ("VOLANT_API_ALLOW_CIDR", "10.0.0.0/99"),
            ("VOLANT_MAX_BODY_KIB", "0"),
            ("VOLANT_MAX_STREAMS", "many"),
            ("VOLANT_OTLP_ENDPOINT", "127.0.0.1:4318"),
        ];
        for (key, value) in table {
            let message = run(&Flags::default(), "", &[(key, value)])
                .unwrap_err()
                .to_string();
            assert!(
                message.contains("environment") && message.contains(value),
                "{message}"
            );
        }
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let message = run(&Flags::default(), "\nbrigde = \"x\"", &[])
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("brigde") && message.contains("line 2"),
            "{message}"
        );
    }
}
