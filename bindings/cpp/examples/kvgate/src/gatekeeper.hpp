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
#include <vector>

namespace kvgate {

// Why a write is made, which decides what it needs.
enum class WriteClass {
  kClient,       // on behalf of a client: needs the lease
  kDeferrable,   // the server's own, and can wait: needs the lease, and a refusal is no news
  kReplication,  // a batch from the master: needs the replica role
  kBootstrap,    // before the server serves anybody
};

enum class Role { kMaster, kReplica };

struct GateSettings {
  std::string mode;
  std::string data_dir;        // where the highest epoch is kept across restarts
  bool trust_receipt = false;  // weaker: count heartbeats without a nonce from their receipt
  // Settings of the library's node, by name: node_id, listen, peers and so on make it a member of a cluster.
  std::vector<std::pair<std::string, std::string>> node;
  // Empty: the office is granted by heartbeats. Otherwise the library's own lease on this lock.
  std::string own_lease_key;
  std::chrono::milliseconds own_lease_ttl{0};
  // Whoever gets that lock is made master by set_role() later, and stands for it as a replica too.
  bool stands_as_replica = false;
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
  Admission(tenure::Permit permit, bool stamped, std::atomic<int64_t>* counted)
      : permit_(std::move(permit)), stamped_(stamped), counted_(counted) {}
  Admission(Admission&& other) noexcept
      : permit_(std::move(other.permit_)),
        refusal_(other.refusal_),
        stamped_(other.stamped_),
        counted_(std::exchange(other.counted_, nullptr)) {}
  ~Admission() {
    permit_.reset();
    if (counted_ != nullptr) counted_->fetch_sub(1);
  }

  bool admitted() const { return permit_ && *permit_; }
  // Why not, as a word.
  const char* reason() const { return permit_ ? permit_->reason_name() : refusal_; }
  // To be stored with the write; 0 where there is none: the gate never had a lease, or does not block.
  uint64_t epoch() const { return stamped_ ? permit_->epoch() : 0; }
  // The verdict on a write that is complete: true only if the lease was valid all the time.
  bool finish() { return permit_->finish(); }

 private:
  std::optional<tenure::Permit> permit_;
  const char* refusal_ = "";
  bool stamped_ = false;
  std::atomic<int64_t>* counted_ = nullptr;
};

class Gatekeeper {
 public:
  // Starts the library's threads: call it after going to the background. The gate comes up closed.
  bool open(const GateSettings& settings, std::string& error);
  void close();

  // Any thread, inline, no lock: the hot path of every write.
  Admission enter(WriteClass write_class);

  // Whether a read may be answered now: a master's needs the lease. To be asked before the read and after it.
  bool may_read() const;
  // A client's permit that nothing is written under: it says why writes are refused.
  tenure::Permit probe() const { return gate_->enter(); }
  // The epoch under which a client's write would be let in now.
  std::optional<uint64_t> open_epoch() const;

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
  // The gate's state, and the node's that it belongs to, as lines of INFO.
  std::string describe();
  std::string describe_node();
  // Who holds the office, by the library's own lease: its node and epoch. False when nobody does, or when it cannot be known now.
  bool office_holder(std::string& node_id, uint64_t& epoch, std::string& error);
  // Gives up an office that was not taken up, and stands for it no more until stand().
  void step_aside();
  bool stand(std::string& error) { return hold_own_lease(error); }
  // The office of this epoch has been taken up: its writes are let in. Of one that was not, where the servers elect, none is.
  void confirm(uint64_t epoch) { confirmed_.store(epoch); }
  bool confirmed(uint64_t epoch) const { return !settings_.stands_as_replica || confirmed_.load() == epoch; }
  const std::string& node_id() const { return node_id_; }

 private:
  Admission enter_office(uint32_t write_class);
  HeartbeatReply unrenewed(const char* reason);
  // The highest epoch seen, whoever's: what epoch 0 would be refused for.
  uint64_t epoch_seen() const { return gate_->check_epoch(0); }
  bool hold_own_lease(std::string& error);

  GateSettings settings_;
  std::optional<tenure::Node> node_;
  std::optional<tenure::Session> session_;
  std::optional<tenure::Gate> gate_;
  std::string node_id_;
  std::atomic<bool> blocks_{true};
  std::atomic<uint64_t> confirmed_{0};
  std::atomic<Role> role_{Role::kMaster};
  std::atomic<bool> serving_{false};
  std::atomic<int64_t> replicating_{0};
  std::mutex holder_mutex_;
  std::string holder_;
};

}  // namespace kvgate
