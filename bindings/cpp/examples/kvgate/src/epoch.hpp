// Epochs in the data: the stamp in a batch's log data, and the record of the highest epoch.
#pragma once

#include <rocksdb/write_batch.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <string_view>

namespace kvgate {

// Keys of the server's own start with this; no client's do.
constexpr char kReservedKeyStart = '!';
// Where the highest epoch that was ever written here is kept: the write that raises it carries the record, so that it is
// raised in one step with that write, and travels to every replica with it.
constexpr std::string_view kEpochKey = "!epoch";

// The stamp, as it stands in a batch's log data: it reaches the write-ahead log and every reader of it, costs no sequence
// number, and is not part of the data. It is short because every write pays for it: RocksDB's checksum costs more by the byte
// than the gate does.
constexpr std::string_view kEpochStampMagic = "TnE1";
using EpochStamp = std::array<char, kEpochStampMagic.size() + sizeof(uint64_t)>;
EpochStamp encode_epoch_stamp(uint64_t epoch);
std::optional<uint64_t> decode_epoch_stamp(std::string_view text);

// What a batch says of itself.
struct BatchFacts {
  rocksdb::Status readable;
  std::optional<uint64_t> epoch;   // the highest of its stamps
  std::optional<uint64_t> record;  // the epoch that it raises the record to
  bool reserved = false;           // it writes to the server's own keys
};
BatchFacts inspect(const rocksdb::WriteBatch& batch);

// A number that two batches share only when they are the same: the proof that two logs do not differ up to there.
uint64_t fingerprint(std::string_view batch);

// The order of epochs in one database's log: after the first batch of an epoch none of an earlier epoch is written. A master
// needs that as much as a replica: a write that was let in under one epoch may reach the database under the next.
class EpochOrder {
 public:
  // Leave to write one batch, held until it is written.
  class Turn {
   public:
    // Whether the batch may be written; if not, a later epoch has been.
    bool admitted() const { return admitted_; }
    // Whether it is the first of its epoch, and has to carry this record.
    bool raises() const { return exclusive_.owns_lock(); }
    const std::string& record() const { return record_; }

   private:
    friend class EpochOrder;
    std::shared_lock<std::shared_mutex> shared_;
    std::unique_lock<std::shared_mutex> exclusive_;
    std::string record_;
    bool admitted_ = false;
  };

  // Waits for the batches of earlier epochs that are being written. Epoch 0, of a gate that never had a lease, is let in and
  // raises nothing.
  Turn enter(uint64_t epoch);
  // The batch of a turn that raises has been written.
  void raised(const Turn& turn, uint64_t epoch) {
    record_ = turn.record();
    highest_.store(epoch);
  }
  // Waits until no batch is being written that was admitted before.
  void settle() { std::unique_lock<std::shared_mutex> wait(mutex_); }

  uint64_t highest() const { return highest_.load(); }
  // The record that a database which was just opened holds; empty when it has none. False when it is damaged.
  bool recovered(const std::string& record);

 private:
  std::shared_mutex mutex_;
  std::string record_;
  std::atomic<uint64_t> highest_{0};
};

}  // namespace kvgate
