"""What is logged while a world exists."""

from __future__ import annotations

import logging

from jetloom.testing._clock import PROCESS


class Logs(logging.Handler):
    """Keeps the records of all loggers, from INFO on. `process` of a record is the simulated process."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.records: list[logging.LogRecord] = []
        self._logger = logging.getLogger("jetloom")
        self._level = self._logger.level
        if self._logger.getEffectiveLevel() > logging.INFO:
            self._logger.setLevel(logging.INFO)
        logging.getLogger().addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        record.process_name = PROCESS.get()
        self.records.append(record)

    def close(self) -> None:
        logging.getLogger().removeHandler(self)
        self._logger.setLevel(self._level)
        super().close()
