-- Who there is, and what each may do. Whoever changes a row, by admin.py or by SQL, has it in force within a second.

CREATE TABLE IF NOT EXISTS users (
    username TEXT PRIMARY KEY,
    password TEXT NOT NULL,                -- argon2id, as admin.py makes it
    enabled  BOOLEAN NOT NULL DEFAULT TRUE
);

-- The first rule that matches decides, by number; what none matches is refused.
CREATE TABLE IF NOT EXISTS rules (
    number   INTEGER PRIMARY KEY,
    username TEXT REFERENCES users (username) ON DELETE CASCADE,  -- NULL: everybody
    effect   TEXT NOT NULL CHECK (effect IN ('allow', 'deny')),
    actions  TEXT NOT NULL DEFAULT '',     -- publish,subscribe,receive,will; empty: all
    filter   TEXT NOT NULL                 -- may have ${clientid} and ${username}
);

-- What hook.py has to look at again. username NULL: everybody.
CREATE TABLE IF NOT EXISTS changes (number INTEGER PRIMARY KEY AUTOINCREMENT, username TEXT);

CREATE TRIGGER IF NOT EXISTS user_changed AFTER UPDATE ON users
BEGIN INSERT INTO changes (username) VALUES (old.username), (new.username); END;
CREATE TRIGGER IF NOT EXISTS user_gone AFTER DELETE ON users
BEGIN INSERT INTO changes (username) VALUES (old.username); END;
CREATE TRIGGER IF NOT EXISTS rule_new AFTER INSERT ON rules
BEGIN INSERT INTO changes (username) VALUES (new.username); END;
CREATE TRIGGER IF NOT EXISTS rule_changed AFTER UPDATE ON rules
BEGIN INSERT INTO changes (username) VALUES (old.username), (new.username); END;
CREATE TRIGGER IF NOT EXISTS rule_gone AFTER DELETE ON rules
BEGIN INSERT INTO changes (username) VALUES (old.username); END;
