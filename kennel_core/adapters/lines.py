"""Bytes of a command's output to lines that are safe to show. Pure.

A line ends with a newline. A carriage return within it means that what stood before was overwritten, as
progress bars do. Memory stays bounded whatever the command writes.
"""

import re
from collections.abc import Iterator

LINE_MAX = 64 * 1024  # bytes; a longer line comes in pieces of this size

_ESCAPES = re.compile(
    # ECMA-48 section 5.4: colours and cursor; then titles, links and other strings; then the short ones
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
)
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


def clean(text: str) -> str:
    """Take out terminal escapes and control characters, except tabs."""
    if text.isprintable():
        return text
    return _CONTROLS.sub("", _ESCAPES.sub("", text))


class Piece(str):
    """A part of a line that the next text goes on with."""

    __slots__ = ()


class Splitter:
    """Cuts one stream into lines. Bytes that are not UTF-8 become U+FFFD."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[str]:
        """Yield the lines that `data` completes."""
        *whole, rest = (self._rest + data).split(b"\n")
        for line in whole:
            yield from _pieces(line)
        rest = _overwritten(rest)
        while len(rest) > LINE_MAX:
            yield Piece(_text(rest[:LINE_MAX]))
            rest = rest[LINE_MAX:]
        self._rest = rest

    def end(self) -> Iterator[str]:
        """Yield what is left when the stream ends without a newline."""
        rest, self._rest = self._rest, b""
        if rest:
            yield from _pieces(rest)


def _pieces(line: bytes) -> Iterator[str]:
    line = _overwritten(line.removesuffix(b"\r"))
    if len(line) <= LINE_MAX:
        yield _text(line)
        return
    for start in range(0, len(line), LINE_MAX):
        text = _text(line[start : start + LINE_MAX])
        yield text if start + LINE_MAX >= len(line) else Piece(text)


def _overwritten(line: bytes) -> bytes:
    """Keep what a terminal would show; a carriage return at the very end has overwritten nothing yet."""
    if b"\r" not in line:
        return line
    body = line.rstrip(b"\r")
    shown = body.rpartition(b"\r")[2]
    return shown if len(body) == len(line) else shown + b"\r"


def _text(line: bytes) -> str:
    return clean(line.decode(errors="replace"))
