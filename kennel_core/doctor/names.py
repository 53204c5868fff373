"""Host names: whether they lead to this host. DNS is the operator's."""

import secrets
import socket
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait

from kennel_core.doctor.checks import Checks, failed, ok, warning
from kennel_core.settings import Settings

SYSTEM = "names"
ANSWER_S = 5.0
AT_ONCE = 16
SHOWN = 5  # names in one line

Resolved = Mapping[str, frozenset[str]]


def examine(settings: Settings, hosts: Iterable[str]) -> Checks:
    """Look up Kennel's own name, any name below the base domain, and those of deployments."""
    probe = f"kennel-doctor-{secrets.token_hex(4)}.{settings.base_domain}"
    resolved = resolve({probe, *hosts, *filter(None, [settings.domain])})
    yield from _generated(settings.base_domain, probe, resolved)
    others = [host for host in resolved if not host.endswith(f".{settings.base_domain}")]
    for host in sorted(others):
        yield from _one(host, resolved[host])


def _generated(base: str, probe: str, resolved: Resolved) -> Checks:
    """Judge the generated names together: one wildcard record is for all of them."""
    below = [host for host in resolved if host.endswith(f".{base}")]
    lost = sorted(host for host in below if not resolved[host] and host != probe)
    if lost or not resolved[probe]:
        shown = ", ".join(lost[:SHOWN] or [f"any.{base}"]) + (", ..." if len(lost) > SHOWN else "")
        yield failed(SYSTEM, f"do not resolve: {shown}", f"add a wildcard record: *.{base}")
        return
    away = sorted({address for host in below for address in resolved[host] if not is_own(address)})
    if away:
        remedy = "right behind a NAT or a load balancer; else mend the record"
        yield warning(SYSTEM, f"*.{base} leads to {', '.join(away)}, no address of this host", remedy)
    else:
        yield ok(SYSTEM, f"*.{base} leads to this host")


def _one(host: str, addresses: frozenset[str]) -> Checks:
    away = sorted(address for address in addresses if not is_own(address))
    if not addresses:
        yield failed(SYSTEM, f"{host} does not resolve", "add a record that leads to this host")
    elif away:
        remedy = "right behind a NAT or a load balancer; else mend the record"
        yield warning(SYSTEM, f"{host} leads to {', '.join(away)}, no address of this host", remedy)
    else:
        yield ok(SYSTEM, f"{host} leads to this host")


def resolve(hosts: Iterable[str], timeout: float = ANSWER_S) -> dict[str, frozenset[str]]:
    """Give the addresses of each name; none for a name without, and for one whose answer takes too long."""
    pool = ThreadPoolExecutor(AT_ONCE)
    futures = {host: pool.submit(_addresses, host) for host in hosts}
    wait(futures.values(), timeout=timeout)
    pool.shutdown(wait=False, cancel_futures=True)
    return {
        host: future.result() if future.done() and not future.cancelled() else frozenset()
        for host, future in futures.items()
    }


def is_own(address: str) -> bool:
    """Tell whether an address is one of this host's: only those can be bound to."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def _addresses(host: str) -> frozenset[str]:
    if host == "localhost" or host.endswith(".localhost"):
        return frozenset({"127.0.0.1"})  # browsers ask nobody: RFC 6761 section 6.3
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return frozenset()
    return frozenset(str(address[0]) for *_, address in found)
