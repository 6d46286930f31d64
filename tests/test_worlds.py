"What the pipeline finds in simulated worlds whose truth is known"

import pandas as pd, pytest

pytestmark = pytest.mark.full
STUDY = """name: world
defaults: {backbone: morphology, max_epochs: 30}
arms:
  full: {}
"""
NO_IMAGE = '  no_image: {modalities: [fluor, env, vi]}\n'


def table(tmp_path, faba, world, more=''):
    "What is left of a statistic when onsets are permuted, for every arm and protocol"
    (tmp_path / 'world.yaml').write_text(STUDY + more)
    for args in (
        (
            'twin',
            tmp_path / 'data',
            '--genotypes',
            12,
            '--seed',
            1,
            '--height',
            128,
            '--world',
            world,
        ),
        (
            'run',
            tmp_path / 'world.yaml',
            '--data',
            tmp_path / 'data',
            '--out',
            tmp_path / 'out',
            '--only',
            'features,train,evaluate',
        ),
    ):
        done = faba(*args)
        assert done.returncode == 0, done.stderr
    t = (
        pd.read_csv(tmp_path / 'out' / 'tables' / 'permutation.csv')
        .query("kind == 'arm'")
        .set_index(['arm', 'protocol', 'statistic'])
    )
    arms = t.index.unique('arm')
    assert t.draws.min() >= 1000 and len(t) == len(arms) * 2 * 3
    return t


def test_onsets_that_mean_nothing_are_not_found(tmp_path, faba):
    "Onsets permuted over genotypes: neither the order of alarms nor skill is claimed"
    # fits that leave out one of 12 lean against it, so both may lie below chance, never above
    t = table(tmp_path, faba, 'permuted', NO_IMAGE).loc(axis=0)[:, :, ['concordance', 'mae_skill']]
    assert (t.value <= t.null_high).all() and t.p.min() > 0.05, t


def test_onsets_that_can_be_seen_are_found(tmp_path, faba):
    "Stress that follows the onset: within a day, stressed drought plants score above those that are not yet"
    t = table(tmp_path, faba, 'onset').loc(axis=0)[
        'full', 'retrospective', 'auc_within_day_drought'
    ]
    assert t.value > max(0.5, t.null_high) and t.p < 0.05, t
