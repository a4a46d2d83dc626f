/* The granter's side: one node grants, the gate of another serves. */
#include "common.h"
#include "tenure_gate.h"

int main(void) {
  tenure_node controller = open_node(NULL), server = open_node(NULL);
  tenure_granter first, second;
  tenure_gate gate;
  const tenure_gate_cell *cell;
  tenure_heartbeat h;
  tenure_heartbeat_reply r = TENURE_HEARTBEAT_REPLY_INIT;
  tenure_error e;
  uint64_t epoch = 0, nonce = 0, term = 0, later = 0;
  bool in_office = false;
  char holder[65], json[1024];
  size_t needed;
  const tenure_bytes shard = text("shard");
  const tenure_config none = {0};

  OK(tenure_gate_open(server, text("master"), none, &gate, err));
  OK(tenure_gate_cell_of(gate, &cell, err));
  OK(tenure_granter_open(controller, text("controller"), 5000, 0, &first, err));
  CHECK_STATUS(TENURE_HELD, tenure_granter_open(controller, text("controller"), 5000, 0, &second, err));
  OK(tenure_granter_term(first, &term, &in_office, err));
  CHECK(term != 0 && in_office);

  OK(tenure_granter_promote(first, shard, text("a"), 5, &epoch, err));
  CHECK(epoch == 5);
  OK(tenure_gate_next_nonce(gate, &nonce, err));
  OK(tenure_granter_heartbeat(first, shard, 60000, &nonce, &h, holder, sizeof holder, &needed, err));
  CHECK(strcmp(holder, "a") == 0 && h.epoch == 5 && h.nonce == nonce && h.flags == TENURE_HEARTBEAT_NONCE);
  OK(tenure_gate_heartbeat(gate, &h, &r, err));
  CHECK(r.accepted && tenure_gate_check(cell, NULL) == TENURE_GATE_GRANTED);

  /* Another cannot be promoted while this one may act, and the error says for how long. */
  CHECK(tenure_granter_promote(first, shard, text("b"), 0, &epoch, &e) == TENURE_TOO_EARLY);
  CHECK(e.token == 5 && e.retry_after_ms > 55000 && e.retry_after_ms < 62000 && epoch == 5);
  /* Without a nonce only where the weaker mode is chosen. */
  CHECK_STATUS(TENURE_INVALID_ARGUMENT, tenure_granter_heartbeat(first, shard, 60000, NULL, &h, holder, sizeof holder, &needed, err));

  /* A granter that is replaced extends nothing, and what it promised binds the next. */
  bool had = false;
  OK(tenure_session_force_release(session_of(controller), text("controller"), 0, &had, err));
  OK(tenure_granter_open(controller, text("controller"), 5000, TENURE_FOREVER, &second, err));
  OK(tenure_granter_term(second, &later, NULL, err));
  CHECK(later > term);
  CHECK(tenure_granter_heartbeat(first, shard, 60000, &nonce, &h, holder, sizeof holder, &needed, &e) == TENURE_FENCED);
  CHECK(e.token == later);
  CHECK_STATUS(TENURE_TOO_EARLY, tenure_granter_promote(second, shard, text("b"), 0, &epoch, err));

  /* The holder steps down and says so: the next one is promoted at once. */
  OK(tenure_gate_drain(gate, 60000, err));
  OK(tenure_granter_acknowledge(second, shard, 5, err));
  OK(tenure_granter_promote(second, shard, text("b"), 0, &epoch, err));
  CHECK(epoch == 6);
  OK(tenure_node_promises(controller, text("sh"), 10, json, sizeof json, &needed, err));
  CHECK(strstr(json, "\"office\":\"shard\"") && strstr(json, "\"epoch\":6") && strstr(json, "\"holder\":\"b\""));

  OK(tenure_granter_resign(second, err));
  CHECK_STATUS(TENURE_NOT_HOLDER, tenure_granter_resign(second, err));
  tenure_granter_free(first);
  tenure_granter_free(second);
  tenure_gate_free(gate);
  OK(tenure_node_close(server, TENURE_FOREVER, err));
  OK(tenure_node_close(controller, TENURE_FOREVER, err));
  tenure_node_free(server);
  tenure_node_free(controller);
  return 0;
}
