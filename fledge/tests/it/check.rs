//! `fledge check`: all problems at once, each at its place, and an exit code that says of which kind they are.

use crate::workspace::{SPEC, TEMPLATE, Workspace, elf};

/// Runs the check; what it prints, and how it ends.
fn check(workspace: &Workspace, arguments: &[&str]) -> (i32, String, String) {
    let before = workspace.names();
    let arguments = [&["check"], arguments].concat();
    let output = workspace.fledge(&arguments).output().unwrap();
    assert_eq!(workspace.names(), before, "a check writes nothing");
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

fn refused(workspace: &Workspace, code: i32, expected: &[&str]) {
    let (found, stdout, stderr) = check(workspace, &[]);
    for expected in expected {
        assert!(stderr.contains(expected), "{expected:?} in:\n{stderr}");
    }
    assert_eq!((found, stdout.as_str()), (code, ""), "{stderr}");
}

#[test]
fn what_is_in_order_is_said_so() {
    let workspace = Workspace::new();
    let (code, stdout, stderr) = check(&workspace, &[]);
    assert_eq!((code, stdout.as_str()), (0, "fledge.toml is in order\n"));
    assert!(stderr.contains("note: there is no manifest"), "{stderr}");
    workspace.write("manifest.toml", TEMPLATE.as_bytes());
    let (code, stdout, stderr) = check(&workspace, &[]);
    assert_eq!(stdout, "fledge.toml and manifest.toml are in order\n");
    assert_eq!((code, stderr.as_str()), (0, ""));
}

#[test]
fn all_problems_of_both_files_are_shown_at_once() {
    let workspace = Workspace::new();
    let spec = SPEC
        .replace("strategy = \"initramfs\"", "strategy = \"initramsf\"")
        .replace("\"/usr/bin/app\"", "\"usr/bin/app\"")
        .replace("[agent]", "[agnet]");
    workspace.write("fledge.toml", spec.as_bytes());
    workspace.write(
        "manifest.toml",
        b"name = \"My App\"\n[workload]\nentrypiont = \"/x\"\n",
    );
    refused(
        &workspace,
        1,
        &[
            "error: fledge.toml:2:12: `initramsf` is not a `strategy`: did you mean \"initramfs\"?\n  |\n2 | strategy = \"initramsf\"\n  |            ^^^^^^^^^^^\n",
            "error: fledge.toml:4:2: Unknown key `agnet`: did you mean `agent`?\n",
            "error: fledge.toml:9:9: `usr/bin/app` is not a path in the guest",
            "error: manifest.toml:1:8: `My App` is not a valid name",
            "error: manifest.toml:3:1: Unknown key `entrypiont`: did you mean `entrypoint`?",
        ],
    );
}

#[test]
fn missing_files_are_shown_where_they_are_named() {
    let workspace = Workspace::new();
    fs_err::remove_file(workspace.path("app")).unwrap();
    fs_err::remove_file(workspace.path("kestrel")).unwrap();
    refused(
        &workspace,
        3,
        &[
            "fledge.toml:6:8: `kestrel` does not exist\n",
            "fledge.toml:9:1: `app` does not exist\n  |\n9 | \"app\" = \"/usr/bin/app\"\n  | ^^^^^\n",
        ],
    );
    let (code, _, stderr) = check(&workspace, &["-c", "x/fledge.toml", "-m", "x.toml"]);
    assert!(stderr.contains("There is no build spec at `x/fledge.toml`"));
    assert!(stderr.contains("There is no manifest at `x.toml`"));
    assert_eq!(code, 3);
}

#[test]
fn files_that_cannot_be_used_are_shown() {
    let workspace = Workspace::new();
    workspace.write("kestrel", &elf(Some("/lib/ld.so")));
    refused(
        &workspace,
        1,
        &["fledge.toml:6:8: `kestrel` cannot be the agent: it is dynamically linked"],
    );
    workspace.write("kestrel", &elf(None));
    let wrong = SPEC.replace(
        "path = \"kestrel\"",
        &format!("path = \"kestrel\"\nchecksum = \"{}\"", "0".repeat(64)),
    );
    workspace.write("fledge.toml", wrong.as_bytes());
    refused(
        &workspace,
        6,
        &["fledge.toml:7:12: This is not the checksum"],
    );
    workspace.write(
        "fledge.toml",
        format!("{SPEC}\"kestrel\" = \"/init\"").as_bytes(),
    );
    refused(
        &workspace,
        1,
        &["fledge.toml:11:1: ", "`/init` belongs to the agent"],
    );
    let none = "version = \"1\"\nstrategy = \"initramfs\"\n[init]\nnone = true\n";
    workspace.write("fledge.toml", none.as_bytes());
    refused(
        &workspace,
        1,
        &["fledge.toml:4:1: The image has no `/init`"],
    );
}

#[test]
fn a_workload_that_would_not_start_is_shown_in_the_manifest() {
    let workspace = Workspace::new();
    workspace.write(
        "manifest.toml",
        TEMPLATE.replace("/usr/bin/app", "/usr/bin/ap").as_bytes(),
    );
    refused(
        &workspace,
        1,
        &["manifest.toml:5:14: The entrypoint `/usr/bin/ap` is not in the image"],
    );
    workspace.write("bad.json", b"{\"name\": \"x\", \"version\": \"1\"}");
    let (code, _, stderr) = check(&workspace, &["-m", "bad.json"]);
    assert!(stderr.contains("bad.json: /workload: The manifest has no `workload`"));
    assert_eq!(code, 1);
    // The shell comes with the busybox, which is not fetched for a check.
    let shell = format!(
        "{SPEC}[source]\nbusybox_url = \"https://busybox.net/downloads/binaries/1.35.0-x86_64-linux-musl/busybox\""
    );
    workspace.write("fledge.toml", shell.as_bytes());
    workspace.write("app", b"#!/bin/sh\n");
    workspace.write("manifest.toml", TEMPLATE.as_bytes());
    assert_eq!(check(&workspace, &[]).0, 0);
}

#[test]
fn what_an_image_says_is_not_missing() {
    let workspace = Workspace::new();
    let spec = SPEC.replace(
        "strategy = \"initramfs\"",
        "strategy = \"oci_rootfs\"\n[source]\nimage = \"nginx:alpine\"",
    );
    workspace.write("fledge.toml", spec.as_bytes());
    workspace.write("manifest.toml", b"name = \"web\"\n");
    let (code, _, stderr) = check(&workspace, &[]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("what the image or the downloads hold was not looked at"));
    workspace.write(
        "fledge.toml",
        spec.replace(
            "image = \"nginx:alpine\"",
            "dockerfile = \"Dockerfile\"\ncontext = \"app\"",
        )
        .as_bytes(),
    );
    refused(
        &workspace,
        1,
        &[
            "fledge.toml:4:14: `Dockerfile` does not exist",
            "fledge.toml:5:11: `app` is not a directory",
        ],
    );
}

#[test]
fn a_build_shows_all_problems_too() {
    let workspace = Workspace::new();
    let spec = format!("{}surprise = 1\n", SPEC.replace("[agent]", "[agnet]"));
    workspace.write("fledge.toml", spec.as_bytes());
    workspace.refused(
        &[],
        1,
        "fledge.toml:4:2: Unknown key `agnet`: did you mean `agent`?",
    );
    workspace.refused(&[], 1, "fledge.toml:11:12: ");
}

#[test]
fn the_text_and_the_files_that_it_names_are_checked_at_once() {
    let workspace = Workspace::new();
    fs_err::remove_file(workspace.path("kestrel")).unwrap();
    fs_err::remove_file(workspace.path("app")).unwrap();
    let spec = format!("{SPEC}\"missing\" = \"relative\"\nsurprise = 1\n[sorce]\n");
    workspace.write("fledge.toml", spec.as_bytes());
    let (code, _, stderr) = check(&workspace, &[]);
    let found: Vec<&str> = stderr
        .lines()
        .filter_map(|line| line.strip_prefix("error: fledge.toml:"))
        .collect();
    assert_eq!(
        found,
        [
            "6:8: `kestrel` does not exist",
            "9:1: `app` does not exist",
            "11:1: `missing` does not exist",
            "11:13: `relative` is not a path in the guest: it must be absolute, beginning with `/`",
            "12:1: `surprise` does not exist",
            "12:12: Expected a text in quotes, found a number",
            "13:2: Unknown key `sorce`: did you mean `source`?",
        ],
        "{stderr}"
    );
    assert!(stderr.contains("9 | \"app\" = \"/usr/bin/app\"\n  | ^^^^^\n"));
    assert_eq!(code, 1);
    // Without a strategy it is not known what the files are for, but they are missing all the same.
    let spec = SPEC.replace("strategy = \"initramfs\"", "");
    workspace.write("fledge.toml", spec.as_bytes());
    refused(
        &workspace,
        1,
        &[
            "fledge.toml: The key `strategy` is missing",
            "`app` does not exist",
        ],
    );
}

#[test]
fn what_names_no_image_is_shown_at_its_place() {
    let workspace = Workspace::new();
    let with = |image: &str| {
        let source = format!("\"oci_rootfs\"\n[source]\nimage = \"{image}\"");
        let spec = SPEC.replace("\"initramfs\"", &source);
        workspace.write("fledge.toml", spec.as_bytes());
    };
    with("BAD//ref");
    let place = "fledge.toml:4:9: `BAD//ref` is not an image reference such as";
    refused(&workspace, 1, &[place, "4 | image = \"BAD//ref\"\n"]);
    workspace.refused(&[], 1, place);
    with("oci:layout");
    refused(&workspace, 3, &["fledge.toml:4:9: `layout` does not exist"]);
    with("a b");
    let (_, _, stderr) = check(&workspace, &[]);
    assert_eq!(stderr.matches("error: ").count(), 1, "{stderr}");
}

#[test]
fn check_and_build_say_the_same_of_what_is_no_spec() {
    let workspace = Workspace::new();
    workspace.write("large.toml", &vec![b'#'; 300_000]);
    for config in ["conf", "missing.toml", "large.toml"] {
        let (code, _, checked) = check(&workspace, &["--config", config]);
        let built = workspace
            .fledge(&["build", "--config", config])
            .output()
            .unwrap();
        let said = String::from_utf8(built.stderr).unwrap();
        assert_eq!(checked.lines().next(), said.lines().next());
        assert_eq!(built.status.code(), Some(code));
    }
}
