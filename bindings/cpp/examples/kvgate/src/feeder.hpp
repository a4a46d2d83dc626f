// The master's side of replication: each replica has a thread that sends it the write-ahead log as it grows, or the whole
// database when the replica's log is not a part of ours.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "link.hpp"

namespace kvgate {

class Server;
class Feeder;

// What a replica asks for: "PSYNC next-sequence proof port". The proof says that its log up to there is ours: the fingerprint of its last
// batch, or the name of the snapshot that it has just been given.
struct FeedRequest {
  uint64_t next = 0;
  std::string proof;
  std::string peer;  // its address, for INFO
};

constexpr const char* kNoProof = "-";
constexpr const char* kFingerprintProof = "batch:";
constexpr const char* kSnapshotProof = "snapshot:";

class Feeders {
 public:
  explicit Feeders(Server& server) : server_(server) {}
  ~Feeders();

  // Feeds the replica at the other end of the socket, which is taken over.
  void attach(int socket, const FeedRequest& request);
  // Ends all feeds. Those that are retired end by themselves; join() waits for them.
  void retire();
  void join();

  // Tells the feeders that the log has grown, and waits until `needed` replicas hold everything up to `sequence`. False when that does not
  // happen within `timeout_ms`, or when the server is no master any more.
  bool wait(uint64_t sequence, long needed, long timeout_ms);
  // Lines for INFO.
  std::string describe();
  int64_t count() const { return count_.load(); }

  // Of this server's life as a master: replicas that were given such a snapshot may go on from it.
  std::string name_snapshot();
  bool gave_snapshot(const std::string& name);
  void note_ack();

 private:
  void remove_ended();

  Server& server_;
  std::mutex mutex_;
  std::condition_variable acked_;
  std::vector<std::unique_ptr<Feeder>> feeders_;
  std::vector<std::unique_ptr<Feeder>> retired_;
  std::set<std::string> snapshots_;
  uint64_t snapshot_count_ = 0;
  uint64_t term_ = 0;  // counts retirements
  std::atomic<int64_t> count_{0};
};

class Feeder {
 public:
  Feeder(Server& server, Feeders& feeders, int socket, FeedRequest request);
  ~Feeder();

  void start();
  void stop();
  void wake();
  bool ended() const { return ended_.load(); }
  bool live() const { return !stopping_.load() && !ended_.load(); }
  uint64_t acked() const { return acked_.load(); }
  const FeedRequest& request() const { return request_; }
  bool online() const { return online_.load(); }

 private:
  void run();
  bool continues();
  bool feed();
  bool send_batches(class LogTail& tail, bool& idle);
  bool take_acks();
  bool send_snapshot();
  bool send_files(const std::string& directory);
  bool send_file(const std::string& path, const std::string& name);

  Server& server_;
  Feeders& feeders_;
  Link link_;
  const FeedRequest request_;
  int woken_ = -1;
  std::atomic<bool> sleeping_{false};
  std::atomic<bool> stopping_{false};
  std::atomic<bool> online_{false};
  std::atomic<bool> ended_{false};
  std::atomic<uint64_t> acked_{0};
  std::thread thread_;
};

}  // namespace kvgate
