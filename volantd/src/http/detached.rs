//! Work that goes on when its client goes away: what was begun for a user is not left half done.

use crate::cause::Cause;
use crate::service::{ErrorKind, ServiceError};
use crate::task;

/// Runs `work` in a task of its own and waits for it.
pub(super) async fn to_its_end<T: Send + 'static, E: From<ServiceError> + Send + 'static>(
    work: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, E> {
    let done = task::spawn("request", Cause::current().scope(work)).await;
    // Not joined: the daemon ends, or the work panicked, which its task has reported.
    let interrupted = || ServiceError::new(ErrorKind::Internal, "The request was interrupted");
    done.unwrap_or_else(|_| Err(interrupted().into()))
}
