#!/usr/bin/env bash
# The other scripts source this: a virtual environment with the package in it.
# Sets $PYTHON. Needs nothing but Debian with Python 3.11, 3.12 or 3.13; the
# first of $PYTHONS that is there is taken.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
VENV="${VENV:-.venv}"
PYTHON="$VENV/bin/python"
PYTHONS="${PYTHONS:-3.11 3.12 3.13}"

find_python() {
  local version name
  for version in $PYTHONS ''; do
    # pyenv has those that are not chosen beside its own.
    for name in "python${version:-3}" \
      "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"${version:-none}".*/bin/python; do
      if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
        echo "$name"
        return
      fi
    done
  done
  echo 'Python 3.11, 3.12 or 3.13 is needed: apt-get install python3' >&2
  return 66
}

make_venv() {
  local base
  base="$(find_python)"
  # Debian has venv in a package of its own.
  if ! "$base" -c 'import ensurepip' 2>/dev/null; then
    local run=''
    [ "$(id -u)" = 0 ] || run='sudo'
    $run apt-get update -qq
    $run apt-get install -y -qq python3-venv
  fi
  "$base" -m venv "$VENV"
}

install_package() {
  local extras="$1"
  local wanted
  wanted="$extras $(cksum < setup.py)"
  [ -x "$PYTHON" ] || make_venv
  if [ "$(cat "$VENV/.installed" 2>/dev/null)" != "$wanted" ]; then
    "$PYTHON" -m pip install --quiet --upgrade pip
    "$PYTHON" -m pip install --quiet --editable ".$extras"
    echo "$wanted" > "$VENV/.installed"
  fi
}
