// The cluster's topology as the controller last told it: who serves which slots, and who we are.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace kvgate {

constexpr int kSlots = 16384;

// The slot of a key, hash tags included.
int slot_of(std::string_view key);

struct ClusterNode {
  std::string id;
  std::string host;
  uint16_t port = 0;
  bool master = false;
  std::string master_id;  // of a replica
  std::vector<std::pair<int, int>> slots;
};

class Cluster {
 public:
  // Where the topology is kept across restarts. Reads what is there.
  bool open(const std::string& file, std::string& error);

  bool set_my_id(const std::string& id, std::string& error);
  std::string my_id() const;

  // Replaces the topology: one node a line, "<id> <host> <port> <master|slave> <master id|->
  // [slot | first-last]...". A version not above ours is refused unless `force`.
  bool set_nodes(const std::string& text, int64_t version, bool force, std::string& error);
  // -1 before the first SETNODES.
  int64_t version() const;

  // What the topology says of us. False when it does not name us.
  bool me(ClusterNode& node) const;
  bool find(const std::string& id, ClusterNode& node) const;
  // The master of a slot; false when nobody serves it.
  bool owner(int slot, ClusterNode& node) const;
  std::vector<ClusterNode> nodes() const;
  std::string describe_nodes() const;
  std::string describe_info() const;

 private:
  bool save(std::string& error) const;
  bool adopt(const std::string& text, int64_t version, std::string& error);

  mutable std::mutex mutex_;
  std::string file_;
  std::string my_id_;
  std::string text_;
  int64_t version_ = -1;
  std::vector<ClusterNode> nodes_;
  std::vector<int16_t> owners_ = std::vector<int16_t>(kSlots, -1);
};

}  // namespace kvgate
