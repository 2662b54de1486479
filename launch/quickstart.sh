#!/usr/bin/env bash
# Trains both stages of Frido on `shapes`, samples, and prints the scores.
# About 40 minutes of processor time on two CPU cores. Run it again to resume
# after a stop.
#
#   bash launch/quickstart.sh [WORKDIR] [TASK[,variant...]]
set -euo pipefail
source "$(dirname "$0")/setup.sh"
install_package ''

# One CPU device uses several cores badly; two devices, each with half of the
# batch, are 1.3 times faster. This does not affect accelerators.
export XLA_FLAGS="${XLA_FLAGS:---xla_force_host_platform_device_count=2}"

workdir="${1:-runs/frido_shapes}"
config="configs/frido_shapes.py:${2:-layout}"
main=("$PYTHON" -m pyramid_jax.main --workdir="$workdir")

"${main[@]}" --config="$config"
"${main[@]}" --mode=sample
"${main[@]}" --mode=evaluate
echo "Samples: $workdir/samples/grid.png   Scores: $workdir/samples/scores.md"
