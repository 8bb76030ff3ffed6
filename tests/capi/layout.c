/* The size of every struct and the offset of every field, in C and in C++. */

#include <portlease.h>
#include <stddef.h>

#ifdef __cplusplus
#define PIN(condition) static_assert(condition, #condition)
#elif __STDC_VERSION__ >= 201112L
#define PIN(condition) _Static_assert(condition, #condition)
#else
#define PIN_NAME_(line) pin_##line
#define PIN_NAME(line) PIN_NAME_(line)
#define PIN(condition) enum { PIN_NAME(__LINE__) = 1 / !!(condition) }
#endif

PIN(sizeof(portlease_status) == 4);
PIN(sizeof(portlease_verdict) == 4);
PIN(sizeof(portlease_progress) == 4);

PIN(sizeof(portlease_error) == 256);
PIN(offsetof(portlease_error, status) == 0);
PIN(offsetof(portlease_error, os_error) == 4);
PIN(offsetof(portlease_error, leased) == 8);
PIN(offsetof(portlease_error, resting) == 16);
PIN(offsetof(portlease_error, excluded) == 24);
PIN(offsetof(portlease_error, next_free_ms) == 32);
PIN(offsetof(portlease_error, offset) == 40);
PIN(offsetof(portlease_error, message) == 48);
PIN(sizeof(((portlease_error *)0)->message) == 208);

PIN(sizeof(portlease_lease) == 40);
PIN(offsetof(portlease_lease, opaque) == 0);

PIN(sizeof(portlease_census) == 40);
PIN(offsetof(portlease_census, capacity) == 0);
PIN(offsetof(portlease_census, free) == 8);
PIN(offsetof(portlease_census, leased) == 16);
PIN(offsetof(portlease_census, resting) == 24);
PIN(offsetof(portlease_census, excluded) == 32);

/* The library and the header are of one version of the interface. */
int layout_is_checked(void);
int layout_is_checked(void) { return (int)portlease_abi_version(); }
