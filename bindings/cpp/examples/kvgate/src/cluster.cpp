#include "cluster.hpp"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <sstream>

#include "resp.hpp"

namespace kvgate {

namespace {

constexpr size_t kIdLength = 40;

// CRC-16/XMODEM, as Redis Cluster specifies it for slots.
constexpr std::array<uint16_t, 256> make_crc_table() {
  std::array<uint16_t, 256> table{};
  for (unsigned byte = 0; byte < 256; ++byte) {
    uint16_t crc = static_cast<uint16_t>(byte << 8);
    for (int bit = 0; bit < 8; ++bit) {
      crc = static_cast<uint16_t>((crc & 0x8000) != 0 ? (crc << 1) ^ 0x1021 : crc << 1);
    }
    table[byte] = crc;
  }
  return table;
}

constexpr std::array<uint16_t, 256> kCrcTable = make_crc_table();

bool parse_slots(const std::string& word, std::pair<int, int>& range) {
  int64_t first = 0;
  int64_t last = 0;
  const size_t dash = word.find('-');
  if (!parse_int(word.substr(0, dash), first)) return false;
  last = first;
  if (dash != std::string::npos && !parse_int(word.substr(dash + 1), last)) return false;
  if (first < 0 || last >= kSlots || first > last) return false;
  range = {static_cast<int>(first), static_cast<int>(last)};
  return true;
}

bool parse_node(const std::string& line, ClusterNode& node, std::string& error) {
  std::istringstream words(line);
  std::string port;
  std::string role;
  words >> node.id >> node.host >> port >> role >> node.master_id;
  int64_t number = 0;
  if (node.master_id.empty() || node.id.size() != kIdLength) {
    error = "Invalid cluster nodes info";
    return false;
  }
  if (!parse_int(port, number) || number < 1 || number > 65535) {
    error = "Invalid cluster node port";
    return false;
  }
  node.port = static_cast<uint16_t>(number);
  if (role != "master" && role != "slave" && role != "replica") {
    error = "Invalid cluster node role";
    return false;
  }
  node.master = role == "master";
  if (node.master) node.master_id.clear();
  for (std::string word; words >> word;) {
    std::pair<int, int> range;
    if (!node.master || !parse_slots(word, range)) {
      error = "Invalid cluster slot range";
      return false;
    }
    node.slots.push_back(range);
  }
  return true;
}

}  // namespace

int slot_of(std::string_view key) {
  const size_t open = key.find('{');
  if (open != std::string_view::npos) {
    const size_t close = key.find('}', open + 1);
    if (close != std::string_view::npos && close > open + 1) {
      key = key.substr(open + 1, close - open - 1);
    }
  }
  uint16_t crc = 0;
  for (char c : key) {
    crc = static_cast<uint16_t>((crc << 8) ^ kCrcTable[((crc >> 8) ^ static_cast<uint8_t>(c)) & 0xff]);
  }
  return crc % kSlots;
}

bool Cluster::open(const std::string& file, std::string& error) {
  std::lock_guard<std::mutex> guard(mutex_);
  file_ = file;
  std::ifstream in(file);
  if (!in) return true;
  std::string version_text;
  std::string text;
  std::getline(in, my_id_);
  std::getline(in, version_text);
  for (std::string line; std::getline(in, line);) text += line + "\n";
  int64_t version = 0;
  if (!parse_int(version_text, version)) {
    error = file + ": damaged, expected a version in the second line";
    return false;
  }
  if (version < 0) return true;
  if (!adopt(text, version, error)) {
    error = file + ": " + error;
    return false;
  }
  return true;
}

bool Cluster::save(std::string& error) const {
  const std::string temporary = file_ + ".new";
  const std::string content = my_id_ + "\n" + std::to_string(version_) + "\n" + text_;
  const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
  bool good = fd >= 0;
  if (good) {
    good = ::write(fd, content.data(), content.size()) == static_cast<ssize_t>(content.size()) &&
           ::fsync(fd) == 0;
    ::close(fd);
  }
  good = good && std::rename(temporary.c_str(), file_.c_str()) == 0;
  if (!good) error = "cannot write " + file_ + ": " + strerror(errno);
  return good;
}

bool Cluster::set_my_id(const std::string& id, std::string& error) {
  if (id.size() != kIdLength || id.find_first_of(" \r\n") != std::string::npos) {
    error = "Invalid cluster node id, it has 40 characters";
    return false;
  }
  std::lock_guard<std::mutex> guard(mutex_);
  my_id_ = id;
  return save(error);
}

std::string Cluster::my_id() const {
  std::lock_guard<std::mutex> guard(mutex_);
  return my_id_;
}

bool Cluster::adopt(const std::string& text, int64_t version, std::string& error) {
  std::vector<ClusterNode> nodes;
  std::vector<int16_t> owners(kSlots, -1);
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.find_first_not_of(" \r") == std::string::npos) continue;
    ClusterNode node;
    if (!parse_node(line, node, error)) return false;
    for (const auto& [first, last] : node.slots) {
      for (int slot = first; slot <= last; ++slot) {
        if (owners[static_cast<size_t>(slot)] >= 0) {
          error = "Slot " + std::to_string(slot) + " has two masters";
          return false;
        }
        owners[static_cast<size_t>(slot)] = static_cast<int16_t>(nodes.size());
      }
    }
    nodes.push_back(std::move(node));
  }
  if (nodes.empty()) {
    error = "Invalid cluster nodes info";
    return false;
  }
  nodes_.swap(nodes);
  owners_.swap(owners);
  text_ = text;
  if (!text_.empty() && text_.back() != '\n') text_ += '\n';
  version_ = version;
  return true;
}

bool Cluster::set_nodes(const std::string& text, int64_t version, bool force, std::string& error) {
  if (version < 0) {
    error = "Invalid version";
    return false;
  }
  std::lock_guard<std::mutex> guard(mutex_);
  if (!force) {
    if (version < version_) {
      error = "Invalid cluster version";
      return false;
    }
    if (version == version_) return true;
  }
  return adopt(text, version, error) && save(error);
}

int64_t Cluster::version() const {
  std::lock_guard<std::mutex> guard(mutex_);
  return version_;
}

bool Cluster::find(const std::string& id, ClusterNode& node) const {
  std::lock_guard<std::mutex> guard(mutex_);
  for (const ClusterNode& candidate : nodes_) {
    if (candidate.id == id) {
      node = candidate;
      return true;
    }
  }
  return false;
}

bool Cluster::me(ClusterNode& node) const { return find(my_id(), node); }

bool Cluster::owner(int slot, ClusterNode& node) const {
  std::lock_guard<std::mutex> guard(mutex_);
  const int16_t index = owners_[static_cast<size_t>(slot)];
  if (index < 0) return false;
  node = nodes_[static_cast<size_t>(index)];
  return true;
}

std::vector<ClusterNode> Cluster::nodes() const {
  std::lock_guard<std::mutex> guard(mutex_);
  return nodes_;
}

std::string Cluster::describe_nodes() const {
  std::lock_guard<std::mutex> guard(mutex_);
  std::string text;
  for (const ClusterNode& node : nodes_) {
    text += node.id + " " + node.host + ":" + std::to_string(node.port) + "@" +
            std::to_string(node.port + 10000) + " ";
    if (node.id == my_id_) text += "myself,";
    text += node.master ? "master - " : "slave " + node.master_id + " ";
    text += "0 0 " + std::to_string(version_) + " connected";
    for (const auto& [first, last] : node.slots) {
      text += " " + std::to_string(first);
      if (last != first) text += "-" + std::to_string(last);
    }
    text += "\n";
  }
  return text;
}

std::string Cluster::describe_info() const {
  std::lock_guard<std::mutex> guard(mutex_);
  size_t served = 0;
  size_t masters = 0;
  for (int16_t owner : owners_) served += owner >= 0 ? 1 : 0;
  for (const ClusterNode& node : nodes_) masters += node.slots.empty() ? 0 : 1;
  const std::string slots = std::to_string(served);
  return std::string("cluster_state:") + (served == kSlots ? "ok" : "fail") +
         "\r\ncluster_slots_assigned:" + slots + "\r\ncluster_slots_ok:" + slots +
         "\r\ncluster_slots_pfail:0\r\ncluster_slots_fail:0\r\ncluster_known_nodes:" +
         std::to_string(nodes_.size()) + "\r\ncluster_size:" + std::to_string(masters) +
         "\r\ncluster_current_epoch:" + std::to_string(version_) +
         "\r\ncluster_my_epoch:" + std::to_string(version_) + "\r\n";
}

}  // namespace kvgate
