/* A gate through the C interface: fed by heartbeats and by an office, judged by the inline header. Usage: gates [DIRECTORY],
 * for a durable node. */
#include <unistd.h>

#include "common.h"
#include "tenure_gate.h"

static const tenure_config none = {0};

static tenure_heartbeat_reply beat(tenure_gate gate, uint64_t epoch, uint64_t ttl_ms, uint64_t nonce) {
  tenure_heartbeat h = TENURE_HEARTBEAT_INIT;
  tenure_heartbeat_reply r = TENURE_HEARTBEAT_REPLY_INIT;
  h.epoch = epoch, h.ttl_ms = ttl_ms, h.nonce = nonce;
  h.flags = nonce ? TENURE_HEARTBEAT_NONCE : 0;
  OK(tenure_gate_heartbeat(gate, &h, &r, err));
  CHECK(r.struct_size == sizeof r && r.next_nonce != 0 && r.reason != NULL);
  return r;
}

static void heartbeats(tenure_node node) {
  tenure_gate gate;
  const tenure_gate_cell *cell;
  tenure_gate_permit p;
  uint64_t nonce, epoch = 0;
  OK(tenure_gate_open(node, text("pushed"), none, &gate, err));
  OK(tenure_gate_cell_of(gate, &cell, err));
  CHECK(tenure_gate_enter(cell, &p) == TENURE_GATE_NEVER_GRANTED);
  CHECK(tenure_gate_check(cell, &epoch) == TENURE_GATE_NEVER_GRANTED);

  tenure_heartbeat_reply r = beat(gate, 7, 60000, 0);
  CHECK(!r.accepted && strcmp(r.reason, "no_nonce") == 0);
  CHECK(tenure_gate_enter(cell, &p) != TENURE_GATE_GRANTED);
  OK(tenure_gate_next_nonce(gate, &nonce, err));
  r = beat(gate, 7, 60000, nonce);
  CHECK(r.accepted && r.epoch == 7 && r.remaining_ms > 0 && r.remaining_ms <= 60000 && r.reason[0] == 0);
  CHECK(tenure_gate_enter(cell, &p) == TENURE_GATE_GRANTED && p.epoch == 7);
  CHECK(tenure_gate_precommit(&p) == TENURE_GATE_HELD);
  CHECK(tenure_gate_finish(&p) == TENURE_GATE_HELD);
  CHECK(tenure_gate_finish(&p) == TENURE_GATE_UNCERTAIN);
  CHECK(tenure_gate_check(cell, &epoch) == TENURE_GATE_GRANTED && epoch == 7);
  CHECK(tenure_gate_check_epoch(cell, 7) == 0 && tenure_gate_check_epoch(cell, 6) == 7);

  /* Stale. */
  tenure_heartbeat h = TENURE_HEARTBEAT_INIT;
  tenure_error e;
  h.epoch = 6, h.ttl_ms = 60000, h.nonce = r.next_nonce, h.flags = TENURE_HEARTBEAT_NONCE;
  CHECK(tenure_gate_heartbeat(gate, &h, &r, &e) == TENURE_FENCED && e.token == 7);

  /* Another node's higher epoch closes it under a write in flight. */
  CHECK(tenure_gate_enter(cell, &p) == TENURE_GATE_GRANTED);
  OK(tenure_gate_observe(gate, 8, text("other"), err));
  CHECK(tenure_gate_finish(&p) == TENURE_GATE_UNCERTAIN);
  CHECK(tenure_gate_enter(cell, &p) == TENURE_GATE_SUPERSEDED);

  /* Modes, at run time. */
  const char *mode;
  OK(tenure_gate_mode(gate, &mode, err));
  CHECK(strcmp(mode, "block-write") == 0);
  OK(tenure_gate_set_mode(gate, text("log-only"), err));
  CHECK(tenure_gate_enter(cell, &p) == TENURE_GATE_GRANTED && tenure_gate_finish(&p) == TENURE_GATE_HELD);
  OK(tenure_gate_set_mode(gate, text("disabled"), err));
  CHECK(tenure_gate_enter(cell, &p) == TENURE_GATE_GRANTED && tenure_gate_finish(&p) == TENURE_GATE_HELD);
  OK(tenure_gate_set_mode(gate, text("block-write"), err));
  CHECK(tenure_gate_enter(cell, &p) == TENURE_GATE_SUPERSEDED);
  OK(tenure_gate_reset(gate, err));
  CHECK(tenure_gate_enter(cell, &p) != TENURE_GATE_GRANTED);

  char json[8192];
  size_t needed;
  OK(tenure_gate_status(gate, json, sizeof json, &needed, err));
  CHECK(strstr(json, "\"name\":\"pushed\"") && strstr(json, "\"uncertain\""));
  OK(tenure_gate_close(gate, err));
  OK(tenure_gate_close(gate, err));
  tenure_gate_free(gate);
  /* The cell outlives its gate, closed. */
  CHECK(tenure_gate_enter(cell, &p) == TENURE_GATE_CLOSED);
}

static void office(tenure_node node) {
  tenure_gate gate;
  const tenure_gate_cell *cell;
  tenure_gate_permit p;
  uint64_t epoch = 0;
  OK(tenure_gate_open(node, text("held"), none, &gate, err));
  OK(tenure_gate_cell_of(gate, &cell, err));
  CHECK_STATUS(TENURE_MISUSE, tenure_gate_resign(gate, 10, err));
  CHECK_STATUS(TENURE_MISUSE, tenure_gate_cancel_drain(gate, err));
  OK(tenure_gate_hold(gate, text("office"), 10000, err));
  CHECK_STATUS(TENURE_MISUSE, tenure_gate_hold(gate, text("office"), 10000, err));
  EVENTUALLY(tenure_gate_check(cell, &epoch) == TENURE_GATE_GRANTED);
  char name[80];
  uint64_t token;
  OK(tenure_session_holder(session_of(node), text("office"), name, sizeof name, NULL, &token, NULL, err));
  CHECK(token == epoch && strcmp(name, "gates") == 0);

  /* A drain waits for what is in flight, and can be given up. */
  CHECK(tenure_gate_enter(cell, &p) == TENURE_GATE_GRANTED);
  CHECK_STATUS(TENURE_TIMEOUT, tenure_gate_drain(gate, 20, err));
  tenure_gate_permit late;
  CHECK(tenure_gate_enter(cell, &late) == TENURE_GATE_DRAINING);
  OK(tenure_gate_cancel_drain(gate, err));
  EVENTUALLY(tenure_gate_check(cell, NULL) == TENURE_GATE_GRANTED);
  CHECK(tenure_gate_finish(&p) == TENURE_GATE_HELD);
  CHECK_STATUS(TENURE_UNAVAILABLE, tenure_gate_resign_to(gate, text("nobody"), 10000, err));
  CHECK(tenure_gate_check(cell, NULL) == TENURE_GATE_GRANTED);
  OK(tenure_gate_resign(gate, 10000, err));
  CHECK(tenure_gate_enter(cell, &p) == TENURE_GATE_DRAINING);
  OK(tenure_session_holder(session_of(node), text("office"), name, sizeof name, NULL, &token, NULL, err));
  CHECK(token == 0);
  tenure_gate_free(gate);
}

/* A node that is closed while a gate of its waits for an office that another has. */
static void closed_while_campaigning(void) {
  tenure_node node = open_node("node_id", "candidate", NULL);
  tenure_session other;
  tenure_gate gate;
  uint64_t token;
  char json[4096] = "";
  OK(tenure_session_open(node, text("incumbent"), 10000, &other, err));
  OK(tenure_session_try_acquire(other, text("taken"), NULL, &token, err));
  OK(tenure_gate_open(node, text("waiting"), none, &gate, err));
  OK(tenure_gate_hold(gate, text("taken"), 10000, err));
  EVENTUALLY(tenure_node_locks(node, text("taken"), 10, json, sizeof json, NULL, NULL) == TENURE_OK && strstr(json, "\"waiters\":1"));
  alarm(30);
  OK(tenure_node_close(node, TENURE_FOREVER, err));
  alarm(0);
  tenure_gate_free(gate);
  tenure_session_free(other);
  tenure_node_free(node);
}

int main(int argc, char **argv) {
  if (argc > 1) data_base = argv[1];
  tenure_node node = open_node("node_id", "gates", NULL);
  heartbeats(node);
  office(node);
  closed_while_campaigning();
  OK(tenure_node_close(node, TENURE_FOREVER, err));
  tenure_node_free(node);
  return 0;
}
