//! Tables of specs and templates that are accepted and refused.

use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

use super::*;

const SEED: &str = r#"
version = "1"
strategy = "initramfs"                    # RAM-based, fast boot

[agent]
source_strategy = "release"               # Download kestrel from GitHub
version = "latest"

[source]
busybox_url = "https://example.org/busybox"
busybox_sha256 = "5c566ba50a12d8020a391346575534e818a1f5b6f729a53b7b241262fe1d1b4e"

[mappings]
"payload/caddy" = "/usr/bin/caddy"
"payload/Caddyfile" = "/etc/caddy/Caddyfile"
"#;

const HEAD: &str = "version = \"1\"\nstrategy = \"initramfs\"\n";

const DIGEST: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn parse(rest: &str) -> Result<BuildSpec, BuildSpecError> {
    BuildSpec::parse(&format!("{HEAD}{rest}"))
}

fn latest() -> Init {
    Init::Agent(AgentSource::Release {
        version: ReleaseVersion::Latest,
        checksum: None,
    })
}

#[test]
fn the_example_of_the_seed_is_read() {
    let spec = BuildSpec::parse(SEED).unwrap();
    assert_eq!(spec.init, latest());
    assert_eq!(spec.busybox.unwrap().url, "https://example.org/busybox");
    let mappings: Vec<_> = spec
        .mappings
        .iter()
        .map(|(host, guest)| (host.as_str(), guest.as_str()))
        .collect();
    assert_eq!(
        mappings,
        [
            ("payload/Caddyfile", "/etc/caddy/Caddyfile"),
            ("payload/caddy", "/usr/bin/caddy")
        ]
    );
}

#[test]
fn init_modes_follow_the_rules() {
    let http = format!(
        "[agent]\nsource_strategy = \"http\"\nurl = \"https://h/k\"\nchecksum = \"{DIGEST}\""
    );
    let table = [
        ("", latest()),
        ("[init]", latest()),
        ("[init]\nnone = false\npath = \"\"", latest()),
        ("[init]\nnone = true", Init::None),
        (
            "[init]\npath = \"my-init\"",
            Init::Custom("my-init".to_owned()),
        ),
        (
            "[agent]\nsource_strategy = \"release\"\nversion = \"v0.1.0\"",
            Init::Agent(AgentSource::Release {
                version: ReleaseVersion::Tag("v0.1.0".to_owned()),
                checksum: None,
            }),
        ),
        (
            "[agent]\nsource_strategy = \"local\"\npath = \"bin/kestrel\"\nchecksum = \"\"",
            Init::Agent(AgentSource::Local {
                path: "bin/kestrel".to_owned(),
                checksum: None,
            }),
        ),
        (
            &http,
            Init::Agent(AgentSource::Http(Download {
                url: "https://h/k".to_owned(),
                checksum: Digest::of(b""),
            })),
        ),
    ];
    for (rest, expected) in table {
        assert_eq!(parse(rest).unwrap().init, expected, "{rest}");
    }
}

#[test]
fn the_default_busybox_needs_no_checksum() {
    let spec = parse(&format!(
        "[source]\nbusybox_url = \"{DEFAULT_BUSYBOX_URL}\""
    ))
    .unwrap();
    assert_eq!(
        spec.busybox.unwrap().checksum.to_hex(),
        DEFAULT_BUSYBOX_SHA256
    );
    assert_eq!(parse("[source]").unwrap().busybox, None);
}

#[test]
fn what_a_mount_hides_is_refused() {
    for path in ["/proc/a", "/tmp", "/dev/x/y", "/run/a", "/sys/a"] {
        let error = parse(&format!("[mappings]\n\"a\" = \"{path}\"")).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains("would not be seen in the guest"),
            "{message}"
        );
        let with_init = format!("[init]\nnone = true\n[mappings]\n\"a\" = \"{path}\"");
        assert!(parse(&with_init).is_ok(), "{path}");
    }
    assert!(parse("[mappings]\n\"a\" = \"/tmpx/a\"").is_ok());
}

#[test]
fn what_is_wrong_is_said_in_a_sentence() {
    let table = [
        ("[init]\nnone = true\npath = \"x\"", "exclude each other"),
        (
            "[init]\nnone = true\n[agent]\nsource_strategy = \"release\"\nversion = \"latest\"",
            "has no meaning with an init",
        ),
        (
            "[init]\npath = \"x\"\n[agent]\nsource_strategy = \"release\"\nversion = \"latest\"",
            "has no meaning with an init",
        ),
        (
            "[agent]\nsource_strategy = \"release\"",
            "needs `agent.version`",
        ),
        (
            "[agent]\nsource_strategy = \"release\"\nversion = \"../x\"",
            "is not a release",
        ),
        ("[agent]\nsource_strategy = \"local\"", "needs `agent.path`"),
        (
            "[agent]\nsource_strategy = \"http\"\nurl = \"https://h/k\"",
            "needs `agent.checksum`",
        ),
        (
            "[agent]\nsource_strategy = \"local\"\npath = \"k\"\nurl = \"https://h/k\"",
            "`agent.url` has no meaning",
        ),
        (
            "[agent]\nsource_strategy = \"magic\"",
            "`magic` is not a `source_strategy`: use \"release\", \"local\" or \"http\"",
        ),
        (
            "[source]\nbusybox_url = \"https://h/b\"",
            "needs `source.busybox_sha256`",
        ),
        (
            "[source]\nbusybox_sha256 = \"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"",
            "nothing to check",
        ),
        (
            "[source]\nbusybox_url = \"ftp://h/b\"\nbusybox_sha256 = \"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"",
            "use an https:// or http:// URL",
        ),
        (
            "[source]\nbusybox_sha256 = \"12\"",
            "is not a SHA-256 checksum",
        ),
        (
            "[filesystem]\ntype = \"ext4\"",
            "belongs to strategy `oci_rootfs`",
        ),
        ("[mappings]\n\"a\" = \"usr/bin/a\"", "it must be absolute"),
        (
            "[mappings]\n\"a\" = \"/usr/../../a\"",
            "must not contain `..`",
        ),
        ("[mappings]\n\"\" = \"/a\"", "has no host path"),
        (
            "[mappins]\n\"a\" = \"/a\"",
            "Unknown key `mappins`: did you mean `mappings`?",
        ),
        (
            "surprise = 1",
            "Unknown key `surprise`: known here are `version`",
        ),
    ];
    for (rest, expected) in table {
        let message = parse(rest).unwrap_err().to_string();
        assert!(message.contains(expected), "{rest}: {message}");
    }
}

#[test]
fn version_and_strategy_are_needed() {
    let table = [
        ("strategy = \"initramfs\"", "The key `version` is missing"),
        ("version = \"1\"", "The key `strategy` is missing"),
        (
            "version = \"2\"\nstrategy = \"initramfs\"",
            "`2` is not a `version`: use \"1\"",
        ),
        (
            "version = \"1\"\nstrategy = \"magic\"",
            "`magic` is not a `strategy`",
        ),
    ];
    for (text, expected) in table {
        let message = BuildSpec::parse(text).unwrap_err().to_string();
        assert!(message.contains(expected), "{text}: {message}");
    }
}

#[test]
fn mistakes_are_shown_with_line_and_caret() {
    for (rest, expected) in [
        (
            "[mappings]\n\"a\" = \"b\"",
            "4:7: `b` is not a path in the guest: it must be absolute, beginning with `/`\n  |\n4 | \"a\" = \"b\"\n  |       ^^^",
        ),
        ("[mappings]\n\"a\" = ", "4:"),
        (
            "[agent]\nversion = \"latest\"\nsource_strategy = \"http\"",
            "4:1: `agent.version` has no meaning with source_strategy \"http\"\n  |\n4 | version = \"latest\"\n  | ^^^^^^^",
        ),
        (
            "[agent]\nsource_strategy = \"http\"",
            "3:2: Source_strategy \"http\" needs `agent.url`\n  |\n3 | [agent]\n  |  ^^^^^",
        ),
    ] {
        let message = parse(rest).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_spec_beyond_the_limit_is_refused() {
    let text = format!("{HEAD}#{}", "x".repeat(MAX_SPEC_BYTES));
    assert!(matches!(
        BuildSpec::parse(&text),
        Err(BuildSpecError::TooLarge { .. })
    ));
}

#[test]
fn guest_paths_are_made_plain() {
    let table = [
        ("/", "/"),
        ("//a///b/", "/a/b"),
        ("/a/./b", "/a/b"),
        ("/a..b/...", "/a..b/..."),
    ];
    for (text, expected) in table {
        assert_eq!(text.parse::<GuestPath>().unwrap().as_str(), expected);
    }
    let long = format!("/{}", "x".repeat(256));
    let deep = "/x".repeat(2048);
    for bad in [
        "", "a", "./a", "/..", "/a/../b", "/a\0", "/a\nb", &long, &deep,
    ] {
        assert!(bad.parse::<GuestPath>().is_err(), "{bad:?}");
    }
}

const ROOTFS: &str = "version = \"1\"\nstrategy = \"oci_rootfs\"\n";

fn rootfs(rest: &str) -> Result<BuildSpec, BuildSpecError> {
    BuildSpec::parse(&format!("{ROOTFS}{rest}"))
}

#[test]
fn the_example_of_an_image_is_read() {
    let spec = rootfs(
        "[agent]\nsource_strategy = \"release\"\nversion = \"latest\"\n[source]\nimage = \"nginx:alpine\"\n[filesystem]\ntype = \"ext4\"\nsize_buffer_mb = 100\npreallocate = false",
    )
    .unwrap();
    assert_eq!(spec.base, Some(Base::Image("nginx:alpine".to_owned())));
    assert_eq!(spec.init, latest());
    let kind = FilesystemKind::Ext4 {
        size_buffer_mb: 100,
        preallocate: false,
    };
    let filesystem = Filesystem {
        kind,
        ..Filesystem::default()
    };
    assert_eq!(spec.output, Output::Rootfs(filesystem));
    assert_eq!(spec.output.format(), "ext4");
}

#[test]
fn dockerfiles_are_bases_of_both_strategies() {
    let source = "[source]\ndockerfile = \"Dockerfile\"\ncontext = \"..\"\ntarget = \"run\"\nbuild_args = { A = \"1\" }";
    let expected = Dockerfile {
        path: "Dockerfile".to_owned(),
        context: Some("..".to_owned()),
        target: Some("run".to_owned()),
        build_args: BTreeMap::from([("A".to_owned(), "1".to_owned())]),
    };
    for spec in [parse(source), rootfs(source)] {
        assert_eq!(spec.unwrap().base, Some(Base::Dockerfile(expected.clone())));
    }
}

#[test]
fn file_systems_follow_the_rules() {
    let table = [
        ("", FilesystemKind::Erofs, None, false),
        (
            "type = \"erofs\"\noverlay_size = \"1G\"",
            FilesystemKind::Erofs,
            Some(1024),
            false,
        ),
        (
            "overlay_size = \"512MiB\"\nephemeral = true",
            FilesystemKind::Erofs,
            Some(512),
            true,
        ),
        (
            "overlay_size = \"65537K\"",
            FilesystemKind::Erofs,
            Some(65),
            false,
        ),
        (
            "type = \"squashfs\"\nwritable_mb = 64",
            FilesystemKind::Squashfs {
                compression_level: DEFAULT_SQUASHFS_LEVEL,
            },
            Some(64),
            false,
        ),
        (
            "type = \"squashfs\"\ncompression_level = 22",
            FilesystemKind::Squashfs {
                compression_level: 22,
            },
            None,
            false,
        ),
        (
            "type = \"ext4\"\npreallocate = true",
            FilesystemKind::Ext4 {
                size_buffer_mb: 0,
                preallocate: true,
            },
            None,
            false,
        ),
    ];
    for (rest, kind, writable_mb, ephemeral) in table {
        let text = format!("[source]\nimage = \"x\"\n[filesystem]\n{rest}");
        let expected = Filesystem {
            kind,
            writable_mb,
            ephemeral,
        };
        assert_eq!(
            rootfs(&text).unwrap().output,
            Output::Rootfs(expected),
            "{rest}"
        );
    }
}

#[test]
fn an_initramfs_is_compressed_as_told() {
    for (text, format) in [
        ("", "cpio.gz"),
        ("compression = \"gzip\"", "cpio.gz"),
        ("compression = \"zstd\"", "cpio.zst"),
        ("compression = \"none\"", "cpio"),
    ] {
        assert_eq!(parse(text).unwrap().output.format(), format);
    }
}

#[test]
fn downloads_are_read() {
    let spec = parse(&format!(
        "[[fetch]]\nurl = \"https://h/a.tar.gz\"\nsha256 = \"{DIGEST}\"\nmember = \"./bin//app\"\npath = \"/usr/bin/app\"\nmode = \"0755\"\n\
         [[fetch]]\nurls = [\"https://h/b.zip\", \"http://m/b.zip\"]\nsha256 = \"sha256:{DIGEST}\"\nmember = \"share/\"\npath = \"/usr/share\"\n\
         [[fetch]]\nurl = \"https://h/c\"\nsha256 = \"{DIGEST}\"\nmember = \"./\"\npath = \"/c\""
    ))
    .unwrap();
    let members: Vec<_> = spec
        .fetches
        .iter()
        .map(|fetch| fetch.member.clone().unwrap())
        .collect();
    assert_eq!(
        members,
        [
            Member::File("bin/app".to_owned()),
            Member::Directory("share".to_owned()),
            Member::Directory(String::new())
        ]
    );
    assert_eq!(spec.fetches[0].mode, Some(0o755));
    assert_eq!(spec.fetches[1].urls, ["https://h/b.zip", "http://m/b.zip"]);
    assert_eq!(spec.fetches[2].checksum, Digest::of(b""));
}

fn refused<const N: usize>(table: [(Result<BuildSpec, BuildSpecError>, &str); N]) {
    for (index, (result, expected)) in table.into_iter().enumerate() {
        let message = result.map(|_| "accepted").unwrap_err().to_string();
        assert!(message.contains(expected), "{index} {expected}:\n{message}");
    }
}

#[test]
fn contradictions_of_images_are_said() {
    let image = |rest: &str| rootfs(&format!("[source]\nimage = \"x\"\n{rest}"));
    let table = [
        (rootfs(""), "needs `source.image` or `source.dockerfile`"),
        (
            image("dockerfile = \"D\""),
            "5:1: `source.image` and `source.dockerfile` exclude",
        ),
        (
            image("context = \".\""),
            "`source.context` has no meaning without",
        ),
        (
            image("busybox_url = \"https://busybox.net/b\""),
            "an image brings its own shell",
        ),
        (
            image("[init]\nnone = true"),
            "With strategy `oci_rootfs` the agent is PID 1",
        ),
        (
            image("[init]\npath = \"i\""),
            "With strategy `oci_rootfs` the agent is PID 1",
        ),
        (
            image("[agent]\nsource_strategy = \"local\""),
            "needs `agent.path`",
        ),
        (
            rootfs("compression = \"zstd\"\n[source]\nimage = \"x\""),
            "3:1: `compression` belongs to",
        ),
    ];
    refused(table);
}

#[test]
fn contradictions_of_file_systems_are_said() {
    let image = |rest: &str| rootfs(&format!("[source]\nimage = \"x\"\n{rest}"));
    let table = [
        (
            image("[filesystem]\ntype = \"xfs\""),
            "6:8: xfs and btrfs cannot be written",
        ),
        (
            image("[filesystem]\ntype = \"ext3\""),
            "`ext3` is not a `type`: did you mean \"ext4\"?",
        ),
        (
            image("[filesystem]\ncompression_level = 9"),
            "with type \"squashfs\" only",
        ),
        (
            image("[filesystem]\ntype = \"squashfs\"\ncompression_level = 23"),
            "must be 0 to 22",
        ),
        (
            image("[filesystem]\nsize_buffer_mb = 9"),
            "with type \"ext4\" only",
        ),
        (
            image("[filesystem]\noverlay_size = \"1\""),
            "`1` is not a size",
        ),
        (
            image("[filesystem]\noverlay_size = \"8M\""),
            "must have 16 to 1048576 MiB",
        ),
        (
            image("[filesystem]\noverlay_size = \"99999999999999999999T\""),
            "is not a size",
        ),
        (
            image("[filesystem]\noverlay_size = \"1G\"\nwritable_mb = 1024"),
            "say the same",
        ),
        (
            rootfs("[source]\nimage = \"a b\""),
            "is not the name of an image",
        ),
        (
            parse("[source]\ndockerfile = \"D\"\nbuild_args = { \"A=B\" = \"1\" }"),
            "`A=B` cannot be",
        ),
    ];
    refused(table);
}

#[test]
fn contradictions_of_downloads_are_said() {
    let fetch = format!("[[fetch]]\nurl = \"https://h/a\"\nsha256 = \"{DIGEST}\"\npath = \"/a\"\n");
    let initramfs = |rest: &str| parse(&format!("{fetch}{rest}"));
    let table = [
        (parse("[[fetch]]"), "needs `sha256`"),
        (initramfs("mode = \"755x\""), "7:8: `755x` is not a mode"),
        (initramfs("mode = \"10000\""), "is not a mode"),
        (
            initramfs("mode = 755"),
            "7:8: Expected a text in quotes, found a number",
        ),
        (initramfs("member = \"../x\""), "it must not contain `..`"),
        (initramfs("member = \"/x\""), "it must be relative"),
        (
            initramfs("member = \"x/\"\nmode = \"0755\""),
            "`mode` has no meaning with a directory",
        ),
        (
            initramfs("urls = []"),
            "`url` and `urls` exclude each other",
        ),
        (parse("[[fetch]]\nurls = []"), "must name 1 to 16 places"),
        (
            parse("[[fetch]]\nurls = [\"https://h/a\", \"ftp://h/a\"]"),
            "4:24: `urls` is `ftp://h/a`",
        ),
    ];
    refused(table);
}

#[test]
fn all_problems_are_found_at_once_from_top_to_bottom() {
    let text = r#"version = 1
strategy = "initramsf"
compresion = "zstd"

[agent]
source_strategy = "http"
url = "ftp://h/k"

[source]
busybox_url = "https://h/b"
image = ["a"]

[mappings]
"a" = "usr/bin/a"
"b" = "/usr/../b"

[[fetch]]
url = "https://h/x"
path = "/x"
mod = "0755"

[[fetch]]
url = 7
sha256 = "12"
"#;
    let BuildSpecError::Invalid(problems) = BuildSpec::parse(text).unwrap_err() else {
        panic!("too large");
    };
    let places: Vec<_> = problems
        .iter()
        .map(|problem| {
            problem
                .place
                .as_ref()
                .map_or((0, 0), |place| (place.line, place.column))
        })
        .collect();
    assert_eq!(
        places,
        [
            (1, 11),
            (2, 12),
            (3, 1),
            (5, 2),
            (7, 7),
            (9, 2),
            (11, 9),
            (14, 7),
            (15, 7),
            (17, 1),
            (20, 1),
            (22, 1),
            (23, 7),
            (24, 10),
        ],
        "{problems}"
    );
    let shown = problems.of_file("fledge.toml").to_string();
    let expected = "fledge.toml:3:1: Unknown key `compresion`: did you mean `compression`?\n  |\n3 | compresion = \"zstd\"\n  | ^^^^^^^^^^\nfledge.toml:5:2: ";
    assert!(shown.contains(expected), "{shown}");
}

#[test]
fn a_file_full_of_problems_does_not_flood_the_terminal() {
    use std::fmt::Write as _;
    let mut text = HEAD.to_owned();
    for number in 0..15_000 {
        writeln!(text, "k{number} = {number}").unwrap();
    }
    let error = BuildSpec::parse(&text).unwrap_err().to_string();
    assert!(error.lines().count() < 250, "{error}");
    assert!(error.ends_with("only the first 50 problems are shown"));
    let mut text = format!("{HEAD}[mappings]\n");
    for number in 0..15_000 {
        writeln!(text, "k{number} = 1").unwrap();
    }
    let error = BuildSpec::parse(&text).unwrap_err().to_string();
    assert!(error.lines().count() < 250, "{error}");
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".{0,300}") {
        drop(BuildSpec::parse(&text));
        drop(parse(&text));
    }

    #[test]
    fn guest_paths_stay_inside(text in "/[a./]{0,40}") {
        if let Ok(path) = text.parse::<GuestPath>() {
            prop_assert!(path.as_str().split('/').all(|name| name != ".." && name != "."));
            prop_assert_eq!(path.as_str().parse::<GuestPath>(), Ok(path.clone()));
        }
    }
}

#[test]
fn a_draft_is_what_is_right_and_what_is_wrong() {
    let text = "version = \"1\"\nstrategy = \"magic\"\n[mappings]\n\"a\" = \"/a\"\n\"b\" = \"b\"\n[source]\nimage = \"a b\"\n";
    let draft = Draft::parse(text).unwrap();
    let spec = draft.spec.as_ref().unwrap();
    assert_eq!(spec.mappings.keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(spec.base, Some(Base::Image("a b".to_owned())));
    assert_eq!(draft.misplaced().collect::<Vec<_>>(), ["b"]);
    assert_eq!(draft.findings.len(), 3, "{:?}", draft.findings);
    let good = Draft::parse("version = \"1\"\nstrategy = \"initramfs\"").unwrap();
    assert!(good.spec.is_some() && good.findings.is_empty());
    assert!(Draft::parse("version = ").is_err());
}
