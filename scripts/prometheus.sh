#!/usr/bin/env bash
# Puts Debian's Prometheus and promtool into .cache/prometheus for tests/services/test_metrics.py; nothing is installed. A second call
# costs nothing. Without apt it does nothing, and the tests that need it say so.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if command -v prometheus >/dev/null && command -v promtool >/dev/null || [ -x .cache/prometheus/usr/bin/promtool ]; then
    exit 0
fi
if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    echo "prometheus: no apt here; install prometheus and promtool to run its tests" >&2
    exit 0
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
(cd "$folder" && (apt-get download -q prometheus || (apt-get update -q && apt-get download -q prometheus))) >/dev/null 2>&1
mkdir -p .cache
dpkg-deb -x "$folder"/prometheus_*.deb "$folder/unpacked"
rm -rf .cache/prometheus
mv "$folder/unpacked" .cache/prometheus
echo "prometheus: $(.cache/prometheus/usr/bin/prometheus --version 2>&1 | head -1)"
