//! TLS 1.3 with certificates on both sides, from files that may be replaced while running.
//!
//! Who the peer is stands in its certificate ([`Certificate`]), not in a DNS name; [`super::handshake`] compares it with the hello.
//! Sessions are not resumed, so that every connection shows a certificate that is good at that time.

use std::fmt;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};

use crate::base::{Clock, Error, Result, Status};

pub use super::cert::Certificate;
use super::hello::Party;

/// The largest file read.
const FILE_MAX: u64 = 1 << 20;
const ALPN: &[u8] = b"tenure/1";

/// Where the certificates are, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates of those who may sign certificates of this cluster.
    pub authorities: PathBuf,
    /// This process's certificate, and the intermediate ones after it.
    pub certificate: PathBuf,
    /// Its private key. Refused when others than owner and group may read it.
    pub key: PathBuf,
}

/// What changes when a file is replaced or rewritten: device, inode, size, mtime.
type Stamp = (u64, u64, u64, i64, i64);

struct Loaded {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    own: Certificate,
    stamps: [Stamp; 3],
}

/// The certificates in use. Any thread may call any method.
pub struct Tls {
    files: TlsFiles,
    cluster: String,
    party: Party,
    clock: Arc<dyn Clock>,
    loaded: Mutex<Arc<Loaded>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tls({:?})", self.files)
    }
}

#[derive(Debug)]
struct Now(Arc<dyn Clock>);

impl TimeProvider for Now {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_nanos(self.0.realtime_ns())))
    }
}

/// Checks the chain and leaves the name to us: there is no host name to compare.
#[derive(Debug)]
struct ChainVerifier {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ChainVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 is spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn read(path: &Path, secret: bool) -> Result<(Vec<u8>, Stamp)> {
    let failed = |e: std::io::Error| Error::io(path.display(), &e);
    let file = fs::File::open(path).map_err(failed)?;
    let about = file.metadata().map_err(failed)?;
    if secret && about.permissions().mode() & 0o007 != 0 {
        return Err(Error::new(Status::Refused, format!("{}: a private key that everybody may use", path.display())));
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX).read_to_end(&mut bytes).map_err(failed)?;
    Ok((bytes, stamp_of(&about)))
}

fn stamp_of(about: &fs::Metadata) -> Stamp {
    (about.dev(), about.ino(), about.size(), about.mtime(), about.mtime_nsec())
}

fn load(files: &TlsFiles, clock: &Arc<dyn Clock>) -> Result<Loaded> {
    let wrong = |path: &Path, what: &dyn fmt::Display| Error::new(Status::Refused, format!("{}: {what}", path.display()));
    let (authorities, a) = read(&files.authorities, false)?;
    let (chain, c) = read(&files.certificate, false)?;
    let (key, k) = read(&files.key, true)?;

    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(&authorities) {
        let root = root.map_err(|e| wrong(&files.authorities, &e))?;
        roots.add(root).map_err(|e| wrong(&files.authorities, &e))?;
    }
    if roots.is_empty() {
        return Err(wrong(&files.authorities, &"no certificate in it"));
    }
    let roots = Arc::new(roots);
    let chain =
        CertificateDer::pem_slice_iter(&chain).collect::<std::result::Result<Vec<_>, _>>().map_err(|e| wrong(&files.certificate, &e))?;
    let Some(leaf) = chain.first() else { return Err(wrong(&files.certificate, &"no certificate in it")) };
    let own = Certificate::of(leaf).map_err(|e| wrong(&files.certificate, &e.message()))?;
    // The cause stays out of the message: nothing of a key file may end up in a log.
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| wrong(&files.key, &"no private key in PEM form"))?;

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let signer = provider.key_provider.load_private_key(key.clone_key()).map_err(|_| wrong(&files.key, &"an unusable private key"))?;
    CertifiedKey::new(chain.clone(), signer).keys_match().map_err(|_| wrong(&files.key, &"not the key of the certificate"))?;

    let now: Arc<dyn TimeProvider> = Arc::new(Now(clock.clone()));
    let failed = |e: &dyn fmt::Display| Error::new(Status::Refused, format!("TLS: {e}"));
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build().map_err(|e| failed(&e))?;
    let mut server = ServerConfig::builder_with_details(provider.clone(), now.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| failed(&e))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(|e| failed(&e))?;
    server.alpn_protocols = vec![ALPN.to_vec()];
    server.send_tls13_tickets = 0;
    let mut client = ClientConfig::builder_with_details(provider.clone(), now)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| failed(&e))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ChainVerifier { roots, provider }))
        .with_client_auth_cert(chain, key)
        .map_err(|e| failed(&e))?;
    client.alpn_protocols = vec![ALPN.to_vec()];
    client.resumption = Resumption::disabled();
    client.enable_sni = false;
    Ok(Loaded { server: Arc::new(server), client: Arc::new(client), own, stamps: [a, c, k] })
}

impl Tls {
    /// Loads the files for `party` of `cluster`.
    ///
    /// # Errors
    /// [`Status::Io`] for a file that cannot be read; [`Status::Refused`] when the certificate names another party or cluster,
    /// has expired, or does not fit its key. The message names the file.
    pub fn open(files: TlsFiles, cluster: &str, party: &Party, clock: Arc<dyn Clock>) -> Result<Tls> {
        let loaded = load(&files, &clock)?;
        let tls = Tls { files, cluster: cluster.to_owned(), party: party.clone(), clock, loaded: Mutex::new(Arc::new(loaded)) };
        tls.check(&tls.current().own)?;
        Ok(tls)
    }

    fn current(&self) -> Arc<Loaded> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Loaded>> {
        // One pointer is stored under the lock; it is whole in any case.
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, own: &Certificate) -> Result<()> {
        let wrong = |what: String| Error::new(Status::Refused, format!("{}: {what}", self.files.certificate.display()));
        if own.cluster != self.cluster || own.party != self.party {
            return Err(wrong(format!("the certificate of {own}, not of {} of cluster {}", self.party, self.cluster)));
        }
        if self.expires_in_s(own) <= 0 {
            return Err(wrong(format!("expired {} s ago", -self.expires_in_s(own))));
        }
        Ok(())
    }

    fn expires_in_s(&self, own: &Certificate) -> i64 {
        let now = self.clock.realtime_ns() / 1_000_000_000;
        i64::try_from(own.not_after_s).unwrap_or(i64::MAX).saturating_sub(i64::try_from(now).unwrap_or(i64::MAX))
    }

    /// Takes over files that have changed since they were read; whether they had. On an error, for instance because only one of
    /// certificate and key has been replaced so far, the old ones stay in use.
    ///
    /// # Errors
    /// As [`Tls::open`].
    pub fn reload(&self) -> Result<bool> {
        let stamps = self.current().stamps;
        let paths = [&self.files.authorities, &self.files.certificate, &self.files.key];
        let changed = paths.iter().zip(stamps).any(|(path, stamp)| fs::metadata(path).map_or(true, |about| stamp_of(&about) != stamp));
        if changed {
            let loaded = load(&self.files, &self.clock)?;
            self.check(&loaded.own)?;
            *self.lock() = Arc::new(loaded);
        }
        Ok(changed)
    }

    /// Seconds until this process's certificate expires; negative afterwards.
    pub fn expiry_s(&self) -> i64 {
        self.expires_in_s(&self.current().own)
    }

    pub(super) fn server(&self) -> Arc<ServerConfig> {
        self.current().server.clone()
    }

    pub(super) fn client(&self) -> Arc<ClientConfig> {
        self.current().client.clone()
    }

    /// Whole seconds for which `certificate` is still good.
    pub(super) fn good_for(&self, certificate: &Certificate) -> Duration {
        Duration::from_secs(u64::try_from(self.expires_in_s(certificate)).unwrap_or(0))
    }
}
