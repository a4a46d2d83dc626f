// An epoll loop on a thread of its own. The control loop accepts connections and serves what must
// not wait for the database, heartbeats first of all; the admin loop what waits by its nature, as a
// drain does; the worker loops everything else.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "connection.hpp"

namespace kvgate {

class Server;

// Where a command is served.
enum class Lane {
  kAny,      // wherever its connection happens to be
  kControl,  // never behind a database write, and never waits itself
  kAdmin,    // never behind a database write, but may wait for one
  kWorker,
};

class EventLoop {
 public:
  EventLoop(Server& server, Lane lane) : server_(server), lane_(lane) {}
  ~EventLoop();

  // Starts the thread. `listener` is a listening socket that this loop accepts from, or -1.
  bool start(int listener, const std::string& thread_name, std::string& error);
  // Asks the loop to end, closes its connections, and waits for the thread.
  void stop();

  // Hands a connection over to this loop. Any thread.
  void adopt(std::unique_ptr<Connection> connection);

  Lane lane() const { return lane_; }

 private:
  static constexpr size_t kReadChunk = 64 << 10;
  static constexpr size_t kPauseReadingAt = 64 << 20;

  void run();
  void wake();
  void accept_all();
  void take_adopted();
  void serve(Connection* connection, uint32_t events);
  void read_input(Connection& connection);
  void flush(Connection& connection);
  // Runs all complete requests. True when the connection has been handed to another loop.
  bool process(Connection& connection);
  void settle(Connection& connection);
  void hand_over(Connection& connection, Lane lane);
  void drop(Connection& connection);

  Server& server_;
  const Lane lane_;
  int epoll_ = -1;
  int wakeup_ = -1;
  int listener_ = -1;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
  std::vector<char> chunk_ = std::vector<char>(kReadChunk);
  std::mutex adopted_mutex_;
  std::vector<std::unique_ptr<Connection>> adopted_;
  std::unordered_map<int, std::unique_ptr<Connection>> connections_;
};

}  // namespace kvgate
