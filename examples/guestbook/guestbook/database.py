"""The entries, in PostgreSQL. libpq finds the server and the login in PGHOST, PGDATABASE, PGUSER and its like.

A project of your own would take a driver such as psycopg; what is needed of libpq here are seven functions.
"""

import ctypes
import os

NAME = os.environ.get("PGDATABASE", "")

_pq = ctypes.CDLL("libpq.so.5") if NAME else None
_TUPLES, _COMMAND = 2, 1  # PGRES_TUPLES_OK, PGRES_COMMAND_OK


def _declare(name, result, *arguments):
    function = getattr(_pq, name)
    function.restype, function.argtypes = result, arguments
    return function


if _pq:
    _p, _i, _s = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
    _connect = _declare("PQconnectdb", _p, _s)
    _finish = _declare("PQfinish", None, _p)
    _error = _declare("PQerrorMessage", _s, _p)
    _execute = _declare("PQexecParams", _p, _p, _s, _i, _p, ctypes.POINTER(_s), _p, _p, _i)
    _status = _declare("PQresultStatus", _i, _p)
    _rows = _declare("PQntuples", _i, _p)
    _columns = _declare("PQnfields", _i, _p)
    _value = _declare("PQgetvalue", _s, _p, _i, _i)
    _clear = _declare("PQclear", None, _p)


def query(statement, *values):
    """Run one statement, with values for $1, $2 and so on; returns its rows, as texts."""
    connection = _connect(b"connect_timeout=5")
    result = None
    try:
        texts = (_s * len(values))(*(value.encode() for value in values))
        result = _execute(connection, statement.encode(), len(values), None, texts, None, None, 0)
        if _status(result) not in (_TUPLES, _COMMAND):
            raise OSError(f"database: {_error(connection).decode().strip()}")
        columns = range(_columns(result))
        return [[_value(result, row, column).decode() for column in columns] for row in range(_rows(result))]
    finally:
        _clear(result)
        _finish(connection)


def prepare():
    query(
        "CREATE TABLE IF NOT EXISTS entries (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
        " at timestamptz NOT NULL DEFAULT now(), name text NOT NULL, words text NOT NULL)"
    )


def entries():
    """The newest fifty: name, words and when."""
    return query(
        "SELECT name, words, to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') FROM entries ORDER BY id DESC LIMIT 50"
    )


def add(name, words):
    query("INSERT INTO entries (name, words) VALUES ($1, $2)", name, words)
