"""The machines of a job: from a DeepSpeed hostfile, from Slurm, or this one alone; and the ranks that each takes."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from configs.errors import ConfigError
from configs.layout import Layout

_LINE = re.compile(r"(\S+)\s+slots=(\d+)\s*(#.*)?")
_HERE = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class Host:
    name: str
    slots: int | None
    """Ranks that it can take: its devices, or what a hostfile says. None: any number, as on a CPU."""


@dataclass(frozen=True)
class Hosts:
    """In the order of their ranks."""

    hosts: tuple[Host, ...]
    reached_by: str
    """`srun`, `ssh`, or empty where the only one is this machine."""

    @property
    def slots(self) -> int | None:
        """Of all together."""
        counts = [host.slots for host in self.hosts]
        return None if None in counts else sum(count or 0 for count in counts)

    def ranks_each(self, layout: Layout) -> int:
        """Ranks on each of them: as many on one as on another. Raises ConfigError where they do not go into them."""
        ranks, count = layout.world_size, len(self.hosts)
        if ranks % count:
            raise ConfigError(
                f"{layout} = {ranks} processes on {count} hosts: must be a multiple of {count}; change parallel.* or "
                "the number of hosts"
            )
        each = ranks // count
        for host in self.hosts:
            if host.slots is not None and each > host.slots:
                raise ConfigError(
                    f"{layout} = {ranks} processes on {count} hosts are {each} on each, but {host.name} has "
                    f"{host.slots} slots; change parallel.* or the number of hosts"
                )
        return each


def find_hosts(hostfile: str | None, devices: int, environment: Mapping[str, str]) -> Hosts:
    """The hosts of a job that is started here. Raises ConfigError.

    hostfile: `launch.hostfile`, which goes before Slurm
    devices: those of this machine, 0 on a CPU; Slurm's nodes are taken to be alike
    """
    if hostfile:
        hosts = read_hostfile(Path(hostfile))
        alone = len(hosts) == 1 and hosts[0].name in (*_HERE, socket.gethostname())
        if len(hosts) > 1 and hosts[0].name == "localhost":
            raise ConfigError(
                f"launch.hostfile={hostfile}: localhost is another machine for each of its {len(hosts)} hosts, and all "
                "ranks meet at the first; write the name by which the others know it"
            )
        return Hosts(hosts, "" if alone else "ssh")
    if "SLURM_JOB_ID" in environment and int(environment.get("SLURM_JOB_NUM_NODES", 1)) > 1:
        if int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
            raise ConfigError(
                f"started {environment['SLURM_STEP_NUM_TASKS']} times by srun: at most once; start it without srun, "
                "it reaches the nodes of its job by itself"
            )
        names = node_names(environment["SLURM_JOB_NODELIST"])
        each = devices or granted(environment)
        return Hosts(tuple(Host(name, each or None) for name in names), "srun")
    return Hosts((Host("localhost", devices or None),), "")


def granted(environment: Mapping[str, str]) -> int:
    """GPUs of each node by what the job asked for (`8`, `h100:8`), which a shell on a node without any knows, or 0."""
    told = re.search(r"(?:^|:)(\d+)$", environment.get("SLURM_GPUS_PER_NODE", ""))
    return int(told[1]) if told else 0


def read_hostfile(file: Path) -> tuple[Host, ...]:
    """As DeepSpeed reads it: `name slots=8` a line, # begins a comment. Raises ConfigError."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"launch.hostfile={file}: cannot be read ({error}); name another") from error
    hosts: list[Host] = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.strip().startswith("#"):
            continue
        told = _LINE.fullmatch(line.strip())
        if not told or not int(told[2]) or told[1].startswith("-"):  # ssh would take that for an option
            raise ConfigError(f"{file}:{number}: {line.strip()!r}; write a host as `name slots=8`")
        if any(host.name == told[1] for host in hosts):
            raise ConfigError(f"{file}:{number}: {told[1]} for the second time; write each host once")
        hosts.append(Host(told[1], int(told[2])))
    if not hosts:
        raise ConfigError(f"launch.hostfile={file}: 0 hosts, at least 1 needed; write each as `name slots=8`")
    return tuple(hosts)


def node_names(nodes: str) -> list[str]:
    """The names in Slurm's short form `gpu[01-04,07]`."""
    return scontrol("show", "hostnames", nodes).split()


def node_address(name: str) -> str:
    """Under which the other nodes reach one of Slurm's."""
    told = re.search(r"\bNodeAddr=(\S+)", scontrol("show", "node", name))
    return told[1] if told else name


def scontrol(*arguments: str) -> str:
    try:
        return subprocess.run(
            ["scontrol", *arguments], check=True, capture_output=True, text=True, timeout=60
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or error
        raise ConfigError(
            f"scontrol {' '.join(arguments)}: failed ({str(said).strip()}); start it where Slurm's commands are, "
            "or name the nodes in launch.hostfile"
        ) from error


def crosses_hosts(layout: Layout, ranks_each: int) -> bool:
    """Whether tensor ranks of one group are on different hosts: each layer then waits for the network."""
    return bool(ranks_each % layout.tensor)
