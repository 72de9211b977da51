//! `volar cp`.

use std::ffi::{OsStr, OsString};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::agent::stats::{FileKind, FileStat};
use futures_util::stream;
use tokio::sync::mpsc;

use crate::cli::{CopyArgs, GuestPath, Place};
use crate::client::{Client, Tar};
use crate::commands::{CommandError, Context, Doing as _};
use crate::copy::{PackError, PipeReader, Target, UnpackError, pack, pipe, unpack};
use crate::output::size;
use crate::terminal::read_stdin;
use crate::ui::{Progress, plain};

/// How long a transfer into a guest may stand still.
const MAX_SILENCE: Duration = Duration::from_mins(2);

/// The bytes of an archive that are sent at once.
const PIECE_BYTES: usize = 64 * 1024;

/// A copy that was not made.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// Neither or both sides are in a guest.
    #[error("One side must be in a VM, as NAME:/path, and the other one not")]
    Sides,
    /// An archive for a terminal.
    #[error("A tar archive is not for a terminal: redirect it into a file or pipe")]
    Terminal,
    /// Nothing there.
    #[error("There is no `{path}` in VM `{name}`")]
    NotInGuest {
        /// The VM.
        name: String,
        /// The path.
        path: String,
    },
    /// Something that is not a directory.
    #[error("`{path}` in VM `{name}` is no directory")]
    NoDirectory {
        /// The VM.
        name: String,
        /// The path.
        path: String,
    },
    /// A place on this host.
    #[error("There is no directory `{}` to copy into", path.display())]
    NoFolder {
        /// The directory.
        path: PathBuf,
    },
    /// A source without a name, such as `/`.
    #[error("`{}` has no name that a copy could have", path.display())]
    NoName {
        /// The path.
        path: PathBuf,
    },
    /// Reading here.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// Writing here.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// Nothing moves.
    #[error("Nothing was copied for {} s", MAX_SILENCE.as_secs())]
    Silence,
    /// A thread that is gone; its panic was told.
    #[error("The copy was given up")]
    Lost,
}

pub(in crate::commands) async fn run(
    context: &Context,
    args: CopyArgs,
) -> Result<(), CommandError> {
    let client = context.client()?;
    match (args.source, args.target) {
        (Place::Guest(from), Place::Host(to)) => download(context, &client, &from, &to).await,
        (Place::Guest(from), Place::Stream) => print_archive(context, &client, &from).await,
        (Place::Host(from), Place::Guest(to)) => upload(context, &client, &from, &to).await,
        (Place::Stream, Place::Guest(to)) => send_archive(context, &client, &to).await,
        _ => Err(CopyError::Sides.into()),
    }
}

async fn stat(client: &Client, place: &GuestPath) -> Result<Option<FileStat>, CommandError> {
    let GuestPath { name, path } = place;
    let action = || format!("look at `{path}` in VM `{name}`");
    let found = client.stat_file(name, path).await.doing(action)?;
    if found.is_none() {
        // A VM that is not there is another mistake than a file that is not.
        client.vm(name).await.doing(action)?;
    }
    Ok(found)
}

fn missing(place: &GuestPath) -> CopyError {
    CopyError::NotInGuest {
        name: place.name.to_string(),
        path: place.path.clone(),
    }
}

async fn read(client: &Client, from: &GuestPath) -> Result<Tar, CommandError> {
    if stat(client, from).await?.is_none() {
        return Err(missing(from).into());
    }
    let GuestPath { name, path } = from;
    client
        .read_files(name, path)
        .await
        .doing(|| format!("copy `{path}` from VM `{name}`"))
}

async fn print_archive(
    context: &Context,
    client: &Client,
    from: &GuestPath,
) -> Result<(), CommandError> {
    if context.output.is_terminal() {
        return Err(CopyError::Terminal.into());
    }
    let mut tar = read(client, from).await?;
    let action = || format!("copy `{}` from VM `{}`", from.path, from.name);
    while let Some(bytes) = tar.next().await.doing(action)? {
        context.output.bytes(&bytes)?;
    }
    Ok(())
}

async fn download(
    context: &Context,
    client: &Client,
    from: &GuestPath,
    to: &Path,
) -> Result<(), CommandError> {
    let target = target(Path::new(&from.path), to)?;
    let mut tar = read(client, from).await?;
    let (writer, receiver) = pipe();
    let sender = writer.into_sender();
    let unpacking = tokio::task::spawn_blocking(move || unpack(PipeReader::new(receiver), &target));
    let mut progress = context.ui.progress(from.name.as_str());
    progress.phase(&format!("copying {}", from.path));
    let mut moved = 0;
    let action = || format!("copy `{}` from VM `{}`", from.path, from.name);
    while let Some(bytes) = tar.next().await.doing(action)? {
        advance(&progress, &mut moved, bytes.len());
        if sender.send(bytes).await.is_err() {
            // The other side says why.
            break;
        }
    }
    drop(sender);
    let done = unpacking.await.map_err(|_| CopyError::Lost)?;
    progress.finish();
    let done = done.map_err(CopyError::from)?;
    for skipped in &done.skipped {
        context.ui.note(&plain(&format!("Left out {skipped}")));
    }
    said(context, done.bytes, done.members);
    Ok(())
}

/// Where a copy goes on this host: into a directory that is there, else under a name of its own.
fn target(from: &Path, to: &Path) -> Result<Target, CopyError> {
    let name = || match from.file_name() {
        Some(name) => Ok(name.to_owned()),
        None => Err(CopyError::NoName {
            path: from.to_owned(),
        }),
    };
    if to.is_dir() {
        return Ok(Target {
            folder: to.to_owned(),
            name: name()?,
        });
    }
    let folder = match to.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new("/"),
    };
    match to.file_name() {
        Some(name) if folder.is_dir() => Ok(Target {
            folder: folder.to_owned(),
            name: name.to_owned(),
        }),
        _ => Err(CopyError::NoFolder {
            path: folder.to_owned(),
        }),
    }
}

async fn upload(
    context: &Context,
    client: &Client,
    from: &Path,
    to: &GuestPath,
) -> Result<(), CommandError> {
    let (folder, name) = place(client, from, to).await?;
    let (writer, receiver) = pipe();
    let source = from.to_owned();
    // Headers and small files go together.
    let writer = BufWriter::with_capacity(PIECE_BYTES, writer);
    let packing = tokio::task::spawn_blocking(move || pack(&source, &name, writer));
    let mut progress = context.ui.progress(to.name.as_str());
    progress.phase(&format!("copying {}", from.display()));
    let sent = send(
        client,
        to,
        &folder,
        Moving {
            receiver,
            progress: &progress,
        },
    )
    .await;
    // The receiver is gone by now, so that the thread ends.
    let packed = packing.await.map_err(|_| CopyError::Lost)?;
    progress.finish();
    match (sent, packed) {
        // A file that cannot be read cuts the archive off, and the guest complains about that: the file is the reason.
        (_, Err(error @ PackError::Read(_))) | (Ok(()), Err(error)) => {
            Err(CopyError::from(error).into())
        }
        (Err(error), _) => Err(error),
        (Ok(()), Ok(packed)) => {
            for skipped in &packed.skipped {
                let text = format!("Left out {}: no file, directory or link", skipped.display());
                context.ui.note(&plain(&text));
            }
            said(context, packed.bytes, packed.members);
            Ok(())
        }
    }
}

/// The directory in the guest that a copy goes to, and the name that it gets there.
async fn place(
    client: &Client,
    from: &Path,
    to: &GuestPath,
) -> Result<(String, OsString), CommandError> {
    let absolute = fs_err::canonicalize(from).map_err(PackError::Read);
    let absolute = absolute.map_err(CopyError::from)?;
    let own_name = absolute.file_name().map(OsStr::to_owned);
    let own_name = own_name.ok_or_else(|| CopyError::NoName {
        path: from.to_owned(),
    });
    match stat(client, to).await? {
        Some(found) if found.kind == FileKind::Directory => Ok((to.path.clone(), own_name?)),
        found => {
            let wants_directory = to.path.ends_with('/') || to.path.ends_with("/.");
            let replaces_file = found.is_some() && absolute.is_dir();
            if wants_directory || replaces_file {
                return Err(no_directory(to).into());
            }
            let path = Path::new(&to.path);
            let name = path.file_name().ok_or_else(|| CopyError::NoName {
                path: path.to_owned(),
            })?;
            let folder = path.parent().unwrap_or(Path::new("/"));
            let folder = GuestPath {
                name: to.name.clone(),
                path: folder.to_string_lossy().into_owned(),
            };
            match stat(client, &folder).await? {
                None => Err(missing(&folder).into()),
                Some(_) => Ok((folder.path, name.to_owned())),
            }
        }
    }
}

fn no_directory(place: &GuestPath) -> CopyError {
    CopyError::NoDirectory {
        name: place.name.to_string(),
        path: place.path.clone(),
    }
}

async fn send_archive(
    context: &Context,
    client: &Client,
    to: &GuestPath,
) -> Result<(), CommandError> {
    if context.settings.surroundings.stdin_is_terminal {
        return Err(CopyError::Terminal.into());
    }
    match stat(client, to).await? {
        None => return Err(missing(to).into()),
        Some(found) if found.kind == FileKind::Directory => {}
        Some(_) => return Err(no_directory(to).into()),
    }
    let mut progress = context.ui.progress(to.name.as_str());
    progress.phase("copying an archive");
    let receiver = read_stdin();
    let moving = Moving {
        receiver,
        progress: &progress,
    };
    let sent = send(client, to, &to.path, moving).await;
    progress.finish();
    sent
}

/// An archive on its way into a guest.
struct Moving<'a> {
    receiver: mpsc::Receiver<Vec<u8>>,
    progress: &'a Progress,
}

async fn send(
    client: &Client,
    to: &GuestPath,
    folder: &str,
    moving: Moving<'_>,
) -> Result<(), CommandError> {
    let Moving { receiver, progress } = moving;
    // Each piece that the connection takes is counted, so that one that stands still is noticed.
    let (count, mut counted) = mpsc::unbounded_channel();
    let pieces = stream::unfold((receiver, count), async |(mut receiver, count)| {
        let piece = receiver.recv().await?;
        // Nobody counts any more when the transfer was given up.
        let _ = count.send(piece.len());
        Some((Ok::<_, std::io::Error>(piece), (receiver, count)))
    });
    let call = client.write_files(&to.name, folder, pieces);
    tokio::pin!(call);
    let mut moved = 0;
    loop {
        tokio::select! {
            result = &mut call => {
                return result.doing(|| format!("copy to `{}` in VM `{}`", to.path, to.name));
            }
            piece = tokio::time::timeout(MAX_SILENCE, counted.recv()) => match piece {
                Ok(Some(length)) => advance(progress, &mut moved, length),
                // All is sent: the guest may take its time for the last of it, within the same limit.
                Ok(None) => {
                    let result = tokio::time::timeout(MAX_SILENCE, &mut call).await;
                    let result = result.map_err(|_| CopyError::Silence)?;
                    return result.doing(|| format!("copy to `{}` in VM `{}`", to.path, to.name));
                }
                Err(_) => return Err(CopyError::Silence.into()),
            }
        }
    }
}

fn advance(progress: &Progress, moved: &mut u64, length: usize) {
    *moved = moved.saturating_add(u64::try_from(length).unwrap_or(0));
    progress.detail(&size(*moved));
}

fn said(context: &Context, bytes: u64, members: u64) {
    let noun = if members == 1 {
        "file"
    } else {
        "files and directories"
    };
    context
        .ui
        .note(&format!("Copied {members} {noun}, {}", size(bytes)));
}
