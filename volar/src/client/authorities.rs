//! The certificates that vouch for volantd's own, where they are not those of the host. Reads no file.

use reqwest::Certificate;

/// Certificates of authorities. `Debug` tells how many.
#[derive(Clone)]
pub struct Authorities(Vec<Certificate>);

impl Authorities {
    /// The certificates in a PEM text (RFC 7468). Nothing if there is none, or one that cannot be read.
    pub fn from_pem(pem: &[u8]) -> Option<Self> {
        let certificates = Certificate::from_pem_bundle(pem).ok()?;
        (!certificates.is_empty()).then_some(Self(certificates))
    }

    pub(super) fn certificates(self) -> Vec<Certificate> {
        self.0
    }
}

impl std::fmt::Debug for Authorities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Authorities({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_certificates_is_none() {
        for text in ["", "hello", "-----BEGIN CERTIFICATE-----\nx"] {
            assert!(Authorities::from_pem(text.as_bytes()).is_none(), "{text}");
        }
    }
}
