#include "link.hpp"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <chrono>
#include <utility>

namespace kvgate {

namespace {

using Clock = std::chrono::steady_clock;

int milliseconds_until(Clock::time_point end) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
  return left > 0 ? static_cast<int>(left) : 0;
}

}  // namespace

Link::Link(int socket, int send_ms) : fd_(socket) {
  timeval limit{};
  limit.tv_sec = send_ms / 1000;
  limit.tv_usec = send_ms % 1000 * 1000;
  setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  const int on = 1;
  setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

Link::~Link() {
  if (fd_ >= 0) ::close(fd_);
}

Link::Link(Link&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), in_(std::move(other.in_)), parser_(std::move(other.parser_)) {}

Link Link::connect(const std::string& host, uint16_t port, int timeout_ms) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) return Link();
  Link link;
  for (addrinfo* at = found; at != nullptr && !link.open(); at = at->ai_next) {
    const int fd = ::socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC, at->ai_protocol);
    if (fd < 0) continue;
    Link candidate(fd, timeout_ms);  // the time for sends is that for connecting, too
    if (::connect(fd, at->ai_addr, at->ai_addrlen) == 0) link.fd_ = std::exchange(candidate.fd_, -1);
  }
  freeaddrinfo(found);
  return link;
}

bool Link::send(std::initializer_list<std::string_view> frame) {
  std::string bytes;
  reply_array(bytes, frame.size());
  for (std::string_view part : frame) reply_bulk(bytes, part);
  size_t sent = 0;
  while (sent < bytes.size()) {
    const ssize_t step = ::send(fd_, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (step < 0 && errno == EINTR) continue;
    if (step <= 0) return false;
    sent += static_cast<size_t>(step);
  }
  return true;
}

Link::Received Link::receive(Args& frame, int timeout_ms, int interrupt) {
  const Clock::time_point end = Clock::now() + std::chrono::milliseconds(timeout_ms);
  for (;;) {
    const RequestParser::Result result = parser_.next(in_, frame);
    if (result == RequestParser::Result::kProtocolError) return Received::kBroken;
    parser_.discard_consumed(in_);
    if (result == RequestParser::Result::kRequest) return Received::kFrame;
    pollfd waiting[2] = {{fd_, POLLIN, 0}, {interrupt, POLLIN, 0}};
    const int ready = poll(waiting, 2, milliseconds_until(end));
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0 || waiting[1].revents != 0) return Received::kNothing;
    char chunk[64 << 10];
    const ssize_t got = ::recv(fd_, chunk, sizeof chunk, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (got <= 0) return Received::kBroken;
    in_.append(chunk, static_cast<size_t>(got));
  }
}

void Link::shut() {
  if (fd_ >= 0) ::shutdown(fd_, SHUT_RDWR);
}

}  // namespace kvgate
