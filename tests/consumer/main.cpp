// A program of somebody who uses the package: takes a lock, passes a gate.
#include <tenure.hpp>

#include <cstdio>

int main() {
  auto node = tenure::Node::open();
  if (!node) return 1;
  auto session = node->session();
  if (!session) return 2;
  auto grant = session->acquire("job", std::chrono::seconds(1));
  if (!grant || grant->lost()) return 3;
  auto gate = node->gate("writes", {{"gate.mode", "disabled"}});
  if (!gate || !gate->enter().finish()) return 4;
  std::puts(tenure_version_string());
}
