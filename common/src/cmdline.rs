//! The kernel command line of a guest: volantd writes it, the agent reads it. Neither reads a file here.
//!
//! Keys and encoding are those of the Go system, the order is fixed. A line that the kernel would cut is refused, never cut.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::net::Ipv4Addr;

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

use crate::manifest::{MAX_MANIFEST_BYTES, Manifest, ManifestError, Rootfs, RootfsFormat};

/// The longest usable line in bytes: `COMMAND_LINE_SIZE` of x86 (2048, arch/x86/include/asm/setup.h) less its NUL.
pub const MAX_CMDLINE_BYTES: usize = 2047;

/// What every guest is started with. `panic=1` with no reboot allowed by the VMM ends a guest that panics.
pub const BASE: &str =
    "console=ttyS0 reboot=k panic=1 quiet loglevel=1 i8042.noaux i8042.nokbd pci=lastbus=0";

/// Key of the plugin's runtime.
pub const KEY_RUNTIME: &str = "volant.runtime";
/// Key of the address of an API that the guest may ask for its manifest.
pub const KEY_API_HOST: &str = "volant.api_host";
/// Key of that API's port.
pub const KEY_API_PORT: &str = "volant.api_port";
/// Key of the plugin's name.
pub const KEY_PLUGIN: &str = "volant.plugin";
/// Key of the encoded manifest.
pub const KEY_MANIFEST: &str = "volant.manifest";

/// Key of the device with the guest config, where the guest boots a root file system: `/dev/vdb`.
pub const KEY_CONFIG: &str = "volant.config";
/// Key of the layer over a read-only root; see [`Writable`].
pub const KEY_WRITABLE: &str = "volant.writable";

/// The program that the kernel runs from a root file system: every image that Volant builds has the agent there.
pub const AGENT_PATH: &str = "/bin/kestrel";

/// The root file system's disk. Both VMMs give a guest its disks in their order, and its kernel numbers them so.
pub const ROOT_DEVICE: &str = "/dev/vda";
/// The disk of the guest config.
pub const CONFIG_DEVICE: &str = "/dev/vdb";
/// The disk of the writable layer, where it is one.
pub const WRITABLE_DEVICE: &str = "/dev/vdc";

/// Where a guest with a read-only root writes: the value of [`KEY_WRITABLE`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Writable {
    /// `/dev/<name>`: a disk with ext4, which keeps what is written.
    Disk(String),
    /// `tmpfs` or `tmpfs:<MiB>`: the guest's memory, half of it unless a size is given.
    Memory {
        /// The most that is written, in MiB.
        size_mb: Option<u32>,
    },
}

impl Writable {
    /// The layer of a guest that boots `rootfs`.
    pub fn of(rootfs: &Rootfs) -> Self {
        if rootfs.ephemeral {
            Self::Memory {
                size_mb: rootfs.writable_mb,
            }
        } else {
            Self::Disk(WRITABLE_DEVICE.to_owned())
        }
    }

    /// Reads a value. Nothing if it is neither a device nor a memory size.
    pub fn from_value(value: &str) -> Option<Self> {
        match value.split_once(':') {
            None if value == "tmpfs" => Some(Self::Memory { size_mb: None }),
            Some(("tmpfs", size)) => Some(Self::Memory {
                size_mb: Some(size.parse().ok()?),
            }),
            _ => is_device(value).then(|| Self::Disk(value.to_owned())),
        }
    }
}

impl fmt::Display for Writable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(device) => f.write_str(device),
            Self::Memory { size_mb: None } => f.write_str("tmpfs"),
            Self::Memory {
                size_mb: Some(size),
            } => write!(f, "tmpfs:{size}"),
        }
    }
}

/// Whether `text` names a device of the guest, and nothing else: `/dev/` and letters or digits.
pub fn is_device(text: &str) -> bool {
    text.strip_prefix("/dev/")
        .is_some_and(|name| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric()))
}

/// A line that a kernel would cut.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CmdlineError {
    /// Longer than [`MAX_CMDLINE_BYTES`] even without the manifest.
    #[error(
        "The kernel command line would have {bytes} bytes; the kernel reads {MAX_CMDLINE_BYTES}. Shorten the extra arguments"
    )]
    TooLong {
        /// The length that was needed.
        bytes: usize,
    },
    /// An argument holds a character that would end it.
    #[error("`{argument}` cannot be on a kernel command line: it holds a control character")]
    ControlCharacter {
        /// The argument, escaped.
        argument: String,
    },
}

/// The guest's address as the kernel's `ip=` gives it (Documentation/admin-guide/nfs/nfsroot.rst).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpConfig {
    /// The guest's address.
    pub address: Ipv4Addr,
    /// The default route.
    pub gateway: Ipv4Addr,
    /// The netmask.
    pub netmask: Ipv4Addr,
    /// The host name.
    pub host_name: String,
    /// The interface, `eth0`.
    pub device: String,
}

impl IpConfig {
    /// The value of `ip=`: `<client>:<server>:<gateway>:<netmask>:<hostname>:<device>:off`.
    pub fn to_value(&self) -> String {
        let Self {
            address,
            gateway,
            netmask,
            host_name,
            device,
        } = self;
        format!("{address}::{gateway}:{netmask}:{host_name}:{device}:off")
    }

    /// Reads the value of `ip=`. Nothing if it does not give a static address.
    pub fn from_value(value: &str) -> Option<Self> {
        let mut fields = value.split(':');
        let address = fields.next()?.parse().ok()?;
        let _server = fields.next()?;
        let gateway = fields.next()?.parse().unwrap_or(Ipv4Addr::UNSPECIFIED);
        let netmask = fields.next()?.parse().ok()?;
        let host_name = fields.next().unwrap_or_default().to_owned();
        let device = fields
            .next()
            .filter(|device| !device.is_empty())
            .unwrap_or("eth0")
            .to_owned();
        Some(Self {
            address,
            gateway,
            netmask,
            host_name,
            device,
        })
    }
}

/// What a line is made of.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The guest's address.
    pub ip: &'a IpConfig,
    /// Arguments that the user adds. They precede the `volant.*` keys, so they win: the first of a key counts.
    pub extra: &'a str,
    /// An API that the guest may ask for its manifest; most guests cannot reach any.
    pub api: Option<(&'a str, u16)>,
    /// The plugin that the guest runs.
    pub manifest: &'a Manifest,
    /// The file system that the root disk really holds, for a plugin that boots one; without it what the manifest says counts.
    pub root_format: Option<RootfsFormat>,
}

/// A line that fits, and whether the manifest found room on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cmdline {
    /// The line.
    pub line: String,
    /// Whether `volant.manifest` is on it. If not, the manifest must travel in the guest config.
    pub carries_manifest: bool,
}

/// The line without `volant.*` keys: what the API shows as a VM's command line.
pub fn base_line(ip: &IpConfig, extra: &str) -> String {
    let mut line = format!("{BASE} ip={}", ip.to_value());
    if !extra.trim().is_empty() {
        line.push(' ');
        line.push_str(extra.trim());
    }
    line
}

/// Builds a guest's line. The workload's environment is left out in any case: it may hold secrets.
///
/// # Errors
/// [`CmdlineError`] if the line does not fit even without the manifest, or an argument cannot be on it.
pub fn build(request: &Request<'_>) -> Result<Cmdline, CmdlineError> {
    if request.extra.chars().any(char::is_control) {
        return Err(CmdlineError::ControlCharacter {
            argument: request.extra.escape_debug().take(200).collect(),
        });
    }
    let mut line = base_line(request.ip, request.extra);
    let manifest = request.manifest;
    if let Some(rootfs) = &manifest.rootfs {
        // Straight from the disk: `ro` because many guests share it, and the agent puts a writable layer over it.
        line.push_str(&format!(" root={ROOT_DEVICE} ro"));
        if let Some(format) = request.root_format.or(rootfs.format) {
            line.push_str(&format!(" rootfstype={format}"));
        }
        line.push_str(&format!(
            " init={AGENT_PATH} {KEY_CONFIG}={CONFIG_DEVICE} {KEY_WRITABLE}={}",
            Writable::of(rootfs)
        ));
    }
    line.push_str(&format!(" {KEY_RUNTIME}={}", word(&manifest.runtime)));
    if let Some((host, port)) = request.api {
        line.push_str(&format!(
            " {KEY_API_HOST}={} {KEY_API_PORT}={port}",
            word(host)
        ));
    }
    line.push_str(&format!(" {KEY_PLUGIN}={}", manifest.name));
    if line.len() > MAX_CMDLINE_BYTES {
        return Err(CmdlineError::TooLong { bytes: line.len() });
    }
    let mut public = manifest.clone();
    public.workload.env = BTreeMap::new();
    public.set_artifact_url(without_credentials(manifest.artifact().url));
    let with_manifest = format!("{line} {KEY_MANIFEST}={}", encode_manifest(&public));
    if with_manifest.len() <= MAX_CMDLINE_BYTES {
        Ok(Cmdline {
            line: with_manifest,
            carries_manifest: true,
        })
    } else {
        Ok(Cmdline {
            line,
            carries_manifest: false,
        })
    }
}

/// A URL without user, password, query and fragment: a guest needs none of them, and any of them may be a secret.
fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest
        .find('/')
        .map_or((rest, ""), |slash| rest.split_at(slash));
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

/// Characters that would end or quote a word are replaced: they are for people only, no program reads these values back.
fn word(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_whitespace() || c.is_control() || c == '"' {
                '-'
            } else {
                c
            }
        })
        .collect()
}

/// Words of a line with their values; a word without `=` has none. Quotes around a value are as in the kernel's `next_arg`.
///
/// The first of a key counts, as in the Go system. Unknown keys are kept.
pub fn parse(line: &str) -> BTreeMap<String, String> {
    let mut words = BTreeMap::new();
    for word in split_words(line) {
        let (key, value) = word.split_once('=').unwrap_or((word.as_str(), ""));
        let (key, value) = (key.trim_matches('"'), value.trim_matches('"'));
        words
            .entry(key.to_owned())
            .or_insert_with(|| value.to_owned());
    }
    words
}

fn split_words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        if c == '"' {
            quoted = !quoted;
        }
        match words.last_mut() {
            Some(word) if quoted || !c.is_whitespace() => word.push(c),
            _ => words.push(String::new()),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// A manifest as the value of `volant.manifest`: JSON, gzip, base64url without padding.
pub fn encode_manifest(manifest: &Manifest) -> String {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    // Writing to memory cannot fail; an empty value would be refused by the reader.
    let zipped = encoder
        .write_all(manifest.to_json().as_bytes())
        .and_then(|()| encoder.finish())
        .unwrap_or_default();
    URL_SAFE_NO_PAD.encode(zipped)
}

/// A value of `volant.manifest` that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not base64url.
    #[error("The encoded manifest is not base64url")]
    Base64(#[source] base64::DecodeError),
    /// Not gzip, or cut short.
    #[error("The encoded manifest cannot be unpacked")]
    Gzip(#[source] std::io::Error),
    /// Unpacks to more than a manifest may have.
    #[error("The encoded manifest unpacks to more than {MAX_MANIFEST_BYTES} bytes")]
    TooLarge,
    /// Not a valid manifest.
    #[error("The encoded manifest is refused")]
    Manifest(#[source] ManifestError),
}

/// Reads a value of `volant.manifest`: gzip or plain JSON, in base64url with or without padding.
///
/// # Errors
/// [`DecodeError`] for anything else; at most [`MAX_MANIFEST_BYTES`] are unpacked.
pub fn decode_manifest(value: &str) -> Result<Manifest, DecodeError> {
    let engine = if value.ends_with('=') {
        URL_SAFE
    } else {
        URL_SAFE_NO_PAD
    };
    let bytes = engine.decode(value.trim()).map_err(DecodeError::Base64)?;
    // The gzip magic, RFC 1952 §2.3.1.
    let json = if bytes.starts_with(&[0x1f, 0x8b]) {
        let limit = u64::try_from(MAX_MANIFEST_BYTES).unwrap_or(u64::MAX);
        let mut json = Vec::new();
        GzDecoder::new(bytes.as_slice())
            .take(limit + 1)
            .read_to_end(&mut json)
            .map_err(DecodeError::Gzip)?;
        if json.len() > MAX_MANIFEST_BYTES {
            return Err(DecodeError::TooLarge);
        }
        json
    } else {
        bytes
    };
    Manifest::from_json(&json).map_err(DecodeError::Manifest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::*;

    const VECTOR: &str = "H4sIAAAAAAAC_02Q3W7DIAyF38XXUX56syqvMk2IULdBBYwc0zar8u4z7TZF3Pgcf9hHfsLiZozW3JAXTwlGGNoeGkg2ooqHlruWKi5J_H-PieS8wPiEwkE9tc7E0YrWbO-wNeCTF7ZxT3WP1mVP7eW7AowLFXb4AlwuxhFXMTQQMRKvJk6qDkdlZ7RBZqOZ3bXimE6ZfKrrOt1dk1ERE_V7r_id-BrInioqa66pZ5Gs5GQXNO801Rm7bjh8tL2-YTzWA2ASXn9nf2pi-NqqaaeAOk64YAPBThhesW8UbJI2h3Lx6e9ub29_sG37AZ7qPldxAQAA";

    fn ip() -> IpConfig {
        IpConfig {
            address: Ipv4Addr::new(192, 168, 127, 10),
            gateway: Ipv4Addr::new(192, 168, 127, 1),
            netmask: Ipv4Addr::new(255, 255, 255, 0),
            host_name: "web".to_owned(),
            device: "eth0".to_owned(),
        }
    }

    fn manifest() -> Manifest {
        decode_manifest(VECTOR).unwrap()
    }

    #[test]
    fn the_base_line_matches_the_vector() {
        let expected = "console=ttyS0 reboot=k panic=1 quiet loglevel=1 i8042.noaux i8042.nokbd pci=lastbus=0 \
                        ip=192.168.127.10::192.168.127.1:255.255.255.0:web:eth0:off";
        assert_eq!(base_line(&ip(), ""), expected);
        assert_eq!(base_line(&ip(), " debug "), format!("{expected} debug"));
    }

    #[test]
    fn the_manifest_vector_is_read() {
        let manifest = manifest();
        assert_eq!(manifest.name.as_str(), "x");
        assert_eq!(manifest.artifact().url, "/x.cpio.gz");
        assert_eq!(manifest.workload.entrypoint, ["/x"]);
        assert_eq!(manifest.labels["volant.plugin"], "x");
        assert_eq!(manifest.resources.memory_mb, 128);
    }

    #[test]
    fn plain_json_is_read_too() {
        let json = manifest().to_json();
        assert_eq!(
            decode_manifest(&URL_SAFE_NO_PAD.encode(&json)).unwrap(),
            manifest()
        );
        assert_eq!(
            decode_manifest(&URL_SAFE.encode(format!("{json} "))).unwrap(),
            manifest()
        );
    }

    #[test]
    fn broken_manifests_are_refused() {
        for bad in ["", "!", "H4sI", &VECTOR[..VECTOR.len() - 40]] {
            assert!(decode_manifest(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bomb_is_refused() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder
            .write_all(&vec![b' '; 8 * MAX_MANIFEST_BYTES])
            .unwrap();
        let bomb = URL_SAFE_NO_PAD.encode(encoder.finish().unwrap());
        assert!(matches!(decode_manifest(&bomb), Err(DecodeError::TooLarge)));
    }

    #[test]
    fn the_order_of_keys_is_fixed() {
        let cmdline = build(&Request {
            ip: &ip(),
            extra: "a=1",
            api: Some(("192.168.127.1", 7777)),
            manifest: &manifest(),
            root_format: None,
        })
        .unwrap();
        let keys: Vec<&str> = cmdline
            .line
            .split(' ')
            .skip(8)
            .map(|word| word.split('=').next().unwrap())
            .collect();
        assert_eq!(
            keys,
            [
                "ip",
                "a",
                KEY_RUNTIME,
                KEY_API_HOST,
                KEY_API_PORT,
                KEY_PLUGIN,
                KEY_MANIFEST
            ]
        );
        assert!(cmdline.carries_manifest);
    }

    #[test]
    fn the_environment_is_never_on_the_line() {
        let mut manifest = manifest();
        manifest
            .workload
            .env
            .insert("TOKEN".to_owned(), "hunter2".to_owned());
        let cmdline = build(&Request {
            ip: &ip(),
            extra: "",
            api: None,
            manifest: &manifest,
            root_format: None,
        })
        .unwrap();
        let read = decode_manifest(&parse(&cmdline.line)[KEY_MANIFEST]).unwrap();
        assert!(read.workload.env.is_empty());
    }

    #[test]
    fn credentials_of_a_url_are_never_on_the_line() {
        let table = [
            ("https://u:p@h:1/a.gz?token=x#y", "https://h:1/a.gz"),
            ("https://h?token=x", "https://h"),
            ("file:///a/b", "file:///a/b"),
            ("/a/b", "/a/b"),
        ];
        for (url, expected) in table {
            let mut manifest = manifest();
            manifest.set_artifact_url(url.to_owned());
            let cmdline = build(&Request {
                ip: &ip(),
                extra: "",
                api: None,
                manifest: &manifest,
                root_format: None,
            })
            .unwrap();
            let read = decode_manifest(&parse(&cmdline.line)[KEY_MANIFEST]).unwrap();
            assert_eq!(read.artifact().url, expected);
        }
    }

    #[test]
    fn a_root_file_system_is_booted_without_an_initramfs() {
        let boot = |rootfs: &str, root_format| {
            let json = format!(
                r#"{{"name":"x","version":"1","rootfs":{rootfs},"workload":{{"entrypoint":["/x"]}}}}"#
            );
            let request = Request {
                ip: &ip(),
                extra: "a=1",
                api: None,
                manifest: &Manifest::from_json(json.as_bytes()).unwrap(),
                root_format,
            };
            let line = build(&request).unwrap().line;
            let after = line.split(" a=1 ").nth(1).unwrap();
            after.split(" volant.runtime=").next().unwrap().to_owned()
        };
        let table = [
            (
                r#"{"url":"/x","format":"ext4"}"#,
                None,
                "rootfstype=ext4 init=/bin/kestrel volant.config=/dev/vdb volant.writable=/dev/vdc",
            ),
            (
                r#"{"url":"/x"}"#,
                Some(RootfsFormat::Erofs),
                "rootfstype=erofs init=/bin/kestrel volant.config=/dev/vdb volant.writable=/dev/vdc",
            ),
            (
                r#"{"url":"/x","ephemeral":true}"#,
                Some(RootfsFormat::Squashfs),
                "rootfstype=squashfs init=/bin/kestrel volant.config=/dev/vdb volant.writable=tmpfs",
            ),
            (
                r#"{"url":"/x","ephemeral":true,"writable_mb":64}"#,
                None,
                "init=/bin/kestrel volant.config=/dev/vdb volant.writable=tmpfs:64",
            ),
        ];
        for (rootfs, format, expected) in table {
            assert_eq!(boot(rootfs, format), format!("root=/dev/vda ro {expected}"));
        }
    }

    #[test]
    fn the_writable_layer_is_read_back() {
        for value in ["/dev/vdc", "tmpfs", "tmpfs:64"] {
            assert_eq!(Writable::from_value(value).unwrap().to_string(), value);
        }
        for bad in [
            "",
            "vdc",
            "/dev/",
            "/dev/../etc",
            "/dev/vd c",
            "tmpfs:",
            "tmpfs:x",
            "tmpfs:-1",
            "ext4:/dev/vdc",
        ] {
            assert_eq!(Writable::from_value(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_large_manifest_leaves_the_line_and_a_long_line_is_refused() {
        let mut large = manifest();
        // Digits of a running number do not compress to nothing.
        large
            .workload
            .entrypoint
            .push((0..2000).fold(String::new(), |word, n| word + &format!("{:x}", n * 7919)));
        let cmdline = build(&Request {
            ip: &ip(),
            extra: "",
            api: None,
            manifest: &large,
            root_format: None,
        })
        .unwrap();
        assert!(!cmdline.carries_manifest);
        let extra = "x".repeat(MAX_CMDLINE_BYTES);
        let refused = build(&Request {
            ip: &ip(),
            extra: &extra,
            api: None,
            manifest: &manifest(),
            root_format: None,
        });
        assert!(matches!(refused, Err(CmdlineError::TooLong { .. })));
        let refused = build(&Request {
            ip: &ip(),
            extra: "a\nb",
            api: None,
            manifest: &manifest(),
            root_format: None,
        });
        assert!(matches!(
            refused,
            Err(CmdlineError::ControlCharacter { .. })
        ));
    }

    #[test]
    fn the_first_of_a_key_counts_and_quotes_hold_blanks() {
        let words = parse("a=1 b a=2 c=\"x y\" \"d=z w\"  e==");
        assert_eq!(words["a"], "1");
        assert_eq!(words["b"], "");
        assert_eq!(words["c"], "x y");
        assert_eq!(words["e"], "=");
    }

    #[test]
    fn an_address_is_read_back() {
        assert_eq!(IpConfig::from_value(&ip().to_value()), Some(ip()));
        assert_eq!(IpConfig::from_value("dhcp"), None);
        assert_eq!(
            IpConfig::from_value("10.0.0.2::10.0.0.1:255.0.0.0")
                .unwrap()
                .device,
            "eth0"
        );
    }

    proptest! {
        #[test]
        fn a_line_is_never_longer_than_the_kernel_reads(extra in "[a-z0-9=. ]{0,2300}", words in 0_usize..300) {
            let mut manifest = manifest();
            manifest.workload.entrypoint.extend((0..words).map(|n| format!("--flag-{n}")));
            if let Ok(cmdline) = build(&Request { ip: &ip(), extra: &extra, api: None, manifest: &manifest, root_format: None }) {
                prop_assert!(cmdline.line.len() <= MAX_CMDLINE_BYTES);
                let read = parse(&cmdline.line);
                prop_assert_eq!(read.contains_key(KEY_MANIFEST), cmdline.carries_manifest);
            }
        }

        #[test]
        fn manifests_survive_the_line(word in "[ -~]{1,200}") {
            let mut manifest = manifest();
            manifest.workload.entrypoint.push(word);
            prop_assert_eq!(decode_manifest(&encode_manifest(&manifest)).unwrap(), manifest);
        }

        #[test]
        fn no_line_makes_the_reader_panic(line in ".{0,300}") {
            drop(parse(&line));
            drop(decode_manifest(&line));
            drop(IpConfig::from_value(&line));
        }
    }
}
