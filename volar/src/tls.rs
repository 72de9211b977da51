//! The one TLS implementation of this program. Needed before any HTTP client is made; speaks to nobody.

/// Makes `ring` the process's TLS provider. Does nothing if there is one already.
pub(crate) fn install_provider() {
    // The error is the provider that was there before: another client of this process made it.
    drop(rustls::crypto::ring::default_provider().install_default());
}
