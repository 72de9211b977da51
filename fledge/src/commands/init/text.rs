//! The texts of the two files. Each shows what there is, and does what was asked for without a change.

use common::build_spec::DEFAULT_BUSYBOX_URL;

/// Where the schemas of both files are: editors with a TOML language server complete and check keys by them.
const SCHEMAS: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/raw/HEAD/docs/schemas");

/// What a plugin is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// A program.
    Binary {
        /// Where it is.
        path: String,
        /// Where it goes.
        guest: String,
        /// Whether the image must have a shell.
        has_shell: bool,
    },
    /// A container image, by its reference.
    Image(String),
    /// The image that a Dockerfile makes.
    Dockerfile(String),
}

/// The `fledge.toml`.
pub(super) fn spec(source: &Source) -> String {
    let (strategy, parts) = match source {
        Source::Binary {
            path,
            guest,
            has_shell,
        } => (INITRAMFS, of_binary(path, guest, *has_shell)),
        Source::Image(image) => {
            let image = quoted(image);
            let parts = format!(
                "# The image that is taken. NAME@sha256:… takes the same one at every build.\n[source]\nimage = {image}\n{FILESYSTEM}"
            );
            (ROOTFS, parts)
        }
        Source::Dockerfile(path) => {
            let path = quoted(path);
            let parts = format!(
                "# The image that is built first, by docker, podman or buildah.\n[source]\ndockerfile = {path}\n{DOCKERFILE_OPTIONS}{FILESYSTEM}"
            );
            (ROOTFS, parts)
        }
    };
    format!(
        "#:schema {SCHEMAS}/fledge-toml-v1.json\n# What goes into the image. `fledge check` finds mistakes, `fledge build` makes the artifact.\nversion = \"1\"\n{strategy}\n{AGENT}\n{parts}"
    )
}

/// The `manifest.toml`.
pub(super) fn manifest(name: &str, source: &Source) -> String {
    let mut text = format!(
        "#:schema {SCHEMAS}/manifest-toml-v1.json\n# What the plugin is and how it runs. `fledge build` adds the artifact with its checksum and writes it as JSON.\nschema_version = \"v1\"\nname = {}\nversion = \"0.1.0\"\n\n{RESOURCES}\n",
        quoted(name)
    );
    match source {
        Source::Binary { guest, .. } => {
            let entrypoint = quoted(guest);
            text.push_str(&format!("{WORKLOAD}entrypoint = [{entrypoint}]\n{HEALTH}"));
        }
        Source::Image(_) | Source::Dockerfile(_) => text.push_str(OVERRIDES),
    }
    text
}

const INITRAMFS: &str = "\
strategy = \"initramfs\"              # An archive that is unpacked into memory at each boot
# compression = \"zstd\"              # Or \"none\": a larger file that boots faster
";

const ROOTFS: &str = "\
strategy = \"oci_rootfs\"             # An image of a file system, mounted as a disk
";

const AGENT: &str = "\
# The agent, PID 1 of every VM: the one that is installed beside fledge, else that of the newest release.
[agent]
source_strategy = \"release\"
version = \"latest\"
";

const FETCH: &str = "
# Files that are downloaded, and where they go. Of an archive (tar.gz, tar.xz, tar.zst, zip) one member is taken.
# [[fetch]]
# url = \"https://example.org/app-1.0.tar.gz\"
# sha256 = \"…\"
# member = \"app-1.0/app\"
# path = \"/usr/bin/app\"
# mode = \"0755\"
";

const DOCKERFILE_OPTIONS: &str = "\
# context = \".\"                     # What COPY sees, if it is not the Dockerfile's directory
# target = \"run\"                    # The stage, if it is not the last one
# build_args = { VERSION = \"1.0\" }
";

const FILESYSTEM: &str = "
[filesystem]
type = \"erofs\"                      # Or \"squashfs\" or \"ext4\"
# overlay_size = \"1G\"               # How much a VM can write
# ephemeral = true                  # Keep what it writes in memory only, until it stops

# Files and directories of this machine that are laid over the image, and where they go.
# [mappings]
# \"app.conf\" = \"/etc/app.conf\"
";

fn of_binary(path: &str, guest: &str, has_shell: bool) -> String {
    let url = quoted(DEFAULT_BUSYBOX_URL);
    let busybox = if has_shell {
        format!(
            "# The shell and its tools. The checksum of this busybox is known.\n[source]\nbusybox_url = {url}\n"
        )
    } else {
        format!(
            "# A shell and its tools, for the console. The checksum of this busybox is known.\n# [source]\n# busybox_url = {url}\n"
        )
    };
    let (path, guest) = (quoted(path), quoted(guest));
    format!(
        "{busybox}\n# Files and directories of this machine, and where they go.\n[mappings]\n{path} = {guest}\n# \"app.conf\" = \"/etc/app.conf\"\n{FETCH}"
    )
}

const RESOURCES: &str = "\
# What a VM gets unless it is asked for otherwise.
[resources]
cpu_cores = 1
memory_mb = 256
";

const WORKLOAD: &str = "\
[workload]
type = \"exec\"                       # Or \"http\", if it serves HTTP at `base_url`
# base_url = \"http://127.0.0.1:8080\"
";

const HEALTH: &str = "\
# workdir = \"/\"
# user = \"1000:1000\"                # Root, if not given
# restart = \"on-failure\"            # Or \"always\" (if not given) or \"never\"
# env = { LOG = \"info\" }

# A VM is ready when this path answers with 2xx; without it, when the program runs.
# [health_check]
# endpoint = \"/healthz\"

# Later on: when it answers no more, three times in a row, the program is started again.
# [liveness]
# endpoint = \"/healthz\"              # Or tcp_port = 8080, or command = [\"/usr/bin/app\", \"--check\"]
# interval_ms = 10000
";

const OVERRIDES: &str = "\
# The image says what runs, as whom and where. What is given here comes first.
# [workload]
# entrypoint = [\"/usr/bin/app\"]     # Replaces the image's ENTRYPOINT and CMD
# args = [\"--verbose\"]              # Replaces the image's CMD
# base_url = \"http://127.0.0.1:80\"
# workdir = \"/\"
# user = \"1000:1000\"
# stop_signal = \"SIGTERM\"
# restart = \"on-failure\"            # Or \"always\" (if not given) or \"never\"

# Added to the image's environment.
# [env]
# LOG = \"info\"

# A VM is ready when this path answers with 2xx; without it, when the program runs.
# [health_check]
# endpoint = \"/healthz\"

# Later on: when it answers no more, three times in a row, the program is started again.
# [liveness]
# endpoint = \"/healthz\"              # Or tcp_port = 8080, or command = [\"/usr/bin/app\", \"--check\"]
# interval_ms = 10000
";

/// `text` as a TOML string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\U{:08X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use common::build_spec::{Base, BuildSpec, ManifestTemplate};

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let name = "app";
        for odd in ["app", "a \"b\"\\\u{7}\n é"] {
            let source = Source::Binary {
                path: odd.to_owned(),
                guest: "/usr/bin/app".to_owned(),
                has_shell: odd == "app",
            };
            let spec = BuildSpec::parse(&spec(&source)).unwrap();
            assert_eq!(spec.mappings[odd].as_str(), "/usr/bin/app");
            assert_eq!(spec.busybox.is_some(), odd == "app");
            let manifest = ManifestTemplate::from_complete_toml(&manifest(name, &source))
                .unwrap()
                .manifest("x", None, &spec.output)
                .unwrap();
            assert_eq!(manifest.workload.entrypoint, ["/usr/bin/app"]);
        }
        let image = Source::Image("nginx:alpine".to_owned());
        let dockerfile = Source::Dockerfile("../Dockerfile".to_owned());
        for source in [image, dockerfile] {
            let spec = BuildSpec::parse(&spec(&source)).unwrap();
            assert!(matches!(
                spec.base,
                Some(Base::Image(_) | Base::Dockerfile(_))
            ));
            ManifestTemplate::from_toml(&manifest(name, &source)).unwrap();
        }
    }

    /// What is commented out is a suggestion, and has to be a good one.
    #[test]
    fn suggestions_are_right() {
        let name = "app";
        let uncommented = |text: &str| {
            let is_code = |line: &&str| line.contains(" = ") || line.starts_with("# [");
            let lines = text.lines().map(|line| match line.strip_prefix("# ") {
                Some(code) if is_code(&line) => code,
                _ => line,
            });
            lines.collect::<Vec<_>>().join("\n")
        };
        let binary = Source::Binary {
            path: "app".to_owned(),
            guest: "/usr/bin/app".to_owned(),
            has_shell: false,
        };
        for source in [
            binary,
            Source::Image("x".to_owned()),
            Source::Dockerfile("Dockerfile".to_owned()),
        ] {
            let spec = uncommented(&spec(&source)).replace('…', &"0".repeat(64));
            BuildSpec::parse(&spec).unwrap();
            let manifest = uncommented(&manifest(name, &source));
            ManifestTemplate::from_toml(&manifest).unwrap();
        }
    }
}
