"""The rows as the planner sees them: what is live, and what is being rolled out."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kennel_core import builds, sleeping
from kennel_core.deployments import snapshot
from kennel_core.environment import Environment
from kennel_core.models import Build, Deployment, Kind, Project
from kennel_core.provision import Owner
from kennel_core.reconcile.plan import Desired, Health
from kennel_core.service_environment import environment
from kennel_core.settings import Settings


@dataclass(frozen=True, slots=True)
class Wanted:
    """`live` must run and is routed; `rollouts` must run, and are routed when their whole build is up.

    `builds` are those that are being rolled out.
    """

    live: tuple[Desired, ...]
    rollouts: tuple[Desired, ...]
    builds: tuple[Build, ...]


def wanted(settings: Settings) -> Wanted:
    """Read every row, in one query; of a ref that sleeps, what is live wants no unit.

    The builds are read before: one that ends in between must not be taken for a build without rows.
    """
    rolling = tuple(builds.rolling_out())
    rows = list(Deployment.select(Deployment, Project).join(Project))
    hosts: dict[tuple[int, str], dict[str, str]] = defaultdict(dict)
    for row in rows:
        hosts[row.project_id, row.ref][row.name] = row.host
    owners, asleep = _owners(rows), sleeping.asleep()
    live, rollouts = [], []
    for row in rows:
        siblings, owner = hosts[row.project_id, row.ref], owners[row.project_id, row.ref]
        current = snapshot(row)
        if row.live is not None:
            desired = _desired(row, row.live, siblings, owner, settings, rollout=False)
            live.append(_asleep(desired) if (row.project_id, row.ref) in asleep else desired)
        if row.live != current:
            rollouts.append(_desired(row, current, siblings, owner, settings, rollout=True))
    return Wanted(tuple(live), tuple(rollouts), rolling)


def _asleep(row: Desired) -> Desired:
    """Keep what belongs to the row, and leave out what would run."""
    return replace(row, unit=None, port=None, command=(), environment={}, inputs=None, asleep=True)


def _owners(rows: Iterable[Deployment]) -> dict[tuple[int, str], Owner]:
    """Put together the refs with their services, whatever their versions."""
    refs: dict[tuple[int, str], list[Deployment]] = defaultdict(list)
    for row in rows:
        refs[row.project_id, row.ref].append(row)
    return {
        (project_id, ref): Owner(
            project_id,
            own[0].project.name,
            ref,
            Environment(own[0].environment),
            tuple(sorted(row.name for row in own if row.kind == Kind.SERVICE)),
        )
        for (project_id, ref), own in refs.items()
    }


def _desired(  # noqa: PLR0913  # what a row does not hold by itself
    row: Deployment,
    version: Mapping[str, Any],
    hosts: Mapping[str, str],
    owner: Owner,
    settings: Settings,
    *,
    rollout: bool,
) -> Desired:
    health = version["health"] or {}
    return Desired(
        id=row.id,
        name=row.name,
        owner=owner,
        build_id=version["build"],
        rollout=rollout,
        hosts=tuple(filter(None, (version["host"], version["alias_host"], version["custom_domain"]))),
        store_path=version["store_path"],
        spa=version["spa"],
        unit=version["unit"],
        port=version["port"],
        command=tuple(version["command"] or ()),
        environment=environment(row, version, hosts, settings) if version["unit"] else {},
        working_directory=version["config_path"],
        health=Health(health["path"], health["timeout"]) if health else None,
        project=row.project.full_name,
        resources=frozenset(version["resources"] or ()),
        oidc=tuple(version["oidc"] or ()),
        custom_domain=version["custom_domain"],
        inputs=version["inputs"],
    )
