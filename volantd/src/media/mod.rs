//! Boot media: what a VMM is given to boot one VM. Prepared once for each artifact, and completed for each launch.
//!
//! A plugin ships a compressed initramfs. Every guest would have to unpack it on one CPU before anything else runs, so it is
//! unpacked once, when it arrives, and kept as a plain archive: with 52 MB of files that saves a guest two thirds of its instructions
//! up to PID 1 (1.36 G against 0.46 G, counted by QEMU). Each launch gets a copy with a second archive behind it, which holds what only
//! this guest may know; Linux unpacks archives that follow each other. Fetches nothing and starts nothing.

mod guest_archive;
mod image;
mod kernel;
mod memory;

use std::collections::HashSet;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::cmdline::{self, CmdlineError, IpConfig};
use common::digest::Digest;
use common::error_chain::Chain;
use common::guest_config::MAX_GUEST_CONFIG_BYTES;
use common::net::{Subnet, host_name};

use image::Images;
pub use image::{ImageError, MAX_IMAGE_BYTES};
pub use kernel::KernelError;

use crate::artifact::{self, ContentCheck, Rejection};
use crate::machine::ports::{BootMedia, BoxFuture, Launch, Media, StepError, VmPaths};

/// The name of a VM's initramfs in its state folder.
const INITRAMFS_FILE: &str = "initramfs.cpio";

/// The interface of every guest: it has one, and its kernel numbers from 0.
const GUEST_DEVICE: &str = "eth0";

/// What boot media are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaConfig {
    /// The daemon's state folder; prepared images are in `media` in it.
    pub state_dir: PathBuf,
    /// The PVH kernel that all guests boot.
    pub kernel: PathBuf,
    /// The guests' subnet.
    pub subnet: Subnet,
    /// The guests' default route.
    pub host_ip: Ipv4Addr,
    /// The largest unpacked image in bytes, [`MAX_IMAGE_BYTES`] unless configured.
    pub max_image_bytes: u64,
}

/// Boot media that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// The kernel is missing or cannot be booted.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The artifact is not in the store any more.
    #[error("The artifact {digest} of the plugin is not in the store")]
    ArtifactMissing {
        /// Its digest.
        digest: Digest,
    },
    /// The artifact cannot be prepared.
    #[error("The artifact {digest} of the plugin cannot be booted")]
    Image {
        /// Its digest.
        digest: Digest,
        /// Why.
        #[source]
        source: ImageError,
    },
    /// The image does not fit the VM's memory.
    #[error(
        "The VM has {memory_mib} MiB of memory, and its image of {image_mib} MiB needs at least {needed_mib} MiB to be unpacked"
    )]
    Memory {
        /// What the VM has.
        memory_mib: u32,
        /// The unpacked image, rounded up.
        image_mib: u64,
        /// What it needs.
        needed_mib: u64,
    },
    /// The kernel command line cannot be built.
    #[error(transparent)]
    Cmdline(#[from] CmdlineError),
    /// The environment and the manifest together are too large.
    #[error(
        "The manifest and its environment have {bytes} bytes; a guest reads at most {MAX_GUEST_CONFIG_BYTES}"
    )]
    GuestConfig {
        /// The length of the file.
        bytes: usize,
    },
    /// The second archive cannot be made.
    #[error("Cannot write the guest's configuration")]
    GuestArchive(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The VM's initramfs cannot be written.
    #[error("Cannot write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The VM's initramfs cannot be removed.
    #[error("Cannot remove `{}`", path.display())]
    Remove {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A thread ended without a result: a bug.
    #[error("A thread that prepares boot media ended early")]
    Worker(#[source] tokio::task::JoinError),
}

impl MediaError {
    /// What a user can do about it.
    pub fn hints(&self) -> Vec<String> {
        let full = |source: &io::Error| {
            matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            )
        };
        let hint = match self {
            Self::Kernel(_) => {
                "`cargo xtask kernel` builds a kernel; its path is set with `VOLANT_KERNEL_VMLINUX`"
                    .to_owned()
            }
            Self::ArtifactMissing { .. } => {
                "Install the plugin again with `volar plugins install`".to_owned()
            }
            Self::Image {
                source: ImageError::Write { source, .. },
                ..
            }
            | Self::Write { source, .. }
                if full(source) =>
            {
                "The disk is full: free some space".to_owned()
            }
            Self::Memory { needed_mib, .. } => {
                format!("Give the VM more memory: `--memory {needed_mib}`")
            }
            _ => return Vec::new(),
        };
        vec![hint]
    }
}

impl From<MediaError> for StepError {
    fn from(error: MediaError) -> Self {
        let hints = error.hints();
        // Causes are short here (a full disk, a missing file), and a user needs them.
        let mut step = Self::new(Chain(&error).to_string());
        step.hints = hints;
        step
    }
}

/// Prepared images, and what completes them.
#[derive(Debug)]
pub struct MediaStore {
    parts: Arc<Parts>,
}

#[derive(Debug)]
struct Parts {
    config: MediaConfig,
    images: Images,
}

impl MediaStore {
    /// Opens the store and removes what an interrupted preparation left.
    ///
    /// # Errors
    /// If its folder cannot be made.
    pub fn open(config: MediaConfig) -> Result<Self, ImageError> {
        let images = Images::open(&config.state_dir.join("media"), config.max_image_bytes)?;
        Ok(Self {
            parts: Arc::new(Parts { config, images }),
        })
    }

    /// Whether the kernel is there and can be booted. Cheap enough for every create.
    ///
    /// # Errors
    /// [`MediaError::Kernel`].
    pub fn check_kernel(&self) -> Result<(), MediaError> {
        Ok(kernel::check(&self.parts.config.kernel)?)
    }

    /// Whether an artifact's image fits a VM of this size. An artifact that is not prepared yet fits: it is seen at the launch.
    ///
    /// # Errors
    /// [`MediaError::Memory`] with the memory that it needs.
    pub fn check_memory(&self, digest: &Digest, memory_mib: u32) -> Result<(), MediaError> {
        match fs_err::metadata(self.parts.images.path_of(digest)) {
            Ok(image) => memory::check(image.len(), memory_mib),
            Err(_) => Ok(()),
        }
    }

    /// Removes the images of all artifacts but `stored`.
    ///
    /// # Errors
    /// The first image that cannot be removed.
    pub fn collect_garbage(&self, stored: &HashSet<Digest>) -> Result<Vec<Digest>, ImageError> {
        self.parts.images.collect_garbage(stored)
    }
}

impl ContentCheck for MediaStore {
    fn check(&self, file: &Path, digest: &Digest) -> Result<(), Rejection> {
        match self.parts.images.ensure(file, digest) {
            Ok(_) => Ok(()),
            Err(ImageError::Read { source, .. } | ImageError::Write { source, .. }) => {
                Err(Rejection::Io(source))
            }
            Err(content) => Err(Rejection::Content(Chain(&content).to_string())),
        }
    }
}

impl Media for MediaStore {
    fn prepare<'a>(&'a self, launch: &'a Launch) -> BoxFuture<'a, Result<BootMedia, StepError>> {
        let (parts, launch) = (Arc::clone(&self.parts), launch.clone());
        Box::pin(async move { Ok(blocking(move || parts.prepare(&launch)).await?) })
    }

    fn discard<'a>(&'a self, paths: &'a VmPaths) -> BoxFuture<'a, Result<(), StepError>> {
        let path = paths.state_dir.join(INITRAMFS_FILE);
        Box::pin(async move { Ok(blocking(move || remove(path)).await?) })
    }
}

impl Parts {
    fn prepare(&self, launch: &Launch) -> Result<BootMedia, MediaError> {
        kernel::check(&self.config.kernel)?;
        let digest = launch.artifact;
        let base = self.image_of(&digest)?;
        let image_bytes = fs_err::metadata(&base)
            .map_err(|source| MediaError::Image {
                digest,
                source: ImageError::Read {
                    path: base.clone(),
                    source,
                },
            })?
            .len();
        memory::check(image_bytes, launch.memory_mib)?;
        let ip = IpConfig {
            address: launch.lease.ip,
            gateway: self.config.host_ip,
            netmask: self.config.subnet.netmask(),
            host_name: host_name(launch.vm.as_str()),
            device: GUEST_DEVICE.to_owned(),
        };
        let cmdline = cmdline::build(&cmdline::Request {
            ip: &ip,
            extra: &launch.extra_cmdline,
            api: launch
                .api
                .as_ref()
                .map(|(host, port)| (host.as_str(), *port)),
            manifest: &launch.manifest,
        })?;
        let tail = guest_archive::render(launch, cmdline.carries_manifest)?;
        let initramfs = launch.paths.state_dir.join(INITRAMFS_FILE);
        guest_archive::append(&base, &tail, &initramfs).map_err(|source| {
            // Half a file is of no use to anybody.
            drop(fs_err::remove_file(&initramfs));
            MediaError::Write {
                path: initramfs.clone(),
                source,
            }
        })?;
        Ok(BootMedia {
            kernel: self.config.kernel.clone(),
            initramfs,
            cmdline: cmdline.line,
        })
    }

    /// The prepared image of an artifact; made now if somebody removed it.
    fn image_of(&self, digest: &Digest) -> Result<PathBuf, MediaError> {
        let artifact = artifact::path_of(&self.config.state_dir, digest);
        match self.images.ensure(&artifact, digest) {
            Ok(path) => Ok(path),
            Err(ImageError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Err(MediaError::ArtifactMissing { digest: *digest })
            }
            Err(source) => Err(MediaError::Image {
                digest: *digest,
                source,
            }),
        }
    }
}

fn remove(path: PathBuf) -> Result<(), MediaError> {
    match fs_err::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(MediaError::Remove { path, source })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, MediaError> + Send + 'static,
) -> Result<T, MediaError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(gone) => Err(MediaError::Worker(gone)),
    }
}
