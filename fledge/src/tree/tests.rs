//! What lies where, and what may not.

use super::*;

fn file(content: &str) -> Node {
    Node::file(0o644, Content::Bytes(content.as_bytes().to_vec()))
}

fn link(target: &str) -> Node {
    Node::symlink(target)
}

fn directory() -> Node {
    Node::directory(DIRECTORY_PERMISSIONS)
}

/// What a node is and holds, to compare.
fn seen(node: Option<&Node>) -> String {
    match node.map(|node| &node.kind) {
        Some(Kind::File(content)) => {
            let mut bytes = Vec::new();
            content.copy_to(&mut bytes).unwrap();
            String::from_utf8(bytes).unwrap()
        }
        Some(Kind::Symlink(target)) => format!("-> {}", String::from_utf8_lossy(target)),
        _ => node.map_or("nothing", Node::what).to_owned(),
    }
}

fn paths(tree: &Tree) -> Vec<String> {
    let text = |path| String::from_utf8_lossy(path).into_owned();
    tree.iter().map(|item| text(item.path)).collect()
}

fn put(tree: &mut Tree, path: &str, node: Node, origin: Origin) -> Result<(), TreeError> {
    tree.insert(&path.parse().unwrap(), node, origin)
}

#[test]
fn the_stronger_origin_stays_in_either_order() {
    let origins = [Origin::Base, Origin::Directory, Origin::File];
    for weak in origins {
        for strong in origins.into_iter().filter(|origin| *origin > weak) {
            let mut tree = Tree::default();
            put(&mut tree, "/a/b", file("weak"), weak).unwrap();
            put(&mut tree, "/a/b", file("strong"), strong).unwrap();
            put(&mut tree, "/a/b", file("weak"), weak).unwrap();
            assert_eq!(seen(tree.get(b"a/b")), "strong");
        }
    }
}

#[test]
fn the_later_directory_wins_and_two_files_are_refused() {
    let mut tree = Tree::default();
    put(&mut tree, "/a", file("1"), Origin::Directory).unwrap();
    put(&mut tree, "/a", link("2"), Origin::Directory).unwrap();
    assert_eq!(seen(tree.get(b"a")), "-> 2");
    put(&mut tree, "/a", file("3"), Origin::File).unwrap();
    let error = put(&mut tree, "/a", file("4"), Origin::File).unwrap_err();
    assert_eq!(error.to_string(), "Two mappings lead to `/a`");
}

#[test]
fn what_contradicts_is_refused() {
    let mut tree = Tree::default();
    put(&mut tree, "/init", link("bin/kestrel"), Origin::Boot).unwrap();
    put(&mut tree, "/dir/x", file(""), Origin::Base).unwrap();
    put(&mut tree, "/lib64", link("usr/lib"), Origin::Base).unwrap();
    let table = [
        ("/init", file(""), "`/init` belongs to the agent"),
        ("/dir", file(""), "`/dir` is both a directory and a file"),
        (
            "/dir/x",
            directory(),
            "`/dir/x` is both a file and a directory",
        ),
        ("/dir/x/y", file(""), "`/dir/x` is a file, not a directory"),
        (
            "/lib64/y",
            file(""),
            "`/lib64` is a symbolic link, not a directory",
        ),
        ("/", file(""), "`/` is both a directory and a file"),
    ];
    for (path, node, expected) in table {
        let message = put(&mut tree, path, node, Origin::File)
            .unwrap_err()
            .to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn links_are_followed_inside_the_tree() {
    let mut tree = Tree::default();
    put(&mut tree, "/usr/bin/real", file("x"), Origin::Base).unwrap();
    put(&mut tree, "/usr/bin/relative", link("real"), Origin::Base).unwrap();
    put(&mut tree, "/bin", link("usr/bin"), Origin::Base).unwrap();
    put(
        &mut tree,
        "/up",
        link("/bin/../../../bin/./relative"),
        Origin::Base,
    )
    .unwrap();
    put(&mut tree, "/loop", link("loop"), Origin::Base).unwrap();
    put(&mut tree, "/gone", link("/nowhere"), Origin::Base).unwrap();
    put(&mut tree, "/top", link("/"), Origin::Base).unwrap();
    for path in ["/usr/bin/real", "/usr/bin/relative", "/bin/relative", "/up"] {
        let (at, node) = tree
            .resolve(path.as_bytes())
            .unwrap_or_else(|| panic!("{path}"));
        assert_eq!(
            (at.as_slice(), seen(Some(node)).as_str()),
            (&b"usr/bin/real"[..], "x"),
            "{path}"
        );
    }
    for path in ["/loop", "/gone", "/usr/bin/none", "/top", "/"] {
        assert!(tree.resolve(path.as_bytes()).is_none(), "{path}");
    }
}

#[test]
fn subdirectories_are_counted_directly_below() {
    let mut tree = Tree::default();
    for path in ["/a/b/c/x", "/a/b.d/x", "/a/e/x", "/a!/x/y", "/ab/x/y"] {
        put(&mut tree, path, file(""), Origin::Base).unwrap();
    }
    assert_eq!(tree.subdirectories(b"a"), 3);
    assert_eq!(tree.subdirectories(b"a/b"), 1);
    assert_eq!(tree.subdirectories(b"a/e"), 0);
}

#[test]
fn layers_replace_what_is_there() {
    let mut tree = Tree::default();
    for (path, node) in [
        ("a", directory()),
        ("a/x", file("1")),
        ("b", file("2")),
        ("c/d", file("3")),
    ] {
        tree.replace(path.as_bytes(), node).unwrap();
    }
    // A directory over a directory keeps what is in it; a file does not, and a file above gives way.
    tree.replace(b"a", Node::directory(0o700)).unwrap();
    assert_eq!(tree.get(b"a").unwrap().attributes.permissions, 0o700);
    tree.replace(b"c", file("4")).unwrap();
    tree.replace(b"b/y", file("5")).unwrap();
    tree.replace(b"", Node::directory(0o711)).unwrap();
    assert_eq!(paths(&tree), ["a", "a/x", "b", "b/y", "c"]);
    assert_eq!(tree.root().permissions, 0o711);
    assert!(tree.replace(b"", file("")).is_err());
    tree.clear(b"a");
    assert!(tree.remove(b"b"));
    assert!(!tree.remove(b"b"));
    assert_eq!(paths(&tree), ["a", "c"]);
    tree.clear(b"");
    assert!(tree.is_empty());
}

#[test]
fn hard_links_share_an_inode() {
    let mut tree = Tree::default();
    tree.replace(b"a", file("1")).unwrap();
    tree.replace(b"d", directory()).unwrap();
    tree.hard_link(b"d/b", b"a").unwrap();
    tree.hard_link(b"c", b"d/b").unwrap();
    tree.hard_link(b"c", b"c").unwrap();
    assert_eq!(tree.hard_links().into_values().collect::<Vec<_>>(), [3]);
    assert_eq!(tree.content_bytes(), 1);
    // What replaces one of them leaves the others as they are.
    tree.replace(b"a", file("22")).unwrap();
    assert_eq!(seen(tree.get(b"c")), "1");
    assert_eq!(tree.content_bytes(), 3);
    for (target, expected) in [
        ("d", "a directory"),
        ("", "a directory"),
        ("e", "not there"),
    ] {
        let error = tree.hard_link(b"x", target.as_bytes()).unwrap_err();
        assert!(error.to_string().ends_with(expected), "{error}");
    }
}

#[test]
fn links_of_an_image_are_followed_when_something_is_added() {
    let mut tree = Tree::default();
    for (path, node) in [
        ("usr/bin/sh", file("dash")),
        ("bin", link("usr/bin")),
        ("a/b", link("/bin/../lib")),
        ("usr/lib", directory()),
        ("lib", link("usr/lib")),
        ("gone", link("nowhere")),
    ] {
        tree.replace(path.as_bytes(), node).unwrap();
    }
    put(&mut tree, "/bin/sh", link("busybox"), Origin::Base).unwrap();
    put(&mut tree, "/bin/kestrel", file("k"), Origin::Boot).unwrap();
    put(&mut tree, "/a/b/new/x", file("x"), Origin::File).unwrap();
    put(&mut tree, "/lib", directory(), Origin::Base).unwrap();
    assert_eq!(seen(tree.get(b"usr/bin/sh")), "dash");
    assert_eq!(seen(tree.get(b"usr/bin/kestrel")), "k");
    assert_eq!(seen(tree.get(b"usr/lib/new/x")), "x");
    assert_eq!(seen(tree.get(b"lib")), "-> usr/lib");
    let error = put(&mut tree, "/gone/x", file(""), Origin::File).unwrap_err();
    assert!(
        error.to_string().contains("`/gone` is a symbolic link"),
        "{error}"
    );
}

#[test]
fn directories_list_their_children_in_order() {
    let mut tree = Tree::default();
    for path in ["/b/c/d", "/b/a", "/b.x", "/a"] {
        put(&mut tree, path, file(""), Origin::Base).unwrap();
    }
    let listing: Vec<(String, Vec<String>)> = tree
        .directories()
        .into_iter()
        .map(|(path, children)| {
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            (
                text(path),
                children.iter().map(|(name, _)| text(name)).collect(),
            )
        })
        .collect();
    let expected = [
        ("", vec!["a", "b", "b.x"]),
        ("b", vec!["a", "c"]),
        ("b/c", vec!["d"]),
    ];
    let expected = expected.map(|(path, names)| {
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        (path.to_owned(), names)
    });
    assert_eq!(listing, expected);
}

#[test]
fn times_are_those_of_the_image_or_of_the_build() {
    let mut tree = Tree::default();
    let mut old = file("");
    old.attributes.mtime_s = 50;
    let mut new = file("");
    new.attributes.mtime_s = 500;
    tree.replace(b"old", old).unwrap();
    tree.replace(b"new", new).unwrap();
    put(&mut tree, "/own", file(""), Origin::File).unwrap();
    tree.set_own_times(100);
    tree.clamp_times(100);
    let times: Vec<i64> = tree
        .iter()
        .map(|item| item.node.attributes.mtime_s)
        .collect();
    assert_eq!(
        (paths(&tree), times),
        (
            vec!["new".to_owned(), "old".to_owned(), "own".to_owned()],
            vec![100, 50, 100]
        )
    );
}
