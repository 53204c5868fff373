"""Read secretspec.toml: documents, profiles, inheritance. Pure."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from pydantic import BaseModel, ValidationError

from kennel_core.errors import BuildFailed
from kennel_core.manifest import plain
from kennel_core.secretspec import checks, template, toml
from kennel_core.secretspec.fields import Declaration, Defaults, Document, Profile, ProjectTable, Required
from kennel_core.secretspec.secret import Extract, Ref, Secret

PHASE = "secrets"
REVISION = "1.0"
FILE_MAX = 256 * 1024  # characters
DEFAULT = "default"

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Spec:
    """A whole file, checked. `warnings` are sentences about what is ignored."""

    project: str
    profiles: Mapping[str, Mapping[str, Secret]]
    warnings: tuple[str, ...] = ()

    def for_profile(self, profile: str) -> tuple[Secret, ...]:
        """Give the secrets of a profile, sorted by name.

        Raises:
            BuildFailed: there is no such profile.
        """
        found = self.profiles.get(profile)
        if found is None:
            there = checks.shown([plain(one) for one in sorted(self.profiles)])
            _refuse(
                f"has no profile {profile} (it has {there}); "
                f"add [profiles.{profile}], empty if nothing differs from [profiles.default]"
            )
        return tuple(found[name] for name in sorted(found))


def parse(text: str) -> Spec:
    """Read the text of a secretspec.toml.

    Raises:
        BuildFailed: it cannot be used; one sentence that names the profile and the secret, or the field.
    """
    if len(text) > FILE_MAX:
        _refuse(f"is larger than {FILE_MAX >> 10} KiB")
    try:
        raw = toml.loads(text)
    except RecursionError:
        _refuse("is nested too deeply")
    except tomllib.TOMLDecodeError as exc:
        _refuse(f"is not TOML: {plain(str(exc))}")
    document = _document(raw)
    if document.project.revision != REVISION:
        _refuse(f"has revision {plain(document.project.revision)}; this Kennel reads {REVISION}")
    if document.project.extends:
        _refuse(
            "extends other files, and only secretspec.toml itself is part of a deployment: "
            "write what they declare into it"
        )
    default = document.profiles.get(DEFAULT)
    profiles = {
        name: _profile(name, found, default) for name, found in sorted(document.profiles.items(), key=_first)
    }
    return Spec(document.project.name, profiles, tuple(_unknown(raw)))


def _first(item: tuple[str, Profile]) -> tuple[bool, str]:
    return item[0] != DEFAULT, item[0]


def _document(raw: dict[str, Any]) -> Document:
    profiles = raw.get("profiles")
    if isinstance(profiles, dict):
        raw = raw | {"profiles": {name: _split(found) for name, found in profiles.items()}}
    try:
        return Document.model_validate(raw)
    except ValidationError as exc:
        error = exc.errors(include_input=False)[0]
        where = ".".join(plain(str(part)) for part in error["loc"] if part not in {"secrets", "[key]"})
        _refuse(f"cannot be used: {where}: {error['msg'].removeprefix('Value error, ')}")


def _split(found: Any) -> Any:
    """Part a profile's table into its defaults and its secrets."""
    if not isinstance(found, dict):
        return found
    secrets = {name: entry for name, entry in found.items() if name != "defaults"}
    return {"secrets": secrets} | ({"defaults": found["defaults"]} if "defaults" in found else {})


def _profile(name: str, found: Profile, default: Profile | None) -> dict[str, Secret]:
    inherited = default.secrets if default is not None and name != DEFAULT and found.inherits else None
    if not found.secrets and inherited is None:
        _refuse(f"has nothing in profile {plain(name)}: declare a secret")
    secrets = {}
    for key in sorted({*found.secrets, *(inherited or {})}):
        try:
            secrets[key] = _secret(key, found.secrets.get(key), (inherited or {}).get(key), found.defaults)
        except ValueError as exc:
            _refuse(f"cannot be used: profile {plain(name)}, {plain(key)}: {exc}")
    try:
        checks.profile(secrets)
    except ValueError as exc:
        _refuse(f"cannot be used: profile {plain(name)}, {exc}")
    return secrets


def _secret(name: str, own: Declaration | None, inherited: Declaration | None, defaults: Defaults) -> Secret:
    """Merge field by field: the profile's own entry, then that of `default`, then the profile's defaults."""
    if not _VARIABLE.fullmatch(name):
        raise ValueError("is no name of an environment variable: letters, digits and '_', no digit first")
    if own is not None and own.required is True and own.default is not None:
        raise ValueError("is required and has a default; drop one of them")
    entries = [entry for entry in (own, inherited) if entry is not None]
    merged: dict[str, Any] = {}
    for entry in reversed(entries):
        given = {field: getattr(entry, field) for field in entry.model_fields_set}
        if {"ref", "refs"} & given.keys():  # two forms of one setting
            merged = {field: value for field, value in merged.items() if field not in {"ref", "refs"}}
        merged |= given
    if merged.get("composed") is None:
        for field in ("default", "providers"):
            merged.setdefault(field, getattr(defaults, field))
    merged.setdefault("required", defaults.required)
    final = Declaration.model_construct(**merged)
    checks.declaration(final)
    return _decided(name, final)


def _decided(name: str, found: Declaration) -> Secret:
    groups = found.required if isinstance(found.required, Required) else Required()
    grouped = isinstance(found.required, Required)
    made = isinstance(found.generate, dict) or bool(found.generate) or bool(found.prompt)
    required = found.required if isinstance(found.required, bool) else found.default is None and not grouped
    return Secret(
        name=name,
        description=found.description or "",
        required=(required or made) and found.default is None,
        default=found.default,
        template=template.parse(found.composed) if found.composed is not None else None,
        ref=_ref(found),
        as_path=bool(found.as_path),
        encoding=found.encoding,
        extract=Extract(found.extract.format, found.extract.pointer) if found.extract else None,
        made=made,
        at_least_one=tuple(groups.at_least_one or ()),
        exactly_one=tuple(groups.exactly_one or ()),
    )


def _ref(found: Declaration) -> Ref | None:
    if found.ref is None:
        return None
    if found.ref.field is None:
        raise ValueError("`ref` needs a field: an entry of OpenBao has several")
    beyond = [name for name in ("vault", "section", "version") if getattr(found.ref, name) is not None]
    if beyond:
        raise ValueError(f"`ref` has {beyond[0]}, which OpenBao does not know; drop it")
    return Ref(found.ref.item, found.ref.field)


def _unknown(raw: Mapping[str, Any]) -> Iterator[str]:
    """Say what secretspec ignores, and what Kennel does: it has one provider, and takes every secret."""
    yield from _beyond("", raw, {"project", "profiles", "providers", "scopes"})
    yield from _beyond("project.", raw["project"], ProjectTable.model_fields)
    for profile, entries in raw["profiles"].items():
        for name, entry in entries.items():
            model: type[BaseModel] = Defaults if name == "defaults" else Declaration
            yield from _beyond(f"profiles.{plain(profile)}.{plain(name)}.", entry, model.model_fields)


def _beyond(where: str, table: Mapping[str, Any], known: Mapping[str, Any] | set[str]) -> Iterator[str]:
    for key in sorted(table.keys() - set(known)):
        yield f"secretspec.toml: {where}{plain(key)} is not known here and is ignored"


def _refuse(what: str) -> NoReturn:
    raise BuildFailed(PHASE, f"secretspec.toml {what}")
