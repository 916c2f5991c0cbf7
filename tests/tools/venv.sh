#!/usr/bin/env bash
# Makes the Python environment that tests of foreign protocols need: an S3 server. Tests look for it in target/venv,
# or where ERW_TEST_VENV says. Does nothing when it is there with these versions.
set -euo pipefail
cd "$(dirname "$0")/../.."
venv="${ERW_TEST_VENV:-target/venv}"
wanted="moto[server]==5.1.21"
if [ "$(cat "$venv/wanted" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi
rm -rf "$venv"
python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$wanted"
# Last: an environment without it is not finished.
printf '%s\n' "$wanted" > "$venv/wanted"
