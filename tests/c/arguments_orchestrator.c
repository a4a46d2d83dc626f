/* As arguments.c, for the orchestrator's functions: each bad argument has its typed error, and no output is written. */
#include "common.h"

static struct {
  tenure_orchestrator orchestrator;
  tenure_task_info info;
  uint64_t number;
  size_t needed;
  int32_t stop;
  char buf[128];
} o, canary;

static uint64_t live_task;

#define REFUSED(want, call)                              \
  do {                                                   \
    CHECK_STATUS(want, call);                            \
    CHECK(memcmp(&o, &canary, sizeof o) == 0);           \
  } while (0)

#define PUT(x, s) tenure_orchestrator_put(x, s, TENURE_ANY_REVISION, &o.number, err)
#define PUT_THEMIS(x, s) tenure_orchestrator_put_themis(x, s, TENURE_ANY_REVISION, &o.number, err)
#define PATCH_THEMIS(x, id, s) tenure_orchestrator_patch_themis(x, id, s, &o.number, err)
#define REPLACE_THEMIS(x, id, s) tenure_orchestrator_replace_themis(x, id, s, &o.number, err)
#define REMOVE(x, id) tenure_orchestrator_remove(x, id, TENURE_ANY_REVISION, err)
#define RUN_NOW(x, id, how) tenure_orchestrator_run_now(x, id, how, &o.number, err)
#define BACKFILL(x, id, target) tenure_orchestrator_backfill(x, id, target, 0, 1, &o.number, err)
#define ASK(x, what, name) tenure_orchestrator_ask(x, what, name, 1, o.buf, sizeof o.buf, &o.needed, err)
#define REGISTER(x, kind) tenure_orchestrator_register(x, kind, work, NULL, never, 0, err)

static void never(void *user) {
  (void)user;
  CHECK(!"a handler that was refused was freed");
}

static int32_t gate(void *user, tenure_bytes schedule, tenure_bytes target, tenure_error *e) {
  (void)user, (void)schedule, (void)target, (void)e;
  return TENURE_OK;
}

static int32_t topology(void *user, tenure_bytes schedule, tenure_shard_fn add, void *shards, tenure_error *e) {
  (void)user, (void)schedule, (void)add, (void)shards, (void)e;
  return TENURE_OK;
}

static int32_t work(void *user, tenure_task task, tenure_error *e) {
  (void)e;
  char long_text[5000];
  int32_t why = 0;
  memset(long_text, 'x', sizeof long_text);
  const tenure_bytes huge = {long_text, SIZE_MAX}, null_with_length = {NULL, 5};
  memcpy(user, &task.id, sizeof task.id);
  o.info.struct_size = canary.info.struct_size = 8;
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_task_get_info(task, &o.info, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_task_get_info(task, NULL, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_task_stop(task, 0, NULL, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_task_stop(task, 0, (int32_t *)((char *)&why + 1), err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_task_check(task, (uint64_t *)((char *)&o.number + 1), err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_task_progress(task, 1001, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_task_checkpoint(task, NULL, 4, &o.needed, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_task_save_checkpoint(task, huge, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_task_save_checkpoint(task, null_with_length, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_task_pace(task, 0, (int32_t *)((char *)&why + 1), err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_task_finish(task, TENURE_OK, huge, err));
  return TENURE_OK;
}

int main(void) {
  static char long_text[5000];
  const tenure_bytes empty = {NULL, 0}, null_with_length = {NULL, 5}, huge = {long_text, SIZE_MAX}, not_utf8 = {"\xff\xfe", 2};
  const tenure_bytes bad[] = {null_with_length, huge, not_utf8};
  const tenure_bytes schedule = text("{\"id\": \"s\", \"scope\": \"singleton\", \"tasks\": [{\"kind\": \"work\"}]}");
  tenure_node node = open_node(NULL);
  tenure_orchestrator x;
  memset(long_text, 'x', sizeof long_text);
  OK(tenure_orchestrator_open(node, empty, &x, err));
  OK(tenure_orchestrator_register(x, text("work"), work, &live_task, NULL, 0, err));
  OK(tenure_orchestrator_put(x, schedule, 0, NULL, err));
  memset(&canary, 0x5a, sizeof canary);
  memset(&o, 0x5a, sizeof o);

  const uint64_t ids[] = {0, UINT64_MAX, x.id ^ 1, x.id ^ (UINT64_C(1) << 24), x.id ^ (UINT64_C(1) << 32), node.id};
  for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
    const tenure_orchestrator g = {ids[i]};
    const tenure_task t = {ids[i]};
    const tenure_node n = {ids[i] == node.id ? x.id : ids[i]};
    REFUSED(TENURE_BAD_HANDLE, tenure_orchestrator_open(n, empty, &o.orchestrator, err));
    REFUSED(TENURE_BAD_HANDLE, tenure_orchestrator_close(g, 0, err));
    REFUSED(TENURE_BAD_HANDLE, REGISTER(g, text("k")));
    REFUSED(TENURE_BAD_HANDLE, PUT(g, schedule));
    REFUSED(TENURE_BAD_HANDLE, PUT_THEMIS(g, schedule));
    REFUSED(TENURE_BAD_HANDLE, PATCH_THEMIS(g, text("s"), text("{}")));
    REFUSED(TENURE_BAD_HANDLE, REPLACE_THEMIS(g, text("s"), text("{}")));
    REFUSED(TENURE_BAD_HANDLE, tenure_orchestrator_set_lock(g, NULL, err));
    REFUSED(TENURE_BAD_HANDLE, tenure_orchestrator_add_gate(g, gate, NULL, never, err));
    REFUSED(TENURE_BAD_HANDLE, tenure_orchestrator_set_topology(g, topology, NULL, never, err));
    REFUSED(TENURE_BAD_HANDLE, REMOVE(g, text("s")));
    REFUSED(TENURE_BAD_HANDLE, tenure_orchestrator_enable(g, text("s"), true, err));
    REFUSED(TENURE_BAD_HANDLE, tenure_orchestrator_pause(g, text("s"), empty, 0, err));
    REFUSED(TENURE_BAD_HANDLE, tenure_orchestrator_unpause(g, text("s"), err));
    REFUSED(TENURE_BAD_HANDLE, tenure_orchestrator_set_budget(g, text("b"), 1, err));
    REFUSED(TENURE_BAD_HANDLE, RUN_NOW(g, text("s"), empty));
    REFUSED(TENURE_BAD_HANDLE, BACKFILL(g, text("s"), empty));
    REFUSED(TENURE_BAD_HANDLE, tenure_orchestrator_cancel(g, 1, empty, err));
    REFUSED(TENURE_BAD_HANDLE, ASK(g, text("status"), empty));
    tenure_orchestrator_free(g);
    REFUSED(TENURE_BAD_HANDLE, tenure_task_get_info(t, &o.info, err));
    REFUSED(TENURE_BAD_HANDLE, tenure_task_stop(t, 1000, &o.stop, err));
    REFUSED(TENURE_BAD_HANDLE, tenure_task_check(t, &o.number, err));
    REFUSED(TENURE_BAD_HANDLE, tenure_task_progress(t, 1, err));
    REFUSED(TENURE_BAD_HANDLE, tenure_task_checkpoint(t, o.buf, sizeof o.buf, &o.needed, err));
    REFUSED(TENURE_BAD_HANDLE, tenure_task_save_checkpoint(t, empty, err));
    REFUSED(TENURE_BAD_HANDLE, tenure_task_pace(t, 1, &o.stop, err));
    REFUSED(TENURE_BAD_HANDLE, tenure_task_finish(t, TENURE_OK, empty, err));
    tenure_task_free(t);
  }
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    REFUSED(TENURE_INVALID_ARGUMENT, tenure_orchestrator_open(node, bad[i], &o.orchestrator, err));
    REFUSED(TENURE_INVALID_ARGUMENT, REGISTER(x, bad[i]));
    REFUSED(TENURE_INVALID_ARGUMENT, PUT(x, bad[i]));
    REFUSED(TENURE_INVALID_ARGUMENT, PUT_THEMIS(x, bad[i]));
    REFUSED(TENURE_INVALID_ARGUMENT, PATCH_THEMIS(x, bad[i], text("{}")));
    REFUSED(TENURE_INVALID_ARGUMENT, PATCH_THEMIS(x, text("s"), bad[i]));
    REFUSED(TENURE_INVALID_ARGUMENT, REPLACE_THEMIS(x, bad[i], text("{}")));
    REFUSED(TENURE_INVALID_ARGUMENT, REPLACE_THEMIS(x, text("s"), bad[i]));
    REFUSED(TENURE_INVALID_ARGUMENT, REMOVE(x, bad[i]));
    REFUSED(TENURE_INVALID_ARGUMENT, tenure_orchestrator_enable(x, bad[i], true, err));
    REFUSED(TENURE_INVALID_ARGUMENT, tenure_orchestrator_pause(x, bad[i], empty, 0, err));
    REFUSED(TENURE_INVALID_ARGUMENT, tenure_orchestrator_pause(x, text("s"), bad[i], 0, err));
    REFUSED(TENURE_INVALID_ARGUMENT, tenure_orchestrator_unpause(x, bad[i], err));
    REFUSED(TENURE_INVALID_ARGUMENT, tenure_orchestrator_set_budget(x, bad[i], 1, err));
    REFUSED(TENURE_INVALID_ARGUMENT, RUN_NOW(x, bad[i], empty));
    REFUSED(TENURE_INVALID_ARGUMENT, RUN_NOW(x, text("s"), bad[i]));
    REFUSED(TENURE_INVALID_ARGUMENT, BACKFILL(x, bad[i], empty));
    REFUSED(TENURE_INVALID_ARGUMENT, BACKFILL(x, text("s"), bad[i]));
    REFUSED(TENURE_INVALID_ARGUMENT, tenure_orchestrator_cancel(x, 1, bad[i], err));
    REFUSED(TENURE_INVALID_ARGUMENT, ASK(x, bad[i], empty));
    REFUSED(TENURE_INVALID_ARGUMENT, ASK(x, text("history"), bad[i]));
  }
  const char *const options[] = {"{", "[]", "{\"colour\": 1}", "{\"drive\": 1}", "{\"ramp_up_ms\": 99999999999}", "{\"labels\": {\"a\": 1}}",
                                 "{\"lock_only\": 1}", "{\"wall_offset_ms\": 99999999999}"};
  for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
    REFUSED(TENURE_INVALID_ARGUMENT, tenure_orchestrator_open(node, text(options[i]), &o.orchestrator, err));
  }
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_orchestrator_open(node, empty, NULL, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_orchestrator_register(x, text("k"), NULL, NULL, never, 0, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_orchestrator_register(x, text("k"), work, NULL, never, 2, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_orchestrator_add_gate(x, NULL, NULL, never, err));
  OK(tenure_orchestrator_set_topology(x, NULL, NULL, never, err));
  REFUSED(TENURE_INVALID_ARGUMENT, REGISTER(x, empty));
  REFUSED(TENURE_INVALID_ARGUMENT, REGISTER(x, text("a b")));
  REFUSED(TENURE_INVALID_ARGUMENT, PUT(x, empty));
  REFUSED(TENURE_INVALID_ARGUMENT, PUT(x, text("{\"id\": \"s\", \"tasks\": [{\"kind\": \"work\"}]}")));
  REFUSED(TENURE_INVALID_ARGUMENT, PUT_THEMIS(x, text("{\"id\": \"t\", \"name\": \"\", \"tasks\": [\"work\"]}")));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_orchestrator_put(x, schedule, 0, (uint64_t *)((char *)&o.number + 1), err));
  REFUSED(TENURE_INVALID_ARGUMENT, REPLACE_THEMIS(x, text("nobody"), text("{\"name\": \"n\", \"tasks\": [\"work\"]}")));
  tenure_lock_service service = TENURE_LOCK_SERVICE_INIT;
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_orchestrator_set_lock(x, &service, err));
  service.struct_size = 8;
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_orchestrator_set_lock(x, &service, err));
  OK(tenure_orchestrator_set_lock(x, NULL, err));
  REFUSED(TENURE_INVALID_ARGUMENT, REMOVE(x, text("nobody")));
  REFUSED(TENURE_INVALID_ARGUMENT, RUN_NOW(x, text("s"), text("{\"colour\": 1}")));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_orchestrator_run_now(x, text("s"), empty, NULL, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_orchestrator_cancel(x, 99, empty, err));
  REFUSED(TENURE_INVALID_ARGUMENT, ASK(x, text("colour"), empty));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_orchestrator_ask(x, text("status"), empty, 0, NULL, 5, &o.needed, err));

  /* The functions of a task, in its handler; its handle ends with it. */
  uint64_t run = 0;
  char json[4096];
  size_t needed;
  OK(tenure_orchestrator_run_now(x, text("s"), empty, &run, err));
  EVENTUALLY((tenure_orchestrator_ask(x, text("run"), empty, run, json, sizeof json, &needed, NULL), strstr(json, "\"succeeded\"")));
  const tenure_task ended = {live_task};
  CHECK_STATUS(TENURE_BAD_HANDLE, tenure_task_check(ended, NULL, err));
  OK(tenure_orchestrator_close(x, 60000, err));
  OK(tenure_orchestrator_close(x, 60000, err));
  tenure_orchestrator_free(x);
  CHECK_STATUS(TENURE_BAD_HANDLE, tenure_orchestrator_close(x, 0, err));
  OK(tenure_node_close(node, TENURE_FOREVER, err));
  tenure_node_free(node);
  return 0;
}
