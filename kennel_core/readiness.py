"""Whether Kennel and what it depends on can do their work."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for

from kennel_core import db
from kennel_core.adapters import broker
from kennel_core.adapters.caddy import Caddy
from kennel_core.adapters.forge import Forge
from kennel_core.adapters.systemd import Systemd
from kennel_core.errors import KennelError
from kennel_core.settings import Settings

ANSWER_S = 2.0
WORKS_WITHOUT = frozenset({"forge"})  # whose absence costs only a delay


def checks(settings: Settings) -> dict[str, str | None]:
    """Ask every neighbour at once; None for one that answers within ANSWER_S, else a sentence.

    Needs no database connection: it opens one.
    """
    asked: dict[str, Callable[[], object]] = {
        "database": _database,
        "redis": lambda: broker.ping(settings.broker_url),
        "caddy": lambda: Caddy(settings.caddy_admin, settings.caddy_server, ANSWER_S).routes(),
        "systemd": lambda: _systemd(settings.bus),
    }
    if settings.forge_url:
        asked["forge"] = lambda: Forge(settings, ANSWER_S).version()
    pool = ThreadPoolExecutor(len(asked))
    futures = {name: pool.submit(_problem, check) for name, check in asked.items()}
    wait_for(futures.values(), timeout=ANSWER_S)
    pool.shutdown(wait=False)  # a neighbour that hangs must not hold up the answer
    return {name: _answer(future) for name, future in futures.items()}


def _answer(future: Future[str | None]) -> str | None:
    return future.result() if future.done() else f"no answer within {ANSWER_S:g} s"


def _problem(check: Callable[[], object]) -> str | None:
    try:
        check()
    except KennelError as exc:
        return str(exc)
    return None


def _database() -> None:
    with db.connection():
        pass


def _systemd(bus: str) -> None:
    with Systemd(bus) as systemd:
        systemd.units()
