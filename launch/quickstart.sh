#!/usr/bin/env bash
# Trains a tokenizer and MaskGIT on the bundled digits and writes an image of samples.
# A few minutes on 2 CPU cores. Usage: launch/quickstart.sh [FOLDER], default runs/quickstart.
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-runs/quickstart}"
python="${PYTHON:-python}"

"$python" -m maskgit_jax.train --config=configs/vqgan.py:digits --workdir="$out/vqgan"
"$python" -m maskgit_jax.train --config=configs/maskgit.py:digits \
    --config.tokenizer="$out/vqgan" --workdir="$out/maskgit"
"$python" -m maskgit_jax.sample --workdir="$out/maskgit" --num=100 --out="$out/samples.png"
