// Tells which sources the library was compiled from, so that a stale one is noticed.
#include "simd.h"

FS_EXPORT const char* fs_sources() { return FS_SOURCES; }
