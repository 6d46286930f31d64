# shellcheck shell=bash
# What the batch files share: the site's Python, local folders, and a run that survives its time limit.
# Sourced by *.sbatch with the repository in $root. What it reads (FABA_VENV FABA_MODULES FABA_LOCAL_DISK) comes from
# `faba submit`, or from slurm/here.sh, which setup_site.sh writes.

say() { echo "$(date '+%F %T') $*" >&2; }

# the signals are heard from the first line on: one that comes while modules are loaded is kept for the command
deadline='' stop=''
ask() { say "$1: asking to stop"; stop=1; [ -z "${FABA_STOP_FILE:-}" ] || touch "$FABA_STOP_FILE" || true; }
trap 'deadline=1; ask "the time limit is near"' USR1
trap 'ask "somebody ends this job"; ! timed_out || again' TERM

# the module, the environment on top of it, and folders on the node's own disk
begin() {
    local module disk
    # shellcheck disable=SC1091,SC2154
    if [ -z "${FABA_VENV:-}" ] && [ -f "$root/slurm/here.sh" ]; then . "$root/slurm/here.sh"; fi
    say "job ${SLURM_JOB_ID:-none}, life $((${SLURM_RESTART_COUNT:-0} + 1)), on $(hostname): $*"
    for module in ${FABA_MODULES:-}; do module load "$module"; done
    if [ ! -x "${FABA_VENV:-}/bin/python" ]; then
        say "there is no environment at '${FABA_VENV:-}': make it with slurm/setup_site.sh, or submit with \`faba submit\`"
        exit 2
    fi
    # shellcheck disable=SC1091
    . "$FABA_VENV/bin/activate"
    disk=${FABA_LOCAL_DISK:-TMPDIR}
    disk=${!disk:-/tmp}
    # all of it local: sockets, executed notebooks while they run, caches of libraries
    TMPDIR=$(mktemp -d "$disk/faba-${SLURM_JOB_ID:-0}-XXXXXX") || { say "cannot write to the local disk $disk"; exit 1; }
    export TMPDIR IPYTHONDIR=$TMPDIR/ipython MPLCONFIGDIR=$TMPDIR/mpl HF_HUB_OFFLINE=1 FABA_STOP_FILE=$TMPDIR/stop
    trap 'rm -rf "$TMPDIR"' EXIT
    [ -z "$stop" ] || touch "$FABA_STOP_FILE"
}

# run a command; before the deadline ask it to stop, and go on in another life of the same job
survive() {
    local code=0
    "$@" &
    local pid=$!
    # a trap ends `wait` early, so wait until the process is gone
    while kill -0 $pid 2>/dev/null; do code=0; wait $pid || code=$?; done
    say "ended with exit code $code"
    if [ $code = 0 ] && [ -n "${FABA_JOB_DONE:-}" ]; then touch "$FABA_JOB_DONE"; fi
    if [ $code = 75 ] && [ -n "$deadline" ]; then again; fi
    exit $code
}

this_job() { echo "${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}" | grep . || echo "${SLURM_JOB_ID:-}"; }

# is it the time limit that ends this job, because the command did not leave when asked? then the last checkpoint has to do
timed_out() { [ -n "$deadline" ] && [[ $(scontrol show job -o "$(this_job)" 2>/dev/null) == *Reason=TimeLimit* ]]; }

# put this job back into the queue; what is finished is kept
again() {
    local id
    id=$(this_job)
    if [ "${SLURM_RESTART_COUNT:-0}" -ge "${FABA_LIVES:-50}" ]; then
        say "this job was requeued ${SLURM_RESTART_COUNT} times: submit it again with a longer --time"
        exit 75
    fi
    say "requeueing job $id"
    trap 'exit 75' TERM # Slurm ends this life
    if ! scontrol requeue "$id"; then
        say "this job cannot be requeued: submit the same command again, it goes on where it was"
        exit 75
    fi
    sleep 120 &
    wait $!
}
