/* As panics.c, for the granter's functions: the node is poisoned, and the process lives. Needs a library with the feature `inject`. */
#include "common.h"

#define POISONS(call)                                                                         \
  do {                                                                                        \
    node = open_node(NULL);                                                                   \
    OK(tenure_granter_open(node, text("lock"), 60000, 0, &granter, err));                     \
    tenure_test_inject(1, 0);                                                                 \
    CHECK_STATUS(TENURE_PANIC, call);                                                         \
    tenure_test_inject(0, 0);                                                                 \
    CHECK_STATUS(TENURE_POISONED, tenure_granter_promote(granter, text("x"), text("a"), 0, &number, err)); \
    tenure_granter_free(granter);                                                             \
    OK(tenure_node_close(node, TENURE_FOREVER, err));                                         \
    tenure_node_free(node);                                                                   \
  } while (0)

int main(void) {
  const tenure_bytes empty = {NULL, 0};
  tenure_node node;
  tenure_granter granter, other;
  tenure_heartbeat h;
  uint64_t number;
  const uint64_t nonce = 1;
  size_t needed;
  char buf[256];
  POISONS(tenure_granter_open(node, text("k"), 1000, 0, &other, err));
  POISONS(tenure_granter_term(granter, &number, NULL, err));
  POISONS(tenure_granter_promote(granter, text("o"), text("a"), 0, &number, err));
  POISONS(tenure_granter_heartbeat(granter, text("o"), 1000, &nonce, &h, buf, sizeof buf, &needed, err));
  POISONS(tenure_granter_acknowledge(granter, text("o"), 1, err));
  POISONS(tenure_granter_resign(granter, err));
  POISONS(tenure_node_promises(node, empty, 10, buf, sizeof buf, &needed, err));

  /* What was not freed because of it still can be. */
  node = open_node(NULL);
  OK(tenure_granter_open(node, text("lock"), 60000, 0, &granter, err));
  tenure_test_inject(1, 0);
  tenure_granter_free(granter);
  tenure_test_inject(0, 0);
  OK(tenure_granter_term(granter, &number, NULL, err));
  tenure_granter_free(granter);
  OK(tenure_node_close(node, TENURE_FOREVER, err));
  tenure_node_free(node);
  return 0;
}
