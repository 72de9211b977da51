//! Workloads as ordinary processes: environment, folder, exit codes, and what keeps one from starting.

use std::sync::Arc;

use common::manifest::Workload;

use super::*;
use crate::log::Log;
use crate::reaper::tests::alone;

fn workload(entrypoint: &[&str]) -> Workload {
    let json = format!(
        r#"{{"name":"x","version":"1","initramfs":{{"url":"/x"}},"workload":{{"type":"exec","entrypoint":{}}}}}"#,
        serde_json::to_string(entrypoint).unwrap()
    );
    Manifest::from_json(json.as_bytes()).unwrap().workload
}

fn plan(workload: &Workload) -> Result<Plan, WorkloadError> {
    let json =
        br#"{"name":"x","version":"1","initramfs":{"url":"/x"},"workload":{"entrypoint":["/x"]}}"#;
    let mut manifest = Manifest::from_json(json).unwrap();
    manifest.workload = workload.clone();
    Plan::new(&manifest)
}

/// Starts it with an output that nobody reads.
fn start(plan: &Plan, reaper: &Reaper) -> Result<Child, WorkloadError> {
    let output = Output::start(&Arc::new(Log::new()), plan.user()).unwrap();
    plan.start(reaper, &output)
}

fn file(folder: &Path, name: &str, contents: &[u8], mode: u32) -> String {
    let path = folder.join(name);
    fs_err::write(&path, contents).unwrap();
    fs_err::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path.to_str().unwrap().to_owned()
}

fn error(workload: &Workload) -> String {
    plan(workload).unwrap_err().to_string()
}

#[test]
fn a_program_is_found_by_the_workloads_own_path() {
    let folder = tempfile::tempdir().unwrap();
    let program = file(folder.path(), "tool", b"", 0o755);
    let mut workload = workload(&["tool"]);
    assert!(
        error(&workload)
            .starts_with("The program `tool` is in no directory of PATH (/usr/local/sbin:")
    );
    workload.env.insert(
        "PATH".to_owned(),
        format!("/nowhere:{}", folder.path().display()),
    );
    assert_eq!(plan(&workload).unwrap().program, Path::new(&program));
}

#[test]
fn a_relative_path_counts_from_the_working_directory() {
    let folder = tempfile::tempdir().unwrap();
    let program = file(folder.path(), "tool", b"", 0o755);
    let mut workload = workload(&["./tool"]);
    workload.workdir = folder.path().to_str().map(str::to_owned);
    let found = plan(&workload).unwrap().program;
    assert_eq!(
        found.canonicalize().unwrap(),
        Path::new(&program).canonicalize().unwrap()
    );
}

#[test]
fn what_is_missing_is_named() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(
        error(&workload(&["/no/such/program"])),
        "The program `/no/such/program` does not exist in the image"
    );
    let plain = file(folder.path(), "plain", b"data", 0o644);
    assert_eq!(
        error(&workload(&[&plain])),
        format!("The program `{plain}` is not an executable file")
    );
    let directory = folder.path().to_str().unwrap();
    assert_eq!(
        error(&workload(&[directory])),
        format!("The program `{directory}` is not an executable file")
    );
    let mut elsewhere = workload(&["/bin/sh"]);
    elsewhere.workdir = Some("/no/such/folder".to_owned());
    assert_eq!(
        error(&elsewhere),
        "The working directory `/no/such/folder` does not exist in the image"
    );
}

#[tokio::test]
async fn a_missing_interpreter_is_told_from_a_missing_program() {
    let _alone = alone().await;
    let reaper = Reaper::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let refused = |program: &str| {
        let plan = plan(&workload(&[program])).unwrap();
        start(&plan, &reaper).unwrap_err().to_string()
    };

    let script = file(folder.path(), "script", b"#!/no/such/python -u\n", 0o755);
    assert_eq!(
        refused(&script),
        format!(
            "The program `{script}` needs the script interpreter `/no/such/python`, which does not exist in the image"
        )
    );

    // This test binary, if it is dynamic, with another loader of the same length.
    let own = fs_err::read(std::env::current_exe().unwrap()).unwrap();
    let head = &own[..own.len().min(64 * 1024)];
    if let Some(loader) = interpreter::of(head) {
        let loader = loader.path().to_str().unwrap().as_bytes().to_vec();
        let at = own
            .windows(loader.len())
            .position(|window| window == loader)
            .unwrap();
        let mut changed = own;
        changed[at..at + loader.len()].fill(b'x');
        changed[at] = b'/';
        let program = file(folder.path(), "dynamic", &changed, 0o755);
        let message = refused(&program);
        assert!(
            message.contains("needs the dynamic loader `/xxx"),
            "{message}"
        );
    }

    let nonsense = file(folder.path(), "nonsense", b"\0\0\0\0", 0o755);
    assert_eq!(
        refused(&nonsense),
        format!("The program `{nonsense}` cannot be started")
    );
}

#[tokio::test]
async fn it_gets_its_words_environment_and_directory_and_nothing_else() {
    let _alone = alone().await;
    let reaper = Reaper::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let script = format!(
        r#"{{ echo "$0 $1"; pwd; env | sort | grep -Ev '^(PWD|OLDPWD|SHLVL|_)='; }} > {}; exit 4"#,
        out.display()
    );
    let mut workload = workload(&["/bin/sh", "-c", &script, "zero", "one two"]);
    workload.workdir = Some("/usr".to_owned());
    workload.env.insert("COLOUR".to_owned(), "blue".to_owned());
    let mut child = start(&plan(&workload).unwrap(), &reaper).unwrap();
    assert_eq!(child.ended().await.code, 4);
    assert_eq!(
        fs_err::read_to_string(&out).unwrap(),
        format!("zero one two\n/usr\nCOLOUR=blue\nHOME=/root\nPATH={DEFAULT_PATH}\n")
    );
}

#[tokio::test]
async fn a_stop_reaches_the_whole_group() {
    let _alone = alone().await;
    let reaper = Reaper::start().unwrap();
    // The leader ends at once, its child takes a moment.
    let script = "(trap 'sleep 0.2; exit' TERM; while :; do sleep 0.02; done) & exec sleep 60";
    let plan = plan(&workload(&["/bin/sh", "-c", script])).unwrap();
    let mut child = start(&plan, &reaper).unwrap();
    let group = child.pid();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let began = std::time::Instant::now();
    let (leader, ending) = stop(&mut child, StopSignal::TERM, Duration::from_secs(20)).await;
    assert_eq!(leader.unwrap().signal, Some(15));
    assert_eq!(ending, Ending::Graceful);
    assert!(
        began.elapsed() >= Duration::from_millis(150),
        "{:?}",
        began.elapsed()
    );
    assert!(!signal_group(group, GroupSignal::Ask));
}

#[tokio::test]
async fn what_ignores_sigterm_is_killed_after_the_grace() {
    let _alone = alone().await;
    let reaper = Reaper::start().unwrap();
    let script = "trap '' TERM; while :; do sleep 0.02; done";
    let plan = plan(&workload(&["/bin/sh", "-c", script])).unwrap();
    let mut child = start(&plan, &reaper).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (leader, ending) = stop(&mut child, StopSignal::TERM, Duration::from_millis(150)).await;
    assert_eq!(leader.unwrap().signal, Some(9));
    assert_eq!(ending, Ending::Forced);
}

#[tokio::test]
async fn a_workload_leaves_nothing_behind() {
    let _alone = alone().await;
    let reaper = Reaper::start().unwrap();
    crate::sys::adopt_orphans();
    let plan = plan(&workload(&["/bin/sh", "-c", "sleep 60 & exit 0"])).unwrap();
    let mut child = start(&plan, &reaper).unwrap();
    let group = child.pid();
    child.ended().await;
    assert!(signal_group(group, GroupSignal::Ask));
    clear_group(group).await;
    assert!(!signal_group(group, GroupSignal::Ask));
}

#[test]
fn a_container_gets_the_working_directory_that_it_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let workdir = folder.path().join("srv/app");
    let json =
        r#"{"name":"x","version":"1","rootfs":{"url":"/x"},"workload":{"entrypoint":["/bin/sh"]}}"#;
    let mut manifest = Manifest::from_json(json.as_bytes()).unwrap();
    manifest.workload.workdir = workdir.to_str().map(str::to_owned);
    Plan::new(&manifest).unwrap();
    assert!(workdir.is_dir());
    file(folder.path(), "plain", b"", 0o644);
    let inside = folder.path().join("plain/app");
    manifest.workload.workdir = inside.to_str().map(str::to_owned);
    let error = Plan::new(&manifest).unwrap_err().to_string();
    assert!(
        error.ends_with("does not exist in the image and cannot be made"),
        "{error}"
    );
}

#[tokio::test]
async fn it_runs_as_its_user_with_that_users_groups_and_home() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: only root can run a workload as somebody else");
        return;
    }
    let _alone = alone().await;
    let reaper = Reaper::start().unwrap();
    let script = "test $(id -u) = 4711 -a $(id -g) = 4712 -a \"$(id -G)\" = 4712 -a $HOME = /";
    let mut workload = workload(&["/bin/sh", "-c", script]);
    workload.user = Some("4711:4712".to_owned());
    let mut child = start(&plan(&workload).unwrap(), &reaper).unwrap();
    assert_eq!(child.ended().await.code, 0);
    // A home of /etc/passwd, and no group of the agent's.
    let daemon = fs_err::read_to_string("/etc/passwd").unwrap();
    if let Some(line) = daemon.lines().find(|line| line.starts_with("daemon:")) {
        let home = line.split(':').nth(5).unwrap();
        let script = format!("test $(id -un) = daemon -a $HOME = {home}");
        workload.entrypoint = ["/bin/sh", "-c", &script].map(str::to_owned).to_vec();
        workload.user = Some("daemon".to_owned());
        let mut child = start(&plan(&workload).unwrap(), &reaper).unwrap();
        assert_eq!(child.ended().await.code, 0);
    }
    workload.user = Some("no-such-user".to_owned());
    assert_eq!(
        error(&workload),
        "The user `no-such-user` is not in /etc/passwd of the image"
    );
}

#[tokio::test]
async fn it_ends_by_the_signal_that_it_asks_for() {
    let _alone = alone().await;
    let reaper = Reaper::start().unwrap();
    for (signal, trapped) in [("SIGQUIT", "QUIT"), ("37", "37")] {
        let folder = tempfile::tempdir().unwrap();
        let ready = folder.path().join("ready");
        let script = format!(
            "trap 'exit 7' {trapped}; : > {}; while :; do sleep 0.05; done",
            ready.display()
        );
        let plan = plan(&workload(&["/bin/sh", "-c", &script])).unwrap();
        let mut child = start(&plan, &reaper).unwrap();
        while !ready.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let (leader, _) = stop(&mut child, signal.parse().unwrap(), Duration::from_secs(20)).await;
        assert_eq!(leader.unwrap().code, 7, "{signal}");
    }
}
