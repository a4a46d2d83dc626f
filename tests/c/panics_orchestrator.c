/* As panics.c, for the orchestrator's functions: the node is poisoned, and the process lives; a panic in a task's function, or around a handler,
 * fails that task only. Needs a library with the feature `inject`. */
#include <stdatomic.h>

#include "common.h"

#define POISONS(call)                                                                                  \
  do {                                                                                                 \
    node = open_node(NULL);                                                                            \
    OK(tenure_orchestrator_open(node, empty, &x, err));                                                \
    tenure_test_inject(1, 0);                                                                          \
    CHECK_STATUS(TENURE_PANIC, call);                                                                  \
    tenure_test_inject(0, 0);                                                                          \
    CHECK_STATUS(TENURE_POISONED, tenure_orchestrator_set_budget(x, text("b"), 1, err));               \
    tenure_orchestrator_free(x);                                                                       \
    OK(tenure_node_close(node, TENURE_FOREVER, err));                                                  \
    tenure_node_free(node);                                                                            \
  } while (0)

#define FAILS(call)                          \
  do {                                       \
    tenure_test_inject(1, 0);                \
    CHECK_STATUS(TENURE_PANIC, call);        \
    tenure_test_inject(0, 0);                \
  } while (0)

static volatile int panicking;
static atomic_int working;

/* What it injects is the process's: a run ends for others before its function returns, so who injects next waits for that. */
static int32_t work(void *user, tenure_task task, tenure_error *e) {
  (void)user, (void)e;
  tenure_task_info info = TENURE_TASK_INFO_INIT;
  int32_t why;
  size_t needed;
  char buf[64];
  atomic_fetch_add(&working, 1);
  FAILS(tenure_task_get_info(task, &info, err));
  FAILS(tenure_task_stop(task, 0, &why, err));
  FAILS(tenure_task_check(task, NULL, err));
  FAILS(tenure_task_progress(task, 1, err));
  FAILS(tenure_task_checkpoint(task, buf, sizeof buf, &needed, err));
  FAILS(tenure_task_save_checkpoint(task, text("x"), err));
  FAILS(tenure_task_pace(task, 1, &why, err));
  FAILS(tenure_task_finish(task, TENURE_OK, text(""), err));
  tenure_test_inject(1, 0);
  tenure_task_free(task);
  tenure_test_inject(0, 0);
  /* The handle lives. Its run has failed by the first of these panics, and its gate closes as that is recorded. */
  const int32_t left = tenure_task_check(task, NULL, NULL);
  CHECK(left == TENURE_OK || left == TENURE_EXPIRED);
  atomic_fetch_sub(&working, 1);
  return TENURE_OK;
}

static int32_t gate(void *user, tenure_bytes id, tenure_bytes target, tenure_error *e) {
  (void)user, (void)id, (void)target, (void)e;
  return TENURE_OK;
}

/* The shards are taken once the panics in them are over. */
static int32_t topology(void *user, tenure_bytes id, tenure_shard_fn add, void *shards, tenure_error *e) {
  (void)user, (void)id, (void)e;
  if (panicking) tenure_test_inject(1, 0);
  const int32_t answer = add(shards, text("a"), NULL, 0);
  tenure_test_inject(0, 0);
  CHECK(answer == (panicking ? TENURE_PANIC : TENURE_OK));
  return TENURE_OK;
}

static int says(tenure_orchestrator x, const char *what, uint64_t number, const char *words) {
  static char json[8192];
  size_t needed;
  OK(tenure_orchestrator_ask(x, text(what), text(""), number, json, sizeof json, &needed, err));
  return strstr(json, words) != NULL;
}

/* A panic around a gate closes it for that time; one in or around a topology leaves what was known. */
static void asks(tenure_orchestrator x) {
  uint64_t run = 0;
  OK(tenure_orchestrator_add_gate(x, gate, NULL, NULL, err));
  tenure_test_inject(0, 1);
  OK(tenure_orchestrator_run_now(x, text("s"), text(""), &run, err));
  EVENTUALLY(says(x, "run", run, "a gate panicked"));
  OK(tenure_orchestrator_cancel(x, run, text(""), err));
  panicking = 1;
  OK(tenure_orchestrator_set_topology(x, topology, NULL, NULL, err));
  /* Of a kind that nobody has: its runs would call the gate and the function, which are callbacks too. */
  OK(tenure_orchestrator_put(x, text("{\"id\": \"e\", \"scope\": {\"each_shard\": {}}, \"every_ms\": 1000, \"tasks\": [{\"kind\": \"nobody's\"}]}"), 0, NULL, err));
  EVENTUALLY(says(x, "status", 0, "a panic while a shard was taken"));
  panicking = 0;
  EVENTUALLY(says(x, "status", 0, "{\"count\":1,\"failure\":null}"));
  tenure_test_inject(0, 1);
  EVENTUALLY(says(x, "status", 0, "the topology panicked"));
  OK(tenure_orchestrator_remove(x, text("e"), TENURE_ANY_REVISION, err));
}

static void fails(tenure_orchestrator x, uint32_t callbacks) {
  uint64_t run = 0;
  char json[4096];
  size_t needed;
  tenure_test_inject(0, callbacks);
  OK(tenure_orchestrator_run_now(x, text("s"), text(""), &run, err));
  EVENTUALLY((tenure_orchestrator_ask(x, text("run"), text(""), run, json, sizeof json, &needed, NULL), strstr(json, "\"failed\"")));
  EVENTUALLY(atomic_load(&working) == 0);
  tenure_test_inject(0, 0);
}

int main(void) {
  const tenure_bytes empty = {NULL, 0}, s = text("s");
  const tenure_bytes schedule = text("{\"id\": \"s\", \"scope\": \"singleton\", \"tasks\": [{\"kind\": \"work\"}]}");
  tenure_node node;
  tenure_orchestrator x, other;
  uint64_t number;
  size_t needed;
  char buf[256];
  POISONS(tenure_orchestrator_open(node, empty, &other, err));
  POISONS(tenure_orchestrator_close(x, 0, err));
  POISONS(tenure_orchestrator_register(x, text("k"), work, NULL, NULL, 0, err));
  POISONS(tenure_orchestrator_put(x, schedule, 0, &number, err));
  POISONS(tenure_orchestrator_put_themis(x, schedule, 0, &number, err));
  POISONS(tenure_orchestrator_patch_themis(x, s, text("{}"), &number, err));
  POISONS(tenure_orchestrator_replace_themis(x, s, text("{}"), &number, err));
  POISONS(tenure_orchestrator_set_lock(x, NULL, err));
  POISONS(tenure_orchestrator_add_gate(x, gate, NULL, NULL, err));
  POISONS(tenure_orchestrator_set_topology(x, topology, NULL, NULL, err));
  POISONS(tenure_orchestrator_remove(x, s, 0, err));
  POISONS(tenure_orchestrator_enable(x, s, true, err));
  POISONS(tenure_orchestrator_pause(x, s, empty, 0, err));
  POISONS(tenure_orchestrator_unpause(x, s, err));
  POISONS(tenure_orchestrator_set_budget(x, s, 1, err));
  POISONS(tenure_orchestrator_run_now(x, s, empty, &number, err));
  POISONS(tenure_orchestrator_backfill(x, s, empty, 0, 1, &number, err));
  POISONS(tenure_orchestrator_cancel(x, 1, empty, err));
  POISONS(tenure_orchestrator_ask(x, text("status"), empty, 0, buf, sizeof buf, &needed, err));

  node = open_node(NULL);
  OK(tenure_orchestrator_open(node, text("{\"ramp_up_ms\": 0}"), &x, err));
  OK(tenure_orchestrator_register(x, text("work"), work, NULL, NULL, 0, err));
  OK(tenure_orchestrator_put(x, schedule, 0, NULL, err));
  fails(x, 1);
  /* Its handle was freed by nobody although the panic passed through: the next run is as good as the first, and fails by its own calls. */
  fails(x, 0);
  asks(x);
  tenure_test_inject(1, 0);
  tenure_orchestrator_free(x);
  tenure_test_inject(0, 0);
  OK(tenure_orchestrator_close(x, 60000, err));
  tenure_orchestrator_free(x);
  OK(tenure_node_close(node, TENURE_FOREVER, err));
  tenure_node_free(node);
  return 0;
}
