//! `cargo xtask kernel`: the guest kernel, built once per machine from Linux 6.12 and our own configuration, then found
//! in the cache by every checkout. A second variant is the host of the nested lab. It fetches sources and compiles; it
//! never boots anything, and the kernel it makes does not depend on the machine it was made on.

mod build;
mod fragment;
mod source;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use fs_err as fs;
use sha2::{Digest as _, Sha256};

use self::fragment::Fragment;
use self::source::Source;
use crate::{cache, digest_file, packages, printer, process};

const GUEST_CONFIG: &str = include_str!("../kernel/guest.config");
const LAB_CONFIG: &str = include_str!("../kernel/lab.config");

/// Changes whenever the way of building does, in a way that could change the result.
const RECIPE: &str = "1";
/// How much of the key's digest names a folder: enough that two never meet, short enough to read.
const KEY_DIGITS: usize = 16;
/// Kernels of one variant that are kept; older ones belong to configurations nobody uses any more.
const KEPT_BUILDS: usize = 4;
const IMAGE: &str = "vmlinux";

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Build the kernel for the host of the nested lab instead (KVM, taps, nftables)
    #[arg(long)]
    lab: bool,
    /// Print nothing but the path of the kernel on stdout
    #[arg(long)]
    print_path: bool,
    #[command(flatten)]
    options: Options,
}

/// Which of our kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// Runs in every microVM.
    Guest,
    /// Runs in the emulated machine that has KVM where the real one has not.
    Lab,
}

/// How to build; the default is what everybody but a kernel developer wants.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct Options {
    /// Build even if the cache has this kernel
    #[arg(long)]
    pub(crate) rebuild: bool,
    /// Keep the source and the object files, so that a changed configuration builds in a fraction of the time
    #[arg(long)]
    pub(crate) keep: bool,
}

/// A kernel ready to boot.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// The stripped ELF image with its PVH entry point.
    pub(crate) image: PathBuf,
    /// What `uname -r` says, without our suffix.
    pub(crate) version: String,
}

impl Variant {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::Lab => "lab",
        }
    }

    /// The options of this kernel; those of the lab lie on top of the guest's.
    pub(crate) fn fragment(self) -> Result<Fragment> {
        let mut fragment = Fragment::parse("guest.config", GUEST_CONFIG)?;
        if self == Self::Lab {
            fragment.overlay(Fragment::parse("lab.config", LAB_CONFIG)?);
        }
        Ok(fragment)
    }
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let variant = if arguments.lab {
        Variant::Lab
    } else {
        Variant::Guest
    };
    let kernel = ensure(variant, arguments.options)?;
    let path = kernel.image.display();
    if arguments.print_path {
        printer::result(&path.to_string());
        return Ok(());
    }
    let size_mib = fs::metadata(&kernel.image)?.len().div_ceil(1 << 20);
    printer::result(&format!(
        "Linux {} ({}), {size_mib} MiB: {path}",
        kernel.version,
        variant.name()
    ));
    printer::result(&format!(
        "sha256:{}",
        digest_file::sha256_hex(&kernel.image)?
    ));
    Ok(())
}

/// Returns the kernel from the cache, or builds it, which takes minutes; prints only what takes time.
pub(crate) fn ensure(variant: Variant, options: Options) -> Result<Kernel> {
    if cfg!(not(target_arch = "x86_64")) {
        bail!(
            "The guest kernel is for x86_64, and xtask does not cross-compile it: build it on such a machine"
        );
    }
    let fragment = variant.fragment()?;
    // The compiler is part of the key; the other packages are only needed once there is something to build.
    packages::ensure(packages::COMPILER)?;
    let source = Source::find()?;
    let directory = cache::directory("kernel")?;
    let home = directory.join(format!(
        "{}-{}",
        variant.name(),
        key(&fragment, &source.identity, &compiler()?)
    ));
    if !options.rebuild
        && let Some(kernel) = Kernel::find(&home)
    {
        return Ok(kernel);
    }
    packages::ensure(packages::KERNEL_BUILD)?;
    let lock = cache::lock(&directory, "kernel")?;
    // Another checkout may have built it while this one waited for the lock.
    if !options.rebuild
        && let Some(kernel) = Kernel::find(&home)
    {
        return Ok(kernel);
    }
    let work = directory.join("work").join(short_digest(&source.identity));
    build::build(&build::Plan {
        variant,
        fragment: &fragment,
        source: &source,
        work: &work,
        home: &home,
        lock: &lock,
    })?;
    if !options.keep {
        fs::remove_dir_all(&work)?;
    }
    prune(&directory, variant, &home)?;
    Kernel::find(&home).with_context(|| format!("The build left no kernel in `{}`", home.display()))
}

impl Kernel {
    fn find(home: &Path) -> Option<Self> {
        let image = home.join(IMAGE);
        let version = fs::read_to_string(home.join("version"))
            .ok()?
            .trim()
            .to_owned();
        image.is_file().then_some(Self { image, version })
    }
}

/// Names a kernel by everything that decides about its bytes.
fn key(fragment: &Fragment, source_identity: &str, compiler: &str) -> String {
    short_digest(&[RECIPE, source_identity, compiler, &fragment.render()].join("\0"))
}

fn short_digest(text: &str) -> String {
    let mut digest = hex::encode(Sha256::digest(text));
    digest.truncate(KEY_DIGITS);
    digest
}

/// The versions of what compiles and links, in one line.
fn compiler() -> Result<String> {
    let first_line = |program: &str| -> Result<String> {
        let text = process::captured(Command::new(program).arg("--version"))?;
        Ok(text.lines().next().unwrap_or_default().to_owned())
    };
    Ok(format!("{} / {}", first_line("gcc")?, first_line("ld")?))
}

/// Removes the oldest kernels of a variant beyond [`KEPT_BUILDS`], never `current`.
fn prune(directory: &Path, variant: Variant, current: &Path) -> Result<()> {
    let prefix = format!("{}-", variant.name());
    let mut builds = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) && entry.path() != current {
            builds.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    builds.sort();
    // The current one is not in the list, so one less of the others stays.
    let surplus = builds.len().saturating_sub(KEPT_BUILDS - 1);
    for (_, path) in builds.into_iter().take(surplus) {
        fs::remove_dir_all(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_follows_everything_that_matters() {
        let guest = Variant::Guest.fragment().unwrap();
        let lab = Variant::Lab.fragment().unwrap();
        let keys = [
            key(&guest, "source", "gcc"),
            key(&lab, "source", "gcc"),
            key(&guest, "other source", "gcc"),
            key(&guest, "source", "other gcc"),
        ];
        for (index, one) in keys.iter().enumerate() {
            assert_eq!(one.len(), KEY_DIGITS);
            assert!(keys.iter().skip(index + 1).all(|other| other != one));
        }
        assert_eq!(key(&guest, "source", "gcc"), keys[0]);
    }

    #[test]
    fn half_a_kernel_is_none() {
        let home = tempfile::tempdir().unwrap();
        assert!(Kernel::find(home.path()).is_none());
        fs::write(home.path().join("version"), "6.12.1\n").unwrap();
        assert!(Kernel::find(home.path()).is_none());
        fs::write(home.path().join(IMAGE), "ELF").unwrap();
        assert_eq!(Kernel::find(home.path()).unwrap().version, "6.12.1");
    }

    #[test]
    fn only_old_kernels_of_the_same_variant_are_pruned() {
        let directory = tempfile::tempdir().unwrap();
        for name in [
            "guest-1", "guest-2", "guest-3", "guest-4", "guest-5", "lab-1", "work",
        ] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        let current = directory.path().join("guest-1");
        prune(directory.path(), Variant::Guest, &current).unwrap();
        let mut left: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(
            left.iter()
                .filter(|name| name.to_string_lossy().starts_with("guest-"))
                .count(),
            KEPT_BUILDS
        );
        assert!(
            current.is_dir()
                && directory.path().join("lab-1").is_dir()
                && directory.path().join("work").is_dir()
        );
    }
}
