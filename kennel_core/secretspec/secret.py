"""One secret of one profile, everything inherited and decided. Pure."""

from dataclasses import dataclass
from typing import Literal

from kennel_core.secretspec.template import Template

Encoding = Literal["base64", "base64url", "hex"]


@dataclass(frozen=True, slots=True)
class Ref:
    """An entry that somebody else keeps: its path below the mount, and one of its fields."""

    item: str
    field: str


@dataclass(frozen=True, slots=True)
class Extract:
    """Where a document has the value: a JSON Pointer (RFC 6901), for INI ``/key`` or ``/section/key``."""

    format: Literal["json", "ini"]
    pointer: str


@dataclass(frozen=True, slots=True)
class Secret:
    """What a profile says of one name. `required`: without a value nothing starts.

    The members of a group are not required each for itself. `made`: secretspec would generate or ask for it.
    """

    name: str
    description: str
    required: bool = True
    default: str | None = None
    template: Template | None = None
    ref: Ref | None = None
    as_path: bool = False
    encoding: Encoding | None = None
    extract: Extract | None = None
    made: bool = False
    at_least_one: tuple[str, ...] = ()
    exactly_one: tuple[str, ...] = ()
