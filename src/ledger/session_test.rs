//! Slots: that they take no more room than their sessions, and that a restored table gives the same ones.

#![allow(clippy::unwrap_used)]

use super::*;

fn pages(sessions: &Sessions) -> usize {
    sessions.branches.iter().filter_map(OnceLock::get).flat_map(|b| b.iter()).filter(|p| p.get().is_some()).count()
}

fn body(nonce: u128) -> Body {
    Body { nonce, ..Body::default() }
}

#[test]
fn i30_a_session_takes_one_page_whatever_its_number_says() {
    let sessions = Sessions::new();
    let id = SessionId(1 << SLOT_BITS | SLOT_MASK);
    sessions.restore(id, 5, 1_000, body(1));
    sessions.restored(1, Vec::new());
    assert_eq!(pages(&sessions), 1);
    assert_eq!(sessions.index().gaps.len(), 1, "what lies before it is one gap and no list");
    assert_eq!(sessions.find(id).unwrap().id(), id);
    assert_eq!(sessions.all(), [id]);
    let (first, _) = sessions.open(2, "", 1_000, 5);
    assert_eq!(Sessions::slot_number(first), 0);
    assert_eq!(pages(&sessions), 2);
}

#[test]
fn slots_are_taken_from_below_whether_cleared_or_never_used() {
    let plain = Sessions::new();
    let opened: Vec<SessionId> = (0..200).map(|n| plain.open(n, "", 1_000, 5).0).collect();
    for id in opened.iter().filter(|id| matches!(Sessions::slot_number(**id), 3 | 7 | 8 | 70..=130)) {
        plain.clear(*id);
    }
    let restored = Sessions::new();
    for id in plain.all() {
        restored.restore(id, 5, 1_000, body(u128::from(Sessions::slot_number(id))));
    }
    restored.restored(200, Vec::new());
    for n in 0..70 {
        // One that is cleared now goes among the gaps of the snapshot.
        if n == 2 {
            plain.clear(opened[20]);
            restored.clear(opened[20]);
        }
        assert_eq!(plain.open(1_000 + n, "", 1_000, 5), restored.open(1_000 + n, "", 1_000, 5), "of a replica and of its snapshot");
    }
}
