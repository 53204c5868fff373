"""Compare everything that carries a mark of Kennel with its rows and its table of resources.

What Kennel's own table names, or a mark proves that nobody else can have made, is a leftover and can be
removed. What has only such a name is listed and never touched.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog

from kennel_core import resources
from kennel_core.audit import caddy, disk, units
from kennel_core.audit.findings import Audit, Finding, Verdict
from kennel_core.audit.scope import Scope, scope
from kennel_core.doorbell import Doorbell
from kennel_core.errors import KennelError
from kennel_core.reconcile import converge
from kennel_core.reconcile.backoff import Backoff
from kennel_core.reconcile.host import Host, only_one
from kennel_core.settings import Settings

__all__ = ["Audit", "Finding", "Verdict", "audit", "fix"]

PASS_S = 120.0  # how long `fix` waits for what is on its way; the reconciler goes on with it

log = structlog.get_logger(__name__)


def audit(settings: Settings, host: Host) -> Audit:
    """Ask every system that is configured, or of which the table has anything; needs a database connection.

    A system that does not answer is named in `silent`, and the others are compared nevertheless.

    Raises:
        Unavailable: a pass has been running for too long.
    """
    with only_one(settings.reconcile_lock):
        return _observe(settings, host)


def fix(settings: Settings, host: Host, doorbell: Doorbell, confirmed: Audit) -> dict[str, str]:
    """Put right what was found and is still so, then run passes; returns what could not be done, by its name.

    Raises:
        AdapterError: the host could not be observed, or another pass holds the lock.
    """
    failed: dict[str, str] = {}
    with only_one(settings.reconcile_lock):
        agreed = set(confirmed.fixable())
        for one in _observe(
            settings, host
        ).fixable():  # passes and pushes went on while somebody read the list
            try:
                if one.fix is not None and one in agreed:
                    one.fix()
                    log.info("put right", system=one.system, finding=str(one.verdict), what=one.what)
            except KennelError as exc:
                failed[one.what] = str(exc)
    report = converge(settings, doorbell, host, Backoff(), PASS_S)
    return failed | {f"pass {number}": text for number, text in enumerate(report.errors, 1)}


def _observe(settings: Settings, host: Host) -> Audit:
    seen = scope(settings, host)
    looks = _looks(seen)
    with ThreadPoolExecutor(len(looks)) as pool:
        futures = {name: pool.submit(_attempt, look, seen) for name, look in looks.items()}
        results = {name: future.result() for name, future in futures.items()}
    results["disk"] = _attempt(disk.look, seen)
    findings = [one for result in results.values() if isinstance(result, list) for one in result]
    silent = {name: str(result) for name, result in results.items() if isinstance(result, KennelError)}
    return Audit(tuple(sorted(findings, key=lambda one: (one.system, one.verdict, one.what))), silent)


def _looks(seen: Scope) -> dict[str, Callable[[Scope], list[Finding]]]:
    """Choose whom to ask. A library is loaded only when its server is one of them."""
    settings = seen.settings
    looks: dict[str, Callable[[Scope], list[Finding]]] = {
        "systemd": units.look,
        "caddy": caddy.look,
        "secret files": units.look_at_files,
    }
    noted = {kind for kind, *_ in seen.owned}
    if settings.postgres or "postgres" in noted:
        from kennel_core.audit import postgres  # noqa: PLC0415

        looks["postgres"] = postgres.look
    if settings.valkey or "valkey" in noted:
        from kennel_core.audit import valkey  # noqa: PLC0415

        looks["valkey"] = valkey.look
    if settings.garage_admin or "garage" in noted:
        from kennel_core.audit import garage  # noqa: PLC0415

        looks["garage"] = garage.look
    if settings.keycloak or resources.OIDC in noted:
        from kennel_core.audit import keycloak  # noqa: PLC0415

        looks["keycloak"] = keycloak.look
    if settings.secrets:
        from kennel_core.audit import openbao  # noqa: PLC0415

        looks["openbao"] = openbao.look
    return looks


def _attempt(look: Callable[[Scope], list[Finding]], seen: Scope) -> list[Finding] | KennelError:
    try:
        return look(seen)
    except KennelError as exc:
        return exc
