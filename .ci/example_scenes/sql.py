"""Users and rules in SQL: what is changed in the database is in force for those who are connected."""

import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

from .stage import STEP, fail, free_port, play_scenes, told_soon

SCENES = (
    ("pub", "-u alice -P wonderland -q 1 -t home/lamp -m on", ""),
    ("pub", "-u alice -P wonderland -i s1 -q 1 -t status/s1 -m up", ""),
    ("pub", "-u alice -P wonderland -i s1 -q 1 -t status/s2 -m up", "Publish 1 failed: Not authorized"),
    ("pub", "-u alice -P wrong -q 1 -t home/lamp -m on", "Connection error: Bad User Name or Password"),
    ("pub", "-u nobody -P wonderland -q 1 -t home/lamp -m on", "Connection error: Bad User Name or Password"),
    ("sub", "-u alice -P wonderland -t # -W 2", "All subscription requests were denied"),
)
ALICE = "-V 5 -u alice -P wonderland"


class Sqlite:
    name = "SQLite"

    def __init__(self, stage):
        self.url = "policy.db"

    def restart(self):
        """Nobody can take a file away."""

    def end(self):
        pass


class Postgres:
    """A server in a folder of its own, which no root may run."""

    name = "PostgreSQL"

    def __init__(self, stage):
        self.stage, self.port = stage, free_port()
        self.user = "postgres" if os.geteuid() == 0 else None
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="mproxy-postgres-"))
        stage.stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        if self.user:
            shutil.chown(self.folder, self.user, self.user)
        made = stage.start(
            "initdb", self.program("initdb"), "--pgdata", "data", "--auth", "trust", "--username", "mproxy", "--no-sync",
            cwd=self.folder, user=self.user,
        )  # fmt: skip
        if made.wait(STEP) != 0:
            fail(f"initdb:\n{stage.log('initdb')}")
        self.url = f"postgresql://mproxy@127.0.0.1:{self.port}/postgres"
        self.start()

    @staticmethod
    def program(name):
        """The newest; Debian's have no place in PATH."""
        versions = pathlib.Path("/usr/lib/postgresql").glob(f"*/bin/{name}")
        newest = max(versions, key=lambda path: int(path.parts[-3]), default=None)
        return str(newest) if newest else shutil.which(name)

    def start(self):
        command = [self.program("postgres"), "-D", "data", "-h", "127.0.0.1", "-p", str(self.port), "-k", ""]
        self.server = self.stage.start("postgres", *command, "-c", "fsync=off", cwd=self.folder, user=self.user)
        self.stage.wait("postgres", self.server, "ready to accept connections", STEP)

    def restart(self):
        self.end()
        self.start()

    def end(self):
        """At once: SIGTERM would wait for those who are connected."""
        self.server.send_signal(signal.SIGINT)
        self.server.wait(STEP)


def databases():
    if Postgres.program("postgres"):
        return (Sqlite, Postgres)
    print("sql: NOT PLAYED with PostgreSQL, which is not installed (Debian's postgresql)", flush=True)
    return (Sqlite,)


def play(stage, label, port, database):
    copy = stage.folder / "sql"

    def admin(*arguments):
        python, environment = copy / "venv/bin/python", {**os.environ, "POLICY_DB": database.url}
        command = [python, "examples/sql/admin.py", *arguments]
        subprocess.run(command, cwd=copy, env=environment, check=True, timeout=STEP)

    play_scenes(label, SCENES, port)
    subscriber = stage.subscribe(f"{label}-subscriber", port, [*ALICE.split(), "-t", "home/#"])
    admin("rule", "alice", "allow", "publish", "garden/#")
    play_scenes(label, [("pub", "-u alice -P wonderland -q 1 -t garden/x -m on", "")], port)
    # Also after the database has been away: who is connected stays.
    database.restart()
    told_soon(label, port, "pub", "-u alice -P wonderland -q 1 -t garden/x -m on", "")
    admin("drop", "1")
    told_soon(label, port, "pub", "-u alice -P wonderland -q 1 -t home/lamp -m on", "Not authorized")
    if subscriber.poll() is not None:
        fail(f"{label}: a changed rule has disconnected:\n{stage.log(f'{label}-subscriber')}")
    admin("disable", "alice")
    stage.wait(f"{label}-subscriber", subscriber, "Received DISCONNECT", STEP)
