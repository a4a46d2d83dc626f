/* The sizes, offsets and numbers that compiled programs rely on. A change here breaks them: raise TENURE_ABI_VERSION. */
#include "tenure.h"

#define IS(what, value) _Static_assert((what) == (value), #what " is not " #value)

IS(sizeof(tenure_bytes), 16);
IS(offsetof(tenure_bytes, len), 8);
IS(sizeof(tenure_config), 8);
IS(sizeof(tenure_node), 8);
IS(sizeof(tenure_session), 8);
IS(sizeof(tenure_gate), 8);

IS(sizeof(tenure_error), 256);
IS(offsetof(tenure_error, struct_size), 0);
IS(offsetof(tenure_error, status), 4);
IS(offsetof(tenure_error, flags), 8);
IS(offsetof(tenure_error, os_errno), 12);
IS(offsetof(tenure_error, token), 16);
IS(offsetof(tenure_error, retry_after_ms), 24);
IS(offsetof(tenure_error, reserved), 32);
IS(offsetof(tenure_error, message), 40);

IS(sizeof(tenure_lock_opts), 88);
IS(offsetof(tenure_lock_opts, flags), 4);
IS(offsetof(tenure_lock_opts, mode), 8);
IS(offsetof(tenure_lock_opts, permits), 12);
IS(offsetof(tenure_lock_opts, permits_limit), 16);
IS(offsetof(tenure_lock_opts, ttl_ms), 24);
IS(offsetof(tenure_lock_opts, lock_delay_ms), 32);
IS(offsetof(tenure_lock_opts, metadata), 40);
IS(offsetof(tenure_lock_opts, reserved), 56);

IS(sizeof(tenure_lock_holder), 96);
IS(offsetof(tenure_lock_holder, token), 8);
IS(offsetof(tenure_lock_holder, remaining_ms), 16);
IS(offsetof(tenure_lock_holder, node), 24);
IS(sizeof(tenure_lock_service), 136);
IS(offsetof(tenure_lock_service, capabilities), 4);
IS(offsetof(tenure_lock_service, ttl_granularity_ms), 8);
IS(offsetof(tenure_lock_service, ttl_min_ms), 16);
IS(offsetof(tenure_lock_service, ttl_max_ms), 24);
IS(offsetof(tenure_lock_service, node_id), 32);
IS(offsetof(tenure_lock_service, user), 48);
IS(offsetof(tenure_lock_service, try_acquire), 56);
IS(offsetof(tenure_lock_service, release), 64);
IS(offsetof(tenure_lock_service, holder), 72);
IS(offsetof(tenure_lock_service, renew), 80);
IS(offsetof(tenure_lock_service, acquire), 88);
IS(offsetof(tenure_lock_service, free), 96);
IS(offsetof(tenure_lock_service, reserved), 104);

IS(sizeof(tenure_orchestrator), 8);
IS(sizeof(tenure_task), 8);
IS(sizeof(tenure_task_info), 136);
IS(offsetof(tenure_task_info, attempt), 4);
IS(offsetof(tenure_task_info, try_number), 8);
IS(offsetof(tenure_task_info, run), 16);
IS(offsetof(tenure_task_info, token), 24);
IS(offsetof(tenure_task_info, tick_ms), 32);
IS(offsetof(tenure_task_info, schedule), 40);
IS(offsetof(tenure_task_info, params), 120);
IS(TENURE_STOP_NO, 0);
IS(TENURE_STOP_CANCELLED, 1);
IS(TENURE_STOP_TIMED_OUT, 2);
IS(TENURE_STOP_WINDOW_CLOSED, 3);
IS(TENURE_STOP_LOST, 4);
IS(TENURE_STOP_CLOSING, 5);
IS(TENURE_STOP_HALTED, 6);
IS(TENURE_TASK_DEFERRED, 1);

IS(sizeof(tenure_heartbeat), 64);
IS(offsetof(tenure_heartbeat, epoch), 8);
IS(offsetof(tenure_heartbeat, ttl_ms), 16);
IS(offsetof(tenure_heartbeat, nonce), 24);
IS(offsetof(tenure_heartbeat, reserved), 32);
IS(sizeof(tenure_heartbeat_reply), 40);
IS(offsetof(tenure_heartbeat_reply, accepted), 4);
IS(offsetof(tenure_heartbeat_reply, epoch), 8);
IS(offsetof(tenure_heartbeat_reply, remaining_ms), 16);
IS(offsetof(tenure_heartbeat_reply, next_nonce), 24);
IS(offsetof(tenure_heartbeat_reply, reason), 32);

IS(sizeof(tenure_event), 80);
IS(offsetof(tenure_event, kind), 4);
IS(offsetof(tenure_event, session), 8);
IS(offsetof(tenure_event, token), 16);
IS(offsetof(tenure_event, remaining_ms), 24);
IS(offsetof(tenure_event, key), 32);
IS(offsetof(tenure_event, name), 48);
IS(offsetof(tenure_event, text), 64);

IS(TENURE_ABI_VERSION, 1);
IS(TENURE_FOREVER, UINT64_MAX);
IS(TENURE_LOCK_REENTRANT, 1);
IS(TENURE_LOCK_MANUAL, 2);
IS(TENURE_IS_RETRIABLE, 1);
IS(TENURE_IS_MAYBE_APPLIED, 2);
IS(TENURE_IS_FATAL, 4);
IS(TENURE_HEARTBEAT_NONCE, 1);

IS(TENURE_OK, 0);
IS(TENURE_HELD, 1);
IS(TENURE_TIMEOUT, 2);
IS(TENURE_NOT_HOLDER, 3);
IS(TENURE_EXPIRED, 4);
IS(TENURE_FENCED, 5);
IS(TENURE_CANCELLED, 6);
IS(TENURE_DENIED, 7);
IS(TENURE_UNCERTAIN, 8);
IS(TENURE_LOCK_DELAY, 9);
IS(TENURE_INVALID_ARGUMENT, 100);
IS(TENURE_MISUSE, 101);
IS(TENURE_WOULD_DEADLOCK, 102);
IS(TENURE_FORKED, 103);
IS(TENURE_CLOSED, 104);
IS(TENURE_BUFFER_TOO_SMALL, 105);
IS(TENURE_ABI_MISMATCH, 106);
IS(TENURE_BAD_HANDLE, 107);
IS(TENURE_UNKNOWN_OPTION, 108);
IS(TENURE_IO, 200);
IS(TENURE_DATA_LOST, 201);
IS(TENURE_DATA_CORRUPT, 202);
IS(TENURE_DATA_FOREIGN, 203);
IS(TENURE_DATA_LOCKED, 204);
IS(TENURE_DATA_VERSION, 205);
IS(TENURE_LIMIT, 206);
IS(TENURE_UNAVAILABLE, 207);
IS(TENURE_PANIC, 900);
IS(TENURE_INTERNAL, 901);
IS(TENURE_POISONED, 902);

IS(TENURE_LOCK_MODE_EXCLUSIVE, 0);
IS(TENURE_LOCK_MODE_SHARED, 1);
IS(TENURE_LOCK_MODE_PERMITS, 2);
IS(TENURE_EVENT_KIND_AT_RISK, 1);
IS(TENURE_EVENT_KIND_LOST, 2);
IS(TENURE_EVENT_KIND_GATE, 3);
IS(TENURE_EVENT_KIND_POISONED, 4);
IS(TENURE_LOG_LEVEL_OFF, 0);
IS(TENURE_LOG_LEVEL_ERROR, 1);
IS(TENURE_LOG_LEVEL_WARN, 2);
IS(TENURE_LOG_LEVEL_INFO, 3);
IS(TENURE_LOG_LEVEL_DEBUG, 4);
IS(TENURE_LOG_LEVEL_TRACE, 5);

int main(void) {
  /* The header that this was compiled with is that of the library it runs with. */
  return tenure_version_number() == TENURE_VERSION_NUMBER && tenure_abi_version() == TENURE_ABI_VERSION ? 0 : 1;
}
