//! What clients of the Go system send where they mean nothing, or mean it in another way: empty texts and zeros, names in capitals, ports as
//! texts. Only for `deserialize_with`; a member that is not there or `null` is none as well.

use std::fmt::Display;
use std::str::FromStr;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

use crate::digest::Digest;
use crate::manifest::RootfsFormat;
use crate::name::Name;

/// A text, unless it is empty.
pub(in crate::api) fn text<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text.filter(|text| !text.trim().is_empty()))
}

/// The name of a plugin, in whatever case.
pub(in crate::api) fn plugin<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Name>, D::Error> {
    let text = text(deserializer)?.map(|text| text.trim().to_ascii_lowercase());
    parsed(text.as_deref())
}

/// A number, unless it is 0.
pub(in crate::api) fn number<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u32>, D::Error> {
    let number = Option::<u32>::deserialize(deserializer)?;
    Ok(number.filter(|number| *number != 0))
}

/// A port, as a number or as a text.
pub(in crate::api) fn port<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u16>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a port from 1 to 65535, as a number or a text")]
    enum Port {
        Number(u16),
        Text(String),
    }
    let port = match Option::<Port>::deserialize(deserializer)? {
        None => None,
        Some(Port::Number(port)) => Some(port),
        Some(Port::Text(text)) if text.trim().is_empty() => None,
        Some(Port::Text(text)) => {
            let wrong = |_| D::Error::custom("a port is a number from 1 to 65535");
            Some(text.trim().parse().map_err(wrong)?)
        }
    };
    Ok(port.filter(|port| *port != 0))
}

/// A digest, unless it is empty.
pub(super) fn digest<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Digest>, D::Error> {
    parsed(text(deserializer)?.as_deref())
}

/// A file system. `raw` says how a disk is stored, and nothing about what is on it.
pub(super) fn format<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<RootfsFormat>, D::Error> {
    let text = text(deserializer)?.filter(|text| text != "raw");
    let known = RootfsFormat::ALL.into_iter();
    text.map(|text| {
        let found = known.clone().find(|format| format.as_str() == text);
        found.ok_or_else(|| D::Error::custom("write `erofs`, `ext4` or `squashfs`"))
    })
    .transpose()
}

fn parsed<T: FromStr<Err: Display>, E: Error>(text: Option<&str>) -> Result<Option<T>, E> {
    text.map(|text| text.trim().parse().map_err(E::custom))
        .transpose()
}
