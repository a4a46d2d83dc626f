// A process that is no member of a cluster: client ADDRESSES KEY. Takes the lock, prints its token, waits for a line, gives it back.
#include <tenure.hpp>

#include <cstdio>

using namespace std::chrono_literals;

static int failed(const tenure::Error& error) {
  const std::string_view text = error.message();
  std::fprintf(stderr, "%.*s\n", static_cast<int>(text.size()), text.data());
  return 1;
}

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  auto node = tenure::connect(argv[1], {{"node_id", "cpp"}});
  if (!node) return failed(node.error());
  if (auto ready = node->wait_ready(60s); !ready) return failed(ready.error());
  auto session = node->session();
  if (!session) return failed(session.error());
  auto grant = session->acquire(argv[2], 60s);
  if (!grant) return failed(grant.error());
  std::printf("%llu\n", static_cast<unsigned long long>(grant->token()));
  std::fflush(stdout);
  if (std::getchar() == EOF) return 3;
  if (auto released = grant->release(); !released) return failed(released.error());
  return 0;
}
