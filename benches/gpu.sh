#!/usr/bin/env bash
# Everything that a card is to show, in ten minutes. Takes programs that were built and linked elsewhere:
#
#     CUDA_HOME=… cargo bench --features cuda --bench gpu --no-run      # prints the path of the bench
#     cargo test --features cuda --no-run                               # that of the tests
#     GPU_BENCH=target/release/deps/gpu-… GPU_TESTS=target/debug/deps/erw-… OUT=out benches/gpu.sh
#
# Each part has a limit of its own; what failed is told at the end. Results go to $OUT.
set -u
out="${OUT:-out}"
bench="${GPU_BENCH:?the bench of a build with --features cuda}"
tests="${GPU_TESTS:?the tests of a build with --features cuda}"
mkdir -p "$out"
part() { # SECONDS NAME COMMAND…
    local limit=$1 name=$2 began=$SECONDS
    shift 2
    timeout "$limit" "$@" >"$out/$name.log" 2>&1
    printf '%-10s exit %s, %s s\n' "$name" "$?" "$((SECONDS - began))" | tee -a "$out/summary.txt"
}
nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv | tee "$out/card.txt"
part 30 check "$bench" check
part 40 kernels "$tests" gpu:: --skip training --test-threads 1
part 60 training "$tests" gpu::training --test-threads 1
part 40 ceilings "$bench" ceilings
part 90 steps "$bench" steps
part 60 sampling "$bench" sampling
part 60 products "$bench" products
part 40 passes "$bench" passes
part 60 frozen "$bench" frozen
if python3 -c 'import torch' 2>/dev/null; then
    part 60 networks env DEVICE=cuda python3 "$(dirname "$0")/pytorch/networks.py" dinov2-b vae-encode vae-decode inception
    part 60 pytorch python3 "$(dirname "$0")/pytorch/train_step.py" bf16-s/2 bf16-b/2 bf16-xl/2
    part 90 compiled python3 "$(dirname "$0")/pytorch/train_step.py" compiled-s/2 compiled-b/2 compiled-xl/2
fi
if command -v compute-sanitizer >/dev/null; then
    part 40 racecheck compute-sanitizer --tool racecheck "$tests" gpu::attention gpu::convolution gpu::group_norm gpu::softmax gpu::pairs --test-threads 1
fi
cat "$out"/{check,ceilings,steps,sampling,products,passes,frozen}.log "$out/summary.txt"
