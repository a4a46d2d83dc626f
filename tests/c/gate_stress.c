/* Writers on real threads, through the inline functions. tests/gate_writers.rs loads this as a shared object, gives it the library's
   functions, starts its threads, and drains the gate again and again meanwhile. */
#include <sched.h>
#include <stdint.h>

#include "gate_bind.h"

typedef struct {
  /* Highest epoch that has been drained. Set by the driver once its drain is over. */
  uint64_t released;
  uint32_t stop;
  uint32_t mailbox_full;
  tenure_gate_permit mailbox;
  uint64_t held, uncertain, refused, remote;
  /* Effects or verdicts under an epoch that had been released. */
  uint64_t violations;
} world;

#ifdef __cplusplus
extern "C" {
#endif

static void count(uint64_t *counter) { __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED); }

static void finish(world *w, tenure_gate_permit *permit) {
  const uint64_t epoch = permit->epoch;
  int held;
  if (epoch <= __atomic_load_n(&w->released, __ATOMIC_ACQUIRE)) count(&w->violations);
  held = tenure_gate_finish(permit) == TENURE_GATE_HELD;
  count(held ? &w->held : &w->uncertain);
  if (tenure_gate_finish(permit) != TENURE_GATE_UNCERTAIN) count(&w->violations);
}

/* Every 32nd write is left in the mailbox for whichever thread finds it first. */
static int hand_over(world *w, tenure_gate_permit *permit) {
  uint32_t empty = 0;
  if (!__atomic_compare_exchange_n(&w->mailbox_full, &empty, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) return 0;
  w->mailbox = *permit;
  __atomic_store_n(&w->mailbox_full, 2, __ATOMIC_RELEASE);
  return 1;
}

static void take_over(world *w) {
  uint32_t full = 2;
  tenure_gate_permit permit;
  if (!__atomic_compare_exchange_n(&w->mailbox_full, &full, 3, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) return;
  permit = w->mailbox;
  __atomic_store_n(&w->mailbox_full, 0, __ATOMIC_RELEASE);
  count(&w->remote);
  finish(w, &permit);
}

void stress_write(const tenure_gate_cell *cell, world *w) {
  uint64_t n = 0, i;
  while (!__atomic_load_n(&w->stop, __ATOMIC_RELAXED)) {
    tenure_gate_permit permit;
    take_over(w);
    if (tenure_gate_enter(cell, &permit) != TENURE_GATE_GRANTED) {
      count(&w->refused);
      sched_yield();
      continue;
    }
    for (i = 0; i < (n & 63); i++)
      if (permit.epoch <= __atomic_load_n(&w->released, __ATOMIC_ACQUIRE)) count(&w->violations);
    if (tenure_gate_precommit(&permit) != TENURE_GATE_HELD) count(&w->uncertain);
    n++;
    if ((n & 31) == 0 && hand_over(w, &permit)) continue;
    if ((n & 127) == 7)
      tenure_gate_leave(&permit);
    else
      finish(w, &permit);
  }
  take_over(w);
}

#ifdef __cplusplus
}
#endif
