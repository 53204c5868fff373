"""Read kennel.json: what a project declares. Pure.

Every generation of the file is accepted: without `version` and `resources`, with `oidc`, with and without
`health_check`. Fields that nobody knows become warnings, so that a newer module does not break a build.
"""

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, NoReturn

import idna
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from kennel_core.errors import BuildFailed
from kennel_core.oidc import redirect_path

PHASE = "discover"
VERSION = 1
DEFAULT_HEALTH_PATH = "/api/health"
RESOURCES = frozenset({"postgres", "valkey", "garage"})
HEALTH_TIMEOUT_MAX_S = 600
REDIRECT_PATHS_MAX = 20

_DOMAIN = re.compile(r"(?=.{4,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?")

_RESERVED = frozenset({"arpa", "internal", "invalid", "local", "onion"})


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", value):
        raise ValueError("must be 1 to 63 letters, digits, '-' and '_', the first a letter or digit")
    return value


def _package(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_+-]{0,126}", value):
        raise ValueError("must be the name of a package of the flake: letters, digits, '-', '_' and '+'")
    return value


def _domain(value: str) -> str:
    """Spell a domain as DNS does: lower case, other scripts in their ASCII form (RFC 5891, UTS 46)."""
    try:
        host = value.lower() if value.isascii() else idna.encode(value, uts46=True).decode()
    except idna.IDNAError as exc:
        raise ValueError(f"is no domain name: {plain(str(exc))}") from exc
    if host.rpartition(".")[2] in _RESERVED:
        raise ValueError("is below a name that no host on the Internet can have (RFC 6761, RFC 7686)")
    if not _DOMAIN.fullmatch(host):
        raise ValueError(
            "must be a full host name such as shop.example.org: no port, path, wildcard or address"
        )
    return host


def _resource(value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,31}", value):
        raise ValueError("must be a name such as postgres")
    return value


def _health_path(value: str) -> str:
    if not re.fullmatch(r"/[!-~]{0,254}", value):
        raise ValueError("must begin with '/' and hold printable ASCII only")
    return value


def _health(value: Any) -> Any:
    """``"none"`` is no check, null is the default one."""
    if value == "none":
        return None
    if value is None:
        return HealthCheck()
    if not isinstance(value, dict):
        raise ValueError('must be "none", or an object with path and timeout')  # noqa: TRY004  # for pydantic
    return {key: entry for key, entry in value.items() if entry is not None}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)


Name = Annotated[str, AfterValidator(_name)]
Domain = Annotated[str, AfterValidator(_domain)]


class HealthCheck(_Frozen):
    """When a service counts as up. `timeout` in seconds; None: the operator's setting."""

    path: Annotated[str, AfterValidator(_health_path)] = DEFAULT_HEALTH_PATH
    timeout: Annotated[float, Field(gt=0, le=HEALTH_TIMEOUT_MAX_S)] | None = None


class Oidc(_Frozen):
    """A service whose users log in. `redirect_paths` are the paths that a login may come back to."""

    redirect_paths: Annotated[
        list[Annotated[str, AfterValidator(redirect_path)]],
        Field(min_length=1, max_length=REDIRECT_PATHS_MAX),
    ]


Health = Annotated[HealthCheck | None, BeforeValidator(_health), Field(alias="health_check")]


class Service(_Frozen):
    """A process; its package has the service's name. `health` None: no check."""

    custom_domain: Domain | None = None
    health: Annotated[HealthCheck | None, BeforeValidator(_health), Field(alias="health_check")] = (
        HealthCheck()
    )
    oidc: Oidc | None = None


class Site(_Frozen):
    """A folder of files. `spa`: unknown paths get index.html."""

    package_attr: Annotated[str, AfterValidator(_package)] = ""  # empty only until `parse` fills it in
    spa: bool = False
    custom_domain: Domain | None = None


class Manifest(_Frozen):
    """A project's declaration. `resources` None: the file predates the field."""

    version: int | None = None
    services: dict[Name, Service] = {}
    static_sites: dict[Name, Site] = {}
    preview_deployments: bool = True
    resources: list[Annotated[str, AfterValidator(_resource)]] | None = None
    warnings: tuple[str, ...] = Field(default=(), exclude=True)

    def packages(self) -> list[str]:
        """Name the flake's packages that are to be built, each once, sorted."""
        return sorted({*self.services, *(site.package_attr for site in self.static_sites.values())})


def parse(text: str) -> Manifest:
    """Read the text of a kennel.json.

    Raises:
        BuildFailed: it cannot be used; one sentence that names the field.
    """
    try:
        raw = json.loads(text)
    except RecursionError:
        _refuse("is nested too deeply")
    except ValueError as exc:
        _refuse(f"is not JSON: {exc}")
    if not isinstance(raw, dict):
        _refuse("must be a JSON object")
    version = raw.get("version")
    if version is not None and (type(version) is not int or version != VERSION):
        _refuse(
            f"has version {json.dumps(version)[:20]}, this Kennel reads version {VERSION}; "
            "run `devenv update` and push, or ask for a newer Kennel"
        )
    raw = _without_nulls(raw)
    try:
        manifest = Manifest.model_validate({**raw, "warnings": tuple(_unknown(raw))})
    except ValidationError as exc:
        raise BuildFailed(PHASE, f"kennel.json: {_sentence(exc)}") from exc
    _check(manifest)
    sites = {
        name: site.model_copy(update={"package_attr": site.package_attr or name})
        for name, site in manifest.static_sites.items()
    }
    return manifest.model_copy(update={"static_sites": sites})


def _without_nulls(raw: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is null, at the top and in each entry: modules write options that are not set so."""
    kept = {key: value for key, value in raw.items() if value is not None}
    for group in ("services", "static_sites"):
        if isinstance(kept.get(group), dict):
            kept[group] = {
                name: {key: value for key, value in entry.items() if value is not None}
                if isinstance(entry, dict)
                else entry
                for name, entry in kept[group].items()
            }
    return kept


def _check(manifest: Manifest) -> None:
    if not manifest.services and not manifest.static_sites:
        _refuse("defines no services or static sites; set scottylabs.kennel.services in devenv.nix")
    twice = sorted(manifest.services.keys() & manifest.static_sites.keys())
    if twice:
        _refuse(f"declares {twice[0]} as a service and as a static site; rename one of them")


def _unknown(raw: dict[str, Any]) -> Iterator[str]:
    """Say what nobody here knows."""
    known = {field.alias or name for name, field in Manifest.model_fields.items()} - {"warnings"}
    for key in sorted(raw.keys() - known):
        yield f"kennel.json: {plain(key)} is not known here and is ignored"
    for group, model in (("services", Service), ("static_sites", Site)):
        entries = raw.get(group)
        known = {field.alias or name for name, field in model.model_fields.items()}
        for name, entry in entries.items() if isinstance(entries, dict) else ():
            for key in sorted(entry.keys() - known) if isinstance(entry, dict) else ():
                yield f"kennel.json: {group}.{plain(name)}.{plain(key)} is not known here and is ignored"
    resources = raw.get("resources")
    for name in resources if isinstance(resources, list) else ():
        if isinstance(name, str) and name not in RESOURCES:
            yield f"kennel.json: resources: there is no {plain(name)} here; it is ignored"


def _sentence(exc: ValidationError) -> str:
    first = exc.errors()[0]
    where = ".".join(plain(str(part)) for part in first["loc"] if part != "[key]")
    what = first["msg"].removeprefix("Value error, ")
    return f"{where}: {what}, not {plain(json.dumps(first['input'], default=str))}"


def plain(text: str) -> str:
    """Make text of a repository fit for a sentence: printable, at most 60 characters."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown if len(shown) <= 60 else f"{shown[:59]}…"


def _refuse(what: str) -> NoReturn:
    raise BuildFailed(PHASE, f"kennel.json {what}")
