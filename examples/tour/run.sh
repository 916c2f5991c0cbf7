#!/bin/sh
# Plan, run, change something, ask why, lock, export.
set -eu
cd "$(dirname "$0")"
erw=${ERW:-erw}

$erw explain tour.toml score          # every value and the line that states it
$erw graph tour.toml                  # the stages and their connections
$erw plan tour.toml                   # nothing ran yet
$erw run tour.toml --plain
$erw run tour.toml --plain            # everything is cached

# A changed file makes the stages that read it stale, and `why` names it.
$erw run tour.toml --lock --plain     # accept these results
echo "and purred" >> text.txt
$erw plan tour.toml --exit-code && exit 1 || test $? = 5
$erw why tour.toml words
if $erw run tour.toml --locked --plain; then exit 1; fi   # it differs from the lock file
$erw run tour.toml --plain

# The same words in another order: `words` runs again and makes the same bytes, so `score` stays
# cached.
echo "purred and the cat sat on the mat" > text.txt
$erw run tour.toml --plain

$erw run tour.toml --plain --set score.weight=3
$erw verify tour.toml                 # run again and compare with the cache
$erw show tour.toml:score             # what it was made from
$erw log                              # the runs of this cache
$erw export tour.toml score score     # copy the artifact to a folder
cat score/*
