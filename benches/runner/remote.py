#!/usr/bin/env python3
"""Times what erw does with a remote on which a pipeline of many small stages was stored.

    tests/tools/venv.sh
    python3 benches/runner/remote.py --erw target/release/erw --server target/venv/bin/moto_server

The server is a real one that speaks S3, on this machine, written in Python: of the time that many
requests take, most is its own. Prints Markdown: the median of `--rounds` runs in seconds. Run it on
an idle machine.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

# Do not write a folder of compiled modules beside the sources.
sys.dont_write_bytecode = True
import dags  # noqa: E402


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


class Server:
    def __init__(self, program: str):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [program, "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(600):
            try:
                self.ask("GET", "/moto-api/")
                return
            except OSError:
                time.sleep(0.05)
        sys.exit("the S3 server does not answer")

    def ask(self, method: str, path: str) -> bytes:
        # It reads who signs, and not the signature.
        signed = "AWS4-HMAC-SHA256 Credential=me/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
        request = urllib.request.Request(self.url + path, method=method, headers={"Authorization": signed})
        with urllib.request.urlopen(request) as answer:
            return answer.read()

    def packs(self) -> list[str]:
        keys = self.ask("GET", "/bench?list-type=2&prefix=erw/v1/packs/").decode().split("<Key>")[1:]
        return [key.split("</Key>")[0] for key in keys]


def timed(command, at: Path, environment) -> float:
    with open(at / "output.txt", "w") as out:
        began = time.monotonic()
        status = subprocess.run(command, cwd=at, env=environment, stdout=out, stderr=out).returncode
        seconds = time.monotonic() - began
    if status:
        sys.exit(f"{command} exited with {status}:\n{(at / 'output.txt').read_text()[-2000:]}")
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--erw", required=True, help="the erw binary to measure")
    parser.add_argument("--server", required=True, help="moto_server")
    parser.add_argument("--stages", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alone", action="store_true", help="also restore without the pack; takes minutes")
    args = parser.parse_args()
    erw = str(Path(args.erw).resolve(strict=True))
    server = Server(args.server)
    server.ask("PUT", "/bench")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ERW_", "AWS_"))}
    environment |= {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "us-east-1"}
    environment |= {"AWS_ENDPOINT_URL": server.url, "ERW_REMOTE": "s3://bench/erw"}
    rows = {}
    with tempfile.TemporaryDirectory() as base:
        at = Path(base)
        (at / "src").write_text("the source\n")
        dags.Erw(os.cpu_count(), erw).write(at, range(args.stages - 2))
        pipeline = next(at.glob("*.toml")).name

        def row(name: str, words: list[str], *, empty: bool, rounds: int = args.rounds):
            seconds = []
            for turn in range(rounds):
                # Another folder: a file system that has just deleted a cache is slow to make one.
                cache = at / f"{len(rows)}-{turn}" if empty else at / "0-0"
                seconds.append(timed([erw, *words, "--cache-dir", str(cache)], at, environment))
            rows[name] = statistics.median(seconds)

        row("cold run that sends everything", ["run", pipeline], empty=True, rounds=1)
        row("push of nothing new", ["cache", "push"], empty=False, rounds=1)
        row("pull of nothing", ["cache", "pull", pipeline], empty=False)
        row("status, all here", ["cache", "status", pipeline], empty=False)
        row("status, nothing here", ["cache", "status", pipeline], empty=True)
        row("plan, nothing here", ["plan", pipeline], empty=True)
        row("run with an empty cache (a CI)", ["run", pipeline], empty=True)
        if args.alone:
            for key in server.packs():
                server.ask("DELETE", f"/bench/{key}")
            row("the same without the pack", ["run", pipeline], empty=True, rounds=1)
        subprocess.run(["chmod", "-R", "u+w", base], check=False)
    server.process.terminate()
    print(f"{args.stages:,} stages, s\n\n| | |\n|---|---|")
    for name, seconds in rows.items():
        print(f"| {name} | {seconds:.3g} |")


if __name__ == "__main__":
    main()
