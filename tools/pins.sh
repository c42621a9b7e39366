#!/usr/bin/env bash
# Writes constraints.txt: the exact versions of the development environment in .venv. Wheels of one build of a version, such as
# torch's for CPUs, satisfy its plain number too, so the build's name is left out.
set -eu
cd "$(dirname "$0")/.."
{ echo "# The development environment, exactly; made by tools/pins.sh. Users' ranges are in settings.ini."
  .venv/bin/python -m pip freeze --exclude-editable | grep -v '^#' | grep == | sed -E 's/\+[A-Za-z0-9.]+$//' | LC_ALL=C sort -f; } > constraints.txt
