#!/bin/sh
# Runs a benchmark, benches/NAME.rs, and its PyTorch twin in turns, some rounds of each, and prints the best of each with
# their ratios.
#
#     benches/compare.sh cknna|distances|networks|train_step [CASE...]        # PYTHON=/path/to/python ROUNDS=3
#
# On a busy machine neither is worth reading.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
bench=${1:?cknna, distances, networks or train_step}
shift
cargo bench --quiet --bench "$bench" --no-run
log=$(mktemp)
trap 'rm -f "$log"' EXIT
round=0
while [ "$round" -lt "${ROUNDS:-3}" ]; do
    cargo bench --quiet --bench "$bench" -- "$@" | sed 's/^/erw /' >>"$log"
    "$python" "benches/pytorch/$bench.py" "$@" | sed 's/^/pytorch /' >>"$log"
    round=$((round + 1))
done
# erw CASE seconds images/s GFLOP/s matmul fraction peak, pytorch CASE seconds images/s matmul peak
awk '
    $2 == "case" || NF < 5 { next }
    {
        key = $1 SUBSEP $2
        if (!(key in seconds) || $3 < seconds[key]) seconds[key] = $3
        if (!(key in peak) || $NF < peak[key]) peak[key] = $NF
        if (!($2 in seen)) { seen[$2] = 1; order[++n] = $2 }
    }
    END {
        printf "%-18s %9s %9s %7s %12s %12s %7s\n", "case", "erw s", "torch s", "ratio", "erw MiB", "torch MiB", "ratio"
        for (i = 1; i <= n; i++) {
            e = "erw" SUBSEP order[i]; t = "pytorch" SUBSEP order[i]
            printf "%-18s %9.3f %9.3f %7.2f %12.0f %12.0f %7.2f\n", order[i], seconds[e], seconds[t],
                seconds[e] / seconds[t], peak[e], peak[t], peak[e] / peak[t]
        }
    }' "$log"
