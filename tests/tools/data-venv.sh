#!/usr/bin/env bash
# Makes the Python environment of the tests of image sets: datasets, with pyarrow, webdataset, Pillow. Tests look for it
# in target/data-venv, or where ERW_TEST_DATA_VENV says, and are skipped without it. Does nothing when it is there with
# these versions. Downloads about 100 MB.
set -euo pipefail
cd "$(dirname "$0")/../.."
venv="${ERW_TEST_DATA_VENV:-target/data-venv}"
wanted=tests/tools/data-requirements.txt
if cmp -s "$wanted" "$venv/installed.txt"; then
    exit 0
fi
rm -rf "$venv"
python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile --no-deps -r "$wanted"
"$venv/bin/python" -c 'import datasets, webdataset'
# Last: an environment without it is not finished.
cp "$wanted" "$venv/installed.txt"
