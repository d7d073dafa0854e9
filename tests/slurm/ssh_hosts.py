"""Two hosts that ssh reaches: this machine under two addresses, by an ssh daemon and keys of its own."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ADDRESSES = ("127.0.0.1", "127.0.0.2")
COMMANDS = ("sshd", "ssh", "ssh-keygen", "pdsh")
_PLACES = os.environ.get("PATH", "") + ":/usr/sbin"
_START_S = 20.0


def missing() -> str:
    """Why there can be no such hosts here; empty where there can."""
    absent = [command for command in COMMANDS if not shutil.which(command, path=_PLACES)]
    if absent:
        return f"no {', '.join(absent)}: make cluster installs them where it may (Debian, as root)"
    return "" if os.geteuid() == 0 else "an ssh daemon needs root"


def hostfile(slots: int) -> str:
    """Text of a hostfile."""
    return "".join(f"{address} slots={slots}\n" for address in ADDRESSES)


@contextmanager
def ssh_hosts(folder: Path) -> Iterator[dict[str, str]]:
    """The environment in which `ssh` and `pdsh` reach them."""
    port = 20_000 + secrets.randbelow(10_000)
    for key in ("host", "user"):
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)]
        subprocess.run(make, check=True)
    server = [
        *(f"ListenAddress {address}:{port}" for address in ADDRESSES),
        *(f"HostKey {folder}/host", f"AuthorizedKeysFile {folder}/user.pub", f"PidFile {folder}/pid"),
        *("StrictModes no", "UsePAM no", "PasswordAuthentication no", "PermitRootLogin yes"),
    ]
    client = [
        *("Host *", f"Port {port}", f"IdentityFile {folder}/user", "IdentitiesOnly yes"),
        *("StrictHostKeyChecking no", "UserKnownHostsFile /dev/null", "LogLevel ERROR"),
    ]
    (folder / "sshd_config").write_text("\n".join(server) + "\n")
    (folder / "ssh_config").write_text("\n".join(client) + "\n")
    (folder / "bin").mkdir()
    wrapper = folder / "bin" / "ssh"
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/ssh_config "$@"\n')
    wrapper.chmod(0o755)
    Path("/run/sshd").mkdir(exist_ok=True)  # where sshd shuts its unprivileged part in
    command = [str(shutil.which("sshd", path=_PLACES)), "-D", "-e", "-f", str(folder / "sshd_config")]
    with (folder / "sshd.log").open("w") as log:
        daemon = subprocess.Popen(command, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + _START_S
        while not _listens(port):
            fails = daemon.poll() is not None or time.monotonic() > deadline
            assert not fails, (folder / "sshd.log").read_text()
            time.sleep(0.05)
        yield {"PATH": f"{folder}/bin:{_PLACES}"}
    finally:
        daemon.terminate()
        daemon.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((ADDRESSES[1], port)) == 0
