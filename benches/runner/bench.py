#!/usr/bin/env python3
"""Times erw against ninja, make, Snakemake and DVC on the same graphs, and against b3sum.

    benches/runner/setup.sh
    PATH=target/peers/bin:$PATH python3 benches/runner/bench.py --erw target/release/erw > table.md

b3sum is compared on hashing files. Uses only the standard library. Missing tools are reported and
skipped. Prints Markdown: the median of `--rounds` runs in seconds and, in parentheses, the peak
memory in MiB of the tool's largest process (`under`: less than the memory of the benchmark itself,
which hides it). Run it on an idle machine.
"""

import argparse
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Do not write a folder of compiled modules beside the sources.
sys.dont_write_bytecode = True
import dags  # noqa: E402


# Peak MiB of a program that needs no memory; see `cell`.
FLOOR = 0.0


class Timeout(Exception):
    pass


def timed(command, at: Path, limit: float):
    """Returns wall seconds and peak MiB. Raises `Timeout` after `limit` seconds.

    Exits the program if the command fails.
    """
    with open(at / "output.txt", "w") as out:
        began = time.monotonic()
        child = subprocess.Popen(command, cwd=at, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True)
        signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(Timeout()))
        signal.setitimer(signal.ITIMER_REAL, limit)
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except Timeout:
            os.killpg(child.pid, signal.SIGKILL)
            os.wait4(child.pid, 0)
            raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - began
    if child.returncode:
        sys.exit(f"{command} exited with {child.returncode} in {at}:\n{(at / 'output.txt').read_text()[-2000:]}")
    return seconds, usage.ru_maxrss / 1024


def cell(runs):
    seconds, peak = statistics.median(s for s, _ in runs), max(m for _, m in runs)
    digits = 3 if seconds < 1 else 2 if seconds < 10 else 1
    # The kernel also counts the memory of this process when it started the child.
    return f"{seconds:.{digits}f} ({peak:.0f})" if peak > FLOOR + 1 else f"{seconds:.{digits}f} (under {peak:.0f})"


def folder(base: Path, tool, middle: range) -> Path:
    at = Path(tempfile.mkdtemp(dir=base))
    (at / "mid").mkdir()
    (at / "src").write_text("the source\n")
    tool.write(at, middle)
    prepare = at / ".prepare"
    if prepare.exists():
        subprocess.run(["sh", "-c", prepare.read_text()], cwd=at, check=True)
    return at


def dag(tool, stages: int, args, base: Path):
    """Returns the cells of the table by row."""
    middle = range(stages - 2)
    cells = {}
    try:
        cold = []
        for _ in range(args.rounds if stages <= 1000 else 1):
            at = folder(base, tool, middle)
            cold.append(timed(tool.command(), at, args.limit))
        # The digest of a source is not cached while the file is very new.
        time.sleep(2.5)
        cells["cold run"] = cell(cold)
        timed(tool.command(), at, args.limit)
        cells["no-op"] = cell([timed(tool.command(), at, args.limit) for _ in range(args.rounds)])
        if hasattr(tool, "plan"):
            cells["plan, nothing to do"] = cell([timed(tool.plan(), at, args.limit) for _ in range(args.rounds)])
        changed, planned = [], []
        for turn in range(args.rounds):
            tool.change(at, stages // 2, turn)
            if hasattr(tool, "plan"):
                planned.append(timed(tool.plan(), at, args.limit))
            changed.append(timed(tool.command(), at, args.limit))
        cells["one parameter changed"] = cell(changed)
        if hasattr(tool, "plan"):
            cells["plan, one parameter changed"] = cell(planned)
            shutil.rmtree(at / "cache")
            cells["plan, nothing cached"] = cell([timed(tool.plan(), at, args.limit) for _ in range(args.rounds)])
    except Timeout:
        missing = [row for row in ROWS if row not in cells]
        cells[missing[0]] = f"over {args.limit:.0f}"
    finally:
        for at in base.glob("*/"):
            shutil.rmtree(at)
    return cells


PLANS = ["plan, nothing to do", "plan, one parameter changed", "plan, nothing cached"]
ROWS = ["no-op", "cold run", "one parameter changed", *PLANS]


def print_dags(tools, args, base: Path):
    for stages in args.sizes:
        here = [t for t in tools if t.name not in ("snakemake", "dvc") or stages <= args.slow_up_to]
        found = {t.name: dag(t, stages, args, base) for t in here}
        print(f"\n**{stages:,} stages**, s (peak MiB), {args.jobs} jobs\n")
        print("| | " + " | ".join(t.name for t in here) + " |\n|" + "---|" * (len(here) + 1))
        for row in ROWS:
            print(f"| {row} | " + " | ".join(found[t.name].get(row, "") for t in here) + " |", flush=True)


def data(at: Path, files: int, size: int):
    (at / "data").mkdir()
    block = os.urandom(min(size, 1 << 20))
    for i in range(files):
        with open(at / "data" / str(i), "wb") as f:
            f.write(i.to_bytes(8, "little") + block[8:])
            for _ in range(size // len(block) - 1):
                f.write(block)


def print_hashing(args, base: Path):
    print("\n**Hashing `watch` sources**, s (peak MiB), page cache warm\n")
    print("| | b3sum | erw plan, first | erw plan, later |\n|---|---|---|---|")
    for title, files, size in [("one file of 1 GiB", 1, 1 << 30), ("50,000 files of 4 KiB", 50_000, 4096)]:
        files, size = max(1, files // args.shrink), size if files > 1 else size // args.shrink
        at = Path(tempfile.mkdtemp(dir=base))
        data(at, files, size)
        text = '[stages.s]\nkind = "command"\nrun = ["true"]\noutputs = { o = "text" }\nwatch = ["data"]\n'
        (at / "p.toml").write_text(text)
        # Digests of files written within the last two seconds are not cached.
        time.sleep(2.5)
        sums = ["sh", "-c", "find data -type f -print0 | xargs -0 b3sum"]
        peer = cell([timed(sums, at, args.limit) for _ in range(args.rounds)]) if shutil.which("b3sum") else "absent"
        first = []
        for _ in range(args.rounds):
            shutil.rmtree(at / "cache", ignore_errors=True)
            first.append(timed([args.erw, "plan", "p.toml"], at, args.limit))
        later = [timed([args.erw, "plan", "p.toml"], at, args.limit) for _ in range(args.rounds)]
        note = f" / {args.shrink}" if args.shrink > 1 else ""
        print(f"| {title}{note} | {peer} | {cell(first)} | {cell(later)} |", flush=True)
        shutil.rmtree(at)


def machine(tools, base: Path):
    info = Path("/proc/cpuinfo").read_text()
    model = next((l.split(": ")[1] for l in info.splitlines() if l.startswith("model name")), platform.processor())
    kind = subprocess.run(["stat", "-f", "-c", "%T", str(base)], capture_output=True, text=True).stdout.strip()
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} x {model}, Linux {platform.release()}, {kind}, load {load:.1f} before the start.")
    names = {}
    for tool in tools:
        said = subprocess.run([tool.program, *tool.version], capture_output=True, text=True)
        words = (said.stdout + said.stderr).split()
        names.setdefault(tool.program, (tool.name.split(",")[0], next(word for word in words if word[0].isdigit())))
    if shutil.which("b3sum"):
        said = subprocess.run(["b3sum", "--version"], capture_output=True, text=True).stdout.split()
        names["b3sum"] = ("b3sum", said[-1])
    print("Versions: " + ", ".join(" ".join(n) for n in names.values()) + ".")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--erw", required=True, help="the erw binary to measure")
    parser.add_argument("--tools", default="erw,erw-sh,ninja,make,snakemake,dvc", help="comma-separated")
    parser.add_argument("--sizes", default="100,1000,10000", help="numbers of stages, comma-separated; empty for none")
    parser.add_argument("--slow-up-to", type=int, default=1000, help="largest graph to run with Snakemake and DVC")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--limit", type=float, default=900, help="time limit of one command in seconds")
    parser.add_argument("--shrink", type=int, default=1, help="divisor of the amount of data to hash; 0 skips hashing")
    parser.add_argument("--dir", help="working folder; the default is the folder for temporary files")
    args = parser.parse_args()
    args.sizes = [int(s) for s in args.sizes.split(",") if s]
    args.erw = str(Path(args.erw).resolve(strict=True))
    all_tools = {"ninja": dags.Ninja, "make": dags.Make, "snakemake": dags.Snakemake, "dvc": dags.Dvc}
    tools = []
    for name in args.tools.split(","):
        if name in ("erw", "erw-sh"):
            tools.append((dags.Erw if name == "erw" else dags.ErwShell)(args.jobs, args.erw))
        elif name not in all_tools:
            parser.error(f"no tool {name!r}; there are erw, erw-sh, {', '.join(all_tools)}")
        elif shutil.which(all_tools[name].program):
            tools.append(all_tools[name](args.jobs))
        else:
            print(f"absent: {name}", file=sys.stderr)
    # Snakemake and DVC have their own caches and telemetry.
    os.environ.update(DVC_NO_ANALYTICS="1", CI="1")
    os.environ.pop("ERW_CACHE_DIR", None)
    with tempfile.TemporaryDirectory(dir=args.dir) as base:
        global FLOOR
        FLOOR = max(timed(["true"], Path(base), 60)[1] for _ in range(3))
        machine(tools, Path(base))
        print_dags(tools, args, Path(base))
        if args.shrink:
            print_hashing(args, Path(base))


if __name__ == "__main__":
    main()
