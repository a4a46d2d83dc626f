#include <tenure_lock.hpp>
#include <tenure_node.hpp>
#include <tenure_gate.hpp>
#include <tenure.hpp>

uint32_t version_of_b();
uint32_t version_of_b() { return TENURE_VERSION_NUMBER; }
