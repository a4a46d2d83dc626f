//! Events on their way to C.

use std::ffi::c_void;

use super::args::{Out, User};
use super::guard::{guard_clone, guard_on};
use super::inject;
use super::node::NodeObject;
use super::types::{TENURE_FOREVER, tenure_bytes, tenure_error, tenure_event, tenure_event_fn, tenure_event_kind, tenure_node};
use crate::base::{Error, Status};
use crate::node::{Event, WatchEvent};

const NONE: tenure_bytes = tenure_bytes { ptr: std::ptr::null(), len: 0 };

/// Calls a function for each event of a node from now on: locks at risk or lost, gates, poisoning.
///
/// Parameters: node; on_event, user - see #tenure_event_fn; out_subscription - the number for tenure_node_unsubscribe(), or NULL; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_IO; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: `user` is the caller's and must live until tenure_node_unsubscribe() or tenure_node_close() has returned.
/// Threads: any, also in callbacks. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_node_subscribe(
    node: tenure_node,
    on_event: tenure_event_fn,
    user: *mut c_void,
    out_subscription: *mut u64,
    err: *mut tenure_error,
) -> i32 {
    guard_on(node.id, err, |n: &NodeObject| {
        let out = Out::optional(out_subscription, "out_subscription")?;
        let call = on_event.ok_or_else(|| Error::invalid("on_event", "is NULL"))?;
        let user = User(user);
        let id = n.node.subscribe(Box::new(move |event| {
            inject::callback();
            // SAFETY: the host's function; the header forbids it to throw, and says how long the event is valid.
            with_plain(event, |plain| unsafe { call(user.get(), plain) });
        }))?;
        // SAFETY: the header asks for a writable place or NULL.
        unsafe { out.set(id) };
        Ok(())
    })
}

/// Ends a subscription. After it has returned the callback does not run and never will; called inside that callback, after
/// the callback has returned.
///
/// Parameters: node; subscription - its number; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT when there is none of that number; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Threads: any, also in callbacks; waits for the callback if it is running on another thread. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_node_unsubscribe(node: tenure_node, subscription: u64, err: *mut tenure_error) -> i32 {
    guard_clone(node.id, err, |n: NodeObject| match n.node.unsubscribe(subscription) {
        true => Ok(()),
        false => Err(no_subscription(subscription)),
    })
}

fn no_subscription(number: u64) -> Error {
    Error::new(Status::InvalidArgument, format!("subscription: there is none of number {number}"))
}

const EMPTY: tenure_event = tenure_event {
    struct_size: size_of::<tenure_event>() as u32,
    kind: 0,
    session: 0,
    token: 0,
    remaining_ms: 0,
    key: NONE,
    name: NONE,
    text: NONE,
};

/// What a watch tells, in the form of an event.
pub(super) fn with_watched(told: &WatchEvent, call: impl FnOnce(&tenure_event)) {
    let mut plain = tenure_event { kind: tenure_event_kind::Freed as i32, key: tenure_bytes::of(told.key.as_bytes()), ..EMPTY };
    if let Some(holder) = &told.holder {
        plain.kind = tenure_event_kind::Held as i32;
        (plain.session, plain.token) = (holder.session.0, holder.token.0);
        plain.name = tenure_bytes::of(holder.node.as_bytes());
        plain.text = tenure_bytes::of(&holder.metadata);
    }
    call(&plain);
}

fn with_plain(event: &Event, call: impl FnOnce(&tenure_event)) {
    let mut plain = EMPTY;
    match event {
        Event::AtRisk { session, key, token, remaining } => {
            plain.kind = tenure_event_kind::AtRisk as i32;
            (plain.session, plain.token) = (session.0, token.0);
            plain.remaining_ms = remaining.as_millis() as u64;
            plain.key = tenure_bytes::of(key.as_bytes());
            call(&plain);
        }
        Event::Lost { session, key, token, reason } => {
            plain.kind = tenure_event_kind::Lost as i32;
            (plain.session, plain.token) = (session.0, token.0);
            plain.key = tenure_bytes::of(key.as_bytes());
            plain.text = tenure_bytes::of(reason.as_str().as_bytes());
            call(&plain);
        }
        Event::RevokeRequested { session, key, token, by, why, force_after } => {
            plain.kind = tenure_event_kind::RevokeRequested as i32;
            (plain.session, plain.token) = (session.0, token.0);
            plain.remaining_ms = force_after.map_or(TENURE_FOREVER, |t| t.as_millis() as u64);
            plain.key = tenure_bytes::of(key.as_bytes());
            plain.name = tenure_bytes::of(by.as_bytes());
            plain.text = tenure_bytes::of(why.as_bytes());
            call(&plain);
        }
        Event::Gate { name, event } => {
            plain.kind = tenure_event_kind::Gate as i32;
            plain.name = tenure_bytes::of(name.as_bytes());
            let text = event.to_string();
            plain.text = tenure_bytes::of(text.as_bytes());
            call(&plain);
        }
        Event::Poisoned { message } => {
            plain.kind = tenure_event_kind::Poisoned as i32;
            plain.text = tenure_bytes::of(message.as_bytes());
            call(&plain);
        }
    }
}
