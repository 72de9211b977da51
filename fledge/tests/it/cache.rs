//! The cache as users see and clean it.

use std::time::{Duration, SystemTime};

use crate::workspace::Workspace;

fn run(workspace: &Workspace, arguments: &[&str], code: i32) -> String {
    let output = workspace.fledge(arguments).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    said
}

#[test]
fn the_cache_is_shown_and_cleaned_up() {
    let workspace = Workspace::new();
    let said = run(&workspace, &["cache", "ls"], 0);
    assert!(said.ends_with("cache/fledge: 0 files, 0 B\n"), "{said}");
    workspace.write("cache/fledge/sha256/young", &[0; 2048]);
    workspace.write("cache/fledge/sha256/old", &[0; 1024]);
    workspace.write("cache/fledge/sha256/.temporary-x", b"");
    let old = fs_err::File::open(workspace.path("cache/fledge/sha256/old")).unwrap();
    let long_ago = SystemTime::now() - Duration::from_hours(40 * 24);
    old.file().set_modified(long_ago).unwrap();

    let said = run(&workspace, &["cache", "ls"], 0);
    assert!(
        said.contains("    1.0 kB    40 days ago  sha256/old\n"),
        "{said}"
    );
    let said = run(&workspace, &["cache", "ls", "--json"], 0);
    let listed: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(listed[0]["name"], "sha256/old");

    let said = run(&workspace, &["cache", "gc", "--dry-run"], 0);
    assert_eq!(said, "would remove 2 files, 1.0 kB; 2.0 kB stay\n");
    let said = run(&workspace, &["cache", "gc"], 0);
    assert_eq!(said, "removed 2 files, 1.0 kB; 2.0 kB stay\n");
    let said = run(&workspace, &["cache", "gc", "--max-size", "1kB"], 0);
    assert_eq!(said, "removed 1 files, 2.0 kB; 0 B stay\n");
    run(&workspace, &["cache", "gc", "--max-age", "soon"], 2);
}

#[test]
fn a_running_build_keeps_its_cache() {
    let workspace = Workspace::new();
    workspace.write("cache/fledge/sha256/x", b"x");
    let build = fledge::cache::hold(&workspace.path("cache/fledge")).unwrap();
    let said = run(&workspace, &["cache", "gc", "--max-size", "0B"], 4);
    assert!(said.contains("A build is using the cache"), "{said}");
    assert!(workspace.path("cache/fledge/sha256/x").exists());
    drop(build);
    run(&workspace, &["cache", "gc", "--max-size", "0B"], 0);
    assert!(!workspace.path("cache/fledge/sha256/x").exists());
}
