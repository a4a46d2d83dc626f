#include "storage.hpp"

#include <rocksdb/transaction_log.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <thread>

namespace kvgate {

namespace {

constexpr std::string_view kFormatKey = "!format";
constexpr std::string_view kFormat = "kvgate:1";

class StampFinder : public rocksdb::WriteBatch::Handler {
 public:
  void LogData(const rocksdb::Slice& blob) override {
    const std::string_view text(blob.data(), blob.size());
    const size_t magic = kEpochStampMagic.size();
    if (text.size() != magic + 8 || text.substr(0, magic) != kEpochStampMagic) return;
    epoch = 0;
    for (size_t i = 0; i < 8; ++i) {
      epoch |= static_cast<uint64_t>(static_cast<unsigned char>(text[magic + i])) << (8 * i);
    }
    found = true;
  }
  rocksdb::Status PutCF(uint32_t, const rocksdb::Slice&, const rocksdb::Slice&) override {
    return rocksdb::Status::OK();
  }
  rocksdb::Status DeleteCF(uint32_t, const rocksdb::Slice&) override {
    return rocksdb::Status::OK();
  }
  rocksdb::Status SingleDeleteCF(uint32_t, const rocksdb::Slice&) override {
    return rocksdb::Status::OK();
  }
  rocksdb::Status DeleteRangeCF(uint32_t, const rocksdb::Slice&, const rocksdb::Slice&) override {
    return rocksdb::Status::OK();
  }
  rocksdb::Status MergeCF(uint32_t, const rocksdb::Slice&, const rocksdb::Slice&) override {
    return rocksdb::Status::OK();
  }

  bool found = false;
  uint64_t epoch = 0;
};

WriteOutcome failed(const rocksdb::Status& status) {
  WriteOutcome outcome;
  outcome.kind = WriteOutcome::Kind::kFailed;
  outcome.detail = status.ToString();
  return outcome;
}

}  // namespace

EpochStamp encode_epoch_stamp(uint64_t epoch) {
  EpochStamp stamp;
  char* end = std::copy(kEpochStampMagic.begin(), kEpochStampMagic.end(), stamp.begin());
  for (int i = 0; i < 8; ++i) *end++ = static_cast<char>(epoch >> (8 * i));
  return stamp;
}

bool find_epoch_stamp(const rocksdb::WriteBatch& batch, uint64_t& epoch) {
  StampFinder finder;
  if (!batch.Iterate(&finder).ok() || !finder.found) return false;
  epoch = finder.epoch;
  return true;
}

rocksdb::Status Unit::get(const std::string& key, std::string* value) {
  const rocksdb::ReadOptions options;
  if (batch_.GetWriteBatch()->Count() == 0) return db_->Get(options, key, value);
  return batch_.GetFromBatchAndDB(db_, options, key, value);
}

std::unique_ptr<rocksdb::Iterator> Unit::iterator() {
  // NewIteratorWithBase takes the base over.
  return std::unique_ptr<rocksdb::Iterator>(
      batch_.NewIteratorWithBase(db_->NewIterator(rocksdb::ReadOptions())));
}

bool Storage::open(const Settings& settings, Gatekeeper* gate, std::string& error) {
  gate_ = gate;
  write_options_.sync = settings.sync;
  rocksdb::Options options;
  options.create_if_missing = true;
  options.WAL_ttl_seconds = 3600;  // replicas and DEBUG WAL-EPOCHS read the log behind us
  options.max_background_jobs = 2;
  rocksdb::DB* db = nullptr;
  const rocksdb::Status status = rocksdb::DB::Open(options, settings.path, &db);
  if (!status.ok()) {
    error = "cannot open the database in " + settings.path + ": " + status.ToString();
    return false;
  }
  db_.reset(db);
  return write_format_marker(error) && recover_epoch(error);
}

// Finds the epoch of the last batch in the log. A log that has been discarded says nothing, and the
// first stamped batch will.
bool Storage::recover_epoch(std::string& error) {
  std::vector<LoggedBatch> last;
  const rocksdb::Status status = read_log(sequence(), 1, last);
  if (!status.ok() && !status.IsNotFound() && !status.IsTryAgain()) {
    error = "cannot read the database's log: " + status.ToString();
    return false;
  }
  if (!last.empty() && last.front().stamped) raise_epoch(last.front().epoch);
  return true;
}

void Storage::raise_epoch(uint64_t epoch) {
  uint64_t known = log_epoch_.load();
  while (known < epoch && !log_epoch_.compare_exchange_weak(known, epoch)) {
  }
}

bool Storage::write_format_marker(std::string& error) {
  std::string found;
  const rocksdb::Status status =
      db_->Get(rocksdb::ReadOptions(), rocksdb::Slice(kFormatKey.data(), kFormatKey.size()), &found);
  if (status.ok()) {
    if (found == kFormat) return true;
    error = "the database was written by another program or version: " + found;
    return false;
  }
  if (!status.IsNotFound()) {
    error = "cannot read the database: " + status.ToString();
    return false;
  }
  rocksdb::WriteBatch batch;
  batch.Put(rocksdb::Slice(kFormatKey.data(), kFormatKey.size()),
            rocksdb::Slice(kFormat.data(), kFormat.size()));
  const WriteOutcome outcome = commit(&batch, WriteClass::kBootstrap);
  if (outcome.kind == WriteOutcome::Kind::kAcknowledged) return true;
  error = "cannot write to the database: " + outcome.detail;
  return false;
}

void Storage::close() { db_.reset(); }

WriteOutcome Storage::commit(rocksdb::WriteBatch* batch, WriteClass write_class) {
  WriteOutcome outcome;
  if (batch->Count() == 0) return outcome;

  Admission admission = gate_->enter(write_class);
  if (!admission.admitted()) {
    outcome.kind = WriteOutcome::Kind::kRefused;
    outcome.detail = gate_->refusal_detail(admission.reason());
    return outcome;
  }
  // A gate that never had a lease has no epoch, and a replica's batch brings its master's.
  outcome.epoch = admission.epoch();
  if (write_class == WriteClass::kClient && outcome.epoch != 0) {
    const EpochStamp stamp = encode_epoch_stamp(outcome.epoch);
    batch->PutLogData(rocksdb::Slice(stamp.data(), stamp.size()));
    raise_epoch(outcome.epoch);
  }
  const rocksdb::Status status = db_->Write(write_options_, batch);
  if (!status.ok()) return failed(status);
  if (!admission.finish()) outcome.kind = WriteOutcome::Kind::kUncertain;
  return outcome;
}

WriteOutcome Storage::apply(const std::string& bytes, WriteClass write_class) {
  // A batch is a 12-byte header and its records; RocksDB reads a shorter one past its end.
  if (bytes.size() < 12) return failed(rocksdb::Status::InvalidArgument("not a write batch"));
  rocksdb::WriteBatch batch(bytes);
  StampFinder finder;
  const rocksdb::Status readable = batch.Iterate(&finder);
  if (!readable.ok()) return failed(readable);
  if (write_class == WriteClass::kReplication && finder.found) {
    if (finder.epoch < log_epoch_.load()) {
      return failed(rocksdb::Status::InvalidArgument(
          "epoch " + std::to_string(finder.epoch) + " of the batch is behind epoch " +
          std::to_string(log_epoch_.load()) + " of the log"));
    }
    raise_epoch(finder.epoch);
  }
  return commit(&batch, write_class);
}

rocksdb::Status Storage::read_log(uint64_t from, size_t limit, std::vector<LoggedBatch>& out) {
  std::unique_ptr<rocksdb::TransactionLogIterator> iterator;
  const rocksdb::Status status = db_->GetUpdatesSince(from, &iterator);
  if (!status.ok()) return status;
  for (; iterator->Valid() && out.size() < limit; iterator->Next()) {
    const rocksdb::BatchResult result = iterator->GetBatch();
    LoggedBatch logged;
    logged.sequence = result.sequence;
    logged.count = result.writeBatchPtr->Count();
    logged.stamped = find_epoch_stamp(*result.writeBatchPtr, logged.epoch);
    logged.bytes = result.writeBatchPtr->Data();
    out.push_back(std::move(logged));
  }
  return iterator->status();
}

rocksdb::Status Storage::stall(uint64_t milliseconds) {
  const rocksdb::Status locked = db_->LockWAL();
  if (!locked.ok()) return locked;
  std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
  return db_->UnlockWAL();
}

Storage::KeyLocks::KeyLocks(Storage& storage, const std::vector<std::string_view>& keys)
    : storage_(storage) {
  held_.reserve(keys.size());
  for (std::string_view key : keys) {
    held_.push_back(std::hash<std::string_view>{}(key) % kLockStripes);
  }
  std::sort(held_.begin(), held_.end());
  held_.erase(std::unique(held_.begin(), held_.end()), held_.end());
  for (size_t stripe : held_) storage_.locks_[stripe].lock();
}

Storage::KeyLocks::~KeyLocks() {
  for (size_t stripe : held_) storage_.locks_[stripe].unlock();
}

}  // namespace kvgate
