//! Boot media: what a VMM is given to boot one VM. Prepared once for each artifact, and completed for each launch.
//!
//! A plugin ships a compressed initramfs. Every guest would have to unpack it on one CPU before anything else runs, so it is
//! unpacked once, when it arrives, and kept as a plain archive: with 52 MB of files that saves a guest two thirds of its instructions
//! up to PID 1 (1.36 G against 0.46 G, counted by QEMU). Each launch gets a copy with a second archive behind it, which holds what only
//! this guest may know; Linux unpacks archives that follow each other.
//!
//! A root file system is not prepared: all guests of a plugin are given the stored artifact itself, as a read-only disk that shares the
//! host's page cache. Beside it each has a disk with what only it may know, and one for what it writes. Fetches nothing and starts nothing.

mod allowed;
mod disks;
mod guest_archive;
mod image;
mod kernel;
mod memory;
mod rootfs;

use std::collections::HashSet;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::cmdline::{self, Cmdline, CmdlineError, IpConfig, Writable};
use common::digest::Digest;
use common::error_chain::Chain;
use common::guest_config::{self, MAX_GUEST_CONFIG_BYTES};
use common::manifest::{ArtifactKind, Rootfs, RootfsFormat};
use common::net::{Subnet, host_name};

pub use allowed::AllowedError;
pub use disks::DEFAULT_WRITABLE_MB;
use image::Images;
pub use image::{ImageError, MAX_IMAGE_BYTES};
pub use kernel::KernelError;
pub use rootfs::RootfsError;

use crate::artifact::{self, ContentCheck, Rejection};
use crate::machine::ports::{
    BootMedia, BoxFuture, Disk, DiskAccess, Launch, Media, StepError, VmPaths,
};
use crate::signature::{Refusal, Signatures};

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
    /// The folders from which a user may choose another kernel for a VM.
    pub kernel_dirs: Vec<PathBuf>,
    /// The folders from which a user may give files to a VM as disks.
    pub disk_dirs: Vec<PathBuf>,
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
    /// A file that the user named may not be given to a VM.
    #[error(transparent)]
    Allowed(#[from] AllowedError),
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
    /// The root file system cannot be mounted by a guest.
    #[error("The root file system {digest} of the plugin cannot be booted")]
    Rootfs {
        /// Its digest.
        digest: Digest,
        /// Why.
        #[source]
        source: RootfsError,
    },
    /// The guest has written something onto its own disk that is none of its business.
    #[error("The VM's disk `{}` was made into {format} by its guest, which could deceive the VMM", path.display())]
    Disguised {
        /// The disk.
        path: PathBuf,
        /// What it looks like, such as "a qcow2 image".
        format: &'static str,
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
    /// A file of the VM cannot be written.
    #[error("Cannot write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of the VM cannot be removed.
    #[error("Cannot remove `{}`", path.display())]
    Remove {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Signatures are required, and the artifact's is missing or does not hold.
    #[error("The artifact {digest} of the plugin may not be booted on this host")]
    Signature {
        /// Its digest.
        digest: Digest,
        /// Why.
        #[source]
        source: Refusal,
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
            Self::Allowed(AllowedError::Outside { .. }) => {
                "The folders are set with `VOLANT_KERNEL_DIRS` and `VOLANT_DISK_DIRS`".to_owned()
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
            Self::Signature { source, .. } => source.hint().to_owned(),
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
    signatures: Arc<Signatures>,
}

impl MediaStore {
    /// Opens the store and removes what an interrupted preparation left. Everything may be booted.
    ///
    /// # Errors
    /// If its folder cannot be made.
    pub fn open(config: MediaConfig) -> Result<Self, ImageError> {
        Self::open_with(config, Arc::default())
    }

    /// As [`MediaStore::open`], but only what `signatures` lets pass may be booted.
    ///
    /// # Errors
    /// As there.
    pub fn open_with(config: MediaConfig, signatures: Arc<Signatures>) -> Result<Self, ImageError> {
        let images = Images::open(&config.state_dir.join("media"), config.max_image_bytes)?;
        Ok(Self {
            parts: Arc::new(Parts {
                config,
                images,
                signatures,
            }),
        })
    }

    /// Whether the kernel is there and can be booted. Cheap enough for every create.
    ///
    /// # Errors
    /// [`MediaError::Kernel`].
    pub fn check_kernel(&self) -> Result<(), MediaError> {
        Ok(kernel::check(&self.parts.config.kernel)?)
    }

    /// Whether a VM may boot the kernel at `path`, and can.
    ///
    /// # Errors
    /// [`MediaError::Allowed`] or [`MediaError::Kernel`].
    pub fn check_other_kernel(&self, path: &Path) -> Result<(), MediaError> {
        self.parts.kernel(Some(path)).map(drop)
    }

    /// Whether a VM may have the file at `path` as a disk, and can.
    ///
    /// # Errors
    /// [`MediaError::Allowed`].
    pub fn check_disk(&self, path: &Path) -> Result<(), MediaError> {
        allowed::find_disk(path, &self.parts.config.disk_dirs)?;
        Ok(())
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
    fn check(&self, file: &Path, digest: &Digest, kind: ArtifactKind) -> Result<(), Rejection> {
        if let ArtifactKind::Rootfs(wanted) = kind {
            return match rootfs::check(file, wanted) {
                Ok(_) => Ok(()),
                Err(RootfsError::Read(source)) => Err(Rejection::Io(source)),
                Err(content) => Err(Rejection::Content(Chain(&content).to_string())),
            };
        }
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
        let state_dir = paths.state_dir.clone();
        Box::pin(async move { Ok(blocking(move || discard(&state_dir)).await?) })
    }
}

impl Parts {
    fn prepare(&self, launch: &Launch) -> Result<BootMedia, MediaError> {
        let kernel = self.kernel(launch.kernel.as_deref())?;
        self.check_signature(&launch.artifact)?;
        let extra = allowed::extra_disks(&launch.disks, &self.config.disk_dirs)?;
        let mut media = match &launch.manifest.rootfs {
            Some(rootfs) => self.prepare_rootfs(launch, rootfs)?,
            None => self.prepare_initramfs(launch)?,
        };
        media.kernel = kernel;
        media.disks.extend(extra);
        Ok(media)
    }

    /// The kernel that a VM boots: the daemon's, unless its user chose another one.
    fn kernel(&self, chosen: Option<&Path>) -> Result<PathBuf, MediaError> {
        let path = match chosen {
            Some(chosen) => allowed::find(chosen, &self.config.kernel_dirs)?,
            None => self.config.kernel.clone(),
        };
        kernel::check(&path)?;
        Ok(path)
    }

    fn prepare_initramfs(&self, launch: &Launch) -> Result<BootMedia, MediaError> {
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
        let cmdline = self.cmdline(launch, None)?;
        let config = guest_archive::config(launch, cmdline.carries_manifest)?;
        let tail = guest_archive::archive(config)?;
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
            initramfs: Some(initramfs),
            disks: Vec::new(),
            cmdline: cmdline.line,
        })
    }

    /// The disks are in the order of [`cmdline::ROOT_DEVICE`], [`cmdline::CONFIG_DEVICE`] and [`cmdline::WRITABLE_DEVICE`].
    fn prepare_rootfs(&self, launch: &Launch, rootfs: &Rootfs) -> Result<BootMedia, MediaError> {
        let digest = launch.artifact;
        let artifact = artifact::path_of(&self.config.state_dir, &digest);
        let format = rootfs::check(&artifact, rootfs.format).map_err(|source| match source {
            RootfsError::Read(error) if error.kind() == io::ErrorKind::NotFound => {
                MediaError::ArtifactMissing { digest }
            }
            source => MediaError::Rootfs { digest, source },
        })?;
        let cmdline = self.cmdline(launch, Some(format))?;
        let config = guest_archive::config(launch, cmdline.carries_manifest)?;
        let state_dir = &launch.paths.state_dir;
        let writable = match Writable::of(rootfs) {
            Writable::Disk(_) => Some(disks::ensure_writable(state_dir, rootfs.writable_mb)?),
            Writable::Memory { .. } => None,
        };
        let config = disks::write_config(state_dir, &guest_config::on_disk(config))?;
        let disk = |path, access| Disk {
            path,
            access,
            serial: None,
        };
        let mut disks = vec![
            disk(artifact, DiskAccess::ReadOnly),
            disk(config, DiskAccess::ReadOnly),
        ];
        disks.extend(writable.map(|path| disk(path, DiskAccess::ReadWrite)));
        Ok(BootMedia {
            kernel: self.config.kernel.clone(),
            initramfs: None,
            disks,
            cmdline: cmdline.line,
        })
    }

    fn cmdline(
        &self,
        launch: &Launch,
        root_format: Option<RootfsFormat>,
    ) -> Result<Cmdline, MediaError> {
        let ip = IpConfig {
            address: launch.lease.ip,
            gateway: self.config.host_ip,
            netmask: self.config.subnet.netmask(),
            host_name: host_name(launch.vm.as_str()),
            device: GUEST_DEVICE.to_owned(),
        };
        Ok(cmdline::build(&cmdline::Request {
            ip: &ip,
            extra: &launch.extra_cmdline,
            api: launch
                .api
                .as_ref()
                .map(|(host, port)| (host.as_str(), *port)),
            manifest: &launch.manifest,
            root_format,
        })?)
    }

    /// Checks the stored artifact's signature, if signatures are required.
    fn check_signature(&self, digest: &Digest) -> Result<(), MediaError> {
        let artifact = artifact::path_of(&self.config.state_dir, digest);
        let checked = self.signatures.verify_stored(&artifact, digest);
        checked.map_err(|source| MediaError::Signature {
            digest: *digest,
            source,
        })
    }

    /// The prepared image of an artifact; made now if somebody removed it, or changed it where signatures are required.
    fn image_of(&self, digest: &Digest) -> Result<PathBuf, MediaError> {
        let artifact = artifact::path_of(&self.config.state_dir, digest);
        let image = if self.signatures.are_required() {
            self.images.ensure_same(&artifact, digest)
        } else {
            self.images.ensure(&artifact, digest)
        };
        match image {
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

/// Removes what is made for one launch only.
fn discard(state_dir: &Path) -> Result<(), MediaError> {
    let path = state_dir.join(INITRAMFS_FILE);
    disks::remove_if_there(&path).map_err(|source| MediaError::Remove { path, source })?;
    disks::remove_config(state_dir)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, MediaError> + Send + 'static,
) -> Result<T, MediaError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(gone) => Err(MediaError::Worker(gone)),
    }
}
