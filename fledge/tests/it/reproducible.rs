//! The same inputs give the same bytes, whatever else differs.

use std::process::Command;

use common::digest::Digest;

use crate::workspace::{SPEC, Workspace};

/// Fills a directory as a shell with `umask` would, builds there, and returns the digest.
fn build(umask: &str, spec: &str, environment: &[(&str, &str)]) -> Digest {
    let source = Workspace::new();
    let noise: Vec<u8> = (0..3_000_000_u32)
        .map(|i| (i ^ (i >> 9)).wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .collect();
    source.write("conf/noise", &noise);
    // Programs and data, outside the directories whose files are programs whatever their mode.
    for name in ["conf/deep/tool", "conf/deep/data", "single-tool"] {
        source.write(name, name.as_bytes());
    }
    source.write("fledge.toml", spec.as_bytes());
    let target = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_fledge");
    let script = format!(
        "umask {umask}; mkdir a-longer-name; cd a-longer-name; \
         cp -RP \"$SOURCE\"/. .; chmod +x app conf/deep/tool single-tool; touch -d '@1234567890' conf/app.conf; exec '{program}' build -q"
    );
    let output = Command::new("sh")
        .args(["-c", &script])
        .env("SOURCE", source.path(""))
        .envs(environment.iter().copied())
        .current_dir(target.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    Digest::of(&fs_err::read(target.path().join("a-longer-name/plugin.cpio.gz")).unwrap())
}

#[test]
fn directory_umask_and_order_do_not_matter() {
    let expected = build("022", SPEC, &[]);
    let more = format!("{SPEC}\"single-tool\" = \"/srv/tool\"\n");
    let with_more = build("022", &more, &[]);
    for umask in ["002", "027", "077"] {
        assert_eq!(build(umask, SPEC, &[]), expected, "umask {umask}");
        assert_eq!(build(umask, &more, &[]), with_more, "umask {umask}");
    }
    let (head, mappings) = SPEC.split_once("[mappings]\n").unwrap();
    let reversed: Vec<&str> = mappings.lines().rev().collect();
    let reordered = format!("[mappings]\n{}\n", reversed.join("\n"));
    let (version, agent) = head.split_once("[agent]").unwrap();
    let spec = format!("{version}{reordered}[agent]{agent}");
    assert_eq!(build("022", &spec, &[]), expected, "another order");
    assert_eq!(
        build(
            "022",
            SPEC,
            &[("TZ", "Asia/Tokyo"), ("LC_ALL", "C"), ("LANG", "tr_TR")]
        ),
        expected,
        "another locale"
    );
}

#[test]
fn the_time_is_what_is_asked_for() {
    let none = build("022", SPEC, &[]);
    assert_eq!(build("022", SPEC, &[("SOURCE_DATE_EPOCH", "0")]), none);
    assert_ne!(build("022", SPEC, &[("SOURCE_DATE_EPOCH", "1")]), none);
    let workspace = Workspace::new();
    workspace
        .fledge(&["build"])
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .assert()
        .success();
    assert!(
        workspace
            .entries()
            .iter()
            .all(|(entry, _)| entry.mtime == 1_700_000_000)
    );
}
