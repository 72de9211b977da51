//! What a build needs, as a value: build spec and flags become files to find and places to put them. Pure; nothing is looked at.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::build_spec::{
    AgentSource, Base, BuildSpec, Compression, Download, Fetch, FilesystemKind, GuestPath, Init,
    Output, ReleaseVersion,
};
use common::digest::Digest;

use crate::oci::{Place, Source};

/// Where the image's own programs come from, if not from where the build spec says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// The agent.
    pub agent: Option<PathBuf>,
    /// The busybox.
    pub busybox: Option<PathBuf>,
    /// Whether an initramfs is built of what would be a root file system.
    pub initramfs: bool,
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

/// The files that all others are laid over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlannedBase {
    /// Those of a container image.
    Image {
        /// Its reference as written.
        reference: String,
        /// The directory that a path in the reference is taken from.
        directory: PathBuf,
    },
    /// Those of an image that is built first.
    Dockerfile {
        /// The Dockerfile.
        path: PathBuf,
        /// The directory that its `COPY` sees.
        context: PathBuf,
        /// The stage to build, if not the last.
        target: Option<String>,
        /// Values of its `ARG`s.
        build_args: BTreeMap<String, String>,
    },
}

impl PlannedBase {
    /// What the user calls it.
    pub fn name(&self) -> String {
        match self {
            Self::Image { reference, .. } => reference.clone(),
            Self::Dockerfile { path, .. } => path.display().to_string(),
        }
    }
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
    /// What becomes `/init`, or of a root file system PID 1.
    pub init: PlannedInit,
    /// The files that all others are laid over.
    pub base: Option<PlannedBase>,
    /// The busybox, if there is to be one.
    pub busybox: Option<FileSource>,
    /// The mappings in the order of their host paths as written, which is the order in which they are applied.
    pub mappings: Vec<Mapping>,
    /// Files to download, and where they go.
    pub fetches: Vec<Fetch>,
    /// What all this becomes.
    pub output: Output,
}

impl Plan {
    /// The files and directories of the host that the build reads, as far as the plan names them.
    pub fn host_files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = self
            .mappings
            .iter()
            .map(|mapping| mapping.host.clone())
            .collect();
        match &self.init {
            PlannedInit::Agent(FileSource::Host { path, .. }) | PlannedInit::Custom(path) => {
                files.push(path.clone());
            }
            PlannedInit::Agent(_) | PlannedInit::None => {}
        }
        if let Some(FileSource::Host { path, .. }) = &self.busybox {
            files.push(path.clone());
        }
        match &self.base {
            Some(PlannedBase::Dockerfile { path, .. }) => files.push(path.clone()),
            Some(PlannedBase::Image {
                reference,
                directory,
            }) => {
                if let Ok(source) = Source::parse(reference, directory)
                    && let Place::Path { path, .. } = source.place
                {
                    files.push(path);
                }
            }
            None => {}
        }
        files
    }
}

/// Flags that contradict the build spec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// An agent is given, but another program is PID 1.
    #[error(
        "`--agent` has no meaning with an init of your own (`init.path` or `init.none` in the build spec)"
    )]
    AgentUnused,
    /// A busybox is given, but nothing would hold it.
    #[error(
        "`--busybox` has no meaning with a root file system: its image brings its own programs"
    )]
    BusyboxUnused,
    /// An initramfs is asked for, and is built anyway.
    #[error(
        "`--output-initramfs` has no meaning with strategy `initramfs`, which builds nothing else"
    )]
    AlreadyInitramfs,
}

/// Plans a build. Paths in the spec are taken from `directory`, where it lies; those in `overrides` are used as they are.
///
/// # Errors
/// Where the overrides contradict the spec.
pub fn plan(spec: &BuildSpec, overrides: &Overrides, directory: &Path) -> Result<Plan, PlanError> {
    let output = match (spec.output, overrides.initramfs) {
        (Output::Rootfs(_), true) => Output::Initramfs {
            compression: Compression::Gzip,
        },
        (Output::Initramfs { .. }, true) => return Err(PlanError::AlreadyInitramfs),
        (output, false) => output,
    };
    if overrides.busybox.is_some() && matches!(output, Output::Rootfs(_)) {
        return Err(PlanError::BusyboxUnused);
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
        base: spec.base.as_ref().map(|spec| base(spec, directory)),
        busybox,
        mappings,
        fetches: spec.fetches.clone(),
        output,
    })
}

fn base(spec: &Base, directory: &Path) -> PlannedBase {
    match spec {
        Base::Image(reference) => PlannedBase::Image {
            reference: reference.clone(),
            directory: directory.to_path_buf(),
        },
        Base::Dockerfile(spec) => {
            let path = directory.join(&spec.path);
            let context = match &spec.context {
                Some(context) => directory.join(context),
                None => path.parent().unwrap_or(directory).to_path_buf(),
            };
            PlannedBase::Dockerfile {
                path,
                // The directory of a file that is named without one.
                context: if context == Path::new("") {
                    PathBuf::from(".")
                } else {
                    context
                },
                target: spec.target.clone(),
                build_args: spec.build_args.clone(),
            }
        }
    }
}

/// The name of an artifact that nobody named, as the Go system has it: that of its image, or of the folder that was built, with an
/// ending that says what it is. `folder` is the context of a Dockerfile that was given instead of a build spec.
pub fn artifact_name(plan: &Plan, folder: Option<&str>) -> String {
    let base = match (&plan.base, folder) {
        (_, Some(folder)) => Some(folder.to_lowercase()),
        (Some(PlannedBase::Image { reference, .. }), None)
            if matches!(plan.output, Output::Rootfs(_)) =>
        {
            let source = Source::parse(reference, Path::new("")).ok();
            source.map(|source| source.name_and_version().0)
        }
        _ => None,
    };
    let base = base
        .as_deref()
        .filter(|name| !name.is_empty())
        .unwrap_or("plugin")
        .replace([' ', '/'], "-");
    let ending = match plan.output {
        Output::Initramfs { compression } => match compression {
            Compression::Gzip => "cpio.gz",
            Compression::Zstd => "cpio.zst",
            Compression::None => "cpio",
        },
        Output::Rootfs(filesystem) => match filesystem.kind {
            FilesystemKind::Erofs => "erofs",
            FilesystemKind::Ext4 { .. } => "img",
            FilesystemKind::Squashfs { .. } => "squashfs",
        },
    };
    format!("{base}.{ending}")
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
            initramfs: false,
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
    fn an_image_becomes_what_is_asked_for() {
        let spec =
            "version = \"1\"\nstrategy = \"oci_rootfs\"\n[source]\ndockerfile = \"app/Dockerfile\"";
        let spec = BuildSpec::parse(spec).unwrap();
        let planned = |overrides: &Overrides| plan(&spec, overrides, Path::new("/src"));
        let rootfs = planned(&Overrides::default()).unwrap();
        let dockerfile = PlannedBase::Dockerfile {
            path: "/src/app/Dockerfile".into(),
            context: "/src/app".into(),
            target: None,
            build_args: BTreeMap::new(),
        };
        assert_eq!(rootfs.base, Some(dockerfile));
        assert_eq!(artifact_name(&rootfs, None), "plugin.erofs");
        assert_eq!(artifact_name(&rootfs, Some("My App")), "my-app.erofs");
        let initramfs = Overrides {
            initramfs: true,
            ..Overrides::default()
        };
        let archive = planned(&initramfs).unwrap();
        assert_eq!(artifact_name(&archive, None), "plugin.cpio.gz");
        let busybox = Overrides {
            busybox: Some("b".into()),
            ..Overrides::default()
        };
        assert_eq!(planned(&busybox), Err(PlanError::BusyboxUnused));
        let plain = BuildSpec::parse(HEAD).unwrap();
        let refused = plan(&plain, &initramfs, Path::new(""));
        assert_eq!(refused, Err(PlanError::AlreadyInitramfs));
    }

    #[test]
    fn artifacts_are_named_after_their_images() {
        for (image, expected) in [
            ("nginx:alpine", "nginx.squashfs"),
            ("host:5000/team/app:1", "app.squashfs"),
            ("oci:build/image:latest", "image.squashfs"),
        ] {
            let spec = format!(
                "version = \"1\"\nstrategy = \"oci_rootfs\"\n[source]\nimage = \"{image}\"\n[filesystem]\ntype = \"squashfs\""
            );
            let spec = BuildSpec::parse(&spec).unwrap();
            let plan = plan(&spec, &Overrides::default(), Path::new("")).unwrap();
            assert_eq!(artifact_name(&plan, None), expected, "{image}");
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
