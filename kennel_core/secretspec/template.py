"""Templates of composed secrets: ``postgres://${USER}:${PASSWORD}@db/app``. Pure."""

import re
from collections.abc import Callable
from dataclasses import dataclass

RENDERED_MAX = 16 * 1024**2  # bytes

_TOKEN = re.compile(r"\$\$|\$\{([^{}]*)(\}|\{|$)")
_NAME = re.compile(r"[A-Z][A-Z0-9_]*")


@dataclass(frozen=True, slots=True)
class Template:
    """Literal texts, each but the last followed by a name: ``texts[0] names[0] texts[1] ...``."""

    texts: tuple[str, ...]
    names: tuple[str, ...]

    @property
    def dependencies(self) -> tuple[str, ...]:
        """The names, each once, sorted."""
        return tuple(sorted(set(self.names)))

    def render(self, value_of: Callable[[str], str]) -> str:
        """Put the values in; they are not looked at again.

        Raises:
            ValueError: the result would be longer than RENDERED_MAX.
        """
        parts = [self.texts[0]]
        for name, text in zip(self.names, self.texts[1:], strict=True):
            parts += (value_of(name), text)
        if sum(len(part.encode()) for part in parts) > RENDERED_MAX:
            raise ValueError(f"would be longer than {RENDERED_MAX >> 20} MiB")
        return "".join(parts)


def parse(source: str) -> Template:
    """Read a template: ``${UPPERCASE}`` is a reference, ``$$`` a dollar sign, all else stands for itself.

    Raises:
        ValueError: a reference is malformed, or there is none.
    """
    texts, names = [""], []
    end = 0
    for found in _TOKEN.finditer(source):
        texts[-1] += source[end : found.start()]
        end = found.end()
        if found[0] == "$$":
            texts[-1] += "$"
            continue
        if found[2] != "}" or not _NAME.fullmatch(found[1]):
            raise ValueError(
                f"`composed`: {found[0]} is no reference; write ${{UPPERCASE_NAME}}, and $$ for a $"
            )
        names.append(found[1])
        texts.append("")
    texts[-1] += source[end:]
    if not names:
        raise ValueError("`composed` must refer to another secret: ${UPPERCASE_NAME}")
    return Template(tuple(texts), tuple(names))
