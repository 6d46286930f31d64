#!/bin/bash
# Once per site, on a login node: an environment on top of the site's module, weights in the cache, defaults for sbatch.
#
#   slurm/setup_site.sh SITE ACCOUNT [--venv DIR] [--data DIR] [--weights A,B] [--kernel]
#   slurm/setup_site.sh SITE PROJECT --data /scratch/PROJECT/$USER/faba-drought-phenotyping/data
#
# The module's torch, torchvision, numpy and h5py are never replaced: a constraints file holds them where they are.
# Your Jupyter configuration is not touched. In Open OnDemand give the environment's folder as "Virtual environment path"
# and choose the kernel "Python 3 (venv)"; --kernel also writes a kernel named faba_nb into the environment itself.
# The notebooks in nbs/90_explore need nothing else: they read slurm/here.sh, and plain ipywidgets of the module's JupyterLab.
# Run again at will. In the end: . slurm/here.sh, which loads the module, activates the environment, and sets the defaults of sbatch.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
say() { echo "setup: $*" >&2; }
die() { say "$*"; exit 2; }
usage() { sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }

[ $# -ge 2 ] || usage
site=$1 account=$2 venv='' data='' weights=dinov2,clip,bioclip,bioclip2 kernel=
shift 2
while [ $# -gt 0 ]; do
    case $1 in
        --venv) venv=$2; shift 2 ;;
        --data) data=$2; shift 2 ;;
        --weights) weights=$2; shift 2 ;;
        --kernel) kernel=1; shift ;;
        *) usage ;;
    esac
done
profile=$site
[ -f "$profile" ] || profile=$root/slurm/sites/$site.toml
[ -f "$profile" ] || die "there is no profile $profile; there are: $(cd "$root/slurm/sites" && echo *.toml)"

# a list or a text of the profile, before any Python of ours is at hand
value() { sed -n "s/^$1 *= *\[\{0,1\}\([^]#]*\).*/\1/p" "$profile" | tr -d '"' | tr ',' ' ' | sed 's/ *$//'; }

machine=$(value machine)
[ -z "$machine" ] || [ "$machine" = "$(uname -m)" ] || die "this is $(uname -m), the jobs run on $machine: log in at the other part of the site"
for module in $(value modules); do module load "$module"; done
if [ -z "$venv" ]; then
    venv=$(value venv)
    venv=${venv//\{account\}/$account}
    venv=${venv//\{user\}/$(id -un)}
    venv=${venv//\{machine\}/$(uname -m)}
    venv=${venv//\{repository\}/$root}
fi

say "environment $venv on top of $(command -v python3)"
[ -x "$venv/bin/python" ] || python3 -m venv --system-site-packages "$venv"
# shellcheck disable=SC1091
. "$venv/bin/activate"

# what the module brings stays as it is
kept=$(mktemp)
trap 'rm -f "$kept"' EXIT
for package in $(value kept); do
    python3 -c "import importlib.metadata as m; print('$package==' + m.version('$package').split('+')[0])" 2>/dev/null || say "the module has no $package"
done >"$kept"
before=$(cat "$kept")
scratch=$(value scratch)
scratch=${scratch//\{account\}/$account}
scratch=${scratch//\{user\}/$(id -un)}
scratch=${scratch//\{repository\}/$root}
export PIP_CACHE_DIR=${PIP_CACHE_DIR:-$scratch/pip} HF_HOME=$scratch/weights
mkdir -p "$scratch"
pip install --quiet --disable-pip-version-check --constraint "$kept" --editable "$root"

# every import that a job needs, and the module's packages at their versions
python3 - "$before" <<'END'
import importlib, importlib.metadata as m, sys
for line in sys.argv[1].split():
    name, _, version = line.partition('==')
    assert m.version(name).split('+')[0] == version, f'{name} was replaced: {m.version(name)} instead of {version}'
for name in ('torch', 'torchvision', 'numpy', 'h5py', 'pandas', 'openpyxl', 'pandera', 'open_clip', 'timm', 'sklearn', 'scipy', 'statsmodels', 'skimage', 'pyvips',
             'matplotlib', 'papermill', 'nbclient', 'ipykernel', 'ipywidgets', 'jupyterlab_widgets', 'rich', 'yaml', 'safetensors', 'faba_nb.running.cli', 'faba_nb.training.running', 'faba_nb.exploring.plants'):
    importlib.import_module(name)
print('setup: every import works; torch', m.version('torch'), file=sys.stderr)
END

arguments=(--account "$account" --venv "$venv")
[ -z "$data" ] || arguments+=(--data "$data")
{
    faba sites "$site" "${arguments[@]}"
    # shellcheck disable=SC2016
    printf '%s\n' 'for module in $FABA_MODULES; do module load "$module"; done' '. "$FABA_VENV/bin/activate"'
} >"$root/slurm/.here.sh.new"
mv "$root/slurm/.here.sh.new" "$root/slurm/here.sh"
if [ -n "$kernel" ]; then python3 -m ipykernel install --prefix "$venv" --name faba_nb --display-name faba_nb >/dev/null; fi
if [ -n "$weights" ] && [ "$weights" != none ]; then
    say "weights: $weights (a login node has the network, jobs have not)"
    # shellcheck disable=SC2086
    HF_HUB_OFFLINE=0 faba fetch ${weights//,/ }
fi
say "done. In every login shell: . $root/slurm/here.sh"
