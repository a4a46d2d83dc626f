//! From a pair of byte streams to a party that was checked: TLS, then one hello in each direction.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use rustls::pki_types::{CertificateDer, ServerName};

use crate::base::codec::{HEADER, Head, Kind};
use crate::base::{Error, NodeId, Result, Status};

use super::conn::Remote;
use super::frame::HELLO_MAX;
use super::hello::{Class, Hello, Party, Reason, Refusal, Role, shown};
use super::tls::Certificate;
use super::transport::Duplex;
use super::{Security, Shared};

/// Why there is no connection.
#[derive(Clone, Debug)]
pub(super) enum Unmet {
    Refused(Refusal),
    Failed(Error),
}

impl Unmet {
    pub fn error(&self) -> Error {
        match self {
            Unmet::Refused(refusal) => refusal.error(),
            Unmet::Failed(error) => error.clone(),
        }
    }
}

impl From<Refusal> for Unmet {
    fn from(refusal: Refusal) -> Unmet {
        Unmet::Refused(refusal)
    }
}

impl From<Error> for Unmet {
    fn from(error: Error) -> Unmet {
        Unmet::Failed(error)
    }
}

type Secured = (Box<dyn Duplex>, Option<Certificate>);

/// An alert, or a certificate that does not hold, is a refusal; a broken connection is not.
fn tls_failure(address: &str, e: &std::io::Error) -> Unmet {
    match e.kind() {
        std::io::ErrorKind::InvalidData => Refusal::new(Reason::Certificate, format!("TLS with {address}: {e}")).into(),
        _ => Unmet::Failed(Error::new(Status::Unavailable, format!("TLS with {address}: {e}"))),
    }
}

fn identity(certificates: Option<&[CertificateDer<'_>]>) -> std::result::Result<Option<Certificate>, Unmet> {
    let Some(leaf) = certificates.and_then(<[_]>::first) else {
        return Err(Refusal::new(Reason::Certificate, "the other side shows no certificate").into());
    };
    Ok(Some(Certificate::of(leaf).map_err(|e| Refusal::new(Reason::Certificate, e.message()))?))
}

async fn read_frame(wire: &mut Box<dyn Duplex>, address: &str) -> std::result::Result<(u8, Vec<u8>), Unmet> {
    let failed = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::InvalidData => tls_failure(address, &e),
        _ => Unmet::Failed(Error::new(Status::Unavailable, format!("hello of {address}: {e}"))),
    };
    let mut head = [0; HEADER];
    wire.read_exact(&mut head).await.map_err(failed)?;
    let malformed = |what: &str| Unmet::from(Refusal::new(Reason::Malformed, format!("hello of {address}: {what}")));
    let parsed = Head::parse(&head).map_err(|e| malformed(e.message()))?;
    if parsed.length > HELLO_MAX - HEADER {
        return Err(malformed(&format!("{} bytes, at most {HELLO_MAX} are taken", parsed.length)));
    }
    let mut frame = vec![0; HEADER + parsed.length];
    frame[..HEADER].copy_from_slice(&head);
    wire.read_exact(&mut frame[HEADER..]).await.map_err(failed)?;
    Ok((parsed.kind, frame))
}

async fn send_frame(wire: &mut Box<dyn Duplex>, frame: &[u8], address: &str) -> Result<()> {
    let failed = |e: std::io::Error| Error::new(Status::Unavailable, format!("hello to {address}: {e}"));
    wire.write_all(frame).await.map_err(failed)?;
    wire.flush().await.map_err(failed)
}

/// The certificate must name the cluster of this side and the party that the hello names.
fn check_certificate(own: &Hello, hello: &Hello, certificate: Option<&Certificate>) -> std::result::Result<(), Refusal> {
    match certificate {
        Some(c) if c.cluster != own.cluster => Err(Refusal::new(
            Reason::Certificate,
            format!("the certificate is good for cluster {}, this is cluster {}", shown(&c.cluster), shown(&own.cluster)),
        )),
        Some(c) if c.party != hello.party => {
            Err(Refusal::new(Reason::Certificate, format!("the certificate names {}, the hello {}", c.party, hello.party)))
        }
        _ => Ok(()),
    }
}

/// Dials `address` and introduces this process. `expected` is the node that must answer.
pub(super) async fn dial(
    shared: &Shared,
    address: &str,
    expected: Option<&NodeId>,
    class: Class,
) -> std::result::Result<(Box<dyn Duplex>, Remote), Unmet> {
    if matches!(shared.security, Security::Loopback) && !shared.transport.is_local(address).await {
        return Err(Error::new(
            Status::InvalidArgument,
            format!("{address} is not a loopback address: use TLS, or choose insecure by name"),
        )
        .into());
    }
    let wire = shared.transport.dial(address).await?;
    let (mut wire, certificate): Secured = match &shared.security {
        Security::Tls(tls) => {
            let name = ServerName::IpAddress(std::net::IpAddr::from([127, 0, 0, 1]).into());
            let secured = TlsConnector::from(tls.client()).connect(name, wire).await.map_err(|e| tls_failure(address, &e))?;
            let certificate = identity(secured.get_ref().1.peer_certificates())?;
            (Box::new(secured), certificate)
        }
        Security::Loopback | Security::Insecure => (wire, None),
    };
    let own = Hello { class, to: expected.map(|id| id.as_str().to_owned()), ..shared.own() };
    send_frame(&mut wire, &own.encode(Kind::NetHello)?, address).await?;
    let (kind, frame) = read_frame(&mut wire, address).await?;
    if kind == Kind::NetRefusal as u8 {
        let Refusal { reason, message } = Refusal::decode(&frame);
        return Err(Refusal::new(reason, format!("{address} refuses: {message}")).into());
    }
    let hello = Hello::decode(Kind::NetWelcome, &frame)?;
    own.check_against(&hello)?;
    check_certificate(&own, &hello, certificate.as_ref())?;
    match (&hello.party, expected) {
        (Party::Client(_), _) => return Err(Refusal::new(Reason::WrongNode, format!("{} answers at {address}", hello.party)).into()),
        (Party::Node(id), Some(expected)) if id != expected.as_str() => {
            return Err(Refusal::new(Reason::WrongNode, format!("node {id} answers at {address}, node {expected} was expected")).into());
        }
        _ => {}
    }
    if hello.class != class {
        return Err(Refusal::new(Reason::Malformed, format!("{} answers for {:?}, not {class:?}", hello.party, hello.class)).into());
    }
    shared.admission.admit(&hello)?;
    Ok((wire, Remote { hello, address: address.to_owned(), certificate }))
}

/// Takes the introduction of a dialler; answers it, also when it is refused.
pub(super) async fn accept(shared: &Shared, wire: Box<dyn Duplex>, address: &str) -> std::result::Result<(Box<dyn Duplex>, Remote), Unmet> {
    let (mut wire, certificate): Secured = match &shared.security {
        Security::Tls(tls) => {
            let secured = TlsAcceptor::from(tls.server()).accept(wire).await.map_err(|e| tls_failure(address, &e))?;
            let certificate = identity(secured.get_ref().1.peer_certificates());
            (Box::new(secured), certificate?)
        }
        Security::Loopback | Security::Insecure => (wire, None),
    };
    let (_, frame) = read_frame(&mut wire, address).await?;
    let own = shared.own();
    let judged = judge(shared, &own, &frame, certificate.as_ref());
    match judged {
        Ok(hello) => {
            let welcome = Hello { class: hello.class, ..own }.encode(Kind::NetWelcome)?;
            send_frame(&mut wire, &welcome, address).await?;
            Ok((wire, Remote { hello, address: address.to_owned(), certificate }))
        }
        Err(refusal) => {
            send_frame(&mut wire, &refusal.encode(), address).await?;
            // The dialler has sent nothing that is unread, so closing does not overtake the refusal.
            drop(wire.shutdown().await);
            Err(refusal.into())
        }
    }
}

fn judge(shared: &Shared, own: &Hello, frame: &[u8], certificate: Option<&Certificate>) -> std::result::Result<Hello, Refusal> {
    let hello = Hello::decode(Kind::NetHello, frame)?;
    own.check_against(&hello)?;
    if let (Some(to), Party::Node(me)) = (&hello.to, &own.party)
        && to != me
    {
        return Err(Refusal::new(Reason::WrongNode, format!("this is node {me}, not {}", shown(to))));
    }
    check_certificate(own, &hello, certificate)?;
    if hello.role == Role::Client && shared.is_full() {
        return Err(Refusal::new(Reason::Busy, format!("{} connections are open, which is the limit", shared.settings.max_connections)));
    }
    if hello.party == own.party && hello.boot != own.boot {
        return Err(Refusal::new(Reason::Twin, format!("this is {} too, another process of it", own.party)));
    }
    shared.admission.admit(&hello)?;
    Ok(hello)
}
