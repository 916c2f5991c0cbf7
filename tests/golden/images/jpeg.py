"""A JPEG encoder with control over what encoders vary: sampling factors, component ids, scans, restarts, Adobe's
marker, what lies between markers. Sequential, Huffman coded, with the tables of ITU T.81, annex K."""

import struct

import numpy as np

ZIGZAG = sorted(range(64), key=lambda i: (i // 8 + i % 8, i // 8 if (i // 8 + i % 8) % 2 else i % 8))
DC_BITS = [0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0]
DC_VALUES = bytes(range(12))
AC_BITS = [0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 0x7D]
AC_VALUES = bytes.fromhex(
    "01020300041105122131410613516107227114328191a1082342b1c11552d1f02433627282090a161718191a25262728292a3435363738393a4344"
    "45464748494a535455565758595a636465666768696a737475767778797a838485868788898a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4"
    "b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9fa"
)
U, X = np.mgrid[:8, :8]
COSINES = np.sqrt(np.where(U == 0, 1, 2) / 8) * np.cos((2 * X + 1) * U * np.pi / 16)


def codes(bits, values):
    table, code, at = {}, 0, 0
    for length, count in enumerate(bits, 1):
        for value in values[at : at + count]:
            table[value] = (code, length)
            code += 1
        at, code = at + count, code << 1
    return table


DC, AC = codes(DC_BITS, DC_VALUES), codes(AC_BITS, AC_VALUES)


class Bits:
    def __init__(self):
        self.out, self.held, self.count = bytearray(), 0, 0

    def put(self, value, count):
        self.held, self.count = self.held << count | value, self.count + count
        while self.count >= 8:
            self.count -= 8
            byte = self.held >> self.count & 255
            self.held &= (1 << self.count) - 1
            self.out += bytes([byte, 0]) if byte == 255 else bytes([byte])

    def number(self, value, size):
        if size:
            self.put(value if value > 0 else value + (1 << size) - 1, size)

    def flush(self):
        if self.count:
            self.put((1 << 8 - self.count) - 1, 8 - self.count)


def write_block(bits, block, before):
    step = block[0] - before
    size = int(abs(step)).bit_length()
    bits.put(*DC[size])
    bits.number(step, size)
    last, run = max([i for i in range(1, 64) if block[i]], default=0), 0
    for value in block[1 : last + 1]:
        if value == 0:
            run += 1
            continue
        while run > 15:
            bits.put(*AC[0xF0])
            run -= 16
        size = int(abs(value)).bit_length()
        bits.put(*AC[run << 4 | size])
        bits.number(value, size)
        run = 0
    if last < 63:
        bits.put(*AC[0])
    return block[0]


def up(number, by):
    return -(-number // by)


def segment(marker, body):
    return bytes([255, marker]) + struct.pack(">H", len(body) + 2) + body


def encode(planes, sampling, ids=None, adobe=None, interleaved=True, restart=0, end=True, step=4, before=b"", frame=0xC0):
    """`planes`: a float array [H, W] for each component, in stored colours. `before`: what follows the first marker."""
    (height, width), n = planes[0].shape, len(planes)
    ids = ids or range(1, n + 1)
    most_h, most_v = (max(s[i] for s in sampling) for i in (0, 1))
    across, down = up(width, 8 * most_h), up(height, 8 * most_v)
    blocks = []
    for plane, (h, v) in zip(planes, sampling):
        edges = (0, down * 8 * most_v - height), (0, across * 8 * most_h - width)
        full = np.pad(plane.astype(float), edges, mode="edge")
        fy, fx = most_v // v, most_h // h
        small = full.reshape(full.shape[0] // fy, fy, full.shape[1] // fx, fx).mean((1, 3)) - 128
        by, bx = small.shape[0] // 8, small.shape[1] // 8
        waves = COSINES @ small.reshape(by, 8, bx, 8).transpose(0, 2, 1, 3) @ COSINES.T
        blocks.append(np.round(waves / step).astype(int).reshape(by, bx, 64)[:, :, ZIGZAG])

    def scan(which):
        head = segment(0xDA, bytes([len(which)]) + b"".join(bytes([ids[c], 0]) for c in which) + b"\0\x3f\0")
        if len(which) > 1:
            parts = [(c, h, v, i, j) for c in which for h, v in [sampling[c]] for j in range(v) for i in range(h)]
            units = [[(c, y * v + j, x * h + i) for c, h, v, i, j in parts] for y in range(down) for x in range(across)]
        else:
            (c,) = which
            h, v = sampling[c]
            rows, columns = up(up(height * v, most_v), 8), up(up(width * h, most_h), 8)
            units = [[(c, y, x)] for y in range(rows) for x in range(columns)]
        bits, last = Bits(), dict.fromkeys(which, 0)
        for k, unit in enumerate(units):
            if restart and k and k % restart == 0:
                bits.flush()
                bits.out += bytes([255, 0xD0 + (k // restart - 1) % 8])
                last = dict.fromkeys(which, 0)
            for c, y, x in unit:
                last[c] = write_block(bits, blocks[c][y, x], last[c])
        bits.flush()
        return head + bytes(bits.out)

    out = b"\xff\xd8" + before
    if adobe is not None:
        out += segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([adobe]))
    out += segment(0xDB, b"\0" + bytes([step] * 64))
    components = b"".join(bytes([i, h << 4 | v, 0]) for i, (h, v) in zip(ids, sampling))
    out += segment(frame, struct.pack(">BHHB", 8, height, width, n) + components)
    out += segment(0xC4, b"\0" + bytes(DC_BITS) + DC_VALUES) + segment(0xC4, b"\x10" + bytes(AC_BITS) + AC_VALUES)
    if restart:
        out += segment(0xDD, struct.pack(">H", restart))
    out += scan(list(range(n))) if interleaved else b"".join(scan([c]) for c in range(n))
    return out + (b"\xff\xd9" if end else b"")
