"""The rows: what a build wants, what a rollout changes, what stays when it fails."""

import socket

import pytest

from kennel_core import builds, db, deployments, lease, ports, projects
from kennel_core.errors import BuildFailed
from kennel_core.models import Build, Deployment, Project
from kennel_core.outputs import Outputs, ServiceOutput, SiteOutput
from kennel_core.reconcile.desired import wanted
from kennel_core.settings import Settings

NOW = 1_000_000.0


def service(name: str = "api", version: str = "1", **more: object) -> ServiceOutput:
    path = f"/nix/store/{version * 32}-{name}"
    return ServiceOutput(
        name=name, store_path=path, command=[f"{path}/bin/{name}"], health_path="/api/health", **more
    )


def site(name: str = "docs", version: str = "1", **more: object) -> SiteOutput:
    return SiteOutput(name=name, store_path=f"/nix/store/{version * 32}-{name}", **more)


def outputs(*items: ServiceOutput | SiteOutput, preview: bool = True) -> Outputs:
    return Outputs(
        config_path="/nix/store/config",
        preview_deployments=preview,
        services=[item for item in items if isinstance(item, ServiceOutput)],
        sites=[item for item in items if isinstance(item, SiteOutput)],
    )


_commits = iter(range(1, 10_000))


def built(project: Project, settings: Settings, wants: Outputs, ref: str = "main") -> Build:
    with db.write():
        builds.enqueue(project, ref, f"{next(_commits):040x}", NOW)
    build = lease.claim(NOW)
    assert build is not None
    lease.succeed(build, wants, settings, NOW)
    return build


def live(project: Project, settings: Settings, wants: Outputs, ref: str = "main") -> Build:
    build = built(project, settings, wants, ref)
    with db.write():
        builds.went_live(build.id, NOW)
        deployments.went_live(build)
    return build


def rows() -> dict[str, Deployment]:
    return {row.name: row for row in deployments.all_rows()}


def test_rows_have_the_names_that_users_expect(project: Project, settings: Settings) -> None:
    built(project, settings, outputs(service(), site(spa=True)))

    api, docs = rows()["api"], rows()["docs"]
    assert (api.host, docs.host) == ("shop-api-main.localhost", "shop-docs-main.localhost")
    assert api.unit.startswith("kennel-shop-main-api-")
    assert (api.alias_host, docs.alias_host) == (None, None)
    assert (api.environment, api.port in settings.port_range, docs.port, docs.spa) == (
        "prod",
        True,
        None,
        True,
    )


def test_a_single_service_has_the_short_alias_too(project: Project, settings: Settings) -> None:
    built(project, settings, outputs(service()), ref="pr-7")

    assert (rows()["api"].alias_host, rows()["api"].environment) == ("shop-pr-7.localhost", "preview")
    assert deployments.by_host("shop-pr-7.localhost").name == "api"
    assert deployments.by_host("shop-pr-8.localhost") is None


def test_a_custom_domain_is_for_prod_alone(project: Project, settings: Settings) -> None:
    wants = outputs(service(custom_domain="shop.example.org"))
    built(project, settings, wants)
    built(project, settings, wants, ref="dev")

    assert {row.ref: row.custom_domain for row in deployments.all_rows()} == {
        "main": "shop.example.org",
        "dev": None,
    }
    [environment] = [row.environment for row in wanted(settings).rollouts if "shop.example.org" in row.hosts]
    assert environment["APP_URL"] == "https://shop.example.org"


@pytest.mark.parametrize(
    ("domain", "said"),
    [
        ("taken.example.org", "already belongs to acme/other, web of main"),
        ("x.localhost", "Kennel gives the names below localhost"),
        ("kennel.example.org", "Kennel's own host name"),
    ],
)
def test_a_domain_that_is_taken_or_reserved_fails_the_build_and_changes_nothing(
    project: Project, settings: Settings, domain: str, said: str
) -> None:
    settings = settings.model_copy(update={"domain": "kennel.example.org"})
    other = projects.add("acme/other", "https://forge.example.org/acme/other.git", "main")
    live(other, settings, outputs(service("web", custom_domain="taken.example.org")))

    with pytest.raises(BuildFailed, match=said):
        built(project, settings, outputs(service(custom_domain=domain)))
    assert [row.name for row in deployments.all_rows()] == ["web"]


def test_two_projects_whose_names_run_into_each_other_do_not_share_a_host(
    settings: Settings, database: object
) -> None:
    one = projects.add("acme/a-b", "https://forge.example.org/acme/a-b.git", "main")
    two = projects.add("acme/a", "https://forge.example.org/acme/a.git", "main")
    live(one, settings, outputs(service("c"), site()))

    with pytest.raises(BuildFailed, match="already belongs to acme/a-b, c of main"):
        built(two, settings, outputs(service("b-c"), site()))


def test_an_alias_gives_way_to_a_host_of_the_same_name(settings: Settings, database: object) -> None:
    one = projects.add("acme/a-b", "https://forge.example.org/acme/a-b.git", "main")
    two = projects.add("acme/a", "https://forge.example.org/acme/a.git", "main")
    live(one, settings, outputs(service("api")))
    assert rows()["api"].alias_host == "a-b-main.localhost"

    built(two, settings, outputs(service("b"), site()))

    assert (rows()["api"].alias_host, rows()["b"].host) == (None, "a-b-main.localhost")


def test_the_same_revision_keeps_unit_and_port(project: Project, settings: Settings) -> None:
    live(project, settings, outputs(service(), site()))
    before = rows()["api"]
    live(project, settings, outputs(service(), site(version="2")))
    after = rows()["api"]

    assert (after.unit, after.port, after.id) == (before.unit, before.port, before.id)
    assert after.commit != before.commit


def test_another_store_path_is_another_unit_on_another_port(project: Project, settings: Settings) -> None:
    live(project, settings, outputs(service()))
    before = rows()["api"]
    built(project, settings, outputs(service(version="2")))
    after = rows()["api"]

    assert after.unit != before.unit
    assert after.port != before.port
    assert after.live["unit"] == before.unit
    assert deployments.units() == {before.unit, after.unit}


def test_a_rollout_that_fails_leaves_what_was_live_even_what_it_dropped(
    project: Project, settings: Settings
) -> None:
    good = live(project, settings, outputs(service(), site()))
    before = {name: deployments.snapshot(row) for name, row in rows().items()}
    bad = built(project, settings, outputs(service(version="2"), service("worker")))
    with db.write():
        deployments.roll_back(bad)
        builds.rollout_failed(bad.id, "no", NOW)

    assert {name: deployments.snapshot(row) for name, row in rows().items()} == before
    assert {row.build_id for row in rows().values()} == {good.id}
    assert wanted(settings).rollouts == ()


def test_a_first_build_that_fails_leaves_no_row(project: Project, settings: Settings) -> None:
    bad = built(project, settings, outputs(service(), site()))
    with db.write():
        deployments.roll_back(bad)

    assert rows() == {}


def test_a_failed_build_takes_along_what_an_overtaken_one_left_half_rolled_out(
    project: Project, settings: Settings
) -> None:
    live(project, settings, outputs(service(), site()))
    before = {name: deployments.snapshot(row) for name, row in rows().items()}
    built(project, settings, outputs(service(version="2"), site(version="2"), site("blog")))
    bad = built(project, settings, outputs(service(version="3")))
    with db.write():
        deployments.roll_back(bad)

    assert {name: deployments.snapshot(row) for name, row in rows().items()} == before


def test_what_a_build_no_longer_declares_goes_when_it_is_live(project: Project, settings: Settings) -> None:
    live(project, settings, outputs(service(), site()))
    build = built(project, settings, outputs(service()))
    assert set(rows()) == {"api", "docs"}
    with db.write():
        deployments.went_live(build)

    assert set(rows()) == {"api"}


def test_a_service_that_becomes_a_site_gives_its_port_back(project: Project, settings: Settings) -> None:
    live(project, settings, outputs(service("web")))
    live(project, settings, outputs(site("web")))

    assert (rows()["web"].kind, rows()["web"].unit, rows()["web"].port) == ("site", None, None)


def test_previews_can_be_declined(project: Project, settings: Settings) -> None:
    built(project, settings, outputs(service(), preview=False), ref="pr-1")
    assert rows() == {}
    built(project, settings, outputs(service(), preview=False), ref="main")
    assert set(rows()) == {"api"}


def test_ports_run_out_with_a_sentence(project: Project, settings: Settings) -> None:
    few = settings.model_copy(update={"ports": "29100-29101"})
    with pytest.raises(BuildFailed, match="no port of 29100-29101 is free"):
        built(project, few, outputs(service("a"), service("b"), service("c")))


def test_a_port_that_somebody_listens_on_is_not_given_away() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert not ports.can_bind(port)
        assert ports.next_fit(range(port, port + 1), None, (), ports.can_bind) is None
    assert ports.can_bind(port)


def test_ports_are_given_in_turn() -> None:
    def give(after: int | None, *taken: int) -> int | None:
        return ports.next_fit(range(10, 14), after, taken, lambda port: port != 12)

    assert [give(None), give(10), give(11, 13), give(13), give(99), give(10, 10, 11, 13)] == [
        10,
        11,
        10,
        10,
        10,
        None,
    ]


def test_a_service_is_told_who_it_is(project: Project, settings: Settings) -> None:
    settings = settings.model_copy(update={"https_port": 8443})
    build = built(project, settings, outputs(service(), site("my-docs")))
    [api] = [row for row in wanted(settings).rollouts if row.unit]

    assert api.environment == {
        "APP_URL": "https://shop-api-main.localhost:8443",
        "COMMIT_HASH": build.commit,
        "HOST": "127.0.0.1",
        "KENNEL_BRANCH": "main",
        "KENNEL_ENVIRONMENT": "prod",
        "KENNEL_PROJECT": "shop",
        "KENNEL_SERVICE": "api",
        "KENNEL_URL_API": "https://shop-api-main.localhost:8443",
        "KENNEL_URL_MY_DOCS": "https://shop-my-docs-main.localhost:8443",
        "PORT": str(api.port),
    }


def test_while_it_rolls_out_the_live_version_is_wanted_as_well(project: Project, settings: Settings) -> None:
    good = live(project, settings, outputs(service()))
    built(project, settings, outputs(service(version="2")))

    found = wanted(settings)

    [old], [new] = found.live, found.rollouts
    assert old.environment["COMMIT_HASH"] == good.commit != new.environment["COMMIT_HASH"]
    assert (old.store_path[11], new.store_path[11], old.hosts) == ("1", "2", new.hosts)
