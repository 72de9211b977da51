//! Puts an image together: a plan and the files that were fetched for it become a tree. Writes nothing.

use std::path::{Path, PathBuf};

use common::build_spec::{Fetch, GuestPath, MOUNT_POINTS, Member, Output};

use crate::fetch::member::{self, MemberError};
use crate::image::elf::{self, Program};
use crate::plan::{Mapping, Plan, PlannedInit};
use crate::tree::host::{self, Found, HostError};
use crate::tree::{DIRECTORY_PERMISSIONS, Node, Origin, Tree, TreeError};

/// Directories that every image has.
const DIRECTORIES: [&str; 12] = [
    "/bin",
    "/sbin",
    "/etc",
    "/proc",
    "/sys",
    "/dev",
    "/tmp",
    "/run",
    "/usr/bin",
    "/usr/sbin",
    "/usr/lib",
    "/var/log",
];

/// Names under which busybox is linked in `/bin`.
pub(crate) const APPLETS: [&str; 33] = [
    "sh", "ash", "ls", "cat", "cp", "mv", "rm", "mkdir", "rmdir", "ln", "chmod", "chown", "ps",
    "kill", "mount", "umount", "grep", "sed", "awk", "find", "test", "echo", "printf", "true",
    "false", "sleep", "pwd", "cd", "env", "which", "tar", "gzip", "gunzip",
];

/// More of them, which the Go system's images also have.
pub(crate) const MORE_APPLETS: [&str; 2] = ["wget", "vi"];

/// Where the agent lies, and what `/init` points to.
pub(crate) const AGENT_PATH: &str = "/bin/kestrel";
pub(crate) const INIT_PATH: &str = "/init";
pub(crate) const INIT_TARGET: &str = "bin/kestrel";
pub(crate) const BUSYBOX_PATH: &str = "/bin/busybox";

/// Permissions of the programs above.
const PROGRAM_PERMISSIONS: u32 = 0o755;

/// What the plan's sources became.
#[derive(Debug, Clone, Default)]
pub struct Gathered {
    /// The agent.
    pub agent: Option<PathBuf>,
    /// The busybox.
    pub busybox: Option<PathBuf>,
    /// The files of the container image that all others are laid over.
    pub image: Option<Tree>,
    /// The directory that it says its program starts in.
    pub workdir: Option<GuestPath>,
    /// What was downloaded, in the plan's order.
    pub downloads: Vec<Downloaded>,
}

impl Gathered {
    /// The files of the host that are read for the image, but for those that are mapped.
    pub fn host_files(&self) -> impl Iterator<Item = &Path> {
        let programs = self.agent.iter().chain(&self.busybox);
        let downloads = self.downloads.iter().map(|downloaded| &downloaded.file);
        programs.chain(downloads).map(PathBuf::as_path)
    }
}

/// A file that was downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Downloaded {
    /// Where it is on the host.
    pub file: PathBuf,
    /// What of it goes where.
    pub fetch: Fetch,
}

/// An image that cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// A file or directory of the host cannot be taken.
    #[error(transparent)]
    Host(#[from] HostError),
    /// What was downloaded does not hold what is asked for.
    #[error(transparent)]
    Member(#[from] MemberError),
    /// The image's own files contradict each other.
    #[error("Cannot lay out the image")]
    Layout(#[from] TreeError),
    /// A path of this program's own is not one; never happens.
    #[error("Cannot lay out the image")]
    Path(#[from] common::build_spec::InvalidGuestPath),
    /// The agent could not run as PID 1.
    #[error("`{}` cannot be the agent: {why}", path.display())]
    Agent {
        /// The file.
        path: PathBuf,
        /// A clause.
        why: String,
    },
    /// The busybox could not run.
    #[error("`{name}` cannot be the busybox: {why}")]
    Busybox {
        /// The file or its URL.
        name: String,
        /// A clause.
        why: String,
    },
    /// The agent could mount nothing where it must.
    #[error(
        "`{path}` is {what} in the image, and no VM of it would boot: it must be a directory, over which the agent mounts"
    )]
    MountPoint {
        /// The path.
        path: &'static str,
        /// What is there.
        what: &'static str,
    },
    /// Nothing would be PID 1.
    #[error("The image has no `/init`: with `init.none`, map a program to `/init`")]
    NoInit,
    /// The container image has a PID 1 of its own where an initramfs has the agent.
    #[error(
        "The container image brings an `/init` of its own, which in an initramfs is the agent's place: build a root file system, such as `type = \"erofs\"`"
    )]
    InitTaken,
}

/// Lays out the image of `plan`.
///
/// # Errors
/// Where a source is missing or two things claim one place.
pub fn assemble(plan: &Plan, gathered: Gathered) -> Result<Tree, AssembleError> {
    let mut tree = gathered.image.unwrap_or_default();
    let is_initramfs = matches!(plan.output, Output::Initramfs { .. });
    if is_initramfs
        && tree
            .get(INIT_PATH.trim_start_matches('/').as_bytes())
            .is_some()
    {
        return Err(AssembleError::InitTaken);
    }
    for path in DIRECTORIES {
        let node = Node::directory(DIRECTORY_PERMISSIONS);
        tree.insert(&path.parse()?, node, Origin::Base)?;
    }
    match &plan.init {
        PlannedInit::Agent(_) => {
            if let Some(agent) = &gathered.agent {
                check_agent(agent)?;
                add_program(&mut tree, agent, AGENT_PATH, Origin::Boot)?;
            }
            // A root file system is started with the agent's own path.
            if is_initramfs {
                let link = Node::symlink(INIT_TARGET);
                tree.insert(&INIT_PATH.parse()?, link, Origin::Boot)?;
            }
        }
        PlannedInit::Custom(path) => add_program(&mut tree, path, INIT_PATH, Origin::Boot)?,
        PlannedInit::None => {}
    }
    if let Some(busybox) = &gathered.busybox {
        add_program(&mut tree, busybox, BUSYBOX_PATH, Origin::Base)?;
        for applet in APPLETS.iter().chain(&MORE_APPLETS) {
            tree.insert(
                &format!("/bin/{applet}").parse()?,
                Node::symlink("busybox"),
                Origin::Base,
            )?;
        }
    }
    // Container engines make it. The agent does so in a root file system only: in an initramfs it takes a missing one for a mistake.
    if let Some(workdir) = gathered.workdir.filter(|_| is_initramfs) {
        let node = Node::directory(DIRECTORY_PERMISSIONS);
        tree.insert(&workdir, node, Origin::Base)?;
    }
    add_files(&mut tree, &plan.mappings, &gathered.downloads)?;
    if matches!(plan.init, PlannedInit::Agent(_)) {
        check_mount_points(&tree)?;
    }
    if is_initramfs && tree.resolve(INIT_PATH.as_bytes()).is_none() {
        return Err(AssembleError::NoInit);
    }
    Ok(tree)
}

/// A guest that cannot mount its file systems stops before its workload starts: better here. A link to a directory will do.
fn check_mount_points(tree: &Tree) -> Result<(), AssembleError> {
    for path in MOUNT_POINTS {
        let what = match tree.resolve(path.trim_start_matches('/').as_bytes()) {
            Some((_, node)) if node.is_directory() => continue,
            Some((_, node)) => node.what(),
            None => "a symbolic link that leads nowhere",
        };
        return Err(AssembleError::MountPoint { path, what });
    }
    Ok(())
}

/// Directories first, so that what they bring does not depend on where the files are listed; each kind in the plan's order.
fn add_files(
    tree: &mut Tree,
    mappings: &[Mapping],
    downloads: &[Downloaded],
) -> Result<(), AssembleError> {
    let mut files = Vec::new();
    for mapping in mappings {
        match host::look(&mapping.host)? {
            Found::Directory => host::add_directory(tree, &mapping.host, &mapping.guest)?,
            Found::File => files.push(mapping),
        }
    }
    let (of_directories, single): (Vec<_>, Vec<_>) = downloads
        .iter()
        .partition(|downloaded| matches!(downloaded.fetch.member, Some(Member::Directory(_))));
    for Downloaded { file, fetch } in of_directories {
        member::place(tree, file, fetch)?;
    }
    for Mapping { host, guest } in files {
        host::add_file(tree, host, guest, None, Origin::File)?;
    }
    for Downloaded { file, fetch } in single {
        member::place(tree, file, fetch)?;
    }
    Ok(())
}

fn add_program(
    tree: &mut Tree,
    host: &Path,
    guest: &str,
    origin: Origin,
) -> Result<(), AssembleError> {
    let guest: GuestPath = guest.parse()?;
    Ok(host::add_file(
        tree,
        host,
        &guest,
        Some(PROGRAM_PERMISSIONS),
        origin,
    )?)
}

/// Without its busybox an image has no shell, which shows only when somebody needs it: better here.
/// `name` is what the user calls it.
pub(crate) fn check_busybox(path: &Path, name: &str) -> Result<(), AssembleError> {
    let why = match program(path)? {
        Program::Static { machine } | Program::Dynamic { machine, .. }
            if machine != elf::X86_64 =>
        {
            format!("it is for another machine (ELF number {machine}), not for x86-64")
        }
        // Where its loader is missing, that is said of it as of any other program.
        Program::Static { .. } | Program::Dynamic { .. } => return Ok(()),
        Program::Script(_) | Program::Other => "it is not an ELF program".to_owned(),
    };
    Err(AssembleError::Busybox {
        name: name.to_owned(),
        why,
    })
}

fn program(path: &Path) -> Result<Program, AssembleError> {
    let program = fs_err::File::open(path).and_then(|mut file| elf::inspect(&mut file));
    Ok(program.map_err(|source| HostError::Read {
        path: path.to_path_buf(),
        source,
    })?)
}

/// PID 1 that does not start is a kernel panic in every guest: better here.
pub(crate) fn check_agent(path: &Path) -> Result<(), AssembleError> {
    let why = match program(path)? {
        Program::Static {
            machine: elf::X86_64,
        } => return Ok(()),
        Program::Static { machine } => {
            format!("it is for another machine (ELF number {machine}), not for x86-64")
        }
        Program::Dynamic { interpreter, .. } => format!(
            "it is dynamically linked and needs `{}`; build it statically",
            String::from_utf8_lossy(&interpreter).escape_debug()
        ),
        Program::Script(_) | Program::Other => "it is not an ELF program".to_owned(),
    };
    Err(AssembleError::Agent {
        path: path.to_path_buf(),
        why,
    })
}

#[cfg(test)]
mod tests {
    use common::build_spec::{Compression, Filesystem, FilesystemKind};

    use super::*;
    use crate::image::elf::tests::elf64;
    use crate::plan::FileSource;
    use crate::tree::{Content, Kind};

    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> Self {
            let files = Self(tempfile::tempdir().unwrap());
            fs_err::create_dir(files.path("dir")).unwrap();
            for name in ["dir/a", "dir/b", "dir/c", "other"] {
                fs_err::write(files.path(name), name).unwrap();
            }
            fs_err::write(files.path("kestrel"), elf64(1, b"")).unwrap();
            files
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn plan(&self, init: PlannedInit, mappings: &[(&str, &str)]) -> Plan {
            let mapping = |&(host, guest): &(&str, &str)| Mapping {
                host: self.path(host),
                guest: guest.parse().unwrap(),
            };
            Plan {
                init,
                base: None,
                busybox: None,
                mappings: mappings.iter().map(mapping).collect(),
                fetches: Vec::new(),
                output: Output::Initramfs {
                    compression: Compression::Gzip,
                },
            }
        }

        fn with_agent(&self, mappings: &[(&str, &str)]) -> Result<Tree, AssembleError> {
            let path = self.path("kestrel");
            let source = FileSource::Host {
                path: path.clone(),
                checksum: None,
            };
            let gathered = Gathered {
                agent: Some(path),
                busybox: Some(self.path("other")),
                ..Gathered::default()
            };
            assemble(&self.plan(PlannedInit::Agent(source), mappings), gathered)
        }

        fn source_of(&self, tree: &Tree, path: &str) -> String {
            match tree.resolve(path.as_bytes()).map(|(_, node)| &node.kind) {
                Some(Kind::File(Content::Host { path, .. })) => path
                    .strip_prefix(self.0.path())
                    .unwrap()
                    .display()
                    .to_string(),
                other => format!("{other:?}"),
            }
        }
    }

    fn target_of(tree: &Tree, path: &str) -> String {
        match tree.get(path.as_bytes()).map(|node| &node.kind) {
            Some(Kind::Symlink(target)) => String::from_utf8(target.clone()).unwrap(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn agent_and_busybox_have_their_places() {
        let files = Files::new();
        let tree = files.with_agent(&[]).unwrap();
        assert_eq!(files.source_of(&tree, "/init"), "kestrel");
        assert_eq!(target_of(&tree, "init"), "bin/kestrel");
        assert_eq!(files.source_of(&tree, "/bin/sh"), "other");
        assert_eq!(target_of(&tree, "bin/vi"), "busybox");
        for path in DIRECTORIES {
            let (_, node) = tree.resolve(path.as_bytes()).unwrap();
            assert!(node.is_directory(), "{path}");
            assert_eq!(node.attributes.permissions, 0o755, "{path}");
        }
    }

    #[test]
    fn a_mapped_file_beats_the_content_of_directories() {
        let files = Files::new();
        for mappings in [
            [("dir", "/app"), ("other", "/app/a")],
            [("other", "/app/a"), ("dir", "/app")],
        ] {
            let tree = files.with_agent(&mappings).unwrap();
            assert_eq!(files.source_of(&tree, "/app/a"), "other");
            assert_eq!(files.source_of(&tree, "/app/b"), "dir/b");
        }
    }

    #[test]
    fn an_image_that_cannot_boot_is_refused() {
        let files = Files::new();
        let agent = || {
            PlannedInit::Agent(FileSource::Host {
                path: files.path("kestrel"),
                checksum: None,
            })
        };
        let file = || Node::file(0o644, Content::Bytes(Vec::new()));
        for (path, node, expected) in [
            ("proc", file(), Some("`/proc` is a file in the image")),
            (
                "tmp",
                Node::symlink("/nowhere"),
                Some("`/tmp` is a symbolic link that leads nowhere in"),
            ),
            ("tmp", Node::symlink("var/log"), None),
        ] {
            let mut image = Tree::default();
            image.replace(path.as_bytes(), node).unwrap();
            let gathered = Gathered {
                image: Some(image),
                ..Gathered::default()
            };
            let mut plan = files.plan(agent(), &[]);
            plan.output = Output::Rootfs(Filesystem::default());
            let refused = assemble(&plan, gathered)
                .err()
                .map(|error| error.to_string());
            match expected {
                Some(expected) => assert!(refused.unwrap().contains(expected)),
                None => assert_eq!(refused, None),
            }
        }
    }

    #[test]
    fn mappings_can_replace_applets_but_not_the_agent() {
        let files = Files::new();
        let tree = files.with_agent(&[("dir/a", "/bin/sh")]).unwrap();
        assert_eq!(files.source_of(&tree, "/bin/sh"), "dir/a");
        for guest in ["/init", "/bin/kestrel"] {
            let error = files.with_agent(&[("other", guest)]).unwrap_err();
            assert!(
                common::error_chain::Chain(&error)
                    .to_string()
                    .contains("belongs to the agent"),
                "{error}"
            );
        }
    }

    #[test]
    fn two_files_for_one_place_are_refused() {
        let files = Files::new();
        let error = files
            .with_agent(&[("dir/a", "/x"), ("dir/b", "/x")])
            .unwrap_err();
        assert!(
            common::error_chain::Chain(&error)
                .to_string()
                .contains("Two mappings lead to `/x`")
        );
    }

    #[test]
    fn other_inits_are_taken_as_they_are() {
        let files = Files::new();
        let none = Gathered::default;
        let custom = files.plan(PlannedInit::Custom(files.path("other")), &[]);
        let tree = assemble(&custom, none()).unwrap();
        assert_eq!(files.source_of(&tree, "/init"), "other");
        let mapped = files.plan(PlannedInit::None, &[("other", "/init")]);
        assert_eq!(
            files.source_of(&assemble(&mapped, none()).unwrap(), "/init"),
            "other"
        );
        let nothing = files.plan(PlannedInit::None, &[]);
        assert!(matches!(
            assemble(&nothing, none()),
            Err(AssembleError::NoInit)
        ));
    }

    #[test]
    fn what_is_added_lies_over_a_container_image() {
        let files = Files::new();
        let mut image = Tree::default();
        for (path, node) in [
            ("bin", Node::symlink("usr/bin")),
            ("usr/bin/sh", Node::symlink("dash")),
            ("tmp", Node::directory(0o1777)),
            ("etc/a", Node::file(0o600, Content::Bytes(Vec::new()))),
        ] {
            image.replace(path.as_bytes(), node).unwrap();
        }
        let agent = PlannedInit::Agent(FileSource::Host {
            path: files.path("kestrel"),
            checksum: None,
        });
        let mut plan = files.plan(agent, &[("dir", "/etc")]);
        plan.output = Output::Rootfs(Filesystem {
            kind: FilesystemKind::Erofs,
            writable_mb: None,
            ephemeral: false,
        });
        let download = Downloaded {
            file: files.path("other"),
            fetch: Fetch {
                urls: vec!["https://x.example/tool".to_owned()],
                checksum: common::digest::Digest::of(b"other"),
                member: None,
                path: "/bin/tool".parse().unwrap(),
                mode: None,
            },
        };
        let gathered = |image: &Tree| Gathered {
            agent: Some(files.path("kestrel")),
            busybox: None,
            image: Some(image.clone()),
            workdir: Some("/bin/made/here".parse().unwrap()),
            downloads: vec![download.clone()],
        };
        let tree = assemble(&plan, gathered(&image)).unwrap();
        assert_eq!(target_of(&tree, "bin"), "usr/bin");
        assert_eq!(target_of(&tree, "usr/bin/sh"), "dash");
        assert_eq!(files.source_of(&tree, "/usr/bin/kestrel"), "kestrel");
        assert_eq!(files.source_of(&tree, "/etc/a"), "dir/a");
        assert!(tree.get(b"usr/bin/tool").is_some());
        assert_eq!(tree.get(b"tmp").unwrap().attributes.permissions, 0o1777);
        assert!(tree.get(b"usr/bin/made").is_none());
        // The kernel is told where PID 1 is, so an image's own /init stays what it is.
        assert!(tree.get(b"init").is_none());
        image.replace(b"init", Node::symlink("usr/bin/sh")).unwrap();
        let tree = assemble(&plan, gathered(&image)).unwrap();
        assert_eq!(target_of(&tree, "init"), "usr/bin/sh");
        plan.output = Output::Initramfs {
            compression: Compression::Gzip,
        };
        let taken = assemble(&plan, gathered(&image));
        assert!(matches!(taken, Err(AssembleError::InitTaken)));
        image.remove(b"init");
        let tree = assemble(&plan, gathered(&image)).unwrap();
        assert!(tree.get(b"usr/bin/made/here").unwrap().is_directory());
    }

    #[test]
    fn an_agent_that_cannot_run_is_refused() {
        let files = Files::new();
        for (bytes, expected) in [
            (elf64(3, b"/lib64/ld.so\0"), "needs `/lib64/ld.so`"),
            (b"#!/bin/sh".to_vec(), "is not an ELF program"),
            (b"".to_vec(), "is not an ELF program"),
        ] {
            fs_err::write(files.path("kestrel"), bytes).unwrap();
            let error = files.with_agent(&[]).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
