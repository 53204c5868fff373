"""Whether a pull request is built, and what it waits for. Pure."""

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rules:
    """What the settings say. Labels are those named there, compared without case."""

    limit: int
    drafts: bool
    labels: frozenset[str]
    excluded: frozenset[str]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of an open pull request. `approved`: this very commit; `trusted`: its author may write.

    `others` is how many other pull requests of its project are up or on their way.
    """

    fork: bool
    draft: bool
    labels: Collection[str]
    skip: bool
    approved: bool
    trusted: bool
    others: int


@dataclass(frozen=True, slots=True)
class Hold:
    """Why it is not built, in a sentence. `waits`: for something that is worth telling its author."""

    why: str
    waits: bool


def labels(text: str) -> frozenset[str]:
    """Read the labels of a setting."""
    return frozenset(name.strip().casefold() for name in text.split(",") if name.strip())


def hold(facts: Facts, rules: Rules) -> Hold | None:
    """Say why a pull request is not built; None when it is.

    A fork's code may do anything, so somebody who may write looks at each commit of it first; so it is for
    an author who may not write.
    """
    if unwanted := _unwanted(facts, rules):
        return Hold(unwanted, waits=False)
    if not facts.approved and (facts.fork or not facts.trusted):
        who = "it comes from a fork" if facts.fork else "its author may not write to the repository"
        return Hold(f"{who}: somebody who may has to approve this commit", waits=True)
    if facts.others >= rules.limit:
        return Hold(f"{facts.others} other previews of this project are up, and no more may be", waits=True)
    return None


def _unwanted(facts: Facts, rules: Rules) -> str | None:
    has = {label.casefold() for label in facts.labels}
    if facts.skip:
        return "its title says [skip kennel]"
    if facts.draft and not rules.drafts:
        return "drafts are not built here"
    if rules.labels and not has & rules.labels:
        return "it has none of the labels that previews need"
    if has & rules.excluded:
        return "one of its labels excludes it from previews"
    return None
