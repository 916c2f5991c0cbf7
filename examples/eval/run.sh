#!/bin/sh
# Metrics of two sets of images. The network is the classifier that ../images trains, which takes
# images at its own size alone, so the sets are what the stages made of the photos; files from any tool
# are named in the same place. Leave --network out for DINOv2, or use `erw eval fid` for FID; those
# networks are downloaded.
set -eu
cd "$(dirname "$0")"
erw=${ERW:-erw}

sh ../images/photos.sh ../images/photos
$erw run ../images/images.toml classifier --plain
made=../images/images.toml
$erw eval fd $made:images $made:held-out --network $made:classifier --plain
$erw eval kid $made:images $made:held-out --network $made:classifier --kid-subset-size 20 --plain --json
