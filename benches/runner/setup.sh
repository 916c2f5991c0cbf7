#!/usr/bin/env bash
# Installs what `bench.py` compares with: ninja, make and b3sum from Debian, Snakemake and DVC into a Python environment.
# What cannot be installed is left out, and the bench says that it is absent. Usage: benches/runner/setup.sh [FOLDER]
set -uo pipefail
folder=${1:-target/peers}

for package in ninja-build make b3sum; do
    apt-get install -y "$package" >/dev/null 2>&1 || echo "absent: $package" >&2
done
command -v b3sum >/dev/null || cargo install --quiet b3sum || echo "absent: b3sum" >&2
python3 -m venv "$folder" || exit 1
for package in snakemake dvc; do
    "$folder/bin/pip" install --quiet "$package" || echo "absent: $package" >&2
done
echo "PATH=$(realpath "$folder")/bin:\$PATH python3 benches/runner/bench.py --erw target/release/erw"
