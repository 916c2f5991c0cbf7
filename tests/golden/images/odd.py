"""Makes `odd.safetensors`: `NAME`, a file as the encoders of other people write it, `pixels/NAME`, what Pillow makes of it by
`convert("RGB")`; and `refused/NAME`, a file that Pillow cannot read or we do not. Made with the versions in `versions.txt`."""

import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from jpeg import encode, segment
from PIL import Image
from safetensors.numpy import save_file

rng = np.random.default_rng(0)
files, refused = {}, {}


def picture(height, width):
    y, x = np.mgrid[:height, :width]
    waves = [128 + 90 * np.sin(x / (3 + c) + c) * np.cos(y / (5 - c)) for c in range(4)]
    return np.clip(np.stack(waves, -1) + rng.normal(0, 20, (height, width, 4)), 0, 255).astype(np.uint8)


def planes(height, width, count):
    return [picture(height, width)[..., c].astype(float) for c in range(count)]


def image(height, width, mode="RGB"):
    return Image.fromarray(picture(height, width)[..., :3]).convert(mode)


def encoded(picture, form, **options):
    out = io.BytesIO()
    picture.save(out, form, **options)
    return out.getvalue()


def noise(*shape, bits=8):
    return rng.integers(0, 2**bits, shape)


# JPEG: every ratio of chroma to luma, in one scan and in one per component, with and without restarts.
SAMPLING = """111111 211111 121111 221111 411111 141111 421111 422111 222111 221221 211211 112222 112112 212121 222222 221122
111121 441111 241111 311111 321111 131111 411321 211311"""
FRACTIONS = "221131 322111"


def factors(digits):
    return [(int(digits[i]), int(digits[i + 1])) for i in (0, 2, 4)]


for digits in SAMPLING.split():
    sampling = factors(digits)
    apart = {"interleaved": False}
    # A scan of several components holds ten blocks at most.
    together = {} if sum(h * v for h, v in sampling) <= 10 else apart
    for name, options in (("scan", together), ("scans", apart), ("restart", {"restart": 2, **together})):
        height, width = (int(side) for side in rng.integers(1, 41, 2))
        files[f"{digits}-{name}.jpg"] = encode(planes(height, width, 3), sampling, **options)
for digits in FRACTIONS.split():
    refused[f"{digits}.jpg"] = encode(planes(17, 30, 3), factors(digits), interleaved=False)
usual = [(2, 2), (1, 1), (1, 1)]
for height, width in ((1, 1), (1, 40), (40, 1), (3, 3), (2, 88), (7, 5), (9, 17), (16, 16), (33, 31)):
    for sampling in (0, 1, 2, "4:1:1"):
        for progressive in (False, True):
            name = f"{height}x{width}-{sampling}-{'progressive' if progressive else 'plain'}.jpg".replace(":", "")
            options = {"quality": 85, "subsampling": sampling, "progressive": progressive}
            files[name] = encoded(image(height, width), "jpeg", **options)
# Progressive files that stop after some scans, whose blocks are smoothed.
for sampling in (0, 2):
    whole = encoded(image(26, 37), "jpeg", quality=60, subsampling=sampling, progressive=True)
    starts = [i for i in range(len(whole) - 1) if whole[i : i + 2] == b"\xff\xda"]
    for n in range(1, len(starts)):
        files[f"after-{n}-of-{len(starts)}-{sampling}.jpg"] = whole[: starts[n]] + b"\xff\xd9"
three, four = planes(21, 27, 3), planes(21, 27, 4)
for name, options in {
    "ids-012": {"ids": [0, 1, 2]},
    "ids-rgb": {"ids": list(b"RGB")},
    "ids-odd": {"ids": [200, 7, 9]},
    "adobe-0": {"adobe": 0},
    "adobe-1": {"adobe": 1},
    "adobe-2": {"adobe": 2},
    "extended": {"frame": 0xC1},
    "fill-bytes": {"before": b"\xff\xff\xff"},
    "stray-bytes": {"before": segment(0xFE, b"x") + b"\0\1\2stray"},
    "long-segments": {"before": segment(0xE1, b"Exif\0\0" + bytes(65527))},
    "empty-segments": {"before": b"".join(segment(m, b"") for m in (0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE))},
    "thumbnail": {"before": segment(0xE1, encode(planes(8, 8, 3), usual))},
}.items():
    files[f"{name}.jpg"] = encode(three, usual, **options)
for adobe in (None, 0, 1, 2):
    files[f"four-{adobe}.jpg"] = encode(four, [(1, 1)] * 4, adobe=adobe)
    files[f"four-{adobe}-sub.jpg"] = encode(four, [*usual, (2, 2)], adobe=adobe)
files["grey-22.jpg"] = encode(three[:1], [(2, 2)])
plain = encode(three, usual)
files["trailing.jpg"] = plain + b"trailing bytes" * 9
files["two-images.jpg"] = plain + encode(planes(9, 9, 3), usual)
files["no-end.jpg"] = plain[:-2]
# Damage that decoders pass over: a restart that does not come, and codes that are none.
restarts = encode(three, usual, restart=1)
at = restarts.find(b"\xff\xd1")
files["damaged-restart.jpg"] = restarts[:at] + b"\xff\xd4" + restarts[at + 2 :]
at = plain.find(b"\xff\xda")
files["damaged-codes.jpg"] = plain[: at + 60] + b"\xfe" * 3 + plain[at + 63 :]
files["bytes-for-end.jpg"] = plain[:-2] + b"no mark of the end " * 9
sof = plain.find(b"\xff\xc0")
refused |= {
    "cut.jpg": plain[: len(plain) * 2 // 3],
    "cut-in-header.jpg": plain[:40],
    "12-bits.jpg": plain[: sof + 4] + b"\x0c" + plain[sof + 5 :],
    "lossless.jpg": encode(three, usual, frame=0xC3),
    "hierarchical.jpg": encode(three, usual, frame=0xC5),
    "two-frames.jpg": encode(three, usual, before=plain[sof : sof + 19]),
    "two-starts.jpg": encode(three, usual, before=b"\xff\xd8"),
    "two-components.jpg": encode(three[:2], [(1, 1)] * 2),
    "no-tables.jpg": plain.replace(plain[plain.find(b"\xff\xdb") : plain.find(b"\xff\xdb") + 69], b""),
    "progressive-cut.jpg": encoded(image(40, 53), "jpeg", progressive=True)[:-40],
}

# WebP, lossy: odd sides, alpha, filters.
for height, width in ((1, 1), (15, 31), (16, 17), (33, 8)):
    for quality in (5, 80):
        files[f"{height}x{width}-{quality}.webp"] = encoded(image(height, width), "webp", quality=quality)
with_alpha = Image.fromarray(picture(15, 19))
files["alpha.webp"] = encoded(with_alpha, "webp", quality=70)
more = {"save_all": True, "append_images": [image(15, 19, "RGBA")]}
files["animated-alpha.webp"] = encoded(with_alpha, "webp", quality=70, **more)


def bmp(bits, data, width, height, masks=b""):
    """Of 16 or 32 bits a pixel; with masks of its colours."""
    offset = 54 + len(masks)
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 3 if masks else 0, len(data), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + head + masks + data


def grain(*shape):
    return noise(*shape).astype(np.uint8).tobytes()


files["555.bmp"] = bmp(16, grain(7, 6, 2), 6, 7)
files["555-masks.bmp"] = bmp(16, grain(7, 6, 2), 6, 7, struct.pack("<III", 0x7C00, 0x3E0, 0x1F))
files["565.bmp"] = bmp(16, grain(7, 6, 2), 6, 7, struct.pack("<III", 0xF800, 0x7E0, 0x1F))
files["32.bmp"] = bmp(32, grain(7, 5, 4), 5, 7)
files["bit.bmp"] = encoded(image(7, 9, "1"), "bmp")


def lzw(indices):
    """Codes of 9 bits, with the table cleared before they grow."""
    codes = [code for i, index in enumerate(indices) for code in [256] * (i % 200 == 0) + [int(index)]] + [257]
    number = sum(code << 9 * i for i, code in enumerate(codes))
    data = number.to_bytes(math.ceil(9 * len(codes) / 8), "little")
    blocks = [data[i : i + 255] for i in range(0, len(data), 255)]
    return b"\x08" + b"".join(bytes([len(b)]) + b for b in blocks) + b"\0"


def gif(screen, frames, palette=None):
    def table(p):
        return 0x80 | int(math.log2(len(p) // 3)) - 1 if p else 0

    out = b"GIF89a" + struct.pack("<HHBBB", *screen, table(palette), 3, 0) + (palette or b"")
    for indices, (left, top), clear, own, interlaced in frames:
        if clear is not None:
            out += b"\x21\xf9\x04\x01\0\0" + bytes([clear]) + b"\0"
        height, width = indices.shape
        out += b"," + struct.pack("<HHHHB", left, top, width, height, table(own) | interlaced << 6) + (own or b"")
        order = [*range(0, height, 8), *range(4, height, 8), *range(2, height, 4), *range(1, height, 2)]
        out += lzw((indices[order] if interlaced else indices).ravel())
    return out + b";"


palette, other, ramp = grain(768), grain(768), bytes(i for i in range(256) for _ in "rgb")
full, part = noise(15, 20), noise(5, 6)
files |= {
    "plain.gif": gif((20, 15), [(full, (0, 0), None, None, 0)], palette),
    "interlaced.gif": gif((20, 15), [(full, (0, 0), None, None, 1)], palette),
    "clear.gif": gif((20, 15), [(full, (0, 0), 7, None, 0)], palette),
    "own-palette.gif": gif((20, 15), [(full, (0, 0), None, other, 0)], palette),
    "only-own-palette.gif": gif((20, 15), [(full, (0, 0), None, other, 0)]),
    "ramp.gif": gif((20, 15), [(full, (0, 0), None, None, 0)], ramp),
    "own-ramp.gif": gif((20, 15), [(full, (0, 0), None, ramp, 0)], palette),
    "part.gif": gif((20, 15), [(part, (3, 4), None, None, 0)], palette),
    "part-clear.gif": gif((20, 15), [(part, (3, 4), 9, other, 0)], palette),
    "beyond-screen.gif": gif((20, 15), [(full, (3, 4), 9, None, 0)], palette),
    "small-palette.gif": gif((20, 15), [(full, (0, 0), None, None, 0)], palette[:48]),
    "animated.gif": gif((20, 15), [(full, (0, 0), 5, None, 0), (part, (1, 1), 6, other, 0)], palette),
    "pillow.gif": encoded(image(15, 20, "P"), "gif"),
}
refused["cut.gif"] = files["plain.gif"][:-90]

# PBM, PGM, PPM.
for most in (1, 100, 255, 1000, 65535):
    kind, colours = "u1" if most < 256 else ">u2", rng.integers(0, most + 1, (5, 7, 3))
    files[f"bytes-{most}.ppm"] = b"P6 7 5 %d\n" % most + colours.astype(kind).tobytes()
    files[f"text-{most}.ppm"] = b"P3\n# text\n7 5\n%d\n" % most + " ".join(map(str, colours.ravel())).encode()
    if most < 256:
        files[f"bytes-{most}.pgm"] = b"P5\n7\n5 # sides\n%d\n" % most + colours[..., 0].astype(kind).tobytes()
        files[f"text-{most}.pgm"] = b"P2 7 5 %d\n" % most + "\n".join(map(str, colours[..., 0].ravel())).encode() + b"\n"
files["bytes.pbm"] = b"P4\n11 4\n" + np.packbits(noise(4, 11, bits=1).astype(np.uint8), axis=1).tobytes()
files["text.pbm"] = b"P1\n4 2\n0110 # row\n1 0 0 1"
refused |= {
    "cut.ppm": files["bytes-255.ppm"][:-1],
    "cut-text.ppm": b"P3 2 2 255 1 2 3",
    "above.pgm": b"P2 2 1 9 1 10",
    "no-most.pgm": b"P5 2 1 0\n\1\2",
    "deep.pgm": b"P5 2 1 70000\n\1\2\3\4",
    "letters.pbm": b"P1 2 1 0x",
    "pam.pam": b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 1\nMAXVAL 255\nENDHDR\n\1",
}


def tiff(samples, bits, meaning, order="<", big=False, rows=None, tile=None, planes=1, packing=1, **more):
    """`samples` [H, W, C]; strips of `rows` or tiles; `more`: values of other tags by their numbers, `t338=[1]`."""
    height, width, count = samples.shape

    def packed(part):
        part = part.reshape(part.shape[0], -1)
        if bits == 16:
            data = part.astype(order + "u2").tobytes()
        else:
            bools = np.unpackbits(part.astype(np.uint8)[..., None], axis=2)[..., 8 - bits :].reshape(part.shape[0], -1)
            data = np.packbits(bools, axis=1).tobytes()
        return zlib.compress(data) if packing == 8 else data

    step_y, step_x = tile or (rows or height, width)
    full = np.pad(samples, ((0, -height % tile[0]), (0, -width % tile[1]), (0, 0))) if tile else samples
    layers = [full[..., c : c + 1] for c in range(count)] if planes == 2 else [full]
    starts = [(y, x) for y in range(0, full.shape[0], step_y) for x in range(0, full.shape[1], step_x)]
    parts = [packed(layer[y : y + step_y, x : x + step_x]) for layer in layers for y, x in starts]
    tags = {256: [width], 257: [height], 258: [bits] * count, 259: [packing], 262: [meaning], 277: [count], 284: [planes]}
    tags |= {322: [tile[1]], 323: [tile[0]]} if tile else {278: [step_y]}
    tags |= {int(name[1:]): values for name, values in more.items()}
    where, sizes = (324, 325) if tile else (273, 279)
    tags |= {where: [0] * len(parts), sizes: [len(p) for p in parts]}
    inline, size, start = (8, 20, 16) if big else (4, 12, 8)
    long = lambda tag: tag in (where, sizes)
    bytes_of = lambda tag: len(tags[tag]) * (4 if long(tag) else 2)
    at = start + (8 if big else 2) + size * len(tags) + inline
    beyond = {}
    for tag in sorted(tags):
        if bytes_of(tag) > inline:
            beyond[tag], at = at, at + bytes_of(tag)
    for i, part in enumerate(parts):
        tags[where][i], at = at, at + len(part)
    offset = "Q" if big else "I"
    out = {"<": b"II", ">": b"MM"}[order]
    out += struct.pack(order + "HHHQ", 43, 8, 0, 16) if big else struct.pack(order + "HI", 42, 8)
    out += struct.pack(order + ("Q" if big else "H"), len(tags))
    tail = b""
    for tag in sorted(tags):
        values = struct.pack(order + ("I" if long(tag) else "H") * len(tags[tag]), *tags[tag])
        out += struct.pack(order + "HH" + offset, tag, 4 if long(tag) else 3, len(tags[tag]))
        out += struct.pack(order + offset, beyond[tag]) if tag in beyond else values.ljust(inline, b"\0")
        tail += values if tag in beyond else b""
    return out + bytes(inline) + tail + b"".join(parts)


for order, ends in (("<", "little"), (">", "big")):
    for bits in (1, 2, 4, 8):
        for white in (0, 1):
            files[f"grey-{bits}-{white}-{ends}.tif"] = tiff(noise(6, 9, 1, bits=bits), bits, 1 - white, order)
        colours = noise(3 << bits, bits=16).tolist()
        files[f"palette-{bits}-{ends}.tif"] = tiff(noise(6, 9, 1, bits=bits), bits, 3, order, t320=colours)
    for bits in (8, 16):
        files[f"rgb-{bits}-{ends}.tif"] = tiff(noise(6, 9, 3, bits=bits), bits, 2, order, rows=4)
        files[f"cmyk-{bits}-{ends}.tif"] = tiff(noise(6, 9, 4, bits=bits), bits, 5, order)
        apart = {"planes": 2, "packing": 8}
        files[f"planes-{bits}-{ends}.tif"] = tiff(noise(6, 9, 3, bits=bits), bits, 2, order, rows=4, **apart)
        for extra in (0, 1, 2):
            files[f"alpha-{bits}-{extra}-{ends}.tif"] = tiff(noise(6, 9, 4, bits=bits), bits, 2, order, t338=[extra])
    files[f"tiles-{ends}.tif"] = tiff(noise(20, 29, 3), 8, 2, order, tile=(16, 16), packing=8)
    files[f"tiles-bits-{ends}.tif"] = tiff(noise(20, 29, 1, bits=1), 1, 1, order, tile=(16, 16))
files["grey-alpha.tif"] = tiff(noise(6, 9, 2), 8, 1, t338=[2])
files["palette-alpha.tif"] = tiff(noise(6, 9, 2), 8, 3, t338=[2], t320=noise(768, bits=16).tolist())
files["big.tif"] = tiff(noise(6, 9, 3), 8, 2, big=True, rows=4)
for turn in range(1, 9):
    files[f"turned-{turn}.tif"] = tiff(noise(3, 5, 3), 8, 2, t274=[turn])
for packing in ("tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits"):
    for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK"):
        files[f"{mode}-{packing}.tif"] = encoded(image(9, 13, mode), "tiff", compression=packing)
smooth = np.add.outer(np.arange(9), np.arange(13)).astype(np.uint8)
smooth = Image.fromarray(np.dstack([smooth, smooth * 3, smooth * 7]))
files["predictor.tif"] = encoded(smooth, "tiff", compression="tiff_lzw", tiffinfo={317: 2})
files["pages.tif"] = encoded(image(6, 9), "tiff", save_all=True, append_images=[image(4, 4)])
refused |= {
    "float.tif": encoded(Image.fromarray(rng.random((6, 9), np.float32)), "tiff"),
    "jpeg.tif": encoded(image(16, 16), "tiff", compression="jpeg"),
    "lab.tif": encoded(image(6, 9, "LAB"), "tiff"),
    "ycbcr.tif": tiff(noise(6, 8, 3), 8, 6),
    "signed.tif": tiff(noise(6, 9, 1), 8, 1, t339=[2]),
    "reversed-bits.tif": tiff(noise(6, 9, 1), 8, 1, t266=[2]),
    "short-palette.tif": tiff(noise(6, 9, 1), 8, 3, t320=[0] * 30),
    "cut.tif": files["rgb-8-little.tif"][:-9],
    "cut-lzw.tif": files["RGB-tiff_lzw.tif"][:-200],
}
refused |= {
    "picture.avif": encoded(image(16, 16), "avif"),
    "picture.qoi": encoded(image(6, 9), "qoi"),
    "text.png": b"<html>404</html>",
}

tensors = {name: np.frombuffer(data, np.uint8) for name, data in files.items()}
for name, data in files.items():
    tensors[f"pixels/{name}"] = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).copy()
tensors |= {f"refused/{name}": np.frombuffer(data, np.uint8) for name, data in refused.items()}
save_file(tensors, Path(__file__).parent / "odd.safetensors")
print(len(files), "files,", len(refused), "that are refused")
