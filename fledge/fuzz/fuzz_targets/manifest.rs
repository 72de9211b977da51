//! A manifest that is accepted is written as one that is accepted and says the same.
#![no_main]

use common::manifest::Manifest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &[u8]| {
    if let Ok(manifest) = Manifest::from_json(json) {
        let again = Manifest::from_json(manifest.to_json().as_bytes());
        assert_eq!(again.as_ref(), Ok(&manifest));
    }
});
