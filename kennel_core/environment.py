"""Which environment a ref deploys to. Pure."""

import re
from enum import StrEnum


class Environment(StrEnum):
    """Also the secretspec profile."""

    PROD = "prod"
    STAGING = "staging"
    DEV = "dev"
    PREVIEW = "preview"


def pull_request_ref(number: int) -> str:
    """Name the ref of a pull request: ``pr-<number>``."""
    return f"pr-{number}"


def is_pull_request(ref: str) -> bool:
    """Tell whether a ref names a pull request."""
    return re.fullmatch(r"pr-[1-9][0-9]*", ref) is not None


def of_ref(ref: str, default_branch: str) -> Environment:
    """Map a ref to its environment: the default branch is prod, ``pr-<n>`` is a preview."""
    if ref == default_branch:
        return Environment.PROD
    if is_pull_request(ref):
        return Environment.PREVIEW
    return Environment.STAGING if ref == "staging" else Environment.DEV


def git_ref(ref: str) -> str:
    """Give the full git ref to fetch: ``refs/heads/<branch>`` or ``refs/pull/<n>/head``."""
    return f"refs/pull/{ref.removeprefix('pr-')}/head" if is_pull_request(ref) else f"refs/heads/{ref}"
