"""Log records as one JSON object a line, or readable on a terminal; no secrets, no control characters.

Entry points call `configure` once; modules use `structlog.get_logger()`. What libraries write through the
standard library's logging takes the same form. Fields for a stretch of code:
`structlog.contextvars.bound_contextvars(build_id=7)`.
"""

import logging.config
import os
import re
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import Processor

from kennel_core.redaction import REDACTED, Redactor
from kennel_core.settings import Settings

_secrets: set[str] = set()
_redactor = Redactor(())
_userinfo = re.compile(r"(https?://)[^/\s@]+@|(\w://)[^/\s:@]*:[^/\s@]+@")
# C0, DEL and C1, the two line separators, and what turns the direction of text
_control = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def configure(settings: Settings, stream: TextIO | None = None) -> None:
    """Send every record to standard error (or `stream`) in the form that the settings ask for."""
    out = stream or sys.stderr
    final = _final(_form(settings, out), out)
    level = settings.log_level.upper()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *final,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level)),
        logger_factory=structlog.WriteLoggerFactory(out),  # past logging: a quarter of the cost for each line
        cache_logger_on_first_use=True,
    )
    logging.config.dictConfig(stdlib(settings, out))
    logging.captureWarnings(capture=True)


def stdlib(settings: Settings, stream: TextIO | None = None) -> dict[str, Any]:
    """Give what the standard library's `dictConfig` and gunicorn's `logconfig_dict` take."""
    out = stream or sys.stderr
    formatter = {
        "()": structlog.stdlib.ProcessorFormatter,
        "processors": [
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *_final(_form(settings, out), out),
        ],
        "foreign_pre_chain": [
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ],
    }
    through = {"handlers": [], "propagate": True}  # gunicorn gives its loggers handlers of their own
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"kennel": formatter},
        "handlers": {"kennel": {"class": "logging.StreamHandler", "formatter": "kennel", "stream": out}},
        "root": {"handlers": ["kennel"], "level": settings.log_level.upper()},
        "loggers": {
            "gunicorn.error": through,
            "gunicorn.access": through,
            "py.warnings": {"level": "WARNING"},
        },
    }


def register_secret(value: str) -> None:
    """Keep a value out of every record from now on, in all the ways that `redaction` knows."""
    global _redactor  # noqa: PLW0603  # one process, one set of secrets
    _secrets.add(value)
    _redactor = Redactor(_secrets)


def redact(text: str) -> str:
    """Replace registered secrets, and the user part of URLs that can hold a password, by REDACTED."""
    text = _redactor.redact(text)
    if "://" in text:
        text = _userinfo.sub(lambda found: f"{found[1] or found[2]}{REDACTED}@", text)
    return text


def redactor() -> Redactor:
    """Make one that knows the registered secrets, for text that comes in pieces."""
    return Redactor(_secrets)


def escape(text: str) -> str:
    r"""Make control characters visible: an escape sequence in a log must not reach a terminal.

    >>> escape("\x1b[2Jgone")
    '\\x1b[2Jgone'
    """
    return _control.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def _form(settings: Settings, out: TextIO) -> Literal["json", "console"]:
    if settings.log_format != "auto":
        return settings.log_format
    return "console" if out.isatty() else "json"


def _final(form: Literal["json", "console"], out: TextIO) -> list[Processor]:
    if form == "json":
        return [structlog.processors.format_exc_info, _cleaner(redact), structlog.processors.JSONRenderer()]
    colors = out.isatty() and not os.environ.get("NO_COLOR")
    return [
        structlog.processors.format_exc_info,
        _cleaner(lambda text: "\n".join(escape(line) for line in redact(text).split("\n"))),
        _one_line,
        structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=0),
    ]


def _one_line(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Keep all but a traceback on one line."""
    for key, value in event.items():
        if key != "exception" and isinstance(value, str) and "\n" in value:
            event[key] = value.replace("\n", "\\n")
    return event


def _cleaner(clean: Callable[[str], str]) -> Processor:
    def value_of(value: object) -> object:
        if isinstance(value, str):
            return clean(value)
        if value is None or isinstance(value, int | float):
            return value
        if isinstance(value, Mapping):
            return {clean(str(key)): value_of(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [value_of(inner) for inner in value]
        return clean(str(value))

    def processor(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        for key, value in event.items():
            event[key] = value_of(value)
        return event

    return processor
