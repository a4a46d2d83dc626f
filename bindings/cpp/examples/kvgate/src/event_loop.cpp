#include "event_loop.hpp"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "commands.hpp"
#include "log.hpp"
#include "server.hpp"

namespace kvgate {

EventLoop::~EventLoop() {
  if (epoll_ >= 0) ::close(epoll_);
  if (wakeup_ >= 0) ::close(wakeup_);
}

bool EventLoop::start(int listener, const std::string& thread_name, std::string& error) {
  listener_ = listener;
  epoll_ = epoll_create1(EPOLL_CLOEXEC);
  wakeup_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (epoll_ < 0 || wakeup_ < 0) {
    error = std::string("cannot create an event loop: ") + strerror(errno);
    return false;
  }
  for (int fd : {wakeup_, listener_}) {
    if (fd < 0) continue;
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    if (epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) != 0) {
      error = std::string("cannot watch a socket: ") + strerror(errno);
      return false;
    }
  }
  thread_ = std::thread([this] { run(); });
  pthread_setname_np(thread_.native_handle(), thread_name.c_str());
  return true;
}

void EventLoop::stop() {
  stopping_.store(true);
  if (!thread_.joinable()) return;
  wake();
  thread_.join();
}

void EventLoop::wake() {
  const uint64_t one = 1;
  // The counter can only be full when the loop has been woken already.
  const ssize_t written = ::write(wakeup_, &one, sizeof one);
  static_cast<void>(written);
}

void EventLoop::adopt(std::unique_ptr<Connection> connection) {
  {
    std::lock_guard<std::mutex> guard(adopted_mutex_);
    adopted_.push_back(std::move(connection));
  }
  wake();
}

void EventLoop::run() {
  epoll_event events[128];
  while (!stopping_.load()) {
    const int count = epoll_wait(epoll_, events, 128, -1);
    for (int i = 0; i < count; ++i) {
      const int fd = events[i].data.fd;
      if (fd == wakeup_) {
        uint64_t counter = 0;
        while (::read(wakeup_, &counter, sizeof counter) > 0) {
        }
        take_adopted();
      } else if (fd == listener_) {
        accept_all();
      } else {
        const auto found = connections_.find(fd);
        if (found != connections_.end()) serve(found->second.get(), events[i].events);
      }
    }
  }
  connections_.clear();
  std::lock_guard<std::mutex> guard(adopted_mutex_);
  adopted_.clear();
}

void EventLoop::accept_all() {
  for (;;) {
    const int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
      // Out of descriptors: the connection stays in the backlog, and epoll reports it again.
      if (errno == EMFILE || errno == ENFILE) log_line(LogLevel::kWarning, "out of descriptors");
      return;
    }
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    std::unique_ptr<Connection> connection = std::make_unique<Connection>(fd, server_.next_id());
    server_.count_connection(+1);
    settle(*connection);
    if (!connection->broken) connections_[fd] = std::move(connection);
  }
}

void EventLoop::take_adopted() {
  std::vector<std::unique_ptr<Connection>> arrived;
  {
    std::lock_guard<std::mutex> guard(adopted_mutex_);
    arrived.swap(adopted_);
  }
  for (std::unique_ptr<Connection>& connection : arrived) {
    Connection* const raw = connection.get();
    connections_[raw->fd] = std::move(connection);
    serve(raw, 0);
  }
}

void EventLoop::serve(Connection* connection, uint32_t events) {
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) read_input(*connection);
  // Requests that were left because replies had piled up go on as soon as those are sent.
  bool left_over = true;
  while (left_over && !connection->broken) {
    if (process(*connection)) return;
    if (connection->broken) break;
    left_over = connection->unsent() >= kPauseReadingAt;
    flush(*connection);
    left_over = left_over && connection->unsent() < kPauseReadingAt;
  }
  if (!connection->broken) settle(*connection);
  if (connection->broken) drop(*connection);
}

void EventLoop::read_input(Connection& connection) {
  const ssize_t got = ::recv(connection.fd, chunk_.data(), chunk_.size(), 0);
  if (got > 0) connection.in.append(chunk_.data(), static_cast<size_t>(got));
  if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) connection.broken = true;
}

bool EventLoop::process(Connection& connection) {
  Args args;
  while (!connection.closing && connection.unsent() < kPauseReadingAt) {
    if (connection.carried) {
      args.swap(*connection.carried);
      connection.carried.reset();
    } else {
      const RequestParser::Result result = connection.parser.next(connection.in, args);
      if (result == RequestParser::Result::kIncomplete) break;
      if (result == RequestParser::Result::kProtocolError) {
        reply_error(connection.out, connection.parser.error());
        connection.closing = true;
        break;
      }
    }
    if (args.empty()) continue;
    const Lane wanted = lane_of(connection, args);
    if (wanted != Lane::kAny && wanted != lane_) {
      connection.carried.emplace(std::move(args));
      connection.parser.discard_consumed(connection.in);
      hand_over(connection, wanted);
      return true;
    }
    run_command(server_, connection, args);
    if (connection.broken) return false;
  }
  connection.parser.discard_consumed(connection.in);
  return false;
}

void EventLoop::flush(Connection& connection) {
  while (connection.unsent() > 0) {
    const ssize_t sent = ::send(connection.fd, connection.out.data() + connection.out_sent,
                                connection.unsent(), MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) connection.broken = true;
      return;
    }
    connection.out_sent += static_cast<size_t>(sent);
  }
  connection.out.clear();
  connection.out_sent = 0;
  if (connection.closing) connection.broken = true;
}

// Asks epoll for what the connection now waits for.
void EventLoop::settle(Connection& connection) {
  uint32_t wanted = 0;
  if (connection.unsent() > 0) wanted |= EPOLLOUT;
  if (!connection.closing && connection.unsent() < kPauseReadingAt) wanted |= EPOLLIN;
  if (wanted == connection.watched) return;
  epoll_event event{};
  event.events = wanted;
  event.data.fd = connection.fd;
  const int operation = connection.watched == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
  if (epoll_ctl(epoll_, operation, connection.fd, &event) != 0) {
    connection.broken = true;
    return;
  }
  connection.watched = wanted;
}

void EventLoop::hand_over(Connection& connection, Lane lane) {
  if (connection.watched != 0) epoll_ctl(epoll_, EPOLL_CTL_DEL, connection.fd, nullptr);
  connection.watched = 0;
  const auto found = connections_.find(connection.fd);
  std::unique_ptr<Connection> moving = std::move(found->second);
  connections_.erase(found);
  server_.loop_for(lane).adopt(std::move(moving));
}

void EventLoop::drop(Connection& connection) {
  server_.count_connection(-1);
  // The socket may live on elsewhere, as a replica's feed: then closing it here does not end the watch.
  if (connection.watched != 0) epoll_ctl(epoll_, EPOLL_CTL_DEL, connection.fd, nullptr);
  connections_.erase(connection.fd);
}

}  // namespace kvgate
