// A lock service of the host's under a node, for C++17. Included by tenure.hpp.
#ifndef TENURE_PLUG_HPP
#define TENURE_PLUG_HPP

#include <cstring>

#include "tenure.hpp"

namespace tenure {

// What a lock service can do besides what its methods say. The default claims nothing.
struct Capabilities {
  // Every grant has a token: 1 to 2^63-1, larger than that of every grant of the same key before it, and never another key's.
  bool fencing = false;
  // renew() is implemented. Without it a grant ends after its ttl whatever its holder does.
  bool renew = false;
  // acquire() is implemented. Without it, waiting is asking again and again.
  bool wait = false;
  // Those who wait in acquire(), on all nodes, are granted the lock in the order in which they came.
  bool fair = false;
  // holder() tells what every earlier answer implies.
  bool linearizable_reads = false;
  // The library rounds ttls up to a multiple of the first and to at least the second, and refuses one above the third.
  milliseconds ttl_granularity{1};
  milliseconds ttl_min{1};
  milliseconds ttl_max{86'400'000};
};

// A lock service that the host already runs. The methods are called on threads of the library, several at a time, but never two of
// try_acquire, acquire, renew and release for one key unless a call took longer than its timeout and was given up; what such a call grants after
// all is released. An exception is caught and becomes TENURE_SERVICE_FAILED for the caller of the node. Must not close the node.
class LockService {
 public:
  // How a call ended. Ok, or what the method says; an outcome that names a tenure_status goes to the caller of the node.
  struct Outcome {
    int32_t status = TENURE_OK;
    // With TENURE_OK of an acquisition its token, 0 without fencing; with TENURE_HELD the holder's, or 0.
    uint64_t token = 0;
    // For a person, with a failure.
    std::string message;
    static Outcome acquired(uint64_t token) { return {TENURE_OK, token, {}}; }
    static Outcome held(uint64_t token = 0) { return {TENURE_HELD, token, {}}; }
    static Outcome done(bool was_holder = true) { return {was_holder ? TENURE_OK : TENURE_NOT_HOLDER, 0, {}}; }
    static Outcome failed(int32_t status, std::string message) { return {status, 0, std::move(message)}; }
    static Outcome unavailable(std::string message) { return failed(TENURE_UNAVAILABLE, std::move(message)); }
  };
  struct Held {
    // The holder's node id; empty when nobody holds the lock.
    std::string node;
    uint64_t token = 0;
    std::optional<milliseconds> remaining;
  };

  virtual ~LockService() = default;
  // The name under which the service knows this node. Asked once, as are the capabilities.
  virtual std::string node_id() const = 0;
  virtual Capabilities capabilities() const { return {}; }
  // Takes the lock for ttl if it is free: acquired() or held().
  virtual Outcome try_acquire(std::string_view key, milliseconds ttl, milliseconds timeout) = 0;
  // Gives it back: done(); done(false), and no effect, when `token` is not that of the current grant.
  virtual Outcome release(std::string_view key, uint64_t token, milliseconds timeout) = 0;
  // Who holds it.
  virtual Result<Held> holder(std::string_view key, milliseconds timeout) = 0;
  // Extends the grant to ttl from now: as release().
  virtual Outcome renew(std::string_view, uint64_t, milliseconds, milliseconds) { return Outcome::failed(TENURE_UNSUPPORTED, {}); }
  // As try_acquire(), waiting for at most `wait`.
  virtual Outcome acquire(std::string_view, milliseconds, milliseconds) { return Outcome::failed(TENURE_UNSUPPORTED, {}); }
};

// A lock with ThemisDB's four methods as a lock service: no tokens and no renewals, which the node's status says. A failed tryAcquire is
// taken for a lock that is held.
class DistributedLockService final : public LockService {
 public:
  explicit DistributedLockService(std::shared_ptr<DistributedLock> lock) : lock_(std::move(lock)) {}
  std::string node_id() const override { return lock_->nodeId(); }
  Outcome try_acquire(std::string_view key, milliseconds ttl, milliseconds) override {
    return lock_->tryAcquire(std::string(key), ttl.count()) ? Outcome::acquired(0) : Outcome::held();
  }
  Outcome release(std::string_view key, uint64_t, milliseconds) override {
    const std::string name(key);
    const bool mine = lock_->getHolderNodeId(name) == lock_->nodeId();
    lock_->release(name);
    return Outcome::done(mine);
  }
  Result<Held> holder(std::string_view key, milliseconds) override { return Held{lock_->getHolderNodeId(std::string(key)), 0, {}}; }

 private:
  std::shared_ptr<DistributedLock> lock_;
};

namespace detail {

struct ServiceCalls {
  using Service = std::shared_ptr<LockService>;
  static LockService& of(void* user) { return **static_cast<Service*>(user); }

  static void say(tenure_error* err, std::string_view text) noexcept {
    const size_t n = text.size() < sizeof err->message - 1 ? text.size() : sizeof err->message - 1;
    std::memcpy(err->message, text.data(), n);
    err->message[n] = 0;
  }

  // Runs a method where nothing may be thrown.
  template <class F>
  static int32_t run(tenure_error* err, F&& f) noexcept {
#if defined(__cpp_exceptions)
    try {
      return f();
    } catch (const std::exception& e) {
      say(err, e.what());
    } catch (...) {
      say(err, "an exception that is no std::exception");
    }
    return TENURE_SERVICE_FAILED;
#else
    static_cast<void>(err);
    return f();
#endif
  }

  static int32_t ended(const LockService::Outcome& outcome, uint64_t* out_token, tenure_error* err) {
    if (out_token != nullptr) *out_token = outcome.token;
    if (!outcome.message.empty()) say(err, outcome.message);
    return outcome.status;
  }

  static int32_t try_acquire(void* u, tenure_bytes key, uint64_t ttl, uint64_t timeout, uint64_t* token, tenure_error* err) noexcept {
    return run(err, [&] { return ended(of(u).try_acquire(view(key), from_ms(ttl), from_ms(timeout)), token, err); });
  }
  static int32_t release(void* u, tenure_bytes key, uint64_t token, uint64_t timeout, tenure_error* err) noexcept {
    return run(err, [&] { return ended(of(u).release(view(key), token, from_ms(timeout)), nullptr, err); });
  }
  static int32_t renew(void* u, tenure_bytes key, uint64_t token, uint64_t ttl, uint64_t timeout, tenure_error* err) noexcept {
    return run(err, [&] { return ended(of(u).renew(view(key), token, from_ms(ttl), from_ms(timeout)), nullptr, err); });
  }
  static int32_t acquire(void* u, tenure_bytes key, uint64_t ttl, uint64_t wait, uint64_t* token, tenure_error* err) noexcept {
    return run(err, [&] { return ended(of(u).acquire(view(key), from_ms(ttl), from_ms(wait)), token, err); });
  }
  static int32_t holder(void* u, tenure_bytes key, uint64_t timeout, tenure_lock_holder* out, tenure_error* err) noexcept {
    return run(err, [&]() -> int32_t {
      auto held = of(u).holder(view(key), from_ms(timeout));
      if (!held) {
        say(err, held.error().message());
        return held.error().code();
      }
      if (held->node.empty()) return TENURE_NOT_HOLDER;
      if (held->node.size() >= sizeof out->node) {
        say(err, "holder: the node id is too long");
        return TENURE_SERVICE_FAILED;
      }
      std::memcpy(out->node, held->node.c_str(), held->node.size() + 1);
      out->token = held->token;
      if (held->remaining) out->remaining_ms = ms(*held->remaining);
      return TENURE_OK;
    });
  }
  static void free(void* u) noexcept {
    contained([&] { delete static_cast<Service*>(u); });
  }
};

// Hands a service to a call of the library that takes a table of its functions; the library's share is given up by it.
template <class F>
int32_t with_service(std::shared_ptr<LockService> service, F&& call) {
  using Calls = ServiceCalls;
  const Capabilities caps = service->capabilities();
  const std::string name = service->node_id();
  auto user = std::make_unique<Calls::Service>(std::move(service));
  tenure_lock_service table = TENURE_LOCK_SERVICE_INIT;
  table.capabilities = (caps.fencing ? TENURE_LOCK_SERVICE_FENCING : 0u) | (caps.fair ? TENURE_LOCK_SERVICE_FAIR : 0u) |
                       (caps.linearizable_reads ? TENURE_LOCK_SERVICE_LINEARIZABLE_READS : 0u);
  table.ttl_granularity_ms = ms(caps.ttl_granularity);
  table.ttl_min_ms = ms(caps.ttl_min);
  table.ttl_max_ms = ms(caps.ttl_max);
  table.node_id = bytes(name);
  table.user = user.get();
  table.try_acquire = &Calls::try_acquire;
  table.release = &Calls::release;
  table.holder = &Calls::holder;
  table.renew = caps.renew ? &Calls::renew : nullptr;
  table.acquire = caps.wait ? &Calls::acquire : nullptr;
  table.free = &Calls::free;
  const int32_t status = call(&table);
  // The library's from here on.
  if (status == TENURE_OK) static_cast<void>(user.release());
  return status;
}

}  // namespace detail

// Opens a node over a lock service. The node keeps its share of it until it is closed and the last call has returned.
inline Result<Node> open_with_service(std::shared_ptr<LockService> service, const Config* config = nullptr) {
  tenure_node n;
  tenure_error err;
  const tenure_config settings = config ? config->get() : tenure_config{0};
  const auto open = [&](const tenure_lock_service* table) { return tenure_node_open_with_service(settings, table, &n, &err); };
  if (detail::with_service(std::move(service), open) != TENURE_OK) return Error(err);
  return Node::adopt(n);
}

}  // namespace tenure

#endif  // TENURE_PLUG_HPP
