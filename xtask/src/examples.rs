//! The examples as a user has them before `fledge build`: a folder of its own with what the repository does not hold put
//! in place. It builds none.

use std::path::{Path, PathBuf};

use anyhow::Result;
use fs_err as fs;

use crate::{caddy, workspace};

/// One of the repository's examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Example {
    /// Our own service, built with the five programs.
    Hello,
    /// The Caddy web server, which is fetched.
    Caddy,
    /// Busybox's web server in a container image.
    Httpd,
}

/// What the examples need beside their folders.
#[derive(Debug)]
pub(crate) struct Ingredients {
    /// The folder with the five programs.
    pub(crate) dist: PathBuf,
    pub(crate) example: Example,
    program: PathBuf,
    /// For an image with a shell.
    pub(crate) busybox: Option<PathBuf>,
}

impl Example {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Caddy => "caddy",
            Self::Httpd => "httpd",
        }
    }

    /// Finds or fetches what the example needs.
    pub(crate) fn ingredients(self, dist: &Path) -> Result<Ingredients> {
        let (program, busybox) = match self {
            Self::Hello => (dist.join("hello"), None),
            Self::Caddy => (caddy::binary()?, Some(caddy::busybox()?)),
            Self::Httpd => (caddy::busybox()?, None),
        };
        Ok(Ingredients {
            dist: dist.to_path_buf(),
            example: self,
            program,
            busybox,
        })
    }
}

impl Ingredients {
    /// Copies the example's folder to `folder`, with the program in its place.
    pub(crate) fn lay_out(&self, folder: &Path) -> Result<()> {
        let name = self.example.name();
        copy(&workspace::root().join("examples").join(name), folder)?;
        let payload = folder.join("payload");
        fs::create_dir_all(&payload)?;
        let program = match self.example {
            Example::Hello | Example::Caddy => name,
            Example::Httpd => "busybox",
        };
        fs::copy(&self.program, payload.join(program))?;
        Ok(())
    }

    /// The words behind `fledge` that build the example in its folder, offline.
    pub(crate) fn build_arguments(&self) -> Vec<String> {
        let mut words = vec!["build".to_owned()];
        if self.example == Example::Caddy {
            words.extend(["--manifest", "manifest/caddy.json"].map(str::to_owned));
        }
        if let Some(busybox) = &self.busybox {
            words.extend(["--busybox".to_owned(), busybox.display().to_string()]);
        }
        words
    }
}

/// Copies a folder without what was built in it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let destination = to.join(&name);
        if entry.file_type()?.is_dir() {
            if name != "target" && name != "src" {
                copy(&entry.path(), &destination)?;
            }
        } else if !name.to_string_lossy().starts_with("plugin.cpio.gz") {
            fs::copy(entry.path(), &destination)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_holds_no_results() {
        let from = tempfile::tempdir().unwrap();
        let to = tempfile::tempdir().unwrap();
        for folder in ["src", "payload", "target"] {
            fs::create_dir(from.path().join(folder)).unwrap();
            fs::write(from.path().join(folder).join("file"), "").unwrap();
        }
        for file in [
            "fledge.toml",
            "plugin.cpio.gz",
            "plugin.cpio.gz.manifest.json",
        ] {
            fs::write(from.path().join(file), "").unwrap();
        }
        copy(from.path(), &to.path().join("copy")).unwrap();
        let mut left: Vec<String> = fs::read_dir(to.path().join("copy"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["fledge.toml", "payload"]);
    }
}
