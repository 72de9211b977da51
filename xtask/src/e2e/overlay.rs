//! An initramfs over a container image: the image's files, and over them those of mappings, in one guest.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use fs_err as fs;

use super::volar::Volar;
use super::{ScenarioArguments, http, rootfs};
use crate::{printer, process};

/// The plugin and its VM.
const NAME: &str = "overlay";

/// What a mapping adds, and what one puts in place of a file of the image.
const MAPPED: &str = "This file was mapped";

/// How long one page may take. The guest is up then.
const PAGE_LIMIT: Duration = Duration::from_secs(30);

const SPEC: &str = r#"version = "1"
strategy = "initramfs"

[source]
image = "oci:image:latest"

[mappings]
"mapped.html" = "/srv/www/mapped.html"
"mapped.sh" = "/srv/www/cgi-bin/read"
"#;

/// Builds it, boots it, asks for files of both, and removes it.
pub(super) fn run(arguments: &ScenarioArguments, volar: &Volar) -> Result<()> {
    let manifest = build(arguments)?;
    volar.ok(&[
        "plugins",
        "install",
        "--manifest",
        &manifest.to_string_lossy(),
    ])?;
    let create = ["vms", "create", NAME, "--plugin", NAME];
    volar.ok(&[&create[..], &["--memory", "128", "--timeout", "300s"]].concat())?;
    let address: SocketAddr = format!("{}:80", volar.vm(NAME)?.ip_address).parse()?;
    for (path, expected) in [
        ("/", rootfs::PAGE),
        ("/mapped.html", MAPPED),
        // One of the image's own programs, which runs as the image's user and writes where only that one may.
        ("/cgi-bin/write?note", "kept note as 1000:1001 1001 2000"),
        // One that a mapping replaced.
        ("/cgi-bin/read", MAPPED),
    ] {
        http::wait_for_body(address, path, expected, PAGE_LIMIT)?;
    }
    printer::progress(
        "e2e",
        "an initramfs over a container image serves files of the image and of mappings",
    );
    volar.ok(&["vms", "delete", NAME, "--yes"])?;
    volar.ok(&["plugins", "remove", NAME]).map(drop)
}

fn build(arguments: &ScenarioArguments) -> Result<PathBuf> {
    let folder = arguments.work.join(NAME);
    rootfs::container_image(arguments, &folder.join("image"))?;
    let script = format!("#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n{MAPPED}\\n'\n");
    let template = format!("name = \"{NAME}\"\nversion = \"1\"\n");
    for (name, text) in [
        ("fledge.toml", SPEC),
        ("manifest.toml", &template),
        ("mapped.html", MAPPED),
        ("mapped.sh", &script),
    ] {
        fs::write(folder.join(name), text)?;
    }
    let program = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(folder.join("mapped.sh"), program)?;
    let mut fledge = Command::new(arguments.dist.join("fledge"));
    fledge
        .args(["build", "--output", "plugin.cpio.gz"])
        .current_dir(&folder)
        .env("XDG_CACHE_HOME", folder.join("cache"));
    let said = process::captured(&mut fledge)?;
    printer::progress("e2e", said.lines().next().unwrap_or_default());
    Ok(folder.join("plugin.cpio.gz.manifest.json"))
}
