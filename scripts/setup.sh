#!/usr/bin/env bash
# Makes .venv with exactly what requirements.lock names, and jetloom itself editable.
#
# A second call costs a few milliseconds: the stamp, written last, holds what the environment was made from. An interrupted
# call leaves no stamp, so the next one finishes the work; an environment whose Python has gone is made anew.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=.venv
stamp=$venv/.jetloom-stamp
wanted_version='>=3.12'

# The path is part of it: scripts inside a moved environment point to where it was.
describe() { printf '%s\n' "$PWD"; cat requirements.lock pyproject.toml scripts/setup.sh; }

is_current() { [ -f "$stamp" ] && describe | cmp -s - "$stamp" && "$venv/bin/python" -c '' 2>/dev/null; }

# Runs, is new enough and can make environments. A pyenv shim of an inactive version fails here, as does a Debian Python
# without python3-venv.
is_usable() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1
}

find_python() {
    local candidate
    for candidate in ${JETLOOM_PYTHON:-} python3.13 python3.12 python3.14 python3 \
        "$HOME"/.pyenv/versions/*/bin/python3 /opt/*/bin/python3 /opt/homebrew/bin/python3.1[2-4] /usr/local/bin/python3.1[2-4]; do
        candidate=$(command -v "$candidate" 2>/dev/null) || continue
        if is_usable "$candidate"; then
            # The real interpreter: not a shim that changes its mind with the folder, not an environment that may go.
            "$candidate" -c 'import sys; print(getattr(sys, "_base_executable", "") or sys.executable)'
            return
        fi
    done
    if command -v uv >/dev/null && candidate=$(uv python find "$wanted_version" 2>/dev/null); then
        printf '%s\n' "$candidate"
        return
    fi
    cat >&2 <<'MESSAGE'
setup: found no Python >= 3.12 that runs and can make environments.
Install one, then run this again:
  Debian, Ubuntu   apt-get install python3.13 python3.13-venv   (or python3.12 python3.12-venv)
  Fedora           dnf install python3.13
  macOS            brew install python@3.13
  pyenv            pyenv install 3.13
  uv               uv python install 3.13
or name one: JETLOOM_PYTHON=/path/to/python3 make dev
MESSAGE
    return 1
}

venv_is_sound() {
    "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 12) or sys.prefix == sys.base_prefix)' 2>/dev/null || return 1
    # Scripts carry the path of the environment they were made in.
    [ -f "$venv/.jetloom-path" ] && [ "$(cat "$venv/.jetloom-path")" = "$PWD" ] || return 1
    # An environment that uv made has no pip in it.
    command -v uv >/dev/null || "$venv/bin/python" -c 'import pip' 2>/dev/null
}

is_current && exit 0

# Two targets started at the same time wait for each other, where the system can do that.
if command -v flock >/dev/null; then
    exec 9>.setup.lock
    flock 9
    is_current && exit 0
fi

rm -f "$stamp"
if ! venv_is_sound; then
    python=$(find_python)
    echo "setup: making $venv with $("$python" -V) ($python)"
    rm -rf "$venv"
    if command -v uv >/dev/null; then
        uv venv --quiet --python "$python" "$venv"
    else
        "$python" -m venv "$venv"
    fi
    printf '%s\n' "$PWD" >"$venv/.jetloom-path"
fi

echo "setup: installing what requirements.lock names"
if command -v uv >/dev/null; then
    uv pip install --quiet --python "$venv/bin/python" --require-hashes -r requirements.lock
    uv pip install --quiet --python "$venv/bin/python" --no-deps --no-build-isolation -e .
else
    export PIP_DISABLE_PIP_VERSION_CHECK=1
    "$venv/bin/python" -m pip install -qq --no-input --require-hashes -r requirements.lock
    "$venv/bin/python" -m pip install -qq --no-input --no-deps --no-build-isolation -e .
fi

describe >"$stamp.new"
mv "$stamp.new" "$stamp"
echo "setup: done"
