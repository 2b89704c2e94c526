"""The registry of devices: from the identity in a certificate to a device, and from its kind to a grant."""

import asyncio
import hashlib
import tomllib
from typing import NamedTuple

import events_pb2 as m

ACTIONS = {"publish": m.GRANT_ACTION_PUBLISH, "subscribe": m.GRANT_ACTION_SUBSCRIBE}
KEYS = {"identity": str, "name": str, "kind": str, "plant": str, "revoked": bool}


def identity(tls):
    """The SPIFFE id of a certificate, else its common name; nothing where it could mean two."""
    uris = [name.removeprefix("URI:") for name in tls.subject_alt_names if name.startswith("URI:")]
    if uris:
        return uris[0] if len(uris) == 1 and uris[0].startswith("spiffe://") else None
    # A common name that looks like a SPIFFE id is none.
    return None if tls.common_name.startswith("spiffe:") else tls.common_name or None


class Device(NamedTuple):
    name: str
    attributes: dict
    grant: m.Grant


def grant(kind, *state):
    rules = [
        m.GrantRule(effect=m.EFFECT_ALLOW, actions=[ACTIONS[action]], topic_filters=filters)
        for action, filters in kind.items()
    ]
    # Another version if the device may do something else, or has to prove another identity.
    version = hashlib.sha256(repr((state, sorted(kind.items()))).encode()).hexdigest()[:16]
    return m.Grant(version=version, rules=rules, default_effect=m.EFFECT_DENY)


def device(entry, kinds):
    name, plant = entry["name"], entry["plant"]
    # A topic is made of them: each is one level.
    if set("/+#") & {*name, *plant}:
        raise ValueError(f"{name!r}, {plant!r}: no name may have /, + or # in it")
    return Device(name, {"device": name, "plant": plant}, grant(kinds[entry["kind"]], entry["identity"], name, plant))


def read(text):
    """Those who may come in, by identity. What is not understood is a mistake: a misspelt `revoked` admits nobody."""
    registry = tomllib.loads(text)
    kinds, entries = registry["kinds"], registry["devices"]
    for entry in entries:
        if wrong := [key for key, value in entry.items() if type(value) is not KEYS.get(key)]:
            raise ValueError(f"device {entry.get('name')!r}: {wrong} unknown, or not of this type")
    for kind, actions in kinds.items():
        if wrong := [key for key, filters in actions.items() if key not in ACTIONS or type(filters) is not list]:
            raise ValueError(f"kind {kind!r}: {wrong} unknown, or no list")
    for key in ("identity", "name"):
        if len({entry[key] for entry in entries}) < len(entries):
            raise ValueError(f"two devices have the same {key}")
    return {entry["identity"]: device(entry, kinds) for entry in entries if not entry.get("revoked")}


class Registry:
    def __init__(self, path):
        self.path, self.text = path, path.read_text()
        self.devices = read(self.text)

    def of(self, tls):
        return self.devices.get(identity(tls))

    def named(self, name):
        return next((one for one in self.devices.values() if one.name == name), None)

    def versions(self):
        return {one.name: one.grant.version for one in self.devices.values()}

    async def changes(self):
        """The names of devices that have changed. A file with a mistake changes nothing."""
        while True:
            await asyncio.sleep(0.2)
            try:
                text = self.path.read_text()
                if text == self.text:
                    continue
                self.text, old = text, self.versions()
                self.devices = read(text)
            except Exception as error:  # whatever somebody has written into it
                print(f"{self.path}: not taken: {error!r}", flush=True)
                continue
            new = self.versions()
            yield {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
