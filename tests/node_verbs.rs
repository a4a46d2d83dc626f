//! Watch, revoke, election, take-over and the reasons of losses through the public Rust API, in virtual time where time matters.
#![allow(clippy::unwrap_used, clippy::panic)]

mod node_support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use node_support::Virtual;
use tenure::base::{Config, Status, Token};
use tenure::node::{Event, LockOptions, LossReason, Node, Renew, WatchEvent};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn auto(ttl: u64) -> LockOptions {
    LockOptions { ttl: ms(ttl), ..LockOptions::default() }
}

/// Who holds, by what is told: `None` for free.
fn told(event: &WatchEvent) -> Option<Token> {
    event.holder.as_ref().map(|h| h.token)
}

#[test]
fn a_watch_tells_of_the_end_of_a_grant_that_was_not_renewed() {
    let v = Virtual::new();
    let watch = v.node.watch(b"k").unwrap();
    let token = v.node.session().try_acquire_token(b"k", &LockOptions { renew: Renew::Manual, ..auto(1_000) }).unwrap();
    v.pass(900);
    assert_eq!(told(&watch.next(None).unwrap().unwrap()), None);
    assert_eq!(told(&watch.next(None).unwrap().unwrap()), Some(token));
    assert_eq!(watch.try_next().unwrap(), None);
    v.pass(200);
    assert_eq!(told(&watch.next(None).unwrap().unwrap()), None);
    v.node.close(ms(1_000)).unwrap();
    assert_eq!(watch.try_next().unwrap_err().status(), Status::Closed);
}

#[test]
fn a_listener_that_lags_sees_the_last_state_and_none_after_the_end() {
    let v = Virtual::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let note = seen.clone();
    let watch = v.node.watch_with(b"k", false, Box::new(move |e| note.lock().unwrap().push(told(e)))).unwrap();
    let mut last = Token(0);
    for _ in 0..5_000 {
        last = v.node.session().try_acquire_token(b"k", &auto(1_000)).unwrap();
        v.node.session().release(b"k", last).unwrap();
    }
    last = v.node.session().try_acquire_token(b"k", &auto(1_000)).unwrap().max(last);
    v.told();
    let got = std::mem::take(&mut *seen.lock().unwrap());
    assert!(got.len() <= 1_100, "{}", got.len());
    assert_eq!(got.last(), Some(&Some(last)));
    assert!(got.iter().flatten().is_sorted());
    drop(watch);
    v.node.session().release(b"k", last).unwrap();
    v.told();
    assert_eq!(seen.lock().unwrap().len(), 0);
}

#[test]
fn threads_that_hammer_a_lock_are_all_seen_in_order() {
    let node = Node::open(&Config::new()).unwrap();
    let watch = node.watch_prefix(b"").unwrap();
    let taker = |n: usize| {
        let session = node.open_session(&format!("s{n}"), ms(10_000)).unwrap();
        std::thread::spawn(move || {
            for _ in 0..200 {
                session.acquire(b"k", &auto(5_000), None).unwrap().release().unwrap();
            }
        })
    };
    let takers: Vec<_> = (0..4).map(taker).collect();
    takers.into_iter().for_each(|t| t.join().unwrap());
    let mut tokens = Vec::new();
    while let Some(event) = watch.try_next().unwrap() {
        tokens.push(told(&event));
    }
    assert_eq!(tokens.last(), Some(&None));
    assert!(tokens.iter().flatten().is_sorted(), "tokens in order");
    assert!(tokens.iter().flatten().count() >= 400, "800 grants, and room for 1024 states");
}

#[test]
fn a_revocation_takes_the_lock_away_when_its_time_has_come_and_not_before() {
    let v = Virtual::new();
    let session = v.node.session();
    let options = LockOptions { lock_delay: ms(300), ..auto(60_000) };
    let token = session.try_acquire_token(b"k", &options).unwrap();
    assert_eq!(session.revoke(b"k", None, "please", Some(ms(500))).unwrap(), 1);
    // A later time puts nothing off.
    assert_eq!(session.revoke(b"k", Some(token), "again", Some(ms(5_000))).unwrap(), 1);
    v.pass(450);
    assert!(session.is_held(b"k", token));
    let asked = v.told();
    assert!(
        matches!(&asked[..], [Event::RevokeRequested { why, force_after: Some(a), .. }, Event::RevokeRequested { force_after: Some(b), .. }]
        if why == "please" && *a == ms(500) && *b <= ms(500)),
        "{asked:?}"
    );
    v.pass(100);
    let lost = v.told();
    assert!(matches!(lost[..], [Event::Lost { token: t, reason: LossReason::Revoked, .. }] if t == token), "{lost:?}");
    assert_eq!(session.loss(token), Some(LossReason::Revoked));
    assert_eq!(session.try_acquire_token(b"k", &options).unwrap_err().status(), Status::LockDelay);
    v.pass(300);
    assert!(session.try_acquire_token(b"k", &options).unwrap() > token);
}

#[test]
fn who_gives_back_in_time_is_not_taken_from() {
    let v = Virtual::new();
    let session = v.node.session();
    let token = session.try_acquire_token(b"k", &auto(60_000)).unwrap();
    session.revoke(b"k", None, "", Some(ms(500))).unwrap();
    session.release(b"k", token).unwrap();
    let next = session.try_acquire_token(b"k", &auto(60_000)).unwrap();
    v.pass(2_000);
    assert!(session.is_held(b"k", next), "the next grant has nothing to do with it");
    assert!(!v.told().iter().any(|e| matches!(e, Event::Lost { .. })));
}

#[test]
fn a_suspend_is_a_loss_by_the_clock() {
    let v = Virtual::new();
    let token = v.node.session().try_acquire_token(b"k", &auto(2_000)).unwrap();
    v.pass(100);
    v.clock.suspend(3_000_000_000);
    v.pass(20);
    let lost = v.told();
    assert!(matches!(lost[..], [Event::Lost { token: t, reason: LossReason::Clock, .. }] if t == token), "{lost:?}");
    v.pass(5_000);
    assert_eq!(v.told(), [], "once");
}

#[test]
fn a_process_that_was_stopped_finds_its_lock_expired_and_is_told_once() {
    let v = Virtual::new();
    let token = v.node.session().try_acquire_token(b"k", &auto(1_000)).unwrap();
    v.pass(500);
    v.freeze(1_100);
    v.node.step();
    let events = v.told();
    let lost: Vec<_> = events.iter().filter(|e| matches!(e, Event::Lost { .. })).collect();
    assert!(matches!(lost[..], [Event::Lost { token: t, reason: LossReason::Expired, .. }] if *t == token), "{events:?}");
    v.pass(3_000);
    assert_eq!(v.told(), [], "once");
    assert_eq!(v.node.session().loss(token), Some(LossReason::Expired));
}

#[test]
fn closing_a_session_loses_what_it_had_not_given_back() {
    let v = Virtual::new();
    let session = v.node.open_session("s", ms(5_000)).unwrap();
    let (kept, given) = (session.try_acquire_token(b"a", &auto(1_000)).unwrap(), session.try_acquire_token(b"b", &auto(1_000)).unwrap());
    session.release(b"b", given).unwrap();
    session.close().unwrap();
    let lost = v.told();
    assert!(matches!(lost[..], [Event::Lost { token, reason: LossReason::Closed, .. }] if token == kept), "{lost:?}");
    assert_eq!((session.loss(kept), session.loss(given)), (Some(LossReason::Closed), None));
}

#[test]
fn c19_a_take_over_fences_the_old_process_and_keeps_its_locks_from_everybody_else() {
    let v = Virtual::new();
    let old = v.node.open_session("w", ms(5_000)).unwrap();
    let waiting = v.node.open_session("x", ms(5_000)).unwrap();
    let before = old.try_acquire_token(b"k", &auto(2_000)).unwrap();
    let got = Arc::new(Mutex::new(None));
    let set = got.clone();
    waiting.submit_acquire(b"k", &auto(2_000), None, Box::new(move |r| *set.lock().unwrap() = Some(r))).unwrap();
    let heir = v.node.take_over("w", ms(5_000), old.secret().unwrap(), true).unwrap();
    let events = v.told();
    assert!(
        matches!(events[..], [Event::Lost { token, reason: LossReason::Superseded, .. }] if token == before),
        "the waiter got nothing in between: {events:?}"
    );
    assert!(got.lock().unwrap().is_none());
    let inherited = heir.inherited().unwrap();
    let [(key, after)] = &inherited[..] else { panic!("{inherited:?}") };
    assert!(*after > before && key.as_bytes() == b"k");
    // The old process may still run: nothing that it asks for under its old session is done.
    assert!(old.release(b"k", before).is_err());
    assert_eq!(heir.holder(b"k").unwrap().unwrap().token, *after);
    v.pass(8_000);
    assert!(heir.is_held(b"k", *after), "renewed like any other");
    heir.release(b"k", *after).unwrap();
    v.told();
    assert!(matches!(*got.lock().unwrap(), Some(Ok(token)) if token > *after));
}

#[test]
fn c19_without_keeping_the_locks_are_lost_and_their_delays_begin() {
    let v = Virtual::new();
    let old = v.node.open_session("w", ms(5_000)).unwrap();
    old.try_acquire_token(b"k", &LockOptions { lock_delay: ms(400), ..auto(2_000) }).unwrap();
    old.try_acquire_token(b"l", &auto(2_000)).unwrap();
    let heir = v.node.take_over("w", ms(5_000), old.secret().unwrap(), false).unwrap();
    assert_eq!(heir.inherited().unwrap(), []);
    assert_eq!(heir.try_acquire_token(b"k", &auto(2_000)).unwrap_err().status(), Status::LockDelay);
    heir.try_acquire_token(b"l", &auto(2_000)).unwrap();
    v.pass(410);
    heir.try_acquire_token(b"k", &auto(2_000)).unwrap();
    // The proof is good for one living session only.
    assert_eq!(v.node.take_over("w", ms(5_000), 12_345, false).err().unwrap().status(), Status::Expired);
}

#[test]
fn an_election_has_one_leader_and_its_terms_grow() {
    let node = Node::open(&Config::new()).unwrap();
    let (a, b) = (node.session(), node.open_session("b", ms(10_000)).unwrap());
    let (mine, theirs) = (a.election(b"e", ms(5_000)).unwrap(), b.election(b"e", ms(5_000)).unwrap());
    let observed = theirs.observe().unwrap();
    let leading = mine.campaign(b"one", None).unwrap();
    assert_eq!(theirs.campaign(b"two", Some(Duration::ZERO)).err().unwrap().status(), Status::Held);
    leading.proclaim(b"more").unwrap();
    let leader = theirs.leader().unwrap().unwrap();
    assert_eq!((leader.token, &leader.value[..]), (leading.token(), &b"more"[..]));
    let term = leading.token();
    leading.resign().unwrap();
    let next = theirs.campaign(b"two", None).unwrap();
    assert!(next.token() > term);
    let values: Vec<_> = std::iter::from_fn(|| observed.try_next().unwrap()).map(|e| e.holder.map(|h| h.metadata)).collect();
    let value = |v: &[u8]| Some(v.to_vec());
    assert_eq!(values, [None, value(b"one"), value(b"more"), None, value(b"two")]);
}
