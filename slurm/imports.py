"""Can everything be imported that settings.ini requires, and is what the module brought still the module's?

    python3 slurm/imports.py [PACKAGE==VERSION …]

The packages named must have these versions. One line for each fault; exit code 1 when there is one.
"""

import importlib, importlib.metadata as metadata, importlib.util, re, sys
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OURS = (
    'faba_nb.running.cli',
    'faba_nb.running.pipeline',
    'faba_nb.training.study_training',
    'faba_nb.evaluation.evaluating',
    'faba_nb.reporting.rendering',
    'faba_nb.exploring.plants_explorer',
)


def normal(name):
    "The name of a package as registries compare it"
    return re.sub(r'[-_.]+', '-', name).lower()


def required():
    "Names of the packages that settings.ini requires"
    ini = ConfigParser(delimiters=['='])
    ini.read(ROOT / 'settings.ini', encoding='utf-8')
    return [re.match(r'[\w.-]+', r)[0] for r in ini['DEFAULT']['requirements'].split()]


def modules():
    "Package to the names that it is imported by"
    found = {}
    for name, packages in metadata.packages_distributions().items():
        for p in packages:
            found.setdefault(normal(p), []).append(name)
    return found


def import_names(package, found):
    "What to import of an installed package; [] when it is only data or a library"
    names = sorted(n for n in found.get(normal(package), ()) if not n.startswith('_'))
    return [n for n in names if importlib.util.find_spec(n)]


def fault(name):
    "Why a module cannot be imported, or None"
    try:
        importlib.import_module(name)
    except Exception as e:
        return f'{name} cannot be imported: {" ".join(f"{type(e).__name__}: {e}".split())}'


def missing(package):
    "A line when a package is not installed"
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return f'{package} is required by settings.ini and not installed'


def replaced(pin):
    "A line when a package of the module is there in another version"
    name, _, version = pin.partition('==')
    now = metadata.version(name).split('+')[0]
    if now != version:
        return f'{name} was replaced: {now} instead of the module\'s {version}'


def faults(pins):
    "All lines"
    found, packages = modules(), required()
    yield from map(replaced, pins)
    yield from map(missing, packages)
    for p in packages:
        yield from map(fault, import_names(p, found))
    yield from map(fault, OURS)


if __name__ == '__main__':
    lines = [f for f in faults(sys.argv[1:]) if f]
    for line in lines:
        print(f'setup: {line}', file=sys.stderr)
    if lines:
        sys.exit(1)
    print(f'setup: every import works; torch {metadata.version("torch")}', file=sys.stderr)
