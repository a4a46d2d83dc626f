// With include_b.cpp: the header in two units of one program breaks no rule of one definition.
#include <tenure.hpp>
#include <tenure.hpp>

uint32_t version_of_b();

int main() { return tenure_version_number() == version_of_b() ? 0 : 1; }
