// Hand-over: how long the holder needs to shut its gate and see the last write out, and whether a write still runs once it has.
// A second thread writes without a pause, each write lasting a known time. Samples during which that thread was off its processor are
// left out of the times, but not out of the count of late writes.
#include <thread>

#include "common.h"

static std::atomic<uint64_t> stamp{0};
// The writer was off its processor during a write: that write was longer than it says.
static std::atomic<bool> interrupted{false};
static bool writer_runs() { return now_ns(CLOCK_MONOTONIC) < stamp.load(std::memory_order_relaxed) + 2000; }
static void spin_ns(uint64_t ns) {
  uint64_t end = now_ns(CLOCK_MONOTONIC) + ns;
  while (now_ns(CLOCK_MONOTONIC) < end) {
  }
}

// What it is compared with: one counter for all writers.
struct Counter {
  static inline std::atomic<int64_t> n{0};
  static inline std::atomic<bool> shut{false};
  static bool enter(tenure_gate_permit *) {
    n.fetch_add(1, std::memory_order_seq_cst);
    if (!shut.load(std::memory_order_seq_cst)) return true;
    n.fetch_sub(1, std::memory_order_release);
    return false;
  }
  static bool finish(tenure_gate_permit *) { return n.fetch_sub(1, std::memory_order_release), true; }
  static uint64_t drain() {
    uint64_t start = now_ns(CLOCK_MONOTONIC);
    shut.store(true, std::memory_order_seq_cst);
    while (n.load(std::memory_order_acquire)) _mm_pause();
    return now_ns(CLOCK_MONOTONIC) - start;
  }
  static void reopen() { shut.store(false, std::memory_order_release); }
};

struct Gate {
  static inline const tenure_gate_cell *cell = nullptr;
  static bool enter(tenure_gate_permit *permit) { return tenure_gate_enter(cell, permit) == TENURE_GATE_GRANTED; }
  static bool finish(tenure_gate_permit *permit) { return tenure_gate_finish(permit) == TENURE_GATE_HELD; }
  static uint64_t drain() { return bench_gate_drain(cell); }
  static void reopen() {
    if (bench_gate_reopen(cell) != 0) exit(fprintf(stderr, "the gate did not reopen\n"));
  }
};

struct Times {
  std::vector<double> took;
  uint64_t late = 0, failed = 0, writes = 0;
  double at(size_t hundredths) {
    std::sort(took.begin(), took.end());
    return took.empty() ? 0 : took[std::min(took.size() - 1, took.size() * hundredths / 100)];
  }
};

template <class G>
static Times run(uint64_t write_ns, int drains) {
  Times times;
  std::atomic<bool> stop{false}, drained{false};
  std::atomic<uint64_t> writes{0}, late{0};
  std::thread writer([&] {
    pin(1);
    tenure_gate_permit permit;
    while (!stop.load(std::memory_order_relaxed)) {
      uint64_t now = now_ns(CLOCK_MONOTONIC), end = now + write_ns;
      stamp.store(now, std::memory_order_relaxed);
      if (!G::enter(&permit)) {
        _mm_pause();
        continue;
      }
      bool seen = false;
      do {
        seen |= drained.load(std::memory_order_relaxed);
        uint64_t before = now;
        stamp.store(now = now_ns(CLOCK_MONOTONIC), std::memory_order_relaxed);
        if (now - before > 20000) interrupted.store(true, std::memory_order_relaxed);
      } while (now < end);
      G::finish(&permit);
      writes.fetch_add(1, std::memory_order_relaxed);
      if (seen) late.fetch_add(1, std::memory_order_relaxed);
    }
  });
  pin(0);
  spin_ns(1000000);
  for (int i = 0; i < drains; i++) {
    spin_ns(2000 + uint64_t(i * 7919) % 6000);
    bool live = writer_runs();
    interrupted = false;
    uint64_t took = G::drain();
    if (took == 0) times.failed++;
    if (live && !interrupted && writer_runs() && took) times.took.push_back(double(took));
    drained = true;
    spin_ns(1500);
    drained = false;
    G::reopen();
  }
  stop = true;
  writer.join();
  times.late = late;
  times.writes = writes;
  return times;
}

int main(int argc, char **argv) {
  const int drains = argc > 1 ? atoi(argv[1]) : 4000;
  Gate::cell = bench_gate_open(0, 2);
  if (!Gate::cell) return fprintf(stderr, "no gate\n"), 1;
  int bad = 0;
  for (uint64_t write_ns : {500ull, 5000ull, 50000ull}) {
    Times ref = run<Counter>(write_ns, drains), ours = run<Gate>(write_ns, drains);
    char name[96], against[96];
    for (size_t h : {size_t(50), size_t(99)}) {
      snprintf(name, sizeof name, "drain p%zu, writes of %.1f us", h, double(write_ns) / 1e3);
      figure(name, "us", ours.at(h) / 1e3, "shared counter", ref.at(h) / 1e3, ours.took.size());
      snprintf(name, sizeof name, "drain p%zu, writes of %.1f us, beside its bound", h, double(write_ns) / 1e3);
      snprintf(against, sizeof against, "the write + 100 us");
      figure(name, "us", ours.at(h) / 1e3, against, double(write_ns) / 1e3 + 100, ours.took.size());
    }
    snprintf(name, sizeof name, "writes seen after a drain, of %llu", (unsigned long long)ours.writes);
    figure(name, "writes", double(ours.late), "none may be", 0, size_t(drains));
    if (ours.late || ours.failed) bad = 1, fprintf(stderr, "late %llu, failed %llu\n", (unsigned long long)ours.late, (unsigned long long)ours.failed);
  }
  return bad;
}
