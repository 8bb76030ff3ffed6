# What the tests of the nginx modules share. They run inside of a network namespace, in a folder of
# their own; MODULES is the folder of the modules, WORKER_USER whom nginx's workers may become.

failures=0 started=()
# For http: those of the installed nginx are another user's.
temp_paths='client_body_temp_path temp/body; proxy_temp_path temp/proxy; fastcgi_temp_path temp/fastcgi;
  uwsgi_temp_path temp/uwsgi; scgi_temp_path temp/scgi;'
mkdir -p temp

ok() { echo "ok: $*"; }
bad() { echo "FAILED: $*"; failures=$((failures + 1)); }
# check NAME COMMAND ...
check() {
  local name=$1
  shift
  if "$@"; then ok "$name"; else bad "$name"; fi
}

# eventually COMMAND ...: nginx writes its logs a moment after it has answered.
eventually() {
  local try
  for try in $(seq 100); do
    "$@" >eventually && return
    sleep 0.1
  done
  cat eventually
  return 1
}

# start NAME: an nginx with the configuration in NAME.conf, until stop NAME.
start() {
  timeout -k 5 200 nginx -p "$PWD" -c "$1.conf" -g "daemon off; pid $1.pid; error_log $1.err;" &
  local tries=0
  until [ -s "$1.pid" ] && [ -n "$(workers "$1")" ]; do
    [ $((tries += 1)) -lt 200 ] || { echo "nginx $1 does not start:"; cat "$1.err"; exit 1; }
    sleep 0.05
  done
  started+=("$1")
}
workers() { cat "/proc/$(cat "$1.pid")/task/$(cat "$1.pid")/children" 2>/dev/null; }
stop() {
  local name pid tries=0
  for name in "$@"; do
    [ -s "$name.pid" ] || continue
    pid=$(cat "$name.pid")
    kill -QUIT "$pid"
    while kill -0 "$pid" 2>/dev/null; do
      [ $((tries += 1)) -lt 400 ] || { bad "$name ends when it is asked to"; kill -KILL "$pid"; }
      sleep 0.05
    done
  done
}
stop_all() { stop "${started[@]}"; }

# reload NAME: returns when the workers of before have gone.
reload() {
  local before worker tries=0
  before=$(workers "$1")
  kill -HUP "$(cat "$1.pid")"
  for worker in $before; do
    while kill -0 "$worker" 2>/dev/null; do
      [ $((tries += 1)) -lt 400 ] || { bad "$1 reloads"; return 1; }
      sleep 0.05
    done
  done
}

# refused NAME TEXT: nginx -t refuses NAME.conf with TEXT.
refused() {
  local said
  said=$(nginx -t -p "$PWD" -c "$1.conf" -g "pid $1.pid; error_log stderr;" 2>&1) &&
    { echo "accepted"; return 1; }
  grep -qF "$2" <<<"$said" || { echo "$said"; return 1; }
}

# Neither a broken connection nor a status other than 2xx in what wrk says.
all_well() {
  ! grep -E 'Socket errors|Non-2xx' "$1" && grep -E '^ +[0-9]+ requests in ' "$1"
}
requests() { sed -n 's/^ *\([0-9]*\) requests in .*/\1/p' "$1"; }

# crashed NAME: whether a process of it ended by a signal that we did not send.
crashed() { grep -F '[alert]' "$1.err" | grep -v 'exited on signal 9$'; }
