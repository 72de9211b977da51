//! The agent of a release: the one that was shipped beside this program, else a download that the release's own list of checksums
//! vouches for. Without a checksum nothing is used.

use std::path::{Path, PathBuf};

use common::build_spec::ReleaseVersion;
use common::digest::Digest;

use super::{FetchError, Fetcher};
use crate::image::elf::{self, Program};

/// Where Volant's releases are.
pub const RELEASES_URL: &str = "https://github.com/volantvm/volant/releases";

/// The agent's file in a release and beside this program.
const AGENT_NAME: &str = "kestrel";

/// The list of checksums in a release, as sha256sum(1) writes it.
const CHECKSUMS_NAME: &str = "checksums.txt";

/// The largest list of checksums, in bytes. A line has about a hundred.
const MAX_CHECKSUMS_BYTES: u64 = 1024 * 1024;

/// The agent beside this program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shipped {
    /// The version of this program, which is that of the agent beside it, without `v`.
    pub version: &'static str,
    /// Where it is, if it is there.
    pub path: Option<PathBuf>,
}

impl Shipped {
    /// Looks beside `program`. What is there counts only if a guest can run it: a developer's own build may not be static.
    pub fn beside(program: Option<&Path>) -> Self {
        let path = program
            .and_then(Path::parent)
            .map(|directory| directory.join(AGENT_NAME))
            .filter(|path| is_static(path));
        Self {
            version: env!("CARGO_PKG_VERSION"),
            path,
        }
    }

    fn serves(&self, version: &ReleaseVersion) -> Option<&Path> {
        let fits = match version {
            ReleaseVersion::Latest => true,
            ReleaseVersion::Tag(tag) => tag.strip_prefix('v').unwrap_or(tag) == self.version,
        };
        self.path.as_deref().filter(|_| fits)
    }
}

fn is_static(path: &Path) -> bool {
    let program = fs_err::File::open(path).and_then(|mut file| elf::inspect(&mut file));
    matches!(program, Ok(Program::Static { .. }))
}

impl Fetcher<'_> {
    /// The agent of a release.
    pub(super) async fn agent(
        &self,
        version: &ReleaseVersion,
        checksum: Option<Digest>,
    ) -> Result<PathBuf, FetchError> {
        if let Some(path) = self.shipped.serves(version) {
            let found = super::cache::digest_of(path)?;
            if checksum.is_none_or(|expected| expected == found) {
                self.ui
                    .detail(&format!("{AGENT_NAME}: {} ({found})", path.display()));
                return Ok(path.to_path_buf());
            }
        }
        let base = match version {
            ReleaseVersion::Latest => format!("{}/latest/download", self.releases_url),
            ReleaseVersion::Tag(tag) => format!("{}/download/{tag}", self.releases_url),
        };
        let checksum = match checksum {
            Some(checksum) => checksum,
            None => {
                self.listed_checksum(&format!("{base}/{CHECKSUMS_NAME}"))
                    .await?
            }
        };
        let url = format!("{base}/{AGENT_NAME}");
        if *version == ReleaseVersion::Latest {
            self.ui.note(&format!(
                "The agent is that of the latest release, {checksum}; name a version in `[agent]` to build the same image later"
            ));
        }
        self.download(AGENT_NAME, &[url], checksum).await
    }

    async fn listed_checksum(&self, url: &str) -> Result<Digest, FetchError> {
        let progress = self.ui.download(CHECKSUMS_NAME);
        let mut list = self.cache.begin()?;
        self.client
            .download(url, &mut list, MAX_CHECKSUMS_BYTES, &progress)
            .await?;
        progress.finish();
        let list = list.content().map_err(|source| FetchError::Write {
            url: url.to_owned(),
            source,
        })?;
        find_checksum(&String::from_utf8_lossy(&list), AGENT_NAME).ok_or_else(|| {
            FetchError::NoChecksum {
                url: url.to_owned(),
                name: AGENT_NAME,
            }
        })
    }
}

/// The digest of `name` in the output of sha256sum(1): digest, blank, blank or `*`, name.
fn find_checksum(list: &str, name: &str) -> Option<Digest> {
    list.lines().find_map(|line| {
        let (digest, listed) = line.split_once(' ')?;
        let listed = listed.trim_start_matches([' ', '*']).trim_end();
        if listed.strip_prefix("./").unwrap_or(listed) == name {
            digest.parse().ok()
        } else {
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_found_by_their_whole_name() {
        let digest = Digest::of(b"");
        let other = "0".repeat(64);
        let list = format!(
            "{other}  kestrel.sig\n{other}  old/kestrel\nshort  kestrel\n{}  kestrel\r\n",
            digest.to_hex()
        );
        assert_eq!(find_checksum(&list, "kestrel"), Some(digest));
        assert_eq!(
            find_checksum(&format!("{} *./kestrel", digest.to_hex()), "kestrel"),
            Some(digest)
        );
        assert_eq!(
            find_checksum(&format!("{other}  kestrel-arm64"), "kestrel"),
            None
        );
    }

    #[test]
    fn the_shipped_agent_serves_its_own_version() {
        let shipped = Shipped {
            version: "1.2.3",
            path: Some("/x".into()),
        };
        let tag = |tag: &str| ReleaseVersion::Tag(tag.to_owned());
        for (version, expected) in [
            (ReleaseVersion::Latest, true),
            (tag("v1.2.3"), true),
            (tag("1.2.3"), true),
            (tag("v1.2.4"), false),
        ] {
            assert_eq!(shipped.serves(&version).is_some(), expected, "{version:?}");
        }
    }

    #[test]
    fn only_a_static_program_counts_as_shipped() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("fledge");
        let agent = directory.path().join("kestrel");
        assert_eq!(Shipped::beside(Some(&program)).path, None);
        fs_err::write(&agent, elf::tests::elf64(3, b"/lib/ld.so\0")).unwrap();
        assert_eq!(Shipped::beside(Some(&program)).path, None);
        fs_err::write(&agent, elf::tests::elf64(1, b"")).unwrap();
        assert_eq!(Shipped::beside(Some(&program)).path, Some(agent));
    }
}
