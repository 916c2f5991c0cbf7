"""Shared code of the PyTorch benchmarks: one process per case, the fastest run, the table.

Each case runs in its own process, so that its peak memory (VmHWM) is separate. The peak includes
PyTorch's libraries.
"""
import argparse
import json
import math
import multiprocessing
import pathlib
import subprocess
import sys
import time


def best(run, repeats):
    """Seconds of the fastest of `repeats` runs, after one warmup run."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def peak_mib():
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return math.nan


def matmul_gflops():
    import torch
    with torch.inference_mode():
        a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
        return 2 * 2048**3 / best(lambda: a @ b, 5) / 1e9


def main(script, doc, cases, unit, measure, flops=None):
    """The command line of a PyTorch benchmark.

    `measure(case, threads, repeats)` returns a dict with `seconds` and `peak_mib`, and optionally
    `count` for a rate and `matmul_gflops`.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(cases))
    parser.add_argument("--threads", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--repeats", type=int, default=3)
    if flops:
        parser.add_argument("--flops", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    unknown = set(args.cases) - set(cases)
    if unknown:
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join(cases)}")
    if flops and args.flops:
        return flops()
    if args.child:
        return print(json.dumps(measure(args.child, args.threads, args.repeats)))
    print(f"{'case':<18} {'seconds':>8} {unit:>9} {'matmul GFLOP/s':>15} {'peak MiB':>9}")
    for case in args.cases or cases:
        command = [sys.executable, script, "--child", case]
        command += ["--threads", str(args.threads), "--repeats", str(args.repeats)]
        m = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
        rate = f"{m['count'] / m['seconds']:.2f}" if "count" in m else "-"
        matmul = f"{m['matmul_gflops']:.0f}" if "matmul_gflops" in m else "-"
        print(f"{case:<18} {m['seconds']:>8.3f} {rate:>9} {matmul:>15} {m['peak_mib']:>9.0f}", flush=True)
