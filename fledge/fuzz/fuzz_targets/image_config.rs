//! The config of a container image: whatever a registry gives becomes a config or a sentence, and a config a manifest's defaults.
#![no_main]

use fledge::manifest_out;
use fledge::oci::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &[u8]| {
    if let Ok(config) = Config::parse(json) {
        drop(manifest_out::defaults(&config, "image", "1.0.0"));
    }
});
