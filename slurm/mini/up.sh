#!/bin/bash
# A real Slurm with accounting on this one machine, for tests and for trying without a cluster.
#
#   . <(slurm/mini/up.sh)        start it (or find it running) and point this shell at it
#   slurm/mini/down.sh           stop it and remove its folder
#
# Needs root (in a container) and Debian's packages: apt-get install slurm-wlm slurmdbd munge mariadb-server
# Everything lives in one folder, $FABA_MINI (default /var/tmp/faba-mini), on ports of its own; nothing else is touched.
# Partitions, gres and the account look like Mahti's: gputest gpusmall small, gpu:a100, MaxSubmitJobs = 4.
# Three more nodes, powered down and reserved for nobody, have the sizes of Mahti's and Roihu's: without the reservation
# (scontrol delete reservation=nobody) `sbatch --test-only` judges scripts written for those two.
# cred_expire: a requeued job rests 10 s instead of Slurm's two minutes.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin

dir=${FABA_MINI:-/var/tmp/faba-mini}
port=${FABA_MINI_PORT:-26817} # the first of four
say() { echo "$*" >&2; }
die() { say "mini: $*"; exit 2; }

[ "$(id -u)" = 0 ] || die "this needs root; in a container it is at hand"
for p in munged mariadbd mariadb-install-db slurmdbd slurmctld slurmd sacctmgr; do
    command -v $p >/dev/null || die "$p is missing: apt-get install slurm-wlm slurmdbd munge mariadb-server"
done

# what a shell needs to talk to it
environment() {
    echo "export SLURM_CONF=$dir/slurm.conf"
}

# is the process whose number is in $1 running, and is it $2?
running() {
    [ -f "$1" ] && [ "$(ps -o comm= -p "$(cat "$1")" 2>/dev/null | cut -c1-8)" = "${2:0:8}" ]
}

# wait up to 30 s for a command to succeed
until_ok() {
    local what=$1 said; shift
    for _ in $(seq 120); do said=$("$@" 2>&1) && return; sleep .2; done
    die "$what did not come up ($said); logs are in $dir/log"
}

# links to /dev/null stand for the device files of GPUs
make_folders() {
    mkdir -p "$dir"/{log,run,munge,mysql,state,spool}
    chmod 755 "$dir"
    for i in 0 1; do [ -e "$dir/nvidia$i" ] || ln -s /dev/null "$dir/nvidia$i"; done
    chown -R munge: "$dir/munge"
    chown -R mysql: "$dir/mysql"
    chmod 700 "$dir/munge"
    [ -f "$dir/munge/key" ] || (umask 077; head -c 1024 /dev/urandom >"$dir/munge/key"; chown munge: "$dir/munge/key")
}

write_configuration() {
    local host cores memory
    host=$(hostname -s) cores=$(nproc) memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
    cat >"$dir/slurm.conf" <<END
ClusterName=mini
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmctldPort=$port
SlurmdPort=$((port + 1))
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket,cred_expire=10
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
SchedulerParameters=sched_interval=2,bf_interval=2
KillWait=30
MinJobAge=600
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((port + 2))
AccountingStoragePass=$dir/munge/socket
AccountingStorageEnforce=associations,limits,qos
AccountingStorageTRES=gres/gpu
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
GresTypes=gpu,nvme
SlurmdParameters=config_overrides
NodeName=$host NodeAddr=127.0.0.1 CPUs=$((cores < 2 ? 2 : cores)) RealMemory=$memory Gres=gpu:a100:2 State=UNKNOWN
NodeName=mahti-gpu CPUs=128 RealMemory=500000 Gres=gpu:a100:4,nvme:3500 State=CLOUD
NodeName=mahti-cpu CPUs=128 RealMemory=240000 State=CLOUD
NodeName=roihu-gpu CPUs=288 RealMemory=860000 Gres=gpu:gh200:4 State=CLOUD
SuspendProgram=/bin/true
ResumeProgram=/bin/true
SuspendTime=INFINITE
PartitionName=gputest Nodes=$host,mahti-gpu,roihu-gpu MaxTime=15 DefaultTime=5
PartitionName=gpusmall Nodes=$host,mahti-gpu MaxTime=2160 DefaultTime=30
PartitionName=gpumedium Nodes=mahti-gpu,roihu-gpu MaxTime=2160 DefaultTime=30
PartitionName=small Nodes=$host,mahti-cpu MaxTime=4320 DefaultTime=30 Default=YES
END
    echo "Name=gpu Type=a100 File=$dir/nvidia[0-1]" >"$dir/gres.conf"
    echo "CgroupPlugin=autodetect" >"$dir/cgroup.conf"
    (umask 077; cat >"$dir/slurmdbd.conf" <<END
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$((port + 2))
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$((port + 3))
StorageUser=slurm
StoragePass=mini
StorageLoc=slurm_acct
LogFile=$dir/log/slurmdbd.log
PidFile=$dir/run/slurmdbd.pid
END
    )
}

start_munge() {
    running "$dir/munge/pid" munged && return
    runuser -u munge -- munged --force --socket="$dir/munge/socket" --key-file="$dir/munge/key" --pid-file="$dir/munge/pid" \
        --log-file="$dir/munge/log" --seed-file="$dir/munge/seed" 2>"$dir/log/munged.err"
    chmod 755 "$dir/munge"
    until_ok munged munge -n -S "$dir/munge/socket"
}

sql() { mariadb --socket="$dir/mysql/socket" "$@"; }

start_database() {
    if ! running "$dir/mysql/pid" mariadbd; then
        [ -d "$dir/mysql/data/mysql" ] || mariadb-install-db --user=mysql --datadir="$dir/mysql/data" --skip-test-db --auth-root-authentication-method=normal >"$dir/log/mariadb-install.log" 2>&1
        setsid mariadbd --no-defaults --user=mysql --datadir="$dir/mysql/data" --socket="$dir/mysql/socket" --pid-file="$dir/mysql/pid" --bind-address=127.0.0.1 \
            --port=$((port + 3)) --innodb-buffer-pool-size=64M >"$dir/log/mariadb.log" 2>&1 </dev/null &
        until_ok mariadbd sql -e 'select 1'
    fi
    sql -e "create database if not exists slurm_acct; create user if not exists slurm@localhost identified by 'mini'; create user if not exists slurm@'127.0.0.1' identified by 'mini';
            grant all on slurm_acct.* to slurm@localhost; grant all on slurm_acct.* to slurm@'127.0.0.1'"
}

listed() { sacctmgr -n -P list "$1" format="$1" | grep -w "$2" >/dev/null; }

start_slurm() {
    export SLURM_CONF="$dir/slurm.conf"
    running "$dir/run/slurmdbd.pid" slurmdbd || SLURM_CONF="$dir/slurm.conf" slurmdbd </dev/null >/dev/null 2>&1
    until_ok slurmdbd sacctmgr -n list cluster
    listed cluster mini || sacctmgr -i -Q add cluster mini >/dev/null
    listed account project_2013932 || sacctmgr -i -Q add account project_2013932 >/dev/null
    listed account nobody || sacctmgr -i -Q add account nobody >/dev/null
    sacctmgr -n -P list assoc user=root format=account | grep -w project_2013932 >/dev/null || sacctmgr -i -Q add user root account=project_2013932 >/dev/null
    sacctmgr -i -Q modify user root set DefaultAccount=project_2013932 MaxSubmitJobs=4 >/dev/null
    running "$dir/run/slurmctld.pid" slurmctld || slurmctld -f "$SLURM_CONF" </dev/null >/dev/null 2>&1
    until_ok slurmctld scontrol ping
    until_ok "the node" node_ready
    scontrol show reservation nobody >/dev/null 2>&1 || scontrol -Q create reservation reservationname=nobody nodes=mahti-gpu,mahti-cpu,roihu-gpu \
        accounts=nobody starttime=now duration=UNLIMITED flags=ignore_jobs >/dev/null
}

# started again as often as it takes: a daemon that was just killed may hold its port and its number a moment longer
node_ready() {
    local state
    pgrep -f "slurmd -f $SLURM_CONF" >/dev/null || slurmd -f "$SLURM_CONF" -N "$(hostname -s)" </dev/null >/dev/null 2>&1
    state=$(sinfo -h -N -n "$(hostname -s)" -o %T | head -1)
    case $state in
        idle | mixed | allocated | completing) return 0 ;;
        *) scontrol update nodename="$(hostname -s)" state=resume 2>/dev/null; return 1 ;;
    esac
}

make_folders
write_configuration
start_munge
start_database
start_slurm
say "mini: $(sinfo --version), $(sinfo -h -o '%P' | tr '\n' ' ')on $(hostname -s); folder $dir"
environment
