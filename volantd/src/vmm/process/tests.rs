//! Processes of /bin/sh: their marks, their ends, and that nobody else's process is touched.

use super::*;

fn start(script: &str, instance: &str, folder: &Path) -> Process {
    Process::spawn(Spawn {
        program: Path::new("/bin/sh"),
        args: vec!["-c".into(), script.into()],
        files: Vec::new(),
        search_path: OsStr::new("/usr/bin:/bin"),
        instance,
        state_root: folder,
        log: folder.join(LOG_FILE),
        disk_bytes: 0,
    })
    .unwrap()
}

/// Waits until the shell has become `sleep`: in between, a process has no environment.
async fn settled(identity: &Identity, id: &str) {
    let name = format!("/proc/{}/comm", identity.pid);
    while fs::read_to_string(&name).unwrap() != "sleep\n"
        || !identity::is_marked(identity.pid, INSTANCE_MARK, OsStr::new(id))
    {
        tokio::task::yield_now().await;
    }
}

fn instance() -> String {
    uuid::Uuid::now_v7().to_string()
}

#[tokio::test]
async fn the_end_of_a_child_is_told_to_everybody_who_asks() {
    let folder = tempfile::tempdir().unwrap();
    for (script, expected) in [
        ("exit 0", Ending::Code(0)),
        ("exit 7", Ending::Code(7)),
        ("kill -9 $$", Ending::Signal(9)),
    ] {
        let process = start(script, &instance(), folder.path());
        assert_eq!(process.ended().await, expected, "{script}");
        assert_eq!(process.clone().ended().await, expected, "{script}");
        process.signal(End::Term).unwrap();
        // Reaped: not even a zombie is left.
        assert_eq!(identity::stat(process.identity().pid).unwrap(), None);
    }
}

#[tokio::test]
async fn a_child_has_its_own_session_three_variables_and_a_log() {
    let folder = tempfile::tempdir().unwrap();
    let id = instance();
    let script = "cat /proc/$$/environ | tr '\\0' '\\n'; cut -d' ' -f6 /proc/$$/stat; echo $$; echo oops >&2; exit 3";
    let process = start(script, &id, folder.path());
    assert_eq!(process.ended().await, Ending::Code(3));
    let tail = process.log_tail();
    let lines: Vec<&str> = tail.lines().collect();
    assert_eq!(lines.len(), 6, "{tail}");
    assert!(lines.contains(&format!("VOLANT_INSTANCE={id}").as_str()));
    assert!(lines.contains(&format!("VOLANT_STATE={}", folder.path().display()).as_str()));
    assert_eq!(lines[3], lines[4], "it leads its session");
    assert_eq!(lines[5], "oops");
}

#[tokio::test]
async fn the_log_is_bounded_and_the_writer_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let script =
        "i=0; while [ $i -lt 40 ]; do printf '%0100000d' 0; i=$((i+1)); done 2>/dev/null; exit 5";
    let process = start(script, &instance(), folder.path());
    assert_eq!(process.ended().await, Ending::Code(5));
    let size = fs::metadata(folder.path().join(LOG_FILE)).unwrap().len();
    assert_eq!(size, LOG_BYTES);
}

#[tokio::test]
async fn a_process_is_adopted_only_if_it_is_the_same_one() {
    let folder = tempfile::tempdir().unwrap();
    let id = instance();
    let process = start("exec sleep 60", &id, folder.path());
    let right = process.identity().clone();
    settled(&right, &id).await;
    for wrong in [
        Identity {
            start_ticks: right.start_ticks + 1,
            ..right.clone()
        },
        Identity {
            boot_id: "another".to_owned(),
            ..right.clone()
        },
        Identity {
            pid: 1,
            ..right.clone()
        },
        Identity {
            pid: u32::MAX,
            ..right.clone()
        },
    ] {
        assert!(Process::adopt(&wrong, &id).unwrap().is_none(), "{wrong:?}");
    }
    assert!(Process::adopt(&right, &instance()).unwrap().is_none());
    let adopted = Process::adopt(&right, &id).unwrap().unwrap();
    adopted.kill().await.unwrap();
    assert_eq!(adopted.ended().await, Ending::Unseen);
    assert_eq!(process.ended().await, Ending::Signal(9));
    assert!(Process::adopt(&right, &id).unwrap().is_none());
}

#[tokio::test]
async fn every_process_of_an_instance_is_killed_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let (id, other_id) = (instance(), instance());
    let other = start("exec sleep 60", &other_id, folder.path());
    // A child of the shell carries the mark too, and ignores SIGTERM as the shell does.
    let process = start("trap '' TERM; sleep 60 & sleep 60", &id, folder.path());
    settled(other.identity(), &other_id).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    kill_marked(&id).await.unwrap();
    assert_eq!(process.ended().await, Ending::Signal(9));
    let left = marked(INSTANCE_MARK).await.unwrap();
    assert!(!left.iter().any(|(_, value)| value == id.as_bytes()));
    assert!(left.iter().any(|(_, value)| value == other_id.as_bytes()));
    kill_marked(&id).await.unwrap();
    other.kill().await.unwrap();
}

#[tokio::test]
async fn a_missing_program_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = Process::spawn(Spawn {
        program: Path::new("/nonexistent/vmm"),
        args: Vec::new(),
        files: Vec::new(),
        search_path: OsStr::new(""),
        instance: "x",
        state_root: folder.path(),
        log: folder.path().join(LOG_FILE),
        disk_bytes: 0,
    })
    .unwrap_err();
    assert_eq!(error.to_string(), "Cannot start `/nonexistent/vmm`");
}
