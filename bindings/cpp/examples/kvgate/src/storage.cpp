#include "storage.hpp"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "log.hpp"

namespace kvgate {

namespace {

constexpr std::string_view kFormatKey = "!format";
constexpr std::string_view kFormat = "kvgate:1";

rocksdb::Slice slice(std::string_view text) { return {text.data(), text.size()}; }

WriteOutcome failed(const rocksdb::Status& status) {
  WriteOutcome outcome;
  outcome.kind = WriteOutcome::Kind::kFailed;
  outcome.detail = status.ToString();
  return outcome;
}

rocksdb::Options database_options() {
  rocksdb::Options options;
  options.create_if_missing = true;
  options.WAL_ttl_seconds = 3600;  // replicas and DEBUG WAL-EPOCHS read the log behind us
  options.max_background_jobs = 2;
  return options;
}

LoggedBatch logged(rocksdb::BatchResult result) {
  LoggedBatch batch;
  batch.sequence = result.sequence;
  batch.count = result.writeBatchPtr->Count();
  batch.epoch = inspect(*result.writeBatchPtr).epoch;
  batch.bytes = result.writeBatchPtr->Data();
  return batch;
}

}  // namespace

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
  settings_ = settings;
  write_options_.sync = settings.sync;
  return open_database(error) && write_format_marker(error);
}

bool Storage::open_database(std::string& error) {
  rocksdb::DB* db = nullptr;
  const rocksdb::Status status = rocksdb::DB::Open(database_options(), settings_.path, &db);
  if (!status.ok()) {
    error = "cannot open the database in " + settings_.path + ": " + status.ToString();
    return false;
  }
  db_.reset(db);
  std::string record;
  if (!read_record(db, record, error)) return false;
  if (order_.recovered(record)) return true;
  error = "the record of the database's epoch is damaged";
  return false;
}

bool Storage::read_record(rocksdb::DB* db, std::string& record, std::string& error) const {
  const rocksdb::Status status = db->Get(rocksdb::ReadOptions(), slice(kEpochKey), &record);
  if (status.ok() || status.IsNotFound()) return true;
  error = "cannot read the database's epoch: " + status.ToString();
  return false;
}

// A fence must not be forgotten by a power cut, whatever the write itself asks for.
rocksdb::Status Storage::write(rocksdb::WriteBatch* batch, const EpochOrder::Turn& turn, uint64_t epoch) {
  rocksdb::WriteOptions options = write_options_;
  options.sync = options.sync || turn.raises();
  const rocksdb::Status status = db_->Write(options, batch);
  if (status.ok() && turn.raises()) order_.raised(turn, epoch);
  return status;
}

bool Storage::write_format_marker(std::string& error) {
  std::string found;
  const rocksdb::Status status = db_->Get(rocksdb::ReadOptions(), slice(kFormatKey), &found);
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
  batch.Put(slice(kFormatKey), slice(kFormat));
  const WriteOutcome outcome = commit(&batch, WriteClass::kBootstrap);
  if (outcome.good()) return true;
  error = "cannot write to the database: " + outcome.detail;
  return false;
}

void Storage::close() { db_.reset(); }

uint64_t Storage::sequence() const {
  const Use use(use_mutex_, std::try_to_lock);
  if (use && db_) last_sequence_.store(db_->GetLatestSequenceNumber());
  return last_sequence_.load();
}

PermittedWrites::PermittedWrites(Storage& storage, WriteClass write_class)
    : storage_(storage), class_(write_class), admission_(storage.gate_->enter(write_class)) {}

WriteOutcome PermittedWrites::refused(const char* reason) const {
  WriteOutcome outcome;
  outcome.kind = WriteOutcome::Kind::kRefused;
  outcome.detail = storage_.gate_->refusal_detail(reason);
  return outcome;
}

WriteOutcome PermittedWrites::write(rocksdb::WriteBatch* batch) {
  if (!admission_.admitted()) return refused(admission_.reason());
  WriteOutcome outcome;
  // A gate that never had a lease has no epoch, and neither has what is written before the server serves.
  outcome.epoch = class_ == WriteClass::kBootstrap ? 0 : admission_.epoch();
  const EpochOrder::Turn turn = storage_.order_.enter(outcome.epoch);
  if (!turn.admitted()) return refused("superseded");
  // In its turn, so that after settle() no write of a former master is on its way.
  if (class_ != WriteClass::kBootstrap && storage_.gate_->role() != Role::kMaster) return refused("not_master");
  if (outcome.epoch != 0) {
    const EpochStamp stamp = encode_epoch_stamp(outcome.epoch);
    batch->PutLogData(rocksdb::Slice(stamp.data(), stamp.size()));
    if (turn.raises()) batch->Put(slice(kEpochKey), turn.record());
  }
  const rocksdb::Status status = storage_.write(batch, turn, outcome.epoch);
  return status.ok() ? outcome : failed(status);
}

WriteOutcome PermittedWrites::write_replicated(rocksdb::WriteBatch* batch, const BatchFacts& facts) {
  if (!admission_.admitted()) return refused(admission_.reason());
  WriteOutcome outcome;
  outcome.epoch = facts.epoch.value_or(0);
  const EpochOrder::Turn turn = storage_.order_.enter(outcome.epoch);
  const std::string epoch = std::to_string(outcome.epoch);
  if (!turn.admitted()) {
    return failed(rocksdb::Status::InvalidArgument("epoch " + epoch + " of the batch is behind epoch " +
                                                   std::to_string(storage_.order_.highest()) + " of the log"));
  }
  if (turn.raises() && facts.record != facts.epoch) {
    return failed(rocksdb::Status::InvalidArgument("the batch is the first of epoch " + epoch + " and has no record of it"));
  }
  const rocksdb::Status status = storage_.write(batch, turn, outcome.epoch);
  return status.ok() ? outcome : failed(status);
}

WriteOutcome PermittedWrites::finish() {
  WriteOutcome outcome;
  outcome.epoch = admission_.epoch();
  const bool client = class_ == WriteClass::kClient;
  const bool complete = !client || storage_.settings_.replicated(storage_.db_->GetLatestSequenceNumber());
  const bool held = admission_.finish();
  if (complete && held) return outcome;
  outcome.kind = WriteOutcome::Kind::kUncertain;
  outcome.detail = held ? "too few replicas confirmed it in time" : "the master lease ended before it was complete";
  return outcome;
}

WriteOutcome Storage::commit(rocksdb::WriteBatch* batch, WriteClass write_class) {
  if (batch->Count() == 0) return WriteOutcome();
  PermittedWrites writes(*this, write_class);
  const WriteOutcome written = writes.write(batch);
  return written.good() ? writes.finish() : written;
}

WriteOutcome Storage::apply(const std::string& bytes, WriteClass write_class) {
  // A batch is a 12-byte header and its records; RocksDB reads a shorter one past its end.
  if (bytes.size() < 12) return failed(rocksdb::Status::InvalidArgument("not a write batch"));
  rocksdb::WriteBatch batch(bytes);
  const BatchFacts facts = inspect(batch);
  if (!facts.readable.ok()) return failed(facts.readable);
  if (batch.Count() == 0) return WriteOutcome();
  if (write_class != WriteClass::kReplication) {
    if (facts.reserved || facts.epoch) {
      return failed(rocksdb::Status::InvalidArgument("the batch writes what is the server's own: an epoch, or a key that starts with '!'"));
    }
    return commit(&batch, write_class);
  }
  PermittedWrites writes(*this, write_class);
  const WriteOutcome written = writes.write_replicated(&batch, facts);
  return written.good() ? writes.finish() : written;
}

void Storage::announce_epoch() {
  const std::optional<uint64_t> epoch = gate_->open_epoch();
  if (!epoch || *epoch <= order_.highest() || gate_->role() != Role::kMaster) return;
  const Use in_use = use();
  rocksdb::WriteBatch batch;
  PermittedWrites writes(*this, WriteClass::kDeferrable);
  // Refused, it is the next grant's to announce; a client's write carries the record as well.
  if (writes.write(&batch).good()) static_cast<void>(writes.finish());
}

rocksdb::Status Storage::read_log(uint64_t from, size_t limit, std::vector<LoggedBatch>& out) {
  std::unique_ptr<rocksdb::TransactionLogIterator> iterator;
  const rocksdb::Status status = db_->GetUpdatesSince(from, &iterator);
  if (!status.ok()) return status;
  for (; iterator->Valid() && out.size() < limit; iterator->Next()) out.push_back(logged(iterator->GetBatch()));
  return iterator->status();
}

std::optional<uint64_t> Storage::fingerprint_at(uint64_t sequence) {
  std::vector<LoggedBatch> found;
  const rocksdb::Status status = read_log(sequence, 1, found);
  if (!status.ok() || found.empty() || found.front().last() != sequence) return std::nullopt;
  return fingerprint(found.front().bytes);
}

bool Storage::replace(const std::string& path, std::string& error) {
  error.clear();
  uint64_t epoch = 0;
  {
    rocksdb::DB* raw = nullptr;
    const rocksdb::Status status = rocksdb::DB::OpenForReadOnly(rocksdb::Options(), path, &raw);
    const std::unique_ptr<rocksdb::DB> arrived(raw);
    if (!status.ok()) {
      error = "the database that arrived cannot be opened: " + status.ToString();
      return false;
    }
    std::string record;
    if (!read_record(arrived.get(), record, error)) return false;
    const tenure::Result<uint64_t> read = tenure::read_epoch(record);
    if (!read) {
      error = read.error().message();
      return false;
    }
    epoch = *read;
  }
  if (epoch < order_.highest()) {
    error = "epoch " + std::to_string(epoch) + " of the database that arrived is behind epoch " + std::to_string(order_.highest());
    return false;
  }
  std::unique_lock<std::shared_mutex> alone(use_mutex_);
  db_.reset();
  if (renameat2(AT_FDCWD, path.c_str(), AT_FDCWD, settings_.path.c_str(), RENAME_EXCHANGE) != 0) {
    error = "cannot put the database that arrived into its place";
  }
  generation_.fetch_add(1);
  std::string reopening;
  if (!open_database(reopening)) {
    log_line(LogLevel::kError, reopening + "; without a database there is nothing to serve");
    std::_Exit(1);
  }
  return error.empty();
}

rocksdb::Status Storage::compact() {
  const Use held = use();
  rocksdb::CompactRangeOptions options;
  // Also what lies in the lowest level already: the caller wants the work done.
  options.bottommost_level_compaction = rocksdb::BottommostLevelCompaction::kForce;
  return db_->CompactRange(options, nullptr, nullptr);
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

bool LogTail::read(LoggedBatch& batch, std::string& error) {
  if (storage_.sequence() < next_) return false;
  // An iterator at the end of the log goes on from there; one whose log has been closed meanwhile has to be made anew.
  if (iterator_ && !iterator_->Valid()) iterator_->Next();
  if (!iterator_ || !iterator_->Valid()) {
    const rocksdb::Status status = storage_.db()->GetUpdatesSince(next_, &iterator_);
    if (!status.ok()) {
      error = status.ToString();
      return false;
    }
    if (!iterator_->Valid()) return false;
  }
  batch = logged(iterator_->GetBatch());
  if (batch.sequence != next_) {
    error = "the log does not reach back to " + std::to_string(next_);
    return false;
  }
  next_ = batch.last() + 1;
  iterator_->Next();
  return true;
}

}  // namespace kvgate
