// ns a call on the hot path, ours beside the designs that a C++ team would write. Slices of 0.2 ms run in turn, round after round, so
// that the machine's drift falls on all of them alike; figures are medians over the rounds, on one thread and on two.
#include <barrier>
#include <thread>

#include "common.h"

static const tenure_gate_cell *g_disabled, *g_log_only, *g_boottime, *g_tsc;

// The shape of Kvrocks's pull request 3397: an atomic deadline against steady_clock, looked at twice a write.
static std::atomic<uint64_t> deadline{UINT64_MAX};
static std::mutex mutex;
static std::shared_mutex shared_mutex;
static uint64_t plain_deadline = UINT64_MAX;
static uint64_t steady() { return uint64_t(std::chrono::steady_clock::now().time_since_epoch().count()); }
// Not inlined, as a method of a storage class in its own translation unit is not.
__attribute__((noinline)) static bool lease_check() { return steady() < deadline.load(std::memory_order_acquire); }
__attribute__((noinline)) static bool mutex_check() {
  std::lock_guard lock(mutex);
  return steady() < plain_deadline;
}
static std::atomic<int64_t> in_flight{0};
static std::atomic<bool> revoked{false};
static bool counted_enter() {
  in_flight.fetch_add(1, std::memory_order_seq_cst);
  if (!revoked.load(std::memory_order_seq_cst) && lease_check()) return true;
  in_flight.fetch_sub(1, std::memory_order_release);
  return false;
}

__attribute__((always_inline)) static inline void write_under(const tenure_gate_cell *cell) {
  tenure_gate_permit permit;
  int entered = tenure_gate_enter(cell, &permit);
  keep(entered);
  asm volatile("" ::: "memory");
  int verdict = tenure_gate_finish(&permit);
  keep(verdict);
}

__attribute__((always_inline)) static inline void check_of(const tenure_gate_cell *cell) {
  int open = tenure_gate_check(cell, nullptr);
  keep(open);
}

using Loop = void (*)(uint64_t);
#define LOOP(body) [](uint64_t n) { for (uint64_t i = 0; i < n; i++) { body; asm volatile("" ::: "memory"); } }

enum Id { LOAD, BOOT_READ, TSC_READ, PR_ONCE, PR_TWICE, MUTEX, SHARED_MUTEX, COUNTER, OFF_CHECK, OFF_WRITE, LOG_WRITE, BOOT_CHECK, BOOT_WRITE, TSC_CHECK,
          TSC_WRITE, CASES };
static const Loop loops[CASES] = {
    LOOP(keep(__atomic_load_n(&g_disabled->mode, __ATOMIC_RELAXED) == 1)),
    LOOP(keep(now_ns(CLOCK_BOOTTIME))),
    LOOP(keep(__rdtsc())),
    LOOP(keep(lease_check())),
    LOOP(keep(lease_check()); keep(lease_check())),
    LOOP(keep(mutex_check()); keep(mutex_check())),
    LOOP(shared_mutex.lock_shared(); keep(steady() < plain_deadline); keep(steady() < plain_deadline); shared_mutex.unlock_shared()),
    LOOP(keep(counted_enter()); keep(lease_check()); in_flight.fetch_sub(1, std::memory_order_release)),
    LOOP(check_of(g_disabled)),
    LOOP(write_under(g_disabled)),
    LOOP(write_under(g_log_only)),
    LOOP(check_of(g_boottime)),
    LOOP(write_under(g_boottime)),
    LOOP(check_of(g_tsc)),
    LOOP(write_under(g_tsc)),
};

static double timed(Loop loop, uint64_t n) {
  uint64_t start = now_ns(CLOCK_MONOTONIC_RAW);
  loop(n);
  return double(now_ns(CLOCK_MONOTONIC_RAW) - start) / double(n);
}

int main(int argc, char **argv) {
  const int rounds = argc > 1 ? atoi(argv[1]) : 301;
  g_disabled = bench_gate_open(0, 0);
  g_log_only = bench_gate_open(0, 1);
  g_boottime = bench_gate_open(0, 2);
  g_tsc = bench_gate_open(1, 2);
  const bool tsc = g_tsc != nullptr;
  if (!g_disabled || !g_log_only || !g_boottime) return fprintf(stderr, "no gate\n"), 1;
  if (!tsc) fprintf(stderr, "the TSC is not usable here: its figures are left out\n");
  pin(0);
  std::vector<uint64_t> n(CASES);
  for (int c = 0; c < CASES; c++) {
    if (!tsc && c >= TSC_CHECK) continue;
    loops[c](1000);
    double per = 1e9;
    for (int i = 0; i < 9; i++) per = std::min(per, std::max(timed(loops[c], 5000), 0.2));
    n[c] = uint64_t(2e5 / per);
  }
  std::vector<std::vector<double>> one(CASES), two(CASES);
  std::atomic<int> current{0}, ready{0};
  std::atomic<bool> stop{false};
  double other = 0;
  std::barrier<> turn(2);
  auto together = [&] {
    ready.fetch_add(1);
    while (ready.load() < 2) _mm_pause();
  };
  std::thread second([&] {
    pin(1);
    for (;;) {
      turn.arrive_and_wait();
      if (stop) return;
      together();
      other = timed(loops[current], n[current]);
      turn.arrive_and_wait();
    }
  });
  for (int r = 0; r < rounds; r++)
    for (int c = 0; c < CASES; c++) {
      if (n[c] == 0) continue;
      one[c].push_back(timed(loops[c], n[c]));
      current = c;
      ready = 0;
      turn.arrive_and_wait();
      together();
      double mine = timed(loops[c], n[c]);
      turn.arrive_and_wait();
      two[c].push_back((mine + other) / 2);
    }
  stop = true;
  turn.arrive_and_wait();
  second.join();

  auto m1 = [&](int c) { return median(one[c]); };
  auto m2 = [&](int c) { return median(two[c]); };
  const size_t k = size_t(rounds);
  figure("gate disabled, check", "ns", m1(OFF_CHECK), "relaxed load + compare", m1(LOAD), k);
  figure("gate disabled, enter + finish", "ns", m1(OFF_WRITE), "relaxed load + compare", m1(LOAD), k);
  figure("gate check, boottime", "ns", m1(BOOT_CHECK), "clock_gettime(CLOCK_BOOTTIME)", m1(BOOT_READ), k);
  figure("gate check, boottime, beside a team's own", "ns", m1(BOOT_CHECK), "atomic deadline + steady_clock, once", m1(PR_ONCE), k);
  figure("guarded write, boottime", "ns", m1(BOOT_WRITE), "atomic deadline + steady_clock, twice (PR #3397)", m1(PR_TWICE), k);
  figure("guarded write, boottime, 2 threads", "ns", m2(BOOT_WRITE), "the same on 1 thread", m1(BOOT_WRITE), k);
  if (tsc) {
    figure("gate check, tsc", "ns", m1(TSC_CHECK), "rdtsc", m1(TSC_READ), k);
    figure("guarded write, tsc", "ns", m1(TSC_WRITE), "atomic deadline + steady_clock, twice (PR #3397)", m1(PR_TWICE), k);
    figure("guarded write, tsc, 2 threads", "ns", m2(TSC_WRITE), "the same on 1 thread", m1(TSC_WRITE), k);
  }
  figure("guarded write, log-only", "ns", m1(LOG_WRITE), "atomic deadline + steady_clock, twice (PR #3397)", m1(PR_TWICE), k);
  figure("guarded write, boottime, beside a mutex", "ns", m1(BOOT_WRITE), "std::mutex + steady_clock, twice", m1(MUTEX), k);
  figure("guarded write, boottime, 2 threads, beside a mutex", "ns", m2(BOOT_WRITE), "std::mutex + steady_clock, twice, 2 threads", m2(MUTEX), k);
  figure("guarded write, boottime, 2 threads, beside a shared_mutex", "ns", m2(BOOT_WRITE), "std::shared_mutex held, steady_clock twice, 2 threads",
         m2(SHARED_MUTEX), k);
  figure("guarded write, boottime, beside a shared counter", "ns", m1(BOOT_WRITE), "shared counter + steady_clock, twice", m1(COUNTER), k);
  figure("guarded write, boottime, 2 threads, beside a shared counter", "ns", m2(BOOT_WRITE), "shared counter + steady_clock, twice, 2 threads", m2(COUNTER),
         k);
}
