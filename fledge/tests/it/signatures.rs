//! Keys and signatures as users handle them, and as a stock `minisign` does.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::workspace::Workspace;

/// Runs `fledge`, checks its exit code, and returns what it said.
fn run(workspace: &Workspace, arguments: &[&str], code: i32) -> String {
    let output = workspace
        .fledge(arguments)
        .env("PASSWORD", "secret")
        .output()
        .unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    said
}

/// Runs `minisign` in the workspace, with `input` as what is typed; nothing where it is not installed.
#[expect(clippy::print_stdout, reason = "a test that is skipped says so")]
fn minisign(workspace: &Workspace, arguments: &[&str]) -> Option<String> {
    match Command::new("minisign")
        .args(arguments)
        .current_dir(workspace.path(""))
        .output()
    {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{arguments:?}: {said}");
            Some(String::from_utf8(output.stdout).unwrap())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("SKIPPED: there is no `minisign` on this machine");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_key_pair_is_made_once_and_for_its_owner() {
    let workspace = Workspace::new();
    let said = run(&workspace, &["keygen", "--no-password"], 0);
    assert!(said.contains("fledge.pub: the public key, RW"), "{said}");
    let mode = |name: &str| {
        let metadata = fs_err::metadata(workspace.path(name)).unwrap();
        metadata.permissions().mode() & 0o777
    };
    assert_eq!(mode("fledge.key"), 0o600);
    assert_eq!(mode("fledge.pub") & 0o600, 0o600);

    let before = fs_err::read(workspace.path("fledge.key")).unwrap();
    let said = run(&workspace, &["keygen", "--no-password"], 4);
    assert!(
        said.contains("error: `fledge.key` exists already"),
        "{said}"
    );
    workspace.write("half.pub", b"");
    let said = run(&workspace, &["keygen", "-o", "half", "--no-password"], 4);
    assert!(said.contains("`half.pub` exists already"), "{said}");
    assert!(!workspace.path("half.key").exists());
    assert_eq!(fs_err::read(workspace.path("fledge.key")).unwrap(), before);
    let said = run(&workspace, &["keygen", "-o", "no/key", "--no-password"], 3);
    assert!(
        said.contains("The directory `no` for the keys does not exist"),
        "{said}"
    );
}

#[test]
fn what_is_signed_is_verified() {
    let workspace = Workspace::new();
    run(
        &workspace,
        &["keygen", "-o", "k", "--password-env", "PASSWORD"],
        0,
    );
    workspace.write("password", b"secret\nnot this\n");
    let said = run(
        &workspace,
        &[
            "sign",
            "app",
            "-s",
            "k.key",
            "--password-file",
            "password",
            "-c",
            "app v1",
        ],
        0,
    );
    assert_eq!(said, "app.minisig: the signature\n");
    let said = run(&workspace, &["verify", "app", "-p", "k.pub"], 0);
    assert!(said.contains(", app v1\n"), "{said}");
    assert!(said.contains("app: sha256:"), "{said}");
    let public = fs_err::read_to_string(workspace.path("k.pub")).unwrap();
    let public = public.lines().nth(1).unwrap();
    run(&workspace, &["verify", "app", "-P", public], 0);

    // Signing again replaces the signature, and needs the right password.
    workspace.write("wrong", b"other");
    let said = run(
        &workspace,
        &["sign", "app", "-s", "k.key", "--password-file", "wrong"],
        6,
    );
    assert!(said.contains("The password is wrong"), "{said}");
    run(&workspace, &["verify", "app", "-p", "k.pub"], 0);
    run(
        &workspace,
        &["sign", "app", "-s", "k.key", "--password-env", "PASSWORD"],
        0,
    );
    let said = run(&workspace, &["verify", "app", "-p", "k.pub"], 0);
    assert!(said.contains(", file:app\n"), "{said}");
}

#[test]
fn what_does_not_hold_is_a_sentence_and_an_exit_code() {
    let workspace = Workspace::new();
    run(&workspace, &["keygen", "-o", "a", "--no-password"], 0);
    run(&workspace, &["keygen", "-o", "b", "--no-password"], 0);
    let said = run(&workspace, &["verify", "app", "-p", "a.pub"], 3);
    assert!(
        said.contains("There is no signature at `app.minisig`"),
        "{said}"
    );
    assert!(said.contains("hint: `fledge sign` makes one"), "{said}");
    run(&workspace, &["sign", "app", "-s", "a.key"], 0);
    let said = run(&workspace, &["verify", "app", "-p", "b.pub"], 6);
    assert!(said.contains("It was signed with key "), "{said}");
    workspace.write("app", b"changed");
    let said = run(&workspace, &["verify", "app", "-p", "a.pub"], 6);
    assert!(said.contains("The signature does not match"), "{said}");
    let said = run(&workspace, &["verify", "gone", "-p", "a.pub"], 3);
    assert!(said.contains("There is no artifact at `gone`"), "{said}");
    let said = run(&workspace, &["verify", "app", "-p", "a.key"], 1);
    assert!(said.contains("is not a minisign public key"), "{said}");
    let said = run(&workspace, &["sign", "app", "-s", "a.pub"], 1);
    assert!(said.contains("error: "), "{said}");
    workspace.write("app.minisig", &[b'x'; 5000]);
    let said = run(&workspace, &["verify", "app", "-p", "a.pub"], 1);
    assert!(said.contains("has more than 4096 bytes"), "{said}");
}

#[test]
fn the_manifest_beside_it_is_checked_too() {
    let workspace = Workspace::new();
    run(&workspace, &["keygen", "--no-password"], 0);
    workspace.write("manifest.toml", crate::workspace::TEMPLATE.as_bytes());
    run(&workspace, &["build"], 0);
    run(
        &workspace,
        &["sign", "plugin.cpio.gz", "-s", "fledge.key"],
        0,
    );
    let arguments = ["verify", "plugin.cpio.gz", "-p", "fledge.pub"];
    let said = run(&workspace, &arguments, 0);
    assert!(
        said.contains("plugin.cpio.gz.manifest.json: has this checksum"),
        "{said}"
    );
    let path = workspace.path("plugin.cpio.gz.manifest.json");
    let text = fs_err::read_to_string(&path).unwrap();
    let at = text.find("sha256:").unwrap() + 7;
    let mut other = text.clone();
    other.replace_range(at..at + 4, "0000");
    fs_err::write(&path, other).unwrap();
    let said = run(&workspace, &arguments, 6);
    assert!(said.contains("is of another artifact"), "{said}");
    fs_err::write(&path, "{").unwrap();
    let said = run(&workspace, &arguments, 1);
    assert!(said.contains("Cannot read the manifest"), "{said}");
}

#[test]
fn a_stock_minisign_verifies_ours() {
    let workspace = Workspace::new();
    run(&workspace, &["keygen", "--no-password"], 0);
    run(
        &workspace,
        &["sign", "app", "-s", "fledge.key", "-c", "from fledge"],
        0,
    );
    let Some(said) = minisign(&workspace, &["-V", "-m", "app", "-p", "fledge.pub"]) else {
        return;
    };
    assert!(
        said.contains("Signature and comment signature verified"),
        "{said}"
    );
    assert!(said.contains("Trusted comment: from fledge"), "{said}");
    // And it can sign with our key.
    minisign(&workspace, &["-S", "-m", "kestrel", "-s", "fledge.key"]);
    run(&workspace, &["verify", "kestrel", "-p", "fledge.pub"], 0);
}

#[test]
fn ours_verifies_a_stock_minisign() {
    let workspace = Workspace::new();
    let made = minisign(&workspace, &["-G", "-W", "-p", "m.pub", "-s", "m.key"]);
    if made.is_none() {
        return;
    }
    minisign(
        &workspace,
        &["-S", "-m", "app", "-s", "m.key", "-t", "from minisign"],
    );
    let said = run(&workspace, &["verify", "app", "-p", "m.pub"], 0);
    assert!(said.contains("from minisign"), "{said}");
    // And its key signs here.
    run(&workspace, &["sign", "kestrel", "-s", "m.key"], 0);
    run(&workspace, &["verify", "kestrel", "-p", "m.pub"], 0);
    // Signatures of the older kind are not taken.
    minisign(&workspace, &["-S", "-l", "-m", "app", "-s", "m.key"]);
    let said = run(&workspace, &["verify", "app", "-p", "m.pub"], 6);
    assert!(said.contains("of the older kind"), "{said}");
}
