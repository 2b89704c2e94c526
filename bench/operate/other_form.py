"""Starts mproxy as the new process of an upgrade, and changes one thing that it says: in which form it reads sessions. As a
later version would be that keeps them otherwise.

    other_form.py PROGRAM [ARGUMENT…]     with the channel to the old process as standard input
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading


def main():
    old = socket.socket(fileno=0)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    child = subprocess.Popen(sys.argv[1:], stdin=theirs)
    theirs.close()
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    threading.Thread(target=copy, args=(old, ours), daemon=True).start()
    said = message(ours)
    if "session_form" in said:
        said["session_form"] = "another"
    text = json.dumps(said).encode()
    old.sendall(len(text).to_bytes(4, "big") + bytes(4) + text)
    copy(ours, old)
    sys.exit(child.wait())


def copy(source, target):
    """Bytes and descriptors."""
    while True:
        data, descriptors, _, _ = socket.recv_fds(source, 65536, 250)
        if not data:
            break
        if descriptors:
            socket.send_fds(target, [data], descriptors)
        else:
            target.sendall(data)
        for one in descriptors:
            os.close(one)
    target.shutdown(socket.SHUT_WR)


def message(source):
    head = exactly(source, 8)
    return json.loads(exactly(source, int.from_bytes(head[:4], "big")))


def exactly(source, size):
    taken = b""
    while len(taken) < size:
        taken += source.recv(size - len(taken)) or sys.exit("the new process has ended")
    return taken


main()
