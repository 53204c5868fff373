"""Redis or Valkey, only to ask whether it answers; messages are Celery's affair."""

from urllib.parse import urlsplit

import redis

from kennel_core.errors import Rejected, Unavailable

PING_TIMEOUT_S = 0.5
SYSTEM = "redis"


def ping(url: str) -> None:
    """Ask for an answer within half a second.

    `url` is what Celery takes: ``redis://HOST:PORT/DB`` or ``redis+socket:///PATH``.

    Raises:
        Unavailable: nobody listens, or no answer came.
        Rejected: it refuses us.
    """
    try:
        with redis.Redis.from_url(
            _client_url(url), socket_timeout=PING_TIMEOUT_S, socket_connect_timeout=PING_TIMEOUT_S, retry=None
        ) as client:
            client.ping()
    except (redis.ConnectionError, redis.TimeoutError) as exc:
        raise Unavailable(SYSTEM, "ping", f"{exc}; is it running?") from exc
    except redis.RedisError as exc:
        raise Rejected(SYSTEM, "ping", str(exc)) from exc


def _client_url(url: str) -> str:
    """Write Celery's form of a socket's URL as the client library knows it."""
    parts = urlsplit(url)
    return f"unix://{parts.path}" if parts.scheme == "redis+socket" else url
