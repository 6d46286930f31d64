"""The versions that an environment on top of a site's module gets: those of constraints.txt, less what the module brings.

    python3 slurm/constraints.py PROFILE        prints them for one profile
    python3 slurm/constraints.py                writes slurm/sites/NAME.constraints.txt for every profile in slurm/sites

Run before there is an environment, so it needs nothing but Python 3.11.
"""

import re, sys, tomllib
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def normal(name):
    "The name of a package as registries compare it"
    return re.sub(r'[-_.]+', '-', name).lower()


def left_out(profile):
    "Patterns of the packages that the module brings: those it keeps, and those that come with them"
    return [normal(n) for n in (*profile.get('kept', ()), *profile.get('brought', ()))]


def constraints(profile):
    "The lines of constraints.txt that hold on this site"
    brought = left_out(profile)
    for line in (ROOT / 'constraints.txt').read_text(encoding='utf-8').splitlines():
        name = normal(line.partition('==')[0].strip())
        if line.startswith('#') or any(fnmatch(name, p) for p in brought):
            continue
        yield line


def text(path):
    "What stands in the file of constraints beside a profile"
    profile = tomllib.loads(Path(path).read_text(encoding='utf-8'))
    head = '# made by slurm/constraints.py from constraints.txt, without what the site\'s module brings (kept and brought in its profile)\n'
    return head + ''.join(f'{line}\n' for line in constraints(profile))


def main():
    "Print one, or write all"
    if sys.argv[1:]:
        print(text(sys.argv[1]), end='')
        return
    for p in sorted((ROOT / 'slurm' / 'sites').glob('*.toml')):
        p.with_suffix('.constraints.txt').write_text(text(p), encoding='utf-8')


if __name__ == '__main__':
    main()
