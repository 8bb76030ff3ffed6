/* The "portlease" directive, and the pools that it asks for. */

#include "ngx_portlease.h"

static ngx_portlease_pool_t *ngx_portlease_find(ngx_array_t *pools, ngx_str_t *text);
static ngx_int_t ngx_portlease_join(ngx_conf_t *cf, ngx_str_t *text);
static ngx_int_t ngx_portlease_read_all(ngx_conf_t *cf, ngx_portlease_pool_t *pool);
static ngx_int_t ngx_portlease_parameter(ngx_conf_t *cf, ngx_str_t *arg,
    ngx_portlease_pool_t *pool);
static ngx_int_t ngx_portlease_ports(ngx_conf_t *cf, ngx_str_t *arg, ngx_str_t *value,
    ngx_portlease_pool_t *pool);
static ngx_int_t ngx_portlease_settle(ngx_conf_t *cf, portlease_status status,
    portlease_error *error);
static ngx_int_t ngx_portlease_name_file(ngx_cycle_t *cycle, ngx_portlease_pool_t *pool);
static ngx_int_t ngx_portlease_prepare_file(ngx_cycle_t *cycle, ngx_portlease_pool_t *pool);
static void ngx_portlease_free_pool(void *data);
static void ngx_portlease_maintain(ngx_event_t *ev);

/* Pools give up what others want when they are called; this calls them. */
#define NGX_PORTLEASE_MAINTAIN_MS 1000

static ngx_event_t ngx_portlease_maintainer;


void *
ngx_portlease_create_pools(ngx_cycle_t *cycle)
{
    return ngx_array_create(cycle->pool, 4, sizeof(ngx_portlease_pool_t *));
}


ngx_portlease_pool_t *
ngx_portlease_read(ngx_conf_t *cf, ngx_array_t *pools)
{
    ngx_str_t text;
    ngx_pool_cleanup_t *cln;
    ngx_portlease_pool_t *pool, **place;

    if (ngx_portlease_join(cf, &text) != NGX_OK) {
        return NULL;
    }

    pool = ngx_portlease_find(pools, &text);

    if (pool != NULL) {
        return pool;
    }

    cln = ngx_pool_cleanup_add(cf->pool, sizeof(ngx_portlease_pool_t));
    place = ngx_array_push(pools);

    if (cln == NULL || place == NULL) {
        return NULL;
    }

    pool = cln->data;
    ngx_memzero(pool, sizeof(ngx_portlease_pool_t));
    pool->text = text;
    pool->file_name = cf->conf_file->file.name.data;
    pool->line = cf->conf_file->line;
    *place = pool;

    if (portlease_config_new(&pool->config) != PORTLEASE_OK) {
        return NULL;
    }

    cln->handler = ngx_portlease_free_pool;

    return ngx_portlease_read_all(cf, pool) == NGX_OK ? pool : NULL;
}


static ngx_portlease_pool_t *
ngx_portlease_find(ngx_array_t *pools, ngx_str_t *text)
{
    ngx_uint_t i;
    ngx_portlease_pool_t **pool = pools->elts;

    for (i = 0; i < pools->nelts; i++) {
        if (pool[i]->text.len == text->len
            && ngx_memcmp(pool[i]->text.data, text->data, text->len) == 0)
        {
            return pool[i];
        }
    }

    return NULL;
}


/* The arguments with a zero byte after each, which none of them has in it. */
static ngx_int_t
ngx_portlease_join(ngx_conf_t *cf, ngx_str_t *text)
{
    u_char *p;
    ngx_uint_t i;
    ngx_str_t *args = cf->args->elts;

    text->len = 0;

    for (i = 1; i < cf->args->nelts; i++) {
        text->len += args[i].len + 1;
    }

    text->data = p = ngx_pnalloc(cf->pool, text->len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    for (i = 1; i < cf->args->nelts; i++) {
        p = ngx_cpymem(p, args[i].data, args[i].len);
        *p++ = '\0';
    }

    return NGX_OK;
}


static ngx_int_t
ngx_portlease_read_all(ngx_conf_t *cf, ngx_portlease_pool_t *pool)
{
    ngx_uint_t i;
    ngx_str_t *args = cf->args->elts;
    portlease_error error;
    portlease_status status;

    for (i = 1; i < cf->args->nelts; i++) {

        /* No source has a "=" in it; and all strings of a configuration end with a zero byte. */

        if (ngx_strlchr(args[i].data, args[i].data + args[i].len, '=') != NULL
            || ngx_strcmp(args[i].data, "freebind") == 0)
        {
            if (ngx_portlease_parameter(cf, &args[i], pool) != NGX_OK) {
                return NGX_ERROR;
            }

            continue;
        }

        status = portlease_config_add_sources(pool->config, (char *) args[i].data, &error);

        if (ngx_portlease_settle(cf, status, &error) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_portlease_parameter(ngx_conf_t *cf, ngx_str_t *arg, ngx_portlease_pool_t *pool)
{
    ngx_str_t name, value;
    ngx_msec_t rest;
    portlease_mode mode;
    portlease_error error;
    portlease_status status;

    if (ngx_strcmp(arg->data, "freebind") == 0) {
        status = portlease_config_set_source_flags(pool->config, NULL, 0, PORTLEASE_FREEBIND,
                                                   &error);
        return ngx_portlease_settle(cf, status, &error);
    }

    value.data = (u_char *) ngx_strchr(arg->data, '=') + 1;
    name.data = arg->data;
    name.len = value.data - name.data - 1;
    value.len = arg->len - name.len - 1;

#define NGX_PORTLEASE_IS(of, text)                                                                 \
    ((of).len == sizeof(text) - 1 && ngx_strncmp((of).data, text, sizeof(text) - 1) == 0)

    if (NGX_PORTLEASE_IS(name, "ports")) {
        return ngx_portlease_ports(cf, arg, &value, pool);
    }

    if (NGX_PORTLEASE_IS(name, "shared") && value.len != 0) {
        pool->shared = value;
        pool->is_named = 1;
        return ngx_conf_full_name(cf->cycle, &pool->shared, 0);
    }

    if (NGX_PORTLEASE_IS(name, "rest")) {
        rest = ngx_parse_time(&value, 0);

        if (rest != (ngx_msec_t) NGX_ERROR) {
            status = portlease_config_set_rest_ms(pool->config, rest, &error);
            return ngx_portlease_settle(cf, status, &error);
        }
    }

    if (NGX_PORTLEASE_IS(name, "mode")) {
        if (NGX_PORTLEASE_IS(value, "auto")) {
            mode = PORTLEASE_MODE_BY_PORT;

        } else if (NGX_PORTLEASE_IS(value, "late")) {
            mode = PORTLEASE_MODE_LATE;

        } else if (NGX_PORTLEASE_IS(value, "explicit")) {
            mode = PORTLEASE_MODE_EXPLICIT;

        } else {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid mode \"%V\": it is \"auto\", \"late\" or \"explicit\"",
                               &value);
            return NGX_ERROR;
        }

        status = portlease_config_set_mode(pool->config, mode, &error);
        return ngx_portlease_settle(cf, status, &error);
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid parameter \"%V\": besides sources there are \"ports=FIRST-LAST\", "
                       "\"mode=MODE\", \"shared=FILE\", \"rest=TIME\" and \"freebind\"", arg);
    return NGX_ERROR;
}


static ngx_int_t
ngx_portlease_ports(ngx_conf_t *cf, ngx_str_t *arg, ngx_str_t *value, ngx_portlease_pool_t *pool)
{
    u_char *dash, *end;
    ngx_int_t first, last;
    portlease_error error;
    portlease_status status;

    end = value->data + value->len;
    dash = ngx_strlchr(value->data, end, '-');

    if (dash != NULL) {
        first = ngx_atoi(value->data, dash - value->data);
        last = ngx_atoi(dash + 1, end - dash - 1);

        if (first != NGX_ERROR && last != NGX_ERROR && first <= 65535 && last <= 65535) {
            status = portlease_config_set_ports(pool->config, first, last, &error);
            return ngx_portlease_settle(cf, status, &error);
        }
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid parameter \"%V\": it is written \"ports=FIRST-LAST\", with ports "
                       "from 1 to 65535", arg);
    return NGX_ERROR;
}


static ngx_int_t
ngx_portlease_settle(ngx_conf_t *cf, portlease_status status, portlease_error *error)
{
    if (status == PORTLEASE_OK) {
        return NGX_OK;
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "portlease: %s", error->message);
    return NGX_ERROR;
}


char *
ngx_portlease_try_pools(ngx_cycle_t *cycle, ngx_array_t *pools)
{
    ngx_uint_t i;
    portlease_pool *made;
    portlease_error error;
    ngx_portlease_pool_t **pool = pools->elts;

    /* "nginx -s": the process that runs has seen to it. */

    if (ngx_process == NGX_PROCESS_SIGNALLER) {
        return NGX_CONF_OK;
    }

    for (i = 0; i < pools->nelts; i++) {

        if (ngx_portlease_name_file(cycle, pool[i]) != NGX_OK
            || ngx_portlease_prepare_file(cycle, pool[i]) != NGX_OK)
        {
            return NGX_CONF_ERROR;
        }

        if (portlease_pool_new(pool[i]->config, &made, &error) != PORTLEASE_OK) {
            ngx_log_error(NGX_LOG_EMERG, cycle->log, 0, "portlease: %s in %s:%ui",
                          error.message, pool[i]->file_name, pool[i]->line);
            return NGX_CONF_ERROR;
        }

        portlease_pool_free(made);
    }

    return NGX_CONF_OK;
}


/* The workers always share a file, also with those of the configuration before: without
 * "shared" it lies beside the pid file, whose name stays the same as long as nginx does. */
static ngx_int_t
ngx_portlease_name_file(ngx_cycle_t *cycle, ngx_portlease_pool_t *pool)
{
    u_char *p;
    ngx_core_conf_t *ccf;
    portlease_error error;

    static const u_char end[] = ".portlease";

    if (!pool->is_named) {
        ccf = (ngx_core_conf_t *) ngx_get_conf(cycle->conf_ctx, ngx_core_module);

        p = ngx_pnalloc(cycle->pool, ccf->pid.len + sizeof(end));
        if (p == NULL) {
            return NGX_ERROR;
        }

        pool->shared.data = p;
        pool->shared.len = ccf->pid.len + sizeof(end) - 1;
        p = ngx_cpymem(p, ccf->pid.data, ccf->pid.len);
        ngx_memcpy(p, end, sizeof(end));
    }

    if (portlease_config_set_shared(pool->config, (char *) pool->shared.data, &error)
        != PORTLEASE_OK)
    {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, 0, "portlease: %s in %s:%ui",
                      error.message, pool->file_name, pool->line);
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* Makes the shared file, where it is missing, so that the workers may open it. Who names a file
 * that is there has seen to its owner. */
static ngx_int_t
ngx_portlease_prepare_file(ngx_cycle_t *cycle, ngx_portlease_pool_t *pool)
{
    int flags;
    ngx_fd_t fd;
    ngx_core_conf_t *ccf;

    ccf = (ngx_core_conf_t *) ngx_get_conf(cycle->conf_ctx, ngx_core_module);

    flags = O_RDWR|O_CREAT|O_CLOEXEC|(pool->is_named ? O_EXCL : O_NOFOLLOW);
    fd = open((char *) pool->shared.data, flags, 0600);

    if (fd == NGX_INVALID_FILE) {

        if (ngx_errno == NGX_EEXIST) {
            return NGX_OK;
        }

        ngx_log_error(NGX_LOG_EMERG, cycle->log, ngx_errno,
                      "portlease: shared file \"%V\" of %s:%ui cannot be made: name another with "
                      "\"shared=FILE\"", &pool->shared, pool->file_name, pool->line);
        return NGX_ERROR;
    }

    if (ccf->user != (ngx_uid_t) NGX_CONF_UNSET_UINT && fchown(fd, ccf->user, -1) == -1) {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, ngx_errno,
                      "portlease: chown(\"%V\", %d) failed", &pool->shared, ccf->user);
        (void) close(fd);
        return NGX_ERROR;
    }

    (void) close(fd);

    return NGX_OK;
}


void
ngx_portlease_init_process(ngx_cycle_t *cycle, ngx_module_t *module)
{
    ngx_uint_t i;
    ngx_array_t *pools = (ngx_array_t *) cycle->conf_ctx[module->index];
    ngx_portlease_pool_t **pool = pools->elts;

    /* A helper, such as the cache manager, connects to nobody. */

    if (pools->nelts == 0 || ngx_process == NGX_PROCESS_HELPER) {
        return;
    }

    /* One that cannot be made is tried again when it is needed. */

    for (i = 0; i < pools->nelts; i++) {
        (void) ngx_portlease_pool(pool[i], cycle->log);
    }

    ngx_portlease_maintainer.handler = ngx_portlease_maintain;
    ngx_portlease_maintainer.data = module;
    ngx_portlease_maintainer.log = cycle->log;
    ngx_portlease_maintainer.cancelable = 1;

    ngx_add_timer(&ngx_portlease_maintainer, NGX_PORTLEASE_MAINTAIN_MS);
}


portlease_pool *
ngx_portlease_pool(ngx_portlease_pool_t *pool, ngx_log_t *log)
{
    portlease_error error;

    if (pool->pool == NULL
        && portlease_pool_new(pool->config, &pool->pool, &error) != PORTLEASE_OK)
    {
        ngx_log_error(NGX_LOG_CRIT, log, 0, "portlease: no pool for %s:%ui: %s",
                      pool->file_name, pool->line, error.message);
        return NULL;
    }

    return pool->pool;
}


static void
ngx_portlease_maintain(ngx_event_t *ev)
{
    ngx_uint_t i;
    ngx_array_t *pools;
    ngx_module_t *module = ev->data;
    portlease_error error;
    ngx_portlease_pool_t **pool;

    /* Without a master process the configuration changes under us. */

    pools = (ngx_array_t *) ngx_cycle->conf_ctx[module->index];
    pool = pools->elts;

    for (i = 0; i < pools->nelts; i++) {
        if (pool[i]->pool != NULL
            && portlease_pool_maintain(pool[i]->pool, &error) != PORTLEASE_OK)
        {
            ngx_log_error(NGX_LOG_CRIT, ev->log, 0, "portlease: %s", error.message);
        }
    }

    ngx_add_timer(ev, NGX_PORTLEASE_MAINTAIN_MS);
}


static void
ngx_portlease_free_pool(void *data)
{
    ngx_portlease_pool_t *pool = data;

    portlease_config_free(pool->config);

    /* Where connections are left the process is about to end, and the kernel closes them. */

    if (pool->leases == 0) {
        portlease_pool_free(pool->pool);
    }
}
