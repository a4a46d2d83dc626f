// Servers that settle among themselves who is master: the one that holds the office's lock, once it has made sure that no
// acknowledged write is missing from its log. The others follow it.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

namespace kvgate {

class Server;

class Election {
 public:
  explicit Election(Server& server) : server_(server) {}
  ~Election() { stop(); }

  // "NAME=HOST:PORT,...", all servers.
  bool set_peers(const std::string& text, std::string& error);
  bool start(std::string& error);
  void stop();

  // Offices that were won and given up, because another server's log is ahead.
  uint64_t stepped_aside() const { return stepped_aside_.load(); }

 private:
  struct Peer {
    std::string name;
    std::string host;
    uint16_t port = 0;
  };

  void run();
  void look();
  void take_office(uint64_t epoch);
  void follow(const std::string& name, uint64_t epoch);
  // What the others' logs say of taking office.
  enum class Verdict { kUpToDate, kBehind, kUnknown };
  Verdict compare_logs() const;
  bool tell_topology(const std::string& master, uint64_t epoch);

  Server& server_;
  std::vector<Peer> peers_;
  std::atomic<bool> stopping_{false};
  std::atomic<uint64_t> stepped_aside_{0};
  uint64_t seen_ = 0;       // the epoch whose holder is followed, or is this server
  bool aside_ = false;      // stands again as soon as another has the office, or at the next look
  std::thread thread_;
};

}  // namespace kvgate
