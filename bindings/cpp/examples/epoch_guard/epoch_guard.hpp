// A RocksDB that refuses writes of lower epochs: the check, the highest epoch and the write itself are one step.
//
// Every writer of the database goes through write(). The highest epoch lies in the database, under one key, in the same batch as the first
// write of that epoch; and each batch is stamped with its epoch as LogData, which goes into the write-ahead log and to replicas, and
// costs neither a sequence number nor a key. A replica that applies batches with write(..., *epoch_of(batch)) is fenced in the same way.
#ifndef TENURE_EXAMPLE_EPOCH_GUARD_HPP
#define TENURE_EXAMPLE_EPOCH_GUARD_HPP

#include <rocksdb/db.h>
#include <rocksdb/write_batch.h>

#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <string_view>

#include <tenure.hpp>

class EpochGuard {
 public:
  // Where the record lies; keep your own keys away from it.
  static constexpr std::string_view kKey = "!tenure/epoch";
  // What a stamp begins with; the rest is the record of tenure_epoch_admit().
  static constexpr std::string_view kStamp = "tenure/epoch:";

  explicit EpochGuard(rocksdb::DB* db) : db_(db) {}

  // Does the write if no higher epoch has written here. Aborted, with the higher epoch in the message: it was not done, and never will
  // be. Any other error than that: as from DB::Write. `batch` gets the stamp, and the record when the epoch is new.
  rocksdb::Status write(const rocksdb::WriteOptions& options, rocksdb::WriteBatch* batch, uint64_t epoch) {
    {
      // Writers of one epoch do not wait for each other: RocksDB groups their commits as it likes.
      std::shared_lock<std::shared_mutex> together(mutex_);
      if (known_ && *known_ == epoch) return stamped(options, batch, record_);
    }
    // An epoch that is new here: nobody else is between check and write.
    std::unique_lock<std::shared_mutex> alone(mutex_);
    std::string stored;
    rocksdb::Status found = db_->Get(rocksdb::ReadOptions(), key(), &stored);
    if (!found.ok() && !found.IsNotFound()) return found;
    auto admission = tenure::admit_epoch(stored, epoch);
    if (!admission) return refused(admission.error());
    std::string record(admission->bytes());
    rocksdb::WriteOptions durable = options;
    if (admission->raised) {
      if (auto put = batch->Put(key(), record); !put.ok()) return put;
      // The fence must not be forgotten by a power cut, whatever the write itself asks for.
      durable.sync = true;
    }
    rocksdb::Status status = stamped(durable, batch, record);
    if (status.ok()) {
      known_ = epoch;
      record_ = std::move(record);
    }
    return status;
  }

  // The highest epoch that has written here; 0 for none.
  rocksdb::Status highest(uint64_t* epoch) const {
    std::string stored;
    rocksdb::Status found = db_->Get(rocksdb::ReadOptions(), key(), &stored);
    if (!found.ok() && !found.IsNotFound()) return found;
    auto read = tenure::read_epoch(stored);
    if (!read) return rocksdb::Status::Corruption(std::string(read.error().message()));
    *epoch = *read;
    return rocksdb::Status::OK();
  }

  // The epoch stamped into a batch, for a replica or a reader of the log.
  static std::optional<uint64_t> epoch_of(const rocksdb::WriteBatch& batch) {
    Finder finder;
    if (!batch.Iterate(&finder).ok()) return std::nullopt;
    return finder.epoch;
  }

 private:
  struct Finder : rocksdb::WriteBatch::Handler {
    std::optional<uint64_t> epoch;
    void LogData(const rocksdb::Slice& blob) override {
      const std::string_view text(blob.data(), blob.size());
      if (text.substr(0, kStamp.size()) != kStamp) return;
      if (auto read = tenure::read_epoch(text.substr(kStamp.size()))) epoch = *read;
    }
    rocksdb::Status PutCF(uint32_t, const rocksdb::Slice&, const rocksdb::Slice&) override { return rocksdb::Status::OK(); }
    rocksdb::Status DeleteCF(uint32_t, const rocksdb::Slice&) override { return rocksdb::Status::OK(); }
    rocksdb::Status SingleDeleteCF(uint32_t, const rocksdb::Slice&) override { return rocksdb::Status::OK(); }
    rocksdb::Status DeleteRangeCF(uint32_t, const rocksdb::Slice&, const rocksdb::Slice&) override { return rocksdb::Status::OK(); }
    rocksdb::Status MergeCF(uint32_t, const rocksdb::Slice&, const rocksdb::Slice&) override { return rocksdb::Status::OK(); }
  };

  static rocksdb::Slice key() { return rocksdb::Slice(kKey.data(), kKey.size()); }

  static rocksdb::Status refused(const tenure::Error& error) {
    const std::string why(error.message());
    return error.code() == TENURE_FENCED ? rocksdb::Status::Aborted("epoch fenced", why) : rocksdb::Status::Corruption(why);
  }

  rocksdb::Status stamped(const rocksdb::WriteOptions& options, rocksdb::WriteBatch* batch, const std::string& record) {
    const std::string stamp = std::string(kStamp) + record;
    if (auto put = batch->PutLogData(stamp); !put.ok()) return put;
    return db_->Write(options, batch);
  }

  rocksdb::DB* db_;
  std::shared_mutex mutex_;
  // The epoch of the last write, and its record.
  std::optional<uint64_t> known_;
  std::string record_;
};

#endif  // TENURE_EXAMPLE_EPOCH_GUARD_HPP
