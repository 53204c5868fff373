"""Kennel's own host as a client sees it, through real Caddys."""

from kennel_core.adapters.caddy import Caddy
from kennel_core.reconcile.routes import OWN_BODY_MAX, Own, table
from tests.servers.caddy import CaddyServer
from tests.servers.upstream import Handler, body_of, reply, says, upstream

KENNEL = "kennel.localhost"


def show(caddy: CaddyServer, web: int, follow: int) -> None:
    """Route Kennel's host to two ports."""
    caddy.ask.allowed.add(KENNEL)
    Caddy(caddy.admin).replace_routes(table([], Own(KENNEL, f"127.0.0.1:{web}", f"127.0.0.1:{follow}")))


def test_kennels_own_host_reaches_both_processes_and_hides_what_is_internal(caddy: CaddyServer) -> None:
    with upstream(says(b"web")) as web, upstream(says(b"follow")) as follow:
        show(caddy, web, follow)

        assert caddy.request(KENNEL, "/builds/1/log").body == b"web"
        assert caddy.request(KENNEL, "/webhook", method="POST", body=b"{}").body == b"web"
        assert caddy.request(KENNEL, "/builds/1/log?lines=5&follow=true").body == b"follow"
        assert caddy.request(KENNEL, "/builds/1/log?follow=false").body == b"web"
        assert caddy.request(KENNEL, "/deployments/1/logs?lines=5").body == b"follow"
        for path in (
            "/internal/caddy/check-domain?domain=x",
            "/internal",
            "//internal/caddy/check-domain",
            "/x/../internal/caddy/check-domain",
            "/%69nternal/caddy/check-domain",
            "/INTERNAL/caddy/check-domain",
            "/internal/caddy/check-domain?follow=true",
        ):
            assert caddy.request(KENNEL, path).status == 404, path


def _repeat(handler: Handler) -> None:
    reply(handler, body_of(handler))


def test_a_stalled_upload_holds_no_worker_of_kennels(caddy: CaddyServer) -> None:
    with upstream(_repeat, threads=False) as port:
        show(caddy, port, port)
        stalled = caddy.connect(KENNEL)
        stalled.putrequest("POST", "/webhook")
        stalled.putheader("Content-Length", "8")
        stalled.endheaders(b"half")

        other = caddy.request(KENNEL, "/webhook", method="POST", body=b"{}")
        stalled.send(b"rest")
        late = stalled.getresponse().read()
        stalled.close()

    assert other.body == b"{}"
    assert late == b"halfrest"


def test_an_upload_beyond_all_measure_is_refused_before_kennel_sees_it(caddy: CaddyServer) -> None:
    seen: list[int] = []

    def answer(handler: Handler) -> None:
        seen.append(len(body_of(handler)))
        reply(handler, b"")

    with upstream(answer) as port:
        show(caddy, port, port)
        assert caddy.request(KENNEL, "/webhook", method="POST", body=b"x" * OWN_BODY_MAX).status == 200
        for length in (OWN_BODY_MAX + 1, 10 * OWN_BODY_MAX):
            connection = caddy.connect(KENNEL)
            connection.putrequest("POST", "/webhook")
            connection.putheader("Content-Length", str(length))
            connection.endheaders(b"x" * 300_000)  # newer ones read a little before they refuse
            assert connection.getresponse().status == 413
            connection.close()

    assert seen == [OWN_BODY_MAX]
