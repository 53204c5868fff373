"""From declarations and what is stored to values. Pure: reading is passed in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial

from kennel_core.secretspec import checks, stored
from kennel_core.secretspec.secret import Secret
from kennel_core.secretspec.template import Template

DIRECTORY = "\0directory\0"  # in composed texts, where the path of a file's directory belongs


class Source(StrEnum):
    """Where a value came from."""

    SET = "set"
    DEFAULT = "default"
    COMPOSED = "composed"
    MISSING = "missing"
    UNUSABLE = "unusable"


@dataclass(frozen=True, slots=True)
class Resolution:
    """Every secret's source, the values of those that have one, and what stands in the way.

    `values` are texts, `files` the contents of those with `as_path`, whose value is a path. A composed text
    has DIRECTORY where the directory of these files goes. `missing` are names, the last two sentences.
    """

    sources: Mapping[str, Source]
    values: Mapping[str, str]
    files: Mapping[str, bytes]
    missing: tuple[str, ...] = ()
    unusable: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


def resolve(secrets: Sequence[Secret], read: Callable[[Sequence[Secret]], Mapping[str, str]]) -> Resolution:
    """Give every secret of a profile its value.

    `read` gets those that may be stored and returns the stored text of those that are, by name. What it
    raises is not caught.
    """
    by_name = {secret.name: secret for secret in secrets}
    found = _Found()
    texts = read([secret for secret in secrets if secret.template is None])
    for secret in secrets:
        if secret.template is None:
            found.add(secret, partial(_from_storage, secret, texts.get(secret.name)))
    for secret in checks.composing_order(by_name):
        if secret.template is not None:
            found.add(secret, partial(_composed, secret, secret.template, found))
    present = {name for name, source in found.sources.items() if source is not Source.MISSING}
    return Resolution(
        sources={name: found.sources[name] for name in sorted(found.sources)},
        values=found.values,
        files=found.files,
        missing=tuple(name for name in sorted(by_name.keys() - present) if by_name[name].required),
        unusable=tuple(found.unusable),
        groups=tuple(_unmet(secrets, present)),
    )


Outcome = tuple[Source, bytes]


@dataclass(slots=True)
class _Found:
    values: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)
    unusable: list[str] = field(default_factory=list)

    def text(self, name: str) -> str:
        return f"{DIRECTORY}/{name}" if name in self.files else self.values[name]

    def add(self, secret: Secret, outcome: Callable[[], Outcome]) -> None:
        """Note a secret; a ValueError says why it cannot be used."""
        try:
            source, value = outcome()
            if source is Source.MISSING or source is Source.UNUSABLE:
                self.sources[secret.name] = source
            elif secret.as_path:
                self.files[secret.name] = value
            else:
                self.values[secret.name] = _text(value, source)
        except ValueError as exc:
            self.unusable.append(f"{secret.name}: {exc}")
            source = Source.UNUSABLE
        self.sources[secret.name] = source


def _text(value: bytes, source: Source) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise ValueError("is not text; set as_path = true to have it in a file") from None
    if source is not Source.COMPOSED and DIRECTORY in text:
        raise ValueError("holds a NUL, which no variable can; set as_path = true to have it in a file")
    return text


def _from_storage(secret: Secret, text: str | None) -> Outcome:
    if text is None:
        return (Source.MISSING, b"") if secret.default is None else (Source.DEFAULT, secret.default.encode())
    value = stored.decode(secret.encoding, text) if secret.encoding else text.encode()
    if secret.extract:
        try:
            document = value.decode()
        except UnicodeDecodeError:
            raise ValueError("what is stored is not text, so nothing can be extracted") from None
        value = stored.extract(secret.extract, document).encode()
    return Source.SET, value


def _composed(secret: Secret, template: Template, found: _Found) -> Outcome:
    parts = {found.sources[name] for name in template.dependencies}
    for worst in (Source.MISSING, Source.UNUSABLE):
        if worst in parts:
            return worst, b""
    text = template.render(found.text)
    if secret.as_path and DIRECTORY in text:
        raise ValueError(
            "is a file that names other files, which have no path yet; compose a variable instead"
        )
    return Source.COMPOSED, text.encode()


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
