/* The library's side of tenure_gate.h for objects that tests/gate_writers.rs loads: it hands them the functions of its own process. */
#ifndef GATE_BIND_H
#define GATE_BIND_H

#include "tenure_gate.h"

typedef struct {
  uint32_t (*thread_index)(void);
  int32_t (*enter_slow)(const tenure_gate_cell *, uint32_t, tenure_gate_permit *);
  int32_t (*finish_slow)(tenure_gate_permit *);
  int32_t (*precommit_slow)(const tenure_gate_permit *);
  void (*leave_slow)(tenure_gate_permit *);
  int32_t (*check_slow)(const tenure_gate_cell *, uint64_t *);
} library;

#ifdef __cplusplus
extern "C" {
#endif

static library lib;

uint32_t tenure_gate_thread_index(void) { return lib.thread_index(); }
int32_t tenure_gate_enter_slow(const tenure_gate_cell *cell, uint32_t write_class, tenure_gate_permit *permit) {
  return lib.enter_slow(cell, write_class, permit);
}
int32_t tenure_gate_finish_slow(tenure_gate_permit *permit) { return lib.finish_slow(permit); }
int32_t tenure_gate_precommit_slow(const tenure_gate_permit *permit) { return lib.precommit_slow(permit); }
void tenure_gate_leave_slow(tenure_gate_permit *permit) { lib.leave_slow(permit); }
int32_t tenure_gate_check_slow(const tenure_gate_cell *cell, uint64_t *out_epoch) { return lib.check_slow(cell, out_epoch); }

void gate_bind(const library *functions) { lib = *functions; }

#ifdef __cplusplus
}
#endif
#endif
