"""The domain of Kennel: what a push becomes, and how a host is kept in step with it.

project     a registered repository
ref, slug   a branch name or ``pr-<n>``; its form as part of a DNS label
build       one attempt to turn a commit into store paths
phase       one step of a build: clone, discover, build:<package>, publish, deploy
service     a process that a project declares; a site is a folder of files
deployment  a row: "this store path should run here". No row, no deployment
environment prod, staging, dev or preview; follows from the ref
pass        one run of the reconciler: observe, plan, act
adapter     the one module that talks to one outside system
revision    one concrete running form of a deployment; part of its unit's name
"""

import sys

# Peewee loads every database driver it finds. Kennel's tables are in SQLite; psycopg, which one process needs
# for provisioning, would cost each of the others 16 MiB.
_loaded = sys.modules.get("psycopg")
sys.modules["psycopg"] = None  # type: ignore[assignment]
import peewee  # noqa: E402, F401

if _loaded is None:
    del sys.modules["psycopg"]
else:
    sys.modules["psycopg"] = _loaded
