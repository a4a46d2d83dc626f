#include "replica.hpp"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "log.hpp"
#include "server.hpp"

namespace kvgate {

namespace {

// Puts all of a directory's files on the disk.
bool sync_directory(const std::string& directory) {
  const int fd = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool good = ::syncfs(fd) == 0;
  ::close(fd);
  return good;
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
  idle_.store(false);
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

uint64_t Replica::lag() const {
  const uint64_t theirs = master_sequence_.load();
  const uint64_t ours = server_.storage().sequence();
  return theirs > ours ? theirs - ours : 0;
}

void Replica::take_poke() {
  uint64_t counter = 0;
  const ssize_t got = ::read(poked_, &counter, sizeof counter);
  static_cast<void>(got);
}

void Replica::pause(int milliseconds) {
  pollfd waiting{poked_, POLLIN, 0};
  if (poll(&waiting, 1, milliseconds) > 0) take_poke();
}

void Replica::run() {
  while (!stopping_.load()) {
    std::string host;
    uint16_t port = 0;
    uint64_t target = 0;
    take_poke();
    {
      std::lock_guard<std::mutex> guard(mutex_);
      host = host_;
      port = port_;
      target = target_.load();
      idle_.store(host.empty());
    }
    if (host.empty()) {
      pause(-1);
      continue;
    }
    // Nobody reads or writes the log on behalf of our own time as a master any more.
    server_.feeders().join();
    server_.storage().settle();
    Link link = Link::connect(host, port, kAnswerMs);
    if (link.open() && ask(link)) {
      log_line(LogLevel::kInfo, "replicating from " + host + ":" + std::to_string(port));
      tail(link, target);
    }
    link_up_.store(false);
    if (current(target)) pause(kReconnectMs);
  }
}

bool Replica::ask(Link& link) {
  Storage& storage = server_.storage();
  const uint64_t sequence = storage.sequence();
  std::string proof = kNoProof;
  if (!snapshot_.empty() && snapshot_end_ == sequence) {
    proof = kSnapshotProof + snapshot_;
  } else if (const std::optional<uint64_t> last = storage.fingerprint_at(sequence)) {
    proof = kFingerprintProof + std::to_string(*last);
  }
  return link.send({"PSYNC", std::to_string(sequence + 1), proof, std::to_string(server_.port())});
}

void Replica::tail(Link& link, uint64_t target) {
  Args frame;
  while (current(target)) {
    const Link::Received received = link.receive(frame, kAnswerMs, poked_);
    if (received == Link::Received::kNothing && !current(target)) return take_poke();
    if (received != Link::Received::kFrame || frame.empty() || !take(link, frame)) return;
    // One acknowledgement for all that came together.
    if (unacknowledged_ && !link.more()) {
      if (!link.send({"ACK", std::to_string(server_.storage().sequence())})) return;
      unacknowledged_ = false;
    }
  }
}

bool Replica::take(Link& link, const Args& frame) {
  const std::string& what = frame[0];
  if (what == "continue") {
    link_up_.store(true);
    return true;
  }
  if (what == "ping" && frame.size() == 2) {
    uint64_t latest = 0;
    if (!parse_uint(frame[1], latest)) return false;
    master_sequence_.store(latest);
    return true;
  }
  if (what == "batch" && frame.size() == 4) return apply(frame);
  if (what == "snapshot" && frame.size() == 4) return take_snapshot(link, frame);
  std::string said;
  for (const std::string& word : frame) said += " " + word.substr(0, 100);
  log_line(LogLevel::kWarning, "the master does not let us replicate:" + said.substr(0, 200));
  return false;
}

bool Replica::apply(const Args& frame) {
  Storage& storage = server_.storage();
  uint64_t latest = 0;
  if (frame[1] != std::to_string(storage.sequence() + 1) || !parse_uint(frame[2], latest)) {
    log_line(LogLevel::kWarning, "the master's log does not continue ours at " + frame[1]);
    return false;
  }
  master_sequence_.store(latest);
  const WriteOutcome outcome = storage.apply(frame[3], WriteClass::kReplication);
  if (!outcome.good()) {
    refused_.fetch_add(1);
    log_line(LogLevel::kWarning, "a batch from the master was not applied: " + outcome.detail);
    return false;
  }
  snapshot_.clear();
  unacknowledged_ = true;
  return true;
}

// "snapshot epoch sequence name": the master's log is not a continuation of ours.
bool Replica::take_snapshot(Link& link, const Args& frame) {
  LogPosition theirs;
  if (!parse_uint(frame[1], theirs.epoch) || !parse_uint(frame[2], theirs.sequence)) return false;
  const LogPosition ours = server_.storage().position();
  // In one epoch one server writes: a log that is longer than its is not to be thrown away. Without epochs nobody knows.
  if (ours.epoch != 0 && theirs.behind(ours)) {
    refused_.fetch_add(1);
    log_line(LogLevel::kWarning, "the master's database (epoch " + frame[1] + ", sequence " + frame[2] + ") is behind ours (epoch " +
                                     std::to_string(ours.epoch) + ", sequence " + std::to_string(ours.sequence) + "), and is refused");
    return false;
  }
  const std::string incoming = server_.directory() + "/incoming";
  std::error_code error;
  std::filesystem::remove_all(incoming, error);
  std::filesystem::create_directory(incoming, error);
  log_line(LogLevel::kInfo, "taking the master's whole database");
  std::string why = "it broke off";
  const bool good = !error && receive_files(link, incoming) && server_.storage().replace(incoming, why);
  std::filesystem::remove_all(incoming, error);
  if (!good) {
    log_line(LogLevel::kWarning, "the master's database was not taken: " + why);
    return false;
  }
  full_syncs_.fetch_add(1);
  snapshot_ = frame[3];
  snapshot_end_ = server_.storage().sequence();
  return false;  // ask again, from its end on
}

bool Replica::receive_files(Link& link, const std::string& directory) {
  std::ofstream out;
  uint64_t files = 0;
  for (;;) {
    Args frame;
    const bool arrived = link.receive(frame, 10 * kAnswerMs, poked_) == Link::Received::kFrame;
    if (!arrived || frame.size() != 2) return false;
    if (frame[0] == "data") {
      if (!out.write(frame[1].data(), static_cast<std::streamsize>(frame[1].size()))) return false;
      continue;
    }
    if (out.is_open()) {
      out.close();
      if (!out) return false;
    }
    if (frame[0] == "end") return frame[1] == std::to_string(files) && sync_directory(directory);
    // A name is the name of a file in this directory, and of nothing else.
    if (frame[0] != "file" || frame[1].find('/') != std::string::npos || frame[1].empty() || frame[1][0] == '.') return false;
    out.open(directory + "/" + frame[1], std::ios::binary | std::ios::trunc);
    if (!out) return false;
    ++files;
  }
}

}  // namespace kvgate
