//! Huffman codes of limited length (RFC 1951 §3.2.2) and the blocks that use them.

use super::bits::Writer;
use super::blocks::Histogram;
use super::symbols::{
    END_OF_BLOCK, Token, distance_extra_bits, distance_symbol, length_extra_bits, length_symbol,
};

/// The longest code of a literal, length or distance.
const MAX_BITS: usize = 15;

/// The longest code of a code length.
const MAX_LENGTH_BITS: usize = 7;

/// Number of symbols that code lengths are written with.
const LENGTH_SYMBOLS: usize = 19;

/// In which order the lengths of those symbols' own codes are written (RFC 1951 §3.2.7).
const LENGTH_ORDER: [usize; LENGTH_SYMBOLS] = [
    16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
];

/// Block type 2, dynamic codes, in the two bits after the last-block bit.
const DYNAMIC: u32 = 2 << 1;

/// A symbol's code, its bits reversed as they are written, and its length; length 0 is a symbol that does not occur.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Code {
    bits: u32,
    length: u8,
}

/// A part of the data, as bytes and as the tokens that stand for them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) tokens: &'a [Token],
    pub(super) counts: &'a Histogram,
    pub(super) bytes: &'a [u8],
}

/// Writes `part` as a block with a code of its own, or stored where that is smaller.
pub(super) fn write_block(writer: &mut Writer<'_>, part: Part<'_>, is_last: bool) {
    let Part {
        tokens,
        counts,
        bytes,
    } = part;
    let mut counts = counts.clone();
    counts.literals[END_OF_BLOCK] = 1;
    let literals = lengths(&counts.literals, MAX_BITS);
    let distances = lengths(&counts.distances, MAX_BITS);
    let header = Header::new(&literals, &distances);
    let dynamic_bits = header.bits()
        + cost(&counts.literals, &literals, length_extra_bits)
        + cost(&counts.distances, &distances, distance_extra_bits);
    // Five bytes for the head of each stored block of at most 64 KiB, and the bits up to the byte boundary.
    let stored_bits =
        8 * (u64::try_from(bytes.len() + 5 * (bytes.len() / 0xffff + 1)).unwrap_or(u64::MAX / 8));
    if stored_bits < dynamic_bits {
        writer.stored_block(bytes, is_last);
        return;
    }
    writer.put(DYNAMIC | u32::from(is_last), 3);
    header.write(writer);
    let literals = codes(&literals);
    let distances = codes(&distances);
    for token in tokens {
        if token.distance() == 0 {
            let code = literals[token.value()];
            writer.put(code.bits, u32::from(code.length));
            continue;
        }
        let length = length_symbol(token.value());
        let code = literals[length.symbol];
        let code_length = u32::from(code.length);
        writer.put(
            code.bits | length.extra << code_length,
            code_length + length.extra_bits,
        );
        let distance = distance_symbol(token.distance());
        let code = distances[distance.symbol];
        let code_length = u32::from(code.length);
        writer.put(
            code.bits | distance.extra << code_length,
            code_length + distance.extra_bits,
        );
    }
    let code = literals[END_OF_BLOCK];
    writer.put(code.bits, u32::from(code.length));
}

/// The bits of all symbols with their extra bits.
fn cost(counts: &[u32], lengths: &[u8], extra_bits: fn(usize) -> u32) -> u64 {
    counts
        .iter()
        .zip(lengths)
        .enumerate()
        .map(|(symbol, (&count, &length))| {
            u64::from(count) * u64::from(u32::from(length) + extra_bits(symbol))
        })
        .sum()
}

/// The code lengths of a block, as they are written before it.
struct Header {
    /// Symbols of the code-length alphabet, each with the value and number of its extra bits.
    runs: Vec<(usize, u32, u32)>,
    lengths: Vec<u8>,
    /// How many lengths of the two alphabets are written, and how many of the code-length alphabet.
    literals: usize,
    distances: usize,
    order: usize,
}

impl Header {
    fn new(literal_lengths: &[u8], distance_lengths: &[u8]) -> Self {
        let used = |lengths: &[u8], at_least: usize| {
            lengths
                .iter()
                .rposition(|&length| length > 0)
                .map_or(0, |last| last + 1)
                .max(at_least)
        };
        let literals = used(literal_lengths, 257);
        let distances = used(distance_lengths, 1);
        let mut all = literal_lengths[..literals].to_vec();
        all.extend_from_slice(&distance_lengths[..distances]);
        let runs = run_lengths(&all);
        let mut counts = [0_u32; LENGTH_SYMBOLS];
        for (symbol, _, _) in &runs {
            counts[*symbol] += 1;
        }
        let lengths = lengths(&counts, MAX_LENGTH_BITS);
        let order = LENGTH_ORDER
            .iter()
            .rposition(|&symbol| lengths[symbol] > 0)
            .map_or(0, |last| last + 1)
            .max(4);
        Self {
            runs,
            lengths,
            literals,
            distances,
            order,
        }
    }

    fn bits(&self) -> u64 {
        let symbols: u32 = self
            .runs
            .iter()
            .map(|&(symbol, _, extra_bits)| u32::from(self.lengths[symbol]) + extra_bits)
            .sum();
        u64::from(3 + 5 + 5 + 4 + symbols) + 3 * u64::try_from(self.order).unwrap_or(0)
    }

    fn write(&self, writer: &mut Writer<'_>) {
        let small = |number: usize| u32::try_from(number).unwrap_or(0);
        writer.put(small(self.literals - 257), 5);
        writer.put(small(self.distances - 1), 5);
        writer.put(small(self.order - 4), 4);
        for &symbol in &LENGTH_ORDER[..self.order] {
            writer.put(u32::from(self.lengths[symbol]), 3);
        }
        let codes = codes(&self.lengths);
        for &(symbol, extra, extra_bits) in &self.runs {
            let code = codes[symbol];
            writer.put(code.bits, u32::from(code.length));
            writer.put(extra, extra_bits);
        }
    }
}

/// Shortens repeats: 16 repeats the length before 3 to 6 times, 17 and 18 stand for 3 to 10 and 11 to 138 zeros.
fn run_lengths(lengths: &[u8]) -> Vec<(usize, u32, u32)> {
    let mut runs = Vec::new();
    for same in lengths.chunk_by(|a, b| a == b) {
        let length = usize::from(same[0]);
        let mut left = u32::try_from(same.len()).unwrap_or(0);
        if length > 0 {
            runs.push((length, 0, 0));
            left -= 1;
        }
        while left >= 3 {
            let (symbol, least, most, extra_bits) = match (length, left) {
                (0, 11..) => (18, 11, 138, 7),
                (0, _) => (17, 3, 10, 3),
                _ => (16, 3, 6, 2),
            };
            let count = left.min(most);
            runs.push((symbol, count - least, extra_bits));
            left -= count;
        }
        runs.extend((0..left).map(|_| (length, 0, 0)));
    }
    runs
}

/// The code length of each symbol: Huffman's, none longer than `max_bits`. At least two symbols get a code, because decoders
/// differ in what they accept below that.
fn lengths(counts: &[u32], max_bits: usize) -> Vec<u8> {
    let mut used: Vec<(u32, usize)> = counts
        .iter()
        .enumerate()
        .filter(|&(_, &count)| count > 0)
        .map(|(symbol, &count)| (count, symbol))
        .collect();
    let mut unused = counts
        .iter()
        .enumerate()
        .filter(|&(_, &count)| count == 0)
        .map(|(symbol, _)| (0, symbol));
    while used.len() < 2 {
        used.extend(unused.next());
    }
    used.sort_unstable();
    let depths = depth_counts(&used, max_bits);
    let mut lengths = vec![0; counts.len()];
    // The rarest symbols get the longest codes.
    let mut rest = used.iter();
    for (bits, &count) in depths.iter().enumerate().rev() {
        for &(_, symbol) in rest.by_ref().take(count) {
            lengths[symbol] = u8::try_from(bits).unwrap_or(0);
        }
    }
    lengths
}

/// How many codes there are of each length, for symbols sorted by count.
fn depth_counts(sorted: &[(u32, usize)], max_bits: usize) -> Vec<usize> {
    let leaves = sorted.len();
    // Two queues: leaves in order, and inner nodes in the order in which they are made, which is also by weight.
    let mut weights: Vec<u64> = Vec::with_capacity(leaves);
    let mut parents = vec![0; 2 * leaves];
    let (mut leaf, mut inner) = (0, 0);
    for node in 0..leaves - 1 {
        let mut weight = 0;
        for _ in 0..2 {
            let leaf_weight = sorted.get(leaf).map(|&(count, _)| u64::from(count));
            let inner_weight = weights.get(inner).copied();
            if leaf_weight.is_some_and(|l| inner_weight.is_none_or(|i| l <= i)) {
                weight += leaf_weight.unwrap_or(0);
                parents[leaf] = node;
                leaf += 1;
            } else {
                weight += inner_weight.unwrap_or(0);
                parents[leaves + inner] = node;
                inner += 1;
            }
        }
        weights.push(weight);
    }
    // From the root, the last inner node, downwards: a node is one deeper than its parent.
    let mut inner_depths = vec![0; leaves - 1];
    for node in (0..leaves - 2).rev() {
        inner_depths[node] = inner_depths[parents[leaves + node]] + 1;
    }
    let mut depths = vec![0; max_bits + 1];
    for &parent in &parents[..leaves] {
        depths[(inner_depths[parent] + 1_usize).min(max_bits)] += 1;
    }
    limit(&mut depths);
    depths
}

/// Makes room for codes that were cut to the longest length: the sum of 2^-length must be exactly 1 (Kraft).
fn limit(depths: &mut [usize]) {
    let max_bits = depths.len() - 1;
    let mut taken: usize = depths
        .iter()
        .enumerate()
        .map(|(bits, &count)| count << (max_bits - bits))
        .sum();
    let whole = 1 << max_bits;
    while taken > whole {
        // One leaf moves down a level and takes one of the deepest as its sibling: that frees one place at the bottom.
        let Some(bits) = (1..max_bits).rev().find(|&bits| depths[bits] > 0) else {
            return;
        };
        depths[bits] -= 1;
        depths[bits + 1] += 2;
        depths[max_bits] -= 1;
        taken -= 1;
    }
}

/// The canonical codes of the given lengths.
fn codes(lengths: &[u8]) -> Vec<Code> {
    let mut counts = [0_u32; MAX_BITS + 1];
    for &length in lengths {
        counts[usize::from(length)] += 1;
    }
    counts[0] = 0;
    let mut next = [0_u32; MAX_BITS + 1];
    for bits in 1..=MAX_BITS {
        next[bits] = (next[bits - 1] + counts[bits - 1]) << 1;
    }
    lengths
        .iter()
        .map(|&length| {
            if length == 0 {
                return Code::default();
            }
            let code = &mut next[usize::from(length)];
            let bits = code.reverse_bits() >> (32 - u32::from(length));
            *code += 1;
            Code { bits, length }
        })
        .collect()
}
