//! Spawns tasks: each has a name in the logs, and a panic in it is reported where it happens. Does not restart anything.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::task::JoinHandle;
use tracing::Instrument;

/// Runs `future` as a task of its own, in a span that carries `name`.
///
/// A panic is logged as an error and still ends the task, so that whoever joins it learns of it.
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let reported = Reported {
        name,
        future: Box::pin(future),
    };
    tokio::spawn(reported.instrument(tracing::info_span!(parent: None, "task", task = name)))
}

/// A future whose panic is logged before it goes on.
struct Reported<F> {
    name: &'static str,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Reported<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // The future is never polled again after a panic, so nobody sees what it left half done.
        let polled = catch_unwind(AssertUnwindSafe(|| self.future.as_mut().poll(context)));
        polled.unwrap_or_else(|panic| {
            tracing::error!(
                task = self.name,
                error = message(panic.as_ref()),
                "task panicked"
            );
            resume_unwind(panic)
        })
    }
}

/// The text of a panic.
fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_gives_its_result() {
        assert_eq!(spawn("answer", async { 42 }).await.unwrap(), 42);
    }

    #[tokio::test]
    async fn a_panic_reaches_whoever_joins() {
        let text = "two".to_owned();
        let error = spawn("one", async move { assert_eq!("one", text) })
            .await
            .unwrap_err();
        assert!(error.is_panic());
    }

    #[test]
    fn both_kinds_of_panic_messages_are_read() {
        assert_eq!(message(&"fixed"), "fixed");
        assert_eq!(message(&"built".to_owned()), "built");
        assert_eq!(message(&7_u8), "unknown");
    }
}
