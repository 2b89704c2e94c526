"""Changes users and rules; hook.py brings each change to mproxy.

    admin.py user NAME                         adds one, or gives a new password: a line of standard input
    admin.py enable NAME | disable NAME
    admin.py rule NAME|- EFFECT ACTIONS FILTER adds a rule, - for everybody; ACTIONS as publish,subscribe or all
    admin.py drop NUMBER                       removes a rule
    admin.py list
"""

import contextlib
import sys

import store


def main(policy, command="", *arguments):
    if command == "user":
        password = store.HASHER.hash(sys.stdin.readline().rstrip("\n"))
        query = """INSERT INTO users (username, password) VALUES (?, ?)
                   ON CONFLICT (username) DO UPDATE SET password = excluded.password"""
        policy.execute(query, (arguments[0], password))
    elif command in ("enable", "disable"):
        policy.execute("UPDATE users SET enabled = ? WHERE username = ?", (command == "enable", arguments[0]))
    elif command == "rule":
        name, effect, actions, topic_filter = arguments
        values = (None if name == "-" else name, effect, "" if actions == "all" else actions, topic_filter)
        policy.execute("INSERT INTO rules (username, effect, actions, filter) VALUES (?, ?, ?, ?)", values)
    elif command == "drop":
        policy.execute("DELETE FROM rules WHERE number = ?", (int(arguments[0]),))
    elif command == "list":
        for name, enabled in policy.execute("SELECT username, enabled FROM users ORDER BY username"):
            print(name, "" if enabled else "(disabled)")
        query = "SELECT number, username, effect, actions, filter FROM rules ORDER BY number"
        for number, name, effect, actions, topic_filter in policy.execute(query):
            print(f"{number}: {name or 'everybody'} {effect} {actions or 'all'} {topic_filter}")
    else:
        sys.exit(__doc__)


with contextlib.closing(store.open_store()) as policy:
    main(policy, *sys.argv[1:])
