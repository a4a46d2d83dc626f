//! Many sessions, many leaders: who renews loses nothing, who is dead holds nothing back.

use std::time::Duration;

use tokio::time::Instant;

use super::super::members;
use super::super::wire::Order;
use super::rig::{Rig, acquire, eventually, key};
use crate::base::{Key, Result, SessionId, Status};
use crate::ledger::{Event, LossReason, Op, Outcome, Request};

/// Hands the leadership to another member, and waits until somebody leads.
async fn change_leader(rig: &Rig) {
    let before = rig.leader().await;
    // Refused while no majority is sure of the leader; then there is going to be another one anyway.
    let asked = members::order(rig.core(before).clone(), Order::Transfer { to: None }).await;
    if asked.is_ok() {
        eventually("another leader", || (0..3).any(|i| i != before && rig.leads(i))).await;
    }
    rig.leader().await;
}

/// Sessions and changes of the leader; `TENURE_SCALE=10000x1000` in the environment asks for others than the usual numbers.
fn scale() -> (usize, usize) {
    let chosen = std::env::var("TENURE_SCALE").ok();
    let numbers = chosen.as_deref().and_then(|s| s.split_once('x')).map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap()));
    numbers.unwrap_or((120, 40))
}

// F19.
#[tokio::test(start_paused = true)]
async fn who_renews_loses_nothing_however_often_the_leader_changes() {
    /// Between two changes.
    const PACE: Duration = Duration::from_millis(500);
    let (count, changes) = scale();
    // Many sessions renew more seldom, as they do: a renewal falls on each change for few, on each tenth for many.
    let every = if count > 1_000 { 10 } else { 1 };
    let ttl_ms = 3 * every as u32 * PACE.as_millis() as u32;
    let seed = 41;
    println!("seed {seed}, {count} sessions, {changes} changes");
    let rig = Rig::start(3, seed).await;
    let mut sessions = Vec::new();
    for part in (0..count).collect::<Vec<_>>().chunks(100) {
        let open = |i: &usize| {
            let op = Op::OpenSession { nonce: *i as u128 + 1, name: format!("s{i}"), ttl_ms };
            rig.submit(i % 3, SessionId(0), 0, op)
        };
        let opened: Vec<_> = part.iter().map(open).collect();
        for answer in opened {
            let Ok(Outcome::Session { id, .. }) = answer.await.unwrap() else { panic!("no session") };
            sessions.push(id);
        }
        for i in part {
            rig.acquire(i % 3, sessions[*i], &format!("k{i}")).await.unwrap();
        }
        // The first ones wait long for the last.
        let renewals: Vec<_> = sessions.iter().map(|s| rig.submit(0, *s, 0, Op::RenewSession)).collect();
        for renewal in renewals {
            assert!(matches!(renewal.await.unwrap(), Ok(Outcome::Renewed { .. })));
        }
    }
    for change in 0..changes {
        // One renewal of each every third of the ttl, whichever member is asked and whoever leads just then.
        let due: &[SessionId] = if change % every == 0 { &sessions } else { &[] };
        let renewals: Vec<_> = due.iter().enumerate().map(|(i, s)| rig.submit((i + change) % 3, *s, 0, Op::RenewSession)).collect();
        let next = tokio::time::sleep(PACE);
        change_leader(&rig).await;
        for renewal in renewals {
            let outcome = renewal.await.unwrap();
            assert!(matches!(outcome, Ok(Outcome::Renewed { .. })), "change {change}: {outcome:?}");
        }
        next.await;
    }
    rig.converge().await;
    let lost = |e: &&Event| matches!(e, Event::Lost { .. });
    for host in &rig.hosts {
        assert_eq!(host.seen.events.lock().unwrap().iter().filter(lost).count(), 0, "C9: a leader's change shortens nothing");
    }
    assert!(rig.core(0).shared.live().state.ledger.counts().locks as usize >= count);
}

// I-04, F05.
#[tokio::test(start_paused = true)]
async fn a_dead_holder_is_not_kept_alive_by_changes_of_the_leader() {
    const TTL: Duration = Duration::from_secs(2);
    let rig = Rig::start(3, 42).await;
    let holder = rig.open_session(0, TTL.as_millis() as u32).await;
    let waiter = rig.open_session(1, 600_000).await;
    rig.acquire(0, holder, "k").await.unwrap();
    let queued = rig.execute(1, waiter, acquire("k", Some(u64::MAX), 9)).await.unwrap();
    assert!(matches!(queued, Outcome::Queued { .. }), "{queued:?}");
    // From here on nobody hears of the holder.
    let start = Instant::now();
    let granted = |e: &Event| matches!(e, Event::Granted { session, req: 9, .. } if *session == waiter);
    let seen = || rig.hosts[1].seen.events.lock().unwrap().iter().any(granted);
    while !seen() && start.elapsed() < 10 * TTL {
        let half = tokio::time::sleep(TTL / 2);
        change_leader(&rig).await;
        half.await;
    }
    // C8: the time to live, and for each change of the leader what passed without one.
    assert!(seen() && start.elapsed() <= 2 * TTL, "free after {:?}, with a ttl of {TTL:?}", start.elapsed());
    let lost = |e: &Event| matches!(e, Event::Lost { session, why: LossReason::SessionExpired, .. } if *session == holder);
    assert!(rig.hosts[1].seen.events.lock().unwrap().iter().any(lost));
}

/// A release that is answered early, and what became of it.
async fn release_early(rig: &Rig, i: usize, session: SessionId, name: Key, token: crate::base::Token) -> Result<Outcome> {
    let (tell, told) = tokio::sync::oneshot::channel();
    let core = rig.core(i);
    let request = Request { session, seq: 0, op: Op::Release { key: name, token } };
    core.queue.submit(request, core.options.timeout, true, Box::new(move |r| drop(tell.send(r))));
    told.await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_release_that_was_answered_and_lost_leaves_the_lock_held() {
    let rig = Rig::start(3, 43).await;
    let session = rig.open_session(0, 600_000).await;
    let token = rig.acquire(0, session, "k").await.unwrap();
    let old = rig.leader().await;
    let others: Vec<usize> = (0..3).filter(|i| *i != old).collect();
    let names: Vec<&str> = others.iter().map(|i| rig.hosts[*i].name.as_str()).collect();
    rig.net.part(&[&rig.hosts[old].name], &names);
    let start = Instant::now();
    let answer = release_early(&rig, old, session, key("k"), token).await.unwrap();
    assert_eq!(answer, Outcome::Released { left: 0 });
    assert!(start.elapsed() < Duration::from_millis(5), "nobody was asked: {:?}", start.elapsed());
    // The others never hear of it: for them the lock is held, by the same grant.
    let new = rig.leader_among(&others).await;
    assert_eq!(rig.acquire(new, session, "k").await.unwrap_err().status(), Status::Held);
    rig.net.heal();
    rig.converge().await;
    assert_eq!(rig.holder(old, "k").await.unwrap(), Some(token), "C30: never granted twice");
    // Made again, it is durable; and what is not held is not answered early.
    assert_eq!(release_early(&rig, old, session, key("k"), token).await.unwrap(), Outcome::Released { left: 0 });
    rig.converge().await;
    assert_eq!(rig.holder(new, "k").await.unwrap(), None);
    let again = release_early(&rig, old, session, key("k"), token).await.unwrap();
    assert!(matches!(again, Outcome::NotHolder { .. }), "{again:?}");
}

#[tokio::test(start_paused = true)]
async fn an_operation_with_a_leader_that_stopped_goes_to_the_next_one() {
    let mut rig = Rig::new(3, 44);
    // Longer than any election: without a new leader it would be answered only after this.
    rig.timeout = Duration::from_secs(15);
    for i in 0..3 {
        rig.boot(i).await.unwrap();
    }
    let session = rig.open_session(0, 600_000).await;
    let old = rig.leader().await;
    let other = (old + 1) % 3;
    let names: Vec<&str> = (0..3).filter(|i| *i != old).map(|i| rig.hosts[i].name.as_str()).collect();
    rig.net.part(&[&rig.hosts[old].name], &names);
    let start = Instant::now();
    rig.acquire(other, session, "k").await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(2), "granted after {:?}", start.elapsed());
}
