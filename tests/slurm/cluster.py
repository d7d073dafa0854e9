"""A Slurm of two nodes on this machine: its own munge, controller and node daemons, which end with it.

Both nodes are this host, told apart by their ports: each thinks it has eight processors.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "sinfo", "scancel")
NODES = ("n0", "n1")
_START_S = 60.0
_CONF = """
ClusterName=agenttune
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CryptoType=crypto/munge
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
JobCompType=jobcomp/none
AccountingStorageType=accounting_storage/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=20
MinJobAge=3600
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
NodeName=n[0-1] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=8
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10
"""


def missing() -> str:
    """Why there can be no cluster here; empty where there can."""
    absent = [command for command in COMMANDS if not _find(command)]
    if absent:
        return f"no {', '.join(absent)}: make cluster installs Slurm where it may (Debian, as root)"
    return "" if os.geteuid() == 0 else "Slurm's daemons for several users' jobs need root"


def _find(command: str) -> str | None:
    return shutil.which(command, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


@dataclass(frozen=True)
class Cluster:
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def command(self, *words: str) -> str:
        """What one of Slurm's commands prints."""
        told = subprocess.run(
            words, env=os.environ | self.environment, capture_output=True, text=True, timeout=60
        )
        assert told.returncode == 0, f"{' '.join(words)}: {told.stderr}"
        return told.stdout

    def job(self, number: str) -> dict[str, str]:
        """What `scontrol show job` says of it, by key."""
        return dict(re.findall(r"(\S+?)=(\S*)", self.command("scontrol", "show", "job", number)))


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Up, with both nodes idle."""
    user, host = os.environ.get("USER", "root"), socket.gethostname().partition(".")[0]
    port = 20_000 + secrets.randbelow(10_000)
    for name in ("munge", "state"):
        (folder / name).mkdir(parents=True)
    made = _CONF.format(folder=folder, user=user, host=host, port=port, first=port + 1, last=port + 2)
    (folder / "slurm.conf").write_text(made)
    key = folder / "munge" / "key"
    key.write_bytes(secrets.token_bytes(64))
    key.chmod(0o400)
    for place in (folder, folder / "munge"):
        place.chmod(0o755)  # munged looks at who may write where its socket lies
    own = {name: f"--{name}-file={folder}/munge/{name}" for name in ("key", "pid", "log", "seed")}
    munge = ["munged", "--foreground", "--force", f"--socket={folder}/munge/socket", *own.values()]
    slurm = Cluster(folder)
    daemons: list[subprocess.Popen[bytes]] = []

    def start(*words: str) -> None:
        path = _find(words[0])
        assert path
        with (folder / "daemons.log").open("ab") as log:
            environment = os.environ | slurm.environment
            daemons.append(
                subprocess.Popen(
                    [path, *words[1:]], env=environment, stdout=log, stderr=log, start_new_session=True
                )
            )

    try:
        start(*munge)
        _wait_for(lambda: (folder / "munge" / "socket").exists(), folder)
        start("slurmctld", "-D", "-f", str(folder / "slurm.conf"))
        for node in NODES:
            start("slurmd", "-D", "-N", node, "-f", str(folder / "slurm.conf"))
        _wait_for(
            lambda: slurm.command("sinfo", "-h", "-N", "-p", "low", "-o", "%T").split() == ["idle"] * 2,
            folder,
        )
        yield slurm
    finally:
        subprocess.run(
            ["scancel", "--full", "--signal=KILL", "--state=RUNNING"],
            env=os.environ | slurm.environment,
            check=False,
        )
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()


def _wait_for(holds, folder: Path) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            if holds():
                return
        except (AssertionError, subprocess.SubprocessError):
            pass  # the controller does not answer yet
        assert time.monotonic() < deadline, (folder / "daemons.log").read_text()
        time.sleep(0.1)
