//! TLS: the service's own certificate, and whom it believes as a client.
//!
//! Purpose: turn files into what rustls needs, with errors that an operator can act on.
//!
//! Invariants: TLS 1.2 and later only; what is in a key file reaches neither a log nor an error; a
//! certificate that can't be read again leaves the one before in force. Cryptography is ring's: it
//! builds with a C compiler alone, in seconds, where aws-lc takes minutes.
//!
//! Refuses to know: sockets, settings.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};

/// What may be spoken over TLS, the best first (RFC 7301).
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Why TLS is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file can't be read.
    #[error("{} can't be read: {reason}", .path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// A file is not what it should be.
    #[error("{} has no {what} in PEM", .path.display())]
    Missing {
        /// Which.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// The files don't go together, or can't be used.
    #[error("{} and {} can't be used: {reason}", .certificates.display(), .key.display())]
    Unusable {
        /// The file of the certificates.
        certificates: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A certificate of an authority is none.
    #[error("{} has a certificate that can't be used: {reason}", .path.display())]
    BadAuthority {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Nobody is trusted on this machine.
    #[error("this machine has no certificates of authorities; name those to trust in a file")]
    NobodyTrusted,
    /// What the library refuses.
    #[error("TLS can't be set up: {0}")]
    Library(#[from] rustls::Error),
}

/// The service's own certificate, which may be replaced while it runs.
pub struct Certificate {
    certificates: PathBuf,
    key: PathBuf,
    config: RwLock<Arc<ServerConfig>>,
}

/// The paths only.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("certificates", &self.certificates)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl Certificate {
    /// From the PEM files of the chain, its own certificate first, and of the private key.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn open(certificates: PathBuf, key: PathBuf) -> Result<Self, Error> {
        let config = server(&certificates, &key)?;
        Ok(Self {
            certificates,
            key,
            config: RwLock::new(Arc::new(config)),
        })
    }

    /// Reads the files again, for connections to come.
    ///
    /// # Errors
    /// As [`Certificate::open`]; the certificate before stays in force.
    pub fn reload(&self) -> Result<(), Error> {
        let config = Arc::new(server(&self.certificates, &self.key)?);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// For the next connection.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn server(certificates: &Path, key: &Path) -> Result<ServerConfig, Error> {
    let chain = read_certificates(certificates)?;
    let secret =
        PrivateKeyDer::from_pem_file(key).map_err(|error| unread(key, "private key", error))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(|error| Error::Unusable {
            certificates: certificates.to_owned(),
            key: key.to_owned(),
            reason: match error {
                rustls::Error::InconsistentKeys(_) => {
                    "the key is not that of the first certificate".to_owned()
                }
                other => other.to_string(),
            },
        })?;
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    Ok(config)
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let unread = |error| unread(path, "certificate", error);
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .map_err(unread)?
        .collect();
    match found.map_err(unread)? {
        none if none.is_empty() => Err(unread(pem::Error::NoItemsFound)),
        found => Ok(found),
    }
}

/// What the library says of a file may quote it.
fn unread(path: &Path, what: &'static str, error: pem::Error) -> Error {
    let path = path.to_owned();
    match error {
        pem::Error::Io(error) => Error::Unreadable {
            path,
            reason: error.to_string(),
        },
        _ => Error::Missing { path, what },
    }
}

/// A client that believes the authorities in a file, or else those that this machine trusts (also
/// named by `SSL_CERT_FILE` and `SSL_CERT_DIR`).
///
/// # Errors
/// No such file, or nobody to believe.
pub fn client(authorities: Option<&Path>) -> Result<ClientConfig, Error> {
    let mut roots = RootCertStore::empty();
    match authorities {
        Some(path) => {
            for certificate in read_certificates(path)? {
                roots
                    .add(certificate)
                    .map_err(|error| Error::BadAuthority {
                        path: path.to_owned(),
                        reason: error.to_string(),
                    })?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs().certs;
            // Old ones that can't be read are of no use anyway.
            roots.add_parsable_certificates(found);
        }
    }
    if roots.is_empty() {
        return Err(Error::NobodyTrusted);
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// A client that believes everybody: for a probe of this very machine, which tells nothing and believes
/// nothing but that somebody answers. The certificate's name is that of the outside, and its file may
/// be newer than the one in use.
///
/// # Errors
/// What the library refuses.
pub fn unquestioning_client() -> Result<ClientConfig, Error> {
    let provider = provider();
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    Ok(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
