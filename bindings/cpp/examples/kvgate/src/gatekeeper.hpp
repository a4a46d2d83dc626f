// The server's side of the write gate: the one object that every write path asks, and that the
// controller's heartbeats feed. A thin layer over the library; what it adds is the server's role.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <tenure.hpp>
#include <utility>

namespace kvgate {

// Why a write is made, which decides what it needs.
enum class WriteClass {
  kClient,       // on behalf of a client: needs the lease
  kReplication,  // a batch from the master: needs the replica role
  kBootstrap,    // before the server serves anybody
};

enum class Role { kMaster, kReplica };

struct GateSettings {
  std::string mode;
  std::string data_dir;        // where the highest epoch is kept across restarts
  bool trust_receipt = false;  // weaker: count heartbeats without a nonce from their receipt
  // Empty: the office is granted by heartbeats. Otherwise the library's own lease on this lock.
  std::string own_lease_key;
  std::chrono::milliseconds own_lease_ttl{0};
};

struct HeartbeatReply {
  bool accepted = false;
  uint64_t epoch = 0;  // of the lease, or the highest known
  uint64_t remaining_ms = 0;
  uint64_t next_nonce = 0;
  std::string reason;  // why it was not accepted, as a word
  bool stale = false;  // its version is below `epoch`
  std::string error;   // it was refused as a mistake; this says why
};

// Leave to write, or the reason why not. What is not finished is given up when this is destroyed.
class Admission {
 public:
  explicit Admission(const char* refusal) : refusal_(refusal) {}
  Admission(tenure::Permit permit, std::atomic<int64_t>* counted)
      : permit_(std::move(permit)), counted_(counted) {}
  Admission(Admission&& other) noexcept
      : permit_(std::move(other.permit_)),
        refusal_(other.refusal_),
        counted_(std::exchange(other.counted_, nullptr)) {}
  ~Admission() {
    permit_.reset();
    if (counted_ != nullptr) counted_->fetch_sub(1);
  }

  bool admitted() const { return permit_ && *permit_; }
  // Why not, as a word.
  const char* reason() const { return permit_ ? permit_->reason_name() : refusal_; }
  // To be stored with the write; 0 in a gate that never had a lease.
  uint64_t epoch() const { return permit_->epoch(); }
  // The verdict on a write that is complete: true only if the lease was valid all the time.
  bool finish() { return permit_->finish(); }

 private:
  std::optional<tenure::Permit> permit_;
  const char* refusal_ = "";
  std::atomic<int64_t>* counted_ = nullptr;
};

class Gatekeeper {
 public:
  // Starts the library's threads: call it after going to the background. The gate comes up closed.
  bool open(const GateSettings& settings, std::string& error);
  void close();

  // Any thread, inline, no lock: the hot path of every write.
  Admission enter(WriteClass write_class);

  // Never waits for a write. On the control thread, as set_role() is.
  HeartbeatReply heartbeat(const tenure::Heartbeat& beat);
  // A heartbeat that names another node: a higher epoch closes the gate, and nothing is renewed.
  HeartbeatReply heartbeat_for(const std::string& node_id, uint64_t epoch);
  uint64_t issue_nonce();

  // A replica drops the lease. A new master stays closed until it is granted office.
  void set_role(Role role);
  Role role() const { return role_.load(std::memory_order_acquire); }
  // From now on no bootstrap write is let in; takes the office that is this server's own to take.
  bool serve(std::string& error);

  // Lets no more writes in and waits for those in flight, then gives the office up.
  bool drain(std::chrono::milliseconds timeout, std::string& error);
  bool set_mode(const std::string& mode, std::string& error);

  // What an operator should see when a write is refused: epoch and, if known, whose it is.
  std::string refusal_detail(const char* reason);
  // The lines of INFO's section.
  std::string describe();

 private:
  HeartbeatReply unrenewed(const char* reason);
  // The highest epoch seen, whoever's: what epoch 0 would be refused for.
  uint64_t epoch_seen() const { return gate_->check_epoch(0); }
  bool hold_own_lease(std::string& error);

  GateSettings settings_;
  std::optional<tenure::Node> node_;
  std::optional<tenure::Gate> gate_;
  std::atomic<Role> role_{Role::kMaster};
  std::atomic<bool> serving_{false};
  std::atomic<int64_t> replicating_{0};
  std::mutex holder_mutex_;
  std::string holder_;
};

}  // namespace kvgate
