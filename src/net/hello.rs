//! Who talks: the first frame in each direction, and the typed reasons for not talking.

use std::fmt;

use crate::base::codec::{self, Decode, Encode, Kind};
use crate::base::{Error, NodeId, Result, Status};

use super::frame::HELLO_MAX;

/// The newest wire protocol that this library speaks.
pub const PROTOCOL: u16 = 1;
/// The oldest one.
pub const PROTOCOL_MIN: u16 = 1;
/// The longest cluster id or client name, in bytes.
pub const NAME_MAX: usize = 255;

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Party {
    /// A node, by its id.
    Node(String),
    /// A process that is no node, by its name.
    Client(String),
}

impl Party {
    /// The party of a node.
    pub fn node(id: &NodeId) -> Party {
        Party::Node(id.as_str().to_owned())
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Party::Node(id) => write!(f, "node {}", shown(id)),
            Party::Client(name) => write!(f, "client {}", shown(name)),
        }
    }
}

/// A name from outside as it may appear in a message: control characters escaped, cut to 64 characters.
pub(super) fn shown(name: &str) -> String {
    name.chars().take(64).flat_map(char::escape_default).collect()
}

/// As what a party takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Role {
    /// A voter or learner of the cluster.
    Member,
    /// A node that asks to be let in.
    Joiner,
    /// No node.
    Client,
}

/// What a connection is for. Each class has a connection of its own, so that nothing small waits behind something big.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Class {
    /// Heartbeats, votes, renewals, membership.
    Control,
    /// Log appends.
    Bulk,
    /// Snapshots, paced.
    Snapshot,
    /// Operations of clients and forwarded ones.
    Client,
}

impl Class {
    /// Every class.
    pub const ALL: [Class; 4] = [Class::Control, Class::Bulk, Class::Snapshot, Class::Client];

    /// The largest payload of a request, stream item or event, where the service does not say less; in bytes.
    pub const fn payload_cap(self) -> usize {
        match self {
            Class::Control => 256 << 10,
            Class::Bulk => 8 << 20,
            Class::Snapshot => (1 << 20) + 64,
            Class::Client => 1 << 20,
        }
    }
}

/// The first frame in each direction.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Hello {
    /// The newest protocol spoken.
    pub protocol: u16,
    /// The oldest protocol spoken.
    pub protocol_min: u16,
    /// The cluster's name.
    pub cluster: String,
    /// What was drawn when the cluster was founded; 0 while the sender does not know it. Two clusters of one name differ in it.
    pub lineage: u128,
    /// Who sends this.
    pub party: Party,
    /// As what.
    pub role: Role,
    /// Identity of the sender's data directory; 0 for a client and for a node in memory.
    pub disk: u128,
    /// Drawn when the sender's process instance started.
    pub boot: u128,
    /// What the connection is for.
    pub class: Class,
    /// Whom the dialler means to reach, if it knows.
    pub to: Option<String>,
    /// Where the sender can be dialled; empty for nowhere.
    pub address: String,
}

impl Hello {
    /// Appends the frame.
    ///
    /// # Errors
    /// [`Status::Limit`] when a name is too long.
    pub fn encode(&self, kind: Kind) -> Result<Vec<u8>> {
        let bytes = codec::encode(kind, self)?;
        if bytes.len() > HELLO_MAX {
            return Err(Error::new(Status::Limit, format!("a hello of {} bytes exceeds {HELLO_MAX}", bytes.len())));
        }
        Ok(bytes)
    }

    /// Reads the frame and checks the form of its names.
    ///
    /// # Errors
    /// A [`Refusal`] with [`Reason::Malformed`].
    pub fn decode(kind: Kind, bytes: &[u8]) -> std::result::Result<Hello, Refusal> {
        let malformed = |what: String| Refusal::new(Reason::Malformed, what);
        let hello: Hello = codec::decode(kind, bytes, HELLO_MAX).map_err(|e| malformed(e.message().to_owned()))?;
        let name = match &hello.party {
            Party::Node(id) => {
                NodeId::new(id).map_err(|e| malformed(e.message().to_owned()))?;
                id
            }
            Party::Client(name) => name,
        };
        for (what, name) in [("cluster id", &hello.cluster), ("name", name)] {
            if name.is_empty() || name.len() > NAME_MAX || name.chars().any(char::is_control) {
                return Err(malformed(format!("a {what} of {} bytes or with control characters", name.len())));
            }
        }
        if matches!(hello.party, Party::Client(_)) != (hello.role == Role::Client) {
            return Err(malformed(format!("{} says that it is a {:?}", hello.party, hello.role)));
        }
        Ok(hello)
    }

    /// What every party checks of another's hello, whatever its own role: version, cluster, lineage.
    ///
    /// # Errors
    /// A [`Refusal`] that names both values.
    pub fn check_against(&self, other: &Hello) -> std::result::Result<(), Refusal> {
        if other.protocol < self.protocol_min || other.protocol_min > self.protocol {
            return Err(Refusal::new(
                Reason::Version,
                format!(
                    "{} speaks protocols {}..={}, {} speaks {}..={}",
                    other.party, other.protocol_min, other.protocol, self.party, self.protocol_min, self.protocol
                ),
            ));
        }
        if other.cluster != self.cluster {
            return Err(Refusal::new(
                Reason::Cluster,
                format!("{} is of cluster {}, {} is of cluster {}", other.party, shown(&other.cluster), self.party, shown(&self.cluster)),
            ));
        }
        if other.lineage != 0 && self.lineage != 0 && other.lineage != self.lineage {
            return Err(Refusal::new(
                Reason::Lineage,
                format!(
                    "{} is of another cluster of the name {}: {:032x}, not {:032x}",
                    other.party,
                    shown(&self.cluster),
                    other.lineage,
                    self.lineage
                ),
            ));
        }
        Ok(())
    }
}

/// Why two parties do not talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub enum Reason {
    /// What was sent is no hello.
    Malformed,
    /// No common protocol version.
    Version,
    /// Clusters of different names.
    Cluster,
    /// Clusters of one name that were founded separately.
    Lineage,
    /// The certificate names another cluster or another party than the hello, or there is none.
    Certificate,
    /// The dialler means to reach somebody else.
    WrongNode,
    /// The node is not in the membership.
    UnknownNode,
    /// The node was removed from the cluster.
    Removed,
    /// The node's data directory is not the one it had.
    DiskChanged,
    /// Two processes use one node id.
    Twin,
    /// The party may not do this: a client that asks for a class of nodes.
    NotAllowed,
    /// Too many connections; later perhaps.
    Busy,
}

/// A typed refusal. Its message names the values that do not fit.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Refusal {
    /// The kind of it.
    pub reason: Reason,
    /// One sentence for a person.
    pub message: String,
}

impl Refusal {
    /// A refusal; the message is cut to what fits a frame.
    pub fn new(reason: Reason, message: impl Into<String>) -> Refusal {
        let mut message = message.into();
        if message.len() > 1024 {
            let mut end = 1024;
            while !message.is_char_boundary(end) {
                end -= 1;
            }
            message.truncate(end);
        }
        Refusal { reason, message }
    }

    /// The frame.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(Kind::NetRefusal, self).unwrap_or_default()
    }

    /// Reads the frame; one that cannot be read is a refusal too.
    pub fn decode(bytes: &[u8]) -> Refusal {
        match codec::decode::<Refusal>(Kind::NetRefusal, bytes, HELLO_MAX) {
            Ok(refusal) => Refusal::new(refusal.reason, refusal.message.chars().filter(|c| !c.is_control()).collect::<String>()),
            Err(error) => Refusal::new(Reason::Malformed, error.message().to_owned()),
        }
    }

    /// As an error of the call that needed the connection: [`Status::Unavailable`] when it may pass, otherwise
    /// [`Status::Refused`].
    pub fn error(&self) -> Error {
        let status = if self.reason == Reason::Busy { Status::Unavailable } else { Status::Refused };
        Error::new(status, self.message.clone())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.reason, self.message)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn hello(node: &str) -> Hello {
        Hello {
            protocol: 1,
            protocol_min: 1,
            cluster: "c".into(),
            lineage: 0,
            party: Party::Node(node.into()),
            role: Role::Member,
            disk: 1,
            boot: 2,
            class: Class::Bulk,
            to: Some("b".into()),
            address: "x:1".into(),
        }
    }

    #[test]
    fn golden_bytes() {
        let bytes = hello("a").encode(Kind::NetHello).unwrap();
        assert_eq!(bytes[..8], [0x54, 0x4e, 1, 32, 19, 0, 0, 0]);
        assert_eq!(bytes[12..], [1, 1, 1, b'c', 0, 0, 1, b'a', 0, 1, 2, 1, 1, 1, b'b', 3, b'x', b':', b'1'][..]);
        let refusal = Refusal::new(Reason::Twin, "t").encode();
        assert_eq!(refusal[3..8], [34, 3, 0, 0, 0]);
        assert_eq!(refusal[12..], [9, 1, b't']);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let me = hello("a");
        let other = |f: &dyn Fn(&mut Hello)| {
            let mut h = hello("b");
            f(&mut h);
            me.check_against(&h)
        };
        assert_eq!(other(&|_| ()), Ok(()));
        let refused = other(&|h| h.cluster = "d\n".into()).unwrap_err();
        assert_eq!(refused.reason, Reason::Cluster);
        assert_eq!(refused.message, "node b is of cluster d\\n, node a is of cluster c");
        assert_eq!(other(&|h| (h.protocol_min, h.protocol) = (2, 9)).unwrap_err().reason, Reason::Version);
        assert_eq!(other(&|h| h.lineage = 4), Ok(()), "one side does not know yet");
        let founded = Hello { lineage: 3, ..hello("a") };
        assert_eq!(founded.check_against(&Hello { lineage: 4, ..hello("b") }).unwrap_err().reason, Reason::Lineage);
    }

    #[test]
    fn names_are_checked() {
        let broken = [
            Hello { party: Party::Node("a b".into()), ..hello("a") },
            Hello { party: Party::Client("c".into()), ..hello("a") },
            Hello { role: Role::Client, ..hello("a") },
            Hello { cluster: String::new(), ..hello("a") },
            Hello { cluster: "x".repeat(300), ..hello("a") },
        ];
        for hello in broken {
            let bytes = hello.encode(Kind::NetHello).unwrap();
            assert_eq!(Hello::decode(Kind::NetHello, &bytes).unwrap_err().reason, Reason::Malformed, "{hello:?}");
        }
        let long = Hello { cluster: "x".repeat(5000), ..hello("a") };
        assert_eq!(long.encode(Kind::NetHello).unwrap_err().status(), Status::Limit);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>, kind: bool) {
            let mut sealed = Vec::new();
            let kind = if kind { Kind::NetHello } else { Kind::NetRefusal };
            codec::seal_into(kind, &[&bytes], &mut sealed).unwrap();
            let _ = Hello::decode(Kind::NetHello, &sealed);
            prop_assert!(Refusal::decode(&sealed).message.len() <= 1024);
            let _ = Refusal::decode(&bytes);
        }

        #[test]
        fn round_trip(lineage: u128, boot: u128, to: Option<String>) {
            let sent = Hello { lineage, boot, to: to.map(|t| t.chars().take(200).collect()), ..hello("n") };
            let bytes = sent.encode(Kind::NetWelcome).unwrap();
            prop_assert_eq!(Hello::decode(Kind::NetWelcome, &bytes).unwrap(), sent);
        }
    }
}
