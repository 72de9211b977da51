//! Turns bytes into literals and matches: hash chains with one byte of look-ahead. Chooses for size, then for speed.

use super::WINDOW_BYTES;
use super::symbols::{MAX_MATCH, MIN_MATCH, Token};

/// How many earlier places with the same [`LONG_BYTES`] bytes are tried for a match. Measured on the Caddy example: 12 makes it
/// 0.3 % larger and 16 0.1 %, and neither is faster by more than the noise.
const MAX_TRIES: u32 = 20;

/// A match at least this long, in bytes, is taken without trying more places or the next byte.
const GOOD_ENOUGH_BYTES: usize = 64;

/// A match of three bytes further back than this costs more bits than three literals.
const MAX_SHORT_DISTANCE: usize = 4096;

/// How many bytes a candidate of the second and third table has in common with the place. The first two tables hold one place for each
/// hash; only the third has chains, and six bytes keep them short: with four, twice as many tries find as much in more time.
const MIDDLE_BYTES: usize = 4;
const LONG_BYTES: usize = 6;

/// Bits of the hashes. Larger tables no longer fit the second-level cache.
const SHORT_BITS: u32 = 14;
const MIDDLE_BITS: u32 = 15;
const LONG_BITS: u32 = 16;

/// How many bytes are looked at for the hashes; so many at the end of a piece are not found again.
const HASHED_BYTES: usize = 8;

/// An odd number near the golden ratio of its range: multiplying by it spreads the bits of neighbours.
const HASH_FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;

#[derive(Debug, Clone, Copy)]
struct Match {
    length: usize,
    distance: usize,
}

/// Where the same bytes occurred before. Places are stored plus one, so that 0 is none.
struct Finder<'a> {
    data: &'a [u8],
    /// The last place of each hash of three bytes.
    short: &'a mut [u32; 1 << SHORT_BITS],
    /// The last place of each hash of four bytes.
    middle: &'a mut [u32; 1 << MIDDLE_BITS],
    /// The last place of each hash of [`LONG_BYTES`] bytes.
    long: &'a mut [u32; 1 << LONG_BITS],
    /// The place before, with the same hash of [`LONG_BYTES`] bytes, of each place in the window.
    previous: &'a mut [u32; WINDOW_BYTES],
}

/// The tokens that stand for `data` after its first `start` bytes.
#[expect(
    clippy::large_stack_arrays,
    reason = "a vector of zeros is allocated as zeros; nothing of it is ever on the stack"
)]
pub(super) fn tokens(data: &[u8], start: usize) -> Vec<Token> {
    // Vectors of one array, so that the length is known and no index is checked.
    let mut short = vec![[0; 1 << SHORT_BITS]; 1];
    let mut middle = vec![[0; 1 << MIDDLE_BITS]; 1];
    let mut long = vec![[0; 1 << LONG_BITS]; 1];
    let mut previous = vec![[0; WINDOW_BYTES]; 1];
    let mut finder = Finder {
        data,
        short: &mut short[0],
        middle: &mut middle[0],
        long: &mut long[0],
        previous: &mut previous[0],
    };
    for place in start.saturating_sub(WINDOW_BYTES)..start {
        finder.insert(place);
    }
    // Machine code, the usual content, makes a token of every three or four bytes.
    let mut tokens = Vec::with_capacity((data.len() - start) / 3);
    let mut place = start;
    while place < data.len() {
        let Some(mut found) = finder.find(place, MIN_MATCH - 1, MAX_TRIES) else {
            tokens.push(Token::literal(data[place]));
            place += 1;
            continue;
        };
        let mut inserted = place + 1;
        // A better match may begin one byte later: then this byte is cheaper as a literal.
        while found.length < GOOD_ENOUGH_BYTES && place + 1 < data.len() {
            inserted = place + 2;
            let Some(next) = finder.find(place + 1, found.length - 1, MAX_TRIES / 2) else {
                break;
            };
            if !is_better(next, found) {
                break;
            }
            tokens.push(Token::literal(data[place]));
            place += 1;
            found = next;
        }
        tokens.push(Token::repeat(found.length, found.distance));
        place += found.length;
        for skipped in inserted..place {
            finder.insert(skipped);
        }
    }
    tokens
}

/// Whether `next`, one byte later, saves more than `found`: a byte of length is worth four halvings of the distance.
#[inline]
fn is_better(next: Match, found: Match) -> bool {
    let value = |m: Match| 4 * m.length + 16 - usize::try_from(m.distance.ilog2()).unwrap_or(0);
    value(next) > value(found) + 2
}

impl Finder<'_> {
    /// Remembers `place`, and returns the last places before it with the same three, four and [`LONG_BYTES`] bytes.
    #[inline]
    fn insert(&mut self, place: usize) -> [u32; 3] {
        let Some(bytes) = self
            .data
            .get(place..)
            .and_then(|rest| rest.first_chunk::<HASHED_BYTES>())
        else {
            return [0; 3];
        };
        let bytes = u64::from_le_bytes(*bytes);
        let stored = u32::try_from(place + 1).unwrap_or(0);
        let last = [
            std::mem::replace(&mut self.short[hash(bytes, MIN_MATCH, SHORT_BITS)], stored),
            std::mem::replace(
                &mut self.middle[hash(bytes, MIDDLE_BYTES, MIDDLE_BITS)],
                stored,
            ),
            std::mem::replace(&mut self.long[hash(bytes, LONG_BYTES, LONG_BITS)], stored),
        ];
        self.previous[place % WINDOW_BYTES] = last[2];
        last
    }

    /// Remembers `place`, and finds the longest match there that is longer than `beat` bytes.
    #[inline]
    fn find(&mut self, place: usize, beat: usize, max_tries: u32) -> Option<Match> {
        let [short, middle, mut candidate] = self.insert(place);
        let here = &self.data[place..self.data.len().min(place + MAX_MATCH)];
        let oldest = (place + 1).saturating_sub(WINDOW_BYTES);
        let mut search = Search {
            data: self.data,
            here,
            place,
            length: beat.max(MIN_MATCH),
            best: None,
        };
        let at = earlier(middle, oldest);
        if !at.is_some_and(|at| search.tries(at)) && beat < MIN_MATCH {
            search.try_short(earlier(short, oldest));
        }
        for _ in 0..max_tries {
            let Some(at) = earlier(candidate, oldest) else {
                break;
            };
            if search.tries(at) && search.length >= GOOD_ENOUGH_BYTES {
                break;
            }
            candidate = self.previous[at % WINDOW_BYTES];
        }
        search.best
    }
}

/// The search for a match at one place.
struct Search<'a> {
    data: &'a [u8],
    /// The bytes to be matched.
    here: &'a [u8],
    place: usize,
    /// What a match must be longer than.
    length: usize,
    best: Option<Match>,
}

impl Search<'_> {
    /// Takes the match with `at` if it is longer than the best so far.
    #[inline]
    fn tries(&mut self, at: usize) -> bool {
        // What a longer match must end with. Compared first, because most candidates have its beginning only.
        let end = self.length - MIN_MATCH;
        if word(self.here, end).is_none_or(|wanted| word(self.data, at + end) != Some(wanted)) {
            return false;
        }
        let length = common_bytes(self.here, &self.data[at..at + self.here.len()]);
        if length <= self.length {
            return false;
        }
        self.length = length;
        self.best = Some(Match {
            length,
            distance: self.place - at,
        });
        true
    }

    /// Takes a match of three bytes with `at`.
    #[inline]
    fn try_short(&mut self, at: Option<usize>) {
        let Some(at) = at else { return };
        let distance = self.place - at;
        if distance <= MAX_SHORT_DISTANCE
            && self.here.get(..MIN_MATCH) == self.data.get(at..at + MIN_MATCH)
        {
            self.best = Some(Match {
                length: MIN_MATCH,
                distance,
            });
        }
    }
}

/// The hash of the lowest `count` of `bytes`, of `bits` bits.
#[inline]
fn hash(bytes: u64, count: usize, bits: u32) -> usize {
    let kept = bytes << (64 - 8 * count);
    usize::try_from(kept.wrapping_mul(HASH_FACTOR) >> (64 - bits)).unwrap_or(0)
}

/// The four bytes of `data` from `at` on.
#[inline]
fn word(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..)?
        .first_chunk()
        .copied()
        .map(u32::from_le_bytes)
}

/// The place that `stored` stands for, if it is one and not before `oldest`.
#[inline]
fn earlier(stored: u32, oldest: usize) -> Option<usize> {
    index(stored).checked_sub(1).filter(|&at| at >= oldest)
}

#[inline]
fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(0)
}

/// How many bytes two slices of the same length have in common at their beginning.
#[inline]
fn common_bytes(a: &[u8], b: &[u8]) -> usize {
    let (a_words, a_rest) = a.as_chunks::<8>();
    let (b_words, b_rest) = b.as_chunks::<8>();
    let mut length = 0;
    for (x, y) in a_words.iter().zip(b_words) {
        let difference = u64::from_le_bytes(*x) ^ u64::from_le_bytes(*y);
        if difference != 0 {
            return length + index(difference.trailing_zeros() / 8);
        }
        length += 8;
    }
    length
        + a_rest
            .iter()
            .zip(b_rest)
            .take_while(|(x, y)| x == y)
            .count()
}
