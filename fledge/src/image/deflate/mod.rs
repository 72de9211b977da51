//! A DEFLATE compressor (RFC 1951) whose bytes never change behind our back. Compression only: `flate2` unpacks.
//!
//! Why not a library: an artifact's digest must not depend on the version of a dependency or on the number of threads, the
//! kernel wants one gzip member (so pieces must be joinable), and the archive must be no larger than `gzip -9` makes it, in an
//! eighth of its time. Of the libraries that were measured, zlib-rs is 3 % larger where it is fast, and its bytes depend on what a
//! reused compressor saw before; libdeflate is fast and small, but C, and its streams cannot be joined. Figures are in [`super::gzip`].
//!
//! A piece is compressed on its own, with the 32 KiB before it as its dictionary, in three passes: `matches` turns bytes into
//! tokens, `blocks` cuts the tokens where their statistics change, `huffman` and `bits` write the blocks. Only integers are
//! used, so that every machine makes the same choices.

mod bits;
mod blocks;
mod huffman;
mod matches;
mod symbols;
#[cfg(test)]
mod tests;

/// How far back a match may reach (RFC 1951 §3.2.5), in bytes: as much as this of what came before is a piece's dictionary.
pub const WINDOW_BYTES: usize = 32 * 1024;

/// Where a piece stands in its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// Others follow: the piece ends at a byte boundary, and its last block is not the last of the stream.
    Inner,
    /// It is the last one, and ends the stream.
    Last,
}

/// Compresses `data` after its first `dictionary_bytes`, which the reader has already, and appends the result to `out`.
///
/// Pieces written one after the other make one DEFLATE stream. `dictionary_bytes` is at most [`WINDOW_BYTES`] and the length of `data`.
pub fn compress_piece(data: &[u8], dictionary_bytes: usize, position: Position, out: &mut Vec<u8>) {
    let start = dictionary_bytes.min(data.len());
    let tokens = matches::tokens(data, start);
    let mut writer = bits::Writer::new(out);
    let blocks = blocks::split(&tokens);
    let mut at = start;
    for (index, block) in blocks.iter().enumerate() {
        let is_last = position == Position::Last && index + 1 == blocks.len();
        let end = at + block.bytes;
        let part = huffman::Part {
            tokens: &tokens[block.tokens.clone()],
            counts: &block.counts,
            bytes: &data[at..end],
        };
        huffman::write_block(&mut writer, part, is_last);
        at = end;
    }
    match position {
        Position::Last if blocks.is_empty() => writer.stored_block(&[], true),
        Position::Last => {}
        // An empty stored block: it ends at a byte boundary, where the next piece begins.
        Position::Inner => writer.stored_block(&[], false),
    }
    writer.finish();
}
