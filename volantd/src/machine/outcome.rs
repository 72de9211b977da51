//! What the end of a VMM means, and how failures are put into words. Pure: what is known is given.

use common::agent::{AgentStatus, CONSOLE_PREFIX, GuestPhase, WorkloadExit};
use common::api::Failure;
use common::error_chain::causes;
use common::manifest::RestartPolicy;

use super::plan::{Step, word};
use super::ports::{StepError, VmmExit};

/// How many of the last lines of console and workload are looked at and shown.
pub(super) const LAST_LINES: usize = 5;

/// The longest console line that goes into a message, in characters. A guest is not trusted to be brief.
const MAX_LINE_CHARS: usize = 300;

/// The most lines of a VMM's error output that go into a message.
const STDERR_LINES: usize = 5;

/// What was heard of a guest last. What its workload writes is not on its console.
#[derive(Debug, Default)]
pub(super) struct LastWords {
    /// The last lines of the console: kernel and agent.
    pub(super) console: String,
    /// The last lines that the workload wrote.
    pub(super) output: String,
}

/// What was known of a guest when its VMM ended.
#[derive(Debug)]
pub(super) struct LastSeen<'a> {
    /// The agent's last word since the guest booted; none if it never answered.
    pub(super) status: Option<&'a AgentStatus>,
    /// Whether a guest of this VM was up since somebody started it.
    pub(super) proven: bool,
    /// The workload's policy, which the guest follows.
    pub(super) policy: RestartPolicy,
    /// The VM's own policy.
    pub(super) vm_policy: RestartPolicy,
    /// Its last words.
    pub(super) words: &'a LastWords,
    /// The VMM's program.
    pub(super) vmm: &'static str,
}

/// What the end of a VMM means for its VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The workload ended well, and that is the end.
    Completed,
    /// The workload ended badly, and the guest with it as its policy says.
    Unsuccessful(Failure),
    /// The VM stays down.
    Failed(Failure),
    /// The VM is launched again.
    Crashed(Failure),
}

/// Reads the end of a VMM that nobody asked to end, and decides what becomes of its VM. Never [`Outcome::Unsuccessful`].
pub(super) fn of_exit(exit: &VmmExit, seen: &LastSeen<'_>) -> Outcome {
    by_policy(of_guest(exit, seen), seen.vm_policy)
}

/// What the VM's own policy makes of an end. What never was up, or cannot go on at all, is not tried again.
fn by_policy(outcome: Outcome, policy: RestartPolicy) -> Outcome {
    match (outcome, policy) {
        (Outcome::Completed, RestartPolicy::Always) => Outcome::Crashed(Failure {
            step: word::WORKLOAD.to_owned(),
            cause: "The workload is done, and the VM's restart policy starts it again".to_owned(),
            hints: Vec::new(),
        }),
        (Outcome::Crashed(failure) | Outcome::Unsuccessful(failure), RestartPolicy::Never) => {
            Outcome::Failed(failure)
        }
        (Outcome::Unsuccessful(failure), RestartPolicy::Always | RestartPolicy::OnFailure) => {
            Outcome::Crashed(failure)
        }
        (outcome, _) => outcome,
    }
}

/// A VMM that is gone, of a VM that ran while no daemon did.
pub(super) fn lost() -> Failure {
    Failure {
        step: Step::Vmm.as_str().to_owned(),
        cause: "The VMM ended while no daemon ran, and the VM's restart policy is `never`"
            .to_owned(),
        hints: Vec::new(),
    }
}

fn of_guest(exit: &VmmExit, seen: &LastSeen<'_>) -> Outcome {
    let gone_by_itself = matches!(exit, VmmExit::Clean | VmmExit::Unknown);
    if let Some(status) = seen.status
        && gone_by_itself
    {
        if let Some(failure) = &status.failure {
            return Outcome::Failed(workload_failure(failure, seen.words));
        }
        if let Some(outcome) = end_of_workload(exit, status, seen) {
            return outcome;
        }
    }
    let failure = Failure {
        step: if matches!(exit, VmmExit::Failed { .. } | VmmExit::Signalled { .. }) {
            Step::Vmm.as_str().to_owned()
        } else {
            word::GUEST.to_owned()
        },
        cause: in_words(exit, seen),
        hints: hints(seen.words),
    };
    if seen.proven {
        Outcome::Crashed(failure)
    } else {
        Outcome::Failed(failure)
    }
}

/// A workload whose policy says that its end is the guest's.
fn end_of_workload(exit: &VmmExit, status: &AgentStatus, seen: &LastSeen<'_>) -> Option<Outcome> {
    let failed = |cause: String| {
        let hints = hints(seen.words);
        Some(Outcome::Unsuccessful(Failure {
            step: word::WORKLOAD.to_owned(),
            cause,
            hints,
        }))
    };
    let ended = status
        .workload
        .last_exit
        .as_ref()
        .filter(|_| status.workload.pid.is_none());
    match (seen.policy, ended) {
        (RestartPolicy::Always, _) => None,
        (policy, Some(end)) if policy.restarts_after(end.code) => None,
        (RestartPolicy::OnFailure | RestartPolicy::Never, Some(end)) if end.code == 0 => {
            Some(Outcome::Completed)
        }
        (RestartPolicy::OnFailure | RestartPolicy::Never, Some(end)) => failed(how_it_ended(end)),
        // From here on the guest was gone before it could tell. Of a VMM that nobody watched it is not even known that the guest powered off.
        (_, None) if *exit == VmmExit::Unknown && status.phase != GuestPhase::Stopping => None,
        // After any other exit code this guest would have started its workload again.
        (RestartPolicy::OnFailure, None) => Some(Outcome::Completed),
        (RestartPolicy::Never, None) => failed(
            "The guest powered off before it could be asked how its workload ended".to_owned(),
        ),
    }
}

fn how_it_ended(exit: &WorkloadExit) -> String {
    match exit.signal {
        Some(signal) => format!("The workload was ended by signal {signal}"),
        None => format!("The workload ended with exit code {}", exit.code),
    }
}

fn in_words(exit: &VmmExit, seen: &LastSeen<'_>) -> String {
    let was_up = seen.status.is_some();
    match exit {
        VmmExit::Clean | VmmExit::Unknown if !was_up => match agents_last_line(&seen.words.console)
        {
            Some(line) => format!("The guest powered off while it booted: {line}"),
            None => "The guest powered off while it booted".to_owned(),
        },
        VmmExit::Clean => "The guest powered off by itself".to_owned(),
        VmmExit::GuestReset => "The guest kernel panicked".to_owned(),
        VmmExit::Failed { code, stderr } => {
            let tail = last_lines(stderr, STDERR_LINES).join("; ");
            let program = seen.vmm;
            if tail.is_empty() {
                format!("`{program}` ended with exit code {code}")
            } else {
                format!("`{program}` ended with exit code {code}: {tail}")
            }
        }
        VmmExit::Signalled { signal } => format!("`{}` was ended by signal {signal}", seen.vmm),
        VmmExit::Unknown => format!("`{}` is gone, and nobody saw how it ended", seen.vmm),
    }
}

/// A guest that says itself why it cannot go on.
pub(super) fn workload_failure(cause: &str, words: &LastWords) -> Failure {
    Failure {
        step: word::WORKLOAD.to_owned(),
        cause: clean(cause),
        hints: hints(words),
    }
}

/// A guest whose agent did not answer in time.
pub(super) fn boot_deadline(waited_ms: u128, words: &LastWords) -> Failure {
    let cause = format!("The guest's agent did not answer within {waited_ms} ms");
    let mut hints = hints(words);
    if hints.is_empty() {
        hints.push("The guest wrote nothing on its console: check the kernel".to_owned());
    }
    Failure {
        step: word::GUEST.to_owned(),
        cause,
        hints,
    }
}

/// A step that could not be done or undone.
pub(super) fn step_failure(step: &str, error: &StepError) -> Failure {
    let mut cause = error.message.clone();
    for deeper in causes(error) {
        cause.push_str(": ");
        cause.push_str(&deeper);
    }
    Failure {
        step: step.to_owned(),
        cause,
        hints: error.hints.clone(),
    }
}

/// The last lines of the workload and of the console as things to look at.
fn hints(words: &LastWords) -> Vec<String> {
    let table = [
        ("The workload's output", &words.output),
        ("The console", &words.console),
    ];
    let with_lines = table.map(|(what, text)| (what, last_lines(text, LAST_LINES)));
    with_lines
        .into_iter()
        .filter(|(_, lines)| !lines.is_empty())
        .map(|(what, lines)| format!("{what} ends with: {}", lines.join(" | ")))
        .collect()
}

/// What the agent wrote last on the console, without its prefix.
fn agents_last_line(console: &str) -> Option<String> {
    let line = console
        .lines()
        .rev()
        .find_map(|line| line.trim().split_once(CONSOLE_PREFIX))?;
    Some(clean(line.1))
}

/// The last lines that hold something, oldest first.
fn last_lines(text: &str, count: usize) -> Vec<String> {
    let mut lines: Vec<String> = text
        .lines()
        .rev()
        .map(clean)
        .filter(|line| !line.is_empty())
        .take(count)
        .collect();
    lines.reverse();
    lines
}

/// One line without control characters, bounded.
fn clean(text: &str) -> String {
    text.trim()
        .chars()
        .filter(|c| !c.is_control())
        .take(MAX_LINE_CHARS)
        .collect()
}

#[cfg(test)]
mod tests {
    use common::agent::{GuestHealth, HealthState, WorkloadStatus};

    use super::*;

    static NOTHING: LastWords = LastWords {
        console: String::new(),
        output: String::new(),
    };

    fn status(phase: GuestPhase, exit: Option<i32>) -> AgentStatus {
        let last_exit = exit.map(|code| WorkloadExit {
            code,
            signal: None,
            at_us: 5,
        });
        AgentStatus {
            version: "0.1.0".to_owned(),
            generation: 9,
            now_us: 9,
            phase,
            phases: Vec::new(),
            health: GuestHealth {
                state: HealthState::Unknown,
                reason: None,
                probes: 0,
                last_probe_us: None,
                reachable_from_outside: None,
            },
            workload: WorkloadStatus {
                pid: None,
                restarts: 0,
                last_exit,
                ..WorkloadStatus::default()
            },
            failure: None,
        }
    }

    fn seen<'a>(
        status: Option<&'a AgentStatus>,
        policy: RestartPolicy,
        words: &'a LastWords,
    ) -> LastSeen<'a> {
        LastSeen {
            status,
            proven: status.is_some(),
            policy,
            vm_policy: policy,
            words,
            vmm: "qemu",
        }
    }

    fn on_console(console: &str) -> LastWords {
        LastWords {
            console: console.to_owned(),
            output: String::new(),
        }
    }

    fn failed(outcome: Outcome) -> (String, String) {
        match outcome {
            Outcome::Failed(failure) => (failure.step, failure.cause),
            other => panic!("not failed: {other:?}"),
        }
    }

    #[test]
    fn a_guest_that_was_never_up_fails_in_words() {
        let console =
            "Linux\r\nkestrel: Cannot start `/bin/x`: No such file\r\nreboot: Power down\r\n";
        let table = [
            (
                VmmExit::Clean,
                "",
                "guest",
                "The guest powered off while it booted",
            ),
            (
                VmmExit::Clean,
                console,
                "guest",
                "The guest powered off while it booted: Cannot start `/bin/x`: No such file",
            ),
            (
                VmmExit::GuestReset,
                console,
                "guest",
                "The guest kernel panicked",
            ),
            (
                VmmExit::Signalled { signal: 9 },
                "",
                "vmm",
                "`qemu` was ended by signal 9",
            ),
            (
                VmmExit::Failed {
                    code: 1,
                    stderr: "a\n\nCannot open \u{1b}tap\n".to_owned(),
                },
                "",
                "vmm",
                "`qemu` ended with exit code 1: a; Cannot open tap",
            ),
        ];
        for (exit, console, step, cause) in table {
            let outcome = of_exit(
                &exit,
                &seen(None, RestartPolicy::Always, &on_console(console)),
            );
            assert_eq!(
                failed(outcome),
                (step.to_owned(), cause.to_owned()),
                "{exit:?}"
            );
        }
    }

    #[test]
    fn a_guest_that_was_up_crashed() {
        let up = status(GuestPhase::Ready, None);
        for exit in [
            VmmExit::Clean,
            VmmExit::GuestReset,
            VmmExit::Signalled { signal: 11 },
            VmmExit::Unknown,
        ] {
            let outcome = of_exit(&exit, &seen(Some(&up), RestartPolicy::Always, &NOTHING));
            assert!(
                matches!(outcome, Outcome::Crashed(_)),
                "{exit:?} gives {outcome:?}"
            );
        }
        let again = LastSeen {
            proven: true,
            ..seen(None, RestartPolicy::Always, &NOTHING)
        };
        assert!(matches!(
            of_exit(&VmmExit::GuestReset, &again),
            Outcome::Crashed(_)
        ));
    }

    #[test]
    fn the_policy_decides_about_a_workload_that_ended() {
        let well = status(GuestPhase::Stopping, Some(0));
        let badly = status(GuestPhase::Stopping, Some(3));
        for policy in [RestartPolicy::Never, RestartPolicy::OnFailure] {
            assert_eq!(
                of_exit(&VmmExit::Clean, &seen(Some(&well), policy, &NOTHING)),
                Outcome::Completed,
                "{policy:?}"
            );
        }
        let never = of_exit(
            &VmmExit::Clean,
            &seen(Some(&badly), RestartPolicy::Never, &NOTHING),
        );
        assert_eq!(
            failed(never),
            (
                "workload".to_owned(),
                "The workload ended with exit code 3".to_owned()
            )
        );
        for (policy, status) in [
            (RestartPolicy::OnFailure, &badly),
            (RestartPolicy::Always, &well),
        ] {
            let outcome = of_exit(&VmmExit::Clean, &seen(Some(status), policy, &NOTHING));
            assert!(
                matches!(outcome, Outcome::Crashed(_)),
                "{policy:?} gives {outcome:?}"
            );
        }
        let killed = VmmExit::Signalled { signal: 9 };
        let never = of_exit(&killed, &seen(Some(&well), RestartPolicy::Never, &NOTHING));
        assert_eq!(failed(never).0, "vmm");
    }

    #[test]
    fn the_vms_own_policy_has_the_last_word() {
        use RestartPolicy::{Always, Never, OnFailure};
        let well = status(GuestPhase::Stopping, Some(0));
        let badly = status(GuestPhase::Stopping, Some(3));
        let up = status(GuestPhase::Ready, None);
        let killed = VmmExit::Signalled { signal: 9 };
        let table = [
            (&VmmExit::Clean, &well, [true, false, false]),
            (&VmmExit::Clean, &badly, [true, true, false]),
            (&killed, &up, [true, true, false]),
        ];
        for (exit, status, expected) in table {
            let again = [Always, OnFailure, Never].map(|vm_policy| {
                let seen = LastSeen {
                    vm_policy,
                    ..seen(Some(status), Never, &NOTHING)
                };
                matches!(of_exit(exit, &seen), Outcome::Crashed(_))
            });
            assert_eq!(again, expected, "{exit:?} {status:?}");
        }
        let mut dying = status(GuestPhase::Failed, None);
        dying.failure = Some("Cannot start `/bin/x`".to_owned());
        let seen = seen(Some(&dying), Always, &NOTHING);
        failed(of_exit(&VmmExit::Clean, &seen));
    }

    #[test]
    fn an_end_that_nobody_saw_is_not_called_a_success() {
        let mut running = status(GuestPhase::Workload, None);
        running.workload.pid = Some(7);
        let outcome = of_exit(
            &VmmExit::Clean,
            &seen(Some(&running), RestartPolicy::Never, &NOTHING),
        );
        assert_eq!(failed(outcome).0, "workload");
        let seen_running = seen(Some(&running), RestartPolicy::OnFailure, &NOTHING);
        assert_eq!(of_exit(&VmmExit::Clean, &seen_running), Outcome::Completed);
        assert!(matches!(
            of_exit(&VmmExit::Unknown, &seen_running),
            Outcome::Crashed(_)
        ));
    }

    #[test]
    fn what_the_guest_said_itself_comes_first() {
        let mut dying = status(GuestPhase::Failed, None);
        dying.failure = Some("Cannot start `/bin/x`".to_owned());
        let outcome = of_exit(
            &VmmExit::Clean,
            &seen(
                Some(&dying),
                RestartPolicy::Always,
                &LastWords {
                    console: "a\nb\n".to_owned(),
                    output: "c\n".to_owned(),
                },
            ),
        );
        let Outcome::Failed(failure) = outcome else {
            panic!("not failed")
        };
        assert_eq!(failure.cause, "Cannot start `/bin/x`");
        let expected = [
            "The workload's output ends with: c",
            "The console ends with: a | b",
        ];
        assert_eq!(failure.hints, expected);
    }

    #[test]
    fn a_step_error_is_told_with_its_causes() {
        let error = StepError::caused("Cannot make the tap `t`", std::io::Error::other("Busy"))
            .hint("Wait");
        let failure = step_failure("network", &error);
        assert_eq!(failure.cause, "Cannot make the tap `t`: Busy");
        assert_eq!(failure.hints, ["Wait"]);
    }
}
