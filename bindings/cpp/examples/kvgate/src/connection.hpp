// One client connection. It belongs to exactly one event loop at a time and moves between them.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "resp.hpp"

namespace kvgate {

struct Connection {
  explicit Connection(int socket, uint64_t number) : fd(socket), id(number) {}
  ~Connection() { ::close(fd); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  const int fd;
  const uint64_t id;
  std::string name;
  Protocol protocol = Protocol::kResp2;

  std::string in;
  RequestParser parser;
  // A request that was read on one event loop and belongs on another; it travels along.
  std::optional<Args> carried;

  std::string out;
  size_t out_sent = 0;
  uint32_t watched = 0;   // epoll events asked for
  bool closing = false;   // close as soon as `out` has been sent
  bool broken = false;    // close now

  bool in_multi = false;
  bool multi_failed = false;  // a queued command was wrong: EXEC will refuse
  std::vector<Args> queued;

  uint64_t last_epoch = 0;  // of the last write that was acknowledged here
  bool reads_from_replica = false;  // READONLY: a replica may answer reads of its master's slots

  size_t unsent() const { return out.size() - out_sent; }
};

}  // namespace kvgate
