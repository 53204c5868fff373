"""The journal, through journalctl.

Source: journalctl(1), systemd.journal-fields(7).
"""

import contextlib
import json
import os
import re
import select
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kennel_core.adapters.lines import Piece
from kennel_core.errors import Unavailable

READ_TIMEOUT_S = 10.0  # without a byte, when not following
BEAT_S = 1.0  # how often a follower hears something
ENTRY_MAX = 1024 * 1024  # bytes of one entry as JSON; a longer one is left out

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_FIELDS = "MESSAGE,_SYSTEMD_UNIT,_UID,_LINE_BREAK"
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])")
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def read(  # noqa: PLR0913  # what a reader of a log can choose
    deployment_id: int,
    unit: str | None,
    *,
    lines: int,
    since: str | None,
    follow: bool,
    directory: Path | None,
) -> Generator[str, None, None]:
    """Yield lines ``TIMESTAMP message`` of a deployment: the last `lines`, no older than `since`.

    They are those of all its revisions, and what systemd says of `unit`. For `since` see `parse_since`.
    With `follow` it goes on for ever and yields "" about every second in which nothing came, so that the
    caller notices when its own reader has gone. Closing the generator ends the process behind it.
    `directory` is the journal's where it is not the host's own. A line that was too long for the journal
    comes in parts, of which all but the last are a `Piece`.

    Raises:
        ValueError: `since` is malformed.
        Unavailable: there is no journalctl, or it failed or hung.
    """
    start, cursor = time.time(), ""
    matches = _matches(f"KENNEL_DEPLOYMENT={deployment_id}", unit)
    options = [f"--lines={lines}"]
    if since is not None:
        options = _first_of_last(lines, parse_since(since), matches, directory)
    for entry in _entries([*options, *matches], directory, follow=False) if options else ():
        cursor = entry["__CURSOR"]
        yield from _lines(entry, unit)
    if not follow:
        return
    # `--follow --lines=N` loses the first lines of a unit that has none yet, so the position is always given
    position = f"--after-cursor={cursor}" if cursor else f"--since=@{start:.6f}"
    for entry in _entries(["--follow", "--no-tail", position, *matches], directory, follow=True):
        yield from _lines(entry, unit) if entry else ("",)


def tail(unit: str, lines: int, directory: Path | None) -> list[str]:
    """Give the last messages of a unit and of systemd about it, oldest first, for an error message.

    Raises:
        Unavailable: as `read`.
    """
    matches = _matches(f"_SYSTEMD_UNIT={unit}", unit)
    entries = _entries([f"--lines={lines}", *matches], directory, follow=False)
    return [line for entry in entries for line in _messages(entry)][-lines:]


def parse_since(text: str) -> float:
    """Turn a point in time into Unix seconds.

    `text` is ISO 8601 (UTC where it names no zone), Unix seconds, or an age: ``15m``, ``2h``, ``3d``.

    Raises:
        ValueError: it is none of these; the message says what is.
    """
    if re.fullmatch(r"[0-9]{1,11}(\.[0-9]{1,6})?", text, re.ASCII):
        return float(text)
    if age := re.fullmatch(r"([0-9]{1,6})([smhd])", text, re.ASCII):
        return max(0.0, time.time() - int(age[1]) * _UNITS[age[2]])
    try:
        if not re.fullmatch(r"[0-9T:.Z+ -]{8,35}", text, re.ASCII):
            raise ValueError  # noqa: TRY301  # one message for all that is malformed
        moment = datetime.fromisoformat(text)
        return max(0.0, moment.replace(tzinfo=moment.tzinfo or UTC).timestamp())
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text[:40]!r} is not a time: use 2026-01-31T12:00:00Z, Unix seconds, or an age such as 15m"
        ) from None


def _first_of_last(lines: int, since: float, matches: list[str], directory: Path | None) -> list[str]:
    """Find where the last `lines` entries since a time begin: with --since, --lines counts from the start."""
    cursor = ""
    options = ["--reverse", f"--lines={lines}", f"--since=@{since:.6f}"]
    for entry in _entries([*options, *matches], directory, follow=False):
        cursor = entry["__CURSOR"]
    return [f"--cursor={cursor}"] if cursor else []


def _matches(own: str, unit: str | None) -> list[str]:
    """Select the lines of a service, and those of the system's or the user's manager about its unit."""
    groups = [[own]]
    if unit is not None:
        user = f"_UID={os.getuid()}"
        groups += [[f"UNIT={unit}", "_PID=1"]]
        groups += [[f"_SYSTEMD_USER_UNIT={unit}", user], [f"USER_UNIT={unit}", user]]
    matches: list[str] = []
    for group in groups:
        matches += ["+", *group] if matches else group
    return matches


def _is_forged(entry: Mapping[str, Any], unit: str | None) -> bool:
    """Tell whether something else wrote this line and claims to be the deployment.

    Only fields that begin with ``_`` are journald's own word. Of these, the lines of a process that has
    ended already have little more than the unit.
    """
    writer = str(entry.get("_SYSTEMD_UNIT"))
    if not writer.startswith("kennel-"):
        return entry.get("_UID") not in ("0", str(os.getuid()))  # the managers
    return unit is not None and writer.rpartition("-")[0] != unit.rpartition("-")[0]  # all but the revision


def _lines(entry: Mapping[str, Any], unit: str | None) -> Iterator[str]:
    if _is_forged(entry, unit):
        return
    moment = datetime.fromtimestamp(int(entry["__REALTIME_TIMESTAMP"]) / 1e6, UTC)
    stamp = f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond:06d}Z"
    goes_on = entry.get("_LINE_BREAK") == "line-max"
    for message in _messages(entry):
        yield Piece(f"{stamp} {message}") if goes_on else f"{stamp} {message}"


def _messages(entry: Mapping[str, Any]) -> list[str]:
    """Give the lines of a message, which journalctl writes as text, bytes, or a list of either."""
    value = entry.get("MESSAGE")
    if isinstance(value, list) and all(isinstance(item, int) for item in value):
        value = bytes(value).decode(errors="replace")
    values = value if isinstance(value, list) else [value or ""]
    texts = [bytes(item).decode(errors="replace") if isinstance(item, list) else str(item) for item in values]
    return [_CONTROLS.sub("", _ESCAPES.sub("", line)) for text in texts for line in text.split("\n")]


def _entries(arguments: list[str], directory: Path | None, *, follow: bool) -> Iterator[dict[str, Any]]:
    """Run journalctl and yield its entries; an empty one for each `BEAT_S` of silence when following."""
    argv = ["journalctl", "--output=json", "--all", "--no-pager", "--quiet", f"--output-fields={_FIELDS}"]
    argv += [f"--directory={directory}"] if directory else []
    with tempfile.TemporaryFile() as errors:
        try:
            child = subprocess.Popen(
                [*argv, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
            )
        except OSError as exc:
            raise Unavailable("journal", "read", f"cannot run journalctl: {exc.strerror}") from exc
        with child:
            try:
                yield from _parsed(child, follow=follow)
                status = child.wait(READ_TIMEOUT_S)
            except (TimeoutError, subprocess.TimeoutExpired) as exc:
                raise Unavailable("journal", "read", f"nothing within {READ_TIMEOUT_S:g} s") from exc
            finally:
                child.kill()
        if status:
            errors.seek(0)
            detail = errors.read(1000).decode(errors="replace").strip()
            raise Unavailable("journal", "read", detail or f"journalctl ended with status {status}")


def _parsed(child: subprocess.Popen[bytes], *, follow: bool) -> Iterator[dict[str, Any]]:
    assert child.stdout is not None  # noqa: S101  # it is a pipe
    output = child.stdout.fileno()
    poll = select.poll()
    poll.register(output, select.POLLIN)
    rest = b""
    while True:
        if not poll.poll((BEAT_S if follow else READ_TIMEOUT_S) * 1000):
            if not follow:
                raise TimeoutError
            yield {}
            continue
        data = os.read(output, 65536)
        if not data:
            return
        *whole, rest = (rest + data).split(b"\n")
        rest = rest[:ENTRY_MAX]  # what is cut is no JSON any more, and left out
        for line in whole:
            with contextlib.suppress(ValueError):
                yield json.loads(line)
