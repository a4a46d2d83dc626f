//! The granter's side through the public Rust API: promises, promotion, who may extend, what survives.
#![allow(clippy::unwrap_used, clippy::panic)]

mod node_support;

use std::time::Duration;

use node_support::Virtual;
use tenure::base::{Config, Rng, SeededRng, Status, VirtualClock};
use tenure::gate::Heartbeat;
use tenure::node::{Env, Gate, Granter, Node, Order};

const MS: u64 = 1_000_000;
const TTL: Duration = Duration::from_secs(3);
const NOW: Option<Duration> = Some(Duration::ZERO);

fn granter(node: &Node) -> Granter {
    node.granter(b"controller", Duration::from_secs(10), NOW).unwrap()
}

/// A node that serves under a gate, with a clock of its own.
struct Server {
    node: Node,
    gate: Gate,
    clock: VirtualClock,
}

impl Server {
    fn new(settings: &[(&str, &str)]) -> Server {
        let clock = VirtualClock::new(77_000 * MS);
        let mut config = Config::new();
        config.set("delivery", "fd").unwrap();
        let env = Env { clock: std::sync::Arc::new(clock.clone()), rng: Box::new(SeededRng::new(9)), manual: true };
        let node = Node::open_with(&config, env).unwrap();
        let mut over = Config::new();
        for (name, value) in settings {
            over.set(name, value).unwrap();
        }
        let gate = node.gate("master", &over).unwrap();
        Server { node, gate, clock }
    }

    fn take(&self, order: &Order) -> bool {
        let beat = Heartbeat { epoch: order.epoch, ttl_ns: order.ttl.as_nanos() as u64, nonce: order.nonce };
        self.gate.heartbeat(&beat).is_ok_and(|reply| reply.grant.accepted)
    }

    fn serves(&self) -> bool {
        self.node.step();
        self.gate.enter().is_ok()
    }
}

#[test]
fn nobody_is_promoted_while_the_former_holder_may_act() {
    let (v, a) = (Virtual::new(), Server::new(&[]));
    let granter = granter(&v.node);
    assert_eq!(granter.promote(b"shard", "a", None).unwrap(), 1);
    let order = granter.heartbeat(b"shard", TTL, Some(a.gate.next_nonce().unwrap())).unwrap();
    assert_eq!((order.epoch, order.holder.as_str(), order.ttl), (1, "a", TTL));
    // More than the ttl: the holder's clock and the ledger's may each be wrong by 1 %.
    assert!(order.promised > TTL * 102 / 100 && order.promised < TTL * 103 / 100, "{:?}", order.promised);
    assert!(a.take(&order));
    assert!(a.serves());
    let early = granter.promote(b"shard", "b", None).unwrap_err();
    assert_eq!((early.status(), early.token()), (Status::TooEarly, 1));
    assert_eq!(Duration::from_millis(early.retry_after_ms()), order.promised);
    // Waiting for as long as the error says is enough, and 20 ms less is not.
    let wait = early.retry_after_ms();
    for _ in 0..wait - 20 {
        v.clock.advance(MS);
        v.node.step();
    }
    assert_eq!(granter.promote(b"shard", "b", None).unwrap_err().status(), Status::TooEarly);
    a.clock.advance((wait - 20) * MS);
    assert!(!a.serves());
    v.pass(20);
    assert_eq!(granter.promote(b"shard", "b", None).unwrap(), 2);
    let p = granter.promise(b"shard").unwrap().unwrap();
    assert_eq!((p.holder.as_str(), p.epoch, p.remaining, p.term), ("b", 2, Duration::ZERO, granter.term()));
}

#[test]
fn an_acknowledged_step_down_ends_the_wait_at_once() {
    let (v, a) = (Virtual::new(), Server::new(&[]));
    let granter = granter(&v.node);
    granter.promote(b"shard", "a", Some(41)).unwrap();
    assert!(a.take(&granter.heartbeat(b"shard", TTL, Some(a.gate.next_nonce().unwrap())).unwrap()));
    a.gate.drain(Duration::from_secs(20)).unwrap();
    assert_eq!(granter.acknowledge(b"shard", 40).unwrap_err().token(), 41);
    assert_eq!(granter.promote(b"shard", "b", None).unwrap_err().status(), Status::TooEarly);
    granter.acknowledge(b"shard", 41).unwrap();
    assert_eq!(granter.heartbeat(b"shard", TTL, Some(1)).unwrap_err().status(), Status::NotHolder);
    assert_eq!(granter.promote(b"shard", "b", Some(41)).unwrap_err().status(), Status::InvalidArgument);
    assert_eq!(granter.promote(b"shard", "b", None).unwrap(), 42);
}

#[test]
fn a_replaced_granter_extends_nothing_and_its_promises_bind_the_next() {
    let (v, a) = (Virtual::new(), Server::new(&[]));
    let first = granter(&v.node);
    first.promote(b"shard", "a", None).unwrap();
    let order = first.heartbeat(b"shard", TTL, Some(a.gate.next_nonce().unwrap())).unwrap();
    // Its lock is taken away and given to another while it is stopped, between the ledger and the sending.
    assert!(v.node.session().force_release(b"controller", Duration::ZERO).unwrap());
    let second = granter(&v.node);
    assert!(second.term() > first.term());
    for error in [
        first.heartbeat(b"shard", TTL, Some(1)).unwrap_err(),
        first.promote(b"shard", "c", None).unwrap_err(),
        first.acknowledge(b"shard", 1).unwrap_err(),
    ] {
        assert_eq!((error.status(), error.token()), (Status::Fenced, second.term().0));
    }
    let early = second.promote(b"shard", "b", None).unwrap_err();
    assert_eq!(early.status(), Status::TooEarly);
    // The stopped granter goes on and sends what it had: late, but within what was promised.
    a.clock.advance(2_000 * MS);
    v.pass(2_000);
    assert!(a.take(&order) && a.serves());
    assert_eq!(second.promote(b"shard", "b", None).unwrap_err().status(), Status::TooEarly);
    // And after that: it grants nothing.
    a.clock.advance(1_100 * MS);
    v.pass(1_100);
    assert_eq!(second.promote(b"shard", "b", None).unwrap(), 2);
    assert!(!a.take(&order) && !a.serves());
}

#[test]
fn a_lease_without_a_nonce_is_a_weaker_mode_with_a_name() {
    let v = Virtual::new();
    let strict = granter(&v.node);
    strict.promote(b"shard", "a", None).unwrap();
    let refused = strict.heartbeat(b"shard", TTL, None).unwrap_err();
    assert_eq!(refused.status(), Status::InvalidArgument);
    assert!(refused.message().contains("nonce"));
    assert!(v.node.status().weaker_modes.is_empty());

    let mut config = Config::new();
    config.set("granter_trust_receipt", "true").unwrap();
    let node = Node::open(&config).unwrap();
    let loose = granter(&node);
    loose.promote(b"shard", "old", None).unwrap();
    let old = Server::new(&[("gate.trust_receipt", "true")]);
    let order = loose.heartbeat(b"shard", TTL, None).unwrap();
    assert!(old.take(&order));
    assert!(node.status().weaker_modes.iter().any(|m| m.starts_with("granter_trust_receipt=true")));
    assert!(old.node.status().weaker_modes.iter().any(|m| m.contains("gate.trust_receipt=true")));
    assert_eq!((old.gate.status().trusted_receipts, old.gate.status().trust_receipt), (1, true));
}

#[test]
fn promises_survive_a_restart() {
    let dir = std::env::temp_dir().join(format!("tenure-granter-{}", std::process::id()));
    let mut config = Config::new();
    config.set("data_dir", dir.to_str().unwrap()).unwrap().set("session_ttl_ms", "1000").unwrap();
    let node = Node::open(&config).unwrap();
    let before = node.granter(b"controller", Duration::from_secs(1), NOW).unwrap();
    before.promote(b"shard", "a", Some(7)).unwrap();
    before.heartbeat(b"shard", Duration::from_secs(3600), Some(1)).unwrap();
    node.close(Duration::from_secs(30)).unwrap();

    let node = Node::open(&config).unwrap();
    let after = node.granter(b"controller", Duration::from_secs(1), Some(Duration::from_secs(60))).unwrap();
    assert!(after.term() > before.term());
    let early = after.promote(b"shard", "b", None).unwrap_err();
    assert_eq!((early.status(), early.token()), (Status::TooEarly, 7));
    assert!(early.retry_after_ms() > 3_590_000);
    assert_eq!(node.promises(b"", 10).unwrap().len(), 1);
    after.acknowledge(b"shard", 7).unwrap();
    assert_eq!(after.promote(b"shard", "b", None).unwrap(), 8);
    node.close(Duration::from_secs(30)).unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
}

// I-03.
/// Two servers with clocks that are wrong by up to 1 %, granters that are replaced at any time, messages that are late, doubled and out
/// of order: never do two serve, and sooner or later each does.
#[test]
fn two_servers_never_serve_at_once() {
    let base: u64 = std::env::var("TENURE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let (mut served, mut early, mut late) = ([0u32; 2], 0, 0);
    for seed in base..base + 40 {
        let mut rng = SeededRng::new(seed);
        let mut pick = |n: u64| rng.next_u64() % n;
        let v = Virtual::new();
        let servers = [Server::new(&[]), Server::new(&[])];
        let drift: Vec<i64> = (0..2).map(|_| pick(19) as i64 - 9).collect();
        let mut granters = vec![granter(&v.node)];
        let mut wire: Vec<(usize, Order)> = Vec::new();
        for _ in 0..400 {
            match pick(6) {
                0 => {
                    let to = pick(2) as usize;
                    let by = &granters[pick(granters.len() as u64) as usize];
                    match by.promote(b"shard", ["a", "b"][to], None) {
                        Err(e) if e.status() == Status::TooEarly => early += 1,
                        Err(e) => assert_eq!(e.status(), Status::Fenced, "seed {seed}: {e:?}"),
                        Ok(_) => {}
                    }
                }
                1 | 2 => {
                    let holder = v.node.promises(b"", 1).unwrap().pop().map(|p| p.holder);
                    let to = usize::from(holder.as_deref() == Some("b"));
                    let nonce = servers[to].gate.next_nonce().unwrap();
                    let by = &granters[pick(granters.len() as u64) as usize];
                    // An order that was not granted goes nowhere.
                    if let Ok(order) = by.heartbeat(b"shard", Duration::from_millis(100 + pick(900)), Some(nonce)) {
                        wire.push((to, order));
                    }
                }
                3 if !wire.is_empty() => {
                    let at = pick(wire.len() as u64) as usize;
                    let (to, order) = if pick(2) == 0 { wire[at].clone() } else { wire.remove(at) };
                    late += u32::from(!servers[to].take(&order));
                }
                4 if pick(12) == 0 => {
                    v.node.session().force_release(b"controller", Duration::ZERO).unwrap();
                    granters.push(granter(&v.node));
                }
                _ => {
                    let ms = 1 + pick(60);
                    v.clock.advance(ms * MS);
                    v.node.step();
                    for (server, drift) in servers.iter().zip(&drift) {
                        server.clock.advance((ms * MS).saturating_add_signed(ms as i64 * 1_000 * drift));
                    }
                }
            }
            let serving = [servers[0].serves(), servers[1].serves()];
            assert!(serving != [true, true], "seed {seed}: both serve, drifts {drift:?} per mille");
            served[0] += u32::from(serving[0]);
            served[1] += u32::from(serving[1]);
        }
    }
    assert!(served[0] > 100 && served[1] > 100 && early > 100 && late > 20, "{served:?} {early} {late} from seed {base}");
}
