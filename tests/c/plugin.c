/* A lock service written in C, over one table in memory, and nodes over it: tests/python/nativeservice.py drives them. */
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tenure.h"

#define EXPORT __attribute__((visibility("default")))

struct row {
  struct row *next;
  size_t len;
  unsigned char key[1024];
  char node[72];
  uint64_t token, end_ms;
};

struct service {
  char node[72];
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct row *rows;
static uint64_t last_token;
static int live;

static uint64_t now_ms(clockid_t id) {
  struct timespec t;
  clock_gettime(id, &t);
  return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

/* The row of a key, made when it is not there: rows are never freed. */
static struct row *row_of(tenure_bytes key) {
  struct row *r;
  for (r = rows; r != NULL; r = r->next)
    if (r->len == key.len && memcmp(r->key, key.ptr, key.len) == 0) return r;
  r = calloc(1, sizeof *r);
  if (r == NULL) return NULL;
  memcpy(r->key, key.ptr, key.len);
  r->len = key.len;
  r->next = rows;
  rows = r;
  return r;
}

static bool held(const struct row *r) { return r->end_ms > now_ms(CLOCK_MONOTONIC); }

static int32_t take(struct service *s, struct row *r, uint64_t ttl_ms, uint64_t *out_token) {
  if (r == NULL) return TENURE_LIMIT;
  if (held(r)) {
    *out_token = r->token;
    return TENURE_HELD;
  }
  memcpy(r->node, s->node, sizeof r->node);
  r->token = ++last_token;
  r->end_ms = now_ms(CLOCK_MONOTONIC) + ttl_ms;
  *out_token = r->token;
  return TENURE_OK;
}

static int32_t try_acquire(void *user, tenure_bytes key, uint64_t ttl_ms, uint64_t timeout_ms, uint64_t *out_token, tenure_error *err) {
  (void)timeout_ms;
  if (key.len >= 5 && memcmp(key.ptr, "fails", 5) == 0) {
    strcpy(err->message, "the table is full");
    return TENURE_LIMIT;
  }
  if (key.len >= 5 && memcmp(key.ptr, "wrong", 5) == 0) return 12345;
  pthread_mutex_lock(&mutex);
  const int32_t status = take(user, row_of(key), ttl_ms, out_token);
  pthread_mutex_unlock(&mutex);
  return status;
}

static int32_t acquire(void *user, tenure_bytes key, uint64_t ttl_ms, uint64_t wait_ms, uint64_t *out_token, tenure_error *err) {
  (void)err;
  const uint64_t end = now_ms(CLOCK_MONOTONIC) + wait_ms;
  pthread_mutex_lock(&mutex);
  struct row *r = row_of(key);
  int32_t status;
  while ((status = take(user, r, ttl_ms, out_token)) == TENURE_HELD && now_ms(CLOCK_MONOTONIC) < end) {
    /* Rows run out without a signal: looked at again after 20 ms at the latest. */
    const uint64_t until = now_ms(CLOCK_REALTIME) + 20;
    const struct timespec at = {(time_t)(until / 1000u), (long)(until % 1000u) * 1000000l};
    pthread_cond_timedwait(&changed, &mutex, &at);
  }
  pthread_mutex_unlock(&mutex);
  return status;
}

static int32_t end_or_extend(tenure_bytes key, uint64_t token, uint64_t ttl_ms) {
  pthread_mutex_lock(&mutex);
  struct row *r = row_of(key);
  int32_t status = TENURE_NOT_HOLDER;
  if (r != NULL && held(r) && r->token == token) {
    r->end_ms = ttl_ms == 0 ? 0 : now_ms(CLOCK_MONOTONIC) + ttl_ms;
    status = TENURE_OK;
    pthread_cond_broadcast(&changed);
  }
  pthread_mutex_unlock(&mutex);
  return status;
}

static int32_t release(void *user, tenure_bytes key, uint64_t token, uint64_t timeout_ms, tenure_error *err) {
  (void)user, (void)timeout_ms, (void)err;
  return end_or_extend(key, token, 0);
}

static int32_t renew(void *user, tenure_bytes key, uint64_t token, uint64_t ttl_ms, uint64_t timeout_ms, tenure_error *err) {
  (void)user, (void)timeout_ms, (void)err;
  return end_or_extend(key, token, ttl_ms);
}

static int32_t holder(void *user, tenure_bytes key, uint64_t timeout_ms, tenure_lock_holder *out, tenure_error *err) {
  (void)user, (void)timeout_ms, (void)err;
  int32_t status = TENURE_NOT_HOLDER;
  pthread_mutex_lock(&mutex);
  const struct row *r = row_of(key);
  if (r != NULL && held(r)) {
    memcpy(out->node, r->node, sizeof r->node);
    out->token = r->token;
    out->remaining_ms = r->end_ms - now_ms(CLOCK_MONOTONIC);
    status = TENURE_OK;
  }
  pthread_mutex_unlock(&mutex);
  return status;
}

static void free_service(void *user) {
  __atomic_sub_fetch(&live, 1, __ATOMIC_SEQ_CST);
  free(user);
}

/* Services that the library has not given back. */
EXPORT int plugin_live(void) { return __atomic_load_n(&live, __ATOMIC_SEQ_CST); }

EXPORT int32_t plugin_open(const char *node_id, tenure_node *out_node, tenure_error *err) {
  struct service *s = calloc(1, sizeof *s);
  if (s == NULL) return TENURE_LIMIT;
  strncpy(s->node, node_id, sizeof s->node - 1);
  tenure_lock_service table = TENURE_LOCK_SERVICE_INIT;
  table.capabilities = TENURE_LOCK_SERVICE_FENCING | TENURE_LOCK_SERVICE_LINEARIZABLE_READS;
  table.node_id.ptr = node_id;
  table.node_id.len = strlen(node_id);
  table.user = s;
  table.try_acquire = try_acquire;
  table.acquire = acquire;
  table.release = release;
  table.renew = renew;
  table.holder = holder;
  table.free = free_service;
  const tenure_config none = {0};
  __atomic_add_fetch(&live, 1, __ATOMIC_SEQ_CST);
  const int32_t status = tenure_node_open_with_service(none, &table, out_node, err);
  if (status != TENURE_OK) free_service(s);
  return status;
}
