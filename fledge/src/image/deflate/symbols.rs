//! The alphabets of RFC 1951 §3.2.5 and the tokens between the passes. Tables only.

/// Number of literal and length symbols.
pub(super) const LITERALS: usize = 286;

/// Number of distance symbols.
pub(super) const DISTANCES: usize = 30;

/// The symbol that ends a block.
pub(super) const END_OF_BLOCK: usize = 256;

/// The shortest and the longest match that the format knows, in bytes.
pub(super) const MIN_MATCH: usize = 3;
pub(super) const MAX_MATCH: usize = 258;

/// The first length symbol.
const FIRST_LENGTH: usize = 257;

/// The shortest match of each length symbol.
const LENGTH_BASE: [u16; 29] = [
    3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131,
    163, 195, 227, 258,
];

/// How many extra bits follow each length symbol.
const LENGTH_EXTRA: [u8; 29] = [
    0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0,
];

/// The index of the length symbol of each match length.
const LENGTH_INDEX: [u8; MAX_MATCH + 1] = length_indexes();

const fn length_indexes() -> [u8; MAX_MATCH + 1] {
    let mut table = [0; MAX_MATCH + 1];
    let mut index: u8 = 0;
    let mut position = 0;
    let mut length = MIN_MATCH;
    while length <= MAX_MATCH {
        #[expect(
            clippy::as_conversions,
            reason = "u16 to usize in a const fn, where From is not const"
        )]
        while position + 1 < LENGTH_BASE.len() && LENGTH_BASE[position + 1] as usize <= length {
            position += 1;
            index += 1;
        }
        table[length] = index;
        length += 1;
    }
    table
}

/// A literal byte or a match, packed: the distance in the upper half, 0 for a literal; the byte or the length in the lower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token(u32);

impl Token {
    #[inline]
    pub(super) fn literal(byte: u8) -> Self {
        Self(u32::from(byte))
    }

    /// A match of `length` bytes `distance` back; both within the limits of the format.
    #[inline]
    pub(super) fn repeat(length: usize, distance: usize) -> Self {
        // 32768 fits 16 bits.
        let distance = u32::try_from(distance).unwrap_or(0);
        Self(distance << 16 | u32::try_from(length).unwrap_or(0))
    }

    /// The distance; 0 for a literal.
    #[inline]
    pub(super) fn distance(self) -> u32 {
        self.0 >> 16
    }

    /// The byte of a literal, the length of a match.
    #[inline]
    pub(super) fn value(self) -> usize {
        usize::try_from(self.0 & 0xffff).unwrap_or(0)
    }

    /// How many bytes it stands for.
    #[inline]
    pub(super) fn bytes(self) -> usize {
        if self.distance() == 0 {
            1
        } else {
            self.value()
        }
    }
}

/// A symbol, and the extra bits that follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Coded {
    pub(super) symbol: usize,
    pub(super) extra: u32,
    pub(super) extra_bits: u32,
}

/// The symbol of a match length.
#[inline]
pub(super) fn length_symbol(length: usize) -> Coded {
    let index = usize::from(LENGTH_INDEX[length.min(MAX_MATCH)]);
    Coded {
        symbol: FIRST_LENGTH + index,
        extra: u32::try_from(length.saturating_sub(usize::from(LENGTH_BASE[index]))).unwrap_or(0),
        extra_bits: u32::from(LENGTH_EXTRA[index]),
    }
}

/// The symbol of a distance: two for each power of two, told apart by the bit below the highest.
#[inline]
pub(super) fn distance_symbol(distance: u32) -> Coded {
    let offset = distance.saturating_sub(1);
    if offset < 4 {
        return Coded {
            symbol: usize::try_from(offset).unwrap_or(0),
            extra: 0,
            extra_bits: 0,
        };
    }
    let extra_bits = offset.ilog2() - 1;
    Coded {
        symbol: usize::try_from(2 * extra_bits + (offset >> extra_bits)).unwrap_or(0),
        extra: offset & ((1 << extra_bits) - 1),
        extra_bits,
    }
}

/// How many extra bits follow the literal or length symbol `symbol`.
pub(super) fn length_extra_bits(symbol: usize) -> u32 {
    symbol
        .checked_sub(FIRST_LENGTH)
        .and_then(|index| LENGTH_EXTRA.get(index))
        .map_or(0, |&bits| u32::from(bits))
}

/// How many extra bits follow the distance symbol `symbol`.
pub(super) fn distance_extra_bits(symbol: usize) -> u32 {
    u32::try_from(symbol / 2).unwrap_or(0).saturating_sub(1)
}
