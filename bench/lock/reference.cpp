// What a C++ team would write itself: unordered_map and mutex, one of them or 64. An acquire reads the monotonic clock once, looks
// at the TTL of a holder it finds and hands out a fencing token.
#include <time.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace {

using Key = std::array<uint64_t, 2>;
struct Entry {
  uint64_t owner, deadline, token;
};

uint64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return uint64_t(t.tv_sec) * 1000000000ull + uint64_t(t.tv_nsec);
}

uint64_t rng(uint64_t &s) {
  s ^= s << 13;
  s ^= s >> 7;
  s ^= s << 17;
  return s;
}

struct Hash {
  size_t operator()(const Key &k) const {
    __uint128_t m = __uint128_t(k[0] ^ 0x9e3779b97f4a7c15ull) * (k[1] ^ 0xe7037ed1a0b428dbull);
    return size_t(m) ^ size_t(m >> 64);
  }
};

struct alignas(64) Shard {
  std::mutex mu;
  std::unordered_map<Key, Entry, Hash> map;
  uint64_t next = 0;
};

struct Table {
  std::vector<Shard> shards;
  std::vector<Key> work;

  explicit Table(size_t n) : shards(n) {}

  Shard &of(const Key &k) { return shards[(Hash()(k) >> 48) & (shards.size() - 1)]; }

  uint64_t acquire(const Key &k, uint64_t owner, uint64_t ttl) {
    uint64_t now = now_ns();
    Shard &s = of(k);
    std::lock_guard<std::mutex> l(s.mu);
    auto found = s.map.try_emplace(k);
    if (!found.second && found.first->second.deadline > now) return 0;
    found.first->second = {owner, now + ttl, ++s.next};
    return s.next;
  }

  bool release(const Key &k, uint64_t token) {
    Shard &s = of(k);
    std::lock_guard<std::mutex> l(s.mu);
    auto it = s.map.find(k);
    if (it == s.map.end() || it->second.token != token) return false;
    s.map.erase(it);
    return true;
  }
};

}  // namespace

extern "C" void *reference_new(size_t shards, const uint64_t *held, const uint64_t *work, size_t keys) {
  Table *t = new Table(shards);
  for (size_t i = 0; i < keys; i++) {
    if (!t->acquire({held[2 * i], held[2 * i + 1]}, 1, 1000000000000ull)) abort();
    t->work.push_back({work[2 * i], work[2 * i + 1]});
  }
  return t;
}

extern "C" void reference_free(void *table) { delete static_cast<Table *>(table); }

// Nanoseconds a pair over `pairs` pairs on names of this thread's own half.
extern "C" double reference_slice(void *table, size_t id, uint64_t *seed, size_t pairs) {
  Table *t = static_cast<Table *>(table);
  uint64_t at = now_ns();
  for (size_t i = 0; i < pairs; i++) {
    const Key &k = t->work[(rng(*seed) % (t->work.size() / 2)) * 2 + id];
    uint64_t token = t->acquire(k, 2, 10000000000ull);
    if (!token || !t->release(k, token)) abort();
  }
  return double(now_ns() - at) / double(pairs);
}
