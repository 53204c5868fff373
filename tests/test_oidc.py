"""Which clients the deployments want: literals in, literals out."""

import pytest

from kennel_core import oidc
from kennel_core.environment import Environment
from kennel_core.oidc import Client, Login

PROD, STAGING, DEV, PREVIEW = Environment
SHOP = Login(1, "shop", PROD, ("https://shop-api-main.apps.org", "https://shop.org"), ("/cb", "/auth/cb"))


def preview(number: int, project_id: int = 1, project: str = "shop") -> Login:
    return Login(project_id, project, PREVIEW, (f"https://{project}-api-pr-{number}.apps.org",), ("/cb",))


def wanted(*logins: Login, held: dict[str, int] | None = None) -> dict[str, Client]:
    found, warnings = oidc.clients(logins, held)
    assert not warnings
    return {client.client_id: client for client in found}


def test_a_client_may_redirect_to_every_path_of_every_host() -> None:
    client = wanted(SHOP)["shop"]

    assert client == Client(
        "shop",
        1,
        "shop",
        (PROD,),
        redirect_uris=frozenset(
            {
                "https://shop-api-main.apps.org/cb",
                "https://shop-api-main.apps.org/auth/cb",
                "https://shop.org/cb",
                "https://shop.org/auth/cb",
            }
        ),
        post_logout_uris=client.redirect_uris
        | {
            "https://shop-api-main.apps.org",
            "https://shop-api-main.apps.org/",
            "https://shop.org",
            "https://shop.org/",
        },
        web_origins=frozenset({"https://shop-api-main.apps.org", "https://shop.org"}),
    )


def test_everything_that_is_not_prod_shares_the_other_client() -> None:
    rows = [
        Login(1, "shop", environment, (f"https://{environment}.org",), ("/cb",))
        for environment in (STAGING, DEV, PREVIEW)
    ]

    found = wanted(SHOP, *rows)

    assert set(found) == {"shop", "shop-staging"}
    assert found["shop-staging"].environments == (STAGING, DEV, PREVIEW)
    assert found["shop-staging"].redirect_uris == {
        "https://staging.org/cb",
        "https://dev.org/cb",
        "https://preview.org/cb",
    }
    assert found["shop"] == wanted(SHOP)["shop"]


def test_the_pair_stays_while_the_project_has_any_login_and_an_idle_client_redirects_nowhere() -> None:
    found = wanted(SHOP)["shop-staging"]

    assert (found.redirect_uris, found.post_logout_uris, found.web_origins) == (
        frozenset(),
        frozenset(),
        frozenset(),
    )
    assert not wanted()


def test_a_preview_adds_its_own_uris_and_takes_them_away_again() -> None:
    both = wanted(SHOP, preview(7), preview(8))["shop-staging"]
    one = wanted(SHOP, preview(8))["shop-staging"]

    assert both.redirect_uris - one.redirect_uris == {"https://shop-api-pr-7.apps.org/cb"}
    assert one.redirect_uris == {"https://shop-api-pr-8.apps.org/cb"}


def test_the_order_of_the_rows_does_not_matter() -> None:
    rows = [SHOP, preview(1), preview(2), preview(1, 2), preview(1, 3, "docs")]

    assert oidc.clients(rows) == oidc.clients(rows[::-1])


def test_of_two_projects_with_one_name_the_first_registered_has_the_plain_names() -> None:
    found = wanted(preview(1, 9), preview(2, 4))

    assert found["shop"].project_id == 4
    others = {name for name, client in found.items() if client.project_id == 9}
    assert others == {"shop-dfcc1630", "shop-dfcc1630-staging"}
    assert len(found) == 4


def test_a_project_keeps_the_names_it_has_when_an_older_one_begins_to_log_people_in() -> None:
    before = {name: client.project_id for name, client in wanted(preview(1, 9)).items()}

    found = wanted(preview(1, 9), preview(2, 4), held=before)

    assert {name for name, client in found.items() if client.project_id == 9} == {"shop", "shop-staging"}
    assert len(found) == 4


def test_a_project_keeps_the_names_it_has_when_the_plain_ones_become_free() -> None:
    both = {name: client.project_id for name, client in wanted(preview(1, 9), preview(2, 4)).items()}
    left = {name: number for name, number in both.items() if number == 9}

    assert set(wanted(preview(1, 9), held=both)) == set(wanted(preview(1, 9), held=left)) == set(left)


def test_a_project_is_not_taken_for_the_staging_client_of_another() -> None:
    found = wanted(preview(1, 1, "shop-staging"), preview(1, 2, "shop"))

    assert found["shop-staging"].project_id == 1
    assert "shop" not in found
    assert len(found) == 4


def test_names_that_are_no_labels_and_long_ones_stay_apart_and_short() -> None:
    names = ["Shop", "shop", "sh.op", "x" * 100, "x" * 99]
    found = wanted(*(preview(1, number, name) for number, name in enumerate(names)))

    assert len(found) == 10
    assert all(len(name) <= 72 for name in found)


def test_a_uri_that_keycloak_cannot_store_is_left_out_with_a_sentence() -> None:
    path = "/" + "p" * 199
    fits = Login(1, "shop", PROD, ("https://" + "h" * 47,), (path,))
    long = Login(1, "shop", PROD, ("https://" + "h" * 48,), (path, "/cb"))

    assert len(wanted(fits)["shop"].redirect_uris) == 1
    (client, _staging), (warning,) = oidc.clients([long])
    assert client.redirect_uris == {f"https://{'h' * 48}/cb"}
    assert "shop" in warning
    assert f"https://{'h' * 48}{path}" in warning
    assert "256" in warning


def test_the_client_of_an_environment_is_found() -> None:
    found, _ = oidc.clients([SHOP, preview(1, 2, "docs")])

    names = [
        client and client.client_id for client in (oidc.serving(found, 1, PROD), oidc.serving(found, 2, DEV))
    ]
    assert names == ["shop", "docs-staging"]
    assert oidc.serving(found, 3, PROD) is None


@pytest.mark.parametrize("path", ["/", "/cb", "/auth/callback/", "/a.b/..c/~x", "/a%20b", "/x" * 100])
def test_a_path_is_taken_as_it_is(path: str) -> None:
    assert oidc.redirect_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "", "cb", "https://evil.org/cb", "@evil.org/cb", ".evil.org/cb", "/*", "/cb*", "/cb#x", "/cb?x=1",
        "/a b", "/a\n", "/a\\b", "/a/../b", "/..", "/./", "/%2e%2E/b", "/a%zz", "/é", "/${x}", "/a##b",
        "/\x00", "/" + "a" * 200,
    ],
)  # fmt: skip
def test_a_path_that_could_mean_more_than_it_says_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="absolute path"):
        oidc.redirect_path(path)
