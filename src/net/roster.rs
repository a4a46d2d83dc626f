//! Who may talk to this process: the known nodes, their disks, their process instances.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::base::NodeId;

use super::hello::{Class, Hello, Party, Reason, Refusal, Role};

/// Decides about a party after version, cluster and certificate have been found to fit. Called for both directions.
pub trait Admission: Send + Sync + 'static {
    /// Whether to talk to the sender of this hello.
    ///
    /// # Errors
    /// The reason for not doing so.
    fn admit(&self, hello: &Hello) -> Result<(), Refusal>;
}

/// Superseded process instances remembered for each node.
const REMEMBERED: usize = 16;
/// Hellos of superseded instances after which a node id is taken to be used twice. A single one can be a straggler of the
/// process that died; it cannot go on dialling.
const STRIKES: u32 = 3;

#[derive(Debug, Default)]
struct Node {
    disk: u128,
    boot: u128,
    superseded: VecDeque<u128>,
    strikes: u32,
}

#[derive(Debug, Default)]
struct State {
    /// `None` admits every node that was not removed: before a membership is known.
    members: Option<BTreeSet<String>>,
    removed: BTreeSet<String>,
    nodes: BTreeMap<String, Node>,
}

/// The admission of a cluster member.
///
/// Any thread may call any method. Nothing here is durable: the layer that keeps the membership tells it what it knows, and is
/// told new disk ids by [`Roster::disk_of`].
#[derive(Debug, Default)]
pub struct Roster(Mutex<State>);

impl Roster {
    /// A roster that knows nobody and admits everybody of the right cluster.
    pub fn new() -> Roster {
        Roster::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs while the lock is held, so the state is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on only these nodes are members.
    pub fn set_members<'a>(&self, members: impl IntoIterator<Item = &'a NodeId>) {
        let members: BTreeSet<String> = members.into_iter().map(|id| id.as_str().to_owned()).collect();
        let mut state = self.state();
        state.removed.retain(|id| !members.contains(id));
        state.members = Some(members);
    }

    /// The node was removed; it is told so when it comes back.
    pub fn remove(&self, node: &NodeId) {
        let mut state = self.state();
        if let Some(members) = &mut state.members {
            members.remove(node.as_str());
        }
        state.nodes.remove(node.as_str());
        state.removed.insert(node.as_str().to_owned());
    }

    /// The node's data directory, as the cluster remembers it.
    pub fn set_disk(&self, node: &NodeId, disk: u128) {
        self.state().nodes.entry(node.as_str().to_owned()).or_default().disk = disk;
    }

    /// The node's data directory as set, or as learned from its first hello; `None` when it was never heard of.
    pub fn disk_of(&self, node: &NodeId) -> Option<u128> {
        self.state().nodes.get(node.as_str()).map(|n| n.disk).filter(|disk| *disk != 0)
    }

    /// An operator has resolved a twin: the next process that says hello is the one.
    pub fn clear_twin(&self, node: &NodeId) {
        if let Some(node) = self.state().nodes.get_mut(node.as_str()) {
            node.boot = 0;
            node.superseded.clear();
            node.strikes = 0;
        }
    }

    /// Whether two processes were seen to use this id.
    pub fn is_twin(&self, node: &NodeId) -> bool {
        self.state().nodes.get(node.as_str()).is_some_and(|n| n.strikes >= STRIKES)
    }
}

impl Admission for Roster {
    fn admit(&self, hello: &Hello) -> Result<(), Refusal> {
        let Party::Node(id) = &hello.party else {
            return if hello.class == Class::Client {
                Ok(())
            } else {
                Err(Refusal::new(Reason::NotAllowed, format!("{} asks for a {:?} connection", hello.party, hello.class)))
            };
        };
        let mut state = self.state();
        if state.removed.contains(id) {
            return Err(Refusal::new(Reason::Removed, format!("node {id} was removed from the cluster; it can come back under a new id")));
        }
        let known = state.members.as_ref().is_none_or(|members| members.contains(id));
        if !known {
            return match (hello.role, hello.class) {
                (Role::Joiner, Class::Control | Class::Client) => Ok(()),
                _ => Err(Refusal::new(Reason::UnknownNode, format!("node {id} is not in the membership"))),
            };
        }
        let node = state.nodes.entry(id.clone()).or_default();
        if node.disk != 0 && hello.disk != node.disk {
            return Err(Refusal::new(
                Reason::DiskChanged,
                format!(
                    "node {id} comes with disk {:032x}, its disk is {:032x}: remove it and add it under a new id",
                    hello.disk, node.disk
                ),
            ));
        }
        if node.boot != hello.boot && node.superseded.contains(&hello.boot) {
            node.strikes = node.strikes.saturating_add(1);
        }
        if node.strikes >= STRIKES {
            return Err(Refusal::new(
                Reason::Twin,
                format!("two processes use node id {id}; both are refused until one is stopped and the twin is cleared"),
            ));
        }
        if node.superseded.contains(&hello.boot) {
            return Err(Refusal::new(Reason::Twin, format!("a later process of node {id} has taken over")));
        }
        if node.boot != hello.boot {
            if node.boot != 0 {
                if node.superseded.len() == REMEMBERED {
                    node.superseded.pop_front();
                }
                let old = node.boot;
                node.superseded.push_back(old);
            }
            node.boot = hello.boot;
        }
        node.disk = hello.disk;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::hello::tests::hello;
    use super::*;

    fn reason(roster: &Roster, hello: &Hello) -> Option<Reason> {
        roster.admit(hello).err().map(|r| r.reason)
    }

    fn id(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    #[test]
    fn membership_decides() {
        let roster = Roster::new();
        assert_eq!(reason(&roster, &hello("a")), None);
        roster.set_members([&id("b")]);
        assert_eq!(reason(&roster, &hello("a")), Some(Reason::UnknownNode));
        let joiner = Hello { role: Role::Joiner, class: Class::Control, ..hello("a") };
        assert_eq!(reason(&roster, &joiner), None);
        assert_eq!(reason(&roster, &Hello { class: Class::Bulk, ..joiner }), Some(Reason::UnknownNode));
        roster.remove(&id("b"));
        assert_eq!(reason(&roster, &hello("b")), Some(Reason::Removed));
        roster.set_members([&id("b")]);
        assert_eq!(reason(&roster, &hello("b")), None, "added again");
    }

    #[test]
    fn clients_get_the_clients_class() {
        let roster = Roster::new();
        let client = Hello { party: Party::Client("c".into()), role: Role::Client, class: Class::Client, ..hello("a") };
        assert_eq!(reason(&roster, &client), None);
        assert_eq!(reason(&roster, &Hello { class: Class::Control, ..client }), Some(Reason::NotAllowed));
    }

    #[test]
    fn a_changed_disk_is_refused() {
        let roster = Roster::new();
        assert_eq!(roster.disk_of(&id("a")), None);
        assert_eq!(reason(&roster, &hello("a")), None);
        assert_eq!(roster.disk_of(&id("a")), Some(1));
        let refused = roster.admit(&Hello { disk: 5, ..hello("a") }).unwrap_err();
        assert_eq!(refused.reason, Reason::DiskChanged);
        assert!(refused.message.contains("00005"), "{refused}");
        roster.set_disk(&id("a"), 5);
        assert_eq!(reason(&roster, &Hello { disk: 5, ..hello("a") }), None);
    }

    // I-19.
    #[test]
    fn a_restart_is_no_twin_but_alternation_is() {
        let roster = Roster::new();
        let at = |boot| Hello { boot, ..hello("a") };
        for boot in [1, 1, 2, 2, 3, 4] {
            assert_eq!(reason(&roster, &at(boot)), None, "restarts");
        }
        assert_eq!(reason(&roster, &at(3)), Some(Reason::Twin), "a straggler is refused");
        assert_eq!(reason(&roster, &at(4)), None, "and harms nobody");
        assert!(!roster.is_twin(&id("a")));
        for _ in 0..2 {
            assert_eq!(reason(&roster, &at(3)), Some(Reason::Twin));
        }
        assert!(roster.is_twin(&id("a")));
        assert_eq!(reason(&roster, &at(4)), Some(Reason::Twin), "both are fenced");
        assert_eq!(reason(&roster, &at(9)), Some(Reason::Twin), "and so is a third");
        roster.clear_twin(&id("a"));
        assert_eq!(reason(&roster, &at(4)), None);
    }
}
