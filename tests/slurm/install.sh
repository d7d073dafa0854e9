#!/bin/sh
# Slurm, munge, ssh and pdsh for tests/slurm, where they can be installed: Debian or Ubuntu, as root. Else those tests
# skip, and say so.
packages="slurm-wlm munge openssh-server openssh-client pdsh"
PATH="$PATH:/usr/sbin:/usr/local/sbin"
absent=""
for command in munged slurmctld slurmd sbatch srun scontrol sshd ssh ssh-keygen pdsh; do
    command -v "$command" >/dev/null || absent="$absent $command"
done
test -n "$absent" || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "tests of Slurm and of hosts will be skipped: no$absent, and only root can install $packages (by apt-get)"
    exit 0
fi
echo "installing $packages for tests of Slurm and of hosts"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
install="apt-get install -y --no-install-recommends -o Dpkg::Use-Pty=0 $packages"
if ! { $install || { apt-get update && $install; }; } >"$log" 2>&1; then
    tail -5 "$log"
    echo "tests of Slurm and of hosts will be skipped: they could not be installed"
fi
rm -f "$log"
