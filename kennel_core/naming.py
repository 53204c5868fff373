"""Every name Kennel gives to a thing outside itself, derived in one place. Pure.

A part that is not already a DNS label, or that is too long, gets 8 hex digits of the
SHA-256 of the whole, so that ``feat/x`` and ``feat-x`` stay apart.
"""

import hashlib
import json
import re

DNS_LABEL_MAX = 63  # octets, RFC 1035 section 2.3.4
UNIT_NAME_MAX = 255  # systemd.unit(5)
DIGEST_LENGTH = 8


def digest(*parts: object) -> str:
    """Return 8 hex digits over `parts`, unambiguous however they are split."""
    text = json.dumps([str(part) for part in parts])
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]


def is_label(text: str) -> bool:
    """Tell whether `text` is one DNS label in lower case without two hyphens in a row."""
    return len(text) <= DNS_LABEL_MAX and re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", text) is not None


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _fit(stem: str, suffix: str, limit: int) -> str:
    """Join with a hyphen, cutting `stem` so that the whole has at most `limit` characters."""
    return f"{stem[: limit - len(suffix) - 1].rstrip('-')}-{suffix}".lstrip("-")


def slug(ref: str) -> str:
    """Turn a ref into one DNS label (RFC 1035 section 2.3.1, RFC 1123 section 2.1).

    Never raises. What is lossy or too long ends with 8 hex digits.

    >>> slug("main")
    'main'
    >>> slug("feat/Login")
    'feat-login-26684e5c'
    """
    plain = _plain(ref)
    return plain if plain == ref and is_label(plain) else _fit(plain, digest(ref), DNS_LABEL_MAX)


def label(project: str, *rest: str) -> str:
    """Join the parts of a host name into one DNS label: ``{project}-{service}-{slug}``.

    `rest` is service and slug, or the slug alone for the alias. A name that is lossy or too
    long ends with 8 hex digits over the unshortened parts. Two different lists of parts can
    still give the same plain label (``a-b`` + ``c`` and ``a`` + ``b-c``); the database refuses the
    second one, because hosts are unique there.

    >>> label("shop", "api", "main")
    'shop-api-main'
    """
    parts = (project, *rest)
    plain = "-".join(filter(None, (_plain(part) for part in parts)))
    if plain == "-".join(parts) and is_label(plain):
        return plain
    return _fit(plain, digest(*parts), DNS_LABEL_MAX)


def unit(project: str, ref: str, service: str, revision: str) -> str:
    """Name the unit that runs one revision: ``kennel-{project}-{slug}-{service}-{revision}.service``."""
    stem = "-".join(("kennel", _plain(project), slug(ref), _plain(service)))
    return _fit(stem, revision, UNIT_NAME_MAX - len(".service")) + ".service"


def revision(project_id: int, ref: str, service: str, store_path: str, configuration: str) -> str:
    """Identify one running form of a deployment: 8 hex digits.

    `configuration` is a digest over command, environment, secrets and resources. Another
    revision means another unit, so an update is one start and one stop.
    """
    return digest(project_id, ref, service, store_path, configuration)


def resource(project_id: int, project: str, ref: str, limit: int = DNS_LABEL_MAX) -> str:
    """Name what belongs to a ref outside: readable, and with 8 hex digits that make it the ref's alone.

    Lower-case letters, digits and single hyphens, at most `limit` characters.

    >>> resource(7, "shop", "feat/Login")
    'shop-feat-login-5b916bd7'
    """
    plain = "-".join(filter(None, (_plain(project), _plain(ref))))
    return _fit(plain, digest(project_id, ref), limit)


def login(project_id: int, ref: str, service: str) -> str:
    """Name the user that a service runs as, and its role in a database: ``kennel_`` and 16 hex digits.

    The same for every revision of the service.
    """
    parts = json.dumps([project_id, ref, service])
    return f"kennel_{hashlib.sha256(parts.encode()).hexdigest()[:16]}"


def build_directory(build_id: int, attempt: int) -> str:
    """Name the directory of one attempt at a build, so that what a lost one left is never a later one's."""
    return f"{build_id}-{attempt}"


def gc_root(build_id: int, package: str) -> str:
    """Name the GC root of one output of a build."""
    return f"{build_id}-{package}"
