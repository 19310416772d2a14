#!/usr/bin/env bash
# STYLE=comic bash pretrained/recipes/style.sh: a network that draws in a style, from `faces`. A stopped run can be resumed.
set -euo pipefail
: "${STYLE:?set STYLE to comic, animated, ink or pop}"
run="${RUN:-runs}" faces="${FACES:-faces}" count="${COUNT:-700}" kimg="${KIMG:-5}"
recipes="$(dirname "$0")"
python "$recipes/faces.py" --network "$faces" --count "$count" --out "$run/faces512"
python "$recipes/draw.py" --faces "$run/faces512" --style "$STYLE" --out "$run/$STYLE-drawings"
python -m stylegan_toon.train --data "$run/$STYLE-drawings" --pairs "$run/$STYLE-drawings/ws.npz" --resolution 512 \
    --init-from "$faces" --freeze-g mapping --channel-base 1024 --batch 2 --batch-gpu 1 --pairs-kimg "$kimg" --kimg 0 \
    --pairs-lr 0.0008 --pairs-detail 3 --pairs-noise const --pairs-features vgg --pl-weight 0 --ema-kimg 0.06 \
    --snapshot-kimg 0.25 --keep 1 --workers 0 --out "$run/$STYLE" --resume auto
