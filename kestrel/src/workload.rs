//! The workload process: finding its program, starting it, ending its group. When it is started again is `supervise`.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::manifest::{Manifest, StopSignal};

use crate::boot::HOME;
use crate::command_probe::ProbeCommandError;
use crate::interpreter::{self, Interpreter};
use crate::log::Output;
use crate::reaper::{Child, Reaper};
use crate::sys::{GroupSignal, Reaped, controlling_terminal, run_as, signal_group};
use crate::user::{self, User, UserError};

/// Where programs are looked for, in the usual order of distributions.
pub(crate) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How often the group is looked at once its leader has ended: only SIGCHLD of the leader is told.
const GROUP_STEP: Duration = Duration::from_millis(10);

/// How long the group may take to be gone after SIGKILL. The kernel needs no time for it but what a busy guest takes.
const KILL_BOUND: Duration = Duration::from_secs(2);

/// Why a workload does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkloadError {
    /// A program with a `/` that is not there.
    #[error("The program `{}` does not exist in the image", program.display())]
    Missing {
        /// The program as the manifest names it.
        program: PathBuf,
    },
    /// A program without `/` that no directory of PATH has.
    #[error("The program `{program}` is in no directory of PATH ({path})")]
    NotInPath {
        /// The program as the manifest names it.
        program: String,
        /// Where it was looked for.
        path: String,
    },
    /// It is there and cannot be run.
    #[error("The program `{}` is not an executable file", program.display())]
    NotExecutable {
        /// The program.
        program: PathBuf,
    },
    /// The program is there; what must load it is not.
    #[error("The program `{}` needs {interpreter}, which does not exist in the image", program.display())]
    NoInterpreter {
        /// The program.
        program: PathBuf,
        /// What is missing.
        interpreter: Interpreter,
    },
    /// Who is to run it.
    #[error(transparent)]
    User(#[from] UserError),
    /// What says that it is healthy or alive.
    #[error(transparent)]
    ProbeCommand(Box<ProbeCommandError>),
    /// The working directory.
    #[error("The working directory `{workdir}` does not exist in the image")]
    NoWorkdir {
        /// The directory as the manifest names it.
        workdir: String,
    },
    /// The working directory of a container, which its engine would make.
    #[error("The working directory `{workdir}` does not exist in the image and cannot be made")]
    Workdir {
        /// The directory as the manifest names it.
        workdir: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// No pipes for what it writes.
    #[error("Cannot take the workload's output")]
    Output(#[source] io::Error),
    /// The kernel refuses for another reason.
    #[error("The program `{}` cannot be started", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// How a command is started, each time the same.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    program: PathBuf,
    words: Vec<String>,
    env: BTreeMap<String, String>,
    workdir: String,
    user: Option<User>,
}

/// What another command has for itself, where it is not as the workload.
#[derive(Debug, Default)]
pub(crate) struct Own {
    /// More environment.
    pub(crate) env: BTreeMap<String, String>,
    /// Where it runs.
    pub(crate) workdir: Option<String>,
    /// Who runs it.
    pub(crate) user: Option<User>,
}

/// What a process is the leader of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leads {
    /// A group, by which all of its processes are reached.
    Group,
    /// A group and a session, whose terminal is its standard input.
    Session,
}

impl Plan {
    /// Finds user, working directory and program of a manifest's workload.
    pub(crate) fn new(manifest: &Manifest) -> Result<Self, WorkloadError> {
        let workload = &manifest.workload;
        let user = workload.user_name().map(user::find).transpose()?;
        let workdir = workload.workdir.clone().unwrap_or_else(|| "/".to_owned());
        if !Path::new(&workdir).is_dir() {
            // Container engines make it; the author of an initramfs wrote a path that is wrong.
            if manifest.rootfs.is_none() {
                return Err(WorkloadError::NoWorkdir { workdir });
            }
            if let Err(source) = fs_err::create_dir_all(&workdir) {
                return Err(WorkloadError::Workdir { workdir, source });
            }
        }
        Self {
            env: workload.env.clone(),
            workdir,
            user,
            ..Self::bare()
        }
        .with_words(&workload.entrypoint)
    }

    /// No command yet, for root in `/`.
    pub(crate) fn bare() -> Self {
        Self {
            program: PathBuf::new(),
            words: Vec::new(),
            env: BTreeMap::new(),
            workdir: "/".to_owned(),
            user: None,
        }
    }

    /// The same surroundings with another command.
    pub(crate) fn with_words(&self, words: &[String]) -> Result<Self, WorkloadError> {
        let name = words.first().map_or("", String::as_str);
        // By PATH of the command's own environment.
        let path = self.env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
        Ok(Self {
            program: find(name, path, Path::new(&self.workdir))?,
            words: words.to_vec(),
            env: self.env.clone(),
            workdir: self.workdir.clone(),
            user: self.user.clone(),
        })
    }

    /// The same surroundings but for `own`.
    pub(crate) fn with_own(&self, own: Own) -> Result<Self, WorkloadError> {
        let mut plan = self.clone();
        plan.env.extend(own.env);
        plan.user = own.user.or(plan.user);
        if let Some(workdir) = own.workdir {
            if !Path::new(&workdir).is_dir() {
                return Err(WorkloadError::NoWorkdir { workdir });
            }
            plan.workdir = workdir;
        }
        Ok(plan)
    }

    /// Starts the workload as the leader of its own group.
    pub(crate) fn start(&self, reaper: &Reaper, output: &Output) -> Result<Child, WorkloadError> {
        let mut command = self.command(Leads::Group);
        output
            .give_to(&mut command)
            .map_err(WorkloadError::Output)?;
        self.spawn(&mut command, reaper)
    }

    /// Who runs it; root if nobody is named.
    pub(crate) fn user(&self) -> Option<&User> {
        self.user.as_ref()
    }

    /// Starts `command`, which [`Plan::command`] gave.
    pub(crate) fn spawn(
        &self,
        command: &mut Command,
        reaper: &Reaper,
    ) -> Result<Child, WorkloadError> {
        reaper.spawn(command).map_err(|source| self.explain(source))
    }

    /// The command, without input.
    pub(crate) fn command(&self, leads: Leads) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg0(self.words.first().map_or("", String::as_str))
            .args(self.words.iter().skip(1))
            .env_clear()
            .envs(environment(&self.env, self.user.as_ref()))
            .current_dir(&self.workdir)
            .stdin(Stdio::null());
        match leads {
            Leads::Group => command.process_group(0),
            Leads::Session => controlling_terminal(&mut command),
        };
        if let Some(user) = &self.user {
            run_as(&mut command, user);
        }
        command
    }

    /// The kernel says "no such file" for a missing interpreter too.
    fn explain(&self, source: io::Error) -> WorkloadError {
        let program = self.program.clone();
        if source.kind() == io::ErrorKind::NotFound {
            match head_of(&self.program)
                .ok()
                .and_then(|head| interpreter::of(&head))
            {
                Some(interpreter) if !interpreter.path().exists() => {
                    return WorkloadError::NoInterpreter {
                        program,
                        interpreter,
                    };
                }
                _ if !self.program.exists() => return WorkloadError::Missing { program },
                _ => {}
            }
        }
        WorkloadError::Start { program, source }
    }
}

/// The first bytes of a program: its headers.
fn head_of(program: &Path) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    fs_err::File::open(program)?
        .take(interpreter::HEAD_BYTES)
        .read_to_end(&mut head)?;
    Ok(head)
}

/// The workload gets nothing of the agent's environment: that comes from the kernel's command line.
fn environment(own: &BTreeMap<String, String>, user: Option<&User>) -> BTreeMap<String, String> {
    // A user without a home has `/`, as container engines have it.
    let home = user.map_or(HOME, |user| user.home.as_deref().unwrap_or("/"));
    let mut env: BTreeMap<String, String> = [("PATH", DEFAULT_PATH), ("HOME", home)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    env.extend(own.iter().map(|(key, value)| (key.clone(), value.clone())));
    env
}

fn find(name: &str, path: &str, workdir: &Path) -> Result<PathBuf, WorkloadError> {
    if name.contains('/') {
        let program = workdir.join(name);
        return match is_program(&program) {
            Some(true) => Ok(program),
            Some(false) => Err(WorkloadError::NotExecutable { program }),
            None => Err(WorkloadError::Missing { program }),
        };
    }
    path.split(':')
        .map(|folder| workdir.join(folder).join(name))
        .find(|program| is_program(program) == Some(true))
        .ok_or_else(|| WorkloadError::NotInPath {
            program: name.to_owned(),
            path: path.to_owned(),
        })
}

/// Whether a file can be run; nothing if there is none.
fn is_program(path: &Path) -> Option<bool> {
    let metadata = fs_err::metadata(path).ok()?;
    Some(metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// How a workload was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// All of its processes ended by themselves.
    Graceful,
    /// Some had to be killed.
    Forced,
}

/// Asks the workload and all processes of its group to end, and ends by force what is left after `grace`.
///
/// Answers how the leader ended; nothing if the kernel holds it even after SIGKILL.
pub(crate) async fn stop(
    child: &mut Child,
    signal: StopSignal,
    grace: Duration,
) -> (Option<Reaped>, Ending) {
    let group = child.pid();
    signal_group(group, GroupSignal::Send(signal));
    let mut leader = None;
    let all_gone = async {
        leader = Some(child.ended().await);
        group_gone(group).await;
    };
    if tokio::time::timeout(grace, all_gone).await.is_ok() {
        return (leader, Ending::Graceful);
    }
    signal_group(group, GroupSignal::Kill);
    if leader.is_none() {
        leader = tokio::time::timeout(KILL_BOUND, child.ended()).await.ok();
    }
    (leader, Ending::Forced)
}

/// Ends what a workload that has ended left behind: it would hold the port of the next.
pub(crate) async fn clear_group(group: u32) {
    if !signal_group(group, GroupSignal::Kill) {
        return;
    }
    // A process that the kernel holds (uninterruptible) is not waited for.
    drop(tokio::time::timeout(KILL_BOUND, group_gone(group)).await);
}

async fn group_gone(group: u32) {
    while signal_group(group, GroupSignal::Ask) {
        tokio::time::sleep(GROUP_STEP).await;
    }
}

#[cfg(test)]
mod tests;
