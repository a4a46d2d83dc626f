/* Prints the layout that tenure_gate.h declares, one "type.field offset" a line, for tests/gate_header.rs to compare. */
#include <stdio.h>

#include "tenure_gate.h"

#define FIELD(type, field) printf("%s.%s %zu\n", #type, #field, offsetof(tenure_gate_##type, field))
#define VALUE(name) printf("%s %llu\n", #name, (unsigned long long)TENURE_GATE_##name)

int main(void) {
  FIELD(window, soft);
  FIELD(window, hard);
  FIELD(window, limit);
  FIELD(window, last);
  FIELD(cell, mode);
  FIELD(cell, layout);
  FIELD(cell, epoch);
  FIELD(cell, boottime);
  FIELD(cell, clock);
  FIELD(cell, lease_end);
  FIELD(cell, tsc);
  FIELD(cell, kind);
  FIELD(cell, fenced);
  FIELD(cell, reason);
  FIELD(cell, drain);
  FIELD(cell, injected);
  FIELD(cell, epoch_seen);
  FIELD(slot, entered);
  FIELD(slot, left);
  FIELD(slot, left_remote);
  FIELD(slot, closest);
  FIELD(permit, epoch);
  FIELD(permit, slot);
  FIELD(permit, mode);
  printf("slot %zu\npermit %zu\n", sizeof(tenure_gate_slot), sizeof(tenure_gate_permit));
  VALUE(LAYOUT);
  VALUE(SLOTS);
  VALUE(SLOTS_OFFSET);
  VALUE(MODE_WIPED);
  VALUE(MODE_DISABLED);
  VALUE(MODE_BOOTTIME);
  VALUE(MODE_TSC);
  VALUE(MODE_EMPTY);
  VALUE(NEVER_GRANTED);
  VALUE(EXPIRED);
  VALUE(SUPERSEDED);
  VALUE(DRAINING);
  VALUE(CLOCK);
  VALUE(POISONED);
  VALUE(FORKED);
  VALUE(CLOSED);
  VALUE(SUSPENDED);
  VALUE(RESTORED);
  VALUE(HOST_SILENT);
  VALUE(CLIENT);
  VALUE(REPLICATION);
  VALUE(BOOTSTRAP);
  VALUE(DEFERRABLE);
  return 0;
}
