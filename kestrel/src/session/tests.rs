//! Sessions over a pair of pipes in memory, with programs of the machine that runs the tests.

use std::collections::BTreeMap;

use common::api::Problem;
use common::manifest::Manifest;
use tokio::io::{DuplexStream, ReadHalf, WriteHalf};
use tokio::task::JoinHandle;

use super::*;
use crate::reaper::tests::alone;

struct Client {
    from: ReadHalf<DuplexStream>,
    to: WriteHalf<DuplexStream>,
    session: JoinHandle<()>,
}

/// What a session gave.
#[derive(Debug)]
struct Given {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    last: Result<Exit, Problem>,
}

impl Given {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    fn code(&self) -> i32 {
        self.last.as_ref().unwrap().code
    }

    fn problem(&self) -> &Problem {
        self.last.as_ref().unwrap_err()
    }
}

/// One for a test: two reapers would take each other's statuses.
fn sessions() -> Arc<Sessions> {
    // As PID 1 has them by nature: what a command leaves does not stay a zombie.
    crate::sys::adopt_orphans();
    Arc::new(Sessions::new(Reaper::start().unwrap()))
}

fn connect(sessions: &Arc<Sessions>) -> Client {
    let (near, far) = tokio::io::duplex(4096);
    let sessions = Arc::clone(sessions);
    let session = tokio::spawn(async move { sessions.serve(far).await });
    let (from, to) = tokio::io::split(near);
    Client { from, to, session }
}

impl Client {
    async fn send(&mut self, channel: Channel, payload: &[u8]) {
        // The guest may have ended the session already.
        drop(frame::write(&mut self.to, channel, payload).await);
    }

    async fn start(&mut self, start: &Start) {
        let json = serde_json::to_vec(start).unwrap();
        self.send(Channel::Start, &json).await;
    }

    async fn next(&mut self) -> (Channel, Vec<u8>) {
        frame::read(&mut self.from).await.unwrap()
    }

    async fn until_stdout(&mut self, wanted: &str) -> String {
        let mut text = String::new();
        while !text.contains(wanted) {
            let (channel, payload) = self.next().await;
            assert_eq!(channel, Channel::Stdout, "{text}");
            text.push_str(&String::from_utf8_lossy(&payload));
        }
        text
    }

    async fn rest(&mut self) -> Given {
        rest(&mut self.from).await
    }
}

async fn rest(from: &mut ReadHalf<DuplexStream>) -> Given {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    loop {
        let (channel, payload) = frame::read(from).await.unwrap();
        let last = match channel {
            Channel::Stdout => {
                stdout.extend(payload);
                continue;
            }
            Channel::Stderr => {
                stderr.extend(payload);
                continue;
            }
            Channel::Exit => Ok(serde_json::from_slice(&payload).unwrap()),
            Channel::Failed => Err(serde_json::from_slice(&payload).unwrap()),
            other => panic!("{other:?}"),
        };
        // Nothing comes behind the last message.
        assert!(frame::read(from).await.is_err());
        return Given {
            stdout,
            stderr,
            last,
        };
    }
}

fn sh(script: &str) -> Start {
    Start {
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        ..Start::default()
    }
}

const SIZE: TerminalSize = TerminalSize { cols: 91, rows: 33 };

async fn run(sessions: &Arc<Sessions>, start: &Start) -> Given {
    let mut client = connect(sessions);
    client.start(start).await;
    client.rest().await
}

#[tokio::test]
async fn streams_and_codes_come_back() {
    let _alone = alone().await;
    let sessions = sessions();
    let given = run(&sessions, &sh("echo out; echo err >&2; exit 3")).await;
    assert_eq!(given.text(), "out\n");
    assert_eq!(given.stderr, b"err\n");
    assert_eq!(given.code(), 3);
    // Without an input it reads an end.
    assert_eq!(run(&sessions, &sh("cat; kill -9 $$")).await.code(), 137);
}

#[tokio::test]
async fn all_output_comes_before_the_exit_and_nobody_who_stays_is_waited_for() {
    let _alone = alone().await;
    let sessions = sessions();
    let script = "head -c 300000 /dev/zero; sleep 600 & exit 0";
    let given = run(&sessions, &sh(script)).await;
    assert_eq!(given.stdout.len(), 300_000);
    assert_eq!(given.code(), 0);
}

#[tokio::test]
async fn it_runs_as_the_workload_but_for_what_is_said() {
    let _alone = alone().await;
    let sessions = sessions();
    let json = br#"{"name":"x","version":"1","initramfs":{"url":"/x"},
        "workload":{"entrypoint":["/bin/sh"],"env":{"A":"1","B":"1"},"workdir":"/usr"}}"#;
    let manifest = Manifest::from_json(json).unwrap();
    sessions.run_as(&Plan::new(&manifest).unwrap());
    let script = "echo $A $B $HOME $PWD ${TERM-none}";
    let mut client = connect(&sessions);
    client.start(&sh(script)).await;
    assert_eq!(client.rest().await.text(), "1 1 /root /usr none\n");
    let mut client = connect(&sessions);
    let start = Start {
        env: BTreeMap::from([("B".to_owned(), "2".to_owned())]),
        workdir: Some("/tmp".to_owned()),
        ..sh(script)
    };
    client.start(&start).await;
    assert_eq!(client.rest().await.text(), "1 2 /root /tmp none\n");
}

#[tokio::test]
async fn another_user_has_its_own_home_and_may_open_its_output_anew() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: only root can run a command as somebody else");
        return;
    }
    let _alone = alone().await;
    let sessions = sessions();
    for tty in [None, Some(SIZE)] {
        let start = Start {
            user: Some("4711:4712".to_owned()),
            tty,
            ..sh("echo $(id -u) $(id -g) $HOME > /proc/self/fd/1")
        };
        let given = run(&sessions, &start).await;
        assert_eq!(given.text().trim_end(), "4711 4712 /", "{given:?}");
    }
}

#[tokio::test]
async fn input_arrives_whole_with_its_end() {
    let _alone = alone().await;
    let sessions = sessions();
    let mut client = connect(&sessions);
    let start = Start {
        stdin: true,
        ..sh("cat; echo end >&2")
    };
    client.start(&start).await;
    let bytes: Vec<u8> = (0_u32..1_000_000).flat_map(u32::to_le_bytes).collect();
    let sent = bytes.clone();
    let Client {
        mut from,
        mut to,
        session,
    } = client;
    let sending = tokio::spawn(async move {
        for piece in sent.chunks(50_000) {
            frame::write(&mut to, Channel::Stdin, piece).await.unwrap();
        }
        frame::write(&mut to, Channel::StdinEnd, &[]).await.unwrap();
        to
    });
    let given = rest(&mut from).await;
    let read = given.stdout;
    assert!(read == bytes, "{} of {} bytes", read.len(), bytes.len());
    assert_eq!(given.stderr, b"end\n");
    drop(sending.await.unwrap());
    session.await.unwrap();
}

#[tokio::test]
async fn input_that_is_not_wanted_does_no_harm() {
    let _alone = alone().await;
    let sessions = sessions();
    let mut client = connect(&sessions);
    client.start(&sh("exec sleep 0.3")).await;
    for _ in 0..3 {
        client.send(Channel::Stdin, b"unasked").await;
        client.send(Channel::StdinEnd, b"").await;
        client
            .send(Channel::Resize, br#"{"cols":1,"rows":1}"#)
            .await;
    }
    assert_eq!(client.rest().await.code(), 0);
}

#[tokio::test]
async fn a_terminal_is_one_with_size_and_keys() {
    let _alone = alone().await;
    let sessions = sessions();
    let mut client = connect(&sessions);
    let script = "test -t 0 -a -t 1 -a -t 2 || exit 9; echo $TERM; stty size; echo > /dev/tty; read line; \
        stty size; echo \"got $line\"; exec sleep 600";
    let start = Start {
        tty: Some(SIZE),
        stdin: true,
        ..sh(script)
    };
    client.start(&start).await;
    let text = client.until_stdout("33 91").await;
    assert!(text.starts_with("xterm\r\n"), "{text}");
    let size = br#"{"cols":120,"rows":40}"#;
    client.send(Channel::Resize, size).await;
    client.send(Channel::Stdin, b"hello\r").await;
    let text = client.until_stdout("got hello").await;
    assert!(text.contains("40 120"), "{text}");
    // Ctrl-C is the terminal's own affair.
    client.send(Channel::Stdin, b"\x03").await;
    let given = client.rest().await;
    assert_eq!(
        given.last.unwrap(),
        Exit {
            code: 130,
            signal: Some(2)
        }
    );
}

#[tokio::test]
async fn input_at_a_terminal_has_an_end_too() {
    let _alone = alone().await;
    let sessions = sessions();
    let mut client = connect(&sessions);
    let start = Start {
        tty: Some(SIZE),
        stdin: true,
        ..sh("cat; exit 5")
    };
    client.start(&start).await;
    client.send(Channel::Stdin, b"line\n").await;
    client.send(Channel::StdinEnd, b"").await;
    assert_eq!(client.rest().await.code(), 5);
}

#[tokio::test]
async fn signals_reach_the_whole_group() {
    let _alone = alone().await;
    let sessions = sessions();
    let mut client = connect(&sessions);
    let script = "trap 'echo one; exit 4' USR1; (trap 'echo two; exit' USR1; echo ready; while :; do sleep 0.02; done) & while :; do sleep 0.02; done";
    client.start(&sh(script)).await;
    client.until_stdout("ready").await;
    client.send(Channel::Signal, br#"{"signal":10}"#).await;
    let given = client.rest().await;
    assert_eq!(given.code(), 4);
    assert!(given.text().contains("one"), "{given:?}");
}

#[tokio::test]
async fn an_empty_command_is_the_shell() {
    let _alone = alone().await;
    let sessions = sessions();
    let mut client = connect(&sessions);
    let start = Start {
        stdin: true,
        ..Start::default()
    };
    client.start(&start).await;
    client
        .send(Channel::Stdin, b"echo $((40 + 2)); exit 6\n")
        .await;
    let given = client.rest().await;
    assert_eq!((given.text().as_str(), given.code()), ("42\n", 6));
}

#[tokio::test]
async fn what_cannot_run_is_told_with_its_code() {
    let _alone = alone().await;
    let sessions = sessions();
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain");
    fs_err::write(&plain, "data").unwrap();
    let path = plain.to_str().unwrap().to_owned();
    let mut table = vec![
        (
            vec!["no-such-program".to_owned()],
            "not-found",
            "is in no directory of PATH",
        ),
        (
            vec!["/no/such".to_owned()],
            "not-found",
            "does not exist in the image",
        ),
        (
            vec![path.clone()],
            "not-executable",
            "is not an executable file",
        ),
        (vec!["a\0b".to_owned()], "invalid-request", "NUL"),
    ];
    let script = folder.path().join("script");
    fs_err::write(&script, "#!/no/such/python\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs_err::set_permissions(&script, mode).unwrap();
    let script = script.to_str().unwrap().to_owned();
    table.push((vec![script], "not-found", "needs the script interpreter"));
    for (command, code, sentence) in table {
        for tty in [None, Some(SIZE)] {
            let start = Start {
                command: command.clone(),
                tty,
                ..Start::default()
            };
            let given = run(&sessions, &start).await;
            assert_eq!(given.problem().code, code, "{given:?}");
            assert!(given.problem().detail.contains(sentence), "{given:?}");
        }
    }
    let workdir = Start {
        workdir: Some("/no/such".to_owned()),
        ..sh("true")
    };
    assert_eq!(
        run(&sessions, &workdir).await.problem().code,
        "workdir-not-found"
    );
    let relative = Start {
        workdir: Some("tmp".to_owned()),
        ..sh("true")
    };
    assert_eq!(
        run(&sessions, &relative).await.problem().code,
        "invalid-request"
    );
    let user = Start {
        user: Some("no-such-user".to_owned()),
        ..sh("true")
    };
    assert_eq!(run(&sessions, &user).await.problem().code, "user-not-found");
    let env = Start {
        env: BTreeMap::from([("A=B".to_owned(), String::new())]),
        ..sh("true")
    };
    assert_eq!(run(&sessions, &env).await.problem().code, "invalid-request");
}

#[tokio::test]
async fn a_session_that_does_not_begin_as_one_is_refused() {
    let _alone = alone().await;
    let sessions = sessions();
    let table: [(Channel, &[u8]); 4] = [
        (Channel::Stdin, b"hello"),
        (Channel::Start, b"{"),
        (Channel::Start, br#"{"command":["true"],"surprise":1}"#),
        (Channel::Exit, b"{}"),
    ];
    for (channel, payload) in table {
        let mut client = connect(&sessions);
        client.send(channel, payload).await;
        assert_eq!(client.rest().await.problem().code, "invalid-request");
    }
    let mut client = connect(&sessions);
    client.to.write_all(&[77, 0, 0, 0, 0]).await.unwrap();
    let given = client.rest().await;
    assert_eq!(
        given.problem().detail,
        "A message has the unknown channel 77"
    );
}

#[tokio::test]
async fn whoever_breaks_the_protocol_loses_the_command() {
    let _alone = alone().await;
    let sessions = sessions();
    let table: [(Channel, &[u8]); 5] = [
        (Channel::Start, b"{}"),
        (Channel::Stdout, b"x"),
        (Channel::Resize, b"[]"),
        (Channel::Signal, br#"{"signal":0}"#),
        (Channel::Signal, br#"{"signal":65}"#),
    ];
    for (channel, payload) in table {
        let mut client = connect(&sessions);
        client.start(&sh("echo begun; exec sleep 600")).await;
        client.until_stdout("begun").await;
        client.send(channel, payload).await;
        assert_eq!(client.rest().await.problem().code, "invalid-request");
        client.session.await.unwrap();
    }
}

#[tokio::test]
async fn a_host_that_goes_away_hangs_up() {
    let _alone = alone().await;
    let sessions = sessions();
    let folder = tempfile::tempdir().unwrap();
    let told = folder.path().join("told");
    let script = format!(
        "trap 'echo hup > {}; exit' HUP; echo ready; while :; do sleep 0.02; done",
        told.display()
    );
    for tty in [None, Some(SIZE)] {
        let mut client = connect(&sessions);
        let start = Start { tty, ..sh(&script) };
        client.start(&start).await;
        client.until_stdout("ready").await;
        let Client { from, to, session } = client;
        drop((from, to));
        session.await.unwrap();
        assert_eq!(fs_err::read_to_string(&told).unwrap(), "hup\n");
        fs_err::remove_file(&told).unwrap();
    }
}

/// Time passes as soon as everybody waits: the grace takes none.
#[tokio::test(start_paused = true)]
async fn what_ignores_the_hang_up_is_killed() {
    let _alone = alone().await;
    let sessions = sessions();
    let mut client = connect(&sessions);
    client
        .start(&sh("trap '' HUP; echo $$; while :; do sleep 0.02; done"))
        .await;
    let pid = client.until_stdout("\n").await;
    let Client { from, to, session } = client;
    drop((from, to));
    session.await.unwrap();
    // The kernel's own time does not jump.
    let proc = format!("/proc/{}/stat", pid.trim());
    let lives = || fs_err::read_to_string(&proc).is_ok_and(|stat| !stat.contains(") Z "));
    for _ in 0..2000 {
        if !lives() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{proc} is still there");
}

#[tokio::test(start_paused = true)]
async fn a_host_that_goes_away_behind_input_that_nobody_reads_is_noticed() {
    let _alone = alone().await;
    let sessions = sessions();
    let mut client = connect(&sessions);
    let start = Start {
        stdin: true,
        ..sh("exec sleep 600")
    };
    client.start(&start).await;
    let Client {
        from,
        mut to,
        session,
    } = client;
    let piece = vec![0; 60_000];
    let stuck = async {
        loop {
            frame::write(&mut to, Channel::Stdin, &piece).await.unwrap();
        }
    };
    let stuck = tokio::time::timeout(Duration::from_secs(1), stuck).await;
    assert!(stuck.is_err());
    drop((from, to));
    session.await.unwrap();
}

#[test]
fn sessions_are_bounded() {
    let sessions = Sessions::new(Reaper::idle());
    let places: Vec<_> = std::iter::from_fn(|| sessions.place()).collect();
    assert_eq!(places.len(), MAX_SESSIONS);
}
