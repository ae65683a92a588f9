"""Runs universes: `python -m tests.simulation --universes N [--first SEED] [--jobs 2]`.

`--seed S [--trace]` repeats one; `--planted [NAME]` hunts for planted bugs.
"""

from __future__ import annotations

import sys

from tests.simulation._cli import main

sys.exit(main(sys.argv[1:]))
