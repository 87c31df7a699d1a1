#!/bin/sh
# Makes the two example adapters again, from the package registries. Run in the repository's root, after `make demo` or
# `make test` has set up .venv. Needs apt-get (a Debian or Ubuntu machine), dpkg-deb and gzip; network for the package.
# Takes a few minutes per adapter on two free cores.
set -eu

python=.venv/bin/python
shira=.venv/bin/shira
out=${1:-examples}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

(cd "$work" && apt-get download bible-kjv-text)
$python examples/prepare_text.py kjv "$work"/bible-kjv-text_*.deb "$work/kjv.txt"
$python examples/prepare_text.py python "$work/python.txt"
(cd "$work" && sha256sum kjv.txt python.txt)

common="--model SmolLM2-135M-Instruct@package --learning-rate 1e-2 --max-steps 300 --batch-size 4 --sequence-length 128 --precision bfloat16 --values-dtype bfloat16"
$shira train "$work/kjv.txt" --output "$out/kjv.safetensors" --mask wm --sparsity 0.01 --seed 1 $common
$shira train "$work/python.txt" --output "$out/python.safetensors" --mask rand --sparsity 0.01 --seed 2 $common
