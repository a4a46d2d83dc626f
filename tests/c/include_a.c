/* With include_b.c: both headers can be included twice, in two units of one program, and in either order. */
#include "tenure.h"
#include "tenure_gate.h"
#include "tenure.h"
#include "tenure_gate.h"

uint32_t version_of_b(void);

int main(void) {
  tenure_lock_opts opts = TENURE_LOCK_OPTS_INIT;
  tenure_heartbeat heartbeat = TENURE_HEARTBEAT_INIT;
  tenure_heartbeat_reply reply = TENURE_HEARTBEAT_REPLY_INIT;
  if (opts.struct_size != sizeof opts || heartbeat.struct_size != sizeof heartbeat || reply.struct_size != sizeof reply) return 1;
  return version_of_b() == tenure_version_number() ? 0 : 1;
}
