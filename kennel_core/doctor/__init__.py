"""Ask every configured neighbour for what Kennel will need of it, before it is needed.

Rights are tried on names that nobody has, and what was made is removed again.
"""

from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor

from kennel_core import db, deployments
from kennel_core.doctor import caddy, files, names, programs, systemd
from kennel_core.doctor.checks import Check, Checks, Verdict, failed
from kennel_core.errors import AdapterError, KennelError, NotFound
from kennel_core.models import Deployment
from kennel_core.settings import Settings

__all__ = ["Check", "Verdict", "examine"]

Examination = Callable[[Settings], Checks]


def examine(settings: Settings, systems: Collection[str] = ()) -> list[Check]:
    """Ask everybody, or these systems, side by side; needs no database connection, and opens one.

    Raises:
        NotFound: a system has not this name, or is not configured.
    """
    asked: dict[str, Examination] = {
        "database": files.examine,
        "broker": files.examine_broker,
        "systemd": systemd.examine,
        "caddy": caddy.examine,
        **_servers(settings),
        "programs": programs.examine,
        "names": _names,
    }
    unknown = sorted(set(systems) - set(asked))
    if unknown:
        raise NotFound(f"{' '.join(unknown)}: not configured, or no system; there are {', '.join(asked)}")
    asked = {name: each for name, each in asked.items() if not systems or name in systems}
    with ThreadPoolExecutor(len(asked)) as pool:
        results = [pool.submit(_attempt, name, each, settings) for name, each in asked.items()]
        return [check for result in results for check in result.result()]


def _servers(settings: Settings) -> dict[str, Examination]:
    """Choose the servers that are configured; a library is loaded only when its server is one of them."""
    found: dict[str, Examination] = {}
    if settings.postgres:
        from kennel_core.doctor import postgres  # noqa: PLC0415

        found["postgres"] = postgres.examine
    if settings.valkey:
        from kennel_core.doctor import valkey  # noqa: PLC0415

        found["valkey"] = valkey.examine
    if settings.garage_admin:
        from kennel_core.doctor import garage  # noqa: PLC0415

        found["garage"] = garage.examine
    if settings.secrets:
        from kennel_core.doctor import openbao  # noqa: PLC0415

        found["openbao"] = openbao.examine
    if settings.keycloak:
        from kennel_core.doctor import keycloak  # noqa: PLC0415

        found["keycloak"] = keycloak.examine
    if settings.forge_url:
        from kennel_core.doctor import forge  # noqa: PLC0415

        found["forge"] = forge.examine
    return found


def _names(settings: Settings) -> Checks:
    with db.connection():
        rows = deployments.all_rows()
    return names.examine(settings, _hosts(rows))


def _hosts(rows: Iterable[Deployment]) -> list[str]:
    return [host for row in rows for host in (row.host, row.alias_host, row.custom_domain) if host]


def _attempt(name: str, examination: Examination, settings: Settings) -> list[Check]:
    """Take down what is said until it is done, or until somebody does not answer."""
    said: list[Check] = []
    try:
        said.extend(examination(settings))
    except AdapterError as exc:
        said.append(failed(name, exc.operation, str(exc).removeprefix(f"{exc.system}: {exc.operation}: ")))
    except KennelError as exc:
        said.append(failed(name, "it cannot be asked", str(exc)))
    return said
