"""The fields of secretspec.toml as they are written, before anything is inherited. Pure.

Fields that secretspec does not know are ignored, as it ignores them; `spec` warns of them.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from kennel_core.secretspec.secret import Encoding

TYPES = frozenset({"password", "hex", "base64", "uuid", "command", "rsa_private_key"})


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)


class _Closed(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


def _groups(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _table(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError(  # noqa: TRY004  # for pydantic
            'must be a table such as { item = "shared/mail", field = "password" }'
        )
    return value


Groups = Annotated[list[str] | None, BeforeValidator(_groups)]


class Required(_Closed):
    """The table form of `required`."""

    at_least_one: Groups = None
    exactly_one: Groups = None


class Address(_Closed):
    """`ref`, with the coordinates that only other stores know."""

    item: str
    field: str | None = None
    vault: str | None = None
    section: str | None = None
    version: str | None = None


class Extraction(_Closed):
    """`extract`."""

    format: Literal["json", "ini"]
    pointer: str


class Declaration(_Strict):
    """One secret of one profile."""

    description: str | None = None
    required: bool | Required | None = None
    default: str | None = None
    composed: str | None = None
    providers: list[str] | None = None
    ref: Annotated[Address | None, BeforeValidator(_table)] = None
    refs: dict[str, Address] | None = None
    as_path: bool | None = None
    encoding: Encoding | None = None
    extract: Extraction | None = None
    type: str | None = None
    generate: bool | dict[str, Any] | None = None
    prompt: bool | None = None


class Defaults(_Strict):
    """``[profiles.<name>.defaults]``."""

    inherit: bool | None = None
    required: bool | None = None
    default: str | None = None
    providers: list[str] | None = None


class ProjectTable(_Strict):
    """``[project]``."""

    name: Annotated[str, Field(min_length=1)]
    revision: str
    extends: list[str] | None = None
    require_reason: bool | Literal["agents"] | None = None


class Profile(_Strict):
    """``[profiles.<name>]``: a secret for each name."""

    defaults: Defaults = Defaults()
    secrets: dict[str, Declaration] = {}

    @property
    def inherits(self) -> bool:
        """Whether it takes over what ``[profiles.default]`` has."""
        return self.defaults.inherit is not False


class Document(_Strict):
    """The whole file."""

    project: ProjectTable
    profiles: Annotated[dict[str, Profile], Field(min_length=1)]
