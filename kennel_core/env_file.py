"""Spell variables as a file that systemd reads: ``EnvironmentFile=`` of systemd.exec(5). Pure."""

import re
from collections.abc import Mapping


def render(variables: Mapping[str, str]) -> str:
    r"""Return one assignment for each variable, sorted; a value may hold anything but NUL.

    >>> print(render({"GREETING": 'say "hi" for $5'}), end="")
    GREETING="say \"hi\" for \$5"
    """
    return "".join(f'{name}="{_escaped(value)}"\n' for name, value in sorted(variables.items()))


def values(text: str) -> list[str]:
    """Read back the values that `render` spelled.

    >>> values(render({"GREETING": 'say "hi" for $5'}))
    ['say "hi" for $5']
    """
    found = re.findall(r'^\w+="((?:[^"\\]|\\.)*)"$', text, re.MULTILINE | re.DOTALL)
    return [re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL) for value in found]


def _escaped(value: str) -> str:
    """Escape what systemd unescapes within double quotes, and nothing else."""
    return "".join(f"\\{character}" if character in '"\\`$' else character for character in value)
