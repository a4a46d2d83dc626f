// ThemisDB's maintenance orchestrator, by its method names, over Tenure's. Included by tenure.hpp.
//
// What a host has to change: schedules have ids of its own choice, entries and jobs are JSON text with ThemisDB's field names, task types are their
// strings. What changes under it: schedules are the cluster's and not the node's, and each tick runs once, with or without a lock.
#ifndef TENURE_MAINTENANCE_HPP
#define TENURE_MAINTENANCE_HPP

#include "tenure.hpp"
#include "tenure_orchestrator.hpp"

namespace tenure {

// Any thread may use it, but for start() and stop().
class DatabaseMaintenanceOrchestrator {
 public:
  // The node must outlive it. `options` as Orchestrator::open(); with `"lock_only": true` it is as weak as ThemisDB's own.
  explicit DatabaseMaintenanceOrchestrator(const Node& node, std::string options = {}) : node_(&node), options_(std::move(options)) {}
  ~DatabaseMaintenanceOrchestrator() { stop(); }
  DatabaseMaintenanceOrchestrator(const DatabaseMaintenanceOrchestrator&) = delete;
  DatabaseMaintenanceOrchestrator& operator=(const DatabaseMaintenanceOrchestrator&) = delete;

  // Schedules can be made and jobs run from here on, on this node or another; handlers and the lock may be set before.
  Result<void> start() {
    if (orchestrator_) return {};
    auto opened = Orchestrator::open(*node_, {options_});
    if (!opened) return opened.error();
    orchestrator_ = std::make_unique<Orchestrator>(std::move(*opened));
    if (lock_set_) {
      if (auto set = apply_lock(); !set) return abandon(set.error());
    }
    for (const auto& [type, handler] : handlers_) {
      if (auto registered = orchestrator_->on(type, handler); !registered) return abandon(registered.error());
    }
    return {};
  }
  // Jobs of this node are told to stop, and waited for.
  void stop(milliseconds timeout = milliseconds(5'000)) {
    if (orchestrator_) static_cast<void>(orchestrator_->close(timeout).has_value());
    orchestrator_.reset();
  }
  bool isRunning() const noexcept { return orchestrator_ != nullptr; }

  // The entry as it was stored. TENURE_FENCED when there is one of its id.
  Result<std::string> createSchedule(std::string_view id, std::string_view entry) {
    return stored(id, call([&](Orchestrator& o) { return o.put_themis(entry, 0); }));
  }
  Result<std::string> getSchedule(std::string_view id) const {
    return call([&](Orchestrator& o) { return o.ask("themis", id); });
  }
  // A JSON array: a tenant's, or all.
  Result<std::string> listSchedules(std::string_view tenant_id = {}) const {
    return call([&](Orchestrator& o) { return o.ask("themis_list", tenant_id); });
  }
  // Replaces it; the entry's own id is ignored.
  Result<std::string> updateSchedule(std::string_view id, std::string_view entry) {
    return stored(id, call([&](Orchestrator& o) { return o.replace_themis(id, entry); }));
  }
  // Changes the fields that are given.
  Result<std::string> patchSchedule(std::string_view id, std::string_view patch) {
    return stored(id, call([&](Orchestrator& o) { return o.patch_themis(id, patch); }));
  }
  Result<void> deleteSchedule(std::string_view id) {
    return call([&](Orchestrator& o) { return o.remove(id); });
  }
  Result<void> enableSchedule(std::string_view id, bool enabled = true) {
    return call([&](Orchestrator& o) { return o.enable(id, enabled); });
  }

  // The id of the job that was made. `force` is of account for the window only.
  Result<std::string> triggerNow(std::string_view schedule_id, bool force = false) {
    auto run = call([&](Orchestrator& o) { return o.run_now(schedule_id, {force ? std::string_view(R"({"force": true})") : std::string_view()}); });
    if (!run) return run.error();
    return std::to_string(*run);
  }
  Result<void> cancelJob(std::string_view job_id) {
    return call([&](Orchestrator& o) { return o.cancel(number(job_id), "cancelJob"); });
  }
  // JSON: id, schedule_id, state (pending, running, succeeded, failed, cancelled, skipped), error_message, node_id, started_at_ms, finished_at_ms;
  // null when nobody remembers it.
  Result<std::string> getJob(std::string_view job_id) const {
    return call([&](Orchestrator& o) { return o.ask("themis_job", {}, number(job_id)); });
  }
  Result<std::string> listJobs(bool active_only = false) const {
    return call([&](Orchestrator& o) { return o.ask("themis_jobs", {}, active_only ? 1 : 0); });
  }
  Result<std::string> getStatus() const {
    return call([](Orchestrator& o) { return o.status(); });
  }
  Result<std::string> getHealthReport() const {
    return call([](Orchestrator& o) { return o.ask("health"); });
  }

  // A lock that is taken round each job, for as long as ThemisDB's formula says; null switches it off.
  Result<void> setDistributedLock(std::shared_ptr<DistributedLock> lock) {
    lock_ = std::move(lock);
    lock_set_ = true;
    return orchestrator_ ? apply_lock() : Result<void>();
  }
  Result<void> registerTaskHandler(std::string task_type, TaskHandler handler) {
    handlers_[task_type] = handler;
    return orchestrator_ ? orchestrator_->on(task_type, std::move(handler)) : Result<void>();
  }
  // A JSON array of task types.
  Result<std::string> listTaskHandlers() const {
    return call([](Orchestrator& o) { return o.ask("handlers"); });
  }
  // What it is built on; null while it does not run.
  Orchestrator* orchestrator() noexcept { return orchestrator_.get(); }

 private:
  template <class F>
  auto call(F&& f) const -> decltype(f(std::declval<Orchestrator&>())) {
    if (orchestrator_) return f(*orchestrator_);
    tenure_error err;
    static_cast<void>(tenure_orchestrator_close(tenure_orchestrator{0}, 0, &err));
    return Error(err);
  }
  Result<std::string> stored(std::string_view id, const Result<uint64_t>& revision) const {
    if (!revision) return revision.error();
    return getSchedule(id);
  }
  Result<void> abandon(const Error& error) {
    orchestrator_.reset();
    return error;
  }
  Result<void> apply_lock() {
    std::shared_ptr<LockService> service;
    if (lock_) service = std::make_shared<DistributedLockService>(lock_);
    return orchestrator_->set_distributed_lock(std::move(service));
  }
  // A job's id is its run's number; 0, which none has, for what is no number.
  static uint64_t number(std::string_view job_id) noexcept {
    uint64_t n = 0;
    for (const char c : job_id) {
      if (c < '0' || c > '9' || n > (UINT64_MAX - 9) / 10) return 0;
      n = n * 10 + static_cast<uint64_t>(c - '0');
    }
    return n;
  }

  const Node* node_;
  std::string options_;
  std::unique_ptr<Orchestrator> orchestrator_;
  std::shared_ptr<DistributedLock> lock_;
  bool lock_set_ = false;
  std::map<std::string, TaskHandler> handlers_;
};

}  // namespace tenure

#endif  // TENURE_MAINTENANCE_HPP
