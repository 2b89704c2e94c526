-- Who there is, and what each may do. Whoever changes a row, by admin.py or by SQL, has it in force within a second.

CREATE TABLE IF NOT EXISTS users (
    name     TEXT PRIMARY KEY,
    password TEXT NOT NULL,                -- argon2id, as admin.py makes it
    enabled  INTEGER NOT NULL DEFAULT 1
);

-- The first rule that matches decides, by number; what none matches is refused.
CREATE TABLE IF NOT EXISTS rules (
    number  INTEGER PRIMARY KEY,
    user    TEXT REFERENCES users (name) ON DELETE CASCADE,  -- NULL: everybody
    effect  TEXT NOT NULL CHECK (effect IN ('allow', 'deny')),
    actions TEXT NOT NULL DEFAULT '',      -- publish,subscribe,receive,will; empty: all
    filter  TEXT NOT NULL                  -- may have ${clientid} and ${username}
);

-- What hook.py has to look at again. user NULL: everybody.
CREATE TABLE IF NOT EXISTS changes (number INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT);

CREATE TRIGGER IF NOT EXISTS user_changed AFTER UPDATE ON users
BEGIN INSERT INTO changes (user) VALUES (old.name), (new.name); END;
CREATE TRIGGER IF NOT EXISTS user_gone AFTER DELETE ON users
BEGIN INSERT INTO changes (user) VALUES (old.name); END;
CREATE TRIGGER IF NOT EXISTS rule_new AFTER INSERT ON rules
BEGIN INSERT INTO changes (user) VALUES (new.user); END;
CREATE TRIGGER IF NOT EXISTS rule_changed AFTER UPDATE ON rules
BEGIN INSERT INTO changes (user) VALUES (old.user), (new.user); END;
CREATE TRIGGER IF NOT EXISTS rule_gone AFTER DELETE ON rules
BEGIN INSERT INTO changes (user) VALUES (old.user); END;
