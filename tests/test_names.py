"No number of an evaluation depends on how plants and genotypes are called, or on the order of rows"

import numpy as np
import pandas as pd
import pytest

from faba_nb.core.files import read_csv, write_csv
from faba_nb.core.study_folder import StudyFolder
from faba_nb.evaluation.evaluating import evaluate_study
from faba_nb.evaluation.other_systems import bring
from faba_nb.testing.example_predictions import toy_predictions, toy_steps

SPLITS = ('test', 'validation')
ROLES = {'WHC-30': 'stress', 'WHC-80': 'control'}


def predictions(genotypes=9):
    "Two arms under both protocols, with ties: probabilities of two decimals"
    steps = toy_steps(genotypes, seed=3)
    parts = []
    for arm, skill, seed in (('good', 0.6, 1), ('fair', 0.3, 2)):
        for protocol in ('retrospective', 'online'):
            made = toy_predictions(steps, skill, protocol=protocol, seed=seed)
            parts.append(made[made.split.isin(SPLITS)].assign(arm=arm))
    table = pd.concat(parts, ignore_index=True)
    table['probability'] = table.probability.round(2)
    return table.assign(role=table.treatment.map(ROLES))


def renamed(table, seed=5):
    "Other names in another order, and the rows shuffled"
    rng = np.random.default_rng(seed)
    names = {}
    for column, letter in (('genotype', 'K'), ('plant_id', 'Q')):
        old = table[column].unique()
        names[column] = dict(zip(old, (f'{letter}{i:03d}' for i in rng.permutation(len(old)))))
    other = table.assign(**{c: table[c].map(m) for c, m in names.items()})
    return other.sample(frac=1, random_state=seed), names


def evaluated(table, folder):
    "All tables of a study made of these predictions"
    source = folder / 'system.csv'
    folder.mkdir()
    write_csv(table, source)
    bring(source, folder / 'out')
    evaluate_study(folder / 'out', draws=300)
    paths = StudyFolder(folder / 'out').all_tables()
    return {p.stem: read_csv(p, dtype={'genotype': str, 'plant_id': str}) for p in paths}


def sorted_rows(table):
    "Rows in an order that follows from what they say, numbers that are one number written alike"
    table = table.copy()
    for c in table.select_dtypes('number'):
        table[c] = table[c].map(lambda x: float(f'{x:.9g}'))
    return table.sort_values(sorted(table), ignore_index=True)[sorted(table)]


@pytest.fixture(scope='module')
def both(tmp_path_factory):
    "The tables of one study, and of the same under other names, called by the first names again"
    folder, table = tmp_path_factory.mktemp('names'), predictions()
    other, names = renamed(table)
    first, second = evaluated(table, folder / 'a'), evaluated(other, folder / 'b')
    for t in second.values():
        for column, new in names.items():
            if column in t:
                t[column] = t[column].map({v: k for k, v in new.items()}).fillna(t[column])
    return first, second


def test_all_tables_are_equal_but_for_the_names(both):
    "Estimates, intervals, tests and alarms"
    first, second = both
    assert list(first) == list(second) and len(first) > 12
    wrong = {}
    for name in first:
        a, b = sorted_rows(first[name]), sorted_rows(second[name])
        try:
            pd.testing.assert_frame_equal(a, b, rtol=1e-7, atol=1e-9)
        except AssertionError as e:
            wrong[name] = str(e)[:300]
    assert not wrong, '\n'.join(f'{k}: {v}' for k, v in wrong.items())


def test_the_names_were_really_others(both, tmp_path):
    "The order of genotypes and of plants in the files differs"
    table = predictions()
    other, names = renamed(table)
    for column, new in names.items():
        assert sorted(new, key=new.get) != sorted(new)
        assert set(other[column]).isdisjoint(table[column])
