//! Whatever goes in comes out of an independent inflater.

use std::io::Read;

use proptest::prelude::{Strategy, any, prop_assert, prop_oneof, proptest};

use super::*;

fn inflate(compressed: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::read::DeflateDecoder::new(compressed)
        .read_to_end(&mut plain)
        .unwrap();
    plain
}

/// Compresses `data` cut into pieces of `piece_bytes`.
fn compress(data: &[u8], piece_bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    loop {
        let end = data.len().min(at + piece_bytes);
        let dictionary = at.saturating_sub(WINDOW_BYTES);
        let position = if end == data.len() {
            Position::Last
        } else {
            Position::Inner
        };
        compress_piece(&data[dictionary..end], at - dictionary, position, &mut out);
        if end == data.len() {
            return out;
        }
        at = end;
    }
}

#[test]
fn edges_come_back() {
    let noise: Vec<u8> = (0..200_000_u32)
        .map(|i| {
            i.wrapping_mul(2_654_435_761).to_be_bytes()[0] ^ i.wrapping_mul(40_503).to_be_bytes()[1]
        })
        .collect();
    let far = [
        &noise[..WINDOW_BYTES],
        &noise[..WINDOW_BYTES],
        &noise[..300],
    ]
    .concat();
    for data in [
        &b""[..],
        b"a",
        b"ab",
        b"abc",
        b"aaaa",
        &vec![0; 100_000],
        &noise,
        &far,
    ] {
        for piece_bytes in [1 << 20, 40_000, 1000] {
            assert!(
                inflate(&compress(data, piece_bytes)) == data,
                "{} bytes",
                data.len()
            );
        }
    }
}

#[test]
fn all_lengths_and_distances_come_back() {
    for length in 3..=260 {
        let mut data: Vec<u8> = (0..length)
            .map(|i: u16| i.to_le_bytes()[0] ^ 0x5a)
            .collect();
        data.push(0xff);
        data.extend_from_within(..usize::from(length));
        assert_eq!(inflate(&compress(&data, 1 << 20)), data, "length {length}");
    }
    for distance in (1..=WINDOW_BYTES + 2).step_by(97) {
        let mut data = b"needle in a haystack".to_vec();
        data.resize(distance.max(20), b'-');
        data.extend_from_slice(b"needle in a haystack");
        assert_eq!(
            inflate(&compress(&data, 1 << 20)),
            data,
            "distance {distance}"
        );
    }
}

#[test]
fn noise_grows_by_little() {
    let mut state = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .take(20_000)
    .flatten()
    .collect();
    let compressed = compress(&noise, 1 << 20);
    assert!(compressed.len() < noise.len() + 100, "{}", compressed.len());
    assert!(inflate(&compressed) == noise);
}

#[test]
fn skewed_counts_need_the_length_limit() {
    // Counts that grow as Fibonacci's numbers give Huffman's codes their greatest depth.
    let mut data = Vec::new();
    let (mut a, mut b) = (1_usize, 1);
    for symbol in 0..24_u8 {
        data.extend(std::iter::repeat_n(symbol, a));
        (a, b) = (b, a + b);
    }
    // Shuffled, so that they stay literals.
    let length = data.len();
    for at in 0..length {
        data.swap(at, (at * 7_919 + 13) % length);
    }
    assert!(inflate(&compress(&data, 1 << 20)) == data);
}

/// Bytes with repeats: literal noise, runs, and copies of what came before.
fn mixed() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| (bytes, 0, 0)),
        (any::<u8>(), 0..2000_usize).prop_map(|(byte, count)| (vec![byte; count], 0, 0)),
        (0..70_000_usize, 0..600_usize).prop_map(|(back, count)| (Vec::new(), back, count)),
        proptest::collection::vec(0..4_u8, 0..3000).prop_map(|bytes| (bytes, 0, 0)),
    ];
    proptest::collection::vec(part, 0..60).prop_map(|parts| {
        let mut data: Vec<u8> = Vec::new();
        for (bytes, back, count) in parts {
            data.extend_from_slice(&bytes);
            let from = data.len().saturating_sub(back);
            let to = data.len().min(from + count);
            data.extend_from_within(from..to);
        }
        data
    })
}

proptest! {
    #[test]
    fn everything_comes_back(data in mixed(), piece_bytes in 500..100_000_usize) {
        prop_assert!(inflate(&compress(&data, piece_bytes)) == data);
    }
}
