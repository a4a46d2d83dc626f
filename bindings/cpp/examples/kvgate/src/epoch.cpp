#include "epoch.hpp"

#include <endian.h>

#include <algorithm>
#include <cstring>
#include <tenure.hpp>

namespace kvgate {

namespace {

class Inspector : public rocksdb::WriteBatch::Handler {
 public:
  explicit Inspector(BatchFacts& facts) : facts_(facts) {}

  void LogData(const rocksdb::Slice& blob) override {
    const std::optional<uint64_t> epoch = decode_epoch_stamp({blob.data(), blob.size()});
    if (epoch) facts_.epoch = std::max(*epoch, facts_.epoch.value_or(0));
  }
  rocksdb::Status PutCF(uint32_t, const rocksdb::Slice& key, const rocksdb::Slice& value) override {
    if (key == rocksdb::Slice(kEpochKey.data(), kEpochKey.size())) {
      const tenure::Result<uint64_t> read = tenure::read_epoch({value.data(), value.size()});
      if (read) facts_.record = *read;
    }
    return touch(key);
  }
  rocksdb::Status DeleteCF(uint32_t, const rocksdb::Slice& key) override { return touch(key); }
  rocksdb::Status SingleDeleteCF(uint32_t, const rocksdb::Slice& key) override { return touch(key); }
  rocksdb::Status MergeCF(uint32_t, const rocksdb::Slice& key, const rocksdb::Slice&) override { return touch(key); }
  rocksdb::Status DeleteRangeCF(uint32_t, const rocksdb::Slice& first, const rocksdb::Slice& end) override {
    const char start[] = {kReservedKeyStart};
    const char after[] = {kReservedKeyStart + 1};
    facts_.reserved = facts_.reserved || (first.compare({after, 1}) < 0 && end.compare({start, 1}) > 0);
    return rocksdb::Status::OK();
  }

 private:
  rocksdb::Status touch(const rocksdb::Slice& key) {
    facts_.reserved = facts_.reserved || (!key.empty() && key[0] == kReservedKeyStart);
    return rocksdb::Status::OK();
  }

  BatchFacts& facts_;
};

}  // namespace

EpochStamp encode_epoch_stamp(uint64_t epoch) {
  EpochStamp stamp;
  const uint64_t little = htole64(epoch);
  std::memcpy(stamp.data(), kEpochStampMagic.data(), kEpochStampMagic.size());
  std::memcpy(stamp.data() + kEpochStampMagic.size(), &little, sizeof(little));
  return stamp;
}

std::optional<uint64_t> decode_epoch_stamp(std::string_view text) {
  const size_t magic = kEpochStampMagic.size();
  if (text.size() != magic + sizeof(uint64_t) || text.substr(0, magic) != kEpochStampMagic) return std::nullopt;
  uint64_t little = 0;
  std::memcpy(&little, text.data() + magic, sizeof(little));
  return le64toh(little);
}

BatchFacts inspect(const rocksdb::WriteBatch& batch) {
  BatchFacts facts;
  Inspector inspector(facts);
  facts.readable = batch.Iterate(&inspector);
  return facts;
}

uint64_t fingerprint(std::string_view batch) {
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (char c : batch) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

EpochOrder::Turn EpochOrder::enter(uint64_t epoch) {
  Turn turn;
  turn.shared_ = std::shared_lock<std::shared_mutex>(mutex_);
  if (epoch == 0 || epoch == highest_.load()) {
    turn.admitted_ = true;
    return turn;
  }
  if (epoch < highest_.load()) return turn;
  turn.shared_.unlock();
  turn.exclusive_ = std::unique_lock<std::shared_mutex>(mutex_);
  const tenure::Result<tenure::EpochAdmission> admission = tenure::admit_epoch(record_, epoch);
  turn.admitted_ = admission.has_value();
  if (admission && admission->raised) {
    turn.record_ = admission->bytes();
  } else {
    // Another has raised it meanwhile, to this or beyond it. What is let in now goes behind it either way.
    turn.exclusive_.unlock();
    turn.shared_ = std::shared_lock<std::shared_mutex>(mutex_);
    turn.admitted_ = turn.admitted_ && epoch == highest_.load();
  }
  return turn;
}

bool EpochOrder::recovered(const std::string& record) {
  const tenure::Result<uint64_t> epoch = tenure::read_epoch(record);
  if (!epoch) return false;
  record_ = record;
  highest_.store(*epoch);
  return true;
}

}  // namespace kvgate
