//! Writes one zstd frame (RFC 8878) on several threads, and reads frames with a bound on memory. The bytes depend on the input alone, not
//! on threads or on how it is written.
//!
//! One frame, because Linux (`init/initramfs.c`, `unpack_to_rootfs`) wants each to hold whole archives, as with gzip.
//!
//! Measured on 52 MB of a compiled library, processor time: `gzip -9` 7.4 s for 19.8 MB; zstd at level 9 2.1 s for 16.2 MB, at 12
//! 4.9 s for 15.8 MB, at 15 25 s for 15.7 MB.

use std::io::{self, BufRead, Read, Write};
use std::num::NonZeroUsize;

use ::zstd::stream::raw::CParameter;
use ::zstd::stream::read::Decoder;
use ::zstd::stream::write::Encoder;

/// How hard it is compressed: see above.
const LEVEL: i32 = 9;

/// The window, as its logarithm: 8 MiB, the largest that every decoder should support (RFC 8878 §3.1.1.1.2). Linux takes up to 128 MiB
/// (`lib/decompress_unzstd.c`), and allocates it at boot.
const WINDOW_LOG: u32 = 23;

/// How much a thread compresses at once, in bytes. Part of the format, as the window is: another size makes other bytes. With less,
/// more is lost at the borders; with more, threads have nothing to do.
const JOB_BYTES: u32 = 8 << 20;

/// How much of what is before its job a thread looks back on: a quarter of the window (`ZSTD_c_overlapLog` 7).
const OVERLAP_LOG: u32 = 7;

/// More threads than this cost memory, about 60 MiB each, and save little.
const MAX_THREADS: u32 = 8;

/// The largest window that is read, as its logarithm: 128 MiB, as much as Linux and `zstd -d` take.
const MAX_READ_WINDOW_LOG: u32 = 27;

/// Compresses what `produce` writes, and returns `out`.
///
/// # Errors
/// What `produce` returns, or that `out` cannot be written.
pub fn compress<W, E>(
    out: W,
    threads: NonZeroUsize,
    produce: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<W, E>
where
    W: Write,
    E: From<io::Error>,
{
    let threads = u32::try_from(threads.get()).map_or(MAX_THREADS, |count| count.min(MAX_THREADS));
    let mut encoder = Encoder::new(out, LEVEL)?;
    encoder.include_checksum(true)?;
    encoder.window_log(WINDOW_LOG)?;
    // Even a single one goes through the same code as several: without any, the bytes would be others.
    encoder.multithread(threads)?;
    encoder.set_parameter(CParameter::JobSize(JOB_BYTES))?;
    encoder.set_parameter(CParameter::OverlapSizeLog(OVERLAP_LOG))?;
    produce(&mut encoder)?;
    Ok(encoder.finish()?)
}

/// What is in all frames of `input`, one after the other.
///
/// # Errors
/// Where there is no memory. Reading fails on a frame with a window of more than 128 MiB, on broken data, and where something else
/// follows the last frame.
pub fn reader<R: BufRead>(input: R) -> io::Result<impl Read> {
    let mut decoder = Decoder::with_buffer(input)?;
    decoder.window_log_max(MAX_READ_WINDOW_LOG)?;
    Ok(decoder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::testing::noise;

    fn packed(data: &[u8], threads: usize, step: usize) -> Vec<u8> {
        let threads = NonZeroUsize::new(threads).unwrap();
        compress(Vec::new(), threads, |input| {
            data.chunks(step).try_for_each(|part| input.write_all(part))
        })
        .unwrap()
    }

    /// Noise, repeats of it, and text; more than two jobs.
    fn sample() -> Vec<u8> {
        let mut data = noise(3 << 20);
        data.extend_from_within(..2 << 20);
        while data.len() < 20 << 20 {
            let line = format!("line {} of the text\n", data.len() % 1000);
            data.extend_from_slice(line.as_bytes());
        }
        data
    }

    #[test]
    fn neither_threads_nor_writes_change_the_bytes() {
        let data = sample();
        let one = packed(&data, 1, data.len());
        for (threads, step) in [(1, 1000), (2, 65_536), (3, 7_777_777), (100, 4096)] {
            assert!(packed(&data, threads, step) == one, "{threads}, {step}");
        }
        let mut plain = Vec::new();
        // A decoder of one frame: what it leaves would be a second one.
        let mut decoder = Decoder::with_buffer(&one[..]).unwrap().single_frame();
        decoder.read_to_end(&mut plain).unwrap();
        assert!(decoder.finish().is_empty(), "more than one frame");
        assert!(plain == data);
    }

    #[test]
    fn small_inputs_come_back() {
        for data in [&b""[..], b"x", &noise(100_000)] {
            let mut plain = Vec::new();
            let packed = packed(data, 2, 1000);
            reader(&packed[..])
                .unwrap()
                .read_to_end(&mut plain)
                .unwrap();
            assert_eq!(plain, data);
            // A checksum follows, and the window is that of the header (RFC 8878 §3.1.1.1).
            assert_eq!(packed[4] & 0b100, 0b100);
        }
    }

    #[test]
    fn broken_frames_are_refused() {
        let good = packed(&noise(100_000), 1, 1000);
        let read = |bytes: &[u8]| reader(bytes).unwrap().read_to_end(&mut Vec::new());
        let both = [&good[..], &good].concat();
        assert_eq!(read(&both).unwrap(), 200_000);
        let mut flipped = good.clone();
        flipped[50_000] ^= 1;
        // A window of 1 GiB: exponent 20 over 1 KiB.
        let huge = [b"\x28\xb5\x2f\xfd\x00\xa0", &good[6..]].concat();
        for bytes in [
            &good[..good.len() - 1],
            &flipped,
            &huge,
            &[&good[..], b"x"].concat(),
        ] {
            assert!(read(bytes).is_err());
        }
    }

    #[test]
    fn errors_of_both_ends_arrive() {
        let threads = NonZeroUsize::MIN;
        let error = compress(Vec::new(), threads, |_| {
            Err::<(), _>(io::Error::from(io::ErrorKind::NotFound))
        });
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::NotFound);
        let mut room = [0; 1000];
        let error = compress(&mut room[..], threads, |input| {
            input.write_all(&noise(1 << 20))
        });
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::WriteZero);
    }
}
