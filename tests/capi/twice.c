/* The header once more, in a second translation unit, twice. */

#include <portlease.h>
#include <portlease.h>

int twice(void);
int twice(void) { return PORTLEASE_OK; }
