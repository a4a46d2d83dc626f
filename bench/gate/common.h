// What the gate benchmarks share: the library's gate, the designs that it is compared with, and the printing of figures.
#pragma once
#include <linux/membarrier.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <shared_mutex>
#include <vector>

#include "tenure_gate.h"

extern "C" {
const tenure_gate_cell *bench_gate_open(uint32_t clock, uint32_t mode);
uint64_t bench_gate_drain(const tenure_gate_cell *cell);
int32_t bench_gate_reopen(const tenure_gate_cell *cell);
}

inline uint64_t now_ns(clockid_t id) {
  timespec ts;
  clock_gettime(id, &ts);
  return uint64_t(ts.tv_sec) * 1000000000ull + uint64_t(ts.tv_nsec);
}

inline void pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  sched_setaffinity(0, sizeof set, &set);
}

template <class T>
inline void keep(T const &value) {
  asm volatile("" : : "r,m"(value) : "memory");
}

inline double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v.empty() ? 0 : v[v.size() / 2];
}

inline void figure(const char *name, const char *unit, double ours, const char *reference, double ref, size_t n) {
  printf("{\"figure\": \"%s\", \"unit\": \"%s\", \"ours\": %.3f, \"reference\": \"%s\", \"ref\": %.3f, \"ratio\": %.3f, \"n\": %zu}\n", name, unit,
         ours, reference, ref, ref > 0 ? ours / ref : 0.0, n);
}
