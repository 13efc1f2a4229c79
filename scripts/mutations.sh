# Sourced by ./test --mutations: breaks one promise at a time, and sees that a test notices. Expects bash with -euo pipefail.
#
# tests/mutations/*.patch are diffs against the repository. The first line of each says what it breaks and who must notice:
#   # promise: WHICH, caught by: ARGUMENTS OF `cargo test`
# Each is applied to a copy of the commit at hand, whose target folder stays for the next one. The same tests must pass without it.

# mutation_arguments FILE: the arguments of `cargo test` that must fail.
mutation_arguments() { sed -n '1s/^# promise: [^,]*, caught by: //p' "$1"; }

# run_mutations [NAME...]: those whose files are named so, without the ending; all where none is named.
run_mutations() {
  local here copy patch name arguments patches=() missed=() total=0
  local -A passed=()
  here=$(pwd)
  copy="${XDG_CACHE_HOME:-$HOME/.cache}/fieldfare/mutations"
  [ -z "$(git status --porcelain)" ] || fail "commit first: mutations are tried on the commit at hand"
  if [ ! -d "$copy/.git" ]; then
    mkdir -p "$copy"
    git clone -q "$here" "$copy"
  fi
  git -C "$copy" fetch -q "$here" HEAD
  git -C "$copy" reset -q --hard FETCH_HEAD
  unset CARGO_TARGET_DIR
  # Those of the commit at hand, whatever happens to the checkout meanwhile.
  for name in "$@"; do
    [ -f "$copy/tests/mutations/$name.patch" ] || fail "there is no tests/mutations/$name.patch"
    patches+=("$copy/tests/mutations/$name.patch")
  done
  [ "${#patches[@]}" -gt 0 ] || patches=("$copy"/tests/mutations/*.patch)
  for patch in "${patches[@]}"; do
    name=$(basename "$patch" .patch)
    arguments=$(mutation_arguments "$patch")
    [ -n "$arguments" ] || fail "$patch: the first line is not '# promise: WHICH, caught by: ...'"
    total=$((total + 1))
    # Without a patch first: a test that always fails would notice everything.
    if [ -z "${passed[$arguments]:-}" ]; then
      say "unbroken: cargo test $arguments"
      mutation_test "$copy" "$arguments" || { tail -n 30 "$copy.log" >&2; fail "cargo test $arguments fails on the commit as it is"; }
      passed[$arguments]=1
    fi
    git -C "$copy" apply "$patch" || fail "$patch does not apply any more: make it anew"
    say "$name: cargo test $arguments"
    if mutation_test "$copy" "$arguments"; then
      missed+=("$name")
      say "$name was NOT caught"
    elif ! grep -q '^test result: FAILED' "$copy.log"; then
      tail -n 30 "$copy.log" >&2
      fail "$name: cargo test $arguments did not get as far as to judge"
    else
      say "$name was caught"
    fi
    git -C "$copy" reset -q --hard
  done
  if [ "${#missed[@]}" -ne 0 ]; then
    printf 'not caught: %s\n' "${missed[@]}" >&2
    fail "${#missed[@]} of $total mutations were not caught"
  fi
  say "all $total mutations were caught"
}

# mutation_test FOLDER ARGUMENTS: runs the tests there; what they say goes to FOLDER.log.
mutation_test() {
  # shellcheck disable=SC2086
  (cd "$1" && cargo test -q --locked $2) >"$1.log" 2>&1
}
