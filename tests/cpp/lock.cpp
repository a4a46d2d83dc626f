// tenure::DistributedLock through its interface, in process: what a maintenance orchestrator relies on.
#include <tenure.hpp>

#include <cstdio>
#include <thread>

using namespace std::chrono_literals;

#define CHECK(condition)                                                                 \
  do {                                                                                   \
    if (!(condition)) {                                                                  \
      std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);       \
      std::exit(1);                                                                      \
    }                                                                                    \
  } while (0)

template <class F>
static void eventually(F&& f) {
  const auto end = std::chrono::steady_clock::now() + 20s;
  while (!f()) {
    CHECK(std::chrono::steady_clock::now() < end);
    std::this_thread::yield();
  }
}

// A host's own implementation, to see that the interface can be one.
class Nobody : public tenure::DistributedLock {
 public:
  bool tryAcquire(const std::string&, int64_t) override { return false; }
  void release(const std::string&) override {}
  std::string getHolderNodeId(const std::string&) const override { return {}; }
  std::string nodeId() const override { return "nobody"; }
};

int main() {
  auto domain = tenure::InProcessLock::domain();
  CHECK(domain);
  auto first = tenure::InProcessLock::open(*domain, "node-a");
  auto second = tenure::InProcessLock::open(*domain, "node-b");
  CHECK(first && second);
  tenure::DistributedLock &a = **first, &b = **second;
  CHECK(a.nodeId() == "node-a" && b.nodeId() == "node-b" && a.getHolderNodeId("job").empty());

  // DL-9: the first caller acquires; a second node is refused, and so is a second call of the first.
  CHECK(a.tryAcquire("job", 60'000) && !b.tryAcquire("job", 60'000) && !a.tryAcquire("job", 60'000));
  CHECK(a.getHolderNodeId("job") == "node-a" && b.getHolderNodeId("job") == "node-a");
  // A release by another node frees nothing; the holder's own does.
  b.release("job");
  CHECK(!b.tryAcquire("job", 60'000));
  a.release("job");
  CHECK(a.getHolderNodeId("job").empty() && b.tryAcquire("job", 60'000));
  b.release("job");

  // A lock that is not given back is free when its ttl is over, and then has no holder.
  const auto start = std::chrono::steady_clock::now();
  CHECK(a.tryAcquire("ttl", 200) && b.getHolderNodeId("ttl") == "node-a");
  eventually([&] { return b.getHolderNodeId("ttl").empty(); });
  CHECK(std::chrono::steady_clock::now() - start >= 200ms);
  CHECK(b.tryAcquire("ttl", 60'000));
  // The first holder's late release does not take it from the second.
  a.release("ttl");
  CHECK(a.getHolderNodeId("ttl") == "node-b" && !a.tryAcquire("ttl", 1'000));

  // Bad arguments acquire nothing.
  CHECK(!a.tryAcquire("", 1'000) && !a.tryAcquire("bad", 0) && !a.tryAcquire("bad", -1) && a.getHolderNodeId("bad").empty());
  CHECK(!tenure::InProcessLock::open(*domain, "not a name"));

  // Another domain is another world.
  auto elsewhere = tenure::InProcessLock::domain();
  auto third = tenure::InProcessLock::open(*elsewhere, "node-a");
  CHECK(third && (*third)->tryAcquire("ttl", 1'000));

  Nobody nobody;
  tenure::DistributedLock& plugged = nobody;
  CHECK(!plugged.tryAcquire("job", 1));
}
