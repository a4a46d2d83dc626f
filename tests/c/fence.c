/* Epochs at a resource: the record for hosts with transactions, and the fence with a file of its own. */
#include <sys/wait.h>
#include <unistd.h>

#include "common.h"

static tenure_bytes record_bytes(const tenure_epoch_record *r) {
  tenure_bytes b;
  b.ptr = r->bytes;
  b.len = sizeof r->bytes;
  return b;
}

static void records(void) {
  const tenure_bytes none = {NULL, 0};
  tenure_epoch_record first, second;
  tenure_error e;
  uint64_t epoch = 99;
  bool raised = false;
  OK(tenure_epoch_admit(none, 5, &first, &raised, err));
  CHECK(raised);
  OK(tenure_epoch_admit(record_bytes(&first), 5, &second, &raised, err));
  CHECK(!raised && memcmp(&first, &second, sizeof first) == 0);
  OK(tenure_epoch_admit(record_bytes(&first), 9, &second, NULL, err));
  OK(tenure_epoch_read(record_bytes(&second), &epoch, err));
  CHECK(epoch == 9);
  first = second;
  CHECK(tenure_epoch_admit(record_bytes(&second), 8, &first, &raised, &e) == TENURE_FENCED);
  CHECK(e.token == 9 && memcmp(&first, &second, sizeof first) == 0);
  OK(tenure_epoch_read(none, &epoch, err));
  CHECK(epoch == 0);
  second.bytes[9] ^= 1;
  CHECK_STATUS(TENURE_DATA_CORRUPT, tenure_epoch_admit(record_bytes(&second), 10, &first, NULL, err));
}

int main(int argc, char **argv) {
  tenure_epoch_fence fence, again;
  tenure_epoch_pass old, pass;
  tenure_error e;
  uint64_t epoch = 99;
  char path[1024];
  CHECK(argc == 2);
  snprintf(path, sizeof path, "%s/epochs", argv[1]);
  records();

  CHECK_STATUS(TENURE_DATA_LOST, tenure_epoch_fence_open(text(path), &fence, err));
  OK(tenure_epoch_fence_create(text(path), err));
  CHECK_STATUS(TENURE_MISUSE, tenure_epoch_fence_create(text(path), err));
  OK(tenure_epoch_fence_open(text(path), &fence, err));
  CHECK_STATUS(TENURE_DATA_LOCKED, tenure_epoch_fence_open(text(path), &again, err));

  OK(tenure_epoch_fence_enter(fence, text("wal"), 7, 0, &old, err));
  CHECK(tenure_epoch_fence_enter(fence, text("wal"), 6, 0, &pass, &e) == TENURE_FENCED && e.token == 7);
  /* A write of epoch 7 is under way: the first one of epoch 8 waits for it, and no other of epoch 7 begins. */
  CHECK_STATUS(TENURE_TIMEOUT, tenure_epoch_fence_enter(fence, text("wal"), 8, 1, &pass, err));
  CHECK(tenure_epoch_fence_enter(fence, text("wal"), 7, 0, &pass, &e) == TENURE_FENCED && e.token == 8);
  tenure_epoch_pass_free(old);
  OK(tenure_epoch_fence_enter(fence, text("wal"), 8, 0, &pass, err));
  tenure_epoch_pass_free(pass);
  tenure_epoch_pass_free(pass);

  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) _exit(tenure_epoch_fence_enter(fence, text("wal"), 9, 0, &pass, NULL) == TENURE_FORKED ? 0 : 1);
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && status == 0);

  tenure_epoch_fence_free(fence);
  OK(tenure_epoch_fence_open(text(path), &fence, err));
  OK(tenure_epoch_fence_highest(fence, text("wal"), &epoch, err));
  CHECK(epoch == 8);
  OK(tenure_epoch_fence_highest(fence, text("other"), &epoch, err));
  CHECK(epoch == 0);
  tenure_epoch_fence_free(fence);
  CHECK(remove(path) == 0);
  CHECK_STATUS(TENURE_DATA_LOST, tenure_epoch_fence_open(text(path), &fence, err));
  return 0;
}
