#!/usr/bin/env bash
# The http module in a real nginx, in front of two real upstreams.
set -u
here=$(dirname "$(realpath "$0")")
. "$here/lib.sh"
trap stop_all EXIT

cat >back.conf <<END
worker_processes 2; user root; events { worker_connections 8000; }
http {
  $temp_paths
  log_format seen '\$server_port \$remote_addr:\$remote_port';
  access_log off;
  ssl_certificate cert.pem; ssl_certificate_key key.pem;
  keepalive_requests 100000;
  server {
    listen 127.0.0.1:8081 backlog=4096; listen 127.0.0.1:8444 ssl;
    location / { return 200 "one\n"; }
    location /seen { access_log back.log seen; return 200 "one\n"; }
    location /missing { access_log back.log seen; return 404; }
  }
  server {
    listen 127.0.0.1:8082 backlog=4096; listen [::1]:8082;
    location / { return 200 "two\n"; }
    location /seen { access_log back.log seen; return 200 "two\n"; }
  }
}
END
openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=upstream \
  2>/dev/null

# front UPSTREAMS [LOCATIONS] >NAME.conf: a proxy with 2 workers, or WORKERS.
front() {
  cat <<END
load_module $MODULES/ngx_http_portlease_module.so;
worker_processes ${WORKERS:-2}; user ${WORKER_USER:-root};
events { worker_connections 8000; }
http {
  $temp_paths
  log_format source '\$upstream_addr \$portlease_source';
  access_log off;
  proxy_http_version 1.1; proxy_set_header Connection "";
  keepalive_requests 100000;
  $1
  server {
    listen 127.0.0.1:8080 backlog=4096;
    location / { proxy_pass http://u; }
    location /seen { proxy_pass http://u; access_log front.log source; }
    ${2-}
  }
}
END
}
both='server 127.0.0.1:8081; server 127.0.0.1:8082;'
get() { curl -s -m 20 "http://127.0.0.1:8080$1"; }
status() { curl -s -m 20 -o answer -w '%{http_code}' "http://127.0.0.1:8080$1"; }
load() { # SECONDS CONNECTIONS PATH >FILE
  timeout 60 wrk -t 2 -c "$2" -d "$1" --timeout 10 "http://127.0.0.1:8080$3"
}

# ---- what the configuration may not say --------------------------------------------------------
wrong() { # NAME UPSTREAM TEXT
  front "upstream u { $2 }" >wrong.conf
  check "refused: $1" refused wrong "$3"
}
order='"portlease" stands before the load balancing method or "keepalive" in upstream "u": put it after them, in'
wrong "keepalive after portlease" "$both portlease 127.0.0.2; keepalive 4;" "$order"
wrong "least_conn after portlease" "$both portlease 127.0.0.2; least_conn;" "$order"
wrong "a source that is none" "$both portlease 127.0.0.2 nonsense;" "portlease: sources: 'nonsense' at byte 0"
wrong "a host's address of nobody's" "$both portlease 192.0.2.1;" "192.0.2.1"
wrong "ports backwards" "$both portlease 127.0.0.2 ports=9-8;" "portlease: "
wrong "ports that are none" "$both portlease 127.0.0.2 ports=1-70000;" 'invalid parameter "ports=1-70000": it is written "ports=FIRST-LAST"'
wrong "a mode that is none" "$both portlease 127.0.0.2 mode=early;" 'invalid mode "early": it is "auto", "late" or "explicit"'
wrong "a time that is none" "$both portlease 127.0.0.2 rest=soon;" 'invalid parameter "rest=soon"'
wrong "an unknown parameter" "$both portlease 127.0.0.2 color=blue;" 'invalid parameter "color=blue": besides sources there are "ports=FIRST-LAST"'
wrong "no source" "$both portlease mode=auto;" "no source"
wrong "twice" "$both portlease 127.0.0.2; portlease 127.0.0.3;" '"portlease" directive is duplicate'
wrong "a shared file that is a folder" "$both portlease 127.0.0.2 shared=/;" "shared file"
wrong "a shared file in no folder" "$both portlease 127.0.0.2 shared=/nowhere/file;" '"/nowhere/file"'

start back

# ---- each method, with and without keepalive -----------------------------------------------------
methods=''
for method in '' 'least_conn;' 'ip_hash;' 'hash $request_uri consistent;' 'random two;'; do
  for keepalive in '' 'keepalive 8;'; do
    methods+="$method|$keepalive"$'\n'
  done
done
upstreams='' locations='' number=0
while IFS='|' read -r method keepalive; do
  upstreams+="upstream m$number { zone z$number 64k; $both $method $keepalive portlease 127.0.0.2-127.0.0.3:20000-20511; } "
  locations+="location /seen/$number/ { proxy_pass http://m$number; access_log front.log source; } "
  number=$((number + 1))
done < <(printf '%s' "$methods")
front "upstream u { $both portlease 127.0.0.2-127.0.0.3:20000-20511; } $upstreams
       upstream s { server 127.0.0.1:8444; keepalive 2; portlease 127.0.0.2; }
       upstream x { server [::1]:8082; portlease [::1]:20000-20511 127.0.0.2; }
       upstream n { server [::1]:8082; server 127.0.0.1:8081; portlease 127.0.0.2; }
       upstream b { $both portlease 127.0.0.2; }" \
  "$locations
   location /tls/ { proxy_pass https://s; }
   location /seen/6 { proxy_pass http://x; access_log front.log source; }
   location /no6 { proxy_pass http://n; }
   location /missing { proxy_pass http://u; proxy_intercept_errors on; error_page 404 = /elsewhere;
                       access_log front.log source; }
   location /elsewhere { return 200 \"elsewhere\n\"; access_log front.log source; }
   location /bound { proxy_bind 127.0.0.9; proxy_pass http://b; }" >front.conf
start front
answers() {
  local number
  for ((number = 0; number < 10; number++)); do
    for _ in 1 2 3 4 5 6; do
      get "/seen/$number/" | grep -qE '^(one|two)$' || { echo "method $number"; return 1; }
    done
  done
  get /seen/6 | grep -q two
}
check "every method, with keepalive and without, and IPv6" answers
same_sources() { # What we say we used is what the upstreams have seen.
  sed 's/^.*:\([0-9]*\) \(.*\)/\1 \2/; s/[][]//g' front.log | sort >ours
  sort back.log | diff ours - && wc -l <ours | grep -qx 61 && grep -q '^8082 ::1:20' ours
}
check "\$portlease_source is what the upstream has seen" eventually same_sources
redirected() {
  : >front.log
  : >back.log
  # The one that has it not, in turns with the one that has.
  get /missing >/dev/null && get /missing >/dev/null && eventually in_both
}
in_both() {
  [ "$(grep -c . back.log)" = 1 ] && grep -qF "8081 $(sed -n 's/^8081 //p' back.log)" front.log
}
check "an internal redirect keeps \$portlease_source" redirected
tls() { for _ in 1 2 3 4 5; do get /tls/ | grep -qx one || return; done; }
check "TLS to the upstream" tls
check "an upstream without a source of its family: the next one" [ "$(get /no6)$(get /no6)" = oneone ]
check "... and a line that says why" grep -q 'portlease: no IPv6 source for .*: add one to the pool' front.err
check "proxy_bind beside portlease is an error" [ "$(status /bound)" = 500 ]
check "... and a line that says which" grep -q '(127.0.0.9) and "portlease" in .*front.conf:[0-9]* both choose the source' front.err

# ---- two upstreams share ports; nobody notices a reload ----------------------------------------
stop front
territory='127.0.0.2:19968-20991 shared=./territory' # 16 blocks of 64 ports.
front "upstream u { $both least_conn; keepalive 200; portlease $territory; }
       upstream v { server 127.0.0.1:8082; portlease $territory; }" \
  'location /new { proxy_pass http://v; proxy_set_header Connection close; }' >front.conf
start front
load 2 160 / >wrk.log &
sleep 1
ss -tnH state established "dst 127.0.0.1" | awk '$3 ~ /^127.0.0.2:/ && $4 ~ /:808[12]$/ {print $3, $4}' |
  sort -u >open
wait $!
shared=$(cut -d' ' -f1 open | sort | uniq -d | wc -l)
check "$(wc -l <open) connections, $shared source ports with one to each upstream" [ "$shared" -gt 0 ]
check "no request fails for it" all_well wrk.log
reloads() { # PATH SECONDS: a load during which nginx is reloaded over and over.
  local count=0
  timeout 60 wrk -t 2 -c 16 -d "$2" -H 'Connection: close' "http://127.0.0.1:8080$1" >wrk.log &
  local wrk=$!
  sleep 0.5
  while [ "$count" -lt 4 ]; do
    reload front || return
    count=$((count + 1))
  done
  kill -0 "$wrk" || echo "the load was over before the last reload"
  wait "$wrk"
  all_well wrk.log
}
check "reloads under load, connections kept" reloads / 5
check "reloads under load, a connection for each request" reloads /new 5
check "no request was without a source" [ -z "$(grep exhausted front.err)" ]
if [ -n "${WORKER_USER-}" ]; then
  check "the shared file is the workers'" [ "$(stat -c '%a %U' territory)" = "600 $WORKER_USER" ]
fi

# ---- a worker that is killed leaves nothing behind -----------------------------------------------
load 3 32 /new >wrk.log &
for _ in 1 2 3; do
  sleep 0.6
  set -- $(workers front)
  kill -KILL "$1"
done
wait $!
load 1 32 /new >wrk.log
check "after workers were killed no request fails" all_well wrk.log
# As many requests at once as there are ports.
WORKERS=1 front "upstream u { $both portlease $territory; }
  upstream h { server 127.0.0.1:8083; server 127.0.0.1:8081 backup; portlease $territory; }" \
  'location /hold { proxy_pass http://h; }' >front.conf
check "a reload after that" reload front
check "and all 1024 ports are there; one request more finds the next upstream" \
  timeout 60 python3 "$here/hold.py" 8083 8080 /hold 1024 3
check "... and a line with the numbers" grep -qE 'portlease: exhausted: no four-tuple to .*127.0.0.1:8083.* is free \(1024 leased, 0 resting, 0 excluded' front.err
check "the upstream was not blamed: it is asked again at once" \
  timeout 60 python3 "$here/hold.py" 8083 8080 /hold 1024 1

# ---- a connection in the cache keeps its lease -----------------------------------------------------
WORKERS=1 front "upstream u { server 127.0.0.1:8081; keepalive 4; keepalive_timeout 1s; portlease 127.0.0.2:21000-21000; }
  upstream v { server 127.0.0.1:8081; portlease 127.0.0.2:21000-21000; }" \
  'location /new { proxy_pass http://v; }' >front.conf
check "a reload to one source" reload front
: >front.log
for _ in 1 2 3 4 5 6 7 8; do get /seen >/dev/null; done
cached() { [ "$(sort -u front.log)" = '127.0.0.1:8081 127.0.0.2:21000' ] && [ "$(wc -l <front.log)" = 8 ]; }
check "eight requests, one connection, one source" cached
check "while it is in the cache its lease is nobody else's" [ "$(status /new)" = 502 ]
check "... and a line with the numbers" grep -q '8081.* is free (1 leased, 0 resting, 0 excluded' front.err
back_again() { [ "$(status /new)" = 200 ]; }
check "when it is closed the lease is there again" eventually back_again

# ---- a module that goes and comes ------------------------------------------------------------------
sed 's/load_module.*//; s/portlease [^;]*;//; s/ \$portlease_source//' front.conf >plain.conf
cp front.conf kept.conf
cp plain.conf front.conf
check "a reload without the module" reload front
check "... that works" [ "$(get /)" = one ]
cp kept.conf front.conf
check "a reload with it again" reload front
check "... that works" [ "$(get /)" = one ]
sed -i 's/127.0.0.2:21000/192.0.2.1:21000/' front.conf
kill -HUP "$(cat front.pid)"
check "a reload to a bad configuration says so" \
  eventually grep -q 'portlease: .*192.0.2.1.* in .*front.conf' front.err
check "... and changes nothing" [ "$(get /)" = one ]
stop front
check "no worker crashed" [ -z "$(crashed front)" ]

# ---- more connections than plain nginx survives ------------------------------------------------------
# nginx closes first, for the upstream would keep the connection, and no TIME_WAIT is taken over, as it is towards other hosts.
sysctl -qw net.ipv4.tcp_tw_reuse=0 net.ipv4.ip_local_port_range='40000 40499'
front "upstream u { $both }" >plain.conf
sed -i 's/load_module.*//; s/ \$portlease_source//' plain.conf
start plain
load 2 8 / >plain.log
stop plain
check "plain nginx with 500 ports: $(requests plain.log) requests and 'Cannot assign requested address'" \
  grep -q '(99: Cannot assign requested address)' plain.err
WORKERS=2 front "upstream u { $both portlease 127.0.0.1:10000-10499; }" >front.conf
rm front.err
start front
load 2 8 / >wrk.log
check "with portlease and 500 ports: $(requests wrk.log) requests, none failed" all_well wrk.log
check "... which is more than plain nginx has four-tuples" [ "$(requests wrk.log)" -gt 1000 ]
check "... and nothing in the error log" [ -z "$(grep -v '\[notice\]\|initgroups' front.err)" ]
stop front

[ "$failures" = 0 ] || { echo "$failures failed"; tail -n 20 ./*.err; exit 1; }
