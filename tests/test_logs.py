import base64
import io
import json
import logging
from collections.abc import Iterator
from urllib.parse import quote_plus

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from kennel_core import logs
from kennel_core.redaction import Redactor
from kennel_core.settings import Settings

SECRETIVE = ("event", "env", "argv", "exception")


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave logging as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(logs, "_secrets", set())
    monkeypatch.setattr(logs, "_redactor", Redactor(()))
    yield
    structlog.reset_defaults()
    logging.captureWarnings(capture=False)
    root.handlers[:], root.level = handlers, level


def configured(form: str, level: str = "info") -> io.StringIO:
    out = io.StringIO()
    logs.configure(Settings(log_format=form, log_level=level), out)
    return out


def records(out: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_record_is_one_json_object_with_the_bound_fields() -> None:
    out = configured("json")

    with structlog.contextvars.bound_contextvars(build_id=7, phase="clone"):
        structlog.get_logger().info("fetched", seconds=1.5)
    structlog.get_logger().info("after")

    first, second = records(out)
    assert (
        first.items()
        >= {
            "event": "fetched",
            "build_id": 7,
            "phase": "clone",
            "seconds": 1.5,
            "level": "info",
        }.items()
    )
    assert "build_id" not in second


@pytest.mark.parametrize("name", ["celery.worker", "gunicorn.error", "kombu"])
def test_what_libraries_log_takes_the_same_form(name: str) -> None:
    out = configured("json")

    with structlog.contextvars.bound_contextvars(build_id=7):
        logging.getLogger(name).warning("lost %s", "the broker")

    assert records(out)[0].items() >= {"event": "lost the broker", "logger": name, "build_id": 7}.items()


def test_a_traceback_stays_on_the_line_of_its_record() -> None:
    out = configured("json")
    try:
        int("odd")
    except ValueError:
        structlog.get_logger().exception("failed")

    (record,) = records(out)
    assert record["exception"].endswith("'odd'")


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("write", [structlog.get_logger, lambda: logging.getLogger("library")])
def test_control_characters_are_escaped(form: str, write) -> None:
    out = configured(form)

    write().warning("\x1b[2J\x07 \x9b31m one\rtwo\nthree \u202e reversed \u2028 \x00")

    text = out.getvalue()
    assert text.count("\n") == 1
    assert "reversed" in text
    assert not set(text[:-1]) & set("\x1b\x07\x9b\r\u202e\u2028\x00")


def test_a_secret_is_kept_out_of_messages_fields_and_tracebacks() -> None:
    out = configured("json")
    logs.register_secret("hunter2+/ö")

    try:
        int("hunter2+/ö")
    except ValueError:
        structlog.get_logger().exception(
            "hunter2+/ö", env={"TOKEN": "hunter2+/ö"}, argv=["--token", "hunter2+/ö"]
        )
    logging.getLogger("library").error("%s", {"auth": "hunter2+/ö"})

    assert "hunter2" not in out.getvalue()
    assert all(logs.REDACTED in str(value) for value in (records(out)[0][key] for key in SECRETIVE))


@given(
    before=st.binary(max_size=5), after=st.binary(max_size=5), secret=st.text("abcXYZ019-_/+=ü", min_size=8)
)
def test_a_secret_is_found_within_base64_and_urls(before: bytes, after: bytes, secret: str) -> None:
    logs.register_secret(secret)
    whole = before + secret.encode() + after

    for text in (
        secret,
        quote_plus(secret),
        base64.b64encode(whole).decode(),
        base64.urlsafe_b64encode(whole).decode(),
    ):
        assert logs.REDACTED in logs.redact(f"<{text}>"), text


def test_each_line_of_a_private_key_is_a_secret() -> None:
    logs.register_secret("-----BEGIN KEY-----\nMIIEvQIBADANBg\n-----END KEY-----\n")

    assert logs.redact("read MIIEvQIBADANBg") == f"read {logs.REDACTED}"


def test_a_short_value_is_not_taken_for_a_secret() -> None:
    logs.register_secret("dev")

    assert logs.redact("devenv build") == "devenv build"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://ada:pw@forge.example/x", "https://[redacted]@forge.example/x"),
        ("https://token@forge.example/x", "https://[redacted]@forge.example/x"),
        ("redis://:pw@host/0", "redis://[redacted]@host/0"),
        ("ssh://git@forge.example/x", "ssh://git@forge.example/x"),
        ("https://forge.example/@scope", "https://forge.example/@scope"),
    ],
)
def test_passwords_in_urls_are_kept_out(url: str, shown: str) -> None:
    assert logs.redact(url) == shown


def test_lines_below_the_level_are_not_written() -> None:
    out = configured("json", level="warning")

    structlog.get_logger().info("quiet")
    logging.getLogger("library").info("quiet")

    assert out.getvalue() == ""


def test_no_colours_outside_a_terminal() -> None:
    out = configured("console")

    structlog.get_logger().error("plain", build_id=7)

    assert "\x1b" not in out.getvalue()
    assert "plain" in out.getvalue()
