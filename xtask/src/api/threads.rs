//! Many threads that do the same at once, and what came of each.

use std::thread::{ScopedJoinHandle, scope};

use anyhow::{Result, bail};

/// Does it in so many threads.
///
/// # Errors
/// The first thread's that failed, once all have ended.
pub(super) fn all<T: Send>(count: usize, act: impl Fn() -> Result<T> + Sync) -> Result<Vec<T>> {
    beside(count, act, || Ok(())).map(|((), all)| all)
}

/// Does it in so many threads, and something else in this one meanwhile. Answers what came of that, and of them.
///
/// # Errors
/// The first thread's that failed, or this one's, once all have ended.
pub(super) fn beside<T: Send, U>(
    count: usize,
    act: impl Fn() -> Result<T> + Sync,
    meanwhile: impl FnOnce() -> Result<U>,
) -> Result<(U, Vec<T>)> {
    let act = &act;
    scope(|scope| {
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(act)).collect();
        let here = meanwhile();
        let ended: Vec<Result<T>> = threads.into_iter().map(joined).collect();
        let all = ended.into_iter().collect::<Result<Vec<T>>>()?;
        Ok((here?, all))
    })
}

fn joined<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|_| bail!("A thread panicked"))
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn they_run_at_once_and_one_failure_is_told() {
        let (met, next) = (Barrier::new(4), AtomicUsize::new(0));
        let act = || {
            met.wait();
            match next.fetch_add(1, Ordering::Relaxed) {
                2 => bail!("the third fails"),
                other => Ok(other),
            }
        };
        let error = beside(3, act, || {
            met.wait();
            Ok(())
        });
        assert_eq!(error.unwrap_err().to_string(), "the third fails");
        assert_eq!(all(2, || Ok(7)).unwrap(), [7, 7]);
    }
}
