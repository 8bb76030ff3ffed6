#!/usr/bin/env bash
# The stream module in a real nginx: TCP, TLS and UDP.
set -u
here=$(dirname "$(realpath "$0")")
. "$here/lib.sh"
trap stop_all EXIT
load_stream="load_module ${STREAM_MODULE:-/usr/lib/nginx/modules/ngx_stream_module.so};"

cat >back.conf <<END
$load_stream
worker_processes 2; user root; events { worker_connections 8000; }
http {
  $temp_paths
  log_format seen '\$server_port \$remote_addr:\$remote_port';
  access_log off;
  keepalive_requests 100000;
  server {
    listen 127.0.0.1:8081 backlog=4096;
    location / { return 200 "one\n"; }
    location /seen { access_log back.log seen; return 200 "one\n"; }
  }
  server {
    listen 127.0.0.1:8082 backlog=4096;
    location / { return 200 "two\n"; }
    location /seen { access_log back.log seen; return 200 "two\n"; }
  }
}
stream {
  ssl_certificate cert.pem; ssl_certificate_key key.pem;
  server { listen 127.0.0.1:8444 ssl; return "\$remote_port \$ssl_protocol\n"; }
  server { listen 127.0.0.1:5353 udp; return "\$remote_addr:\$remote_port\n"; }
}
END
openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=upstream \
  2>/dev/null

# front UPSTREAMS [SERVERS] >NAME.conf
front() {
  cat <<END
$load_stream
load_module $MODULES/ngx_stream_portlease_module.so;
${HTTP_TOO-}
worker_processes ${WORKERS:-2}; user ${WORKER_USER:-root};
events { worker_connections 8000; }
stream {
  log_format source '\$upstream_addr \$portlease_source';
  $1
  server { listen 127.0.0.1:8080 backlog=4096; proxy_pass u; access_log ${LOG:-/dev/null} source; }
  ${2-}
}
END
}
both='server 127.0.0.1:8081; server 127.0.0.1:8082;'
ask() { curl -s -m 20 "http://127.0.0.1:$1/seen"; }

# ---- what the configuration may not say --------------------------------------------------------
wrong() { # NAME UPSTREAM TEXT
  front "upstream u { $2 }" >wrong.conf
  check "refused: $1" refused wrong "$3"
}
wrong "least_conn after portlease" "$both portlease 127.0.0.2; least_conn;" \
  '"portlease" stands before the load balancing method in upstream "u": put it after that, in'
wrong "a source that is none" "$both portlease nonsense;" "portlease: sources: 'nonsense' at byte 0"
wrong "a host's address of nobody's" "$both portlease 192.0.2.1;" "192.0.2.1"

start back

# ---- each method; TLS; UDP ---------------------------------------------------------------------------
methods=('' 'least_conn;' 'hash $remote_port consistent;' 'random two;')
upstreams='' servers=''
for number in 0 1 2 3; do
  upstreams+="upstream m$number { zone z$number 64k; $both ${methods[number]} portlease 127.0.0.2-127.0.0.3:20032-20543; } "
  servers+="server { listen 127.0.0.1:810$number; proxy_pass m$number; access_log front.log source; } "
done
HTTP_TOO="load_module $MODULES/ngx_http_portlease_module.so;" LOG=front.log \
  front "upstream u { server 127.0.0.1:8099; $both portlease 127.0.0.2-127.0.0.3:20032-20543; } $upstreams
       upstream s { server 127.0.0.1:8444; portlease 127.0.0.4:20032-20543; }
       upstream d { server 127.0.0.1:5353; portlease 127.0.0.5:20032-20543; }
       upstream b { $both portlease 127.0.0.2; }" \
  "$servers
   server { listen 127.0.0.1:8443; proxy_pass s; proxy_ssl on; }
   server { listen 127.0.0.1:5300 udp; proxy_pass d; proxy_responses 1; access_log udp.log source; }
   server { listen 127.0.0.1:8110; proxy_pass b; proxy_bind 127.0.0.9; }" >front.conf
cat >>front.conf <<END
http {
  $temp_paths
  access_log off;
  upstream h { server 127.0.0.1:8081; keepalive 2; portlease 127.0.0.2-127.0.0.3:20032-20543; }
  server { listen 127.0.0.1:8120; location / { proxy_pass http://h; } }
}
END
start front
answers() {
  local port
  for port in 8080 8100 8101 8102 8103; do
    for _ in 1 2 3 4; do ask "$port" | grep -qE '^(one|two)$' || { echo "port $port"; return 1; }; done
  done
}
check "every method, and a next upstream for one that refuses" answers
same_sources() { # What we say we used is what the upstreams have seen.
  sed 's/^.*:\([0-9]*\) \(.*\)/\1 \2/' front.log | sort >ours
  sort back.log | diff ours - && wc -l <ours | grep -qx 20
}
check "\$portlease_source is what the upstream has seen" eventually same_sources
check "http and stream in one nginx" [ "$(ask 8120)" = one ]
tls() {
  local said
  for _ in 1 2 3 4 5; do
    said=$(timeout 10 bash -c 'cat <>/dev/tcp/127.0.0.1/8443')
    grep -qE '^20[0-9]{3} TLS' <<<"$said" || { echo "said: $said"; return 1; }
  done
}
check "TLS to the upstream" tls
cat >udp.py <<'END'
import socket
seen = set()
for number in range(50):
    asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asker.settimeout(10)
    asker.connect(("127.0.0.1", 5300))
    asker.send(b"who am I?")
    seen.add(asker.recv(100).decode().strip())
assert all(source.startswith("127.0.0.5:20") for source in seen), seen
print(len(seen), "sources")
END
check "UDP to the upstream" timeout 60 python3 udp.py
udp_sources() { [ "$(grep -c '^127.0.0.1:5353 127.0.0.5:20' udp.log)" = 50 ]; }
check "... and its \$portlease_source" eventually udp_sources
check "proxy_bind beside portlease is an error" [ -z "$(ask 8110)" ]
check "... and a line that says which" grep -q '(127.0.0.9) and "portlease" in .*front.conf:[0-9]* both choose the source' front.err
stop front

# ---- reload and death under load; every lease comes back ----------------------------------------------
territory='127.0.0.2:19968-20991 shared=./territory' # 16 blocks of 64 ports.
hold="upstream h { server 127.0.0.1:8083; server 127.0.0.1:8081 backup; portlease $territory; }"
front "upstream u { $both least_conn; portlease $territory; } $hold" \
  'server { listen 127.0.0.1:8090 backlog=4096; proxy_pass h; }' >front.conf
start front
reloads() {
  local count=0
  timeout 60 wrk -t 2 -c 16 -d 4 -H 'Connection: close' http://127.0.0.1:8080/ >wrk.log &
  local wrk=$!
  sleep 0.5
  while [ "$count" -lt 3 ]; do
    reload front || return
    count=$((count + 1))
  done
  kill -0 "$wrk" || echo "the load was over before the last reload"
  wait "$wrk"
  all_well wrk.log
}
check "reloads under load" reloads
check "no connection was without a source" [ -z "$(grep exhausted front.err)" ]
timeout 60 wrk -t 2 -c 32 -d 2 -H 'Connection: close' http://127.0.0.1:8080/ >wrk.log &
for _ in 1 2; do
  sleep 0.6
  set -- $(workers front)
  kill -KILL "$1"
done
wait $!
WORKERS=1 front "upstream u { $both portlease $territory; } $hold" \
  'server { listen 127.0.0.1:8090 backlog=4096; proxy_pass h; }' >front.conf
check "a reload after workers were killed" reload front
check "and all 1024 ports are there; one connection more finds the next upstream" \
  timeout 60 python3 "$here/hold.py" 8083 8090 / 1024 3
check "... and a line with the numbers" grep -qE 'portlease: exhausted: no four-tuple to .*127.0.0.1:8083.* is free \(1024 leased, 0 resting, 0 excluded' front.err
check "the upstream was not blamed: it is asked again at once" \
  timeout 60 python3 "$here/hold.py" 8083 8090 / 1024 1
stop front
check "no worker crashed" [ -z "$(crashed front)" ]

[ "$failures" = 0 ] || { echo "$failures failed"; tail -n 20 ./*.err; exit 1; }
