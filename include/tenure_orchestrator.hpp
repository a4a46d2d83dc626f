// The maintenance orchestrator for C++17. Included by tenure.hpp. docs/orchestrator.md says what schedules are made of; they, and all answers,
// are JSON text, for whichever library the host uses.
#ifndef TENURE_ORCHESTRATOR_HPP
#define TENURE_ORCHESTRATOR_HPP

#include <cstring>
#include <variant>

#include "tenure.hpp"
#include "tenure_plug.hpp"

namespace tenure {

// What a handler is given: one try of one task. Copies are the same try. A handler that keeps one beyond its return was registered with
// on_deferred().
class Task {
 public:
  explicit Task(tenure_task task) noexcept : task_(task) {}

  // What it is about; the texts are valid as long as the try.
  tenure_task_info info() const noexcept {
    tenure_task_info info = TENURE_TASK_INFO_INIT;
    tenure_task_get_info(task_, &info, nullptr);
    return info;
  }
  uint64_t run() const noexcept { return info().run; }
  // Fencing token: for the resource that is written to.
  uint64_t token() const noexcept { return info().token; }
  uint32_t attempt() const noexcept { return info().attempt; }
  uint32_t try_number() const noexcept { return info().try_number; }
  std::chrono::system_clock::time_point tick() const noexcept {
    return std::chrono::system_clock::time_point(std::chrono::duration_cast<std::chrono::system_clock::duration>(milliseconds(info().tick_ms)));
  }
  std::string_view schedule() const noexcept { return detail::view(info().schedule); }
  std::string_view target() const noexcept { return detail::view(info().target); }
  std::string_view kind() const noexcept { return detail::view(info().kind); }
  std::string_view name() const noexcept { return detail::view(info().name); }
  // schedule/target/tick: the same for all attempts.
  std::string_view idempotency_key() const noexcept { return detail::view(info().idempotency_key); }
  std::string_view params() const noexcept { return detail::view(info().params); }

  // A tenure_stop: whether and why to stop; waits for it when asked to.
  int32_t stop(milliseconds wait = milliseconds(0)) const noexcept {
    int32_t why = TENURE_STOP_LOST;
    tenure_task_stop(task_, detail::ms(wait), &why, nullptr);
    return why;
  }
  bool cancelled() const noexcept { return stop() != TENURE_STOP_NO; }
  // The attempt's gate: what is left of its lease, or TENURE_EXPIRED. To be asked before and after a write.
  Result<milliseconds> check() const {
    uint64_t left = 0;
    tenure_error err;
    if (tenure_task_check(task_, &left, &err) != TENURE_OK) return Error(err);
    return detail::from_ms(left);
  }
  // 0 to 1.
  void progress(double done) const noexcept {
    tenure_task_progress(task_, done <= 0 ? 0u : done >= 1 ? 1000u : static_cast<uint32_t>(done * 1000), nullptr);
  }
  // What this or a former attempt has saved.
  Result<std::string> checkpoint() const {
    return detail::fetch([&](char* buf, size_t len, size_t* needed, tenure_error* e) { return tenure_task_checkpoint(task_, buf, len, needed, e); });
  }
  // Keeps up to 64 KiB for the next attempt. TENURE_FENCED when this is not the present one.
  Result<void> save_checkpoint(std::string_view data) const {
    return detail::checked([&](tenure_error* e) { return tenure_task_save_checkpoint(task_, detail::bytes(data), e); });
  }
  // After a piece of work: rests as the schedule's throttle asks. False when the handler is to stop.
  bool pace(uint64_t byte_count = 0) const noexcept {
    int32_t why = TENURE_STOP_LOST;
    tenure_task_pace(task_, byte_count, &why, nullptr);
    return why == TENURE_STOP_NO;
  }
  // A deferred task has ended: done, or failed with this message. Frees it.
  void finish(const std::optional<std::string>& failure = {}) const noexcept {
    const int32_t status = failure ? TENURE_SERVICE_FAILED : TENURE_OK;
    tenure_task_finish(task_, status, failure ? detail::bytes(*failure) : tenure_bytes{nullptr, 0}, nullptr);
    tenure_task_free(task_);
  }
  tenure_task get() const noexcept { return task_; }

 private:
  tenure_task task_;
};

// How a handler ends: nothing when the task is done, or why it failed. Where exceptions are on, one that leaves the handler fails the task too.
using TaskResult = std::optional<std::string>;
using TaskHandler = std::function<TaskResult(const Task&)>;

// Why a run of a schedule must not begin on this node now; nothing when it may. The target is empty for a singleton. Any thread may call it, several
// at a time; one that takes longer than 5 s has said no, and so has one that throws.
using RunGate = std::function<std::optional<std::string>(std::string_view schedule, std::string_view target)>;

// A shard, and the names of the nodes that have it.
struct Shard {
  std::string name;
  std::vector<std::string> nodes;
};
// Why something cannot be told.
struct Failure {
  std::string why;
};
// The shards of a schedule. Any thread may call it. One that throws, or takes longer than 5 s, has failed as well.
using ShardsOf = std::function<std::variant<std::vector<Shard>, Failure>(std::string_view schedule)>;

struct OrchestratorOptions {
  // JSON, see tenure_orchestrator_open(); empty for the defaults.
  std::string_view json{};
};

// How a run is asked for. JSON, see tenure_orchestrator_run_now().
struct RunNow {
  std::string_view json{};
};

// The orchestrator of a node. Its destructor ends it without waiting; close() waits for handlers.
class Orchestrator {
 public:
  static Result<Orchestrator> open(const Node& node, OrchestratorOptions options = {}) {
    tenure_orchestrator o;
    tenure_error err;
    if (tenure_orchestrator_open(node.get(), detail::bytes(options.json), &o, &err) != TENURE_OK) return Error(err);
    return Orchestrator(o);
  }

  // Runs on a thread of its own, which it may keep busy.
  Result<void> on(std::string_view kind, TaskHandler handler) { return add(kind, std::move(handler), 0); }
  // Returns at once, without failure when it has begun; Task::finish() is called later, from anywhere.
  Result<void> on_deferred(std::string_view kind, TaskHandler handler) { return add(kind, std::move(handler), TENURE_TASK_DEFERRED); }

  // Asked before each attempt that begins on this node; while it says why not, the run is put off, with that as its reason.
  Result<void> add_gate(RunGate gate) {
    return host<RunGate>(std::move(gate), [&](RunGate* user, tenure_error* e) {
      return tenure_orchestrator_add_gate(get(), &Orchestrator::ask_gate, user, &Orchestrator::drop<RunGate>, e);
    });
  }
  // Asked before each tick of schedules of scope each_shard, on the node that gives out work; an empty function for none. What fails leaves the
  // shards as they were, and is told in status and health.
  Result<void> set_topology(ShardsOf topology) {
    if (!topology) return detail::checked([&](tenure_error* e) { return tenure_orchestrator_set_topology(get(), nullptr, nullptr, nullptr, e); });
    return host<ShardsOf>(std::move(topology), [&](ShardsOf* user, tenure_error* e) {
      return tenure_orchestrator_set_topology(get(), &Orchestrator::ask_topology, user, &Orchestrator::drop<ShardsOf>, e);
    });
  }

  // Writes a schedule; its revision.
  Result<uint64_t> put(std::string_view schedule, uint64_t expected = TENURE_ANY_REVISION) {
    return number([&](uint64_t* out, tenure_error* e) { return tenure_orchestrator_put(get(), detail::bytes(schedule), expected, out, e); });
  }
  Result<uint64_t> put_themis(std::string_view schedule, uint64_t expected = TENURE_ANY_REVISION) {
    return number(
        [&](uint64_t* out, tenure_error* e) { return tenure_orchestrator_put_themis(get(), detail::bytes(schedule), expected, out, e); });
  }
  Result<uint64_t> replace_themis(std::string_view id, std::string_view schedule) {
    return number([&](uint64_t* out, tenure_error* e) {
      return tenure_orchestrator_replace_themis(get(), detail::bytes(id), detail::bytes(schedule), out, e);
    });
  }
  Result<uint64_t> patch_themis(std::string_view id, std::string_view patch) {
    return number([&](uint64_t* out, tenure_error* e) {
      return tenure_orchestrator_patch_themis(get(), detail::bytes(id), detail::bytes(patch), out, e);
    });
  }
  Result<void> remove(std::string_view id, uint64_t expected = TENURE_ANY_REVISION) {
    return detail::checked([&](tenure_error* e) { return tenure_orchestrator_remove(get(), detail::bytes(id), expected, e); });
  }
  Result<void> enable(std::string_view id, bool enabled = true) {
    return detail::checked([&](tenure_error* e) { return tenure_orchestrator_enable(get(), detail::bytes(id), enabled, e); });
  }
  // Of one schedule, or of all for an empty id.
  Result<void> pause(std::string_view id, std::string_view note = {}, int64_t until_ms = TENURE_NEVER) {
    return detail::checked([&](tenure_error* e) { return tenure_orchestrator_pause(get(), detail::bytes(id), detail::bytes(note), until_ms, e); });
  }
  Result<void> unpause(std::string_view id) {
    return detail::checked([&](tenure_error* e) { return tenure_orchestrator_unpause(get(), detail::bytes(id), e); });
  }
  Result<void> set_budget(std::string_view name, uint32_t limit) {
    return detail::checked([&](tenure_error* e) { return tenure_orchestrator_set_budget(get(), detail::bytes(name), limit, e); });
  }
  // The run's number.
  Result<uint64_t> run_now(std::string_view id, RunNow how = {}) {
    return number(
        [&](uint64_t* out, tenure_error* e) { return tenure_orchestrator_run_now(get(), detail::bytes(id), detail::bytes(how.json), out, e); });
  }
  // How many runs.
  Result<uint64_t> backfill(std::string_view id, int64_t from_ms, int64_t to_ms, std::string_view target = {}) {
    return number([&](uint64_t* out, tenure_error* e) {
      return tenure_orchestrator_backfill(get(), detail::bytes(id), detail::bytes(target), from_ms, to_ms, out, e);
    });
  }
  Result<void> cancel(uint64_t run, std::string_view reason = {}) {
    return detail::checked([&](tenure_error* e) { return tenure_orchestrator_cancel(get(), run, detail::bytes(reason), e); });
  }
  // The lock that is taken round each run on this node; null for none. A run that does not get it is skipped.
  Result<void> set_distributed_lock(std::shared_ptr<LockService> lock) {
    return detail::checked([&](tenure_error* e) {
      if (!lock) return tenure_orchestrator_set_lock(get(), nullptr, e);
      return detail::with_service(std::move(lock), [&](const tenure_lock_service* table) { return tenure_orchestrator_set_lock(get(), table, e); });
    });
  }
  // JSON; see tenure_orchestrator_ask() for the questions.
  Result<std::string> ask(std::string_view what, std::string_view name = {}, uint64_t number = 0) const {
    return detail::fetch([&](char* buf, size_t len, size_t* needed, tenure_error* e) {
      return tenure_orchestrator_ask(get(), detail::bytes(what), detail::bytes(name), number, buf, len, needed, e);
    });
  }
  Result<std::string> schedule(std::string_view id) const { return ask("schedule", id); }
  Result<std::string> history(std::string_view id, uint64_t limit = 100) const { return ask("history", id, limit); }
  Result<std::string> next_fires(std::string_view id, uint64_t count = 10) const { return ask("next", id, count); }
  Result<std::string> run(uint64_t run) const { return ask("run", {}, run); }
  Result<std::string> status() const { return ask("status"); }
  Result<void> close(milliseconds timeout) {
    return detail::checked([&](tenure_error* e) { return tenure_orchestrator_close(get(), detail::ms(timeout), e); });
  }
  tenure_orchestrator get() const noexcept { return handle_.get(); }

 private:
  explicit Orchestrator(tenure_orchestrator o) noexcept : handle_(o) {}

  template <class F>
  static Result<uint64_t> number(F&& call) {
    uint64_t out = 0;
    tenure_error err;
    if (call(&out, &err) != TENURE_OK) return Error(err);
    return out;
  }

  // Hands a function of the host's over.
  template <class F, class Call>
  static Result<void> host(F function, Call&& call) {
    auto user = std::make_unique<F>(std::move(function));
    tenure_error err;
    if (call(user.get(), &err) != TENURE_OK) return Error(err);
    // The library's from here on.
    static_cast<void>(user.release());
    return {};
  }
  Result<void> add(std::string_view kind, TaskHandler handler, uint32_t flags) {
    return host<TaskHandler>(std::move(handler), [&](TaskHandler* user, tenure_error* e) {
      return tenure_orchestrator_register(get(), detail::bytes(kind), &Orchestrator::call, user, &Orchestrator::drop<TaskHandler>, flags, e);
    });
  }

  static int32_t failed(tenure_error* err, std::string_view why) noexcept {
    const size_t n = why.size() < sizeof err->message - 1 ? why.size() : sizeof err->message - 1;
    std::memcpy(err->message, why.data(), n);
    err->message[n] = 0;
    return TENURE_SERVICE_FAILED;
  }
  static int32_t call(void* user, tenure_task task, tenure_error* err) noexcept {
    return guarded(err, [&] { return (*static_cast<TaskHandler*>(user))(Task(task)); });
  }
  static int32_t ask_gate(void* user, tenure_bytes schedule, tenure_bytes target, tenure_error* err) noexcept {
    return guarded(err, [&] { return (*static_cast<RunGate*>(user))(detail::view(schedule), detail::view(target)); });
  }
  static int32_t ask_topology(void* user, tenure_bytes schedule, tenure_shard_fn add, void* shards, tenure_error* err) noexcept {
    return guarded(err, [&]() -> std::optional<std::string> {
      const auto told = (*static_cast<ShardsOf*>(user))(detail::view(schedule));
      if (const auto* failure = std::get_if<Failure>(&told)) return failure->why;
      for (const Shard& shard : *std::get_if<std::vector<Shard>>(&told)) {
        std::vector<tenure_bytes> nodes;
        for (const std::string& node : shard.nodes) nodes.push_back(detail::bytes(node));
        add(shards, detail::bytes(shard.name), nodes.data(), nodes.size());
      }
      return {};
    });
  }
  // Runs a function of the host's that says why not.
  template <class F>
  static int32_t guarded(tenure_error* err, F&& function) noexcept {
    const auto run = [&]() -> int32_t {
      const std::optional<std::string> why = function();
      return why ? failed(err, *why) : static_cast<int32_t>(TENURE_OK);
    };
#if defined(__cpp_exceptions)
    try {
      return run();
    } catch (const std::exception& e) {
      return failed(err, e.what());
    } catch (...) {
      return failed(err, "an exception that is no std::exception");
    }
#else
    return run();
#endif
  }
  template <class F>
  static void drop(void* user) noexcept {
    detail::contained([&] { delete static_cast<F*>(user); });
  }

  detail::Handle<tenure_orchestrator, tenure_orchestrator_free> handle_;
};

}  // namespace tenure

#endif  // TENURE_ORCHESTRATOR_HPP
