//! What lies beside an artifact is of that artifact: what was of an earlier one goes.

use crate::workspace::{TEMPLATE, Workspace};

const SIGNATURE: &str = "plugin.cpio.gz.minisig";
const MANIFEST: &str = "plugin.cpio.gz.manifest.json";

fn build(workspace: &Workspace, arguments: &[&str]) -> String {
    let output = workspace
        .fledge(&[&["build"], arguments].concat())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_signature_and_a_manifest_of_an_earlier_artifact_are_removed() {
    let workspace = Workspace::new();
    workspace.write("manifest.toml", TEMPLATE.as_bytes());
    build(&workspace, &[]);
    workspace.write(SIGNATURE, b"a signature");
    workspace.write("plugin.cpio.gz.txt", b"the user's own");
    // The same bytes again: what is signed is what is there.
    let said = build(&workspace, &[]);
    assert!(!said.contains("removed"), "{said}");
    assert!(workspace.path(SIGNATURE).exists());
    fs_err::remove_file(workspace.path("manifest.toml")).unwrap();
    build(&workspace, &[]);
    assert!(workspace.path(MANIFEST).exists());

    workspace.write("conf/app.conf", b"port = 8001\n");
    let said = build(&workspace, &[]);
    for name in [SIGNATURE, MANIFEST] {
        let line = format!("{name}: removed, as it was of an earlier artifact\n");
        assert!(said.contains(&line), "{said}");
    }
    assert_eq!(
        workspace.names(),
        [
            "app",
            "conf",
            "fledge.toml",
            "kestrel",
            "plugin.cpio.gz",
            "plugin.cpio.gz.provenance.json",
            "plugin.cpio.gz.sbom.json",
            "plugin.cpio.gz.txt",
        ]
    );
}

#[test]
fn a_build_that_fails_removes_nothing() {
    let workspace = Workspace::new();
    build(&workspace, &[]);
    workspace.write(SIGNATURE, b"a signature");
    workspace.write("conf/app.conf", b"port = 8001\n");
    workspace.refused(
        &["--budget-mb", "0"],
        1,
        "The artifact `plugin.cpio.gz` costs",
    );
    assert!(workspace.path(SIGNATURE).exists());
    // What is no file is not a signature of ours.
    fs_err::remove_file(workspace.path(SIGNATURE)).unwrap();
    std::os::unix::fs::symlink("app", workspace.path(SIGNATURE)).unwrap();
    workspace.refused(&[], 1, "is neither a file nor free");
}
