/*
 * portlease: source ports, leased per destination.
 *
 * A connection is its four-tuple: source address, source port, destination address, destination
 * port. A source port is used up only towards one destination, so a host has (source addresses x
 * ports) connections to each destination, not 65,536 in all. A pool keeps the ledger of who
 * holds which four-tuple and makes the kernel agree with it.
 *
 * SYNOPSIS
 *
 *     portlease_config *config;
 *     portlease_pool *pool;
 *     portlease_lease lease;
 *     int fd;
 *
 *     portlease_config_new(&config);
 *     portlease_config_add_sources(config, "10.0.0.2, 10.0.0.8-10.0.0.15", NULL);
 *     portlease_pool_new(config, &pool, NULL);
 *     portlease_config_free(config);
 *
 *     portlease_pool_connect(pool, SOCK_STREAM, dst, dst_len, &fd, &lease, NULL, NULL);
 *     ...
 *     portlease_pool_close(pool, fd, &lease, NULL);
 *     portlease_pool_free(pool);
 *
 * CONVENTIONS
 *
 * Names are prefix, type, verb. The object comes first, results come last.
 *
 * Errors. Almost every call returns a portlease_status; PORTLEASE_OK is zero and the only
 * success. Numbers are only ever appended. Results are written on success only: after a failure
 * they hold what they held before. The last argument of most calls is a portlease_error of
 * yours, or NULL; it is written on failure only. There is no hidden last error. A call that
 * fails has changed nothing, unless its description says so.
 *
 * NULL. Pointers must not be NULL unless their description says that they may; NULL is
 * PORTLEASE_NULL_ARGUMENT, and to free NULL does nothing. Apart from that a pointer must be
 * valid, aligned, and of the object that it claims to be. Socket addresses may have any
 * alignment, and numbers may be any: what is unknown or out of range is a status.
 *
 * Ownership. What a call named new, or portlease_pool_destination(), gives you is yours until
 * you hand it to the free of its type, once. Everything else is a plain value: nothing to free.
 * The library keeps no pointer of yours after a call has returned: texts and addresses are
 * copied. Strings that it returns are static. Pool and destinations may be freed in any order.
 * A lease that nobody has released when its pool is freed is gone with it.
 *
 * Threads. A call that takes its object as const may run on any number of threads at once with
 * any other such call. One that takes it without const, as free does, needs it alone. A
 * portlease_config belongs to one thread at a time. A lease may be released by a thread other
 * than the one that acquired it.
 *
 * Closing. The kernel holds a four-tuple until its socket is closed, so close the socket first
 * and release the lease then; portlease_pool_close() does both in this order. A socket is closed
 * when its last descriptor is: mind those that dup(2) and fork(2) made. Sockets of the library
 * are inherited across execve(2) unless you ask for SOCK_CLOEXEC, as with socket(2).
 *
 * fork. In a child, calls on the pools and destinations of its parent are PORTLEASE_FORKED, touch
 * no lock and change nothing; to free them does nothing. The leases stay the parent's. The child
 * makes a pool of its own.
 *
 * Signals. The library installs no handler, blocks nothing and starts no thread.
 * portlease_status_str(), portlease_version() and portlease_abi_version() may be called in a
 * signal handler, all else may not.
 *
 * Panics. A defect of the library does not unwind into the caller: it is PORTLEASE_PANIC.
 *
 * ABI. Structs never change their size. What is called opaque or reserved is not for you.
 * portlease_abi_version() changes when a program has to be compiled again.
 */

#ifndef PORTLEASE_H
#define PORTLEASE_H

#include <stdint.h>
#include <sys/socket.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Versions -------------------------------------------------------------------------------- */

/** The library's version, such as "0.1.0", in static memory. */
const char *portlease_version(void);

/**
 * The version of the binary interface, which is the number in the library's SONAME: programs
 * that were built with another one have to be compiled again.
 */
uint32_t portlease_abi_version(void);

/* ---- Status and errors ----------------------------------------------------------------------- */

/**
 * What became of a call. Zero is success. Numbers are only ever appended, so treat one that you
 * do not know as a failure.
 */
enum portlease_status
#ifdef __cplusplus
    : int32_t
#endif
{
    /** Done; all results are written. */
    PORTLEASE_OK = 0,
    /**
     * No four-tuple towards the destination is free. Exact, never a guess; the error has the
     * counts.
     */
    PORTLEASE_EXHAUSTED = 1,
    /** The pool has no source of the destination's address family. */
    PORTLEASE_NO_SOURCE = 2,
    /** A text of sources that cannot be understood; the error has the place. */
    PORTLEASE_BAD_SOURCES = 3,
    /**
     * A setting that cannot be, such as an address that this host does not have; the error's
     * message names the way out.
     */
    PORTLEASE_BAD_CONFIG = 4,
    /** The kernel refused a system call; the error has the errno. */
    PORTLEASE_OS = 5,
    /** The kernel of this host is too old for what was asked. */
    PORTLEASE_UNSUPPORTED = 6,
    /** A source that is none of the pool's. */
    PORTLEASE_NOT_OURS = 7,
    /**
     * A four-tuple to be adopted that is leased, resting or excluded already, or whose port is in
     * a block that another pool on the shared file holds.
     */
    PORTLEASE_TAKEN = 8,
    /** The shared file of a territory cannot be used. */
    PORTLEASE_SHARED_FILE = 9,
    /**
     * The lease was released before, is of another pool or destination, or never was. Nothing
     * has changed.
     */
    PORTLEASE_STALE_LEASE = 10,
    /** The pool belongs to the parent of this process; make one of your own. */
    PORTLEASE_FORKED = 11,
    /** A pointer is NULL that must not be. */
    PORTLEASE_NULL_ARGUMENT = 12,
    /**
     * A socket address that is too short, of a family other than AF_INET and AF_INET6, or
     * without a host or a port where one is needed.
     */
    PORTLEASE_BAD_ADDRESS = 13,
    /** A number that stands for nothing here, such as an unknown protocol. */
    PORTLEASE_BAD_NUMBER = 14,
    /** A descriptor that is closed or no socket. It was not touched. */
    PORTLEASE_BAD_DESCRIPTOR = 15,
    /** The socket is bound already, and not to the lease's source. It was not touched. */
    PORTLEASE_BOUND_ELSEWHERE = 16,
    /** A defect of the library, caught before it could reach the caller. Please report it. */
    PORTLEASE_PANIC = 17,
};
#ifndef __cplusplus
typedef int32_t portlease_status;
#endif

/**
 * Why a call failed, with the numbers. Yours: put one on the stack and hand in its address, or
 * NULL where you do not care. It is written when a call fails, and only then.
 */
typedef struct portlease_error {
    /** The status that the call returned. */
    portlease_status status;
    /** The errno behind it; 0 where there is none. */
    int32_t os_error;
    /** PORTLEASE_EXHAUSTED: four-tuples towards the destination that are leased. */
    uint64_t leased;
    /** PORTLEASE_EXHAUSTED: those that rest after their release. */
    uint64_t resting;
    /** PORTLEASE_EXHAUSTED: those that may not be leased. */
    uint64_t excluded;
    /**
     * PORTLEASE_EXHAUSTED: milliseconds until the next resting one is free; UINT64_MAX where
     * none rests.
     */
    uint64_t next_free_ms;
    /** PORTLEASE_BAD_SOURCES: where the bad part begins, in bytes from the start of the text. */
    uint64_t offset;
    /**
     * A sentence for the log, in UTF-8 and ended by a zero byte: what was tried, with its
     * values, and the way out. Its wording may change.
     */
    char message[208];
} portlease_error;

/**
 * A few words for a status, in static memory and never NULL; "unknown status" for a number that
 * is none. Safe in a signal handler.
 */
const char *portlease_status_str(int32_t status);

/* ---- Numbers and plain values ---------------------------------------------------------------- */

/**
 * The transport protocol, by the numbers of IPPROTO_TCP and IPPROTO_UDP. TCP and UDP ports are
 * separate.
 */
enum portlease_protocol
#ifdef __cplusplus
    : int32_t
#endif
{
    /** TCP. */
    PORTLEASE_PROTOCOL_TCP = 6,
    /** UDP. */
    PORTLEASE_PROTOCOL_UDP = 17,
};
#ifndef __cplusplus
typedef int32_t portlease_protocol;
#endif

/** How sockets get their source port. */
enum portlease_mode
#ifdef __cplusplus
    : int32_t
#endif
{
    /**
     * It follows from the port: late inside of net.ipv4.ip_local_port_range where the kernel
     * can, otherwise explicit.
     */
    PORTLEASE_MODE_BY_PORT = 0,
    /** SO_REUSEADDR and bind(2) to address and port. */
    PORTLEASE_MODE_EXPLICIT = 1,
    /**
     * IP_BIND_ADDRESS_NO_PORT and IP_LOCAL_PORT_RANGE of one port: connect(2) takes it. Needs
     * Linux 6.3; ports outside of ip_local_port_range cannot be leased then.
     */
    PORTLEASE_MODE_LATE = 2,
};
#ifndef __cplusplus
typedef int32_t portlease_mode;
#endif

/** Whether ports below 1024 may be leased. */
enum portlease_privileged
#ifdef __cplusplus
    : int32_t
#endif
{
    /** A port range that holds one is PORTLEASE_BAD_CONFIG. */
    PORTLEASE_PRIVILEGED_REFUSE = 0,
    /** They are ports like all others; binding them needs CAP_NET_BIND_SERVICE. */
    PORTLEASE_PRIVILEGED_LEASE = 1,
};
#ifndef __cplusplus
typedef int32_t portlease_privileged;
#endif

/** Who looks after ports that are shared with other processes. */
enum portlease_maintenance
#ifdef __cplusplus
    : int32_t
#endif
{
    /**
     * Whoever calls the pool. A process that may fall silent while it holds ports that others
     * want waits for portlease_pool_maintain_fd() in its event loop.
     */
    PORTLEASE_MAINTENANCE_BY_CALLERS = 0,
    /**
     * A thread of the pool's own as well. It blocks all signals, sleeps until others are in want
     * of ports or something has to be looked at, and ends with the pool.
     */
    PORTLEASE_MAINTENANCE_BY_THREAD = 1,
};
#ifndef __cplusplus
typedef int32_t portlease_maintenance;
#endif

/**
 * Whose end of a connection was closed first: it decides whether the kernel keeps the
 * four-tuple in TIME_WAIT, and so how long it has to rest.
 */
enum portlease_closed
#ifdef __cplusplus
    : int32_t
#endif
{
    /** Not known: treated as our end. */
    PORTLEASE_CLOSED_UNKNOWN = 0,
    /** Our end. */
    PORTLEASE_CLOSED_US = 1,
    /** The peer's end. */
    PORTLEASE_CLOSED_PEER = 2,
    /** None: the connection was reset, or never came about. */
    PORTLEASE_CLOSED_RESET = 3,
    /** No socket was ever connected under the lease: it is free again at once. */
    PORTLEASE_CLOSED_UNUSED = 4,
    /** Our end, and the ends had not agreed on TCP timestamps: the kernel keeps it for longer. */
    PORTLEASE_CLOSED_US_WITHOUT_TIMESTAMPS = 5,
};
#ifndef __cplusplus
typedef int32_t portlease_closed;
#endif

/** The system call that failed. */
enum portlease_call
#ifdef __cplusplus
    : int32_t
#endif
{
    /** bind(2), also inside of portlease_lease_bind(). */
    PORTLEASE_CALL_BIND = 0,
    /** connect(2). */
    PORTLEASE_CALL_CONNECT = 1,
};
#ifndef __cplusplus
typedef int32_t portlease_call;
#endif

/** What a failed system call says about the four-tuple that it was made with. */
enum portlease_verdict
#ifdef __cplusplus
    : int32_t
#endif
{
    /** Nothing against it: try another one. */
    PORTLEASE_VERDICT_TRY_ANOTHER = 0,
    /** Somebody else holds this four-tuple: it rests; try another one. */
    PORTLEASE_VERDICT_REST_TUPLE = 1,
    /** Somebody else holds this source port: it rests for all destinations; try another one. */
    PORTLEASE_VERDICT_REST_PORT = 2,
    /** The source address cannot be bound: all its ports rest; try another one. */
    PORTLEASE_VERDICT_REST_ADDRESS = 3,
    /** The error is the destination's or yours: another source would not help. */
    PORTLEASE_VERDICT_GIVE_UP = 4,
};
#ifndef __cplusplus
typedef int32_t portlease_verdict;
#endif

/** How far a connection has come. */
enum portlease_progress
#ifdef __cplusplus
    : int32_t
#endif
{
    /** It is there. */
    PORTLEASE_PROGRESS_CONNECTED = 0,
    /**
     * It is on its way: the socket becomes writable when it is there or has failed, and
     * SO_ERROR tells which.
     */
    PORTLEASE_PROGRESS_IN_PROGRESS = 1,
};
#ifndef __cplusplus
typedef int32_t portlease_progress;
#endif

/**
 * The right to use one four-tuple until it is released: a plain value, to be copied and kept
 * wherever you like, with no meaning of its own inside. Only its first release counts; what
 * comes later, through whatever copy, is PORTLEASE_STALE_LEASE and harms nothing. All zeros is
 * a lease of nothing.
 */
typedef struct portlease_lease {
    /** Not for you. */
    uint64_t opaque[5];
} portlease_lease;

/**
 * The counts of one destination, or of all of a pool:
 * free + leased + resting + excluded = capacity, at any quiet moment.
 */
typedef struct portlease_census {
    /** All four-tuples that the sources and their ports give towards one destination. */
    uint64_t capacity;
    /** Those that the next acquire may give out. */
    uint64_t free;
    /** Those that are leased. */
    uint64_t leased;
    /** Those that rest after their release. */
    uint64_t resting;
    /**
     * Those that may not be leased: somebody listens there, they are not ours, or source and
     * destination are the same.
     */
    uint64_t excluded;
} portlease_census;

/* ---- What a pool is made of ------------------------------------------------------------------ */

/**
 * portlease_config_set_source_flags(): bind to addresses that are not, or not yet, this host's;
 * needs no privilege (IP_FREEBIND).
 */
#define PORTLEASE_FREEBIND 1

/**
 * portlease_config_set_source_flags(): bind to addresses of other hosts, for transparent
 * proxies; needs CAP_NET_ADMIN or CAP_NET_RAW (IP_TRANSPARENT).
 */
#define PORTLEASE_TRANSPARENT 2

/** What a pool is made of: sources, ports, and how to use them. Can make any number of pools. */
typedef struct portlease_config portlease_config;

/**
 * Makes an empty configuration. Free it with portlease_config_free(), as soon as the pool is
 * made if you like.
 */
portlease_status portlease_config_new(portlease_config **config);

/** Frees a configuration; NULL is none. Pools made from it go on. */
void portlease_config_free(portlease_config *config);

/**
 * Adds source addresses, as people write them: parts with commas or white space between them,
 * each an address, a range or a prefix, with or without ports:
 * `10.0.0.2, 10.0.0.8-10.0.0.15, 10.1.0.0/28:2048-4095, [2001:db8::7]:5000-5999`.
 * A text with an error adds nothing.
 */
portlease_status portlease_config_add_sources(portlease_config *config,
                                              const char *sources,
                                              portlease_error *error);

/**
 * Sets the ports, first and last included, of all sources that do not name their own. Without
 * this call they have those of net.ipv4.ip_local_port_range.
 */
portlease_status portlease_config_set_ports(portlease_config *config,
                                            uint16_t first,
                                            uint16_t last,
                                            portlease_error *error);

/** Sets how sockets are bound, a portlease_mode. Without this call PORTLEASE_MODE_BY_PORT. */
portlease_status portlease_config_set_mode(portlease_config *config,
                                           int32_t mode,
                                           portlease_error *error);

/**
 * Sets the least time in milliseconds that a four-tuple rests after its connection was closed,
 * for a firewall or NAT on the way that remembers longer than the kernel. Without this call 0:
 * it rests as long as the kernel needs.
 */
portlease_status portlease_config_set_rest_ms(portlease_config *config,
                                              uint64_t rest_ms,
                                              portlease_error *error);

/**
 * Sets whether ports below 1024 may be leased, a portlease_privileged. Without this call
 * PORTLEASE_PRIVILEGED_REFUSE.
 */
portlease_status portlease_config_set_privileged_ports(portlease_config *config,
                                                       int32_t privileged,
                                                       portlease_error *error);

/**
 * Shares the ports with all pools on this host that name the same file, in this process and in
 * others: no two of them lease the same port of the same source. The file is made where it is
 * missing, for its owner alone; put it on a local filesystem, such as /run, and remove it only
 * when no pool uses it: a pool is refused while others have one of its ports through another file,
 * or through a former one of that name. The kernel gives back the ports of a process that dies,
 * however it dies.
 * NULL as path takes back this call or portlease_config_set_slice(): of the two the last counts.
 */
portlease_status portlease_config_set_shared(portlease_config *config,
                                             const char *path,
                                             portlease_error *error);

/**
 * Sets who looks after ports that are shared, a portlease_maintenance. Without this call
 * PORTLEASE_MAINTENANCE_BY_CALLERS. A pool that shares nothing has no thread.
 */
portlease_status portlease_config_set_maintenance(portlease_config *config,
                                                  int32_t maintenance,
                                                  portlease_error *error);

/**
 * Leases only the slice number (from 1) of count equal slices of each source's ports, for a
 * planned split among processes that needs no file.
 */
portlease_status portlease_config_set_slice(portlease_config *config,
                                            uint32_t number,
                                            uint32_t count,
                                            portlease_error *error);

/**
 * Sets the seed of all random choices, 32 bytes, for runs that can be repeated: a thread then
 * chooses the same ports each time. Without this call the kernel gives one. Who knows the seed
 * can guess ports.
 */
portlease_status portlease_config_set_seed(portlease_config *config,
                                           const uint8_t *seed,
                                           portlease_error *error);

/**
 * Sets PORTLEASE_FREEBIND, PORTLEASE_TRANSPARENT, both or none (0) for one source address, or,
 * where source is NULL, for all that have no option of their own. The port of source does not
 * matter.
 */
portlease_status portlease_config_set_source_flags(portlease_config *config,
                                                   const struct sockaddr *source,
                                                   socklen_t source_len,
                                                   uint32_t flags,
                                                   portlease_error *error);

/**
 * Sets the interface that traffic leaves through (SO_BINDTODEVICE), for one source address, or,
 * where source is NULL, for all that have no option of their own. NULL as device is none.
 */
portlease_status portlease_config_set_source_device(portlease_config *config,
                                                    const struct sockaddr *source,
                                                    socklen_t source_len,
                                                    const char *device,
                                                    portlease_error *error);

/**
 * Sets the mark for routing and firewall rules (SO_MARK; needs CAP_NET_ADMIN), for one source
 * address, or, where source is NULL, for all that have no option of their own.
 */
portlease_status portlease_config_set_source_mark(portlease_config *config,
                                                  const struct sockaddr *source,
                                                  socklen_t source_len,
                                                  uint32_t mark,
                                                  portlease_error *error);

/* ---- The pool -------------------------------------------------------------------------------- */

/** A pool of source addresses and ports, leased per destination. */
typedef struct portlease_pool portlease_pool;

/**
 * Makes a pool. The configuration stays yours, and later changes of it do not reach the pool.
 *
 * PORTLEASE_BAD_CONFIG: no source at all, an address that is not this host's, or ports that are
 * privileged or cannot be bound in the mode that was asked for. PORTLEASE_UNSUPPORTED: a mode
 * that this kernel does not have. PORTLEASE_OS: the kernel refused something else.
 */
portlease_status portlease_pool_new(const portlease_config *config,
                                    portlease_pool **pool,
                                    portlease_error *error);

/**
 * Frees a pool; NULL is none. Its destinations may live on, and with them what they need of it.
 * In a child of fork(2) this does nothing.
 */
void portlease_pool_free(portlease_pool *pool);

/**
 * Acquires a four-tuple towards a destination, for a socket of your own: bind it with
 * portlease_lease_bind(), connect it, and release the lease when it is closed. protocol is a
 * portlease_protocol.
 *
 * PORTLEASE_EXHAUSTED: none is free. PORTLEASE_NO_SOURCE: the pool has no source of this
 * address family or, link-local, on its interface. PORTLEASE_BAD_ADDRESS,
 * PORTLEASE_BAD_CONFIG: dst is no destination. PORTLEASE_OS: the kernel has just
 * refused to bind whatever the pool has, with EACCES for privileged ports, EADDRNOTAVAIL for an
 * address that is gone.
 */
portlease_status portlease_pool_acquire(const portlease_pool *pool,
                                        int32_t protocol,
                                        const struct sockaddr *dst,
                                        socklen_t dst_len,
                                        portlease_lease *lease,
                                        portlease_error *error);

/**
 * As portlease_pool_acquire(), from one source address, on any of its ports; the port of source
 * does not matter.
 *
 * PORTLEASE_NOT_OURS: the pool does not have that source.
 */
portlease_status portlease_pool_acquire_from(const portlease_pool *pool,
                                             const struct sockaddr *source,
                                             socklen_t source_len,
                                             int32_t protocol,
                                             const struct sockaddr *dst,
                                             socklen_t dst_len,
                                             portlease_lease *lease,
                                             portlease_error *error);

/**
 * Learns which four-tuples of the pool's sources the kernel holds already, connected or in
 * TIME_WAIT, and withholds them until it does not any more. A process that was restarted while
 * its connections lived starts with the truth this way. count, which may be NULL, gets how many
 * were new.
 */
portlease_status portlease_pool_import(const portlease_pool *pool,
                                       uint64_t *count,
                                       portlease_error *error);

/**
 * Looks again which ports of the pool's sources somebody listens on, and which imported
 * four-tuples the kernel still holds. The pool does so by itself when it is made, when a port
 * turns out to be held by somebody else, and before it says "exhausted", at most once a second.
 */
portlease_status portlease_pool_refresh(const portlease_pool *pool,
                                        portlease_error *error);

/**
 * Gives back ports that other processes want and this one does not use, and looks whether the
 * shared file (portlease_config_set_shared()) is still the one that it was. Acquires, releases
 * and censuses do so by themselves; a process that may fall silent for long calls this when
 * portlease_pool_maintain_fd() can be read, or from a timer, every second or so. Nothing to do
 * for other pools, nor with PORTLEASE_MAINTENANCE_BY_THREAD.
 */
portlease_status portlease_pool_maintain(const portlease_pool *pool,
                                         portlease_error *error);

/**
 * A descriptor that can be read when portlease_pool_maintain() is worth a call: when another
 * process has come to be in want of ports, when the shared file was changed, and when it is time
 * to look again. For an event loop that may have nothing else to do: watch it for reading,
 * level-triggered, call portlease_pool_maintain() when it can be read, and never read from it.
 * It is the caller's to close, before or after the pool is freed; each call gives another one.
 * For a pool that shares nothing it is never readable.
 */
portlease_status portlease_pool_maintain_fd(const portlease_pool *pool,
                                            int32_t *fd,
                                            portlease_error *error);

/**
 * Counts over all destinations that have a lease, rest something or have a handle: how many
 * they are, and their counts added up. Either result may be NULL.
 */
portlease_status portlease_pool_census(const portlease_pool *pool,
                                       uint64_t *destinations,
                                       portlease_census *sum,
                                       portlease_error *error);

/** The counts of one destination. */
portlease_status portlease_pool_census_of(const portlease_pool *pool,
                                          int32_t protocol,
                                          const struct sockaddr *dst,
                                          socklen_t dst_len,
                                          portlease_census *census,
                                          portlease_error *error);

/* ---- Destinations: looked up once, for callers that dial one all day ------------------------- */

/**
 * One destination of a pool, looked up once: acquiring through it is the fastest way. While it
 * lives the destination's state stays in memory, about 8 KiB for each source.
 */
typedef struct portlease_destination portlease_destination;

/**
 * Makes a handle for a destination. Free it with portlease_destination_free(); until then it
 * keeps its pool alive. protocol is a portlease_protocol.
 */
portlease_status portlease_pool_destination(const portlease_pool *pool,
                                            int32_t protocol,
                                            const struct sockaddr *dst,
                                            socklen_t dst_len,
                                            portlease_destination **destination,
                                            portlease_error *error);

/**
 * Frees a handle; NULL is none. Leases acquired through it go on, and are released through the
 * pool or another handle. In a child of fork(2) this does nothing.
 */
void portlease_destination_free(portlease_destination *destination);

/** Acquires a four-tuple towards the destination, as portlease_pool_acquire() does. */
portlease_status portlease_destination_acquire(const portlease_destination *destination,
                                               portlease_lease *lease,
                                               portlease_error *error);

/**
 * Gives a four-tuple back, as portlease_pool_release() does. Takes leases of the pool too, if
 * they are for this destination.
 */
portlease_status portlease_destination_release(const portlease_destination *destination,
                                               const portlease_lease *lease,
                                               int32_t closed,
                                               portlease_error *error);

/** Connects to the destination, as portlease_pool_connect() does. Only for TCP. */
portlease_status portlease_destination_connect(const portlease_destination *destination,
                                               int32_t socket_type,
                                               int32_t *fd,
                                               portlease_lease *lease,
                                               portlease_progress *progress,
                                               portlease_error *error);

/** The counts of the destination. */
portlease_status portlease_destination_census(const portlease_destination *destination,
                                              portlease_census *census,
                                              portlease_error *error);

/* ---- Leases ---------------------------------------------------------------------------------- */

/**
 * The source address and port of a lease, into a struct sockaddr_storage. source_len, which may
 * be NULL, gets how many of its bytes bind(2) wants.
 */
portlease_status portlease_lease_source(const portlease_pool *pool,
                                        const portlease_lease *lease,
                                        struct sockaddr_storage *source,
                                        socklen_t *source_len,
                                        portlease_error *error);

/**
 * The destination of a lease, into a struct sockaddr_storage. destination_len and protocol, a
 * portlease_protocol, may be NULL. An IPv4-mapped IPv6 address is the IPv4 address that it maps.
 */
portlease_status portlease_lease_destination(const portlease_pool *pool,
                                             const portlease_lease *lease,
                                             struct sockaddr_storage *destination,
                                             socklen_t *destination_len,
                                             int32_t *protocol,
                                             portlease_error *error);

/**
 * Asks the kernel whether it would refuse the lease's four-tuple to a new socket, because it still
 * has it for another one. For programs that leave connect(2) to somebody else, and with it the
 * chance to try again.
 *
 * PORTLEASE_OS: it would; hand the errno to portlease_pool_report() with PORTLEASE_CALL_CONNECT.
 * PORTLEASE_UNSUPPORTED: this kernel does not tell.
 */
portlease_status portlease_lease_probe(const portlease_pool *pool,
                                       const portlease_lease *lease,
                                       portlease_error *error);

/**
 * Tells that a system call, a portlease_call, failed with an errno for a socket that was bound
 * under the lease, and that this socket is closed. verdict gets what that means. Unless it is
 * PORTLEASE_VERDICT_GIVE_UP, the lease is for another four-tuple now: try it with a new socket.
 * With PORTLEASE_VERDICT_GIVE_UP the lease is released, and the error is the destination's or
 * yours.
 *
 * EINPROGRESS and EINTR are no failures: the connection is on its way.
 *
 * PORTLEASE_EXHAUSTED: another try would make sense, but nothing is left to try; the lease is
 * released. After any other failure it is what it was.
 */
portlease_status portlease_pool_report(const portlease_pool *pool,
                                       portlease_lease *lease,
                                       int32_t call,
                                       int32_t os_error,
                                       portlease_verdict *verdict,
                                       portlease_error *error);

/**
 * Gives a four-tuple back, after its socket was closed. closed, a portlease_closed, says whose
 * end was closed first: it rests as long as the kernel needs then, and at least the pool's own
 * time.
 *
 * PORTLEASE_STALE_LEASE: it was released before, and nothing has changed.
 */
portlease_status portlease_pool_release(const portlease_pool *pool,
                                        const portlease_lease *lease,
                                        int32_t closed,
                                        portlease_error *error);

/* ---- Sockets --------------------------------------------------------------------------------- */

/**
 * Makes a socket and connects it to a destination, from a four-tuple of the pool's.
 * socket_type is SOCK_STREAM (TCP) or SOCK_DGRAM (UDP), as for socket(2), and with it
 * SOCK_NONBLOCK, SOCK_CLOEXEC or both. A source port that somebody else turns out to hold costs another try,
 * never a failure: it is left alone for a while, and the next one is tried with a new socket.
 *
 * With SOCK_NONBLOCK the connection may still be on its way: progress, a place for a
 * portlease_progress that may be NULL, tells. All that another source could help against is
 * known by then, so the SO_ERROR that comes later is the destination's.
 *
 * End the connection with portlease_pool_close(), or by close(2) and then
 * portlease_pool_release().
 *
 * PORTLEASE_EXHAUSTED, PORTLEASE_NO_SOURCE: as portlease_pool_acquire(). PORTLEASE_OS: the
 * destination's own refusal, such as ECONNREFUSED, or the process's limits, such as EMFILE.
 */
portlease_status portlease_pool_connect(const portlease_pool *pool,
                                        int32_t socket_type,
                                        const struct sockaddr *dst,
                                        socklen_t dst_len,
                                        int32_t *fd,
                                        portlease_lease *lease,
                                        portlease_progress *progress,
                                        portlease_error *error);

/**
 * Binds a new socket of yours to the lease's source, with all options that this needs. A socket
 * that you have bound to the lease's address already, with or without its port, keeps its
 * address.
 *
 * A late-bound socket has no port until connect(2).
 *
 * PORTLEASE_OS: the kernel's answer; close the socket and hand the errno to
 * portlease_pool_report() with PORTLEASE_CALL_BIND. PORTLEASE_BOUND_ELSEWHERE: it is bound to
 * another address or port; portlease_pool_acquire_from() gives a lease for a given address.
 */
portlease_status portlease_lease_bind(const portlease_pool *pool,
                                      const portlease_lease *lease,
                                      int32_t fd,
                                      portlease_error *error);

/**
 * Takes a connection that was inherited, received or made elsewhere into the pool: from now on
 * its four-tuple is leased. The descriptor stays yours.
 *
 * PORTLEASE_NOT_OURS: its source is none of the pool's. PORTLEASE_TAKEN: its four-tuple is
 * leased already. PORTLEASE_OS: it is not connected.
 */
portlease_status portlease_pool_adopt(const portlease_pool *pool,
                                      int32_t fd,
                                      portlease_lease *lease,
                                      portlease_error *error);

/**
 * Asks the kernel whose end of a connection is closed first, just before you close its socket:
 * closed, a place for a portlease_closed, gets what portlease_pool_release() is to be told after
 * close(2). For programs that leave the closing to somebody else; portlease_pool_close() does all
 * of it.
 *
 * PORTLEASE_STALE_LEASE, PORTLEASE_BAD_DESCRIPTOR: nothing was asked.
 */
portlease_status portlease_lease_closing(const portlease_pool *pool,
                                         const portlease_lease *lease,
                                         int32_t fd,
                                         portlease_closed *closed,
                                         portlease_error *error);

/**
 * Ends a connection: asks the kernel whose end was closed first, closes the socket, and then
 * releases the lease, to rest as long as the kernel needs.
 *
 * PORTLEASE_STALE_LEASE, PORTLEASE_BAD_DESCRIPTOR: nothing was closed and nothing released, for
 * the number may be another connection's by now.
 */
portlease_status portlease_pool_close(const portlease_pool *pool,
                                      int32_t fd,
                                      const portlease_lease *lease,
                                      portlease_error *error);

#ifdef __cplusplus
}
#endif

#endif /* PORTLEASE_H */
