//! The server's TLS identity, from PEM files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::embedded::TlsFiles;

/// Why TLS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not PEM of the right sort.
    #[error("cannot read {what} from {}: {message}", path.display())]
    File {
        /// Certificate chain or private key.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the parser said.
        message: String,
    },
    /// Others can read the key.
    #[error("the private key {} can be read by others; run: chmod 600 {}", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// Certificate and key do not fit each other, or are of a sort that is not supported.
    #[error("the certificate and the key cannot be used together")]
    Identity {
        /// What rustls said.
        source: rustls::Error,
    },
}

/// Reads the identity; offers HTTP/2 and HTTP/1.1 over TLS 1.2 and 1.3.
pub fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, TlsError> {
    let chain = certificates(&files.cert)?;
    check_private(&files.key)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| file("a private key", &files.key, error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let identity = |source| TlsError::Identity { source };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(identity)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(identity)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Every certificate of a PEM file; at least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |error| file("certificates", path, error);
    let chain: Vec<_> = CertificateDer::pem_file_iter(path).map_err(wrong)?.collect::<Result<_, _>>().map_err(wrong)?;
    if chain.is_empty() {
        return Err(file("certificates", path, "there is none in it"));
    }
    Ok(chain)
}

fn check_private(path: &Path) -> Result<(), TlsError> {
    use std::os::unix::fs::PermissionsExt as _;
    let meta = std::fs::metadata(path).map_err(|error| file("a private key", path, error))?;
    // A group may have it: that is how certificate managers hand keys to services.
    if meta.permissions().mode() & 0o007 != 0 {
        return Err(TlsError::Exposed { path: path.to_owned() });
    }
    Ok(())
}

fn file(what: &'static str, path: &Path, error: impl std::fmt::Display) -> TlsError {
    TlsError::File { what, path: path.to_owned(), message: error.to_string() }
}
