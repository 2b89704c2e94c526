"""A policy in Rego: OPA itself answers, and what is changed in the policy is in force for the next question."""

import subprocess

from .stage import STEP, fail, free_port, told_soon

# What it writes before it listens.
STARTS = r"Initializing server"


def address():
    """OPA does not say which free port it has taken."""
    return f"127.0.0.1:{free_port()}"


def url(address):
    return f"http+json://{address}/v0/data/mproxy"


def play(stage, port):
    copy = stage.folder / "opa/examples/opa"
    for command in (["opa", "check", "--strict", "."], ["opa", "fmt", "--fail", "--list", "."]):
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=STEP)
        if done.returncode != 0:
            fail(f"{command}:\n{done.stdout}{done.stderr}")
    policy = copy / "policy.rego"
    text = policy.read_text()
    # Something more is forbidden.
    policy.write_text(text.replace('"forbidden/"', '"demo/"'))
    told_soon("opa", port, "pub", "-u ann -q 1 -t demo/light -m on", "Publish 1 failed: Not authorized")
    # Half a policy changes nothing, and a rule that is gone allows nothing.
    policy.write_text(text.replace('"forbidden/"', '"demo/" if'))
    stage.wait("opa-hook", stage.processes["opa-hook"], "rego_parse_error", STEP)
    told_soon("opa", port, "pub", "-u ann -q 1 -t demo/light -m on", "Publish 1 failed: Not authorized")
    policy.write_text(text.replace("AuthPublish :=", "AuthPublsh :="))
    told_soon("opa", port, "pub", "-u ann -q 1 -t demo/light -m on", "Publish 1 failed: Implementation specific error")
    policy.write_text(text)
    told_soon("opa", port, "pub", "-u ann -q 1 -t demo/light -m on", "")
