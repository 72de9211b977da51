//! The build API: `fledge build` over HTTP, for files of one directory. Takes no files and gives none: both sides share that directory.
//!
//! ```text
//! connections → gate → routes → jobs → the build (commands::build), confined to the directory
//!                        ↑                  │ what it says
//!                      events ←── log ←─────┘
//! ```

mod connections;
mod events;
mod gate;
mod jobs;
mod log;
mod problem;
mod request;
mod routes;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::confinement::Confinement;
use jobs::Jobs;
use routes::Server;

pub use gate::Gate;
pub use jobs::{Build, Phase, Request};

/// The variable that may hold the key that clients must present. No program that a build starts gets it.
pub const KEY_VARIABLE: &str = "FLEDGE_API_KEY";

/// How long builds have to stop when the program ends; they notice within moments unless the disk hangs.
const END_TIMEOUT: Duration = Duration::from_secs(30);

/// What is served.
pub struct Service {
    /// Who may ask.
    pub gate: Gate,
    /// Where the paths of requests must lead.
    pub confinement: Confinement,
    /// What builds.
    pub build: Box<Build>,
    /// How many builds run at once.
    pub max_running: usize,
    /// Another number each time, so that nobody takes a job for one of an earlier run.
    pub run: u32,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}

/// Serves until `ending` becomes true, then stops all builds and waits for them.
///
/// # Errors
/// Where builds did not stop in time: they may have left files behind whose names begin with a dot.
pub async fn serve(
    listener: TcpListener,
    service: Service,
    mut ending: watch::Receiver<bool>,
) -> io::Result<()> {
    let Service {
        gate,
        confinement,
        build,
        max_running,
        run,
    } = service;
    let jobs = Jobs::new(build, max_running, run);
    let server = Server {
        gate,
        confinement,
        jobs: Arc::clone(&jobs),
    };
    let accepting = connections::serve(listener, routes::router(server), ending.clone());
    let stopping = async {
        connections::end(&mut ending).await;
        tokio::time::timeout(END_TIMEOUT, jobs.end()).await
    };
    let ((), stopped) = tokio::join!(accepting, stopping);
    stopped.map_err(|_| io::ErrorKind::TimedOut.into())
}
