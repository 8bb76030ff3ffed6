#!/usr/bin/env bash
# The plugin in a real Traffic Server, in front of two real origins. PLUGINS is its folder.
set -u
here=$(dirname "$(realpath "$0")")
. "$here/../nginx/lib.sh"
server=''
finish() {
  stop_all
  [ -z "$server" ] || kill -KILL "$server" 2>/dev/null
}
trap finish EXIT

cat >back.conf <<END
worker_processes 2; user root; events { worker_connections 8000; }
http {
  $temp_paths
  log_format seen '\$server_port \$remote_addr:\$remote_port \$connection';
  access_log back.log seen;
  ssl_certificate cert.pem; ssl_certificate_key key.pem;
  keepalive_requests 100000;
  server { listen 127.0.0.1:8081 backlog=4096; location / { return 200 "one\n"; } }
  server { listen 127.0.0.1:8082 backlog=4096; listen [::1]:8082; location / { return 200 "two\n"; } }
  server { listen 127.0.0.1:8444 ssl; location / { return 200 "tls\n"; } }
}
END
openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=origin \
  2>/dev/null
start back

mkdir etc log run cache
cat >runroot.yaml <<END
prefix: /usr
exec_prefix: /usr
bindir: $(dirname "$(command -v traffic_server)")
sbindir: /usr/sbin
sysconfdir: $PWD/etc
datadir: $PWD/cache
includedir: /usr/include
libdir: /usr/lib
libexecdir: $PLUGINS
localstatedir: $PWD/run
runtimedir: $PWD/run
logdir: $PWD/log
cachedir: $PWD/cache
END
cat >etc/ip_allow.yaml <<'END'
ip_allow:
  - apply: in
    ip_addrs: 127.0.0.1
    action: allow
    methods: ALL
END
cat >etc/remap.config <<'END'
map http://127.0.0.1:8080/one http://127.0.0.1:8081/
map http://127.0.0.1:8080/two http://127.0.0.1:8082/
map http://127.0.0.1:8080/six http://[::1]:8082/
map http://127.0.0.1:8080/tls https://127.0.0.1:8444/
map http://127.0.0.1:8080/hold http://127.0.0.1:8083/
map http://127.0.0.1:8080/nobody http://127.0.0.1:8099/
END
: >etc/storage.config
: >etc/ssl_multicert.config

# settings THREADS [LINE ...]
settings() {
  cat >etc/records.config <<END
CONFIG proxy.config.admin.user_id STRING #-1
CONFIG proxy.config.exec_thread.autoconfig INT 0
CONFIG proxy.config.exec_thread.limit INT $1
CONFIG proxy.config.http.server_ports STRING 8080:ip-in=127.0.0.1
CONFIG proxy.config.http.cache.http INT 0
CONFIG proxy.config.url_remap.remap_required INT 0
CONFIG proxy.config.http.connect_ports STRING 8444
CONFIG proxy.config.ssl.client.verify.server.policy STRING DISABLED
CONFIG proxy.config.crash_log_helper STRING NULL
CONFIG proxy.config.diags.output.emergency STRING E
CONFIG proxy.config.diags.output.error STRING E
END
  shift
  printf '%s\n' "$@" >>etc/records.config
}
export TS_RUNROOT=$PWD
# serve ARGUMENTS: Traffic Server with these for the plugin.
serve() {
  local tries=0
  echo "portlease.so $1" >etc/plugin.config
  traffic_server >server.log 2>&1 &
  server=$!
  until curl -s -m 5 -o /dev/null http://127.0.0.1:8080/two/; do
    [ $((tries += 1)) -lt 300 ] && kill -0 "$server" || { echo "Traffic Server does not start:"; cat server.log; exit 1; }
    sleep 0.1
  done
  : >back.log
}
serve_no_more() {
  kill "-${1:-TERM}" "$server"
  wait "$server"
  server=''
}
get() { curl -s -m 20 "http://127.0.0.1:8080$1"; }
status() { curl -s -m 20 -o answer -w '%{http_code}' "http://127.0.0.1:8080$1"; }

# ---- what the configuration may not say --------------------------------------------------------
settings 2
wrong() { # NAME ARGUMENTS TEXT
  echo "portlease.so $2" >etc/plugin.config
  local said
  said=$(timeout -k 5 30 traffic_server 2>&1) && { bad "refused: $1"; return; }
  grep -qF -- "$3" <<<"$said" && ok "refused: $1" || { echo "$said"; bad "refused: $1"; }
}
wrong "a source that is none" "127.0.0.2 nonsense" "[portlease] sources: 'nonsense' at byte 0"
wrong "an address that is nobody's" 192.0.2.1 "192.0.2.1"
wrong "no source" "" "no source"
wrong "ports that are none" "127.0.0.2 --ports=1-70000" "'--ports=1-70000' is not --ports=FIRST-LAST"
wrong "an unknown option" "127.0.0.2 --color" "unknown option '--color'"

# ---- every connection has its source of the pool's -------------------------------------------------
serve '127.0.0.2-127.0.0.3 [::1] --ports=20000-20127 --rest-ms=0 --shared='"$PWD"'/territory'
answers() {
  local try
  for try in 1 2 3 4 5 6; do
    [ "$(get /one/)$(get /two/)$(get /six/)$(get /tls/)" = onetwotwotls ] || return
  done
}
check "two origins, IPv6, TLS" answers
check "a tunnel" [ "$(curl -s -m 20 -k -x http://127.0.0.1:8080 https://127.0.0.1:8444/)" = tls ]
sources() { # Exactly so many requests, all of them from the pool.
  [ "$(wc -l <back.log)" = "$1" ] && ! awk '{print $2}' back.log | grep -vE '^(127\.0\.0\.[23]|::1):20(0[0-9]{2}|1[01][0-9]|12[0-7])$'
}
check "all of them from the pool's sources" eventually sources 25
check "an origin that refuses is a 502" [ "$(status /nobody/)" = 502 ]

: >back.log
timeout 60 wrk -t 1 -c 100 -d 2 http://127.0.0.1:8080/one/ >one.log &
first=$!
timeout 60 wrk -t 1 -c 100 -d 2 http://127.0.0.1:8080/two/ >two.log &
second=$!
sleep 1
ss -tnH state established 'dst 127.0.0.1' | awk '$3 ~ /^127.0.0.[23]:20/ && $4 ~ /:808[12]$/ {print $3, $4}' |
  sort -u >open
wait "$first" "$second"
shared=$(cut -d' ' -f1 open | sort | uniq -d | wc -l)
check "$(wc -l <open) connections, $shared source ports with one to each origin" [ "$shared" -gt 0 ]
check "no request fails for it" all_well one.log
check "... at the other origin" all_well two.log
outside() { awk '{print $2}' back.log | grep -vcE '^127\.0\.0\.[23]:20(0[0-9]{2}|1[01][0-9]|12[0-7])$'; }
check "all requests from the pool's sources" [ "$(outside)" = 0 ]

# ---- death -----------------------------------------------------------------------------------------
serve_no_more KILL 2>/dev/null
serve '127.0.0.2-127.0.0.3 [::1] --ports=20000-20127 --rest-ms=0 --shared='"$PWD"'/territory'
check "after kill -9 a new server has all" answers
serve_no_more

# ---- exhausted, and free again -----------------------------------------------------------------------
settings 2 'CONFIG proxy.config.http.keep_alive_enabled_out INT 0'
serve '127.0.0.2 --ports=20000-20063 --rest-ms=0'
for try in 1 2 3; do
  check "64 connections at once, the next requests are a 503" \
    timeout 60 python3 "$here/../nginx/hold.py" 8083 8080 /hold/ 64 3 503
done
check "... and a line with the numbers" grep -qE '\[portlease\] exhausted: no four-tuple to tcp 127.0.0.1:8083 is free \(64 leased, 0 resting, 0 excluded' server.log
serve_no_more
# The kernel refuses a four-tuple whose FIN is not acknowledged; the plugin passes over it.
serve '127.0.0.2-127.0.0.3 --ports=20000-20999 --rest-ms=0'
timeout 60 wrk -t 1 -c 4 -d 2 http://127.0.0.1:8080/one/ >wrk.log
check "$(requests wrk.log) requests, each with a connection of its own, on 2000 sources" all_well wrk.log
check "... more than sources" [ "$(requests wrk.log)" -gt 2000 ]
serve_no_more

# ---- a port that a stranger holds is passed over -----------------------------------------------------
python3 -c '
import socket, time
holders = [socket.socket() for _ in range(3)]
for port, holder in enumerate(holders):
    holder.bind(("127.0.0.2", 22000 + port))
connected = socket.socket()
connected.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
connected.bind(("127.0.0.2", 22003))
connected.connect(("127.0.0.1", 8081))
open("stranger", "w").close()
time.sleep(100)' &
stranger=$!
check "a stranger is there" eventually test -e stranger
serve '127.0.0.2 --ports=22000-22004 --rest-ms=0'
strangers() { local try; for try in $(seq 20); do [ "$(get /one/)" = one ] || return; done; }
check "three ports of five are a stranger's, one more has a connection of his: no request fails" strangers
check "... all from the last" [ "$(awk '{print $2}' back.log | sort -u)" = 127.0.0.2:22004 ]
kill "$stranger"
serve_no_more

# ---- a kept connection keeps its lease -----------------------------------------------------------------
settings 1
serve '127.0.0.2 --ports=21000-21000 --rest-ms=0'
for try in 1 2 3 4 5 6 7 8; do get /one/ >/dev/null; done
kept() { [ "$(grep -c '^8081 127.0.0.2:21000 ' back.log)" = 8 ] && [ "$(awk '$1 == 8081 {print $3}' back.log | sort -u | wc -l)" = 1 ]; }
check "eight requests, one connection, one source" eventually kept
check "to the other origin from the same port" [ "$(get /two/)" = two ]
two_at_once() {
  ss -tnH state established 'src 127.0.0.2:21000' | awk '{print $4}' | sort -u | tr '\n' ' ' |
    grep -q '127.0.0.1:8081 127.0.0.1:8082'
}
check "... at once" two_at_once
check "while all is well nothing is said" [ -z "$(grep ERROR server.log)" ]
serve_no_more
check "no server crashed" [ -z "$(grep -h 'signal\|Assert\|FATAL' server.log log/*.log)" ]

[ "$failures" = 0 ] || { echo "$failures failed"; tail -n 20 ./*.err server.log; exit 1; }
