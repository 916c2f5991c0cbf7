#!/usr/bin/env python3
"""Holds what the runner costs, in counts: instructions, allocations and system calls.

    benches/runner/counts.py --erw target/debug/erw            # fails if a count is above its limit
    benches/runner/counts.py --erw target/release/erw --bare   # prints the counts of another build

Seconds vary with the machine and with what else it does; counts hardly do, so a run of CI can tell
a slow change from a slow machine. The graph is that of `bench.py`: a source, stages that each read it
and a parameter, a sink. Counted are a plan and a run, of which everything is cached or after one
parameter changed. Instructions and allocations are those of erw itself (callgrind), system calls
those of its programs too (strace). Uses only the standard library; without valgrind or strace it says
so and passes.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Do not write a folder of compiled modules beside the sources.
sys.dont_write_bytecode = True
import dags  # noqa: E402

# Both are too many to list, so that the smaller one takes the same paths.
FEW, MANY = 250, 500
JOBS = 2
COUNTS = ["instructions", "allocations", "system calls"]

# Of the profile `dev`, for one stage more, some percent above what was measured; the same program
# counts the same within one percent. When a change makes a count smaller, lower its limit to hold that.
LIMITS = {
    "plan": [29_000, 16, 2.5],
    "no-op": [6_000, 2, 2.5],
    "plan, one parameter changed": [172_000, 91, 3],
    "one parameter changed": [155_000, 76, 28],
}


def run(command, at: Path):
    """Runs to the end, or exits if the command fails."""
    with open(at / "output.txt", "w") as out:
        child = subprocess.run(command, cwd=at, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    if child.returncode:
        sys.exit(f"{command} exited with {child.returncode} in {at}:\n{(at / 'output.txt').read_text()[-2000:]}")


def callgrind(command, at: Path):
    """Instructions, and calls of malloc and its kin."""
    out = at / "callgrind.out"
    run(["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", *command], at)
    instructions, calls, names, callee = 0, 0, {}, ""
    allocating = re.compile(r"(malloc|calloc|realloc|posix_memalign|aligned_alloc)$")
    for line in out.read_text().splitlines():
        if line.startswith("cfn="):
            # A name is written out where it first occurs.
            number, _, name = line[4:].partition(" ")
            callee = names.setdefault(number, name)
        elif line.startswith("fn="):
            number, _, name = line[3:].partition(" ")
            names.setdefault(number, name)
        elif line.startswith("calls=") and allocating.match(callee):
            calls += int(line[6:].split()[0])
        elif line.startswith("totals:") or line.startswith("summary:"):
            instructions = int(line.split()[1])
    out.unlink()
    return instructions, calls


def strace(command, at: Path):
    """System calls of the program and of those that it starts, without waiting."""
    out = at / "strace.out"
    # How often a thread waits depends on the others.
    run(["strace", "-f", "-c", "-e", "trace=!futex,sched_yield,poll,wait4", "-o", str(out), *command], at)
    total = [line.split() for line in out.read_text().splitlines() if line.endswith(" total")]
    out.unlink()
    return int(total[-1][3])


def measured(tool, at: Path, stages: int):
    """The counts of each case."""
    found = {}
    turn = 0
    for case in LIMITS:

        def ready(case=case):
            nonlocal turn
            if case.endswith("one parameter changed"):
                turn += 1
                tool.change(at, stages // 2, turn)
            return tool.plan() if case.startswith("plan") else tool.command()

        instructions, allocations = callgrind(ready(), at)
        found[case] = [instructions, allocations, strace(ready(), at)]
    return found


def graph(erw: str, stages: int, base: str):
    """A graph in which everything is cached and remembered."""
    at = Path(tempfile.mkdtemp(dir=base))
    tool = dags.Erw(JOBS, erw)
    (at / "mid").mkdir()
    (at / "src").write_text("the source\n")
    tool.write(at, range(stages - 2))
    run(tool.command(), at)
    # What changed within the last two seconds is not remembered.
    time.sleep(2.5)
    run(tool.command(), at)
    # What is remembered of a run is the program's own, and here that is valgrind.
    callgrind(tool.command(), at)
    return tool, at


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--erw", required=True, help="the erw binary to measure")
    parser.add_argument("--bare", action="store_true", help="print counts, hold no limits")
    args = parser.parse_args()
    missing = [tool for tool in ("valgrind", "strace") if not shutil.which(tool)]
    if missing:
        print(f"SKIPPED counts: absent: {', '.join(missing)}")
        return
    os.environ.pop("ERW_CACHE_DIR", None)
    erw, above = str(Path(args.erw).resolve(strict=True)), []
    with tempfile.TemporaryDirectory() as base:
        few, many = (measured(*graph(erw, stages, base), stages) for stages in (FEW, MANY))
    print(f"For one stage more, from {FEW} to {MANY}:\n")
    print("| | " + " | ".join(COUNTS) + " |\n|" + "---|" * (len(COUNTS) + 1))
    for case, limits in LIMITS.items():
        more = [(m - f) / (MANY - FEW) for f, m in zip(few[case], many[case])]
        shown = [f"{n:,.1f}" + ("" if args.bare else f" of {limit:,}") for n, limit in zip(more, limits)]
        print(f"| {case} | " + " | ".join(shown) + " |")
        above += [f"{case}: {what}" for what, n, limit in zip(COUNTS, more, limits) if n > limit]
    if above and not args.bare:
        sys.exit("above the limit: " + "; ".join(above))


if __name__ == "__main__":
    main()
