"Permutations and bootstrap of a full-size comparison, and everything about one arm"

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
        return rows
    wall, _, _ = seconds(information, models[0])
    rows.append(dict(name='10 000 permutations of onsets, three statistics', value=wall, unit='s'))
    clocks = {y.arm: y for y in information_free(models[0])}
    wall, cpu, _ = seconds(evaluate_scores, models[0], None, clocks, resampler_maker(10_000, 0))
    return rows + [
        dict(name='everything about one arm in one reading, 10 000 draws', value=wall, unit='s'),
        dict(name='  of CPU', value=cpu, unit='s'),
    ]
