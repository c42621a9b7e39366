#!/usr/bin/env bash
# Writes constraints.txt: the exact versions in .venv, and the old pins of what is not installed there now (JupyterLab). Wheels of one
# build of a version, such as torch's for CPUs, satisfy its plain number too, so the build's name is left out.
set -eu
cd "$(dirname "$0")/.."
new=$(mktemp)
{ .venv/bin/python -m pip freeze --exclude-editable | grep == | sed -E 's/\+[A-Za-z0-9.]+$//'; grep == constraints.txt; } |
  awk -F== '{key = tolower($1); gsub(/[_.]/, "-", key)} !seen[key]++' | LC_ALL=C sort -f > "$new"
{ echo "# The development environment, exactly; made by tools/pins.sh. Users' ranges are in settings.ini."; cat "$new"; } > constraints.txt
rm "$new"
