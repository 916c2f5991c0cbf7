#!/usr/bin/env python3
"""Write the UCI optical digits as a folder tree of 8x8 grey PNG files, one folder a class.

    pip download scikit-learn --no-deps && unzip scikit_learn-*.whl 'sklearn/datasets/data/digits.csv.gz'
    python3 convert_digits.py sklearn/datasets/data/digits.csv.gz digits

Each row of the CSV is 64 intensities 0..16 and a label. A pixel becomes round(value * 255 / 16). The file
name is the row number, so the order within a class is that of the source. Standard library only.
"""
import csv
import gzip
import struct
import sys
import zlib
from pathlib import Path


def png(rows: list[bytes]) -> bytes:
    """An 8-bit grey PNG, unfiltered."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 0, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


source, target = Path(sys.argv[1]), Path(sys.argv[2])
with gzip.open(source, "rt") as table:
    for number, row in enumerate(csv.reader(table)):
        *pixels, label = (round(float(cell)) for cell in row)
        grey = bytes((value * 255 + 8) // 16 for value in pixels)
        folder = target / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:04}.png").write_bytes(png([grey[i:i + 8] for i in range(0, 64, 8)]))
print(number + 1, "images")
