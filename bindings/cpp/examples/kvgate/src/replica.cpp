#include "replica.hpp"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "log.hpp"
#include "resp.hpp"
#include "server.hpp"

namespace kvgate {

namespace {

int connect_to(const std::string& host, uint16_t port, int timeout_ms) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) return -1;
  int fd = -1;
  for (addrinfo* at = found; at != nullptr && fd < 0; at = at->ai_next) {
    fd = ::socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC, at->ai_protocol);
    if (fd < 0) continue;
    timeval limit{};
    limit.tv_sec = timeout_ms / 1000;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (::connect(fd, at->ai_addr, at->ai_addrlen) != 0) {
      ::close(fd);
      fd = -1;
    }
  }
  freeaddrinfo(found);
  return fd;
}

bool send_all(int fd, const std::string& bytes) {
  size_t sent = 0;
  while (sent < bytes.size()) {
    const ssize_t step = ::send(fd, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (step <= 0) return false;
    sent += static_cast<size_t>(step);
  }
  return true;
}

}  // namespace

bool Replica::start(std::string& error) {
  poked_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (poked_ < 0) {
    error = std::string("cannot start replication: ") + strerror(errno);
    return false;
  }
  thread_ = std::thread([this] { run(); });
  pthread_setname_np(thread_.native_handle(), "kv-replica");
  return true;
}

void Replica::stop() {
  stopping_.store(true);
  if (thread_.joinable()) {
    follow("", 0);
    thread_.join();
  }
  if (poked_ >= 0) ::close(poked_);
  poked_ = -1;
}

void Replica::follow(const std::string& host, uint16_t port) {
  std::lock_guard<std::mutex> guard(mutex_);
  host_ = host;
  port_ = port;
  target_.fetch_add(1);
  const uint64_t one = 1;
  const ssize_t written = ::write(poked_, &one, sizeof one);
  static_cast<void>(written);
}

std::string Replica::host() const {
  std::lock_guard<std::mutex> guard(mutex_);
  return host_;
}

uint16_t Replica::port() const {
  std::lock_guard<std::mutex> guard(mutex_);
  return port_;
}

void Replica::pause(int milliseconds) {
  pollfd waiting{poked_, POLLIN, 0};
  if (poll(&waiting, 1, milliseconds) > 0) {
    uint64_t counter = 0;
    const ssize_t got = ::read(poked_, &counter, sizeof counter);
    static_cast<void>(got);
  }
}

void Replica::run() {
  while (!stopping_.load()) {
    std::string host;
    uint16_t port = 0;
    uint64_t target = 0;
    {
      std::lock_guard<std::mutex> guard(mutex_);
      host = host_;
      port = port_;
      target = target_.load();
    }
    if (host.empty()) {
      pause(-1);
      continue;
    }
    const int fd = connect_to(host, port, kAnswerMs);
    if (fd >= 0) {
      log_line(LogLevel::kInfo, "replicating from " + host + ":" + std::to_string(port));
      tail(fd, target);
      ::close(fd);
      link_up_.store(false);
    }
    if (current(target)) pause(kReconnectMs);
  }
}

void Replica::tail(int fd, uint64_t target) {
  while (current(target)) {
    size_t applied = 0;
    if (!fetch(fd, applied)) return;
    link_up_.store(true);
    if (applied == 0) pause(kIdlePollMs);
  }
}

bool Replica::fetch(int fd, size_t& applied) {
  const std::string from = std::to_string(server_.storage().sequence() + 1);
  std::string request;
  reply_array(request, 3);
  reply_bulk(request, "FETCHBATCHES");
  reply_bulk(request, from);
  reply_bulk(request, std::to_string(kBatchesAtATime));
  if (!send_all(fd, request)) return false;

  // The answer is an array of bulk strings, which is the form that requests have.
  RequestParser parser;
  Args answer;
  std::string input;
  for (;;) {
    const RequestParser::Result result = parser.next(input, answer);
    if (result == RequestParser::Result::kRequest) break;
    if (result == RequestParser::Result::kProtocolError) return false;
    char chunk[64 << 10];
    const ssize_t got = ::recv(fd, chunk, sizeof chunk, 0);
    if (got <= 0) return false;
    input.append(chunk, static_cast<size_t>(got));
  }
  if (!answer.empty() && answer[0][0] == '-') {
    log_line(LogLevel::kWarning, "the master refuses to replicate: " + input);
    return false;
  }
  for (size_t i = 0; i + 1 < answer.size(); i += 2) {
    if (!apply(answer[i + 1], answer[i])) return false;
    ++applied;
  }
  return true;
}

bool Replica::apply(const std::string& bytes, const std::string& sequence) {
  if (sequence != std::to_string(server_.storage().sequence() + 1)) {
    log_line(LogLevel::kWarning, "the master's log does not continue ours at " + sequence);
    return false;
  }
  const WriteOutcome outcome = server_.storage().apply(bytes, WriteClass::kReplication);
  if (outcome.kind == WriteOutcome::Kind::kAcknowledged) return true;
  log_line(LogLevel::kWarning, "a batch from the master was not applied: " + outcome.detail);
  return false;
}

}  // namespace kvgate
