#!/bin/sh
# Makes the three example adapters again, from the package registries. Run in the repository's root, after `make demo` or
# `make test` has set up .venv. Needs apt-get (a Debian or Ubuntu machine), dpkg-deb and gzip; network for the packages.
# Takes a few minutes per adapter on two free cores. kjv and wordnet get the same mask, so they share one index set.
set -eu

shira=.venv/bin/shira
out=${1:-examples}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

examples/prepare_reproduction.sh "$work"

common="--model SmolLM2-135M-Instruct@package --sparsity 0.01 --learning-rate 1e-2 --max-steps 300 --batch-size 4 --sequence-length 128 --precision bfloat16 --values-dtype bfloat16"
$shira train "$work/kjv.txt" --output "$work/kjv.safetensors" --mask wm --seed 1 $common
$shira train "$work/python.txt" --output "$work/python.safetensors" --mask rand --seed 2 $common
$shira train "$work/wordnet.txt" --output "$work/wordnet.safetensors" --mask wm --seed 3 $common
mv "$work"/*.safetensors "$work"/*.loss.png "$out"
