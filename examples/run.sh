#!/bin/sh
# Runs examples on a copy, with an empty cache. Usage: examples/run.sh [EXAMPLE ...]
# Without names it runs all examples and prints only what fails; with names it prints everything. The
# program is the one that ERW names, otherwise target/release/erw, target/debug/erw or the installed
# one.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../target}
for program in "${ERW:-}" "$target/release/erw" "$target/debug/erw" "$(command -v erw || true)"; do
    [ -n "$program" ] && [ -x "$program" ] && break
done
ERW=$(realpath "$program")
place=$(mktemp -d)
trap 'chmod -R u+w "$place"; rm -rf "$place"' EXIT
trap 'exit 1' INT TERM
cp -r "$here" "$place/examples"
cp -r "$here/../pipelines" "$place/pipelines"
# These variables name other caches and other weights.
unset ERW_REMOTE ERW_REMOTE_MODE ERW_REGISTRY
export ERW ERW_CACHE_DIR="$place/cache"

if [ $# -gt 0 ]; then
    for example in "$@"; do
        sh "$place/examples/$example/run.sh"
    done
    exit
fi
for example in tour sweep images eval team; do
    if ! sh "$place/examples/$example/run.sh" > "$place/said" 2>&1; then
        cat "$place/said"
        echo "failed: examples/$example/run.sh" >&2
        exit 1
    fi
    echo "ok $example"
done
