/**
 * Tenure: leases, a write gate and distributed locks inside a database process.
 *
 * This file is generated from src/ffi (tests/header.rs) and checked in. It is the contract; docs/c-api.md is the guide.
 *
 * Handles. Objects are named by numbers, each in a struct of its own type, passed by value. A handle that was never issued, was
 * freed, or is of another type is answered with #TENURE_BAD_HANDLE and is never dangerous. Freeing one while other threads are
 * inside calls on it is safe. {0} names nothing; every free accepts it.
 *
 * Returns. Functions return a #tenure_status as int32_t: 0 success, 1-99 expected outcomes, 100-199 the caller's mistake, 200-299
 * the environment, 900-999 a defect of the library. Ask tenure_status_is() about numbers you do not know. Any function may
 * return #TENURE_PANIC: a defect was caught, and the node that it concerns is poisoned.
 *
 * Parameters. Inputs come first, then callbacks, then outputs (out_...), then err. Outputs are written only on #TENURE_OK, with one
 * exception: the size needed, on #TENURE_BUFFER_TOO_SMALL. `err` may be NULL. Bytes and texts are lent for the call and copied.
 * Text goes out into the caller's buffer, NUL-terminated; (NULL, 0) asks for the size. Nothing is ever to be freed with free().
 * Times are in milliseconds.
 *
 * Threads. Any function may be called from any thread at any time, unless it says otherwise. No function is async-signal-safe.
 *
 * Callbacks take their `user` first. See #tenure_done for what they may do.
 *
 * fork(). In a forked child every handle of the parent's answers #TENURE_FORKED, gates are closed, and frees do nothing. A child may open a
 * node of its own. Programs that daemonise open their node after it.
 *
 * The library starts few threads, named tenure-*, with all signals blocked; it installs no signal handlers, writes to none of the
 * descriptors 0 to 2, keeps its own at 3 and above with FD_CLOEXEC, and ends the process only when the setting
 * gate.on_expiry asks for it.
 */


#ifndef TENURE_H
#define TENURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** Version of this header. Compare with tenure_version_number(). */
#define TENURE_VERSION_MAJOR 0
#define TENURE_VERSION_MINOR 1
#define TENURE_VERSION_PATCH 0
#define TENURE_VERSION_NUMBER (TENURE_VERSION_MAJOR * 1000000 + TENURE_VERSION_MINOR * 1000 + TENURE_VERSION_PATCH)
#define TENURE_VERSION_STRING "0.1.0"

/** The defaults of #tenure_lock_opts: exclusive, 10 s, renewed by the library. */
#define TENURE_LOCK_OPTS_INIT \
  { sizeof(tenure_lock_opts), 0, TENURE_LOCK_MODE_EXCLUSIVE, 1, 1, 0, 10000, 0, { NULL, 0 }, { 0, 0, 0, 0 } }

/** An empty #tenure_heartbeat. */
#define TENURE_HEARTBEAT_INIT { sizeof(tenure_heartbeat), 0, 0, 0, 0, { 0, 0, 0, 0 } }

/** A #tenure_heartbeat_reply to be filled in. */
#define TENURE_HEARTBEAT_REPLY_INIT { sizeof(tenure_heartbeat_reply), 0, 0, 0, 0, NULL }

/** A #tenure_task_info to be filled in. */
#define TENURE_TASK_INFO_INIT \
  { sizeof(tenure_task_info), 0, 0, 0, 0, 0, 0, { NULL, 0 }, { NULL, 0 }, { NULL, 0 }, { NULL, 0 }, { NULL, 0 }, { NULL, 0 } }

/** A #tenure_lock_service without a function. */
#define TENURE_LOCK_SERVICE_INIT \
  { sizeof(tenure_lock_service), 0, 0, 0, 0, { NULL, 0 }, NULL, NULL, NULL, NULL, NULL, NULL, NULL, { 0, 0, 0, 0 } }

/** What the inline functions of tenure_gate.h work on. */
struct tenure_gate_cell;

/** Makes a set of settings; passes this header's ABI version. See tenure_config_new_abi(). */
#define tenure_config_new(out_config, err) tenure_config_new_abi(TENURE_ABI_VERSION, (out_config), (err))


/**
 * The same call, with the same arguments, may succeed later.
 */
#define TENURE_IS_RETRIABLE 1

/**
 * The operation may have taken effect although it did not report success.
 */
#define TENURE_IS_MAYBE_APPLIED 2

/**
 * The object cannot be used any more.
 */
#define TENURE_IS_FATAL 4

/**
 * Instead of a revision: whatever there is.
 */
#define TENURE_ANY_REVISION UINT64_MAX

/**
 * Instead of an instant: never.
 */
#define TENURE_NEVER INT64_MAX

/**
 * Every grant has a token: 1 to 2^63-1, larger than that of every grant of the same key before it, and never another key's.
 */
#define TENURE_LOCK_SERVICE_FENCING 1

/**
 * Those who wait in `acquire`, on all nodes, are granted the lock in the order in which they came.
 */
#define TENURE_LOCK_SERVICE_FAIR 2

/**
 * `holder` tells what every earlier answer implies.
 */
#define TENURE_LOCK_SERVICE_LINEARIZABLE_READS 4

/**
 * tenure_orchestrator_register(): the handler returns at once and keeps the task, which ends with tenure_task_finish().
 */
#define TENURE_TASK_DEFERRED 1

/**
 * The session may take the lock again while it holds it; each grant has a token of its own.
 */
#define TENURE_LOCK_REENTRANT 1

/**
 * The caller renews the grant: it ends `ttl_ms` after it was given or last renewed. Otherwise the library renews it for as long
 * as the process runs.
 */
#define TENURE_LOCK_MANUAL 2

/**
 * Wait for ever: a timeout.
 */
#define TENURE_FOREVER UINT64_MAX

/**
 * The name given to tenure_node_watch() is the beginning of names.
 */
#define TENURE_WATCH_PREFIX 1

/**
 * The heartbeat carries a nonce.
 */
#define TENURE_HEARTBEAT_NONCE 1

/**
 * Bytes of a session's secret.
 */
#define TENURE_SECRET_SIZE 16

/**
 * Version of the interface between header and library: it changes only when compiled programs would break.
 */
#define TENURE_ABI_VERSION 1

/**
 * How a call ended. Bands: 0 success, 1-99 expected outcomes, 100-199 the caller's mistake,
 * 200-299 the environment, 900-999 a defect in the library. A caller that meets an unknown
 * code (from a newer library) acts on its band and on `tenure_status_is()`.
 */
enum tenure_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * The call did what it was asked to do.
   */
  TENURE_OK = 0,
  /**
   * Somebody else holds the lock.
   */
  TENURE_HELD = 1,
  /**
   * The time given for waiting ran out. A lock asked for is not held.
   */
  TENURE_TIMEOUT = 2,
  /**
   * The token is not that of the current grant: never granted, released already, or given to another since.
   */
  TENURE_NOT_HOLDER = 3,
  /**
   * The session or the grant ran out of time.
   */
  TENURE_EXPIRED = 4,
  /**
   * A larger fencing token or a higher epoch has been seen; this one is refused.
   */
  TENURE_FENCED = 5,
  /**
   * The operation was cancelled before it had an effect.
   */
  TENURE_CANCELLED = 6,
  /**
   * The gate is closed for this write. The reason is in the message and in the gate's status.
   */
  TENURE_DENIED = 7,
  /**
   * The write ran past its lease or its epoch: it may have taken effect and must not be acknowledged.
   */
  TENURE_UNCERTAIN = 8,
  /**
   * The lock is in its delay after an involuntary loss.
   */
  TENURE_LOCK_DELAY = 9,
  /**
   * A former holder of the office may still act. The error says for how long at most.
   */
  TENURE_TOO_EARLY = 10,
  /**
   * An argument is out of range, of the wrong form, or NULL where it may not be. The message names it.
   */
  TENURE_INVALID_ARGUMENT = 100,
  /**
   * The call is not allowed in this state. The message says which state.
   */
  TENURE_MISUSE = 101,
  /**
   * The call would wait for itself, for example a blocking call inside a callback.
   */
  TENURE_WOULD_DEADLOCK = 102,
  /**
   * The process forked after the object was opened; the child owns nothing.
   */
  TENURE_FORKED = 103,
  /**
   * The object has been closed.
   */
  TENURE_CLOSED = 104,
  /**
   * The caller's buffer is too small; the size needed is in the out parameter.
   */
  TENURE_BUFFER_TOO_SMALL = 105,
  /**
   * The header and the library are of different ABI versions.
   */
  TENURE_ABI_MISMATCH = 106,
  /**
   * The handle names nothing: never issued, freed, or of another type.
   */
  TENURE_BAD_HANDLE = 107,
  /**
   * No setting has this name. The message names it.
   */
  TENURE_UNKNOWN_OPTION = 108,
  /**
   * What this node runs on does not offer the call or the option; a host's lock service, for example. The message names it.
   */
  TENURE_UNSUPPORTED = 109,
  /**
   * The operating system refused an input/output operation. `os_errno` says why.
   */
  TENURE_IO = 200,
  /**
   * A data directory lacks what it must hold. Nothing is created in its place. The message names the file.
   */
  TENURE_DATA_LOST = 201,
  /**
   * Stored data fails its checksum or its form. The message names the file.
   */
  TENURE_DATA_CORRUPT = 202,
  /**
   * The data directory belongs to another node or another cluster. The message names the file.
   */
  TENURE_DATA_FOREIGN = 203,
  /**
   * Another process, or another node of this process, has the data directory open.
   */
  TENURE_DATA_LOCKED = 204,
  /**
   * The data was written by a version that this library cannot read.
   */
  TENURE_DATA_VERSION = 205,
  /**
   * A limit is reached. The message names the limit and its value.
   */
  TENURE_LIMIT = 206,
  /**
   * No answer can be had now; the same call may succeed later.
   */
  TENURE_UNAVAILABLE = 207,
  /**
   * Two processes will not talk: another cluster, an unknown or removed node, a changed disk, a twin, a certificate that
   * names somebody else, an incompatible version. The message names what was wrong.
   */
  TENURE_REFUSED = 208,
  /**
   * A lock service of the host's failed: it threw or panicked, answered what is no answer, or broke a promise. The message says which.
   */
  TENURE_SERVICE_FAILED = 209,
  /**
   * A panic was caught inside the library. The object is poisoned from then on.
   */
  TENURE_PANIC = 900,
  /**
   * The library contradicts itself. Please report it.
   */
  TENURE_INTERNAL = 901,
  /**
   * An earlier failure has ended this object: it denies and refuses everything but status and close.
   */
  TENURE_POISONED = 902,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum tenure_status tenure_status;
#else
typedef int32_t tenure_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * How a lock is shared.
 */
enum tenure_lock_mode
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * One holder.
   */
  TENURE_LOCK_MODE_EXCLUSIVE = 0,
  /**
   * Any number of shared holders, or one exclusive one.
   */
  TENURE_LOCK_MODE_SHARED = 1,
  /**
   * A semaphore: a grant takes `permits` of `permits_limit`. All users of one name state the same limit.
   */
  TENURE_LOCK_MODE_PERMITS = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum tenure_lock_mode tenure_lock_mode;
#else
typedef int32_t tenure_lock_mode;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What an event tells.
 */
enum tenure_event_kind
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * A grant will be lost soon unless a renewal succeeds: key, token, session, remaining_ms.
   */
  TENURE_EVENT_KIND_AT_RISK = 1,
  /**
   * A grant is lost: key, token, session; text says why. Told once for each grant.
   */
  TENURE_EVENT_KIND_LOST = 2,
  /**
   * A gate changed: name is the gate's, text says what happened (granted, at_risk, lost, drained, ...), token is the epoch.
   */
  TENURE_EVENT_KIND_GATE = 3,
  /**
   * The node is poisoned, text says why. Every call but status, close and free answers #TENURE_POISONED.
   */
  TENURE_EVENT_KIND_POISONED = 4,
  /**
   * The holder of a grant is asked to give it back: key, token, session; name says who asks, text why; remaining_ms is how long until it
   * is taken away, TENURE_FOREVER if never.
   */
  TENURE_EVENT_KIND_REVOKE_REQUESTED = 5,
  /**
   * A watched lock is held: key, token, session; name is that of the first holder's session, text its metadata.
   */
  TENURE_EVENT_KIND_HELD = 6,
  /**
   * A watched lock is free, or in its lock-delay: key.
   */
  TENURE_EVENT_KIND_FREED = 7,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum tenure_event_kind tenure_event_kind;
#else
typedef int32_t tenure_event_kind;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * How much is logged. Each level holds those before it.
 */
enum tenure_log_level
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Nothing.
   */
  TENURE_LOG_LEVEL_OFF = 0,
  /**
   * Failures that somebody has to look at.
   */
  TENURE_LOG_LEVEL_ERROR = 1,
  /**
   * What may become one.
   */
  TENURE_LOG_LEVEL_WARN = 2,
  /**
   * Changes of state.
   */
  TENURE_LOG_LEVEL_INFO = 3,
  /**
   * What helps to find a fault.
   */
  TENURE_LOG_LEVEL_DEBUG = 4,
  /**
   * Everything.
   */
  TENURE_LOG_LEVEL_TRACE = 5,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum tenure_log_level tenure_log_level;
#else
typedef int32_t tenure_log_level;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Why a handler is to stop.
 */
enum tenure_stop
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * It is not.
   */
  TENURE_STOP_NO = 0,
  /**
   * Somebody cancelled the run.
   */
  TENURE_STOP_CANCELLED = 1,
  /**
   * Its time is over.
   */
  TENURE_STOP_TIMED_OUT = 2,
  /**
   * Its window closes.
   */
  TENURE_STOP_WINDOW_CLOSED = 3,
  /**
   * The attempt's lease is over: another attempt may run.
   */
  TENURE_STOP_LOST = 4,
  /**
   * The orchestrator closes.
   */
  TENURE_STOP_CLOSING = 5,
  /**
   * Another task of the run has failed, and the schedule halts then.
   */
  TENURE_STOP_HALTED = 6,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum tenure_stop tenure_stop;
#else
typedef int32_t tenure_stop;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * A session: an identity that holds locks and loses them all when it is not renewed. 0 names none. Any thread may use it.
 */
typedef struct tenure_session {
  /**
   * Opaque.
   */
  uint64_t id;
} tenure_session;

/**
 * Bytes that the caller lends for the duration of the call: a key, a name, a text. `{NULL, 0}` is the empty one. Text is UTF-8
 * and need not end in a NUL.
 */
typedef struct tenure_bytes {
  /**
   * First byte; may be NULL only when `len` is 0.
   */
  const void *ptr;
  /**
   * Number of bytes.
   */
  size_t len;
} tenure_bytes;

/**
 * What is asked of a lock. Start from TENURE_LOCK_OPTS_INIT; a NULL pointer stands for it.
 */
typedef struct tenure_lock_opts {
  /**
   * sizeof(tenure_lock_opts) of the header that the caller was compiled with.
   */
  uint32_t struct_size;
  /**
   * TENURE_LOCK_REENTRANT, TENURE_LOCK_MANUAL. Others are refused.
   */
  uint32_t flags;
  /**
   * A #tenure_lock_mode.
   */
  int32_t mode;
  /**
   * Permits taken, at least 1. For #TENURE_LOCK_MODE_PERMITS only.
   */
  uint32_t permits;
  /**
   * Permits there are in all. For #TENURE_LOCK_MODE_PERMITS only.
   */
  uint32_t permits_limit;
  /**
   * 0.
   */
  uint32_t reserved0;
  /**
   * How long the grant outlives its last renewal, in ms: 100 to 86400000.
   */
  uint64_t ttl_ms;
  /**
   * How long nobody else is granted the lock after this grant was lost (not: released), in ms: at most 3600000.
   */
  uint64_t lock_delay_ms;
  /**
   * Shown to whoever asks for the holder; at most 1024 bytes.
   */
  struct tenure_bytes metadata;
  /**
   * 0.
   */
  uint64_t reserved[4];
} tenure_lock_opts;

/**
 * What went wrong, in the caller's own memory: there is nothing to free, and no other call changes it. It need not be
 * initialised. Every call that takes one accepts NULL. After success `status` is #TENURE_OK and `message` is empty.
 */
typedef struct tenure_error {
  /**
   * 256, written by the library. This struct never changes.
   */
  uint32_t struct_size;
  /**
   * The same status as the call returned.
   */
  int32_t status;
  /**
   * What holds for it: TENURE_IS_RETRIABLE, TENURE_IS_MAYBE_APPLIED, TENURE_IS_FATAL.
   */
  uint32_t flags;
  /**
   * errno of the system call that failed, or 0.
   */
  int32_t os_errno;
  /**
   * The fencing token or epoch that it is about, for example the holder's with #TENURE_HELD; or 0.
   */
  uint64_t token;
  /**
   * After how long the same call can succeed, in ms, where that is known (#TENURE_TOO_EARLY); or 0.
   */
  uint64_t retry_after_ms;
  /**
   * 0.
   */
  uint64_t reserved;
  /**
   * One sentence that names the argument, file, key or limit concerned. Always ends in a NUL, cut at a whole character.
   */
  char message[216];
} tenure_error;

/**
 * The end of an operation that was started with a callback.
 *
 * Called exactly once, never inside the call that started the operation, with no lock of the library held: on the library's
 * delivery thread, or inside tenure_node_dispatch() and tenure_node_close() when the node's `delivery` is `fd`. `token` is 0
 * unless a lock was granted. `err` is never NULL and valid only until the callback returns. It may call anything that does
 * not wait; what waits, closes or dispatches answers #TENURE_WOULD_DEADLOCK in it. It must not throw, longjmp or end its thread.
 */
typedef void (*tenure_done)(void *user, int32_t status, uint64_t token, const struct tenure_error *err);

/**
 * A node: in memory, or with a data directory durable. 0 names none. Any thread may use it.
 */
typedef struct tenure_node {
  /**
   * Opaque.
   */
  uint64_t id;
} tenure_node;

/**
 * A set of settings, see docs/configuration.md. 0 names none. Only one thread at a time may fill one in.
 */
typedef struct tenure_config {
  /**
   * Opaque.
   */
  uint64_t id;
} tenure_config;

/**
 * An event. The library's memory: valid, with all that it points to, until the callback returns.
 */
typedef struct tenure_event {
  /**
   * Size of this struct in the library; fields beyond it do not exist.
   */
  uint32_t struct_size;
  /**
   * A #tenure_event_kind; ignore those you do not know.
   */
  int32_t kind;
  /**
   * The session's number, or 0.
   */
  uint64_t session;
  /**
   * A fencing token or an epoch, or 0.
   */
  uint64_t token;
  /**
   * What is left, in ms, or 0.
   */
  uint64_t remaining_ms;
  /**
   * The lock, or empty.
   */
  struct tenure_bytes key;
  /**
   * Name of the gate or the session, or empty.
   */
  struct tenure_bytes name;
  /**
   * What happened, as a word or a sentence, or empty.
   */
  struct tenure_bytes text;
} tenure_event;

/**
 * Receives events. Same rules as #tenure_done, except that it is called any number of times.
 */
typedef void (*tenure_event_fn)(void *user, const struct tenure_event *event);

/**
 * The highest epoch at a resource, with a checksum, to be stored as it is.
 */
typedef struct tenure_epoch_record {
  /**
   * Opaque; the same on every machine.
   */
  uint8_t bytes[24];
} tenure_epoch_record;

/**
 * Epochs at a resource, in a file. 0 names none. Any thread may use it.
 */
typedef struct tenure_epoch_fence {
  /**
   * Opaque.
   */
  uint64_t id;
} tenure_epoch_fence;

/**
 * A write that an epoch fence has let in. 0 names none. Any thread may free it.
 */
typedef struct tenure_epoch_pass {
  /**
   * Opaque.
   */
  uint64_t id;
} tenure_epoch_pass;

/**
 * A write gate. 0 names none. Any thread may use it.
 */
typedef struct tenure_gate {
  /**
   * Opaque.
   */
  uint64_t id;
} tenure_gate;

/**
 * A lease that a controller pushes. Start from TENURE_HEARTBEAT_INIT.
 */
typedef struct tenure_heartbeat {
  /**
   * sizeof(tenure_heartbeat) of the header that the caller was compiled with.
   */
  uint32_t struct_size;
  /**
   * TENURE_HEARTBEAT_NONCE, or 0. Others are refused.
   */
  uint32_t flags;
  /**
   * The election's version.
   */
  uint64_t epoch;
  /**
   * Length of the lease in ms, counted from the issue of the nonce; without one, under the weaker mode `gate.trust_receipt`, from now.
   */
  uint64_t ttl_ms;
  /**
   * A nonce of this gate's, with TENURE_HEARTBEAT_NONCE.
   */
  uint64_t nonce;
  /**
   * 0.
   */
  uint64_t reserved[4];
} tenure_heartbeat;

/**
 * The answer to a heartbeat. Start from TENURE_HEARTBEAT_REPLY_INIT: `struct_size` says how much may be written.
 */
typedef struct tenure_heartbeat_reply {
  /**
   * Given: sizeof(tenure_heartbeat_reply). Returned: how much of it was written.
   */
  uint32_t struct_size;
  /**
   * 1 when the lease was granted or renewed, else 0.
   */
  int32_t accepted;
  /**
   * The lease's epoch, or the highest one known where there is no lease.
   */
  uint64_t epoch;
  /**
   * Until the lease ends, in ms; 0 for none.
   */
  uint64_t remaining_ms;
  /**
   * To be sent with the next heartbeat, whose lease will count from now.
   */
  uint64_t next_nonce;
  /**
   * Why it was not accepted, as a word: "no_nonce", "unknown_nonce", "expired", "draining"; otherwise "". Static, never NULL.
   */
  const char *reason;
} tenure_heartbeat_reply;

/**
 * A granter of offices. 0 names none. Any thread may use it.
 */
typedef struct tenure_granter {
  /**
   * Opaque.
   */
  uint64_t id;
} tenure_granter;

/**
 * Receives log lines, one at a time, on a thread of the library's own that holds no lock. `target` names the part of the
 * library, `message` has no line end; both are valid until the callback returns. It may take its time: lines are dropped, and
 * the number of those dropped is logged, when more than 1024 wait. Same rules as #tenure_done otherwise.
 */
typedef void (*tenure_log_fn)(void *user, int32_t level, struct tenure_bytes target, struct tenure_bytes message);

/**
 * An orchestrator. 0 names none. Any thread may use it.
 */
typedef struct tenure_orchestrator {
  /**
   * Opaque.
   */
  uint64_t id;
} tenure_orchestrator;

/**
 * Who holds a lock, as a service tells it.
 */
typedef struct tenure_lock_holder {
  /**
   * Given: sizeof(tenure_lock_holder) of the library.
   */
  uint32_t struct_size;
  /**
   * 0.
   */
  uint32_t reserved0;
  /**
   * The holder's token, or 0 when it is not known. Given as 0.
   */
  uint64_t token;
  /**
   * What is left of its ttl, in ms, or TENURE_FOREVER when it is not known. Given as TENURE_FOREVER.
   */
  uint64_t remaining_ms;
  /**
   * The holder's node id, 1 to 64 characters, ended by a NUL.
   */
  char node[72];
} tenure_lock_holder;

/**
 * A lock service of the host's. Start from TENURE_LOCK_SERVICE_INIT. The library copies it; docs/plug-ins.md says what each part is good for.
 *
 * The functions are called on threads of the library, with all signals blocked and 2 MiB of stack, several at a time; never two of try_acquire,
 * acquire, renew and release for one key, unless a call was given up because it took longer than its timeout_ms. A call that was
 * given up may go on: its thread is left to it, and what it grants after all is released. They must not throw, longjmp or end their thread, and
 * must not close the node. `key` and `err` are valid until the function returns.
 *
 * Each returns a #tenure_status: #TENURE_OK, the statuses named at it, #TENURE_UNAVAILABLE when nobody can tell (it is tried again), or another
 * one, which the caller of the node gets. It may leave a text in err->message, which it finds empty; the rest of *err is not looked at. A number that
 * is no status is #TENURE_SERVICE_FAILED.
 */
typedef struct tenure_lock_service {
  /**
   * sizeof(tenure_lock_service) of the header that the caller was compiled with.
   */
  uint32_t struct_size;
  /**
   * TENURE_LOCK_SERVICE_FENCING and the like. Others are refused.
   */
  uint32_t capabilities;
  /**
   * The service's ttl is a multiple of this, in ms; the library rounds up to it. 0 stands for 1.
   */
  uint64_t ttl_granularity_ms;
  /**
   * The shortest ttl that it takes, in ms; the library asks for at least this.
   */
  uint64_t ttl_min_ms;
  /**
   * The longest ttl that it takes, in ms; 0 stands for a day.
   */
  uint64_t ttl_max_ms;
  /**
   * The name under which the service knows this node: 1 to 64 printable ASCII characters.
   */
  struct tenure_bytes node_id;
  /**
   * Passed to every function.
   */
  void *user;
  /**
   * Takes the lock for ttl_ms if it is free. #TENURE_OK: *out_token is its token, 0 without fencing. #TENURE_HELD: somebody else holds it;
   * *out_token is the holder's, or stays 0. Required.
   */
  int32_t (*try_acquire)(void *user,
                         struct tenure_bytes key,
                         uint64_t ttl_ms,
                         uint64_t timeout_ms,
                         uint64_t *out_token,
                         struct tenure_error *err);
  /**
   * Gives the lock back. #TENURE_NOT_HOLDER, and no effect, when `token` is not that of the current grant. Required.
   */
  int32_t (*release)(void *user, struct tenure_bytes key, uint64_t token, uint64_t timeout_ms, struct tenure_error *err);
  /**
   * Tells who holds the lock. #TENURE_NOT_HOLDER: nobody. Required.
   */
  int32_t (*holder)(void *user,
                    struct tenure_bytes key,
                    uint64_t timeout_ms,
                    struct tenure_lock_holder *out_holder,
                    struct tenure_error *err);
  /**
   * Extends the grant to ttl_ms from now. #TENURE_NOT_HOLDER, and no effect, when `token` is not that of the current grant. NULL: grants are not
   * renewed.
   */
  int32_t (*renew)(void *user,
                   struct tenure_bytes key,
                   uint64_t token,
                   uint64_t ttl_ms,
                   uint64_t timeout_ms,
                   struct tenure_error *err);
  /**
   * As try_acquire, waiting for at most wait_ms. NULL: the library asks again and again.
   */
  int32_t (*acquire)(void *user,
                     struct tenure_bytes key,
                     uint64_t ttl_ms,
                     uint64_t wait_ms,
                     uint64_t *out_token,
                     struct tenure_error *err);
  /**
   * Called once with `user`, on any thread, when the node is closed or freed and the last call has returned; not when opening the
   * node failed, and not in a forked child. May be NULL.
   */
  void (*free)(void *user);
  /**
   * 0.
   */
  uint64_t reserved[4];
} tenure_lock_service;

/**
 * Says whether a run of a schedule may begin on this node: #TENURE_OK if it may, any other number if not; then err->message, which it finds empty, may
 * say why. `target` is empty for a singleton. Called on a thread of the library, several at a time; one that takes longer than 5 s has said no. It
 * must not throw, longjmp or end its thread, nor close the orchestrator. The texts are valid until it returns.
 */
typedef int32_t (*tenure_run_gate_fn)(void *user,
                                      struct tenure_bytes schedule,
                                      struct tenure_bytes target,
                                      struct tenure_error *err);

/**
 * Given to a #tenure_topology_fn, and valid until that returns: takes one shard with the names of the nodes that have it. Returns #TENURE_OK, or
 * #TENURE_INVALID_ARGUMENT, and then the whole answer counts as a failure.
 */
typedef int32_t (*tenure_shard_fn)(void *shards,
                                   struct tenure_bytes shard,
                                   const struct tenure_bytes *nodes,
                                   size_t count);

/**
 * Names the shards of a schedule: calls `add` with `shards` once for each. Returns #TENURE_OK, or any other number when it cannot tell; then
 * err->message, which it finds empty, may say why. Called on a thread of the library. It must not throw, longjmp or end its thread, nor close the
 * orchestrator.
 */
typedef int32_t (*tenure_topology_fn)(void *user,
                                      struct tenure_bytes schedule,
                                      tenure_shard_fn add,
                                      void *shards,
                                      struct tenure_error *err);

/**
 * One try of one task. 0 names none. Any thread may use it.
 */
typedef struct tenure_task {
  /**
   * Opaque.
   */
  uint64_t id;
} tenure_task;

/**
 * Does a task. Called on a thread of its own, which it may keep busy; with TENURE_TASK_DEFERRED on the orchestrator's, where it must not wait. Returns
 * #TENURE_OK when the task is done (deferred: begun), any other number when it has failed; then err->message, which it finds empty, may say why.
 * `task` is valid until it returns; a deferred one until the host frees it. It must not throw, longjmp or end its thread.
 */
typedef int32_t (*tenure_task_fn)(void *user, struct tenure_task task, struct tenure_error *err);

/**
 * What a task is about. The texts are the library's, and valid as long as the task's handle.
 */
typedef struct tenure_task_info {
  /**
   * Given: sizeof(tenure_task_info).
   */
  uint32_t struct_size;
  /**
   * Number of the attempt, from 1; larger after a loss.
   */
  uint32_t attempt;
  /**
   * Number of this try of the task within the attempt, from 1.
   */
  uint32_t try_number;
  /**
   * 0.
   */
  uint32_t reserved0;
  /**
   * The run's number.
   */
  uint64_t run;
  /**
   * Fencing token: larger than that of every former attempt. For the resource that is written to.
   */
  uint64_t token;
  /**
   * The nominal instant, ms since 1970 UTC.
   */
  int64_t tick_ms;
  /**
   * The schedule's id.
   */
  struct tenure_bytes schedule;
  /**
   * Empty for a singleton; a node's name, or a shard's.
   */
  struct tenure_bytes target;
  /**
   * Kind of the task.
   */
  struct tenure_bytes kind;
  /**
   * Name of the task within its schedule.
   */
  struct tenure_bytes name;
  /**
   * `schedule/target/tick`: the same for all attempts.
   */
  struct tenure_bytes idempotency_key;
  /**
   * Parameters: the trigger's, else the task's, else the schedule's.
   */
  struct tenure_bytes params;
} tenure_task_info;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Starts what tenure_session_acquire() does, without waiting for its end.
 *
 * Parameters: session; key; opts - or NULL; timeout_ms - how long to wait in the lock's queue, 0 to try, or TENURE_FOREVER; done, user - called with the end, see
 * #tenure_done; a grant belongs to whoever it is told; out_op - the number for tenure_session_cancel(), or NULL; err - or NULL.
 * Returns: #TENURE_OK: `done` will be called, even if the node is closed first; otherwise it will not: #TENURE_INVALID_ARGUMENT;
 * #TENURE_CLOSED; #TENURE_POISONED; #TENURE_UNAVAILABLE; #TENURE_IO; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: key and opts are copied; `user` is the caller's. Threads: any, also in callbacks; never waits. Since: 0.1.
 */
int32_t tenure_session_acquire_async(struct tenure_session session,
                                     struct tenure_bytes key,
                                     const struct tenure_lock_opts *opts,
                                     uint64_t timeout_ms,
                                     tenure_done done,
                                     void *user,
                                     uint64_t *out_op,
                                     struct tenure_error *err);

/**
 * Starts what tenure_session_release() does, without waiting for its end.
 *
 * Parameters: session; key; token - the grant's; done, user - called with the end, see #tenure_done; err - or NULL.
 * Returns: as tenure_session_acquire_async(). Memory: the key is copied; `user` is the caller's.
 * Threads: any, also in callbacks; never waits. Since: 0.1.
 */
int32_t tenure_session_release_async(struct tenure_session session,
                                     struct tenure_bytes key,
                                     uint64_t token,
                                     tenure_done done,
                                     void *user,
                                     struct tenure_error *err);

/**
 * Ends an operation of tenure_session_acquire_async() that may still be waiting.
 *
 * Parameters: session - the same; op - its number; out_cancelled - true: its callback gets #TENURE_CANCELLED, and a grant given in the
 * meantime is given back; false: it has ended already, and its callback has been or will be told how; or NULL; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Threads: any, also in callbacks; never waits. Since: 0.1.
 */
int32_t tenure_session_cancel(struct tenure_session session,
                              uint64_t op,
                              bool *out_cancelled,
                              struct tenure_error *err);

/**
 * Waits until a node can be used: for a member of a cluster, until a majority is there and the node's session is open. Any other node
 * can be used from its opening on.
 *
 * Parameters: node; timeout_ms - how long to wait; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_TIMEOUT; #TENURE_POISONED when the cluster has refused this node, the message says why; #TENURE_CLOSED;
 * #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE; #TENURE_FORKED. Threads: any; waits. Since: 0.1.
 */
int32_t tenure_node_wait_ready(struct tenure_node node,
                               uint64_t timeout_ms,
                               struct tenure_error *err);

/**
 * The members of the cluster as this node knows them, as JSON: `[{"name", "address", "voter", "leader", "log_end"}]`, empty until it has
 * heard of the cluster; `log_end` is null except on the leader.
 *
 * Parameters: node; buf, len - the buffer; out_needed - the size needed, with the NUL; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_BUFFER_TOO_SMALL, only *out_needed is written; #TENURE_MISUSE for a node that is no member of a cluster;
 * #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: the caller's. Threads: any. Since: 0.1.
 */
int32_t tenure_node_members(struct tenure_node node,
                            char *buf,
                            size_t len,
                            size_t *out_needed,
                            struct tenure_error *err);

/**
 * Hands the leadership of the cluster to a member, and waits until the leader has given it away.
 *
 * Parameters: node - any member; to - the member's node id, or empty for the one that is furthest; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT when there is no such voter; #TENURE_UNAVAILABLE; #TENURE_MISUSE for a node that is neither
 * member nor client of a cluster; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Threads: any; waits for the leader. Since: 0.1.
 */
int32_t tenure_node_transfer_leader(struct tenure_node node,
                                    struct tenure_bytes to,
                                    struct tenure_error *err);

/**
 * Takes a member out of the cluster for good: its data directory is refused from then on, and it is told so. Its name may be used by a
 * node with an empty directory.
 *
 * Parameters: node - any member; name - the node id of the one to remove; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT when there is no such member; #TENURE_UNAVAILABLE, asking again changes nothing that
 * has been done; #TENURE_MISUSE for the last voter, and for a node that is no member of a cluster; #TENURE_CLOSED;
 * #TENURE_POISONED; #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE; #TENURE_FORKED. Threads: any; waits for the leader. Since: 0.1.
 */
int32_t tenure_node_remove_member(struct tenure_node node,
                                  struct tenure_bytes name,
                                  struct tenure_error *err);

/**
 * Makes a token by which one node can join the cluster, once: its setting `join_token`. The cluster keeps a digest of it only.
 *
 * Parameters: node - any member; node_id - who may join by it; ttl_ms - how long it is good by the cluster's clock, 1000 to 604800000;
 * buf, len - the buffer, of 65 bytes at least: with less no token is made; out_needed - 65; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_BUFFER_TOO_SMALL, only *out_needed is written; #TENURE_INVALID_ARGUMENT; #TENURE_LIMIT when too many are
 * good at once; #TENURE_UNAVAILABLE; #TENURE_MISUSE for a node that is no member of a cluster; #TENURE_CLOSED; #TENURE_POISONED;
 * #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: the caller's. Threads: any; waits for the leader. Since: 0.1.
 */
int32_t tenure_node_join_token(struct tenure_node node,
                               struct tenure_bytes node_id,
                               uint64_t ttl_ms,
                               char *buf,
                               size_t len,
                               size_t *out_needed,
                               struct tenure_error *err);

/**
 * Makes a set of settings, all at their defaults. Call the macro tenure_config_new(), which passes the header's ABI version.
 *
 * Parameters: abi_version - TENURE_ABI_VERSION; out_config - where the handle goes; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_ABI_MISMATCH when header and library do not fit together; #TENURE_INVALID_ARGUMENT.
 * Memory: free the handle with tenure_config_free(). Threads: any. Since: 0.1.
 */
int32_t tenure_config_new_abi(uint32_t abi_version,
                              struct tenure_config *out_config,
                              struct tenure_error *err);

/**
 * Sets one setting. docs/configuration.md lists them all.
 *
 * Parameters: config; name, value - text; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_UNKNOWN_OPTION; #TENURE_INVALID_ARGUMENT, the old value stays; #TENURE_BAD_HANDLE.
 * Memory: the texts are copied. Threads: one at a time for each handle. Since: 0.1.
 */
int32_t tenure_config_set(struct tenure_config config,
                          struct tenure_bytes name,
                          struct tenure_bytes value,
                          struct tenure_error *err);

/**
 * Reads one setting, or its default.
 *
 * Parameters: config - 0 for the defaults; name - text; buf, len - the buffer; out_needed - the size needed, with the NUL; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_BUFFER_TOO_SMALL, only *out_needed is written; #TENURE_UNKNOWN_OPTION; #TENURE_INVALID_ARGUMENT;
 * #TENURE_BAD_HANDLE. Memory: the caller's. Threads: one at a time for each handle. Since: 0.1.
 */
int32_t tenure_config_get(struct tenure_config config,
                          struct tenure_bytes name,
                          char *buf,
                          size_t len,
                          size_t *out_needed,
                          struct tenure_error *err);

/**
 * Sets what a text of `name = value` lines says; `#` begins a comment line. All of it or nothing.
 *
 * Parameters: config; text - the lines; err - or NULL, its message names the line.
 * Returns: #TENURE_OK; #TENURE_UNKNOWN_OPTION; #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE.
 * Memory: the text is copied. Threads: one at a time for each handle. Since: 0.1.
 */
int32_t tenure_config_load(struct tenure_config config, struct tenure_bytes lines, struct tenure_error *err);

/**
 * Frees the handle. What was opened with the settings is not affected.
 *
 * Parameters: config - also 0, also one that was freed already.
 * Returns: nothing. Threads: any. Since: 0.1.
 */
void tenure_config_free(struct tenure_config config);

/**
 * The name of a status, for example "TENURE_HELD".
 *
 * Parameters: status - any number.
 * Returns: the name; "TENURE_?" for a number that this library does not know. Never NULL.
 * Memory: static, not to be freed. Threads: any, also in callbacks and after fork(). Since: 0.1.
 */
const char *tenure_status_name(int32_t status);

/**
 * What a status means, in a few words.
 *
 * Parameters: status - any number.
 * Returns: the text; "unknown status" for a number that this library does not know. Never NULL.
 * Memory: static, not to be freed. Threads: any, also in callbacks and after fork(). Since: 0.1.
 */
const char *tenure_status_text(int32_t status);

/**
 * Whether something holds for a status. Ask this, and not for single numbers, about statuses you do not know.
 *
 * Parameters: status - any number; predicate - one or more of TENURE_IS_RETRIABLE, TENURE_IS_MAYBE_APPLIED, TENURE_IS_FATAL.
 * Returns: true when all of them hold. A number that this library does not know is none of them.
 * Threads: any, also in callbacks and after fork(). Since: 0.1.
 */
bool tenure_status_is(int32_t status,
                      uint32_t predicate);

/**
 * Calls a function for each event of a node from now on: locks at risk or lost, gates, poisoning.
 *
 * Parameters: node; on_event, user - see #tenure_event_fn; out_subscription - the number for tenure_node_unsubscribe(), or NULL; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_IO; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: `user` is the caller's and must live until tenure_node_unsubscribe() or tenure_node_close() has returned.
 * Threads: any, also in callbacks. Since: 0.1.
 */
int32_t tenure_node_subscribe(struct tenure_node node,
                              tenure_event_fn on_event,
                              void *user,
                              uint64_t *out_subscription,
                              struct tenure_error *err);

/**
 * Ends a subscription. After it has returned the callback does not run and never will; called inside that callback, after
 * the callback has returned.
 *
 * Parameters: node; subscription - its number; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT when there is none of that number; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Threads: any, also in callbacks; waits for the callback if it is running on another thread. Since: 0.1.
 */
int32_t tenure_node_unsubscribe(struct tenure_node node,
                                uint64_t subscription,
                                struct tenure_error *err);

/**
 * For a resource with transactions of its own: whether a write under `epoch` may be done, given the record of the epochs before, and the
 * record to be stored in the same transaction as the write. Read `stored` in that transaction, or under a lock that every writer takes.
 *
 * Parameters: stored - what was stored last; empty when nothing ever was; epoch - of the write, from its permit or record; out_record - what
 * to store; out_raised - whether it has to be stored, or NULL; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_FENCED when a higher epoch was admitted, which is err->token: do not write; #TENURE_DATA_CORRUPT when `stored`
 * is no record: do not write; #TENURE_INVALID_ARGUMENT, also for an epoch outside 1 to 2^63 - 1.
 * Memory: nothing is kept. Threads: any, also in callbacks; never waits. Since: 0.1.
 */
int32_t tenure_epoch_admit(struct tenure_bytes stored,
                           uint64_t epoch,
                           struct tenure_epoch_record *out_record,
                           bool *out_raised,
                           struct tenure_error *err);

/**
 * The epoch in a record that tenure_epoch_admit() has made.
 *
 * Parameters: stored - the record; empty gives 0; out_epoch - where it goes; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_DATA_CORRUPT; #TENURE_INVALID_ARGUMENT.
 * Memory: nothing is kept. Threads: any, also in callbacks; never waits. Since: 0.1.
 */
int32_t tenure_epoch_read(struct tenure_bytes stored, uint64_t *out_epoch, struct tenure_error *err);

/**
 * Makes the file of a fence, for a resource without transactions. Once, when the resource itself is made: a fence that came into being by
 * itself would have forgotten every epoch.
 *
 * Parameters: path - of the file, in a directory that exists; a file `<path>.lock` is kept beside it; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_MISUSE when the file exists; #TENURE_DATA_LOCKED; #TENURE_INVALID_ARGUMENT; #TENURE_IO;
 * #TENURE_WOULD_DEADLOCK in a callback. Memory: nothing is kept. Threads: any; waits for the disk. Since: 0.1.
 */
int32_t tenure_epoch_fence_create(struct tenure_bytes path,
                                  struct tenure_error *err);

/**
 * Opens the fence in a file that tenure_epoch_fence_create() has made. One process at a time has it open.
 *
 * Parameters: path; out_fence - where the handle goes; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_DATA_LOST when there is no file: none is made in its place; #TENURE_DATA_CORRUPT; #TENURE_DATA_VERSION;
 * #TENURE_DATA_LOCKED when somebody has it open; #TENURE_INVALID_ARGUMENT; #TENURE_IO; #TENURE_LIMIT; #TENURE_WOULD_DEADLOCK in a callback.
 * Memory: free the handle with tenure_epoch_fence_free(). Threads: any; waits for the disk. Since: 0.1.
 */
int32_t tenure_epoch_fence_open(struct tenure_bytes path,
                                struct tenure_epoch_fence *out_fence,
                                struct tenure_error *err);

/**
 * The highest epoch that was admitted to a resource; 0 for none.
 *
 * Parameters: fence; resource - its name, at most 256 bytes of UTF-8, also none; out_epoch - where it goes; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_POISONED once a write of the file has failed; #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: nothing is kept. Threads: any, also in callbacks. Since: 0.1.
 */
int32_t tenure_epoch_fence_highest(struct tenure_epoch_fence fence,
                                   struct tenure_bytes resource,
                                   uint64_t *out_epoch,
                                   struct tenure_error *err);

/**
 * Lets a write under `epoch` begin; it is under way until tenure_epoch_pass_free(). An epoch higher than all before is durable before
 * this returns, lower ones are refused from then on, and its first pass is given when the passes of lower ones are freed: checking the
 * epoch and writing are one step.
 *
 * Parameters: fence; resource - its name, at most 256 bytes of UTF-8, also none; epoch - 1 to 2^63 - 1; timeout_ms - how long to wait for writes of
 * lower epochs; out_pass - where the handle goes; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_FENCED when a higher epoch was admitted, which is err->token: do not write; #TENURE_TIMEOUT when writes of lower
 * epochs are under way, which are the last ones; #TENURE_LIMIT for too many resources or handles; #TENURE_IO when the epoch cannot be made
 * durable, and #TENURE_POISONED from then on; #TENURE_INVALID_ARGUMENT; #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: free the pass. Threads: any; waits for the disk when the epoch is new. Since: 0.1.
 */
int32_t tenure_epoch_fence_enter(struct tenure_epoch_fence fence,
                                 struct tenure_bytes resource,
                                 uint64_t epoch,
                                 uint64_t timeout_ms,
                                 struct tenure_epoch_pass *out_pass,
                                 struct tenure_error *err);

/**
 * The write that was let in is over, done or not.
 *
 * Parameters: pass - also 0, also one that was freed already.
 * Returns: nothing. Threads: any, also in callbacks; never waits. In a forked child it does nothing. Since: 0.1.
 */
void tenure_epoch_pass_free(struct tenure_epoch_pass pass);

/**
 * Frees the handle. The file is unlocked when the passes of this fence are freed as well.
 *
 * Parameters: fence - also 0, also one that was freed already. Other threads may be inside calls on it.
 * Returns: nothing. Threads: any, also in callbacks; never waits. In a forked child it does nothing. Since: 0.1.
 */
void tenure_epoch_fence_free(struct tenure_epoch_fence fence);

/**
 * Opens a gate. It is closed until the first lease is granted, by tenure_gate_hold() or tenure_gate_heartbeat().
 *
 * Parameters: node; name - 1 to 64 printable ASCII characters, the node's only gate of that name; config - `gate.*` settings that go before the
 * node's, or 0; out_gate - where the handle goes; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_MISUSE when a gate of that name is open; #TENURE_INVALID_ARGUMENT; #TENURE_LIMIT; #TENURE_IO; #TENURE_CLOSED;
 * #TENURE_POISONED; #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: end it with tenure_gate_close(), free the handle with tenure_gate_free(). Threads: any; waits for the disk of a durable
 * node. Since: 0.1.
 */
int32_t tenure_gate_open(struct tenure_node node,
                         struct tenure_bytes name,
                         struct tenure_config config,
                         struct tenure_gate *out_gate,
                         struct tenure_error *err);

/**
 * What the inline functions of tenure_gate.h work on. Ask once, and keep the pointer beside the handle.
 *
 * Parameters: gate; out_cell - where the pointer goes; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: the library's; it stays readable for as long as the process lives, and reads as closed once the gate is closed and in a
 * forked child. Threads: any, also in callbacks. Since: 0.1.
 */
int32_t tenure_gate_cell_of(struct tenure_gate gate,
                            const struct tenure_gate_cell **out_cell,
                            struct tenure_error *err);

/**
 * What a closed gate does: "disabled", "log-only" or "block-write".
 *
 * Parameters: gate; out_mode - where the word goes; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: static, not to be freed. Threads: any, also in callbacks. Since: 0.1.
 */
int32_t tenure_gate_mode(struct tenure_gate gate, const char **out_mode, struct tenure_error *err);

/**
 * Changes what a closed gate does, at once. "disabled" and "log-only" let every write pass and are shown as weaker modes.
 *
 * Parameters: gate; mode - one of the words of tenure_gate_mode(); err - or NULL.
 * Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: nothing is kept. Threads: any, also in callbacks. Since: 0.1.
 */
int32_t tenure_gate_set_mode(struct tenure_gate gate,
                             struct tenure_bytes mode,
                             struct tenure_error *err);

/**
 * Takes a lease that a controller has pushed. Takes no lock that a writer could hold up, and waits for nobody.
 *
 * A heartbeat that is well-formed and not stale is answered with #TENURE_OK whether it renewed or not: see `accepted` of the reply.
 *
 * Parameters: gate; heartbeat - start from TENURE_HEARTBEAT_INIT; out_reply - start from TENURE_HEARTBEAT_REPLY_INIT; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_FENCED when its epoch is below the highest seen, which is err->token: the lease is as it was;
 * #TENURE_INVALID_ARGUMENT for a ttl or a step of the epoch out of bounds; #TENURE_IO when a new epoch cannot be made durable, then it
 * does not count; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: nothing is kept. Threads: any, also in callbacks; waits for the disk of a durable node when the epoch is new. Since: 0.1.
 */
int32_t tenure_gate_heartbeat(struct tenure_gate gate,
                              const struct tenure_heartbeat *heartbeat,
                              struct tenure_heartbeat_reply *out_reply,
                              struct tenure_error *err);

/**
 * The host is alive: see the setting `gate.beat_timeout_ms`. To be called from where the host would be stuck if it were, such as its main
 * loop.
 *
 * Parameters: gate; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_BAD_HANDLE; #TENURE_FORKED. Threads: any, also in callbacks; never waits. Since: 0.1.
 */
int32_t tenure_gate_beat(struct tenure_gate gate,
                         struct tenure_error *err);

/**
 * A nonce for the controller's next heartbeat, whose lease will count from now. For a controller that asks before it sends; each reply to a
 * heartbeat brings one too.
 *
 * Parameters: gate; out_nonce - where it goes; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Threads: any, also in callbacks. Since: 0.1.
 */
int32_t tenure_gate_next_nonce(struct tenure_gate gate,
                               uint64_t *out_nonce,
                               struct tenure_error *err);

/**
 * Reports an epoch that was seen elsewhere: in a record from another node, in the cluster's topology. A higher one that names another
 * node closes the gate at once.
 *
 * Parameters: gate; epoch; holder - the node whose it is, 1 to 64 printable ASCII characters; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT, also for too large a step; #TENURE_IO; #TENURE_CLOSED; #TENURE_POISONED;
 * #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: nothing of the caller's is kept. Threads: any, also in callbacks; waits for the disk of a durable node when the epoch is new. Since: 0.1.
 */
int32_t tenure_gate_observe(struct tenure_gate gate,
                            uint64_t epoch,
                            struct tenure_bytes holder,
                            struct tenure_error *err);

/**
 * Drops the lease, for a node that has become a replica. The epochs seen are remembered.
 *
 * Parameters: gate; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Threads: any, also in callbacks. Since: 0.1.
 */
int32_t tenure_gate_reset(struct tenure_gate gate, struct tenure_error *err);

/**
 * Has the gate stand on a lock that the library takes in the node's own session and renews: while it is held the gate is open, and the
 * grant's fencing token is the epoch. The library goes on trying to get the lock until tenure_gate_resign(), reset or close.
 *
 * Parameters: gate; key - the office's lock, 1 to 1024 bytes; ttl_ms - 100 to 86400000; err - or NULL.
 * Returns: #TENURE_OK, the gate opens when the lock is granted; #TENURE_MISUSE when it holds an office already; #TENURE_INVALID_ARGUMENT;
 * #TENURE_CLOSED; #TENURE_POISONED; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: the key is copied. Threads: any, also in callbacks; never waits. Since: 0.1.
 */
int32_t tenure_gate_hold(struct tenure_gate gate,
                         struct tenure_bytes key,
                         uint64_t ttl_ms,
                         struct tenure_error *err);

/**
 * Lets in no more writes and waits until none is in flight. After #TENURE_OK no permit of the old epoch lives.
 *
 * Parameters: gate; timeout_ms - how long to wait; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_TIMEOUT, writes are still in flight, and no more are let in; #TENURE_WOULD_DEADLOCK in a callback;
 * #TENURE_CLOSED; #TENURE_POISONED; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Threads: any, but one that holds no permit of this gate; waits. Since: 0.1.
 */
int32_t tenure_gate_drain(struct tenure_gate gate,
                          uint64_t timeout_ms,
                          struct tenure_error *err);

/**
 * Ends a drain that timed out or that is not wanted any more: writes are let in again for what is left of the lease.
 *
 * Parameters: gate; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_MISUSE when no drain is under way; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Threads: any, also in callbacks. Since: 0.1.
 */
int32_t tenure_gate_cancel_drain(struct tenure_gate gate,
                                 struct tenure_error *err);

/**
 * Drains the gate and then gives up the office that tenure_gate_hold() took: the next holder need not wait for the lease to end.
 *
 * Parameters: gate; timeout_ms - how long to wait; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_MISUSE without tenure_gate_hold(); #TENURE_TIMEOUT, the office is not given up; otherwise as tenure_gate_drain().
 * Threads: any, but one that holds no permit of this gate; waits. Since: 0.1.
 */
int32_t tenure_gate_resign(struct tenure_gate gate,
                           uint64_t timeout_ms,
                           struct tenure_error *err);

/**
 * As tenure_gate_resign(), but the successor is the node (or session) of this name, which must be campaigning for the same office; those
 * who came before it go on waiting.
 *
 * Parameters: gate; to - the name; timeout_ms - how long to wait; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_UNAVAILABLE when nobody of that name is waiting: nothing was drained, or, when it left during the drain,
 * the office was given back; #TENURE_INVALID_ARGUMENT for the name; otherwise as tenure_gate_resign().
 * Threads: any, but one that holds no permit of this gate; waits. Since: 0.1.
 */
int32_t tenure_gate_resign_to(struct tenure_gate gate,
                              struct tenure_bytes to,
                              uint64_t timeout_ms,
                              struct tenure_error *err);

/**
 * The gate's state and counts as JSON: `{"name", "mode", "phase", "reason", "epoch", "remaining_ms", ...}`. It may grow between two calls:
 * go on until it fits.
 *
 * Parameters: gate; buf, len - the buffer; out_needed - the size needed, with the NUL; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_BUFFER_TOO_SMALL, only *out_needed is written; #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE;
 * #TENURE_FORKED. Memory: the caller's. Threads: any, also in callbacks. Since: 0.1.
 */
int32_t tenure_gate_status(struct tenure_gate gate,
                           char *buf,
                           size_t len,
                           size_t *out_needed,
                           struct tenure_error *err);

/**
 * Closes the gate for good, without waiting for writes in flight: they finish as uncertain. An office is given up when nothing is in flight, and
 * runs out otherwise. Closing twice is no error.
 *
 * Parameters: gate; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: the handle stays until tenure_gate_free(). Threads: any, also in callbacks. Since: 0.1.
 */
int32_t tenure_gate_close(struct tenure_gate gate,
                          struct tenure_error *err);

/**
 * Frees the handle. A gate that was not closed is closed first.
 *
 * Parameters: gate - also 0, also one that was freed already. Other threads may be inside calls on it, and writes may be in flight.
 * Returns: nothing. Threads: any, also in callbacks. In a forked child it does nothing. Since: 0.1.
 */
void tenure_gate_free(struct tenure_gate gate);

/**
 * Makes this node the granter of offices: waits for a lock, and holds it, renewed by the library, until tenure_granter_resign(). It
 * grants for as long as it holds that lock; then its calls answer #TENURE_FENCED, and what it has promised binds the next granter.
 *
 * Parameters: node; lock - the granter's lock, 1 to 1024 bytes; ttl_ms - of that lock, 100 to 86400000; timeout_ms - how long to wait for it, 0
 * for not at all, or TENURE_FOREVER; out_granter - where the handle goes; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_HELD without waiting, #TENURE_TIMEOUT; #TENURE_INVALID_ARGUMENT; #TENURE_UNAVAILABLE; #TENURE_LIMIT; #TENURE_CLOSED;
 * #TENURE_POISONED; #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: end it with tenure_granter_resign(), free the handle with tenure_granter_free(). Threads: any; waits. Since: 0.1.
 */
int32_t tenure_granter_open(struct tenure_node node,
                            struct tenure_bytes lock,
                            uint64_t ttl_ms,
                            uint64_t timeout_ms,
                            struct tenure_granter *out_granter,
                            struct tenure_error *err);

/**
 * The token of the granter's lock: of two granters the one with the higher term is the later one.
 *
 * Parameters: granter; out_term - where it goes; out_in_office - whether it holds its lock still, in its own view, or NULL; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE; #TENURE_FORKED. Threads: any, also in callbacks. Since: 0.1.
 */
int32_t tenure_granter_term(struct tenure_granter granter,
                            uint64_t *out_term,
                            bool *out_in_office,
                            struct tenure_error *err);

/**
 * Gives an office to a holder, under a new epoch. The holder is told by its first tenure_granter_heartbeat(); until then nothing is
 * promised to it.
 *
 * Parameters: granter; office - its name, 1 to 1024 bytes; holder - a node's name, 1 to 64 printable ASCII characters; epoch - to give, above the last;
 * or 0 for one above the last; out_epoch - where it goes; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_TOO_EARLY while the former holder may still act, err->retry_after_ms says for how long at most and err->token in
 * which epoch; #TENURE_FENCED when the granter has lost its lock; #TENURE_INVALID_ARGUMENT; #TENURE_LIMIT; #TENURE_UNAVAILABLE; #TENURE_CLOSED;
 * #TENURE_POISONED; #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: nothing of the caller's is kept. Threads: any; waits for the disk, or the cluster. Since: 0.1.
 */
int32_t tenure_granter_promote(struct tenure_granter granter,
                               struct tenure_bytes office,
                               struct tenure_bytes holder,
                               uint64_t epoch,
                               uint64_t *out_epoch,
                               struct tenure_error *err);

/**
 * Records that the office's holder may act for another ttl, and says what to send to it.
 *
 * Parameters: granter; office; ttl_ms - 100 to 86400000, counted by the holder from its nonce; nonce - the holder's, from tenure_gate_next_nonce() or
 * its last answer; NULL for none, which the setting granter_trust_receipt must allow; out_heartbeat - what to send; buf, len - where the holder's
 * name goes; out_needed - the size needed, with the NUL, at most 65; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_NOT_HOLDER when the office was given to nobody or its holder stepped down; #TENURE_BUFFER_TOO_SMALL: the promise is
 * recorded, only *out_needed is written; otherwise as tenure_granter_promote().
 * Memory: nothing of the caller's is kept. Threads: any; waits for the disk, or the cluster. Since: 0.1.
 */
int32_t tenure_granter_heartbeat(struct tenure_granter granter,
                                 struct tenure_bytes office,
                                 uint64_t ttl_ms,
                                 const uint64_t *nonce,
                                 struct tenure_heartbeat *out_heartbeat,
                                 char *buf,
                                 size_t len,
                                 size_t *out_needed,
                                 struct tenure_error *err);

/**
 * The holder has said that it acts no more in this epoch, as after tenure_gate_drain(): the office can be given to another at once.
 *
 * Parameters: granter; office; epoch - that was ended; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_NOT_HOLDER when the office is in another epoch, which is err->token; otherwise as tenure_granter_promote().
 * Memory: nothing of the caller's is kept. Threads: any; waits for the disk, or the cluster. Since: 0.1.
 */
int32_t tenure_granter_acknowledge(struct tenure_granter granter,
                                   struct tenure_bytes office,
                                   uint64_t epoch,
                                   struct tenure_error *err);

/**
 * Gives the granter's lock back: another may take it at once. What was promised stands.
 *
 * Parameters: granter; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_NOT_HOLDER when it was lost before; #TENURE_UNAVAILABLE; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_WOULD_DEADLOCK in a
 * callback; #TENURE_BAD_HANDLE; #TENURE_FORKED. Threads: any; waits for the disk, or the cluster. Since: 0.1.
 */
int32_t tenure_granter_resign(struct tenure_granter granter,
                              struct tenure_error *err);

/**
 * Frees the handle; the granter's lock is given back, if it was not, without waiting.
 *
 * Parameters: granter - also 0, also one that was freed already. Other threads may be inside calls on it.
 * Returns: nothing. Threads: any, also in callbacks; never waits. In a forked child it does nothing. Since: 0.1.
 */
void tenure_granter_free(struct tenure_granter granter);

/**
 * What granters have promised, as JSON: `[{"office", "epoch", "holder", "remaining_ms", "settled", "term"}, ...]`, by office. It may grow between
 * two calls: go on until it fits.
 *
 * Parameters: node; prefix - offices whose names begin with it; limit - at most this many; buf, len - the buffer; out_needed - the size needed, with
 * the NUL; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_BUFFER_TOO_SMALL, only *out_needed is written; #TENURE_INVALID_ARGUMENT; #TENURE_UNAVAILABLE; #TENURE_CLOSED;
 * #TENURE_POISONED; #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: the caller's. Threads: any; waits for the cluster. Since: 0.1.
 */
int32_t tenure_node_promises(struct tenure_node node,
                             struct tenure_bytes prefix,
                             size_t limit,
                             char *buf,
                             size_t len,
                             size_t *out_needed,
                             struct tenure_error *err);

#if defined(TENURE_ENABLE_INJECT)
/**
 * Makes the library panic, to test what the host sees of it. Only in test builds.
 *
 * Parameters: calls - the how-manieth call of this thread from now on panics inside the library, 0 for none; callbacks - the
 * same for the delivery of callbacks, of any thread.
 * Returns: nothing. Threads: any. Since: 0.1.
 */
void tenure_test_inject(uint32_t calls,
                        uint32_t callbacks);
#endif

/**
 * Sends the library's log to a function, from now on and for the whole process. Without it nothing is logged anywhere.
 *
 * Parameters: level - a #tenure_log_level, the most verbose one wanted; on_line, user - see #tenure_log_fn; NULL ends the log: after that has
 * returned the previous function does not run and never will, unless it is that function which called; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_IO when the system gives no thread.
 * Memory: `user` is the caller's and must live until another call has replaced it. A forked child logs nothing until it calls this.
 * Threads: any, also in callbacks; waits for the previous function if it is running on another thread. Since: 0.1.
 */
int32_t tenure_log_set(int32_t level,
                       tenure_log_fn on_line,
                       void *user,
                       struct tenure_error *err);

/**
 * Opens a node: in memory, or, with `data_dir`, durable in that directory.
 *
 * A program that daemonises opens its node after the fork: see #TENURE_FORKED.
 *
 * Parameters: config - the settings, copied; 0 for the defaults: a node in memory; out_node - where the handle goes; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT for settings that contradict each other; #TENURE_DATA_LOST, #TENURE_DATA_CORRUPT,
 * #TENURE_DATA_FOREIGN, #TENURE_DATA_LOCKED, #TENURE_DATA_VERSION for a directory that is refused, the message names the
 * file; #TENURE_IO; #TENURE_LIMIT; #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE.
 * Memory: close the node with tenure_node_close(), then free the handle with tenure_node_free(). Threads: any; waits for the
 * disk. Since: 0.1.
 */
int32_t tenure_node_open(struct tenure_config config,
                         struct tenure_node *out_node,
                         struct tenure_error *err);

/**
 * Opens a node that is a client: it uses a cluster without being a member, with all the calls of a node. It keeps nothing on disk, and
 * does not wait for a member: the first call that needs one does.
 *
 * Parameters: addresses - where members may be reached, `host:port,...`: any of them will do, the others are learnt from it; config - more
 * settings, copied, or 0; out_node - where the handle goes; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT for an address or settings that contradict each other; #TENURE_IO; #TENURE_LIMIT;
 * #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE.
 * Memory: as tenure_node_open(). Threads: any. Since: 0.1.
 */
int32_t tenure_client_open(struct tenure_bytes addresses,
                           struct tenure_config config,
                           struct tenure_node *out_node,
                           struct tenure_error *err);

/**
 * Closes a node: its gates close, its sessions end, which frees their locks, its threads end, and all callbacks that are due are
 * called. No callback runs after it has returned. Closing twice is no error; a poisoned node can be closed.
 *
 * Parameters: node; timeout_ms - how long to wait for the end of the sessions to be recorded, or TENURE_FOREVER; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_TIMEOUT, the node is closed all the same, and what it held runs out by itself;
 * #TENURE_WOULD_DEADLOCK in a callback; #TENURE_FORKED; #TENURE_BAD_HANDLE.
 * Memory: the handle stays until tenure_node_free(). Threads: any; waits. With `delivery` = `fd` it runs callbacks. Since: 0.1.
 */
int32_t tenure_node_close(struct tenure_node node,
                          uint64_t timeout_ms,
                          struct tenure_error *err);

/**
 * Frees the handle, and that of the node's own session. A node that was not closed is closed by a thread of the library,
 * which nobody waits for: its locks are freed, or run out.
 *
 * Parameters: node - also 0, also one that was freed already. Other threads may be inside calls on it.
 * Returns: nothing. Threads: any, also in callbacks; never waits. In a forked child it does nothing. Since: 0.1.
 */
void tenure_node_free(struct tenure_node node);

/**
 * The host is alive, for all gates of the node: as tenure_gate_beat().
 *
 * Parameters: node; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_BAD_HANDLE; #TENURE_FORKED. Threads: any, also in callbacks; never waits. Since: 0.1.
 */
int32_t tenure_node_beat(struct tenure_node node, struct tenure_error *err);

/**
 * The node's own session, under which it holds its locks: its name is the node's id.
 *
 * Parameters: node; out_session - where the handle goes, the same at each call; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: the handle is the node's and goes with it; freeing it does nothing. Threads: any, also in callbacks. Since: 0.1.
 */
int32_t tenure_node_session(struct tenure_node node,
                            struct tenure_session *out_session,
                            struct tenure_error *err);

/**
 * The node's id: the setting `node_id`, or the one that it gave itself.
 *
 * Parameters: node; buf, len - the buffer; out_needed - the size needed, with the NUL; at most 65; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_BUFFER_TOO_SMALL, only *out_needed is written; #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE;
 * #TENURE_FORKED. Memory: the caller's. Threads: any, also in callbacks. Since: 0.1.
 */
int32_t tenure_node_id(struct tenure_node node,
                       char *buf,
                       size_t len,
                       size_t *out_needed,
                       struct tenure_error *err);

/**
 * The node's state as JSON: `{"version", "node_id", "form", "state", "weaker_modes", ..., "gates": [...]}`. It may grow between the two
 * calls that find the size and fetch the text: go on until it fits.
 *
 * Parameters: node; buf, len - the buffer; out_needed - the size needed, with the NUL; err - or NULL.
 * Returns: #TENURE_OK, also of a node that is closed or poisoned; #TENURE_BUFFER_TOO_SMALL, only *out_needed is written;
 * #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: the caller's. Threads: any, also in callbacks. Since: 0.1.
 */
int32_t tenure_node_status(struct tenure_node node,
                           char *buf,
                           size_t len,
                           size_t *out_needed,
                           struct tenure_error *err);

/**
 * The locks whose names begin with a prefix, by name, as JSON:
 * `[{"key", "holders": [{"node", "session", "token", "mode", "remaining_ms", "held_ms", "waiters", "metadata"}]}]`.
 * In keys and metadata, bytes that are not printable ASCII are written `\xNN`, a backslash is doubled.
 *
 * Parameters: node; prefix - at most 1024 bytes, may be empty; limit - most locks to list, 1 to 1048576; buf, len - the buffer;
 * out_needed - the size needed, with the NUL; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_BUFFER_TOO_SMALL, only *out_needed is written; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED;
 * #TENURE_POISONED; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: the caller's. Threads: any, also in callbacks. Since: 0.1.
 */
int32_t tenure_node_locks(struct tenure_node node,
                          struct tenure_bytes prefix,
                          size_t limit,
                          char *buf,
                          size_t len,
                          size_t *out_needed,
                          struct tenure_error *err);

/**
 * A descriptor that is readable while callbacks wait for tenure_node_dispatch(), for a host with an event loop.
 *
 * Parameters: node - opened with `delivery` = `fd`; out_fd - where it goes, 3 or above; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_MISUSE for another `delivery`; #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: the descriptor is the library's: wait for it, do not read or close it. It is gone after tenure_node_free().
 * Threads: any, also in callbacks. Since: 0.1.
 */
int32_t tenure_node_event_fd(struct tenure_node node,
                             int *out_fd,
                             struct tenure_error *err);

/**
 * Runs callbacks that are due, on the calling thread.
 *
 * Parameters: node - opened with `delivery` = `fd`; max - most callbacks to run; out_done - how many were run, or NULL; err - or NULL.
 * Returns: #TENURE_OK, also when none was due; #TENURE_MISUSE for another `delivery`; #TENURE_WOULD_DEADLOCK in a callback;
 * #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Threads: any; does not wait. Two threads may dispatch at once, and callbacks then run at once. Since: 0.1.
 */
int32_t tenure_node_dispatch(struct tenure_node node,
                             size_t max,
                             size_t *out_done,
                             struct tenure_error *err);

/**
 * Makes an orchestrator that works under the node's name. The same schedules are everybody's who is connected to the node's ledger: each
 * tick is started once, on one of the orchestrators that have handlers for it.
 *
 * Parameters: node; options - JSON, or empty: `{"labels": {"name": "value"}, "version": 0, "capacity": 0, "drive": true, "ramp_up_ms": 30000,
 * "lock_only": false, "wall_offset_ms": 0}`, see docs/orchestrator.md; out_orchestrator - where the handle goes; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT naming the option; #TENURE_MISUSE for a node over a lock service of the host's; #TENURE_IO;
 * #TENURE_LIMIT; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: end it with tenure_orchestrator_close(), free the handle with tenure_orchestrator_free(). Threads: any. Since: 0.1.
 */
int32_t tenure_orchestrator_open(struct tenure_node node,
                                 struct tenure_bytes options,
                                 struct tenure_orchestrator *out_orchestrator,
                                 struct tenure_error *err);

/**
 * Ends it: it takes no more work, and its handlers are told to stop. Closing twice is no error.
 *
 * Parameters: orchestrator; timeout_ms - how long to wait for handlers; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_TIMEOUT when some did not end in time: it is closed all the same, their runs are lost when their leases end, and they
 * may go on to use what they use; #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: the handle stays until tenure_orchestrator_free(). Threads: any, but none of a handler; waits. Since: 0.1.
 */
int32_t tenure_orchestrator_close(struct tenure_orchestrator orchestrator,
                                  uint64_t timeout_ms,
                                  struct tenure_error *err);

/**
 * Frees the handle. An orchestrator that was not closed ends without being waited for: its runs are lost when their leases end.
 *
 * Parameters: orchestrator - also 0, also one that was freed already. Other threads may be inside calls on it.
 * Returns: nothing. Threads: any, also in callbacks and handlers; never waits. In a forked child it does nothing. Since: 0.1.
 */
void tenure_orchestrator_free(struct tenure_orchestrator orchestrator);

/**
 * Writes a schedule.
 *
 * Parameters: orchestrator; schedule - JSON, see docs/orchestrator.md; expected - the revision that it replaces, 0 when there must be none, or
 * TENURE_ANY_REVISION; out_revision - where the new one goes, or NULL; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT naming the field; #TENURE_FENCED when `expected` is not the present revision, which is err->token;
 * #TENURE_LIMIT; #TENURE_UNAVAILABLE; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: nothing of the caller's is kept. Threads: any; waits for the disk, or the cluster. Since: 0.1.
 */
int32_t tenure_orchestrator_put(struct tenure_orchestrator orchestrator,
                                struct tenure_bytes schedule,
                                uint64_t expected,
                                uint64_t *out_revision,
                                struct tenure_error *err);

/**
 * As tenure_orchestrator_put(), of a schedule in the JSON of ThemisDB's maintenance orchestrator: its field names, its rules.
 *
 * Parameters: orchestrator; schedule; expected; out_revision - or NULL; err - or NULL.
 * Returns: as tenure_orchestrator_put(). Memory: nothing of the caller's is kept. Threads: any; waits for the disk, or the cluster. Since: 0.1.
 */
int32_t tenure_orchestrator_put_themis(struct tenure_orchestrator orchestrator,
                                       struct tenure_bytes schedule,
                                       uint64_t expected,
                                       uint64_t *out_revision,
                                       struct tenure_error *err);

/**
 * Replaces a schedule, given in the JSON of ThemisDB's maintenance orchestrator; its id, and who created it, stay as they are.
 *
 * Parameters: orchestrator; schedule - its id; text - the new one; out_revision - or NULL; err - or NULL.
 * Returns: as tenure_orchestrator_patch_themis(). Memory: nothing of the caller's is kept. Threads: any; waits for the disk, or the cluster.
 * Since: 0.1.
 */
int32_t tenure_orchestrator_replace_themis(struct tenure_orchestrator orchestrator,
                                           struct tenure_bytes schedule,
                                           struct tenure_bytes text,
                                           uint64_t *out_revision,
                                           struct tenure_error *err);

/**
 * Changes those fields of a schedule that are given, in the JSON of ThemisDB's maintenance orchestrator.
 *
 * Parameters: orchestrator; schedule - its id; patch - JSON; out_revision - or NULL; err - or NULL.
 * Returns: as tenure_orchestrator_put(); #TENURE_FENCED when somebody else wrote it at the same time.
 * Memory: nothing of the caller's is kept. Threads: any; waits for the disk, or the cluster. Since: 0.1.
 */
int32_t tenure_orchestrator_patch_themis(struct tenure_orchestrator orchestrator,
                                         struct tenure_bytes schedule,
                                         struct tenure_bytes patch,
                                         uint64_t *out_revision,
                                         struct tenure_error *err);

/**
 * Removes a schedule with its history; its runs are cancelled.
 *
 * Parameters: orchestrator; schedule - its id; expected - its revision, or TENURE_ANY_REVISION; err - or NULL.
 * Returns: as tenure_orchestrator_put(); #TENURE_INVALID_ARGUMENT when there is none.
 * Memory: nothing of the caller's is kept. Threads: any; waits for the disk, or the cluster. Since: 0.1.
 */
int32_t tenure_orchestrator_remove(struct tenure_orchestrator orchestrator,
                                   struct tenure_bytes schedule,
                                   uint64_t expected,
                                   struct tenure_error *err);

/**
 * Switches a schedule on or off. Ticks while it was off are not made up for.
 *
 * Parameters: orchestrator; schedule - its id; enabled; err - or NULL.
 * Returns: as tenure_orchestrator_remove(). Memory: nothing of the caller's is kept. Threads: any; waits for the disk, or the cluster. Since: 0.1.
 */
int32_t tenure_orchestrator_enable(struct tenure_orchestrator orchestrator,
                                   struct tenure_bytes schedule,
                                   bool enabled,
                                   struct tenure_error *err);

/**
 * Starts nothing more of a schedule, or of all, until an instant. Runs go on.
 *
 * Parameters: orchestrator; schedule - its id; empty for all; note - for people, at most 1024 bytes; until_ms - ms since 1970 UTC, or TENURE_NEVER;
 * err - or NULL.
 * Returns: as tenure_orchestrator_remove(). Memory: nothing of the caller's is kept. Threads: any; waits for the disk, or the cluster. Since: 0.1.
 */
int32_t tenure_orchestrator_pause(struct tenure_orchestrator orchestrator,
                                  struct tenure_bytes schedule,
                                  struct tenure_bytes note,
                                  int64_t until_ms,
                                  struct tenure_error *err);

/**
 * Ends a pause; what was missed is treated by the schedule's misfire policy.
 *
 * Parameters: orchestrator; schedule - its id; empty ends the pause of all; err - or NULL.
 * Returns: as tenure_orchestrator_remove(). Memory: nothing of the caller's is kept. Threads: any; waits for the disk, or the cluster. Since: 0.1.
 */
int32_t tenure_orchestrator_unpause(struct tenure_orchestrator orchestrator,
                                    struct tenure_bytes schedule,
                                    struct tenure_error *err);

/**
 * Sets how much there is of a cluster-wide semaphore; runs that have of it keep it.
 *
 * Parameters: orchestrator; name - of the budget; limit - 0 removes it; err - or NULL.
 * Returns: as tenure_orchestrator_put(). Memory: nothing of the caller's is kept. Threads: any; waits for the disk, or the cluster. Since: 0.1.
 */
int32_t tenure_orchestrator_set_budget(struct tenure_orchestrator orchestrator,
                                       struct tenure_bytes name,
                                       uint32_t limit,
                                       struct tenure_error *err);

/**
 * Asks for a run now, from any node. It is made at once, and started by whoever can do it.
 *
 * Parameters: orchestrator; schedule - its id; how - JSON, or empty: `{"target": "", "key": "", "force": false, "tick_ms": null, "params": null}`; with
 * one key it is one run, however often it is asked for; force: windows are of no account (blackouts, pauses, overlap, budgets and locks are); out_run - where its number goes;
 * err - or NULL.
 * Returns: as tenure_orchestrator_remove(). Memory: nothing of the caller's is kept. Threads: any; waits for the disk, or the cluster. Since: 0.1.
 */
int32_t tenure_orchestrator_run_now(struct tenure_orchestrator orchestrator,
                                    struct tenure_bytes schedule,
                                    struct tenure_bytes how,
                                    uint64_t *out_run,
                                    struct tenure_error *err);

/**
 * Asks for a run of each tick in a range; asked again, it makes none twice that the history remembers.
 *
 * Parameters: orchestrator; schedule - its id; target - empty for a singleton; from_ms, to_ms - ms since 1970 UTC, both included; out_count - how many
 * runs these are, or NULL; err - or NULL.
 * Returns: as tenure_orchestrator_remove(); #TENURE_INVALID_ARGUMENT for more than 10000 ticks.
 * Memory: nothing of the caller's is kept. Threads: any; waits for the disk, or the cluster. Since: 0.1.
 */
int32_t tenure_orchestrator_backfill(struct tenure_orchestrator orchestrator,
                                     struct tenure_bytes schedule,
                                     struct tenure_bytes target,
                                     int64_t from_ms,
                                     int64_t to_ms,
                                     uint64_t *out_count,
                                     struct tenure_error *err);

/**
 * Asks a run to stop, from any node. One that waits ends at once.
 *
 * Parameters: orchestrator; run - its number; reason - for people, at most 1024 bytes; err - or NULL.
 * Returns: as tenure_orchestrator_put(); #TENURE_INVALID_ARGUMENT when there is none of that number that goes on.
 * Memory: nothing of the caller's is kept. Threads: any; waits for the disk, or the cluster. Since: 0.1.
 */
int32_t tenure_orchestrator_cancel(struct tenure_orchestrator orchestrator,
                                   uint64_t run,
                                   struct tenure_bytes reason,
                                   struct tenure_error *err);

/**
 * Sets the lock that is taken round each run on this node, as ThemisDB's setDistributedLock() does: a run that does not get it is skipped, and
 * its history names the peer. Ticks are claimed as ever, but for an orchestrator with the option `lock_only`. Runs that go on keep the lock that they have.
 *
 * Parameters: orchestrator; service - copied; NULL for no lock; of its functions try_acquire, release and holder are called; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT as tenure_node_open_with_service(); #TENURE_CLOSED; #TENURE_POISONED; #TENURE_BAD_HANDLE;
 * #TENURE_FORKED.
 * Memory: `user` is the library's from success until it calls `free`, and stays the caller's otherwise. Threads: any. Since: 0.1.
 */
int32_t tenure_orchestrator_set_lock(struct tenure_orchestrator orchestrator,
                                     const struct tenure_lock_service *service,
                                     struct tenure_error *err);

/**
 * Answers a question with JSON. It may grow between two calls: go on until it fits.
 *
 * Parameters: orchestrator; what - one of: `schedule` (name: its id; null when there is none), `schedules` (those after name, at most number),
 * `history` (name, the latest number lines), `run` (number), `runs` (at most number that go on), `next` (name, the next number ticks, ms since 1970
 * UTC), `themis` (name: a schedule in ThemisDB's form), `themis_list` (name: a tenant, or empty for
 * all), `themis_job` (number), `themis_jobs` (number: 1 for those that go on), `status`, `health`, `handlers`; name; number; buf, len - the buffer;
 * out_needed - the size needed, with the NUL; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_BUFFER_TOO_SMALL, only *out_needed is written; otherwise as tenure_orchestrator_remove().
 * Memory: the caller's. Threads: any; waits for the cluster. Since: 0.1.
 */
int32_t tenure_orchestrator_ask(struct tenure_orchestrator orchestrator,
                                struct tenure_bytes what,
                                struct tenure_bytes name,
                                uint64_t number,
                                char *buf,
                                size_t len,
                                size_t *out_needed,
                                struct tenure_error *err);

/**
 * Adds a gate: asked before each attempt that begins on this node. While it refuses, or does not answer within 5 s, the run is put off and asked about
 * again 5 s later, with what it said as the run's reason; nothing fails by it.
 *
 * Parameters: orchestrator; gate - see #tenure_run_gate_fn; user - passed to it; free - called once with `user` when no call of the gate goes on
 * or will come, on any thread, not in a forked child; or NULL; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: `user` is the library's from success until it calls `free`, and stays the caller's otherwise. Threads: any, also in callbacks. Since: 0.1.
 */
int32_t tenure_orchestrator_add_gate(struct tenure_orchestrator orchestrator,
                                     tenure_run_gate_fn gate,
                                     void *user,
                                     void (*free)(void *user),
                                     struct tenure_error *err);

/**
 * Says which shards there are, for schedules of scope `each_shard`. It is asked before each of their ticks, on the node that gives out work: every node
 * needs it that may come to do so. When it fails, or does not answer within 5 s, the shards are taken to be what they were, and status and
 * health say so; before its first answer there are none.
 *
 * Parameters: orchestrator; topology - see #tenure_topology_fn; NULL for none; user - passed to it; free - called once with `user` when no call goes on
 * or will come, on any thread, not in a forked child; or NULL; err - or NULL.
 * Returns: as tenure_orchestrator_add_gate(). Memory: `user` is the library's from success until it calls `free`, and stays the caller's otherwise,
 * also where topology is NULL. Threads: any, also in callbacks. Since: 0.1.
 */
int32_t tenure_orchestrator_set_topology(struct tenure_orchestrator orchestrator,
                                         tenure_topology_fn topology,
                                         void *user,
                                         void (*free)(void *user),
                                         struct tenure_error *err);

/**
 * Opens a node over a lock service of the host's: its sessions, renewals, events and gates work over that service. See docs/plug-ins.md.
 *
 * Parameters: config - the settings, copied; 0 for the defaults; service - copied; out_node - where the handle goes; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT for a function that is missing, an unknown capability, a `data_dir`, or another `node_id` than
 * the service's; #TENURE_IO; #TENURE_LIMIT; #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE.
 * Memory: as tenure_node_open(). `user` is the library's from success until it calls `free`, and stays the caller's otherwise.
 * Threads: any. Since: 0.1.
 */
int32_t tenure_node_open_with_service(struct tenure_config config,
                                      const struct tenure_lock_service *service,
                                      struct tenure_node *out_node,
                                      struct tenure_error *err);

/**
 * Opens another session: another identity in this process, which the library renews like the node's own.
 *
 * Parameters: node; name - 1 to 64 printable ASCII characters, seen by others as the holder's; ttl_ms - how long the session lives
 * without a renewal, 100 to 86400000; out_session - where the handle goes; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_LIMIT; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_IO;
 * #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: end it with tenure_session_close(), free the handle with tenure_session_free().
 * Threads: any; waits for the disk of a durable node. Since: 0.1.
 */
int32_t tenure_session_open(struct tenure_node node,
                            struct tenure_bytes name,
                            uint64_t ttl_ms,
                            struct tenure_session *out_session,
                            struct tenure_error *err);

/**
 * Ends a session: its locks are released, its waits end with #TENURE_CLOSED. Closing twice is no error. To close the node's own is.
 *
 * Parameters: session; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_MISUSE for the node's own; #TENURE_CLOSED for a closed node; #TENURE_POISONED; #TENURE_IO;
 * #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: the handle stays until tenure_session_free(). Threads: any; waits for the disk of a durable node. Since: 0.1.
 */
int32_t tenure_session_close(struct tenure_session session,
                             struct tenure_error *err);

/**
 * Frees the handle. A session that was not closed ends now, without being waited for. The handle of a node's own session
 * stays until the node's is freed.
 *
 * Parameters: session - also 0, also one that was freed already. Other threads may be inside calls on it.
 * Returns: nothing. Threads: any, also in callbacks; never waits. In a forked child it does nothing. Since: 0.1.
 */
void tenure_session_free(struct tenure_session session);

/**
 * Takes a lock if it is free.
 *
 * Parameters: session; key - 1 to 1024 bytes; opts - or NULL: exclusive, 10 s, renewed by the library; out_token - where the grant's
 * fencing token goes, which increases with every grant of any lock; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_HELD, err->token is the holder's; #TENURE_LOCK_DELAY; #TENURE_INVALID_ARGUMENT; #TENURE_LIMIT;
 * #TENURE_CLOSED; #TENURE_POISONED; #TENURE_UNAVAILABLE; #TENURE_IO; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: nothing is kept. Threads: any, also in callbacks of a node in memory; waits for the disk of a durable node. Since: 0.1.
 */
int32_t tenure_session_try_acquire(struct tenure_session session,
                                   struct tenure_bytes key,
                                   const struct tenure_lock_opts *opts,
                                   uint64_t *out_token,
                                   struct tenure_error *err);

/**
 * Takes a lock, waiting in its queue, first come first served.
 *
 * Parameters: session; key - 1 to 1024 bytes; opts - or NULL; timeout_ms - how long to wait, or TENURE_FOREVER; out_token - where the
 * fencing token goes; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_TIMEOUT, the lock is not held; #TENURE_HELD for a timeout of 0; #TENURE_CLOSED, #TENURE_EXPIRED when the session ends;
 * #TENURE_WOULD_DEADLOCK in a callback; #TENURE_INVALID_ARGUMENT; #TENURE_LIMIT; #TENURE_POISONED; #TENURE_UNAVAILABLE;
 * #TENURE_IO; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: nothing is kept. Threads: any; waits. Freeing the handle does not end the wait, closing the session does. Since: 0.1.
 */
int32_t tenure_session_acquire(struct tenure_session session,
                               struct tenure_bytes key,
                               const struct tenure_lock_opts *opts,
                               uint64_t timeout_ms,
                               uint64_t *out_token,
                               struct tenure_error *err);

/**
 * Takes several locks in one step, or none of them; waits for all of them. Callers that want overlapping sets do not deadlock.
 *
 * Parameters: session; keys, count - 1 to 4096 names, each once; opts - or NULL, for each of them; timeout_ms - how long to wait, 0 to try,
 * or TENURE_FOREVER; out_tokens - where `count` fencing tokens go, in the order of the keys; err - or NULL.
 * Returns: as tenure_session_acquire(). Memory: nothing is kept. Threads: any; waits. Since: 0.1.
 */
int32_t tenure_session_acquire_all(struct tenure_session session,
                                   const struct tenure_bytes *keys,
                                   size_t count,
                                   const struct tenure_lock_opts *opts,
                                   uint64_t timeout_ms,
                                   uint64_t *out_tokens,
                                   struct tenure_error *err);

/**
 * Gives a lock back.
 *
 * Parameters: session; key; token - the grant's; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_NOT_HOLDER when that is not this session's current grant: nothing was done, err->token is that of the
 * present holder, or 0; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_UNAVAILABLE; #TENURE_IO;
 * #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: nothing is kept. Threads: any, also in callbacks of a node in memory; waits for the disk of a durable node. Since: 0.1.
 */
int32_t tenure_session_release(struct tenure_session session,
                               struct tenure_bytes key,
                               uint64_t token,
                               struct tenure_error *err);

/**
 * Gives a lock back without waiting and without an answer, for destructors. Should the release be lost with a
 * leader or a majority, it is made again until it is answered, or the session ends.
 *
 * Parameters: session; key; token - the grant's. Bad ones are ignored.
 * Returns: nothing. Memory: nothing is kept. Threads: any, also in callbacks; never waits. Since: 0.1.
 */
void tenure_session_release_later(struct tenure_session session, struct tenure_bytes key, uint64_t token);

/**
 * Extends a grant by `ttl_ms` from now; of one that the library renews, says whether it is still held.
 *
 * Parameters: session; key; token - the grant's; ttl_ms - 100 to 86400000; out_remaining_ms - what is left of it in the holder's view, or NULL;
 * err - or NULL.
 * Returns: #TENURE_OK; #TENURE_NOT_HOLDER when the grant is gone; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED; #TENURE_POISONED;
 * #TENURE_UNAVAILABLE; #TENURE_IO; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: nothing is kept. Threads: any, also in callbacks of a node in memory; waits for the disk of a durable node. Since: 0.1.
 */
int32_t tenure_session_renew(struct tenure_session session,
                             struct tenure_bytes key,
                             uint64_t token,
                             uint64_t ttl_ms,
                             uint64_t *out_remaining_ms,
                             struct tenure_error *err);

/**
 * Gives back every lock of the session.
 *
 * Parameters: session; out_count - how many there were, or NULL; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_UNAVAILABLE; #TENURE_IO;
 * #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Threads: any, also in callbacks of a node in memory; waits for the disk of a durable node. Since: 0.1.
 */
int32_t tenure_session_release_all(struct tenure_session session, uint64_t *out_count, struct tenure_error *err);

/**
 * Takes a lock away from whoever holds it. For operators: the holder learns of it by its `lost` event, and until then believes in its
 * lease. A delay that covers the holder's ttl keeps the lock free for so long.
 *
 * Parameters: session; key; delay_ms - how long nobody gets it, at most 3600000; out_released - whether anybody held it, or NULL; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_UNAVAILABLE; #TENURE_IO;
 * #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: nothing is kept. Threads: any, also in callbacks of a node in memory; waits for the disk of a durable node. Since: 0.1.
 */
int32_t tenure_session_force_release(struct tenure_session session,
                                     struct tenure_bytes key,
                                     uint64_t delay_ms,
                                     bool *out_released,
                                     struct tenure_error *err);

/**
 * Who holds a lock: of several holders, the one with the smallest token. tenure_node_locks() lists them all.
 *
 * Parameters: session; key; buf, len - the buffer for the name of the holder's session, its node's id; empty when nobody holds the lock;
 * out_needed - the size needed, with the NUL; at most 65; out_token - its fencing token, 0 when nobody holds it, or NULL; out_remaining_ms -
 * how long the grant lasts by the ledger's clock unless it is renewed, or NULL; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_BUFFER_TOO_SMALL, only *out_needed is written; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED;
 * #TENURE_POISONED; #TENURE_UNAVAILABLE; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: the caller's. Threads: any, also in callbacks. Since: 0.1.
 */
int32_t tenure_session_holder(struct tenure_session session,
                              struct tenure_bytes key,
                              char *buf,
                              size_t len,
                              size_t *out_needed,
                              uint64_t *out_token,
                              uint64_t *out_remaining_ms,
                              struct tenure_error *err);

/**
 * What is left of a grant in the holder's own view: the time for which it may believe to hold the lock. Of a grant that the library renews
 * nobody is asked, also when it is lost; one that its caller renews is judged by the ledger, less the time that its answer took.
 *
 * Parameters: session; key; token - the grant's; out_remaining_ms - where it goes, 0 when the grant is lost, or when that cannot be learnt;
 * err - or NULL.
 * Returns: #TENURE_OK, also for a grant that never was; #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: nothing is kept. Threads: any, also in callbacks; never waits, but in a cluster for a grant that its caller renews:
 * there for as long as a read may. Since: 0.1.
 */
int32_t tenure_session_remaining(struct tenure_session session,
                                 struct tenure_bytes key,
                                 uint64_t token,
                                 uint64_t *out_remaining_ms,
                                 struct tenure_error *err);

/**
 * Takes over a kind of task: from now on runs whose tasks are all of kinds that it has handlers for may be given to this orchestrator. A kind that
 * it had before gets the new handler; tries that go on keep theirs.
 *
 * Parameters: orchestrator; kind - 1 to 128 printable ASCII characters without space; handler - see #tenure_task_fn; user - passed to it; free - called
 * once with `user` when no call of the handler goes on or will come, on any thread, not in a forked child; or NULL; flags - 0 or
 * TENURE_TASK_DEFERRED; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: `user` is the library's from success until it calls `free`, and stays the caller's otherwise. Threads: any, also in callbacks. Since: 0.1.
 */
int32_t tenure_orchestrator_register(struct tenure_orchestrator orchestrator,
                                     struct tenure_bytes kind,
                                     tenure_task_fn handler,
                                     void *user,
                                     void (*free)(void *user),
                                     uint32_t flags,
                                     struct tenure_error *err);

/**
 * What a task is about.
 *
 * Parameters: task; out_info - start from TENURE_TASK_INFO_INIT; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: the texts are the library's. Threads: any; never waits. Since: 0.1.
 */
int32_t tenure_task_get_info(struct tenure_task task, struct tenure_task_info *out_info, struct tenure_error *err);

/**
 * Whether and why the handler is to stop.
 *
 * Parameters: task; timeout_ms - wait until it is, at most for so long; 0 to ask; out_stop - a #tenure_stop; err - or NULL.
 * Returns: #TENURE_OK, also when it is not to stop; #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: nothing is kept. Threads: any; waits when asked to. Since: 0.1.
 */
int32_t tenure_task_stop(struct tenure_task task,
                         uint64_t timeout_ms,
                         int32_t *out_stop,
                         struct tenure_error *err);

/**
 * The attempt's gate: whether it still holds the run, by this node's own clocks. To be asked before and after every write that a later attempt must
 * not find undone. Asks nobody.
 *
 * Parameters: task; out_remaining_ms - what is left of the lease, or NULL; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_EXPIRED once the lease may be over or the run is, err->token is the attempt's; #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE;
 * #TENURE_FORKED. Memory: nothing is kept. Threads: any; never waits. Since: 0.1.
 */
int32_t tenure_task_check(struct tenure_task task,
                          uint64_t *out_remaining_ms,
                          struct tenure_error *err);

/**
 * Says how far the run is. It goes out with the next renewal.
 *
 * Parameters: task; per_mille - 0 to 1000; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE; #TENURE_FORKED. Threads: any; never waits. Since: 0.1.
 */
int32_t tenure_task_progress(struct tenure_task task,
                             uint32_t per_mille,
                             struct tenure_error *err);

/**
 * What this or a former attempt of the task has saved.
 *
 * Parameters: task; buf, len - the buffer, which a NUL is put behind; out_needed - the size needed, with it: 1 when nothing was saved; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_BUFFER_TOO_SMALL, only *out_needed is written; #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: the caller's. Threads: any; never waits. Since: 0.1.
 */
int32_t tenure_task_checkpoint(struct tenure_task task,
                               char *buf,
                               size_t len,
                               size_t *out_needed,
                               struct tenure_error *err);

/**
 * Keeps bytes for the next attempt.
 *
 * Parameters: task; data - at most 65536 bytes; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_FENCED when this attempt is not the present one; #TENURE_INVALID_ARGUMENT; #TENURE_UNAVAILABLE; #TENURE_CLOSED;
 * #TENURE_POISONED; #TENURE_WOULD_DEADLOCK in a callback; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: nothing of the caller's is kept. Threads: any; waits for the disk, or the cluster. Since: 0.1.
 */
int32_t tenure_task_save_checkpoint(struct tenure_task task,
                                    struct tenure_bytes data,
                                    struct tenure_error *err);

/**
 * After a piece of work: rests as the schedule's throttle asks, and wakes when the handler is to stop.
 *
 * Parameters: task; byte_count - read and written since the last call; out_stop - as tenure_task_stop(), or NULL; err - or NULL.
 * Returns: as tenure_task_stop(). Memory: nothing is kept. Threads: any; waits. Since: 0.1.
 */
int32_t tenure_task_pace(struct tenure_task task,
                         uint64_t byte_count,
                         int32_t *out_stop,
                         struct tenure_error *err);

/**
 * A deferred task has ended. The first call counts.
 *
 * Parameters: task; status - #TENURE_OK when it is done; message - otherwise why, at most 4096 bytes; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: nothing of the caller's is kept; free the handle. Threads: any, also in callbacks; never waits. Since: 0.1.
 */
int32_t tenure_task_finish(struct tenure_task task,
                           int32_t status,
                           struct tenure_bytes message,
                           struct tenure_error *err);

/**
 * Frees the handle of a deferred task. One that was not finished has failed.
 *
 * Parameters: task - also 0, also one that was freed already. Other threads may be inside calls on it.
 * Returns: nothing. Threads: any, also in callbacks; never waits. In a forked child it does nothing. Since: 0.1.
 */
void tenure_task_free(struct tenure_task task);

/**
 * Asks whoever holds a lock to give it back: each holder gets a #TENURE_EVENT_KIND_REVOKE_REQUESTED event that says who asks and why.
 *
 * Parameters: session; key; token - only this grant, or 0 for every holder; why - for the holder to read, at most 256 bytes of UTF-8;
 * force_after_ms - when it is taken away from those who still hold it then, by the ledger's clock, at most 86400000, or TENURE_FOREVER for
 * never. A second request can bring that time forward, and not put it off. The grant's lock-delay begins then. out_asked - how many holders
 * were asked, or NULL; err - or NULL.
 * Returns: #TENURE_OK, also when nobody holds it; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_UNAVAILABLE;
 * #TENURE_IO; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: nothing is kept. Threads: any, also in callbacks of a node in memory; waits for the disk of a durable node. Since: 0.1.
 */
int32_t tenure_session_revoke(struct tenure_session session,
                              struct tenure_bytes key,
                              uint64_t token,
                              struct tenure_bytes why,
                              uint64_t force_after_ms,
                              uint64_t *out_asked,
                              struct tenure_error *err);

/**
 * Everybody around a lock as JSON: `{"holders": [as tenure_node_locks()], "waiters": [{"node", "session", "mode", "waited_ms", "metadata"}],
 * "delay_ms"}`, holders by token, waiters in the order in which they will be served. Linearizable.
 *
 * Parameters: session; key; buf, len - the buffer; out_needed - the size needed, with the NUL; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_BUFFER_TOO_SMALL, only *out_needed is written; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED;
 * #TENURE_POISONED; #TENURE_UNAVAILABLE; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: the caller's. Threads: any, also in callbacks of a node that is no member of a cluster. Since: 0.1.
 */
int32_t tenure_session_contenders(struct tenure_session session,
                                  struct tenure_bytes key,
                                  char *buf,
                                  size_t len,
                                  size_t *out_needed,
                                  struct tenure_error *err);

/**
 * Who holds a lock as far as this node knows, asking nobody: the answer may be old.
 *
 * Parameters: session; key; buf, len - the buffer for the name of the (first) holder's session, empty when nobody holds the lock;
 * out_needed - the size needed, with the NUL; at most 65; out_token - its fencing token, or 0, or NULL; out_applied - the log index up to which
 * this node has applied, 0 for a node in memory, or NULL; out_age_ms - how long ago that was: so old the answer may be; 0 for a node that is
 * alone; or NULL; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_BUFFER_TOO_SMALL, only *out_needed is written; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED;
 * #TENURE_POISONED; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: the caller's. Threads: any, also in callbacks. Since: 0.1.
 */
int32_t tenure_session_holder_local(struct tenure_session session,
                                    struct tenure_bytes key,
                                    char *buf,
                                    size_t len,
                                    size_t *out_needed,
                                    uint64_t *out_token,
                                    uint64_t *out_applied,
                                    uint64_t *out_age_ms,
                                    struct tenure_error *err);

/**
 * Replaces what a grant shows to whoever asks for the holder, or watches it.
 *
 * Parameters: session; key; token - the grant's; metadata - at most 1024 bytes; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_NOT_HOLDER when the grant is gone, err->token is that of the present holder, or 0; #TENURE_INVALID_ARGUMENT;
 * #TENURE_CLOSED; #TENURE_POISONED; #TENURE_UNAVAILABLE; #TENURE_IO; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: nothing is kept. Threads: any, also in callbacks of a node in memory; waits for the disk of a durable node. Since: 0.1.
 */
int32_t tenure_session_annotate(struct tenure_session session,
                                struct tenure_bytes key,
                                uint64_t token,
                                struct tenure_bytes metadata,
                                struct tenure_error *err);

/**
 * Says whether at least `left_ms` of a grant is left in the holder's own view, asking nobody: before a step that takes so long.
 *
 * Parameters: session; key; token - the grant's; left_ms; out_remaining_ms - what is left, or NULL; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_EXPIRED when less is left, or nothing; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED; #TENURE_POISONED;
 * #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: nothing is kept. Threads: any, also in callbacks; never waits. Since: 0.1.
 */
int32_t tenure_session_ensure(struct tenure_session session,
                              struct tenure_bytes key,
                              uint64_t token,
                              uint64_t left_ms,
                              uint64_t *out_remaining_ms,
                              struct tenure_error *err);

/**
 * Why a grant was lost: a word as in the `lost` event, or "" while it is held and after it was given back. The last 1024 losses of a session
 * are remembered.
 *
 * Parameters: session; token - the grant's; buf, len - the buffer; out_needed - the size needed, with the NUL; at most 16; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_BUFFER_TOO_SMALL, only *out_needed is written; #TENURE_INVALID_ARGUMENT; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: the caller's. Threads: any, also in callbacks; never waits. Since: 0.1.
 */
int32_t tenure_session_loss(struct tenure_session session,
                            uint64_t token,
                            char *buf,
                            size_t len,
                            size_t *out_needed,
                            struct tenure_error *err);

/**
 * What proves that a caller owns this session, for tenure_node_take_over() by a later process. Keep it secret, and where only that process
 * finds it. It changes when the session is opened anew after a loss.
 *
 * Parameters: session; out_secret - where 16 bytes go; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_UNAVAILABLE; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: the caller's. Threads: any, also in callbacks. Since: 0.1.
 */
int32_t tenure_session_secret(struct tenure_session session,
                              uint8_t *out_secret,
                              struct tenure_error *err);

/**
 * The locks that came with the session whose place this one has taken, as JSON by token: `[{"key", "token"}]`, keys as in
 * tenure_node_locks(). They are the caller's, to be released like any other, from the first call on.
 *
 * Parameters: session; buf, len - the buffer; out_needed - the size needed, with the NUL; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_BUFFER_TOO_SMALL, only *out_needed is written; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED; #TENURE_POISONED;
 * #TENURE_UNAVAILABLE; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: the caller's. Threads: any, also in callbacks of a node that is no member of a cluster. Since: 0.1.
 */
int32_t tenure_session_inherited(struct tenure_session session,
                                 char *buf,
                                 size_t len,
                                 size_t *out_needed,
                                 struct tenure_error *err);

/**
 * Opens a session in the place of another one, which may be that of a process that is gone or stopped. The old one ends: whatever it still
 * asks for is refused. With `keep` its locks become the new session's, each under a new and larger fencing token, so that writes that still
 * carry the old one are fenced: tenure_session_inherited() names them. Without, they are lost, and free when their lock-delays are over.
 *
 * Parameters: node; name, ttl_ms - as for tenure_session_open(); secret - the 16 bytes of the old session's tenure_session_secret(); keep;
 * out_session - where the handle goes; err - or NULL.
 * Returns: as tenure_session_open(); #TENURE_EXPIRED when the old session has ended; #TENURE_LIMIT when it holds more than 4096 locks.
 * Memory: end it with tenure_session_close(), free the handle with tenure_session_free().
 * Threads: any; waits for the disk of a durable node. Since: 0.1.
 */
int32_t tenure_node_take_over(struct tenure_node node,
                              struct tenure_bytes name,
                              uint64_t ttl_ms,
                              struct tenure_bytes secret,
                              bool keep,
                              struct tenure_session *out_session,
                              struct tenure_error *err);

/**
 * The library's version as a number: major * 1000000 + minor * 1000 + patch. Compare with TENURE_VERSION_NUMBER of the header.
 *
 * Returns: the number. Threads: any, also in callbacks and after fork(). Since: 0.1.
 */
uint32_t tenure_version_number(void);

/**
 * The library's version as text, for example "0.1.0".
 *
 * Returns: the text, never NULL. Memory: static, not to be freed. Threads: any, also in callbacks and after fork(). Since: 0.1.
 */
const char *tenure_version_string(void);

/**
 * The ABI version that the library was built with. Equal to TENURE_ABI_VERSION of a header that fits.
 *
 * Returns: the number. Threads: any, also in callbacks and after fork(). Since: 0.1.
 */
uint32_t tenure_abi_version(void);

/**
 * Watches who holds a lock, or all locks whose names begin alike. The first events are the present: #TENURE_EVENT_KIND_HELD or, for one
 * lock, #TENURE_EVENT_KIND_FREED. Then comes each change, those of one lock in order. A host that is slow may miss some in between,
 * never the last one. Served by this node's own copy of the ledger: nothing is polled, and nothing is written.
 *
 * Parameters: node; name - a key, or with TENURE_WATCH_PREFIX the beginning of keys, which may be empty; flags - 0 or TENURE_WATCH_PREFIX;
 * on_event, user - see #tenure_event_fn; out_watch - the number for tenure_node_unwatch(), or NULL; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_IO; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: `user` is the caller's and must live until tenure_node_unwatch() or tenure_node_close() has returned.
 * Threads: any, also in callbacks. Since: 0.1.
 */
int32_t tenure_node_watch(struct tenure_node node,
                          struct tenure_bytes name,
                          uint32_t flags,
                          tenure_event_fn on_event,
                          void *user,
                          uint64_t *out_watch,
                          struct tenure_error *err);

/**
 * Ends a watch. After it has returned the callback does not run and never will; called inside that callback, after the callback has
 * returned.
 *
 * Parameters: node; watch - its number; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT when there is none of that number; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Threads: any, also in callbacks; waits for the callback if it is running on another thread. Since: 0.1.
 */
int32_t tenure_node_unwatch(struct tenure_node node,
                            uint64_t watch,
                            struct tenure_error *err);

/**
 * Stands for election and waits, first come first served, until elected. An election is the lock of its name: tenure_node_watch() tells
 * who leads (the first holder) and what is proclaimed (its metadata), tenure_session_contenders() who stands.
 *
 * Parameters: session; name - 1 to 1024 bytes; value - what the leader proclaims, at most 1024 bytes; ttl_ms - how long the leadership
 * outlives its last renewal, 100 to 86400000; timeout_ms - how long to wait, 0 to try, or TENURE_FOREVER; out_token - the leader's term,
 * larger than that of every leader before it; err - or NULL.
 * Returns: as tenure_session_acquire(). Memory: nothing is kept. Threads: any; waits. Since: 0.1.
 */
int32_t tenure_election_campaign(struct tenure_session session,
                                 struct tenure_bytes name,
                                 struct tenure_bytes value,
                                 uint64_t ttl_ms,
                                 uint64_t timeout_ms,
                                 uint64_t *out_token,
                                 struct tenure_error *err);

/**
 * Tells everybody the leader's new value, in the order of proclamations.
 *
 * Parameters: session; name; token - the leader's term; value - at most 1024 bytes; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_NOT_HOLDER when it does not lead any more: nothing was proclaimed, err->token is the present leader's term, or 0;
 * #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_UNAVAILABLE; #TENURE_IO; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: nothing is kept. Threads: any, also in callbacks of a node in memory; waits for the disk of a durable node. Since: 0.1.
 */
int32_t tenure_election_proclaim(struct tenure_session session,
                                 struct tenure_bytes name,
                                 uint64_t token,
                                 struct tenure_bytes value,
                                 struct tenure_error *err);

/**
 * Who leads, and what it has proclaimed. Linearizable. tenure_session_holder() gives the leader's name.
 *
 * Parameters: session; name; buf, len - the buffer for the value, which may hold NULs; out_needed - the size needed, with the NUL at its
 * end; out_token - the leader's term, 0 when nobody leads, or NULL; err - or NULL.
 * Returns: #TENURE_OK; #TENURE_BUFFER_TOO_SMALL, only *out_needed is written; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED;
 * #TENURE_POISONED; #TENURE_UNAVAILABLE; #TENURE_BAD_HANDLE; #TENURE_FORKED.
 * Memory: the caller's. Threads: any, also in callbacks of a node that is no member of a cluster. Since: 0.1.
 */
int32_t tenure_election_leader(struct tenure_session session,
                               struct tenure_bytes name,
                               char *buf,
                               size_t len,
                               size_t *out_needed,
                               uint64_t *out_token,
                               struct tenure_error *err);

/**
 * Gives the leadership up: the next in the queue leads at once.
 *
 * Parameters: session; name; token - the leader's term; err - or NULL.
 * Returns: as tenure_session_release(). Memory: nothing is kept.
 * Threads: any, also in callbacks of a node in memory; waits for the disk of a durable node. Since: 0.1.
 */
int32_t tenure_election_resign(struct tenure_session session,
                               struct tenure_bytes name,
                               uint64_t token,
                               struct tenure_error *err);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* TENURE_H */
