"A study on tables alone, of the usual size, three and ten times as large: seconds and memory of every step, and how they grow"

import os, subprocess, sys, tempfile, time
from pathlib import Path

TABLES = 'fluor', 'env', 'vi', 'water', 'shape'
STEPS = 'check', 'train', 'evaluate', 'report'
EPOCHS = 2  # enough to see what an epoch costs at either size
FOLDS = 4  # parts of the genotypes, the same number at either size


def tables_of(folder, twin, copies):
    "A tidy experiment without photographs in which every plant of a twin stands `copies` times, each copy a genotype of its own"
    import numpy as np, pandas as pd

    folder.mkdir()
    rng = np.random.default_rng(0)
    renamed = lambda t, i: t.assign(plant_id=t.plant_id + f'_{i}') if i else t
    for name in ('plants', *TABLES):
        t = pd.read_csv(twin / f'{name}.csv', dtype={'plant_id': str})
        if 'plant_id' in t:
            t = pd.concat([renamed(t, i).assign(copy=i) for i in range(copies)], ignore_index=True)
        if name == 'plants':
            t['genotype'] += np.where(t['copy'] > 0, '_' + t['copy'].astype(str), '')
        else:
            values = t.columns.difference(['plant_id', 'round', 'day', 'copy'])
            t[values] *= 1 + 0.02 * rng.standard_normal(t[values].shape)
        t.drop(columns='copy', errors='ignore').to_csv(folder / f'{name}.csv', index=False)
    described = (twin / 'experiment.yaml').read_text().splitlines(keepends=True)
    text = ''.join(line for line in described if not line.startswith('images:'))
    (folder / 'experiment.yaml').write_text(text)


def watched(*args):
    "Seconds and the highest memory in GB of a command with all its processes"
    import psutil

    begun, most = time.perf_counter(), 0
    with tempfile.TemporaryFile() as said:
        command = [sys.executable, '-m', 'faba_nb', *map(str, args)]
        run = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        top = psutil.Process(run.pid)
        while run.poll() is None:
            most = max(most, held(top))
            time.sleep(0.5)
        said.seek(0)
        assert run.returncode == 0, said.read().decode()[-2000:]
    return time.perf_counter() - begun, most / 1e9


def held(process):
    "Bytes that a process and its children hold, what they share counted once"
    import psutil

    held = 0
    for p in [process, *children(process)]:
        try:
            held += p.memory_full_info().pss
        except psutil.Error:  # it has just ended
            pass
    return held


def children(process):
    "The processes below one; none when it has just ended"
    import psutil

    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def measured(data, out, steps):
    "Step -> (seconds, GB)"
    found = {}
    for step in steps:
        if step == 'check':
            found[step] = watched('check', data)
        else:
            settings = '--set', f'defaults.max_epochs={EPOCHS}', '--set', f'defaults.folds={FOLDS}'
            found[step] = watched(
                'run', 'starter', '--data', data, '--out', out, '--only', step, *settings
            )
    return found


def exponent(plants, values):
    "The power of the number of plants with which a value grows, by least squares of logarithms"
    import numpy as np

    return float(np.polyfit(np.log(plants), np.log(values), 1)[0])


def bench(short=False):
    "Rows for `make bench-scale`; the ratio is how much more the largest experiment costs than the usual one"
    from faba_nb.twin.tidy_layout import write_tidy_twin

    genotypes, copies = (4, (1, 2)) if short else (44, (1, 3, 10))
    steps = STEPS[:1] if short else STEPS
    before = os.environ.get('FABA_CACHE')
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        os.environ['FABA_CACHE'] = f'{d}/cache'
        write_tidy_twin(d / 'twin', genotypes=genotypes, seed=1, height=32)
        sizes = []
        for n in copies:
            tables_of(d / str(n), d / 'twin', n)
            sizes.append(measured(d / str(n), d / f'out{n}', steps))
    os.environ.pop('FABA_CACHE') if before is None else os.environ.update(FABA_CACHE=before)
    plants = [6 * genotypes * n for n in copies]
    return [growth(step, i, unit, plants, sizes) for step in steps for i, unit in enumerate(UNITS)]


UNITS = 's', 'GB'


def growth(step, i, unit, plants, sizes):
    "One row: a step's seconds or memory at all sizes"
    values = [of[step][i] for of in sizes]
    power = exponent(plants, values)
    others = ', '.join(f'{v:.3g} at {n}' for n, v in zip(plants[:-1], values))
    return dict(
        name=f'{step}, {plants[-1]} plants',
        value=values[-1],
        unit=unit,
        beside=f'{others}; grows with n^{power:.2f}',
        ratio=values[-1] / values[0],
    )
