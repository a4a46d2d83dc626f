// GET /metrics, on a port and a thread of its own: it answers while the workers wait.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <thread>

namespace kvgate {

class Server;

class MetricsEndpoint {
 public:
  explicit MetricsEndpoint(Server& server) : server_(server) {}
  ~MetricsEndpoint() { stop(); }

  bool start(const std::string& address, uint16_t port, std::string& error);
  void stop();

 private:
  void run();
  void answer(int socket);

  Server& server_;
  int listener_ = -1;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace kvgate
