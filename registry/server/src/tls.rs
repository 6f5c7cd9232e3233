//! The certificate of the HTTPS listener.
//!
//! Without a configured one the registry makes its own: the key once, the certificate at every start, so that it
//! always names the public URL's host. Join codes pin the key (its `SubjectPublicKeyInfo`), and the pin stays good. Once
//! devices have joined, a key that is gone is not made anew: each of them would take the registry for another's.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use orfe_platform::private::{self, PrivateFileError};
use orfe_protocol::join_code::SpkiPin;
use rcgen::PublicKeyData as _;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::TlsPem;
use crate::state_folder::KEY_FILE_MAX;

/// Why there is no usable certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error(transparent)]
    File(#[from] PrivateFileError),
    #[error("{} holds no key in PEM", path.display())]
    Key { path: PathBuf },
    #[error("{} is gone, while devices have joined the registry", path.display())]
    KeyGone { path: PathBuf },
    #[error("a certificate could not be made")]
    Make(#[source] rcgen::Error),
    #[error("the configured certificate or its key is no PEM")]
    Pem(#[source] rustls_pki_types::pem::Error),
    #[error("certificate and key cannot be used")]
    Use(#[source] rustls::Error),
}

impl TlsError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::File(error) => error.hint(),
            Self::Key { .. } => {
                Some("restore the file from a backup; join codes that are out pin this key".to_owned())
            }
            Self::KeyGone { path } => Some(format!(
                "restore the file from a backup, or configure the certificate that they joined with in [tls]; a new key, as \
                 `(umask 077; openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {})` makes one, means that \
                 every device joins again",
                path.display()
            )),
            Self::Pem(_) | Self::Use(_) => Some("see `certificate_file` and `key_file` in [tls]".to_owned()),
            Self::Make(_) => None,
        }
    }
}

/// How the listener speaks TLS, and what join codes pin.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    pub(crate) server: Arc<rustls::ServerConfig>,
    /// None when the certificate is configured: then devices check it against their system's authorities.
    pub(crate) pin: Option<SpkiPin>,
}

/// Uses the configured certificate.
pub(crate) fn configured(pem: &TlsPem) -> Result<Tls, TlsError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem.certificate_chain)
        .collect::<Result<_, _>>()
        .map_err(TlsError::Pem)?;
    let key = PrivateKeyDer::from_pem_slice(&pem.private_key).map_err(TlsError::Pem)?;
    Ok(Tls {
        server: server(chain, key)?,
        pin: None,
    })
}

/// Uses a certificate of our own for `host`, with the key that is kept in `folder`. It is made where none is, unless
/// devices have `joined` already.
pub(crate) fn own(folder: &Path, host: &str, joined: bool) -> Result<Tls, TlsError> {
    let key = own_key(&folder.join("tls.key"), joined)?;
    let mut names = vec![host.trim_matches(['[', ']']).to_owned()];
    for name in ["localhost", "127.0.0.1", "::1"] {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    let mut params = rcgen::CertificateParams::new(names).map_err(TlsError::Make)?;
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "Orfe registry");
    let certificate = params.self_signed(&key).map_err(TlsError::Make)?;
    private::write(&folder.join("tls.pem"), certificate.pem().as_bytes())?;
    let pin = SpkiPin::of(&key.subject_public_key_info());
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    Ok(Tls {
        server: server(vec![certificate.der().clone()], key)?,
        pin: Some(pin),
    })
}

fn own_key(path: &Path, joined: bool) -> Result<rcgen::KeyPair, TlsError> {
    match private::read(path, KEY_FILE_MAX) {
        Ok(bytes) => {
            let bytes = zeroize::Zeroizing::new(bytes);
            let text = std::str::from_utf8(&bytes).ok();
            text.and_then(|text| rcgen::KeyPair::from_pem(text).ok())
                .ok_or_else(|| TlsError::Key {
                    path: path.to_owned(),
                })
        }
        Err(error) if error.is_not_found() && joined => Err(TlsError::KeyGone {
            path: path.to_owned(),
        }),
        Err(error) if error.is_not_found() => {
            let key = rcgen::KeyPair::generate().map_err(TlsError::Make)?;
            private::write(path, zeroize::Zeroizing::new(key.serialize_pem()).as_bytes())?;
            Ok(key)
        }
        Err(error) => Err(error.into()),
    }
}

fn server(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Use)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(TlsError::Use)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pin_outlives_restarts_and_a_new_name() {
        let folder = tempfile::tempdir().unwrap();
        let first = own(folder.path(), "orfe.example.com", false).unwrap();
        let second = own(folder.path(), "[2001:db8::1]", false).unwrap();
        assert!(first.pin.is_some());
        assert_eq!(first.pin, second.pin);
    }

    #[test]
    fn a_configured_certificate_is_used_and_not_pinned() {
        let folder = tempfile::tempdir().unwrap();
        own(folder.path(), "orfe.example.com", false).unwrap();
        let read = |name| std::fs::read(folder.path().join(name)).unwrap();
        let pem = TlsPem {
            certificate_chain: read("tls.pem"),
            private_key: read("tls.key").into(),
        };
        assert!(configured(&pem).unwrap().pin.is_none());

        let swapped = TlsPem {
            certificate_chain: b"no".to_vec(),
            private_key: read("tls.key").into(),
        };
        assert!(configured(&swapped).is_err());
        let other = tempfile::tempdir().unwrap();
        own(other.path(), "orfe.example.com", false).unwrap();
        let foreign = std::fs::read(other.path().join("tls.key")).unwrap();
        let mixed = TlsPem {
            certificate_chain: read("tls.pem"),
            private_key: foreign.into(),
        };
        assert!(matches!(configured(&mixed), Err(TlsError::Use(_))));
    }

    #[test]
    fn a_key_that_is_gone_is_not_made_anew_once_devices_have_joined() {
        let folder = tempfile::tempdir().unwrap();
        let first = own(folder.path(), "localhost", false).unwrap();
        assert_eq!(own(folder.path(), "localhost", true).unwrap().pin, first.pin);
        let path = folder.path().join("tls.key");
        std::fs::remove_file(&path).unwrap();

        let error = own(folder.path(), "localhost", true).unwrap_err();

        assert!(matches!(error, TlsError::KeyGone { .. }), "{error}");
        let hint = error.hint().unwrap();
        assert!(hint.contains("backup") && hint.contains("joins again"), "{hint}");
        assert!(!path.exists());
    }

    #[test]
    fn a_key_that_cannot_be_read_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        private::write(&folder.path().join("tls.key"), b"no key").unwrap();
        assert!(matches!(
            own(folder.path(), "localhost", false),
            Err(TlsError::Key { .. })
        ));
    }
}
