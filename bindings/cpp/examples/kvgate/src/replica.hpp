// The replica's side of replication: it follows a master's log, and takes its whole database when the logs have parted.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>

#include "link.hpp"

namespace kvgate {

class Server;

class Replica {
 public:
  explicit Replica(Server& server) : server_(server) {}
  ~Replica() { stop(); }

  bool start(std::string& error);
  void stop();

  // Follows a master from now on, in place of the one before; nobody with an empty host. Returns at
  // once: a batch that is being applied may be completed after it.
  void follow(const std::string& host, uint16_t port);

  std::string host() const;
  uint16_t port() const;
  // Follows nobody, and applies nothing any more.
  bool idle() const { return idle_.load(); }
  bool link_up() const { return link_up_.load(); }
  // What the master has written that is not here, as far as is known.
  uint64_t lag() const;
  uint64_t full_syncs() const { return full_syncs_.load(); }
  // Batches and databases that were refused: their epoch was behind.
  uint64_t refused() const { return refused_.load(); }

 private:
  static constexpr int kReconnectMs = 100;
  static constexpr int kAnswerMs = 3000;

  void run();
  // Applies what comes until the link breaks or the target changes.
  void tail(Link& link, uint64_t target);
  bool ask(Link& link);
  bool take(Link& link, const Args& frame);
  bool apply(const Args& frame);
  bool take_snapshot(Link& link, const Args& frame);
  bool receive_files(Link& link, const std::string& directory);
  bool current(uint64_t target) const { return target_.load() == target && !stopping_.load(); }
  // Waits, at most until the target changes or the server stops.
  void pause(int milliseconds);
  void take_poke();

  Server& server_;
  mutable std::mutex mutex_;
  std::string host_;
  uint16_t port_ = 0;
  int poked_ = -1;
  std::atomic<uint64_t> target_{0};  // counts the calls of follow()
  std::atomic<bool> stopping_{false};
  std::atomic<bool> link_up_{false};
  std::atomic<bool> idle_{true};
  bool unacknowledged_ = false;
  std::atomic<uint64_t> master_sequence_{0};
  std::atomic<uint64_t> full_syncs_{0};
  std::atomic<uint64_t> refused_{0};
  // The snapshot that the database came from, until a batch has been applied to it.
  std::string snapshot_;
  uint64_t snapshot_end_ = 0;
  std::thread thread_;
};

}  // namespace kvgate
