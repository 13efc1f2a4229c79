# Sourced by ./quickstart and ./test: installs what is missing, and says so. Expects bash with -euo pipefail.

RUST_MINIMUM=1.95

say() { printf '==> %s\n' "$*" >&2; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"
  elif command -v sudo >/dev/null 2>&1; then sudo "$@"
  else fail "installing packages needs root: run as root, install sudo, or install by hand: $*"
  fi
}

# install_packages PACKAGE...: installs Debian packages, and says which.
install_packages() {
  command -v apt-get >/dev/null 2>&1 || fail "please install: $* (this script knows apt-get only)"
  say "installing Debian packages: $*"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q >&2
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >&2
}

# need_packages COMMAND=PACKAGE...: installs the Debian packages whose commands are missing.
need_packages() {
  local missing=() pair
  for pair in "$@"; do
    command -v "${pair%%=*}" >/dev/null 2>&1 || missing+=("${pair#*=}")
  done
  [ "${#missing[@]}" -eq 0 ] || install_packages "${missing[@]}"
}

# need_protoc: the protobuf compiler, which the build script of the crate etcd-client runs, and the files that it includes. protoc looks
# for them beside itself; Debian packs them apart.
need_protoc() {
  local protoc
  protoc=$(command -v "${PROTOC:-protoc}" || true)
  if [ -z "$protoc" ] || [ ! -e "$(dirname "$protoc")/../include/google/protobuf/descriptor.proto" ]; then
    install_packages protobuf-compiler libprotobuf-dev
  fi
}

# need_etcd: etcd, which the tests start themselves, on addresses of their own. Debian's package would start a service as well, now and
# at every boot: where it was not installed before, that is kept off. policy-rc.d is how Debian is told not to start services while
# it installs; one that is there already is left as it is.
need_etcd() {
  command -v etcd >/dev/null 2>&1 && return
  command -v apt-get >/dev/null 2>&1 || fail "please install: etcd-server (this script knows apt-get only)"
  say "installing Debian packages: etcd-server (its service stays off)"
  # shellcheck disable=SC2016
  as_root env DEBIAN_FRONTEND=noninteractive sh -eu -c '
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
      trap "rm -f $policy" EXIT
      printf "#!/bin/sh\nexit 101\n" > "$policy"
      chmod 755 "$policy"
    fi
    apt-get update -q
    apt-get install -y -q --no-install-recommends etcd-server
    update-rc.d etcd disable
  ' >&2
}

# at_least HAVE WANT: whether version HAVE is WANT or newer.
at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]; }

rust_version() { rustc --version 2>/dev/null | awk '{print $2}'; }

need_rust() {
  # shellcheck disable=SC1091
  [ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
  local have
  have=$(rust_version)
  if [ -n "$have" ] && at_least "$have" "$RUST_MINIMUM" && command -v cargo >/dev/null 2>&1; then return; fi
  if command -v rustup >/dev/null 2>&1; then
    say "Rust ${have:-is missing}; updating the stable toolchain with rustup"
    rustup toolchain install stable --profile minimal --component clippy --component rustfmt >&2
    rustup default stable >&2
  else
    need_packages curl=curl
    say "installing Rust with rustup into $HOME/.cargo and $HOME/.rustup"
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
      sh -s -- -y -q --profile minimal --component clippy --component rustfmt --no-modify-path >&2
    # shellcheck disable=SC1091
    . "$HOME/.cargo/env"
  fi
  have=$(rust_version)
  at_least "${have:-0}" "$RUST_MINIMUM" || fail "Rust $RUST_MINIMUM or newer is needed, found ${have:-none}"
}

# need_python_packages VENV NAME==VERSION...: a virtual environment of the tests' own, outside the checkout.
need_python_packages() {
  local venv="${XDG_CACHE_HOME:-$HOME/.cache}/fieldfare/$1"
  shift
  local wanted="$*"
  if [ -x "$venv/bin/python" ] && [ "$(cat "$venv/wanted" 2>/dev/null)" = "$wanted" ]; then return; fi
  if ! python3 -c 'import ensurepip, venv' >/dev/null 2>&1; then
    install_packages python3 python3-venv
  fi
  say "installing Python packages into $venv: $wanted"
  python3 -m venv --clear "$venv" >&2
  "$venv/bin/python" -m pip install -q --disable-pip-version-check "$@" >&2
  printf '%s' "$wanted" > "$venv/wanted"
}
