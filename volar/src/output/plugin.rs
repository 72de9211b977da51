//! Plugins for people. Pure text.

use common::api::{InstalledPlugin, PluginArtifact};
use common::manifest::{HealthCheck, Manifest, Rootfs, WorkloadKind};

use super::table;

/// The table of `plugins list`.
pub fn plugin_table(plugins: &[InstalledPlugin], is_wide: bool) -> String {
    if plugins.is_empty() {
        return "No plugins".to_owned();
    }
    let mut columns = vec!["NAME", "VERSION", "ENABLED", "RUNTIME"];
    if is_wide {
        columns.extend(["KIND", "SIZE", "PINNED", "INSTALLED", "DIGEST"]);
    }
    let rows: Vec<Vec<String>> = plugins
        .iter()
        .map(|plugin| {
            let mut row = vec![
                plugin.name.to_string(),
                plugin.version.clone(),
                yes_no(plugin.enabled).to_owned(),
                plugin.runtime.clone(),
            ];
            if is_wide {
                let artifact = &plugin.artifact;
                row.extend([
                    artifact.kind.clone(),
                    size(artifact.size_bytes),
                    yes_no(artifact.pinned).to_owned(),
                    plugin.installed_at.clone(),
                    artifact.digest.to_string(),
                ]);
            }
            row
        })
        .collect();
    table::render(&columns, &rows)
}

/// All that is known of a plugin.
pub fn plugin_details(manifest: &Manifest, artifacts: &[PluginArtifact]) -> String {
    let workload = &manifest.workload;
    let kind = match workload.kind {
        WorkloadKind::Http => "http",
        WorkloadKind::Exec => "exec",
    };
    let health_text = manifest
        .health_check
        .as_ref()
        .map_or_else(|| "ready when its workload runs".to_owned(), health);
    let mut rows = vec![
        ("Name", manifest.name.to_string()),
        ("Version", manifest.version.clone()),
        ("Runtime", manifest.runtime.clone()),
        ("Enabled", yes_no(manifest.enabled).to_owned()),
        (
            "Size",
            format!(
                "{} CPU, {} MiB unless asked otherwise",
                manifest.resources.cpu_cores, manifest.resources.memory_mb
            ),
        ),
        (
            "Workload",
            format!("{kind}: {}", workload.entrypoint.join(" ")),
        ),
    ];
    if let Some(base_url) = &workload.base_url {
        rows.push(("Serves", base_url.clone()));
    }
    if !manifest.network.expose.is_empty() {
        rows.push(("Ports", ports(manifest)));
    }
    if let Some(user) = &workload.user {
        rows.push(("User", user.clone()));
    }
    rows.push(("Health", health_text));
    if let Some(rootfs) = &manifest.rootfs {
        rows.push(("Writes", writes(rootfs).to_owned()));
    }
    for artifact in artifacts {
        let pinned = if artifact.pinned {
            "pinned"
        } else {
            "unpinned"
        };
        rows.push((
            "Artifact",
            format!(
                "{}, {}, {}\n{}\nfrom {}",
                artifact.kind,
                size(artifact.size_bytes),
                pinned,
                artifact.digest,
                artifact.source_url
            ),
        ));
    }
    table::details(&rows)
}

fn health(check: &HealthCheck) -> String {
    let what = match (&check.endpoint, check.tcp_port, &check.command) {
        (Some(endpoint), ..) => format!("GET {endpoint}"),
        (None, Some(port), _) => format!("port {port} accepts"),
        (None, None, command) => command.as_deref().unwrap_or_default().join(" "),
    };
    format!("{what} within {} ms", check.timeout_ms)
}

fn ports(manifest: &Manifest) -> String {
    let ports = manifest.network.expose.iter();
    let ports: Vec<String> = ports
        .map(|expose| format!("{}/{}", expose.port, expose.protocol.as_str()))
        .collect();
    ports.join(", ")
}

/// What becomes of what a guest writes, unless its creator asks otherwise.
const fn writes(rootfs: &Rootfs) -> &'static str {
    if rootfs.ephemeral {
        "in memory, lost when the VM stops"
    } else {
        "on a disk of each VM, kept until it is deleted"
    }
}

/// What is said when a plugin is installed.
pub fn installed_line(plugin: &InstalledPlugin) -> String {
    format!(
        "Plugin {} {} is installed ({}, {})",
        plugin.name,
        plugin.version,
        plugin.artifact.digest,
        size(plugin.artifact.size_bytes)
    )
}

/// A size in its largest unit with one decimal.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // Tenths of a unit, so that no floating point is needed.
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

const fn yes_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_one_decimal() {
        let table = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (20 * 1024 * 1024, "20.0 MiB"),
            (5 * 1024 * 1024 * 1024, "5.0 GiB"),
            (u64::MAX, "16777215.9 TiB"),
        ];
        for (bytes, expected) in table {
            assert_eq!(size(bytes), expected);
        }
    }
}
