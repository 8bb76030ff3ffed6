/* "portlease" in an upstream of http: around the load balancing method and keepalive. */

#include "ngx_portlease.h"
#include <ngx_http.h>

typedef struct {
    /* NULL without the directive. */
    ngx_portlease_pool_t *pool;
    /* Where the directive stands. */
    u_char *file_name;
    ngx_uint_t line;

    ngx_http_upstream_init_pt original_init_upstream;
    ngx_http_upstream_init_peer_pt original_init_peer;
} ngx_http_portlease_conf_t;

/* What a request has of its own. */
typedef struct {
    ngx_portlease_pool_t *pool;

    void *data;
    ngx_event_get_peer_pt original_get_peer;
    ngx_event_free_peer_pt original_free_peer;
#if (NGX_SSL || NGX_COMPAT)
    ngx_event_set_peer_session_pt original_set_session;
    ngx_event_save_peer_session_pt original_save_session;
#endif

    ngx_portlease_fault_t fault;

    /* The source of the last connection, as text. */
    size_t source_len;
    u_char source[NGX_SOCKADDR_STRLEN];
} ngx_http_portlease_peer_t;

static void *ngx_http_portlease_create_conf(ngx_conf_t *cf);
static char *ngx_http_portlease(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
static ngx_int_t ngx_http_portlease_add_variable(ngx_conf_t *cf);
static ngx_int_t ngx_http_portlease_check_order(ngx_conf_t *cf);
static ngx_int_t ngx_http_portlease_init_upstream(ngx_conf_t *cf,
    ngx_http_upstream_srv_conf_t *us);
static ngx_int_t ngx_http_portlease_init_peer(ngx_http_request_t *r,
    ngx_http_upstream_srv_conf_t *us);
static ngx_int_t ngx_http_portlease_get_peer(ngx_peer_connection_t *pc, void *data);
static ngx_int_t ngx_http_portlease_new(ngx_http_portlease_peer_t *peer,
    ngx_peer_connection_t *pc);
static void ngx_http_portlease_tell_source(ngx_http_portlease_peer_t *peer,
    ngx_portlease_lease_t *lease);
static void ngx_http_portlease_free_peer(ngx_peer_connection_t *pc, void *data, ngx_uint_t state);
#if (NGX_SSL || NGX_COMPAT)
static ngx_int_t ngx_http_portlease_set_session(ngx_peer_connection_t *pc, void *data);
static void ngx_http_portlease_save_session(ngx_peer_connection_t *pc, void *data);
#endif
static ngx_int_t ngx_http_portlease_source(ngx_http_request_t *r, ngx_http_variable_value_t *v,
    uintptr_t data);
static void ngx_http_portlease_cleanup(void *data);
static char *ngx_http_portlease_init_pools(ngx_cycle_t *cycle, void *pools);
static ngx_int_t ngx_http_portlease_init_process(ngx_cycle_t *cycle);


static ngx_command_t ngx_http_portlease_commands[] = {

    { ngx_string("portlease"),
      NGX_HTTP_UPS_CONF|NGX_CONF_1MORE,
      ngx_http_portlease,
      NGX_HTTP_SRV_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t ngx_http_portlease_module_ctx = {
    ngx_http_portlease_add_variable,       /* preconfiguration */
    ngx_http_portlease_check_order,        /* postconfiguration */

    NULL,                                  /* create main configuration */
    NULL,                                  /* init main configuration */

    ngx_http_portlease_create_conf,        /* create server configuration */
    NULL,                                  /* merge server configuration */

    NULL,                                  /* create location configuration */
    NULL                                   /* merge location configuration */
};


ngx_module_t ngx_http_portlease_module = {
    NGX_MODULE_V1,
    &ngx_http_portlease_module_ctx,        /* module context */
    ngx_http_portlease_commands,           /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    NULL,                                  /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


/* The pools, in a module of the core: its configuration is looked at when all of nginx's has been
 * read, and may still be refused then. */

static ngx_core_module_t ngx_http_portlease_pools_module_ctx = {
    ngx_string("http_portlease_pools"),
    ngx_portlease_create_pools,
    ngx_http_portlease_init_pools
};


ngx_module_t ngx_http_portlease_pools_module = {
    NGX_MODULE_V1,
    &ngx_http_portlease_pools_module_ctx,  /* module context */
    NULL,                                  /* module directives */
    NGX_CORE_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    ngx_http_portlease_init_process,       /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static ngx_http_variable_t ngx_http_portlease_variable = {
    ngx_string("portlease_source"), NULL, ngx_http_portlease_source, 0,
    NGX_HTTP_VAR_NOCACHEABLE, 0
};


static void *
ngx_http_portlease_create_conf(ngx_conf_t *cf)
{
    return ngx_pcalloc(cf->pool, sizeof(ngx_http_portlease_conf_t));
}


static char *
ngx_http_portlease(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_array_t *pools;
    ngx_http_portlease_conf_t *pcf = conf;
    ngx_http_upstream_srv_conf_t *uscf;

    if (pcf->pool != NULL) {
        return "is duplicate";
    }

    pools = (ngx_array_t *) ngx_get_conf(cf->cycle->conf_ctx, ngx_http_portlease_pools_module);

    pcf->pool = ngx_portlease_read(cf, pools);

    if (pcf->pool == NULL) {
        return NGX_CONF_ERROR;
    }

    pcf->file_name = cf->conf_file->file.name.data;
    pcf->line = cf->conf_file->line;

    uscf = ngx_http_conf_get_module_srv_conf(cf, ngx_http_upstream_module);

    pcf->original_init_upstream = uscf->peer.init_upstream ? uscf->peer.init_upstream
                                                           : ngx_http_upstream_init_round_robin;

    uscf->peer.init_upstream = ngx_http_portlease_init_upstream;

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_portlease_add_variable(ngx_conf_t *cf)
{
    ngx_http_variable_t *var;

    var = ngx_http_add_variable(cf, &ngx_http_portlease_variable.name,
                                ngx_http_portlease_variable.flags);
    if (var == NULL) {
        return NGX_ERROR;
    }

    var->get_handler = ngx_http_portlease_source;

    return NGX_OK;
}


/* A keepalive around us would never see a connection, and a method that comes later replaces us. */
static ngx_int_t
ngx_http_portlease_check_order(ngx_conf_t *cf)
{
    ngx_uint_t i;
    ngx_http_portlease_conf_t *pcf;
    ngx_http_upstream_srv_conf_t **us;
    ngx_http_upstream_main_conf_t *umcf;

    umcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_upstream_module);
    us = umcf->upstreams.elts;

    for (i = 0; i < umcf->upstreams.nelts; i++) {

        if (us[i]->srv_conf == NULL) {
            continue;
        }

        pcf = ngx_http_conf_upstream_srv_conf(us[i], ngx_http_portlease_module);

        if (pcf->pool != NULL
            && us[i]->peer.init_upstream != ngx_http_portlease_init_upstream)
        {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "\"portlease\" stands before the load balancing method or \"keepalive\" "
                          "in upstream \"%V\": put it after them, in %s:%ui",
                          &us[i]->host, pcf->file_name, pcf->line);
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_portlease_init_upstream(ngx_conf_t *cf, ngx_http_upstream_srv_conf_t *us)
{
    ngx_http_portlease_conf_t *pcf;

    pcf = ngx_http_conf_upstream_srv_conf(us, ngx_http_portlease_module);

    if (pcf->original_init_upstream(cf, us) != NGX_OK) {
        return NGX_ERROR;
    }

    pcf->original_init_peer = us->peer.init;
    us->peer.init = ngx_http_portlease_init_peer;

    return NGX_OK;
}


static ngx_int_t
ngx_http_portlease_init_peer(ngx_http_request_t *r, ngx_http_upstream_srv_conf_t *us)
{
    ngx_pool_cleanup_t *cln;
    ngx_http_portlease_conf_t *pcf;
    ngx_http_portlease_peer_t *peer;

    pcf = ngx_http_conf_upstream_srv_conf(us, ngx_http_portlease_module);

    cln = ngx_pool_cleanup_add(r->pool, sizeof(ngx_http_portlease_peer_t));
    if (cln == NULL) {
        return NGX_ERROR;
    }

    if (pcf->original_init_peer(r, us) != NGX_OK) {
        return NGX_ERROR;
    }

    cln->handler = ngx_http_portlease_cleanup;

    peer = cln->data;
    ngx_memzero(peer, sizeof(ngx_http_portlease_peer_t));

    peer->pool = pcf->pool;
    peer->data = r->upstream->peer.data;
    peer->original_get_peer = r->upstream->peer.get;
    peer->original_free_peer = r->upstream->peer.free;

    r->upstream->peer.data = peer;
    r->upstream->peer.get = ngx_http_portlease_get_peer;
    r->upstream->peer.free = ngx_http_portlease_free_peer;

#if (NGX_SSL || NGX_COMPAT)
    peer->original_set_session = r->upstream->peer.set_session;
    peer->original_save_session = r->upstream->peer.save_session;
    r->upstream->peer.set_session = ngx_http_portlease_set_session;
    r->upstream->peer.save_session = ngx_http_portlease_save_session;
#endif

    ngx_http_set_ctx(r, peer, ngx_http_portlease_module);

    return NGX_OK;
}


static ngx_int_t
ngx_http_portlease_get_peer(ngx_peer_connection_t *pc, void *data)
{
    ngx_int_t rc;
    ngx_pool_cleanup_t *cln;
    ngx_http_portlease_peer_t *peer = data;

    peer->source_len = 0;

    rc = peer->original_get_peer(pc, peer->data);

    if (rc == NGX_OK && ngx_portlease_applies(pc)) {
        return ngx_http_portlease_new(peer, pc);
    }

    if (rc == NGX_DONE && pc->connection->pool != NULL) {

        /* A connection out of the cache: its lease is in its pool. */

        for (cln = pc->connection->pool->cleanup; cln; cln = cln->next) {
            if (cln->handler == ngx_portlease_closing) {
                ngx_http_portlease_tell_source(peer, cln->data);
                break;
            }
        }
    }

    return rc;
}


static ngx_int_t
ngx_http_portlease_new(ngx_http_portlease_peer_t *peer, ngx_peer_connection_t *pc)
{
    ngx_int_t rc;
    ngx_pool_t *pool;
    ngx_pool_cleanup_t *cln;
    ngx_portlease_lease_t *lease;

    /* The connection's own: nginx destroys it just before it closes the connection, and keeps it
     * as long as that is in the cache. */

    pool = ngx_create_pool(128, pc->log);
    if (pool == NULL) {
        return NGX_ERROR;
    }

    cln = ngx_pool_cleanup_add(pool, 0);

    rc = cln ? ngx_portlease_connect(peer->pool, pc, &lease, &peer->fault) : NGX_ERROR;

    if (rc != NGX_AGAIN && rc != NGX_DONE) {
        ngx_destroy_pool(pool);
        return rc;
    }

    cln->handler = ngx_portlease_closing;
    cln->data = lease;
    pc->connection->pool = pool;

    ngx_http_portlease_tell_source(peer, lease);

    return rc;
}


static void
ngx_http_portlease_tell_source(ngx_http_portlease_peer_t *peer, ngx_portlease_lease_t *lease)
{
    peer->source_len = lease->source_len;
    ngx_memcpy(peer->source, lease->source, lease->source_len);
}


static void
ngx_http_portlease_free_peer(ngx_peer_connection_t *pc, void *data, ngx_uint_t state)
{
    ngx_http_portlease_peer_t *peer = data;

    /* Where we had no source, the peer has not failed; but another one is to be tried. */

    if (peer->fault == NGX_PORTLEASE_SOURCE) {
        peer->fault = NGX_PORTLEASE_PEER;
        state = NGX_PEER_NEXT;
    }

    peer->original_free_peer(pc, peer->data, state);
}


#if (NGX_SSL || NGX_COMPAT)

static ngx_int_t
ngx_http_portlease_set_session(ngx_peer_connection_t *pc, void *data)
{
    ngx_http_portlease_peer_t *peer = data;

    return peer->original_set_session(pc, peer->data);
}


static void
ngx_http_portlease_save_session(ngx_peer_connection_t *pc, void *data)
{
    ngx_http_portlease_peer_t *peer = data;

    peer->original_save_session(pc, peer->data);
}

#endif


static ngx_int_t
ngx_http_portlease_source(ngx_http_request_t *r, ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_pool_cleanup_t *cln;
    ngx_http_portlease_peer_t *peer;

    peer = ngx_http_get_module_ctx(r, ngx_http_portlease_module);

    /* An internal redirect, as to an error page, forgets it. */

    for (cln = r->pool->cleanup; peer == NULL && r->internal && cln; cln = cln->next) {
        if (cln->handler == ngx_http_portlease_cleanup) {
            peer = cln->data;
        }
    }

    if (peer == NULL || peer->source_len == 0) {
        v->not_found = 1;
        return NGX_OK;
    }

    v->data = peer->source;
    v->len = peer->source_len;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;

    return NGX_OK;
}


/* By it what a request has of its own is found again; the memory goes with the request. */
static void
ngx_http_portlease_cleanup(void *data)
{
}


static char *
ngx_http_portlease_init_pools(ngx_cycle_t *cycle, void *pools)
{
    return ngx_portlease_try_pools(cycle, pools);
}


static ngx_int_t
ngx_http_portlease_init_process(ngx_cycle_t *cycle)
{
    ngx_portlease_init_process(cycle, &ngx_http_portlease_pools_module);

    return NGX_OK;
}
