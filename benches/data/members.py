#!/usr/bin/env python3
"""Times listing an archive of a million images.

    python3 benches/data/members.py --erw target/release/erw

Writes a tar and a ZIP of `--members` pictures of one pixel in 1,000 folders, and a WebDataset of half
as many samples, a picture and its class each. Times `erw plan` of a pipeline whose source is the
archive, twice: the first reads and hashes it, the second finds it unchanged. Beside it GNU tar and
Python's modules list the same file, without reading what is in it. Rounds in turns; prints Markdown: the best time and the peak memory. Run it on an idle
machine.
"""

import argparse
import io
import multiprocessing
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from pathlib import Path


def pixel(grey: int) -> bytes:
    """A PNG of one grey pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes([0, grey]))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def names(count: int):
    classes = 1000
    return ((f"n{i * classes // count:08}/{i:07}.png", i % 256) for i in range(count))


def write_tar(path: Path, count: int) -> None:
    pictures = [pixel(grey) for grey in range(256)]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, grey in names(count):
            member = tarfile.TarInfo(name)
            member.size = len(pictures[grey])
            tar.addfile(member, io.BytesIO(pictures[grey]))
            tar.members.clear()


def write_webdataset(path: Path, count: int) -> None:
    pictures = [pixel(grey) for grey in range(256)]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for i in range(count // 2):
            for end, contents in [("png", pictures[i % 256]), ("cls", str(i * 2000 // count).encode())]:
                member = tarfile.TarInfo(f"{i:09}.{end}")
                member.size = len(contents)
                tar.addfile(member, io.BytesIO(contents))
            tar.members.clear()


def write_zip(path: Path, count: int) -> None:
    pictures = [pixel(grey) for grey in range(256)]
    with zipfile.ZipFile(path, "w") as archive:
        for name, grey in names(count):
            archive.writestr(zipfile.ZipInfo(name), pictures[grey])


def timed(command: list[str], folder: Path) -> tuple[float, float]:
    """Seconds, and the peak memory in MiB."""
    start = time.monotonic()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        sys.exit(f"{' '.join(command)}: exit status {os.waitstatus_to_exitcode(status)}")
    return time.monotonic() - start, usage.ru_maxrss / 1024


def erw(program: str, archive: Path, folder: Path) -> list[str]:
    text = f'[stages.images]\nkind = "images"\nparams = {{ source = "{archive}", resolution = 1 }}\n'
    (folder / "p.toml").write_text(text)
    return [program, "plan", "p.toml", "--cache-dir", "cache"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--erw", default="target/release/erw")
    parser.add_argument("--members", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    program = str(Path(options.erw).resolve())
    print("| | | s | peak MiB |\n|---|---|---|---|")
    kinds = [("tar", write_tar, "tar"), ("ZIP", write_zip, "zip"), ("WebDataset", write_webdataset, "tar")]
    for kind, write, end in kinds:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            archive = folder / f"million.{end}"
            # In a process of its own: what this one holds would count as the peak of its children.
            writer = multiprocessing.Process(target=write, args=(archive, options.members))
            writer.start()
            writer.join()
            size = f"{options.members:,} members in a {kind} of {archive.stat().st_size / 1e6:,.0f} MB"
            module = f"{end}file"
            peers = [[sys.executable, "-m", module, "-l", str(archive)]]
            if end == "tar":
                peers.insert(0, ["tar", "tf", str(archive)])
            times: dict[str, list[tuple[float, float]]] = {}
            for _ in range(options.rounds):
                shutil.rmtree(folder / "cache", ignore_errors=True)
                for name in ["`erw plan`", "`erw plan`, again"]:
                    times.setdefault(name, []).append(timed(erw(program, archive, folder), folder))
                for peer in peers:
                    name = "`tar tf`" if peer[0] == "tar" else f"Python's {module}"
                    times.setdefault(name, []).append(timed(peer, folder))
            for name, all_times in times.items():
                print(f"| {size} | {name} | {min(all_times)[0]:.2f} | {min(all_times)[1]:.0f} |")
                size = ""


if __name__ == "__main__":
    main()
