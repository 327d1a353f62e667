//! The cryptography behind TLS.

use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;

/// The cryptography that every TLS configuration of the bundle is built with. Changing it is a change of this line.
pub fn tls_provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER
        .get_or_init(|| Arc::new(rustls::crypto::ring::default_provider()))
        .clone()
}
