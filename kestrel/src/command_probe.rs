//! A probe that is a command in the guest: exit code 0 is good. It runs as the workload's user, and leaves nothing behind.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use common::error_chain::Chain;
use common::manifest::Manifest;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;

use crate::reaper::Reaper;
use crate::sys::{GroupSignal, signal_group};
use crate::workload::{Leads, Plan, WorkloadError};

/// How much of its output is kept for the reason of a failure, in bytes: a line. The rest is read and thrown away.
const KEPT_OUTPUT_BYTES: usize = 512;

/// How long its output is waited for once it has ended: a process that it left may hold the pipe open.
const OUTPUT_WAIT: Duration = Duration::from_millis(50);

/// A command that can never be run.
#[derive(Debug, thiserror::Error)]
#[error("The {what} command cannot be run")]
pub(crate) struct ProbeCommandError {
    what: &'static str,
    source: WorkloadError,
}

/// The commands of a manifest's probes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Commands {
    /// That of its health check.
    pub(crate) health: Option<CommandProbe>,
    /// That of its liveness probe.
    pub(crate) liveness: Option<CommandProbe>,
}

impl Commands {
    /// The commands of a manifest, in the surroundings of its workload's `plan`.
    pub(crate) fn of(
        manifest: &Manifest,
        plan: &Plan,
        reaper: &Reaper,
    ) -> Result<Self, ProbeCommandError> {
        let command = |what, words: Option<&Vec<String>>| {
            words
                .map(|words| CommandProbe::new(what, words, plan, reaper))
                .transpose()
        };
        let health = manifest.health_check.as_ref();
        let liveness = manifest.liveness.as_ref();
        Ok(Self {
            health: command("health", health.and_then(|check| check.command.as_ref()))?,
            liveness: command(
                "liveness",
                liveness.and_then(|check| check.command.as_ref()),
            )?,
        })
    }
}

/// A command that is run again and again.
#[derive(Debug, Clone)]
pub(crate) struct CommandProbe {
    plan: Plan,
    shown: String,
    reaper: Reaper,
}

impl CommandProbe {
    fn new(
        what: &'static str,
        words: &[String],
        plan: &Plan,
        reaper: &Reaper,
    ) -> Result<Self, ProbeCommandError> {
        let program = words.first().map_or("", String::as_str);
        let plan = plan
            .with_words(words)
            .map_err(|source| ProbeCommandError { what, source })?;
        Ok(Self {
            plan,
            shown: format!("The {what} command `{program}`"),
            reaper: reaper.clone(),
        })
    }

    /// Runs it once, at most for `bound`. Its failure is one sentence.
    pub(crate) async fn once(&self, bound: Duration) -> Result<(), String> {
        let shown = &self.shown;
        let (mut output, mut child) = self.start()?;
        // Ends the whole group, whatever comes: also when nobody waits for the verdict any more.
        let _group = Group(child.pid());
        let mut kept = Vec::new();
        let ended = tokio::time::timeout(bound, async {
            tokio::select! {
                ended = child.ended() => ended,
                () = drain(&mut output, &mut kept) => child.ended().await,
            }
        })
        .await;
        let Ok(ended) = ended else {
            return Err(format!(
                "{shown} did not end within {} ms",
                bound.as_millis()
            ));
        };
        if ended.code == 0 {
            return Ok(());
        }
        drop(tokio::time::timeout(OUTPUT_WAIT, drain(&mut output, &mut kept)).await);
        let how = match ended.signal {
            Some(signal) => format!("was ended by signal {signal}"),
            None => format!("ended with exit code {}", ended.code),
        };
        let said = last_line(&kept).map_or_else(String::new, |line| format!(": {line}"));
        Err(format!("{shown} {how}{said}"))
    }

    fn start(&self) -> Result<(Receiver, crate::reaper::Child), String> {
        let failed = |error: io::Error| format!("{} cannot be started: {error}", self.shown);
        let (reading, writing) = io::pipe().map_err(failed)?;
        let output = Receiver::from_owned_fd(reading.into()).map_err(failed)?;
        let mut command = self.plan.command(Leads::Group);
        command
            .stdout(Stdio::from(writing.try_clone().map_err(failed)?))
            .stderr(Stdio::from(writing));
        let child = self
            .plan
            .spawn(&mut command, &self.reaper)
            .map_err(|error| Chain(&error).to_string())?;
        Ok((output, child))
    }
}

/// The processes of one run.
struct Group(u32);

impl Drop for Group {
    fn drop(&mut self) {
        signal_group(self.0, GroupSignal::Kill);
    }
}

/// Reads until the end, and keeps the last of it.
async fn drain(output: &mut Receiver, kept: &mut Vec<u8>) {
    let mut buffer = [0; KEPT_OUTPUT_BYTES];
    while let Ok(count @ 1..) = output.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..count]);
        let surplus = kept.len().saturating_sub(KEPT_OUTPUT_BYTES);
        kept.drain(..surplus);
    }
}

/// The last line with something on it, escaped.
fn last_line(output: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(output);
    let line = text
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())?;
    Some(line.chars().flat_map(char::escape_debug).collect())
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::reaper::tests::alone;

    fn probe(script: &str, reaper: &Reaper) -> CommandProbe {
        let mut manifest = manifest();
        let words = ["sh", "-c", script].map(str::to_owned).to_vec();
        manifest.health_check.as_mut().unwrap().command = Some(words);
        let plan = Plan::new(&manifest).unwrap();
        let commands = Commands::of(&manifest, &plan, reaper).unwrap();
        commands.health.unwrap()
    }

    fn manifest() -> Manifest {
        let json = r#"{"name":"x","version":"1","initramfs":{"url":"/x"},"health_check":{"command":["no-such-program"]},
            "workload":{"entrypoint":["/bin/sh"],"env":{"TOKEN":"open"},"workdir":"/tmp"}}"#;
        Manifest::from_json(json.as_bytes()).unwrap()
    }

    #[tokio::test]
    async fn a_command_that_is_not_there_is_told_at_once() {
        let _alone = alone().await;
        let reaper = Reaper::start().unwrap();
        let plan = Plan::new(&manifest()).unwrap();
        let error = Commands::of(&manifest(), &plan, &reaper).unwrap_err();
        let told = Chain(&error).to_string();
        assert!(
            told.starts_with("The health command cannot be run: "),
            "{told}"
        );
        assert!(told.contains("`no-such-program`"), "{told}");
    }

    const LONG: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn exit_codes_decide_and_output_explains() {
        let _alone = alone().await;
        let reaper = Reaper::start().unwrap();
        let table = [
            ("exit 0", Ok(())),
            ("test $TOKEN = open -a $PWD = /tmp", Ok(())),
            (
                "exit 3",
                Err("The health command `sh` ended with exit code 3"),
            ),
            (
                "echo one; echo two >&2; echo; exit 1",
                Err("The health command `sh` ended with exit code 1: two"),
            ),
            (
                "kill -9 $$",
                Err("The health command `sh` was ended by signal 9"),
            ),
        ];
        for (script, expected) in table {
            let found = probe(script, &reaper).once(LONG).await;
            assert_eq!(found, expected.map_err(str::to_owned), "{script}");
        }
    }

    #[tokio::test]
    async fn time_and_output_are_bounded() {
        let _alone = alone().await;
        let reaper = Reaper::start().unwrap();
        let begun = Instant::now();
        let bound = Duration::from_millis(200);
        let refused = probe("sleep 60", &reaper).once(bound).await.unwrap_err();
        assert_eq!(refused, "The health command `sh` did not end within 200 ms");
        // Endless output neither blocks the command nor is it kept.
        let script = "head -c 1000000 /dev/zero | tr '\\0' x; exit 1";
        let refused = probe(script, &reaper).once(LONG).await.unwrap_err();
        assert!(refused.len() < 700, "{}", refused.len());
        // A process that stays behind holds nothing up.
        let refused = probe("sleep 60 & exit 1", &reaper).once(LONG).await;
        assert!(refused.is_err());
        assert!(begun.elapsed() < LONG);
    }

    #[tokio::test]
    async fn nothing_is_left_of_a_probe_that_nobody_waits_for() {
        let _alone = alone().await;
        let reaper = Reaper::start().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!("echo $$ > {}; sleep 60", file.display());
        let probe = probe(&script, &reaper);
        drop(tokio::time::timeout(Duration::from_millis(300), probe.once(LONG)).await);
        let pid = fs_err::read_to_string(&file).unwrap();
        let proc = format!("/proc/{}", pid.trim());
        for _ in 0..200 {
            if !std::path::Path::new(&proc).exists() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{proc} is still there");
    }

    #[test]
    fn the_last_line_is_shown_escaped() {
        assert_eq!(
            last_line(b"a\n b\x1b[0m \n\n").as_deref(),
            Some("b\\u{1b}[0m")
        );
        assert_eq!(last_line(b" \n"), None);
    }
}
