/* What the http and the stream module share: pools of sources, and connections made from them. */

#ifndef NGX_PORTLEASE_H
#define NGX_PORTLEASE_H

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_event_connect.h>
#include <portlease.h>

/* What one "portlease" directive asks for. Directives that ask for the same share a pool, so that
 * their upstreams share its ports. */
typedef struct {
    /* The arguments, by which two directives are the same. */
    ngx_str_t text;
    /* Where the first of them stands. */
    u_char *file_name;
    ngx_uint_t line;

    portlease_config *config;
    /* The shared file, and whether the directive names it. */
    ngx_str_t shared;
    ngx_flag_t is_named;

    /* The pool of this process, made when it is first needed. */
    portlease_pool *pool;
    /* Connections under a lease of it. */
    ngx_uint_t leases;
} ngx_portlease_pool_t;

/* The lease of one connection. It outlives what nginx keeps for the connection, for it is released
 * after the descriptor is closed. */
typedef struct {
    ngx_queue_t queue;
    ngx_portlease_pool_t *pool;
    portlease_lease lease;
    ngx_socket_t fd;
    portlease_closed closed;

    /* The source as text. */
    size_t source_len;
    u_char source[NGX_SOCKADDR_STRLEN];
} ngx_portlease_lease_t;

/* ---- Configuration ---------------------------------------------------------------------------- */

/* The pools of a cycle, an array of ngx_portlease_pool_t *: the configuration of a core module. */
void *ngx_portlease_create_pools(ngx_cycle_t *cycle);

/* Reads a directive; NULL after an error, which is logged. */
ngx_portlease_pool_t *ngx_portlease_read(ngx_conf_t *cf, ngx_array_t *pools);

/* Prepares the shared files and makes each pool once, to see whether it can be made. */
char *ngx_portlease_try_pools(ngx_cycle_t *cycle, ngx_array_t *pools);

/* Makes the pools of a worker process; module is the core module whose they are. */
void ngx_portlease_init_process(ngx_cycle_t *cycle, ngx_module_t *module);

/* The pool of this process; NULL after an error, which is logged. */
portlease_pool *ngx_portlease_pool(ngx_portlease_pool_t *pool, ngx_log_t *log);

/* ---- Connections ------------------------------------------------------------------------------ */

/* What a try without a lease means for the peer. */
typedef enum {
    /* It is, or may be, the peer's fault. */
    NGX_PORTLEASE_PEER,
    /* We had no source: the peer is as good as before. */
    NGX_PORTLEASE_SOURCE
} ngx_portlease_fault_t;

/* Connects to the peer that was chosen, as ngx_event_connect_peer() does, from a source of the
 * pool's. NGX_DONE: connected; NGX_AGAIN: on its way; NGX_DECLINED: try another peer;
 * NGX_ERROR. Everything is logged. */
ngx_int_t ngx_portlease_connect(ngx_portlease_pool_t *pool, ngx_peer_connection_t *pc,
    ngx_portlease_lease_t **lease, ngx_portlease_fault_t *fault);

/* Whether connections to the peer have sources at all: not those to a unix socket. */
#define ngx_portlease_applies(pc) ((pc)->sockaddr->sa_family != AF_UNIX)

/* To be called just before nginx closes the descriptor, at the end of the same handler: the lease
 * is released after that. */
void ngx_portlease_closing(void *lease);

#endif
