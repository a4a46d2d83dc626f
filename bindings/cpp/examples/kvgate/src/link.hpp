// A blocking connection between two servers: frames are arrays of bulk strings, the form that requests have.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

#include "resp.hpp"

namespace kvgate {

class Link {
 public:
  Link() = default;
  // Takes the socket over; sends wait for at most `send_ms`.
  Link(int socket, int send_ms);
  ~Link();
  Link(Link&& other) noexcept;
  Link& operator=(Link&&) = delete;

  // Not open when it cannot be reached in time.
  static Link connect(const std::string& host, uint16_t port, int timeout_ms);

  bool open() const { return fd_ >= 0; }
  bool send(std::initializer_list<std::string_view> frame);

  enum class Received { kFrame, kNothing, kBroken };
  // Waits for a frame, for at most `timeout_ms` and until `interrupt` (an eventfd, or -1) is readable.
  Received receive(Args& frame, int timeout_ms, int interrupt = -1);
  // Whether more of what was sent has arrived already.
  bool more() const { return !in_.empty(); }
  // Ends what another thread does with the link. The only call that may be made while another is.
  void shut();

 private:
  int fd_ = -1;
  std::string in_;
  RequestParser parser_;
};

}  // namespace kvgate
