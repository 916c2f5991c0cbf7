"""Makes the image files beside it, and `pillow.safetensors`: what Pillow makes of each by `convert("RGB")`, and of the turned
ones, `upright/NAME`, by `ImageOps.exif_transpose` before it. Run with Pillow, numpy and safetensors; the fixtures were made
with the versions that `versions.txt` states."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL
import safetensors
from PIL import Image, ImageOps
from safetensors.numpy import save_file

HERE = Path(__file__).parent
y, x = np.mgrid[0:24, 0:40]
SMOOTH = np.stack([x * 6, y * 10, (x + y) * 4], -1).astype(np.uint8)
rgb = Image.fromarray(SMOOTH)


def encoded(image, form, **options):
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def cmyk(transform):
    """A CMYK JPEG with Adobe's marker, which says what was done to the planes: 0 nothing, 2 YCCK; or without it (None)."""
    ink = np.stack([255 - x * 6, y * 10, 255 - (x + y) * 3, x * 2 + y], -1).clip(0, 255).astype(np.uint8)
    data = bytearray(encoded(Image.fromarray(ink, "CMYK"), "jpeg", quality=95))
    at = data.find(b"\xff\xee")
    if transform is None:
        # A reader has to guess.
        del data[at : at + 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]]
    else:
        # Pillow does not write YCCK: call the same four planes so. What they look like does not matter.
        data[at + 15] = transform
    return bytes(data)


def png16(planes, colour):
    """A PNG of 16-bit samples, which Pillow writes for grey only."""
    h, w, _ = planes.shape
    rows = b"".join(b"\0" + planes[i].astype(">u2").tobytes() for i in range(h))
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = struct.pack(">IIBBBBB", w, h, 16, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


alpha = np.dstack([SMOOTH, (x * 6).astype(np.uint8)])
files = {
    "cmyk-adobe.jpg": cmyk(0),
    "cmyk-bare.jpg": cmyk(None),
    "ycck.jpg": cmyk(2),
    "grey.jpg": encoded(rgb.convert("L"), "jpeg", quality=95),
    "full.jpg": encoded(rgb, "jpeg", quality=95, subsampling=0),
    "half.jpg": encoded(rgb, "jpeg", quality=95, subsampling=2),
    "progressive.jpg": encoded(rgb, "jpeg", quality=95, subsampling=0, progressive=True),
    "rgb16.png": png16(SMOOTH.astype(np.uint16) * 257 + x[..., None].astype(np.uint16), 2),
    "palette.png": encoded(rgb.quantize(16), "png"),
    "palette-clear.png": encoded(rgb.quantize(16), "png", transparency=3),
    "grey-alpha.png": encoded(Image.fromarray(alpha).convert("LA"), "png"),
    "alpha.png": encoded(Image.fromarray(alpha), "png"),
    "bits.png": encoded(Image.fromarray((x + y) % 3 == 0), "png"),
    "lossless.webp": encoded(rgb, "webp", lossless=True),
    "lossy.webp": encoded(rgb, "webp", quality=90),
    "animated.webp": encoded(rgb, "webp", lossless=True, save_all=True, append_images=[ImageOps.invert(rgb)]),
    "full.bmp": encoded(rgb, "bmp"),
    "grey.bmp": encoded(rgb.convert("L"), "bmp"),
    "palette.bmp": encoded(rgb.quantize(16), "bmp"),
}
small = rgb.resize((16, 8))
exif = Image.Exif()
for turn in range(1, 9):
    exif[0x0112] = turn
    files[f"turned-{turn}.jpg"] = encoded(small, "jpeg", quality=95, subsampling=0, exif=exif)
exif[0x0112] = 6
files["turned-6.png"] = encoded(small, "png", exif=exif)
files["turned-6.webp"] = encoded(small, "webp", lossless=True, exif=exif)

pixels = {}
for name, data in files.items():
    (HERE / name).write_bytes(data)
    image = Image.open(io.BytesIO(data))
    pixels[name] = np.asarray(image.convert("RGB")).copy()
    if name.startswith("turned"):
        pixels[f"upright/{name}"] = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).copy()
save_file(pixels, HERE / "pillow.safetensors")
(HERE / "versions.txt").write_text(f"Pillow {PIL.__version__}, numpy {np.__version__}, safetensors {safetensors.__version__}\n")
