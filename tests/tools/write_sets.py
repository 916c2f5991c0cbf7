"""Writes the images of a folder of classes as others do: tars, shards of a WebDataset, Parquet.

Usage: write_sets.py FOLDER OUT; classes are numbers, so that shards can name them.
"""

import io
import sys
import tarfile
from pathlib import Path

import webdataset
from datasets import ClassLabel, Dataset, Features, Image
from pyarrow import parquet

root, out = Path(sys.argv[1]), Path(sys.argv[2])
files = sorted(root.glob("*/*.png"))
classes = sorted({file.parent.name for file in files})
(out / "shards").mkdir(parents=True)
(out / "hub/data").mkdir(parents=True)

for name, form in [("gnu.tar", tarfile.GNU_FORMAT), ("pax.tar", tarfile.PAX_FORMAT), ("ustar.tar", tarfile.USTAR_FORMAT)]:
    with tarfile.open(out / name, "w", format=form) as tar:
        for file in reversed(files):
            tar.add(file, file.relative_to(root))

# As ILSVRC2012_img_train.tar: a tar of one tar per class.
with tarfile.open(out / "classes.tar", "w") as outer:
    for name in classes:
        held = io.BytesIO()
        with tarfile.open(fileobj=held, mode="w") as inner:
            for file in (root / name).iterdir():
                inner.add(file, file.name)
        member = tarfile.TarInfo(f"{name}.tar")
        member.size = held.tell()
        held.seek(0)
        outer.addfile(member, held)

with webdataset.ShardWriter(str(out / "shards/set-%06d.tar"), maxcount=4, verbose=0) as shards:
    for file in files:
        key = f"{file.parent.name}-{file.stem}"
        shards.write({"__key__": key, "png": file.read_bytes(), "cls": classes.index(file.parent.name)})

rows = [
    {"image": {"bytes": file.read_bytes(), "path": file.name}, "label": classes.index(file.parent.name)}
    for file in files
]
table = Dataset.from_list(rows, features=Features({"image": Image(), "label": ClassLabel(names=classes)}))
for i in range(2):
    shard = table.shard(num_shards=2, index=i, contiguous=True)
    shard.to_parquet(out / f"hub/data/train-{i:05}-of-00002.parquet", batch_size=3)
for codec in ["snappy", "zstd"]:
    read = parquet.read_table(out / "hub/data")
    parquet.write_table(read, out / f"{codec}.parquet", compression=codec, row_group_size=4)
