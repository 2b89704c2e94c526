"""A registry of devices: who has which certificate may do what its entry says, as long as it is there."""

from .stage import STEP, client, fail, play_scenes, told_soon

REFUSED = "Connection error: Not authorized"
# Certificate, what it does, and what it is told.
SCENES = (
    ("press-7", "pub", "-q 1 -t plants/north/press-7/speed -m 40", ""),
    ("press-7", "pub", "-q 1 -t plants/north/gauge-3/value -m 40", "Publish 1 failed: Not authorized"),
    ("press-7", "sub", "-t # -W 2", "All subscription requests were denied"),
    ("press-7", "sub", "-t commands/press-7/# -E", ""),
    ("gauge-3", "pub", "-i another -q 1 -t plants/north/gauge-3/value -m 40", ""),
    ("press-6", "pub", "-q 1 -t plants/south/press-6/speed -m 40", REFUSED),
    ("stranger", "pub", "-q 1 -t plants/north/stranger/speed -m 40", REFUSED),
    ("pretender", "pub", "-q 1 -t plants/north/press-7/speed -m 40", REFUSED),
)


def settings(stage):
    made = stage.folder / "devices/certificates"
    return {
        "MPROXY_CLIENT_TLS": "true", "MPROXY_CA_CERTS": str(made / "ca.pem"),
        "MPROXY_SERVER_CERT": str(made / "mproxy.pem"), "MPROXY_SERVER_KEY": str(made / "mproxy.key"),
    }  # fmt: skip


def play(stage, port, address):
    copy = stage.folder / "devices"
    registry = copy / "examples/devices/registry.toml"

    def shows(name):
        made = copy / "certificates"
        return f"--cafile {made}/ca.pem --cert {made}/{name}.pem --key {made}/{name}.key"

    def change(before, after):
        text = registry.read_text()
        if before not in text:
            fail(f"devices: no {before!r} in the registry")
        # At once: half a registry would be another one.
        (copy / "new.toml").write_text(text.replace(before, after, 1))
        (copy / "new.toml").rename(registry)

    play_scenes("devices", [(kind, f"{shows(name)} {does}", told) for name, kind, does, told in SCENES], port)
    if "rror" not in (told := client("pub", port, f"--cafile {copy}/certificates/ca.pem -q 1 -t x -m on")):
        fail(f"devices: without a certificate, was told {told!r}")

    subscriber = stage.subscribe("press-7", port, ["-V", "5", *shows("press-7").split(), "-t", "commands/press-7/#"])
    # Another kind for the gauge, a mistake, and then a press less: each does to the press what it should.
    change('kind = "gauge"', 'kind = "press"')
    told_soon("devices", port, "pub", f"{shows('gauge-3')} -q 1 -t plants/north/gauge-3/speed -m 1", "")
    change('name = "press-7"', 'name = "press-7"\nrevokd = true')
    stage.wait("devices-hook", stage.processes["devices-hook"], "not taken.*revokd", STEP)
    if subscriber.poll() is not None:
        fail(f"devices: what was none of its business has disconnected a press:\n{stage.log('press-7')}")
    change("revokd = true", "revoked = true")
    stage.wait("press-7", subscriber, r"Received DISCONNECT \(135\)", STEP)
    play_scenes("devices", [("sub", f"{shows('press-7')} -t commands/press-7/# -E", REFUSED)], port)

    # What has changed while the service was away.
    gauge = stage.subscribe("gauge-3", port, ["-V", "5", *shows("gauge-3").split(), "-t", "commands/gauge-3/#"])
    stage.end(stage.processes["devices-hook"])
    change('name = "gauge-3"', 'name = "gauge-3"\nrevoked = true')
    stage.start("devices-again", "venv/bin/python", "examples/devices/hook.py", cwd=copy, HOOK_ADDRESS=address)
    stage.wait("gauge-3", gauge, r"Received DISCONNECT \(135\)", STEP)
