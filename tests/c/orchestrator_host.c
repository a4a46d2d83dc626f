/* What the orchestrator asks its host, from C: gates that hold runs back, shards with their owners, and answers that are none. */
#include "common.h"

#include <pthread.h>

static tenure_orchestrator orchestrator;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int full, asked, ran[3], topology, freed;

static int value(int *what) {
  pthread_mutex_lock(&mutex);
  const int v = *what;
  pthread_mutex_unlock(&mutex);
  return v;
}

static void set(int *what, int v) {
  pthread_mutex_lock(&mutex);
  *what = v;
  pthread_mutex_unlock(&mutex);
}

static void add(int *what) { set(what, value(what) + 1); }

static void gone(void *user) { (void)user, add(&freed); }

static int is(tenure_bytes b, const char *s) { return b.len == strlen(s) && memcmp(b.ptr, s, b.len) == 0; }

static int32_t work(void *user, tenure_task task, tenure_error *e) {
  (void)user, (void)e;
  tenure_task_info info = TENURE_TASK_INFO_INIT;
  OK(tenure_task_get_info(task, &info, err));
  add(&ran[is(info.target, "a") ? 1 : is(info.target, "b") ? 2 : 0]);
  CHECK(!is(info.target, "c"));
  return TENURE_OK;
}

static int32_t disk(void *user, tenure_bytes schedule, tenure_bytes target, tenure_error *e) {
  CHECK(is(schedule, "s") || is(schedule, "shards"));
  CHECK(is(schedule, "shards") ? target.len == 1 : target.len == 0);
  CHECK(e->message[0] == 0);
  if (!is(schedule, "s") || !value(user)) return TENURE_OK;
  add(&asked);
  strcpy(e->message, "disk 12 % free");
  return TENURE_UNAVAILABLE;
}

enum { OWNERS, FAILS, TWICE, NO_UTF8, NOT_ALIGNED, TOO_MANY };

static int32_t shards(void *user, tenure_bytes schedule, tenure_shard_fn give, void *place, tenure_error *e) {
  const tenure_bytes here[] = {text("elsewhere"), text("n1")}, other[] = {text("elsewhere")}, not_utf8[] = {{"\xff", 1}};
  CHECK(is(schedule, "shards"));
  switch (value(user)) {
    case OWNERS:
      CHECK(give(NULL, text("a"), here, 2) == TENURE_INVALID_ARGUMENT);
      CHECK(give(place, text("a"), here, 2) == TENURE_OK && give(place, text("b"), here, 2) == TENURE_OK);
      CHECK(give(place, text("c"), other, 1) == TENURE_OK && give(place, text("d"), NULL, 0) == TENURE_OK);
      return TENURE_OK;
    case FAILS:
      strcpy(e->message, "the catalogue is gone");
      return -1;
    case TWICE:
      CHECK(give(place, text("a"), here, 2) == TENURE_OK && give(place, text("a"), here, 2) == TENURE_OK);
      return TENURE_OK;
    case NO_UTF8:
      CHECK(give(place, text("a"), not_utf8, 1) == TENURE_INVALID_ARGUMENT);
      return TENURE_OK;
    case NOT_ALIGNED:
      CHECK(give(place, text("a"), NULL, 1) == TENURE_INVALID_ARGUMENT);
      CHECK(give(place, text("a"), (const tenure_bytes *)((const char *)here + 1), 1) == TENURE_INVALID_ARGUMENT);
      return TENURE_OK;
    default:
      CHECK(give(place, text("a"), here, SIZE_MAX) == TENURE_INVALID_ARGUMENT);
      return TENURE_OK;
  }
}

static int says(const char *what, const char *name, uint64_t number, const char *words) {
  static char json[65536];
  size_t needed;
  OK(tenure_orchestrator_ask(orchestrator, text(what), text(name), number, json, sizeof json, &needed, err));
  return strstr(json, words) != NULL;
}

static void put(const char *schedule) { OK(tenure_orchestrator_put(orchestrator, text(schedule), 0, NULL, err)); }

int main(void) {
  uint64_t run = 0;
  tenure_node node = open_node("node_id", "n1", NULL);
  OK(tenure_orchestrator_open(node, text("{\"ramp_up_ms\": 0}"), &orchestrator, err));
  OK(tenure_orchestrator_register(orchestrator, text("work"), work, NULL, NULL, 0, err));
  set(&full, 1);
  OK(tenure_orchestrator_add_gate(orchestrator, disk, &full, NULL, err));

  /* Held back while the gate says no, with its reason; then it runs, once. */
  put("{\"id\": \"s\", \"scope\": \"singleton\", \"tasks\": [{\"kind\": \"work\"}]}");
  OK(tenure_orchestrator_run_now(orchestrator, text("s"), text(""), &run, err));
  EVENTUALLY(says("run", "", run, "disk 12 % free"));
  CHECK(says("run", "", run, "\"state\":\"due\"") && value(&ran[0]) == 0 && value(&asked) >= 1);
  set(&full, 0);

  /* Each shard once, on its owner, and not those that are elsewhere or nowhere. */
  put("{\"id\": \"shards\", \"scope\": {\"each_shard\": {\"max_parallel\": 1}}, \"every_ms\": 1000, \"tasks\": [{\"kind\": \"work\"}]}");
  EVENTUALLY(says("status", "", 0, "this node has no topology") && says("health", "", 0, "degraded"));
  OK(tenure_orchestrator_set_topology(orchestrator, shards, &topology, gone, err));
  EVENTUALLY(value(&ran[1]) >= 2 && value(&ran[2]) >= 2);
  EVENTUALLY(says("run", "", run, "\"state\":\"succeeded\""));
  CHECK(value(&ran[0]) == 1 && says("health", "", 0, "\"status\":\"healthy\"") && says("status", "", 0, "{\"count\":4,\"failure\":null}"));

  /* What fails leaves the shards as they were, and is told. */
  const struct {
    int how;
    const char *words;
  } wrong[] = {{FAILS, "the catalogue is gone"}, {TWICE, "twice"}, {NO_UTF8, "node"}, {NOT_ALIGNED, "aligned"}, {TOO_MANY, "above 1024"}};
  for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
    set(&topology, wrong[i].how);
    EVENTUALLY(says("status", "", 0, wrong[i].words));
    const int before = value(&ran[1]);
    EVENTUALLY(value(&ran[1]) > before + 1);
    CHECK(says("health", "", 0, "degraded") && says("status", "", 0, "\"count\":4"));
  }

  /* Nobody knows any more: nothing runs that was not begun. What was given is freed. */
  CHECK(value(&freed) == 0);
  OK(tenure_orchestrator_set_topology(orchestrator, NULL, NULL, NULL, err));
  EVENTUALLY(value(&freed) == 1);
  OK(tenure_orchestrator_add_gate(orchestrator, disk, &full, NULL, err));
  OK(tenure_orchestrator_close(orchestrator, 60000, err));
  CHECK_STATUS(TENURE_CLOSED, tenure_orchestrator_add_gate(orchestrator, disk, &full, gone, err));
  CHECK_STATUS(TENURE_CLOSED, tenure_orchestrator_set_topology(orchestrator, shards, &topology, gone, err));
  tenure_orchestrator_free(orchestrator);
  OK(tenure_node_close(node, TENURE_FOREVER, err));
  tenure_node_free(node);
  return 0;
}
