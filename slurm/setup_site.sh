#!/bin/bash
# Once per site, on a login node: an environment on top of the site's module, weights in the cache, defaults for sbatch.
#
#   slurm/setup_site.sh SITE ACCOUNT [--venv DIR] [--data DIR] [--weights A,B] [--kernel]
#   slurm/setup_site.sh SITE PROJECT --data /scratch/PROJECT/$USER/faba-drought-phenotyping/data
#
# The module's torch, torchvision, numpy and h5py are never replaced; everything else has the version that the site's
# file of constraints names (slurm/sites/SITE.constraints.txt; for a profile of your own it is made by slurm/constraints.py).
# Your Jupyter configuration is not touched. In Open OnDemand give the environment's folder as "Virtual environment path"
# and choose the kernel "Python 3 (venv)"; --kernel also writes a kernel named faba_nb into the environment itself.
# The notebooks in nbs/90_explore need nothing else: they read slurm/here.sh, and plain ipywidgets of the module's JupyterLab.
# Run again at will. In the end: . slurm/here.sh, which loads the module, activates the environment, and sets the defaults of sbatch.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
say() { echo "setup: $*" >&2; }
die() { say "$*"; exit 2; }
usage() { sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }

[ $# -ge 2 ] || usage
site=$1 account=$2 venv='' data='' weights=dinov2,clip,bioclip,bioclip2 kernel=
shift 2
while [ $# -gt 0 ]; do
    case $1 in
        --kernel) kernel=1; shift; continue ;;
        --venv | --data | --weights) [ $# -ge 2 ] || die "$1 needs a value" ;;
        *) usage ;;
    esac
    case $1 in
        --venv) venv=$2 ;;
        --data) data=$2 ;;
        --weights) weights=$2 ;;
    esac
    shift 2
done
[[ $site == *.toml || $site =~ ^[A-Za-z0-9][A-Za-z0-9_-]*$ ]] || die "SITE is a name of letters, digits, _ and -, or the path of a .toml file, not '$site'"
[[ $account =~ ^[A-Za-z0-9][A-Za-z0-9_-]*$ ]] || die "ACCOUNT is a name of letters, digits, _ and -, not '$account'"
[[ $weights =~ ^[A-Za-z0-9_,.:/-]*$ && $weights != -* ]] || die "--weights takes names with commas between them, not '$weights'"
profile=$root/slurm/sites/$site.toml
[[ $site != *.toml ]] || profile=$(realpath -- "$site")
[ -f "$profile" ] || die "there is no profile $profile; there are: $(cd "$root/slurm/sites" && echo *.toml)"

# a text, or a list, of the profile, before any Python of ours is at hand; a text ends at its quote, a list at its bracket
value() { sed -n -e "s/^$1 *= *\"\([^\"]*\)\".*/\1/p" -e "s/^$1 *= *'\([^']*\)'.*/\1/p" -e "s/^$1 *= *\([0-9-]\{1,\}\).*/\1/p" "$profile" | head -1; }
list() { sed -n -e "s/^$1 *= *\[\([^]]*\)\].*/\1/p" "$profile" | head -1 | tr -d "\"'" | sed 's/ *, */ /g'; }

# a path of the profile, filled in
path() {
    local text
    text=$(value "$1")
    text=${text//'{account}'/"$account"}
    text=${text//'{user}'/"$(id -un)"}
    text=${text//'{machine}'/"$(uname -m)"}
    text=${text//'{repository}'/"$root"}
    echo "$text"
}

closed=$(value closed)
if [ -n "$closed" ] && [[ ! $(date +%F) < $closed ]]; then say "$(value title): $(value notice)"; fi
machine=$(value machine) login=$(value login)
[ -z "$machine" ] || [ "$machine" = "$(uname -m)" ] || die "this is $(uname -m), the jobs run on $machine: log in at ${login:-a login node of that kind}"
read -ra modules <<<"$(list modules)"
for module in ${modules[@]+"${modules[@]}"}; do
    command -v module >/dev/null || die "there is no command \`module\` here to load $module with: use a login shell (bash --login)"
    set +eu # the functions of a module system know nothing of them
    module load "$module" || die "the module $module cannot be loaded; see: module spider ${module%%/*}"
    set -eu
done
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "$(command -v python3 || echo python3) is not Python 3.11 or later"
[ -n "$venv" ] || venv=$(path venv)
venv=$(realpath -sm -- "$venv")

say "environment $venv on top of $(command -v python3)"
[ -x "$venv/bin/python" ] || python3 -m venv --system-site-packages "$venv"
# shellcheck disable=SC1091
. "$venv/bin/activate"

# what the module brings stays as it is; the rest has the versions of the site's file
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
read -ra kept <<<"$(list kept)"
pins=()
for package in ${kept[@]+"${kept[@]}"}; do
    if version=$(python3 -c 'import importlib.metadata as m, sys; print(m.version(sys.argv[1]).split("+")[0])' "$package" 2>/dev/null); then pins+=("$package==$version"); else say "the module has no $package"; fi
done
printf '%s\n' ${pins[@]+"${pins[@]}"} >"$made/kept.txt"
constraints=${profile%.toml}.constraints.txt
if [ ! -f "$constraints" ]; then
    constraints=$made/constraints.txt
    python3 "$root/slurm/constraints.py" "$profile" >"$constraints"
fi
# beside each other, so that no blank or quote of a path is in the way of pip
cp "$constraints" "$made/site.txt"
scratch=$(path scratch)
export PIP_CACHE_DIR=${PIP_CACHE_DIR:-$scratch/pip} HF_HOME=$scratch/weights
mkdir -p "$scratch"
python3 -m pip install --quiet --disable-pip-version-check --constraint "$made/kept.txt" --constraint "$made/site.txt" --editable "$root"

# every import that settings.ini promises, and the module's packages at their versions
python3 "$root/slurm/imports.py" ${pins[@]+"${pins[@]}"}

arguments=("--account=$account" "--venv=$venv")
[ -z "$data" ] || arguments+=("--data=$(realpath -sm -- "$data")")
[[ $site != *.toml ]] || site=$profile
{
    faba sites "${arguments[@]}" -- "$site"
    # shellcheck disable=SC2016
    printf '%s\n' 'for module in $FABA_MODULES; do module load "$module"; done' '. "$FABA_VENV/bin/activate"'
} >"$root/slurm/.here.sh.new"
mv "$root/slurm/.here.sh.new" "$root/slurm/here.sh"
if [ -n "$kernel" ]; then python3 -m ipykernel install --prefix "$venv" --name faba_nb --display-name faba_nb >/dev/null; fi
if [ -n "$weights" ] && [ "$weights" != none ]; then
    say "weights: $weights (a login node has the network, jobs have not)"
    read -ra names <<<"${weights//,/ }"
    HF_HUB_OFFLINE=0 faba fetch "${names[@]}"
fi
say "done. In every login shell: . $(printf %q "$root/slurm/here.sh")"
