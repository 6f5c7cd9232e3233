//! The stand-in's certificate: read from files, or made with a CA of its own.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// Why a certificate cannot be used or made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM file cannot be read as what it should be.
    #[error("cannot read PEM file {}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls_pki_types::pem::Error,
    },
    /// Certificate and key do not make a server.
    #[error("certificate and key cannot be used together")]
    Unusable(#[source] rustls::Error),
    /// A certificate cannot be made.
    #[error("cannot make a certificate for {name}")]
    Make {
        /// The name it was to bear.
        name: String,
        /// Why.
        source: rcgen::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A certificate chain and its key.
pub struct TlsIdentity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Clone for TlsIdentity {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsIdentity")
            .field("certificates", &self.chain.len())
            .finish_non_exhaustive()
    }
}

impl TlsIdentity {
    /// Reads a chain and its key from PEM files.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let pem = |path: &Path| {
            let path = path.to_owned();
            move |source| TlsError::Pem { path, source }
        };
        let chain = CertificateDer::pem_file_iter(certificate)
            .and_then(Iterator::collect)
            .map_err(pem(certificate))?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(pem(key))?;
        Ok(Self { chain, key })
    }

    /// Makes a CA and a certificate for `name`, `localhost` and 127.0.0.1, and writes `ca.pem` into `folder`, the file
    /// for the child's `SSL_CERT_FILE`, besides `leaf.pem` and `leaf.key` (0600).
    pub fn make(folder: &Path, name: &str) -> Result<Self, TlsError> {
        let made = |source| TlsError::Make {
            name: name.to_owned(),
            source,
        };
        let ca_key = KeyPair::generate().map_err(made)?;
        let mut ca = CertificateParams::default();
        ca.distinguished_name
            .push(DnType::CommonName, "Orfe stand-in CA, for tests and the demo");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca_certificate = ca.self_signed(&ca_key).map_err(made)?;
        let issuer = Issuer::new(ca, ca_key);
        let names = [name, "localhost", "127.0.0.1"].map(str::to_owned);
        let mut leaf = CertificateParams::new(names).map_err(made)?;
        leaf.distinguished_name.push(DnType::CommonName, name);
        leaf.use_authority_key_identifier_extension = true;
        let leaf_key = KeyPair::generate().map_err(made)?;
        let leaf_certificate = leaf.signed_by(&leaf_key, &issuer).map_err(made)?;
        write(&folder.join("ca.pem"), 0o644, &ca_certificate.pem())?;
        let certificate = folder.join("leaf.pem");
        let key = folder.join("leaf.key");
        write(&certificate, 0o644, &leaf_certificate.pem())?;
        write(&key, 0o600, &leaf_key.serialize_pem())?;
        Self::read(&certificate, &key)
    }

    pub(super) fn acceptor(&self) -> Result<TlsAcceptor, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Unusable)?
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(TlsError::Unusable)?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn write(path: &Path, mode: u32, text: &str) -> Result<(), TlsError> {
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|source| TlsError::Write {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_which_file_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let identity = TlsIdentity::make(folder.path(), "coder.demo.internal").unwrap();
        assert!(identity.acceptor().is_ok());
        let (leaf, ca) = (folder.path().join("leaf.pem"), folder.path().join("ca.pem"));
        let error = TlsIdentity::read(&leaf, &ca).unwrap_err();
        assert!(error.to_string().contains("ca.pem"), "{error}");
        assert!(matches!(
            TlsIdentity::make(Path::new("/no/such"), "x"),
            Err(TlsError::Write { .. })
        ));
    }
}
