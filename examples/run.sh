#!/bin/sh
# Runs every example on a copy, with an empty cache. Usage: examples/run.sh [PATH OF erw]
# Without a path it takes target/release/erw, target/debug/erw or the installed program.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../target}
for program in "${1:-}" "$target/release/erw" "$target/debug/erw" "$(command -v erw || true)"; do
    [ -n "$program" ] && [ -x "$program" ] && break
done
ERW=$(realpath "$program")
place=$(mktemp -d)
trap 'chmod -R u+w "$place"; rm -rf "$place"' EXIT
trap 'exit 1' INT TERM
cp -r "$here" "$place/examples"
cp -r "$here/../pipelines" "$place/pipelines"
# Whoever sets these means other caches and other values.
unset ERW_REMOTE ERW_REMOTE_MODE ERW_REGISTRY
export ERW ERW_CACHE_DIR="$place/cache"

for example in tour sweep images eval team; do
    echo "== $example"
    if ! sh "$place/examples/$example/run.sh" > "$place/said" 2>&1; then
        cat "$place/said"
        echo "failed: examples/$example/run.sh" >&2
        exit 1
    fi
    echo "ok, $(wc -l < "$place/said") lines"
done
