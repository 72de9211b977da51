//! The answer to a WebSocket client's key: base64 (RFC 4648 §4) of SHA-1 (RFC 3174). It shows that the server speaks the protocol,
//! and keeps no secret: SHA-1 is good for nothing else any more.

/// What every server appends to the key (RFC 6455 §1.3).
const SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The five words that SHA-1 begins with (RFC 3174 §6.1).
const BEGIN: [u32; 5] = [
    0x6745_2301,
    0xefcd_ab89,
    0x98ba_dcfe,
    0x1032_5476,
    0xc3d2_e1f0,
];

/// The length of a block of SHA-1 in bytes.
const BLOCK_BYTES: usize = 64;

const ALPHABET: [u8; 64] = *b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The value of `Sec-WebSocket-Accept` for this `Sec-WebSocket-Key`.
pub(super) fn of(key: &str) -> String {
    base64(&sha1(format!("{key}{SUFFIX}").into_bytes()))
}

fn sha1(mut message: Vec<u8>) -> Vec<u8> {
    let bits = u64::try_from(message.len())
        .unwrap_or_default()
        .wrapping_mul(8);
    message.push(0x80);
    while message.len() % BLOCK_BYTES != BLOCK_BYTES - size_of::<u64>() {
        message.push(0);
    }
    message.extend(bits.to_be_bytes());
    let state = message.chunks_exact(BLOCK_BYTES).fold(BEGIN, mix);
    state.iter().flat_map(|word| word.to_be_bytes()).collect()
}

fn mix(state: [u32; 5], block: &[u8]) -> [u32; 5] {
    let mut words: Vec<u32> = block
        .chunks_exact(size_of::<u32>())
        .map(|bytes| {
            bytes
                .iter()
                .fold(0, |word, byte| word << 8 | u32::from(*byte))
        })
        .collect();
    for at in words.len()..80 {
        let word = words[at - 3] ^ words[at - 8] ^ words[at - 14] ^ words[at - 16];
        words.push(word.rotate_left(1));
    }
    let mut mixed = state;
    for (at, word) in words.iter().enumerate() {
        mixed = step(mixed, at, *word);
    }
    let mut sums = state;
    for (sum, word) in sums.iter_mut().zip(mixed) {
        *sum = sum.wrapping_add(word);
    }
    sums
}

/// One of the 80 steps that each mix a word into the state (RFC 3174 §6.1).
fn step([first, second, third, fourth, fifth]: [u32; 5], at: usize, word: u32) -> [u32; 5] {
    let (mixed, constant) = match at {
        0..20 => ((second & third) | (!second & fourth), 0x5a82_7999),
        20..40 => (second ^ third ^ fourth, 0x6ed9_eba1),
        40..60 => (
            (second & third) | (second & fourth) | (third & fourth),
            0x8f1b_bcdc,
        ),
        _ => (second ^ third ^ fourth, 0xca62_c1d6_u32),
    };
    let next = first
        .rotate_left(5)
        .wrapping_add(mixed)
        .wrapping_add(fifth)
        .wrapping_add(word)
        .wrapping_add(constant);
    [next, first, second.rotate_left(30), third, fourth]
}

fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for piece in bytes.chunks(3) {
        let at = |index: usize| piece.get(index).copied().unwrap_or_default();
        let sixes = [
            at(0) >> 2,
            (at(0) & 0x03) << 4 | at(1) >> 4,
            (at(1) & 0x0f) << 2 | at(2) >> 6,
            at(2) & 0x3f,
        ];
        for (index, six) in sixes.into_iter().enumerate() {
            let letter = ALPHABET[usize::from(six)];
            // Each byte of the piece needs one letter, and the piece one more.
            text.push(if index <= piece.len() {
                letter.into()
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_as_the_rfc_has_them() {
        // Base64 of the sums in RFC 3174 §7.3; the second message needs a block more for its length.
        let table = [
            ("abc", "qZk+NkcGgWq6PiVxeFDCbJzQ2J0="),
            (
                "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "hJg+RBw70m66rkqh+VEp5eVGcPE=",
            ),
        ];
        for (text, expected) in table {
            assert_eq!(base64(&sha1(text.into())), expected, "{text}");
        }
    }

    #[test]
    fn base64_is_as_the_rfc_has_it() {
        // RFC 4648 §10.
        let table = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ];
        for (text, expected) in table {
            assert_eq!(base64(text.as_bytes()), expected, "{text}");
        }
    }
}
