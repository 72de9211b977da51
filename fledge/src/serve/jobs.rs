//! The jobs: a bounded queue, so many builds at once, and what became of the last ones. Knows nothing of HTTP; what a build is, it is told.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use common::api::Problem;
use serde::Serialize;
use tokio::sync::watch;

use super::log::{Entry, Log};
use super::problem;
use crate::commands::build::{BuildError, Built};
use crate::ui::Ui;

/// Jobs that wait for their turn; more are refused, so that clients notice instead of waiting for hours.
pub(super) const MAX_QUEUED: usize = 16;

/// Jobs that ended and can still be asked for.
const MAX_ENDED: usize = 32;

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Waits for its turn.
    Queued,
    /// Is being built.
    Running,
    /// The artifact is there.
    Succeeded,
    /// There is no artifact, and a reason.
    Failed,
    /// Somebody stopped it; nothing was written.
    Cancelled,
}

impl Phase {
    /// Whether nothing will change any more.
    pub const fn is_final(self) -> bool {
        match self {
            Self::Queued | Self::Running => false,
            Self::Succeeded | Self::Failed | Self::Cancelled => true,
        }
    }
}

/// What is to be built. All paths are relative to the directory that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The build spec.
    pub config: PathBuf,
    /// The template of the manifest, if it was named.
    pub manifest: Option<PathBuf>,
    /// The artifact, if it was named.
    pub output: Option<PathBuf>,
    /// Whether the client named the artifact from `/` on, and reads the answer so.
    pub absolute_output: bool,
}

impl Request {
    /// Whether both could write the same file. An artifact that is not named gets its name from the spec, and lies at the top.
    fn collides_with(&self, other: &Self) -> bool {
        match (&self.output, &other.output) {
            (Some(one), Some(two)) => one == two,
            (None, Some(named)) | (Some(named), None) => named.parent() == Some(Path::new("")),
            (None, None) => true,
        }
    }
}

/// What builds: the request, where to say what happens, and a value that becomes true when it must stop. May block.
pub type Build =
    dyn Fn(&Request, &Ui, watch::Receiver<bool>) -> Result<Built, BuildError> + Send + Sync;

/// Where a job is, and what became of it.
#[derive(Debug, Clone)]
pub(super) struct Status {
    pub(super) phase: Phase,
    pub(super) created: SystemTime,
    pub(super) started: Option<SystemTime>,
    pub(super) ended: Option<SystemTime>,
    /// With phase `Succeeded`.
    pub(super) built: Option<Built>,
    /// With phases `Failed` and `Cancelled`.
    pub(super) problem: Option<Problem>,
}

/// A build that somebody asked for.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: String,
    number: u64,
    pub(super) request: Request,
    pub(super) log: Arc<Log>,
    status: watch::Sender<Status>,
    stop: watch::Sender<bool>,
}

impl Job {
    pub(super) fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Waits until it has ended.
    pub(super) async fn ended(&self) -> Status {
        let mut status = self.status.subscribe();
        let ended = status.wait_for(|status| status.phase.is_final()).await;
        // The sender is part of this job, so the wait cannot end without the value.
        ended.map_or_else(|_| self.status(), |status| status.clone())
    }

    fn enter(&self, phase: Phase, change: impl FnOnce(&mut Status)) {
        self.status.send_modify(|status| {
            status.phase = phase;
            change(status);
        });
        self.log.add(Entry::Phase(phase));
    }

    fn cancelled(&self) {
        self.enter(Phase::Cancelled, |status| {
            status.ended = Some(SystemTime::now());
            status.problem = Some(problem::cancelled());
        });
    }
}

/// Why a job is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// Too many wait already.
    QueueFull,
    /// The program ends.
    Ending,
}

/// All jobs.
pub(super) struct Jobs {
    build: Box<Build>,
    max_running: usize,
    /// Tells the jobs of this run of the program from those of the last.
    run: u32,
    room: Mutex<Room>,
    /// How many run, for whoever waits for the end.
    running: watch::Sender<usize>,
}

#[derive(Default)]
struct Room {
    accepted: u64,
    queued: VecDeque<Arc<Job>>,
    running: Vec<Arc<Job>>,
    ended: VecDeque<Arc<Job>>,
    is_ending: bool,
}

impl Jobs {
    /// Jobs of which `max_running` run at once. `run` should be another number each time.
    pub(super) fn new(build: Box<Build>, max_running: usize, run: u32) -> Arc<Self> {
        Arc::new(Self {
            build,
            max_running,
            run,
            room: Mutex::default(),
            running: watch::Sender::new(0),
        })
    }

    /// Accepts a job, and starts it if it is its turn.
    pub(super) fn submit(self: &Arc<Self>, request: Request) -> Result<Arc<Job>, Refused> {
        let mut room = self.room();
        if room.is_ending {
            return Err(Refused::Ending);
        }
        room.accepted += 1;
        let job = Arc::new(Job {
            id: format!("{:08x}-{}", self.run, room.accepted),
            number: room.accepted,
            request,
            log: Arc::new(Log::new()),
            status: watch::Sender::new(Status {
                phase: Phase::Queued,
                created: SystemTime::now(),
                started: None,
                ended: None,
                built: None,
                problem: None,
            }),
            stop: watch::Sender::new(false),
        });
        room.queued.push_back(Arc::clone(&job));
        let next = self.take_next(&mut room);
        // What can run at once does not wait.
        if room.queued.len() > MAX_QUEUED {
            room.queued.pop_back();
            return Err(Refused::QueueFull);
        }
        job.log.add(Entry::Phase(Phase::Queued));
        drop(room);
        self.start(next);
        Ok(job)
    }

    /// All jobs that are known, in the order in which they were accepted.
    pub(super) fn list(&self) -> Vec<Arc<Job>> {
        let room = self.room();
        let all = room.ended.iter().chain(&room.running).chain(&room.queued);
        let mut all: Vec<_> = all.cloned().collect();
        drop(room);
        all.sort_by_key(|job| job.number);
        all
    }

    pub(super) fn find(&self, id: &str) -> Option<Arc<Job>> {
        let room = self.room();
        let mut all = room.ended.iter().chain(&room.running).chain(&room.queued);
        all.find(|job| job.id == id).cloned()
    }

    /// Stops a job: at once if it waits, else as soon as its build notices. One that has ended stays what it is.
    pub(super) fn cancel(&self, job: &Arc<Job>) {
        job.stop.send_replace(true);
        let mut room = self.room();
        let waiting = room.queued.iter().position(|other| Arc::ptr_eq(other, job));
        if let Some(index) = waiting {
            room.queued.remove(index);
            job.cancelled();
            room.keep(Arc::clone(job));
        }
    }

    /// Accepts no more jobs and stops all there are; returns when none is left.
    pub(super) async fn end(&self) {
        let (waiting, running) = {
            let mut room = self.room();
            room.is_ending = true;
            let waiting: Vec<_> = room.queued.iter().cloned().collect();
            (waiting, room.running.clone())
        };
        for job in waiting.iter().chain(&running) {
            self.cancel(job);
        }
        // The sender is this value's own.
        drop(self.running.subscribe().wait_for(|count| *count == 0).await);
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves the job whose turn it is from those that wait to those that run.
    fn take_next(&self, room: &mut Room) -> Option<Arc<Job>> {
        if room.running.len() >= self.max_running {
            return None;
        }
        let is_free = |job: &Arc<Job>| {
            let mut running = room.running.iter();
            !running.any(|other| other.request.collides_with(&job.request))
        };
        let index = room.queued.iter().position(is_free)?;
        let job = room.queued.remove(index)?;
        room.running.push(Arc::clone(&job));
        self.running.send_replace(room.running.len());
        Some(job)
    }

    fn start(self: &Arc<Self>, job: Option<Arc<Job>>) {
        let Some(job) = job else { return };
        let jobs = Arc::clone(self);
        tokio::spawn(async move {
            job.enter(Phase::Running, |status| {
                status.started = Some(SystemTime::now());
            });
            let outcome = tokio::task::spawn_blocking({
                let (jobs, job) = (Arc::clone(&jobs), Arc::clone(&job));
                move || {
                    let ui = Ui::relayed(Arc::clone(&job.log));
                    let built = (jobs.build)(&job.request, &ui, job.stop.subscribe());
                    if let Err(error) = &built {
                        ui.error(error, &common::error_chain::causes(error), &[]);
                    }
                    built
                }
            });
            let outcome = outcome.await;
            jobs.finish(&job, outcome.ok());
        });
    }

    /// Notes what became of a job, `None` if its build panicked, and goes on with the next.
    fn finish(self: &Arc<Self>, job: &Arc<Job>, outcome: Option<Result<Built, BuildError>>) {
        let now = Some(SystemTime::now());
        match outcome {
            Some(Ok(built)) => job.enter(Phase::Succeeded, |status| {
                status.ended = now;
                status.built = Some(built);
            }),
            // Whatever the build stumbled over while it was being stopped.
            Some(Err(_)) if *job.stop.borrow() => job.cancelled(),
            failed => job.enter(Phase::Failed, |status| {
                status.ended = now;
                status.problem = Some(match failed {
                    Some(Err(error)) => problem::of_build(&error),
                    _ => problem::internal(),
                });
            }),
        }
        let mut room = self.room();
        room.running.retain(|other| !Arc::ptr_eq(other, job));
        room.keep(Arc::clone(job));
        self.running.send_replace(room.running.len());
        let mut next = Vec::new();
        while let Some(job) = self.take_next(&mut room) {
            next.push(job);
        }
        drop(room);
        for job in next {
            self.start(Some(job));
        }
    }
}

impl Room {
    fn keep(&mut self, job: Arc<Job>) {
        self.ended.push_back(job);
        if self.ended.len() > MAX_ENDED {
            self.ended.pop_front();
        }
    }
}

impl std::fmt::Debug for Jobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jobs").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
