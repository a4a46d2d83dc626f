//! The network in memory: cuts, losses, restarts, and that a run can be repeated.

use super::super::fabric::{Fabric, Rule};
use super::*;

pub struct Two {
    pub fabric: Fabric,
    pub a: Process,
    pub b: Process,
    pub peer: Peer,
}

pub fn on(fabric: &Fabric, name: &str) -> Build {
    Build { transport: fabric.host(name), ..Build::tcp(name) }
}

pub fn two_hosts() -> Two {
    let fabric = Fabric::new(Box::new(SeededRng::new(3)));
    let (a, b) = (on(&fabric, "a").done(), on(&fabric, "b").done());
    let listening = b.net.clone();
    tokio::spawn(async move { listening.listen("b:1").await });
    let peer = a.net.peer(Some(id("b")), vec!["b:1".to_owned()]);
    Two { fabric, a, b, peer }
}

fn short(method: Method) -> Ask {
    Ask::new(method, SECOND)
}

#[test]
fn a_cut_link_costs_the_deadline_and_heals() {
    simulate(async {
        let two = two_hosts();
        two.peer.call(Class::Control, short(ECHO), b"1").await.unwrap();
        for one_way in [None, Some(("a", "b")), Some(("b", "a"))] {
            match one_way {
                None => two.fabric.cut("a", "b"),
                Some((from, to)) => two.fabric.cut_one_way(from, to),
            }
            let start = now();
            let error = two.peer.call(Class::Control, short(ECHO), b"2").await.unwrap_err();
            assert_eq!(error.status(), Status::Unavailable);
            assert!(start.elapsed() <= SECOND + Duration::from_millis(1));
            // Silence is noticed, and then calls fail without waiting.
            until(|| matches!(two.peer.state(Class::Control), LinkState::Down { .. })).await;
            let start = now();
            assert!(two.peer.call(Class::Control, short(ECHO), b"3").await.is_err());
            assert_eq!(start.elapsed(), Duration::ZERO);
            two.fabric.heal("a", "b");
            until(|| matches!(two.peer.state(Class::Control), LinkState::Up(_))).await;
            assert_eq!(two.peer.call(Class::Control, short(ECHO), b"4").await.unwrap(), b"4"[..]);
        }
        assert!(two.fabric.delivered() > 0);
    });
}

#[test]
fn a_restarted_peer_is_found_again() {
    simulate(async {
        let Two { fabric, a, b, peer } = two_hosts();
        peer.call(Class::Control, short(ECHO), b"").await.unwrap();
        fabric.crash("b");
        b.net.close().await;
        until(|| matches!(peer.state(Class::Control), LinkState::Down { .. })).await;
        assert_eq!(peer.call(Class::Control, short(ECHO), b"").await.unwrap_err().status(), Status::Unavailable);
        let mut again = on(&fabric, "b");
        again.hello.boot = 99;
        let again = again.done();
        again.net.listen("b:1").await.unwrap();
        // Its own hello tells a that it is back, so a does not wait out its pause.
        a.net.listen("a:1").await.unwrap();
        let back = again.net.peer(Some(id("a")), vec!["a:1".to_owned()]);
        back.call(Class::Control, short(ECHO), b"").await.unwrap();
        let start = now();
        until(|| matches!(peer.state(Class::Control), LinkState::Up(_))).await;
        assert!(start.elapsed() < Duration::from_millis(5), "{:?}", start.elapsed());
        peer.call(Class::Control, short(ECHO), b"").await.unwrap();
    });
}

#[test]
fn a_twin_is_fenced_and_so_is_the_first() {
    simulate(async {
        let fabric = Fabric::new(Box::new(SeededRng::new(3)));
        let c = on(&fabric, "c").done();
        c.net.listen("c:1").await.unwrap();
        let (first, mut second) = (on(&fabric, "a").done(), on(&fabric, "a"));
        second.hello.boot = 1234;
        let second = second.done();
        let peers: Vec<_> = [&first, &second].map(|p| p.net.peer(Some(id("c")), vec!["c:1".to_owned()])).into();
        for peer in peers.iter().cycle().take(40) {
            // Each process is alive: it dials again when its connection ends.
            let _ = peer.call(Class::Control, short(ECHO), b"").await;
            c.net.disconnect(&Party::Node("a".into()), &Error::new(Status::Unavailable, "again"));
            sleep(2 * SECOND).await;
        }
        assert!(c.roster.is_twin(&id("a")));
        for peer in &peers {
            let LinkState::Down { refusal: Some(refusal), .. } = peer.state(Class::Control) else {
                panic!("{:?}", peer.state(Class::Control))
            };
            assert_eq!(refusal.reason, Reason::Twin);
            assert!(refusal.message.contains("node id a"), "{refusal}");
        }
    });
}

/// What one run looks like from outside: times and outcomes.
fn story(seed: u64) -> Vec<String> {
    let mut told = Vec::new();
    simulate(async {
        let fabric = Fabric::new(Box::new(SeededRng::new(seed)));
        let delay_max = Duration::from_millis(40);
        fabric.set_default(Rule { delay_max, loss_per_mille: 100, ..Rule::default() });
        let (a, b) = (on(&fabric, "a").done(), on(&fabric, "b").done());
        b.net.listen("b:1").await.unwrap();
        let peer = a.net.peer(None, vec!["b:1".to_owned()]);
        let start = now();
        let mut rng = SeededRng::new(seed);
        for i in 0..60u8 {
            match rng.below(8) {
                0 => fabric.cut_one_way("a", "b"),
                1 => fabric.cut("a", "b"),
                2 => fabric.reset("a", "b"),
                3 | 4 => fabric.heal_all(),
                _ => {}
            }
            let answer = peer.call(Class::Control, Ask::new(ECHO, Duration::from_millis(300)), &[i]).await;
            told.push(format!("{:?} {answer:?}", start.elapsed()));
        }
    });
    told
}

// I-36.
#[test]
fn a_seed_tells_the_same_story_twice() {
    let stories: Vec<_> = (0..5).map(|seed| (story(seed), story(seed))).collect();
    for (first, second) in &stories {
        assert_eq!(first, second);
        assert!(first.iter().any(|line| line.contains("Ok")) && first.iter().any(|line| line.contains("Err")), "{first:?}");
    }
    assert_ne!(stories[0].0, stories[1].0);
}
