/**
 * Tenure's write gate, inline: may this process acknowledge a write now?
 *
 * Promise. No write is acknowledged unless its effect was complete while the lease was provably valid, if the host acknowledges
 * only what tenure_gate_finish() calls TENURE_GATE_HELD. What lands later carries the old epoch and is refused where the newer
 * epoch is known (tenure_gate_check_epoch()).
 *
 *     tenure_gate_permit permit;
 *     int reason = tenure_gate_enter(cell, &permit);
 *     if (reason != TENURE_GATE_GRANTED) return refuse(client, tenure_gate_reason_name(reason));
 *     write(batch, permit.epoch);                                        // the epoch goes into the record
 *     if (tenure_gate_finish(&permit) == TENURE_GATE_HELD) acknowledge(client);
 *     else report_uncertain(client);                                     // neither "done" nor "not done"
 *
 * Units. Everything here is counts and epochs; deadlines stay inside the cell.
 *
 * Ownership. A cell is the library's (tenure_gate_cell_of() in tenure.h). The pointer stays readable for the life of the
 * process: a gate that was closed or freed reads as closed. A permit is the caller's, usually on the stack; it must be ended exactly
 * once, by tenure_gate_finish() or tenure_gate_leave(). Ending it again, or ending a zeroed one, is harmless and uncertain.
 *
 * Threads. Any thread may use any cell at any time; no call blocks, locks or allocates, and once a thread has used a gate no
 * call of the fast path leaves this header except for the kernel's clock. A permit belongs to one thread at a time. It may be
 * ended on another thread than it was taken on, at the price of one atomic addition. Not to be called from signal handlers.
 *
 * Errors. tenure_gate_enter() and tenure_gate_check() return TENURE_GATE_GRANTED or the reason of the refusal. An unknown reason,
 * from a newer library, is a refusal like any other.
 *
 * fork(). The memory of a cell is wiped in a forked child: every gate of the parent's is closed there (TENURE_GATE_FORKED), and
 * permits that were under way are uncertain. The child may open gates of its own.
 *
 * Needs GCC or Clang, C99 or C++11, 64-bit Linux. Needs no other header of the library.
 *
 * Since: 0.1.0
 */
#ifndef TENURE_GATE_H
#define TENURE_GATE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** A write was let in. */
#define TENURE_GATE_GRANTED 0
/** Refused: no lease was granted since the gate opened or was reset. */
#define TENURE_GATE_NEVER_GRANTED 1
/** Refused: the lease has ended, or is so near its end that new writes could not finish in it. */
#define TENURE_GATE_EXPIRED 2
/** Refused: a higher epoch belongs to another node. */
#define TENURE_GATE_SUPERSEDED 3
/** Refused: the gate is being drained, or was, for a hand-over. */
#define TENURE_GATE_DRAINING 4
/** Refused: the clocks disagree, or nobody looked at them for longer than the leash. */
#define TENURE_GATE_CLOCK 5
/** Refused: a failure ended the library's work. */
#define TENURE_GATE_POISONED 6
/** Refused: this process is a forked child of the one that opened the gate. */
#define TENURE_GATE_FORKED 7
/** Refused: the gate was closed. */
#define TENURE_GATE_CLOSED 8
/** Refused: the machine was suspended, and no lease has been granted since. */
#define TENURE_GATE_SUSPENDED 9
/** Refused: the machine was restored from a snapshot, cloned or moved; a higher epoch opens. */
#define TENURE_GATE_RESTORED 10
/** Refused: the host has not shown that it is alive for longer than gate.beat_timeout_ms. */
#define TENURE_GATE_HOST_SILENT 11

/** The effect was complete while the lease was provably valid: acknowledge. */
#define TENURE_GATE_HELD 0
/** It was not, or nobody can tell: do not acknowledge. */
#define TENURE_GATE_UNCERTAIN 1

/** A client's write. Needs the lease. */
#define TENURE_GATE_CLIENT 0
/** A write that a replica applies from its master. Passes while this node holds no office, else refused as superseded. */
#define TENURE_GATE_REPLICATION 1
/** Loading before the node serves. As TENURE_GATE_REPLICATION. */
#define TENURE_GATE_BOOTSTRAP 2
/** A write of the server's own that can wait. Needs the lease, but its refusals are not counted. */
#define TENURE_GATE_DEFERRABLE 3

/* ---- layout: shared with the library, not to be touched by hosts -------------------------------------------------------------- */

#define TENURE_GATE_LAYOUT 1
#define TENURE_GATE_SLOTS 1024u
#define TENURE_GATE_SLOTS_OFFSET 4096u

#define TENURE_GATE_MODE_WIPED 0u
#define TENURE_GATE_MODE_DISABLED 1u
#define TENURE_GATE_MODE_BOOTTIME 2u
#define TENURE_GATE_MODE_TSC 3u
#define TENURE_GATE_MODE_EMPTY 8u
#define TENURE_GATE_CLOCK_BOOTTIME 7

/** A deadline d is open at an instant t iff d - t < limit, unsigned. Between hard and last the library gives the verdicts. */
typedef struct tenure_gate_window {
  uint64_t soft;
  uint64_t hard;
  uint64_t limit;
  uint64_t last;
} tenure_gate_window;

/** One gate. See "Ownership" above. */
typedef struct tenure_gate_cell {
  uint32_t mode;
  uint32_t layout;
  uint64_t epoch;
  tenure_gate_window boottime;
  uint64_t clock;
  uint64_t lease_end;
  tenure_gate_window tsc;
  uint32_t kind;
  uint32_t fenced;
  uint32_t reason;
  uint32_t drain;
  uint64_t injected;
  uint64_t epoch_seen;
} tenure_gate_cell;

/** What one thread counts at one gate. */
typedef struct tenure_gate_slot {
  uint64_t entered;
  uint64_t left;
  uint64_t left_remote;
  uint64_t closest;
  uint64_t padding[12];
} tenure_gate_slot;

/** Leave to write. Only `epoch` is the host's to read. */
typedef struct tenure_gate_permit {
  const tenure_gate_cell *cell;
  /** To be stored with the write. 0 in a gate that never had a lease. */
  uint64_t epoch;
  uint32_t slot;
  uint32_t mode;
} tenure_gate_permit;

typedef char tenure_gate_assert_cell[offsetof(tenure_gate_cell, tsc) == 64 ? 1 : -1];
typedef char tenure_gate_assert_slot[sizeof(tenure_gate_slot) == 128 ? 1 : -1];
typedef char tenure_gate_assert_permit[sizeof(long) == 8 && sizeof(tenure_gate_permit) == 24 ? 1 : -1];

/* ---- the library's side: called when the fast path does not apply -------------------------------------------------------------- */

/** This thread's slot, from 1. */
uint32_t tenure_gate_thread_index(void);
/** tenure_gate_enter_class() in full. Returns TENURE_GATE_GRANTED or a reason; unknown classes are refused as TENURE_GATE_CLOSED. */
int32_t tenure_gate_enter_slow(const tenure_gate_cell *cell, uint32_t write_class, tenure_gate_permit *out_permit);
/** tenure_gate_finish() in full. */
int32_t tenure_gate_finish_slow(tenure_gate_permit *permit);
/** tenure_gate_precommit() in full. */
int32_t tenure_gate_precommit_slow(const tenure_gate_permit *permit);
/** tenure_gate_leave() in full. */
void tenure_gate_leave_slow(tenure_gate_permit *permit);
/** tenure_gate_check() in full. */
int32_t tenure_gate_check_slow(const tenure_gate_cell *cell, uint64_t *out_epoch);
/** The stable name of a reason: "never_granted", "expired", ...; "granted" for 0, "unknown" for others. Static text. */
const char *tenure_gate_reason_name(int32_t reason);

/* ---- the fast path ------------------------------------------------------------------------------------------------------------ */

#define TENURE_GATE_INLINE static inline __attribute__((always_inline, unused))
#define TENURE_GATE_LIKELY(x) __builtin_expect(!!(x), 1)
#define TENURE_GATE_UNLIKELY(x) __builtin_expect(!!(x), 0)
#if defined(__x86_64__)
#define TENURE_GATE_HAS_TSC 1
#define TENURE_GATE_RDTSC() __builtin_ia32_rdtsc()
#else
#define TENURE_GATE_HAS_TSC 0
#define TENURE_GATE_RDTSC() ((uint64_t)1 << 63)
#endif

/* Where this thread counts: the offset of its own slot in every cell; 0 when it was not asked for yet, or the thread has none to itself.
   Each translation unit has its own copy and is told the same number. With this model the access is direct in a shared object too. */
static __thread uint32_t tenure_gate_tls_slot __attribute__((tls_model("initial-exec"), unused));

static __attribute__((noinline, cold, unused)) uint32_t tenure_gate_find_slot(void) {
  uint32_t index = tenure_gate_thread_index();
  if (index - 1 < TENURE_GATE_SLOTS) tenure_gate_tls_slot = TENURE_GATE_SLOTS_OFFSET + (index - 1) * (uint32_t)sizeof(tenure_gate_slot);
  return tenure_gate_tls_slot;
}

TENURE_GATE_INLINE tenure_gate_slot *tenure_gate_slot_at(const tenure_gate_cell *cell, uint32_t offset) {
  return (tenure_gate_slot *)((uintptr_t)cell + offset);
}

/* The present by the clock of `mode`. A clock that cannot be read gives an instant at which every deadline has passed. */
TENURE_GATE_INLINE uint64_t tenure_gate_now(const tenure_gate_cell *cell, uint32_t mode) {
  typedef int (*clock_function)(int32_t, void *);
  struct { int64_t seconds, nanoseconds; } t; /* a struct timespec, which strict C99 does not have */
  if (mode == TENURE_GATE_MODE_TSC) return TENURE_GATE_RDTSC();
  if (TENURE_GATE_UNLIKELY(((clock_function)(uintptr_t)cell->clock)(TENURE_GATE_CLOCK_BOOTTIME, &t) != 0)) return (uint64_t)1 << 63;
  return (uint64_t)t.seconds * 1000000000u + (uint64_t)t.nanoseconds;
}

TENURE_GATE_INLINE const tenure_gate_window *tenure_gate_window_of(const tenure_gate_cell *cell, uint32_t mode) {
  return mode == TENURE_GATE_MODE_TSC ? &cell->tsc : &cell->boottime;
}

/* tenure_gate_enter() in a mode that is known when this is compiled: 1 when the write is in, 0 when nothing was counted. */
TENURE_GATE_INLINE int tenure_gate_enter_as(const tenure_gate_cell *cell, tenure_gate_permit *permit, uint32_t mode) {
  const tenure_gate_window *const window = tenure_gate_window_of(cell, mode);
  tenure_gate_slot *slot;
  uint64_t soft;
  uint32_t offset = tenure_gate_tls_slot;
  if (TENURE_GATE_UNLIKELY(offset == 0) && (offset = tenure_gate_find_slot()) == 0) return 0;
  slot = tenure_gate_slot_at(cell, offset);
  permit->cell = cell;
  permit->slot = offset;
  permit->mode = mode;
  /* Counted first, looked at second; the drainer's process-wide barrier orders the two on the processor. */
  __atomic_store_n(&slot->entered, __atomic_load_n(&slot->entered, __ATOMIC_RELAXED) + 1, __ATOMIC_RELAXED);
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  permit->epoch = __atomic_load_n(&cell->epoch, __ATOMIC_ACQUIRE);
  soft = __atomic_load_n(&window->soft, __ATOMIC_ACQUIRE);
  if (TENURE_GATE_LIKELY(soft - tenure_gate_now(cell, mode) < __atomic_load_n(&window->limit, __ATOMIC_RELAXED))) return 1;
  __atomic_store_n(&slot->entered, __atomic_load_n(&slot->entered, __ATOMIC_RELAXED) - 1, __ATOMIC_RELEASE);
  return 0;
}

/**
 * Asks to let a client's write in.
 *
 * On TENURE_GATE_GRANTED `permit` is filled in and the write counts as in flight until the permit is ended: a drain waits for it. On
 * a refusal there is nothing to end.
 *
 * Since: 0.1.0
 */
TENURE_GATE_INLINE int tenure_gate_enter(const tenure_gate_cell *cell, tenure_gate_permit *permit) {
  const uint32_t mode = __atomic_load_n(&cell->mode, __ATOMIC_RELAXED);
  if (TENURE_GATE_HAS_TSC && mode == TENURE_GATE_MODE_TSC) {
    if (TENURE_GATE_LIKELY(tenure_gate_enter_as(cell, permit, TENURE_GATE_MODE_TSC))) return TENURE_GATE_GRANTED;
  } else if (mode == TENURE_GATE_MODE_BOOTTIME) {
    if (TENURE_GATE_LIKELY(tenure_gate_enter_as(cell, permit, TENURE_GATE_MODE_BOOTTIME))) return TENURE_GATE_GRANTED;
  } else if (mode == TENURE_GATE_MODE_DISABLED) {
    permit->cell = cell;
    permit->epoch = __atomic_load_n(&cell->epoch, __ATOMIC_RELAXED);
    permit->slot = 0;
    permit->mode = TENURE_GATE_MODE_DISABLED;
    return TENURE_GATE_GRANTED;
  }
  return tenure_gate_enter_slow(cell, TENURE_GATE_CLIENT, permit);
}

/**
 * Asks to let a write of this class (TENURE_GATE_CLIENT, ...) in. As tenure_gate_enter() otherwise.
 *
 * Since: 0.1.0
 */
TENURE_GATE_INLINE int tenure_gate_enter_class(const tenure_gate_cell *cell, uint32_t write_class, tenure_gate_permit *permit) {
  if (write_class == TENURE_GATE_CLIENT) return tenure_gate_enter(cell, permit);
  return tenure_gate_enter_slow(cell, write_class, permit);
}

/**
 * As tenure_gate_enter_class() for a batch of so many writes. One of none, or of reads only, is never refused, and always held.
 *
 * Since: 0.1.0
 */
TENURE_GATE_INLINE int tenure_gate_enter_batch(const tenure_gate_cell *cell, uint32_t write_class, size_t writes, tenure_gate_permit *permit) {
  if (writes != 0) return tenure_gate_enter_class(cell, write_class, permit);
  permit->cell = cell;
  permit->epoch = __atomic_load_n(&cell->epoch, __ATOMIC_RELAXED);
  permit->slot = 0;
  permit->mode = TENURE_GATE_MODE_EMPTY;
  return TENURE_GATE_GRANTED;
}

/* Whether the permit's write could be acknowledged now, with time to spare. */
TENURE_GATE_INLINE int tenure_gate_still_held(const tenure_gate_permit *permit, uint32_t mode) {
  const tenure_gate_cell *const cell = permit->cell;
  const tenure_gate_window *const window = tenure_gate_window_of(cell, mode);
  uint64_t hard;
  /* The effect comes before the look, the deadline before the epoch: with our own epoch there the deadline is ours too. */
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  hard = __atomic_load_n(&window->hard, __ATOMIC_ACQUIRE);
  /* In the wiped memory of a forked child the epoch is 0, which no permit of these modes has, and there is no clock to call. */
  if (TENURE_GATE_UNLIKELY(__atomic_load_n(&cell->epoch, __ATOMIC_ACQUIRE) != permit->epoch)) return 0;
  return hard - tenure_gate_now(cell, mode) < __atomic_load_n(&window->limit, __ATOMIC_RELAXED);
}

/* tenure_gate_finish() in a mode that is known when this is compiled: 1 when the write is held and its permit ended, 0 when nothing
   was done. */
TENURE_GATE_INLINE int tenure_gate_finish_as(tenure_gate_permit *permit, uint32_t mode) {
  tenure_gate_slot *slot;
  if (TENURE_GATE_UNLIKELY(permit->slot != tenure_gate_tls_slot)) {
    /* Let in by another translation unit, while this one has not asked for the thread's slot yet; or by another thread. */
    if (tenure_gate_tls_slot != 0 || permit->slot != tenure_gate_find_slot()) return 0;
  }
  if (TENURE_GATE_UNLIKELY(!tenure_gate_still_held(permit, mode))) return 0;
  slot = tenure_gate_slot_at(permit->cell, permit->slot);
  /* The verdict comes before the leave, so that none follows a drain. */
  __atomic_store_n(&slot->left, __atomic_load_n(&slot->left, __ATOMIC_RELAXED) + 1, __ATOMIC_RELEASE);
  permit->mode = TENURE_GATE_MODE_WIPED;
  return 1;
}

/**
 * The verdict on a write whose effect is complete (written, synced, replicated: whatever the host promises), to be asked before it
 * is acknowledged. Ends the permit. TENURE_GATE_HELD or TENURE_GATE_UNCERTAIN.
 *
 * Since: 0.1.0
 */
TENURE_GATE_INLINE int tenure_gate_finish(tenure_gate_permit *permit) {
  const uint32_t mode = permit->mode;
  if (TENURE_GATE_HAS_TSC && mode == TENURE_GATE_MODE_TSC) {
    if (TENURE_GATE_LIKELY(tenure_gate_finish_as(permit, TENURE_GATE_MODE_TSC))) return TENURE_GATE_HELD;
  } else if (mode == TENURE_GATE_MODE_BOOTTIME) {
    if (TENURE_GATE_LIKELY(tenure_gate_finish_as(permit, TENURE_GATE_MODE_BOOTTIME))) return TENURE_GATE_HELD;
  } else if (mode == TENURE_GATE_MODE_DISABLED) {
    if (TENURE_GATE_LIKELY(__atomic_load_n(&permit->cell->mode, __ATOMIC_RELAXED) == TENURE_GATE_MODE_DISABLED)) {
      permit->mode = TENURE_GATE_MODE_WIPED;
      return TENURE_GATE_HELD;
    }
  }
  return tenure_gate_finish_slow(permit);
}

/**
 * To be asked right before the irrevocable step: could the write still be acknowledged if it were done now? TENURE_GATE_HELD or
 * TENURE_GATE_UNCERTAIN. Does not end the permit.
 *
 * Since: 0.1.0
 */
TENURE_GATE_INLINE int tenure_gate_precommit(const tenure_gate_permit *permit) {
  if (TENURE_GATE_HAS_TSC && permit->mode == TENURE_GATE_MODE_TSC) {
    if (TENURE_GATE_LIKELY(tenure_gate_still_held(permit, TENURE_GATE_MODE_TSC))) return TENURE_GATE_HELD;
  } else if (permit->mode == TENURE_GATE_MODE_BOOTTIME) {
    if (TENURE_GATE_LIKELY(tenure_gate_still_held(permit, TENURE_GATE_MODE_BOOTTIME))) return TENURE_GATE_HELD;
  }
  return tenure_gate_precommit_slow(permit);
}

/**
 * Ends the permit of a write that was given up. No verdict: nothing of it may be acknowledged.
 *
 * Since: 0.1.0
 */
TENURE_GATE_INLINE void tenure_gate_leave(tenure_gate_permit *permit) {
  tenure_gate_leave_slow(permit);
}

/* tenure_gate_check() in a mode that is known when this is compiled: 1 when the gate is open. */
TENURE_GATE_INLINE int tenure_gate_check_as(const tenure_gate_cell *cell, uint64_t *out_epoch, uint32_t mode) {
  const tenure_gate_window *const window = tenure_gate_window_of(cell, mode);
  const uint64_t epoch = out_epoch ? __atomic_load_n(&cell->epoch, __ATOMIC_ACQUIRE) : 0;
  const uint64_t soft = __atomic_load_n(&window->soft, __ATOMIC_ACQUIRE);
  if (TENURE_GATE_UNLIKELY(soft - tenure_gate_now(cell, mode) >= __atomic_load_n(&window->limit, __ATOMIC_RELAXED))) return 0;
  if (out_epoch) *out_epoch = epoch;
  return 1;
}

/**
 * Whether a client's write would be let in now, without counting one: for reads that must be the holder's own, and for refusing
 * early. On TENURE_GATE_GRANTED `*out_epoch` is the epoch (out_epoch may be NULL). No drain waits for what the caller does next.
 *
 * Since: 0.1.0
 */
TENURE_GATE_INLINE int tenure_gate_check(const tenure_gate_cell *cell, uint64_t *out_epoch) {
  const uint32_t mode = __atomic_load_n(&cell->mode, __ATOMIC_RELAXED);
  if (TENURE_GATE_HAS_TSC && mode == TENURE_GATE_MODE_TSC) {
    if (TENURE_GATE_LIKELY(tenure_gate_check_as(cell, out_epoch, TENURE_GATE_MODE_TSC))) return TENURE_GATE_GRANTED;
  } else if (mode == TENURE_GATE_MODE_BOOTTIME) {
    if (TENURE_GATE_LIKELY(tenure_gate_check_as(cell, out_epoch, TENURE_GATE_MODE_BOOTTIME))) return TENURE_GATE_GRANTED;
  } else if (mode == TENURE_GATE_MODE_DISABLED) {
    if (out_epoch) *out_epoch = __atomic_load_n(&cell->epoch, __ATOMIC_RELAXED);
    return TENURE_GATE_GRANTED;
  }
  return tenure_gate_check_slow(cell, out_epoch);
}

/**
 * For a receiver of records (a replica, an object store): 0 when `epoch` is not below the highest epoch that this gate has seen, else that
 * highest epoch. To be asked in the same step as the write that it guards.
 *
 * Since: 0.1.0
 */
TENURE_GATE_INLINE uint64_t tenure_gate_check_epoch(const tenure_gate_cell *cell, uint64_t epoch) {
  const uint64_t seen = __atomic_load_n(&cell->epoch_seen, __ATOMIC_ACQUIRE);
  return epoch >= seen ? 0 : seen;
}

#ifdef __cplusplus
}
#endif
#endif /* TENURE_GATE_H */
