"""The database of users and rules: what hook.py and admin.py share."""

import hashlib
import os
import pathlib
import sqlite3

import argon2

SCHEMA = pathlib.Path(__file__).with_name("schema.sql").read_text()
# Some ten milliseconds of a core for each password, as mproxy's own rule file takes.
HASHER = argon2.PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1)


def open_store():
    store = sqlite3.connect(os.environ.get("POLICY_DB", "policy.db"), isolation_level=None, check_same_thread=False)
    store.execute("PRAGMA journal_mode = WAL")
    store.execute("PRAGMA foreign_keys = ON")
    store.executescript(SCHEMA)
    return store


def user(store, name):
    """The hash of the password, or nothing if nobody may come in under this name."""
    row = store.execute("SELECT password FROM users WHERE name = ? AND enabled", (name,)).fetchone()
    return row and row[0]


def rules(store, name):
    query = "SELECT effect, actions, filter FROM rules WHERE user IS NULL OR user = ? ORDER BY number"
    return store.execute(query, (name,)).fetchall()


def version(store, name):
    """Another one if the user may do something else: the name of the state that a grant was made from."""
    state = repr((user(store, name) is not None, rules(store, name)))
    return hashlib.sha256(state.encode()).hexdigest()[:16]


def changed_since(store, number):
    """The users who changed, and the number to ask with next time."""
    rows = store.execute("SELECT number, user FROM changes WHERE number > ?", (number,)).fetchall()
    return {name for _, name in rows}, max([number, *(number for number, _ in rows)])
