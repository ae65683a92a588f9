"""`python -m jetloom.bench`: the benchmark without the rest of the command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence

BAD_INPUT = 2
UNREACHABLE = 5
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Its exit code: 0, 1 for a workload without figures, 2 for bad input, 5 without a server, 130 for Ctrl-C."""
    from cyclopts import App, CycloptsError

    from ..errors import InvalidInput, JetloomError, NatsUnavailable
    from ._command import bench

    app = App(name="jetloom-bench", help_format="plaintext")
    app.default(bench)
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    try:
        result: object = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        return _failed(str(error), BAD_INPUT)
    except JetloomError as error:
        if isinstance(error, InvalidInput):
            return _failed(error.message, BAD_INPUT)
        return _failed(error.message, UNREACHABLE if isinstance(error, NatsUnavailable) else 1)
    except KeyboardInterrupt:
        return INTERRUPTED
    return result if isinstance(result, int) else 0


def _failed(message: str, code: int) -> int:
    sys.stderr.write(f"error: {message}\n")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
