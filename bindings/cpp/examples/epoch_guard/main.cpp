// Two masters and one RocksDB: the old one's late write is refused, on the master and on the replica that tails the log.
#include "epoch_guard.hpp"

#include <rocksdb/transaction_log.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

static void must(const rocksdb::Status& status, const char* what) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s: %s\n", what, status.ToString().c_str());
  std::exit(1);
}

static void check(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "not so: %s\n", what);
  std::exit(1);
}

static std::unique_ptr<rocksdb::DB> open(const std::string& path) {
  rocksdb::Options options;
  options.create_if_missing = true;
  options.WAL_ttl_seconds = 3600;
  rocksdb::DB* db = nullptr;
  must(rocksdb::DB::Open(options, path, &db), "open");
  return std::unique_ptr<rocksdb::DB>(db);
}

static rocksdb::Status put(EpochGuard& guard, const std::string& key, const std::string& value, uint64_t epoch) {
  rocksdb::WriteBatch batch;
  must(batch.Put(key, value), "batch");
  return guard.write(rocksdb::WriteOptions(), &batch, epoch);
}

// Applies what the master's log holds, as a replica does.
static std::pair<int, int> tail(rocksdb::DB& master, EpochGuard& replica) {
  std::unique_ptr<rocksdb::TransactionLogIterator> log;
  must(master.GetUpdatesSince(1, &log), "log");
  int applied = 0, refused = 0;
  for (; log->Valid(); log->Next()) {
    rocksdb::BatchResult entry = log->GetBatch();
    const auto epoch = EpochGuard::epoch_of(*entry.writeBatchPtr);
    check(epoch.has_value(), "each batch in the log carries its epoch");
    const rocksdb::Status status = replica.write(rocksdb::WriteOptions(), entry.writeBatchPtr.get(), *epoch);
    if (status.IsAborted()) ++refused;
    else must(status, "apply"), ++applied;
  }
  return {applied, refused};
}

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "usage: epoch_guard FOLDER\n"), 2;
  const std::string folder = argv[1];
  uint64_t highest = 0;
  {
    auto db = open(folder + "/master");
    EpochGuard guard(db.get());
    must(put(guard, "k", "first", 7), "write of epoch 7");
    must(put(guard, "k", "second", 7), "another one");

    // Many writers of the old epoch while the new one takes over: after its first write none of theirs lands.
    std::atomic<bool> stop{false};
    std::atomic<int> landed{0}, late{0};
    std::vector<std::thread> writers;
    for (int i = 0; i < 3; ++i) {
      writers.emplace_back([&] {
        while (!stop) {
          const rocksdb::Status status = put(guard, "k", "old", 7);
          if (status.ok()) ++landed;
          else check(status.IsAborted(), "an old write is refused as such"), ++late;
        }
      });
    }
    while (landed == 0) std::this_thread::yield();
    must(put(guard, "k", "new", 8), "write of epoch 8");
    while (late == 0) std::this_thread::yield();
    stop = true;
    for (std::thread& writer : writers) writer.join();
    std::string value;
    must(db->Get(rocksdb::ReadOptions(), "k", &value), "read");
    check(value == "new", "the old master wrote over the new one");

    auto copy = open(folder + "/replica");
    EpochGuard replica(copy.get());
    const auto [applied, refused] = tail(*db, replica);
    check(applied > 3 && refused == 0, "a replica takes a log in order");
    must(replica.highest(&highest), "highest");
    check(highest == 8, "the replica knows the epoch");
    // The old master's log again, from the beginning: all but the batch of epoch 8 is too late.
    const auto [again, too_late] = tail(*db, replica);
    check(again == 1 && too_late == applied - 1, "a replica refuses what is older than what it has");
    must(copy->Get(rocksdb::ReadOptions(), "k", &value), "read");
    check(value == "new", "the replica went back");
    check(guard.write(rocksdb::WriteOptions(), std::make_unique<rocksdb::WriteBatch>().get(), 0).IsCorruption(), "epoch 0 is none");
  }
  // The fence is in the database: a restart forgets nothing.
  auto db = open(folder + "/master");
  EpochGuard guard(db.get());
  check(put(guard, "k", "older still", 7).IsAborted(), "epoch 7 after a restart");
  must(put(guard, "k", "newer", 9), "epoch 9");
  must(guard.highest(&highest), "highest");
  check(highest == 9, "the highest epoch");
  std::printf("the old master's writes were refused, on the master and on the replica\n");
  return 0;
}
