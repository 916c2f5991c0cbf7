#!/bin/sh
# All trials, a table, a random search, a plot, a comparison.
set -eu
cd "$(dirname "$0")"
erw=${ERW:-erw}

$erw sweep sweep.toml --plain --sort distance
$erw sweep sweep.toml --table --each --filter 'distance<0.1' --format csv
$erw sweep sweep.toml --plain --axis guess.lr=0.2,0.4 --axis guess.seed=0..=1   # 0..=1 has both ends
$erw plot sweep.toml --y distance --x guess.lr -o distance.svg
$erw compare 'sweep.toml@lr=0.01,seed=0' 'sweep.toml@lr=0.3,seed=0'
$erw logs sweep.toml 'guess@lr=0.1,seed=1'
