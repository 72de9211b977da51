//! The hash by which a large directory is sorted: half of MD4's rounds. Source: Linux `fs/ext4/hash.c`.
//!
//! Bytes count as unsigned: the superblock says so, and so the hash is the same on every machine.

/// What all hashes begin with. Always the same, so that the same names give the same directory; nobody would be kept from finding
/// names with equal hashes by a seed that lies in the image.
pub(in crate::image::ext4) const SEED: [u8; 16] = *b"volant dir index";

/// How many bytes of a name go into one transformation.
const CHUNK_BYTES: usize = 32;

/// Added in the second and the third round (RFC 1320: the square roots of 2 and 3).
const ROUND_2: u32 = 0x5a82_7999;
const ROUND_3: u32 = 0x6ed9_eba1;

/// In which order the words of the input are used in each round, and by how much each step rotates.
const ROUNDS: [([usize; 8], [u32; 4]); 3] = [
    ([0, 1, 2, 3, 4, 5, 6, 7], [3, 7, 11, 19]),
    ([1, 3, 5, 7, 0, 2, 4, 6], [3, 5, 9, 13]),
    ([3, 7, 2, 6, 1, 5, 0, 4], [3, 9, 11, 15]),
];

/// The largest hash but one: the largest marks the end of a directory (`EXT4_HTREE_EOF_32BIT`).
const END: u32 = 0xffff_fffe;
const LARGEST: u32 = 0xffff_fffc;

/// The hash of a name. It is even: the lowest bit has another meaning in the index.
pub(in crate::image::ext4) fn hash(name: &[u8]) -> u32 {
    let mut state = [0; 4];
    for (word, bytes) in state.iter_mut().zip(SEED.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    let mut rest = name;
    while !rest.is_empty() {
        transform(&mut state, &words(rest));
        rest = rest.get(CHUNK_BYTES..).unwrap_or_default();
    }
    match state[1] & !1 {
        END => LARGEST,
        hash => hash,
    }
}

/// The first bytes of what is left of a name as eight words, filled up with its length.
fn words(rest: &[u8]) -> [u32; 8] {
    // Only the lower bits of the length count, and names have at most 255 bytes.
    let length = u32::try_from(rest.len()).unwrap_or(0);
    let padding = length.wrapping_mul(0x0101_0101);
    let mut words = [padding; 8];
    let chunk = rest.get(..CHUNK_BYTES).unwrap_or(rest);
    for (word, bytes) in words.iter_mut().zip(chunk.chunks(4)) {
        *word = bytes.iter().fold(padding, |word, &byte| {
            (word << 8).wrapping_add(u32::from(byte))
        });
    }
    words
}

fn transform(state: &mut [u32; 4], input: &[u32; 8]) {
    let mut next = *state;
    for (round, (order, rotations)) in ROUNDS.iter().enumerate() {
        for (step, &word) in order.iter().enumerate() {
            let [a, b, c, d] = next;
            let mixed = match round {
                0 => (d ^ (b & (c ^ d))).wrapping_add(input[word]),
                1 => (b & c)
                    .wrapping_add((b ^ c) & d)
                    .wrapping_add(input[word])
                    .wrapping_add(ROUND_2),
                _ => (b ^ c ^ d).wrapping_add(input[word]).wrapping_add(ROUND_3),
            };
            let mixed = a.wrapping_add(mixed).rotate_left(rotations[step % 4]);
            // The four change places with every step.
            next = [d, mixed, b, c];
        }
    }
    for (word, more) in state.iter_mut().zip(next) {
        *word = word.wrapping_add(more);
    }
}
