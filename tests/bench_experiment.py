"Reading the experiment: first time, from the cache, and beside what pandas does with openpyxl"

import os, tempfile, time
from pathlib import Path


def clock(f):
    "Seconds that `f` takes"
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def read_everything(folder):
    "Every table that an arm could ask for"
    from faba_nb.experiment.experiment_folder import Experiment

    xp = Experiment(folder)
    for name in (
        'plants',
        'measured',
        'fluor',
        'vi',
        'env',
        'env_daily',
        'water',
        'shape',
        'fingerprint',
    ):
        getattr(xp, name)


def bench(short=False):
    "Rows for `make bench`"
    import pandas as pd
    from faba_nb.experiment.raw_tree import check
    from faba_nb.twin.writing import write_twin

    before = os.environ.get('FABA_CACHE')
    with tempfile.TemporaryDirectory() as d:
        os.environ['FABA_CACHE'] = f'{d}/cache'
        folder = Path(d) / 'twin'
        write_twin(folder, genotypes=2 if short else 44, seed=1, height=32)
        cold, warm = clock(lambda: read_everything(folder)), clock(lambda: read_everything(folder))
        checked = clock(lambda: check(folder).text())
        log = folder / 'TimeCourse Datasets' / 'EnvData_FabaDr.xlsx'
        ours, theirs = (
            clock(lambda: pd.read_excel(log, engine='calamine')),
            clock(lambda: pd.read_excel(log, engine='openpyxl')),
        )
    os.environ.pop('FABA_CACHE') if before is None else os.environ.update(FABA_CACHE=before)
    return [
        dict(
            name=f'all tables of {6 * (2 if short else 44)} plants, first time',
            value=cold,
            unit='s',
            beside=None,
            ratio=None,
        ),
        dict(
            name=f'all tables of {6 * (2 if short else 44)} plants, from the cache',
            value=warm,
            unit='s',
            beside=f'{cold:.2f} s the first time',
            ratio=cold / warm,
        ),
        dict(
            name='faba check' + ('' if short else ', 11 626 photographs'),
            value=checked,
            unit='s',
            beside=None,
            ratio=None,
        ),
        dict(
            name='climate log, 50 798 rows',
            value=ours,
            unit='s',
            beside=f'{theirs:.2f} s with openpyxl',
            ratio=theirs / ours,
        ),
    ]


if __name__ == '__main__':
    for row in bench():
        print(row)
