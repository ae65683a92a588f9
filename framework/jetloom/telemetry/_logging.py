"""Log lines with a constant message and data in fields, as JSON or as text."""

from __future__ import annotations

import logging
import sys
from typing import Literal, TextIO

import msgspec

from ..messages import to_rfc3339
from ._context import current

_STANDARD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {
    "message",
    "asctime",
    "taskName",
}

_encoder = msgspec.json.Encoder(enc_hook=str)


def get_logger(name: str) -> logging.Logger:
    """The logger of a unit: `jetloom.<name>`."""
    return logging.getLogger(f"jetloom.{name}")


def setup_logging(
    level: str = "INFO", style: Literal["json", "text"] = "json", *, stream: TextIO | None = None
) -> None:
    """Sends every log line of the process to `stream` (stderr). Called once, by the command line."""
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, module, run, step, actor, trace, and `extra`'s fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": to_rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update(_fields(record))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _encoder.encode(line).decode(errors="replace")


class TextFormatter(logging.Formatter):
    """`12:00:00.123 INFO    logger: message  field=value`, for people."""

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={value}" for name, value in _fields(record).items())
        at = to_rfc3339(record.created)[11:23]
        text = f"{at} {record.levelname:<7} {record.name}: {record.getMessage()}"
        if fields:
            text = f"{text}  {fields}"
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        return text


def _fields(record: logging.LogRecord) -> dict[str, object]:
    context = current()
    fields: dict[str, object] = {
        name: value
        for name, value in (
            ("module", context.module),
            ("run", context.run),
            ("step", context.step),
            ("actor", str(context.actor) if context.actor is not None else ""),
            ("trace", context.trace),
        )
        if value
    }
    # `module` of a LogRecord is the source file's name, which nobody asked for; an extra can't have that name.
    fields.update({name: value for name, value in vars(record).items() if name not in _STANDARD})
    return fields
