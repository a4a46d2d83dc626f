/* A panic inside each function and each callback: the host gets TENURE_PANIC, the node is poisoned, its gate denies, the process lives.
 * Needs a library with the feature `inject`. */
#include "common.h"
#include "tenure_gate.h"

static const tenure_config none = {0};
static tenure_node node;
static tenure_session session;
static tenure_gate gate;
static const tenure_gate_cell *cell;
static int panics, panic_lines;

static void on_line(void *user, int32_t level, tenure_bytes target, tenure_bytes message) {
  (void)user, (void)message;
  if (level == TENURE_LOG_LEVEL_ERROR && target.len == 13 && memcmp(target.ptr, "tenure::panic", 13) == 0)
    __atomic_fetch_add(&panic_lines, 1, __ATOMIC_SEQ_CST);
}

static void on_done(void *user, int32_t status, uint64_t token, const tenure_error *e) {
  (void)status, (void)token, (void)e;
  __atomic_fetch_add((int *)user, 1, __ATOMIC_SEQ_CST);
}

static void on_event(void *user, const tenure_event *e) {
  (void)e;
  __atomic_fetch_add((int *)user, 1, __ATOMIC_SEQ_CST);
}

static void set_up(void) {
  uint64_t nonce;
  tenure_heartbeat h = TENURE_HEARTBEAT_INIT;
  tenure_heartbeat_reply r = TENURE_HEARTBEAT_REPLY_INIT;
  node = open_node(NULL);
  session = session_of(node);
  OK(tenure_gate_open(node, text("g"), none, &gate, err));
  OK(tenure_gate_cell_of(gate, &cell, err));
  OK(tenure_gate_next_nonce(gate, &nonce, err));
  h.epoch = 1, h.ttl_ms = 60000, h.nonce = nonce, h.flags = TENURE_HEARTBEAT_NONCE;
  OK(tenure_gate_heartbeat(gate, &h, &r, err));
  CHECK(tenure_gate_check(cell, NULL) == TENURE_GATE_GRANTED);
}

static void tear_down(void) {
  tenure_gate_free(gate);
  CHECK(tenure_node_close(node, TENURE_FOREVER, NULL) == TENURE_OK);
  tenure_node_free(node);
}

#define PANICS(call)                                                                              \
  do {                                                                                            \
    tenure_error panic_err;                                                                       \
    tenure_error *const err = &panic_err;                                                         \
    tenure_test_inject(1, 0);                                                                     \
    const int32_t got = (call);                                                                   \
    tenure_test_inject(0, 0);                                                                     \
    if (got != TENURE_PANIC) fprintf(stderr, "%s gave %s\n", #call, tenure_status_name(got));     \
    CHECK(got == TENURE_PANIC && err->status == got && err->message[0] != 0);                     \
    CHECK(err->flags == (TENURE_IS_FATAL | TENURE_IS_MAYBE_APPLIED));                             \
    panics++;                                                                                     \
  } while (0)

/* On a node of its own, which is poisoned afterwards. */
#define POISONS(call)                                                                                            \
  do {                                                                                                           \
    uint64_t poisoned_token;                                                                                     \
    char poisoned_json[8192];                                                                                    \
    size_t poisoned_needed;                                                                                      \
    set_up();                                                                                                    \
    PANICS(call);                                                                                                \
    CHECK_STATUS(TENURE_POISONED, tenure_session_try_acquire(session, text("x"), NULL, &poisoned_token, err));   \
    CHECK(tenure_gate_check(cell, NULL) == TENURE_GATE_POISONED);                                                \
    OK(tenure_node_status(node, poisoned_json, sizeof poisoned_json, &poisoned_needed, err));                    \
    CHECK(strstr(poisoned_json, "\"state\":\"poisoned\"") != NULL);                                              \
    tear_down();                                                                                                 \
  } while (0)

int main(void) {
  tenure_config config, c;
  tenure_node n;
  tenure_session s;
  tenure_gate g;
  const struct tenure_gate_cell *p;
  const char *word;
  char buf[64];
  size_t needed;
  uint64_t number, token;
  bool flag;
  int fd, calls = 0;
  tenure_heartbeat h = TENURE_HEARTBEAT_INIT;
  tenure_heartbeat_reply r = TENURE_HEARTBEAT_REPLY_INIT;
  const tenure_bytes key = text("k"), empty = {NULL, 0};

  OK(tenure_log_set(TENURE_LOG_LEVEL_ERROR, on_line, NULL, err));
  OK(tenure_config_new(&config, err));
  PANICS(tenure_log_set(TENURE_LOG_LEVEL_OFF, NULL, NULL, err));
  PANICS(tenure_config_new(&c, err));
  PANICS(tenure_config_set(config, text("gate.mode"), text("disabled"), err));
  PANICS(tenure_config_get(config, text("gate.mode"), buf, sizeof buf, &needed, err));
  PANICS(tenure_config_load(config, text("gate.mode = disabled"), err));
  PANICS(tenure_node_open(none, &n, err));
  PANICS(tenure_node_open_with_service(none, NULL, &n, err));
  PANICS(tenure_client_open(text("127.0.0.1:1"), none, &n, err));

  POISONS(tenure_node_close(node, 0, err));
  POISONS(tenure_node_session(node, &s, err));
  POISONS(tenure_node_id(node, buf, sizeof buf, &needed, err));
  POISONS(tenure_node_status(node, buf, sizeof buf, &needed, err));
  POISONS(tenure_node_locks(node, empty, 10, buf, sizeof buf, &needed, err));
  POISONS(tenure_node_subscribe(node, on_event, &calls, &number, err));
  POISONS(tenure_node_unsubscribe(node, 1, err));
  POISONS(tenure_node_event_fd(node, &fd, err));
  POISONS(tenure_node_wait_ready(node, 0, err));
  POISONS(tenure_node_members(node, buf, sizeof buf, &needed, err));
  POISONS(tenure_node_transfer_leader(node, empty, err));
  POISONS(tenure_node_remove_member(node, key, err));
  POISONS(tenure_node_join_token(node, key, 60000, buf, sizeof buf, &needed, err));
  POISONS(tenure_node_dispatch(node, 1, &needed, err));
  POISONS(tenure_session_open(node, text("s"), 10000, &s, err));
  POISONS(tenure_session_close(session, err));
  POISONS(tenure_session_try_acquire(session, key, NULL, &token, err));
  POISONS(tenure_session_acquire(session, key, NULL, 0, &token, err));
  POISONS(tenure_session_acquire_all(session, &key, 1, NULL, 0, &token, err));
  POISONS(tenure_session_acquire_async(session, key, NULL, 0, on_done, &calls, &number, err));
  POISONS(tenure_session_release(session, key, 1, err));
  POISONS(tenure_session_release_async(session, key, 1, on_done, &calls, err));
  POISONS(tenure_session_cancel(session, 1, &flag, err));
  POISONS(tenure_session_renew(session, key, 1, 1000, &number, err));
  POISONS(tenure_session_release_all(session, &number, err));
  POISONS(tenure_session_force_release(session, key, 0, &flag, err));
  POISONS(tenure_session_holder(session, key, buf, sizeof buf, &needed, &token, &number, err));
  POISONS(tenure_session_remaining(session, key, 1, &number, err));
  POISONS(tenure_session_revoke(session, key, 0, empty, 0, &number, err));
  POISONS(tenure_session_contenders(session, key, buf, sizeof buf, &needed, err));
  POISONS(tenure_session_holder_local(session, key, buf, sizeof buf, &needed, &token, &number, &number, err));
  POISONS(tenure_session_annotate(session, key, 1, empty, err));
  POISONS(tenure_session_ensure(session, key, 1, 0, &number, err));
  POISONS(tenure_session_loss(session, 1, buf, sizeof buf, &needed, err));
  POISONS(tenure_session_secret(session, (uint8_t *)buf, err));
  POISONS(tenure_session_inherited(session, buf, sizeof buf, &needed, err));
  POISONS(tenure_node_take_over(node, key, 1000, empty, true, &s, err));
  POISONS(tenure_node_watch(node, key, 0, on_event, &calls, &number, err));
  POISONS(tenure_node_unwatch(node, 1, err));
  POISONS(tenure_election_campaign(session, key, empty, 1000, 0, &token, err));
  POISONS(tenure_election_proclaim(session, key, 1, empty, err));
  POISONS(tenure_election_leader(session, key, buf, sizeof buf, &needed, &token, err));
  POISONS(tenure_election_resign(session, key, 1, err));
  POISONS(tenure_gate_open(node, text("h"), none, &g, err));
  POISONS(tenure_gate_cell_of(gate, &p, err));
  POISONS(tenure_gate_mode(gate, &word, err));
  POISONS(tenure_gate_set_mode(gate, text("disabled"), err));
  POISONS(tenure_gate_heartbeat(gate, &h, &r, err));
  POISONS(tenure_gate_next_nonce(gate, &number, err));
  POISONS(tenure_gate_observe(gate, 1, text("b"), err));
  POISONS(tenure_gate_reset(gate, err));
  POISONS(tenure_gate_beat(gate, err));
  POISONS(tenure_node_beat(node, err));
  POISONS(tenure_gate_hold(gate, key, 1000, err));
  POISONS(tenure_gate_drain(gate, 0, err));
  POISONS(tenure_gate_cancel_drain(gate, err));
  POISONS(tenure_gate_resign(gate, 0, err));
  POISONS(tenure_gate_resign_to(gate, text("b"), 0, err));
  POISONS(tenure_gate_status(gate, buf, sizeof buf, &needed, err));
  POISONS(tenure_gate_close(gate, err));
  CHECK(calls == 0);
  EVENTUALLY(__atomic_load_n(&panic_lines, __ATOMIC_SEQ_CST) >= panics);

  /* Functions that have no status to return. */
  tenure_test_inject(1, 0);
  CHECK(strcmp(tenure_status_name(TENURE_HELD), "TENURE_?") == 0);
  tenure_test_inject(1, 0);
  CHECK(strcmp(tenure_status_text(TENURE_HELD), "unknown status") == 0);
  tenure_test_inject(1, 0);
  CHECK(!tenure_status_is(TENURE_HELD, TENURE_IS_RETRIABLE));
  tenure_test_inject(1, 0);
  CHECK(tenure_version_number() == 0);
  tenure_test_inject(1, 0);
  CHECK(tenure_version_string()[0] == 0);
  tenure_test_inject(1, 0);
  CHECK(tenure_abi_version() == TENURE_ABI_VERSION);
  set_up();
  tenure_test_inject(1, 0);
  tenure_session_release_later(session, key, 1);
  CHECK(tenure_gate_check(cell, NULL) == TENURE_GATE_POISONED);
  tenure_test_inject(1, 0);
  tenure_gate_free(gate);
  tenure_test_inject(1, 0);
  tenure_session_free(session);
  tenure_test_inject(1, 0);
  tenure_config_free(config);
  tenure_test_inject(1, 0);
  tenure_node_free(node);
  /* What was not freed because of it still can be. */
  tenure_test_inject(0, 0);
  tear_down();
  tenure_config_free(config);

  /* In the delivery: that one callback is lost, the library and those after it are not. */
  set_up();
  OK(tenure_node_subscribe(node, on_event, &calls, &number, err));
  tenure_test_inject(0, 1);
  OK(tenure_session_acquire_async(session, key, NULL, 0, on_done, &calls, &number, err));
  EVENTUALLY(__atomic_load_n(&panic_lines, __ATOMIC_SEQ_CST) > panics);
  OK(tenure_session_acquire_async(session, text("k2"), NULL, 0, on_done, &calls, &number, err));
  EVENTUALLY(__atomic_load_n(&calls, __ATOMIC_SEQ_CST) == 1);
  tear_down();

  OK(tenure_log_set(TENURE_LOG_LEVEL_OFF, NULL, NULL, err));
  printf("%d panics\n", panics);
  return 0;
}
