//! What is built twice: every strategy and every format, and what each is built from.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use fs_err as fs;
use serde_json::json;

use crate::examples::{Example, Ingredients};
use crate::oci_layout::{Layout, entry};
use crate::{caddy, process};

/// What every case is told to write; its sidecars have names that begin with this.
pub(super) const ARTIFACT: &str = "artifact";

/// What is built.
#[derive(Debug, Clone, Copy)]
enum Source {
    /// A folder of `examples`, with a line put before its build spec.
    Example(Example, &'static str),
    /// A container image with every kind of inode; the text is the build spec behind its image.
    Image(&'static str),
    /// Programs and data that are mapped inside and outside the directories of programs, one by one and as a directory. They get their
    /// modes from the umask of the build.
    Mapped,
}

/// A file of [`Source::Mapped`] in the project's folder, and its mode before the umask takes its part.
const MAPPED: [(&str, u32); 6] = [
    ("program", 0o777),
    ("data", 0o666),
    ("tree/bin/program", 0o777),
    ("tree/bin/data", 0o666),
    ("tree/srv/program", 0o777),
    ("tree/srv/data", 0o666),
];

/// Where they go. None is a plugin, so there is no manifest.
const MAPPED_SPEC: &str = "version = \"1\"\nstrategy = \"initramfs\"\n\
    [agent]\nsource_strategy = \"release\"\nversion = \"latest\"\n[mappings]\n\
    \"program\" = \"/srv/program\"\n\"data\" = \"/usr/bin/data\"\n\"tree\" = \"/opt\"\n";

/// One build that is done twice.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub(super) name: &'static str,
    source: Source,
    /// The words behind `fledge`, without where to write.
    pub(super) arguments: &'static [&'static str],
    /// Whether it is built with the busybox that is at hand.
    pub(super) with_busybox: bool,
    /// Whether any user can build it.
    pub(super) by_any_user: bool,
}

impl Case {
    pub(super) const ALL: [Self; 11] = [
        example("hello", Example::Hello, ""),
        example("hello as zstd", Example::Hello, "compression = \"zstd\"\n"),
        example(
            "hello uncompressed",
            Example::Hello,
            "compression = \"none\"\n",
        ),
        Self {
            arguments: &["build", "--manifest", "manifest/caddy.json"],
            with_busybox: true,
            ..example("caddy", Example::Caddy, "")
        },
        Self {
            name: "mapped programs and data",
            source: Source::Mapped,
            arguments: &["build"],
            with_busybox: false,
            by_any_user: true,
        },
        image("an image as erofs", "[filesystem]\ntype = \"erofs\"\n"),
        image("an image as ext4", "[filesystem]\ntype = \"ext4\"\n"),
        image(
            "an image as squashfs",
            "[filesystem]\ntype = \"squashfs\"\n",
        ),
        Self {
            arguments: &["build", "--output-initramfs"],
            ..image("an image as initramfs", "")
        },
        // Without rights of its own a user needs subordinate ids for a builder, which not every machine has.
        Self {
            by_any_user: false,
            ..example("a Dockerfile", Example::Httpd, "")
        },
        Self {
            arguments: &["build", "Dockerfile"],
            by_any_user: false,
            ..example("a Dockerfile alone", Example::Httpd, "")
        },
    ];

    /// Whether it is about the modes of mapped files.
    pub(super) fn is_mapped(&self) -> bool {
        matches!(self.source, Source::Mapped)
    }

    /// Why it cannot be built here.
    pub(super) fn unavailable(&self, common: &Common) -> Option<String> {
        match self.source {
            Source::Example(Example::Caddy, _) => match &common.caddy {
                Err(error) => Some(format!("Caddy cannot be had: {error:#}")),
                Ok(_) => None,
            },
            Source::Example(Example::Httpd, _) if process::find("buildah").is_none() => {
                Some("there is no buildah to build an image with".to_owned())
            }
            Source::Example(..) | Source::Image(_) | Source::Mapped => None,
        }
    }
}

const fn example(name: &'static str, example: Example, before: &'static str) -> Case {
    Case {
        name,
        source: Source::Example(example, before),
        arguments: &["build"],
        with_busybox: false,
        by_any_user: true,
    }
}

const fn image(name: &'static str, filesystem: &'static str) -> Case {
    Case {
        name,
        source: Source::Image(filesystem),
        arguments: &["build"],
        with_busybox: false,
        by_any_user: true,
    }
}

/// What the cases are built with and from.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) dist: PathBuf,
    pub(super) busybox: PathBuf,
    caddy: Result<Ingredients>,
    image: PathBuf,
}

impl Common {
    /// Fetches what can be had, and makes the image in `work`.
    pub(super) fn prepare(dist: &Path, work: &Path) -> Result<Self> {
        let image = work.join("image");
        write_image(&image)?;
        Ok(Self {
            dist: dist.to_path_buf(),
            busybox: caddy::busybox()?,
            caddy: Example::Caddy.ingredients(dist),
            image,
        })
    }

    /// Makes the folder that `case` is built in. What it maps has the modes that `umask` leaves.
    pub(super) fn lay_out(&self, case: &Case, folder: &Path, umask: u32) -> Result<()> {
        match case.source {
            Source::Mapped => {
                for (name, mode) in MAPPED {
                    let path = folder.join(name);
                    fs::create_dir_all(path.parent().unwrap_or(folder))?;
                    fs::write(&path, name)?;
                    let mode = PermissionsExt::from_mode(mode & !umask);
                    fs::set_permissions(&path, mode)?;
                }
                fs::write(folder.join("fledge.toml"), MAPPED_SPEC)?;
            }
            Source::Example(example, before) => {
                match (example, &self.caddy) {
                    (Example::Caddy, Ok(caddy)) => caddy.lay_out(folder)?,
                    _ => example.ingredients(&self.dist)?.lay_out(folder)?,
                }
                let spec = folder.join("fledge.toml");
                let text = fs::read_to_string(&spec)?;
                fs::write(&spec, format!("{before}{text}"))?;
            }
            Source::Image(filesystem) => {
                copy_blobs(&self.image, &folder.join("image"))?;
                let text = format!(
                    "version = \"1\"\nstrategy = \"oci_rootfs\"\n[source]\nimage = \"oci:image:latest\"\n{filesystem}"
                );
                fs::write(folder.join("fledge.toml"), text)?;
                fs::write(
                    folder.join("manifest.toml"),
                    "name = \"everything\"\nversion = \"1\"\n",
                )?;
            }
        }
        Ok(())
    }
}

fn copy_blobs(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_blobs(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// An image of two layers with every kind of inode, owners, links and a file that the second layer removes.
fn write_image(folder: &Path) -> Result<()> {
    use tar::EntryType::{Block, Char, Directory, Fifo, Link, Regular, Symlink};
    let program = fs::read(caddy::busybox()?)?;
    let mut layout = Layout::begin(folder)?;
    layout.layer(|tar| {
        entry(tar, "bin/", Directory, 0o755, b"")?;
        entry(tar, "bin/busybox", Regular, 0o4755, &program)?;
        entry(
            tar,
            "etc/gone",
            Regular,
            0o600,
            b"removed by the next layer",
        )?;
        for number in 0..500 {
            let text = format!("{number}\n").repeat(number);
            entry(
                tar,
                &format!("var/many/{number}"),
                Regular,
                0o640,
                text.as_bytes(),
            )?;
        }
        for (path, kind) in [("dev/null", Char), ("dev/ram", Block), ("run/pipe", Fifo)] {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(0o660);
            header.set_uid(100_000);
            header.set_mtime(1_700_000_000);
            header.set_device_major(1)?;
            header.set_device_minor(3)?;
            header.set_size(0);
            tar.append_data(&mut header, path, std::io::empty())
                .with_context(|| format!("Could not write `{path}`"))?;
        }
        Ok(())
    })?;
    layout.layer(|tar| {
        entry(tar, "etc/.wh.gone", Regular, 0o600, b"")?;
        for (path, kind, target) in [
            ("bin/sh", Symlink, "busybox"),
            ("bin/again", Link, "bin/busybox"),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(0o777);
            header.set_size(0);
            tar.append_link(&mut header, path, target)?;
        }
        Ok(())
    })?;
    layout.finish(&json!({"Entrypoint": ["/bin/sh"], "Env": ["A=b"], "User": "1000:1000"}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_is_there_once() {
        let mut names: Vec<&str> = Case::ALL.iter().map(|case| case.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Case::ALL.len());
        for format in [
            "erofs",
            "ext4",
            "squashfs",
            "initramfs",
            "zstd",
            "Dockerfile",
        ] {
            assert!(names.iter().any(|name| name.contains(format)), "{format}");
        }
    }
}
