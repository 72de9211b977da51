//! What layers make of a tree, and which do not get out of it.

use proptest::prelude::*;
use tar::EntryType;

use super::super::tests::{Tar, seen};
use super::super::unpack::tree_of;
use super::*;

/// Layers of lines: `path` a file, `path/` a directory, `path -> target`, `path => hard link`.
fn tree(layers: &[&[&str]]) -> Result<Tree, LayerError> {
    let archive = |lines: &&[&str]| {
        let mut tar = Tar::default();
        for line in *lines {
            if let Some((path, target)) = line.split_once(" -> ") {
                tar.link(path, EntryType::Symlink, target);
            } else if let Some((path, target)) = line.split_once(" => ") {
                tar.link(path, EntryType::Link, target);
            } else if line.ends_with('/') {
                tar.directory(line);
            } else {
                let (path, content) = line.split_once(" = ").unwrap_or((line, ""));
                tar.file(path, content.as_bytes());
            }
        }
        tar.finish()
    };
    let archives: Vec<Vec<u8>> = layers.iter().map(archive).collect();
    let archives: Vec<&[u8]> = archives.iter().map(Vec::as_slice).collect();
    tree_of(&archives)
}

fn check(layers: &[&[&str]], expected: &[&str]) {
    assert_eq!(seen(&tree(layers).unwrap()), expected, "{layers:?}");
}

#[test]
fn later_layers_win() {
    check(
        &[
            &["a = 1", "d/", "d/x = 1", "l -> a"],
            &["a = 2", "d/", "d/y = 2", "l = 3"],
        ],
        &["a = 2", "d a directory", "d/x = 1", "d/y = 2", "l = 3"],
    );
    check(&[&["a/", "a/b = 1"], &["a = 2"]], &["a = 2"]);
    check(
        &[&["a = 1"], &["a/", "a/b = 2"]],
        &["a a directory", "a/b = 2"],
    );
    // A directory that nobody describes.
    check(
        &[&["a/b/c = 1"]],
        &["a a directory", "a/b a directory", "a/b/c = 1"],
    );
}

#[test]
fn whiteouts_hide_what_is_below_only() {
    let below: &[&str] = &["d/", "d/x = 1", "d/s/", "d/s/y = 1", "e = 1"];
    check(
        &[below, &["d/.wh.x", ".wh.e"]],
        &["d a directory", "d/s a directory", "d/s/y = 1"],
    );
    check(&[below, &[".wh.d"]], &["e = 1"]);
    check(
        &[below, &[".wh.none", "d/.wh.none"]],
        &[
            "d a directory",
            "d/s a directory",
            "d/s/y = 1",
            "d/x = 1",
            "e = 1",
        ],
    );
    let replaced = ["d a directory", "d/new = 2", "e = 1"];
    for order in [
        &["d/", "d/new = 2", "d/.wh..wh..opq"],
        &["d/.wh..wh..opq", "d/", "d/new = 2"],
        &["d/new = 2", ".wh.d", "d/"],
        &[".wh.d", "d/", "d/new = 2"],
    ] {
        check(&[below, order], &replaced);
    }
    // Its own files stay, at any depth.
    check(
        &[
            below,
            &["d/s/z = 2", "d/.wh..wh..opq", "d/.wh.s", "e = 3", ".wh.e"],
        ],
        &["d a directory", "d/s a directory", "d/s/z = 2", "e = 3"],
    );
    check(&[below, &["new = 2", ".wh..wh..opq"]], &["new = 2"]);
}

#[test]
fn links_above_are_followed_inside() {
    let below: &[&str] = &[
        "usr/",
        "usr/bin/",
        "bin -> /usr/bin",
        "up -> ../../../usr",
        "usr/here -> bin/../bin",
    ];
    let usr = |more: &[&'static str]| {
        let mut all = vec![
            "bin -> /usr/bin",
            "up -> ../../../usr",
            "usr a directory",
            "usr/bin a directory",
            "usr/here -> bin/../bin",
        ];
        all.extend(more);
        all.sort_unstable();
        all
    };
    for path in ["bin/x", "up/bin/x", "usr/here/x", "up/here/x", "usr/bin/x"] {
        let line = format!("{path} = 2");
        check(&[below, &[&line]], &usr(&["usr/bin/x = 2"]));
        let whiteout = path.replace("/x", "/.wh.x");
        check(&[below, &["usr/bin/x = 1"], &[&whiteout]], &usr(&[]));
        let opaque = path.replace("/x", "/.wh..wh..opq");
        check(&[below, &["usr/bin/x = 1"], &[&opaque]], &usr(&[]));
        let linked = format!("y => {path}");
        check(
            &[below, &["usr/bin/x = 1"], &[&linked]],
            &usr(&["usr/bin/x = 1", "y = 1"]),
        );
    }
    // One that leads nowhere makes the directory there, and never one of the host.
    check(
        &[&["out -> /../etc", "out/passwd = x"]],
        &["etc a directory", "etc/passwd = x", "out -> /../etc"],
    );
    // The last component is replaced, not followed.
    check(&[&["a = 1", "l -> a"], &["l = 2"]], &["a = 1", "l = 2"]);
    check(
        &[&["d/", "l -> d"], &["l/", "l/x = 2"]],
        &["d a directory", "l a directory", "l/x = 2"],
    );
}

#[test]
fn hard_links_share_until_they_are_replaced() {
    let tree = tree(&[&["a = 1", "b => a", "d/", "d/c => /b"], &["a = 2"]]).unwrap();
    assert_eq!(seen(&tree), ["a = 2", "b = 1", "d a directory", "d/c = 1"]);
    assert_eq!(tree.hard_links().into_values().collect::<Vec<_>>(), [2]);
    check(&[&["a -> x", "b => a"]], &["a -> x", "b -> x"]);
    check(&[&["a = 1", "a => a"]], &["a = 1"]);
}

#[test]
fn tricks_are_refused() {
    let long = format!("l -> /{}", format!("{}/", "n".repeat(250)).repeat(15));
    let far = format!("l/{}/{}/x", "n".repeat(250), "n".repeat(200));
    for (layer, expected) in [
        (&["a => none"][..], "`a` cannot be placed"),
        (&["d/", "a => d"], "`a` cannot be placed"),
        (&["a => ./"], "`a` cannot be placed"),
        (
            &["l -> l", "l/x"],
            "`l/x` lies behind links that go round in a circle",
        ),
        (&["l -> m", "m -> l", "a => l/x"], "go round in a circle"),
        (&["./ -> x"], "cannot be placed"),
        (&[&long, &far], "4095 bytes behind a link"),
    ] {
        let message = tree(&[layer]).unwrap_err().to_string();
        assert!(message.contains(expected), "{layer:?}: {message}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    // Whatever layers do to each other, every path is a directory's and nothing has an impossible name.
    #[test]
    fn trees_stay_trees(lines in prop::collection::vec(("[abc](/[abc]){0,3}", 0..7_u8, "(\\.\\./|/)?[abc](/[abc]){0,2}"), 0..40)) {
        let lines: Vec<String> = lines
            .into_iter()
            .map(|(path, kind, target)| match kind {
                0 => format!("{path}/"),
                1 => format!("{path} -> {target}"),
                2 => format!("{path} => {}", target.trim_start_matches("../")),
                3 => format!("{path}/.wh..wh..opq"),
                4 => format!("{path}/.wh.a"),
                _ => format!("{path} = x"),
            })
            .collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let (first, second) = lines.split_at(lines.len() / 2);
        if let Ok(tree) = tree(&[first, second]) {
            for item in tree.iter() {
                let path = item.path;
                prop_assert!(path.split(|&byte| byte == b'/').all(|name| name.len() == 1));
                if let Some(slash) = path.iter().rposition(|&byte| byte == b'/') {
                    prop_assert!(tree.get(&path[..slash]).is_some_and(Node::is_directory));
                }
            }
        }
    }
}
