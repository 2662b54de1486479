#!/usr/bin/env bash
# The other scripts source this: a virtual environment with the package in it.
# Sets $PYTHON. Needs nothing but Debian with Python 3.11 or 3.12.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
VENV="${VENV:-.venv}"
PYTHON="$VENV/bin/python"

find_python() {
  local name
  for name in python3.11 python3.12 python3; do
    if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  echo 'Python 3.11 or 3.12 is needed: apt-get install python3' >&2
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
