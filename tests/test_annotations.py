"Answers of raters: written once each, read with every fault named; agreement and onsets where the truth is known"

import json, os, signal, subprocess, sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

from faba_nb.core.errors import BadInput
from faba_nb.evaluation.agreement import agreement_table, alpha_of, alpha_sums, kappa_of, kappa_sums
from faba_nb.evaluation.label_uncertainty import rubin
from faba_nb.experiment.annotations import add_annotation, left_of, plan_of, read_annotations
from faba_nb.experiment.onset_sets import consensus, imputed
from faba_nb.running.cli import main
from faba_nb.testing.example_annotations import Eye, toy_annotations, toy_plants
from faba_nb.twin.raters import seen_days


ROOT = Path(__file__).resolve().parent.parent
PLANTS = pd.DataFrame(
    {
        'plant_id': [f'24_FabaDr_{i:03d}' for i in range(1, 13)],
        'treatment': ['WHC-30', 'WHC-80'] * 6,
    }
)
GIVEN = dict(session='1', mode='whole', answer='onset', low_dag=20, high_dag=23, confidence=2)
GIVEN |= dict(seconds=4.0, shown='0123456789abcdef')

# a rater who answers what is left, in order, and tells after each answer that it is kept
RATER = """
import json, sys
import pandas as pd
from faba_nb.experiment.annotations import add_annotation, left_of, plan_of, read_annotations
folder, name = sys.argv[1:3]
plants, given = map(json.loads, sys.argv[3:])
for row in left_of(plan_of(name, pd.DataFrame(plants)), read_annotations(folder), name).itertuples():
    add_annotation(folder, given | dict(rater=name, order=row.order, plant_id=row.plant_id))
    print(row.order, flush=True)
"""


def rater(folder, name):
    "A process in which somebody answers"
    known = [json.dumps(PLANTS.to_dict('list')), json.dumps(GIVEN)]
    command = [sys.executable, '-c', RATER, str(folder), name, *known]
    env = {
        **os.environ,
        'PYTHONPATH': os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]),
    }
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)


def test_two_raters_at_once_one_of_them_killed(tmp_path):
    "Each answer is there once, and what was told as kept is kept"
    ada, eero = rater(tmp_path, 'Ada'), rater(tmp_path, 'Eero')
    for line in ada.stdout:
        if int(line) == 4:
            break
    ada.send_signal(signal.SIGKILL)
    ada.wait()
    assert eero.wait(60) == 0
    kept = read_annotations(tmp_path, PLANTS.plant_id).query('rater == "Ada"')
    assert set(kept.order) >= {1, 2, 3, 4}
    again = rater(tmp_path, 'Ada')
    assert again.wait(60) == 0
    said = read_annotations(tmp_path, PLANTS.plant_id)
    planned = {(n, o, p) for n in ['Ada', 'Eero'] for o, p in plan_of(n, PLANTS).values}
    assert Counter(zip(said.rater, said.order, said.plant_id)) == Counter(planned)
    assert left_of(plan_of('Ada', PLANTS), said, 'Ada').empty


def test_a_file_that_cannot_be_understood_is_not_written_over(tmp_path):
    "The line, the cell and the remedy are named; the bytes stay"
    answer = GIVEN | dict(rater='Ada', order=1, plant_id='24_FabaDr_001')
    assert add_annotation(tmp_path, answer)
    path = tmp_path / 'annotations.csv'
    broken = path.read_text().replace('whole', 'half')
    path.write_text(broken)
    with pytest.raises(BadInput, match="annotations.csv, line 2: mode is 'half'; known: whole"):
        add_annotation(tmp_path, answer | dict(order=2))
    assert path.read_text() == broken


def test_lines_are_added_and_never_changed(tmp_path):
    "What stood in the file stands in it afterwards, byte for byte, before what is new"
    before = b''
    for i in range(1, 6):
        add_annotation(tmp_path, GIVEN | dict(rater='=Ada', order=i, plant_id=f'plant {i}'))
        now = (tmp_path / 'annotations.csv').read_bytes()
        assert now.startswith(before) and len(now) > len(before)
        before = now
    assert set(read_annotations(tmp_path).rater) == {'=Ada'}


@pytest.mark.parametrize('seed', range(5))
def test_alpha_beside_the_library(seed):
    "Krippendorff's alpha with gaps, three raters"
    library = pytest.importorskip('krippendorff', reason='krippendorff is not installed')
    random = np.random.default_rng(seed)
    day = random.choice([3.5, 6, 8.5, 12, 19], (3, 40)) + random.choice([0, 1.5], (3, 40))
    day[random.random(day.shape) < 0.3] = np.nan
    theirs = library.alpha(reliability_data=day, level_of_measurement='interval')
    assert alpha_of(alpha_sums(day).sum(0)) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize('seed', range(5))
def test_kappa_beside_scikit_learn(seed):
    "Linear weights, four classes, some pairs of which are absent"
    kind = np.random.default_rng(seed).integers(0, 4 - seed % 2, (2, 50))
    theirs = cohen_kappa_score(*kind, labels=range(4), weights='linear')
    assert kappa_of(kappa_sums(kind).sum(0)) == pytest.approx(theirs, abs=1e-12)


EYES = [Eye('Ada', 0.0, 1.0), Eye('Eero', 2.0, 2.5), Eye('Ines', -1.0, 1.5)]
PLANTED = {('Ada', 'Eero'): 2.0, ('Ada', 'Ines'): -1.0, ('Eero', 'Ines'): -3.0}


def between_raters(genotypes, seed, draws):
    "Agreement of pairs of raters, by pair and statistic"
    plants = toy_plants(genotypes, seed=seed)
    said = toy_annotations(plants, EYES, seed=seed)
    table = agreement_table(said, plants, draws, seed).query('comparison == "between raters"')
    return table.set_index(['rater_a', 'rater_b', 'statistic'])


def test_intervals_hold_the_agreement_that_was_planted():
    "Of very many genotypes it is known; 95 % intervals of 44 hold it about as often as they say"
    truth = between_raters(1000, 999, 10).value
    for pair, bias in PLANTED.items():
        assert truth[*pair, 'mean_difference'] == pytest.approx(bias, abs=0.15)
    held = []
    for seed in range(40):
        found = between_raters(44, seed, 400)
        held.append((found.low <= truth[found.index]) & (truth[found.index] <= found.high))
    share = pd.concat(held, axis=1).mean(1)
    assert share.mean() >= 0.88 and share.min() >= 0.75, share


def test_consensus_holds_the_true_onsets():
    "Its intervals do so as often as they say, and it is nearer than the best rater freed of bias"
    shared = np.mean([e.bias for e in EYES])
    held, off, alone = [], [], []
    for seed in range(5):
        plants = toy_plants(seed=seed)
        said = toy_annotations(plants, EYES, seed=seed)
        truth = plants.set_index('plant_id').onset.dropna()
        found = consensus(said).set_index('plant_id').reindex(truth.index).dropna()
        true = truth[found.index] + shared
        held.append(((found.low <= true) & (true <= found.high)).mean())
        off.append((found.onset_dag - true).abs().mean())
        ada = said.query('rater == "Ada" and answer == "onset"').drop_duplicates('plant_id')
        day = ada.set_index('plant_id')[['low_dag', 'high_dag']].mean(axis=1)
        alone.append((day - truth).dropna().abs().mean())
    assert 0.92 <= np.mean(held) <= 0.99
    assert np.mean(off) < 0.9 * np.mean(alone)


def test_imputed_sets_carry_what_raters_do_not_know():
    "With Rubin's rules the mean onset is held as said; from one rater's label alone it is not"
    held, alone, share = [], [], []
    for seed in range(40):
        plants = toy_plants(spread=2.0, seed=seed)
        biases = np.random.default_rng(seed).normal(0, 1, 4)
        said = toy_annotations(
            plants, [Eye(f'rater {i}', b) for i, b in enumerate(biases)], seed=seed
        )
        sets = imputed(said, 8, seed).merge(plants, on='plant_id').query('treatment == "WHC-30"')
        means = sets.groupby(['set', 'genotype']).onset_dag.mean().unstack()
        estimates, variances = means.mean(axis=1), means.var(axis=1) / 44
        result = rubin(estimates, variances, 43)
        low, high = result.interval()
        held.append(low <= 23 <= high)
        alone.append(abs(estimates.iloc[0] - 23) <= 2 * np.sqrt(variances.iloc[0]))
        share.append(result.label_share)
    assert np.mean(held) >= 0.9 > 0.7 > np.mean(alone)
    assert np.median(share) > 0.5


# ---- simulated raters ----


@pytest.fixture(scope='module')
def rated(tmp_path_factory):
    "A small twin in the built-in layout that three simulated raters have rated"
    folder = tmp_path_factory.mktemp('rated') / 'twin'
    size = ['--genotypes', '6', '--height', '32', '--workers', '1']
    assert main(['twin', str(folder), *size, '--raters', '3']) == 0
    return folder


def test_a_twin_is_rated_in_both_layouts_alike(rated, tmp_path, capsys):
    "The same answers; a second call changes nothing, other raters are refused, no truth in the file"
    size = ['--genotypes', '6', '--height', '32', '--workers', '1']
    tidy = tmp_path / 'tidy'
    assert main(['twin', str(tidy), *size, '--tidy', '--raters', '3']) == 0
    said = (rated / 'annotations.csv').read_bytes()
    assert (tidy / 'annotations.csv').read_bytes() == said
    assert main(['twin', str(rated), *size, '--raters', '3']) == 0
    assert main(['twin', str(rated), *size, '--raters', '2']) == 2
    assert 'holds other annotations already' in capsys.readouterr().err
    assert (rated / 'annotations.csv').read_bytes() == said
    truth = pd.read_csv(rated / 'truth' / 'raters.csv')
    assert len(truth) == 4 and truth.tires.gt(0).sum() == 1
    assert set(truth.name) == set(read_annotations(rated).rater)


def test_simulated_raters_see_what_was_planted():
    "Bias, noise, misses and false onsets of many plants are those of the eye"
    random = np.random.default_rng(3)
    onset = np.where(np.arange(6000) % 2, np.nan, 20.0)
    eye = Eye('x', bias=1.5, noise=2.0, misses=0.1, false=0.05)
    day = seen_days(eye, onset, [3, 38], random)
    sick = day[~np.isnan(onset)]
    seen = sick[np.isfinite(sick)]
    assert seen.mean() == pytest.approx(21.5, abs=0.2) and seen.std() == pytest.approx(2, abs=0.1)
    assert np.isinf(sick).mean() == pytest.approx(0.1, abs=0.02)
    assert np.isfinite(day[np.isnan(onset)]).mean() == pytest.approx(0.05, abs=0.015)
