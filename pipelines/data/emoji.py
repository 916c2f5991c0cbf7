#!/usr/bin/env python3
"""Write the emoji of a package `emoji-datasource-*` of npm as pictures on white, with their classes.

    npm pack emoji-datasource-google@16.0.0 && tar xzf emoji-datasource-google-16.0.0.tgz
    pip install pillow
    python3 pipelines/data/emoji.py package pipelines/data/emoji/google

`images/` gets an RGB PNG of 64x64 for each emoji, category.csv and subcategory.csv its class, as Unicode sorts
it. Left out are the five swatches of skin tones (category Component), and the variants of an emoji in other
skin tones: they differ little from it, so a held-out picture would have been seen in training.

The pictures are transparent. Below what is transparent they have the colour of the next visible pixel, not
black, so a reader that drops alpha gets smeared pictures without an outline. Here they are laid on white.
"""
import csv
import json
import sys
from pathlib import Path

from PIL import Image

package, target = Path(sys.argv[1]), Path(sys.argv[2])
(folder,) = (path / "64" for path in (package / "img").iterdir())
rows = []
(target / "images").mkdir(parents=True, exist_ok=True)
for emoji in json.loads((package / "emoji.json").read_text()):
    name = emoji["image"]
    if emoji["category"] == "Component" or not (folder / name).exists():
        continue
    picture = Image.open(folder / name).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    Image.alpha_composite(white, picture).convert("RGB").save(target / "images" / name)
    rows.append((name, emoji["category"], f'{emoji["category"]}, {emoji["subcategory"]}'))
for column, table in enumerate(["category", "subcategory"], 1):
    with (target / f"{table}.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "label"), *((row[0], row[column]) for row in sorted(rows))])
print(len(rows), "images of", len({row[1] for row in rows}), "categories and", len({row[2] for row in rows}), "subcategories")
