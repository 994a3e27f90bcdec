#!/usr/bin/env bash
# On the development machine, in the repository's root: packs TensorRT 8.6, Python 3.10, the models (see carry.py) and the
# committed tree for the GPU host. One call of the host takes 64 MiB, the working tree included, so parts are 52 MiB:
# .gpu/1 .gpu/2 ... and .gpu/last, which holds the tree and the models. Takes 10 minutes the first time.
set -euo pipefail
packer=${1:-../shared/gpu-host/pack.sh}
"$packer" .gpu/packed numpy onnx onnxruntime polygraphy onnx-graphsurgeon typer pydantic rich jinja2 numba cuda-python tomli \
  tomli-w pytest hypothesis
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
for kind in trt py; do
  for part in $(ls -d .gpu/packed/$kind-* | sort -V); do cat "$part/$kind.${part##*-}"; done > "$work/$kind"
  split -b 52M -d -a 1 --numeric-suffixes=1 "$work/$kind" "$work/$kind."
  rm "$work/$kind"
done
rm -rf .gpu/[0-9]* .gpu/last
number=0
for file in "$work"/*; do number=$((number + 1)); mkdir -p .gpu/$number; mv "$file" .gpu/$number/; done
mkdir -p .gpu/last
for folder in .gpu/[0-9]*; do ls "$folder"; done > .gpu/last/parts
cp "$(dirname "$packer")/unpack.sh" .gpu/last/
git archive --format=tar.gz -o .gpu/last/repo.tgz HEAD
[ ! -d .gpu/carried ] || cp -r .gpu/carried .gpu/last/
du -sm .gpu/[0-9]* .gpu/last
