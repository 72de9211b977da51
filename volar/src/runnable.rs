//! What `volar run` is given: a plugin's name, a manifest, or an artifact with or without one. Installs nothing.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use common::manifest::{Manifest, ManifestError};
use common::name::{MAX_NAME_BYTES, Name};
use serde_json::{Value, json};

use crate::manifest_source::{Daemon, SourceError, load};

/// What fledge adds to an artifact's name for its manifest.
const MANIFEST_SUFFIX: &str = ".manifest.json";

/// The beginning of a file that tells what it is.
const HEAD_BYTES: u64 = 4096;

/// The version of a plugin that is made of a bare artifact.
const BARE_VERSION: &str = "0";

/// How long a bare artifact may take until its port accepts connections, in milliseconds: enough for a runtime that compiles at its start.
const PORT_TIMEOUT_MS: u64 = 60_000;

/// Something that cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum RunnableError {
    /// It cannot be read.
    #[error("Cannot read the artifact")]
    Read(#[source] io::Error),
    /// Its manifest.
    #[error(transparent)]
    Manifest(#[from] SourceError),
    /// A local file for a daemon elsewhere.
    #[error("`{}` is on this host, and volantd is not", path.display())]
    Remote {
        /// The file.
        path: PathBuf,
    },
    /// Neither manifest nor artifact.
    #[error("`{}` is neither a manifest, nor an initramfs, nor a root file system", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
    },
    /// Nothing says what to run in it.
    #[error("`{}` has no manifest beside it: say after `--` what is to run in it", path.display())]
    NoCommand {
        /// The file.
        path: PathBuf,
    },
    /// What was made of the flags is no manifest.
    #[error("No manifest can be made of what was given")]
    Bare(#[source] ManifestError),
}

/// What is run.
#[derive(Debug)]
pub enum Runnable {
    /// A plugin that is installed.
    Plugin(Name),
    /// A plugin that must be installed first.
    Manifest(Box<Manifest>),
}

/// What stands in for the manifest of a bare artifact.
#[derive(Debug, Clone, Copy)]
pub struct Bare<'a> {
    /// Program and arguments.
    pub command: &'a [String],
    /// The port at which it serves HTTP. It is ready when it accepts connections there.
    pub port: Option<u16>,
}

/// Finds out what `what` is.
///
/// # Errors
/// [`RunnableError`].
pub async fn find(what: &str, bare: Bare<'_>, daemon: Daemon) -> Result<Runnable, RunnableError> {
    // A file can always be written with a `/`, and has a `.` mostly: no name has either.
    if let Ok(name) = what.parse::<Name>() {
        return Ok(Runnable::Plugin(name));
    }
    let of_manifest = async |place: &str| {
        let manifest = load(place, daemon).await?;
        Ok(Runnable::Manifest(Box::new(manifest)))
    };
    if what.contains("://") {
        return of_manifest(what).await;
    }
    let path = std::path::absolute(what).map_err(RunnableError::Read)?;
    let head = head(&path)?;
    if head.trim_ascii_start().starts_with(b"{") {
        return of_manifest(what).await;
    }
    if daemon == Daemon::Remote {
        return Err(RunnableError::Remote { path });
    }
    let Some(kind) = kind(&head) else {
        return Err(RunnableError::Unknown { path });
    };
    let beside = format!("{}{MANIFEST_SUFFIX}", path.display());
    if Path::new(&beside).exists() {
        let mut manifest = load(&beside, daemon).await?;
        // The artifact that was named, wherever it was built.
        manifest.set_artifact_url(path.to_string_lossy().into_owned());
        return Ok(Runnable::Manifest(Box::new(manifest)));
    }
    let manifest = of_bare(&path, kind, bare)?;
    Ok(Runnable::Manifest(Box::new(manifest)))
}

fn head(path: &Path) -> Result<Vec<u8>, RunnableError> {
    let mut head = Vec::new();
    fs_err::File::open(path)
        .and_then(|file| file.take(HEAD_BYTES).read_to_end(&mut head))
        .map_err(RunnableError::Read)?;
    Ok(head)
}

/// The member of a manifest that names such a file. volantd looks closer.
fn kind(head: &[u8]) -> Option<&'static str> {
    let at = |offset: usize, magic: &[u8]| {
        head.get(offset..)
            .is_some_and(|rest| rest.starts_with(magic))
    };
    // Compression: gzip (RFC 1952), zstd (RFC 8878), xz, LZ4 as the kernel takes it (lib/decompress.c), and cpio newc itself.
    let initramfs: [&[u8]; 5] = [
        b"\x1f\x8b",
        b"\x28\xb5\x2f\xfd",
        b"\xfd7zXZ\0",
        b"\x02\x21\x4c\x18",
        b"07070",
    ];
    // EROFS (fs/erofs/erofs_fs.h), ext4 (fs/ext4/ext4.h), squashfs (include/uapi/linux/magic.h), qcow2 (QEMU docs/interop/qcow2.rst).
    let rootfs: [(usize, &[u8]); 4] = [
        (1024, b"\xe2\xe1\xf5\xe0"),
        (1080, b"\x53\xef"),
        (0, b"hsqs"),
        (0, b"QFI\xfb"),
    ];
    if rootfs.iter().any(|(offset, magic)| at(*offset, magic)) {
        Some("rootfs")
    } else {
        let is_initramfs = initramfs.iter().any(|magic| at(0, magic));
        is_initramfs.then_some("initramfs")
    }
}

fn of_bare(path: &Path, kind: &str, bare: Bare<'_>) -> Result<Manifest, RunnableError> {
    if bare.command.is_empty() {
        let path = path.to_owned();
        return Err(RunnableError::NoCommand { path });
    }
    let mut workload = json!({"type": "exec", "entrypoint": bare.command, "restart": "never"});
    let mut health_check = None;
    if let Some(port) = bare.port {
        workload["type"] = "http".into();
        workload["base_url"] = format!("http://127.0.0.1:{port}").into();
        health_check = Some(json!({"tcp_port": port, "timeout_ms": PORT_TIMEOUT_MS}));
    }
    let stem = path.file_name().unwrap_or_default().to_string_lossy();
    let mut manifest = json!({
        "schema_version": "1.0", "name": plain_name(&stem), "version": BARE_VERSION, "workload": workload
    });
    manifest[kind] = json!({"url": path.to_string_lossy()});
    if let Some(health_check) = health_check {
        manifest["health_check"] = health_check;
    }
    Manifest::from_json(Value::to_string(&manifest).as_bytes()).map_err(RunnableError::Bare)
}

/// A name that is made of a file's, up to its first dot.
fn plain_name(file: &str) -> String {
    let stem = file.split('.').find(|part| !part.is_empty());
    let name: String = stem
        .unwrap_or_default()
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(MAX_NAME_BYTES / 2)
        .collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "artifact" } else { name }.to_owned()
}

/// `name` with something behind it that no other run has: the time and this process.
pub fn unique(name: &Name, now_ms: i64) -> Name {
    let process = i64::from(std::process::id());
    let mark = format!("{:06x}", (now_ms ^ (process << 8)) & 0x00ff_ffff);
    let room = MAX_NAME_BYTES - mark.len() - 1;
    let stem: String = name.as_str().chars().take(room).collect();
    let text = format!("{}-{mark}", stem.trim_end_matches('-'));
    text.parse().unwrap_or_else(|_| name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Bare<'static> = Bare {
        command: &[],
        port: None,
    };

    #[test]
    fn names_are_made_of_files() {
        let table = [
            ("plugin.cpio.gz", "plugin"),
            ("My_App-1.0.erofs", "my-app-1"),
            (".hidden", "hidden"),
            ("---.img", "artifact"),
        ];
        for (file, expected) in table {
            assert_eq!(plain_name(file), expected, "{file}");
        }
        let long: Name = "a".repeat(63).parse().unwrap();
        let unique_name = unique(&long, 1_700_000_000_000);
        assert_eq!(unique_name.as_str().len(), 63);
        assert_ne!(unique_name, unique(&long, 1_700_000_000_001));
    }

    #[tokio::test]
    async fn files_are_told_apart_by_what_is_in_them() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &[u8]| {
            let path = dir.path().join(name);
            fs_err::write(&path, content).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let gz = write("app.cpio.gz", b"\x1f\x8b\x08");
        let mut image = vec![0; 2048];
        image[1024..1028].copy_from_slice(b"\xe2\xe1\xf5\xe0");
        let erofs = write("root.img", &image);
        let command = ["/app".to_owned()];
        let bare = Bare {
            command: &command,
            port: Some(80),
        };
        for (path, kind) in [(&gz, "initramfs"), (&erofs, "rootfs")] {
            let Ok(Runnable::Manifest(manifest)) = find(path, bare, Daemon::Local).await else {
                panic!("{path}");
            };
            assert_eq!(
                manifest.artifact().kind.pointer("url"),
                format!("/{kind}/url")
            );
            assert_eq!(manifest.artifact().url, path.as_str());
            assert_eq!(manifest.workload.port(), Some(80));
            let health_check = manifest.health_check.unwrap();
            assert_eq!(health_check.tcp_port, Some(80));
            assert_eq!(health_check.timeout_ms, PORT_TIMEOUT_MS);
        }
        let no_port = Bare { port: None, ..bare };
        let Ok(Runnable::Manifest(manifest)) = find(&gz, no_port, Daemon::Local).await else {
            panic!("no manifest");
        };
        assert_eq!(manifest.health_check, None, "it is ready when it runs");
        let error = find(&gz, NONE, Daemon::Local).await.unwrap_err();
        assert!(matches!(error, RunnableError::NoCommand { .. }), "{error}");
        let error = find(&gz, bare, Daemon::Remote).await.unwrap_err();
        assert!(matches!(error, RunnableError::Remote { .. }), "{error}");
        let text = write("notes.txt", b"hello");
        let error = find(&text, bare, Daemon::Local).await.unwrap_err();
        assert!(matches!(error, RunnableError::Unknown { .. }), "{error}");
        // A manifest beside it decides, about this very file.
        let manifest = r#"{"name":"caddy","version":"1","initramfs":{"url":"app.cpio.gz"},
            "workload":{"type":"exec","entrypoint":["/x"]}}"#;
        write("app.cpio.gz.manifest.json", manifest.as_bytes());
        let found = find(&gz, NONE, Daemon::Local).await.unwrap();
        assert!(matches!(found, Runnable::Manifest(manifest) if manifest.name.as_str() == "caddy"));
        let found = find("caddy", NONE, Daemon::Local).await.unwrap();
        assert!(matches!(found, Runnable::Plugin(_)));
    }
}
