//! Faults on request, for the tests of the boundary. Without feature `inject` nothing of it is compiled in.

#[cfg(feature = "inject")]
mod armed {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    thread_local! {
        static CALL: Cell<u32> = const { Cell::new(0) };
    }
    static CALLBACK: AtomicU32 = AtomicU32::new(0);

    fn count_down(n: u32) -> Option<u32> {
        n.checked_sub(1)
    }

    pub(in crate::ffi) fn call() {
        let n = CALL.get();
        if n > 0 {
            CALL.set(n - 1);
            assert!(n != 1, "injected into a call");
        }
    }

    pub(in crate::ffi) fn callback() {
        assert!(CALLBACK.fetch_update(SeqCst, SeqCst, count_down) != Ok(1), "injected into a callback");
    }

    /// Makes the library panic, to test what the host sees of it. Only in test builds.
    ///
    /// Parameters: calls - the how-manieth call of this thread from now on panics inside the library, 0 for none; callbacks - the
    /// same for the delivery of callbacks, of any thread.
    /// Returns: nothing. Threads: any. Since: 0.1.
    #[unsafe(no_mangle)]
    pub extern "C" fn tenure_test_inject(calls: u32, callbacks: u32) {
        CALL.set(calls);
        CALLBACK.store(callbacks, SeqCst);
    }
}

#[cfg(feature = "inject")]
pub(super) use armed::{call, callback};

#[cfg(not(feature = "inject"))]
#[inline(always)]
pub(super) fn call() {}

#[cfg(not(feature = "inject"))]
#[inline(always)]
pub(super) fn callback() {}
