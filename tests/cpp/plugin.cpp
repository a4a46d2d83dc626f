// A lock service written in C++, and nodes over it and over a lock with ThemisDB's four methods: tests/python/nativeservice.py drives them.
#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <stdexcept>
#include <tenure.hpp>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using Clock = std::chrono::steady_clock;
using tenure::milliseconds;

std::atomic<int> live{0};

struct Row {
  std::string node;
  uint64_t token;
  Clock::time_point end;
};

struct Table {
  std::mutex mutex;
  std::condition_variable changed;
  std::map<std::string, Row, std::less<>> rows;
  uint64_t last = 0;

  Row* held(std::string_view key) {
    const auto found = rows.find(key);
    return found != rows.end() && found->second.end > Clock::now() ? &found->second : nullptr;
  }
};

Table& table() {
  static auto* t = new Table();
  return *t;
}

class Service final : public tenure::LockService {
 public:
  explicit Service(std::string name) : name_(std::move(name)) { ++live; }
  ~Service() override { --live; }

  std::string node_id() const override { return name_; }
  tenure::Capabilities capabilities() const override {
    tenure::Capabilities caps;
    caps.fencing = caps.renew = caps.wait = caps.linearizable_reads = true;
    return caps;
  }

  Outcome try_acquire(std::string_view key, milliseconds ttl, milliseconds) override {
    if (key.substr(0, 5) == "fails") return Outcome::failed(TENURE_LIMIT, "the table is full");
    if (key.substr(0, 5) == "wrong") throw std::runtime_error("thrown by the service");
    const std::lock_guard<std::mutex> lock(table().mutex);
    return take(key, ttl);
  }

  Outcome acquire(std::string_view key, milliseconds ttl, milliseconds wait) override {
    std::unique_lock<std::mutex> lock(table().mutex);
    const auto end = Clock::now() + wait;
    for (;;) {
      Outcome outcome = take(key, ttl);
      if (outcome.status != TENURE_HELD || Clock::now() >= end) return outcome;
      table().changed.wait_for(lock, milliseconds(20));
    }
  }

  Outcome release(std::string_view key, uint64_t token, milliseconds) override { return end_or_extend(key, token, milliseconds(0)); }
  Outcome renew(std::string_view key, uint64_t token, milliseconds ttl, milliseconds) override { return end_or_extend(key, token, ttl); }

  tenure::Result<Held> holder(std::string_view key, milliseconds) override {
    const std::lock_guard<std::mutex> lock(table().mutex);
    const Row* row = table().held(key);
    if (row == nullptr) return Held{};
    return Held{row->node, row->token, std::chrono::duration_cast<milliseconds>(row->end - Clock::now())};
  }

 private:
  Outcome take(std::string_view key, milliseconds ttl) {
    if (const Row* row = table().held(key)) return Outcome::held(row->token);
    const uint64_t token = ++table().last;
    table().rows[std::string(key)] = Row{name_, token, Clock::now() + ttl};
    return Outcome::acquired(token);
  }

  Outcome end_or_extend(std::string_view key, uint64_t token, milliseconds ttl) {
    const std::lock_guard<std::mutex> lock(table().mutex);
    Row* row = table().held(key);
    if (row == nullptr || row->token != token) return Outcome::done(false);
    row->end = ttl.count() == 0 ? Clock::time_point() : Clock::now() + ttl;
    table().changed.notify_all();
    return Outcome::done();
  }

  std::string name_;
};

int32_t opened(tenure::Result<tenure::Node> node, tenure_node* out, tenure_error* err) {
  if (!node) {
    const auto message = node.error().message();
    message.copy(err->message, message.size());
    return node.error().code();
  }
  // The handle is the test's, which closes and frees it.
  auto* kept = new tenure::Node(std::move(*node));
  *out = kept->get();
  return TENURE_OK;
}

}  // namespace

EXPORT int plugin_live() { return live; }

EXPORT int32_t plugin_open(const char* node_id, tenure_node* out_node, tenure_error* err) {
  return opened(tenure::open_with_service(std::make_shared<Service>(node_id)), out_node, err);
}

// Over a lock of the kind that ThemisDB has: all of one process share its domain.
EXPORT int32_t plugin_open_distributed(const char* node_id, tenure_node* out_node, tenure_error* err) {
  static auto* domain = new std::shared_ptr<tenure::Node>(*tenure::InProcessLock::domain());
  auto lock = tenure::InProcessLock::open(*domain, node_id);
  if (!lock) return lock.error().code();
  auto service = std::make_shared<tenure::DistributedLockService>(std::shared_ptr<tenure::DistributedLock>(std::move(*lock)));
  return opened(tenure::open_with_service(std::move(service)), out_node, err);
}
