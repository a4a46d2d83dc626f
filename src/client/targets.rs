//! Where members may be reached, and which of them is asked.

use crate::net::{Class, LinkState, Net, Peer};

struct Target {
    address: String,
    peer: Option<Peer>,
}

impl Target {
    fn peer(&mut self, net: &Net) -> Peer {
        self.peer.get_or_insert_with(|| net.peer(None, vec![self.address.clone()])).clone()
    }
}

/// The addresses, and which one is in use.
pub(super) struct Targets {
    all: Vec<Target>,
    current: usize,
}

/// Addresses that are remembered besides those given: a cluster has few members.
const LEARNED_MAX: usize = 64;

impl Targets {
    pub fn new(addresses: Vec<String>) -> Targets {
        let mut targets = Targets { all: Vec::new(), current: 0 };
        targets.learn(addresses.into_iter());
        targets
    }

    fn add(&mut self, address: String) -> usize {
        self.all.iter().position(|t| t.address == address).unwrap_or_else(|| {
            self.all.push(Target { address, peer: None });
            self.all.len() - 1
        })
    }

    /// The one in use, and its number.
    pub fn current(&mut self, net: &Net) -> (usize, Peer) {
        let at = self.current;
        (at, self.all[at].peer(net))
    }

    /// The one of this number did not serve: the next is in use, unless that has changed already.
    pub fn leave(&mut self, number: usize) {
        if self.current == number {
            self.current = (number + 1) % self.all.len();
        }
    }

    /// Other addresses have become known.
    pub fn learn(&mut self, addresses: impl Iterator<Item = String>) {
        for address in addresses {
            if self.all.len() < LEARNED_MAX && !address.is_empty() {
                self.add(address);
            }
        }
    }

    /// The one at this address is in use from now on, if there is a connection to it; otherwise one is made.
    pub fn prefer(&mut self, net: &Net, address: String) {
        if address.is_empty() || self.all[self.current].address == address || self.all.len() >= LEARNED_MAX {
            return;
        }
        let at = self.add(address);
        if let LinkState::Up(connection) = self.all[at].peer(net).state(Class::Client)
            && connection.is_open()
        {
            self.current = at;
        }
    }

    pub fn addresses(&self) -> Vec<String> {
        self.all.iter().map(|t| t.address.clone()).collect()
    }
}
