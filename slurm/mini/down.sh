#!/bin/bash
# Stop the Slurm that up.sh started, its accounting and its database, and remove its folder. Nothing else is touched.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin
dir=${FABA_MINI:-/var/tmp/faba-mini}
export SLURM_CONF=$dir/slurm.conf
[ -d "$dir" ] || { echo "mini: there is nothing at $dir" >&2; exit 0; }

# stop the process whose number is in file $1, if it is $2, and wait until it is gone
stop() {
    local pid
    pid=$(cat "$1" 2>/dev/null) || return 0
    [ "$(ps -o comm= -p "$pid" 2>/dev/null | cut -c1-8)" = "${2:0:8}" ] || return 0
    kill "$pid"
    for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || return 0; sleep .1; done
    kill -9 "$pid"
}

if scontrol ping >/dev/null 2>&1; then
    scancel --user="$(id -un)" 2>/dev/null || true
    for _ in $(seq 50); do [ -z "$(squeue -h 2>/dev/null)" ] && break; sleep .2; done
fi
stop "$dir/run/slurmd.pid" slurmd
stop "$dir/run/slurmctld.pid" slurmctld
stop "$dir/run/slurmdbd.pid" slurmdbd
stop "$dir/mysql/pid" mariadbd
stop "$dir/munge/pid" munged
rm -rf "$dir"
echo "mini: stopped, $dir removed" >&2
