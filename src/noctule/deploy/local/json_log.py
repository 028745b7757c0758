"""Log records as JSON lines: an event name, its fields, and nothing that a program would have to pick apart."""

import logging
import sys
from datetime import UTC, datetime

import msgspec

# What every record has; whatever else is in it was passed as `extra` and is a field of the event.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}


class JsonLines(logging.Formatter):
    """One line of JSON for each record: time (RFC 3339, UTC), level, logger, event, the fields, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Give the line, without the newline; values that JSON cannot hold appear as their repr."""
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        # Fields may come in one dictionary: a record has attributes of its own by such names as `name` and `args`.
        fields.update(extra.pop("fields", {}))
        fields.update(extra)
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(fields, enc_hook=repr).decode()


def log_json_lines(level: str = "INFO") -> None:
    """Send log records from `level` on and warnings of this process to stderr as JSON lines, by no other handlers."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
