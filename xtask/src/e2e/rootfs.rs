//! Plugins that boot a root file system: what a guest writes is there after a stop, a start and the death of its VMM, and lost where the
//! VM is ephemeral. The container image is small, and made here; fledge makes a file system of each format of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use common::agent::HealthState;
use common::api::VmStatus;
use common::manifest::RootfsFormat;
use fs_err as fs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::aftermath::nothing_left;
use super::daemon::Daemon;
use super::scenario::{ScenarioArguments, wait_for};
use super::volar::Volar;
use super::{checks, http};
use crate::oci_layout::{Layout, entry};
use crate::{printer, process};

/// What the service says at `/`.
pub(super) const PAGE: &str = "Hello from a root file system";

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
        let manifest = manifest_of(&images, format);
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

fn manifest_of(images: &Path, format: RootfsFormat) -> PathBuf {
    images.join(format!("{format}.img.manifest.json"))
}

/// A folder with `<format>.img` and its manifest for every format: the one that was given, or one that fledge fills now.
fn prepare(arguments: &ScenarioArguments) -> Result<PathBuf> {
    if let Some(images) = &arguments.rootfs {
        return Ok(images.clone());
    }
    let folder = arguments.work.join("rootfs");
    container_image(arguments, &folder.join("image"))?;
    for format in RootfsFormat::ALL {
        let spec = format!(
            "version = \"1\"\nstrategy = \"oci_rootfs\"\n[source]\nimage = \"oci:image:latest\"\n\
             [filesystem]\ntype = \"{format}\"\noverlay_size = \"64M\"\n"
        );
        let template = format!("name = \"{}\"\nversion = \"1\"\n", plugin(format));
        let (spec_name, template_name) =
            (format!("{format}.toml"), format!("{format}.manifest.toml"));
        fs::write(folder.join(&spec_name), spec)?;
        fs::write(folder.join(&template_name), template)?;
        let mut fledge = Command::new(arguments.dist.join("fledge"));
        fledge
            .args([
                "build",
                "--config",
                &spec_name,
                "--manifest",
                &template_name,
            ])
            .args(["--output", &format!("{format}.img")])
            .current_dir(&folder)
            .env("XDG_CACHE_HOME", folder.join("cache"));
        let said = process::captured(&mut fledge)?;
        printer::progress("e2e", said.lines().next().unwrap_or_default());
    }
    Ok(folder)
}

/// An image of busybox's web server, with a user for it.
pub(super) fn container_image(arguments: &ScenarioArguments, folder: &Path) -> Result<()> {
    use tar::EntryType::{Directory, Regular, Symlink};
    let busybox = fs::read(&arguments.busybox)?;
    let mut layout = Layout::begin(folder)?;
    layout.layer(|tar| {
        entry(tar, "bin/busybox", Regular, 0o755, &busybox)?;
        for name in [
            "sh", "cat", "echo", "grep", "httpd", "id", "ls", "sync", "test",
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(Symlink);
            header.set_mode(0o777);
            header.set_size(0);
            tar.append_link(&mut header, format!("bin/{name}"), "busybox")?;
        }
        entry(tar, "tmp/", Directory, 0o1777, b"")
    })?;
    layout.layer(|tar| {
        for (path, mode, text) in [
            (
                "etc/passwd",
                0o644,
                "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001:web:/srv:/bin/sh\n",
            ),
            (
                "etc/group",
                0o644,
                "root:x:0:\nweb:x:1001:\nextra:x:2000:web\n",
            ),
            ("srv/www/index.html", 0o644, PAGE),
            ("srv/www/cgi-bin/write", 0o755, WRITE),
            ("srv/www/cgi-bin/read", 0o755, READ),
        ] {
            entry(tar, path, Regular, mode, text.as_bytes())?;
        }
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(Directory);
        header.set_mode(0o700);
        header.set_uid(1000);
        header.set_gid(1001);
        header.set_size(0);
        tar.append_data(&mut header, "srv/data/", std::io::empty())?;
        Ok(())
    })?;
    layout.finish(&json!({
        "Entrypoint": ["httpd", "-f", "-p", "80", "-h", "/srv/www"],
        "User": "web",
        "WorkingDir": "/srv/made/by/agent",
        "ExposedPorts": {"80/tcp": {}},
        "StopSignal": "SIGINT",
        "Healthcheck": {"Test": ["CMD", "sh", "-c", "test $(id -u) = 1000 && cat /srv/www/index.html"]},
    }))
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
            json!({"url": manifest_of(images, RootfsFormat::Erofs)}),
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
