//! Cuts tokens into blocks where their statistics change, so that each block's code fits it. Writes nothing.

use std::ops::Range;

use super::symbols::{DISTANCES, LITERALS, Token, distance_symbol, length_symbol};

/// Tokens are looked at in runs of this many: fewer show noise, more hide changes.
const RUN_TOKENS: usize = 1024;

/// What beginning a block costs, in bits: the code lengths of a usual block of machine code.
const HEADER_BITS: u64 = 85 * 8;

/// The most tokens of one block. It bounds a count of symbols far below 2^32.
const MAX_BLOCK_TOKENS: usize = 256 * 1024;

/// Fraction bits of [`log2`].
const FRACTION_BITS: u32 = 8;

/// The fractional parts of log2(1 + i / 256), in units of 2^-8.
const LOG_FRACTION: [u16; 256] = log_fractions();

/// How often each symbol occurs.
#[derive(Debug, Clone)]
pub(super) struct Histogram {
    pub(super) literals: [u32; LITERALS],
    pub(super) distances: [u32; DISTANCES],
}

/// Tokens that share one code.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub(super) tokens: Range<usize>,
    /// How many bytes the tokens stand for.
    pub(super) bytes: usize,
    /// How often their symbols occur.
    pub(super) counts: Histogram,
}

impl Histogram {
    /// Counts the symbols of `tokens`.
    pub(super) fn of(tokens: &[Token]) -> Self {
        let mut counts = Self {
            literals: [0; LITERALS],
            distances: [0; DISTANCES],
        };
        for token in tokens {
            if token.distance() == 0 {
                counts.literals[token.value()] += 1;
            } else {
                counts.literals[length_symbol(token.value()).symbol] += 1;
                counts.distances[distance_symbol(token.distance()).symbol] += 1;
            }
        }
        counts
    }

    fn plus(&self, other: &Self) -> Self {
        let mut sum = self.clone();
        for (a, b) in sum.literals.iter_mut().zip(&other.literals) {
            *a += b;
        }
        for (a, b) in sum.distances.iter_mut().zip(&other.distances) {
            *a += b;
        }
        sum
    }

    /// The bits that an ideal code needs for the symbols.
    fn bits(&self) -> u64 {
        entropy(&self.literals) + entropy(&self.distances)
    }
}

/// Cuts `tokens` into blocks: a run of tokens joins the block before it unless a code of its own would pay for its header.
pub(super) fn split(tokens: &[Token]) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut current: Option<(Block, u64)> = None;
    for (number, run) in tokens.chunks(RUN_TOKENS).enumerate() {
        let start = number * RUN_TOKENS;
        let counts = Histogram::of(run);
        let bits = counts.bits();
        let bytes = run.iter().map(|token| token.bytes()).sum();
        let range = start..start + run.len();
        if let Some((block, block_bits)) = &mut current {
            let joined = block.counts.plus(&counts);
            let joined_bits = joined.bits();
            if joined_bits <= *block_bits + bits + HEADER_BITS
                && block.tokens.len() < MAX_BLOCK_TOKENS
            {
                block.counts = joined;
                block.tokens.end = range.end;
                block.bytes += bytes;
                *block_bits = joined_bits;
                continue;
            }
        }
        let next = Block {
            tokens: range,
            bytes,
            counts,
        };
        blocks.extend(current.replace((next, bits)).map(|(block, _)| block));
    }
    blocks.extend(current.map(|(block, _)| block));
    blocks
}

/// `n log n` of the sum less the sum of `n log n`: the bits of an ideal code.
fn entropy(counts: &[u32]) -> u64 {
    let total: u64 = counts.iter().copied().map(u64::from).sum();
    let parts: u64 = counts.iter().map(|&count| weight(u64::from(count))).sum();
    weight(total).saturating_sub(parts) >> FRACTION_BITS
}

fn weight(count: u64) -> u64 {
    if count == 0 { 0 } else { count * log2(count) }
}

/// The binary logarithm of a number from 1 on, in units of 2^-8.
fn log2(number: u64) -> u64 {
    let whole = number.ilog2();
    let mantissa = if whole >= 8 {
        number >> (whole - 8)
    } else {
        number << (8 - whole)
    };
    let fraction = usize::try_from(mantissa & 0xff).map_or(0, |at| LOG_FRACTION[at]);
    u64::from(whole << FRACTION_BITS) + u64::from(fraction)
}

/// Fills the table by squaring: each squaring of a number in [1, 2) brings out one more bit of its logarithm.
const fn log_fractions() -> [u16; 256] {
    let mut table = [0; 256];
    let mut number: u64 = 256;
    let mut at = 0;
    while at < 256 {
        // 1 + at / 256 with 30 fraction bits.
        let mut x = number << 22;
        let mut fraction: u16 = 0;
        let mut bit = 0;
        while bit < FRACTION_BITS {
            x = (x * x) >> 30;
            fraction <<= 1;
            if x >= 2 << 30 {
                x >>= 1;
                fraction |= 1;
            }
            bit += 1;
        }
        table[at] = fraction;
        number += 1;
        at += 1;
    }
    table
}
