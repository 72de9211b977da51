//! Certificates for tests, made when they are needed: an authority, and one that it signs for this host. Just enough DER (ITU-T X.690) for
//! X.509 version 3 (RFC 5280) with Ed25519 (RFC 8410).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rustls::pki_types::pem::{PemObject as _, SectionKind};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT_ID: u8 = 0x06;
const UTF8: u8 = 0x0c;
const GENERALIZED_TIME: u8 = 0x18;

/// 1.3.101.112: RFC 8410 §3.
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
/// 2.5.4.3: commonName.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// 2.5.29.17 and 2.5.29.19: RFC 5280 §4.2.1.6 and §4.2.1.9.
const ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];

/// An authority.
pub(crate) struct Authority {
    name: &'static str,
    key: Ed25519KeyPair,
    der: Vec<u8>,
}

/// A certificate and its key.
pub(crate) struct Identity {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: PrivatePkcs8KeyDer<'static>,
}

impl Authority {
    pub(crate) fn new(name: &'static str) -> Self {
        let (key, _) = new_key();
        let is_authority = extension(BASIC_CONSTRAINTS, &tlv(SEQUENCE, &[&[0x01, 0x01, 0xff]]));
        let der = certificate((name, &key), (name, &key), "20991231235959Z", &is_authority);
        Self { name, key, der }
    }

    /// What a user gets of it.
    pub(crate) fn pem(&self) -> String {
        let body = STANDARD.encode(&self.der);
        format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    }

    /// A certificate for `localhost` and 127.0.0.1, until `end` (as `YYYYMMDDhhmmssZ`).
    pub(crate) fn sign(&self, end: &str) -> Identity {
        let (key, pkcs8) = new_key();
        let names = [tlv(0x82, &[b"localhost"]), tlv(0x87, &[&[127, 0, 0, 1]])];
        let names = extension(ALT_NAME, &tlv(SEQUENCE, &[&names[0], &names[1]]));
        let der = certificate((self.name, &self.key), ("volantd", &key), end, &names);
        Identity {
            certificate: CertificateDer::from(der),
            key: PrivatePkcs8KeyDer::from(pkcs8),
        }
    }
}

fn new_key() -> (Ed25519KeyPair, Vec<u8>) {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    let key = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
    (key, pkcs8.as_ref().to_vec())
}

fn certificate(
    issuer: (&str, &Ed25519KeyPair),
    subject: (&str, &Ed25519KeyPair),
    end: &str,
    extensions: &[u8],
) -> Vec<u8> {
    let algorithm = tlv(SEQUENCE, &[&tlv(OBJECT_ID, &[ED25519])]);
    let key = bits(subject.1.public_key().as_ref());
    let begin = tlv(GENERALIZED_TIME, &[b"20000101000000Z"]);
    let tbs = tlv(
        SEQUENCE,
        &[
            &tlv(0xa0, &[&tlv(INTEGER, &[&[2]])]),
            &tlv(INTEGER, &[&[1]]),
            &algorithm,
            &name(issuer.0),
            &tlv(
                SEQUENCE,
                &[&begin, &tlv(GENERALIZED_TIME, &[end.as_bytes()])],
            ),
            &name(subject.0),
            &tlv(SEQUENCE, &[&algorithm, &key]),
            &tlv(0xa3, &[&tlv(SEQUENCE, &[extensions])]),
        ],
    );
    let signature = bits(issuer.1.sign(&tbs).as_ref());
    tlv(SEQUENCE, &[&tbs, &algorithm, &signature])
}

fn name(text: &str) -> Vec<u8> {
    let attribute = [
        tlv(OBJECT_ID, &[COMMON_NAME]),
        tlv(UTF8, &[text.as_bytes()]),
    ];
    let attribute = tlv(SEQUENCE, &[&attribute[0], &attribute[1]]);
    tlv(SEQUENCE, &[&tlv(SET, &[&attribute])])
}

fn extension(id: &[u8], value: &[u8]) -> Vec<u8> {
    let value = tlv(OCTET_STRING, &[value]);
    tlv(SEQUENCE, &[&tlv(OBJECT_ID, &[id]), &value])
}

fn bits(bytes: &[u8]) -> Vec<u8> {
    tlv(BIT_STRING, &[&[0], bytes])
}

/// One value: tag, length (X.690 §8.1.3), content.
fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut out = vec![tag];
    match u8::try_from(content.len()) {
        Ok(length @ 0..=127) => out.push(length),
        Ok(length) => out.extend([0x81, length]),
        Err(_) => {
            out.push(0x82);
            out.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
        }
    }
    out.extend(content);
    out
}

#[test]
fn what_is_made_can_be_read() {
    let authority = Authority::new("a");
    let (kind, der) = <(SectionKind, Vec<u8>)>::from_pem_slice(authority.pem().as_bytes()).unwrap();
    assert!(kind == SectionKind::Certificate && der == authority.der);
}
