"""An experiment of the usual size, three and ten times as large: seconds and memory of every step, and how they grow.

Steps of a study run as a user runs them, on tables alone; what reads features of photographs (768 numbers each) runs
on invented ones. `python tests/bench_scale.py STEP FOLDER GENOTYPES` is one such step, in a process of its own.
"""

import os, subprocess, sys, tempfile, time
from pathlib import Path

TABLES = 'fluor', 'env', 'vi', 'water', 'shape'
STUDY = 'check', 'train', 'evaluate', 'report'
EPOCHS = 2  # enough to see what an epoch costs at either size
FOLDS = 4  # parts of the genotypes in the study on tables, the same number at either size
PARTS = 44  # as many fits at either size, each with more plants
WIDTH = 768  # numbers per photograph
FEWEST = 12  # genotypes that folds can be made of
MOST = 44  # fits of leaving one out that are trained; more are reckoned from these


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


def features_of(folder):
    "A file of invented features beside such tables: four views of every plant on eleven days"
    import numpy as np, pandas as pd
    from faba_nb.backbones.store import write_features

    plants = pd.read_csv(folder / 'plants.csv', dtype=str)[['plant_id']]
    days = pd.DataFrame({'round': range(2, 13)})
    views = pd.DataFrame({'view': ['side_000', 'side_120', 'side_240', 'top']})
    index = plants.merge(days, how='cross').merge(views, how='cross')
    x = np.random.default_rng(0).normal(size=(len(index), WIDTH)).astype(np.float32)
    write_features(folder / 'invented_features.h5', index, x, dict(backbone='invented'))


# ---- steps that have no command of their own, each in a process ----


def bundle(folder, genotypes):
    "Seconds of joining tables to what networks read, and of reading the features of all photographs"
    from faba_nb.backbones.store import FeatureFile
    from faba_nb.core.studies import Arm
    from faba_nb.experiment.experiment_folder import Experiment
    from faba_nb.training.bundle import load_bundle

    begun = time.perf_counter()
    load_bundle(Arm(modalities=('fluor', 'env', 'vi')), Experiment(folder))
    file = FeatureFile(Path(folder) / 'invented_features.h5')
    file.load(file.index)
    return time.perf_counter() - begun


def trained(genotypes, shard=None, **how):
    "One arm from features to predictions, an epoch: seconds a fit"
    from faba_nb.core.studies import study_from
    from faba_nb.testing.example_bundles import invented
    from faba_nb.training.study_training import train_study
    from held_bundles import held

    settings = dict(init_seeds=[42], max_epochs=1, warmup_epochs=0, **how)
    study = study_from(dict(name='growth', defaults=settings, arms={'all_sensors': {}}))
    with held(invented(genotypes, WIDTH)), tempfile.TemporaryDirectory() as out:
        begun = time.perf_counter()
        done = train_study(study, '', '', out, shard=shard)
        return (time.perf_counter() - begun) / done['trained']


def parts(folder, genotypes):
    "Seconds of training in 44 parts"
    return PARTS * trained(genotypes, folds=PARTS)


def one_out(folder, genotypes):
    "Seconds of leaving every genotype out; of many, some fits stand for all"
    return genotypes * trained(genotypes, shard=(1, -(-genotypes // MOST)))


def prefixes(folder, genotypes):
    "Seconds of predicting every plant anew on each day from the days until then, part by part"
    import torch
    from faba_nb.core.studies import Arm
    from faba_nb.testing.example_bundles import invented
    from faba_nb.training.bundle import BatchSource, scaling
    from faba_nb.training.folds import make_folds, members
    from faba_nb.training.network import blueprint, initialise
    from faba_nb.training.protocols import replay

    b, arm = invented(max(FEWEST, genotypes), WIDTH), Arm()
    bp = blueprint(arm, b.widths())
    weights = initialise(bp, [(42, 0)])
    begun = time.perf_counter()
    for fold in make_folds(b.plants, parts=min(PARTS, b.plants.genotype.nunique())):
        m = members(fold, b.plants.genotype)
        source = BatchSource(b, arm, [scaling(b, arm, m['train'])], online=True)
        with torch.no_grad():
            replay(weights, bp, source.batch(torch.tensor(m['test'])[None]))
    return time.perf_counter() - begun


INNER = dict(bundle=bundle, parts=parts, one_out=one_out, prefixes=prefixes)
NAMES = dict(
    parts=f'train, an epoch in {PARTS} parts',
    one_out='train, an epoch, each genotype left out',
    prefixes='predict from prefixes',
)


# ---- seconds and memory of a process ----


def watched(command):
    "Seconds and the highest memory in GB of a command with all its processes, and what it said"
    import psutil

    begun, most = time.perf_counter(), 0
    with tempfile.TemporaryFile() as said:
        run = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        top = psutil.Process(run.pid)
        while run.poll() is None:
            most = max(most, held_by(top))
            time.sleep(0.5)
        said.seek(0)
        text = said.read().decode()
        assert run.returncode == 0, text[-2000:]
    return time.perf_counter() - begun, most / 1e9, text


def held_by(process):
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


def command(step, data, out, genotypes):
    "How one step is run"
    if step in INNER:
        return [sys.executable, __file__, step, data, genotypes]
    faba = [sys.executable, '-m', 'faba_nb']
    if step == 'check':
        return [*faba, 'check', data]
    settings = '--set', f'defaults.max_epochs={EPOCHS}', '--set', f'defaults.folds={FOLDS}'
    study = 'run', 'starter', '--data', data, '--out', out, '--only', step
    return [*faba, *study, *settings]


def measured(data, out, steps, genotypes):
    "Step -> (seconds, GB); a step that counts its own seconds is asked for them"
    found = {}
    for step in steps:
        seconds, most, said = watched([str(a) for a in command(step, data, out, genotypes)])
        if step in INNER:
            seconds = float(said.split()[-1])
        found[step] = seconds, most
        print(f'  {step} of {genotypes} genotypes: {seconds:.1f} s, {most:.2f} GB', flush=True)
    return found


# ---- how they grow ----


def exponent(plants, values):
    "The power of the number of plants with which a value grows, by least squares of logarithms"
    import numpy as np

    return float(np.polyfit(np.log(plants), np.log(values), 1)[0])


def bench(short=False):
    "Rows for `make bench-scale`; the ratio is how much more the largest experiment costs than the usual one"
    from faba_nb.twin.tidy_layout import write_tidy_twin

    genotypes, copies = (4, (1, 2)) if short else (44, (1, 3, 10))
    steps = ('check', 'bundle', 'prefixes') if short else ('bundle', *NAMES, *STUDY)
    before = os.environ.get('FABA_CACHE')
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        os.environ['FABA_CACHE'] = f'{d}/cache'
        write_tidy_twin(d / 'twin', genotypes=genotypes, seed=1, height=32)
        sizes = {}
        for n in reversed(copies):  # what fails at all fails with the largest
            tables_of(d / str(n), d / 'twin', n)
            features_of(d / str(n))
            sizes[n] = measured(d / str(n), d / f'out{n}', steps, genotypes * n)
    os.environ.pop('FABA_CACHE') if before is None else os.environ.update(FABA_CACHE=before)
    plants = [6 * genotypes * n for n in copies]
    found = [sizes[n] for n in copies]
    return [growth(step, i, unit, plants, found) for step in steps for i, unit in enumerate(UNITS)]


UNITS = 's', 'GB'


def growth(step, i, unit, plants, sizes):
    "One row: a step's seconds or memory at all sizes"
    values = [of[step][i] for of in sizes]
    power = exponent(plants, values)
    others = ', '.join(f'{v:.3g} at {n}' for n, v in zip(plants[:-1], values))
    return dict(
        name=f'{NAMES.get(step, step)}, {plants[-1]} plants',
        value=values[-1],
        unit=unit,
        beside=f'{others}; grows with n^{power:.2f}',
        ratio=values[-1] / values[0],
    )


if __name__ == '__main__':
    step, folder, genotypes = sys.argv[1:]
    print(INNER[step](folder, int(genotypes)))
