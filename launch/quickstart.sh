#!/usr/bin/env bash
# Trains both stages of Frido on `shapes`, samples, and prints the scores.
# About 20 minutes on two CPU cores. Run it again to go on after a stop.
#
#   bash launch/quickstart.sh [WORKDIR] [TASK[,variant...]]
set -euo pipefail
source "$(dirname "$0")/setup.sh"
install_package ''

workdir="${1:-runs/frido_shapes}"
config="configs/frido_shapes.py:${2:-layout}"
main=("$PYTHON" -m pyramid_jax.main --workdir="$workdir")

"${main[@]}" --config="$config"
"${main[@]}" --mode=sample
"${main[@]}" --mode=evaluate
echo "Samples: $workdir/samples/grid.png   Scores: $workdir/samples/scores.md"
