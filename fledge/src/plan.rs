//! What a build needs, as a value: build spec and flags become files to find and places to put them. Pure; nothing is looked at.

use std::path::{Path, PathBuf};

use common::build_spec::{
    AgentSource, BuildSpec, Compression, Download, GuestPath, Init, Output, ReleaseVersion,
};
use common::digest::Digest;

/// Where the image's own programs come from, if not from where the build spec says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// The agent.
    pub agent: Option<PathBuf>,
    /// The busybox.
    pub busybox: Option<PathBuf>,
}

/// A file that the build needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileSource {
    /// A file of the host.
    Host {
        /// Its path.
        path: PathBuf,
        /// What it must be, if that is known.
        checksum: Option<Digest>,
    },
    /// A file to download.
    Download(Download),
    /// The agent of a release.
    Release {
        /// Which one.
        version: ReleaseVersion,
        /// What it must be, if that is known.
        checksum: Option<Digest>,
    },
}

/// What becomes `/init`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlannedInit {
    /// The agent, at `/bin/kestrel`.
    Agent(FileSource),
    /// A program of the user's.
    Custom(PathBuf),
    /// Whatever a mapping brings.
    None,
}

/// One mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// The file or directory on the host.
    pub host: PathBuf,
    /// Where it goes.
    pub guest: GuestPath,
}

/// What a build needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What becomes `/init`.
    pub init: PlannedInit,
    /// The busybox, if there is to be one.
    pub busybox: Option<FileSource>,
    /// The mappings in the order of their host paths as written, which is the order in which they are applied.
    pub mappings: Vec<Mapping>,
}

/// The one output that is built so far.
const PLAIN_OUTPUT: Output = Output::Initramfs {
    compression: Compression::Gzip,
};

/// Flags that contradict the build spec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// An agent is given, but another program is PID 1.
    #[error(
        "`--agent` has no meaning with an init of your own (`init.path` or `init.none` in the build spec)"
    )]
    AgentUnused,
    /// The spec asks for what is not built yet.
    #[error("Building {0} is not supported by this version of fledge")]
    Unsupported(&'static str),
}

/// Plans a build. Paths in the spec are taken from `directory`, where it lies; those in `overrides` are used as they are.
///
/// # Errors
/// Where the overrides contradict the spec.
pub fn plan(spec: &BuildSpec, overrides: &Overrides, directory: &Path) -> Result<Plan, PlanError> {
    let unsupported = match spec {
        BuildSpec { base: Some(_), .. } => Some("from an image or a Dockerfile"),
        BuildSpec { fetches, .. } if !fetches.is_empty() => Some("with `[[fetch]]`"),
        BuildSpec { output, .. } if *output != PLAIN_OUTPUT => Some("this format"),
        BuildSpec { .. } => None,
    };
    if let Some(what) = unsupported {
        return Err(PlanError::Unsupported(what));
    }
    let host = |path: &PathBuf| FileSource::Host {
        path: path.clone(),
        checksum: None,
    };
    let init = match (&spec.init, &overrides.agent) {
        (Init::Agent(_), Some(path)) => PlannedInit::Agent(host(path)),
        (Init::Agent(source), None) => PlannedInit::Agent(agent(source, directory)),
        (Init::Custom(_) | Init::None, Some(_)) => return Err(PlanError::AgentUnused),
        (Init::Custom(path), None) => PlannedInit::Custom(directory.join(path)),
        (Init::None, None) => PlannedInit::None,
    };
    let busybox = match (&overrides.busybox, &spec.busybox) {
        (Some(path), _) => Some(host(path)),
        (None, download) => download.clone().map(FileSource::Download),
    };
    let mappings = spec
        .mappings
        .iter()
        .map(|(host, guest)| Mapping {
            host: directory.join(host),
            guest: guest.clone(),
        })
        .collect();
    Ok(Plan {
        init,
        busybox,
        mappings,
    })
}

fn agent(source: &AgentSource, directory: &Path) -> FileSource {
    match source {
        AgentSource::Release { version, checksum } => FileSource::Release {
            version: version.clone(),
            checksum: *checksum,
        },
        AgentSource::Local { path, checksum } => FileSource::Host {
            path: directory.join(path),
            checksum: *checksum,
        },
        AgentSource::Http(download) => FileSource::Download(download.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "version = \"1\"\nstrategy = \"initramfs\"\n";

    fn planned(rest: &str, overrides: &Overrides) -> Result<Plan, PlanError> {
        let spec = BuildSpec::parse(&format!("{HEAD}{rest}")).unwrap();
        plan(&spec, overrides, Path::new("/src"))
    }

    fn host(path: &str) -> FileSource {
        FileSource::Host {
            path: path.into(),
            checksum: None,
        }
    }

    #[test]
    fn paths_are_taken_from_the_specs_directory() {
        let plan = planned(
            "[agent]\nsource_strategy = \"local\"\npath = \"bin/k\"\n[mappings]\n\"b\" = \"/b\"\n\"a/../c\" = \"/c\"\n\"/abs\" = \"/a\"",
            &Overrides::default(),
        )
        .unwrap();
        assert_eq!(plan.init, PlannedInit::Agent(host("/src/bin/k")));
        let hosts: Vec<_> = plan
            .mappings
            .iter()
            .map(|mapping| mapping.host.to_str().unwrap())
            .collect();
        assert_eq!(hosts, ["/abs", "/src/a/../c", "/src/b"]);
    }

    #[test]
    fn the_default_agent_is_that_of_the_latest_release() {
        let plan = planned("", &Overrides::default()).unwrap();
        let release = FileSource::Release {
            version: ReleaseVersion::Latest,
            checksum: None,
        };
        assert_eq!(plan.init, PlannedInit::Agent(release));
        assert_eq!(plan.busybox, None);
    }

    #[test]
    fn overrides_come_first() {
        let overrides = Overrides {
            agent: Some("k".into()),
            busybox: Some("b".into()),
        };
        let source = "[source]\nbusybox_url = \"https://busybox.net/downloads/binaries/1.35.0-x86_64-linux-musl/busybox\"";
        let plan = planned(source, &overrides).unwrap();
        assert_eq!(plan.init, PlannedInit::Agent(host("k")));
        assert_eq!(plan.busybox, Some(host("b")));
        for init in ["[init]\nnone = true", "[init]\npath = \"i\""] {
            assert_eq!(planned(init, &overrides), Err(PlanError::AgentUnused));
        }
    }

    #[test]
    fn an_init_of_ones_own_needs_no_agent() {
        let none = Overrides::default();
        assert_eq!(
            planned("[init]\nnone = true", &none).unwrap().init,
            PlannedInit::None
        );
        let custom = planned("[init]\npath = \"i\"", &none).unwrap().init;
        assert_eq!(custom, PlannedInit::Custom("/src/i".into()));
    }
}
