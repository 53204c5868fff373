"""Compare what a repository is at with what Kennel has heard of it. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from kennel_core.environment import Environment, is_pull_request, of_ref, pull_request_ref
from kennel_core.webhook import Proposal

BRANCH = "refs/heads/"


@dataclass(frozen=True, slots=True)
class Heads:
    """What a repository answered: the commit of each branch, and of each pull request by number.

    `open` are the open pull requests as the forge describes them; None where only git was asked, which has
    the heads of closed ones, too.
    """

    branches: Mapping[str, str]
    pulls: Mapping[int, str]
    open: Mapping[int, Proposal] | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one ref.

    `head` is the commit that was last heard of; `newest` the id of its newest build; `up`: it has
    deployments or a build on its way; `pull`: its pull request, when it is open.
    """

    head: str | None = None
    newest: int | None = None
    up: bool = False
    pull: Proposal | None = None


@dataclass(frozen=True, slots=True)
class Moved:
    """A branch is at a commit that is to be built; or, with `build` False, only to be remembered."""

    ref: str
    commit: str
    build: bool = True


@dataclass(frozen=True, slots=True)
class Proposed:
    """A pull request is not as it was."""

    proposal: Proposal

    @property
    def ref(self) -> str:
        """``pr-<number>``."""
        return self.proposal.ref


@dataclass(frozen=True, slots=True)
class Gone:
    """The branch, or the open pull request, is not there any more."""

    ref: str


Change = Moved | Proposed | Gone


def parse(listing: str) -> Heads:
    """Read what ``git ls-remote`` prints; what is no branch and no pull request is left out."""
    branches, pulls = {}, {}
    for line in listing.splitlines():
        commit, _, name = line.partition("\t")
        if name.startswith(BRANCH):
            branches[name.removeprefix(BRANCH)] = commit
            continue
        parts = name.split("/")
        if len(parts) == 4 and parts[:2] == ["refs", "pull"] and parts[3] == "head" and parts[2].isdecimal():
            pulls[int(parts[2])] = commit
    return Heads(branches, pulls)


def missed(
    heads: Heads,
    known: Mapping[str, Known],
    default_branch: str,
    deploys: Callable[[str], bool],
    *,
    first: bool,
) -> list[Change]:
    """Say what no delivery told.

    At the `first` look at a repository branches that were never heard of are only remembered: nobody pushed
    them to Kennel. The default branch and staging are built. An answer without any branch is none: nothing
    follows from it. The default branch is never taken down for it is missing: its deletion has to be told.
    """
    if not heads.branches:
        return []
    changes = [*_branches(heads, known, default_branch, deploys, first=first), *_pulls(heads, known)]
    return sorted(changes, key=lambda change: change.ref)


def _branches(
    heads: Heads,
    known: Mapping[str, Known],
    default_branch: str,
    deploys: Callable[[str], bool],
    *,
    first: bool,
) -> list[Change]:
    changes: list[Change] = []
    for ref, commit in heads.branches.items():
        found = known.get(ref, Known())
        if is_pull_request(ref) or found.head == commit:  # a branch called pr-7 is nobody's
            continue
        lasting = of_ref(ref, default_branch) in (Environment.PROD, Environment.STAGING)
        is_new = found.head is None and found.newest is None
        changes.append(Moved(ref, commit, build=deploys(ref) and (lasting or not (first and is_new))))
    changes += [
        Gone(ref)
        for ref in known
        if ref not in heads.branches and not is_pull_request(ref) and ref != default_branch
    ]
    return changes


def _pulls(heads: Heads, known: Mapping[str, Known]) -> list[Change]:
    ours = {ref: one for ref, one in known.items() if is_pull_request(ref) and (one.up or one.pull)}
    if heads.open is not None:
        opened = {pull_request_ref(number): proposal for number, proposal in heads.open.items()}
        changed = [
            Proposed(proposal)
            for ref, proposal in opened.items()
            if known.get(ref, Known()).pull != proposal  # the forge says what it is
        ]
        return [*changed, *(Gone(ref) for ref in ours if ref not in opened)]
    changes: list[Change] = []
    for ref, one in ours.items():
        commit = heads.pulls.get(int(ref.removeprefix("pr-")))
        if commit is None:
            changes.append(Gone(ref))
        elif one.pull is not None and one.pull.commit != commit:
            changes.append(Proposed(replace(one.pull, commit=commit)))
        elif one.pull is None and one.head not in (None, commit):
            changes.append(Moved(ref, commit))
    return changes
