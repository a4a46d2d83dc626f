//! What a certificate says: whose it is, and until when. Its chain is checked elsewhere, by rustls.

use std::fmt;

use rustls::pki_types::CertificateDer;

use crate::base::{Error, NodeId, Result, Status};

use super::hello::{Party, shown};

const SCHEME: &str = "tenure://";

/// The identity in a certificate: its one SAN URI `tenure://<cluster>/<node>` or `tenure://<cluster>/client/<name>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The cluster it is good for.
    pub cluster: String,
    /// The party it names.
    pub party: Party,
    /// The first second at which it is no longer good, since 1970.
    pub not_after_s: u64,
}

impl Certificate {
    /// Reads a certificate.
    ///
    /// # Errors
    /// [`Status::Refused`] when it is none, or names not exactly one party of ours.
    pub fn of(der: &CertificateDer<'_>) -> Result<Certificate> {
        let refused = |what: String| Error::new(Status::Refused, format!("certificate: {what}"));
        let parsed = webpki::EndEntityCert::try_from(der).map_err(|e| refused(e.to_string()))?;
        let mut ours = parsed.valid_uri_names().filter(|uri| uri.starts_with(SCHEME));
        let Some(uri) = ours.next() else { return Err(refused(format!("no subject alternative name {SCHEME}..."))) };
        if ours.next().is_some() {
            return Err(refused(format!("more than one subject alternative name {SCHEME}...")));
        }
        let (cluster, party) = name(uri).ok_or_else(|| refused(format!("{} names nobody", shown(uri))))?;
        let not_after_s = not_after(der).ok_or_else(|| refused("its validity cannot be read".to_owned()))?;
        Ok(Certificate { cluster, party, not_after_s })
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of cluster {}", self.party, shown(&self.cluster))
    }
}

/// The URI that a certificate of `party` carries.
pub fn uri(cluster: &str, party: &Party) -> String {
    match party {
        Party::Node(id) => format!("{SCHEME}{cluster}/{id}"),
        Party::Client(name) => format!("{SCHEME}{cluster}/client/{name}"),
    }
}

fn name(uri: &str) -> Option<(String, Party)> {
    let (cluster, party) = uri.strip_prefix(SCHEME)?.split_once('/')?;
    let party = match party.strip_prefix("client/") {
        Some(name) if !name.is_empty() => Party::Client(name.to_owned()),
        None if !party.contains('/') => Party::node(&NodeId::new(party).ok()?),
        _ => return None,
    };
    (!cluster.is_empty()).then(|| (cluster.to_owned(), party))
}

/// The next DER element: tag, content, rest.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let count = usize::from(first & 0x7f);
        if count == 0 || count > 4 {
            return None;
        }
        let (bytes, rest) = rest.split_at_checked(count)?;
        (bytes.iter().fold(0, |n, b| n << 8 | usize::from(*b)), rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// Certificate -> TBSCertificate -> validity -> notAfter (RFC 5280, 4.1).
fn not_after(der: &[u8]) -> Option<u64> {
    let (_, certificate, _) = element(der)?;
    let (_, mut rest, _) = element(certificate)?;
    let (tag, _, after) = element(rest)?;
    if tag == 0xa0 {
        rest = after;
    }
    // Serial number, signature algorithm, issuer.
    for _ in 0..3 {
        rest = element(rest)?.2;
    }
    let (_, validity, _) = element(rest)?;
    let (_, _, rest) = element(validity)?;
    let (tag, time, _) = element(rest)?;
    seconds(tag, time)
}

/// UTCTime `YYMMDDHHMMSSZ` or GeneralizedTime `YYYYMMDDHHMMSSZ`, in UTC as RFC 5280 demands, in seconds since 1970.
fn seconds(tag: u8, time: &[u8]) -> Option<u64> {
    let digits = time.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |part: &[u8]| part.iter().fold(0u64, |n, d| n * 10 + u64::from(d - b'0'));
    let (year, rest) = match (tag, digits.len()) {
        (0x17, 12) => match number(&digits[..2]) {
            yy @ 50.. => (1900 + yy, &digits[2..]),
            yy => (2000 + yy, &digits[2..]),
        },
        (0x18, 14) => (number(&digits[..4]), &digits[4..]),
        _ => return None,
    };
    let [month, day, hour, minute, second] = [0, 2, 4, 6, 8].map(|at| number(&rest[at..at + 2]));
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days from civil, with the year beginning in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1;
    Some((days - 719_468) * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times() {
        assert_eq!(seconds(0x17, b"700101000000Z"), Some(0));
        assert_eq!(seconds(0x17, b"240229235959Z"), Some(1_709_251_199));
        assert_eq!(seconds(0x18, b"20500301000000Z"), Some(2_529_705_600));
        assert_eq!(seconds(0x17, b"490101000000Z"), Some(2_493_072_000));
        for bad in [&b"240229235959"[..], b"2402292359590Z", b"241329235959Z", b"xx0229235959Z", b"500101000000Z"] {
            assert_eq!(seconds(0x17, bad), None, "{bad:?}");
        }
    }

    #[test]
    fn names() {
        assert_eq!(name("tenure://c/n-1"), Some(("c".into(), Party::Node("n-1".into()))));
        assert_eq!(name("tenure://c/client/web/7"), Some(("c".into(), Party::Client("web/7".into()))));
        for bad in ["tenure://c", "tenure://c/", "tenure:///n", "tenure://c/a/b", "tenure://c/client/", "spiffe://c/n", "tenure://c/a b"] {
            assert_eq!(name(bad), None, "{bad}");
        }
        for party in [Party::Node("n".into()), Party::Client("x".into())] {
            assert_eq!(name(&uri("c", &party)), Some(("c".into(), party)));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            let _ = not_after(&bytes);
            let _ = seconds(0x17, &bytes);
            prop_assert!(Certificate::of(&CertificateDer::from(bytes)).is_err());
        }

        #[test]
        fn a_changed_certificate_is_survived(at: usize, to: u8) {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::default();
            params.not_after = rcgen::date_time_ymd(2031, 5, 6);
            params.subject_alt_names = vec![rcgen::SanType::URI("tenure://c/n".try_into().unwrap())];
            let mut der = params.self_signed(&key).unwrap().der().to_vec();
            prop_assert_eq!(not_after(&der), Some(1_935_792_000));
            let at = at % der.len();
            der[at] = to;
            let _ = not_after(&der);
            let _ = Certificate::of(&CertificateDer::from(der));
        }
    }
}
