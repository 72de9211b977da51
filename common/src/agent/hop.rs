//! What of a message's head is for one connection only, for all that pass messages of a guest on. Strings only: whoever passes on has its own
//! types of headers.

/// Fields that end at whoever passes a message on, besides those that `Connection` names (RFC 9110 §7.6.1); a proxy's question for a password
/// is its own, too (§11.7.1).
pub const HOP_BY_HOP: [&str; 7] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// The names in the values of `Connection` fields, which are lists (RFC 9110 §7.6.1).
pub fn connection_options<'a>(
    values: impl Iterator<Item = &'a str>,
) -> impl Iterator<Item = &'a str> {
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// Whether the values of `Connection` fields name `Upgrade`, without which the field of that name means nothing (RFC 9110 §7.8).
pub fn names_upgrade<'a>(values: impl Iterator<Item = &'a str>) -> bool {
    connection_options(values).any(|name| name.eq_ignore_ascii_case("upgrade"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_in_lists() {
        let values = ["close, X-Mine", "x-other"];
        let found: Vec<_> = connection_options(values.into_iter()).collect();
        assert_eq!(found, ["close", "X-Mine", "x-other"]);
    }

    #[test]
    fn an_upgrade_is_named_in_any_case() {
        let table = [
            (&["keep-alive, Upgrade"][..], true),
            (&["keep-alive", "upgrade"], true),
            (&["keep-alive"], false),
            (&["upgrades"], false),
            (&[], false),
        ];
        for (values, expected) in table {
            assert_eq!(
                names_upgrade(values.iter().copied()),
                expected,
                "{values:?}"
            );
        }
    }
}
