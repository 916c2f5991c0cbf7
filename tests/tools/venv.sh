#!/usr/bin/env bash
# Makes the Python environment with the programs of others that tests need: an S3 server, Taplo, axe. Tests look for it in
# target/venv, or where ERW_TEST_VENV says. Does nothing when it is there with these versions.
set -euo pipefail
cd "$(dirname "$0")/../.."
venv="${ERW_TEST_VENV:-target/venv}"
wanted=tests/tools/requirements.txt
if cmp -s "$wanted" "$venv/installed.txt"; then
    exit 0
fi
rm -rf "$venv"
python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$wanted"
# Last: an environment without it is not finished.
cp "$wanted" "$venv/installed.txt"
