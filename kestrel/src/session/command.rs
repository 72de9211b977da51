//! The command of a session: what the host asks for, made into a process with pipes or a terminal. What goes through them is not looked at.

use std::io;
use std::os::unix::fs::fchown;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use common::agent::session::{Start, TerminalSize};
use common::api::Problem;
use common::error_chain::Chain;
use common::manifest::UserName;
use hyper::StatusCode;

use crate::reaper::{Child, Reaper};
use crate::sys::{Watched, open_pseudo_terminal};
use crate::user;
use crate::workload::{Leads, Own, Plan, WorkloadError};

/// The shells of images, the first that is there.
const SHELLS: [&str; 3] = ["/bin/sh", "/bin/bash", "/bin/ash"];

/// What a terminal is called unless the host says: every image with a terminal database knows it.
const DEFAULT_TERM: &str = "xterm";

/// Why a command does not run, in a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    status: StatusCode,
    code: &'static str,
    detail: String,
}

impl Refusal {
    /// What the host sent is not what the protocol allows.
    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            code: "invalid-request",
            detail: detail.into(),
        }
    }

    /// As the host reads it.
    pub(super) fn problem(&self) -> Problem {
        let title = self.status.canonical_reason().unwrap_or_default();
        Problem::new(self.status.as_u16(), title, self.code, self.detail.as_str())
    }
}

impl From<WorkloadError> for Refusal {
    fn from(error: WorkloadError) -> Self {
        let (status, code) = match &error {
            WorkloadError::Missing { .. }
            | WorkloadError::NotInPath { .. }
            | WorkloadError::NoInterpreter { .. } => (StatusCode::NOT_FOUND, "not-found"),
            WorkloadError::NotExecutable { .. } => {
                (StatusCode::UNPROCESSABLE_ENTITY, "not-executable")
            }
            WorkloadError::Start { source, .. } if is_not_executable(source) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "not-executable")
            }
            WorkloadError::NoWorkdir { .. } => (StatusCode::NOT_FOUND, "workdir-not-found"),
            WorkloadError::User(_) => (StatusCode::UNPROCESSABLE_ENTITY, "user-not-found"),
            WorkloadError::ProbeCommand(_)
            | WorkloadError::Workdir { .. }
            | WorkloadError::Output(_)
            | WorkloadError::Start { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "not-started"),
        };
        Self {
            status,
            code,
            detail: Chain(&error).to_string(),
        }
    }
}

/// A file that the kernel cannot load, or that this user may not run.
fn is_not_executable(error: &io::Error) -> bool {
    const ENOEXEC: i32 = 8;
    error.kind() == io::ErrorKind::PermissionDenied || error.raw_os_error() == Some(ENOEXEC)
}

/// A command that was started.
#[derive(Debug)]
pub(super) struct Running {
    /// The leader of its group.
    pub(super) child: Child,
    /// Where its input goes, if it has one.
    pub(super) stdin: Option<Arc<Watched>>,
    /// Where its output comes from.
    pub(super) stdout: Arc<Watched>,
    /// Where its errors come from, unless it has a terminal.
    pub(super) stderr: Option<Arc<Watched>>,
}

impl Running {
    /// Starts what is asked for, in the surroundings of the workload's plan where nothing else is said.
    pub(super) fn start(start: Start, workload: &Plan, reaper: &Reaper) -> Result<Self, Refusal> {
        let (tty, stdin) = (start.tty, start.stdin);
        let plan = plan(start, workload)?;
        let no_streams = |source: io::Error| Refusal {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            code: "not-started",
            detail: format!("The guest has no pipe or terminal for the command: {source}"),
        };
        match tty {
            Some(size) => Self::at_terminal(&plan, reaper, size, stdin, no_streams),
            None => Self::with_pipes(&plan, reaper, stdin, no_streams),
        }
    }

    fn with_pipes(
        plan: &Plan,
        reaper: &Reaper,
        stdin: bool,
        failed: impl Fn(io::Error) -> Refusal + Copy,
    ) -> Result<Self, Refusal> {
        let mut command = plan.command(Leads::Group);
        let mut input = None;
        if stdin {
            let (far, near) = io::pipe().map_err(failed)?;
            give(plan, &far).map_err(failed)?;
            command.stdin(Stdio::from(far));
            input = Some(Arc::new(Watched::for_writing(near.into()).map_err(failed)?));
        }
        let (out, out_far) = io::pipe().map_err(failed)?;
        let (err, err_far) = io::pipe().map_err(failed)?;
        for far in [&out_far, &err_far] {
            give(plan, far).map_err(failed)?;
        }
        command.stdout(out_far).stderr(err_far);
        let stdout = Watched::for_reading(out.into()).map_err(failed)?;
        let stderr = Watched::for_reading(err.into()).map_err(failed)?;
        Ok(Self {
            child: plan.spawn(&mut command, reaper)?,
            stdin: input,
            stdout: Arc::new(stdout),
            stderr: Some(Arc::new(stderr)),
        })
    }

    fn at_terminal(
        plan: &Plan,
        reaper: &Reaper,
        size: TerminalSize,
        stdin: bool,
        failed: impl Fn(io::Error) -> Refusal + Copy,
    ) -> Result<Self, Refusal> {
        let (near, far) = open_pseudo_terminal(size).map_err(failed)?;
        give(plan, &far).map_err(failed)?;
        let near = Arc::new(Watched::for_both(near).map_err(failed)?);
        let mut command = plan.command(Leads::Session);
        command
            .stdin(far.try_clone().map_err(failed)?)
            .stdout(far.try_clone().map_err(failed)?)
            .stderr(far);
        Ok(Self {
            child: plan.spawn(&mut command, reaper)?,
            stdin: stdin.then(|| Arc::clone(&near)),
            stdout: near,
            stderr: None,
        })
    }
}

/// Lets the command's user open its end anew, as /dev/stdout and the like are opened.
fn give(plan: &Plan, end: impl std::os::fd::AsFd) -> io::Result<()> {
    plan.user()
        .map_or(Ok(()), |user| fchown(end, Some(user.uid), None))
}

/// What is asked for, as it is started.
fn plan(start: Start, workload: &Plan) -> Result<Plan, Refusal> {
    check(&start)?;
    let mut env = start.env;
    if start.tty.is_some() {
        env.entry("TERM".to_owned())
            .or_insert_with(|| DEFAULT_TERM.to_owned());
    }
    let user = start.user.as_deref().map(UserName::parse).map(user::find);
    let own = Own {
        env,
        workdir: start.workdir,
        user: user.transpose().map_err(WorkloadError::User)?,
    };
    let words = if start.command.is_empty() {
        vec![shell()?]
    } else {
        start.command
    };
    Ok(workload.with_own(own)?.with_words(&words)?)
}

fn shell() -> Result<String, Refusal> {
    SHELLS
        .into_iter()
        .find(|shell| Path::new(shell).exists())
        .map(str::to_owned)
        .ok_or_else(|| Refusal {
            status: StatusCode::NOT_FOUND,
            code: "not-found",
            detail: format!(
                "The image has no shell ({}): name a program to run",
                SHELLS.join(", ")
            ),
        })
}

/// What no process can be started with.
fn check(start: &Start) -> Result<(), Refusal> {
    let words = start.command.iter().chain(&start.workdir);
    let texts = words.chain(start.env.values()).chain(start.env.keys());
    if texts.chain(&start.user).any(|text| text.contains('\0')) {
        return Err(Refusal::invalid(
            "A text of the command holds a NUL character",
        ));
    }
    if start
        .env
        .keys()
        .any(|key| key.is_empty() || key.contains('='))
    {
        return Err(Refusal::invalid(
            "The name of an environment variable is empty or holds `=`",
        ));
    }
    if start
        .workdir
        .as_ref()
        .is_some_and(|path| !path.starts_with('/'))
    {
        return Err(Refusal::invalid(
            "The working directory must be an absolute path",
        ));
    }
    Ok(())
}
