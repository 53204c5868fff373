"""The route table, as values."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kennel_core.caddy_config import CATCH_ALL, NEWER_FIELDS, NOT_YET, older
from kennel_core.reconcile.routes import Files, Own, Proxy, entries, is_ours, merged, table, targets

OWN = Own("kennel.example.org", "127.0.0.1:3000", "127.0.0.1:3001")
SHOP = Proxy(("shop.example.org",), 18001, 1)
DIRECTORY = Path("/run/kennel/targets")
DOCS = Files(("docs.example.org",), "/nix/store/aaa-docs", spa=False, id=2)

hosts = st.sets(st.integers(0, 50), min_size=1, max_size=3).map(
    lambda numbers: tuple(sorted(f"h{number}.example.org" for number in numbers))
)
ids = st.integers(min_value=1, max_value=10**6)
proxies = st.builds(Proxy, hosts, st.integers(18000, 27999), ids)
sites = st.builds(Files, hosts, st.integers(0, 50).map("/nix/store/{}-site".format), st.booleans(), ids)
deployments = st.lists(proxies | sites, max_size=12, unique_by=lambda entry: entry.id)
owns = st.none() | st.just(OWN)
foreign = st.lists(
    st.fixed_dictionaries(
        {"handle": st.just([{"handler": "static_response", "status_code": 200}])},
        optional={
            "@id": st.sampled_from(["forge", "kenneled", "own"]),
            "match": st.just([{"host": ["other.example.org"]}]),
            "terminal": st.booleans(),
        },
    ),
    max_size=4,
)


def names(routes: list[dict[str, Any]]) -> list[str]:
    return [route["@id"] for route in routes]


@given(deployments, owns, st.randoms())
def test_the_order_of_the_rows_does_not_matter(rows, own, random) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)

    assert table(shuffled, own) == table(rows, own)


@given(deployments, owns)
def test_every_route_is_marked_once_and_the_catch_all_is_last(rows, own) -> None:
    found = names(table(rows, own))

    assert len(set(found)) == len(found)
    assert all(is_ours(route) for route in table(rows, own))
    assert found[-1] == CATCH_ALL
    assert {f"kennel-{row.id}" for row in rows} <= set(found)


@given(deployments, owns)
def test_the_table_reads_back_as_the_entries(rows, own) -> None:
    assert entries(table(rows, own)) == {row.id: row for row in rows}
    assert entries(older(table(rows, own))) == {row.id: row for row in rows}
    assert entries(table(rows, own, DIRECTORY), targets(rows)) == {row.id: row for row in rows}


@given(deployments, owns, st.integers(18000, 27999))
def test_a_new_version_changes_files_and_not_the_table_that_names_them(rows, own, port) -> None:
    new = [
        replace(row, port=port) if isinstance(row, Proxy) else replace(row, root=f"{row.root}-{port}")
        for row in rows
    ]

    assert table(new, own, DIRECTORY) == table(rows, own, DIRECTORY)
    assert targets(new).keys() == targets(rows).keys()


@given(deployments)
def test_the_table_names_every_file_and_no_other(rows) -> None:
    said = json.dumps(table(rows, None, DIRECTORY))

    assert said.count("{file.") == len(targets(rows)) == len(rows)
    assert all(f"{{file.{DIRECTORY}/{name}}}" in said for name in targets(rows))


def test_another_kind_of_deployment_has_another_file() -> None:
    sites = [Files(("h",), "/s", spa=spa, id=1) for spa in (True, False)]

    assert targets([Proxy(("h",), 18001, 1)]) == {"1.port": "18001"}
    assert [targets([site]) for site in sites] == [{"1.spa": "/s"}, {"1.files": "/s"}]


def test_a_route_whose_file_is_missing_leads_nowhere() -> None:
    assert entries(table([SHOP, DOCS], None, DIRECTORY), {"1.port": "18001"}) == {1: SHOP}


@given(deployments, deployments, foreign, foreign, st.booleans())
def test_others_routes_are_kept_first_and_in_order(before, after, some, more, old) -> None:
    ours = older(table(before)) if old else table(before)
    new = merged([*some, *ours, *more], table(after))

    if new is not None:
        assert new == [*some, *more, *table(after)]


@given(deployments, deployments, foreign)
def test_a_table_that_was_written_is_not_written_again(before, after, some) -> None:
    wanted = table(after)
    new = merged([*some, *table(before)], wanted) or [*some, *wanted]

    assert merged(new, wanted) is None
    assert merged([*older(new)], wanted) is None
    assert merged(json.loads(json.dumps(new)), wanted) is None


@given(deployments, owns)
def test_what_caddy_2_6_gets_has_none_of_the_newer_fields_and_the_input_is_untouched(rows, own) -> None:
    routes = table(rows, own)
    before = copy.deepcopy(routes)
    said = json.dumps(older(routes))

    assert not [name for name in NEWER_FIELDS if f'"{name}"' in said]
    assert routes == before


def test_an_empty_caddy_gets_everything() -> None:
    assert merged([NOT_YET], table([SHOP, DOCS], OWN)) == table([SHOP, DOCS], OWN)


def test_services_come_before_sites_and_sites_before_the_rule_that_serves_them() -> None:
    assert names(table([DOCS, SHOP], OWN)) == [
        "kennel-frozen-times",
        "kennel-own",
        "kennel-1",
        "kennel-2",
        "kennel-sites",
        "kennel-catch-all",
    ]


def test_a_changed_port_is_a_difference() -> None:
    assert merged(table([SHOP]), table([Proxy(SHOP.hosts, 18002, SHOP.id)])) is not None


def test_a_route_that_somebody_changed_by_hand_is_written_anew() -> None:
    current = table([SHOP])
    current[1] = {"@id": "kennel-1", "handle": []}

    assert entries(current) == {}
    assert merged(current, table([SHOP])) == table([SHOP])
