//! Restarts, back-off and the end, with programs of the machine that runs the tests.

use std::sync::Arc;

use common::agent::{AgentStatus, HealthState};

use super::*;
use crate::reaper::tests::alone;

fn manifest(script: &str, policy: &str) -> Manifest {
    let json = format!(
        r#"{{"name":"x","version":"1","initramfs":{{"url":"/x"}},"workload":{{"type":"exec","restart":"{policy}","stop_grace_ms":5000,"entrypoint":["/bin/sh","-c",{}]}}}}"#,
        serde_json::to_string(script).unwrap()
    );
    Manifest::from_json(json.as_bytes()).unwrap()
}

struct Guest {
    board: Arc<StatusBoard>,
    stop: Stop,
    log: Arc<Log>,
    run: tokio::task::JoinHandle<Result<StopReason, WorkloadError>>,
}

fn run(manifest: Manifest) -> Guest {
    run_with(Reaper::start().unwrap(), manifest)
}

fn run_with(reaper: Reaper, manifest: Manifest) -> Guest {
    let board = Arc::new(StatusBoard::new(Duration::ZERO));
    let stop = Stop::new();
    let log = Arc::new(Log::new());
    let (task_board, task_stop, task_log) = (Arc::clone(&board), stop.clone(), Arc::clone(&log));
    let run = tokio::spawn(async move {
        let supervisor = Supervisor {
            manifest: &manifest,
            own: None,
            reaper: &reaper,
            board: &task_board,
            stop: &task_stop,
            log: &task_log,
            sessions: &Sessions::new(reaper.clone()),
        };
        supervisor.run().await
    });
    Guest {
        board,
        stop,
        log,
        run,
    }
}

async fn until(board: &StatusBoard, what: impl Fn(&AgentStatus) -> bool) -> AgentStatus {
    let mut status = board.now();
    while !what(&status) {
        let newer = board
            .newer_than(status.generation, Duration::from_secs(20))
            .await;
        assert!(newer.generation > status.generation, "{newer:?}");
        status = newer;
    }
    status
}

#[test]
fn the_wait_doubles_up_to_its_bound_and_starts_again_after_a_stable_run() {
    let mut back_off = BackOff::new();
    let short = Duration::from_millis(1);
    let waits: Vec<u128> = (0..11).map(|_| back_off.after(short).as_millis()).collect();
    assert_eq!(
        waits,
        [
            100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000
        ]
    );
    let table = [
        (STABLE_AFTER / 2, MAX_BACK_OFF),
        (STABLE_AFTER, FIRST_BACK_OFF),
        (Duration::ZERO, FIRST_BACK_OFF * 2),
    ];
    for (ran, expected) in table {
        assert_eq!(back_off.after(ran), expected, "{ran:?}");
    }
}

#[test]
fn five_early_ends_in_a_row_are_a_crash_loop() {
    let mut back_off = BackOff::new();
    let mut ends = |runs: &[Duration]| {
        for ran in runs {
            back_off.after(*ran);
        }
        back_off.is_crash_loop()
    };
    let early = Duration::from_secs(29);
    assert!(!ends(&[early; 4]));
    assert!(ends(&[early]));
    assert!(ends(&[early; 20]));
    assert!(!ends(&[STABLE_AFTER]));
    assert!(!ends(&[early; 4]));
    assert!(ends(&[Duration::ZERO]));
}

#[tokio::test]
async fn a_crash_loop_is_told() {
    let _alone = alone().await;
    let guest = run(manifest("exit 1", "always"));
    let status = until(&guest.board, |status| status.workload.crash_loop).await;
    assert_eq!(status.workload.last_exit.map(|exit| exit.code), Some(1));
    let waits = until(&guest.board, |status| status.workload.restarts == 5).await;
    assert!(waits.workload.crash_loop);
    guest.stop.ask(StopReason::Request);
    guest.run.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_log_has_the_workloads_lines_and_what_is_said_of_it_in_order() {
    let _alone = alone().await;
    let guest = run(manifest(
        "echo out; echo err >&2; printf last; exit 3",
        "always",
    ));
    until(&guest.board, |status| status.workload.restarts >= 1).await;
    guest.stop.ask(StopReason::Request);
    guest.run.await.unwrap().unwrap();
    let lines: Vec<String> = crate::log::tests::kept(&guest.log)
        .into_iter()
        .map(|line| format!("{} {}", line.stream.as_str(), line.line))
        .collect();
    let mut first = lines[..4].to_vec();
    first[..3].sort();
    assert_eq!(
        first,
        [
            "stderr err",
            "stdout last",
            "stdout out",
            "agent The workload ended with exit code 3; it is started again in 100 ms"
        ]
    );
}

#[test]
fn the_end_is_told_in_words() {
    let exit = Reaped {
        pid: 1,
        code: 3,
        signal: None,
    };
    assert_eq!(how_it_ended(exit), "ended with exit code 3");
    let signal = Reaped {
        pid: 1,
        code: 137,
        signal: Some(9),
    };
    assert_eq!(how_it_ended(signal), "was ended by signal 9");
}

#[tokio::test]
async fn a_crash_is_followed_by_a_restart() {
    let _alone = alone().await;
    let guest = run(manifest("sleep 0.05; exit 3", "always"));
    let first = until(&guest.board, |status| status.workload.pid.is_some()).await;
    let back_off = until(&guest.board, |status| status.phase == GuestPhase::BackOff).await;
    assert_eq!(
        back_off.workload.last_exit.as_ref().map(|exit| exit.code),
        Some(3)
    );
    assert_eq!(back_off.health.state, HealthState::Unhealthy);
    assert_eq!(
        back_off.health.reason.as_deref(),
        Some("The workload ended with exit code 3; it is started again in 100 ms")
    );
    let second = until(&guest.board, |status| {
        status.workload.restarts == 1 && status.phase == GuestPhase::Ready
    })
    .await;
    assert_ne!(second.workload.pid, first.workload.pid);
    assert_eq!(second.health.state, HealthState::Healthy);
    guest.stop.ask(StopReason::Request);
    assert_eq!(guest.run.await.unwrap().unwrap(), StopReason::Request);
}

#[tokio::test]
async fn a_policy_may_end_the_guest() {
    let _alone = alone().await;
    let reaper = Reaper::start().unwrap();
    for (script, policy) in [
        ("exit 0", "on-failure"),
        ("exit 0", "never"),
        ("exit 5", "never"),
    ] {
        let guest = run_with(reaper.clone(), manifest(script, policy));
        assert_eq!(
            guest.run.await.unwrap().unwrap(),
            StopReason::WorkloadEnded,
            "{script} {policy}"
        );
        let status = guest.board.now();
        assert_eq!(status.phase, GuestPhase::Stopping);
        assert_eq!(status.workload.restarts, 0);
        assert_eq!(status.failure, None);
    }
}

#[tokio::test]
async fn on_failure_restarts_after_a_failure() {
    let _alone = alone().await;
    let guest = run(manifest("exit 5", "on-failure"));
    until(&guest.board, |status| status.workload.restarts >= 2).await;
    guest.stop.ask(StopReason::Signal("SIGTERM"));
    let reason = guest.run.await.unwrap().unwrap();
    assert_eq!(reason, StopReason::Signal("SIGTERM"));
    assert_eq!(guest.board.now().phase, GuestPhase::Stopping);
}

/// A workload that lives until the file at `path` is gone, which its liveness command looks for.
fn mortal(path: &std::path::Path, script: &str, policy: &str) -> Manifest {
    let mut manifest = manifest(script, policy);
    let json = format!(
        r#"{{"name":"x","version":"1","initramfs":{{"url":"/x"}},"workload":{{"entrypoint":["/x"]}},
            "liveness":{{"command":["/usr/bin/test","-e","{}"],"interval_ms":100,"timeout_ms":10000,"failure_threshold":2}}}}"#,
        path.display()
    );
    manifest.liveness = Manifest::from_json(json.as_bytes()).unwrap().liveness;
    manifest
}

#[tokio::test]
async fn what_is_not_alive_is_stopped_and_has_failed() {
    let _alone = alone().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("alive");
    fs_err::write(&file, "").unwrap();
    // It takes its end well, and is started again all the same.
    let script = "trap 'exit 0' TERM; while :; do sleep 0.02; done";
    let guest = run(mortal(&file, script, "on-failure"));
    until(&guest.board, |status| status.phase == GuestPhase::Ready).await;
    fs_err::remove_file(&file).unwrap();
    let status = until(&guest.board, |status| status.phase == GuestPhase::BackOff).await;
    assert_eq!(status.workload.last_exit.map(|exit| exit.code), Some(0));
    assert_eq!(
        status.health.reason.as_deref(),
        Some("The workload was not alive any more; it is started again in 100 ms")
    );
    fs_err::write(&file, "").unwrap();
    let status = until(&guest.board, |status| {
        status.workload.restarts == 1 && status.phase == GuestPhase::Ready
    })
    .await;
    assert_eq!(status.health.state, HealthState::Healthy);
    guest.stop.ask(StopReason::Request);
    guest.run.await.unwrap().unwrap();
    let said: Vec<String> = crate::log::tests::kept(&guest.log)
        .into_iter()
        .map(|line| line.line)
        .collect();
    assert!(
        said[0].starts_with("The workload is not alive any more and is stopped: The liveness command `/usr/bin/test` ended with exit code 1"),
        "{said:?}"
    );
}

#[tokio::test]
async fn a_policy_may_end_a_guest_that_is_not_alive() {
    let _alone = alone().await;
    let missing = std::path::Path::new("/no/such/file");
    let guest = run(mortal(missing, "exec sleep 600", "never"));
    let reason = guest.run.await.unwrap().unwrap();
    assert_eq!(reason, StopReason::WorkloadEnded);
    assert_eq!(guest.board.now().phase, GuestPhase::Stopping);
}

#[tokio::test]
async fn a_stop_does_not_wait_for_the_end_of_what_is_not_alive() {
    let _alone = alone().await;
    let missing = std::path::Path::new("/no/such/file");
    let mut manifest = mortal(
        missing,
        "trap '' TERM; while :; do sleep 0.02; done",
        "always",
    );
    manifest.workload.stop_grace_ms = 3_600_000;
    let guest = run(manifest);
    until(&guest.board, |status| {
        status.health.state == HealthState::Unhealthy
    })
    .await;
    let grace = Some(Duration::from_millis(10));
    guest.stop.ask_within(StopReason::Request, grace);
    guest.run.await.unwrap().unwrap();
    let exit = guest.board.now().workload.last_exit.unwrap();
    assert_eq!(exit.signal, Some(9));
}

#[tokio::test]
async fn a_stop_ends_the_workload_first() {
    let _alone = alone().await;
    let guest = run(manifest(
        "trap 'exit 7' TERM; while :; do sleep 0.02; done",
        "always",
    ));
    until(&guest.board, |status| status.phase == GuestPhase::Ready).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    guest.stop.ask(StopReason::Request);
    guest.run.await.unwrap().unwrap();
    let status = guest.board.now();
    assert_eq!(status.phase, GuestPhase::Stopping);
    assert_eq!(status.workload.pid, None);
    assert_eq!(status.workload.last_exit.map(|exit| exit.code), Some(7));
    assert_eq!(status.workload.restarts, 0);
}

#[tokio::test]
async fn an_entrypoint_that_does_not_exist_is_told_at_once() {
    let _alone = alone().await;
    let mut manifest = manifest("", "always");
    manifest.workload.entrypoint = vec!["/no/such/program".to_owned()];
    let guest = run(manifest);
    let error = guest.run.await.unwrap().unwrap_err();
    assert!(matches!(error, WorkloadError::Missing { .. }), "{error}");
}

#[tokio::test]
async fn a_program_that_vanishes_is_waited_for() {
    let _alone = alone().await;
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("once");
    fs_err::write(&script, "#!/bin/sh\nrm \"$0\"\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs_err::set_permissions(&script, mode).unwrap();
    let mut manifest = manifest("", "always");
    manifest.workload.entrypoint = vec![script.to_str().unwrap().to_owned()];
    let guest = run(manifest);
    let status = until(&guest.board, |status| status.workload.restarts == 2).await;
    let reason = status.health.reason.unwrap();
    assert!(
        reason.contains("does not exist in the image; it is started again in 200 ms"),
        "{reason}"
    );
    guest.stop.ask(StopReason::Request);
    guest.run.await.unwrap().unwrap();
}
