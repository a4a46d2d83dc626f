/* As arguments.c, for the granter's functions: each bad argument has its typed error, and no output is written. */
#include "common.h"

static struct {
  tenure_granter granter;
  tenure_heartbeat heartbeat;
  uint64_t number;
  size_t needed;
  bool flag;
  char buf[128];
} o, canary;

#define REFUSED(want, call)                              \
  do {                                                   \
    CHECK_STATUS(want, call);                            \
    CHECK(memcmp(&o, &canary, sizeof o) == 0);           \
  } while (0)

#define TERM(g) tenure_granter_term(g, &o.number, &o.flag, err)
#define PROMOTE(g, office, holder) tenure_granter_promote(g, office, holder, 0, &o.number, err)
#define HEARTBEAT(g, office, ttl, nonce) \
  tenure_granter_heartbeat(g, office, ttl, nonce, &o.heartbeat, o.buf, sizeof o.buf, &o.needed, err)

int main(void) {
  static char long_text[5000];
  const tenure_bytes empty = {NULL, 0}, null_with_length = {NULL, 5}, huge = {long_text, SIZE_MAX}, not_utf8 = {"\xff\xfe", 2};
  const tenure_bytes keys[] = {empty, null_with_length, huge, {long_text, 1025}};
  const tenure_bytes holders[] = {empty, null_with_length, huge, not_utf8, {long_text, 65}, {"a b", 3}};
  const tenure_bytes office = text("office");
  const uint64_t nonce = 7;
  tenure_node node = open_node(NULL);
  tenure_granter granter;
  uint64_t epoch;
  memset(&canary, 0x5a, sizeof canary);
  memset(&o, 0x5a, sizeof o);
  memset(long_text, 'x', sizeof long_text);

  for (size_t i = 0; i < 4; i++) {
    REFUSED(TENURE_INVALID_ARGUMENT, tenure_granter_open(node, keys[i], 1000, 0, &o.granter, err));
  }
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_granter_open(node, office, 99, 0, &o.granter, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_granter_open(node, office, UINT64_MAX, 0, &o.granter, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_granter_open(node, office, 1000, 0, NULL, err));
  OK(tenure_granter_open(node, text("controller"), 60000, 0, &granter, err));
  OK(tenure_granter_promote(granter, office, text("a"), 0, &epoch, err));

  const uint64_t ids[] = {0, UINT64_MAX, granter.id ^ 1, granter.id ^ (UINT64_C(1) << 24), granter.id ^ (UINT64_C(1) << 32), node.id};
  for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
    const tenure_granter g = {ids[i]};
    const tenure_node n = {ids[i] == node.id ? granter.id : ids[i]};
    REFUSED(TENURE_BAD_HANDLE, TERM(g));
    REFUSED(TENURE_BAD_HANDLE, PROMOTE(g, office, text("a")));
    REFUSED(TENURE_BAD_HANDLE, HEARTBEAT(g, office, 1000, &nonce));
    REFUSED(TENURE_BAD_HANDLE, tenure_granter_acknowledge(g, office, 1, err));
    REFUSED(TENURE_BAD_HANDLE, tenure_granter_resign(g, err));
    REFUSED(TENURE_BAD_HANDLE, tenure_granter_open(n, office, 1000, 0, &o.granter, err));
    REFUSED(TENURE_BAD_HANDLE, tenure_node_promises(n, empty, 10, o.buf, sizeof o.buf, &o.needed, err));
    tenure_granter_free(g);
  }
  for (size_t i = 0; i < 4; i++) {
    REFUSED(TENURE_INVALID_ARGUMENT, PROMOTE(granter, keys[i], text("a")));
    REFUSED(TENURE_INVALID_ARGUMENT, HEARTBEAT(granter, keys[i], 1000, &nonce));
    REFUSED(TENURE_INVALID_ARGUMENT, tenure_granter_acknowledge(granter, keys[i], 1, err));
  }
  for (size_t i = 0; i < sizeof holders / sizeof holders[0]; i++) REFUSED(TENURE_INVALID_ARGUMENT, PROMOTE(granter, office, holders[i]));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_granter_term(granter, NULL, &o.flag, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_granter_promote(granter, office, text("a"), 1, &o.number, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_granter_promote(granter, office, text("a"), UINT64_MAX, &o.number, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_granter_promote(granter, office, text("a"), 0, NULL, err));
  REFUSED(TENURE_INVALID_ARGUMENT, HEARTBEAT(granter, office, 0, &nonce));
  REFUSED(TENURE_INVALID_ARGUMENT, HEARTBEAT(granter, office, UINT64_MAX, &nonce));
  REFUSED(TENURE_INVALID_ARGUMENT, HEARTBEAT(granter, office, 1000, NULL));
  REFUSED(TENURE_INVALID_ARGUMENT, HEARTBEAT(granter, office, 1000, (const uint64_t *)((const char *)&nonce + 1)));
  REFUSED(TENURE_NOT_HOLDER, HEARTBEAT(granter, text("nobody's"), 1000, &nonce));
  REFUSED(TENURE_INVALID_ARGUMENT,
          tenure_granter_heartbeat(granter, office, 1000, &nonce, NULL, o.buf, sizeof o.buf, &o.needed, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_granter_heartbeat(granter, office, 1000, &nonce, &o.heartbeat, NULL, 0, NULL, err));
  REFUSED(TENURE_NOT_HOLDER, tenure_granter_acknowledge(granter, office, 9, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_node_promises(node, huge, 10, o.buf, sizeof o.buf, &o.needed, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_node_promises(node, empty, 10, NULL, 5, &o.needed, err));
  tenure_granter_free(granter);
  REFUSED(TENURE_BAD_HANDLE, TERM(granter));
  OK(tenure_node_close(node, TENURE_FOREVER, err));
  tenure_node_free(node);
  return 0;
}
