// RocksDB behind the server: reads, and the one function through which every write goes.
#pragma once

#include <rocksdb/db.h>
#include <rocksdb/utilities/write_batch_with_index.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "gatekeeper.hpp"

namespace kvgate {

// How a write ended. Only kAcknowledged may be reported to a client as success.
struct WriteOutcome {
  enum class Kind {
    kAcknowledged,
    kRefused,    // the gate was closed: nothing was written
    kUncertain,  // written, but the lease had run out before it was complete
    kFailed,     // RocksDB reported an error
  };
  Kind kind = Kind::kAcknowledged;
  uint64_t epoch = 0;
  std::string detail;  // the gate's reason, or RocksDB's message
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
  bool stamped = false;
  uint64_t epoch = 0;
  std::string bytes;
};

class Storage {
 public:
  struct Settings {
    std::string path;
    bool sync = false;  // fsync the write-ahead log before a write is acknowledged
  };

  bool open(const Settings& settings, Gatekeeper* gate, std::string& error);
  void close();

  // The only way to write. Takes a permit, stamps its epoch into the batch, writes it, and asks
  // the gate again before it answers. A batch without a write in it is never refused.
  WriteOutcome commit(rocksdb::WriteBatch* batch, WriteClass write_class);

  // Applies a serialised batch: a client's on a master, the master's on a replica (which keeps the
  // stamp that the batch came with, and refuses one whose epoch is behind that of its own log).
  WriteOutcome apply(const std::string& bytes, WriteClass write_class);

  // Reads batches from `from` on out of the write-ahead log, at most `limit` of them.
  rocksdb::Status read_log(uint64_t from, size_t limit, std::vector<LoggedBatch>& out);

  // Holds RocksDB's write-ahead log locked for `milliseconds`: a write stall made to order.
  rocksdb::Status stall(uint64_t milliseconds);

  uint64_t sequence() const { return db_->GetLatestSequenceNumber(); }
  rocksdb::DB* db() { return db_.get(); }

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
  static constexpr size_t kLockStripes = 1024;

  bool write_format_marker(std::string& error);
  bool recover_epoch(std::string& error);
  void raise_epoch(uint64_t epoch);

  std::unique_ptr<rocksdb::DB> db_;
  Gatekeeper* gate_ = nullptr;
  rocksdb::WriteOptions write_options_;
  // The highest epoch stamped into this database's log: a replica accepts nothing behind it.
  std::atomic<uint64_t> log_epoch_{0};
  std::array<std::mutex, kLockStripes> locks_;
};

// The epoch stamp, as it stands in a batch's log data: it reaches the write-ahead log and every
// reader of it, costs no sequence number, and is not part of the data.
constexpr std::string_view kEpochStampMagic = "tenure:epoch:1:";
using EpochStamp = std::array<char, kEpochStampMagic.size() + sizeof(uint64_t)>;
EpochStamp encode_epoch_stamp(uint64_t epoch);
// The last stamp in `batch`; false when it has none.
bool find_epoch_stamp(const rocksdb::WriteBatch& batch, uint64_t& epoch);

}  // namespace kvgate
