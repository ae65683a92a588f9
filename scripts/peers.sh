#!/usr/bin/env bash
# Installs what programs of others need to talk with jetloom in tests/interop, outside of git: the official NATS client for
# Node, in the versions that tests/interop/node/package.json names. Without Node it says so, and the tests are skipped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

wanted=tests/interop/node/package.json
cache=.cache/peers/node
stamp=$cache/.stamp

if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
    echo "peers: no node or no npm on PATH: tests/interop/test_node.py will be skipped" >&2
    exit 0
fi
[ -f "$stamp" ] && cmp -s "$stamp" "$wanted" && exit 0

# Not in place: a folder that was filled half is never taken for a whole one.
rm -rf "$cache"
mkdir -p "$cache"
cp "$wanted" "$cache/package.json"
npm install --prefix "$cache" --no-package-lock --ignore-scripts --no-audit --no-fund --loglevel=error
cp "$wanted" "$stamp"
echo "peers: done"
