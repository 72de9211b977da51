//! `volantd config`: what an operator sees of the settings, and what keeps the daemon from starting. It starts nothing.

use std::process::{Command, Output};

fn volantd(environment: &[(&str, &str)], words: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("volantd.toml");
    fs_err::write(&file, "max_plugins = 8\nmax_vms = 5\n").unwrap();
    Command::new(env!("CARGO_BIN_EXE_volantd"))
        .env_clear()
        .envs(environment.iter().copied())
        .arg("--config")
        .arg(&file)
        .args(words)
        .output()
        .unwrap()
}

#[test]
fn each_value_is_shown_with_where_it_came_from() {
    let output = volantd(
        &[("VOLANT_MAX_VMS", "7"), ("VOLANT_HEADER_TIMEOUT_S", "9")],
        &["--header-timeout-s", "11", "config"],
    );
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let shown = |key: &str| {
        let line = said.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace()
            .skip(1)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(shown("max_plugins "), "8 # file");
    assert_eq!(shown("max_vms "), "7 # environment");
    assert_eq!(shown("header_timeout_s "), "11 # flag");
    assert!(shown("max_connections ").ends_with("# default"));
}

#[test]
fn a_limit_out_of_its_bounds_is_refused_in_one_sentence() {
    let output = volantd(&[("VOLANT_MAX_VMS", "0")], &["config"]);
    assert!(!output.status.success() && output.stdout.is_empty());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("`0` is not valid for max_vms (from environment)"),
        "{said}"
    );
}
