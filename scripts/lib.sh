# shellcheck shell=bash
# What the scripts beside this one share. Source it; it changes nothing by itself but the directory and PATH.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT" || exit 1

# A login shell that rustup did not write to still has its tools here.
case ":$PATH:" in
  *":${CARGO_HOME:-$HOME/.cargo}/bin:"*) ;;
  *) PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH" ;;
esac
export PATH

say() { printf '%s\n' "$*"; }
warn() { printf '%s\n' "$*" >&2; }
die() {
  warn "$*"
  exit 1
}

# Where cargo puts what it builds.
target_dir() { printf '%s' "${CARGO_TARGET_DIR:-$ROOT/target}"; }

# Seconds since START (an EPOCHREALTIME) with one decimal.
seconds_since() {
  local start=${1/[.,]/} now=${EPOCHREALTIME/[.,]/} tenths
  tenths=$(((now - start) / 100000))
  printf '%d.%d' $((tenths / 10)) $((tenths % 10))
}

# === steps: named checks that all run, and whose failures are listed at the end ===

FAILED_STEPS=()

# step NAME COMMAND...: one line when it holds, its output and the line when it does not.
step() {
  local name=$1 start=$EPOCHREALTIME log
  shift
  log=$(mktemp)
  if "$@" >"$log" 2>&1; then
    printf '  ok      %-14s %7s s\n' "$name" "$(seconds_since "$start")"
  else
    tail -n 200 "$log"
    printf '  FAILED  %-14s %7s s\n' "$name" "$(seconds_since "$start")"
    FAILED_STEPS+=("$name")
  fi
  rm -f "$log"
}

# Ends the list of steps: 1 when one of them failed.
steps_held() {
  [ ${#FAILED_STEPS[@]} -eq 0 ] && return 0
  say "failed: ${FAILED_STEPS[*]}"
  return 1
}

# === tests ===

# Gives tests a home of their own, so that they neither read nor write the sessions, keys and settings of the
# person who runs them. The caller removes $PRIVATE_HOME.
use_private_home() {
  PRIVATE_HOME=$(mktemp -d)
  local name
  for name in RUNTIME_DIR CONFIG_HOME STATE_HOME CACHE_HOME DATA_HOME; do
    mkdir -m 700 "$PRIVATE_HOME/$name"
    export "XDG_$name=$PRIVATE_HOME/$name"
  done
  unset SSH_AUTH_SOCK REEVE_CONFIG REEVE_AUDIT_DB REEVE_AUDIT_VKEY REEVE_CA REEVE_CA_PASSPHRASE_FILE
}

# run_tests LOG CARGO_TEST_ARGUMENT...: shows cargo's own lines and keeps them in LOG; the status is cargo's.
run_tests() {
  local log=$1
  shift
  cargo test --locked --no-fail-fast "$@" 2>&1 | tee "$log"
  return "${PIPESTATUS[0]}"
}

# The total over cargo's "test result:" lines in LOG. Fails when no test ran or one failed.
sum_tests() {
  awk '
    /^test result: / {
      for (i = 2; i <= NF; i++) {
        if ($i == "passed;") passed += $(i - 1)
        if ($i == "failed;") failed += $(i - 1)
        if ($i == "ignored;") skipped += $(i - 1)
      }
    }
    END {
      line = (passed + 0) " passed, " (failed + 0) " failed"
      if (skipped) line = line ", " skipped " skipped"
      print line
      exit (failed > 0 || passed + 0 == 0)
    }' "$1"
}
