// tenure::Orchestrator: tasks that are done, fail, are cancelled, and end later.
#include <tenure.hpp>

#include <atomic>
#include <cstdio>
#include <mutex>
#include <thread>

using namespace std::chrono_literals;

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

static tenure::TaskResult fail(const tenure::Task&) {
#if defined(__cpp_exceptions)
  throw std::runtime_error("disk full");
#else
  return "disk full";
#endif
}

int main() {
  auto node = tenure::Node::open();
  CHECK(node);
  auto opened = tenure::Orchestrator::open(*node, {R"({"ramp_up_ms": 0})"});
  CHECK(opened);
  auto& orchestrator = *opened;
  CHECK(!tenure::Orchestrator::open(*node, {R"({"colour": 1})"}));

  // The handler owns what it captures until the orchestrator lets it go.
  auto owned = std::make_shared<std::atomic<int>>(0);
  std::atomic<uint64_t> token{0};
  CHECK(orchestrator.on("compaction", [owned, &token](const tenure::Task& task) -> tenure::TaskResult {
    CHECK(task.schedule() == "nightly" && task.kind() == "compaction" && task.name() == "compaction" && task.target().empty());
    CHECK(task.attempt() == 1 && task.run() != 0 && !task.cancelled());
    CHECK(task.params() == R"({"level":2})" && task.idempotency_key().substr(0, 9) == "nightly//");
    CHECK(task.tick() > std::chrono::system_clock::time_point());
    auto left = task.check();
    CHECK(left && *left > 0ms);
    task.progress(0.5);
    auto before = task.checkpoint();
    CHECK(before && before->empty() && task.save_checkpoint(std::string_view("a\0b", 3)).has_value());
    auto after = task.checkpoint();
    CHECK(after && after->size() == 3 && task.pace(1));
    token = task.token();
    ++*owned;
    return {};
  }));
  CHECK(orchestrator.put(R"({"id": "nightly", "cron": "0 3 * * *", "scope": "singleton", "tasks": [{"kind": "compaction"}]})", 0));
  auto stale = orchestrator.put(R"({"id": "nightly", "scope": "singleton", "tasks": [{"kind": "compaction"}]})", 0);
  CHECK(!stale && stale.error().code() == TENURE_FENCED);
  auto run = orchestrator.run_now("nightly", {R"({"params": "{\"level\":2}", "key": "by-hand"})"});
  CHECK(run);
  eventually([&] { return says(orchestrator.run(*run), "\"succeeded\""); });
  CHECK(*owned == 1 && token != 0 && says(orchestrator.history("nightly"), "\"by-hand\""));

  // Failures: a message, and an exception where there are any.
  CHECK(orchestrator.on("bad", fail));
  CHECK(orchestrator.put(R"({"id": "b", "scope": "singleton", "tasks": [{"kind": "bad"}]})"));
  run = orchestrator.run_now("b");
  CHECK(run);
  eventually([&] { return says(orchestrator.run(*run), "bad: disk full"); });

  // One that is cancelled, and one that ends later, on another thread.
  CHECK(orchestrator.on("long", [](const tenure::Task& task) -> tenure::TaskResult {
    CHECK(task.stop(60s) == TENURE_STOP_CANCELLED);
    return "stopped";
  }));
  CHECK(orchestrator.put(R"({"id": "l", "scope": "singleton", "tasks": [{"kind": "long"}]})"));
  run = orchestrator.run_now("l");
  CHECK(run);
  eventually([&] { return says(orchestrator.run(*run), "\"running\""); });
  CHECK(orchestrator.cancel(*run, "by hand"));
  eventually([&] { return says(orchestrator.run(*run), "\"cancelled\""); });

  std::mutex mutex;
  std::vector<tenure::Task> begun;
  CHECK(orchestrator.on_deferred("later", [&](const tenure::Task& task) -> tenure::TaskResult {
    const std::lock_guard<std::mutex> lock(mutex);
    begun.push_back(task);
    return {};
  }));
  CHECK(orchestrator.put(R"({"id": "d", "scope": "singleton", "tasks": [{"kind": "later"}]})"));
  run = orchestrator.run_now("d");
  CHECK(run);
  eventually([&] {
    const std::lock_guard<std::mutex> lock(mutex);
    return begun.size() == 1;
  });
  CHECK(says(orchestrator.run(*run), "\"running\""));
  std::thread([&] { begun[0].finish(); }).join();
  eventually([&] { return says(orchestrator.run(*run), "\"succeeded\""); });

  // The rest of the verbs.
  CHECK(orchestrator.pause("nightly", "repair") && says(orchestrator.schedule("nightly"), "repair") && orchestrator.unpause("nightly"));
  CHECK(orchestrator.set_budget("io", 2) && says(orchestrator.status(), "\"io\"") && orchestrator.enable("nightly", false));
  auto fires = orchestrator.next_fires("nightly", 2);
  CHECK(fires && fires->front() == '[');
  auto count = orchestrator.backfill("b", 0, 1);
  CHECK(count && *count == 0);
  CHECK(orchestrator.remove("nightly"));
  CHECK(orchestrator.close(60s));
  {
    const tenure::Orchestrator gone = std::move(orchestrator);
  }
  eventually([&] { return owned.use_count() == 1; });
}
