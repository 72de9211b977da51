//! Does work on several threads and hands on the results in the order in which the work was given out, so that what is written does not
//! depend on the threads. Knows nothing of compression.

use std::io;
use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Jobs in flight for each thread: enough that none waits, and a bound on memory.
const JOBS_PER_THREAD: usize = 3;

/// More threads than this wait for the reader and the writer, which are one each.
const MAX_THREADS: usize = 32;

/// Where work is given out. The work ends when it is dropped.
#[derive(Debug)]
pub(super) struct Queue<J, R> {
    /// Each with the place of its result.
    jobs: SyncSender<(J, SyncSender<R>)>,
    /// The results in order: their receivers are queued before they are ready.
    results: SyncSender<Receiver<R>>,
}

impl<J, R> Queue<J, R> {
    /// Gives out a job; waits while too many are under way.
    ///
    /// # Errors
    /// Where nobody takes the results any more. Why is what [`in_order`] returns.
    pub(super) fn push(&self, job: J) -> io::Result<()> {
        let (result, receiver) = sync_channel(1);
        let stopped = || io::Error::new(io::ErrorKind::BrokenPipe, "The output has failed");
        self.results.send(receiver).map_err(|_| stopped())?;
        self.jobs.send((job, result)).map_err(|_| stopped())
    }
}

/// Runs `produce` here, `work` for each job that it gives out on `threads` threads, and `collect` for each result, in order.
///
/// # Errors
/// What `collect` returns, which stops the rest; else what `produce` returns.
pub(super) fn in_order<J, R, T, E>(
    threads: NonZeroUsize,
    work: impl Fn(J) -> R + Sync,
    collect: impl FnMut(R) -> io::Result<()> + Send,
    produce: impl FnOnce(Queue<J, R>) -> Result<T, E>,
) -> Result<T, E>
where
    J: Send,
    R: Send,
    E: From<io::Error>,
{
    let threads = threads.get().min(MAX_THREADS);
    let (jobs, job_queue) = sync_channel(threads);
    let (results, result_queue) = sync_channel(threads * JOBS_PER_THREAD);
    let job_queue = Mutex::new(job_queue);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| take_jobs(&job_queue, &work)))
            .collect();
        let collector = scope.spawn(move || collect_all(result_queue, collect));
        let produced = produce(Queue { jobs, results });
        for worker in workers {
            join(worker.join());
        }
        // An output that fails stops the input too: its error is the cause, so it goes first.
        join(collector.join())?;
        produced
    })
}

/// Passes a panic of a thread on.
fn join<T>(result: thread::Result<T>) -> T {
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn take_jobs<J, R>(queue: &Mutex<Receiver<(J, SyncSender<R>)>>, work: &impl Fn(J) -> R) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((job, result)) = job else {
            return;
        };
        // Nobody waits for it once the output has failed.
        drop(result.send(work(job)));
    }
}

fn collect_all<R>(
    results: Receiver<Receiver<R>>,
    mut collect: impl FnMut(R) -> io::Result<()>,
) -> io::Result<()> {
    for result in results {
        let result = result
            .recv()
            .map_err(|_| io::Error::other("A compression thread ended early"))?;
        collect(result)?;
    }
    Ok(())
}
