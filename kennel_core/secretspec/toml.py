"""TOML, with the line breaks in inline tables that TOML 1.1 and secretspec allow. Pure."""

import re
import tomllib
from typing import Any

_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|\#[^\n]*"
    r"|[{}\[\]]"
    r"|,(?=(?:\s|\#[^\n]*)*\})"
    r"|\n",
    re.DOTALL,
)


def loads(text: str) -> dict[str, Any]:
    """Read a document.

    Raises:
        tomllib.TOMLDecodeError: it is not TOML.
        RecursionError: it is nested too deeply.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        try:
            return tomllib.loads(_on_one_line(text))
        except tomllib.TOMLDecodeError:
            raise exc from None  # its line and column are those of the file


def _on_one_line(text: str) -> str:
    """Write each inline table on one line, without comments and without a last comma."""
    inside: list[str] = []

    def one(found: re.Match[str]) -> str:
        token = found[0]
        if token in {"{", "["}:
            inside.append(token)
        elif token in {"}", "]"}:
            if inside:
                inside.pop()
        elif "{" in inside and (token in {"\n", ","} or token.startswith("#")):
            return " "
        return token

    return _TOKEN.sub(one, text)
