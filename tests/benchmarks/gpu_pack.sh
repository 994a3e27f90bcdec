#!/usr/bin/env bash
# On the development machine, in the repository's root: packs TensorRT 8.6, Python 3.10, the models (see carry.py) and the
# committed tree for the GPU host. One call of the host takes 64 MiB, the working tree included, so parts are 52 MiB:
# .gpu/1 .gpu/2 ... and .gpu/last, which holds the tree and the models. Takes 10 minutes the first time.
set -euo pipefail
packer=${1:-../shared/gpu-host/pack.sh}
"$packer" .gpu/packed numpy onnx onnxruntime polygraphy onnx-graphsurgeon typer pydantic rich jinja2 numba cuda-python tomli \
  tomli-w threadpoolctl pytest hypothesis
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
# Ray for the job `ray`, 36 MiB, in a folder of its own, which only that job needs: what is not used of it is left out
number=$((number + 1)); mkdir -p "$work/whl" "$work/site" .gpu/$number
python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.10 --implementation cp \
  --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d "$work/whl" \
  ray click filelock jsonschema attrs jsonschema-specifications referencing rpds-py msgpack pyyaml requests \
  charset-normalizer idna urllib3 certifi
for wheel in "$work"/whl/*.whl; do unzip -q -o "$wheel" -d "$work/site"; done
rm -rf "$work"/site/ray/{jars,rllib,llm,cpp}
tar -C "$work/site" -cf - . | xz -T0 -3 > .gpu/$number/ray.tar.xz
du -sm .gpu/[0-9]* .gpu/last
