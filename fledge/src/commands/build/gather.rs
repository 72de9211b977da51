//! Gets everything that a plan names onto this machine, and notes what it was for the provenance. Places nothing.

use std::io;
use std::path::{Path, PathBuf};

use common::digest::Digest;
use serde_json::Value;
use tokio::sync::watch;

use super::{BuildError, Settings, output};
use crate::assemble::{Downloaded, Gathered as Files, check_busybox};
use crate::fetch::{Cache, Client, FetchError, Fetcher, RELEASES_URL, Shipped, digest_of};
use crate::manifest_out;
use crate::oci::{self, Image, Keyring, Loader, Request, Source};
use crate::plan::{FileSource, Plan, PlannedBase, PlannedInit};
use crate::provenance::{Input, Role, without_credentials};
use crate::ui::Ui;

/// The version of a plugin that is built from a Dockerfile and nobody versioned, as the Go system has it.
const FIRST_VERSION: &str = "1.0.0";

/// All that was gathered.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// What goes into the image.
    pub(super) files: Files,
    /// What the container image says of its workload, as members of a manifest.
    pub(super) defaults: Option<Value>,
    /// What it was, for the provenance.
    pub(super) inputs: Vec<Input>,
}

/// Gets all of it, and notes the files that are `mapped`; what is small first, so that what is wrong there shows before a large image is pulled.
pub(super) async fn gather(
    plan: &Plan,
    mapped: &[PathBuf],
    settings: &Settings,
    ui: &Ui,
    interrupted: &watch::Receiver<bool>,
) -> Result<Gathered, BuildError> {
    let mut gathered = Gathered::default();
    let fetcher = Fetcher {
        client: Client::new(interrupted.clone()),
        cache: Cache::new(settings.cache.clone()),
        releases_url: RELEASES_URL.to_owned(),
        shipped: Shipped::beside(std::env::current_exe().ok().as_deref()),
        ui,
    };
    if let PlannedInit::Agent(source) = &plan.init {
        let agent = (Role::Agent, "kestrel", "--agent");
        gathered.files.agent = Some(program(&fetcher, agent, source, &mut gathered.inputs).await?);
    }
    if let Some(source) = &plan.busybox {
        let busybox = (Role::Busybox, "busybox", "--busybox");
        let path = program(&fetcher, busybox, source, &mut gathered.inputs).await?;
        let name = match source {
            FileSource::Download(download) => without_credentials(&download.url),
            FileSource::Host { .. } | FileSource::Release { .. } => path.display().to_string(),
        };
        check_busybox(&path, &name)?;
        gathered.files.busybox = Some(path);
    }
    if let PlannedInit::Custom(path) = &plan.init {
        gathered.inputs.push(file(Role::Init, path, interrupted)?);
    }
    for path in mapped {
        let input = file(Role::MappedFile, path, interrupted)?;
        gathered.inputs.push(input);
    }
    for fetch in &plan.fetches {
        let name = fetch.path.as_str();
        let file = fetcher.download(name, &fetch.urls, fetch.checksum).await;
        let file = file.map_err(|source| BuildError::Download {
            path: name.to_owned(),
            source,
        })?;
        gathered.files.downloads.push(Downloaded {
            file,
            fetch: fetch.clone(),
        });
        let url = fetch.urls.first().map_or("", String::as_str);
        gathered
            .inputs
            .push(Input::download(Role::Fetch, url, fetch.checksum));
    }
    if let Some(base) = &plan.base {
        let loader = Loader {
            client: &fetcher.client,
            cache: settings.cache.clone(),
            keyring: Keyring::from_environment(|name| std::env::var_os(name)),
            ui,
            interrupted: interrupted.clone(),
        };
        image(&loader, base, settings, &mut gathered).await?;
    }
    Ok(gathered)
}

async fn program(
    fetcher: &Fetcher<'_>,
    (role, name, flag): (Role, &'static str, &'static str),
    source: &FileSource,
    inputs: &mut Vec<Input>,
) -> Result<PathBuf, BuildError> {
    let failed = |source| BuildError::Fetch { name, flag, source };
    let path = fetcher.fetch(name, source).await.map_err(failed)?;
    let digest = digest_of(&path).map_err(failed)?;
    inputs.push(match source {
        FileSource::Download(download) => Input::download(role, &download.url, digest),
        // Where it lies on this machine is nobody's business, and differs between machines.
        FileSource::Host { .. } | FileSource::Release { .. } => {
            Input::file(role, Path::new(name), digest)
        }
    });
    Ok(path)
}

/// Notes a file of the host. Hashing can take long, and stops when the user interrupts.
fn file(role: Role, path: &Path, interrupted: &watch::Receiver<bool>) -> Result<Input, BuildError> {
    let owned = || path.to_path_buf();
    let digest = || -> io::Result<Option<Digest>> {
        let mut file = fs_err::File::open(path)?;
        if !file.metadata()?.is_file() {
            return Ok(None);
        }
        output::digest_of(&mut file, interrupted).map(Some)
    };
    let source = match digest() {
        Ok(Some(digest)) => return Ok(Input::file(role, path, digest)),
        Err(_) if *interrupted.borrow() => return Err(BuildError::Interrupted),
        Ok(None) => FetchError::NotAFile { path: owned() },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            FetchError::NotFound { path: owned() }
        }
        Err(source) => FetchError::Read {
            path: owned(),
            source,
        },
    };
    let path = owned();
    Err(BuildError::Input { path, source })
}

/// Gets the container image, and what it says of itself.
async fn image(
    loader: &Loader<'_>,
    base: &PlannedBase,
    settings: &Settings,
    gathered: &mut Gathered,
) -> Result<(), BuildError> {
    let (image, (name, version)) = match base {
        PlannedBase::Image {
            reference,
            directory,
        } => {
            let source = Source::parse(reference, directory).map_err(oci::ImageError::from)?;
            (loader.load(&source).await?, source.name_and_version())
        }
        PlannedBase::Dockerfile {
            path,
            context,
            target,
            build_args,
        } => {
            let input = file(Role::Dockerfile, path, &loader.interrupted)?;
            gathered.inputs.push(input);
            let request = Request {
                dockerfile: path.clone(),
                context: context.clone(),
                target: target.clone(),
                build_args: build_args.clone(),
                time_s: u64::from(settings.source_date_epoch_s.unwrap_or(0)),
            };
            let text = path.display().to_string();
            let folder = context.canonicalize().unwrap_or_else(|_| context.clone());
            let folder = folder.file_name().unwrap_or_default().to_string_lossy();
            let name = oci::plugin_name(&folder);
            (
                loader.build(&request, &text).await?,
                (name, FIRST_VERSION.to_owned()),
            )
        }
    };
    let Image {
        tree,
        config,
        identity,
    } = image;
    // The path of a Dockerfile is this machine's; what it built has no name.
    let name_of_image = match base {
        PlannedBase::Image { .. } => identity.reference,
        PlannedBase::Dockerfile { .. } => name.clone(),
    };
    let digest = match base {
        PlannedBase::Image { .. } => Some(identity.manifest.unwrap_or(identity.config)),
        // Builders put a random host name into the config, so its digest would be another one each time.
        PlannedBase::Dockerfile { .. } => identity.manifest,
    };
    gathered.inputs.extend(digest.map(|digest| Input {
        role: Role::ImageManifest,
        name: name_of_image,
        url: None,
        digest,
    }));
    gathered
        .inputs
        .extend(identity.layers.into_iter().map(|digest| Input {
            role: Role::ImageLayer,
            name: digest.to_string(),
            url: None,
            digest,
        }));
    gathered.defaults = Some(manifest_out::defaults(&config, &name, &version));
    // One with `..` in it is left to the agent.
    let workdir = config.defaults().workdir;
    gathered.files.workdir = workdir.and_then(|path| path.parse().ok());
    gathered.files.image = Some(tree);
    Ok(())
}
