#!/usr/bin/env bash
# What a GPU gives, in one JSON file, on a machine with torch and torchvision and no network: nothing is installed.
#
#   bash tests/benchmarks/gpu.sh [FILE.json] [--small] [--device cpu] [--camvid PACKED]
#
#   PYTHON   the Python that has torch    .venv/bin/python, else python3
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

out=build/gpu.json
if [ $# -gt 0 ] && [[ "$1" != --* ]]; then
  out=$1
  shift
fi
python=${PYTHON:-.venv/bin/python}
[ -x "$(command -v "$python")" ] || python=python3
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
"$python" -c 'import webdataset' 2>/dev/null || export PYTHONPATH=$PWD/tests/benchmarks/stand_in:$PYTHONPATH
exec "$python" -m tests.benchmarks.gpu --out "$out" "$@"
