#!/bin/sh
# Makes the three adapters of the emoji model again. Run in the repository's root, after `make test` or `make demo` has set
# up .venv. Needs npm and the Python package resvg-py in .venv; network for the packages. Takes three minutes per style and
# one for the concept on a free core. ink and noto get the same mask, so they share one index set.
set -eu

folder=examples/emoji
work=${1:-.cache/emoji}
pictures=$work/pictures

.venv/bin/python $folder/prepare_data.py "$work"

common="--model $folder/model --sparsity 0.02 --snr-gamma 5 --values-dtype bfloat16"
train() { # name, mask, seed, and what is particular
    name=$1 mask=$2 seed=$3
    shift 3
    .venv/bin/shira train "$pictures/$name" --output "$work/$name.safetensors" --mask "$mask" --seed "$seed" $common "$@"
    mv "$work/$name.safetensors" "$work/$name.loss.png" "$folder"
}
style="--batch-size 16 --max-steps 1500 --learning-rate 1e-2 --held-out 0.02"
train noto wm 1 $style
train ink wm 2 $style
train cat rand 3 --batch-size 16 --max-steps 400 --learning-rate 1e-2 --held-out 0 --prior-data "$pictures/twemoji"

.venv/bin/python -c "
from pathlib import Path
from server.demo.pictures import draw_pictures
draw_pictures(Path('$folder'), Path('.cache/models'), Path('$folder/sheet.png'))  # by a server, as the demo does
"
