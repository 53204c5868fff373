"""Leaves out the tests of servers that this machine cannot build, as the set-up says in a line each."""

import shutil

import pytest

from tests.servers.caddy import cache

NEEDS = {  # fixture: what the set-up makes, and what it takes to make it
    "garage_server": ("bin/garage", "cargo"),
    "own_garage": ("bin/garage", "cargo"),
    "keycloak_server": ("keycloak/stamp", "java"),
    "gitea": ("gitea/gitea", "go"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a program that is not there and cannot be made here."""
    for item in items:
        for fixture in NEEDS.keys() & set(getattr(item, "fixturenames", ())):
            made, tool = NEEDS[fixture]
            if not (cache() / made).exists() and not shutil.which(tool):
                item.add_marker(pytest.mark.skip(reason=f"{made} is not built: it needs {tool}"))
