#!/bin/sh
# Metrics of files that any tool made. The network is the classifier that ../images trained; leave
# --network out for DINOv2, or take `erw eval fid` for FID, whose networks are downloaded.
set -eu
cd "$(dirname "$0")"
erw=${ERW:-erw}

sh ../images/photos.sh photos
$erw run ../images/images.toml classifier --plain
network=../images/images.toml:classifier
$erw eval fd photos/train photos/val --network $network --plain
$erw eval kid photos/train photos/val --network $network --kid-subset-size 20 --plain --json
