"""Find secrets in text, in the ways in which they are commonly written, and replace them. Pure.

Found are the value itself, URL-quoted, as in JSON, and within base64 of both alphabets, whatever is before
and after it there. Of a value of several lines each long line is found. Not found are values of fewer
than SECRET_MIN characters, which ordinary words would hold, what lies beyond LINE_MAX characters of a line,
and a secret that is written in pieces or compressed.
"""

import base64
import json
import re
from collections.abc import Iterable, Iterator
from typing import TypeVar
from urllib.parse import quote, quote_plus

REDACTED = "[redacted]"
SECRET_MIN = 6  # characters
OF_SEVERAL_MIN = 12  # characters of one of several lines: shorter ones are `},` and the like
LINE_MAX = 16 * 1024  # characters of a line that are looked for
PIECE = 1024  # characters: a longer line is found piece by piece, so that little has to be held back


T = TypeVar("T", str, bytes)


class Redactor:
    """Replaces secrets in text that comes whole (`redact`) or in chunks of any size (`feed`, then `end`)."""

    def __init__(self, values: Iterable[str | bytes]) -> None:
        forms = {form for value in values for form in _forms(value) if len(form) >= SECRET_MIN}
        self._forms = sorted(forms, key=lambda form: (-len(form), form))
        self._pattern = re.compile("|".join(map(re.escape, self._forms)) or "(?!)")
        self._by_first: dict[str, list[str]] = {}
        for form in self._forms:
            self._by_first.setdefault(form[0], []).append(form)
        self._longest = len(self._forms[0]) if self._forms else 0
        self._held = ""

    def redact(self, text: str) -> str:
        """Replace every secret by REDACTED; of two that overlap, the first and longer one."""
        return self._pattern.sub(REDACTED, text) if self._is_in(text) else text

    def feed(self, text: str) -> str:
        """Take more text; returns what can be shown. The beginning of what may be a secret is held back."""
        text = self._held + text
        shown = ""
        while True:
            begins = self._beginning(text)
            split = self._end_of_one_around(begins, text) if begins < len(text) else None
            if split is None:
                self._held = text[begins:]
                return shown + self.redact(text[:begins])
            shown += self.redact(text[:split])
            text = text[split:]

    def end(self) -> str:
        """Return what was held back: nothing more comes."""
        rest, self._held = self._held, ""
        return self.redact(rest)

    def _is_in(self, text: str) -> bool:
        # Looking for each form is faster than one pattern of them all, and nearly no text has any.
        for form in self._forms:  # noqa: SIM110  # half the time of any()
            if form in text:
                return True
        return False

    def _end_of_one_around(self, at: int, text: str) -> int | None:
        """Give where a whole secret ends that begins before `at` and ends after it."""
        if not self._is_in(text):
            return None
        ends = (found.end() for found in self._pattern.finditer(text) if found.start() < at < found.end())
        return next(ends, None)

    def _beginning(self, text: str) -> int:
        """Give where a secret may begin that the text's end cuts off; the text's length where none does."""
        line = text.rfind("\n") + 1  # no form goes over a line's end
        for at in range(max(line, len(text) - self._longest + 1), len(text)):
            for form in self._by_first.get(text[at], ()):
                if len(form) > len(text) - at and form.startswith(text[at:]):
                    return at
        return len(text)


def _forms(value: str | bytes) -> Iterator[str]:
    """Give everything to look for, for one secret."""
    if isinstance(value, bytes) and not _is_text(value):
        yield from (form for piece in _pieces(value) for form in _base64(piece))
        return
    text = value if isinstance(value, str) else value.decode()
    lines = [line.strip() for line in text.splitlines()]
    if len(lines) > 1:
        lines = [line for line in lines if len(line) >= OF_SEVERAL_MIN and not line.startswith("-----")]
    for line in lines:
        yield from (form for piece in _pieces(line) for form in _written(piece))


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _pieces(value: T) -> list[T]:
    return [value[start : start + PIECE] for start in range(0, min(len(value), LINE_MAX), PIECE)]


def _written(text: str) -> set[str]:
    """Give the ways in which one line of text is commonly written."""
    if len(text) < SECRET_MIN:
        return set()
    plain = {text, quote(text), quote(text, safe=""), quote_plus(text), json.dumps(text)[1:-1]}
    return plain | {json.dumps(text, ensure_ascii=False)[1:-1]} | _base64(text.encode())


def _base64(data: bytes) -> set[str]:
    """Give what bytes look like within base64, at each of three places in its groups of three bytes."""
    forms = set()
    for before in range(3):
        whole = (before + len(data)) * 8 // 6  # characters that nothing after the secret has a part in
        first = -(-before * 8 // 6)  # ... and nothing before it
        coded = base64.b64encode(bytes(before) + data).decode()[first:whole]
        forms |= {coded, coded.translate(str.maketrans("+/", "-_"))}
    return forms
