"""The secrets of a project in one environment: its secretspec.toml, resolved from OpenBao.

A secret KEY is the field `value` of ``secretspec/{project}/{profile}/{KEY}``, as secretspec keeps it, or what
its `ref` names. A project reads its own path of that profile (a preview never what is prod's) and what
`settings.secrets_shared` allows, nothing else.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from kennel_core import derived, secretspec
from kennel_core.adapters.openbao import Entry, OpenBao
from kennel_core.errors import BuildFailed, ConfigError
from kennel_core.manifest import plain
from kennel_core.provider import is_plain
from kennel_core.secretspec import DIRECTORY, PHASE, Resolution, Secret, Spec
from kennel_core.settings import Settings

VARIABLE_MAX = 128 * 1024 - 1  # bytes of NAME=value: MAX_ARG_STRLEN of Linux, with its final NUL
FIELD = "value"
ROOT = "secretspec"


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a service gets. `versions` is what to ask `Secrets.changed` with later; it holds no secret.

    `variables` are by name; `files` are secrets that want to be files, by the name of the variable that holds
    the path. `beside_files` are variables composed of such paths, see `environment`.
    """

    variables: Mapping[str, str] = field(repr=False)
    files: Mapping[str, bytes] = field(repr=False)
    versions: Mapping[str, int]
    beside_files: Mapping[str, str] = field(default_factory=dict, repr=False)

    def environment(self, directory: str) -> dict[str, str]:
        """Return all variables, for files that lie in `directory` under their variables' names."""
        paths = {name: f"{directory}/{name}" for name in self.files}
        composed = {name: text.replace(DIRECTORY, directory) for name, text in self.beside_files.items()}
        return {**self.variables, **paths, **composed}


@dataclass(frozen=True, slots=True)
class Checked:
    """What `Secrets.check` found of one secret, without its value. `path` is None for a composed one."""

    name: str
    source: secretspec.Source
    required: bool
    path: str | None
    description: str


@dataclass(frozen=True, slots=True)
class Check:
    """All secrets of a project in one environment; `problems` and `warnings` are sentences."""

    secrets: tuple[Checked, ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


class Secrets:
    """Reads from the provider of the settings. Threads may use it at once; one login serves them all."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._openbao = OpenBao(settings) if settings.secrets else None
        self._shared = tuple(f"{prefix.strip('/')}/" for prefix in settings.secrets_shared.split())

    def resolve(self, spec_text: str, project: str, profile: str) -> Resolved:
        """Give the secrets of a project, named as its repository, in a profile, named as the environment.

        Raises:
            BuildFailed: the file or a value cannot be used, or something required is not there: one message
                that names the exact path of everything that is missing.
            Unavailable: OpenBao cannot be asked now.
            Rejected: OpenBao does not allow it.
        """
        spec, secrets = self._read_spec(spec_text, project, profile)
        found, versions = self._look(spec, secrets, profile)
        self._complain(spec, secrets, profile, found)
        for name, text in found.values.items():
            _check_variable(name, text)
        rest = {name: text for name, text in found.values.items() if DIRECTORY in text}
        whole = {name: text for name, text in found.values.items() if name not in rest}
        return Resolved(whole, found.files, versions, rest)

    def check(self, spec_text: str, project: str, profile: str) -> Check:
        """Tell of each secret where it comes from, and what is wrong.

        Raises:
            BuildFailed: the file or a value cannot be used.
            Unavailable, Rejected: as in `resolve`.
        """
        spec, secrets = self._read_spec(spec_text, project, profile)
        found, _versions = self._look(spec, secrets, profile)
        checked = []
        for secret in secrets:
            path = None if secret.template else self._full(_address(spec, secret, profile)[0])
            source = found.sources[secret.name]
            checked.append(Checked(secret.name, source, secret.required, path, secret.description))
        problems = (*self._missing(spec, secrets, profile, found), *found.groups, *found.unusable)
        return Check(tuple(checked), problems, spec.warnings)

    def changed(self, versions: Mapping[str, int]) -> bool:
        """Tell whether `changed_paths` would name any.

        Raises:
            Unavailable, Rejected: as in `resolve`.
        """
        return bool(self.changed_paths(versions))

    def changed_paths(self, versions: Mapping[str, int]) -> frozenset[str]:
        """Name those of `versions` that are another version now, or are there now, or are gone.

        Of KV v2 only metadata is read; v1 has none, so there entries are read.

        Raises:
            Unavailable, Rejected: as in `resolve`.
        """
        if not versions:
            return frozenset()
        openbao = self._reader()
        paths = {path: path.removeprefix(f"{openbao.mount}/") for path in versions}
        if any(path == below for path, below in paths.items()):
            return frozenset(versions)  # another mount was configured since
        if openbao.where.kv == 1:
            now = {path: self._version(entry) for path, entry in openbao.read(paths.values()).items()}
        else:
            now = {path: version or 0 for path, version in openbao.versions(paths.values()).items()}
        return frozenset(path for path, version in versions.items() if now[paths[path]] != version)

    def write(self, project: str, profile: str, key: str, value: str) -> bool:
        """Store a value where secretspec looks for it; returns whether it was another one before.

        Raises:
            Unavailable, Rejected: as in `resolve`; the role may be one that only reads.
        """
        return self._reader().write(_own(project, profile, key), {FIELD: value})

    def remove(self, project: str, profile: str, keys: Sequence[str], value: str) -> bool:
        """Remove what `write` stored under `keys` where the first has this value; returns whether it had.

        Raises:
            Unavailable, Rejected: as in `resolve`; the role may be one that deletes nothing.
        """
        paths = [_own(project, profile, key) for key in keys]
        openbao = self._reader()
        entry = openbao.read(paths[:1])[paths[0]]
        if entry is None or entry.fields.get(FIELD) != value:
            return False
        for path in reversed(paths):  # the one that says whose they are goes last
            openbao.delete(path)
        return True

    def _read_spec(self, text: str, project: str, profile: str) -> tuple[Spec, tuple[Secret, ...]]:
        spec = secretspec.parse(text)
        if spec.project.lower() != project.lower():
            _refuse(
                f"secretspec.toml is of project {plain(spec.project)}, and this one is {project}: "
                f'set name = "{project}" below [project]'
            )
        secrets = spec.for_profile(profile)
        for secret in secrets:
            self._check_ref(secret, f"{ROOT}/{spec.project}/{profile}/")
        return spec, secrets

    def _check_ref(self, secret: Secret, own: str) -> None:
        if secret.ref is None:
            return
        item = secret.ref.item.strip("/")
        allowed = (*self._shared, own)
        if not is_plain(item):
            _refuse(
                f"{secret.name}: ref {plain(secret.ref.item)} must be a plain path, without '..', '%' or '//'"
            )
        if not item.startswith(allowed):
            _refuse(
                f"{secret.name}: ref {plain(secret.ref.item)} may not be read; allowed is what is below "
                f"{', '.join(allowed)}. KENNEL_SECRETS_SHARED says so"
            )

    def _look(self, spec: Spec, secrets: Sequence[Secret], profile: str) -> tuple[Resolution, dict[str, int]]:
        """Resolve, with one read for each path."""
        versions: dict[str, int] = {}

        def read(stored: Sequence[Secret]) -> dict[str, str]:
            addresses = {secret.name: _address(spec, secret, profile) for secret in stored}
            if not addresses:
                return {}
            if self._openbao is None and not any(secret.required for secret in stored):
                return {}
            entries = self._reader().read(path for path, _field in addresses.values())
            for path, entry in entries.items():
                versions[self._full(path)] = self._version(entry)
            texts = {}
            for name, (path, key) in addresses.items():
                entry = entries[path]
                value = entry.fields.get(key) if entry else None
                if isinstance(value, str):
                    texts[name] = value
            return texts

        return secretspec.resolve(secrets, read), versions

    def _reader(self) -> OpenBao:
        if self._openbao is None:
            _refuse(
                "this project needs secrets, and this Kennel has none: the operator must set KENNEL_SECRETS"
            )
        return self._openbao

    def _version(self, entry: Entry | None) -> int:
        """Give the version of an entry; 0 for none. That of v1 is a keyed digest of what it holds."""
        if entry is None:
            return 0
        if entry.version is not None:
            return entry.version
        purpose = f"secret version:{json.dumps(entry.fields, sort_keys=True)}"
        return int.from_bytes(derived.digest(self._settings.secret_key_file, purpose)[:7], "big") + 1

    def _complain(self, spec: Spec, secrets: Sequence[Secret], profile: str, found: Resolution) -> None:
        problems = [*self._missing(spec, secrets, profile, found), *found.groups, *found.unusable]
        if problems:
            _refuse("; ".join(problems))

    def _missing(self, spec: Spec, secrets: Sequence[Secret], profile: str, found: Resolution) -> list[str]:
        absent = [secret for secret in secrets if secret.name in found.missing]
        stored = [
            f"{secret.name} (field {key} of {self._full(path)})"
            for secret in absent
            if not secret.template
            for path, key in [_address(spec, secret, profile)]
        ]
        composed = [f"{secret.name} is composed of what is missing" for secret in absent if secret.template]
        return ([f"missing in OpenBao: {', '.join(stored)}"] if stored else []) + composed

    def _full(self, path: str) -> str:
        return f"{self._openbao.mount if self._openbao else 'secret'}/{path}"


def _address(spec: Spec, secret: Secret, profile: str) -> tuple[str, str]:
    """Give the path below the mount, and the field, of a secret that is not composed."""
    if secret.ref:
        return secret.ref.item.strip("/"), secret.ref.field
    return f"{ROOT}/{spec.project}/{profile}/{secret.name}", FIELD


def _own(project: str, profile: str, key: str) -> str:
    path = f"{ROOT}/{project}/{profile}/{key}"
    if not is_plain(path):
        raise ConfigError(f"{plain(path)}: is no path of a secret")
    return path


def _check_variable(name: str, text: str) -> None:
    """Refuse what Linux cannot hand to a process as a variable."""
    if "\0" in text.replace(DIRECTORY, ""):
        _refuse(f"{name} holds a NUL, which no variable can; set as_path = true to have it in a file")
    if len(f"{name}={text}".encode()) > VARIABLE_MAX:
        _refuse(f"{name} is too long for a variable (128 KiB); set as_path = true to have it in a file")


def _refuse(what: str) -> NoReturn:
    raise BuildFailed(PHASE, what)
