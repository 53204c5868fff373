"""How a service is told where its part of a shared server is. Pure."""

from urllib.parse import quote, urlsplit


def addresses(url: str, number: int, *, user: str = "", password: str = "") -> dict[str, str]:
    """Give VALKEY_URL and REDIS_URL for a database of the server at `url`, as `Settings.valkey_url` has it.

    A socket's VALKEY_URL is spelled as projects of the first Kennel expect it, which few libraries read;
    REDIS_URL is what redis-py, ioredis and others read.

    >>> addresses("redis://cache.example.org:6380", 3)["REDIS_URL"]
    'redis://cache.example.org:6380/3'
    >>> addresses("unix:///run/valkey.sock", 3)["VALKEY_URL"]
    'redis+unix:///run/valkey.sock?db=3'
    """
    parts = urlsplit(url)
    login = f"{user}:{quote(password, safe='')}@" if password else ""
    if parts.scheme == "unix":
        place = f"{login}{parts.path}?db={number}"
        return {"VALKEY_URL": f"redis+unix://{place}", "REDIS_URL": f"unix://{place}"}
    host = parts.netloc.rpartition("@")[2]
    address = f"{parts.scheme}://{login}{host}/{number}"
    return {"VALKEY_URL": address, "REDIS_URL": address}
