"""The database of users and rules, SQLite or PostgreSQL: what hook.py and admin.py share."""

import asyncio
import hashlib
import json
import os
import pathlib
import sqlite3
import threading
from typing import NamedTuple

import argon2
import psycopg
import psycopg_pool

FOLDER = pathlib.Path(__file__).parent
# Some ten milliseconds of a core for each password, as mproxy's own rule file takes.
HASHER = argon2.PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1)
# What execute raises while the database is away.
Unavailable = psycopg.OperationalError


def open_store():
    where = os.environ.get("POLICY_DB", "policy.db")
    return Postgres(where) if where.startswith(("postgresql://", "postgres://")) else Sqlite(where)


class Account(NamedTuple):
    # The hash, or nothing if nobody may come in under this name.
    password: str | None
    rules: list
    # Another one if the user may do something else: the name of the state that a grant is made from.
    version: str


def account(store, name):
    found = store.execute("SELECT password FROM users WHERE username = ? AND enabled", (name,))
    password = found[0][0] if found else None
    query = "SELECT effect, actions, filter FROM rules WHERE username IS NULL OR username = ? ORDER BY number"
    rules = [tuple(row) for row in store.execute(query, (name,))]
    # Of what was read here, not of a second look: a change between the two would otherwise be taken for known.
    state = repr((password is not None, rules))
    return Account(password, rules, hashlib.sha256(state.encode()).hexdigest()[:16])


class Sqlite:
    def __init__(self, path):
        self.lock = threading.Lock()
        self.connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.execute("PRAGMA journal_mode = WAL")
        self.execute("PRAGMA foreign_keys = ON")
        self.connection.executescript((FOLDER / "sqlite.sql").read_text())

    def execute(self, query, values=()):
        with self.lock:
            return self.connection.execute(query, values).fetchall()

    def close(self):
        self.connection.close()

    async def changes(self):
        """The users who have changed, None for everybody. SQLite tells nobody, but to ask for it costs microseconds."""
        ((last,),) = self.execute("SELECT coalesce(max(number), 0) FROM changes")
        while True:
            await asyncio.sleep(0.2)
            rows = self.execute("SELECT number, username FROM changes WHERE number > ? ORDER BY number", (last,))
            if rows:
                last = rows[-1][0]
                yield {name for _, name in rows}


class Postgres:
    # A database that is away is noticed within half a minute, also if it says nothing any more.
    OPTIONS = {
        "autocommit": True, "connect_timeout": 5,
        "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3,
    }  # fmt: skip

    def __init__(self, url):
        self.url = url
        # mproxy waits for an answer for a second, unless it is told otherwise.
        self.pool = psycopg_pool.ConnectionPool(
            url, kwargs=self.OPTIONS, min_size=1, max_size=8, timeout=1, open=True,
            check=psycopg_pool.ConnectionPool.check_connection,
        )  # fmt: skip
        self.pool.wait(timeout=30)
        # Once: later a role that may only read is enough.
        if self.execute("SELECT to_regclass('rules')") == [(None,)]:
            self.execute((FOLDER / "postgres.sql").read_text())

    def execute(self, query, values=None):
        with self.pool.connection() as connection:
            cursor = connection.execute(query.replace("?", "%s"), values)
            return cursor.fetchall() if cursor.description else []

    def close(self):
        self.pool.close()

    async def changes(self):
        """The users who have changed, None for everybody: since nobody knows what has while the database was away."""
        while True:
            try:
                connection = await psycopg.AsyncConnection.connect(self.url, **self.OPTIONS)
                async with connection:
                    await connection.execute("LISTEN policy_changes")
                    yield {None}
                    async for told in connection.notifies():
                        yield set(json.loads(told.payload))
            except psycopg.OperationalError as error:
                print(f"database: {error}", flush=True)
            await asyncio.sleep(1)
