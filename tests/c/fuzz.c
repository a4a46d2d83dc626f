/* 64 threads call everything with handles that are good, freed, of another type, or random. Nothing may crash, hang, or give a status that the
 * library does not know. Usage: fuzz [SEED [CALLS]]; the seed is printed. fuzz - FILE...: one thread, whose choices are the bytes of each file.
 * Built with TENURE_FUZZ_TARGET it is a target of libFuzzer's instead of a program. */
#include <pthread.h>
#include <unistd.h>

#include "common.h"
#include "tenure_gate.h"

#define THREADS 64
#define POOL 48

static uint64_t pool[POOL];

/* Where choices come from: a seed, or bytes, two for each. */
typedef struct {
  uint64_t state;
  const uint8_t *at, *end;
} source;

static uint64_t next(source *s) {
  if (s->at != NULL) {
    s->state = 0;
    for (int i = 0; i < 2 && s->at < s->end; i++) s->state = s->state << 8 | *s->at++;
  }
  uint64_t z = s->state += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

static uint64_t some_handle(source *s) {
  const uint64_t r = next(s);
  const uint64_t h = __atomic_load_n(&pool[r % POOL], __ATOMIC_SEQ_CST);
  switch (r >> 60) {
    case 0: return next(s);
    case 1: return h ^ (UINT64_C(1) << (r >> 32) % 64);
    case 2: return 0;
    default: return h;
  }
}

static void release(uint64_t h) {
  /* One of these it is; the others do nothing. */
  const tenure_config c = {h};
  const tenure_session s = {h};
  const tenure_gate g = {h};
  const tenure_node n = {h};
  tenure_config_free(c);
  tenure_session_free(s);
  tenure_gate_free(g);
  tenure_node_free(n);
}

/* What was in its place is freed, whoever is using it just now. */
static void keep(source *s, uint64_t h) { release(__atomic_exchange_n(&pool[next(s) % POOL], h, __ATOMIC_SEQ_CST)); }

static void on_done(void *user, int32_t status, uint64_t token, const tenure_error *e) { (void)user, (void)status, (void)token, (void)e; }

static void on_event(void *user, const tenure_event *e) { (void)user, (void)e; }

static void call(source *s) {
  static const tenure_config none = {0};
  char name[2] = {(char)('a' + next(s) % 6), 0}, buf[512];
  const tenure_bytes key = text(name);
  const tenure_config c = {some_handle(s)};
  const tenure_node n = {some_handle(s)};
  const tenure_session ses = {some_handle(s)};
  const tenure_gate g = {some_handle(s)};
  tenure_lock_opts opts = TENURE_LOCK_OPTS_INIT;
  tenure_heartbeat h = TENURE_HEARTBEAT_INIT;
  tenure_heartbeat_reply r = TENURE_HEARTBEAT_REPLY_INIT;
  const struct tenure_gate_cell *cell = NULL;
  uint64_t number = 0, tokens[2];
  size_t needed;
  bool flag;
  int fd;
  tenure_error e;
  int32_t status = TENURE_OK;
  opts.ttl_ms = next(s) % 400;
  opts.mode = (int32_t)(next(s) % 4);
  opts.flags = (uint32_t)(next(s) % 5);
  h.epoch = next(s) % 50, h.ttl_ms = next(s) % 3000;
  switch (next(s) % 44) {
    case 0: { tenure_config made; status = tenure_config_new(&made, &e); if (status == TENURE_OK) keep(s, made.id); break; }
    case 1: status = tenure_config_set(c, text("gate.mode"), text("log-only"), &e); break;
    case 2: status = tenure_config_get(c, text("gate.mode"), buf, sizeof buf, &needed, &e); break;
    case 3: status = tenure_config_load(c, text("gate.trust_receipt = true"), &e); break;
    case 4: tenure_config_free(c); break;
    case 5: { tenure_node made; status = tenure_node_open(next(s) % 2 ? c : none, &made, &e); if (status == TENURE_OK) keep(s, made.id); break; }
    case 6: if (next(s) % 8 == 0) status = tenure_node_close(n, next(s) % 20, &e); break;
    case 7: if (next(s) % 4 == 0) tenure_node_free(n); break;
    case 8: { tenure_session made; status = tenure_node_session(n, &made, &e); if (status == TENURE_OK) keep(s, made.id); break; }
    case 9: status = tenure_node_id(n, buf, sizeof buf, &needed, &e); break;
    case 10: status = tenure_node_status(n, buf, sizeof buf, &needed, &e); break;
    case 11: status = tenure_node_locks(n, key, 5, buf, sizeof buf, &needed, &e); break;
    case 12: status = tenure_node_subscribe(n, on_event, NULL, &number, &e); break;
    case 13: status = tenure_node_unsubscribe(n, next(s) % 9, &e); break;
    case 14: status = tenure_node_event_fd(n, &fd, &e); break;
    case 15: status = tenure_node_dispatch(n, 3, &needed, &e); break;
    case 16: case 17: { tenure_session made; status = tenure_session_open(n, key, 200 + next(s) % 400, &made, &e); if (status == TENURE_OK) keep(s, made.id); break; }
    case 18: status = tenure_session_close(ses, &e); break;
    case 19: tenure_session_free(ses); break;
    case 20: case 21: case 22: status = tenure_session_try_acquire(ses, key, next(s) % 2 ? &opts : NULL, &number, &e); break;
    case 23: status = tenure_session_acquire(ses, key, NULL, next(s) % 3, &number, &e); break;
    case 24: { const tenure_bytes two[2] = {key, text("b")}; status = tenure_session_acquire_all(ses, two, 2, &opts, next(s) % 3, tokens, &e); break; }
    case 25: case 26: status = tenure_session_acquire_async(ses, key, NULL, next(s) % 50, on_done, NULL, &number, &e); break;
    case 27: status = tenure_session_release_async(ses, key, next(s) % 5000, on_done, NULL, &e); break;
    case 28: status = tenure_session_cancel(ses, next(s) % 100, &flag, &e); break;
    case 29: status = tenure_session_release(ses, key, next(s) % 5000, &e); break;
    case 30: tenure_session_release_later(ses, key, next(s) % 5000); break;
    case 31: status = tenure_session_renew(ses, key, next(s) % 5000, 200, &number, &e); break;
    case 32: status = tenure_session_release_all(ses, &number, &e); break;
    case 33: status = tenure_session_force_release(ses, key, next(s) % 5, &flag, &e); break;
    case 34: status = tenure_session_holder(ses, key, buf, sizeof buf, &needed, &number, tokens, &e); break;
    case 35: status = tenure_session_remaining(ses, key, next(s) % 5000, &number, &e); break;
    case 36: { tenure_gate made; status = tenure_gate_open(n, key, c, &made, &e); if (status == TENURE_OK) keep(s, made.id); break; }
    case 37: {
      status = tenure_gate_cell_of(g, &cell, &e);
      tenure_gate_permit p;
      if (status == TENURE_OK && tenure_gate_enter(cell, &p) == TENURE_GATE_GRANTED) tenure_gate_finish(&p);
      break;
    }
    case 38: status = tenure_gate_heartbeat(g, &h, &r, &e); break;
    case 39: status = next(s) % 2 ? tenure_gate_observe(g, next(s) % 60, key, &e) : tenure_gate_reset(g, &e); break;
    case 40: status = tenure_gate_hold(g, key, 300, &e); break;
    case 41: status = next(s) % 2 ? tenure_gate_drain(g, next(s) % 3, &e) : tenure_gate_resign(g, next(s) % 3, &e); break;
    case 42: status = next(s) % 2 ? tenure_gate_set_mode(g, text("log-only"), &e) : tenure_gate_status(g, buf, sizeof buf, &needed, &e); break;
    case 43: if (next(s) % 2) { status = tenure_gate_close(g, &e); } else { tenure_gate_free(g); } break;
  }
  CHECK(strcmp(tenure_status_name(status), "TENURE_?") != 0);
  if (status == TENURE_PANIC || status == TENURE_INTERNAL || status == TENURE_POISONED) {
    fprintf(stderr, "%s: %s\n", tenure_status_name(status), e.message);
    abort();
  }
}

static void free_all(void) {
  for (int i = 0; i < POOL; i++) {
    const tenure_node n = {__atomic_exchange_n(&pool[i], 0, __ATOMIC_SEQ_CST)};
    tenure_node_close(n, 1000, NULL);
    release(n.id);
  }
}

/* Not more calls than bytes can choose in a reasonable time. */
int tenure_fuzz_calls(const uint8_t *data, size_t size) {
  source s = {0, data, data + size};
  for (int i = 0; s.at < s.end && i < 400; i++) call(&s);
  free_all();
  return 0;
}

#ifndef TENURE_FUZZ_TARGET
static uint64_t seed;
static unsigned long calls_each = 3000;

static void *run(void *user) {
  source s = {seed + (uint64_t)(uintptr_t)user, NULL, NULL};
  for (unsigned long i = 0; i < calls_each; i++) call(&s);
  return NULL;
}

static void try_file(const char *path) {
  static uint8_t data[1 << 16];
  FILE *file = fopen(path, "rb");
  CHECK(file != NULL);
  const size_t size = fread(data, 1, sizeof data, file);
  fclose(file);
  tenure_fuzz_calls(data, size);
}

int main(int argc, char **argv) {
  if (argc > 1 && strcmp(argv[1], "-") == 0) {
    for (int i = 2; i < argc; i++) try_file(argv[i]);
    return 0;
  }
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  seed = argc > 1 ? strtoull(argv[1], NULL, 10) : (uint64_t)t.tv_nsec * 2654435761u;
  if (argc > 2) calls_each = strtoul(argv[2], NULL, 10);
  printf("seed %" PRIu64 "\n", seed);
  fflush(stdout);
  pthread_t threads[THREADS];
  for (uintptr_t i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, run, (void *)i) == 0);
  for (int i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
  free_all();
  return 0;
}
#endif
