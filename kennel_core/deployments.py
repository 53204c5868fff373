"""The deployment rows: what should run, decided when a build ends, a ref goes, or a rollout ends.

A row's columns are what should run, `live` is what last came up. A rollout ends in `went_live` (the columns
become live) or in `roll_back` (live becomes the columns), all rows of a build together.
"""

from typing import Any

from kennel_core import builds, naming, ports, sleeping
from kennel_core.environment import Environment, of_ref
from kennel_core.errors import BuildFailed, NotFound
from kennel_core.models import Build, Deployment, Kind, Project
from kennel_core.outputs import Outputs, ServiceOutput, SiteOutput
from kennel_core.service_environment import configuration
from kennel_core.settings import Settings

PHASE = "deploy"

VERSIONED = (
    "build",
    "commit",
    "store_path",
    "config_path",
    "host",
    "alias_host",
    "custom_domain",
    "spa",
    "command",
    "health",
    "resources",
    "oidc",
    "inputs",
    "unit",
    "port",
)  # the columns that a rollout changes, and `live` keeps


def get(deployment_id: int) -> Deployment:
    """Return a row.

    Raises:
        NotFound: there is none with this id.
    """
    row: Deployment | None = Deployment.get_or_none(Deployment.id == deployment_id)
    if row is None:
        raise NotFound(f"deployment {deployment_id}: there is no such deployment")
    return row


def all_rows(project: Project | None = None) -> list[Deployment]:
    """List the rows with their projects, by project, ref and name."""
    query = Deployment.select(Deployment, Project).join(Project)
    if project is not None:
        query = query.where(Deployment.project == project)
    return list(query.order_by(Project.owner, Project.name, Deployment.ref, Deployment.name))


def by_host(host: str) -> Deployment | None:
    """Find the row that a host name belongs to: generated, alias or custom domain, exactly."""
    row: Deployment | None = Deployment.get_or_none(
        (Deployment.host == host) | (Deployment.alias_host == host) | (Deployment.custom_domain == host)
    )
    return row


def units() -> frozenset[str]:
    """Name every unit that should run: of the rows, and of what is live while they are rolled out.

    Of a ref that sleeps only what is being rolled out.
    """
    rows: Any = Deployment.select(Deployment.unit, Deployment.live).tuples()
    named = {name for unit, live in rows for name in (unit, (live or {}).get("unit"))}
    for project_id, ref in sleeping.asleep():
        for row in Deployment.select().where(Deployment.project == project_id, Deployment.ref == ref):
            named -= {row.unit, (row.live or {}).get("unit")}
            named |= {row.unit} if row.live != snapshot(row) else set()
    return frozenset(filter(None, named))


def is_deployed(project: Project, ref: str) -> bool:
    """Tell whether a ref has deployments."""
    of_ref_ = (Deployment.project == project) & (Deployment.ref == ref)
    return bool(Deployment.select(Deployment.id).where(of_ref_).exists())


def builds_named() -> set[int]:
    """Name every build whose outputs a row needs."""
    rows: Any = Deployment.select(Deployment.build, Deployment.live).tuples()
    return {number for build, live in rows for number in (build, (live or {}).get("build")) if number}


def live_build(project_id: int, ref: str) -> Build | None:
    """Return the build that a ref runs, with its outputs; None when nothing of it is live."""
    row = Deployment.get_or_none(
        Deployment.project == project_id, Deployment.ref == ref, Deployment.live.is_null(is_null=False)
    )
    return None if row is None else builds.get(row.live["build"])


def write_rows(build: Build, outputs: Outputs, settings: Settings, now: float) -> None:
    """Write the rows that a build wants, inside the caller's `db.write()`.

    Rows of the ref that the build does not name stay until it is live: a rollout that fails must not have
    taken anything down.

    Raises:
        BuildFailed: a host name belongs to another deployment, or no port is free.
    """
    project = build.project
    environment = of_ref(build.ref, project.default_branch)
    if environment is Environment.PREVIEW and not outputs.preview_deployments:
        Deployment.delete().where(Deployment.project == project, Deployment.ref == build.ref).execute()
        return
    items: list[ServiceOutput | SiteOutput] = [*outputs.services, *outputs.sites]
    hosts = {item.name: _host(settings, project.name, item.name, naming.slug(build.ref)) for item in items}
    old = {
        row.name: row
        for row in Deployment.select().where(Deployment.project == project, Deployment.ref == build.ref)
    }
    needed = _needed(outputs, settings)
    for item in items:
        custom = item.custom_domain if environment is Environment.PROD else None
        row = old.get(item.name) or Deployment(project=project, ref=build.ref, name=item.name, created_at=now)
        row.kind = Kind.SERVICE if isinstance(item, ServiceOutput) else Kind.SITE
        row.environment = environment
        row.build = build
        row.commit = build.commit
        row.store_path = item.store_path
        row.config_path = outputs.config_path
        row.host = _claimed(hosts[item.name], row, settings)
        row.alias_host = _alias(settings, project.name, build.ref, row) if len(items) == 1 else None
        row.custom_domain = _claimed(custom, row, settings) if custom else None
        row.updated_at = now
        row.inputs = None
        if isinstance(item, ServiceOutput):
            row.spa, row.command, row.resources, row.oidc = False, item.command, needed, item.oidc
            row.health = {"path": item.health_path, "timeout": item.health_timeout or settings.health_timeout}
            _name_unit(row, ((row.live or {}).get("inputs") or {}).get("digest", ""), hosts, settings)
        else:
            row.spa, row.command, row.resources, row.oidc = item.spa, None, [], None
            row.health, row.unit, row.port = None, None, None
        row.save()


def _needed(outputs: Outputs, settings: Settings) -> list[str]:
    """Name the kinds of resources that the services of a build get.

    A file that predates the field gets all there are, as it did then.
    """
    offered = settings.resources
    if outputs.resources is None:
        return sorted(kind for kind, configured in offered.items() if configured)
    if absent := sorted(kind for kind in outputs.resources if not offered.get(kind, True)):
        variables = ", ".join({"garage": "KENNEL_GARAGE_ADMIN"}.get(k, f"KENNEL_{k.upper()}") for k in absent)
        raise BuildFailed(
            PHASE,
            f"kennel.json asks for {' and '.join(absent)}, which this host does not offer; "
            f"take it out of devenv.nix, or ask its operator to set {variables}",
        )
    return sorted({kind for kind in outputs.resources if kind in offered})


def configured(row: Deployment, inputs: dict[str, Any], settings: Settings) -> None:
    """Note what a service will be told, and name its unit by it: inside the caller's `db.write()`.

    Raises:
        BuildFailed: no port is free.
    """
    siblings = Deployment.select(Deployment.name, Deployment.host).where(
        Deployment.project == row.project_id, Deployment.ref == row.ref, Deployment.build == row.build_id
    )
    row.inputs = inputs
    _name_unit(row, inputs["digest"], {item.name: item.host for item in siblings}, settings)
    row.save(only=[Deployment.inputs, Deployment.unit, Deployment.port])


def _name_unit(row: Deployment, inputs: str, hosts: dict[str, str], settings: Settings) -> None:
    """Name the unit by all that makes it what it is, `inputs` being their digest, and give it a port."""
    parts = [*row.command, *configuration(row, row.__data__, hosts, settings), *([inputs] if inputs else [])]
    revision = naming.revision(row.project_id, row.ref, row.name, row.store_path, naming.digest(*parts))
    unit = naming.unit(row.project.name, row.ref, row.name, revision)
    live = row.live or {}
    if unit == live.get("unit"):
        row.unit, row.port = unit, live["port"]  # the revision that runs: nothing to start
    elif unit != row.unit:
        row.unit, row.port = unit, _free_port(settings)


def give_another_port(deployment_id: int, port: int, settings: Settings) -> None:
    """Move a deployment away from a port that another program took: inside the caller's `db.write()`.

    Raises:
        BuildFailed: no port is free.
    """
    row = get(deployment_id)
    fresh = _free_port(settings)
    if row.port == port:
        row.port = fresh
    if row.live and row.live["port"] == port:
        row.live = row.live | {"port": fresh}
    row.save(only=[Deployment.port, Deployment.live])


def _free_port(settings: Settings) -> int:
    rows: Any = Deployment.select(Deployment.port, Deployment.live, Deployment.updated_at).where(
        Deployment.port.is_null(is_null=False)
    )
    latest = max(rows, key=lambda row: (row.updated_at, row.port), default=None)
    taken: set[int] = {port for row in rows for port in (row.port, (row.live or {}).get("port")) if port}
    port = ports.next_fit(settings.port_range, latest and latest.port, taken, ports.can_bind)
    if port is None:
        raise BuildFailed(PHASE, f"no port of {settings.ports} is free; widen KENNEL_PORTS")
    return port


def _host(settings: Settings, project: str, name: str, slug: str) -> str:
    return f"{naming.label(project, name, slug)}.{settings.base_domain}"


def _alias(settings: Settings, project: str, ref: str, row: Deployment) -> str | None:
    alias = f"{naming.label(project, naming.slug(ref))}.{settings.base_domain}"
    return alias if _holder(alias, row) is None and alias != settings.domain else None


def _claimed(host: str, row: Deployment, settings: Settings) -> str:
    """Return `host` when no other deployment has it and it is not reserved."""
    if host == settings.domain:
        raise BuildFailed(PHASE, f"{host} is Kennel's own host name; choose another custom domain")
    generated = host.endswith(f".{settings.base_domain}") or host == settings.base_domain
    if generated and host.removesuffix(f".{settings.base_domain}") != naming_of(row):
        raise BuildFailed(
            PHASE,
            f"{host}: Kennel gives the names below {settings.base_domain}; choose another custom domain",
        )
    holder = _holder(host, row)
    if holder is not None and holder.alias_host == host:  # an alias is a convenience: it gives way
        Deployment.update(alias_host=None).where(Deployment.id == holder.id).execute()
    elif holder is not None:
        raise BuildFailed(
            PHASE,
            f"{host} already belongs to {holder.project.full_name}, {holder.name} of {holder.ref}; "
            "rename the service or choose another custom domain",
        )
    return host


def naming_of(row: Deployment) -> str:
    """The DNS label of a row's generated host name."""
    return naming.label(row.project.name, row.name, naming.slug(row.ref))


def _holder(host: str, row: Deployment) -> Deployment | None:
    holder = by_host(host)
    return holder if holder is not None and holder.id != row.id else None


def remove_ref(project: Project, ref: str) -> list[str]:
    """Delete the rows of a ref, inside the caller's `db.write()`; returns their names."""
    of_ref_ = (Deployment.project == project) & (Deployment.ref == ref)
    names = [row.name for row in Deployment.select(Deployment.name).where(of_ref_).order_by(Deployment.name)]
    Deployment.delete().where(of_ref_).execute()
    return names


def went_live(build: Build) -> None:
    """End a rollout well: its rows are live, rows of the ref that it dropped go. Inside `db.write()`."""
    of_ref_ = (Deployment.project == build.project_id) & (Deployment.ref == build.ref)
    Deployment.delete().where(of_ref_, Deployment.build != build).execute()
    for row in Deployment.select().where(of_ref_):
        Deployment.update(live=snapshot(row)).where(Deployment.id == row.id).execute()


def roll_back(build: Build) -> None:
    """End a rollout that failed: rows become what last ran; those that never ran go. Inside `db.write()`.

    So do rows that a build before it left half rolled out, which it did not name.
    """
    of_ref_ = (Deployment.project == build.project_id) & (Deployment.ref == build.ref)
    rows = list(Deployment.select().where(of_ref_, Deployment.build <= build.id))
    for row in rows:
        if row.live is None:
            row.delete_instance()
    restored = [row for row in rows if row.live is not None and row.live != snapshot(row)]
    for row in restored:  # first out of each other's way: the columns are unique
        Deployment.update(
            host=f"{row.id}.invalid", alias_host=None, custom_domain=None, unit=None, port=None
        ).where(Deployment.id == row.id).execute()
    for row in restored:
        live = _refusing(row.live, row.inputs)
        Deployment.update(**live, live=live).where(Deployment.id == row.id).execute()


def _refusing(live: dict[str, Any], inputs: dict[str, Any] | None) -> dict[str, Any]:
    """Remember what a service did not come up with, so that it is not tried again by itself."""
    if not live["inputs"] or not inputs or inputs["digest"] == live["inputs"]["digest"]:
        return live
    return live | {"inputs": live["inputs"] | {"refused": inputs["digest"]}}


def snapshot(row: Deployment) -> dict[str, Any]:
    """Return the columns that a rollout changes, as `live` keeps them."""
    data: dict[str, Any] = row.__data__
    return {name: data[name] for name in VERSIONED}
