#!/bin/sh
# From a folder of photos to samples and metrics.
set -eu
cd "$(dirname "$0")"
erw=${ERW:-erw}

sh photos.sh photos
$erw plan images.toml
$erw run images.toml --plain
$erw metrics images.toml
$erw metrics images.toml train --steps --format csv | tail -n 3
$erw export images.toml sample samples --force     # samples.npz, png/, grid.png
ls samples
