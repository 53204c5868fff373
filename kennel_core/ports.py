"""Which port a service gets."""

import errno
import socket
from collections.abc import Callable, Collection, Iterator


def next_fit(
    ports: range, after: int | None, taken: Collection[int], is_free: Callable[[int], bool]
) -> int | None:
    """Return the first free port behind `after`, wrapping around once; None when there is none.

    Next-fit, so that a port is not given away again while connections to its last holder still end.
    """
    return next((port for port in _ring(ports, after) if port not in taken and is_free(port)), None)


def _ring(ports: range, after: int | None) -> Iterator[int]:
    start = ports.index(after) + 1 if after is not None and after in ports else 0
    yield from ports[start:]
    yield from ports[:start]


def can_bind(port: int) -> bool:
    """Tell whether nobody listens on the port of a loopback address."""
    return not any(
        _in_use(family, address, port)
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
    )


def _in_use(family: int, address: str, port: int) -> bool:
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
    except OSError as exc:
        return exc.errno == errno.EADDRINUSE  # anything else: the machine has no such address family
    return False
