/* "portlease" in an upstream of stream: around the load balancing method. */

#include "ngx_portlease.h"
#include <ngx_stream.h>

typedef struct {
    /* NULL without the directive. */
    ngx_portlease_pool_t *pool;
    /* Where the directive stands. */
    u_char *file_name;
    ngx_uint_t line;

    ngx_stream_upstream_init_pt original_init_upstream;
    ngx_stream_upstream_init_peer_pt original_init_peer;
} ngx_stream_portlease_conf_t;

/* What a session has of its own. */
typedef struct {
    ngx_portlease_pool_t *pool;
    /* Of the connection that is open. */
    ngx_portlease_lease_t *lease;

    void *data;
    ngx_event_get_peer_pt original_get_peer;
    ngx_event_free_peer_pt original_free_peer;
    ngx_event_notify_peer_pt original_notify;
#if (NGX_SSL || NGX_COMPAT)
    ngx_event_set_peer_session_pt original_set_session;
    ngx_event_save_peer_session_pt original_save_session;
#endif

    ngx_portlease_fault_t fault;

    /* The source of the last connection, as text. */
    size_t source_len;
    u_char source[NGX_SOCKADDR_STRLEN];
} ngx_stream_portlease_peer_t;

static void *ngx_stream_portlease_create_conf(ngx_conf_t *cf);
static char *ngx_stream_portlease(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
static ngx_int_t ngx_stream_portlease_add_variable(ngx_conf_t *cf);
static ngx_int_t ngx_stream_portlease_check_order(ngx_conf_t *cf);
static ngx_int_t ngx_stream_portlease_init_upstream(ngx_conf_t *cf,
    ngx_stream_upstream_srv_conf_t *us);
static ngx_int_t ngx_stream_portlease_init_peer(ngx_stream_session_t *s,
    ngx_stream_upstream_srv_conf_t *us);
static ngx_int_t ngx_stream_portlease_get_peer(ngx_peer_connection_t *pc, void *data);
static void ngx_stream_portlease_free_peer(ngx_peer_connection_t *pc, void *data,
    ngx_uint_t state);
static void ngx_stream_portlease_notify(ngx_peer_connection_t *pc, void *data, ngx_uint_t type);
#if (NGX_SSL || NGX_COMPAT)
static ngx_int_t ngx_stream_portlease_set_session(ngx_peer_connection_t *pc, void *data);
static void ngx_stream_portlease_save_session(ngx_peer_connection_t *pc, void *data);
#endif
static ngx_int_t ngx_stream_portlease_source(ngx_stream_session_t *s,
    ngx_stream_variable_value_t *v, uintptr_t data);
static char *ngx_stream_portlease_init_pools(ngx_cycle_t *cycle, void *pools);
static ngx_int_t ngx_stream_portlease_init_process(ngx_cycle_t *cycle);


static ngx_command_t ngx_stream_portlease_commands[] = {

    { ngx_string("portlease"),
      NGX_STREAM_UPS_CONF|NGX_CONF_1MORE,
      ngx_stream_portlease,
      NGX_STREAM_SRV_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_stream_module_t ngx_stream_portlease_module_ctx = {
    ngx_stream_portlease_add_variable,     /* preconfiguration */
    ngx_stream_portlease_check_order,      /* postconfiguration */

    NULL,                                  /* create main configuration */
    NULL,                                  /* init main configuration */

    ngx_stream_portlease_create_conf,      /* create server configuration */
    NULL                                   /* merge server configuration */
};


ngx_module_t ngx_stream_portlease_module = {
    NGX_MODULE_V1,
    &ngx_stream_portlease_module_ctx,      /* module context */
    ngx_stream_portlease_commands,         /* module directives */
    NGX_STREAM_MODULE,                     /* module type */
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

static ngx_core_module_t ngx_stream_portlease_pools_module_ctx = {
    ngx_string("stream_portlease_pools"),
    ngx_portlease_create_pools,
    ngx_stream_portlease_init_pools
};


ngx_module_t ngx_stream_portlease_pools_module = {
    NGX_MODULE_V1,
    &ngx_stream_portlease_pools_module_ctx, /* module context */
    NULL,                                  /* module directives */
    NGX_CORE_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    ngx_stream_portlease_init_process,     /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static ngx_str_t ngx_stream_portlease_variable = ngx_string("portlease_source");


static void *
ngx_stream_portlease_create_conf(ngx_conf_t *cf)
{
    return ngx_pcalloc(cf->pool, sizeof(ngx_stream_portlease_conf_t));
}


static char *
ngx_stream_portlease(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_array_t *pools;
    ngx_stream_portlease_conf_t *pcf = conf;
    ngx_stream_upstream_srv_conf_t *uscf;

    if (pcf->pool != NULL) {
        return "is duplicate";
    }

    pools = (ngx_array_t *) ngx_get_conf(cf->cycle->conf_ctx, ngx_stream_portlease_pools_module);

    pcf->pool = ngx_portlease_read(cf, pools);

    if (pcf->pool == NULL) {
        return NGX_CONF_ERROR;
    }

    pcf->file_name = cf->conf_file->file.name.data;
    pcf->line = cf->conf_file->line;

    uscf = ngx_stream_conf_get_module_srv_conf(cf, ngx_stream_upstream_module);

    pcf->original_init_upstream = uscf->peer.init_upstream ? uscf->peer.init_upstream
                                                           : ngx_stream_upstream_init_round_robin;

    uscf->peer.init_upstream = ngx_stream_portlease_init_upstream;

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_stream_portlease_add_variable(ngx_conf_t *cf)
{
    ngx_stream_variable_t *var;

    var = ngx_stream_add_variable(cf, &ngx_stream_portlease_variable,
                                  NGX_STREAM_VAR_NOCACHEABLE);
    if (var == NULL) {
        return NGX_ERROR;
    }

    var->get_handler = ngx_stream_portlease_source;

    return NGX_OK;
}


/* A method that comes later replaces us. */
static ngx_int_t
ngx_stream_portlease_check_order(ngx_conf_t *cf)
{
    ngx_uint_t i;
    ngx_stream_portlease_conf_t *pcf;
    ngx_stream_upstream_srv_conf_t **us;
    ngx_stream_upstream_main_conf_t *umcf;

    umcf = ngx_stream_conf_get_module_main_conf(cf, ngx_stream_upstream_module);
    us = umcf->upstreams.elts;

    for (i = 0; i < umcf->upstreams.nelts; i++) {

        if (us[i]->srv_conf == NULL) {
            continue;
        }

        pcf = ngx_stream_conf_upstream_srv_conf(us[i], ngx_stream_portlease_module);

        if (pcf->pool != NULL
            && us[i]->peer.init_upstream != ngx_stream_portlease_init_upstream)
        {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "\"portlease\" stands before the load balancing method in upstream "
                          "\"%V\": put it after that, in %s:%ui",
                          &us[i]->host, pcf->file_name, pcf->line);
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_stream_portlease_init_upstream(ngx_conf_t *cf, ngx_stream_upstream_srv_conf_t *us)
{
    ngx_stream_portlease_conf_t *pcf;

    pcf = ngx_stream_conf_upstream_srv_conf(us, ngx_stream_portlease_module);

    if (pcf->original_init_upstream(cf, us) != NGX_OK) {
        return NGX_ERROR;
    }

    pcf->original_init_peer = us->peer.init;
    us->peer.init = ngx_stream_portlease_init_peer;

    return NGX_OK;
}


static ngx_int_t
ngx_stream_portlease_init_peer(ngx_stream_session_t *s, ngx_stream_upstream_srv_conf_t *us)
{
    ngx_stream_portlease_conf_t *pcf;
    ngx_stream_portlease_peer_t *peer;

    pcf = ngx_stream_conf_upstream_srv_conf(us, ngx_stream_portlease_module);

    peer = ngx_pcalloc(s->connection->pool, sizeof(ngx_stream_portlease_peer_t));
    if (peer == NULL) {
        return NGX_ERROR;
    }

    if (pcf->original_init_peer(s, us) != NGX_OK) {
        return NGX_ERROR;
    }

    peer->pool = pcf->pool;
    peer->data = s->upstream->peer.data;
    peer->original_get_peer = s->upstream->peer.get;
    peer->original_free_peer = s->upstream->peer.free;
    peer->original_notify = s->upstream->peer.notify;

    s->upstream->peer.data = peer;
    s->upstream->peer.get = ngx_stream_portlease_get_peer;
    s->upstream->peer.free = ngx_stream_portlease_free_peer;

    if (peer->original_notify != NULL) {
        s->upstream->peer.notify = ngx_stream_portlease_notify;
    }

#if (NGX_SSL || NGX_COMPAT)
    peer->original_set_session = s->upstream->peer.set_session;
    peer->original_save_session = s->upstream->peer.save_session;
    s->upstream->peer.set_session = ngx_stream_portlease_set_session;
    s->upstream->peer.save_session = ngx_stream_portlease_save_session;
#endif

    ngx_stream_set_ctx(s, peer, ngx_stream_portlease_module);

    return NGX_OK;
}


static ngx_int_t
ngx_stream_portlease_get_peer(ngx_peer_connection_t *pc, void *data)
{
    ngx_int_t rc;
    ngx_portlease_lease_t *lease;
    ngx_stream_portlease_peer_t *peer = data;

    peer->source_len = 0;

    rc = peer->original_get_peer(pc, peer->data);

    if (rc != NGX_OK || !ngx_portlease_applies(pc)) {
        return rc;
    }

    rc = ngx_portlease_connect(peer->pool, pc, &lease, &peer->fault);

    if (rc == NGX_AGAIN || rc == NGX_DONE) {
        peer->lease = lease;
        peer->source_len = lease->source_len;
        ngx_memcpy(peer->source, lease->source, lease->source_len);
    }

    return rc;
}


static void
ngx_stream_portlease_free_peer(ngx_peer_connection_t *pc, void *data, ngx_uint_t state)
{
    ngx_stream_portlease_peer_t *peer = data;

    /* nginx closes the connection next. */

    if (peer->lease != NULL) {
        ngx_portlease_closing(peer->lease);
        peer->lease = NULL;
    }

    /* Where we had no source, the peer has not failed; but another one is to be tried. */

    if (peer->fault == NGX_PORTLEASE_SOURCE) {
        peer->fault = NGX_PORTLEASE_PEER;
        state = NGX_PEER_NEXT;
    }

    peer->original_free_peer(pc, peer->data, state);
}


static void
ngx_stream_portlease_notify(ngx_peer_connection_t *pc, void *data, ngx_uint_t type)
{
    ngx_stream_portlease_peer_t *peer = data;

    peer->original_notify(pc, peer->data, type);
}


#if (NGX_SSL || NGX_COMPAT)

static ngx_int_t
ngx_stream_portlease_set_session(ngx_peer_connection_t *pc, void *data)
{
    ngx_stream_portlease_peer_t *peer = data;

    return peer->original_set_session(pc, peer->data);
}


static void
ngx_stream_portlease_save_session(ngx_peer_connection_t *pc, void *data)
{
    ngx_stream_portlease_peer_t *peer = data;

    peer->original_save_session(pc, peer->data);
}

#endif


static ngx_int_t
ngx_stream_portlease_source(ngx_stream_session_t *s, ngx_stream_variable_value_t *v,
    uintptr_t data)
{
    ngx_stream_portlease_peer_t *peer;

    peer = ngx_stream_get_module_ctx(s, ngx_stream_portlease_module);

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


static char *
ngx_stream_portlease_init_pools(ngx_cycle_t *cycle, void *pools)
{
    return ngx_portlease_try_pools(cycle, pools);
}


static ngx_int_t
ngx_stream_portlease_init_process(ngx_cycle_t *cycle)
{
    ngx_portlease_init_process(cycle, &ngx_stream_portlease_pools_module);

    return NGX_OK;
}
