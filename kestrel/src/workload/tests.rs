//! Workloads as ordinary processes: environment, folder, exit codes, and what keeps one from starting.

use super::*;
use crate::reaper::tests::alone;

fn workload(entrypoint: &[&str]) -> Workload {
    let json = format!(
        r#"{{"name":"x","version":"1","initramfs":{{"url":"/x"}},"workload":{{"type":"exec","entrypoint":{}}}}}"#,
        serde_json::to_string(entrypoint).unwrap()
    );
    common::manifest::Manifest::from_json(json.as_bytes())
        .unwrap()
        .workload
}

fn file(folder: &Path, name: &str, contents: &[u8], mode: u32) -> String {
    let path = folder.join(name);
    fs_err::write(&path, contents).unwrap();
    fs_err::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path.to_str().unwrap().to_owned()
}

fn error(workload: &Workload) -> String {
    Plan::new(workload).unwrap_err().to_string()
}

#[test]
fn a_program_is_found_by_the_workloads_own_path() {
    let folder = tempfile::tempdir().unwrap();
    let program = file(folder.path(), "tool", b"", 0o755);
    let mut workload = workload(&["tool"]);
    assert!(
        error(&workload)
            .starts_with("The entrypoint `tool` is in no directory of PATH (/usr/local/sbin:")
    );
    workload.env.insert(
        "PATH".to_owned(),
        format!("/nowhere:{}", folder.path().display()),
    );
    assert_eq!(Plan::new(&workload).unwrap().program, Path::new(&program));
}

#[test]
fn a_relative_path_counts_from_the_working_directory() {
    let folder = tempfile::tempdir().unwrap();
    let program = file(folder.path(), "tool", b"", 0o755);
    let mut workload = workload(&["./tool"]);
    workload.workdir = folder.path().to_str().map(str::to_owned);
    let found = Plan::new(&workload).unwrap().program;
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
        "The entrypoint `/no/such/program` does not exist in the image"
    );
    let plain = file(folder.path(), "plain", b"data", 0o644);
    assert_eq!(
        error(&workload(&[&plain])),
        format!("The entrypoint `{plain}` is not an executable file")
    );
    let directory = folder.path().to_str().unwrap();
    assert_eq!(
        error(&workload(&[directory])),
        format!("The entrypoint `{directory}` is not an executable file")
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
    let start = |program: &str| {
        let plan = Plan::new(&workload(&[program])).unwrap();
        plan.start(&reaper).unwrap_err().to_string()
    };

    let script = file(folder.path(), "script", b"#!/no/such/python -u\n", 0o755);
    assert_eq!(
        start(&script),
        format!(
            "The entrypoint `{script}` needs the script interpreter `/no/such/python`, which does not exist in the image"
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
        let message = start(&program);
        assert!(
            message.contains("needs the dynamic loader `/xxx"),
            "{message}"
        );
    }

    let nonsense = file(folder.path(), "nonsense", b"\0\0\0\0", 0o755);
    assert_eq!(
        start(&nonsense),
        format!("The entrypoint `{nonsense}` cannot be started")
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
    let mut child = Plan::new(&workload).unwrap().start(&reaper).unwrap();
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
    let plan = Plan::new(&workload(&["/bin/sh", "-c", script])).unwrap();
    let mut child = plan.start(&reaper).unwrap();
    let group = child.pid();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let began = std::time::Instant::now();
    let (leader, ending) = stop(&mut child, Duration::from_secs(20)).await;
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
    let plan = Plan::new(&workload(&["/bin/sh", "-c", script])).unwrap();
    let mut child = plan.start(&reaper).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (leader, ending) = stop(&mut child, Duration::from_millis(150)).await;
    assert_eq!(leader.unwrap().signal, Some(9));
    assert_eq!(ending, Ending::Forced);
}

#[tokio::test]
async fn a_workload_leaves_nothing_behind() {
    let _alone = alone().await;
    let reaper = Reaper::start().unwrap();
    crate::sys::adopt_orphans();
    let plan = Plan::new(&workload(&["/bin/sh", "-c", "sleep 60 & exit 0"])).unwrap();
    let mut child = plan.start(&reaper).unwrap();
    let group = child.pid();
    child.ended().await;
    assert!(signal_group(group, GroupSignal::Ask));
    clear_group(group).await;
    assert!(!signal_group(group, GroupSignal::Ask));
}
