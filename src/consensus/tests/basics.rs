//! One member, three members, and what happens to them.

use std::time::Duration;

use tokio::time::Instant;

use openraft::raft::VoteRequest;

use super::super::form::{Ballot, Place};
use super::super::types::{LogId, Vote};
use super::rig::{LIMIT, Rig, acquire, eventually, key};
use crate::base::{SessionId, Status, Token};
use crate::ledger::{Event, Op, Outcome};

#[tokio::test(start_paused = true)]
async fn one_member_is_a_cluster_and_keeps_what_it_granted() {
    let mut rig = Rig::start(1, 1).await;
    let session = rig.open_session(0, 60_000).await;
    let token = rig.acquire(0, session, "k").await.unwrap();
    rig.kill(0).await;
    rig.boot(0).await.unwrap();
    rig.leader().await;
    assert_eq!(rig.holder(0, "k").await.unwrap(), Some(token));
    let next = rig.acquire(0, session, "other").await.unwrap();
    assert!(next > token);
}

#[tokio::test(start_paused = true)]
async fn any_member_takes_operations_and_reads() {
    let rig = Rig::start(3, 2).await;
    let mut last = Token(0);
    for i in 0..3 {
        let session = rig.open_session(i, 10_000).await;
        let token = rig.acquire(i, session, &format!("k{i}")).await.unwrap();
        assert!(token > last);
        last = token;
        for reader in 0..3 {
            assert_eq!(rig.holder(reader, &format!("k{i}")).await.unwrap(), Some(token), "read on {reader}");
        }
        let other = (i + 1) % 3;
        assert_eq!(rig.acquire(other, session, "x").await.is_ok(), i == 0, "held from the first round on, by any member's account");
    }
    rig.converge().await;
}

#[tokio::test(start_paused = true)]
async fn a_killed_leader_is_replaced_in_time_and_its_grants_stay() {
    for seed in 0..10 {
        let mut rig = Rig::start(3, 100 + seed).await;
        let session = rig.open_session(0, 60_000).await;
        let token = rig.acquire(0, session, "k").await.unwrap();
        let leader = rig.leader().await;
        rig.kill(leader).await;
        let start = Instant::now();
        let other = (leader + 1) % 3;
        let next = rig.acquire(other, session, "k2").await.unwrap();
        let gap = start.elapsed();
        println!("seed {seed}: the next grant came {gap:?} after the leader was killed");
        assert!(gap <= Duration::from_millis(600), "fail-over took {gap:?}");
        assert!(next > token);
        assert_eq!(rig.holder(other, "k").await.unwrap(), Some(token));
        rig.boot(leader).await.unwrap();
        rig.converge().await;
    }
}

// F21.
#[tokio::test(start_paused = true)]
async fn a_minority_answers_unavailable_in_time_and_the_majority_goes_on() {
    let rig = Rig::start(3, 3).await;
    let session = rig.open_session(0, 60_000).await;
    let old = rig.leader().await;
    let others: Vec<usize> = (0..3).filter(|i| *i != old).collect();
    let names: Vec<&str> = others.iter().map(|i| rig.hosts[*i].name.as_str()).collect();
    rig.net.part(&[&rig.hosts[old].name], &names);
    let start = Instant::now();
    let alone = rig.submit(old, session, 0, acquire("k", None, 1));
    let new = rig.leader_among(&others).await;
    let token = rig.acquire(new, session, "k").await.unwrap();
    let refused = alone.await.unwrap().unwrap_err();
    assert_eq!(refused.status(), Status::Unavailable, "{refused}");
    assert!(start.elapsed() <= rig.timeout + Duration::from_millis(100), "answered after {:?}", start.elapsed());
    let start = Instant::now();
    assert_eq!(rig.holder(old, "k").await.unwrap_err().status(), Status::Unavailable, "a minority does not read");
    assert!(start.elapsed() <= rig.timeout * 2);
    rig.net.heal();
    assert_eq!(rig.holder(old, "k").await.unwrap(), Some(token));
    rig.converge().await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_was_cut_off_does_not_depose_the_leader() {
    let rig = Rig::start(3, 4).await;
    let leader = rig.leader().await;
    let term = rig.core(leader).role();
    let (away, near) = ((leader + 1) % 3, (leader + 2) % 3);
    let (a, l, n) = (&rig.hosts[away].name, &rig.hosts[leader].name, &rig.hosts[near].name);
    rig.net.part(&[a], &[l, n]);
    tokio::time::sleep(Duration::from_secs(6)).await;
    rig.net.heal();
    rig.converge().await;
    assert_eq!(rig.core(leader).role(), term, "the same leader in the same term");
    // One way only: it hears nothing, and can be heard.
    rig.net.part_one_way(l, a);
    tokio::time::sleep(Duration::from_secs(6)).await;
    rig.net.heal();
    rig.converge().await;
    assert_eq!(rig.core(leader).role(), term);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_on_any_member_is_told_there() {
    let rig = Rig::start(3, 5).await;
    let leader = rig.leader().await;
    let follower = (leader + 1) % 3;
    let holder = rig.open_session(leader, 60_000).await;
    let waiter = rig.open_session(follower, 60_000).await;
    let token = rig.acquire(leader, holder, "k").await.unwrap();
    let queued = rig.execute(follower, waiter, acquire("k", Some(u64::MAX), 9)).await.unwrap();
    assert!(matches!(queued, Outcome::Queued { position: 0 }), "{queued:?}");
    rig.execute(leader, holder, Op::Release { key: key("k"), token }).await.unwrap();
    for i in 0..3 {
        let granted = |e: &Event| matches!(e, Event::Granted { session, req: 9, token: t, .. } if *session == waiter && *t > token);
        eventually("the grant is seen", || rig.hosts[i].seen.events.lock().unwrap().iter().any(granted)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn time_passes_in_the_ledger_though_nobody_asks_for_anything() {
    let mut rig = Rig::start(3, 6).await;
    let short = rig.open_session(0, 1_000).await;
    rig.acquire(0, short, "k").await.unwrap();
    let start = Instant::now();
    eventually("the session has run out", || rig.core(1).shared.live().state.ledger.sessions().is_empty()).await;
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(990) && took < Duration::from_millis(1_600), "{took:?}");
    // What remains survives a change of leader, and is not counted anew.
    let short = rig.open_session(0, 1_000).await;
    rig.acquire(0, short, "k").await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    let leader = rig.leader().await;
    rig.kill(leader).await;
    let start = Instant::now();
    let left = (leader + 1) % 3;
    eventually("the session has run out", || rig.core(left).shared.live().state.ledger.sessions().is_empty()).await;
    assert!(start.elapsed() < Duration::from_millis(1_500), "{:?}", start.elapsed());
}

// F23.
#[tokio::test(start_paused = true)]
async fn a_follower_that_is_far_behind_gets_a_snapshot() {
    let mut rig = Rig::new(3, 7);
    rig.snapshot_after = 4_096;
    for i in 0..3 {
        rig.boot(i).await.unwrap();
    }
    let leader = rig.leader().await;
    let behind = (leader + 1) % 3;
    let session = rig.open_session(leader, 3_600_000).await;
    rig.kill(behind).await;
    for round in 0..1_500 {
        let name = format!("k{}", round % 50);
        let token = rig.acquire(leader, session, &name).await.unwrap();
        if round < 1_450 {
            rig.execute(leader, session, Op::Release { key: key(&name), token }).await.unwrap();
        }
    }
    let status = super::super::node::status(rig.core(leader));
    assert!(status.purged_end > 1_000, "the log is purged behind snapshots: {status:?}");
    rig.boot(behind).await.unwrap();
    rig.converge().await;
    assert_eq!(*rig.hosts[behind].seen.skipped.lock().unwrap(), 1, "it was told that events are missing");
    assert_eq!(rig.core(behind).shared.live().state.ledger.counts().locks, 50);
    // And from its snapshot and log it starts again.
    rig.kill(behind).await;
    rig.boot(behind).await.unwrap();
    rig.converge().await;
}

#[tokio::test(start_paused = true)]
async fn the_leadership_can_be_handed_over() {
    let rig = Rig::start(3, 8).await;
    let session = rig.open_session(0, 60_000).await;
    for _ in 0..6 {
        let old = rig.leader().await;
        let to = (old + 1) % 3;
        let order = super::super::wire::Order::Transfer { to: Some(rig.hosts[to].name.clone()) };
        let start = Instant::now();
        super::super::members::order(rig.core((old + 2) % 3).clone(), order).await.unwrap();
        let token = rig.acquire(to, session, "k").await.unwrap();
        assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());
        rig.execute(to, session, Op::Release { key: key("k"), token }).await.unwrap();
        eventually("the new leader leads", || rig.leads(to)).await;
    }
    rig.converge().await;
}

// I-18.
#[tokio::test(start_paused = true)]
async fn a_broken_disk_ends_the_leader_and_only_it() {
    let rig = Rig::start(3, 9).await;
    let session = rig.open_session(0, 60_000).await;
    let leader = rig.leader().await;
    rig.hosts[leader].log.break_it();
    let handed_on = rig.submit((leader + 1) % 3, session, 0, acquire("other", None, 2));
    let failed = rig.execute(leader, session, acquire("k", None, 1)).await.unwrap_err();
    assert!(failed.status().is(crate::base::status::MAYBE_APPLIED), "{failed}");
    let failed = handed_on.await.unwrap().unwrap_err();
    assert_eq!(failed.status(), Status::Unavailable, "in doubt, and no fault of the member that was asked: {failed}");
    eventually("it has ended", || rig.hosts[leader].seen.ended.lock().unwrap().is_some()).await;
    // An order goes to the leader that is known; the next one obeys it.
    let order = super::super::wire::Order::MakeToken { hash: [7; 32], node: "z".into(), ttl_ms: 60_000 };
    let ordered = tokio::spawn(super::super::members::order(rig.core((leader + 1) % 3).clone(), order));
    let start = Instant::now();
    let others: Vec<usize> = (0..3).filter(|i| *i != leader).collect();
    let new = rig.leader_among(&others).await;
    rig.execute(new, session, acquire("k", None, 1)).await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(700), "{:?}", start.elapsed());
    ordered.await.unwrap().unwrap();
    let later = rig.execute(leader, session, acquire("k", None, 1)).await.unwrap_err();
    assert_eq!(later.status(), Status::Poisoned, "{later}");
}

// F31.
#[tokio::test(start_paused = true)]
async fn nodes_come_and_go() {
    let mut rig = Rig::start(3, 10).await;
    let session = rig.open_session(0, 60_000).await;
    let token = rig.acquire(0, session, "k").await.unwrap();
    let d = rig.add("d");
    rig.boot_with(d, vec!["b".into()]).await.unwrap();
    let voters = |rig: &Rig, at: usize| {
        super::super::node::status(rig.core(at)).members.into_iter().filter(|m| m.voter).map(|m| m.name).collect::<Vec<_>>()
    };
    eventually("four voters", || voters(&rig, d).len() == 4).await;
    assert_eq!(rig.holder(d, "k").await.unwrap(), Some(token));
    let order = super::super::wire::Order::Remove { name: "a".into() };
    super::super::members::order(rig.core(1).clone(), order).await.unwrap();
    eventually("three voters", || !voters(&rig, d).contains(&"a".to_owned())).await;
    // What was removed does not come back with its old disk.
    rig.kill(0).await;
    rig.boot(0).await.unwrap();
    let ended = &rig.hosts[0].seen.ended;
    let deadline = Instant::now() + LIMIT;
    while ended.lock().unwrap().is_none() {
        assert!(Instant::now() < deadline, "the removed node is told");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(ended.lock().unwrap().as_ref().unwrap().status(), Status::DataForeign);
    let session2 = rig.open_session(1, 50_000).await;
    assert!(rig.acquire(1, session2, "k9").await.unwrap() > token);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_was_wiped_copied_or_doubled_is_refused() {
    let mut rig = Rig::start(3, 11).await;
    let session = rig.open_session(0, 60_000).await;
    rig.acquire(0, session, "k").await.unwrap();
    let leader = rig.leader().await;
    let victim = (leader + 1) % 3;
    let refused = async |rig: &Rig, want: Status| {
        eventually("it is refused", || rig.hosts[victim].seen.ended.lock().unwrap().is_some()).await;
        let why = rig.hosts[victim].seen.ended.lock().unwrap().clone().unwrap();
        assert_eq!(why.status(), want, "{why}");
    };
    // An old copy: taken while it ran, put back after more was acknowledged.
    let copy = rig.hosts[victim].log.copy();
    let opens = rig.hosts[victim].opens;
    for i in 0..20 {
        rig.acquire(0, session, &format!("more{i}")).await.unwrap();
    }
    rig.converge().await;
    rig.kill(victim).await;
    let good = std::mem::replace(&mut rig.hosts[victim].log, copy);
    rig.boot(victim).await.unwrap();
    refused(&rig, Status::DataLost).await;
    rig.kill(victim).await;
    // Its own disk again: welcome, opened once more.
    rig.hosts[victim].log = good;
    rig.boot(victim).await.unwrap();
    eventually("its start is remembered", || {
        let me = &rig.core(victim).me;
        (0..3).all(|i| rig.core(i).shared.live().state.roster.is_known(&me.name, &me.sighting))
    })
    .await;
    // A twin: the same disk, opened as often, by another process.
    rig.kill(victim).await;
    rig.hosts[victim].opens -= 1;
    rig.boot(victim).await.unwrap();
    refused(&rig, Status::DataLocked).await;
    rig.kill(victim).await;
    assert!(rig.hosts[victim].opens > opens);
    // Wiped: a new disk under the old name.
    let name = rig.hosts[victim].name.clone();
    let wiped = rig.add(&name);
    rig.hosts.swap(victim, wiped);
    rig.boot(victim).await.unwrap();
    refused(&rig, Status::DataForeign).await;
    // The others go on.
    assert!(rig.execute(leader, SessionId(session.0), Op::RenewSession).await.is_ok());
}

// I-20.
#[tokio::test(start_paused = true)]
async fn i20_no_second_vote_in_a_term_after_a_restart() {
    const TERM: u64 = 1_000;
    let mut rig = Rig::start(3, 12).await;
    let voter = (rig.leader().await + 1) % 3;
    rig.net.part(&["a", "b", "c"], &["a", "b", "c"]);
    let ask = async |rig: &Rig, candidate: u64| {
        let ballot = Ballot { term: TERM, node: candidate, won: false };
        let ahead = Place { term: TERM, leader: candidate, index: 1 << 40 };
        let mut request = VoteRequest::new(Vote::from(ballot), Some(LogId::from(ahead)));
        // Heeded although its leader may live.
        request.leadership_transfer = true;
        rig.core(voter).raft().unwrap().vote(request).await.unwrap().vote_granted
    };
    assert!(ask(&rig, 2_000).await, "its first vote in this term");
    assert!(!ask(&rig, 1_999).await, "it has voted");
    rig.kill(voter).await;
    rig.boot(voter).await.unwrap();
    assert!(!ask(&rig, 1_999).await, "it has voted, before its restart");
    assert!(ask(&rig, 2_000).await, "and says so again to whom it voted for");
    // A leader is known by term and number, in this order: one with a higher number comes after, as in a later term.
    assert!(ask(&rig, 2_001).await, "one that comes after");
    assert!(!ask(&rig, 2_000).await, "there is no way back");
}
