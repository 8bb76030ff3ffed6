/* Connections under a lease. */

#include "ngx_portlease.h"

static ngx_int_t ngx_portlease_open(ngx_portlease_lease_t *lease, ngx_peer_connection_t *pc,
    portlease_progress *progress, ngx_portlease_fault_t *fault);
static ngx_int_t ngx_portlease_refused(portlease_error *error, ngx_peer_connection_t *pc,
    ngx_portlease_fault_t *fault);
static ngx_int_t ngx_portlease_register(ngx_portlease_lease_t *lease, ngx_peer_connection_t *pc,
    portlease_progress progress);
static ngx_int_t ngx_portlease_watch(ngx_connection_t *c, portlease_progress progress);
static void ngx_portlease_set_options(ngx_connection_t *c, ngx_peer_connection_t *pc);
static void ngx_portlease_tell_source(ngx_portlease_lease_t *lease);
static void ngx_portlease_release_closed(void);
static void ngx_portlease_release_handler(ngx_event_t *ev);

/* Leases of connections that nginx closes in the very handler that is running. */
static ngx_queue_t ngx_portlease_closed = { &ngx_portlease_closed, &ngx_portlease_closed };
static ngx_event_t ngx_portlease_releaser;


ngx_int_t
ngx_portlease_connect(ngx_portlease_pool_t *pool, ngx_peer_connection_t *pc,
    ngx_portlease_lease_t **lease, ngx_portlease_fault_t *fault)
{
    ngx_int_t rc;
    portlease_progress progress;
    ngx_portlease_lease_t *held;

    *fault = NGX_PORTLEASE_PEER;

    if (pc->local != NULL) {
        ngx_log_error(NGX_LOG_ERR, pc->log, 0,
                      "the \"bind\" directive of the proxy (%V) and \"portlease\" in %s:%ui both "
                      "choose the source: remove one of them",
                      &pc->local->name, pool->file_name, pool->line);
        return NGX_ERROR;
    }

    /* Whoever asks for a new connection has closed the one before. */

    ngx_portlease_release_closed();

    held = ngx_alloc(sizeof(ngx_portlease_lease_t), pc->log);
    if (held == NULL) {
        return NGX_ERROR;
    }

    held->pool = pool;

    rc = ngx_portlease_open(held, pc, &progress, fault);

    if (rc != NGX_OK) {
        ngx_free(held);
        return rc;
    }

    rc = ngx_portlease_register(held, pc, progress);

    if (rc == NGX_ERROR) {
        ngx_free(held);
        return NGX_ERROR;
    }

    ngx_portlease_tell_source(held);
    pool->leases++;
    *lease = held;

    return rc;
}


static ngx_int_t
ngx_portlease_open(ngx_portlease_lease_t *lease, ngx_peer_connection_t *pc,
    portlease_progress *progress, ngx_portlease_fault_t *fault)
{
    int32_t fd;
    int type;
    portlease_error error;
    portlease_pool *pool;

    pool = ngx_portlease_pool(lease->pool, pc->log);

    if (pool == NULL) {
        return NGX_ERROR;
    }

    type = (pc->type ? pc->type : SOCK_STREAM) | SOCK_NONBLOCK | SOCK_CLOEXEC;

    if (portlease_pool_connect(pool, type, pc->sockaddr, pc->socklen, &fd, &lease->lease,
                               progress, &error)
        != PORTLEASE_OK)
    {
        return ngx_portlease_refused(&error, pc, fault);
    }

    lease->fd = fd;

    return NGX_OK;
}


static ngx_int_t
ngx_portlease_refused(portlease_error *error, ngx_peer_connection_t *pc,
    ngx_portlease_fault_t *fault)
{
    ngx_uint_t level;

    switch (error->status) {

    case PORTLEASE_EXHAUSTED:
    case PORTLEASE_NO_SOURCE:
        ngx_log_error(NGX_LOG_ERR, pc->log, 0, "portlease: %s", error->message);
        *fault = NGX_PORTLEASE_SOURCE;
        return NGX_DECLINED;

    case PORTLEASE_OS:
        break;

    default:
        ngx_log_error(NGX_LOG_CRIT, pc->log, 0, "portlease: %s", error->message);
        return NGX_ERROR;
    }

    switch (error->os_error) {

    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case ENOBUFS:
        ngx_log_error(NGX_LOG_ALERT, pc->log, 0, "portlease: %s", error->message);
        return NGX_ERROR;

    case NGX_ECONNREFUSED:
    case NGX_ECONNRESET:
    case NGX_ENETDOWN:
    case NGX_ENETUNREACH:
    case NGX_EHOSTDOWN:
    case NGX_EHOSTUNREACH:
        level = NGX_LOG_ERR;
        break;

    default:
        level = NGX_LOG_CRIT;
    }

    ngx_log_error(level, pc->log, 0, "connect() to %V failed: %s", pc->name, error->message);
    return NGX_DECLINED;
}


/* Makes a connection of nginx's of it, as ngx_event_connect_peer() does. */
static ngx_int_t
ngx_portlease_register(ngx_portlease_lease_t *lease, ngx_peer_connection_t *pc,
    portlease_progress progress)
{
    ngx_connection_t *c;
    portlease_pool *pool = lease->pool->pool;

    c = ngx_get_connection(lease->fd, pc->log);

    if (c == NULL) {
        (void) portlease_pool_close(pool, lease->fd, &lease->lease, NULL);
        return NGX_ERROR;
    }

    ngx_portlease_set_options(c, pc);

    c->log_error = pc->log_error;
    c->read->log = pc->log;
    c->write->log = pc->log;
    c->number = ngx_atomic_fetch_add(ngx_connection_counter, 1);
    c->start_time = ngx_current_msec;

    if (ngx_portlease_watch(c, progress) != NGX_OK) {
        ngx_close_connection(c);
        (void) portlease_pool_release(pool, &lease->lease, PORTLEASE_CLOSED_UNKNOWN, NULL);
        return NGX_ERROR;
    }

    pc->connection = c;

    if (progress == PORTLEASE_PROGRESS_IN_PROGRESS) {
        return NGX_AGAIN;
    }

    c->write->ready = 1;

    return NGX_DONE;
}


static ngx_int_t
ngx_portlease_watch(ngx_connection_t *c, portlease_progress progress)
{
    ngx_int_t event;

    if (ngx_add_conn) {
        return ngx_add_conn(c);
    }

    event = (ngx_event_flags & NGX_USE_CLEAR_EVENT) ? NGX_CLEAR_EVENT : NGX_LEVEL_EVENT;

    if (ngx_add_event(c->read, NGX_READ_EVENT, event) != NGX_OK) {
        return NGX_ERROR;
    }

    if (progress == PORTLEASE_PROGRESS_CONNECTED) {
        return NGX_OK;
    }

    return ngx_add_event(c->write, NGX_WRITE_EVENT, event);
}


static void
ngx_portlease_set_options(ngx_connection_t *c, ngx_peer_connection_t *pc)
{
    int value = 1;

    if (pc->rcvbuf
        && setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &pc->rcvbuf, sizeof(int)) == -1)
    {
        ngx_log_error(NGX_LOG_ALERT, pc->log, ngx_socket_errno,
                      "setsockopt(SO_RCVBUF) failed, ignored");
    }

    if (pc->so_keepalive
        && setsockopt(c->fd, SOL_SOCKET, SO_KEEPALIVE, &value, sizeof(int)) == -1)
    {
        ngx_log_error(NGX_LOG_ALERT, pc->log, ngx_socket_errno,
                      "setsockopt(SO_KEEPALIVE) failed, ignored");
    }

    c->type = pc->type ? pc->type : SOCK_STREAM;

    if (c->type == SOCK_STREAM) {
        c->recv = ngx_recv;
        c->send = ngx_send;
        c->recv_chain = ngx_recv_chain;
        c->send_chain = ngx_send_chain;
        c->sendfile = 1;

    } else {
        c->recv = ngx_udp_recv;
        c->send = ngx_send;
        c->send_chain = ngx_udp_send_chain;
    }
}


static void
ngx_portlease_tell_source(ngx_portlease_lease_t *lease)
{
    socklen_t len;
    struct sockaddr_storage source;

    lease->source_len = 0;

    if (portlease_lease_source(lease->pool->pool, &lease->lease, &source, &len, NULL)
        == PORTLEASE_OK)
    {
        lease->source_len = ngx_sock_ntop((struct sockaddr *) &source, len, lease->source,
                                          NGX_SOCKADDR_STRLEN, 1);
    }
}


void
ngx_portlease_closing(void *data)
{
    ngx_portlease_lease_t *lease = data;

    if (portlease_lease_closing(lease->pool->pool, &lease->lease, lease->fd, &lease->closed, NULL)
        != PORTLEASE_OK)
    {
        lease->closed = PORTLEASE_CLOSED_UNKNOWN;
    }

    ngx_queue_insert_tail(&ngx_portlease_closed, &lease->queue);

    /* For the next round, which comes at once: also who is not called from a round, as when
     * nginx closes idle connections to end, is gone by then. */

    ngx_portlease_releaser.handler = ngx_portlease_release_handler;
    ngx_portlease_releaser.log = ngx_cycle->log;
    ngx_post_event(&ngx_portlease_releaser, &ngx_posted_next_events);
}


static void
ngx_portlease_release_handler(ngx_event_t *ev)
{
    ngx_portlease_release_closed();
}


static void
ngx_portlease_release_closed(void)
{
    ngx_queue_t *q;
    portlease_error error;
    ngx_portlease_lease_t *lease;

    while (!ngx_queue_empty(&ngx_portlease_closed)) {
        q = ngx_queue_head(&ngx_portlease_closed);
        ngx_queue_remove(q);
        lease = ngx_queue_data(q, ngx_portlease_lease_t, queue);

        if (portlease_pool_release(lease->pool->pool, &lease->lease, lease->closed, &error)
            != PORTLEASE_OK)
        {
            ngx_log_error(NGX_LOG_ALERT, ngx_cycle->log, 0, "portlease: %s", error.message);
        }

        lease->pool->leases--;
        ngx_free(lease);
    }
}
