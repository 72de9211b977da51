//! Keeps the paths of a build inside one directory, for builds that somebody else asks for. Looks at links itself, so that nothing
//! outside is ever touched, not even to find out that it is outside. Does not guard against someone who changes links in the directory
//! while a build runs: who may write there is trusted as much as who runs the program.

use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::oci::{Place, Source};
use crate::plan::{FileSource, Plan, PlannedBase, PlannedInit};

/// Links on the way to a file; the kernel stops at as many (`MAXSYMLINKS` in its include/linux/namei.h).
const MAX_LINKS: usize = 40;

/// Levels of directories in an image layout: itself, `blobs`, and one for each kind of digest (OCI image-layout specification).
const LAYOUT_DEPTH: usize = 3;

/// A path that may not be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfinementError {
    /// It leads out of the directory.
    #[error("`{}` leads out of the directory that builds may use", path.display())]
    Outside {
        /// The path as it was written.
        path: PathBuf,
    },
    /// Its links go in circles.
    #[error("`{}` leads through more than {MAX_LINKS} symbolic links", path.display())]
    TooManyLinks {
        /// The path as it was written.
        path: PathBuf,
    },
    /// It is a directory, a named pipe or a device, where a file is read.
    #[error("`{}` is not a file", path.display())]
    NotAFile {
        /// The path as it was written.
        path: PathBuf,
    },
    /// It cannot be looked at.
    #[error("Cannot look at `{}`", path.display())]
    Look {
        /// The path as it was written.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A directory that paths must stay in.
#[derive(Debug, Clone)]
pub struct Confinement {
    /// Without links.
    root: PathBuf,
    /// Absolute, but as the user wrote it: paths may begin with it too.
    named: PathBuf,
}

impl Confinement {
    /// Confines to the directory at `path`.
    ///
    /// # Errors
    /// Where there is no such directory.
    pub fn new(path: &Path) -> io::Result<Self> {
        let root = fs_err::canonicalize(path)?;
        if !root.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self {
            named: std::path::absolute(path)?,
            root,
        })
    }

    /// The directory, without links.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where `path` leads, as a path from the directory on without links. What does not exist is taken as it is written.
    ///
    /// # Errors
    /// Where that is outside.
    pub fn resolve(&self, path: &Path) -> Result<PathBuf, ConfinementError> {
        let outside = || ConfinementError::Outside {
            path: path.to_path_buf(),
        };
        let look = |source| ConfinementError::Look {
            path: path.to_path_buf(),
            source,
        };
        // The last comes first.
        let mut pending = Vec::new();
        push(&mut pending, self.inner(path).ok_or_else(outside)?);
        let mut inside = PathBuf::new();
        let mut links = 0;
        while let Some(step) = pending.pop() {
            let Step::Into(name) = step else {
                if !inside.pop() {
                    return Err(outside());
                }
                continue;
            };
            let next = inside.join(name);
            let whole = self.root.join(&next);
            match fs_err::symlink_metadata(&whole) {
                Ok(metadata) if metadata.is_symlink() => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(ConfinementError::TooManyLinks {
                            path: path.to_path_buf(),
                        });
                    }
                    let target = fs_err::read_link(&whole).map_err(look)?;
                    if target.is_absolute() {
                        inside.clear();
                    }
                    push(&mut pending, self.inner(&target).ok_or_else(outside)?);
                }
                Err(error) if !is_missing(&error) => return Err(look(error)),
                Ok(_) | Err(_) => inside = next,
            }
        }
        Ok(inside)
    }

    /// Checks that `path` leads to a file inside, or to nothing: a named pipe would be waited for.
    ///
    /// # Errors
    /// Where it does not.
    pub fn check_file(&self, path: &Path) -> Result<(), ConfinementError> {
        let inside = self.resolve(path)?;
        match fs_err::metadata(self.root.join(inside)) {
            Ok(metadata) if !metadata.is_file() => Err(ConfinementError::NotAFile {
                path: path.to_path_buf(),
            }),
            // Whoever reads it says what is wrong.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Checks every path of the host in `plan`.
    ///
    /// # Errors
    /// For the first that leads outside.
    pub fn check(&self, plan: &Plan) -> Result<(), ConfinementError> {
        let init = match &plan.init {
            PlannedInit::Agent(source) => host_path(source),
            PlannedInit::Custom(path) => Some(path.as_path()),
            PlannedInit::None => None,
        };
        let busybox = plan.busybox.as_ref().and_then(host_path);
        let mappings = plan.mappings.iter().map(|mapping| mapping.host.as_path());
        for path in init.into_iter().chain(busybox).chain(mappings) {
            self.resolve(path)?;
        }
        match &plan.base {
            Some(PlannedBase::Dockerfile { path, context, .. }) => {
                self.check_file(path)?;
                // What in it leads out, builders leave as a link.
                self.resolve(context).map(drop)
            }
            Some(PlannedBase::Image {
                reference,
                directory,
            }) => match Source::parse(reference, directory) {
                Ok(source) => self.check_image(&source.place),
                // It names no image, and the build says so.
                Err(_) => Ok(()),
            },
            None => Ok(()),
        }
    }

    fn check_image(&self, place: &Place) -> Result<(), ConfinementError> {
        match place {
            Place::Path { path, .. } => {
                let inside = self.resolve(path)?;
                self.check_links(&inside, LAYOUT_DEPTH)
            }
            Place::Registry(_) | Place::Anywhere(_) | Place::Docker(_) | Place::Podman(_) => Ok(()),
        }
    }

    /// Checks the links in the directory `inside`, and `depth` levels below it.
    fn check_links(&self, inside: &Path, depth: usize) -> Result<(), ConfinementError> {
        let look = |source| ConfinementError::Look {
            path: inside.to_path_buf(),
            source,
        };
        let whole = self.root.join(inside);
        if depth == 0 || !whole.is_dir() {
            return Ok(());
        }
        for entry in fs_err::read_dir(&whole).map_err(look)? {
            let name = entry.map_err(look)?.file_name();
            let target = self.resolve(&inside.join(name))?;
            self.check_links(&target, depth - 1)?;
        }
        Ok(())
    }

    /// A path from the directory on: an absolute one must name it.
    fn inner<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        if path.is_relative() {
            return Some(path);
        }
        let named = |directory: &Path| path.strip_prefix(directory).ok();
        named(&self.root).or_else(|| named(&self.named))
    }
}

/// A step on the way to a file.
enum Step {
    Up,
    Into(OsString),
}

fn push(pending: &mut Vec<Step>, path: &Path) {
    let steps = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(Step::Into(name.to_owned())),
        Component::ParentDir => Some(Step::Up),
        Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
    });
    pending.extend(steps);
}

fn host_path(source: &FileSource) -> Option<&Path> {
    match source {
        FileSource::Host { path, .. } => Some(path),
        FileSource::Download(_) | FileSource::Release { .. } => None,
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use common::build_spec::BuildSpec;

    use super::*;
    use crate::plan::{Overrides, plan};

    struct Room {
        directory: tempfile::TempDir,
        confinement: Confinement,
    }

    impl Room {
        /// `root` with some links in it, `alias` that leads to it, and `secret` beside it.
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = |name: &str| directory.path().join(name);
            fs_err::create_dir_all(path("root/app/deep")).unwrap();
            fs_err::create_dir_all(path("root/app/layout/blobs/sha256")).unwrap();
            fs_err::write(path("secret"), "").unwrap();
            fs_err::write(path("root/app/file"), "").unwrap();
            for (target, link) in [
                ("root", "alias"),
                ("../../secret", "root/app/out"),
                ("/etc/shadow", "root/app/shadow"),
                ("../..", "root/app/up"),
                ("deep/..", "root/app/here"),
                ("loop", "root/app/loop"),
                ("../app/file", "root/app/inside"),
                ("/etc/hostname", "root/app/layout/blobs/sha256/0"),
            ] {
                symlink(target, path(link)).unwrap();
            }
            let absolute = path("root").canonicalize().unwrap().join("app");
            symlink(absolute, path("root/absolute")).unwrap();
            Self {
                confinement: Confinement::new(&path("alias")).unwrap(),
                directory,
            }
        }

        fn resolve(&self, path: &str) -> Result<String, String> {
            match self.confinement.resolve(Path::new(path)) {
                Ok(path) => Ok(path.display().to_string()),
                Err(error) => Err(error.to_string()),
            }
        }
    }

    #[test]
    fn paths_inside_are_followed() {
        let room = Room::new();
        let alias = room.directory.path().join("alias/app/file");
        let root = room.confinement.root().join("./app//inside");
        for (path, expected) in [
            ("", ""),
            (".", ""),
            ("app/file", "app/file"),
            ("app/../app/./file", "app/file"),
            ("app/inside", "app/file"),
            ("app/here/file", "app/file"),
            ("absolute/inside", "app/file"),
            ("missing/x/../y", "missing/y"),
            ("app/file/x", "app/file/x"),
            (alias.to_str().unwrap(), "app/file"),
            (root.to_str().unwrap(), "app/file"),
        ] {
            assert_eq!(room.resolve(path), Ok(expected.to_owned()), "{path}");
        }
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        let room = Room::new();
        let beside = room.directory.path().join("secret");
        for path in [
            "..",
            "../root/app/file",
            "app/../../secret",
            "app/out",
            "app/shadow",
            "app/up",
            "app/up/secret",
            "app/here/../../secret",
            "absolute/out",
            "missing/../../secret",
            "/",
            "/etc/shadow",
            "/etc/this-does-not-exist",
            beside.to_str().unwrap(),
        ] {
            let error = room.resolve(path).unwrap_err();
            assert_eq!(
                error,
                format!("`{path}` leads out of the directory that builds may use")
            );
        }
        let error = room.resolve("app/loop").unwrap_err();
        assert!(error.contains("more than 40 symbolic links"), "{error}");
    }

    #[test]
    fn only_files_are_read() {
        let room = Room::new();
        let check = |path: &str| room.confinement.check_file(Path::new(path));
        assert!(check("app/inside").is_ok());
        assert!(check("app/missing").is_ok());
        assert!(matches!(
            check("app"),
            Err(ConfinementError::NotAFile { .. })
        ));
        assert!(matches!(
            check("app/out"),
            Err(ConfinementError::Outside { .. })
        ));
    }

    #[test]
    fn a_confinement_is_a_directory() {
        let room = Room::new();
        for name in ["missing", "secret"] {
            assert!(Confinement::new(&room.directory.path().join(name)).is_err());
        }
    }

    #[test]
    fn every_path_of_a_plan_is_checked() {
        let room = Room::new();
        let initramfs = "version = \"1\"\nstrategy = \"initramfs\"\n";
        let image = "version = \"1\"\nstrategy = \"oci_rootfs\"\n";
        let none = "[init]\nnone = true\n";
        let check = |text: &str| {
            let spec = BuildSpec::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            let plan = plan(&spec, &Overrides::default(), Path::new("app")).unwrap();
            room.confinement.check(&plan)
        };
        for (head, rest) in [
            (
                initramfs,
                "[mappings]\n\"file\" = \"/a\"\n\"deep\" = \"/b\"",
            ),
            (initramfs, "[init]\npath = \"file\""),
            (
                image,
                "[source]\ndockerfile = \"Dockerfile\"\ncontext = \"..\"",
            ),
            (image, "[source]\nimage = \"docker://example.com/app:1\""),
            (image, "[source]\nimage = \"oci:deep\""),
        ] {
            assert!(check(&format!("{head}{rest}")).is_ok(), "{rest}");
        }
        for (head, rest) in [
            (initramfs, "[init]\npath = \"out\""),
            (
                initramfs,
                "[agent]\nsource_strategy = \"local\"\npath = \"../../secret\"",
            ),
            (image, "[source]\ndockerfile = \"/etc/Dockerfile\""),
            (image, "[source]\nimage = \"oci:../../layout:latest\""),
            (image, "[source]\nimage = \"oci:layout:latest\""),
            (image, "[source]\nimage = \"docker-archive:shadow\""),
            (
                image,
                "[source]\ndockerfile = \"Dockerfile\"\ncontext = \"../..\"",
            ),
        ] {
            let refused = check(&format!("{head}{rest}"));
            assert!(
                matches!(refused, Err(ConfinementError::Outside { .. })),
                "{rest}"
            );
        }
        for host in [
            "/etc/shadow",
            "../..",
            "../../secret",
            "out",
            "shadow",
            "here/out",
        ] {
            let refused = check(&format!(
                "{initramfs}{none}[mappings]\n\"file\" = \"/a\"\n\"{host}\" = \"/b\""
            ));
            assert!(
                matches!(refused, Err(ConfinementError::Outside { .. })),
                "{host}"
            );
        }
    }
}
