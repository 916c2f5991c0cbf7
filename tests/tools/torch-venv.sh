#!/usr/bin/env bash
# Makes the Python environment of the tests of what erw hands over: torch, diffusers, TensorBoard, trackio, wandb,
# pandas. Tests look for it in target/torch-venv, or where ERW_TEST_TORCH_VENV says, and are skipped without it. Does
# nothing when it is there with these versions. Downloads about 700 MB.
set -euo pipefail
cd "$(dirname "$0")/../.."
venv="${ERW_TEST_TORCH_VENV:-target/torch-venv}"
wanted=tests/tools/torch-requirements.txt
if cmp -s "$wanted" "$venv/installed.txt"; then
    exit 0
fi
rm -rf "$venv"
python3 -m venv "$venv"
# Without what they depend on: the list is complete but for the large libraries of NVIDIA, 2.4 GB, that torch would
# load and not call.
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile --no-deps -r "$wanted"
"$venv/bin/python" tests/tools/torch_stubs.py
"$venv/bin/python" -c 'import torch, diffusers; assert torch.ones(2, 2).matmul(torch.ones(2, 2)).sum() == 8'
# Last: an environment without it is not finished.
cp "$wanted" "$venv/installed.txt"
