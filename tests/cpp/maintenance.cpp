// ThemisDB's maintenance orchestrator by its method names: entries, jobs, and what its tests DL-1 to DL-8 ask of the lock. Those that mean a peer
// are in tests/python/test_themis.py, with two nodes.
#include <tenure.hpp>

#include <atomic>
#include <cstdio>
#include <mutex>
#include <thread>

using namespace std::chrono_literals;
using tenure::DatabaseMaintenanceOrchestrator;

#define CHECK(condition)                                                                 \
  do {                                                                                   \
    if (!(condition)) {                                                                  \
      std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);       \
      std::exit(1);                                                                      \
    }                                                                                    \
  } while (0)

template <class F>
static void eventually(F&& f) {
  const auto end = std::chrono::steady_clock::now() + 60s;
  while (!f()) {
    CHECK(std::chrono::steady_clock::now() < end);
    std::this_thread::sleep_for(1ms);
  }
}

static bool says(const tenure::Result<std::string>& json, const char* words) { return json && json->find(words) != std::string::npos; }

// Grants always, and remembers.
class Recording final : public tenure::DistributedLock {
 public:
  bool tryAcquire(const std::string& key, int64_t ttl_ms) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    acquired_.push_back({key, ttl_ms});
    return true;
  }
  void release(const std::string& key) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    released_.push_back(key);
  }
  std::string getHolderNodeId(const std::string&) const override { return "this-node"; }
  std::string nodeId() const override { return "this-node"; }
  std::vector<std::pair<std::string, int64_t>> acquired() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return acquired_;
  }
  std::vector<std::string> released() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return released_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::pair<std::string, int64_t>> acquired_;
  std::vector<std::string> released_;
};

// Somebody else always has it.
class Refusing final : public tenure::DistributedLock {
 public:
  bool tryAcquire(const std::string&, int64_t) override { return false; }
  void release(const std::string&) override {}
  std::string getHolderNodeId(const std::string&) const override { return holder; }
  std::string nodeId() const override { return "this-node"; }
  std::string holder = "peer-node-b";
};

static std::mutex mutex;
static std::vector<std::string> lines;

static std::string run(DatabaseMaintenanceOrchestrator& o, const char* id, const char* state) {
  const auto job = o.triggerNow(id, true);
  CHECK(job);
  eventually([&] {
    auto told = o.getJob(*job);
    return !says(told, "\"pending\"") && !says(told, "\"running\"");
  });
  auto told = o.getJob(*job);
  if (!says(told, state)) std::fprintf(stderr, "%s\n", told ? told->c_str() : "nothing");
  CHECK(says(told, state));
  return *told;
}

int main() {
  CHECK(tenure::set_log(TENURE_LOG_LEVEL_DEBUG, [](tenure_log_level level, std::string_view, std::string_view text) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (level == TENURE_LOG_LEVEL_DEBUG && text.find("lock held by") != std::string_view::npos) lines.emplace_back(text);
  }));
  auto node = tenure::Node::open();
  CHECK(node);
  DatabaseMaintenanceOrchestrator o(*node, R"({"ramp_up_ms": 0})");
  CHECK(!o.isRunning() && !o.getStatus() && !o.triggerNow("a"));
  std::atomic<int> ran{0};
  CHECK(o.registerTaskHandler("storage_compaction", [&](const tenure::Task&) -> tenure::TaskResult {
    ran++;
    return {};
  }));
  CHECK(o.registerTaskHandler("consistency_check", [](const tenure::Task&) -> tenure::TaskResult { return "broken"; }));
  CHECK(o.start() && o.start() && o.isRunning());

  // Entries.
  auto a = o.createSchedule("a", R"({"id": "a", "name": "A", "frequency": "weekly", "tasks": ["storage_compaction"], "created_by": "ann", "tenant_id": "t"})");
  CHECK(says(a, "\"cron_expression\":\"0 2 * * 0\"") && says(a, "\"enforce_window\":true"));
  auto again = o.createSchedule("a", R"({"id": "a", "name": "A", "tasks": ["storage_compaction"]})");
  CHECK(!again && again.error().code() == TENURE_FENCED);
  auto replaced = o.updateSchedule("a", R"({"id": "ignored", "name": "B", "tasks": ["storage_compaction"], "enforce_window": false, "tenant_id": "t"})");
  CHECK(says(replaced, "\"name\":\"B\"") && says(replaced, "\"created_by\":\"ann\"") && says(replaced, "\"id\":\"a\""));
  auto cycle = o.patchSchedule("a", R"({"task_dependencies": [{"task_type": "storage_compaction", "depends_on": ["storage_compaction"]}]})");
  CHECK(!cycle && cycle.error().code() == TENURE_INVALID_ARGUMENT);
  auto unknown = o.updateSchedule("a", R"({"name": "B", "tasks": ["storage_compaction"], "task_dependencies": [{"task_type": "storage_compaction", "depends_on": ["nothing"]}]})");
  CHECK(!unknown && unknown.error().code() == TENURE_INVALID_ARGUMENT);
  CHECK(!o.createSchedule("x", R"({"id": "x", "name": "X", "tasks": ["a", "b"], "task_dependencies": [{"task_type": "a", "depends_on": ["b"]}, {"task_type": "b", "depends_on": ["a"]}]})"));
  CHECK(!o.patchSchedule("nobody", "{}") && !o.getSchedule("nobody") && !o.deleteSchedule("nobody"));
  CHECK(says(o.listSchedules(), "\"a\"") && says(o.listSchedules("t"), "\"a\""));
  auto none = o.listSchedules("another");
  CHECK(none && *none == "[]");
  CHECK(o.createSchedule("busy", R"({"id": "busy", "name": "B", "tasks": ["storage_compaction"], "max_schedule_changes_per_interval": 2})"));
  CHECK(o.patchSchedule("busy", R"({"name": "C"})"));
  auto churn = o.patchSchedule("busy", R"({"name": "D"})");
  CHECK(!churn && churn.error().code() == TENURE_LIMIT);
  CHECK(o.enableSchedule("busy", false) && says(o.getSchedule("busy"), "\"enabled\":false") && o.deleteSchedule("busy"));

  // DL-1: no lock; the job runs.
  run(o, "a", "\"succeeded\"");
  CHECK(ran == 1);
  // DL-2: the lock is taken for the job and given back after it, also when it fails.
  auto recording = std::make_shared<Recording>();
  CHECK(o.setDistributedLock(recording));
  run(o, "a", "\"succeeded\"");
  CHECK(ran == 2 && recording->acquired().size() == 1 && recording->acquired()[0].first == "a");
  CHECK(recording->released() == std::vector<std::string>{"a"});
  CHECK(o.createSchedule("f", R"({"id": "f", "name": "F", "tasks": ["consistency_check"]})"));
  run(o, "f", "\"failed\"");
  CHECK((recording->released() == std::vector<std::string>{"a", "f"}));
  // DL-4: its ttl follows from the window, DL-5: unless it is given. DL-6, DL-7: which survives a round trip and can be patched.
  CHECK(recording->acquired()[0].second == 4 * 3'600'000 + 30'000);
  CHECK(says(o.patchSchedule("a", R"({"lock_ttl_ms": 120000})"), "\"lock_ttl_ms\":120000"));
  run(o, "a", "\"succeeded\"");
  CHECK(recording->acquired()[2].second == 120'000);
  // DL-3: held by a peer, whom the job names; one line says so.
  auto refusing = std::make_shared<Refusing>();
  CHECK(o.setDistributedLock(refusing));
  CHECK(run(o, "a", "\"skipped\"").find("peer-node-b") != std::string::npos && ran == 3);
  refusing->holder.clear();
  CHECK(run(o, "a", "\"skipped\"").find("<unknown>") != std::string::npos);
  eventually([] {
    const std::lock_guard<std::mutex> lock(mutex);
    return lines.size() == 2;
  });
  CHECK(lines[0] == "schedule a skipped \xe2\x80\x94 lock held by peer peer-node-b");
  // DL-8: without a lock again.
  CHECK(o.setDistributedLock(nullptr));
  run(o, "a", "\"succeeded\"");
  CHECK(ran == 4 && recording->acquired().size() == 3);

  CHECK(says(o.listJobs(), "\"schedule_id\":\"f\"") && says(o.getHealthReport(), "\"healthy\"") && says(o.getStatus(), "\"counts\""));
  auto active = o.listJobs(true);
  CHECK(active && *active == "[]");
  CHECK(says(o.listTaskHandlers(), "\"consistency_check\"") && !o.cancelJob("no number"));
  // A job that nobody can do waits, and is cancelled like one that runs.
  CHECK(o.createSchedule("n", R"({"id": "n", "name": "N", "tasks": ["nobody_does_this"]})"));
  const auto waits = o.triggerNow("n", true);
  CHECK(waits && says(o.getJob(*waits), "\"pending\"") && says(o.listJobs(true), waits->c_str()));
  CHECK(o.cancelJob(*waits) && says(o.getJob(*waits), "\"cancelled\""));
  auto job = o.getJob("no number");
  CHECK(job && *job == "null");
  o.stop();
  CHECK(!o.isRunning());
}
