//! The durable engine with threads, on a real disk.

use std::time::Instant;

use super::durable_test::{Ear, HOUR, acquire, key, open_session, options, request};
use super::*;
use crate::base::{SeededRng, SystemClock};
use crate::ledger::WaitEnd;
use crate::store::Owner;

fn open_real(path: &std::path::Path, ear: Arc<Ear>) -> Result<DurableEngine> {
    let owner = Owner { cluster_id: "c", node_id: None, create: true };
    let options = DurableOptions { segment_bytes: 1 << 16, snapshot_bytes: 1 << 17, ..options() };
    DurableEngine::open(path, &owner, options, Arc::new(SystemClock), &mut SeededRng::new(1), ear)
}

#[test]
fn many_threads_share_their_syncs() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("data");
    let ear = Arc::new(Ear::default());
    let engine = Arc::new(open_real(&path, ear.clone()).unwrap());
    let Ok(Outcome::Session { id, .. }) = engine.execute(&open_session("a", 1)) else { panic!() };
    let pairs = 150;
    let tokens: Mutex<Vec<u64>> = Mutex::default();
    std::thread::scope(|scope| {
        for n in 0..8u64 {
            let (engine, tokens) = (&engine, &tokens);
            scope.spawn(move || {
                for i in 0..pairs {
                    let Ok(Outcome::Granted { token, .. }) = engine.try_acquire(id, &key(n), &Spec::default(), n << 32 | i) else {
                        panic!()
                    };
                    lock(tokens).push(token.0);
                    assert!(matches!(engine.release(id, &key(n), token), Ok(Outcome::Released { .. })));
                }
            });
        }
        for n in 8..12u64 {
            let (engine, tokens) = (&engine, &tokens);
            scope.spawn(move || {
                for i in 0..pairs {
                    let (tell, told) = std::sync::mpsc::channel();
                    engine.submit(&acquire(id, n, None, HOUR, n << 32 | i), Box::new(move |a| tell.send(a).unwrap()));
                    let Ok(Outcome::Granted { token, .. }) = told.recv().unwrap() else { panic!() };
                    lock(tokens).push(token.0);
                    assert!(matches!(engine.release(id, &key(n), token), Ok(Outcome::Released { .. })));
                }
            });
        }
    });
    let status = engine.status();
    let mut tokens = tokens.into_inner().unwrap();
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len() as u64, 12 * pairs);
    assert!(status.syncs < 12 * pairs, "{} syncs for {} pairs", status.syncs, 12 * pairs);
    assert_eq!(engine.counts().unwrap().locks, 0);

    // Closed, it may be opened again although the old object is still there, and the old one says so.
    assert_eq!(open_real(&path, ear.clone()).unwrap_err().status(), Status::DataLocked);
    engine.close();
    engine.close();
    assert_eq!(engine.execute(&open_session("b", 2)).unwrap_err().status(), Status::Closed);
    let again = open_real(&path, ear).unwrap();
    assert_eq!(again.counts().unwrap().last_token, *tokens.last().unwrap());
}

#[test]
fn a_completion_that_panics_takes_nobody_along() {
    let temporary = tempfile::tempdir().unwrap();
    let engine = open_real(&temporary.path().join("data"), Arc::default()).unwrap();
    let Ok(Outcome::Session { id, .. }) = engine.execute(&open_session("a", 1)) else { panic!() };
    let Ok(Outcome::Granted { token, .. }) = engine.execute(&acquire(id, 1, None, HOUR, 0)) else { panic!() };
    // Both are in the queue before anybody leads, as when they come during a write.
    let (tell, told) = std::sync::mpsc::channel();
    lock(&engine.shared.queue).writing = true;
    engine.submit(&acquire(id, 2, None, HOUR, 0), Box::new(move |answer| tell.send(answer).unwrap()));
    engine.submit(&request(id, Op::Release { key: key(1), token }), Box::new(|_| panic!("a host's mistake")));
    engine.submit(&request(SessionId(0), Op::Tick), Box::new(|_| panic!("another")));
    let shared = engine.shared.clone();
    assert!(std::thread::spawn(move || shared.lead()).join().is_err());
    // And on the log thread.
    engine.submit(&request(SessionId(0), Op::Tick), Box::new(|_| panic!("a third")));
    let (again, told_again) = std::sync::mpsc::channel();
    engine.submit(&acquire(id, 4, None, HOUR, 0), Box::new(move |answer| again.send(answer).unwrap()));
    assert!(matches!(told_again.recv().unwrap(), Ok(Outcome::Granted { .. })));
    assert!(matches!(told.recv().unwrap(), Ok(Outcome::Granted { .. })));
    assert!(matches!(engine.execute(&acquire(id, 3, None, HOUR, 0)), Ok(Outcome::Granted { .. })), "the engine goes on");
}

#[test]
fn the_writers_turn_is_passed_on() {
    let temporary = tempfile::tempdir().unwrap();
    let engine = Arc::new(open_real(&temporary.path().join("data"), Arc::default()).unwrap());
    let Ok(Outcome::Session { id, .. }) = engine.execute(&open_session("a", 1)) else { panic!() };
    // Nothing here wakes the log thread, and nobody comes later: whoever finds a writer at work depends on being made the next one.
    let together = Arc::new(std::sync::Barrier::new(8));
    let threads: Vec<_> = (0..8)
        .map(|n| {
            let (engine, together) = (engine.clone(), together.clone());
            std::thread::spawn(move || {
                (0..100)
                    .inspect(|_| _ = together.wait())
                    .all(|i| matches!(engine.execute(&acquire(id, n * 100 + i, None, HOUR, 0)), Ok(Outcome::Granted { .. })))
            })
        })
        .collect();
    let start = Instant::now();
    while !threads.iter().all(std::thread::JoinHandle::is_finished) {
        assert!(start.elapsed() < Duration::from_secs(30), "somebody waits for a turn that never comes");
    }
    assert!(threads.into_iter().all(|t| t.join().unwrap()));
}

#[test]
fn a_blocked_caller_gets_the_lock_when_it_is_free_and_closing_ends_its_wait() {
    let temporary = tempfile::tempdir().unwrap();
    let engine = Arc::new(open_real(&temporary.path().join("data"), Arc::default()).unwrap());
    let Ok(Outcome::Session { id: a, .. }) = engine.execute(&open_session("a", 1)) else { panic!() };
    let Ok(Outcome::Granted { token, .. }) = engine.execute(&acquire(a, 1, None, HOUR, 1)) else { panic!() };
    let waiters = |n| while engine.lock(&key(1)).unwrap().map_or(0, |l| l.waiters.len()) != n {};
    std::thread::scope(|scope| {
        let second = scope.spawn(|| engine.execute(&acquire(a, 1, Some(u64::MAX), HOUR, 2)));
        waiters(1);
        engine.release(a, &key(1), token).unwrap();
        assert!(matches!(second.join().unwrap(), Ok(Outcome::Granted { .. })));
        let third = scope.spawn(|| engine.execute(&acquire(a, 1, Some(1), HOUR, 3)));
        while !third.is_finished() {
            engine.tick().unwrap();
        }
        assert!(matches!(third.join().unwrap(), Ok(Outcome::WaitEnded(WaitEnd::Timeout))));
        let fourth = scope.spawn(|| engine.execute(&acquire(a, 1, Some(u64::MAX), HOUR, 4)));
        waiters(1);
        engine.close();
        assert_eq!(fourth.join().unwrap().unwrap_err().status(), Status::Closed);
    });
}

#[test]
fn a_release_that_was_answered_early_is_synced_soon() {
    let temporary = tempfile::tempdir().unwrap();
    let engine = open_real(&temporary.path().join("data"), Arc::default()).unwrap();
    let Ok(Outcome::Session { id, .. }) = engine.execute(&open_session("a", 1)) else { panic!() };
    let Ok(Outcome::Granted { token, .. }) = engine.execute(&acquire(id, 1, None, HOUR, 1)) else { panic!() };
    let syncs = engine.status().syncs;
    engine.release(id, &key(1), token).unwrap();
    let start = Instant::now();
    while engine.status().syncs == syncs {
        assert!(start.elapsed() < Duration::from_secs(20), "nobody synced it");
    }
    assert!(!engine.shared.unsynced_release.load(SeqCst));
}

#[test]
#[allow(unsafe_code)]
fn dropping_it_in_a_forked_child_waits_for_nobody() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("data");
    let engine = open_real(&path, Arc::default()).unwrap();
    // SAFETY: the child drops an object and leaves without handlers.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // A panic that left this function would end the child like a test that has passed.
        let dropped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(engine)));
        // SAFETY: as above.
        unsafe { libc::_exit(i32::from(dropped.is_err())) };
    }
    let (start, mut code) = (Instant::now(), -1);
    // SAFETY: asks after the child just made.
    while unsafe { libc::waitpid(child, &mut code, libc::WNOHANG) } == 0 {
        if start.elapsed() > Duration::from_secs(20) {
            // SAFETY: the child just made.
            unsafe { libc::kill(child, libc::SIGKILL) };
            panic!("the child hangs");
        }
    }
    assert_eq!(code, 0);
    assert!(matches!(engine.execute(&open_session("a", 1)), Ok(Outcome::Session { .. })), "the parent's goes on");
    assert_eq!(open_real(&path, Arc::default()).unwrap_err().status(), Status::DataLocked);
}
