#!/usr/bin/env bash
# Runs the tests; arguments go to pytest ('bash launch/test.sh -m "not slow"').
set -euo pipefail
source "$(dirname "$0")/setup.sh"
install_package '[dev]'
exec "$PYTHON" -m pytest -q -n 2 --dist loadfile \
  --no-loadscope-reorder "$@"
