//! Requests, streams, events, bounds.

use super::*;

async fn pair() -> (Process, Process, Peer) {
    let (a, b) = (Build::tcp("a").done(), Build::tcp("b").done());
    let at = b.net.listen("127.0.0.1:0").await.unwrap();
    let peer = a.net.peer(Some(id("b")), vec![at]);
    (a, b, peer)
}

#[test]
fn answers_come_back_under_their_own_id() {
    run(async {
        let (_a, b, peer) = pair().await;
        let calls: Vec<_> = (0..200u32)
            .map(|i| {
                let peer = peer.clone();
                tokio::spawn(async move { peer.call(Class::Client, ask(ECHO), &i.to_le_bytes()).await.map(|body| (i, body)) })
            })
            .collect();
        for call in calls {
            let (i, body) = call.await.unwrap().unwrap();
            assert_eq!(body, i.to_le_bytes()[..]);
        }
        assert_eq!(b.net.status().established, 1, "one connection carried them all");
        let error = peer.call(Class::Client, ask(FAIL), b"").await.unwrap_err();
        assert_eq!((error.status(), error.token(), error.message()), (Status::Held, 9, "taken"));
        let error = peer.call(Class::Client, ask(PANIC), b"").await.unwrap_err();
        assert_eq!(error.status(), Status::Internal);
        assert_eq!(peer.call(Class::Client, ask(ECHO), b"still").await.unwrap(), b"still"[..]);
    });
}

#[test]
fn large_bodies_pass_and_larger_ones_do_not() {
    run(async {
        let (_a, _b, peer) = pair().await;
        let body: Vec<u8> = (0..5 << 20).map(|i: u32| i as u8).collect();
        assert_eq!(peer.call(Class::Bulk, ask(ECHO), &body).await.unwrap(), body);
        let over = vec![0; frame::PAYLOAD_MAX + 1];
        assert_eq!(peer.call(Class::Bulk, ask(ECHO), &over).await.unwrap_err().status(), Status::Limit);
        // The other side's cap for the method ends the connection, and the next call gets a new one.
        let connection = peer.connection(Class::Bulk, SECOND).await.unwrap();
        assert!(connection.call(ask(SMALL), &[0; 17]).await.is_err());
        connection.closed().await;
        assert_eq!(peer.call(Class::Bulk, ask(SMALL), &[0; 16]).await.unwrap().len(), 16);
        // So does an answer larger than the asker takes.
        let capped = Ask { answer_cap: Some(10), ..ask(ECHO) };
        let error = peer.call(Class::Bulk, capped, &[0; 11]).await.unwrap_err();
        assert!(error.message().contains("at most 10"), "{error}");
    });
}

#[test]
fn a_dropped_call_ends_its_handler_and_so_does_a_deadline() {
    run(async {
        let (_a, b, peer) = pair().await;
        let call = tokio::spawn({
            let peer = peer.clone();
            async move { peer.call(Class::Client, ask(NEVER), b"").await }
        });
        until(|| b.probe.running.load(SeqCst) == 1).await;
        call.abort();
        until(|| b.probe.dropped.load(SeqCst) == 1).await;
        let error = peer.call(Class::Client, Ask::new(NEVER, Duration::from_millis(20)), b"").await.unwrap_err();
        assert_eq!(error.status(), Status::Unavailable);
        assert!(error.message().contains("node b"), "{error}");
        until(|| b.probe.dropped.load(SeqCst) == 2).await;
        let connection = peer.connection(Class::Client, SECOND).await.unwrap();
        assert_eq!(connection.in_flight(), 0);
    });
}

#[test]
fn events_reach_the_other_side_in_order() {
    run(async {
        let (a, b, peer) = pair().await;
        for i in 0..50u8 {
            peer.call(Class::Client, ask(TICK), &[i]).await.unwrap();
        }
        until(|| a.probe.events.lock().unwrap().len() == 50).await;
        assert!(a.probe.events.lock().unwrap().iter().map(|e| e[0]).eq(0..50));
        peer.connection(Class::Client, SECOND).await.unwrap().push(TICK, b"up").unwrap();
        until(|| !b.probe.events.lock().unwrap().is_empty()).await;
        let accepted = b.net.connections().remove(0);
        assert_eq!(accepted.call(ask(ECHO), b"").await.unwrap_err().status(), Status::Misuse);
    });
}

#[test]
fn a_stream_carries_items_both_ways_past_its_window() {
    run(async {
        let (_a, _b, peer) = pair().await;
        let stream = peer.open(Class::Bulk, COUNT, b"", SECOND).await.unwrap();
        let (mut sender, mut receiver) = stream.split();
        let items = 10 * WINDOW as u64;
        let sending = tokio::spawn(async move {
            for _ in 0..items {
                sender.send(&[0; 1000]).await.unwrap();
            }
            sender.finish();
            assert_eq!(sender.send(b"").await.unwrap_err().status(), Status::Misuse);
            sender
        });
        for i in 1..=items {
            assert_eq!(receiver.recv().await.unwrap().unwrap(), (i * 1000).to_le_bytes()[..]);
        }
        assert_eq!(receiver.recv().await.unwrap(), None);
        drop(sending.await.unwrap());
        drop(receiver);
        let connection = peer.connection(Class::Bulk, SECOND).await.unwrap();
        assert_eq!(connection.in_flight(), 0);
    });
}

#[test]
fn a_stream_nobody_reads_holds_its_sender_at_the_window() {
    run(async {
        let (_a, b, peer) = pair().await;
        let mut stream = peer.open(Class::Bulk, Method(77), b"", SECOND).await.unwrap();
        for _ in 0..WINDOW {
            stream.sender.send(b"x").await.unwrap();
        }
        let blocked = tokio::time::timeout(Duration::from_millis(50), stream.sender.send(b"x")).await;
        assert!(blocked.is_err(), "one more than the window");
        assert_eq!(peer.call(Class::Bulk, ask(ECHO), b"besides").await.unwrap(), b"besides"[..]);
        assert_eq!(b.probe.running.load(SeqCst), 1);
    });
}

#[test]
fn the_ends_of_a_stream_tell_each_other() {
    run(async {
        let (_a, b, peer) = pair().await;
        let mut failed = peer.open(Class::Bulk, FAIL, b"", SECOND).await.unwrap();
        let error = failed.receiver.recv().await.unwrap_err();
        assert_eq!((error.status(), error.message()), (Status::NotHolder, "no stream"));
        assert_eq!(failed.sender.send(b"").await.unwrap_err().status(), Status::NotHolder);
        drop(peer.open(Class::Bulk, NEVER, b"", SECOND).await.unwrap());
        until(|| !b.probe.order.lock().unwrap().is_empty()).await;
        assert!(b.probe.order.lock().unwrap()[0].contains("CANCELLED"), "{:?}", b.probe.order.lock().unwrap());
        let mut cut = peer.open(Class::Bulk, COUNT, b"", SECOND).await.unwrap();
        b.net.disconnect(&Party::Node("a".into()), &Error::new(Status::Unavailable, "cut"));
        assert_eq!(cut.receiver.recv().await.unwrap_err().status(), Status::Unavailable);
    });
}

#[test]
fn a_snapshot_arrives_whole_or_not_at_all() {
    run(async {
        let (_a, _b, peer) = pair().await;
        let whole: Vec<u8> = (0..3_500_000u32).map(|i| (i * 7) as u8).collect();
        let Stream { sender, mut receiver } = peer.open(Class::Snapshot, SINK, b"", SECOND).await.unwrap();
        let mut sending = snapshot::SnapshotSender::new(sender, 0);
        sending.send(&whole).await.unwrap();
        sending.finish().await.unwrap();
        assert_eq!(receiver.recv().await.unwrap().unwrap(), whole.len().to_le_bytes()[..]);

        for (items, status) in [
            (vec![vec![0, 1, 2], vec![1; 41]], Status::DataCorrupt),
            (vec![vec![0; 1 << 20], vec![9]], Status::DataCorrupt),
            (vec![vec![]], Status::DataCorrupt),
            (vec![vec![0, 1]], Status::DataCorrupt),
            (vec![vec![0; (1 << 20) + 1]; 9], Status::Limit),
        ] {
            let Stream { mut sender, mut receiver } = peer.open(Class::Snapshot, SINK, b"", SECOND).await.unwrap();
            for item in items {
                if sender.send(&item).await.is_err() {
                    break;
                }
            }
            sender.finish();
            assert_eq!(receiver.recv().await.unwrap_err().status(), status);
        }
    });
}

#[test]
fn a_snapshot_keeps_to_its_rate() {
    simulate(async {
        let fabric = super::fabric::two_hosts();
        let start = now();
        let Stream { sender, mut receiver } = fabric.peer.open(Class::Snapshot, SINK, b"", SECOND).await.unwrap();
        let mut sending = snapshot::SnapshotSender::new(sender, 1 << 20);
        sending.send(&vec![3; 4 << 20]).await.unwrap();
        sending.finish().await.unwrap();
        assert_eq!(receiver.recv().await.unwrap().unwrap(), (4usize << 20).to_le_bytes()[..]);
        let took = start.elapsed();
        assert!(took >= 3 * SECOND && took < 5 * SECOND, "{took:?} for 4 MiB at 1 MiB/s, the first part at once");
    });
}

// I-32.
#[test]
fn bounds_are_typed() {
    run(async {
        let mut build = Build::tcp("b");
        build.settings.limits.in_flight = 4;
        let b = build.done();
        let a = Build::tcp("a").done();
        let at = b.net.listen("127.0.0.1:0").await.unwrap();
        let peer = a.net.peer(Some(id("b")), vec![at]);
        let waiting: Vec<_> = (0..4)
            .map(|_| {
                let peer = peer.clone();
                tokio::spawn(async move { peer.call(Class::Client, ask(NEVER), b"").await })
            })
            .collect();
        until(|| b.probe.running.load(SeqCst) == 4).await;
        let error = peer.call(Class::Client, ask(ECHO), b"").await.unwrap_err();
        assert_eq!(error.status(), Status::Unavailable);
        assert!(error.message().contains("4 requests"), "{error}");
        waiting.iter().for_each(|call| call.abort());
        until(|| b.probe.running.load(SeqCst) == 0).await;
        peer.call(Class::Client, ask(ECHO), b"").await.unwrap();
    });
}

#[test]
fn closing_ends_what_waits() {
    run(async {
        let (a, b, peer) = pair().await;
        let call = tokio::spawn({
            let peer = peer.clone();
            async move { peer.call(Class::Client, ask(NEVER), b"").await }
        });
        until(|| b.probe.running.load(SeqCst) == 1).await;
        a.net.close().await;
        assert_eq!(call.await.unwrap().unwrap_err().status(), Status::Closed);
        assert_eq!(a.net.status().connections, 0);
        until(|| b.probe.running.load(SeqCst) == 0).await;
        until(|| matches!(peer.state(Class::Client), LinkState::Down { .. })).await;
        assert_eq!(peer.call(Class::Client, ask(ECHO), b"").await.unwrap_err().status(), Status::Closed);
        b.net.close().await;
        assert_eq!(b.probe.closed.lock().unwrap().len(), 1);
    });
}
