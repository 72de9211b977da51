//! `fledge.toml` and `manifest.toml`: whatever is written there gives a build spec or sentences, never a panic.
#![no_main]

use common::build_spec::{BuildSpec, ManifestTemplate};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    drop(BuildSpec::parse(text));
    drop(ManifestTemplate::from_toml(text));
});
