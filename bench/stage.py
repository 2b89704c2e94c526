"""What `services/run` and `comparison/run` have in common: processes that end with the run, what they have used, and the
load. Python's own library, and Linux."""

import atexit
import ctypes
import json
import os
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
BENCH = ROOT / "bench"

# How long anything may take until it serves, or until it has ended.
START, END = 60, 20


def fail(text):
    sys.exit(f"{sys.argv[0]}: {text}")


def need(program, package):
    found = shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    return found or fail(f"missing: {program}; on Debian: apt-get install {package}")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Process:
    """A program that was started, and is ended by its id."""

    started = []

    def __init__(self, name, command, log, port=None, **more):
        self.name, self.log = name, log
        with open(log, "wb") as output:
            self.popen = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,
                **more,
            )
        Process.started.append(self)
        if port:
            self.wait_for(port)

    def wait_for(self, port):
        end = time.monotonic() + START
        while time.monotonic() < end:
            if self.popen.poll() is not None:
                fail(f"{self.name} has ended:\n{self.log.read_text()[-2000:]}")
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        fail(f"{self.name} does not serve within {START} s")

    def stop(self):
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(END)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
        if self in Process.started:
            Process.started.remove(self)


@atexit.register
def stop_all():
    for process in reversed(Process.started.copy()):
        process.stop()


def family(parent):
    yield parent
    for task in pathlib.Path(f"/proc/{parent}/task").glob("*/children"):
        for child in task.read_text().split():
            yield from family(int(child))


def cpu(process):
    """Seconds of CPU of a process and all its descendants, so far."""
    spent = 0
    for pid in family(process.pid):
        for task in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat"):
            try:
                spent += int(task.read_text().split()[0])
            except OSError:
                pass  # The thread has ended.
    return spent / 1e9


def build_load(out):
    """The load generator, which needs Go's standard library only."""
    build_go(BENCH / "mqttload", out / "mqttload")
    return out / "mqttload"


def build_go(folder, program):
    subprocess.run([need("go", "golang-go"), "build", "-o", program, "."], cwd=folder, check=True)


def mproxy(program, log, folder, broker_port, port=None, admin=None, **settings):
    """mproxy before that broker, with as many workers as in the other benchmarks. It has .port and .admin."""
    port, admin = port or free_port(), admin or free_port()
    config = folder / "mproxy.toml"
    text = (BENCH / "src/candidate/mproxy.toml").read_text()
    target = f'target.scheme = "mqtt"\ntarget.host = "127.0.0.1"\ntarget.port = {broker_port}'
    fields = {"{transport}": "mqtt", "{port}": str(port), "{certificate}": "", "{target}": target}
    for field, value in fields.items():
        text = text.replace(field, value)
    config.write_text(text)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MPROXY_")}
    environment |= {
        "TOKIO_WORKER_THREADS": "2",
        "MPROXY_CONFIG": str(config),
        "MPROXY_LOG_LEVEL": "warn",
        "MPROXY_ADMIN_PORT": str(admin),
        **settings,
    }
    process = Process("mproxy", program if isinstance(program, list) else [program], log, port, env=environment)
    process.port, process.admin = port, admin
    end = time.monotonic() + START
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{admin}/readyz", timeout=1):
                return process
        except OSError:
            time.sleep(0.05)
    fail(f"mproxy does not become ready:\n{log.read_text()[-2000:]}")


def metric(process, name, *labels):
    """The sum of a metric over all series that have these labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{process.admin}/metrics", timeout=5) as page:
        lines = page.read().decode().splitlines()
    series = (line.rsplit(" ", 1) for line in lines if line.startswith(name))
    return sum(float(value) for key, value in series if all(label in key for label in labels))


def mosquitto(folder, *more):
    """A broker that drops nothing by itself. It has .port."""
    port = free_port()
    config = folder / "mosquitto.conf"
    config.write_text(
        "\n".join(
            [
                f"listener {port} 127.0.0.1",
                "persistence false",
                "log_type error",
                "max_inflight_messages 0",
                "max_queued_messages 0",
                *(more or ["allow_anonymous true"]),
                "",
            ]
        )
    )
    command = [need("mosquitto", "mosquitto"), "-c", config]
    process = Process("mosquitto", command, folder / "mosquitto.log", port)
    process.port = port
    return process


def play(load, watched, *arguments, moment=lambda: {}):
    """Runs the load, and returns what it says, with the CPU that each of the named processes has used in the time that
    was measured: `{"cpu": {name: seconds}, …}`. `moment` is called at both of its ends; the differences of what it
    returns are in it, too."""
    command = [load, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent)
    everybody = {name: one.popen for name, one in watched.items()} | {"load": process}

    def look():
        return {name: cpu(one) for name, one in everybody.items()}, moment()

    lines = {}
    for line in process.stdout:
        if line.strip() in ("begin", "end"):
            lines[line.strip()] = look()
        else:
            result = json.loads(line)
    if process.wait():
        fail(f"the load has ended with {process.returncode}")
    (spent, other), (spent_then, other_then) = lines["begin"], lines["end"]
    result["cpu"] = {name: spent_then[name] - value for name, value in spent.items()}
    return result | {name: other_then[name] - value for name, value in other.items()}


def spread(values, digits=0):
    """The median, and from the least to the most where that is another number."""
    text = [f"{value:,.{digits}f}" for value in (statistics.median(values), min(values), max(values))]
    return text[0] if text[1] == text[2] else f"{text[0]} ({text[1]}–{text[2]})"


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def put(readme, name, text):
    """Writes a table between its markers in a README."""
    before, rest = readme.read_text().split(f"<!-- {name} -->\n", 1)
    after = rest.split(f"<!-- end of {name} -->", 1)[1]
    readme.write_text(f"{before}<!-- {name} -->\n\n{text}\n\n<!-- end of {name} -->{after}")
