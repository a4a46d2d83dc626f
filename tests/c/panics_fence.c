/* As panics.c, for the functions about epochs at a resource. Needs a library with the feature `inject`. */
#include "common.h"

#define PANICS(call)                           \
  do {                                         \
    tenure_test_inject(1, 0);                  \
    CHECK_STATUS(TENURE_PANIC, call);          \
    tenure_test_inject(0, 0);                  \
  } while (0)

int main(int argc, char **argv) {
  const tenure_bytes none = {NULL, 0};
  tenure_epoch_record record;
  tenure_epoch_fence fence, second;
  tenure_epoch_pass pass, other;
  uint64_t epoch;
  char path[1024];
  CHECK(argc == 2);
  snprintf(path, sizeof path, "%s/epochs", argv[1]);
  PANICS(tenure_epoch_admit(none, 1, &record, NULL, err));
  PANICS(tenure_epoch_read(none, &epoch, err));
  PANICS(tenure_epoch_fence_create(text(path), err));
  OK(tenure_epoch_fence_create(text(path), err));
  PANICS(tenure_epoch_fence_open(text(path), &fence, err));
  OK(tenure_epoch_fence_open(text(path), &fence, err));
  PANICS(tenure_epoch_fence_enter(fence, none, 1, 0, &pass, err));
  PANICS(tenure_epoch_fence_highest(fence, none, &epoch, err));
  OK(tenure_epoch_fence_enter(fence, none, 1, 0, &pass, err));
  /* What was not freed because of it still can be. */
  tenure_test_inject(1, 0);
  tenure_epoch_pass_free(pass);
  tenure_test_inject(0, 0);
  CHECK_STATUS(TENURE_TIMEOUT, tenure_epoch_fence_enter(fence, none, 2, 0, &other, err));
  tenure_epoch_pass_free(pass);
  tenure_test_inject(1, 0);
  tenure_epoch_fence_free(fence);
  tenure_test_inject(0, 0);
  CHECK_STATUS(TENURE_DATA_LOCKED, tenure_epoch_fence_open(text(path), &second, err));
  tenure_epoch_fence_free(fence);
  OK(tenure_epoch_fence_open(text(path), &second, err));
  tenure_epoch_fence_free(second);
  return 0;
}
