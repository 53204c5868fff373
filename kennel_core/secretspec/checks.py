"""What secretspec refuses of a secret and of a profile, once everything is inherited. Pure.

Every ValueError is a sentence to follow the secret's or profile's name.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from kennel_core.secretspec.fields import TYPES, Declaration, Required
from kennel_core.secretspec.secret import Secret

_POINTER = re.compile(r"(?:/(?:[^~/]|~[01])*)*")
_INI_POINTER = re.compile(r"/[^/]+(?:/[^/]+)?")


def declaration(found: Declaration) -> None:
    """Check one secret with its inherited fields.

    Raises:
        ValueError: it contradicts itself.
    """
    if not found.description:
        raise ValueError("needs a description")
    if isinstance(found.required, Required):
        _groups(found.required)
    generates = isinstance(found.generate, dict) or bool(found.generate)
    _sources(found, generates=generates)
    _types(found, generates=generates)
    _addresses(found)
    if found.extract is not None:
        shape = _POINTER if found.extract.format == "json" else _INI_POINTER
        if not (shape.fullmatch(found.extract.pointer) and _POINTER.fullmatch(found.extract.pointer)):
            raise ValueError("`extract.pointer` must be a JSON Pointer, for INI /key or /section/key")


def _sources(found: Declaration, *, generates: bool) -> None:
    stored = (
        found.default,
        found.providers,
        found.ref,
        found.refs,
        found.encoding,
        found.extract,
        found.type,
    )
    if found.composed is not None and (any(one is not None for one in stored) or generates or found.prompt):
        raise ValueError(
            "`composed` goes with none of default, providers, ref, refs, encoding, extract, type, generate, "
            "prompt"
        )
    if found.prompt and (found.required is False or isinstance(found.required, Required)):
        raise ValueError("`prompt` needs a secret that is required")
    if found.prompt and (found.default is not None or generates or found.extract is not None):
        raise ValueError("`prompt` goes with none of default, generate, extract")
    if generates and (found.type is None or found.default is not None or found.extract is not None):
        raise ValueError("`generate` needs `type`, and goes with neither default nor extract")


def _types(found: Declaration, *, generates: bool) -> None:
    if found.type is not None and found.type not in TYPES:
        raise ValueError(f"`type` must be one of {', '.join(sorted(TYPES))}")
    if (
        generates
        and found.type == "command"
        and not (isinstance(found.generate, dict) and found.generate.get("command"))
    ):
        raise ValueError('type = "command" needs generate = { command = "..." }')


def _groups(required: Required) -> None:
    if required.at_least_one is None and required.exactly_one is None:
        raise ValueError("`required` as a table needs at_least_one or exactly_one")
    for kind, names in (("at_least_one", required.at_least_one), ("exactly_one", required.exactly_one)):
        if names is None:
            continue
        if not names or not all(name.strip() for name in names) or len(set(names)) < len(names):
            raise ValueError(f"`{kind}` must name groups, each once")


def _addresses(found: Declaration) -> None:
    if found.ref is not None and found.refs is not None:
        raise ValueError("`ref` and `refs` cannot both be set")
    if found.refs is not None and not found.refs:
        raise ValueError("`refs` must name a provider")
    for address in [found.ref, *(found.refs or {}).values()]:
        given = address.model_dump(exclude_none=True).values() if address is not None else ()
        if not all(part.strip() for part in given):
            raise ValueError("`ref` must not hold an empty part")


def profile(secrets: Mapping[str, Secret]) -> None:
    """Check the groups and the composed secrets of one profile.

    Raises:
        ValueError: a group or a reference makes no sense.
    """
    at_least = Counter(group for secret in secrets.values() for group in secret.at_least_one)
    exactly = Counter(group for secret in secrets.values() for group in secret.exactly_one)
    for group in sorted(at_least | exactly):
        if group in at_least and group in exactly:
            raise ValueError(f"group {group}: is both of at_least_one and of exactly_one")
        if at_least[group] + exactly[group] < 2:
            raise ValueError(f"group {group}: must have two secrets at least")
    for secret in secrets.values():
        for name in secret.template.dependencies if secret.template else ():
            if name not in secrets:
                raise ValueError(
                    f"{secret.name}: `composed` refers to {name}, which the profile does not declare"
                )
    composing_order(secrets)


def composing_order(secrets: Mapping[str, Secret]) -> list[Secret]:
    """Give the composed secrets, each after those it is made of.

    Raises:
        ValueError: they go round in a circle.
    """
    ordered: dict[str, Secret] = {}
    for start in sorted(secrets):
        path = {start: _composed(start, secrets)}  # from there on, with what is still to be followed of each
        while path:
            name = next(reversed(path))
            if not path[name]:
                path.popitem()
                if secrets[name].template:
                    ordered.setdefault(name, secrets[name])
                continue
            following = path[name].pop()
            if following in path:
                names = list(path)
                circle = [*names[names.index(following) :], following]
                raise ValueError(f"`composed` goes round in a circle: {' → '.join(circle)}")
            if following not in ordered:
                path[following] = _composed(following, secrets)
    return list(ordered.values())


def _composed(name: str, secrets: Mapping[str, Secret]) -> list[str]:
    template = secrets[name].template
    return [one for one in template.dependencies if secrets[one].template] if template else []


def shown(names: Sequence[str]) -> str:
    """List names for a sentence."""
    return ", ".join(names) if names else "none"
