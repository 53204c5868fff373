"""The adapter against real Caddys: reading, writing, refusals, silence, certificates."""

import http.client
import json
import ssl
import subprocess
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from kennel_core import caddy_config
from kennel_core.adapters.caddy import Caddy
from kennel_core.errors import Rejected, Unavailable
from kennel_core.reconcile.routes import Files, Own, Proxy, merged, table
from tests.servers.caddy import CaddyServer
from tests.servers.upstream import reply, upstream

ROOT = Path(__file__).parents[1]
HOST = "shop.localhost"
ENTRIES = [Proxy((HOST,), 1, 1), Files(("docs.localhost",), "/nix/store/aaa-docs", spa=True, id=2)]
OWN = Own("kennel.localhost", "127.0.0.1:1", "127.0.0.1:1")
FOREIGN = [
    {
        "match": [{"host": ["forge.localhost"]}],
        "handle": [{"handler": "static_response", "body": "the forge"}],
        "terminal": True,
    },
    {"@id": "operator", "handle": [{"handler": "headers", "response": {"set": {"X-Operator": ["1"]}}}]},
]


def write(caddy: CaddyServer, wanted: list[caddy_config.Route]) -> bool:
    """Do what a pass does: read, compare, write at most once."""
    client = Caddy(caddy.admin)
    new = merged(client.routes(), wanted)
    if new is not None:
        client.replace_routes(new)
    return new is not None


def test_a_table_is_read_back_and_not_written_twice(caddy: CaddyServer) -> None:
    before = caddy.reloads()
    assert write(caddy, table(ENTRIES, OWN))
    once = caddy.reloads()
    writes = caddy.writes()

    assert not write(caddy, table(ENTRIES, OWN))
    assert once == caddy.reloads() == before + 1
    assert caddy.writes() == writes


def test_only_a_caddy_that_lacks_a_field_gets_the_table_without_it(caddy: CaddyServer) -> None:
    Caddy(caddy.admin).replace_routes(table(ENTRIES, OWN))

    wanted = table(ENTRIES, OWN)
    assert Caddy(caddy.admin).routes() == (wanted if caddy.version >= (2, 7) else caddy_config.older(wanted))


def test_a_restart_with_nothing_is_repaired_by_one_write(caddy: CaddyServer) -> None:
    caddy.ask.allowed.add(HOST)
    with upstream(lambda handler: reply(handler, b"here")) as port:
        entries = [Proxy((HOST,), port, 1), *(Proxy((f"h{n}.localhost",), port, n) for n in range(2, 100))]
        write(caddy, table(entries))
        caddy.restart_empty()
        assert caddy.request(HOST).status == 503

        before = caddy.reloads()
        assert write(caddy, table(entries))

        assert caddy.reloads() == before + 1
        assert caddy.request(HOST).body == b"here"


def test_routes_of_others_stay_and_work(caddy: CaddyServer) -> None:
    caddy.ask.allowed |= {"forge.localhost", "nobody.localhost"}
    Caddy(caddy.admin).replace_routes([FOREIGN[0], *table([]), FOREIGN[1]])

    write(caddy, table(ENTRIES))

    assert Caddy(caddy.admin).routes()[:2] == FOREIGN
    assert caddy.request("forge.localhost").body == b"the forge"
    assert caddy.request("nobody.localhost").status == 404


def test_what_caddy_refuses_changes_nothing_and_its_words_are_in_the_error(caddy: CaddyServer) -> None:
    write(caddy, table(ENTRIES))
    before = Caddy(caddy.admin).routes()

    with pytest.raises(Rejected, match=r"unknown module: http\.handlers\.nonsense"):
        Caddy(caddy.admin).replace_routes([{"handle": [{"handler": "nonsense"}]}])

    assert Caddy(caddy.admin).routes() == before


def test_a_missing_server_is_named_with_what_to_do(caddy: CaddyServer) -> None:
    client = Caddy(caddy.admin, "srv7")

    with pytest.raises(Rejected, match=r"no server 'srv7': load deploy/caddy\.json"):
        client.routes()
    with pytest.raises(Rejected, match=r"no server 'srv7': load deploy/caddy\.json"):
        client.replace_routes([])


def test_a_write_over_somebody_elses_is_refused_where_caddy_can_tell(caddy: CaddyServer) -> None:
    client = Caddy(caddy.admin)
    client.routes()
    write(caddy, table(ENTRIES))

    if caddy.version >= (2, 8):
        with pytest.raises(Unavailable, match="somebody else changed the routes"):
            client.replace_routes(table([]))
        client.routes()
    client.replace_routes(table([]))  # 2.6 sends its Etag where no client looks, so the last one wins

    assert Caddy(caddy.admin).routes() == table([])


def test_a_caddy_that_is_down_is_unavailable(caddy: CaddyServer) -> None:
    caddy.kill()
    try:
        with pytest.raises(Unavailable, match=r"cannot reach unix:///.*does it run"):
            Caddy(caddy.admin).routes()
        with pytest.raises(Unavailable, match=r"cannot reach unix:///.*does it run"):
            Caddy(caddy.admin).replace_routes([])
    finally:
        caddy.start()


def test_a_frozen_caddy_is_unavailable_when_the_time_is_over(caddy: CaddyServer) -> None:
    caddy.freeze()
    try:
        with pytest.raises(Unavailable, match=r"no answer from unix:///.* within 0\.2 s"):
            Caddy(caddy.admin, timeout=0.2).routes()
        with pytest.raises(Unavailable, match=r"no answer from unix:///.* within 0\.2 s"):
            Caddy(caddy.admin, timeout=0.2).replace_routes([])
    finally:
        caddy.thaw()


def test_what_is_not_caddy_is_unavailable() -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        reply(handler, b"<html>It works!", status=200 if handler.command == "GET" else 500)

    with upstream(answer) as port:
        with pytest.raises(Unavailable, match="not JSON"):
            Caddy(f"http://127.0.0.1:{port}").routes()
        with pytest.raises(Unavailable, match="501"):
            Caddy(f"http://127.0.0.1:{port}").replace_routes([])


def test_a_known_host_gets_a_certificate_and_a_junk_name_does_not(caddy: CaddyServer) -> None:
    caddy.ask.allowed.add("known.localhost")

    assert caddy.request("known.localhost").status == 503  # verified against Caddy's root
    with pytest.raises(ssl.SSLError):
        caddy.request("junk.localhost")

    assert caddy.ask.asked == ["known.localhost", "junk.localhost"]


def test_a_host_without_a_route_is_not_found(caddy: CaddyServer) -> None:
    caddy.ask.allowed.add("gone.localhost")
    write(caddy, table(ENTRIES))

    answer = caddy.request("gone.localhost", "/any/path?x=1")

    assert (answer.status, answer.headers["cache-control"]) == (404, "no-store")


def test_plain_http_is_sent_to_https(caddy: CaddyServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", caddy.http_port, timeout=10)
    connection.request("GET", "/a?b=c", headers={"Host": f"{HOST}:{caddy.http_port}"})
    response = connection.getresponse()
    connection.close()

    assert response.status == 308
    assert response.headers["Location"] == f"https://{HOST}:{caddy.https_port}/a?b=c"


def test_the_production_example_is_what_kennel_expects_and_caddy_reads_it(
    caddy: CaddyServer, tmp_path: Path
) -> None:
    file = ROOT / "deploy" / ("caddy.json" if caddy.version >= (2, 8) else "caddy-2.6.json")
    ask = "http://127.0.0.1:3000/internal/caddy/check-domain"
    expected = caddy_config.base(
        caddy_config.Base(admin="unix//run/caddy/admin.sock", ask=ask), caddy.version
    )

    done = subprocess.run(
        [caddy.program, "validate", "--config", file],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
        env={"HOME": str(tmp_path)},
    )

    assert json.loads(file.read_text()) == expected
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("2.6.2\n", (2, 6)),
        ("v2.11.9 h1:bhZtcRKQOq0fuLvEgCdPYvUxXyGn9kzjG4lh2332DTE=\n", (2, 11)),
        ("unknown\ngo\tgo1.26.8\nmod\tgithub.com/caddyserver/caddy/v2\tv2.11.9\th1:bhZ=\n", (2, 11)),
    ],
)
def test_a_version_is_read_from_what_caddy_says_of_itself(text: str, version: tuple[int, int]) -> None:
    assert caddy_config.version(text) == version


def test_a_version_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ValueError, match="no version of Caddy in 'unknown'"):
        caddy_config.version("unknown")
