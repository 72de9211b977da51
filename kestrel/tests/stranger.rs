//! The program as anybody may start it: not PID 1, so it must touch nothing. What it does as PID 1 is shown by the end-to-end test.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::process::{Command, Output};

fn kestrel(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kestrel"))
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn it_refuses_to_be_init_for_anybody() {
    for arguments in [&[][..], &["run"], &["--unknown"]] {
        let output = kestrel(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert_eq!(
            String::from_utf8_lossy(&output.stderr),
            "kestrel is PID 1 of a Volant guest; it does nothing here\n"
        );
    }
}

#[test]
fn it_tells_its_version_and_what_it_is() {
    let version = kestrel(&["--version"]);
    assert!(version.status.success());
    assert_eq!(
        String::from_utf8_lossy(&version.stdout),
        concat!("kestrel ", env!("CARGO_PKG_VERSION"), "\n")
    );
    let help = kestrel(&["--help"]);
    assert!(help.status.success());
    assert!(
        String::from_utf8_lossy(&help.stdout).starts_with("kestrel is PID 1 of a Volant guest")
    );
}
