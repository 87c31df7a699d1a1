#!/bin/sh
# Makes the three texts that `shira reproduce` trains on and measures with, from the package registries: kjv.txt,
# python.txt and wordnet.txt in the directory given (.cache/reproduction/data if none is). Run in the repository's root,
# after `make demo` or `make test` has set up .venv. Needs apt-get (a Debian or Ubuntu machine), dpkg-deb and gzip.
set -eu

python=.venv/bin/python
out=${1:-.cache/reproduction/data}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"

(cd "$work" && apt-get download bible-kjv-text wordnet-base)
$python examples/prepare_text.py kjv "$work"/bible-kjv-text_*.deb "$out/kjv.txt"
$python examples/prepare_text.py python "$out/python.txt"
$python examples/prepare_text.py wordnet "$work"/wordnet-base_*.deb "$out/wordnet.txt"
(cd "$out" && sha256sum kjv.txt python.txt wordnet.txt)
