// RocksDB behind the server: reads, and the one class through which every write goes.
#pragma once

#include <rocksdb/db.h>
#include <rocksdb/transaction_log.h>
#include <rocksdb/utilities/write_batch_with_index.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <vector>

#include "epoch.hpp"
#include "gatekeeper.hpp"

namespace kvgate {

// How a write ended. Only kAcknowledged may be reported to a client as success.
struct WriteOutcome {
  enum class Kind {
    kAcknowledged,
    kRefused,    // the gate was closed: nothing was written
    kUncertain,  // written, but the lease had run out before it was complete, or too few replicas have it
    kFailed,     // RocksDB reported an error
  };
  Kind kind = Kind::kAcknowledged;
  uint64_t epoch = 0;
  std::string detail;  // the gate's reason, or RocksDB's message
  bool good() const { return kind == Kind::kAcknowledged; }
};

// The writes of one command, or of all commands between MULTI and EXEC. Reads through it see them.
class Unit {
 public:
  explicit Unit(rocksdb::DB* db) : db_(db), batch_(rocksdb::BytewiseComparator(), 0, true) {}

  rocksdb::Status get(const std::string& key, std::string* value);
  void put(const std::string& key, const std::string& value) { batch_.Put(key, value); }
  void erase(const std::string& key) { batch_.Delete(key); }
  // Walks the database as this unit would leave it.
  std::unique_ptr<rocksdb::Iterator> iterator();
  rocksdb::WriteBatch* batch() { return batch_.GetWriteBatch(); }
  void clear() {
    batch_.Clear();
    read_error_ = rocksdb::Status::OK();
  }

  // Passes a read's status on: false when it failed, and the unit as a whole with it.
  bool read_ok(const rocksdb::Status& status) {
    if (!status.ok()) read_error_ = status;
    return status.ok();
  }
  const rocksdb::Status& read_error() const { return read_error_; }

 private:
  rocksdb::DB* db_;
  rocksdb::Status read_error_;
  rocksdb::WriteBatchWithIndex batch_;
};

// One batch as the write-ahead log holds it.
struct LoggedBatch {
  uint64_t sequence = 0;
  uint64_t count = 0;
  std::optional<uint64_t> epoch;
  std::string bytes;
  uint64_t last() const { return sequence + count - 1; }
};

// The end of a database's log. Of two logs the one with the later epoch is ahead, and in one epoch the longer one.
struct LogPosition {
  uint64_t epoch = 0;
  uint64_t sequence = 0;
  bool behind(const LogPosition& other) const {
    return epoch != other.epoch ? epoch < other.epoch : sequence < other.sequence;
  }
};

class Storage {
 public:
  struct Settings {
    std::string path;
    bool sync = false;  // fsync the write-ahead log before a write is acknowledged
    // Waits until enough replicas hold everything up to this sequence number; false when they do not.
    std::function<bool(uint64_t)> replicated;
  };

  bool open(const Settings& settings, Gatekeeper* gate, std::string& error);
  void close();

  // Takes a permit, writes the batch under it, and asks the gate again before it answers. A batch without a write in it is never
  // refused.
  WriteOutcome commit(rocksdb::WriteBatch* batch, WriteClass write_class);

  // Applies a serialised batch: a client's on a master, the master's on a replica (which keeps the stamp that the batch
  // came with, and refuses one whose epoch is behind that of its own log).
  WriteOutcome apply(const std::string& bytes, WriteClass write_class);

  // Writes the record of the epoch under which the gate is open, if it is not there: so every replica refuses what is older before
  // the first client's write of this epoch.
  void announce_epoch();

  // Waits until no client's write is on its way to the database that was let in under an earlier role.
  void settle() { order_.settle(); }

  // Reads batches from `from` on out of the write-ahead log, at most `limit` of them.
  rocksdb::Status read_log(uint64_t from, size_t limit, std::vector<LoggedBatch>& out);
  // The fingerprint of the batch that ends at `sequence`; nothing when the log does not reach back to it.
  std::optional<uint64_t> fingerprint_at(uint64_t sequence);

  // Puts the database in `path` (a checkpoint of a master's) in the place of this one. Refused when its epoch is behind.
  bool replace(const std::string& path, std::string& error);

  // Flushes what is in memory and compacts all levels. Returns when it is done.
  rocksdb::Status compact();

  // Holds RocksDB's write-ahead log locked for `milliseconds`: a write stall made to order.
  rocksdb::Status stall(uint64_t milliseconds);

  // Never waits. While the database is being replaced it is that of the old one.
  uint64_t sequence() const;
  LogPosition position() const { return {order_.highest(), sequence()}; }

  // While it is held, db() is valid and not replaced.
  using Use = std::shared_lock<std::shared_mutex>;
  Use use() const { return Use(use_mutex_); }
  rocksdb::DB* db() const { return db_.get(); }
  // Changes whenever the database is replaced.
  uint64_t generation() const { return generation_.load(); }

  // Locks the keys that a unit reads and writes, in an order that cannot deadlock.
  class KeyLocks {
   public:
    KeyLocks(Storage& storage, const std::vector<std::string_view>& keys);
    ~KeyLocks();
    KeyLocks(const KeyLocks&) = delete;
    KeyLocks& operator=(const KeyLocks&) = delete;

   private:
    Storage& storage_;
    std::vector<size_t> held_;
  };

 private:
  friend class PermittedWrites;
  static constexpr size_t kLockStripes = 1024;

  bool open_database(std::string& error);
  bool write_format_marker(std::string& error);
  bool read_record(rocksdb::DB* db, std::string& record, std::string& error) const;
  rocksdb::Status write(rocksdb::WriteBatch* batch, const EpochOrder::Turn& turn, uint64_t epoch);

  std::unique_ptr<rocksdb::DB> db_;
  Settings settings_;
  Gatekeeper* gate_ = nullptr;
  rocksdb::WriteOptions write_options_;
  EpochOrder order_;
  mutable std::shared_mutex use_mutex_;
  mutable std::atomic<uint64_t> last_sequence_{0};
  std::atomic<uint64_t> generation_{1};
  std::array<std::mutex, kLockStripes> locks_;
};

// One permit, any number of writes under it, and one verdict on all of them: the only way to write.
class PermittedWrites {
 public:
  PermittedWrites(Storage& storage, WriteClass write_class);

  // Stamps the permit's epoch into the batch and writes it. What is good is written, and not acknowledged yet.
  WriteOutcome write(rocksdb::WriteBatch* batch);
  // Writes a master's batch as it is.
  WriteOutcome write_replicated(rocksdb::WriteBatch* batch, const BatchFacts& facts);
  // Acknowledges them all, or none.
  WriteOutcome finish();

 private:
  WriteOutcome refused(const char* reason) const;

  Storage& storage_;
  const WriteClass class_;
  Admission admission_;
};

// Reads the write-ahead log from a place on, and goes on reading as it grows.
class LogTail {
 public:
  LogTail(Storage& storage, uint64_t from) : storage_(storage), next_(from) {}
  // True with a batch; false at the log's end, for now, or with an error.
  bool read(LoggedBatch& batch, std::string& error);

 private:
  Storage& storage_;
  uint64_t next_;
  std::unique_ptr<rocksdb::TransactionLogIterator> iterator_;
};

}  // namespace kvgate
