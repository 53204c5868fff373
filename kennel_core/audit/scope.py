"""What the tables say, read once: every system is compared with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kennel_core import deployments, oidc, projects, resources
from kennel_core.environment import Environment, of_ref
from kennel_core.models import Build, Project, Resource
from kennel_core.provision import Owner
from kennel_core.provision.servers import Servers
from kennel_core.reconcile import provisioning
from kennel_core.reconcile.desired import Wanted, wanted
from kennel_core.reconcile.host import Host
from kennel_core.resources import Key
from kennel_core.settings import Settings


@dataclass(frozen=True)
class Scope:
    """The rows as they are now. `needed` is what all of them want, `due` what the live ones do.

    `named` are the units that any row names; `refs` every ref of a registered project that was ever built.
    """

    settings: Settings
    host: Host
    rows: Wanted
    made: Mapping[str, Resource]
    owned: Mapping[Key, Resource]
    needed: Mapping[Key, Owner]
    due: Mapping[Key, Owner]
    named: frozenset[str]
    projects: Mapping[int, Project]
    refs: tuple[tuple[int, str], ...]
    namesakes: frozenset[int]  # projects whose secrets would be another's, too: nothing is stored for them

    @property
    def servers(self) -> Servers:
        """The servers that the settings name."""
        return self.host.servers

    @cached_property
    def clients(self) -> tuple[oidc.Client, ...]:
        """The OIDC clients that the rows want."""
        logins = [
            oidc.Login(
                project_id=row.owner.project_id,
                project=row.owner.project,
                environment=row.owner.environment,
                host_urls=tuple(self.settings.url(host) for host in row.hosts),
                paths=row.oidc,
            )
            for row in (*self.rows.live, *self.rows.rollouts)
            if row.oidc
        ]
        held = {row.name: row.project_id for row in self.of(resources.OIDC) if row.made_at is not None}
        return tuple(oidc.clients(logins, held)[0])

    def of(self, kind: str) -> list[Resource]:
        """Return the rows of the table of resources of one kind."""
        return [row for (found, *_), row in sorted(self.owned.items()) if found == kind]

    def owner(self, project_id: int, ref: str, project: str = "") -> Owner:
        """Put together an owner that no row names.

        The environment of a ref whose project is gone is not known: it counts as prod, so that its data stays
        until an operator confirms.
        """
        row = self.projects.get(project_id)
        if row is not None:
            return Owner(project_id, row.name, ref, of_ref(ref, row.default_branch))
        gone = of_ref(ref, "")
        return Owner(project_id, project, ref, gone if gone is Environment.PREVIEW else Environment.PROD)


def scope(settings: Settings, host: Host) -> Scope:
    """Read it all; needs a database connection."""
    rows = wanted(settings)
    refs: Any = Build.select(Build.project, Build.ref).distinct().tuples()
    return Scope(
        settings=settings,
        host=host,
        rows=rows,
        made=resources.units(),
        owned=resources.owned(),
        needed=provisioning.wanted((*rows.live, *rows.rollouts)),
        due=provisioning.wanted(rows.live),
        named=frozenset(deployments.units()),
        projects={row.id: row for row in Project.select()},
        refs=tuple(sorted((number, ref) for number, ref in refs)),
        namesakes=frozenset(projects.namesakes()),
    )
