# shellcheck shell=bash
# What a batch job needs around its command: the site's Python, local folders, and a command that is asked to stop before it is ended.
# Sourced by study.sbatch with the repository in $root. What it reads (FABA_VENV FABA_MODULES FABA_LOCAL_DISK
# FABA_MAX_RESTARTS) comes from `faba submit`, or from slurm/here.sh, which setup_site.sh writes.
#
# How a job ends: 0 done; 75 stopped, everything saved, the same command goes on; 2 the user has to correct something;
# 1 failed, also when the time limit was met once more than max_restarts allows. A job that waits for this one with afterok
# starts after 0 only.

say() { printf '%(%F %T)T %s\n' -1 "$*" >&2; }
die() { say "$*"; exit 2; }

# The signals are heard from the first line on. scancel and preemption send TERM to every process of a job, whatever it is
# doing. The command has TERM and USR1 blocked, so it cannot die of them half way: it sees $FABA_STOP_FILE, saves, and leaves.
deadline='' stop='' heard='' here='' begun='' queued='' over='' pid='' timer='' spent=''
trap 'heard=1 deadline=1; ask "the time limit is near"' USR1
trap 'heard=1; terminated' TERM
trap leave EXIT

# ask the command to stop; a file that is renamed needs no room on the disk
ask() {
    say "$1: asking to stop"
    [ -z "$here" ] || mv -f "$here/unasked" "$here/stop" 2>/dev/null || touch "$here/stop" 2>/dev/null || true
}

# TERM: by somebody, by the time limit, or, once the job is queued again, by Slurm that ends this attempt
terminated() {
    if [ -n "$queued" ]; then
        over=1
        return 0 # without the 0 it would be the status of what the signal came upon
    fi
    [ -n "$stop" ] || ask "somebody ends this job"
    stop=1
    [ -z "$pid" ] || insist
    ! timed_out || again || true
}

# Slurm kills everything half a minute after TERM (KillWait). A command that is not at a place to save by then, because it
# still reads or imports, is interrupted before: it says `stopped`, and what it saved last, a minute ago at the most, holds.
# One that even so does not leave is ended here, so that there is still time to clear the local disk.
insist() {
    [ -z "$timer" ] || return 0
    (
        trap '' TERM USR1
        sleep "${FABA_GRACE:-20}"
        kill -INT "$pid" 2>/dev/null
        sleep 6
        kill -KILL "$pid" 2>/dev/null
    ) &
    timer=$!
    disown "$timer"
}

# the last word: what lies on the local disk goes, and a job that was ended before its work began is not a failure
leave() {
    local code=$?
    trap '' TERM USR1
    [ -z "$timer" ] || kill -KILL "$timer" 2>/dev/null || true
    [ -z "$here" ] || rm -rf "$here" || { sleep 1; rm -rf "$here"; } || true
    if [ -z "$begun" ] && [ -n "$stop" ] && [ "$code" != 0 ]; then
        say "stopped before the work began: submit the same command again"
        code=75
    fi
    exit "$code"
}

# a module of the site; its functions know nothing of `set -eu`
load() {
    local code=0
    command -v module >/dev/null || die "there is no command \`module\` here to load $1 with: submit from a login shell of the site"
    set +eu
    module load "$1"
    code=$?
    set -eu
    [ "$code" = 0 ] || die "the module $1 cannot be loaded"
}

# the module, the environment on top of it, and folders on the node's own disk
begin() {
    local module disk words
    # shellcheck disable=SC1091,SC2154
    if [ -z "${FABA_VENV:-}" ] && [ -f "$root/slurm/here.sh" ]; then
        set +eu
        . "$root/slurm/here.sh"
        set -eu
    fi
    say "job ${SLURM_JOB_ID:-none}, attempt $((${SLURM_RESTART_COUNT:-0} + 1)), on ${SLURMD_NODENAME:-$HOSTNAME}: $*"
    read -ra words <<<"${FABA_MODULES:-}"
    for module in ${words[@]+"${words[@]}"}; do load "$module"; done
    if [ ! -x "${FABA_VENV:-}/bin/python" ]; then
        die "there is no environment at '${FABA_VENV:-}': make it with slurm/setup_site.sh, or submit with \`faba submit\`"
    fi
    # shellcheck disable=SC1091
    . "$FABA_VENV/bin/activate"
    disk=${FABA_LOCAL_DISK:-TMPDIR}
    [[ $disk =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] || die "FABA_LOCAL_DISK is not the name of a variable: $disk"
    disk=${!disk:-/tmp}
    # all of it local: sockets, executed notebooks while they run, caches of libraries
    here=$(mktemp -d "$disk/faba-${SLURM_JOB_ID:-0}-XXXXXX") || die "cannot write to the local disk $disk"
    touch "$here/unasked" 2>/dev/null || true
    [ -z "$stop$deadline" ] || ask "before the command began"
    export TMPDIR=$here IPYTHONDIR=$here/ipython MPLCONFIGDIR=$here/mpl HF_HUB_OFFLINE=1 FABA_STOP_FILE=$here/stop
}

# become command $1 …, deaf to the two signals from before its first instruction, and open to INT, which bash keeps from
# what it runs in the background; where `env` cannot do so (older than coreutils 8.31) the two are ignored, which the
# command's own children do not inherit
become() {
    trap '' TERM USR1
    ! env --block-signal=TERM true 2>/dev/null || exec env --default-signal=INT --block-signal=TERM --block-signal=USR1 "$@"
    exec "$@"
}

# run a command to its end, whatever is heard meanwhile; this script leaves unless it ended well
run() {
    local last code=127
    [ -z "$begun" ] || [ -z "$stop$deadline" ] || ended 75
    [ -z "$stop" ] || exit 75
    [ -z "$deadline" ] || die "the time of this job was over before its work began: give it more (--time)"
    begun=1
    become "$@" &
    pid=$!
    [ -z "$stop" ] || insist # TERM came while it was started
    # a signal ends `wait` early: ask again until none came; 127 says that the exit code was told before
    while heard='' last=0; do
        wait "$pid" || last=$?
        [ "$last" = 127 ] || code=$last
        [ -n "$heard" ] || break
    done
    pid=''
    say "ended with exit code $code"
    [ "$code" != 0 ] || return 0
    ended "$code"
}

# what exit code $1 of a command means for the job
ended() {
    local code=$1 seconds=0
    if [ -n "$stop$deadline" ]; then
        case $code in 143 | 138) code=75 ;; esac # it had not become the command yet
    fi
    if [ -n "$stop" ]; then
        case $code in 130 | 137) code=75 ;; esac # it was interrupted, or ended
    fi
    case $code in
        0 | 1 | 2 | 75 | 130) ;;
        *) code=1 ;;
    esac
    if [ "$code" = 75 ] && [ -n "$deadline" ] && [ -z "$stop" ]; then again || true; fi
    while [ -n "$queued" ] && [ -z "$over" ] && [ $((seconds += 1)) -le 120 ]; do # Slurm ends this attempt
        sleep 1 &
        wait $! || true
    done
    if [ -n "$spent" ] && [ "$code" = 75 ]; then code=1; fi # the same command would meet the same limit
    exit "$code"
}

# run the command that makes this job done
survive() {
    run "$@"
    if [ -n "${FABA_JOB_DONE:-}" ]; then touch "$FABA_JOB_DONE"; fi
}

this_job() { echo "${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}" | grep . || echo "${SLURM_JOB_ID:-}"; }

# is it the time limit that ends this job, because the command did not leave when asked? then the last checkpoint has to do
timed_out() { [ -n "$deadline" ] && [[ $(scontrol show job -o "$(this_job)" 2>/dev/null) == *Reason=TimeLimit* ]]; }

# put this job back into the queue, once, and at most max_restarts times; what is finished is kept. The command is still
# waited for.
again() {
    local id most=${FABA_MAX_RESTARTS:-5}
    [ -z "$queued$spent" ] || return 0
    id=$(this_job)
    if [ "${SLURM_RESTART_COUNT:-0}" -ge "$most" ]; then
        spent=1
        say "this job was restarted ${SLURM_RESTART_COUNT:-0} times, and $most is the most (max_restarts of the site's profile): what is finished is kept; submit it again with a longer --time"
        return 0
    fi
    say "requeueing job $id"
    if ! scontrol requeue "$id"; then
        say "this job cannot be requeued: submit the same command again, it goes on where it was"
        return 1
    fi
    queued=1
}
