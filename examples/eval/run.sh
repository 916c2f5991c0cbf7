#!/bin/sh
# Metrics of files from any tool. The network is the classifier that ../images trains. Leave --network
# out for DINOv2, or use `erw eval fid` for FID; those networks are downloaded.
set -eu
cd "$(dirname "$0")"
erw=${ERW:-erw}

sh ../images/photos.sh photos
$erw run ../images/images.toml classifier --plain
network=../images/images.toml:classifier
$erw eval fd photos/train photos/val --network $network --plain
$erw eval kid photos/train photos/val --network $network --kid-subset-size 20 --plain --json
