/* What the lock verbs, callbacks, events and the log do when they are used as meant. Usage: verbs [DIRECTORY], for durable nodes. */
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>

#include "common.h"

static const tenure_config none = {0};

static tenure_session second(tenure_node node, const char *name) {
  tenure_session s;
  OK(tenure_session_open(node, text(name), 10000, &s, err));
  return s;
}

static void one_thread(void) {
  tenure_node node = open_node("node_id", "one", NULL);
  tenure_session a = session_of(node), b = second(node, "two");
  CHECK(session_of(node).id == a.id);
  uint64_t t1, t2, left, count;
  OK(tenure_session_try_acquire(a, text("k"), NULL, &t1, err));
  CHECK(t1 != 0);
  tenure_error e;
  CHECK(tenure_session_try_acquire(b, text("k"), NULL, &t2, &e) == TENURE_HELD);
  CHECK(e.token == t1 && tenure_status_is(e.status, TENURE_IS_RETRIABLE) && e.flags == TENURE_IS_RETRIABLE);
  CHECK(tenure_session_acquire(b, text("k"), NULL, 20, &t2, &e) == TENURE_TIMEOUT);

  char name[80], json[4096];
  size_t needed;
  OK(tenure_session_holder(b, text("k"), name, sizeof name, &needed, &t2, &left, err));
  CHECK(strcmp(name, "one") == 0 && needed == 4 && t2 == t1 && left > 0 && left <= 10000);
  CHECK(tenure_session_holder(b, text("k"), NULL, 0, &needed, NULL, NULL, NULL) == TENURE_BUFFER_TOO_SMALL && needed == 4);
  OK(tenure_session_holder(b, text("free"), name, sizeof name, &needed, &t2, &left, err));
  CHECK(name[0] == 0 && needed == 1 && t2 == 0 && left == 0);
  OK(tenure_session_remaining(a, text("k"), t1, &left, err));
  CHECK(left > 0 && left <= 10000);
  OK(tenure_node_locks(node, text("k"), 10, json, sizeof json, &needed, err));
  CHECK(strstr(json, "\"key\":\"k\"") && strstr(json, "\"node\":\"one\"") && strlen(json) + 1 == needed);
  OK(tenure_session_renew(a, text("k"), t1, 20000, &left, err));
  CHECK(left > 0);

  CHECK(tenure_session_release(b, text("k"), t1, &e) == TENURE_NOT_HOLDER);
  OK(tenure_session_release(a, text("k"), t1, err));
  CHECK(tenure_session_release(a, text("k"), t1, &e) == TENURE_NOT_HOLDER);
  OK(tenure_session_try_acquire(b, text("k"), NULL, &t2, err));
  CHECK(t2 > t1);
  bool released = false;
  OK(tenure_session_force_release(a, text("k"), 0, &released, err));
  CHECK(released);
  OK(tenure_session_remaining(b, text("k"), t2, &left, err));

  /* Shared and permits, reentrant, metadata. */
  tenure_lock_opts opts = TENURE_LOCK_OPTS_INIT;
  opts.mode = TENURE_LOCK_MODE_SHARED;
  OK(tenure_session_try_acquire(a, text("s"), &opts, &t1, err));
  OK(tenure_session_try_acquire(b, text("s"), &opts, &t2, err));
  opts.mode = TENURE_LOCK_MODE_PERMITS;
  opts.permits = 2, opts.permits_limit = 3;
  OK(tenure_session_try_acquire(a, text("p"), &opts, &t1, err));
  CHECK_STATUS(TENURE_HELD, tenure_session_try_acquire(b, text("p"), &opts, &t2, err));
  opts.permits = 1;
  OK(tenure_session_try_acquire(b, text("p"), &opts, &t2, err));
  tenure_lock_opts again = TENURE_LOCK_OPTS_INIT;
  again.flags = TENURE_LOCK_REENTRANT;
  again.metadata.ptr = "why\n", again.metadata.len = 4;
  OK(tenure_session_try_acquire(a, text("r"), &again, &t1, err));
  OK(tenure_session_try_acquire(a, text("r"), &again, &t2, err));
  OK(tenure_node_locks(node, text("r"), 10, json, sizeof json, &needed, err));
  CHECK(strstr(json, "why\\\\n"));

  const tenure_bytes both[] = {text("x"), text("y")};
  uint64_t tokens[2] = {0, 0};
  OK(tenure_session_acquire_all(a, both, 2, NULL, 1000, tokens, err));
  CHECK(tokens[0] != 0 && tokens[1] != 0 && tokens[0] != tokens[1]);
  CHECK_STATUS(TENURE_HELD, tenure_session_acquire_all(b, both, 2, NULL, 0, tokens, err));
  tenure_session_release_later(a, text("x"), tokens[0]);
  OK(tenure_session_release_all(a, &count, err));
  CHECK(count >= 4);

  /* A manual grant ends by itself. */
  tenure_lock_opts brief = TENURE_LOCK_OPTS_INIT;
  brief.flags = TENURE_LOCK_MANUAL;
  brief.ttl_ms = 100;
  OK(tenure_session_try_acquire(a, text("m"), &brief, &t1, err));
  OK(tenure_session_acquire(b, text("m"), NULL, 10000, &t2, err));
  CHECK(t2 > t1);

  /* A session that is closed frees what it held; so does one that is just freed. */
  tenure_session c = second(node, "three");
  OK(tenure_session_try_acquire(c, text("c"), NULL, &t1, err));
  OK(tenure_session_close(c, err));
  OK(tenure_session_close(c, err));
  CHECK_STATUS(TENURE_CLOSED, tenure_session_try_acquire(c, text("c"), NULL, &t1, err));
  OK(tenure_session_try_acquire(a, text("c"), NULL, &t1, err));
  OK(tenure_session_release(a, text("c"), t1, err));
  tenure_session_free(c);
  c = second(node, "four");
  OK(tenure_session_try_acquire(c, text("c"), NULL, &t1, err));
  tenure_session_free(c);
  OK(tenure_session_acquire(a, text("c"), NULL, 10000, &t1, err));

  tenure_session_free(b);
  OK(tenure_node_close(node, TENURE_FOREVER, err));
  OK(tenure_node_status(node, json, sizeof json, &needed, err));
  CHECK(strstr(json, "\"state\":\"closed\""));
  tenure_node_free(node);
  CHECK_STATUS(TENURE_BAD_HANDLE, tenure_session_release_all(a, NULL, err));
}

struct ended {
  atomic_int calls;
  int32_t status;
  uint64_t token;
  tenure_session session;
  tenure_node node;
  pthread_t thread;
  int32_t in_callback[8];
};

static void on_done(void *user, int32_t status, uint64_t token, const tenure_error *e) {
  struct ended *x = user;
  x->status = status;
  x->token = token;
  x->thread = pthread_self();
  CHECK(e != NULL && e->status == status && (status == TENURE_OK || token == 0));
  atomic_fetch_add(&x->calls, 1);
}

/* Everything that waits or closes is refused in here; what does not wait is not. */
static void on_done_that_misbehaves(void *user, int32_t status, uint64_t token, const tenure_error *e) {
  struct ended *x = user;
  uint64_t t, left;
  tenure_session s;
  tenure_node n;
  const tenure_bytes key = text("other");
  (void)e;
  x->in_callback[0] = tenure_session_acquire(x->session, key, NULL, 10, &t, NULL);
  x->in_callback[1] = tenure_node_close(x->node, 0, NULL);
  x->in_callback[2] = tenure_session_acquire_all(x->session, &key, 1, NULL, 10, &t, NULL);
  x->in_callback[3] = tenure_session_close(x->session, NULL);
  x->in_callback[4] = tenure_node_open(none, &n, NULL);
  x->in_callback[5] = tenure_session_open(x->node, text("z"), 10000, &s, NULL);
  x->in_callback[6] = tenure_node_dispatch(x->node, 1, NULL, NULL);
  CHECK(tenure_session_try_acquire(x->session, key, NULL, &t, NULL) == TENURE_OK);
  CHECK(tenure_session_remaining(x->session, key, t, &left, NULL) == TENURE_OK && left > 0);
  CHECK(tenure_session_release(x->session, key, t, NULL) == TENURE_OK);
  on_done(user, status, token, e);
}

static void callbacks(void) {
  tenure_node node = open_node("node_id", "cb", NULL);
  tenure_session a = session_of(node), b = second(node, "b");
  struct ended x = {0};
  uint64_t op, t;
  bool cancelled = true;
  x.session = a, x.node = node;
  OK(tenure_session_acquire_async(a, text("k"), NULL, 0, on_done_that_misbehaves, &x, &op, err));
  EVENTUALLY(atomic_load(&x.calls) == 1);
  CHECK(x.status == TENURE_OK && !pthread_equal(x.thread, pthread_self()));
  for (int i = 0; i < 7; i++) CHECK(x.in_callback[i] == TENURE_WOULD_DEADLOCK);
  OK(tenure_session_cancel(a, op, &cancelled, err));
  CHECK(!cancelled);

  /* Waiting, then granted by a release; then cancelled; then ended by a timeout. */
  struct ended y = {0};
  OK(tenure_session_acquire_async(b, text("k"), NULL, TENURE_FOREVER, on_done, &y, &op, err));
  OK(tenure_session_release_async(a, text("k"), x.token, on_done, &x, err));
  EVENTUALLY(atomic_load(&y.calls) == 1 && atomic_load(&x.calls) == 2);
  CHECK(y.status == TENURE_OK && y.token != 0 && x.token == 0);
  OK(tenure_session_acquire_async(a, text("k"), NULL, TENURE_FOREVER, on_done, &x, &op, err));
  OK(tenure_session_cancel(a, op, &cancelled, err));
  CHECK(cancelled);
  EVENTUALLY(atomic_load(&x.calls) == 3);
  CHECK(x.status == TENURE_CANCELLED);
  OK(tenure_session_acquire_async(a, text("k"), NULL, 10, on_done, &x, NULL, err));
  EVENTUALLY(atomic_load(&x.calls) == 4);
  CHECK(x.status == TENURE_TIMEOUT);
  OK(tenure_session_release_async(a, text("k"), 1, on_done, &x, err));
  EVENTUALLY(atomic_load(&x.calls) == 5);
  CHECK(x.status == TENURE_NOT_HOLDER);

  /* A close ends what waits, and nothing is called afterwards. */
  OK(tenure_session_acquire_async(a, text("k"), NULL, TENURE_FOREVER, on_done, &x, NULL, err));
  OK(tenure_node_close(node, TENURE_FOREVER, err));
  CHECK(atomic_load(&x.calls) == 6 && x.status != TENURE_OK);
  CHECK_STATUS(TENURE_CLOSED, tenure_session_try_acquire(a, text("z"), NULL, &t, err));
  tenure_session_free(b);
  tenure_node_free(node);
  CHECK(atomic_load(&x.calls) == 6 && atomic_load(&y.calls) == 1);
}

static int readable(int fd) {
  struct pollfd p = {fd, POLLIN, 0};
  return poll(&p, 1, 0) == 1;
}

static void eventfd(void) {
  tenure_node node = open_node("delivery", "fd", NULL);
  tenure_session a = session_of(node);
  struct ended x = {0};
  int fd = -1;
  size_t done = 99;
  OK(tenure_node_event_fd(node, &fd, err));
  CHECK(fd > 2 && !readable(fd));
  OK(tenure_node_dispatch(node, 10, &done, err));
  CHECK(done == 0);
  for (int i = 0; i < 3; i++) {
    char key[2] = {(char)('a' + i), 0};
    OK(tenure_session_acquire_async(a, text(key), NULL, 0, on_done, &x, NULL, err));
  }
  EVENTUALLY(readable(fd));
  CHECK(atomic_load(&x.calls) == 0);
  /* On a disk they become due one after the other. */
  for (size_t all = 0; all < 2; all += done) {
    EVENTUALLY(readable(fd));
    OK(tenure_node_dispatch(node, 2 - all, &done, err));
    CHECK(done >= 1 && done <= 2 - all);
  }
  CHECK(atomic_load(&x.calls) == 2 && pthread_equal(x.thread, pthread_self()));
  EVENTUALLY(readable(fd));
  OK(tenure_node_dispatch(node, 2, &done, err));
  CHECK(done == 1 && atomic_load(&x.calls) == 3 && !readable(fd));
  /* In a callback that dispatch runs, waiting is refused as well. */
  x.session = a, x.node = node;
  OK(tenure_session_acquire_async(a, text("d"), NULL, 0, on_done_that_misbehaves, &x, NULL, err));
  EVENTUALLY(readable(fd));
  OK(tenure_node_dispatch(node, 10, &done, err));
  CHECK(done == 1 && atomic_load(&x.calls) == 4 && x.status == TENURE_OK);
  for (int i = 0; i < 7; i++) CHECK(x.in_callback[i] == TENURE_WOULD_DEADLOCK);
  /* What is due at the close is called by it. */
  OK(tenure_session_acquire_async(a, text("e"), NULL, 0, on_done, &x, NULL, err));
  OK(tenure_node_close(node, TENURE_FOREVER, err));
  CHECK(atomic_load(&x.calls) == 5);
  tenure_node_free(node);
}

struct told {
  atomic_int at_risk, lost, gate, poisoned;
  atomic_ulong token;
  uint64_t number;
  tenure_node node;
};

static void on_event(void *user, const tenure_event *e) {
  struct told *x = user;
  CHECK(e->struct_size == sizeof *e);
  switch (e->kind) {
    case TENURE_EVENT_KIND_AT_RISK: atomic_fetch_add(&x->at_risk, 1); break;
    case TENURE_EVENT_KIND_LOST:
      CHECK(e->key.len > 0 && e->text.len > 0);
      atomic_store(&x->token, e->token);
      atomic_fetch_add(&x->lost, 1);
      break;
    case TENURE_EVENT_KIND_GATE: atomic_fetch_add(&x->gate, 1); break;
    case TENURE_EVENT_KIND_POISONED: atomic_fetch_add(&x->poisoned, 1); break;
    default: CHECK(!"an event of no known kind");
  }
}

static void on_event_once(void *user, const tenure_event *e) {
  struct told *x = user;
  on_event(user, e);
  CHECK(tenure_node_unsubscribe(x->node, x->number, NULL) == TENURE_OK);
}

static void events(void) {
  tenure_node node = open_node(NULL);
  tenure_session a = session_of(node);
  struct told x = {0}, y = {0};
  uint64_t t;
  bool released;
  y.node = node;
  OK(tenure_node_subscribe(node, on_event, &x, &x.number, err));
  OK(tenure_node_subscribe(node, on_event_once, &y, &y.number, err));
  for (int i = 1; i <= 3; i++) {
    OK(tenure_session_try_acquire(a, text("k"), NULL, &t, err));
    OK(tenure_session_force_release(a, text("k"), 0, &released, err));
    EVENTUALLY(atomic_load(&x.lost) == i);
    CHECK(released && atomic_load(&x.token) == t);
  }
  CHECK(atomic_load(&y.lost) == 1);
  CHECK_STATUS(TENURE_INVALID_ARGUMENT, tenure_node_unsubscribe(node, y.number, err));
  OK(tenure_node_unsubscribe(node, x.number, err));
  OK(tenure_session_try_acquire(a, text("k"), NULL, &t, err));
  OK(tenure_session_force_release(a, text("k"), 0, NULL, err));
  OK(tenure_node_close(node, TENURE_FOREVER, err));
  CHECK(atomic_load(&x.lost) == 3);
  tenure_node_free(node);
}

struct seen {
  atomic_int held, freed, asked;
  _Atomic uint64_t token;
  char name[16], text[16];
};

static void on_watch(void *user, const tenure_event *e) {
  struct seen *x = user;
  CHECK(e->name.len < sizeof x->name && e->text.len < sizeof x->text);
  if (e->kind == TENURE_EVENT_KIND_FREED) atomic_fetch_add(&x->freed, 1);
  if (e->kind != TENURE_EVENT_KIND_HELD && e->kind != TENURE_EVENT_KIND_REVOKE_REQUESTED) return;
  memcpy(x->name, e->name.ptr, e->name.len), x->name[e->name.len] = 0;
  memcpy(x->text, e->text.ptr, e->text.len), x->text[e->text.len] = 0;
  atomic_store(&x->token, e->token);
  atomic_fetch_add(e->kind == TENURE_EVENT_KIND_HELD ? &x->held : &x->asked, 1);
}

static void watches(void) {
  tenure_node node = open_node("node_id", "one", NULL);
  tenure_session a = session_of(node), b = second(node, "two");
  struct seen one = {0}, all = {0}, holder = {0};
  uint64_t w1, w2, sub, t, number, left;
  char json[4096], value[64];
  size_t needed;
  OK(tenure_node_watch(node, text("e"), 0, on_watch, &one, &w1, err));
  EVENTUALLY(atomic_load(&one.freed) == 1);
  OK(tenure_node_watch(node, (tenure_bytes){NULL, 0}, TENURE_WATCH_PREFIX, on_watch, &all, &w2, err));
  OK(tenure_node_subscribe(node, on_watch, &holder, &sub, err));

  /* An election: campaign, proclaim, who stands, resign. */
  OK(tenure_election_campaign(a, text("e"), text("v1"), 10000, 0, &t, err));
  EVENTUALLY(atomic_load(&one.held) == 1 && atomic_load(&all.held) == 1);
  CHECK(strcmp(one.name, "one") == 0 && strcmp(one.text, "v1") == 0 && atomic_load(&one.token) == t);
  OK(tenure_election_proclaim(a, text("e"), t, text("v2"), err));
  EVENTUALLY(atomic_load(&one.held) == 2 && atomic_load(&all.held) == 2);
  CHECK(strcmp(one.text, "v2") == 0);
  OK(tenure_election_leader(b, text("e"), value, sizeof value, &needed, &number, err));
  CHECK(strcmp(value, "v2") == 0 && number == t);
  OK(tenure_session_holder_local(b, text("e"), value, sizeof value, &needed, &number, &left, NULL, err));
  CHECK(strcmp(value, "one") == 0 && number == t);
  OK(tenure_session_ensure(a, text("e"), t, 1, &left, err));
  CHECK(left > 0);
  CHECK_STATUS(TENURE_EXPIRED, tenure_session_ensure(a, text("e"), t, 60000, &left, err));
  OK(tenure_session_loss(a, t, value, sizeof value, &needed, err));
  CHECK(needed == 1);
  uint64_t op;
  struct ended call = {0};
  OK(tenure_session_acquire_async(b, text("e"), NULL, TENURE_FOREVER, on_done, &call, &op, err));
  do OK(tenure_session_contenders(a, text("e"), json, sizeof json, &needed, err));
  while (!strstr(json, "\"waiters\":[{"));
  CHECK(strstr(json, "\"node\":\"two\""));

  /* Asked to give it back, it does not, and loses it. */
  OK(tenure_session_revoke(b, text("e"), 0, text("please"), 50, &number, err));
  CHECK(number == 1);
  EVENTUALLY(atomic_load(&holder.asked) == 1);
  CHECK(strcmp(holder.name, "two") == 0 && strcmp(holder.text, "please") == 0 && atomic_load(&holder.token) == t);
  EVENTUALLY(atomic_load(&call.calls) == 1);
  OK(tenure_session_loss(a, t, value, sizeof value, &needed, err));
  CHECK(strcmp(value, "revoked") == 0);
  CHECK_STATUS(TENURE_NOT_HOLDER, tenure_election_proclaim(a, text("e"), t, text("v3"), err));
  CHECK_STATUS(TENURE_NOT_HOLDER, tenure_election_resign(a, text("e"), t, err));
  EVENTUALLY(atomic_load(&one.held) == 3 && atomic_load(&all.held) == 3);

  OK(tenure_node_unwatch(node, w1, err));
  CHECK_STATUS(TENURE_INVALID_ARGUMENT, tenure_node_unwatch(node, w1, err));

  /* Its owner comes back elsewhere: the lock moves, under a new token. */
  uint8_t proof[TENURE_SECRET_SIZE];
  tenure_session c;
  OK(tenure_session_secret(b, proof, err));
  OK(tenure_node_take_over(node, text("three"), 10000, (tenure_bytes){proof, sizeof proof}, true, &c, err));
  OK(tenure_session_inherited(c, json, sizeof json, &needed, err));
  CHECK(strstr(json, "\"key\":\"e\""));
  OK(tenure_session_holder(a, text("e"), value, sizeof value, &needed, &number, &left, err));
  CHECK(strcmp(value, "three") == 0 && number > t);
  OK(tenure_session_release(c, text("e"), number, err));
  EVENTUALLY(atomic_load(&all.freed) >= 1);
  CHECK_STATUS(TENURE_EXPIRED, tenure_node_take_over(node, text("four"), 10000, (tenure_bytes){proof, sizeof proof}, true, &c, err));
  OK(tenure_node_close(node, TENURE_FOREVER, err));
  CHECK(atomic_load(&one.held) == 3);
  tenure_node_free(node);
}

static atomic_int lines;

static void on_line(void *user, int32_t level, tenure_bytes target, tenure_bytes message) {
  CHECK(user == (void *)&lines && level >= 1 && level <= 5 && target.len > 0);
  CHECK(memchr(message.ptr, '\n', message.len) == NULL);
  atomic_fetch_add(&lines, 1);
}

static void logging(void) {
  OK(tenure_log_set(TENURE_LOG_LEVEL_TRACE, on_line, &lines, err));
  /* A gate's changes are worth a line. */
  tenure_node node = open_node(NULL);
  tenure_gate gate;
  OK(tenure_gate_open(node, text("g"), none, &gate, err));
  OK(tenure_gate_hold(gate, text("office"), 10000, err));
  EVENTUALLY(atomic_load(&lines) > 0);
  OK(tenure_log_set(TENURE_LOG_LEVEL_OFF, NULL, NULL, err));
  const int before = atomic_load(&lines);
  OK(tenure_gate_resign(gate, 10000, err));
  tenure_gate_free(gate);
  OK(tenure_node_close(node, TENURE_FOREVER, err));
  tenure_node_free(node);
  CHECK(atomic_load(&lines) == before);
}

int main(int argc, char **argv) {
  if (argc > 1) data_base = argv[1];
  one_thread();
  callbacks();
  eventfd();
  events();
  watches();
  logging();
  return 0;
}
