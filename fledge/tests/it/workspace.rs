//! A directory with a small plugin in it, and a way to run fledge there.

use std::path::PathBuf;

use assert_cmd::Command;
use common::digest::Digest;
use common::manifest::Manifest;
use fledge::image::cpio::{Entry, Kind, Limits, ReadError, read_entries};

/// A build spec that needs nothing but `kestrel` and `app`.
pub(crate) const SPEC: &str = r#"version = "1"
strategy = "initramfs"

[agent]
source_strategy = "local"
path = "kestrel"

[mappings]
"app" = "/usr/bin/app"
"conf" = "/etc/app"
"#;

/// A template for [`SPEC`].
pub(crate) const TEMPLATE: &str = r#"name = "app"
version = "1.0.0"

[workload]
entrypoint = "/usr/bin/app"
args = ["serve"]
base_url = "http://127.0.0.1:8000"

[health_check]
endpoint = "/healthz"
"#;

/// A temporary directory.
pub(crate) struct Workspace {
    directory: tempfile::TempDir,
}

impl Workspace {
    /// With the plugin of [`SPEC`].
    pub(crate) fn new() -> Self {
        let workspace = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        workspace.write("fledge.toml", SPEC.as_bytes());
        workspace.write("kestrel", &elf(None));
        workspace.write("app", &elf(None));
        workspace.write("conf/app.conf", b"port = 8000\n");
        std::os::unix::fs::symlink("app.conf", workspace.path("conf/current")).unwrap();
        workspace
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, bytes).unwrap();
    }

    /// The program, in the directory, without the user's environment.
    pub(crate) fn fledge(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fledge"));
        command
            .env_clear()
            .env("XDG_CACHE_HOME", self.path("cache"))
            .current_dir(self.directory.path())
            .args(arguments);
        command
    }

    /// Runs a build that must fail, checks exit code and message, and that nothing was written.
    pub(crate) fn refused(&self, arguments: &[&str], code: i32, expected: &str) {
        let before = self.names();
        let arguments = [&["build"], arguments].concat();
        let output = self.fledge(&arguments).output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(
            message.contains(expected),
            "expected {expected:?} in:\n{message}"
        );
        assert!(message.starts_with("error: "), "{message}");
        assert_eq!(output.status.code(), Some(code), "{message}");
        assert!(output.stdout.is_empty());
        assert_eq!(self.names(), before, "files were left behind");
    }

    /// The names in the directory, sorted; the cache aside.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs_err::read_dir(self.directory.path()).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "cache")
            .collect();
        names.sort_unstable();
        names
    }

    /// The digest of a file.
    pub(crate) fn digest(&self, name: &str) -> Digest {
        Digest::of(&fs_err::read(self.path(name)).unwrap())
    }

    pub(crate) fn manifest(&self) -> Manifest {
        Manifest::from_json(&fs_err::read(self.path("plugin.cpio.gz.manifest.json")).unwrap())
            .unwrap()
    }

    /// The entries of the artifact with their contents; of links, their targets.
    pub(crate) fn entries(&self) -> Vec<(Entry, Vec<u8>)> {
        let file = fs_err::File::open(self.path("plugin.cpio.gz")).unwrap();
        let mut entries = Vec::new();
        read_entries(
            flate2::read::GzDecoder::new(file),
            &Limits::default(),
            |entry, content| {
                let mut bytes = Vec::new();
                content.read_to_end(&mut bytes).map_err(ReadError::Input)?;
                if let Kind::Symlink { target } = &entry.kind {
                    bytes.clone_from(target);
                }
                entries.push((entry.clone(), bytes));
                Ok::<_, ReadError>(())
            },
        )
        .unwrap();
        entries
    }

    /// Entry and content at `path`.
    pub(crate) fn entry(&self, path: &str) -> (Entry, Vec<u8>) {
        self.entries()
            .into_iter()
            .find(|(entry, _)| entry.path == path.as_bytes())
            .unwrap_or_else(|| panic!("{path} is not in the image"))
    }
}

/// A 64-bit ELF program for x86-64, with a loader's path if it is to be dynamic.
pub(crate) fn elf(interpreter: Option<&str>) -> Vec<u8> {
    let mut file = vec![0; 64 + 56];
    file[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
    file[18] = 62;
    file[32] = 64;
    file[54] = 56;
    file[56] = 1;
    file[64] = 1;
    if let Some(path) = interpreter {
        file[64] = 3;
        file[72] = 120;
        file[96] = u8::try_from(path.len()).unwrap();
        file.extend_from_slice(path.as_bytes());
    }
    file
}
