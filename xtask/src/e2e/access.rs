//! Into a guest: commands with and without a terminal, files both ways, and its service through the daemon.

use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use common::digest::Digest;
use fs_err as fs;
use nix::pty::{Winsize, openpty};

use super::daemon::Daemon;
use super::workbench::{NAME, Workbench};
use super::{api, checks};
use crate::printer;

/// What is copied into a guest and back.
const COPIED_BYTES: u64 = 50 * 1024 * 1024;

/// What is read from a guest's service in one answer.
const STREAMED_BYTES: usize = 100 * 1024 * 1024;

/// What the daemon may grow by meanwhile, in KiB.
const MAX_GROWTH_KIB: u64 = 16 * 1024;

/// What is read of a stream between two looks at the daemon.
const PIECE_BYTES: usize = 1024 * 1024;

/// All of it.
pub(super) fn run(bench: &Workbench<'_>, daemon: &Daemon) -> Result<()> {
    commands(bench)?;
    terminal(bench)?;
    copies(bench)?;
    stream(daemon)?;
    websocket(daemon)
}

fn commands(bench: &Workbench<'_>) -> Result<()> {
    let line = "echo out; echo err >&2; exit 7";
    let said = bench.volar.call(&["exec", NAME, "--", "sh", "-c", line])?;
    ensure!(
        said.code == 7 && said.stdout == "out\n" && said.stderr == "err\n",
        "`{line}` in the guest: {said:?}"
    );
    // Without a shell, and killed by a signal.
    let said = bench
        .volar
        .call(&["exec", NAME, "--", "/usr/bin/hello", "no-port"])?;
    ensure!(said.code == 2, "hello without a port: {said:?}");
    let said = bench
        .volar
        .call(&["exec", NAME, "--", "sh", "-c", "kill -9 $$"])?;
    ensure!(said.code == 128 + 9, "A command that was killed: {said:?}");
    let said = bench
        .volar
        .call(&["exec", NAME, "--", "/no/such/program"])?;
    ensure!(
        said.code != 0 && said.stderr.contains("/no/such/program"),
        "A command that is not there: {said:?}"
    );
    let mut child = bench
        .volar
        .command(&[
            "exec",
            "-i",
            "-e",
            "WORD=blue",
            NAME,
            "--",
            "sh",
            "-c",
            "cat; echo $WORD",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("No stdin")?;
    stdin.write_all(b"red\n")?;
    drop(stdin);
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success() && output.stdout == b"red\nblue\n",
        "stdin and environment of a command: {output:?}"
    );
    printer::progress(
        "e2e",
        "exec: output, exit codes, signals, stdin, environment",
    );
    Ok(())
}

/// A command on a terminal of its own, in the size of the user's.
fn terminal(bench: &Workbench<'_>) -> Result<()> {
    let size = Winsize {
        ws_row: 33,
        ws_col: 101,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let pty = openpty(Some(&size), None).context("No terminal")?;
    let user = pty.slave.as_fd();
    let line = "tty; stty size; exit 5";
    let mut child = bench
        .volar
        .command(&["exec", "-it", NAME, "--", "sh", "-c", line])
        .stdin(user.try_clone_to_owned()?)
        .stdout(user.try_clone_to_owned()?)
        .stderr(user.try_clone_to_owned()?)
        .spawn()?;
    let status = child.wait()?;
    // Closed by the last of its users, or the reading would not end.
    drop(pty.slave);
    let mut shown = Vec::new();
    // A terminal without users is read to its end with an error (EIO).
    drop(fs::File::from_parts(pty.master.into(), "the terminal").read_to_end(&mut shown));
    let shown = String::from_utf8_lossy(&shown);
    ensure!(
        status.code() == Some(5) && shown.contains("/dev/pts/") && shown.contains("33 101"),
        "On a terminal: {status}, {shown:?}"
    );
    printer::progress(
        "e2e",
        "exec -it: a terminal in the guest, 33 rows and 101 columns as here",
    );
    Ok(())
}

fn copies(bench: &Workbench<'_>) -> Result<()> {
    let (there, back) = (bench.path("payload.bin"), bench.path("back"));
    fs::create_dir_all(&back)?;
    let mut random = fs::File::open("/dev/urandom")?.take(COPIED_BYTES);
    std::io::copy(&mut random, &mut fs::File::create(&there)?)?;
    let digest = Digest::of(&fs::read(&there)?).to_hex();
    let started = Instant::now();
    let (guest_folder, guest_file) = (format!("{NAME}:/"), format!("{NAME}:/payload.bin"));
    bench
        .volar
        .ok(&["cp", &there.to_string_lossy(), &guest_folder])?;
    let inside = bench.shell("sha256sum /payload.bin")?;
    ensure!(
        inside.starts_with(&digest),
        "In the guest it is {inside}, not {digest}"
    );
    bench
        .volar
        .ok(&["cp", &guest_file, &back.to_string_lossy()])?;
    let returned = Digest::of(&fs::read(back.join("payload.bin"))?).to_hex();
    ensure!(returned == digest, "Back it is {returned}, not {digest}");
    bench.shell("rm /payload.bin")?;
    printer::progress(
        "e2e",
        &format!(
            "cp: {COPIED_BYTES} bytes into the guest and back with the same digest, in {:.1} s",
            started.elapsed().as_secs_f64()
        ),
    );
    Ok(())
}

/// A long answer of the workload through the daemon, which must not keep it.
fn stream(daemon: &Daemon) -> Result<()> {
    let pid = daemon.pid().context("volantd does not run")?;
    let before = checks::resident_kib(pid)?;
    let started = Instant::now();
    let path = format!("/api/v1/vms/{NAME}/agent/v1/stream?bytes={STREAMED_BYTES}");
    let mut answer = api::get(daemon, &path, "Connection: close\r\n")?;
    ensure!(answer.status == 200, "GET {path}: {}", answer.status);
    let mut piece = vec![0; PIECE_BYTES];
    let (mut total, mut most) = (0, before);
    loop {
        let count = answer.body.read(&mut piece)?;
        if count == 0 {
            break;
        }
        total += count;
        most = most.max(checks::resident_kib(pid)?);
    }
    ensure!(total == STREAMED_BYTES, "{total} bytes came");
    let growth = most.saturating_sub(before);
    ensure!(
        growth <= MAX_GROWTH_KIB,
        "volantd grew by {growth} KiB while it passed {total} bytes on"
    );
    printer::progress(
        "e2e",
        &format!(
            "agent proxy: {total} bytes in {:.1} s, volantd grew by {growth} KiB",
            started.elapsed().as_secs_f64()
        ),
    );
    Ok(())
}

fn websocket(daemon: &Daemon) -> Result<()> {
    let path = format!("/api/v1/vms/{NAME}/agent/v1/ws");
    // The key and what it is answered with are from RFC 6455 §1.3.
    let headers = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let mut answer = api::get(daemon, &path, headers)?;
    ensure!(answer.status == 101, "GET {path}: {}", answer.status);
    // The masked `Hello` of RFC 6455 §5.7, and a close.
    let hello = [
        0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
    ];
    let close = [0x88, 0x80, 0, 0, 0, 0];
    answer.body.get_mut().write_all(&hello)?;
    let mut echoed = [0; 7];
    answer.body.read_exact(&mut echoed)?;
    ensure!(&echoed == b"\x81\x05Hello", "The echo is {echoed:?}");
    answer.body.get_mut().write_all(&close)?;
    let mut rest = Vec::new();
    answer.body.read_to_end(&mut rest)?;
    ensure!(rest == [0x88, 0], "After the close came {rest:?}");
    printer::progress("e2e", "agent proxy: a WebSocket echoes and closes");
    Ok(())
}
