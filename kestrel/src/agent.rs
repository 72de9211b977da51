//! One guest from its booted kernel to its last answer: starts the rooms in their order and passes each what it needs. Powers nothing off.

use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use common::agent::{AGENT_PORT, tcp_port_beside};
use common::error_chain::Chain;
use common::manifest::Manifest;
use tokio::sync::Semaphore;

use crate::boot::Facts;
use crate::console;
use crate::log::Log;
use crate::manifest::{self, NoManifest};
use crate::power::{ANSWER_BOUND, last_answers};
use crate::reaper::Reaper;
use crate::server::{Agent, MAX_COPIES, TcpServer, start_vsock};
use crate::session::Sessions;
use crate::shell::{ConsoleShell, SERIAL, SHELL};
use crate::signals::{self, Stop, StopReason};
use crate::status::StatusBoard;
use crate::supervise::Supervisor;
use crate::workload::WorkloadError;

/// Why a guest cannot go on.
#[derive(Debug, thiserror::Error)]
enum AgentError {
    /// The kernel gives no signal handling or no epoll.
    #[error("Cannot listen for signals")]
    Signals(#[source] io::Error),
    /// Nothing says what to run.
    #[error(transparent)]
    Manifest(#[from] NoManifest),
    /// It cannot be run.
    #[error(transparent)]
    Workload(#[from] WorkloadError),
}

/// Runs a guest to its end: asked for, or not. Afterwards there is nothing left but to power off.
pub(crate) async fn run(facts: Facts, began: Duration) {
    let board = Arc::new(StatusBoard::new(began));
    let log = Arc::new(Log::new());
    match guest(&facts, &board, &log, began).await {
        Ok(reason) => {
            log.finish();
            last_answers(&board, ANSWER_BOUND).await;
            console::line(&format!("Powering off: {reason}"));
        }
        Err(error) => {
            let failure = Chain(&error).to_string();
            console::fatal(&failure);
            board.failed(console::one_line(&failure));
            log.say(&failure);
            log.finish();
            last_answers(&board, ANSWER_BOUND).await;
        }
    }
}

async fn guest(
    facts: &Facts,
    board: &Arc<StatusBoard>,
    log: &Arc<Log>,
    began: Duration,
) -> Result<StopReason, AgentError> {
    let stop = Stop::new();
    signals::listen(&stop).map_err(AgentError::Signals)?;
    let reaper = Reaper::start().map_err(AgentError::Signals)?;
    let found = manifest::local(facts);

    let agent = Arc::new(Agent {
        board: Arc::clone(board),
        stop: stop.clone(),
        secret: facts.config.as_ref().map(|config| config.secret.clone()),
        base: OnceLock::new(),
        log: Arc::clone(log),
        sessions: Sessions::new(reaper.clone()),
        copies: Arc::new(Semaphore::new(MAX_COPIES)),
        set_clock: crate::sys::set_unix_time,
        began,
    });
    // A bad manifest is told on the usual port too.
    let known = found.as_ref().ok().and_then(Option::as_ref);
    let mut listener = Listener::start(&agent, port_beside(known)).await;
    // Without vsock the host uses the network; there is nothing to tell.
    drop(start_vsock(&agent, AGENT_PORT));

    let manifest = if let Some(manifest) = found? {
        manifest
    } else {
        tokio::select! {
            fetched = manifest::fetch(facts) => fetched?,
            order = stop.asked() => return Ok(order.reason),
        }
    };
    listener
        .make_room(&agent, port_beside(Some(&manifest)))
        .await;
    if let Some(base) = manifest.workload.base() {
        // Set here only.
        drop(agent.base.set(base));
    }
    watch_console(facts, &manifest, &reaper);
    let supervisor = Supervisor {
        manifest: &manifest,
        own: own_address(facts),
        reaper: &reaper,
        board,
        stop: &stop,
        log,
        sessions: &agent.sessions,
    };
    Ok(supervisor.run().await?)
}

fn port_beside(manifest: Option<&Manifest>) -> u16 {
    tcp_port_beside(manifest.and_then(|manifest| manifest.workload.port()))
}

fn own_address(facts: &Facts) -> Option<Ipv4Addr> {
    facts.ip.as_ref().map(|ip| ip.address)
}

fn watch_console(facts: &Facts, manifest: &Manifest, reaper: &Reaper) {
    let host_name = facts
        .ip
        .as_ref()
        .map(|ip| ip.host_name.clone())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| manifest.name.to_string());
    let shell = ConsoleShell {
        terminal: SERIAL.into(),
        shell: SHELL.into(),
        allowed: manifest.console.shell,
        host_name,
    };
    tokio::spawn(shell.watch(reaper.clone()));
}

/// The TCP listener, which moves if the workload turns out to need its port.
#[derive(Debug)]
struct Listener {
    port: u16,
    server: Option<TcpServer>,
}

impl Listener {
    async fn start(agent: &Arc<Agent>, port: u16) -> Self {
        let server = match TcpServer::start(agent, port).await {
            Ok(server) => Some(server),
            Err(error) => {
                // The workload runs all the same, and vsock may be there.
                console::line(&format!("The agent cannot listen on port {port}: {error}"));
                None
            }
        };
        Self { port, server }
    }

    async fn make_room(&mut self, agent: &Arc<Agent>, port: u16) {
        if port != self.port {
            if let Some(server) = self.server.take() {
                server.close().await;
            }
            *self = Self::start(agent, port).await;
        }
    }
}
