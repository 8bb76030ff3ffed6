# What the sections share that run a real server: Debian's packages, and a namespace to be in.
# `out` is the section's folder.

skip() { echo "SKIP: $*"; exit 77; }

PATH=$PATH:/usr/sbin:/sbin

# need COMMAND-OR-FILE PACKAGE
need() {
  command -v "$1" >/dev/null && return
  [ -e "$1" ] && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    [ -e "$out/apt-lists" ] || { apt-get update -q && touch "$out/apt-lists"; }
    # A server that is installed starts at once, unless it may not.
    [ -e /usr/sbin/policy-rc.d ] || {
      printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d
      trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    }
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$2" && return
  fi
  skip "no '$1' (Debian package $2), and it can't be installed here"
}

# A network namespace of one's own, as root with all of the host's users where that may be.
if [ "$(id -u)" = 0 ] && unshare -n true 2>/dev/null; then
  namespace=(unshare -n)
elif unshare -Urn true 2>/dev/null; then
  namespace=(unshare -Urn)
else
  skip "no network namespace of one's own (unshare -Urn) here"
fi

# run_parts SECONDS FILE ...: each script in a namespace and an empty folder of its own.
run_parts() {
  local limit=$1 part folder failed=0
  shift
  for part in "$@"; do
    folder=$(mktemp -d) && chmod 755 "$folder" || return
    part=$(realpath "$part")
    echo "-- ${part##*/}"
    (cd "$folder" && timeout -k 5 "$limit" "${namespace[@]}" \
      sh -c 'ip link set lo up && exec "$@"' sh bash "$part") || failed=1
    rm -rf "$folder"
  done
  return "$failed"
}
