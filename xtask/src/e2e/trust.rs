//! A host that requires signatures: what is signed with the trusted key is installed and boots, nothing else is, and what changes on
//! the disk after that is not booted any more.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use common::api::VmStatus;
use common::digest::Digest;
use fs_err as fs;
use serde_json::json;

use super::ScenarioArguments;
use super::daemon::Daemon;
use super::http;
use super::volar::Volar;
use crate::{printer, process};

/// The plugin and the VM of all tests.
const NAME: &str = "trusted";

/// What volar ends with where a signature is missing or does not hold (docs/errors.md).
const REFUSED: i32 = 6;

/// What volar ends with where there is no such plugin.
const NOT_FOUND: i32 = 3;

/// What volar ends with where a VM fails.
const FAILED: i32 = 1;

/// How long the page may take. The guest is up then.
const PAGE_LIMIT: Duration = Duration::from_secs(30);

/// The author's side: keys, and an artifact that is no other plugin's.
struct Author {
    fledge: PathBuf,
    folder: PathBuf,
    artifact: PathBuf,
    manifest: String,
}

/// Everything; the plugin and its VM are gone then, and the daemon requires nothing again. `hello` was installed without a signature.
pub(super) fn run(
    arguments: &ScenarioArguments,
    daemon: &mut Daemon,
    volar: &Volar,
    hello: &Path,
) -> Result<()> {
    let author = Author::new(arguments, hello)?;
    let trusted = author.key("trusted")?;
    author.key("other")?;
    let config = author.folder.join("volantd.toml");
    let text = format!("require_signatures = true\ntrusted_keys = [\"{trusted}\"]\n");
    fs::write(&config, text)?;
    daemon.stop()?;
    daemon.start_with(&[("VOLANT_CONFIG", &config)])?;
    only_what_is_signed_is_installed(&author, volar)?;
    what_was_there_before_does_not_boot(volar)?;
    only_what_is_whole_boots(&author, daemon, volar)?;
    volar.ok(&["plugins", "remove", NAME])?;
    daemon.stop()?;
    daemon.start()
}

impl Author {
    /// Builds hello once more, from another time: an artifact with bytes and a digest of its own.
    fn new(arguments: &ScenarioArguments, hello: &Path) -> Result<Self> {
        let folder = arguments.work.join("trust");
        fs::create_dir_all(&folder)?;
        let artifact = folder.join("plugin.cpio.gz");
        let author = Self {
            fledge: arguments.dist.join("fledge"),
            manifest: folder.join("manifest.json").to_string_lossy().into_owned(),
            folder,
            artifact,
        };
        let output = author.artifact.to_string_lossy();
        let words = ["build", "--source-date-epoch", "1", "--output", &output];
        author.fledge(hello, &words)?;
        let built = author.beside(".manifest.json");
        let mut manifest: serde_json::Value = serde_json::from_slice(&fs::read(built)?)?;
        manifest["name"] = json!(NAME);
        manifest["initramfs"]["url"] = json!(author.artifact);
        fs::write(&author.manifest, manifest.to_string())?;
        Ok(author)
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut path = OsString::from(&self.artifact);
        path.push(suffix);
        path.into()
    }

    fn fledge(&self, folder: &Path, words: &[&str]) -> Result<()> {
        printer::progress("$ fledge", &words.join(" "));
        process::captured(Command::new(&self.fledge).args(words).current_dir(folder)).map(drop)
    }

    /// Makes a key pair, and returns the public key as volantd's configuration has it.
    fn key(&self, name: &str) -> Result<String> {
        self.fledge(&self.folder, &["keygen", "-o", name, "--no-password"])?;
        let file = fs::read_to_string(self.folder.join(format!("{name}.pub")))?;
        let key = file.lines().nth(1).context("A public key has two lines")?;
        Ok(key.to_owned())
    }

    /// Signs the artifact, in place of any signature before.
    fn sign(&self, key: &str) -> Result<()> {
        let (public, key) = (format!("{key}.pub"), format!("{key}.key"));
        self.fledge(&self.folder, &["sign", "plugin.cpio.gz", "-s", &key])?;
        self.fledge(&self.folder, &["verify", "plugin.cpio.gz", "-p", &public])
    }

    fn install(&self) -> [&str; 4] {
        ["plugins", "install", "--manifest", &self.manifest]
    }
}

fn only_what_is_signed_is_installed(author: &Author, volar: &Volar) -> Result<()> {
    let unsigned = "It has no signature, and this host requires one";
    volar.refused(&author.install(), REFUSED, unsigned)?;
    author.sign("other")?;
    volar.refused(&author.install(), REFUSED, "It was signed with key")?;
    volar.refused(&["plugins", "show", NAME], NOT_FOUND, "no plugin")?;
    author.sign("trusted")?;
    volar.ok(&author.install()).map(drop)
}

/// A plugin that was installed while nothing was required.
fn what_was_there_before_does_not_boot(volar: &Volar) -> Result<()> {
    let create = ["vms", "create", "before", "--plugin", "hello"];
    let create = [&create[..], &["--memory", "128"]].concat();
    volar.refused(
        &create,
        FAILED,
        "It has no signature, and this host requires one",
    )?;
    volar.ok(&["vms", "delete", "before", "--yes"]).map(drop)
}

/// The installed signature, then the installed artifact are changed. Whole again, the VM boots again.
fn only_what_is_whole_boots(author: &Author, daemon: &Daemon, volar: &Volar) -> Result<()> {
    let create = ["vms", "create", NAME, "--plugin", NAME];
    let timeout = ["--timeout", "300s"];
    volar.ok(&[&create[..], &["--memory", "128"], &timeout].concat())?;
    let address: SocketAddr = format!("{}:80", volar.vm(NAME)?.ip_address).parse()?;
    http::wait_for_body(address, "/", "Hello from Volant", PAGE_LIMIT)?;
    volar.ok(&["vms", "stop", NAME])?;

    let digest = Digest::of(&fs::read(&author.artifact)?).to_hex();
    let stored = daemon.state_dir.join("artifacts");
    let start = [&["vms", "start", NAME][..], &timeout].concat();
    let cases = [
        // A character of the signature itself, which is the second line.
        (
            format!("{digest}.minisig"),
            100,
            "Its signature does not hold",
        ),
        // The time in gzip's header: it would unpack to the same.
        (digest, 4, "The signature does not match"),
    ];
    for (name, at, sentence) in cases {
        let path = stored.join(name);
        let whole = fs::read(&path)?;
        let mut changed = whole.clone();
        let byte = changed.get_mut(at).context("It is shorter than that")?;
        *byte = if *byte == b'A' { b'B' } else { b'A' };
        fs::write(&path, changed)?;
        volar.refused(&start, FAILED, sentence)?;
        let vm = volar.vm(NAME)?;
        ensure!(
            vm.status == VmStatus::Failed && vm.pid.is_none(),
            "It should have failed without a VMM: {vm:?}"
        );
        fs::write(&path, whole)?;
    }
    volar.ok(&start)?;
    http::wait_for_body(address, "/", "Hello from Volant", PAGE_LIMIT)?;
    printer::progress(
        "e2e",
        "signed: booted; unsigned, changed: refused; whole: booted again",
    );
    volar.ok(&["vms", "delete", NAME, "--yes"]).map(drop)
}
