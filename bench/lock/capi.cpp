// The rows "in-process lock ... through C": the library by its C interface against what a C++ team would write itself (reference.cpp),
// in turn, in one process, in short slices most of which are not preempted on a shared machine; medians. One JSON line a figure.
#include <sched.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <thread>
#include <vector>

#include "tenure.h"

extern "C" {
void *reference_new(size_t shards, const uint64_t *held, const uint64_t *work, size_t keys);
void reference_free(void *table);
double reference_slice(void *table, size_t id, uint64_t *seed, size_t pairs);
}

namespace {

constexpr size_t kPairs = 400;

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

void pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  sched_setaffinity(0, sizeof set, &set);
}

void must(int32_t status) {
  if (status == TENURE_OK) return;
  std::fprintf(stderr, "%s\n", tenure_status_name(status));
  std::abort();
}

struct Names {
  std::vector<uint64_t> held, work;
  explicit Names(size_t keys) : held(2 * keys), work(2 * keys) {
    uint64_t seed = 88172645463325252ull;
    for (size_t i = 0; i < 2 * keys; i++) held[i] = rng(seed), work[i] = rng(seed);
  }
};

struct Ours {
  tenure_node node;
  tenure_session session, others;
  const std::vector<uint64_t> &work;

  explicit Ours(const Names &names) : work(names.work) {
    must(tenure_node_open({0}, &node, nullptr));
    must(tenure_node_session(node, &session, nullptr));
    must(tenure_session_open(node, {"others", 6}, 86'400'000, &others, nullptr));
    uint64_t token;
    for (size_t i = 0; i < names.held.size(); i += 2) must(tenure_session_try_acquire(others, {&names.held[i], 16}, nullptr, &token, nullptr));
  }
  ~Ours() {
    tenure_node_close(node, 0, nullptr);
    tenure_node_free(node);
  }
  // TENURE_LOCK_MANUAL: like the reference's, a grant that nobody renews. 0: the default, which the library renews and watches.
  double slice(size_t id, uint64_t &seed, uint32_t flags) const {
    tenure_lock_opts opts = TENURE_LOCK_OPTS_INIT;
    opts.flags = flags;
    const uint64_t at = now_ns();
    for (size_t i = 0; i < kPairs; i++) {
      // Each thread has its own half of the names: two threads never want the same lock.
      const tenure_bytes key = {&work[((rng(seed) % (work.size() / 4)) * 2 + id) * 2], 16};
      uint64_t token;
      must(tenure_session_try_acquire(session, key, &opts, &token, nullptr));
      must(tenure_session_release(session, key, token, nullptr));
    }
    return double(now_ns() - at) / double(kPairs);
  }
};

double median(std::vector<double> &v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

using Slice = std::function<double(size_t, uint64_t &)>;

// For each table: ns a pair on one thread, and on each of two.
std::vector<std::pair<double, double>> run(const std::vector<Slice> &tables, int rounds) {
  std::vector<std::vector<double>> one(tables.size()), two(tables.size());
  std::atomic<int> turn{0}, ready{0}, done{0};
  std::atomic<bool> stop{false};
  double other = 0;
  size_t which = 0;
  const auto together = [&] {
    ready++;
    while (ready < 2) __builtin_ia32_pause();
  };
  std::thread second([&] {
    pin(1);
    uint64_t seed = 0x123456789abcdefull;
    for (int seen = 0;; seen++) {
      while (turn == seen) std::this_thread::yield();
      if (stop) return;
      together();
      other = tables[which](1, seed);
      done++;
    }
  });
  pin(0);
  uint64_t seed = 0xfedcba987654321ull;
  for (int r = 0; r < rounds; r++) {
    for (size_t i = 0; i < tables.size(); i++) {
      one[i].push_back(tables[i](0, seed));
      which = i;
      ready = 0;
      const int before = done;
      turn++;
      together();
      const double mine = tables[i](0, seed);
      while (done == before) std::this_thread::yield();
      two[i].push_back((mine + other) / 2);
    }
  }
  stop = true;
  turn++;
  second.join();
  std::vector<std::pair<double, double>> out;
  for (size_t i = 0; i < tables.size(); i++) out.emplace_back(median(one[i]), median(two[i]));
  return out;
}

void report(const char *figure, double ours, const char *reference, double value, int n) {
  std::printf("{\"figure\": \"%s\", \"unit\": \"ns\", \"ours\": %.1f, \"reference\": \"%s\", \"ref\": %.1f, \"ratio\": %.3f, \"n\": %d}\n", figure, ours,
              reference, value, ours / value, n);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char **argv) {
  const int rounds = (argc > 1 ? std::atoi(argv[1]) : 301) * 10;
  const Names names(1000);
  const Ours ours(names);
  void *single = reference_new(1, names.held.data(), names.work.data(), 1000), *sharded = reference_new(64, names.held.data(), names.work.data(), 1000);
  const auto reference = [](void *table) { return [table](size_t id, uint64_t &seed) { return reference_slice(table, id, &seed, kPairs); }; };
  const auto through_c = [&](uint32_t flags) { return [&ours, flags](size_t id, uint64_t &seed) { return ours.slice(id, seed, flags); }; };
  const auto t = run({through_c(TENURE_LOCK_MANUAL), through_c(0), reference(single), reference(sharded)}, rounds);
  const char *one = "C++ unordered_map + mutex", *many = "C++ unordered_map + mutex, 64 shards";
  report("lock acquire + release through C, 1 000 keys, 1 thread", t[0].first, one, t[2].first, rounds);
  report("lock acquire + release through C, 1 000 keys, 2 threads", t[0].second, many, t[3].second, rounds);
  report("the same, renewed by the library, 1 thread", t[1].first, one, t[2].first, rounds);
  report("the same, renewed by the library, 2 threads", t[1].second, many, t[3].second, rounds);
  reference_free(single);
  reference_free(sharded);
}
