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

static std::optional<std::string> no_answer() {
#if defined(__cpp_exceptions)
  throw std::runtime_error("no answer");
#else
  return "no answer";
#endif
}

int main() {
  auto node = tenure::Node::open({{"node_id", "c++"}});
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

  // What the host is asked: a gate that says why not, and then throws where it can; shards, and a topology that cannot tell.
  std::atomic<int> answer{0};
  auto asked = std::make_shared<int>(0);
  CHECK(orchestrator.add_gate([&answer, asked](std::string_view schedule, std::string_view target) -> std::optional<std::string> {
    if (schedule != "g") return {};
    CHECK(target.empty());
    if (answer == 0) return "disk 12 % free";
    return answer == 1 ? no_answer() : std::nullopt;
  }));
  CHECK(orchestrator.put(R"({"id": "g", "scope": "singleton", "tasks": [{"kind": "work"}]})"));
  std::atomic<int> worked{0}, shard_a{0}, other{0};
  CHECK(orchestrator.on("work", [&](const tenure::Task& task) -> tenure::TaskResult {
    ++(task.schedule() == "g" ? worked : task.target() == "a" ? shard_a : other);
    return {};
  }));
  run = orchestrator.run_now("g");
  CHECK(run);
  for (const char* why : {"disk 12 % free", "no answer"}) {
    eventually([&] { return says(orchestrator.run(*run), why); });
    CHECK(worked == 0);
    ++answer;
  }
  std::atomic<bool> gone{false};
  const std::string name = "c++";
  CHECK(orchestrator.set_topology([&gone, asked, name](std::string_view schedule) -> std::variant<std::vector<tenure::Shard>, tenure::Failure> {
    CHECK(schedule == "e");
    if (gone) return tenure::Failure{"the catalogue is gone"};
    return std::vector<tenure::Shard>{{"a", {name, "elsewhere"}}, {"b", {"elsewhere"}}};
  }));
  CHECK(orchestrator.put(R"({"id": "e", "scope": {"each_shard": {}}, "every_ms": 1000, "tasks": [{"kind": "work"}]})"));
  eventually([&] { return shard_a >= 2; });
  gone = true;
  eventually([&] { return says(orchestrator.status(), "the catalogue is gone"); });
  const int before = shard_a;
  eventually([&] { return shard_a > before; });
  CHECK(other == 0 && orchestrator.remove("e") && orchestrator.set_topology({}));
  eventually([&] { return asked.use_count() == 2; });
  eventually([&] { return worked == 1; });

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
