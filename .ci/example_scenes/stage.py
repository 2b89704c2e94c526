"""What scenes with examples need: processes and their logs, a client, free ports."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time

# Seconds for installing, compiling and starting; for each of the others.
BUILD, STEP = 600, 60


def fail(message):
    sys.exit(f"{os.path.basename(sys.argv[0])}: {message}")


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait_for_port(address):
    """Until somebody listens there."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + STEP
    while time.monotonic() < deadline:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection((host, int(port)), STEP):
            return
        time.sleep(0.05)
    fail(f"nobody listens at {address}")


class Stage:
    """Processes that end, with all that they have started, when it does; each has a log in the folder."""

    def __init__(self, stack, folder):
        self.stack, self.folder, self.processes = stack, folder, {}

    def start(self, name, *command, cwd=None, user=None, **variables):
        log = self.stack.enter_context(open(self.folder / f"{name}.log", "wb"))
        environment = {**os.environ, **variables}
        who = {"user": user, "group": user, "extra_groups": []} if user else {}
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, cwd=cwd or self.folder, start_new_session=True, **who
        )
        self.stack.callback(self.end, process)
        self.processes[name] = process
        return process

    @staticmethod
    def end(process):
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
                return

    def log(self, name):
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def wait(self, name, process, pattern, seconds):
        """What a process writes, sooner or later."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            # Asked first: what it wrote last is in the log by then.
            ended = process.poll() is not None
            if found := re.search(pattern, self.log(name)):
                return found
            if ended:
                break
            time.sleep(0.05)
        fail(f"{name} never wrote {pattern!r}:\n{self.log(name)[-4000:]}")

    def subscribe(self, name, port, arguments):
        """A client that has subscribed, and stays."""
        command = ["mosquitto_sub", "-h", "127.0.0.1", "-p", str(port), *arguments, "-d"]
        subscriber = self.start(name, "stdbuf", "-oL", *command)
        self.wait(name, subscriber, "received SUBACK", STEP)
        return subscriber


def client(kind, port, arguments):
    command = [f"mosquitto_{kind}", "-h", "127.0.0.1", "-p", str(port), "-V", "5", *arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=STEP)
    return done.stderr + done.stdout


def play_scenes(name, scenes, port):
    """Each is what a client does, and what it has to be told: all of it, or nothing."""
    for kind, arguments, expected in scenes:
        told = client(kind, port, arguments).strip()
        if expected not in told or (told and not expected):
            fail(f"{name}: {kind} {arguments}: expected {expected!r}, was told {told!r}")


def told_soon(name, port, kind, arguments, expected):
    """The same, of what has just been changed."""
    deadline = time.monotonic() + STEP
    while expected not in (told := client(kind, port, arguments)) or (told and not expected):
        if time.monotonic() > deadline:
            fail(f"{name}: {kind} {arguments}: expected {expected!r}, is still told {told!r}")
