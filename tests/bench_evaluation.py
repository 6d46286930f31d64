"Permutations and bootstrap of a full-size comparison, everything about one arm, and its growth"

import json
import resource
import subprocess
import sys
import time

import numpy as np


def full_size(arms=4, runs=3, seed=0):
    "Arms on the experiment's calendar: 44 genotypes, 3 runs, about 2 907 steps each"
    from faba_nb.evaluation.predictions import scores
    from faba_nb.testing.example_predictions import real_onsets, toy_predictions, toy_steps

    steps = toy_steps(44, onsets=real_onsets)
    return [
        scores(
            toy_predictions(
                steps, 0.3, 1.0, init_seeds=tuple(range(runs)), validation=3, seed=seed + i
            ),
            arm=f'arm {i}',
        )
        for i in range(arms)
    ]


def entry(s):
    from faba_nb.evaluation.comparing import Entry
    from faba_nb.evaluation.metrics import fold_values

    return Entry(
        s.arm, fold_values(s), {k: c for k, c in s.counts().items() if k != 'tn'}, list(s.genotypes)
    )


def seconds(f, *args, **kwargs):
    "Wall and CPU seconds of a call, and its result"
    wall, cpu = time.perf_counter(), time.process_time()
    out = f(*args, **kwargs)
    return time.perf_counter() - wall, time.process_time() - cpu, out


def by_loops(a, b, draws):
    "The bootstrap of one pair's mean and pooled F1 as a loop over draws"
    rng, (R, G) = np.random.default_rng(0), a.values['f1'].shape
    for _ in range(draws):
        g = rng.integers(0, G, G)
        r = rng.integers(0, R, (R, G))
        np.mean(a.values['f1'][r, g]) - np.mean(b.values['f1'][r, g])
        pooled = [
            np.mean(
                2
                * e.counts['tp'][r, g].sum(1)
                / (2 * e.counts['tp'][r, g] + e.counts['fp'][r, g] + e.counts['fn'][r, g]).sum(1)
            )
            for e in (a, b)
        ]
        pooled[0] - pooled[1]


def in_parts(genotypes):
    "An online arm of two runs whose genotypes were left out in at most 44 parts"
    import pandas as pd

    from faba_nb.evaluation.predictions import check_predictions, scores
    from faba_nb.testing.example_predictions import toy_logits, toy_steps

    steps = toy_steps(genotypes)
    part = {g: i % 44 for i, g in enumerate(steps.genotype.unique())}
    about = dict(protocol='online', split='test', split_seed=42, fold=steps.genotype.map(part))
    rng = np.random.default_rng(0)
    runs = []
    for seed in range(2):
        z = toy_logits(steps, 0.3) + rng.normal(0, 1, len(steps))
        runs.append(steps.assign(**about, init_seed=seed, probability=1 / (1 + np.exp(-z))))
    return scores(check_predictions(pd.concat(runs, ignore_index=True)), 'online', 'toy')


def one_size(genotypes, draws):
    "CPU seconds of everything about one arm, and the most memory this process had (MB)"
    from faba_nb.evaluation.evaluating import evaluate_scores, resampler_maker
    from faba_nb.evaluation.information_free import information_free

    s = in_parts(genotypes)
    clocks = {y.arm: y for y in information_free(s)}
    _, cpu, _ = seconds(evaluate_scores, s, None, clocks, resampler_maker(draws, 0))
    return cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def growth(sizes, draws):
    "The same at several sizes, each in a process of its own, and the exponents"
    rows, found = [], []
    for n in sizes:
        command = [sys.executable, __file__, str(n), str(draws)]
        said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        cpu, peak = json.loads(said.splitlines()[-1])
        found.append((n, cpu, peak))
        name = f'everything about one arm, {n} genotypes, {6 * n} plants, {draws} draws'
        rows.append(dict(name=name, value=cpu, unit=f's of CPU, {peak:.0f} MB'))
    n, cpu, peak = np.log(np.array(found)).T
    for what, x in [('seconds', cpu), ('memory', peak)]:
        name = f'  exponent of the {what} from {sizes[0]} to {sizes[-1]} genotypes'
        rows.append(dict(name=name, value=float(np.polyfit(n, x, 1)[0]), beside='1 is linear'))
    return rows


def bench(short=False):
    from faba_nb.evaluation.comparing import contrasts, decide
    from faba_nb.evaluation.evaluating import evaluate_scores, resampler_maker
    from faba_nb.evaluation.information import information
    from faba_nb.evaluation.information_free import information_free

    draws = 500 if short else 10_000
    made, cpu, models = seconds(full_size, **(dict(arms=2, runs=1) if short else {}))
    n = len(models[0].y)
    entries = [entry(s) for s in models]
    wall, cpu, t = seconds(lambda: decide(contrasts(entries, [('arm 1', 'arm 0')], draws=draws)))
    pairs = len(t.query("metric == 'f1'"))
    assert pairs == (1 if short else 6)
    loop, _, _ = seconds(by_loops, *entries[:2], 50 if short else 500)
    rows = [
        dict(
            name=f'{draws} permutations and bootstrap draws, {pairs} pairs, 4 metrics, 44 x {1 if short else 3} x {n}',
            value=wall,
            unit='s',
            beside='60 s asked',
        ),
        dict(name='  of CPU', value=cpu, unit='s'),
        dict(
            name='  the same bootstrap of F1 and pooled F1 alone as a loop over draws',
            value=loop * (draws / (50 if short else 500)) * pairs,
            unit='s (from some draws of one pair)',
            ratio=loop * (draws / (50 if short else 500)) * pairs / wall,
        ),
    ]
    if short:
        return rows + growth((12, 24), 200)
    wall, _, _ = seconds(information, models[0])
    rows.append(dict(name='10 000 permutations of onsets, three statistics', value=wall, unit='s'))
    clocks = {y.arm: y for y in information_free(models[0])}
    wall, cpu, _ = seconds(evaluate_scores, models[0], None, clocks, resampler_maker(10_000, 0))
    return rows + [
        dict(name='everything about one arm in one reading, 10 000 draws', value=wall, unit='s'),
        dict(name='  of CPU', value=cpu, unit='s'),
        *growth((44, 132, 440), 10_000),
    ]


if __name__ == '__main__':
    print(json.dumps(one_size(*map(int, sys.argv[1:]))))
