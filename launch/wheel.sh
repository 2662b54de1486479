#!/usr/bin/env bash
# Builds the source archive and the wheel, checks both, and makes an image with
# what is in the wheel, from a folder that has nothing else.
#
#   bash launch/wheel.sh [FOLDER]
#
# FOLDER (dist) gets both files.
set -euo pipefail
folder="$(realpath -m "${1:-dist}")"
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
install_package '[dev]'
PYTHON="$(realpath -s "$PYTHON")"

scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
cp -r setup.py pyproject.toml README.md LICENSE pyramid_jax configs "$scratch"
"$PYTHON" -m build --outdir "$scratch/made" "$scratch" > /dev/null
"$PYTHON" -m twine check --strict "$scratch"/made/*
"$PYTHON" -m pip install --quiet --no-deps --target "$scratch/installed" \
  "$scratch"/made/*.whl
mkdir "$scratch/empty"
cd "$scratch/empty"
PYTHONPATH="$scratch/installed" "$PYTHON" - "$scratch/installed" << 'END'
import sys

import pyramid_jax as pj
from pyramid_jax import config


assert pj.__file__.startswith(sys.argv[1]), pj.__file__
config.load('frido_coco:layout')
images = pj.load('shapes')(layout=[('red circle', (0.1, 0.1, 0.4, 0.4))])
pj.grid(images).save('grid.png')
END
test -s grid.png
mkdir -p "$folder"
cp "$scratch"/made/* "$folder"
echo "The wheel makes images; it is in $folder."
