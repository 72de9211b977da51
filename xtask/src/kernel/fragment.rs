//! Our side of the kernel's configuration: which options we ask for, and whether the kernel's own tool granted them. It
//! reads and compares text; it runs nothing and does not know what any option means.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Result, bail};

/// The options asked for, `CONFIG_X` to its value as it is written in a configuration file; `n` means off.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fragment {
    wanted: BTreeMap<String, String>,
}

/// An option that the kernel's configuration does not have as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dropped {
    pub(crate) option: String,
    pub(crate) wanted: String,
    /// What it has instead; `n` if it has nothing.
    pub(crate) got: String,
}

impl Fragment {
    /// Reads one fragment: lines of `CONFIG_X=value`, comments and blank lines, nothing else. The form
    /// `# CONFIG_X is not set` is refused, because it looks like a comment: write `CONFIG_X=n`.
    ///
    /// # Errors
    /// Names the line that is something else, or asks for an option a second time.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self> {
        let mut wanted = BTreeMap::new();
        for (line, number) in text.lines().map(str::trim).zip(1_u32..) {
            if is_hidden_request(line) {
                bail!(
                    "`{name}` line {number}: `{line}` is easily taken for a comment, write `CONFIG_…=n`"
                );
            }
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let Some((option, value)) = line
                .split_once('=')
                .filter(|(option, value)| is_option(option) && !value.is_empty())
            else {
                bail!("`{name}` line {number}: `{line}` is not of the form `CONFIG_OPTION=value`");
            };
            if wanted.insert(option.to_owned(), value.to_owned()).is_some() {
                bail!("`{name}` line {number}: `{option}` was set before in the same file");
            }
        }
        Ok(Self { wanted })
    }

    /// Puts `other` on top: where both ask for an option, `other` decides.
    pub(crate) fn overlay(&mut self, other: Self) {
        self.wanted.extend(other.wanted);
    }

    /// Renders the options in the form that `KCONFIG_ALLCONFIG` takes, sorted.
    pub(crate) fn render(&self) -> String {
        self.wanted
            .iter()
            .fold(String::new(), |mut text, (option, value)| {
                // Writing to a string cannot fail.
                let _ok = writeln!(text, "{option}={value}");
                text
            })
    }

    /// Compares with the configuration that the kernel's tool made of it.
    pub(crate) fn dropped_in(&self, resolved: &str) -> Vec<Dropped> {
        let granted: BTreeMap<&str, &str> = resolved
            .lines()
            .filter_map(|line| line.split_once('='))
            .collect();
        self.wanted
            .iter()
            .filter_map(|(option, wanted)| {
                let got = granted.get(option.as_str()).copied().unwrap_or("n");
                (got != wanted).then(|| Dropped {
                    option: option.clone(),
                    wanted: wanted.clone(),
                    got: got.to_owned(),
                })
            })
            .collect()
    }
}

fn is_option(word: &str) -> bool {
    word.strip_prefix("CONFIG_").is_some_and(|name| {
        !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    })
}

fn is_hidden_request(line: &str) -> bool {
    line.strip_prefix('#').is_some_and(|rest| {
        rest.trim_start().starts_with("CONFIG_") && rest.ends_with(" is not set")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Fragment {
        Fragment::parse("test.config", text).unwrap()
    }

    #[test]
    fn what_is_not_an_option_is_refused_by_its_line() {
        let cases = [
            ("CONFIG_A=y\nCONFIG_B", "line 2"),
            ("A=y", "line 1"),
            ("CONFIG_=y", "line 1"),
            ("CONFIG_A B=y", "line 1"),
            ("CONFIG_A=", "line 1"),
            ("# fine\n\nCONFIG_A=y\nCONFIG_A=n", "line 4"),
            ("# CONFIG_A is not set", "line 1"),
        ];
        for (text, expected) in cases {
            let message = Fragment::parse("test.config", text)
                .unwrap_err()
                .to_string();
            assert!(
                message.contains("`test.config`") && message.contains(expected),
                "{text}: {message}"
            );
        }
    }

    #[test]
    fn the_later_fragment_decides() {
        let mut fragment = parse("CONFIG_A=y\nCONFIG_B=n\nCONFIG_NAME=\"x\"");
        fragment.overlay(parse("CONFIG_B=y"));
        assert_eq!(
            fragment.render(),
            "CONFIG_A=y\nCONFIG_B=y\nCONFIG_NAME=\"x\"\n"
        );
    }

    #[test]
    fn dropped_options_are_found() {
        let fragment =
            parse("CONFIG_KEPT=y\nCONFIG_LOST=y\nCONFIG_OFF=n\nCONFIG_FORCED=n\nCONFIG_COUNT=64");
        let resolved = "# CONFIG_LOST is not set\nCONFIG_KEPT=y\n# CONFIG_OFF is not set\nCONFIG_FORCED=y\nCONFIG_COUNT=8\n";
        let dropped: Vec<String> = fragment
            .dropped_in(resolved)
            .into_iter()
            .map(|dropped| format!("{} {} {}", dropped.option, dropped.wanted, dropped.got))
            .collect();
        assert_eq!(
            dropped,
            ["CONFIG_COUNT 64 8", "CONFIG_FORCED n y", "CONFIG_LOST y n"]
        );
        assert_eq!(parse("CONFIG_ABSENT=n").dropped_in(""), []);
    }

    #[test]
    fn our_own_fragments_are_well_formed() {
        for variant in [super::super::Variant::Guest, super::super::Variant::Lab] {
            let fragment = variant.fragment().unwrap();
            assert_eq!(
                fragment.wanted.get("CONFIG_PVH").map(String::as_str),
                Some("y")
            );
            assert_eq!(
                fragment.wanted.get("CONFIG_MODULES").map(String::as_str),
                Some("n")
            );
        }
    }

    proptest! {
        #[test]
        fn rendering_and_parsing_agree(options in proptest::collection::btree_map("CONFIG_[A-Z0-9_]{1,12}", "[yn]|[0-9]{1,4}|\"[a-z]{0,8}\"", 0..20)) {
            let fragment = Fragment { wanted: options };
            prop_assert_eq!(&parse(&fragment.render()), &fragment);
            prop_assert_eq!(fragment.dropped_in(&fragment.render()), vec![]);
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC*") {
            let _result = Fragment::parse("test.config", &text);
        }
    }
}
