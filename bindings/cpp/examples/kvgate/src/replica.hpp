// The replica's side of replication: it fetches the master's write-ahead log and applies it.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>

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
  bool link_up() const { return link_up_.load(); }

 private:
  static constexpr int kIdlePollMs = 20;
  static constexpr int kReconnectMs = 200;
  static constexpr int kAnswerMs = 5000;
  static constexpr int kBatchesAtATime = 512;

  void run();
  // Fetches and applies until the link breaks or the target changes.
  void tail(int fd, uint64_t target);
  bool fetch(int fd, size_t& applied);
  bool apply(const std::string& bytes, const std::string& sequence);
  bool current(uint64_t target) const { return target_.load() == target && !stopping_.load(); }
  // Waits, at most until the target changes or the server stops.
  void pause(int milliseconds);

  Server& server_;
  mutable std::mutex mutex_;
  std::string host_;
  uint16_t port_ = 0;
  int poked_ = -1;
  std::atomic<uint64_t> target_{0};  // counts the calls of follow()
  std::atomic<bool> stopping_{false};
  std::atomic<bool> link_up_{false};
  std::thread thread_;
};

}  // namespace kvgate
