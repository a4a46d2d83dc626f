// tenure.hpp, used as meant. Compiled with and without exceptions and RTTI.
#include <tenure.hpp>

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <thread>
#include <type_traits>

using namespace std::chrono_literals;

#define CHECK(condition)                                                                 \
  do {                                                                                   \
    if (!(condition)) {                                                                  \
      std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);       \
      std::exit(1);                                                                      \
    }                                                                                    \
  } while (0)

// The value, or the end of the test with the reason.
template <class T>
static T must(tenure::Result<T> result) {
  if (!result) {
    std::fprintf(stderr, "%s: %.*s\n", result.error().name(), int(result.error().message().size()), result.error().message().data());
    std::exit(1);
  }
  return std::move(*result);
}

static void must(const tenure::Result<void>& result) {
  if (!result) std::fprintf(stderr, "%s: %s\n", result.error().name(), std::string(result.error().message()).c_str());
  CHECK(result.has_value());
}

template <class F>
static void eventually(F&& f) {
  const auto end = std::chrono::steady_clock::now() + 20s;
  while (!f()) {
    CHECK(std::chrono::steady_clock::now() < end);
    std::this_thread::yield();
  }
}

static_assert(!std::is_copy_constructible_v<tenure::Grant> && std::is_nothrow_move_constructible_v<tenure::Grant>);
static_assert(!std::is_copy_constructible_v<tenure::Node> && std::is_nothrow_move_constructible_v<tenure::Node>);
static_assert(!std::is_copy_constructible_v<tenure::Permit> && std::is_nothrow_move_constructible_v<tenure::Permit>);
static_assert(std::is_nothrow_move_constructible_v<tenure::Session> && std::is_nothrow_move_constructible_v<tenure::Gate>);

static void durations() {
  using tenure::detail::ms;
  CHECK(ms(0ms) == 0 && ms(-5ms) == 0 && ms(5ms) == 5 && ms(1us) == 1 && ms(1001us) == 2 && ms(2s) == 2000);
  CHECK(ms(tenure::forever) == TENURE_FOREVER && ms(std::chrono::hours(1)) == 3'600'000);
  CHECK(ms(std::chrono::duration<double>(0.25)) == 250);
}

static void settings() {
  auto config = must(tenure::Config::of({{"node_id", "a"}, {"gate.mode", "log-only"}}));
  CHECK(must(config.get("gate.mode")) == "log-only");
  auto refused = tenure::Config::of({{"node_id", "a"}, {"gate.mod", "x"}});
  CHECK(!refused && refused.error().code() == TENURE_UNKNOWN_OPTION && refused.error().message().find("gate.mod") != std::string_view::npos);
  CHECK(!config.load("gate.mode = nonsense") && must(config.get("gate.mode")) == "log-only");
  // Longer than the first buffer that is tried.
  must(config.set("data_dir", std::string(3000, 'x')));
  CHECK(must(config.get("data_dir")).size() == 3000);
}

static void locks() {
  auto node = must(tenure::Node::open({{"node_id", "cpp"}}));
  auto session = must(node.session());
  auto other = must(node.open_session("other", 10s));
  CHECK(must(node.id()) == "cpp");
  uint64_t first = 0;
  {
    auto grant = must(session.try_acquire("k"));
    CHECK(grant && grant->token() != 0 && grant->key() == "k" && !grant->lost() && grant->remaining() <= 10s);
    first = grant->token();
    CHECK(!must(other.try_acquire("k")));
    auto holder = must(other.holder("k"));
    CHECK(holder && holder->node == "cpp" && holder->token == first && holder->remaining > 0ms);
    auto timeout = other.acquire("k", 10ms);
    CHECK(!timeout && timeout.error().code() == TENURE_TIMEOUT && timeout.error().retriable() && !timeout.error().fatal());
    // Moving keeps one owner.
    tenure::Grant moved = std::move(*grant);
    CHECK(moved.token() == first && grant->token() == 0 && grant->lost());
    CHECK(!must(other.try_acquire("k")));
  }
  // Its destructor released it.
  auto grant = must(other.acquire("k", 10s));
  CHECK(grant.token() > first);
  CHECK(must(grant.renew(20s)) > 0ms);
  must(grant.release());
  auto again = grant.release();
  CHECK(!again && again.error().code() == TENURE_NOT_HOLDER);

  auto all = must(session.acquire_all({"x", "y", "z"}, 0ms));
  CHECK(all.size() == 3 && all[0].key() == "x" && all[2].key() == "z");
  CHECK(!must(other.try_acquire("y")));
  all.clear();
  CHECK(must(other.try_acquire("y")));

  const uint64_t kept = must(session.acquire("kept", tenure::forever)).detach();
  CHECK(must(session.holder("kept")));
  must(session.release("kept", kept));
  tenure::LockOptions shared;
  shared.mode = TENURE_LOCK_MODE_SHARED;
  auto s1 = must(session.try_acquire("s", shared)), s2 = must(other.try_acquire("s", shared));
  CHECK(s1 && s2);
  tenure::LockOptions bad;
  bad.ttl = 0ms;
  auto refused = session.try_acquire("b", bad);
  CHECK(!refused && refused.error().code() == TENURE_INVALID_ARGUMENT);
  CHECK(must(session.force_release("s", 0ms)));
  CHECK(must(node.locks("", 10)).find("\"key\"") != std::string::npos || must(session.release_all()) == 0);
  must(other.close());
  must(node.close(10s));
  CHECK(!node.session().has_value() || !session.try_acquire("k").has_value());
}

static void asynchronous() {
  auto node = must(tenure::Node::open());
  auto session = must(node.session());
  auto other = must(node.open_session("other", 10s));
  auto held = must(session.acquire("k", 1s));
  std::atomic<int> calls{0};
  uint64_t token = 0;
  must(other.acquire_async("k", tenure::forever, {}, [&](tenure::Result<tenure::Grant> ended) {
    CHECK(ended.has_value());
    token = ended->token();
    calls++;
    // The grant is let go here, and so released.
  }));
  must(held.release());
  eventually([&] { return calls == 1; });
  CHECK(token != 0);
  auto future = session.acquire_future("k", 10s);
  auto grant = must(future.get());
  CHECK(grant.token() > token);
  auto waiting = must(other.acquire_async("k", tenure::forever, {}, [&](tenure::Result<tenure::Grant> ended) {
    CHECK(!ended && ended.error().code() == TENURE_CANCELLED);
    calls++;
  }));
  CHECK(other.cancel(waiting));
  eventually([&] { return calls == 2; });
  CHECK(!other.cancel(waiting));
  auto refused = session.acquire_future("", 10s).get();
  CHECK(!refused && refused.error().code() == TENURE_INVALID_ARGUMENT);
#if defined(__cpp_exceptions)
  must(session.acquire_async("thrown", 0ms, {}, [&](tenure::Result<tenure::Grant>) {
    calls++;
    throw std::runtime_error("from a callback");
  }));
  eventually([&] { return calls == 3 && !must(session.holder("thrown")); });
  bool thrown = false;
  try {
    static_cast<void>(session.acquire("", 0ms).value());
  } catch (const tenure::Exception& e) {
    thrown = e.error().code() == TENURE_INVALID_ARGUMENT && std::string(e.what()).find("TENURE_INVALID_ARGUMENT") == 0;
  }
  CHECK(thrown);
#endif
}

static void events() {
  auto node = must(tenure::Node::open());
  auto session = must(node.session());
  std::atomic<int> lost{0}, once{0};
  std::string key;
  auto subscription = std::optional(must(node.subscribe([&](const tenure::Event& e) {
    if (e.kind != TENURE_EVENT_KIND_LOST) return;
    key = e.key;
    lost++;
  })));
  // One that ends itself.
  std::mutex mutex;
  std::optional<tenure::Subscription> self;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    self = must(node.subscribe([&](const tenure::Event&) {
      const std::lock_guard<std::mutex> inside(mutex);
      once++;
      self.reset();
    }));
  }
  for (int i = 1; i <= 2; i++) {
    const auto token = must(session.acquire("k", 1s)).detach();
    CHECK(token != 0 && must(session.force_release("k", 0ms)));
    eventually([&] { return lost == i; });
  }
  CHECK(key == "k" && once == 1);
  subscription.reset();
  must(session.acquire("k", 1s)).detach();
  CHECK(must(session.force_release("k", 0ms)));
  must(node.close(10s));
  CHECK(lost == 2);
}

static void watches() {
  auto node = must(tenure::Node::open());
  auto session = must(node.session());
  auto other = must(node.open_session("other", 10s));
  std::mutex mutex;
  std::vector<std::string> told;
  const auto note = [&](const tenure::Event& e) {
    const std::lock_guard<std::mutex> lock(mutex);
    told.push_back(e.kind == TENURE_EVENT_KIND_FREED ? std::string("free") : std::string(e.name) + ":" + std::string(e.text));
  };
  const auto last = [&](const std::string& wanted) {
    eventually([&] {
      const std::lock_guard<std::mutex> lock(mutex);
      return !told.empty() && told.back() == wanted;
    });
  };
  std::optional<tenure::Subscription> watch = must(node.watch("e", note));
  last("free");
  tenure::Election mine(session, "e"), theirs(other, "e");
  CHECK(!must(theirs.leader()));
  auto leadership = must(mine.campaign("v1", 1s));
  last(must(node.id()) + ":v1");
  must(leadership.proclaim("v2"));
  last(must(node.id()) + ":v2");
  const auto leader = must(theirs.leader());
  CHECK(leader && leader->value == "v2" && leader->token == leadership.token());
  CHECK(must(other.holder_local("e")).token == leadership.token());
  CHECK(must(leadership.grant().ensure(1ms)) > 0ms && !leadership.grant().ensure(60s).has_value());
  CHECK(must(session.contenders("e")).find("\"waiters\":[]") != std::string::npos);
  must(leadership.resign());
  last("free");

  std::atomic<int> asked{0};
  auto events = must(node.subscribe([&](const tenure::Event& e) { asked += e.kind == TENURE_EVENT_KIND_REVOKE_REQUESTED; }));
  auto grant = must(session.acquire("r", 1s));
  CHECK(must(other.revoke("r", "please")) == 1);
  eventually([&] { return asked == 1; });
  CHECK(!grant.lost());
  CHECK(must(other.revoke("r", "now", 1ms)) == 1);
  eventually([&] { return must(grant.loss()) == "revoked"; });

  auto kept = must(other.acquire("t", 1s));
  auto heir = must(node.take_over("heir", 10s, must(other.secret()), true));
  CHECK(must(heir.inherited()).find("\"t\"") != std::string::npos && must(heir.holder("t"))->node == "heir");
  CHECK(!kept.release().has_value());
  watch.reset();
  must(node.close(10s));
}

static void gates() {
  auto node = must(tenure::Node::open());
  auto gate = must(node.gate("g", {{"gate.drain_budget_ms", "1"}}));
  if (auto permit = gate.enter()) CHECK(!"a gate that was never granted is open");
  CHECK(std::string_view(gate.enter().reason_name()) == "never_granted" && !gate.enter().finish());
  auto reply = must(gate.heartbeat({4, 60s}));
  CHECK(!reply.accepted && reply.reason == "no_nonce");
  reply = must(gate.heartbeat({4, 60s, reply.next_nonce}));
  CHECK(reply.accepted && reply.epoch == 4 && reply.remaining > 0ms && reply.reason.empty());
  uint64_t epoch = 0;
  CHECK(gate.check(&epoch) && epoch == 4 && gate.check_epoch(3) == 4 && gate.check_epoch(4) == 0);
  {
    auto permit = gate.enter();
    CHECK(permit && permit.epoch() == 4 && permit.precommit());
    tenure::Permit moved = std::move(permit);
    CHECK(!permit && !permit.finish() && moved && moved.finish() && !moved.finish());
  }
  {
    // Given up, not finished: the drain does not wait for it.
    auto permit = gate.enter();
    CHECK(permit);
  }
  auto in_flight = gate.enter();
  auto drained = gate.drain(10ms);
  CHECK(!drained && drained.error().code() == TENURE_TIMEOUT && gate.enter().reason() == TENURE_GATE_DRAINING);
  CHECK(in_flight.finish());
  must(gate.drain(10s));
  CHECK(!gate.enter());
  must(gate.set_mode("disabled"));
  CHECK(must(gate.mode()) == "disabled" && gate.enter(TENURE_GATE_REPLICATION) && gate.enter().finish());
  CHECK(must(gate.status()).find("\"epoch\":4") != std::string::npos);
  must(gate.set_mode("block-write"));
  must(gate.observe(9, "other"));
  CHECK(gate.enter().reason() == TENURE_GATE_SUPERSEDED);
  auto stale = gate.heartbeat({4, 60s, reply.next_nonce});
  CHECK(!stale && stale.error().code() == TENURE_FENCED && stale.error().token() == 9);
  must(gate.reset());
  must(gate.close());
}

static void log() {
  std::mutex mutex;
  int lines = 0;
  auto counted = [&](tenure_log_level, std::string_view target, std::string_view) {
    const std::lock_guard<std::mutex> lock(mutex);
    CHECK(!target.empty());
    lines++;
  };
  must(tenure::set_log(TENURE_LOG_LEVEL_TRACE, counted));
  auto node = must(tenure::Node::open());
  auto gate = must(node.gate("logged"));
  must(gate.hold("office", 10s));
  eventually([&] {
    const std::lock_guard<std::mutex> lock(mutex);
    return lines > 0;
  });
  must(tenure::set_log(TENURE_LOG_LEVEL_OFF, nullptr));
  const int before = lines;
  eventually([&] { return gate.check(); });
  CHECK(gate.resign_to("nobody", 10s).error().code() == TENURE_UNAVAILABLE);
  CHECK(gate.check());
  must(gate.resign(10s));
  must(node.close(10s));
  CHECK(lines == before);
}

static void fences(const std::string& folder) {
  const std::string path = folder + "/epochs";
  CHECK(tenure::EpochFence::open(path).error().code() == TENURE_DATA_LOST);
  must(tenure::EpochFence::create(path));
  auto fence = must(tenure::EpochFence::open(path));
  {
    const auto pass = must(fence.enter("wal", 5, 1s));
    CHECK(fence.enter("wal", 6, 1ms).error().code() == TENURE_TIMEOUT);
  }
  const auto refused = fence.enter("wal", 5, 1s);
  CHECK(!refused && refused.error().code() == TENURE_FENCED && refused.error().token() == 6);
  CHECK(must(fence.highest("wal")) == 6 && must(fence.highest("other")) == 0);
  const auto first = must(tenure::admit_epoch({}, 3));
  CHECK(first.raised && must(tenure::read_epoch(first.bytes())) == 3);
  CHECK(!must(tenure::admit_epoch(first.bytes(), 3)).raised);
  CHECK(tenure::admit_epoch(first.bytes(), 2).error().token() == 3);
}

static void granters() {
  auto controller = must(tenure::Node::open());
  auto server = must(tenure::Node::open());
  auto gate = must(server.gate("master"));
  {
    auto granter = must(tenure::Granter::open(controller, "controller", 10s, 0ms));
    CHECK(granter.in_office() && granter.term() != 0);
    CHECK(must(granter.promote("shard", "a")) == 1);
    const auto order = must(granter.heartbeat("shard", 60s, must(gate.next_nonce())));
    CHECK(order.holder == "a" && must(gate.heartbeat(order.heartbeat)).accepted && gate.check());
    const auto early = granter.promote("shard", "b");
    CHECK(!early && early.error().code() == TENURE_TOO_EARLY && early.error().retry_after() > 55s && early.error().retriable());
    must(gate.drain(20s));
    must(granter.acknowledge("shard", 1));
    CHECK(must(granter.promote("shard", "b")) == 2);
  }
  // Its destructor gave the lock back.
  auto next = must(tenure::Granter::open(controller, "controller", 10s, 20s));
  CHECK(must(controller.promises("", 10)).find("\"holder\":\"b\"") != std::string::npos);
  must(next.resign());
  CHECK(!next.in_office());
}

int main(int argc, char** argv) {
  CHECK(argc == 2);
  fences(argv[1]);
  granters();
  durations();
  settings();
  locks();
  asynchronous();
  events();
  watches();
  gates();
  log();
}
