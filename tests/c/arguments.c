/* Every function with every kind of bad argument: each has its typed error, writes to no output, and changes no lock. */
#include "common.h"
#include "tenure_gate.h"

static tenure_node node;
static tenure_session session;
static tenure_gate gate;
static tenure_config config;

/* Everything that a call may write to, and what it must look like afterwards. */
static struct outputs {
  uint64_t token, number, remaining, tokens[4];
  size_t needed;
  int fd;
  bool flag;
  char buf[128];
  const char *word;
  const struct tenure_gate_cell *cell;
  tenure_config config;
  tenure_node node;
  tenure_session session;
  tenure_gate gate;
  tenure_heartbeat_reply reply;
} o, canary;

/* The counts of the lock table, as the node's status has them. */
static void table(char *out, size_t size) {
  char json[8192];
  size_t needed;
  OK(tenure_node_status(node, json, sizeof json, &needed, err));
  const char *from = strstr(json, "\"sessions\":");
  CHECK(from != NULL);
  const char *to = strstr(from, "\"last_token\":");
  CHECK(to != NULL);
  to = strchr(to, ',');
  CHECK(to != NULL && (size_t)(to - from) < size);
  memcpy(out, from, (size_t)(to - from));
  out[to - from] = 0;
}

static char before[512];

static void check_unchanged(int line) {
  char after[512];
  if (memcmp(&o, &canary, sizeof o) != 0) {
    fprintf(stderr, "line %d: an output was written\n", line);
    exit(1);
  }
  table(after, sizeof after);
  if (strcmp(before, after) != 0) {
    fprintf(stderr, "line %d: the lock table changed: %s -> %s\n", line, before, after);
    exit(1);
  }
}

static int refusals;

#define REFUSED(want, call)                                                                       \
  do {                                                                                            \
    tenure_error refused_err;                                                                     \
    tenure_error *const err = &refused_err;                                                       \
    memset(err, 0xee, sizeof *err);                                                               \
    const int32_t got = (call);                                                                   \
    if (got != (want)) {                                                                          \
      fprintf(stderr, "%s:%d: %s\n  gave %s (%.200s), not %s\n", __FILE__, __LINE__, #call,       \
              tenure_status_name(got), err->message, tenure_status_name(want));     \
      exit(1);                                                                                    \
    }                                                                                             \
    CHECK(err->status == got && err->struct_size == sizeof *err && err->message[0] != 0);         \
    CHECK(memchr(err->message, 0, sizeof err->message) != NULL);                                  \
    CHECK(err->retry_after_ms == 0 && err->reserved == 0);                                        \
    check_unchanged(__LINE__);                                                                    \
    refusals++;                                                                                   \
  } while (0)

static uint64_t stale_config, stale_node, stale_session, stale_gate;

/* A handle variable takes each bad value in turn: 0, all ones, one bit off in each part, freed, of the other types. */
#define BAD_HANDLE(type, var, good, stale, call)                                                                 \
  do {                                                                                                           \
    const uint64_t ids[] = {0,          UINT64_MAX,  (good).id ^ 1,           (good).id ^ (UINT64_C(1) << 24),   \
                            (good).id ^ (UINT64_C(1) << 32), stale, config.id, node.id, session.id, gate.id};    \
    for (size_t bad_i = 0; bad_i < sizeof ids / sizeof ids[0]; bad_i++) {                                        \
      type var = {ids[bad_i]};                                                                                   \
      if (var.id != (good).id) REFUSED(TENURE_BAD_HANDLE, call);                                                 \
    }                                                                                                            \
  } while (0)

static char long_text[2000];
static tenure_bytes null_with_length, empty, too_long, huge, not_utf8, key;

/* Keys: NULL with a length, empty, one byte too long, SIZE_MAX. */
#define BAD_KEY(call)                                                        \
  do {                                                                       \
    const tenure_bytes keys[] = {null_with_length, empty, too_long, huge};   \
    for (size_t key_i = 0; key_i < 4; key_i++) {                             \
      const tenure_bytes k = keys[key_i];                                    \
      REFUSED(TENURE_INVALID_ARGUMENT, call);                                \
    }                                                                        \
  } while (0)

/* Texts: NULL with a length, SIZE_MAX, not UTF-8. */
#define BAD_TEXT(call)                                                        \
  do {                                                                        \
    const tenure_bytes texts[] = {null_with_length, huge, not_utf8};          \
    for (size_t text_i = 0; text_i < 3; text_i++) {                           \
      const tenure_bytes t = texts[text_i];                                   \
      REFUSED(TENURE_INVALID_ARGUMENT, call);                                 \
    }                                                                         \
  } while (0)

/* A buffer that is NULL with a length, or no buffer and no place for the size. */
#define BAD_BUFFER(b, l, n, call)                        \
  do {                                                   \
    char *b = NULL;                                      \
    size_t l = 10;                                       \
    size_t *n = &o.needed;                               \
    REFUSED(TENURE_INVALID_ARGUMENT, call);              \
    l = 0;                                               \
    n = NULL;                                            \
    REFUSED(TENURE_INVALID_ARGUMENT, call);              \
    n = (size_t *)((char *)&o.needed + 1);               \
    REFUSED(TENURE_INVALID_ARGUMENT, call);              \
  } while (0)

/* Options: unknown flags, unknown mode, reserved fields, sizes, ttl, permits, metadata. */
#define BAD_OPTS(call)                                                                   \
  do {                                                                                   \
    struct {                                                                             \
      tenure_lock_opts first;                                                            \
      uint64_t more[4];                                                                  \
    } big = {TENURE_LOCK_OPTS_INIT, {0, 0, 0, 1}};                                       \
    for (int opt_i = 0; opt_i < 18; opt_i++) {                                           \
      tenure_lock_opts opts = TENURE_LOCK_OPTS_INIT;                                     \
      const tenure_lock_opts *p = &opts;                                                 \
      switch (opt_i) {                                                                   \
        case 0: opts.struct_size = 0; break;                                             \
        case 1: opts.struct_size = sizeof opts - 1; break;                               \
        case 2: opts.struct_size = UINT32_MAX; break;                                    \
        case 3: opts.flags = 4; break;                                                   \
        case 4: opts.flags = UINT32_MAX; break;                                          \
        case 5: opts.mode = 3; break;                                                    \
        case 6: opts.mode = -1; break;                                                   \
        case 7: opts.ttl_ms = 0; break;                                                  \
        case 8: opts.ttl_ms = 99; break;                                                 \
        case 9: opts.ttl_ms = UINT64_MAX; break;                                         \
        case 10: opts.lock_delay_ms = UINT64_MAX; break;                                 \
        case 11: opts.reserved0 = 1; break;                                              \
        case 12: opts.reserved[3] = 1; break;                                            \
        case 13: opts.metadata = null_with_length; break;                                \
        case 14: opts.metadata = too_long; break;                                        \
        case 15: opts.mode = TENURE_LOCK_MODE_PERMITS; opts.permits = 0; break;          \
        case 16: opts.mode = TENURE_LOCK_MODE_PERMITS; opts.permits = 2; break;          \
        case 17:                                                                         \
          /* a field of a newer header that is not 0 */                                  \
          big.first.struct_size = sizeof big;                                            \
          p = &big.first;                                                                \
          break;                                                                         \
      }                                                                                  \
      REFUSED(TENURE_INVALID_ARGUMENT, call);                                            \
    }                                                                                    \
    {                                                                                    \
      const tenure_lock_opts *p = (const tenure_lock_opts *)((const char *)&big + 1);    \
      REFUSED(TENURE_INVALID_ARGUMENT, call);                                            \
    }                                                                                    \
  } while (0)

static void never_called(void *user, int32_t status, uint64_t token, const tenure_error *e) {
  (void)user, (void)status, (void)token, (void)e;
  fprintf(stderr, "a callback of a refused call ran\n");
  exit(1);
}

static void never_told(void *user, const tenure_event *event) {
  (void)user, (void)event;
  fprintf(stderr, "a callback of a refused subscription ran\n");
  exit(1);
}

static void configs(void) {
  REFUSED(TENURE_ABI_MISMATCH, tenure_config_new_abi(TENURE_ABI_VERSION + 1, &o.config, err));
  REFUSED(TENURE_ABI_MISMATCH, tenure_config_new_abi(0, &o.config, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_config_new(NULL, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_config_new((tenure_config *)((char *)&o.config + 1), err));
  BAD_HANDLE(tenure_config, c, config, stale_config, tenure_config_set(c, text("gate.mode"), text("disabled"), err));
  BAD_TEXT(tenure_config_set(config, t, text("disabled"), err));
  BAD_TEXT(tenure_config_set(config, text("data_dir"), t, err));
  REFUSED(TENURE_UNKNOWN_OPTION, tenure_config_set(config, text("gate.mod"), text("disabled"), err));
  REFUSED(TENURE_UNKNOWN_OPTION, tenure_config_set(config, empty, text("x"), err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_config_set(config, text("gate.mode"), text("off"), err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_config_set(config, text("session_ttl_ms"), text("0"), err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_config_set(config, text("session_ttl_ms"), text("18446744073709551615"), err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_config_set(config, text("session_ttl_ms"), text("18446744073709551616"), err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_config_set(config, text("node_id"), text("with space"), err));
  for (uint64_t id = 1; id < 3; id++) {
    tenure_config forged = {id};
    REFUSED(TENURE_BAD_HANDLE, tenure_config_get(forged, text("gate.mode"), o.buf, sizeof o.buf, &o.needed, err));
  }
  BAD_TEXT(tenure_config_get(config, t, o.buf, sizeof o.buf, &o.needed, err));
  REFUSED(TENURE_UNKNOWN_OPTION, tenure_config_get(config, text("x"), o.buf, sizeof o.buf, &o.needed, err));
  BAD_BUFFER(b, l, n, tenure_config_get(config, text("gate.mode"), b, l, n, err));
  BAD_HANDLE(tenure_config, c, config, stale_config, tenure_config_load(c, text("gate.mode = disabled"), err));
  BAD_TEXT(tenure_config_load(config, t, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_config_load(config, text("gate.mode disabled"), err));
  REFUSED(TENURE_UNKNOWN_OPTION, tenure_config_load(config, text("gate.mode = disabled\nx = y"), err));
  /* None of it took effect. */
  char buf[32];
  size_t needed;
  OK(tenure_config_get(config, text("gate.mode"), buf, sizeof buf, &needed, err));
  CHECK(strcmp(buf, "block-write") == 0 && needed == sizeof "block-write");
}

static int32_t no_attempt(void *user, tenure_bytes k, uint64_t ttl_ms, uint64_t timeout_ms, uint64_t *out, tenure_error *e) {
  (void)user, (void)k, (void)ttl_ms, (void)timeout_ms, (void)out, (void)e;
  return TENURE_UNAVAILABLE;
}

static int32_t no_release(void *user, tenure_bytes k, uint64_t token, uint64_t timeout_ms, tenure_error *e) {
  (void)user, (void)k, (void)token, (void)timeout_ms, (void)e;
  return TENURE_UNAVAILABLE;
}

static int32_t no_holder(void *user, tenure_bytes k, uint64_t timeout_ms, tenure_lock_holder *out, tenure_error *e) {
  (void)user, (void)k, (void)timeout_ms, (void)out, (void)e;
  return TENURE_UNAVAILABLE;
}

static void never_freed(void *user) {
  (void)user;
  fprintf(stderr, "a service that was refused was freed\n");
  exit(1);
}

static void services(void) {
  const tenure_config none = {0}, forged = {99};
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_node_open_with_service(none, NULL, &o.node, err));
  struct {
    tenure_lock_service first;
    uint64_t more;
  } big = {TENURE_LOCK_SERVICE_INIT, 1};
  for (int i = 0; i < 17; i++) {
    tenure_lock_service s = TENURE_LOCK_SERVICE_INIT;
    const tenure_lock_service *p = &s;
    s.node_id = text("svc");
    s.try_acquire = no_attempt;
    s.release = no_release;
    s.holder = no_holder;
    s.free = never_freed;
    switch (i) {
      case 0: s.struct_size = 0; break;
      case 1: s.struct_size = sizeof s - 1; break;
      case 2: s.struct_size = UINT32_MAX; break;
      case 3: s.capabilities = 8; break;
      case 4: s.try_acquire = NULL; break;
      case 5: s.release = NULL; break;
      case 6: s.holder = NULL; break;
      case 7: s.reserved[3] = 1; break;
      case 8: s.node_id = empty; break;
      case 9: s.node_id = null_with_length; break;
      case 10: s.node_id = huge; break;
      case 11: s.node_id = not_utf8; break;
      case 12: s.node_id = text("with space"); break;
      case 13: s.ttl_min_ms = 10, s.ttl_max_ms = 9; break;
      case 14: s.capabilities = TENURE_LOCK_SERVICE_FAIR; break;
      case 15: p = (const tenure_lock_service *)((const char *)&s + 1); break;
      case 16:
        big.first = s;
        big.first.struct_size = sizeof big;
        p = &big.first;
        break;
    }
    REFUSED(TENURE_INVALID_ARGUMENT, tenure_node_open_with_service(none, p, &o.node, err));
  }
  tenure_lock_service good = TENURE_LOCK_SERVICE_INIT;
  good.node_id = text("svc");
  good.try_acquire = no_attempt;
  good.release = no_release;
  good.holder = no_holder;
  good.free = never_freed;
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_node_open_with_service(none, &good, NULL, err));
  REFUSED(TENURE_BAD_HANDLE, tenure_node_open_with_service(forged, &good, &o.node, err));
}

static void nodes(void) {
  const tenure_config none = {0}, forged = {99};
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_node_open(none, NULL, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_node_open(none, (tenure_node *)((char *)&o.node + 1), err));
  REFUSED(TENURE_BAD_HANDLE, tenure_node_open(forged, &o.node, err));
  BAD_TEXT(tenure_client_open(t, none, &o.node, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_client_open(empty, none, &o.node, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_client_open(text("nowhere"), none, &o.node, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_client_open(text("10.0.0.1:7001"), none, &o.node, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_client_open(text("127.0.0.1:7001"), none, NULL, err));
  REFUSED(TENURE_BAD_HANDLE, tenure_client_open(text("127.0.0.1:7001"), forged, &o.node, err));
  services();
  BAD_HANDLE(tenure_node, n, node, stale_node, tenure_node_close(n, 0, err));
  BAD_HANDLE(tenure_node, n, node, stale_node, tenure_node_session(n, &o.session, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_node_session(node, NULL, err));
  BAD_HANDLE(tenure_node, n, node, stale_node, tenure_node_id(n, o.buf, sizeof o.buf, &o.needed, err));
  BAD_BUFFER(b, l, n, tenure_node_id(node, b, l, n, err));
  BAD_HANDLE(tenure_node, n, node, stale_node, tenure_node_status(n, o.buf, sizeof o.buf, &o.needed, err));
  BAD_BUFFER(b, l, n, tenure_node_status(node, b, l, n, err));
  BAD_HANDLE(tenure_node, n, node, stale_node, tenure_node_locks(n, empty, 10, o.buf, sizeof o.buf, &o.needed, err));
  BAD_BUFFER(b, l, n, tenure_node_locks(node, empty, 10, b, l, n, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_node_locks(node, empty, 0, o.buf, sizeof o.buf, &o.needed, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_node_locks(node, empty, SIZE_MAX, o.buf, sizeof o.buf, &o.needed, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_node_locks(node, huge, 10, o.buf, sizeof o.buf, &o.needed, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_node_locks(node, null_with_length, 10, o.buf, sizeof o.buf, &o.needed, err));
  BAD_HANDLE(tenure_node, n, node, stale_node, tenure_node_subscribe(n, never_told, NULL, &o.number, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_node_subscribe(node, NULL, NULL, &o.number, err));
  BAD_HANDLE(tenure_node, n, node, stale_node, tenure_node_unsubscribe(n, 1, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_node_unsubscribe(node, UINT64_MAX, err));
  BAD_HANDLE(tenure_node, n, node, stale_node, tenure_node_event_fd(n, &o.fd, err));
  REFUSED(TENURE_MISUSE, tenure_node_event_fd(node, &o.fd, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_node_event_fd(node, NULL, err));
  BAD_HANDLE(tenure_node, n, node, stale_node, tenure_node_wait_ready(n, 1, err));
  BAD_HANDLE(tenure_node, n, node, stale_node, tenure_node_members(n, o.buf, sizeof o.buf, &o.needed, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_node_members(node, NULL, sizeof o.buf, &o.needed, err));
  REFUSED(TENURE_MISUSE, tenure_node_members(node, o.buf, sizeof o.buf, &o.needed, err));
  BAD_HANDLE(tenure_node, n, node, stale_node, tenure_node_transfer_leader(n, empty, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_node_transfer_leader(node, huge, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_node_transfer_leader(node, not_utf8, err));
  REFUSED(TENURE_MISUSE, tenure_node_transfer_leader(node, empty, err));
  BAD_HANDLE(tenure_node, n, node, stale_node, tenure_node_remove_member(n, text("b"), err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_node_remove_member(node, null_with_length, err));
  REFUSED(TENURE_MISUSE, tenure_node_remove_member(node, text("b"), err));
  BAD_HANDLE(tenure_node, n, node, stale_node, tenure_node_join_token(n, text("b"), 60000, o.buf, sizeof o.buf, &o.needed, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_node_join_token(node, huge, 60000, o.buf, sizeof o.buf, &o.needed, err));
  REFUSED(TENURE_MISUSE, tenure_node_join_token(node, text("b"), 60000, o.buf, sizeof o.buf, &o.needed, err));
  BAD_HANDLE(tenure_node, n, node, stale_node, tenure_node_dispatch(n, 1, &o.needed, err));
  REFUSED(TENURE_MISUSE, tenure_node_dispatch(node, 1, &o.needed, err));
  /* Too small a buffer says how large it must be and writes nothing else. */
  for (size_t len = 0; len < 4; len++) {
    size_t needed = 0;
    memset(o.buf, 0x5a, sizeof o.buf);
    CHECK_STATUS(TENURE_BUFFER_TOO_SMALL, tenure_node_join_token(node, text("b"), 60000, len ? o.buf : NULL, len, &needed, err));
    CHECK(needed == 65);
    CHECK_STATUS(TENURE_BUFFER_TOO_SMALL, tenure_node_id(node, len ? o.buf : NULL, len, &needed, err));
    CHECK(needed == 5 && o.buf[0] == 0x5a);
  }
  memcpy(&o, &canary, sizeof o);
}

static void sessions(void) {
  BAD_HANDLE(tenure_node, n, node, stale_node, tenure_session_open(n, text("x"), 10000, &o.session, err));
  BAD_TEXT(tenure_session_open(node, t, 10000, &o.session, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_session_open(node, empty, 10000, &o.session, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_session_open(node, text("a b"), 10000, &o.session, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_session_open(node, text("x"), 0, &o.session, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_session_open(node, text("x"), UINT64_MAX, &o.session, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_session_open(node, text("x"), 10000, NULL, err));
  BAD_HANDLE(tenure_session, s, session, stale_session, tenure_session_close(s, err));
  REFUSED(TENURE_MISUSE, tenure_session_close(session, err));

  BAD_HANDLE(tenure_session, s, session, stale_session, tenure_session_try_acquire(s, key, NULL, &o.token, err));
  BAD_KEY(tenure_session_try_acquire(session, k, NULL, &o.token, err));
  BAD_OPTS(tenure_session_try_acquire(session, key, p, &o.token, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_session_try_acquire(session, key, NULL, NULL, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_session_try_acquire(session, key, NULL, (uint64_t *)((char *)&o.token + 1), err));
  REFUSED(TENURE_HELD, tenure_session_try_acquire(session, text("taken"), NULL, &o.token, err));

  BAD_HANDLE(tenure_session, s, session, stale_session, tenure_session_acquire(s, key, NULL, 10, &o.token, err));
  BAD_KEY(tenure_session_acquire(session, k, NULL, 10, &o.token, err));
  BAD_OPTS(tenure_session_acquire(session, key, p, 10, &o.token, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_session_acquire(session, key, NULL, 10, NULL, err));

  const tenure_bytes two[2] = {key, text("l")}, twice[2] = {key, key};
  BAD_HANDLE(tenure_session, s, session, stale_session, tenure_session_acquire_all(s, two, 2, NULL, 0, o.tokens, err));
  BAD_OPTS(tenure_session_acquire_all(session, two, 2, p, 0, o.tokens, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_session_acquire_all(session, NULL, 2, NULL, 0, o.tokens, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_session_acquire_all(session, two, 0, NULL, 0, o.tokens, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_session_acquire_all(session, two, SIZE_MAX, NULL, 0, o.tokens, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_session_acquire_all(session, two, 2, NULL, 0, NULL, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_session_acquire_all(session, twice, 2, NULL, 0, o.tokens, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_session_acquire_all(session, (const tenure_bytes *)((const char *)two + 1), 1, NULL, 0, o.tokens, err));
  {
    const tenure_bytes bad[2] = {key, null_with_length};
    REFUSED(TENURE_INVALID_ARGUMENT, tenure_session_acquire_all(session, bad, 2, NULL, 0, o.tokens, err));
    const tenure_bytes taken[2] = {key, text("taken")};
    REFUSED(TENURE_HELD, tenure_session_acquire_all(session, taken, 2, NULL, 0, o.tokens, err));
  }

  BAD_HANDLE(tenure_session, s, session, stale_session, tenure_session_acquire_async(s, key, NULL, 0, never_called, NULL, &o.number, err));
  BAD_KEY(tenure_session_acquire_async(session, k, NULL, 0, never_called, NULL, &o.number, err));
  BAD_OPTS(tenure_session_acquire_async(session, key, p, 0, never_called, NULL, &o.number, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_session_acquire_async(session, key, NULL, 0, NULL, NULL, &o.number, err));
  BAD_HANDLE(tenure_session, s, session, stale_session, tenure_session_release_async(s, key, 1, never_called, NULL, err));
  BAD_KEY(tenure_session_release_async(session, k, 1, never_called, NULL, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_session_release_async(session, key, 1, NULL, NULL, err));
  BAD_HANDLE(tenure_session, s, session, stale_session, tenure_session_cancel(s, 1, &o.flag, err));

  BAD_HANDLE(tenure_session, s, session, stale_session, tenure_session_release(s, key, 1, err));
  BAD_KEY(tenure_session_release(session, k, 1, err));
  REFUSED(TENURE_NOT_HOLDER, tenure_session_release(session, key, 0, err));
  REFUSED(TENURE_NOT_HOLDER, tenure_session_release(session, text("taken"), UINT64_MAX, err));
  BAD_HANDLE(tenure_session, s, session, stale_session, tenure_session_renew(s, key, 1, 1000, &o.remaining, err));
  BAD_KEY(tenure_session_renew(session, k, 1, 1000, &o.remaining, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_session_renew(session, key, 1, 0, &o.remaining, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_session_renew(session, key, 1, UINT64_MAX, &o.remaining, err));
  REFUSED(TENURE_NOT_HOLDER, tenure_session_renew(session, key, 1, 1000, &o.remaining, err));
  BAD_HANDLE(tenure_session, s, session, stale_session, tenure_session_release_all(s, &o.number, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_session_release_all(session, (uint64_t *)((char *)&o.number + 1), err));
  BAD_HANDLE(tenure_session, s, session, stale_session, tenure_session_force_release(s, key, 0, &o.flag, err));
  BAD_KEY(tenure_session_force_release(session, k, 0, &o.flag, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_session_force_release(session, text("taken"), UINT64_MAX, &o.flag, err));
  BAD_HANDLE(tenure_session, s, session, stale_session,
             tenure_session_holder(s, key, o.buf, sizeof o.buf, &o.needed, &o.token, &o.remaining, err));
  BAD_KEY(tenure_session_holder(session, k, o.buf, sizeof o.buf, &o.needed, &o.token, &o.remaining, err));
  BAD_BUFFER(b, l, n, tenure_session_holder(session, key, b, l, n, &o.token, &o.remaining, err));
  BAD_HANDLE(tenure_session, s, session, stale_session, tenure_session_remaining(s, key, 1, &o.remaining, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_session_remaining(session, key, 1, NULL, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_session_remaining(session, huge, 1, &o.remaining, err));

  BAD_HANDLE(tenure_session, s, session, stale_session, tenure_session_revoke(s, key, 0, empty, 0, &o.number, err));
  BAD_KEY(tenure_session_revoke(session, k, 0, empty, 0, &o.number, err));
  BAD_TEXT(tenure_session_revoke(session, key, 0, t, 0, &o.number, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_session_revoke(session, key, 0, empty, UINT64_MAX - 1, &o.number, err));
  BAD_HANDLE(tenure_session, s, session, stale_session, tenure_session_contenders(s, key, o.buf, sizeof o.buf, &o.needed, err));
  BAD_KEY(tenure_session_contenders(session, k, o.buf, sizeof o.buf, &o.needed, err));
  BAD_BUFFER(b, l, n, tenure_session_contenders(session, key, b, l, n, err));
  BAD_HANDLE(tenure_session, s, session, stale_session,
             tenure_session_holder_local(s, key, o.buf, sizeof o.buf, &o.needed, &o.token, &o.number, &o.remaining, err));
  BAD_KEY(tenure_session_holder_local(session, k, o.buf, sizeof o.buf, &o.needed, &o.token, &o.number, &o.remaining, err));
  BAD_BUFFER(b, l, n, tenure_session_holder_local(session, key, b, l, n, &o.token, &o.number, &o.remaining, err));
  BAD_HANDLE(tenure_session, s, session, stale_session, tenure_session_annotate(s, key, 1, empty, err));
  BAD_KEY(tenure_session_annotate(session, k, 1, empty, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_session_annotate(session, key, 1, huge, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_session_annotate(session, key, 1, null_with_length, err));
  REFUSED(TENURE_NOT_HOLDER, tenure_session_annotate(session, key, 1, empty, err));
  BAD_HANDLE(tenure_session, s, session, stale_session, tenure_session_ensure(s, key, 1, 0, &o.remaining, err));
  BAD_KEY(tenure_session_ensure(session, k, 1, 0, &o.remaining, err));
  REFUSED(TENURE_EXPIRED, tenure_session_ensure(session, key, 1, 0, &o.remaining, err));
  BAD_HANDLE(tenure_session, s, session, stale_session, tenure_session_loss(s, 1, o.buf, sizeof o.buf, &o.needed, err));
  BAD_BUFFER(b, l, n, tenure_session_loss(session, 1, b, l, n, err));
  BAD_HANDLE(tenure_session, s, session, stale_session, tenure_session_secret(s, (uint8_t *)o.buf, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_session_secret(session, NULL, err));
  BAD_HANDLE(tenure_session, s, session, stale_session, tenure_session_inherited(s, o.buf, sizeof o.buf, &o.needed, err));
  BAD_BUFFER(b, l, n, tenure_session_inherited(session, b, l, n, err));
  {
    static const char bytes16[16] = "0123456789abcdef";
    const tenure_bytes secret = {bytes16, 16}, few = {bytes16, 15};
    BAD_HANDLE(tenure_node, n, node, stale_node, tenure_node_take_over(n, text("t"), 1000, secret, true, &o.session, err));
    BAD_TEXT(tenure_node_take_over(node, t, 1000, secret, true, &o.session, err));
    REFUSED(TENURE_INVALID_ARGUMENT, tenure_node_take_over(node, text("t"), 0, secret, true, &o.session, err));
    REFUSED(TENURE_INVALID_ARGUMENT, tenure_node_take_over(node, text("t"), 1000, few, true, &o.session, err));
    REFUSED(TENURE_INVALID_ARGUMENT, tenure_node_take_over(node, text("t"), 1000, huge, true, &o.session, err));
    REFUSED(TENURE_INVALID_ARGUMENT, tenure_node_take_over(node, text("t"), 1000, secret, true, NULL, err));
    REFUSED(TENURE_EXPIRED, tenure_node_take_over(node, text("t"), 1000, secret, true, &o.session, err));
  }
  BAD_HANDLE(tenure_node, n, node, stale_node, tenure_node_watch(n, key, 0, never_told, NULL, &o.number, err));
  BAD_KEY(tenure_node_watch(node, k, 0, never_told, NULL, &o.number, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_node_watch(node, key, 2, never_told, NULL, &o.number, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_node_watch(node, key, 0, NULL, NULL, &o.number, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_node_watch(node, huge, TENURE_WATCH_PREFIX, never_told, NULL, &o.number, err));
  BAD_HANDLE(tenure_node, n, node, stale_node, tenure_node_unwatch(n, 1, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_node_unwatch(node, 99, err));
  BAD_HANDLE(tenure_session, s, session, stale_session, tenure_election_campaign(s, key, empty, 1000, 0, &o.token, err));
  BAD_KEY(tenure_election_campaign(session, k, empty, 1000, 0, &o.token, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_election_campaign(session, key, huge, 1000, 0, &o.token, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_election_campaign(session, key, empty, 0, 0, &o.token, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_election_campaign(session, key, empty, 1000, 0, NULL, err));
  REFUSED(TENURE_HELD, tenure_election_campaign(session, text("taken"), empty, 1000, 0, &o.token, err));
  BAD_HANDLE(tenure_session, s, session, stale_session, tenure_election_proclaim(s, key, 1, empty, err));
  BAD_KEY(tenure_election_proclaim(session, k, 1, empty, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_election_proclaim(session, key, 1, huge, err));
  REFUSED(TENURE_NOT_HOLDER, tenure_election_proclaim(session, key, 1, empty, err));
  BAD_HANDLE(tenure_session, s, session, stale_session, tenure_election_leader(s, key, o.buf, sizeof o.buf, &o.needed, &o.token, err));
  BAD_KEY(tenure_election_leader(session, k, o.buf, sizeof o.buf, &o.needed, &o.token, err));
  BAD_BUFFER(b, l, n, tenure_election_leader(session, key, b, l, n, &o.token, err));
  BAD_HANDLE(tenure_session, s, session, stale_session, tenure_election_resign(s, key, 1, err));
  BAD_KEY(tenure_election_resign(session, k, 1, err));
  REFUSED(TENURE_NOT_HOLDER, tenure_election_resign(session, key, 1, err));

  /* No error to report to: still nothing happens. */
  tenure_session nobody = {12345};
  tenure_session_release_later(nobody, key, 1);
  tenure_session_release_later(session, null_with_length, 1);
  tenure_session_release_later(session, huge, 1);
  tenure_session_release_later(session, text("taken"), 0);
  check_unchanged(__LINE__);
}

static void gates(void) {
  const tenure_config none = {0}, forged = {99};
  BAD_HANDLE(tenure_node, n, node, stale_node, tenure_gate_open(n, text("h"), none, &o.gate, err));
  BAD_TEXT(tenure_gate_open(node, t, none, &o.gate, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_gate_open(node, empty, none, &o.gate, err));
  REFUSED(TENURE_BAD_HANDLE, tenure_gate_open(node, text("h"), forged, &o.gate, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_gate_open(node, text("h"), none, NULL, err));
  REFUSED(TENURE_MISUSE, tenure_gate_open(node, text("g"), none, &o.gate, err));
  BAD_HANDLE(tenure_gate, g, gate, stale_gate, tenure_gate_cell_of(g, &o.cell, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_gate_cell_of(gate, NULL, err));
  BAD_HANDLE(tenure_gate, g, gate, stale_gate, tenure_gate_mode(g, &o.word, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_gate_mode(gate, NULL, err));
  BAD_HANDLE(tenure_gate, g, gate, stale_gate, tenure_gate_set_mode(g, text("disabled"), err));
  BAD_TEXT(tenure_gate_set_mode(gate, t, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_gate_set_mode(gate, text("off"), err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_gate_set_mode(gate, empty, err));

  tenure_heartbeat beat = TENURE_HEARTBEAT_INIT;
  beat.epoch = 5;
  beat.ttl_ms = 1000;
  BAD_HANDLE(tenure_gate, g, gate, stale_gate, tenure_gate_heartbeat(g, &beat, &o.reply, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_gate_heartbeat(gate, NULL, &o.reply, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_gate_heartbeat(gate, &beat, NULL, err));
  for (int i = 0; i < 8; i++) {
    tenure_heartbeat bad = beat;
    switch (i) {
      case 0: bad.struct_size = 0; break;
      case 1: bad.struct_size = sizeof bad - 1; break;
      case 2: bad.struct_size = UINT32_MAX; break;
      case 3: bad.flags = 2; break;
      case 4: bad.reserved[0] = 1; break;
      case 5: bad.ttl_ms = 0; break;
      case 6: bad.epoch = 0; break;
      case 7: bad.epoch = UINT64_MAX; break;
    }
    REFUSED(TENURE_INVALID_ARGUMENT, tenure_gate_heartbeat(gate, &bad, &o.reply, err));
  }
  o.reply.struct_size = canary.reply.struct_size = 8;
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_gate_heartbeat(gate, &beat, &o.reply, err));
  o.reply.struct_size = canary.reply.struct_size = sizeof o.reply;

  BAD_HANDLE(tenure_gate, g, gate, stale_gate, tenure_gate_next_nonce(g, &o.number, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_gate_next_nonce(gate, NULL, err));
  BAD_HANDLE(tenure_gate, g, gate, stale_gate, tenure_gate_observe(g, 1, text("b"), err));
  BAD_TEXT(tenure_gate_observe(gate, 1, t, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_gate_observe(gate, UINT64_MAX, text("b"), err));
  BAD_HANDLE(tenure_gate, g, gate, stale_gate, tenure_gate_reset(g, err));
  BAD_HANDLE(tenure_gate, g, gate, stale_gate, tenure_gate_beat(g, err));
  BAD_HANDLE(tenure_node, n, node, stale_node, tenure_node_beat(n, err));
  BAD_HANDLE(tenure_gate, g, gate, stale_gate, tenure_gate_hold(g, key, 1000, err));
  BAD_KEY(tenure_gate_hold(gate, k, 1000, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_gate_hold(gate, key, 0, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_gate_hold(gate, key, UINT64_MAX, err));
  BAD_HANDLE(tenure_gate, g, gate, stale_gate, tenure_gate_drain(g, 0, err));
  REFUSED(TENURE_MISUSE, tenure_gate_cancel_drain(gate, err));
  BAD_HANDLE(tenure_gate, g, gate, stale_gate, tenure_gate_cancel_drain(g, err));
  REFUSED(TENURE_MISUSE, tenure_gate_resign(gate, 0, err));
  BAD_HANDLE(tenure_gate, g, gate, stale_gate, tenure_gate_resign(g, 0, err));
  REFUSED(TENURE_MISUSE, tenure_gate_resign_to(gate, text("b"), 0, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_gate_resign_to(gate, empty, 0, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_gate_resign_to(gate, not_utf8, 0, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_gate_resign_to(gate, null_with_length, 0, err));
  BAD_HANDLE(tenure_gate, g, gate, stale_gate, tenure_gate_resign_to(g, text("b"), 0, err));
  BAD_HANDLE(tenure_gate, g, gate, stale_gate, tenure_gate_status(g, o.buf, sizeof o.buf, &o.needed, err));
  BAD_BUFFER(b, l, n, tenure_gate_status(gate, b, l, n, err));
  BAD_HANDLE(tenure_gate, g, gate, stale_gate, tenure_gate_close(g, err));

  /* The functions behind tenure_gate.h, with what the inline code never passes. */
  tenure_gate_permit permit;
  memset(&permit, 0, sizeof permit);
  CHECK(tenure_gate_enter_slow(NULL, TENURE_GATE_CLIENT, &permit) != TENURE_GATE_GRANTED);
  CHECK(tenure_gate_enter_slow(NULL, TENURE_GATE_CLIENT, NULL) != TENURE_GATE_GRANTED);
  CHECK(tenure_gate_check_slow(NULL, NULL) != TENURE_GATE_GRANTED);
  CHECK(tenure_gate_finish_slow(NULL) == TENURE_GATE_UNCERTAIN);
  CHECK(tenure_gate_finish_slow(&permit) == TENURE_GATE_UNCERTAIN);
  CHECK(tenure_gate_precommit_slow(NULL) == TENURE_GATE_UNCERTAIN);
  CHECK(tenure_gate_precommit_slow(&permit) == TENURE_GATE_UNCERTAIN);
  tenure_gate_leave_slow(NULL);
  tenure_gate_leave_slow(&permit);
  const struct tenure_gate_cell *cell;
  OK(tenure_gate_cell_of(gate, &cell, err));
  CHECK(tenure_gate_enter_slow(cell, 77, &permit) != TENURE_GATE_GRANTED);
  CHECK(tenure_gate_enter_slow(cell, TENURE_GATE_CLIENT, NULL) != TENURE_GATE_GRANTED);
  CHECK(tenure_gate_thread_index() != 0);
  CHECK(strcmp(tenure_gate_reason_name(TENURE_GATE_EXPIRED), "expired") == 0);
  CHECK(strcmp(tenure_gate_reason_name(-1), "unknown") == 0 && strcmp(tenure_gate_reason_name(0), "granted") == 0);
}

static void rest(void) {
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_log_set(6, NULL, NULL, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_log_set(-1, NULL, NULL, err));
  CHECK(strcmp(tenure_status_name(TENURE_HELD), "TENURE_HELD") == 0);
  CHECK(strcmp(tenure_status_name(12345), "TENURE_?") == 0 && strcmp(tenure_status_name(INT32_MIN), "TENURE_?") == 0);
  CHECK(strcmp(tenure_status_text(-1), "unknown status") == 0 && strlen(tenure_status_text(TENURE_FORKED)) > 0);
  CHECK(tenure_status_is(TENURE_HELD, TENURE_IS_RETRIABLE) && !tenure_status_is(TENURE_HELD, TENURE_IS_FATAL));
  CHECK(!tenure_status_is(TENURE_HELD, 0) && !tenure_status_is(-5, TENURE_IS_RETRIABLE) && !tenure_status_is(TENURE_HELD, UINT32_MAX));
  CHECK(strcmp(tenure_version_string(), TENURE_VERSION_STRING) == 0 && tenure_version_number() == TENURE_VERSION_NUMBER);
  CHECK(tenure_abi_version() == TENURE_ABI_VERSION);
  /* An error that is misaligned is not written to; NULL is accepted everywhere. */
  CHECK(tenure_node_session(node, NULL, NULL) == TENURE_INVALID_ARGUMENT);
  CHECK(tenure_session_try_acquire(session, huge, NULL, NULL, NULL) == TENURE_INVALID_ARGUMENT);
  /* What names nothing can be freed, also twice. */
  const uint64_t ids[] = {0, 1, UINT64_MAX, stale_config, stale_node, stale_session, stale_gate};
  for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
    tenure_config c = {ids[i]};
    tenure_node n = {ids[i]};
    tenure_session s = {ids[i]};
    tenure_gate g = {ids[i]};
    tenure_config_free(c);
    tenure_node_free(n);
    tenure_session_free(s);
    tenure_gate_free(g);
  }
  /* A handle of another type frees nothing, and the node's own session stays. */
  tenure_node as_node = {session.id};
  tenure_session as_session = {node.id};
  tenure_node_free(as_node);
  tenure_session_free(as_session);
  tenure_session_free(session);
  check_unchanged(__LINE__);
  OK(tenure_session_release_all(session, NULL, err));
}

int main(void) {
  memset(long_text, 'x', sizeof long_text);
  null_with_length.ptr = NULL, null_with_length.len = 5;
  empty.ptr = NULL, empty.len = 0;
  too_long.ptr = long_text, too_long.len = 1025;
  huge.ptr = "k", huge.len = SIZE_MAX;
  not_utf8.ptr = "\xff\xfe", not_utf8.len = 2;
  key = text("k");
  memset(&o, 0xa5, sizeof o);
  o.reply.struct_size = sizeof o.reply;
  memcpy(&canary, &o, sizeof o);

  const tenure_config none = {0};
  OK(tenure_config_new(&config, err));
  node = open_node("node_id", "here", NULL);
  session = session_of(node);
  OK(tenure_gate_open(node, text("g"), none, &gate, err));
  {
    tenure_config c;
    tenure_session s;
    tenure_gate g;
    tenure_node n = open_node(NULL);
    OK(tenure_config_new(&c, err));
    OK(tenure_session_open(node, text("gone"), 10000, &s, err));
    OK(tenure_gate_open(node, text("gone"), none, &g, err));
    stale_config = c.id, stale_session = s.id, stale_gate = g.id, stale_node = n.id;
    tenure_config_free(c);
    OK(tenure_session_close(s, err));
    tenure_session_free(s);
    OK(tenure_gate_close(g, err));
    tenure_gate_free(g);
    OK(tenure_node_close(n, TENURE_FOREVER, err));
    tenure_node_free(n);
  }
  uint64_t token;
  OK(tenure_session_try_acquire(session, text("taken"), NULL, &token, err));
  table(before, sizeof before);

  configs();
  nodes();
  sessions();
  gates();
  rest();

  tenure_gate_free(gate);
  OK(tenure_node_close(node, TENURE_FOREVER, err));
  CHECK_STATUS(TENURE_CLOSED, tenure_session_try_acquire(session, key, NULL, &token, err));
  OK(tenure_node_close(node, TENURE_FOREVER, err));
  tenure_node_free(node);
  CHECK_STATUS(TENURE_BAD_HANDLE, tenure_session_try_acquire(session, key, NULL, &token, err));
  tenure_config_free(config);
  CHECK(refusals > 300);
  printf("%d refusals\n", refusals);
  return 0;
}
