//! Hands scripts to `nft`. Knows nothing of their content: see `net/nft.rs`.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::super::NetError;

/// How long `nft` may take. A few rules need some milliseconds; it waits for others that change rules at the same time.
const NFT_LIMIT: Duration = Duration::from_secs(10);

/// How much of the error output of `nft` is kept, in bytes: its first message says what is wrong.
const MAX_STDERR_BYTES: u64 = 2048;

/// Where `nft` is looked for after the PATH: Debian has it where the PATH of users does not look.
const SYSTEM_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Applies `script` as one transaction: all of it or nothing.
pub(super) async fn apply(program: &Path, script: &str) -> Result<(), NetError> {
    match tokio::time::timeout(NFT_LIMIT, run(program, script)).await {
        Ok(result) => result,
        // The child is killed as it is dropped.
        Err(_elapsed) => Err(NetError::TimedOut {
            what: "`nft`",
            limit: NFT_LIMIT,
        }),
    }
}

async fn run(program: &Path, script: &str) -> Result<(), NetError> {
    let path = std::env::var("PATH").unwrap_or_default();
    let spawned = Command::new(program)
        .args(["-f", "-"])
        .env("PATH", format!("{path}:{SYSTEM_PATH}"))
        // Its messages are shown to users in one language.
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(NetError::NftMissing {
                program: program.to_path_buf(),
            });
        }
        Err(error) => return Err(NetError::NftRun(error)),
    };
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A program that ends without reading says why on its error output.
            drop(stdin.write_all(script.as_bytes()).await);
        }
    };
    let listen = async {
        let mut text = Vec::new();
        if let Some(mut stderr) = stderr {
            (&mut stderr)
                .take(MAX_STDERR_BYTES)
                .read_to_end(&mut text)
                .await?;
            // The rest is read and dropped, so that the program can write all of it and end.
            tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await?;
        }
        Ok(text)
    };
    let ((), text) = tokio::join!(feed, listen);
    let text = text.map_err(NetError::NftRun)?;
    let status = child.wait().await.map_err(NetError::NftRun)?;
    if status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&text).trim().to_owned();
    Err(NetError::NftRefused {
        stderr: if stderr.is_empty() {
            status.to_string()
        } else {
            stderr
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let missing = apply(Path::new("/nonexistent/nft"), "").await;
        let Err(error @ NetError::NftMissing { .. }) = missing else {
            panic!("{missing:?}")
        };
        assert!(error.to_string().contains("`/nonexistent/nft`"), "{error}");
        assert!(error.hints()[0].contains("nftables"));
    }

    #[tokio::test]
    async fn a_refusal_carries_what_the_program_said() {
        // A stand-in that is on every system, and has no file `-`.
        let refused = apply(Path::new("grep"), "nothing").await;
        let Err(NetError::NftRefused { stderr }) = refused else {
            panic!("{refused:?}")
        };
        assert!(!stderr.is_empty());
    }
}
