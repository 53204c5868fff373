"""One value of an INI document, read as secretspec reads it (rust-ini without escapes). Pure.

Quoted text may hold anything but its quote, also line breaks; a backslash joins a line to the next; of a
section or key that is there twice, the first counts.
"""

import re
from collections.abc import Iterator

_BLANK = re.compile(r"(?:\s+|(?m:^)[ \t]*[;#][^\n]*(?:\n|\Z))*")
_SECTION = re.compile(r"\[([^\]]*)\]")
_KEY = re.compile(r"((?:\\.|[^=:\\])+)[=:][^\S\r\n]*", re.DOTALL)
_QUOTED = re.compile(r"\"((?:\\.|[^\"\\])*)\"|'((?:\\.|[^'\\])*)'", re.DOTALL)
_REST = re.compile(r"(?:\\.|[^\r\n\\])*(?:\\\Z)?", re.DOTALL)
_PAIR = re.compile(r"\\(.)", re.DOTALL)


def select(text: str, section: str | None, key: str) -> str:
    """Give the value of a key, of the keys before any section when `section` is None.

    Raises:
        ValueError: it is no INI document, or has no such key; the sentence holds nothing of the text.
    """
    for number, name, value in list(_entries(text.removeprefix("\ufeff"), section)):
        if number == 1 and name == key:
            return value
    raise ValueError("the stored INI has no such key")


def _entries(text: str, section: str | None) -> Iterator[tuple[int, str, str]]:
    """Give each key with its value, and how often its section has begun: 0 when it is another section."""
    seen, inside, at = int(section is None), section is None, 0
    while (at := _after(_BLANK, text, at)) < len(text):
        if text[at] == "[":
            found = _need(_SECTION, text, at, "a section is not closed")
            at = found.end()
            inside = found[1].strip() == section
            seen += inside
            continue
        found = _need(_KEY, text, at, "a line is neither a section nor a key")
        value, at = _value(text, found.end())
        yield seen if inside else 0, found[1].strip(), value


def _value(text: str, at: int) -> tuple[str, int]:
    value = ""
    first = True
    while text[at : at + 1] in {'"', "'"}:
        found = _need(_QUOTED, text, at, "a quote is not closed")
        value += _joined(found[1] if found[1] is not None else found[2])
        at, first = found.end(), False
    end = _after(_REST, text, at)
    rest = _joined(text[at:end])
    return value + (rest.strip() if first else rest.rstrip()), end


def _joined(text: str) -> str:
    return _PAIR.sub(lambda found: "" if found[1] == "\n" else found[0], text)


def _after(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at


def _need(pattern: re.Pattern[str], text: str, at: int, what: str) -> re.Match[str]:
    found = pattern.match(text, at)
    if found is None:
        raise ValueError(f"the stored value is not INI: {what}")
    return found
