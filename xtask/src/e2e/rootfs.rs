//! Plugins that boot a root file system: what a guest writes is there after a stop, a start and the death of its VMM, and lost where the
//! VM is ephemeral. The images are small, and made here; `prepare` is the one place to have them from.

use std::io::BufWriter;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use common::agent::HealthState;
use common::api::VmStatus;
use common::digest::Digest;
use common::manifest::RootfsFormat;
use fledge::image::{erofs, ext4, squashfs};
use fledge::tree::{Content, Node, Tree};
use fs_err as fs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::aftermath::nothing_left;
use super::daemon::Daemon;
use super::scenario::{ScenarioArguments, wait_for};
use super::volar::Volar;
use super::{checks, http};
use crate::{printer, process};

/// What the service says at `/`.
const PAGE: &str = "Hello from a root file system";

/// The VM of all tests; there is one at a time.
const VM: &str = "disk";

/// Memory of the VM, in MiB.
const MEMORY_MIB: &str = "128";

/// How long one page may take. The guest is up then.
const PAGE_LIMIT: Duration = Duration::from_secs(30);

/// Keeps what it is asked with, and says what it is.
const WRITE: &str = "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n'\n\
    echo \"$QUERY_STRING\" > /srv/data/note && sync && echo \"kept $(cat /srv/data/note) as $(id -u):$(id -g) $(id -G)\"\n";

/// Says what was kept, and what the root is.
const READ: &str = "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n'\n\
    cat /srv/data/note 2>&1; grep ' / ' /proc/mounts; ls /dev/vdb 2>&1\n";

/// All that is tested, for every format; the VMs are gone then, and the plugins too.
pub(super) fn run(
    arguments: &ScenarioArguments,
    daemon: &mut Daemon,
    volar: &Volar,
    rules: &str,
) -> Result<()> {
    let images = prepare(arguments)?;
    for format in RootfsFormat::ALL {
        let manifest = images.join(format!("{format}.json"));
        volar.ok(&[
            "plugins",
            "install",
            "--manifest",
            &manifest.to_string_lossy(),
        ])?;
    }
    let files = checks::files(&daemon.state_dir)?;
    refused(&images, volar)?;
    for format in RootfsFormat::ALL {
        keeps_what_it_writes(format, daemon, volar)?;
        nothing_left(daemon, volar, &files, rules)?;
    }
    ephemeral_loses_it(daemon, volar)?;
    nothing_left(daemon, volar, &files, rules)?;
    for format in RootfsFormat::ALL {
        volar.ok(&["plugins", "remove", &plugin(format)])?;
    }
    Ok(())
}

fn plugin(format: RootfsFormat) -> String {
    format!("disk-{format}")
}

/// A folder with `<format>.img` and its manifest `<format>.json` for every format: the one that was given, or one that is made now.
fn prepare(arguments: &ScenarioArguments) -> Result<PathBuf> {
    if let Some(images) = &arguments.rootfs {
        return Ok(images.clone());
    }
    let folder = arguments.work.join("rootfs");
    fs::create_dir_all(&folder)?;
    let tree = tree(arguments)?;
    for format in RootfsFormat::ALL {
        let path = folder.join(format!("{format}.img"));
        write_image(&tree, format, &path)
            .with_context(|| format!("The {format} image cannot be written"))?;
        let content = fs::read(&path)?;
        printer::progress("e2e", &format!("{format}: {} bytes", content.len()));
        let manifest = manifest(format, &Digest::of(&content));
        fs::write(folder.join(format!("{format}.json")), manifest.to_string())?;
    }
    Ok(folder)
}

/// A service with the agent, and a user for it: what an image of busybox would be.
fn tree(arguments: &ScenarioArguments) -> Result<Tree> {
    let mut tree = Tree::default();
    let mut put = |path: &str, node: Node| tree.replace(path.as_bytes(), node);
    for directory in ["bin", "dev", "proc", "sys", "run", "etc", "srv/www/cgi-bin"] {
        put(directory, Node::directory(0o755))?;
    }
    put("tmp", Node::directory(0o1777))?;
    let host = |path: &Path| -> Result<Node> {
        let size_bytes = fs::metadata(path)?.len();
        let path = path.to_path_buf();
        Ok(Node::file(0o755, Content::Host { path, size_bytes }))
    };
    put("bin/kestrel", host(&arguments.dist.join("kestrel"))?)?;
    put("bin/busybox", host(&arguments.busybox)?)?;
    for name in [
        "sh", "cat", "echo", "grep", "httpd", "id", "ls", "sync", "test",
    ] {
        put(&format!("bin/{name}"), Node::symlink("busybox"))?;
    }
    let text = |mode, text: &str| Node::file(mode, Content::Bytes(text.into()));
    let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001:web:/srv:/bin/sh\n";
    put("etc/passwd", text(0o644, passwd))?;
    put(
        "etc/group",
        text(0o644, "root:x:0:\nweb:x:1001:\nextra:x:2000:web\n"),
    )?;
    put("srv/www/index.html", text(0o644, PAGE))?;
    put("srv/www/cgi-bin/write", text(0o755, WRITE))?;
    put("srv/www/cgi-bin/read", text(0o755, READ))?;
    let mut data = Node::directory(0o700);
    (data.attributes.uid, data.attributes.gid) = (1000, 1001);
    put("srv/data", data)?;
    Ok(tree)
}

fn write_image(tree: &Tree, format: RootfsFormat, path: &Path) -> Result<()> {
    let out = BufWriter::new(fs::File::create(path)?);
    match format {
        RootfsFormat::Erofs => drop(erofs::write(tree, 0, out)?),
        RootfsFormat::Ext4 => {
            let options = ext4::Options {
                time_s: 0,
                size: ext4::Size::Free(1024 * 1024),
                journal: false,
            };
            drop(ext4::write(tree, &options, out)?);
        }
        RootfsFormat::Squashfs => {
            let options = squashfs::Options {
                time_s: 0,
                level: 0,
                threads: NonZeroUsize::MIN,
            };
            drop(squashfs::write(tree, &options, out)?);
        }
    }
    Ok(())
}

fn manifest(format: RootfsFormat, checksum: &Digest) -> serde_json::Value {
    json!({
        "name": plugin(format), "version": "1",
        "rootfs": {"url": format!("{format}.img"), "format": format, "checksum": checksum, "writable_mb": 64},
        "network": {"expose": [{"port": 80}]},
        "workload": {
            "type": "http", "base_url": "http://127.0.0.1:80", "user": "web", "workdir": "/srv/made/by/agent",
            "entrypoint": ["httpd", "-f", "-p", "80", "-h", "/srv/www"], "stop_signal": "SIGINT",
        },
        "health_check": {"command": ["sh", "-c", "test $(id -u) = 1000 && cat /srv/www/index.html"], "timeout_ms": 60000},
    })
}

/// A file system that is not what the manifest says, and one that is none, are refused at install.
fn refused(images: &Path, volar: &Volar) -> Result<()> {
    let url = images.join("squashfs.img");
    let cases = [
        (json!({"url": url, "format": "erofs"}), "It holds squashfs"),
        (
            json!({"url": url, "format": "xfs"}),
            "use `erofs`, `ext4` or `squashfs`",
        ),
        (
            json!({"url": images.join("erofs.json")}),
            "neither an EROFS nor an ext4 nor a squashfs file system",
        ),
    ];
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("manifest.json");
    for (rootfs, sentence) in cases {
        let manifest = json!({
            "name": "refused", "version": "1", "rootfs": rootfs, "workload": {"entrypoint": ["/bin/sh"]},
        });
        fs::write(&path, manifest.to_string())?;
        let words = ["plugins", "install", "--manifest", &path.to_string_lossy()];
        volar.refused(&words, 1, sentence)?;
    }
    Ok(())
}

fn create(format: RootfsFormat, more: &[&str], volar: &Volar) -> Result<SocketAddr> {
    let plugin = plugin(format);
    let mut words = vec!["vms", "create", VM, "--plugin", &plugin];
    words.extend(["--memory", MEMORY_MIB, "--timeout", "300s"]);
    words.extend(more);
    volar.ok(&words)?;
    let address = format!("{}:80", volar.vm(VM)?.ip_address).parse()?;
    http::wait_for_body(address, "/", PAGE, PAGE_LIMIT)?;
    Ok(address)
}

fn keeps_what_it_writes(format: RootfsFormat, daemon: &mut Daemon, volar: &Volar) -> Result<()> {
    let address = create(format, &[], volar)?;
    let note = format!("note-{format}");
    let asked = format!("/cgi-bin/write?{note}");
    // As the manifest's user, with the groups that the image gives it.
    let kept = format!("kept {note} as 1000:1001 1001 2000");
    http::wait_for_body(address, &asked, &kept, PAGE_LIMIT)?;
    let seen = http::get(address, "/cgi-bin/read")?.body;
    ensure!(
        seen.contains("overlay / overlay rw"),
        "The root is no overlay: {seen}"
    );
    ensure!(
        seen.contains("/dev/vdb: No such file"),
        "The guest's config is still there to be read: {seen}"
    );

    volar.ok(&["vms", "stop", VM])?;
    clean_disk(&daemon.state_dir)?;
    volar.ok(&["vms", "start", VM, "--timeout", "300s"])?;
    http::wait_for_body(address, "/cgi-bin/read", &note, PAGE_LIMIT)?;
    printer::progress(
        "e2e",
        &format!("{format}: written, stopped, started, found"),
    );

    if format == RootfsFormat::Erofs {
        survives_its_vmm(address, &note, daemon, volar)?;
    }
    volar.ok(&["vms", "delete", VM, "--yes"]).map(drop)
}

/// The disk is there, and its file system needs no repair.
fn clean_disk(state_dir: &Path) -> Result<()> {
    let files = checks::files(state_dir)?;
    let disk = files
        .iter()
        .find(|path| path.ends_with("writable.ext4"))
        .context("A stopped VM has no writable disk")?;
    let Some(e2fsck) = process::find("e2fsck") else {
        printer::progress(
            "e2e",
            "SKIPPED: the disk is not checked, there is no e2fsck",
        );
        return Ok(());
    };
    let said = process::captured(Command::new(e2fsck).arg("-n").arg(state_dir.join(disk)))?;
    ensure!(
        said.contains(": clean,"),
        "The disk of a stopped VM is not clean: {said}"
    );
    Ok(())
}

/// Its daemon and its VMM die as by a power cut: the VM is launched again, and its file system is whole.
fn survives_its_vmm(
    address: SocketAddr,
    note: &str,
    daemon: &mut Daemon,
    volar: &Volar,
) -> Result<()> {
    let before = volar.vm(VM)?;
    let pid = before.pid.context("A VM that runs has no process")?;
    daemon.kill()?;
    kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL)?;
    daemon.start()?;
    wait_for(volar, VM, "to be launched again", |vm| {
        vm.status == VmStatus::Running
            && vm.pid.is_some_and(|now| now != pid)
            && vm.health.state == HealthState::Healthy
    })?;
    http::wait_for_body(address, "/cgi-bin/read", note, PAGE_LIMIT)?;
    printer::progress(
        "e2e",
        "its VMM was killed: launched again, and nothing is lost",
    );
    Ok(())
}

fn ephemeral_loses_it(daemon: &Daemon, volar: &Volar) -> Result<()> {
    let address = create(RootfsFormat::Erofs, &["--ephemeral"], volar)?;
    http::wait_for_body(address, "/cgi-bin/write?gone", "kept gone", PAGE_LIMIT)?;
    volar.ok(&["vms", "stop", VM])?;
    let files = checks::files(&daemon.state_dir)?;
    ensure!(
        !files.iter().any(|path| path.ends_with("writable.ext4")),
        "An ephemeral VM has a disk"
    );
    volar.ok(&["vms", "start", VM, "--timeout", "300s"])?;
    http::wait_for_body(address, "/cgi-bin/read", "No such file", PAGE_LIMIT)?;
    printer::progress("e2e", "ephemeral: written, stopped, started, gone");
    volar.ok(&["vms", "delete", VM, "--yes"]).map(drop)
}
