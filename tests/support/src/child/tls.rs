//! The child's TLS: roots as Go finds them on Linux, and error texts as Go words them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use rustls::{CertificateError, ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::Environment;

/// Where Go looks on Linux when the variables do not say.
const FILES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
const FOLDERS: &[&str] = &["/etc/ssl/certs", "/etc/pki/tls/certs"];

/// A client configuration with the roots of `SSL_CERT_FILE` and `SSL_CERT_DIR` (colon-separated), each of which stands
/// for the system's own file or folders when it is set.
pub(super) fn client_config(environment: &Environment) -> Result<Arc<ClientConfig>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    let files: Vec<PathBuf> = match environment.get("SSL_CERT_FILE") {
        Some(file) => vec![PathBuf::from(file)],
        None => FILES
            .iter()
            .map(PathBuf::from)
            .filter(|file| file.is_file())
            .take(1)
            .collect(),
    };
    for file in files {
        add_file(&mut roots, &file);
    }
    let folders: Vec<PathBuf> = match environment.get("SSL_CERT_DIR") {
        Some(list) => std::env::split_paths(list).collect(),
        // Folders repeat what a file has; they are read only where there was none.
        None if roots.is_empty() => FOLDERS.iter().map(PathBuf::from).collect(),
        None => Vec::new(),
    };
    for entry in folders
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .flatten()
    {
        add_file(&mut roots, &entry.path());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Files that cannot be read, and certificates in them that cannot be used, are passed over, as Go does.
fn add_file(roots: &mut RootCertStore, file: &Path) {
    if let Ok(certificates) = CertificateDer::pem_file_iter(file) {
        roots.add_parsable_certificates(certificates.flatten());
    }
}

/// Go's words for a failed handshake with `host`.
pub(super) fn error_text(error: &io::Error, host: &str) -> String {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidMessage(_)) => {
            "tls: first record does not look like a TLS handshake".to_owned()
        }
        Some(rustls::Error::InvalidCertificate(problem)) => {
            let why = match problem {
                // A root of the same name with another key is what Go calls unknown, too.
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    "certificate signed by unknown authority".to_owned()
                }
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    format!("certificate is not valid for any names, but wanted to match {host}")
                }
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "certificate has expired or is not yet valid".to_owned()
                }
                other => other.to_string(),
            };
            format!("tls: failed to verify certificate: x509: {why}")
        }
        Some(other) => format!("tls: {other}"),
        None if error.kind() == io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
        None => error.to_string(),
    }
}
