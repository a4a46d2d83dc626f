#include "feeder.hpp"

#include <poll.h>
#include <pthread.h>
#include <rocksdb/utilities/checkpoint.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>

#include "log.hpp"
#include "server.hpp"

namespace kvgate {

namespace {

constexpr int kSendMs = 10'000;
constexpr int kPingMs = 200;
constexpr size_t kBatchesAtATime = 256;
constexpr size_t kChunk = 1 << 20;

}  // namespace

Feeders::~Feeders() {
  retire();
  join();
}

void Feeders::attach(int socket, const FeedRequest& request) {
  std::lock_guard<std::mutex> guard(mutex_);
  remove_ended();
  // The role changes first, and then its feeds are retired.
  if (server_.gate().role() != Role::kMaster) {
    ::close(socket);
    return;
  }
  // A replica that comes again has left its former connection, which must not count as another replica.
  for (const std::unique_ptr<Feeder>& feeder : feeders_) {
    if (feeder->request().peer == request.peer) feeder->stop();
  }
  feeders_.push_back(std::make_unique<Feeder>(server_, *this, socket, request));
  feeders_.back()->start();
  count_.store(static_cast<int64_t>(feeders_.size()));
}

void Feeders::remove_ended() {
  const auto ended = [](const std::unique_ptr<Feeder>& feeder) { return feeder->ended(); };
  feeders_.erase(std::remove_if(feeders_.begin(), feeders_.end(), ended), feeders_.end());
  count_.store(static_cast<int64_t>(feeders_.size()));
}

void Feeders::retire() {
  std::lock_guard<std::mutex> guard(mutex_);
  ++term_;
  snapshots_.clear();
  for (std::unique_ptr<Feeder>& feeder : feeders_) {
    feeder->stop();
    retired_.push_back(std::move(feeder));
  }
  feeders_.clear();
  count_.store(0);
  acked_.notify_all();
}

void Feeders::join() {
  std::vector<std::unique_ptr<Feeder>> ending;
  {
    std::lock_guard<std::mutex> guard(mutex_);
    ending.swap(retired_);
  }
}

bool Feeders::wait(uint64_t sequence, long needed, long timeout_ms) {
  if (needed == 0 && count_.load() == 0) return true;
  std::unique_lock<std::mutex> lock(mutex_);
  for (const std::unique_ptr<Feeder>& feeder : feeders_) feeder->wake();
  if (needed == 0) return true;
  const uint64_t term = term_;
  bool enough = false;
  acked_.wait_for(lock, std::chrono::milliseconds(timeout_ms), [&] {
    const auto holds = [&](const std::unique_ptr<Feeder>& feeder) { return feeder->live() && feeder->acked() >= sequence; };
    enough = term_ == term && std::count_if(feeders_.begin(), feeders_.end(), holds) >= needed;
    return enough || term_ != term;
  });
  return enough;
}

std::string Feeders::describe() {
  std::lock_guard<std::mutex> guard(mutex_);
  remove_ended();
  const uint64_t latest = server_.storage().sequence();
  std::string text = "connected_slaves:" + std::to_string(feeders_.size()) + "\r\n";
  for (size_t i = 0; i < feeders_.size(); ++i) {
    const Feeder& feeder = *feeders_[i];
    const uint64_t acked = feeder.acked();
    text += "slave" + std::to_string(i) + ":" + feeder.request().peer + ",state=" + (feeder.online() ? "online" : "sync") +
            ",offset=" + std::to_string(acked) + ",lag=" + std::to_string(latest - std::min(latest, acked)) + "\r\n";
  }
  return text;
}

std::string Feeders::name_snapshot() {
  std::lock_guard<std::mutex> guard(mutex_);
  const auto now = std::chrono::system_clock::now().time_since_epoch().count();
  std::string name = std::to_string(getpid()) + "-" + std::to_string(now) + "-" + std::to_string(++snapshot_count_);
  snapshots_.insert(name);
  return name;
}

bool Feeders::gave_snapshot(const std::string& name) {
  std::lock_guard<std::mutex> guard(mutex_);
  return snapshots_.count(name) != 0;
}

void Feeders::note_ack() {
  // Under the lock, so that no waiter misses it between its look and its sleep.
  std::lock_guard<std::mutex> guard(mutex_);
  acked_.notify_all();
}

Feeder::Feeder(Server& server, Feeders& feeders, int socket, FeedRequest request)
    : server_(server), feeders_(feeders), link_(socket, kSendMs), request_(std::move(request)) {
  woken_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

Feeder::~Feeder() {
  stop();
  if (thread_.joinable()) thread_.join();
  if (woken_ >= 0) ::close(woken_);
}

void Feeder::start() {
  thread_ = std::thread([this] { run(); });
  pthread_setname_np(thread_.native_handle(), "kv-feeder");
}

void Feeder::stop() {
  stopping_.store(true);
  link_.shut();
  sleeping_.store(true);
  wake();
}

void Feeder::wake() {
  if (!sleeping_.exchange(false)) return;
  const uint64_t one = 1;
  const ssize_t written = ::write(woken_, &one, sizeof one);
  static_cast<void>(written);
}

void Feeder::run() {
  const bool good = continues() ? link_.send({"continue"}) && feed() : send_snapshot();
  if (!good && !stopping_.load()) log_line(LogLevel::kInfo, "the feed of " + request_.peer + " has ended");
  online_.store(false);
  ended_.store(true);
}

bool Feeder::continues() {
  Storage& storage = server_.storage();
  const std::string& proof = request_.proof;
  if (request_.next == 0 || request_.next > storage.sequence() + 1) return false;
  if (proof.rfind(kSnapshotProof, 0) == 0) return feeders_.gave_snapshot(proof.substr(std::string(kSnapshotProof).size()));
  const std::optional<uint64_t> ours = storage.fingerprint_at(request_.next - 1);
  return ours && proof == kFingerprintProof + std::to_string(*ours);
}

bool Feeder::feed() {
  LogTail tail(server_.storage(), request_.next);
  acked_.store(request_.next - 1);
  online_.store(true);
  feeders_.note_ack();
  while (!stopping_.load()) {
    bool idle = false;
    if (!send_batches(tail, idle)) return false;
    if (idle) {
      sleeping_.store(true);
      // What was written before the flag was seen would not have woken us.
      if (!send_batches(tail, idle)) return false;
    }
    if (idle) {
      Args frame;
      const Link::Received received = link_.receive(frame, kPingMs, woken_);
      sleeping_.store(false);
      uint64_t counter = 0;
      const bool was_woken = ::read(woken_, &counter, sizeof counter) > 0;
      if (received == Link::Received::kBroken) return false;
      if (received == Link::Received::kFrame) {
        uint64_t sequence = 0;
        if (frame.size() != 2 || !parse_uint(frame[1], sequence)) return false;
        acked_.store(sequence);
        feeders_.note_ack();
      } else if (!was_woken) {
        if (!link_.send({"ping", std::to_string(server_.storage().sequence())})) return false;
      }
    }
    if (!take_acks()) return false;
  }
  return true;
}

bool Feeder::send_batches(LogTail& tail, bool& idle) {
  LoggedBatch batch;
  for (size_t i = 0; i < kBatchesAtATime; ++i) {
    std::string error;
    if (!tail.read(batch, error)) {
      idle = true;
      if (error.empty()) return true;
      log_line(LogLevel::kWarning, "the feed of " + request_.peer + " ends: " + error);
      return false;
    }
    const std::string latest = std::to_string(server_.storage().sequence());
    if (!link_.send({"batch", std::to_string(batch.sequence), latest, batch.bytes})) return false;
  }
  idle = false;
  return true;
}

bool Feeder::take_acks() {
  uint64_t sequence = 0;
  for (;;) {
    Args frame;
    const Link::Received received = link_.receive(frame, 0);
    if (received == Link::Received::kBroken) return false;
    if (received == Link::Received::kNothing) break;
    if (frame.size() != 2 || !parse_uint(frame[1], sequence)) return false;
  }
  if (sequence > acked_.load()) {
    acked_.store(sequence);
    feeders_.note_ack();
  }
  return true;
}

bool Feeder::send_snapshot() {
  Storage& storage = server_.storage();
  const LogPosition position = storage.position();
  const std::string name = feeders_.name_snapshot();
  log_line(LogLevel::kInfo, "sending the whole database to " + request_.peer);
  if (!link_.send({"snapshot", std::to_string(position.epoch), std::to_string(position.sequence), name})) return false;
  const std::string directory = server_.directory() + "/snapshot-" + name;
  rocksdb::Checkpoint* made = nullptr;
  rocksdb::Status status = rocksdb::Checkpoint::Create(storage.db(), &made);
  const std::unique_ptr<rocksdb::Checkpoint> checkpoint(made);
  if (status.ok()) status = checkpoint->CreateCheckpoint(directory);
  const bool good = status.ok() && send_files(directory);
  if (!status.ok()) log_line(LogLevel::kError, "cannot make a snapshot: " + status.ToString());
  std::error_code ignored;
  std::filesystem::remove_all(directory, ignored);
  return good;
}

bool Feeder::send_files(const std::string& directory) {
  std::error_code error;
  size_t count = 0;
  for (const std::filesystem::directory_entry& entry : std::filesystem::directory_iterator(directory, error)) {
    if (!send_file(entry.path().string(), entry.path().filename().string())) return false;
    ++count;
  }
  return !error && link_.send({"end", std::to_string(count)});
}

bool Feeder::send_file(const std::string& path, const std::string& name) {
  std::ifstream in(path, std::ios::binary);
  if (!in || !link_.send({"file", name})) return false;
  std::string chunk(kChunk, '\0');
  while (in.read(chunk.data(), static_cast<std::streamsize>(chunk.size())) || in.gcount() > 0) {
    if (!link_.send({"data", std::string_view(chunk).substr(0, static_cast<size_t>(in.gcount()))})) return false;
  }
  return in.eof();
}

}  // namespace kvgate
