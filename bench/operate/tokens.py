"""Clients with tokens (JWT): what a login costs beside one without, keys that change under load, and when clients are thrown
out whose token has ended. No service is asked: mproxy counts what it asks."""

import json
import pathlib
import subprocess
import time

import stage

LOGINS = 10_000
ALGORITHMS = {"": "none", "ES256": "ES256", "RS256": "RS256, 2048 bits", "HS256": "HS256", "EdDSA": "EdDSA"}
HELD, HELD_LEAST, HELD_MOST = 500, 20, 30
# A rotation each five seconds: as often as readings for new keys may be had, and some.
ROTATION = {"rate": 200, "every": "5s", "lasts": "30s"}
# How late a client may leave, and how early: the token's own are whole seconds.
LATE, EARLY = 1000, 0

HEAD = "anonymous = true\n[jwt]\n"
RULES = '\n[[rules]]\neffect = "allow"\ntopics = ["#"]\n'


def calls(proxy):
    """What mproxy has asked anybody: calls to hook services, and readings of key sets."""
    services = stage.metric(proxy, "mproxy_policy_call_duration_seconds_count")
    return services, stage.metric(proxy, "mproxy_token_key_set_reads_total")


def start(options, out, broker, keys):
    rules = out / "rules.toml"
    rules.write_text(HEAD + keys + RULES)
    return stage.mproxy(options.mproxy, out / "mproxy.log", out, broker.port, MPROXY_ACL_FILE=str(rules))


def run(program, *arguments):
    done = subprocess.run([str(word) for word in (program, *arguments)], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def logins(options, program, out, proxy):
    """In turns, so that what else the machine does is done to all of them."""
    found = {algorithm: [] for algorithm in ALGORITHMS}
    wrong = []
    before = calls(proxy)
    for _ in range(options.rounds):
        for algorithm in ALGORITHMS:
            arguments = ["login", "-target", f"127.0.0.1:{proxy.port}", "-folder", out, "-count", LOGINS]
            arguments += ["-algorithm", algorithm] if algorithm else []
            found[algorithm].append(stage.play(program, {"mproxy": proxy}, *arguments))
    asked = [now - then for now, then in zip(calls(proxy), before)]
    none = [1e6 * one["cpu"]["mproxy"] / LOGINS for one in found[""]]
    rows = []
    for algorithm, name in ALGORITHMS.items():
        all_of = found[algorithm]
        wrong += [f"{name}: {one['counts']}" for one in all_of if one["counts"]["logins"] != LOGINS]
        spent = [1e6 * one["cpu"]["mproxy"] / LOGINS for one in all_of]
        # Beside the one of the same round.
        more = "" if not algorithm else stage.spread([one - other for one, other in zip(spent, none)])
        times = [stage.spread([one["ms"][at] for one in all_of], 1) for at in ("p50", "p99")]
        rate = stage.spread([LOGINS / one["seconds"] for one in all_of])
        rows.append([name, rate, *times, stage.spread(spent), more])
    wrong += [f"{count:.0f} calls: somebody was asked" for count in asked if count]
    head = ["token", "logins a second", "ms p50", "p99", "mproxy's CPU a login, µs", "more than without a token"]
    said = f"{LOGINS:,} logins in each of {options.rounds} rounds, in turns. Calls to hook services meanwhile: {asked[0]:.0f}, readings of key sets: {asked[1]:.0f}."
    return said + "\n\n" + stage.table(head, rows), wrong


def held(program, out, proxy):
    before = calls(proxy)
    arguments = ["-clients", HELD, "-least", f"{HELD_LEAST}s", "-most", f"{HELD_MOST}s"]
    said = run(program, "hold", "-target", f"127.0.0.1:{proxy.port}", "-folder", out, *arguments)
    late, asked = said["late_ms"], sum(calls(proxy)) - sum(before)
    wrong = []
    if late["most"] > LATE or said["early"]:
        wrong.append(f"clients left up to {late['most']} ms late, {said['early']} too early")
    if list(said["ends"]) != ['DISCONNECT 0x87 "token expired"']:
        wrong.append(f"they ended with {said['ends']}")
    if asked:
        wrong.append(f"{asked:.0f} calls while tokens ended")
    row = [f"{HELD:,}", *(f"{late[at]:.1f}" for at in ("least", "p50", "p99", "most")), ", ".join(said["ends"])]
    return stage.table(["silent subscribers", "ms after `exp`: least", "p50", "p99", "most", "told"], [row]), wrong


def rotation(options, program, out, broker, place):
    """Keys that change while clients log in: `place` is `file` or `url`."""
    folder = out / f"rotation-{place}"
    folder.mkdir(mode=0o755)
    at, port = folder / "jwks.json", stage.free_port()
    where = ["-file", at] if place == "file" else ["-serve", f"127.0.0.1:{port}"]
    command = [program, "rotate", *where, *(word for name, value in ROTATION.items() for word in (f"-{name}", value))]
    rotating = subprocess.Popen(
        [str(word) for word in command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=stage.die_with_parent,
    )
    rotating.stdout.readline()
    value = f'file = "{at}"' if place == "file" else f'url = "http://127.0.0.1:{port}/keys"'
    proxy = start(options, folder, broker, f"[jwt.key_set]\n{value}\n")
    begun = time.monotonic()
    said = json.loads(rotating.communicate(f"127.0.0.1:{proxy.port}\n")[0])
    took = time.monotonic() - begun
    services, reads = calls(proxy)
    proxy.stop()
    counts, times = said["counts"], said["ms"]
    wrong = []
    if counts["refused"] or counts["failed"]:
        wrong.append(f"keys by {place}: {counts}")
    if counts["logins"] < 0.8 * ROTATION["rate"] * took or not said["rotations"]:
        wrong.append(f"keys by {place}: only {counts['logins']} logins and {said['rotations']} new keys in {took:.0f} s")
    row = [place, said["rotations"], f"{counts['logins']:,}", counts["refused"] + counts["failed"]]
    return row + [*(f"{times[name]:.1f}" for name in ("p50", "p99", "most")), f"{reads:.0f}", f"{services:.0f}"], wrong


def jwt(options, out):
    program = out / "tokens"
    stage.build_go(pathlib.Path(__file__).resolve().parent / "tokens", program)
    run(program, "keys", "-folder", out)
    broker = stage.mosquitto(out)
    public = "".join(f'[[jwt.keys]]\npublic_key = "{out / name}.pem"\n' for name in ("ES256", "RS256", "EdDSA"))
    proxy = start(options, out, broker, public + f'[[jwt.keys]]\nsecret = "{out / "HS256.txt"}"\n')
    text, wrong = logins(options, program, out, proxy)
    table, faults = held(program, out, proxy)
    text, wrong = text + "\n\n" + table, wrong + faults
    proxy.stop()
    rows = []
    for place in ("file", "url"):
        row, faults = rotation(options, program, out, broker, place)
        rows.append(row)
        wrong += faults
    head = ["key set by", "new keys", "logins", "refused or failed", "ms p50", "p99", "most", "readings", "calls to hook services"]
    return text + "\n\n" + stage.table(head, rows), wrong
