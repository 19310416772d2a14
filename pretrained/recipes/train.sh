#!/usr/bin/env bash
# Step 3: train.sh FOLDER VGG. FOLDER holds data/ and features.safetensors from the steps before.
set -euo pipefail
run="$1" vgg="$2"
train() { python -m stylegan_toon.train --resolution 256 --channel-base 2048 --channel-max 192 --batch 8 \
    --pairs-features "$vgg" --gamma 1 --pl-weight 0 --lr 0.0015 --ema-kimg 0.5 --aug off "$@"; }

# --channel-base is that of the new discriminator; the generator's (4096) comes with the features.
train --data "$run/data/faces.zip" --pairs "$run/data/faces.npz" --init-from "$run/features.safetensors" \
    --pairs-weight 1 --kimg 4 --out "$run/faces"
train --data "$run/data/comic.zip" --pairs "$run/data/comic.npz" --init-from "$run/faces/network.safetensors" \
    --no-noise --pairs-kimg 4 --pairs-lr 0.003 --kimg 0 --out "$run/comic-pairs"
train --data "$run/data/comic.zip" --pairs "$run/data/comic.npz" --init-from "$run/comic-pairs/network.safetensors" \
    --no-noise --pairs-weight 1 --kimg 0.56 --out "$run/comic"
