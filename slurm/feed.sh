# shellcheck shell=bash
# What OUT/submit.sh is made of: gives the jobs of one study to Slurm, within the limits of the account.
# Sourced by the script that `faba submit` writes, which sets $out and $account, and $machine and $login where the jobs'
# processors are of one kind. Stop it and start it again at will:
# a job that Slurm has is not submitted twice, a job that is done is left alone, a job that failed is submitted again.

jobs=${out:?}/jobs
pause=${FABA_FEED_SECONDS:-30} # between looks at the queue
said=

say() { echo "submit: $*" >&2; }

if ! command -v sbatch >/dev/null; then
    say "there is no sbatch here (inside a module's container?): paste this into a login shell: bash $(printf %q "$out/submit.sh")"
    exit 2
fi
if [ -n "${machine:-}" ] && [ "$machine" != "$(uname -m)" ]; then
    say "this is $(uname -m), the jobs run on $machine: they start from a login shell of their own node, and find the environment made on $machine${login:+ (log in at $login)}"
fi

# one feeder per study: the file says who; one that died here, or was silent for ten minutes elsewhere, is no feeder
only_one() {
    local pid host
    mkdir -p "$jobs"
    until (set -o noclobber; echo "$$ $(hostname)" >"$jobs/feeding") 2>/dev/null; do
        read -r pid host <"$jobs/feeding" 2>/dev/null || continue
        if [ "$host" = "$(hostname)" ] && ! kill -0 "$pid" 2>/dev/null || [ -n "$(find "$jobs/feeding" -mmin +10 2>/dev/null)" ]; then
            rm -f "$jobs/feeding"
        else
            say "process $pid on $host is feeding this study already"
            exit 75
        fi
    done
    trap 'rm -f "$jobs/feeding"' EXIT
}

# the smallest MaxSubmit of this user's associations with the account, or nothing
limit() {
    command -v sacctmgr >/dev/null || return 0
    sacctmgr -n -P show assoc user="$(id -un)" account="${account:?}" format=MaxSubmit 2>/dev/null | grep -x '[0-9]\+' | sort -n | head -1 || true
}

queued() { squeue -h -r -u "$(id -un)" -o %i | wc -l; }

# does Slurm have the job with number $1?
has() { [ -n "$1" ] && [ -n "$(squeue -h -j "$1" -o %i 2>/dev/null)" ]; }

# what job $1 of this folder is known by to Slurm, in letters and digits whatever the folder's name is
tag() { printf %s "$out/$1" | sha256sum | cut -c1-32; }

# the number of job $1, also when this script was killed before it could write it down
number() {
    local id
    id=$(cat "$jobs/$1.id" 2>/dev/null || true)
    has "$id" || id=$(squeue -h -u "$(id -un)" -o '%i %k' | awk -v k="faba-$(tag "$1")" '$2 == k {print $1; exit}')
    echo "$id"
}

# --dependency for the jobs named in $2, which have to be done or with Slurm before job $1
dependency() {
    local before id ids=
    for before in $2; do
        [ -f "$jobs/$before.done" ] && continue
        id=$(number "$before")
        if ! has "$id"; then
            [ -f "$jobs/$before.done" ] && continue
            say "$before did not end well, so $1 has to wait; see $jobs/$before-${id:-*}.log, then start this script again"
            exit 1
        fi
        ids=$ids:$id
    done
    [ -z "$ids" ] || echo "--dependency=afterok$ids"
}

wait_for_room() {
    until [ -z "$most" ] || [ "$(queued)" -lt "$most" ]; do
        [ "$said" = "$1" ] || say "$1 waits: $(queued) of $most jobs are in the queue (stop and start this script at will)"
        said=$1
        touch "$jobs/feeding"
        sleep "$pause"
    done
}

# job NAME 'NAMES OF JOBS BEFORE IT' OPTIONS OF SBATCH … FILE ARGUMENTS …
job() {
    local name=$1 before=$2 id after answer
    shift 2
    if [ -f "$jobs/$name.done" ]; then say "$name is done"; return; fi
    id=$(number "$name")
    if has "$id"; then
        echo "$id" >"$jobs/$name.id"
        say "$name is with Slurm as job $id"
        return
    fi
    while :; do
        wait_for_room "$name"
        after=$(dependency "$name" "$before")
        if answer=$(FABA_JOB_DONE=$jobs/$name.done sbatch --parsable --kill-on-invalid-dep=yes --comment="faba-$(tag "$name")" ${after:+"$after"} "$@" 2>&1); then break; fi
        case $answer in
            *Submit*Limit* | *"imed out"* | *"emporar"*) say "$name waits: ${answer//$'\n'/ }"; touch "$jobs/feeding"; sleep "$pause" ;;
            # without the name of a limit this is no full queue: it will be answered so for ever
            *"accounting/QOS policy"* | *"nvalid account"*)
                say "$name was refused: ${answer//$'\n'/ }"
                say "may $account be used here, and in this partition? see: sacctmgr show assoc user=$(id -un) format=Account,Partition,QOS; then write the plan again with --account"
                exit 2
                ;;
            *) say "$name was refused: $answer"; exit 1 ;;
        esac
    done
    id=${answer##*$'\n'}
    id=${id%%;*}
    echo "$id" >"$jobs/$name.id"
    say "$name is job $id${after:+, after ${after#*afterok:}}"
}

only_one
most=$(limit)
