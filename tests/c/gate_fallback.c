/* A kernel without membarrier (seccomp refuses it here): writers fence, and a drain is as exact as with it. */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common.h"
#include "tenure_gate.h"

static const tenure_gate_cell *cell;
static uint64_t written;
static int stop, drained, late;

static void *writer(void *unused) {
  (void)unused;
  while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
    tenure_gate_permit permit;
    if (tenure_gate_enter(cell, &permit) != TENURE_GATE_GRANTED) continue;
    /* Under a permit: never after the drain has returned. */
    if (__atomic_load_n(&drained, __ATOMIC_SEQ_CST)) __atomic_store_n(&late, 1, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&written, 1, __ATOMIC_RELAXED);
    if (__atomic_load_n(&drained, __ATOMIC_SEQ_CST)) __atomic_store_n(&late, 1, __ATOMIC_SEQ_CST);
    (void)tenure_gate_finish(&permit);
  }
  return NULL;
}

int main(void) {
  struct sock_filter rules[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_membarrier, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const struct sock_fprog program = {sizeof rules / sizeof rules[0], rules};
  CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
  CHECK(syscall(SYS_membarrier, 0, 0, 0) == -1 && errno == ENOSYS);

  tenure_node node = open_node(NULL);
  const tenure_config none = {0};
  tenure_gate gate;
  char json[4096];
  size_t needed;
  OK(tenure_gate_open(node, text("master"), none, &gate, err));
  OK(tenure_gate_cell_of(gate, &cell, err));
  OK(tenure_gate_status(gate, json, sizeof json, &needed, err));
  CHECK(strstr(json, "\"barrier\":\"fence\"") != NULL);

  pthread_t threads[3];
  for (size_t i = 0; i < 3; i++) CHECK(pthread_create(&threads[i], NULL, writer, NULL) == 0);
  for (uint64_t epoch = 1; epoch <= 50; epoch++) {
    tenure_heartbeat h = TENURE_HEARTBEAT_INIT;
    tenure_heartbeat_reply r = TENURE_HEARTBEAT_REPLY_INIT;
    const uint64_t before = __atomic_load_n(&written, __ATOMIC_RELAXED);
    OK(tenure_gate_next_nonce(gate, &h.nonce, err));
    h.flags = TENURE_HEARTBEAT_NONCE, h.epoch = epoch, h.ttl_ms = 60000;
    __atomic_store_n(&drained, 0, __ATOMIC_SEQ_CST);
    OK(tenure_gate_heartbeat(gate, &h, &r, err));
    CHECK(r.accepted);
    EVENTUALLY(__atomic_load_n(&written, __ATOMIC_RELAXED) > before + 100);
    OK(tenure_gate_drain(gate, 60000, err));
    __atomic_store_n(&drained, 1, __ATOMIC_SEQ_CST);
  }
  __atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
  for (size_t i = 0; i < 3; i++) CHECK(pthread_join(threads[i], NULL) == 0);
  CHECK(!late);
  tenure_gate_free(gate);
  OK(tenure_node_close(node, TENURE_FOREVER, err));
  tenure_node_free(node);
  return 0;
}
