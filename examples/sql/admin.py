"""Changes users and rules; hook.py brings each change to mproxy.

    admin.py user NAME                         adds one, or gives a new password: a line of standard input
    admin.py enable NAME | disable NAME
    admin.py rule NAME|- EFFECT ACTIONS FILTER adds a rule, - for everybody; ACTIONS as publish,subscribe or all
    admin.py drop NUMBER                       removes a rule
    admin.py list
"""

import sys

import store


def main(command="", *arguments):
    policy = store.open_store()
    if command == "user":
        password = store.HASHER.hash(sys.stdin.readline().rstrip("\n"))
        query = "INSERT INTO users VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET password = excluded.password"
        policy.execute(query, (arguments[0], password))
    elif command in ("enable", "disable"):
        policy.execute("UPDATE users SET enabled = ? WHERE name = ?", (command == "enable", arguments[0]))
    elif command == "rule":
        name, effect, actions, topic_filter = arguments
        values = (None if name == "-" else name, effect, "" if actions == "all" else actions, topic_filter)
        policy.execute("INSERT INTO rules (user, effect, actions, filter) VALUES (?, ?, ?, ?)", values)
    elif command == "drop":
        policy.execute("DELETE FROM rules WHERE number = ?", arguments)
    elif command == "list":
        for name, enabled in policy.execute("SELECT name, enabled FROM users"):
            print(name, "" if enabled else "(disabled)")
        for number, name, effect, actions, topic_filter in policy.execute("SELECT * FROM rules ORDER BY number"):
            print(f"{number}: {name or 'everybody'} {effect} {actions or 'all'} {topic_filter}")
    else:
        sys.exit(__doc__)


main(*sys.argv[1:])
