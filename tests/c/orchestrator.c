/* The orchestrator from C: schedules, a task that is done, one that fails and saves a checkpoint, one that is cancelled, one that ends later. */
#include "common.h"

#include <pthread.h>

static tenure_orchestrator orchestrator;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static tenure_task kept;
static int done, freed, begun, stopped;

static int value(int *what) {
  pthread_mutex_lock(&mutex);
  const int v = *what;
  pthread_mutex_unlock(&mutex);
  return v;
}

static void add(int *what, int n) {
  pthread_mutex_lock(&mutex);
  *what += n;
  pthread_mutex_unlock(&mutex);
}

static int is(tenure_bytes b, const char *s) { return b.len == strlen(s) && memcmp(b.ptr, s, b.len) == 0; }

static int32_t work(void *user, tenure_task task, tenure_error *e) {
  tenure_task_info info = TENURE_TASK_INFO_INIT;
  uint64_t left = 0;
  int32_t why = -1;
  char saved[16];
  size_t needed = 0;
  OK(tenure_task_get_info(task, &info, err));
  CHECK(is(info.schedule, "s") && is(info.target, "") && is(info.kind, "work") && is(info.name, "work") && is(info.params, "{\"n\":1}"));
  CHECK(info.run != 0 && info.token != 0 && info.attempt == 1 && memcmp(info.idempotency_key.ptr, "s//", 3) == 0);
  OK(tenure_task_check(task, &left, err));
  OK(tenure_task_stop(task, 0, &why, err));
  CHECK(left > 0 && left <= 15000 && why == TENURE_STOP_NO && e->message[0] == 0);
  OK(tenure_task_progress(task, 500, err));
  OK(tenure_task_pace(task, 100, &why, err));
  CHECK(why == TENURE_STOP_NO);
  OK(tenure_task_checkpoint(task, saved, sizeof saved, &needed, err));
  if (info.try_number == 1) {
    CHECK(needed == 1);
    OK(tenure_task_save_checkpoint(task, text("half"), err));
    OK(tenure_task_checkpoint(task, saved, sizeof saved, &needed, err));
    CHECK(strcmp(saved, "half") == 0);
    strcpy(e->message, "not yet");
    return TENURE_UNAVAILABLE;
  }
  CHECK(needed == 5 && strcmp(saved, "half") == 0);
  add(user, 1);
  return TENURE_OK;
}

static int32_t fail(void *user, tenure_task task, tenure_error *e) {
  (void)user, (void)task;
  strcpy(e->message, "disk full");
  return -1;
}

static int32_t longer(void *user, tenure_task task, tenure_error *e) {
  (void)e;
  int32_t why = TENURE_STOP_NO;
  add(&begun, 1);
  OK(tenure_task_stop(task, 60000, &why, err));
  CHECK(why == TENURE_STOP_CANCELLED);
  add(user, 1);
  return TENURE_CANCELLED;
}

static int32_t later(void *user, tenure_task task, tenure_error *e) {
  (void)user, (void)e;
  pthread_mutex_lock(&mutex);
  kept = task;
  pthread_mutex_unlock(&mutex);
  return TENURE_OK;
}

static void gone(void *user) { add(user, 1); }

static int run_is(uint64_t run, const char *words) {
  char json[4096];
  size_t needed;
  OK(tenure_orchestrator_ask(orchestrator, text("run"), text(""), run, json, sizeof json, &needed, err));
  return strstr(json, words) != NULL;
}

int main(int argc, char **argv) {
  tenure_error e;
  char json[8192];
  size_t needed;
  uint64_t revision = 0, other = 0, run = 0, again = 0, count = 0;
  data_base = argc > 1 ? argv[1] : NULL;
  tenure_node node = open_node(NULL);
  OK(tenure_orchestrator_open(node, text("{\"ramp_up_ms\": 0, \"labels\": {\"disk\": \"ssd\"}}"), &orchestrator, err));
  OK(tenure_orchestrator_register(orchestrator, text("work"), work, &done, gone, 0, err));
  OK(tenure_orchestrator_register(orchestrator, text("fail"), fail, NULL, NULL, 0, err));
  OK(tenure_orchestrator_register(orchestrator, text("longer"), longer, &stopped, NULL, 0, err));
  OK(tenure_orchestrator_register(orchestrator, text("later"), later, NULL, NULL, TENURE_TASK_DEFERRED, err));

  /* A schedule is written against its revision; a task that fails is tried again, and finds what it has saved. */
  const char *s = "{\"id\": \"s\", \"scope\": \"singleton\", \"params\": \"{\\\"n\\\":1}\", \"requires\": {\"disk\": \"ssd\"},"
                  "\"tasks\": [{\"kind\": \"work\", \"retry\": {\"max\": 3, \"base_ms\": 1}}]}";
  OK(tenure_orchestrator_put(orchestrator, text(s), 0, &revision, err));
  CHECK(tenure_orchestrator_put(orchestrator, text(s), 0, &other, &e) == TENURE_FENCED);
  CHECK(e.token == revision && other == 0);
  OK(tenure_orchestrator_run_now(orchestrator, text("s"), text("{\"key\": \"k\"}"), &run, err));
  OK(tenure_orchestrator_run_now(orchestrator, text("s"), text("{\"key\": \"k\"}"), &again, err));
  CHECK(run == again);
  EVENTUALLY(run_is(run, "\"state\":\"succeeded\""));
  CHECK(value(&done) == 1);

  OK(tenure_orchestrator_put(orchestrator, text("{\"id\": \"f\", \"scope\": \"singleton\", \"tasks\": [{\"kind\": \"fail\"}]}"), TENURE_ANY_REVISION, NULL, err));
  OK(tenure_orchestrator_run_now(orchestrator, text("f"), text(""), &run, err));
  EVENTUALLY(run_is(run, "\"state\":\"failed\""));
  CHECK(run_is(run, "fail: disk full"));

  OK(tenure_orchestrator_put(orchestrator, text("{\"id\": \"l\", \"scope\": \"singleton\", \"tasks\": [{\"kind\": \"longer\"}]}"), 0, NULL, err));
  OK(tenure_orchestrator_run_now(orchestrator, text("l"), text(""), &run, err));
  /* A run that is cancelled before its handler begins has none to stop. */
  EVENTUALLY(value(&begun) == 1);
  OK(tenure_orchestrator_cancel(orchestrator, run, text("by hand"), err));
  EVENTUALLY(run_is(run, "\"state\":\"cancelled\""));
  CHECK(value(&stopped) == 1);

  OK(tenure_orchestrator_put(orchestrator, text("{\"id\": \"d\", \"scope\": \"singleton\", \"tasks\": [{\"kind\": \"later\"}]}"), 0, NULL, err));
  for (int freed_unfinished = 0; freed_unfinished < 2; freed_unfinished++) {
    OK(tenure_orchestrator_run_now(orchestrator, text("d"), text(""), &run, err));
    tenure_task task = {0};
    EVENTUALLY((pthread_mutex_lock(&mutex), task = kept, pthread_mutex_unlock(&mutex), task.id != 0));
    kept.id = 0;
    CHECK(run_is(run, "\"state\":\"running\""));
    if (!freed_unfinished) OK(tenure_task_finish(task, TENURE_OK, text(""), err));
    tenure_task_free(task);
    EVENTUALLY(run_is(run, freed_unfinished ? "\"state\":\"failed\"" : "\"state\":\"succeeded\""));
    CHECK_STATUS(TENURE_BAD_HANDLE, tenure_task_check(task, NULL, err));
  }

  /* What is asked. */
  OK(tenure_orchestrator_put(orchestrator, text("{\"id\": \"c\", \"scope\": \"singleton\", \"cron\": \"0 3 * * *\", \"tasks\": [{\"kind\": \"nobody\"}]}"), 0, NULL, err));
  OK(tenure_orchestrator_ask(orchestrator, text("next"), text("c"), 3, json, sizeof json, &needed, err));
  CHECK(json[0] == '[' && strchr(json, ',') != NULL);
  OK(tenure_orchestrator_backfill(orchestrator, text("c"), text(""), INT64_C(1767225600000), INT64_C(1767484800000), &count, err));
  CHECK(count == 3);
  OK(tenure_orchestrator_pause(orchestrator, text("c"), text("repair"), TENURE_NEVER, err));
  OK(tenure_orchestrator_ask(orchestrator, text("schedule"), text("c"), 0, json, sizeof json, &needed, err));
  CHECK(strstr(json, "\"repair\"") != NULL);
  OK(tenure_orchestrator_unpause(orchestrator, text("c"), err));
  OK(tenure_orchestrator_pause(orchestrator, text(""), text("all"), TENURE_NEVER, err));
  OK(tenure_orchestrator_unpause(orchestrator, text(""), err));
  OK(tenure_orchestrator_enable(orchestrator, text("c"), false, err));
  OK(tenure_orchestrator_set_budget(orchestrator, text("io"), 4, err));
  OK(tenure_orchestrator_ask(orchestrator, text("status"), text(""), 0, json, sizeof json, &needed, err));
  CHECK(strstr(json, "\"io\":{\"limit\":4,\"used\":0}") != NULL);
  OK(tenure_orchestrator_ask(orchestrator, text("handlers"), text(""), 0, json, sizeof json, &needed, err));
  CHECK(strcmp(json, "[\"fail\",\"later\",\"longer\",\"work\"]") == 0);
  OK(tenure_orchestrator_remove(orchestrator, text("c"), TENURE_ANY_REVISION, err));
  OK(tenure_orchestrator_ask(orchestrator, text("schedule"), text("c"), 0, json, sizeof json, &needed, err));
  CHECK(strcmp(json, "null") == 0);

  /* A schedule of ThemisDB's. */
  OK(tenure_orchestrator_put_themis(orchestrator, text("{\"id\": \"t\", \"name\": \"Nightly\", \"frequency\": \"weekly\", \"tasks\": [\"work\"]}"), 0, NULL, err));
  OK(tenure_orchestrator_patch_themis(orchestrator, text("t"), text("{\"enabled\": false}"), &revision, err));
  OK(tenure_orchestrator_ask(orchestrator, text("themis"), text("t"), 0, json, sizeof json, &needed, err));
  CHECK(strstr(json, "\"cron_expression\":\"0 2 * * 0\"") != NULL && strstr(json, "\"enabled\":false") != NULL);

  /* A handler that is replaced is freed, and so are all when the orchestrator is gone. */
  OK(tenure_orchestrator_register(orchestrator, text("work"), work, &freed, gone, 0, err));
  EVENTUALLY(value(&done) == 2);
  OK(tenure_orchestrator_close(orchestrator, 60000, err));
  CHECK_STATUS(TENURE_CLOSED, tenure_orchestrator_enable(orchestrator, text("s"), true, err));
  tenure_orchestrator_free(orchestrator);
  EVENTUALLY(value(&freed) == 1);
  OK(tenure_node_close(node, TENURE_FOREVER, err));
  tenure_node_free(node);
  return 0;
}
