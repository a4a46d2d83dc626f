// A pluggable lock for C++17: the interface that a host's orchestrator takes, and one implementation. Included by tenure.hpp.
#ifndef TENURE_LOCK_HPP
#define TENURE_LOCK_HPP

#include <algorithm>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

namespace tenure {

// The four methods of ThemisDB's IDistributedLock. Implementations are thread-safe.
class DistributedLock {
 public:
  virtual ~DistributedLock() = default;
  // Takes the lock for ttl_ms without waiting. False when it is held: by another node, or by this one since an earlier call.
  virtual bool tryAcquire(const std::string& key, int64_t ttl_ms) = 0;
  // Gives back what this node took and still holds; nothing otherwise.
  virtual void release(const std::string& key) = 0;
  // The node that holds the lock; empty when nobody does.
  virtual std::string getHolderNodeId(const std::string& key) const = 0;
  virtual std::string nodeId() const = 0;
};

}  // namespace tenure

// After the interface, on which what it includes is built.
#include "tenure.hpp"

namespace tenure {

// A DistributedLock over a node in this process: for tests and for a database that runs alone. Locks with one domain compete;
// each has a node id of its own. Underneath are fencing tokens: a late release frees nobody else's lock.
class InProcessLock final : public DistributedLock {
 public:
  // Opens a domain that is shared with nobody yet: an in-memory node.
  static Result<std::shared_ptr<Node>> domain() {
    auto node = Node::open();
    if (!node) return node.error();
    return std::make_shared<Node>(std::move(*node));
  }

  static Result<std::unique_ptr<InProcessLock>> open(std::shared_ptr<Node> domain, std::string node_id) {
    auto session = domain->open_session(node_id, milliseconds(10'000));
    if (!session) return session.error();
    return std::unique_ptr<InProcessLock>(new InProcessLock(std::move(domain), std::move(*session), std::move(node_id)));
  }

  // Not renewed: the lock is free ttl_ms later, whatever its holder does. A ttl is 100 ms to 24 h; a shorter or longer one is taken as the
  // nearest of these, zero and less are refused.
  bool tryAcquire(const std::string& key, int64_t ttl_ms) override {
    if (ttl_ms <= 0) return false;
    LockOptions options;
    options.ttl = milliseconds(std::min<int64_t>(std::max<int64_t>(ttl_ms, 100), 86'400'000));
    options.manual = true;
    auto grant = session_.try_acquire(key, options);
    if (!grant || !*grant) return false;
    const std::lock_guard<std::mutex> lock(mutex_);
    tokens_[key] = (*grant)->detach();
    return true;
  }

  void release(const std::string& key) override {
    uint64_t token = 0;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      const auto found = tokens_.find(key);
      if (found == tokens_.end()) return;
      token = found->second;
      tokens_.erase(found);
    }
    // A refusal says that the lock has run out and may be another's by now, which is the case that the token is for.
    static_cast<void>(session_.release(key, token).has_value());
  }

  std::string getHolderNodeId(const std::string& key) const override {
    auto holder = session_.holder(key);
    return holder && *holder ? (*holder)->node : std::string();
  }

  std::string nodeId() const override { return node_id_; }

 private:
  InProcessLock(std::shared_ptr<Node> domain, Session session, std::string node_id)
      : domain_(std::move(domain)), session_(std::move(session)), node_id_(std::move(node_id)) {}

  std::shared_ptr<Node> domain_;
  Session session_;
  std::string node_id_;
  mutable std::mutex mutex_;
  std::map<std::string, uint64_t> tokens_;
};

}  // namespace tenure

#endif  // TENURE_LOCK_HPP
