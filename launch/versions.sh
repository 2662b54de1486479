#!/usr/bin/env bash
# Runs quick tests on the lowest or on the highest versions that setup.py
# allows, in an environment of its own: .venv-lowest or .venv-highest. The
# highest are those that the Python at hand can have; where .venv has them, its
# tests ran on them, and nothing is done.
#
#   bash launch/versions.sh lowest|highest
#   PYTHONS=3.13 bash launch/versions.sh highest   # jax above 0.10.2
set -euo pipefail
which="${1:-}"
case "$which" in
  lowest) resolution=lowest-direct ;;
  highest) resolution=highest ;;
  *) echo 'usage: bash launch/versions.sh lowest|highest' >&2; exit 64 ;;
esac
tested="$(dirname "$0")/../.venv"
VENV=".venv-$which"
source "$(dirname "$0")/setup.sh"

# Every dependency is used by one of these.
TESTS=(
  tests/package_test.py
  tests/errors_test.py
  tests/config/config_test.py
  tests/config/formats_test.py
  tests/config/ranges_test.py
  tests/conditioning/edges_test.py
  tests/conditioning/tokenizers_test.py
  tests/commands/diffit_run_test.py
  tests/data/storage/image_files_test.py
  tests/data/pixels/sketch_files_svg_test.py
  tests/faults/hostile_configs_test.py
  tests/interop/safetensors_file_test.py
  tests/metrics/frechet_test.py
  'tests/parity/cases_test.py::test_a_case_is_reproduced[edm_precond_ve]'
  'tests/parity/cases_test.py::test_a_case_is_reproduced[frido_sampler_ddim_2s]'
  'tests/parity/cases_test.py::test_a_case_is_reproduced[ldm_vq_a]'
  tests/runs/checkpoints_test.py
  tests/runs/logs_test.py
  tests/training/train_test.py
)

[ -x "$PYTHON" ] || make_venv
UV="$VENV/bin/uv"
[ -x "$UV" ] || "$PYTHON" -m pip install --quiet uv
"$UV" pip compile --quiet --python "$PYTHON" --resolution="$resolution" \
  --extra test --no-header --no-annotate --output-file "$VENV/versions.txt" \
  setup.py > /dev/null
has_versions() {
  [ -x "$1" ] && "$UV" pip install --dry-run --no-deps --python "$1" \
    --requirement "$VENV/versions.txt" 2>&1 | grep -q 'no changes'
}
if [ "$which" = highest ] && has_versions "$tested/bin/python"; then
  echo "The tests of .venv ran on the highest versions."
  exit
fi
"$UV" pip install --quiet --python "$PYTHON" \
  --requirement "$VENV/versions.txt"
"$UV" pip install --quiet --no-deps --python "$PYTHON" --editable .
echo "Tests on the $which versions:"
grep -iE '^(jax|flax|numpy|orbax-checkpoint|pillow|scipy)==' \
  "$VENV/versions.txt"
exec "$PYTHON" -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder \
  -m 'not slow' "${TESTS[@]}"
