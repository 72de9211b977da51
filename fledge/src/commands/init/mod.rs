//! `fledge init`: writes a commented `fledge.toml` and `manifest.toml` to begin with. Overwrites nothing and fetches nothing.

mod text;

use std::io;
use std::path::{Component, Path, PathBuf};

use clap::Args;
use common::build_spec::GuestPath;
use common::exit_code::ExitCode;
use common::name::{MAX_NAME_BYTES, Name};

use super::Failure;
use super::staged::{PUBLIC_MODE, Staged, is_full};
use crate::image::elf::{self, Program};
use crate::oci::{self, SourceError};
use crate::ui::Ui;
use text::Source;

const EXAMPLES: &str = "\
Examples:
  fledge init --binary target/release/app     a plugin that runs this program
  fledge init --image nginx:alpine web        a plugin from a container image, in ./web
  fledge init --dockerfile Dockerfile         a plugin from the image that a Dockerfile makes
  fledge init                                 the same, for the Dockerfile that is here

`fledge check` accepts what it writes. Files that are there are never overwritten.";

/// The file that the directory is looked through for when nothing is named.
const DOCKERFILE: &str = "Dockerfile";

/// The plugin's name where nothing else makes one.
const FALLBACK_NAME: &str = "plugin";

/// The shell that busybox provides.
const SHELL: &str = "/bin/sh";

/// Flags of `fledge init`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct InitArgs {
    /// A program of this machine that the VM runs
    #[arg(long, value_name = "PATH", group = "source")]
    binary: Option<PathBuf>,
    /// A container image, such as nginx:alpine
    #[arg(long, value_name = "REF", group = "source")]
    image: Option<String>,
    /// A Dockerfile, whose image is built first
    #[arg(long, value_name = "PATH", group = "source")]
    dockerfile: Option<PathBuf>,
    /// Where fledge.toml and manifest.toml go; made if it is not there
    #[arg(value_name = "DIR", default_value = ".")]
    directory: PathBuf,
}

/// A beginning that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Nothing says what the plugin is.
    #[error("Say what the plugin is made of")]
    NoSource,
    /// A file is there already.
    #[error("`{}` exists already", path.display())]
    Exists {
        /// Its path.
        path: PathBuf,
    },
    /// The program or Dockerfile is missing.
    #[error("`{}` does not exist", path.display())]
    NotFound {
        /// Its path.
        path: PathBuf,
    },
    /// The program or Dockerfile cannot be used.
    #[error("`{}` {why}", path.display())]
    Unusable {
        /// Its path.
        path: PathBuf,
        /// A clause.
        why: String,
    },
    /// The reference names no image.
    #[error(transparent)]
    Image(#[from] SourceError),
    /// A file or directory cannot be read or written.
    #[error("Cannot access `{}`", path.display())]
    Access {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Failure for InitError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::NoSource => ExitCode::Usage,
            Self::Exists { .. } => ExitCode::Conflict,
            Self::NotFound { .. } => ExitCode::NotFound,
            Self::Access { source, .. } if is_full(source) => ExitCode::Capacity,
            Self::Unusable { .. } | Self::Image(_) | Self::Access { .. } => ExitCode::Invalid,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::NoSource => {
                vec!["--binary PATH, --image REF or --dockerfile PATH; `fledge init --help` shows examples".to_owned()]
            }
            Self::Exists { .. } => {
                vec![
                    "`fledge check` says whether it is in order; DIR names another directory"
                        .to_owned(),
                ]
            }
            Self::NotFound { .. }
            | Self::Unusable { .. }
            | Self::Image(_)
            | Self::Access { .. } => Vec::new(),
        }
    }
}

/// Writes both files.
///
/// # Errors
/// Where one of them is there already, or cannot be written; then neither is.
pub fn run(args: &InitArgs, ui: &Ui) -> Result<(), InitError> {
    let directory = &args.directory;
    let spec = directory.join("fledge.toml");
    let manifest = directory.join("manifest.toml");
    for path in [&spec, &manifest] {
        // A link that leads nowhere is there, too.
        if fs_err::symlink_metadata(path).is_ok() {
            return Err(InitError::Exists { path: path.clone() });
        }
    }
    let (name, source) = source(args)?;
    let made = Made::new(directory)?;
    let source = source.seen_from(directory)?;
    let staged_spec = stage(&spec, &text::spec(&source))?;
    let staged_manifest = stage(&manifest, &text::manifest(&name, &source))?;
    publish(staged_spec)?;
    if let Err(error) = publish(staged_manifest) {
        // The half of a beginning would only be in the way.
        drop(fs_err::remove_file(&spec));
        return Err(error);
    }
    made.keep();
    ui.result(&format!(
        "{}: what goes into the image\n{}: what it is and how it runs",
        spec.display(),
        manifest.display()
    ));
    Ok(())
}

/// The plugin's name and what it is made of; paths are as the user gave them.
fn source(args: &InitArgs) -> Result<(String, Source), InitError> {
    if let Some(path) = &args.binary {
        let has_shell = needs_shell(path)?;
        let file_name = utf8(path, path.file_name().unwrap_or_default())?;
        let guest = format!("/usr/bin/{file_name}");
        let guest = guest
            .parse::<GuestPath>()
            .map_err(|error| unusable(path, format!("has no name for the guest: {error}")))?;
        let source = Source::Binary {
            path: utf8(path, path.as_os_str())?,
            guest: guest.to_string(),
            has_shell,
        };
        return Ok((name_of(&file_name), source));
    }
    if let Some(image) = &args.image {
        oci::Source::parse(image, Path::new(""))?;
        let path = image.split('@').next().unwrap_or_default();
        let last = path.rsplit('/').next().unwrap_or_default();
        let name = name_of(last.split(':').next().unwrap_or_default());
        return Ok((name, Source::Image(image.clone())));
    }
    let path = match &args.dockerfile {
        Some(path) => path.clone(),
        None => Some(args.directory.join(DOCKERFILE))
            .filter(|path| path.is_file())
            .ok_or(InitError::NoSource)?,
    };
    look_for_file(&path)?;
    let parent = absolute(&path)?;
    let context = parent.parent().and_then(Path::file_name);
    let name = name_of(&context.unwrap_or_default().to_string_lossy());
    let path = utf8(&path, path.as_os_str())?;
    Ok((name, Source::Dockerfile(path)))
}

impl Source {
    /// The same with its path as `fledge.toml` in `directory` must name it.
    fn seen_from(self, directory: &Path) -> Result<Self, InitError> {
        let seen = |path: &str| {
            let path = Path::new(path);
            let relative = relative(&absolute(path)?, &absolute(&directory.join("x"))?);
            utf8(path, relative.as_os_str())
        };
        Ok(match self {
            Self::Binary {
                path,
                guest,
                has_shell,
            } => Self::Binary {
                path: seen(&path)?,
                guest,
                has_shell,
            },
            Self::Dockerfile(path) => Self::Dockerfile(seen(&path)?),
            image @ Self::Image(_) => image,
        })
    }
}

fn look_for_file(path: &Path) -> Result<(), InitError> {
    match fs_err::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(()),
        Ok(_) => Err(unusable(path, "is not a file".to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(InitError::NotFound {
            path: path.to_path_buf(),
        }),
        Err(error) => Err(access(path, error)),
    }
}

/// Whether the program at `path` runs in an image with a shell only.
fn needs_shell(path: &Path) -> Result<bool, InitError> {
    look_for_file(path)?;
    let program = fs_err::File::open(path)
        .and_then(|mut file| elf::inspect(&mut file))
        .map_err(|source| access(path, source))?;
    let why = match program {
        Program::Static { machine } | Program::Dynamic { machine, .. }
            if machine != elf::X86_64 =>
        {
            format!("is for another machine (ELF number {machine}), not for x86-64")
        }
        Program::Static { .. } => return Ok(false),
        Program::Script(interpreter) if interpreter == SHELL.as_bytes() => return Ok(true),
        Program::Dynamic { interpreter, .. } => format!(
            "is dynamically linked and needs `{}`: link it statically, or begin with an image that has its libraries (--image, --dockerfile)",
            String::from_utf8_lossy(&interpreter).escape_debug()
        ),
        Program::Script(interpreter) => format!(
            "is a script for `{}`: begin with an image that has it (--image, --dockerfile)",
            String::from_utf8_lossy(&interpreter).escape_debug()
        ),
        Program::Other => "is neither an ELF program nor a script".to_owned(),
    };
    Err(unusable(path, why))
}

/// A plugin's name made of what `text` has of one.
fn name_of(text: &str) -> String {
    let plain: String = text
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(MAX_NAME_BYTES)
        .collect();
    let plain = plain.trim_matches('-');
    if plain.parse::<Name>().is_ok() {
        plain.to_owned()
    } else {
        FALLBACK_NAME.to_owned()
    }
}

/// The path from the root, with the links on the way to its directory resolved.
fn absolute(path: &Path) -> Result<PathBuf, InitError> {
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let parent = fs_err::canonicalize(parent).map_err(|source| access(path, source))?;
    Ok(parent.join(path.file_name().unwrap_or_default()))
}

/// `path` as it is reached from the directory of `file`; both are absolute.
fn relative(path: &Path, file: &Path) -> PathBuf {
    let from: Vec<Component<'_>> = file.parent().unwrap_or(file).components().collect();
    let to: Vec<Component<'_>> = path.components().collect();
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = from.iter().skip(common).map(|_| Component::ParentDir);
    up.chain(to.iter().skip(common).copied()).collect()
}

/// A file that is not in its place yet.
fn stage(path: &Path, text: &str) -> Result<Staged, InitError> {
    Staged::holding(path, PUBLIC_MODE, text.as_bytes()).map_err(|source| access(path, source))
}

/// Moves the file to its place, which must be free.
fn publish(staged: Staged) -> Result<PathBuf, InitError> {
    let path = staged.path().to_path_buf();
    staged.place().map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => InitError::Exists { path },
        _ => access(&path, error),
    })
}

/// Directories that were made for the plugin. They go again unless they are kept.
struct Made(Vec<PathBuf>);

impl Made {
    /// Makes `directory`, and what it lies in.
    fn new(directory: &Path) -> Result<Self, InitError> {
        let missing = directory
            .ancestors()
            .take_while(|path| *path != Path::new("") && fs_err::symlink_metadata(path).is_err());
        // The innermost comes first.
        let made = Self(missing.map(Path::to_path_buf).collect());
        fs_err::create_dir_all(directory).map_err(|source| access(directory, source))?;
        Ok(made)
    }

    fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for path in &self.0 {
            // What somebody else put something into stays.
            drop(fs_err::remove_dir(path));
        }
    }
}

fn utf8(path: &Path, text: &std::ffi::OsStr) -> Result<String, InitError> {
    let text = text.to_str().map(str::to_owned);
    text.ok_or_else(|| unusable(path, "has a name that is no text".to_owned()))
}

fn unusable(path: &Path, why: String) -> InitError {
    InitError::Unusable {
        path: path.to_path_buf(),
        why,
    }
}

fn access(path: &Path, source: io::Error) -> InitError {
    InitError::Access {
        path: path.to_path_buf(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_of_anything() {
        let long = "x".repeat(100);
        for (text, expected) in [
            ("app", "app"),
            ("My App.v2", "my-app-v2"),
            ("_app_", "app"),
            ("", "plugin"),
            ("日本", "plugin"),
            (&long, &long[..63]),
        ] {
            assert_eq!(name_of(text), expected);
        }
    }

    #[test]
    fn paths_are_relative_to_the_spec() {
        for (path, file, expected) in [
            ("/a/b/app", "/a/b/fledge.toml", "app"),
            ("/a/b/c/app", "/a/b/fledge.toml", "c/app"),
            ("/a/app", "/a/b/fledge.toml", "../app"),
            ("/x/app", "/a/b/fledge.toml", "../../x/app"),
        ] {
            assert_eq!(
                relative(Path::new(path), Path::new(file)),
                Path::new(expected)
            );
        }
    }
}
