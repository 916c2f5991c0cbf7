#!/bin/sh
# A shared cache: Alice computes, Bob takes the results. Here it is a folder; an address such as
# s3://BUCKET/PREFIX works in the same way.
set -eu
cd "$(dirname "$0")"
erw=${ERW:-erw}
export ERW_REMOTE="file://$PWD/shared"
mkdir -p shared

$erw run ../tour/tour.toml --plain --cache-dir alice      # computes and sends
$erw plan ../tour/tour.toml --cache-dir bob               # cached (remote)
$erw run ../tour/tour.toml --plain --cache-dir bob        # takes
$erw cache status ../tour/tour.toml --cache-dir bob
$erw cache tag paper-1.0 ../tour/tour.toml --cache-dir bob
$erw cache gc --older-than 1d -n --cache-dir bob          # what would be removed
$erw cache du --cache-dir bob
