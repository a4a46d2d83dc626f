//! A lock service that a host gives as a table of functions.

use std::ffi::{c_char, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use super::args::{Out, User, ms_up, reserved, sized, text};
use super::config::settings;
use super::guard::guard;
use super::log;
use super::node::published;
use super::types::{TENURE_FOREVER, tenure_bytes, tenure_config, tenure_error, tenure_node};
use crate::base::ids::NODE_ID_MAX;
use crate::base::{Error, Result, Status, process};
use crate::node::Node;
use crate::plug::{Attempt, Capabilities, Holding, LockService};

/// Every grant has a token: 1 to 2^63-1, larger than that of every grant of the same key before it, and never another key's.
pub const TENURE_LOCK_SERVICE_FENCING: u32 = 1;
/// Those who wait in `acquire`, on all nodes, are granted the lock in the order in which they came.
pub const TENURE_LOCK_SERVICE_FAIR: u32 = 2;
/// `holder` tells what every earlier answer implies.
pub const TENURE_LOCK_SERVICE_LINEARIZABLE_READS: u32 = 4;

/// Who holds a lock, as a service tells it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tenure_lock_holder {
    /// Given: sizeof(tenure_lock_holder) of the library.
    pub struct_size: u32,
    /// 0.
    pub reserved0: u32,
    /// The holder's token, or 0 when it is not known. Given as 0.
    pub token: u64,
    /// What is left of its ttl, in ms, or TENURE_FOREVER when it is not known. Given as TENURE_FOREVER.
    pub remaining_ms: u64,
    /// The holder's node id, 1 to 64 characters, ended by a NUL.
    pub node: [c_char; 72],
}

/// A lock service of the host's. Start from TENURE_LOCK_SERVICE_INIT. The library copies it; docs/plug-ins.md says what each part is good for.
///
/// The functions are called on threads of the library, with all signals blocked and 2 MiB of stack, several at a time; never two of try_acquire,
/// acquire, renew and release for one key, unless a call was given up because it took longer than its timeout_ms. A call that was
/// given up may go on: its thread is left to it, and what it grants after all is released. They must not throw, longjmp or end their thread, and
/// must not close the node. `key` and `err` are valid until the function returns.
///
/// Each returns a #tenure_status: #TENURE_OK, the statuses named at it, #TENURE_UNAVAILABLE when nobody can tell (it is tried again), or another
/// one, which the caller of the node gets. It may leave a text in err->message, which it finds empty; the rest of *err is not looked at. A number that
/// is no status is #TENURE_SERVICE_FAILED.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tenure_lock_service {
    /// sizeof(tenure_lock_service) of the header that the caller was compiled with.
    pub struct_size: u32,
    /// TENURE_LOCK_SERVICE_FENCING and the like. Others are refused.
    pub capabilities: u32,
    /// The service's ttl is a multiple of this, in ms; the library rounds up to it. 0 stands for 1.
    pub ttl_granularity_ms: u64,
    /// The shortest ttl that it takes, in ms; the library asks for at least this.
    pub ttl_min_ms: u64,
    /// The longest ttl that it takes, in ms; 0 stands for a day.
    pub ttl_max_ms: u64,
    /// The name under which the service knows this node: 1 to 64 printable ASCII characters.
    pub node_id: tenure_bytes,
    /// Passed to every function.
    pub user: *mut c_void,
    /// Takes the lock for ttl_ms if it is free. #TENURE_OK: *out_token is its token, 0 without fencing. #TENURE_HELD: somebody else holds it;
    /// *out_token is the holder's, or stays 0. Required.
    pub try_acquire: Option<
        unsafe extern "C" fn(
            user: *mut c_void,
            key: tenure_bytes,
            ttl_ms: u64,
            timeout_ms: u64,
            out_token: *mut u64,
            err: *mut tenure_error,
        ) -> i32,
    >,
    /// Gives the lock back. #TENURE_NOT_HOLDER, and no effect, when `token` is not that of the current grant. Required.
    pub release:
        Option<unsafe extern "C" fn(user: *mut c_void, key: tenure_bytes, token: u64, timeout_ms: u64, err: *mut tenure_error) -> i32>,
    /// Tells who holds the lock. #TENURE_NOT_HOLDER: nobody. Required.
    pub holder: Option<
        unsafe extern "C" fn(
            user: *mut c_void,
            key: tenure_bytes,
            timeout_ms: u64,
            out_holder: *mut tenure_lock_holder,
            err: *mut tenure_error,
        ) -> i32,
    >,
    /// Extends the grant to ttl_ms from now. #TENURE_NOT_HOLDER, and no effect, when `token` is not that of the current grant. NULL: grants are not
    /// renewed.
    pub renew: Option<
        unsafe extern "C" fn(user: *mut c_void, key: tenure_bytes, token: u64, ttl_ms: u64, timeout_ms: u64, err: *mut tenure_error) -> i32,
    >,
    /// As try_acquire, waiting for at most wait_ms. NULL: the library asks again and again.
    pub acquire: Option<
        unsafe extern "C" fn(
            user: *mut c_void,
            key: tenure_bytes,
            ttl_ms: u64,
            wait_ms: u64,
            out_token: *mut u64,
            err: *mut tenure_error,
        ) -> i32,
    >,
    /// Called once with `user`, on any thread, when the node is closed or freed and the last call has returned; not when opening the
    /// node failed, and not in a forked child. May be NULL.
    pub free: Option<unsafe extern "C" fn(user: *mut c_void)>,
    /// 0.
    pub reserved: [u64; 4],
}

/// Size of the struct in the first version that has it.
pub(super) const FIRST: usize = size_of::<tenure_lock_service>();

pub(super) const EMPTY: tenure_lock_service = tenure_lock_service {
    struct_size: 0,
    capabilities: 0,
    ttl_granularity_ms: 0,
    ttl_min_ms: 0,
    ttl_max_ms: 0,
    node_id: tenure_bytes { ptr: std::ptr::null(), len: 0 },
    user: std::ptr::null_mut(),
    try_acquire: None,
    release: None,
    holder: None,
    renew: None,
    acquire: None,
    free: None,
    reserved: [0; 4],
};

/// The functions, and the host's pointer, which [`User`] lets go from thread to thread.
pub(super) struct Service {
    node_id: String,
    caps: Capabilities,
    user: User,
    table: Table,
    /// Whether the library has taken it over, and so frees it.
    pub(super) taken: Arc<AtomicBool>,
    generation: u64,
}

/// The required functions are there.
#[derive(Clone, Copy)]
struct Table {
    try_acquire: unsafe extern "C" fn(*mut c_void, tenure_bytes, u64, u64, *mut u64, *mut tenure_error) -> i32,
    release: unsafe extern "C" fn(*mut c_void, tenure_bytes, u64, u64, *mut tenure_error) -> i32,
    holder: unsafe extern "C" fn(*mut c_void, tenure_bytes, u64, *mut tenure_lock_holder, *mut tenure_error) -> i32,
    renew: Option<unsafe extern "C" fn(*mut c_void, tenure_bytes, u64, u64, u64, *mut tenure_error) -> i32>,
    acquire: Option<unsafe extern "C" fn(*mut c_void, tenure_bytes, u64, u64, *mut u64, *mut tenure_error) -> i32>,
    free: Option<unsafe extern "C" fn(*mut c_void)>,
}

impl Service {
    /// # Safety
    /// What `given` points to must be readable.
    pub(super) unsafe fn new(given: &tenure_lock_service) -> Result<Service> {
        let known = TENURE_LOCK_SERVICE_FENCING | TENURE_LOCK_SERVICE_FAIR | TENURE_LOCK_SERVICE_LINEARIZABLE_READS;
        if given.capabilities & !known != 0 {
            return Err(Error::invalid("service", format_args!("capabilities {:#x} are not known", given.capabilities & !known)));
        }
        reserved("service", &given.reserved)?;
        let missing = |name| Error::invalid("service", format_args!("{name} is NULL"));
        let table = Table {
            try_acquire: given.try_acquire.ok_or_else(|| missing("try_acquire"))?,
            release: given.release.ok_or_else(|| missing("release"))?,
            holder: given.holder.ok_or_else(|| missing("holder"))?,
            renew: given.renew,
            acquire: given.acquire,
            free: given.free,
        };
        let of = |flag| given.capabilities & flag != 0;
        let least = Capabilities::default();
        let caps = Capabilities {
            fencing: of(TENURE_LOCK_SERVICE_FENCING),
            renew: table.renew.is_some(),
            wait: table.acquire.is_some(),
            fair: of(TENURE_LOCK_SERVICE_FAIR),
            linearizable_reads: of(TENURE_LOCK_SERVICE_LINEARIZABLE_READS),
            ttl_granularity: Duration::from_millis(given.ttl_granularity_ms.max(1)),
            ttl_min: Duration::from_millis(given.ttl_min_ms.max(1)),
            ttl_max: match given.ttl_max_ms {
                0 => least.ttl_max,
                ms => Duration::from_millis(ms),
            },
        };
        // SAFETY: the caller's promise.
        let node_id = unsafe { text(given.node_id, "service.node_id", NODE_ID_MAX)? }.to_owned();
        let taken = Arc::new(AtomicBool::new(false));
        Ok(Service { node_id, caps, user: User(given.user), table, taken, generation: process::generation() })
    }

    /// Runs one function of the host's; its status, and the text that it left.
    fn call(&self, run: impl FnOnce(*mut c_void, *mut tenure_error) -> i32) -> (i32, Error) {
        let mut err = super::error::plain(&Ok(()));
        let code = run(self.user.get(), &mut err);
        let bytes: Vec<u8> = err.message.iter().map(|c| *c as u8).take_while(|b| *b != 0).collect();
        let said = String::from_utf8_lossy(&bytes).into_owned();
        let error = match Status::from_code(code) {
            Some(status) if said.is_empty() => Error::new(status, format!("the lock service: {}", status.spec().text)),
            Some(status) => Error::new(status, said),
            None => Error::new(Status::ServiceFailed, format!("the lock service answered {code}, which is no status")),
        };
        (code, error)
    }

    fn attempt(&self, run: impl FnOnce(*mut c_void, *mut u64, *mut tenure_error) -> i32) -> Result<Attempt> {
        let mut token = 0;
        match self.call(|user, err| run(user, &mut token, err)) {
            (0, _) => Ok(Attempt::Acquired { token }),
            (_, error) if error.status() == Status::Held => Ok(Attempt::Held { token }),
            (_, error) => Err(error),
        }
    }

    fn done(&self, run: impl FnOnce(*mut c_void, *mut tenure_error) -> i32) -> Result<bool> {
        match self.call(run) {
            (0, _) => Ok(true),
            (_, error) if error.status() == Status::NotHolder => Ok(false),
            (_, error) => Err(error),
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(free) = self.table.free
            && self.taken.load(SeqCst)
            && process::check_generation(self.generation).is_ok()
        {
            // SAFETY: the host's function, called once: nobody else has the service any more.
            unsafe { free(self.user.get()) };
        }
    }
}

impl LockService for Service {
    fn node_id(&self) -> Result<String> {
        Ok(self.node_id.clone())
    }

    fn capabilities(&self) -> Capabilities {
        self.caps
    }

    fn try_acquire(&self, key: &[u8], ttl: Duration, limit: Duration) -> Result<Attempt> {
        let (f, key) = (self.table.try_acquire, tenure_bytes::of(key));
        // SAFETY: the host's function, called as the header says.
        self.attempt(|user, token, err| unsafe { f(user, key, ms_up(ttl), ms_up(limit), token, err) })
    }

    fn release(&self, key: &[u8], token: u64, limit: Duration) -> Result<bool> {
        let (f, key) = (self.table.release, tenure_bytes::of(key));
        // SAFETY: as above.
        self.done(|user, err| unsafe { f(user, key, token, ms_up(limit), err) })
    }

    fn renew(&self, key: &[u8], token: u64, ttl: Duration, limit: Duration) -> Result<bool> {
        let Some(f) = self.table.renew else { return Err(crate::plug::unsupported("renew")) };
        let key = tenure_bytes::of(key);
        // SAFETY: as above.
        self.done(|user, err| unsafe { f(user, key, token, ms_up(ttl), ms_up(limit), err) })
    }

    fn holder(&self, key: &[u8], limit: Duration) -> Result<Option<Holding>> {
        let (f, key) = (self.table.holder, tenure_bytes::of(key));
        let struct_size = size_of::<tenure_lock_holder>() as u32;
        let mut out = tenure_lock_holder { struct_size, reserved0: 0, token: 0, remaining_ms: TENURE_FOREVER, node: [0; 72] };
        // SAFETY: as above.
        if !self.done(|user, err| unsafe { f(user, key, ms_up(limit), &mut out, err) })? {
            return Ok(None);
        }
        let node: Vec<u8> = out.node.iter().map(|c| *c as u8).take_while(|b| *b != 0).collect();
        if node.is_empty() || node.len() > NODE_ID_MAX {
            return Err(Error::new(Status::ServiceFailed, format!("holder: a node id of {} bytes", node.len())));
        }
        let remaining = (out.remaining_ms != TENURE_FOREVER).then(|| Duration::from_millis(out.remaining_ms));
        Ok(Some(Holding { node: String::from_utf8_lossy(&node).into_owned(), token: out.token, remaining }))
    }

    fn acquire(&self, key: &[u8], ttl: Duration, wait: Duration) -> Result<Attempt> {
        let Some(f) = self.table.acquire else { return Err(crate::plug::unsupported("acquire")) };
        let key = tenure_bytes::of(key);
        // SAFETY: as above.
        self.attempt(|user, token, err| unsafe { f(user, key, ms_up(ttl), ms_up(wait), token, err) })
    }
}

/// Opens a node over a lock service of the host's: its sessions, renewals, events and gates work over that service. See docs/plug-ins.md.
///
/// Parameters: config - the settings, copied; 0 for the defaults; service - copied; out_node - where the handle goes; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT for a function that is missing, an unknown capability, a `data_dir`, or another `node_id` than
/// the service's; #TENURE_IO; #TENURE_LIMIT; #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE.
/// Memory: as tenure_node_open(). `user` is the library's from success until it calls `free`, and stays the caller's otherwise.
/// Threads: any. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_node_open_with_service(
    config: tenure_config,
    service: *const tenure_lock_service,
    out_node: *mut tenure_node,
    err: *mut tenure_error,
) -> i32 {
    guard(err, || {
        log::install_panic_hook();
        log::check_may_wait()?;
        let out = Out::required(out_node, "out_node")?;
        if service.is_null() {
            return Err(Error::invalid("service", "is NULL"));
        }
        process::watch_forks();
        // SAFETY: the header asks for a readable struct of its stated size.
        let service = unsafe { Service::new(&sized(service, "service", FIRST, EMPTY)?)? };
        let taken = service.taken.clone();
        let node = Node::open_with_service(&settings(config)?, Arc::new(service))?;
        let handle = published(node)?;
        taken.store(true, SeqCst);
        // SAFETY: the header asks for a writable place.
        unsafe { out.set(handle) };
        Ok(())
    })
}
