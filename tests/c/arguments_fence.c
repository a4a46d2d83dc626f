/* As arguments.c, for the functions about epochs at a resource: each bad argument has its typed error, and no output is written. */
#include "common.h"

static struct {
  tenure_epoch_record record;
  tenure_epoch_fence fence;
  tenure_epoch_pass pass;
  uint64_t epoch;
  bool raised;
} o, canary;

#define REFUSED(want, call)                              \
  do {                                                   \
    CHECK_STATUS(want, call);                            \
    CHECK(memcmp(&o, &canary, sizeof o) == 0);           \
  } while (0)

int main(int argc, char **argv) {
  static char long_text[5000];
  const tenure_bytes none = {NULL, 0}, null_with_length = {NULL, 5}, huge = {long_text, SIZE_MAX}, not_utf8 = {"\xff\xfe", 2};
  const tenure_bytes too_long = {long_text, sizeof long_text};
  const tenure_bytes names[] = {null_with_length, huge, not_utf8, {long_text, 300}};
  char path[1024];
  tenure_epoch_fence fence;
  tenure_epoch_pass pass;
  memset(&canary, 0x5a, sizeof canary);
  memset(&o, 0x5a, sizeof o);
  memset(long_text, 'x', sizeof long_text);
  CHECK(argc == 2);
  snprintf(path, sizeof path, "%s/epochs", argv[1]);

  REFUSED(TENURE_INVALID_ARGUMENT, tenure_epoch_admit(none, 1, NULL, &o.raised, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_epoch_admit(none, 0, &o.record, &o.raised, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_epoch_admit(none, UINT64_MAX, &o.record, &o.raised, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_epoch_admit(null_with_length, 1, &o.record, &o.raised, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_epoch_admit(huge, 1, &o.record, &o.raised, err));
  REFUSED(TENURE_DATA_CORRUPT, tenure_epoch_admit(text("not a record"), 1, &o.record, &o.raised, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_epoch_read(none, NULL, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_epoch_read(none, (uint64_t *)((char *)&o.epoch + 1), err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_epoch_read(huge, &o.epoch, err));
  REFUSED(TENURE_DATA_CORRUPT, tenure_epoch_read(text("x"), &o.epoch, err));

  const tenure_bytes paths[] = {none, null_with_length, huge, too_long, {"a\0b", 3}, text("/"), text("..")};
  for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
    REFUSED(TENURE_INVALID_ARGUMENT, tenure_epoch_fence_create(paths[i], err));
    REFUSED(TENURE_INVALID_ARGUMENT, tenure_epoch_fence_open(paths[i], &o.fence, err));
  }
  REFUSED(TENURE_IO, tenure_epoch_fence_create(text("/no/such/folder/fence"), err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_epoch_fence_open(text(path), NULL, err));
  OK(tenure_epoch_fence_create(text(path), err));
  OK(tenure_epoch_fence_open(text(path), &fence, err));
  OK(tenure_epoch_fence_enter(fence, none, 1, 0, &pass, err));
  const uint64_t ids[] = {0, UINT64_MAX, fence.id ^ 1, fence.id ^ (UINT64_C(1) << 24), fence.id ^ (UINT64_C(1) << 32), pass.id};
  for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
    const tenure_epoch_fence f = {ids[i]};
    const tenure_epoch_pass p = {ids[i] == pass.id ? fence.id : ids[i]};
    REFUSED(TENURE_BAD_HANDLE, tenure_epoch_fence_highest(f, none, &o.epoch, err));
    REFUSED(TENURE_BAD_HANDLE, tenure_epoch_fence_enter(f, none, 1, 0, &o.pass, err));
    tenure_epoch_fence_free(f);
    tenure_epoch_pass_free(p);
  }
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    REFUSED(TENURE_INVALID_ARGUMENT, tenure_epoch_fence_enter(fence, names[i], 1, 0, &o.pass, err));
  }
  for (size_t i = 0; i < 3; i++) REFUSED(TENURE_INVALID_ARGUMENT, tenure_epoch_fence_highest(fence, names[i], &o.epoch, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_epoch_fence_highest(fence, none, NULL, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_epoch_fence_enter(fence, none, 0, 0, &o.pass, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_epoch_fence_enter(fence, none, UINT64_C(1) << 63, 0, &o.pass, err));
  REFUSED(TENURE_INVALID_ARGUMENT, tenure_epoch_fence_enter(fence, none, 1, 0, NULL, err));
  tenure_epoch_pass_free(pass);
  tenure_epoch_fence_free(fence);
  REFUSED(TENURE_BAD_HANDLE, tenure_epoch_fence_highest(fence, none, &o.epoch, err));
  return 0;
}
