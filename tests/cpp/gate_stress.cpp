// The same writers as C++: the header has to mean the same in both languages.
#include "../c/gate_stress.c"
