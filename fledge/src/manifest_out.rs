//! The manifest that goes beside an artifact. Composes only: reading the template and writing the file are the command's work.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use common::build_spec::{ManifestTemplate, Output};
use common::digest::Digest;
use common::manifest::{MAX_WAIT_MS, Manifest, ManifestError, Protocol};
use serde_json::{Value, json};

use crate::oci::Config;

/// What is appended to the artifact's name.
const SUFFIX: &str = ".manifest.json";

/// Where the manifest of the artifact at `output` goes.
pub fn path_beside(output: &Path) -> PathBuf {
    let mut name = output.file_name().map(OsString::from).unwrap_or_default();
    name.push(SUFFIX);
    output.with_file_name(name)
}

/// The manifest of the artifact at `path`, which the build made as `output` says. Its URL is relative, so that the two can be moved and published together.
///
/// # Errors
/// Everything that a manifest can be refused for.
pub fn compose(
    template: &ManifestTemplate,
    path: &Path,
    checksum: Option<Digest>,
    output: &Output,
) -> Result<Manifest, ManifestError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    template.manifest(&name, checksum, output)
}

/// What a container image gives to the manifest, as members of one: its author's own words come over it.
///
/// The only TCP port of an image becomes the workload's `base_url`, so that the plugin is ready when it accepts connections.
pub fn defaults(config: &Config, name: &str, version: &str) -> Value {
    let said = config.defaults();
    // An image without an entrypoint names its program in Cmd.
    let (entrypoint, args) = if config.entrypoint.is_empty() {
        (&config.cmd, &Vec::new())
    } else {
        (&config.entrypoint, &config.cmd)
    };
    let mut workload = json!({"entrypoint": entrypoint, "args": args, "env": said.env});
    let tcp: Vec<u16> = said
        .expose
        .iter()
        .filter(|(_, protocol)| *protocol == Protocol::Tcp)
        .map(|(port, _)| *port)
        .collect();
    if let [port] = tcp.as_slice() {
        workload["type"] = "http".into();
        workload["base_url"] = format!("http://127.0.0.1:{port}").into();
    }
    for (key, value) in [
        ("workdir", said.workdir),
        ("user", said.user),
        ("stop_signal", said.stop_signal),
    ] {
        if let Some(value) = value {
            workload[key] = value.into();
        }
    }
    let mut defaults = json!({"name": name, "version": version, "workload": workload});
    if !said.expose.is_empty() {
        let expose = said
            .expose
            .iter()
            .map(|(port, protocol)| json!({"port": port, "protocol": protocol.as_str()}));
        defaults["network"] = json!({"expose": expose.collect::<Vec<_>>()});
    }
    if let Some(health) = said.health {
        let timeout_ms = u64::try_from(health.startup.as_millis()).unwrap_or(u64::MAX);
        defaults["health_check"] = json!({
            "command": health.command,
            "timeout_ms": timeout_ms.min(MAX_WAIT_MS),
        });
    }
    if !config.labels.is_empty() {
        defaults["labels"] = json!(config.labels);
    }
    defaults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_lies_beside_its_artifact() {
        for (output, expected) in [
            ("plugin.cpio.gz", "plugin.cpio.gz.manifest.json"),
            ("/a/b/x", "/a/b/x.manifest.json"),
        ] {
            assert_eq!(path_beside(Path::new(output)), Path::new(expected));
        }
    }

    #[test]
    fn its_url_is_relative() {
        let template = ManifestTemplate::from_toml(
            "name = \"x\"\nversion = \"1\"\n[workload]\nentrypoint = \"/x\"",
        )
        .unwrap();
        let manifest = compose(
            &template,
            Path::new("/a/b/p.cpio.gz"),
            Some(Digest::of(b"")),
            &Output::default(),
        )
        .unwrap();
        assert_eq!(manifest.artifact().url, "p.cpio.gz");
        assert_eq!(
            Manifest::from_json(manifest.to_json_pretty().as_bytes()).unwrap(),
            manifest
        );
    }

    #[test]
    fn an_image_says_what_it_runs() {
        let texts = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
        let config = Config {
            entrypoint: texts(&["/entry"]),
            cmd: texts(&["run"]),
            env: texts(&["A=1"]),
            user: "web".to_owned(),
            working_dir: "/srv".to_owned(),
            exposed_ports: texts(&["8080/tcp", "53/udp"]),
            stop_signal: Some("SIGQUIT".to_owned()),
            ..Config::default()
        };
        let template = ManifestTemplate::from_toml("[env]\nB = \"2\"").unwrap();
        let rootfs = common::build_spec::BuildSpec::parse(
            "version = \"1\"\nstrategy = \"oci_rootfs\"\n[source]\nimage = \"x\"",
        )
        .unwrap()
        .output;
        let defaults = defaults(&config, "app", "1.2");
        let manifest = compose(
            &template.over(&defaults),
            Path::new("x.erofs"),
            None,
            &rootfs,
        );
        let manifest = manifest.unwrap();
        assert_eq!(manifest.name.as_str(), "app");
        let workload = &manifest.workload;
        assert_eq!(workload.entrypoint, ["/entry", "run"]);
        assert_eq!(workload.env.len(), 2);
        assert_eq!(workload.base_url.as_deref(), Some("http://127.0.0.1:8080"));
        assert_eq!(workload.user.as_deref(), Some("web"));
        assert_eq!(workload.workdir.as_deref(), Some("/srv"));
        assert_eq!(workload.stop_signal().to_string(), "SIGQUIT");
        assert_eq!(manifest.network.expose.len(), 2);

        let only_cmd = Config {
            cmd: texts(&["sh", "-c", "x"]),
            ..Config::default()
        };
        let defaults = super::defaults(&only_cmd, "app", "1");
        assert_eq!(defaults["workload"]["entrypoint"][0], "sh");
        assert_eq!(defaults["workload"]["args"], json!([]));
    }
}
