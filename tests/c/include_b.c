#include "tenure_gate.h"
#include "tenure.h"

uint32_t version_of_b(void);
uint32_t version_of_b(void) { return TENURE_VERSION_NUMBER; }
