//! What is appended is found again: from the end, from the middle, while it is written, and over rotations.

use super::*;

fn ring(max_bytes: u64) -> (tempfile::TempDir, Arc<RingFile>) {
    let dir = tempfile::tempdir().unwrap();
    let ring = RingFile::new(dir.path().join("x.log"), max_bytes);
    (dir, Arc::new(ring))
}

fn read(ring: &Arc<RingFile>, at: Position) -> Vec<u8> {
    let mut reader = RingReader::new(Arc::clone(ring), at);
    let mut all = Vec::new();
    while let Chunk::Bytes(bytes) = reader.read().unwrap() {
        all.extend(bytes);
    }
    all
}

fn tail(ring: &Arc<RingFile>, count: usize) -> String {
    let at = ring.last_lines(count, |_| true).unwrap();
    String::from_utf8(read(ring, at)).unwrap()
}

#[test]
fn tails_end_with_the_last_line() {
    let (_dir, ring) = ring(1000);
    assert_eq!(tail(&ring, 3), "");
    ring.append(b"a\nb\n").unwrap();
    ring.append(b"c").unwrap();
    let table = [
        (0, ""),
        (1, "c"),
        (2, "b\nc"),
        (3, "a\nb\nc"),
        (usize::MAX, "a\nb\nc"),
    ];
    for (count, expected) in table {
        assert_eq!(tail(&ring, count), expected, "{count}");
    }
    ring.append(b"\n\n").unwrap();
    assert_eq!(tail(&ring, 1), "\n");
    assert_eq!(tail(&ring, 2), "c\n\n");
}

#[test]
fn lines_are_taken_over_the_break_between_two_files() {
    let (dir, ring) = ring(10);
    for piece in ["0123\n", "45", "67", "89\nab", "c\n"] {
        ring.append(piece.as_bytes()).unwrap();
    }
    assert_eq!(fs::read(dir.path().join("x.log.1")).unwrap(), b"0123\n4567");
    assert_eq!(tail(&ring, 1), "abc\n");
    assert_eq!(tail(&ring, 2), "456789\nabc\n");
    assert_eq!(tail(&ring, 9), "0123\n456789\nabc\n");
}

#[test]
fn only_wanted_lines_are_counted_and_long_ones_not_looked_at() {
    let (_dir, ring) = ring(1 << 20);
    ring.append(b"yes 1\nno\n").unwrap();
    ring.append(&vec![b'x'; MAX_LINE_BYTES + 1]).unwrap();
    ring.append(b"\nyes 2\nno\n").unwrap();
    let mut too_long = 0;
    let at = ring
        .last_lines(2, |line| {
            too_long += usize::from(line.is_none());
            line.is_some_and(|line| line.starts_with(b"yes"))
        })
        .unwrap();
    assert_eq!(at.offset, 0);
    assert_eq!(too_long, 1);
}

#[test]
fn the_disk_space_is_bounded() {
    let (dir, ring) = ring(1000);
    for _ in 0..500 {
        ring.append(&[b'x'; 99]).unwrap();
    }
    let sizes: Vec<u64> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .collect();
    assert_eq!(sizes.len(), 2);
    assert!(sizes.iter().all(|size| *size <= 1000), "{sizes:?}");
}

#[test]
fn a_follower_misses_nothing_over_rotations_and_is_told_when_it_is_lost() {
    let (_dir, ring) = ring(30);
    let mut reader = RingReader::new(Arc::clone(&ring), ring.end());
    let (mut written, mut seen) = (Vec::new(), Vec::new());
    for number in 0..100 {
        let line = format!("line {number}\n");
        ring.append(line.as_bytes()).unwrap();
        written.extend(line.into_bytes());
        if number % 3 == 0 {
            while let Chunk::Bytes(bytes) = reader.read().unwrap() {
                seen.extend(bytes);
            }
        }
    }
    assert_eq!(seen, written);
    for _ in 0..20 {
        ring.append(b"too fast for it\n").unwrap();
    }
    // The file that it is in is still its own; the next one is overwritten.
    while let Chunk::Bytes(_) = reader.read().unwrap() {}
    assert!(matches!(reader.read().unwrap(), Chunk::Lost));
}

#[test]
fn a_place_is_found_by_what_the_lines_say() {
    for (lines, width) in [(0_u32, 10), (1, 10), (50, 10), (20_000, 10), (2_000, 500)] {
        let (_dir, ring) = ring(300_000);
        let mut kept_from = 0;
        for number in 0..lines {
            let line = format!("{number:0width$}\n");
            let before = ring.begin();
            ring.append(line.as_bytes()).unwrap();
            if number % 100 == 0 {
                ring.append(b"garbage\n").unwrap();
            }
            if ring.begin() != before {
                kept_from = number;
            }
        }
        let number = |line: &[u8]| std::str::from_utf8(line).ok()?.parse::<u32>().ok();
        for wanted in [
            0,
            1,
            kept_from,
            kept_from + 1,
            lines / 2,
            lines * 9 / 10,
            lines,
        ] {
            let at = ring
                .partition(|line| number(line).map(|found| found < wanted))
                .unwrap();
            let rest = read(&ring, at);
            let first = rest.split(|byte| *byte == b'\n').find_map(number);
            let expected = (wanted < lines).then_some(first.unwrap_or(0).max(wanted));
            assert_eq!(first, expected, "{wanted} of {lines}");
            if wanted >= kept_from && wanted < lines {
                assert_eq!(first, Some(wanted));
            }
        }
    }
}

#[test]
fn a_removed_log_takes_nothing_and_makes_no_file() {
    let (dir, ring) = ring(100);
    let watch = ring.watch();
    ring.append(b"x\n").unwrap();
    fs::remove_file(dir.path().join("x.log")).unwrap();
    ring.remove();
    ring.append(b"y\n").unwrap();
    assert!(watch.borrow().removed);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn what_could_not_be_written_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let ring = Arc::new(RingFile::new(path.clone(), 1 << 20));
    ring.append(b"one\n").unwrap();
    // As a full disk: the file takes the beginning of a line, and then nothing any more.
    fs::write(&path, b"one\ntw").unwrap();
    *ring.lock() = Some(fs::File::open(&path).unwrap());
    ring.append(b"two\n").unwrap_err();
    let mut reader = RingReader::new(Arc::clone(&ring), ring.begin());
    assert!(matches!(reader.read().unwrap(), Chunk::Bytes(bytes) if bytes == b"one\n"));
    ring.append(b"three\n").unwrap();
    assert!(matches!(reader.read().unwrap(), Chunk::Bytes(bytes) if bytes == b"three\n"));
    assert_eq!(fs::read(&path).unwrap(), b"one\nthree\n");
}
