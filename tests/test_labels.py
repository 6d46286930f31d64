"Other onsets than the published ones: dealt anew over genotypes, or said by raters; what is trained, scored and said"

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from faba_nb.core.errors import BadInput
from faba_nb.core.files import write_csv, write_json, write_text
from faba_nb.core.studies import Arm, Study, read_study, study_from
from faba_nb.core.study_folder import StudyFolder
from faba_nb.evaluation.evaluating import evaluate_study
from faba_nb.evaluation.information import information
from faba_nb.evaluation.no_information import deal_tables, deals_beside, range_row
from faba_nb.evaluation.predictions import scores, with_labels
from faba_nb.experiment.experiment_folder import Experiment
from faba_nb.experiment.labels import dealt_onsets, label_set
from faba_nb.reporting.comparison_tables import labels_table
from faba_nb.reporting.results import NoSubject
from faba_nb.running.pipeline import state_of_data
from faba_nb.twin.simulated_raters import answers_of, twin_eyes
from faba_nb.reporting import sentences
from faba_nb.reporting.comparison_tables import measured_table
from faba_nb.reporting.results import Results
from faba_nb.running.pipeline import steps_of
from faba_nb.testing.example_bundles import invented
from faba_nb.testing.example_predictions import toy_predictions, toy_steps
from faba_nb.training import training_pool
from faba_nb.training.bundle import load_bundle, relabelled
from faba_nb.training.engine import Fit, Stack
from faba_nb.training.folds import make_folds
from faba_nb.training.study_training import BundleCache, arm_trainings, write_predictions
from faba_nb.training.training_pool import TrainingPool, together


pytestmark = pytest.mark.usefixtures('one_thread')


def images_only(genotypes):
    "An invented bundle with features of photographs, eight numbers each"
    b = invented(genotypes, 8)
    b.steps.values = {}
    return b


class Bench(BundleCache):
    "An invented experiment as a study would get it, with every set of onsets"

    def __init__(self, bundle=None):
        b = bundle or images_only(9)
        self.kept = {'all': (b, b.digest())}
        self.experiment = SimpleNamespace(plants=b.plants)

    def get(self, arm):
        return self.labelled('all', arm.labels)


SHORT = dict(max_epochs=3, lr=1e-3, modalities=['image'], temporal='mlp')
DEALS = study_from({'name': 'deals', 'defaults': SHORT, 'arms': {'full': {'deals': 2}}})


def train(out, study=DEALS, arms=None, bundle=None):
    trainings = arm_trainings(study, Bench(bundle), out, arms)
    TrainingPool(trainings, 2).run()
    assert all([write_predictions(study, w) for w in trainings])
    return {w.name: w for w in trainings}


def tables(out):
    return {p.parent.name: p.read_bytes() for p in Path(out).glob('arms/*/predictions.csv')}


# ---- a deal ----


def test_a_deal_is_a_permutation_and_never_the_annotation():
    "Two genotypes that differ are exchanged by every deal; days, controls and genotypes stay whole"
    plants = invented(9).plants
    seen = set()
    for k in range(1, 101):
        onset = dealt_onsets(plants, k)
        by = onset.groupby(plants.genotype)
        assert not onset.equals(plants.onset_dag) and onset[plants.onset_dag.isna()].isna().all()
        assert (by.nunique() == 1).all() and sorted(by.max()) == sorted(
            plants.groupby('genotype').onset_dag.max()
        )
        seen.add(tuple(by.max()))
    assert len(seen) > 90
    two = plants[plants.genotype.isin(['Bean 00', 'Bean 05'])]
    for k in range(1, 101):
        assert dealt_onsets(two, k).dropna().tolist() == [28.0] * 3 + [14.0] * 3


def test_a_deal_depends_on_its_number_alone():
    plants = invented(9).plants
    later = dealt_onsets(plants, 7)
    dealt_onsets(plants, 3), np.random.rand(5)
    assert dealt_onsets(plants, 7).equals(later)
    mixed = plants.sample(frac=1, random_state=0)
    assert dealt_onsets(mixed, 7).sort_index().equals(later)
    experiment = SimpleNamespace(plants=plants)
    assert label_set(experiment, 'dealt:7').to_numpy() == pytest.approx(later, nan_ok=True)
    with pytest.raises(BadInput, match='unknown set of onsets'):
        label_set(experiment, 'anna')
    with pytest.raises(BadInput, match='all genotypes have the same onset'):
        dealt_onsets(
            plants.assign(onset_dag=plants.onset_dag.where(plants.onset_dag.isna(), 20)), 1
        )


def test_published_onsets_change_nothing(twin):
    "The table of plant-days, classes, folds and the digest of a bundle with its own onsets laid anew"
    e = Experiment(twin)
    b = load_bundle(Arm(modalities=('fluor',)), e)
    again = relabelled(b, label_set(e, 'published'))
    pd.testing.assert_frame_equal(again.facts, b.facts)
    assert again.digest() == b.digest() and np.array_equal(again.label, b.label)
    assert make_folds(again.plants) == make_folds(b.plants) and again.same_inputs(b)
    dealt = relabelled(b, label_set(e, 'dealt:1'))
    assert dealt.digest() != b.digest() and dealt.same_inputs(b)
    assert dealt.facts[['plant_id', 'dag']].equals(b.facts[['plant_id', 'dag']])
    low, high = dealt.facts.label_low_dag, dealt.facts.label_high_dag
    drought = dealt.facts[dealt.facts.onset_dag.notna()]
    assert not ((low >= dealt.facts.onset_dag) | (high < dealt.facts.onset_dag)).any()
    assert (drought.label == (drought.dag >= drought.onset_dag)).all()


# ---- studies ----


def test_the_study_holds_the_arm_of_backbones_clean():
    s = read_study('no-information')
    assert len(s.arms) == 21 and [a.dealt for a in s.arms.values()] == [False] + [True] * 20
    assert s.arms['full'] == read_study('backbones-clean').arms['dinov2']
    assert all(a.same_but_for_labels(s.arms['full']) for a in s.arms.values())
    other = read_study('no-information', ['defaults.backbone=clip', 'arms.full.deals=3'])
    assert {a.backbone for a in other.arms.values()} == {'clip'} and len(other.arms) == 4
    assert study_from(read_study_dict(s)).arms == s.arms
    taught = {'t': {}, 's': {'teacher': 't', 'distillation': 'teacher', 'deals': 1}}
    with pytest.raises(BadInput, match='learned from other onsets'):
        study_from({'name': 'x', 'arms': taught})


def read_study_dict(study):
    "What study.yaml holds"
    from faba_nb.core.config import parse_yaml

    return parse_yaml(study.to_yaml(), 'study.yaml')


# ---- training ----


def test_predictions_carry_the_dealt_onsets(tmp_path):
    works = train(tmp_path)
    plants = works['full'].bundle.plants.set_index('plant_id')
    for name, k in (('full', 0), ('full_deal01', 1), ('full_deal02', 2)):
        t = pd.read_csv(works[name].folder.predictions)
        own = plants.onset_dag if not k else dealt_onsets(plants.reset_index(), k)
        own = pd.Series(own.to_numpy(), plants.index)
        assert np.array_equal(t.onset_dag, t.plant_id.map(own), equal_nan=True), name
        assert (t.label == (t.dag >= t.onset_dag)).all()
        assert works[name].folder.predictions_permuted.is_file() == (name == 'full')
    first, second = (pd.read_csv(works[f'full_deal0{k}'].folder.predictions) for k in (1, 2))
    assert not np.array_equal(first.probability, second.probability)


def test_a_deal_alone_stopped_or_among_others_is_the_same(tmp_path, monkeypatch):
    "One group of stacks for all labels; the published arm as if there were no deals"
    monkeypatch.setattr(training_pool, 'free_memory', lambda device: 1e12)  # stacks of several arms
    works = train(tmp_path / 'all')
    assert [len(g) for g in together(list(works.values()))] == [3]
    train(tmp_path / 'one', arms=['full_deal02'])
    usual = study_from({'name': 'deals', 'arms': {'full': SHORT}})
    train(tmp_path / 'usual', usual)
    stopped = arm_trainings(DEALS, Bench(), tmp_path / 'stopped')
    pool = TrainingPool(stopped, 1)
    tell = pool._tell
    pool._tell = lambda *x: (tell(*x), pool.stop.set())  # leave after the first epoch
    with pytest.raises(BaseException, match='run the same command again'):
        pool.run()
    assert list((tmp_path / 'stopped').glob('arms/full_deal*/fits/*.checkpoint'))
    train(tmp_path / 'stopped')
    whole = tables(tmp_path / 'all')
    assert tables(tmp_path / 'stopped') == whole
    assert tables(tmp_path / 'one')['full_deal02'] == whole['full_deal02']
    assert tables(tmp_path / 'usual')['full'] == whole['full']


def test_without_classes_or_with_few_genotypes(tmp_path):
    "Equal classes: one random validation genotype of nine; four genotypes: none, and every epoch is run"
    b = images_only(9)
    alike = replace(b, plants=b.plants.assign(onset_class='Mid'))
    assert {len(f.validation) for f in make_folds(alike.plants)} == {1}
    study = study_from({'name': 'few', 'arms': {'full': SHORT | {'patience': 1}}})
    train(tmp_path / 'alike', study, bundle=alike)
    b = images_only(4)
    few = replace(b, plants=b.plants.drop(columns='onset_class'))
    works = train(tmp_path / 'few', study, bundle=few)
    t = pd.read_csv(works['full'].folder.predictions)
    assert (
        set(t.split) == {'test'} and len(t) == 2 * 4 * 6 * 11 and t.probability.between(0, 1).all()
    )
    for f in works['full'].fingerprints:
        record = read_record(works['full'], f)
        assert (record['epochs'], record['best_epoch']) == (3, 2)


def read_record(work, fit):
    from faba_nb.core.files import read_json

    return read_json(work.folder.fits / f'{fit.name}.json')


def test_unequal_numbers_of_batches():
    "Folds with one and with three validation genotypes: each fit as it is alone"
    b, arm = invented(9, 16), Arm(batch_size=5, lr=1e-3)
    folds = make_folds(b.plants)
    fits = [
        Fit('a', folds[0], 1),
        Fit('a', replace(folds[1], validation=folds[1].validation[:1]), 1),
    ]
    both = Stack(b, arm)
    both.add(fits)
    both.epoch(), both.epoch()
    assert both.steps == [6, 9]
    for row, f in enumerate(fits):
        alone = Stack(b, arm)
        alone.add([f])
        alone.epoch(), alone.epoch()
        keep = lambda log: [(l['train'], l['validation']) for l in log]
        assert keep(alone.state.logs[0]) == keep(both.state.logs[row])
        for n, x in alone.state.weights.items():
            assert torch.equal(x[0], both.state.weights[n][row]), (n, row)


def test_a_gpu_takes_fits_with_one_number_of_batches(tmp_path):
    "Unequal ones would be updated one by one there; a CPU does that anyway and takes them together"
    bundle = images_only(9)
    study = study_from({'name': 'x', 'arms': {'full': SHORT | {'batch_size': 5}}})
    for device, taken in (('cpu', 9), ('cuda', 8)):
        (work,) = arm_trainings(study, Bench(bundle), tmp_path)
        fit = work.queue.popleft()
        fold = replace(fit.fold, validation=fit.fold.validation[:1])
        work.queue.append(replace(fit, fold=fold))
        assert len(TrainingPool([work], 1, device)._take([work], 99)) == taken
        assert len(work.queue) == 9 - taken


# ---- evaluation and words ----


def blind(steps, seed):
    "Predictions that know the mean onset of the other genotypes, and nothing else"
    random = np.random.default_rng(seed)
    t = toy_predictions(steps, 0.0, 0.0, 'online', (42,), seed=seed)
    onset = t.dropna(subset='onset_dag').groupby('genotype').onset_dag.first()
    others = (onset.sum() - onset) / (len(onset) - 1)
    plants = t.plant_id.unique()
    moved = t.plant_id.map(dict(zip(plants, random.normal(0, 1.5, len(plants)))))
    p = 1 / (1 + np.exp(-(t.dag - t.genotype.map(others) - moved) / 2))
    return t.assign(probability=p)


def dealt_steps(steps, k):
    plants = steps.drop_duplicates('plant_id')
    onset = dict(zip(plants.plant_id, dealt_onsets(plants, k)))
    return with_labels(steps.assign(onset_dag=steps.plant_id.map(onset)))


def test_without_information_concordance_lies_below_one_half():
    "The lean, which a permutation of fixed predictions cannot contain"
    found = []
    for k in range(1, 21):
        s = scores(blind(dealt_steps(toy_steps(12, seed=1), k), k), 'online', 'x')
        found.append(information(s, 200)['concordance'])
    values = np.array([v[0] for v in found])
    assert values.mean() < 0.45
    assert abs(np.mean([v[1:].mean() for v in found]) - 0.5) < 0.02


def written(out, arms, predictions, data='the same'):
    folder = StudyFolder(out)
    study = Study(folder.path.name, arms=arms, provenance={'data': data})
    write_text(study.to_yaml(), folder.study)
    write_json({'simulated': {'world': 'invented', 'seed': 0}}, folder.run)
    for name, t in predictions.items():
        write_csv(t.assign(arm=name, study=study.name, backbone='x'), folder.arm(name).predictions)
    return folder


@pytest.fixture(scope='module')
def studies(tmp_path_factory):
    "Ten deals of an arm in one folder, arms with and without a match in another, a third experiment"
    out, steps = tmp_path_factory.mktemp('studies'), toy_steps(12, seed=1)
    arm = Arm(protocols=('online',))
    deals = {f'full_deal{k:02d}': replace(arm, labels=f'dealt:{k}') for k in range(1, 11)}
    p = {n: blind(dealt_steps(steps, k), k) for k, n in enumerate(deals, 1)}
    skilled = toy_predictions(steps, 0.9, 0.1, 'online', (42,))
    lone = toy_predictions(steps, 0.2, 2.0, 'online', (42,), seed=3)
    written(out / 'no-information', {'full': arm, **deals}, p | {'full': skilled})
    arms = {'mine': arm, 'other': replace(arm, lr=1e-3)}
    written(out / 'mine', arms, {'mine': skilled, 'other': lone})
    written(out / 'elsewhere', {'mine': arm}, {'mine': skilled}, 'another experiment')
    for name in ('no-information', 'mine', 'elsewhere'):
        evaluate_study(out / name, draws=200)
    return out


def evaluate_inputs(out):
    "What the step `evaluate` depends on"
    (step,) = steps_of(read_study(out / 'study.yaml'), None, None, out, ['evaluate'], {})
    return step.inputs()


def table(folder, name='no_information'):
    return pd.read_csv(StudyFolder(folder).table(name))


def test_the_range_here_and_in_a_study_beside_it(studies):
    own, beside = table(studies / 'no-information'), table(studies / 'mine')
    deals = table(studies / 'no-information', 'no_information_deals')
    assert len(deals) == 10 * 3 and own.reference.isna().all() and set(own.arm) == {'full'}
    assert set(beside.arm) == {'mine'} and set(beside.reference) == {'no-information'}
    assert own.drop(columns=['arm', 'reference']).equals(beside.drop(columns=['arm', 'reference']))
    row = own.set_index('statistic').loc['concordance']
    v = deals[deals.statistic == 'concordance'].value
    assert (row.low, row.high) == pytest.approx(np.quantile(v, [0.025, 0.975]))
    assert row.high < 0.5 < row.value and (row.above, row.p) == (0, pytest.approx(1 / 11))
    permuted = table(studies / 'no-information', 'permutation').set_index(['arm', 'statistic'])
    assert permuted.loc[('full', 'concordance'), 'value'] == row.value
    assert not StudyFolder(studies / 'elsewhere').table('no_information').exists()
    inputs = {n: evaluate_inputs(studies / n) for n in names}
    assert {n: 'deals beside it' in i for n, i in inputs.items()} == {
        'no-information': False,
        'mine': True,
        'elsewhere': False,
    }
    assert len(deal_tables(studies / 'mine', read_study(studies / 'mine' / 'study.yaml'))) == 1
    assert not deals_beside(studies / 'elsewhere', read_study(studies / 'elsewhere' / 'study.yaml'))


def test_dealt_arms_are_not_compared(studies):
    "No metric, contrast or permutation table holds an arm with dealt onsets"
    for name in ('metrics', 'permutation', 'genotypes', 'folds'):
        t = table(studies / 'no-information', name)
        assert 'full' in set(t.arm) and not t.arm.str.contains('_deal').any(), name
    assert Results(studies / 'no-information').arms == ['full']
    assert Results(studies / 'no-information').absent == []


def test_the_share_of_deals_counts_the_arm_itself():
    assert range_row(np.arange(20) / 20, 0.95)['p'] == pytest.approx(2 / 21)
    assert range_row(np.arange(20) / 20, 1.0)['p'] == pytest.approx(1 / 21)
    assert range_row(np.arange(20) / 20, 0.0)['p'] == 1
    assert range_row([np.nan] * 20, 0.9)['p'] == 1


def test_words_about_the_ranges(studies):
    "Conservative is said where an arm has no deals, and only there; the range of the deals where there are some"
    said = {n: ' '.join(sentences.information(Results(studies / n))) for n in names}
    for n, text in said.items():
        assert 'permutation range' in text and 'without information 0' not in text, n
    conservative = {n: sentences.CONSERVATIVE in text for n, text in said.items()}
    assert conservative == {'no-information': False, 'mine': True, 'elsewhere': True}
    dealt = 'Trained again with onsets dealt anew over the genotypes, concordance lies above'
    assert {n: dealt in t for n, t in said.items()} == {
        'no-information': True,
        'mine': True,
        'elsewhere': False,
    }
    assert 'p = 0.091, 10 deals' in said['mine'] and 'lies within' not in said['mine']
    heads = {
        n: [c.unit for c in measured_table(Results(studies / n), 'online').columns] for n in names
    }
    assert {n: 'no-information range' in h for n, h in heads.items()} == {
        'no-information': True,
        'mine': True,
        'elsewhere': False,
    }
    assert all('permutation range' in h and 'without information' not in h for h in heads.values())
    notes = {n: measured_table(Results(studies / n), 'online').note for n in names}
    assert {n: 'conservative' in t for n, t in notes.items()} == conservative


names = ('no-information', 'mine', 'elsewhere')


def test_words_follow_the_value(studies, tmp_path):
    "An arm within, and one below, the range of its deals is not said to lie above"
    import shutil

    from faba_nb.core.files import seal

    out = tmp_path / 'copy'
    shutil.copytree(studies / 'mine', out)
    path = StudyFolder(out).table('no_information')
    for value, where in ((0.0, 'below'), (None, 'within'), (0.999, 'above')):
        t = pd.read_csv(path)
        t['value'] = t['mean'] if value is None else value
        write_csv(t, path)
        seal(path)
        text = ' '.join(sentences.retrained(Results(out)))
        assert [w for w in ('above', 'within', 'below') if f'lies {w}' in text] == [where]


# ---- onsets that raters said ----


@pytest.fixture(scope='module')
def rated(twin, tmp_path_factory):
    "The simulated experiment as three raters saw it, their answers in a folder beside it"
    e, folder = Experiment(twin), tmp_path_factory.mktemp('rated')
    truth = pd.read_csv(twin / 'truth' / 'plants.csv')
    onset = truth.responds_dag.where(np.isfinite(truth.responds_dag))
    plants = truth[['plant_id', 'treatment']].assign(onset=onset)
    looks = {p: np.unique(d.to_numpy(float)) for p, d in e.measured.groupby('plant_id').dag}
    said = [answers_of(eye, 'whole', plants, looks, 1) for eye in twin_eyes(3, 1)]
    write_csv(pd.concat(said), folder / 'annotations.csv')
    own = dict(folder=folder, plants=e.plants, facts=e.facts, measured=e.measured)
    return SimpleNamespace(**own)


ANNOTATED = ['consensus', 'rater:simulated-1', 'rater:simulated-3', 'imputed:1', 'imputed:7']


@pytest.mark.parametrize('labels', ANNOTATED)
def test_every_stressed_plant_and_no_control_has_a_day(rated, twin, labels):
    "A bundle can be made of it, inputs are shared, and a plant's label follows its own day"
    onset = label_set(rated, labels)
    stressed = rated.plants.set_index('plant_id').onset_dag.notna()
    assert (onset.notna() == stressed).all()
    by = onset.groupby(rated.plants.set_index('plant_id').genotype).nunique()
    assert by.max() > 1
    b = load_bundle(Arm(modalities=('fluor',)), Experiment(twin))
    other = relabelled(b, onset)
    assert other.same_inputs(b) and other.digest() != b.digest()
    assert (other.facts.label == (other.facts.dag >= other.facts.onset_dag)).all()
    assert label_set(rated, labels).equals(onset)
    assert make_folds(relabelled(b, onset, same_folds=True).plants) == make_folds(b.plants)


def test_where_a_set_of_onsets_cannot_be_had(rated, tmp_path):
    "One line each: no answers, one rater, a rater nobody knows"
    alone = SimpleNamespace(**vars(rated) | {'folder': tmp_path})
    for labels in ANNOTATED:
        with pytest.raises(BadInput, match='nobody has rated these plants'):
            label_set(alone, labels)
    said = pd.read_csv(rated.folder / 'annotations.csv', dtype=str, keep_default_na=False)
    said[said.rater == 'simulated-1'].to_csv(tmp_path / 'annotations.csv', index=False)
    with pytest.raises(BadInput, match='needs onsets from two raters'):
        label_set(alone, 'consensus')
    with pytest.raises(BadInput, match="unknown rater 'simulated-9'"):
        label_set(alone, 'rater:simulated-9')
    assert len(label_set(alone, 'rater:simulated-1')) == len(rated.plants)
    for wrong in ('imputed:0', 'imputed:x', 'rater:', 'rater', 'consensus:1', 'dealt:0'):
        with pytest.raises(BadInput, match='is not a set of onsets'):
            Arm(labels=wrong)


def test_the_study_of_labels():
    "Two arms under seven sets of onsets each; a contrast of different labels is refused"
    s = read_study('labels')
    assert len(s.arms) == 14 and list(s.compared().arms) == ['full', 'no_image']
    assert s.arms['full'] == read_study('backbones-clean').arms['dinov2']
    said = {a.labels for a in s.arms.values()}
    assert said == {'published', 'consensus', *(f'imputed:{k}' for k in range(1, 6))}
    assert study_from(read_study_dict(s)).arms == s.arms
    more = read_study('labels', ['arms.full_anna={labels: rater:anna}'])
    assert more.arms['full_anna'].same_but_for_labels(more.arms['full'])
    with pytest.raises(BadInput, match='are scored on different onsets'):
        read_study('labels', ['contrasts=[[full, full_consensus]]'])


def test_published_is_no_new_setting(tmp_path):
    "Fingerprints of fits do not know of labels; answers of raters are no part of the data's state"
    from faba_nb.training.fits import fit_fingerprint

    fold = make_folds(invented(9).plants)[0]
    fit, arm = Fit('a', fold, 1), Arm()
    same = fit_fingerprint(fit, replace(arm, labels='consensus'), 'digest', None)
    assert fit_fingerprint(fit, arm, 'digest', None) == same
    (tmp_path / 'plants.csv').write_text('plant_id')
    before = state_of_data(tmp_path)
    (tmp_path / 'annotations.csv').write_text('rater')
    assert state_of_data(tmp_path) == before


def labelled_steps(steps, shift, seed):
    "Plant-days with another day for every plant"
    random = np.random.default_rng(seed)
    plants = steps.plant_id.unique()
    moved = dict(zip(plants, shift + random.normal(0, 1.5, len(plants))))
    return with_labels(steps.assign(onset_dag=steps.onset_dag + steps.plant_id.map(moved)))


@pytest.fixture(scope='module')
def judged(tmp_path_factory):
    "A study with two arms under seven sets of onsets, and the same without the others' onsets"
    out, steps = tmp_path_factory.mktemp('judged'), toy_steps(12, seed=1)
    arms, predictions = {}, {}
    for name, noise in (('good', 0.2), ('bad', 2.5)):
        arm = Arm(protocols=('retrospective',), lr=1e-3 if name == 'bad' else 1e-4)
        for k, labels in enumerate(
            ['published', 'consensus', *(f'imputed:{i}' for i in range(1, 6))]
        ):
            own = steps if not k else labelled_steps(steps, 0.5 * (k - 3), k)
            called = name if not k else f'{name}_{k}'
            arms[called] = replace(arm, labels=labels)
            p = toy_predictions(own, 0.5, noise, 'retrospective', (42,), seed=k)
            predictions[called] = p
    plain = {n: arms[n] for n in ('good', 'bad')}
    for folder, some in (('labels', arms), ('plain', plain)):
        f = written(out / folder, some, {n: predictions[n] for n in some})
        study = replace(read_study(f.study), contrasts=(('good', 'bad'),))
        write_text(study.to_yaml(), f.study)
        evaluate_study(out / folder, draws=200)
    return out


def test_other_labels_change_nothing_of_the_arms_themselves(judged):
    "All tables are those of the study without them; the contrasts have two columns more"
    names = {p.stem for p in StudyFolder(judged / 'plain').all_tables()}
    assert {p.stem for p in StudyFolder(judged / 'labels').all_tables()} == names | {
        'label_contrasts'
    }
    for name in names - {'families', 'contrasts', 'cost'}:
        one, two = (StudyFolder(judged / f).table(name).read_bytes() for f in ('plain', 'labels'))
        assert one == two, name
    one, two = table(judged / 'plain', 'contrasts'), table(judged / 'labels', 'contrasts')
    assert set(two) - set(one) == {'label_share', 'label_verdict'}
    pd.testing.assert_frame_equal(two[one.columns], one)


def test_rubins_rules_on_differences_of_genotypes(judged):
    "The combined row is what the single sets give by hand"
    t = table(judged / 'labels', 'label_contrasts').query('metric == "f1"').set_index('labels')
    assert list(t.sets) == [1] * 7 + [5] and t.own.tolist() == [1] + [0] * 7
    sets = t[t.index.str.startswith('imputed:')]
    row = t.loc['imputed']
    assert row.difference == pytest.approx(sets.difference.mean())
    assert 0 <= row.label_share <= 1 and row.low < row.difference < row.high
    c = table(judged / 'labels', 'contrasts').query('primary == 1').iloc[0]
    assert c.label_share == pytest.approx(row.label_share)
    counted = table(judged / 'labels', 'families')
    counted = counted[counted.family == 'contrasts under other labels']
    assert len(counted[counted.metric == 'f1']) == 14


def test_words_about_labels(judged):
    "Said where such arms are, nowhere else, and as the verdicts are"
    import shutil

    from faba_nb.core.files import seal

    with pytest.raises(NoSubject):
        sentences.labels(Results(judged / 'plain'))
    with pytest.raises(NoSubject):
        labels_table(Results(judged / 'plain'))
    assert len(labels_table(Results(judged / 'labels')).frame) == 3
    (said,) = sentences.labels(Results(judged / 'labels'))
    assert '% of the variance is the label’s' in said
    out = judged / 'copy'
    shutil.copytree(judged / 'labels', out)
    path = StudyFolder(out).table('label_contrasts')
    for verdicts, depends in (
        (['better'] * 8, False),
        (['better', 'undecided'] + ['better'] * 6, True),
    ):
        t = pd.read_csv(path)
        t.loc[t.metric == 'f1', 'verdict'] = verdicts
        write_csv(t, path)
        seal(path)
        (said,) = sentences.labels(Results(out))
        assert ('depends on who annotated' in said) == depends
        assert ('whoever annotated' in said) == (not depends)
    shutil.rmtree(out)


def test_an_arm_of_other_onsets_alone_is_left_out_by_name(judged, tmp_path):
    "Another backbone under another rater stands beside nothing; the same arm under another rater does"
    import shutil

    from faba_nb.core.config import parse_yaml

    out = tmp_path / 'out'
    shutil.copytree(judged / 'labels', out)
    path = StudyFolder(out).study
    asked = parse_yaml(path.read_text(), 'study.yaml')
    assert 'Not compared' not in sentences.facts(Results(out))
    of = next(n for n, a in asked['arms'].items() if a.get('labels', 'published') == 'published')
    asked['arms']['stray'] = asked['arms'][of] | {'labels': 'rater:zoe', 'lr': 0.5}
    path.write_text(study_from(asked).to_yaml())
    said = sentences.facts(Results(out))
    assert 'Not compared: stray; their onsets are others than those of' in said
    asked['arms']['stray'] = asked['arms'][of] | {'labels': 'rater:zoe'}
    path.write_text(study_from(asked).to_yaml())
    assert 'Not compared' not in sentences.facts(Results(out))


@pytest.mark.parametrize(
    'labels, days, said',
    [
        ('published', [21, 21], 'one annotated day per genotype'),
        ('published', [21, 24], 'one annotated day per plant'),
        ('consensus', [21, 24], 'one day per plant, the consensus of several raters'),
        ('rater:Ada', [21, 21], 'one day per plant, by one rater (Ada)'),
        ('imputed:2', [21, 24], 'one day per plant, drawn from what several raters said'),
    ],
)
def test_pages_say_whose_onsets_they_are(labels, days, said):
    "One day for a genotype is claimed only where it is so"
    from faba_nb.experiment.facts import built_in
    from faba_nb.reporting.methods import labels_text
    from faba_nb.reporting.sentences import BY_GENOTYPE, onset_origin

    study = Study('s', arms={'a': Arm(labels=labels)})
    plants = pd.DataFrame({'genotype': ['x', 'x', 'x'], 'onset_dag': [*days, float('nan')]})
    results = SimpleNamespace(study=study, table=lambda name: plants, facts=built_in())
    assert onset_origin(results) == said
    assert ('one day per genotype' in labels_text(results)) == (said == BY_GENOTYPE)
