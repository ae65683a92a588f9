#!/usr/bin/env bash
# Resolves pyproject.toml into requirements.lock, for every system and every Python from 3.12 on: hashes, no addresses.
# The versions already there stay; `scripts/lock.sh --upgrade` takes newer ones, `--upgrade-package NAME` one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

uv=$(command -v uv || true)
if [ -z "$uv" ]; then
    tools=$(mktemp -d)
    trap 'rm -rf "$tools"' EXIT
    .venv/bin/python -m venv "$tools/venv"
    "$tools/venv/bin/python" -m pip install -qq uv
    uv=$tools/venv/bin/uv
fi

"$uv" pip compile --quiet --universal --python-version 3.12 --extra dev --extra embedded \
    --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
    --output-file requirements.lock "$@" pyproject.toml
if grep -nE '://|^-' requirements.lock; then
    echo "lock: requirements.lock names an address or an option" >&2
    exit 1
fi
echo "lock: requirements.lock is current"
