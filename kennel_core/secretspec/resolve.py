"""From declarations and what is stored to values. Pure: reading is passed in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NoReturn

from kennel_core.errors import BuildFailed
from kennel_core.secretspec import checks, stored
from kennel_core.secretspec.secret import Secret

PHASE = "secrets"
DIRECTORY = "\0directory\0"  # in composed texts, where the path of a file's directory belongs


class Source(StrEnum):
    """Where a value came from."""

    SET = "set"
    DEFAULT = "default"
    COMPOSED = "composed"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Resolution:
    """Every secret's source, the values of those that have one, and what stands in the way.

    `values` are texts, `files` the contents of those with `as_path`, whose value is a path. A composed text
    has DIRECTORY where the directory of these files goes. `groups` says which groups are not met.
    """

    sources: Mapping[str, Source]
    values: Mapping[str, str]
    files: Mapping[str, bytes]
    missing: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


@dataclass(slots=True)
class _Found:
    values: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)

    def text(self, name: str) -> str:
        return f"{DIRECTORY}/{name}" if name in self.files else self.values[name]

    def put(self, secret: Secret, value: bytes, source: Source) -> None:
        self.sources[secret.name] = source
        if secret.as_path:
            self.files[secret.name] = value
            return
        try:
            text = value.decode()
        except UnicodeDecodeError:
            _refuse(secret, "is not text; set as_path = true to have it in a file")
        if source is not Source.COMPOSED and DIRECTORY in text:
            _refuse(secret, "holds a NUL, which no variable can; set as_path = true to have it in a file")
        self.values[secret.name] = text


def resolve(secrets: Sequence[Secret], read: Callable[[Sequence[Secret]], Mapping[str, str]]) -> Resolution:
    """Give every secret of a profile its value.

    `read` gets those that may be stored and returns the stored text of those that are, by name.

    Raises:
        BuildFailed: a stored value is not of its encoding, has nothing to extract, or is not text.
        Exception: whatever `read` raises.
    """
    by_name = {secret.name: secret for secret in secrets}
    texts = read([secret for secret in secrets if secret.template is None])
    found = _Found()
    for secret in secrets:
        if secret.template is None:
            _from_storage(secret, texts.get(secret.name), found)
    for secret in checks.composing_order(by_name):
        _compose(secret, found)
    present = {name for name, source in found.sources.items() if source is not Source.MISSING}
    return Resolution(
        sources={name: found.sources[name] for name in sorted(found.sources)},
        values=found.values,
        files=found.files,
        missing=tuple(name for name in sorted(by_name.keys() - present) if by_name[name].required),
        groups=tuple(_unmet(secrets, present)),
    )


def _from_storage(secret: Secret, text: str | None, found: _Found) -> None:
    if text is None:
        if secret.default is None:
            found.sources[secret.name] = Source.MISSING
        else:
            found.put(secret, secret.default.encode(), Source.DEFAULT)
        return
    try:
        value = stored.decode(secret.encoding, text) if secret.encoding else text.encode()
        if secret.extract:
            value = stored.extract(secret.extract, value.decode()).encode()
    except UnicodeError:
        _refuse(secret, "decodes to something that is not text, so nothing can be extracted")
    except ValueError as exc:
        _refuse(secret, f"cannot be read: {exc}")
    found.put(secret, value, Source.SET)


def _compose(secret: Secret, found: _Found) -> None:
    if secret.template is None:
        return
    if any(found.sources[name] is Source.MISSING for name in secret.template.dependencies):
        found.sources[secret.name] = Source.MISSING
        return
    try:
        text = secret.template.render(found.text)
    except ValueError as exc:
        _refuse(secret, str(exc))
    if secret.as_path and DIRECTORY in text:
        _refuse(secret, "is a file that names other files: there is no path yet; compose a variable instead")
    found.put(secret, text.encode(), Source.COMPOSED)


def _unmet(secrets: Sequence[Secret], present: set[str]) -> list[str]:
    sentences = []
    for kind, most in (("at_least_one", None), ("exactly_one", 1)):
        groups: dict[str, list[str]] = {}
        for secret in secrets:
            for group in getattr(secret, kind):
                groups.setdefault(group, []).append(secret.name)
        for group, members in sorted(groups.items()):
            there = sorted(present & set(members))
            if not there or (most is not None and len(there) > most):
                wanted = "exactly one" if most else "at least one"
                sentences.append(
                    f"group {group}: {wanted} of {', '.join(sorted(members))} must have a value, "
                    f"{checks.shown(there)} has"
                )
    return sentences


def _refuse(secret: Secret, what: str) -> NoReturn:
    raise BuildFailed(PHASE, f"{secret.name} {what}")
