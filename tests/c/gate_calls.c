/* The inline functions as functions, for tests/gate_writers.rs to call. */
#include "gate_bind.h"

int call_enter(const tenure_gate_cell *cell, uint32_t write_class, tenure_gate_permit *permit) {
  return tenure_gate_enter_class(cell, write_class, permit);
}
int call_enter_batch(const tenure_gate_cell *cell, uint32_t write_class, size_t writes, tenure_gate_permit *permit) {
  return tenure_gate_enter_batch(cell, write_class, writes, permit);
}
int call_finish(tenure_gate_permit *permit) { return tenure_gate_finish(permit); }
int call_precommit(const tenure_gate_permit *permit) { return tenure_gate_precommit(permit); }
void call_leave(tenure_gate_permit *permit) { tenure_gate_leave(permit); }
int call_check(const tenure_gate_cell *cell, uint64_t *out_epoch) { return tenure_gate_check(cell, out_epoch); }
uint64_t call_check_epoch(const tenure_gate_cell *cell, uint64_t epoch) { return tenure_gate_check_epoch(cell, epoch); }
