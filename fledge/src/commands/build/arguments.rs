//! What can be typed behind `fledge build`, and the environment: the only place of the command that reads it.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use common::build_spec::Dockerfile;

use super::{BuildError, Limits};
use crate::cache;
use crate::confinement::Confinement;
use crate::plan::Overrides;

/// Where a build spec is, unless it is named.
const DEFAULT_SPEC: &str = "fledge.toml";

const EXAMPLES: &str = "\
Examples:
  fledge build
      build what ./fledge.toml says: plugin.cpio.gz, or the image's name with .erofs, .img or .squashfs
  fledge build --config app/fledge.toml --manifest app/manifest/app.json --output out/app.cpio.gz
      build another directory's spec, with a manifest beside the artifact
  fledge build --agent ./kestrel --busybox /bin/busybox
      build without a network
  fledge build Dockerfile --build-arg VERSION=1.2 --output app.erofs
      build an image by docker, podman or buildah, and a root file system of it
  fledge build --budget-ms 200 --budget-mb 128
      fail if the guest would take more to unpack the artifact

Beside the artifact go its manifest, its bill of materials (.sbom.json) and its provenance (.provenance.json). The same inputs give
the same bytes, whatever the directory, user, umask, clock or number of processors.";

/// Flags of `fledge build`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct BuildArgs {
    /// A Dockerfile to build instead of what a build spec says
    #[arg(value_name = "DOCKERFILE", conflicts_with_all = ["config", "dockerfile"])]
    file: Option<PathBuf>,
    /// The build spec; relative paths in it are taken from its directory [default: fledge.toml]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The Dockerfile, as by its name alone
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    dockerfile: Option<PathBuf>,
    /// The directory that the Dockerfile's COPY sees [default: the Dockerfile's]
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    context: Option<PathBuf>,
    /// The Dockerfile's stage to build [default: the last]
    #[arg(long, value_name = "STAGE", conflicts_with = "config")]
    target: Option<String>,
    /// A value for an ARG of the Dockerfile; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = build_arg, conflicts_with = "config")]
    build_arg: Vec<(String, String)>,
    /// Name, workload and health of the plugin: a manifest.toml, or a manifest in JSON [default: manifest.toml beside the spec, if it is there]
    #[arg(short, long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// The artifact to write [default: plugin.cpio.gz, or named after the image]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Build an initramfs of what would be a root file system
    #[arg(long)]
    output_initramfs: bool,
    /// Use this agent instead of the one that the spec names
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// Use this busybox instead of the one that the spec names
    #[arg(long, value_name = "FILE")]
    busybox: Option<PathBuf>,
    /// Fail if the guest would need more time to unpack the artifact, in milliseconds
    #[arg(long, value_name = "MS")]
    budget_ms: Option<u64>,
    /// Fail if the artifact would take more of the guest's memory, in MiB
    #[arg(long, value_name = "MIB")]
    budget_mb: Option<u64>,
    /// Time of all files that are not of a container image, and the latest of those that are, in seconds since 1970 [default: 0, and none]
    #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH")]
    source_date_epoch: Option<u32>,
}

/// What is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// What the build spec at this path says.
    Spec(PathBuf),
    /// A Dockerfile.
    Dockerfile(Dockerfile),
}

/// Flags and environment with all defaults filled in.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What is built.
    pub what: What,
    /// The template of the manifest, if it was named.
    pub manifest: Option<PathBuf>,
    /// The artifact, if it was named.
    pub output: Option<PathBuf>,
    /// What comes before the spec.
    pub overrides: Overrides,
    /// What the artifact may cost.
    pub limits: Limits,
    /// `SOURCE_DATE_EPOCH`, if it is set: seconds since 1970.
    pub source_date_epoch_s: Option<u32>,
    /// Where downloads are kept.
    pub cache: PathBuf,
    /// How many threads pack.
    pub threads: NonZeroUsize,
    /// Where all files of the host must lie but those in `overrides`, the output and the cache, for builds that somebody else asks for.
    pub confine_to: Option<Confinement>,
}

impl BuildArgs {
    /// Fills in what depends on the environment.
    ///
    /// # Errors
    /// Where flags need another one that is missing.
    pub fn resolve(self) -> Result<Settings, BuildError> {
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let given = [
            ("--context", self.context.is_some()),
            ("--target", self.target.is_some()),
            ("--build-arg", !self.build_arg.is_empty()),
        ];
        let what = if let Some(path) = self.file.or(self.dockerfile) {
            What::Dockerfile(Dockerfile {
                path: text(path),
                context: self.context.map(text),
                target: self.target,
                build_args: self.build_arg.into_iter().collect::<BTreeMap<_, _>>(),
            })
        } else if let Some((flag, _)) = given.into_iter().find(|(_, given)| *given) {
            return Err(BuildError::NeedsDockerfile { flag });
        } else {
            What::Spec(self.config.unwrap_or_else(|| DEFAULT_SPEC.into()))
        };
        Ok(Settings {
            what,
            manifest: self.manifest,
            output: self.output,
            overrides: Overrides {
                agent: self.agent,
                busybox: self.busybox,
                initramfs: self.output_initramfs,
            },
            limits: Limits {
                unpack_ms: self.budget_ms,
                memory_mib: self.budget_mb,
            },
            source_date_epoch_s: self.source_date_epoch,
            cache: cache::default_directory(),
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            confine_to: None,
        })
    }
}

fn build_arg(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.to_owned()))
        }
        _ => Err("write it as NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_arguments_have_a_name_and_a_value() {
        let pair = |name: &str, value: &str| Ok((name.to_owned(), value.to_owned()));
        assert_eq!(build_arg("A=b=c"), pair("A", "b=c"));
        assert_eq!(build_arg("A="), pair("A", ""));
        for wrong in ["A", "=b", " =b", ""] {
            assert!(build_arg(wrong).is_err(), "{wrong}");
        }
    }
}
