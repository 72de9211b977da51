//! How each step of a launch is done and undone. The order is `plan`'s, and recording is the driver's: nothing here knows the journal.
//!
//! Undoing works on what a step did whole, in part or not at all, by this daemon or one before it, and twice in a row.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fs_err::tokio as fs;
use tokio::time::timeout;

use super::parts::Parts;
use super::plan::Step;
use super::ports::{BootMedia, BoxFuture, Instance, Launch, StepError};

/// How long a VMM may take to end after it was asked by its own API. It has no guest left to wait for.
const QUIT_WAIT: Duration = Duration::from_secs(5);

/// How long it may take to end after SIGTERM.
const TERM_WAIT: Duration = Duration::from_secs(5);

/// How long the kernel may take to end it after SIGKILL: a process with much memory on a busy host is not gone at once.
const KILL_WAIT: Duration = Duration::from_secs(10);

/// What a step works with. Made anew for each, so that a step can outlive the borrow of its driver.
#[derive(Clone)]
pub(super) struct Hands {
    pub(super) parts: Arc<Parts>,
    pub(super) launch: Arc<Launch>,
    pub(super) media: Option<Arc<BootMedia>>,
    pub(super) instance: Option<Arc<dyn Instance>>,
}

/// What a step leaves for those after it.
pub(super) enum Made {
    Nothing,
    Media(BootMedia),
    Instance(Box<dyn Instance>),
}

type Do = fn(Hands) -> BoxFuture<'static, Result<Made, StepError>>;
type Undo = fn(Hands) -> BoxFuture<'static, Result<(), StepError>>;

/// One row of the table.
pub(super) struct Row {
    pub(super) make: Do,
    pub(super) undo: Undo,
}

/// The launch as a table.
pub(super) const fn row(step: Step) -> Row {
    match step {
        Step::Directories => Row {
            make: make_directories,
            undo: remove_run_dir,
        },
        Step::Media => Row {
            make: prepare_media,
            undo: discard_media,
        },
        Step::Network => Row {
            make: attach_network,
            undo: detach_network,
        },
        Step::Vmm => Row {
            make: spawn_vmm,
            undo: end_vmm,
        },
        Step::Boot => Row {
            make: boot_guest,
            undo: detach_console,
        },
    }
}

fn make_directories(hands: Hands) -> BoxFuture<'static, Result<Made, StepError>> {
    Box::pin(async move {
        let paths = &hands.launch.paths;
        for path in [&paths.state_dir, &paths.run_dir] {
            private_dir(path)
                .await
                .map_err(|error| StepError::caused("The VM's folders cannot be made", error))?;
        }
        Ok(Made::Nothing)
    })
}

/// Makes a folder and those above it; its own contents are for the daemon's user only.
async fn private_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::create_dir_all(path).await?;
    fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).await
}

/// The state folder stays: it holds the console's log, and goes when the VM is deleted.
fn remove_run_dir(hands: Hands) -> BoxFuture<'static, Result<(), StepError>> {
    Box::pin(async move { remove_dir(&hands.launch.paths.run_dir).await })
}

/// Removes a folder with all that is in it; none there is fine.
pub(super) async fn remove_dir(path: &Path) -> Result<(), StepError> {
    match fs::remove_dir_all(path).await {
        Err(error) if !is_not_there(&error) => Err(StepError::caused(
            format!("`{}` cannot be removed", path.display()),
            error,
        )),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn is_not_there(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn prepare_media(hands: Hands) -> BoxFuture<'static, Result<Made, StepError>> {
    Box::pin(async move {
        hands
            .parts
            .media
            .prepare(&hands.launch)
            .await
            .map(Made::Media)
    })
}

fn discard_media(hands: Hands) -> BoxFuture<'static, Result<(), StepError>> {
    Box::pin(async move { hands.parts.media.discard(&hands.launch.paths).await })
}

fn attach_network(hands: Hands) -> BoxFuture<'static, Result<Made, StepError>> {
    Box::pin(async move {
        hands
            .parts
            .network
            .attach(&hands.launch.lease)
            .await
            .map(|()| Made::Nothing)
    })
}

fn detach_network(hands: Hands) -> BoxFuture<'static, Result<(), StepError>> {
    Box::pin(async move { hands.parts.network.detach(&hands.launch.lease).await })
}

fn spawn_vmm(hands: Hands) -> BoxFuture<'static, Result<Made, StepError>> {
    Box::pin(async move {
        let media = hands
            .media
            .as_ref()
            .ok_or_else(|| StepError::new("There is no boot media"))?;
        hands
            .parts
            .vmm
            .spawn(&hands.launch, media)
            .await
            .map(Made::Instance)
    })
}

/// Ends the VMM: by its API, by SIGTERM, by SIGKILL, and at last whatever carries the launch's id, recorded or not.
fn end_vmm(hands: Hands) -> BoxFuture<'static, Result<(), StepError>> {
    Box::pin(async move {
        if let Some(instance) = &hands.instance {
            end_instance(instance.as_ref()).await;
        }
        hands.parts.vmm.kill_instance(&hands.launch.instance).await
    })
}

async fn end_instance(instance: &dyn Instance) {
    if ended_within(instance, Duration::ZERO).await {
        return;
    }
    // What a refused call or signal means is seen by the process still being there.
    let asked = timeout(QUIT_WAIT, instance.quit()).await;
    if matches!(asked, Ok(Ok(()))) && ended_within(instance, QUIT_WAIT).await {
        return;
    }
    for (force, wait) in [(false, TERM_WAIT), (true, KILL_WAIT)] {
        if let Err(error) = instance.signal(force) {
            tracing::warn!(error = %common::error_chain::Chain(&error), force, "vmm not signalled");
        }
        if ended_within(instance, wait).await {
            return;
        }
    }
}

async fn ended_within(instance: &dyn Instance, wait: Duration) -> bool {
    timeout(wait, instance.exited()).await.is_ok()
}

fn boot_guest(hands: Hands) -> BoxFuture<'static, Result<Made, StepError>> {
    Box::pin(async move {
        let instance = hands
            .instance
            .as_ref()
            .ok_or_else(|| StepError::new("There is no VMM process"))?;
        let serial = instance.boot().await?;
        hands
            .parts
            .console
            .attach(&hands.launch.vm, &hands.launch.paths, serial);
        Ok(Made::Nothing)
    })
}

fn detach_console(hands: Hands) -> BoxFuture<'static, Result<(), StepError>> {
    Box::pin(async move {
        hands.parts.logs.end(&hands.launch.vm);
        hands.parts.console.detach(&hands.launch.vm);
        Ok(())
    })
}
