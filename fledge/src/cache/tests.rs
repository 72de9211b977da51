//! What is kept in the cache, what goes first, and what a build that runs keeps.

use super::*;

const DAY: Duration = Duration::from_hours(24);

fn entry(name: &str, size_bytes: u64, age_days: u32, now: SystemTime) -> Entry {
    Entry {
        name: name.into(),
        size_bytes,
        used: now - DAY * age_days,
    }
}

fn names(entries: &[Entry]) -> Vec<&str> {
    entries
        .iter()
        .map(|entry| entry.name.to_str().unwrap())
        .collect()
}

#[test]
fn the_oldest_go_first() {
    let now = SystemTime::now();
    let entries = [
        entry("sha256/old", 10, 40, now),
        entry("sha256/middle", 20, 20, now),
        entry("sha256/.temporary-x", 5, 2, now),
        entry("layers/new", 30, 1, now),
    ];
    let superfluous = |max_age_days: Option<u32>, max_size_bytes| {
        let policy = Policy {
            max_age: max_age_days.map(|days| DAY * days),
            max_size_bytes,
        };
        let found = superfluous(&entries, &policy, now);
        names(&found).join(" ")
    };
    let partial = "sha256/.temporary-x";
    assert_eq!(superfluous(None, None), partial);
    assert_eq!(superfluous(Some(30), None), format!("sha256/old {partial}"));
    assert_eq!(superfluous(None, Some(60)), partial);
    assert_eq!(superfluous(None, Some(59)), format!("{partial} sha256/old"));
    assert_eq!(
        superfluous(Some(30), Some(30)),
        format!("sha256/old {partial} sha256/middle")
    );
    assert_eq!(
        superfluous(None, Some(0)),
        format!("{partial} sha256/old sha256/middle layers/new")
    );
    // A clock that was set back makes nothing old.
    assert_eq!(
        superfluous_at_the_beginning(&entries),
        "sha256/.temporary-x",
        "all is from the future"
    );
}

fn superfluous_at_the_beginning(entries: &[Entry]) -> String {
    let policy = Policy {
        max_age: Some(DAY),
        max_size_bytes: None,
    };
    let found = superfluous(entries, &policy, SystemTime::UNIX_EPOCH);
    names(&found).join(" ")
}

#[test]
fn nothing_outside_is_touched_and_no_build_is_disturbed() {
    let directory = tempfile::tempdir().unwrap();
    let outside = tempfile::NamedTempFile::new().unwrap();
    let cache = directory.path().join("fledge");
    let everything = Policy {
        max_age: None,
        max_size_bytes: Some(0),
    };
    let now = SystemTime::now();
    assert_eq!(clean(&cache, &everything, now).unwrap(), (Vec::new(), 0));
    assert_eq!(list(&cache).unwrap(), []);

    fs_err::create_dir_all(cache.join("sha256")).unwrap();
    fs_err::write(cache.join("sha256/a"), "12345").unwrap();
    fs_err::write(cache.join("sha256/.temporary-b"), "12").unwrap();
    std::os::unix::fs::symlink(outside.path(), cache.join("sha256/link")).unwrap();
    let build = hold(&cache).unwrap();
    let second = hold(&cache).unwrap();
    assert_eq!(list(&cache).unwrap().len(), 2);
    drop(build);
    assert!(matches!(
        clean(&cache, &everything, now),
        Err(CacheError::InUse { .. })
    ));
    drop(second);
    let nothing = Policy {
        max_age: None,
        max_size_bytes: None,
    };
    let (removed, left_bytes) = clean(&cache, &nothing, now).unwrap();
    assert_eq!(names(&removed), ["sha256/.temporary-b"]);
    assert_eq!(left_bytes, 5);
    let (removed, left_bytes) = clean(&cache, &everything, now).unwrap();
    assert_eq!((names(&removed), left_bytes), (vec!["sha256/a"], 0));
    assert!(outside.path().exists());
    assert_eq!(list(&cache).unwrap(), []);
}

#[test]
fn what_is_used_becomes_young() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a");
    fs_err::write(&path, "x").unwrap();
    let file = fs_err::File::open(&path).unwrap();
    file.file().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    let used = || list(directory.path()).unwrap()[0].used;
    assert_eq!(used(), SystemTime::UNIX_EPOCH);
    touch(&path);
    assert!(used() > SystemTime::UNIX_EPOCH + DAY);
    touch(&directory.path().join("gone"));
}

#[test]
fn downloads_that_broke_off_are_counted_and_go_when_they_are_old() {
    use common::digest::Digest;

    let directory = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let (stale, fresh) = (Digest::of(b"stale"), Digest::of(b"fresh"));
    let partial = |digest: Digest| format!("partial/{}", digest.to_hex());
    let listed = || {
        let mut found: Vec<(String, u64)> = list(directory.path())
            .unwrap()
            .iter()
            .map(|entry| (entry.name.to_str().unwrap().to_owned(), entry.size_bytes))
            .collect();
        found.sort();
        found
    };
    let policy = Policy {
        max_age: Some(30 * DAY),
        max_size_bytes: None,
    };

    let build = crate::fetch::Cache::new(directory.path().to_path_buf());
    for (digest, bytes) in [(stale, &b"sta"[..]), (fresh, b"fresh so far")] {
        build.resume(digest).unwrap().push(bytes).unwrap();
    }
    let path = directory.path().join(partial(stale));
    let file = fs_err::File::open(&path).unwrap();
    file.file().set_modified(now - 31 * DAY).unwrap();
    let mut expected = vec![(partial(stale), 3), (partial(fresh), 12)];
    expected.sort();
    assert_eq!(listed(), expected);

    // As long as a build may go on with it, however old it is.
    let in_use = build.resume(stale).unwrap();
    assert!(matches!(
        clean(directory.path(), &policy, now),
        Err(CacheError::InUse { .. })
    ));
    assert_eq!(listed(), expected);
    drop((in_use, build));

    let (removed, left_bytes) = clean(directory.path(), &policy, now).unwrap();
    assert_eq!(names(&removed), [partial(stale)]);
    assert_eq!(left_bytes, 12);
    assert_eq!(listed(), [(partial(fresh), 12)]);
}
