"""From the text that is stored to the secret's own value: decoding, then extraction. Pure.

Every ValueError is one sentence that holds nothing of the stored text.
"""

import base64
import binascii
import json
import re
from typing import Any

from kennel_core.secretspec import ini
from kennel_core.secretspec.secret import Encoding, Extract

_INDEX = re.compile(r"0|[1-9][0-9]*")


class _Number(str):  # as it is written: 1.0 stays 1.0, and no digit is lost
    __slots__ = ()


def decode(encoding: Encoding, text: str) -> bytes:
    """Decode stored text; one line break at its end is left out, padding may be.

    Raises:
        ValueError: it is not of that encoding.
    """
    text = text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text
    if encoding == "hex":
        if not re.fullmatch(r"([0-9A-Fa-f]{2})*", text):
            raise ValueError("the stored value is not hex")
        return bytes.fromhex(text)
    found = _base64(text, "-_" if encoding == "base64url" else "+/")
    if found is None:
        raise ValueError(f"the stored value is not {encoding}")
    return found


def _base64(text: str, last_two: str) -> bytes | None:
    """Decode strictly: nothing of another alphabet, no bits set that belong to nothing."""
    if "=" not in text:
        text += "=" * (-len(text) % 4)
    parts = []
    for block in re.findall(r"[^=]*=*", text):  # several padded texts one after the other are one
        try:
            part = base64.b64decode(block, altchars=last_two.encode(), validate=True)
        except (binascii.Error, ValueError):
            return None
        if base64.b64encode(part, last_two.encode()).decode() != block:
            return None
        parts.append(part)
    return b"".join(parts)


def extract(how: Extract, text: str) -> str:
    """Select one value of a JSON or INI document.

    Raises:
        ValueError: it is no such document, or has nothing there.
    """
    if how.format == "json":
        return _of_json(how.pointer, text)
    *section, key = _segments(how.pointer)
    return ini.select(text, section[0] if section else None, key)


def _segments(pointer: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]


def _of_json(pointer: str, text: str) -> str:
    try:
        selected: Any = json.loads(text, parse_int=_Number, parse_float=_number, parse_constant=_no_constant)
        for segment in _segments(pointer):
            selected = _below(selected, segment)
        shown = str(selected) if isinstance(selected, str) else _write(selected)
        shown.encode()
    except LookupError:
        raise ValueError(f"the stored JSON has nothing at {pointer}") from None
    except (ValueError, RecursionError):  # half a surrogate pair, too
        raise ValueError("the stored value is not JSON") from None
    return shown


def _below(document: Any, segment: str) -> Any:
    if isinstance(document, dict):
        return document[segment]
    if isinstance(document, list) and _INDEX.fullmatch(segment):
        return document[int(segment)]
    raise LookupError


def _number(text: str) -> _Number:
    return _Number(re.sub(r"[eE]([+-]?)", lambda found: f"e{found[1] or '+'}", text))


def _no_constant(_name: str) -> None:
    raise ValueError


def _write(value: Any) -> str:
    """Write JSON without spaces, numbers as they were."""
    if isinstance(value, _Number):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{_write(key)}:{_write(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_write, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
