"""`make bench`: run every tests/bench_*.py but the long ones and print its rows; ratios are what to quote, seconds depend
on the machine. --short: small sizes, to see that all still run, the long ones too
"""

import argparse, importlib.util, sys, time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))


LONG = 'gpu', 'scale'  # asked for by name: `make bench-gpu`, `make bench-scale`


def names():
    "What can be measured"
    return [p.stem.removeprefix('bench_') for p in sorted(HERE.glob('bench_*.py'))]


def rows(name, short):
    "The rows of one benchmark file"
    spec = importlib.util.spec_from_file_location(f'bench_{name}', HERE / f'bench_{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.bench(short)


def line(r):
    "A row as text"
    beside = f"  beside {r['beside']}" if r.get('beside') is not None else ''
    ratio = f"  ratio {r['ratio']:.2f}" if r.get('ratio') is not None else ''
    value = f"{r['value']:.4g}" if isinstance(r['value'], float) else r['value']
    return f"  {r['name']:60} {value} {r.get('unit', '')}{beside}{ratio}"


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument(
        'names', nargs='*', help=f'of {" ".join(names())}; all but {" ".join(LONG)} by default'
    )
    p.add_argument('--short', action='store_true', help='small sizes')
    a = p.parse_args()
    begun = time.time()
    asked = a.names or [n for n in names() if a.short or n not in LONG]
    for name in (n for n in names() if n in asked):
        start = time.time()
        print(f'\n{name}', flush=True)
        for r in rows(name, a.short):
            print(line(r), flush=True)
        print(f'  ({time.time() - start:.0f} s)', flush=True)
    print(
        f'\n{time.time() - begun:.0f} s in all'
        + (' (small sizes: the seconds mean nothing)' if a.short else '')
    )
