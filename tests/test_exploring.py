"The explorers without a browser: what callbacks do, what is missing, marks under pressure"

import shutil, subprocess, sys
from pathlib import Path

import numpy as np, pandas as pd
import pytest
from conftest import ROOT, once

from faba_nb.experiment.experiment_folder import Experiment
from faba_nb.experiment.marks import read_marks

MODELS = {'morphology': 0.9, 'no_image': 0.2}  # arm -> how much it knows of the onset


def write_study(data, out, evaluated=True):
    "A study of two invented arms over the plant-days of an experiment, evaluated for real"
    from faba_nb.core.files import write_json, write_text
    from faba_nb.core.studies import read_study
    from faba_nb.evaluation.evaluating import evaluate_study
    from faba_nb.testing.example_predictions import toy_predictions

    steps = Experiment(data).measured.reset_index(drop=True)
    write_text(read_study('demo').to_yaml(), out / 'study.yaml')
    for i, (arm, skill) in enumerate(MODELS.items()):
        both = [
            toy_predictions(steps, skill=skill, protocol=p, noise=1.5, seed=i)
            for p in ('online', 'retrospective')
        ]
        p = pd.concat(both).assign(
            study='demo',
            arm=arm,
            backbone='morphology',
            gate_image=lambda t: 0.2 + 0.3 * t.probability,
            gate_fluor=lambda t: 0.8 - 0.3 * t.probability,
        )
        (out / 'arms' / arm).mkdir(parents=True)
        p.to_csv(out / 'arms' / arm / 'predictions.csv', index=False)
    if evaluated:
        evaluate_study(out)  # without the photographs' folder: tables of predictions only
    write_json(dict(data=str(data), features=str(data / 'features')), out / 'run.json')


def linked(source, folder):
    "An experiment behind links, so that marks are written beside it and not into it"
    folder.mkdir(parents=True)
    for part in source.iterdir():
        if part.name not in ('features', 'marks.csv', '.marks.csv.lock'):
            (folder / part.name).symlink_to(part)
    return folder


def write_invented_features(data):
    "Features of every photograph that grow with age"
    from faba_nb.backbones.store import feature_path, write_features

    im = Experiment(data).images
    x = np.c_[im.dag, im['round'], np.random.default_rng(0).normal(size=(len(im), 6))].astype(
        'float32'
    )
    write_features(
        feature_path(data / 'features', 'morphology'),
        im[['plant_id', 'round', 'view']],
        x,
        dict(backbone='morphology', layer='published', framing='published'),
    )


@pytest.fixture(scope='module', autouse=True)
def own_cache(tmp_path_factory):
    "Thumbnails of these tests stay with these tests; nothing comes from the environment"
    with pytest.MonkeyPatch.context() as m:
        m.setenv('FABA_CACHE', str(tmp_path_factory.mktemp('cache')))
        for name in ('FABA_DATA', 'FABA_OUT'):
            m.delenv(name, raising=False)
        yield


@pytest.fixture(scope='module')
def data(twin, tmp_path_factory):
    folder = linked(twin, tmp_path_factory.mktemp('explored') / 'faba')
    write_invented_features(folder)
    return folder


@pytest.fixture(scope='module')
def study(data, tmp_path_factory):
    out = tmp_path_factory.mktemp('study') / 'out'
    write_study(data, out)
    return out


@pytest.fixture
def plants(data, study):
    from faba_nb.exploring.plants_explorer import PlantsExplorer

    e = PlantsExplorer(data, study)
    yield e
    for name in ('marks.csv', '.marks.csv.lock'):
        (data / name).unlink(missing_ok=True)


def test_every_pair_is_stepped_through_once(plants):
    e, seen = plants, []
    names = sorted(e.src.xp.plants.genotype.unique())
    for _ in range(36):
        seen.append(tuple(e.pair().plant_id))
        e._step('right')
    assert len(set(seen)) == 36 and all(len(p) == 2 for p in seen) and e.at == (names[0], 1)
    e.picture.play('pressed', 'up')
    assert e.at == (names[-1], 1) and names[-1] in e.picture.html
    e.picture.play('pressed', 'left')
    assert e.at == (names[-2], 3) and e.replicate.value == 3 and e.search.value == names[-2]


def test_keys_pressed_while_busy_are_drawn_once(plants, monkeypatch):
    import json

    drawn, draw = [], type(plants).draw
    monkeypatch.setattr(
        type(plants), 'draw', lambda self: (drawn.append(1) if not self._held else None, draw(self))
    )
    plants.picture.said.value = json.dumps(
        [dict(view='w', n=i, event='pressed', key='right') for i in range(1, 6)]
    )
    assert plants.at == plants.places[5] and len(drawn) == 1


def test_typing_finds(plants):
    e = plants
    e.search.value = 'pirhonen'
    assert e.at[0] == 'Pirhonen' == e.search.value
    plant = e.src.xp.plants.iloc[20]
    for text in (plant.plant_id, str(int(plant.plant_id[-3:]))):
        e.search.value = 'Pirhonen'
        e.search.value = text
        assert plant.plant_id in set(e.pair().plant_id) and e.search.value == plant.genotype
    e.search.value = 'zzz'
    assert 'no genotypes match' in e.said.value and e.at[0] == plant.genotype
    e.search.value = 'a'
    assert 'genotypes match' in e.said.value


def test_every_control_changes_the_picture(plants):
    e = plants
    e.load()
    e.search.value = 'Pirhonen'

    def changes(control, value):
        before = e.drawing()
        control.value = value
        return e.drawing() != before

    for text in (
        'probability of stress, morphology',
        'gate weights',
        'height, cm',
        'fluorescence NPQ_Lss',
        'soil water',
        'GLI',
        'simulated data',
        'Pirhonen',
    ):
        assert text in e.drawing(), text
    assert changes(e.protocol, 'online') and changes(e.protocol, 'retrospective')
    assert (
        changes(e.threshold, 0.9) and changes(e.gates, False) and 'gate weights' not in e.drawing()
    )
    assert (
        changes(e.shown, [('env', 'rh2_Tunnel_%')]) and 'relative humidity, tunnel' in e.charts.html
    )
    assert changes(e.view, 'top') and changes(e.treatment, 'WHC-30') and changes(e.replicate, 2)
    assert changes(e.arms, ()) and 'probability' not in e.drawing()


def test_an_alarm_is_the_first_plant_day_above_the_threshold(plants, study):
    e = plants
    found = 0
    e.arms.value, e.protocol.value = ('morphology',), 'online'
    p = pd.read_csv(study / 'arms' / 'morphology' / 'predictions.csv').query(
        'split == "test" and protocol == "online"'
    )
    mean = p.groupby(['plant_id', 'dag']).probability.mean()
    for genotype in sorted(e.src.xp.plants.genotype.unique()):
        e.search.value = genotype
        for r in e.pair().itertuples():
            above = mean[r.plant_id][mean[r.plant_id] > 0.5]
            assert (
                (f'{r.treatment} online DAG {above.index.min():g}' in e.charts.html)
                if len(above)
                else (f'{r.treatment} online DAG' not in e.charts.html)
            )
            found += len(above) > 0
    assert found > 5


def test_a_click_enlarges_the_day_of_both_plants(plants):
    e = plants
    e.search.value = 'Pirhonen'
    mine = e.src.images[
        (e.src.images.plant_id == e.pair().plant_id.iloc[1]) & (e.src.images['view'] == 'side_000')
    ].sort_values('dag')
    e.picture.play('clicked', 'photo|' + mine.path.iloc[6])
    assert (
        e.big.value.count('<img') == 2
        and all(p in e.big.value for p in e.pair().plant_id)
        and f'DAG {mine.dag.iloc[6]}' in e.big.value
    )
    e.picture.play('pressed', ']')
    assert f'DAG {mine.dag.iloc[7]}' in e.big.value
    e.picture.play('pressed', '[')
    assert f'DAG {mine.dag.iloc[6]}' in e.big.value


def test_a_mark_is_understood_by_the_reader_and_by_check(plants, data, study):
    from faba_nb.experiment.raw_tree import check
    from faba_nb.exploring.plants_explorer import PlantsExplorer

    e = plants
    e.picture.play(
        'clicked',
        'photo|' + e.src.images.path[e.src.images.plant_id == e.pair().plant_id.iloc[0]].iloc[0],
    )
    e.marking.kind.value, e.marking.note.value = 'exclude', 'the wrong plant'
    e.marking.button.click()
    m = read_marks(data).iloc[-1]
    assert (m['mark'], m.note, m['view']) == (
        'exclude',
        'the wrong plant',
        e.photo['view'],
    ) and m.plant_id == e.pair().plant_id.iloc[0]
    fresh = Experiment(data)  # as after a restart
    assert len(fresh.images) == len(e.src.images) - 1
    assert 'marks.csv: 1 records are marked exclude' in check(data).text()
    again = PlantsExplorer(data, study)  # another kernel shows it, and what was said
    assert 'marked exclude' in again.picture.html
    again.enlarge('photo|' + e.photo.path)
    assert 'the wrong plant' in again.marking.said.value
    again.marking.kind.value = 'keep'
    again.picture.play('pressed', 'm')
    assert len(Experiment(data).images) == len(e.src.images) and 'marked keep' in again.picture.html


def strip_path(e, plant, view='side_000', i=4):
    mine = e.src.images[
        (e.src.images.plant_id == plant) & (e.src.images['view'] == view)
    ].sort_values('dag')
    return 'photo|' + mine.path.iloc[i]


def agree(e):
    "Framed, named beside the button, and to be marked: one plant of the pair in the strip, or none"
    import re

    framed = re.search(r'border:3px solid #e0a800[^>]*><img[^>]*alt="(\S+), DAG', e.big.value)
    named = re.search(r'<b>(\S+)</b>', e.marking.which.value)
    row = None if e.marking.row is None else e.marking.row['plant_id']
    assert [m[1] if m else None for m in (framed, named)] == [row, row]
    assert (e.large.layout.display == '') == (row is not None) == (not e.marking.button.disabled)
    assert row is None or row in set(e.pair().plant_id)
    assert all(p in e.picture.html for p in e.pair().plant_id)
    return row


MOVES = {
    'step right': lambda e: e.picture.play('pressed', 'right'),
    'step down': lambda e: e.picture.play('pressed', 'down'),
    'find a name': lambda e: setattr(e.search, 'value', 'Pirhonen'),
    'find a plant': lambda e: setattr(e.search, 'value', '24_FabaDr_031'),
    'replicate': lambda e: setattr(e.replicate, 'value', 3),
    'treatment': lambda e: setattr(e.treatment, 'value', 'WHC-30'),
    'selection': lambda e: e.go(['24_FabaDr_020', '24_FabaDr_033']),
}


@pytest.mark.parametrize('move', MOVES)
def test_what_is_enlarged_shown_and_marked_is_one_plant(move, plants, data):
    "Open a day, move on, mark: the mark is about the plant that is shown now"
    e = plants
    first = e.pair().plant_id.iloc[0]
    e.picture.play('clicked', strip_path(e, first))
    assert agree(e) == first
    e.marking.note.value = f'about {first}'
    MOVES[move](e)
    now = agree(e)
    assert now != first and (move != 'find a plant' or now == '24_FabaDr_031')
    assert e.marking.note.value == ''  # what was typed about one plant is not said of another
    e.marking.button.click()
    e.picture.play('pressed', 'm')
    assert read_marks(data).plant_id.tolist() == [now, now] and agree(e) == now
    e.picture.play('pressed', 'Escape')
    assert agree(e) is None
    e.picture.play('pressed', 'm')  # nothing is enlarged, nothing is marked
    assert len(read_marks(data)) == 2


def test_a_mark_is_about_the_plant_in_the_strip(plants, data):
    "Click a day, press the arrow, press m: the line in marks.csv names a plant of the pair that is shown"
    e = plants
    e.picture.play('clicked', strip_path(e, e.pair().plant_id.iloc[0]))
    e.picture.play('pressed', 'right')
    e.picture.play('pressed', 'm')
    assert read_marks(data).plant_id.iloc[-1] in set(e.pair().plant_id)


def test_keys_and_clicks_of_one_message_keep_their_order(plants, data):
    "A step and a mark that arrive together: the mark is about the plant stepped to; a click after a mark is not marked"
    import json

    e = plants
    first, other = e.pair().plant_id
    said = lambda *events: setattr(
        e.picture.said,
        'value',
        json.dumps(
            [dict(view='w', n=said.n + i, event=a, key=b) for i, (a, b) in enumerate(events)]
        ),
    )
    said.n = 1
    said(('clicked', strip_path(e, first)), ('pressed', 'right'), ('pressed', 'm'))
    assert read_marks(data).plant_id.tolist() == [agree(e)] and agree(e) != first
    now = agree(e)
    said.n = 4
    said(('pressed', 'm'), ('clicked', strip_path(e, first, i=2)))
    assert (
        read_marks(data).plant_id.tolist() == [now, now] and agree(e) == first
    )  # the click goes back to the plant that was clicked


def test_without_a_plant_nothing_is_shown(plants, monkeypatch):
    e = plants
    e.picture.play('clicked', strip_path(e, e.pair().plant_id.iloc[0]))
    e.src.xp.plants = e.src.xp.plants[
        ~(
            (e.src.xp.plants.genotype == e.places[1][0])
            & (e.src.xp.plants.replicate == 2)
            & (e.src.xp.plants.treatment == 'WHC-80')
        )
    ]
    e.treatment.value = 'WHC-80'
    e.picture.play('pressed', 'right')
    assert (
        'there is no WHC-80 plant' in e.picture.html and e.charts.html == '' and e.drawing() == ''
    )
    assert e.photo is None and e.marking.button.disabled and e.big.value == ''
    e.picture.play('pressed', 'right')
    assert 'there is no' not in e.picture.html


def test_a_mark_is_undone_and_those_of_others_stay(plants, data):
    from faba_nb.exploring.marking import mark

    e = plants
    first = e.pair().plant_id.iloc[0]
    theirs = e.src.images[~e.src.images.plant_id.isin(e.src.xp.plants.plant_id[:12])].iloc[0]
    mark(
        data,
        theirs.plant_id,
        int(theirs['round']),
        theirs['view'],
        'exclude',
        'of somebody else',
        author='Ada',
    )
    e.picture.play('clicked', strip_path(e, first))
    e.marking.kind.value = 'exclude'
    e.picture.play('pressed', 'm')
    e.picture.play('pressed', 'right')
    e.picture.play('pressed', 'm')
    mark(data, '24_FabaDr_008', author='Ada')
    assert len(Experiment(data).images) == len(e.src.images) - 3
    e.picture.play('pressed', 'u')
    assert (
        read_marks(data).plant_id.tolist() == [theirs.plant_id, first, '24_FabaDr_008']
        and 'taken back' in e.marking.said.value
    )
    e.marking.back.click()
    assert (
        read_marks(data).author.tolist() == ['Ada', 'Ada']
        and e.marking.back.disabled
        and first in e.marking.said.value
    )
    e.picture.play('pressed', 'u')
    assert len(read_marks(data)) == 2 and len(Experiment(data).images) == len(e.src.images) - 1


def test_a_torn_file_of_marks_is_neither_lost_nor_written_over(plants, data):
    e = plants
    (data / 'marks.csv').write_text('plant_id,mark\n24_FabaDr_001,keep,"half')
    e.picture.play('clicked', strip_path(e, e.pair().plant_id.iloc[0]))
    e.marking.note.value = 'important'
    e.marking.button.click()
    assert 'not marked' in e.marking.said.value and e.marking.note.value == 'important'
    assert (data / 'marks.csv').read_text() == 'plant_id,mark\n24_FabaDr_001,keep,"half'


def test_plants_in_doubt_say_so_in_the_explorers(plants):
    "Swapped, dead and marked in the log: in the words of the check, beside the plant and beside its photograph"
    from faba_nb.exploring.features_explorer import FeaturesExplorer

    e, p = plants, plants.src.xp.plants
    odd = p[p['flags'].str.contains('treatment_swapped')].iloc[0]
    e.search.value = odd.plant_id
    assert f'{odd.plant_id}: looks exchanged with a plant of the other treatment' in e.picture.html
    e.picture.play('clicked', strip_path(e, odd.plant_id))
    assert 'looks exchanged with a plant of the other treatment' in e.big.value
    f = FeaturesExplorer(sources=plants.src)
    f.picture.play('clicked', f'{odd.plant_id}|10')
    assert 'looks exchanged' in f.table.html and 'looks exchanged' in f.big.value
    out = e.src.images[e.src.images.outlier].iloc[0]
    f.picture.play('clicked', f'{out.plant_id}|{out["round"]}')
    assert (
        'outlier in the log' in f.big.value
        or not e.src.images.query(
            'plant_id == @out.plant_id and round == @out["round"]'
        ).outlier.all()
    )


def test_a_photograph_goes_with_its_selection(plants):
    "Points of other days, units or encoders: the earlier photograph and list do not stay"
    from faba_nb.exploring.features_explorer import FeaturesExplorer

    e = FeaturesExplorer(sources=plants.src, to_plants=plants)
    keys = e.placed()[0].key
    e.picture.play('clicked', keys[7])
    assert '<img' in e.big.value
    e.picture.play('boxed', keys[100:110].tolist())
    assert e.big.value == '' and '10 selected' in e.count.value
    e.unit.value = 'plants'
    assert '0 selected' in e.count.value and e.table.html == '' and e.pass_on.disabled


def test_kernels_marking_at_once_lose_nothing(data, tmp_path):
    code = '''import sys; from faba_nb.exploring.marking import mark
for i in range(25): mark(sys.argv[1], "24_FabaDr_007", 2, "top", "doubtful", f"{sys.argv[2]}{i}", author="x")'''
    jobs = [subprocess.Popen([sys.executable, '-c', code, str(tmp_path), name]) for name in 'ab']
    assert [j.wait() for j in jobs] == [0, 0]
    notes = list(read_marks(tmp_path).note)
    assert sorted(notes) == sorted(f'{n}{i}' for n in 'ab' for i in range(25))
    assert [n for n in notes if n[0] == 'a'] == [f'a{i}' for i in range(25)]


def test_a_kernel_killed_while_marking_leaves_a_whole_file(tmp_path):
    code = '''import sys; from faba_nb.exploring.marking import mark
print("go", flush=True)
for i in range(10000): mark(sys.argv[1], "24_FabaDr_007", 2, "top", "doubtful", f"{i}", author="x")'''
    job = subprocess.Popen([sys.executable, '-c', code, str(tmp_path)], stdout=subprocess.PIPE)
    job.stdout.readline()
    while len(read_marks(tmp_path)) < 5:
        pass
    job.kill()
    job.wait()
    before = list(read_marks(tmp_path).note)
    assert before == [str(i) for i in range(len(before))]
    from faba_nb.exploring.marking import mark

    assert (
        len(mark(tmp_path, '24_FabaDr_008')) == len(before) + 1
    )  # and the next one does not wait for the dead


def test_features_click_box_slide_and_send(plants):
    from faba_nb.exploring.features_explorer import FeaturesExplorer

    e = FeaturesExplorer(sources=plants.src, to_plants=plants)
    t, _ = e.placed()
    e.picture.play('clicked', t.key[7])
    assert t.plant_id[7] in e.big.value and '<img' in e.big.value
    e.picture.play('boxed', t.key[100:110].tolist())
    assert '10 selected' in e.count.value and not e.pass_on.disabled
    e.pass_on.click()
    assert (
        set(plants.places)
        == set(t[100:110][['genotype', 'replicate']].itertuples(index=False, name=None))
        and 'selected pairs' in plants.said.value
    )
    e.days.value = (10, 20)
    assert e.picture.html.count('<circle') == t.dag.between(10, 20).sum() < len(t)
    e.clear.click()
    assert '0 selected' in e.count.value and e.pass_on.disabled
    plants.every.click()
    assert len(plants.places) == 36


def test_points_are_means_of_photographs_and_coloured_by_anything(plants, study):
    from faba_nb.backbones.store import FeatureFile
    from faba_nb.exploring.features_explorer import averaged, colour_choices, points, value_of

    file = FeatureFile(plants.src.feature_files['morphology'])
    for unit, keys in (('plant-days', ['plant_id', 'round']), ('plants', ['plant_id'])):
        table, x = averaged(file, unit)
        want = (
            pd.concat([file.index[keys], pd.DataFrame(np.asarray(file.features))], axis=1)
            .groupby(keys)
            .mean()
        )
        assert np.allclose(x, want.to_numpy(), atol=1e-4) and list(table.plant_id) == list(
            want.reset_index().plant_id
        )
    t, _ = points(plants.src, 'morphology')
    choices = dict(colour_choices(plants.src))
    p = (
        pd.read_csv(study / 'arms' / 'no_image' / 'predictions.csv')
        .query('split == "test" and protocol == "online"')
        .groupby(['plant_id', 'dag'])
        .probability.mean()
    )
    got = value_of(plants.src, t, choices['probability of no_image, online'])
    assert np.allclose(got, p.reindex(pd.MultiIndex.from_frame(t[['plant_id', 'dag']])))
    height = plants.src.xp.shape.set_index(['plant_id', 'round']).height_cm
    got = value_of(plants.src, t, choices['height, cm'])
    assert np.allclose(
        got, height.reindex(pd.MultiIndex.from_frame(t[['plant_id', 'round']])), equal_nan=True
    )


def test_arms_agree_with_the_tables_of_the_evaluation(data, study):
    from faba_nb.exploring.arms_explorer import ArmsExplorer, alarms_at

    e = ArmsExplorer(data, study)
    m = pd.read_csv(study / 'tables' / 'metrics.csv', keep_default_na=False).query('stratum == ""')
    for arm in MODELS:
        for protocol in ('online', 'retrospective'):
            now, table = (
                alarms_at(e.src.scores(arm, protocol), 0.5),
                m[(m.arm == arm) & (m.protocol == protocol)]
                .set_index(['group', 'metric'])
                .value.pipe(pd.to_numeric),  # empty where it cannot be computed
            )
            assert np.isclose(now['F1 of steps'], table['published', 'f1'])
            assert np.isclose(
                36 * (1 - now['stressed plants found']), table['measured', 'never_detected']
            )
    assert (
        'treatment_clock' in e.numbers.value and 'morphology against no_image' in e.sentences.value
    )
    f1 = e.numbers.value
    e.group.value = 'measured'
    assert e.numbers.value != f1 and 'mae_measured' in e.numbers.value


def test_threshold_and_k_move_everything(data, study):
    from faba_nb.exploring.arms_explorer import ArmsExplorer, alarms_at

    e, last = ArmsExplorer(data, study), 2.0
    s = e.src.scores('morphology', 'online')
    for t in (0.1, 0.3, 0.5, 0.7, 0.9):
        e.threshold.value = t
        now = alarms_at(s, t)
        assert (
            all(f'>{v:.3f}<' in e.alarmed.value for v in now.values())
            and now['controls alarmed'] <= last
        )
        last = now['controls alarmed']
    pictures = e.picture.html, e.delays.html, e.alarmed.value
    e.k.value = 3
    assert all(a != b for a, b in zip(pictures, (e.picture.html, e.delays.html, e.alarmed.value)))
    assert (
        alarms_at(s, 0.5, 3)['stressed plants found']
        <= alarms_at(s, 0.5, 1)['stressed plants found']
    )
    e.first.value, e.second.value, e.differ.value = 'no_image', 'morphology', 'auc'
    assert (
        'auc: no_image minus morphology' in e.genotypes.html
        and e.genotypes.html.count('data-key') == 12
    )
    e.arms.value = ('no_image',)
    assert '<th style="text-align:left;color:#1b7837">morphology' not in e.alarmed.value


def test_alarms_agree_with_a_loop(data, study):
    from faba_nb.exploring.arms_explorer import alarms_at
    from faba_nb.exploring.sources import Sources

    s = Sources(data, study).scores('no_image', 'online')
    p = pd.read_csv(study / 'arms' / 'no_image' / 'predictions.csv').query(
        'protocol == "online" and split == "test"'
    )
    for k in (1, 2, 3):
        raised, delays = [], []
        for _, t in p.groupby(['init_seed', 'plant_id']):
            t = t.sort_values('dag')
            run, day = 0, None
            for d, v in zip(t.dag, t.probability):
                run = run + 1 if v > 0.55 else 0
                if run >= k and day is None:
                    day = d
            if t.onset_dag.isna().all():
                raised.append(day is not None)
            elif day is not None:
                delays.append(day - t.onset_dag.iloc[0])
        got = alarms_at(s, 0.55, k)
        assert np.isclose(got['controls alarmed'], np.mean(raised)) and np.isclose(
            got['median delay, d'], np.median(delays)
        )


def test_nothing_there_is_said_and_how_to_mend_it(tmp_path, data, study):
    from faba_nb.exploring.arms_explorer import ArmsExplorer
    from faba_nb.exploring.features_explorer import FeaturesExplorer
    from faba_nb.exploring.plants_explorer import PlantsExplorer

    (tmp_path / 'empty').mkdir()
    for view in (PlantsExplorer, FeaturesExplorer, ArmsExplorer):
        e = view(tmp_path / 'empty', tmp_path / 'none')
        assert (
            'faba run' in e.notice.value
            and 'faba twin' in e.notice.value
            and 'image/png' not in e._repr_mimebundle_()
        )
    bare = tmp_path / 'bare'
    bare.mkdir()
    for part in data.iterdir():
        if part.name not in ('img', 'features', 'marks.csv'):
            (bare / part.name).symlink_to(part.resolve())
    e = PlantsExplorer(bare, study)  # no photographs: everything else is shown
    assert (
        'no photographs' in e.notice.value
        and 'height, cm' in e.charts.html
        and 'probability of stress' in e.charts.html
    )
    said = FeaturesExplorer(bare, tmp_path / 'none').notice.value  # no features and no weights
    assert 'faba fetch dinov2' in said and 'faba features --data' in said
    e = PlantsExplorer(data, tmp_path / 'none')  # no results: photographs are shown
    assert '<image' in e.picture.html and 'probability' not in e.drawing()
    half = tmp_path / 'half'
    shutil.copytree(study, half)
    shutil.rmtree(half / 'tables')
    e = ArmsExplorer(data, half)  # trained, not evaluated
    assert 'faba evaluate demo' in e.notice.value and 'plant-day above 0.5' in e.alarmed.value
    assert 'No predictions yet of effnet_lite0, random_vit: faba train demo' in e.notice.value
    (half / 'arms' / 'no_image' / 'predictions.csv').write_text('half a tab')
    e = ArmsExplorer(data, half)
    assert 'no_image/predictions.csv' in e.notice.value and 'morphology' in e.alarmed.value


def test_thumbnails_by_two_processes_in_one_file(data):
    code = f'''
from faba_nb.experiment.experiment_folder import Experiment
from faba_nb.exploring.thumbnails import Thumbnails
xp = Experiment({str(data)!r})
t = Thumbnails(xp.folder, 77)
small = t.get(xp.images.path.head(120))
print(len([j for j in small.values() if j]), t.path)
'''
    runs = [
        subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
        for _ in 'ab'
    ]
    said = [r.communicate()[0].split() for r in runs]
    assert said[0] == said[1] and said[0][0] == '120'
    assert [
        p.name for p in Path(said[0][1]).parent.iterdir() if p.stem == Path(said[0][1]).stem
    ] == [Path(said[0][1]).name]


@pytest.mark.parametrize('name', ['plants', 'features', 'arms', 'annotate'])
def test_notebooks_are_committed_clean_with_a_picture(name):
    import json

    nb = json.loads((ROOT / 'nbs' / '90_explore' / f'{name}.ipynb').read_text())
    shown = [o['data'] for c in nb['cells'] for o in c.get('outputs', []) if 'data' in o]
    assert any('image/png' in d for d in shown) and not any(
        'widget-view' in k for d in shown for k in d
    )
    assert 'widgets' not in nb['metadata'] and all(
        len(c['source']) <= 6 for c in nb['cells'] if c['cell_type'] == 'code'
    )


# ---- worst cases, marks of many days, and what they change
def said_by(arms):
    "Means as `Sources.means` gives them: (arm, protocol) -> plant -> dag, probability"
    days = [10.0, 17.0, 24.0, 31.0]
    return {
        reading: {p: pd.DataFrame(dict(dag=days, probability=v)) for p, v in plants.items()}
        for reading, plants in arms.items()
    }


def garden():
    "Plants, and what two readings say about them, each case once"
    rows = [(p, 'WHC-80', np.nan) for p in ('c1', 'c2', 'c3', 'c4')]
    rows += [('d1', 'WHC-30', 17), ('d2', 'WHC-30', 15), ('d3', 'WHC-30', 15)]
    rows += [('d4', 'WHC-30', 38), ('d5', 'WHC-30', 31), ('d6', 'WHC-30', 10)]
    plants = pd.DataFrame(rows, columns=['plant_id', 'treatment', 'onset_dag']).assign(flags='')
    online = dict(
        c1=[0.1, 0.7, 0.8, 0.9],  # false alarm on 17
        c2=[0.1, 0.2, 0.3, 0.5],  # never above 0.5
        c3=[0.1, 0.9, 0.2, 0.2],  # false alarm on 17, surer
        d1=[0.1, 0.2, 0.3, 0.4],  # never alarmed
        d2=[0.1, 0.1, 0.2, 0.8],  # 16 d late
        d3=[0.1, 0.8, 0.9, 0.9],  # on the first plant-day from its onset on
        d4=[0.1, 0.1, 0.1, 0.1],  # its onset comes after its last day
        d5=[0.9, 0.9, 0.9, 0.9],  # alarmed before its onset
        d6=[0.1, 0.1, 0.8, 0.9],  # 14 d late
    )  # c4 was never tested
    other = dict(online, c1=[0.6, 0.7, 0.8, 0.9], d1=[0.1, 0.1, 0.1, 0.2])
    return plants, said_by({('m', 'online'): online, ('n', 'online'): other})


NO_PHOTOS = pd.DataFrame(dict(plant_id=[], dag=[], outlier=[]))


def queue(case, threshold=0.5, only=None, images=NO_PHOTOS, **columns):
    "A queue of the garden as (plant, day, reason)"
    from faba_nb.experiment.facts import built_in
    from faba_nb.exploring.worst_cases import worst_cases

    plants, readings = garden()
    readings = {r: m for r, m in readings.items() if only is None or r[0] in only}
    plants = plants.assign(**columns)
    q = worst_cases(case, plants, images, readings, threshold, built_in())
    return list(q.itertuples(index=False, name=None))


def test_false_alarms_come_earliest_and_surest_first():
    q = queue('false', only='m')
    assert [(p, d) for p, d, _ in q] == [('c3', 17), ('c1', 17)]
    assert q[0][2] == 'control with an alarm on DAG 17, probability 0.90 (m, online)'
    both = queue('false')
    assert [(p, d) for p, d, _ in both] == [('c1', 10), ('c3', 17), ('c1', 17)]
    assert both[1][2].endswith('probability up to 0.90 (m, online; n, online)')
    assert queue('false', threshold=0.9) == []  # above, not at, the threshold
    assert {p for p, _, _ in queue('false', threshold=0.01)} == {'c1', 'c2', 'c3'}  # c4: untested


def test_only_plants_that_were_due_count_as_never_alarmed():
    q = queue('never', only='m')
    assert [(p, d) for p, d, _ in q] == [('d1', 31)]
    assert q[0][2] == (
        'drought plant never alarmed up to DAG 31, onset on DAG 17; '
        'highest probability 0.40 (m, online)'
    )
    assert queue('never', threshold=0.3, only='m') == []
    names = [p for p, _, _ in queue('never', threshold=0.95)]
    assert names[0] == 'd1' and sorted(names) == ['d1', 'd2', 'd3', 'd5', 'd6']  # d4 was not due


def test_only_alarms_that_could_have_come_earlier_are_late():
    q = queue('late', only='m')
    assert [(p, d) for p, d, _ in q] == [('d2', 31), ('d6', 24)]
    assert q[0][2] == (
        'drought plant alarmed on DAG 31, 16 d after onset on DAG 15, probability 0.80 (m, online)'
    )
    assert {p for p, _, _ in queue('late', threshold=0.05)} == set()


def test_what_the_check_suspects_is_in_the_queue_and_nothing_else():
    photos = pd.DataFrame(
        dict(
            plant_id=['c1', 'c1', 'c2', 'd1'], dag=[3, 5, 3, 9], outlier=[False, True, False, False]
        )
    )
    assert queue('doubt', images=photos.assign(outlier=False)) == []
    flags = ['', '', 'dead', '', 'treatment_swapped', '', '', '', '', '']
    q = queue('doubt', images=photos, flags=flags)
    assert [(p, why) for p, _, why in q] == [
        ('d1', 'looks exchanged with a plant of the other treatment'),
        ('c3', 'died during the experiment'),
        ('c1', '1 photograph of DAG 5: outlier in the log'),
    ]
    assert q[0][1] == 9 and np.isnan(q[1][1]) and q[2][1] == 5


def test_an_empty_queue_says_so(plants):
    e = plants
    e.protocol.value, e.threshold.value = 'online', 0.98
    e.arms.value = ('no_image',)
    e.look.value = 'false'
    found = e.cases
    alarmed = {
        p for p, q in e.src.means('no_image', 'online').items() if q.probability.max() > 0.98
    }
    control = set(e.src.xp.plants.plant_id[e.src.xp.plants.treatment == 'WHC-80'])
    assert set(found.plant_id) == alarmed & control == set()
    assert e.why.value == '<i>no control has an alarm above 0.98 (no_image, online)</i>'
    assert e.onward.disabled
    e.arms.value = ()
    assert 'choose an arm' in e.why.value
    e.look.value = ''
    assert e.why.value == ''


def test_the_queue_goes_to_plant_and_day_and_tells_the_truth(plants):
    e = plants
    e.arms.value, e.protocol.value = ('no_image',), 'online'
    e.treatment.value, e.threshold.value = 'WHC-30', 0.3
    e.look.value = 'false'
    n = len(e.cases)
    means = e.src.means('no_image', 'online')
    control = e.src.xp.plants.plant_id[e.src.xp.plants.treatment == 'WHC-80']
    wrong = {p for p in control if (means[p].probability > 0.3).any()}
    assert set(e.cases.plant_id) == wrong and n > 2 and e.cases.dag.is_monotonic_increasing
    for turned in range(n + 1):  # after the last comes the first
        case = e.cases.iloc[turned % n]
        assert agree(e) == case.plant_id
        q = means[case.plant_id]
        assert q.dag[q.probability > 0.3].min() == case.dag
        mine = e.src.rows('images', case.plant_id)
        near = mine[mine['view'] == e.views()[0]].dag
        assert abs(e.photo.dag - case.dag) == (near - case.dag).abs().min()
        assert f'{turned % n + 1} of {n}' in e.why.value and case.plant_id in e.why.value
        assert f'control with an alarm on DAG {case.dag:g}' in e.why.value
        e.picture.play('pressed', 'n')
    e.picture.play('pressed', 'p')
    assert f'1 of {n}' in e.why.value
    said = e.why.value
    e.picture.play('pressed', 'right')  # the line names its plant and stays true
    assert e.why.value == said and e.cases.plant_id[0] not in set(e.pair().plant_id)
    e.threshold.value = 0.36
    assert (e.cases.dag.size < n) and set(e.cases.plant_id) <= wrong
    e.threshold.value = 0.3
    e.look.value = 'doubt'
    assert agree(e) == e.cases.plant_id[0] and 'looks exchanged' in e.why.value


def test_all_days_and_later_days_are_marked_in_one_go(plants, data):
    e = plants
    first = e.pair().plant_id.iloc[0]
    e.picture.play('clicked', strip_path(e, first, i=4))
    framed = int(e.photo['round'])
    e.marking.note.value = 'pot fell over'
    e.picture.play('pressed', 'f')
    marks = read_marks(data)
    measured = Experiment(data).measured
    later = measured[(measured.plant_id == first) & (measured['round'] >= framed)]['round']
    assert marks['round'].tolist() == sorted(later) and len(later) > 3
    assert set(marks.note) == {'pot fell over'} and set(marks['mark']) == {'doubtful'}
    assert set(marks['view']) == {''} and set(marks.plant_id) == {first}
    e.marking.whole.click()
    assert read_marks(data)['round'].tolist() == [*sorted(later), 0]
    e.picture.play('pressed', 'u')
    assert read_marks(data)['round'].tolist() == sorted(later)
    e.picture.play('pressed', 'u')  # one undo takes the whole back
    assert len(read_marks(data)) == 0 and e.marking.back.disabled
    assert f'taken back: {first}, {len(later)} of {len(later)} marks' in e.marking.said.value
    e.picture.play('pressed', 'a')
    assert read_marks(data)[['plant_id', 'round', 'view']].values.tolist() == [[first, 0, '']]


def test_an_undo_leaves_what_others_took_back_or_wrote(plants, data):
    from faba_nb.exploring.marking import mark, unmark

    e = plants
    e.picture.play('clicked', strip_path(e, e.pair().plant_id.iloc[0], i=7))
    e.picture.play('pressed', 'f')
    n = len(read_marks(data))
    unmark(data, read_marks(data).iloc[0])
    mark(data, '24_FabaDr_008', author='Ada')
    e.picture.play('pressed', 'u')
    assert read_marks(data).author.tolist() == ['Ada']
    assert f'{n - 1} of {n} marks' in e.marking.said.value


def test_what_would_change_is_what_a_study_without_the_marked_days_says(plants, study):
    from faba_nb.evaluation.metrics import fold_values, overall
    from faba_nb.evaluation.predictions import read_predictions, scores

    e = plants
    e.arms.value, e.protocol.value = ('morphology',), 'online'
    assert e.changes.value == ''
    first = e.pair().plant_id.iloc[1]
    e.picture.play('clicked', strip_path(e, first, i=4))
    framed = int(e.photo['round'])
    e.picture.play('pressed', 'f')
    df = read_predictions(study / 'arms' / 'morphology' / 'predictions.csv')
    gone = (df.plant_id == first) & (df['round'] >= framed)
    s, rest = scores(df, 'online'), scores(df[~gone], 'online')
    left = s.steps[(s.steps.plant_id == first) & (s.steps['round'] >= framed)]
    per = {t: (s.steps.treatment == t).sum() for t in ('WHC-80', 'WHC-30')}
    n = len(left)
    assert n > 3 and set(left.treatment) == {'WHC-30'}
    told = f'{n} of {len(s.steps)} plant-days (WHC-80: 0 of {per["WHC-80"]}, '
    assert told + f'WHC-30: {n} of {per["WHC-30"]})' in e.changes.value
    for name, metric in (('F1', 'f1'), ('AUC', 'auc')):
        before, after = (overall(fold_values(x)[metric]) for x in (s, rest))
        assert f'{name} {before:.3f} → {after:.3f}' in e.changes.value
    assert 'as published' in e.changes.value and 'no_image' not in e.changes.value
    e.arms.value = ('morphology', 'no_image')
    assert e.changes.value.count('F1') == 2
    e.picture.play('pressed', 'u')
    assert e.changes.value == ''


def test_full_resolution_is_read_only_for_who_zooms(plants, monkeypatch):
    import base64
    import io
    import re

    from PIL import Image

    from faba_nb.exploring import plants_explorer as module

    read = []
    at_full_size = module.at_full_size
    monkeypatch.setattr(module, 'at_full_size', lambda *a: (read.append(a[1]), at_full_size(*a))[1])
    e = plants
    e.picture.play('clicked', strip_path(e, e.pair().plant_id.iloc[0]))
    assert not read and e.big.value.count('data-zoom="reduced"') == 2
    e.zoomed.play('zoomed', '')
    assert len(read) == 2 and e.big.value.count('data-zoom="full"') == 2
    shown = re.findall(r'base64,([^"]+)', e.big.value)
    sizes = [Image.open(io.BytesIO(base64.b64decode(j))).size for j in shown]
    assert sizes == [Image.open(e.src.xp.folder / p).size for p in read]
    e.threshold.value = 0.4  # what is drawn anew below leaves the photographs alone
    e.draw()
    assert len(read) == 2
    e.picture.play('pressed', ']')
    assert e.big.value.count('data-zoom="reduced"') == 2


def test_published_numbers_count_the_rows_of_all_rounds_where_a_study_has_them(
    study, data, tmp_path
):
    from faba_nb.evaluation.evaluating import read_arm
    from faba_nb.exploring.sources import Sources

    both = tmp_path / 'both'
    shutil.copytree(study, both)
    (both / 'run.json').unlink()
    arm = both / 'arms' / 'morphology'
    p = pd.read_csv(arm / 'predictions.csv')
    p.assign(measured=1, probability=1 - p.probability).to_csv(
        arm / 'predictions_all_rounds.csv', index=False
    )
    src = Sources(data, both)
    for s, wide in read_arm(both, 'morphology')[0]:
        mine = src.published('morphology', s.protocol)
        assert np.allclose(np.sort(mine.p), np.sort(wide.counted.p))
        assert np.allclose(np.sort(mine.p), np.sort(1 - src.scores('morphology', s.protocol).p))
    assert src.published('no_image', 'online') is src.scores('no_image', 'online')


def test_sizes_that_fit_their_neighbours_are_looked_at_in_a_described_experiment(tmp_path):
    "A run of pots shifted by one place on day 10, and the same without the shift; no photographs"
    from test_description import made

    from faba_nb.exploring.plants_explorer import PlantsExplorer

    rng = np.random.default_rng(7)
    days = np.arange(0, 18, 2)
    start, speed = rng.normal(3, 0.3, (120, 1)), rng.normal(0.12, 0.02, (120, 1))
    logs = start + speed * days + rng.normal(0, 0.05, (120, len(days)))
    moved = logs.copy()
    moved[50:71, 5] = logs[51:72, 5]
    for name, sizes in dict(still=logs, moved=moved).items():
        folder = made(tmp_path / name, groups=30, days=(0,))
        plants = pd.read_csv(folder / 'plants.csv').plant_id
        names = sorted(plants, key=lambda p: (int(p[:-4]), p))
        wide = pd.DataFrame(np.exp(sizes), index=names, columns=days).rename_axis('plant_id')
        long = wide.reset_index().melt('plant_id', var_name='day', value_name='area')
        long.to_csv(folder / 'size.csv', index=False)
        e = PlantsExplorer(folder, tmp_path / 'none')
        e.look.value = 'doubt'
        if name == 'still':
            assert (
                e.why.value
                == '<i>no plant is flagged and no photograph is an outlier in the log</i>'
            )
            continue
        assert e.cases.plant_id.tolist() == names[50:71] and set(e.cases.dag) == {10}
        assert 'area on day 10 fits the plant +1 places on better' in e.why.value
        e.press(['n'])
        assert names[51] in set(e.pair().plant_id) and ', 2 of 21' in e.why.value
        assert e.photo is None  # there is nothing to enlarge, and nothing is marked
        e.press(['a', 'f'])
        assert not (folder / 'marks.csv').exists()
        e.look.value = 'never'
        assert e.why.value == '<i>no predictions are shown: choose an arm</i>'


# ---- a described experiment ----
TRAY = """plant_id,day,view,path,left,top,right,bottom
1d02,0,top,a.png,0,0,40,40
1d502,0,top,a.png,40,0,80,40
1d02,7.5,top,a.png,0,0,40,40
1d1002,7.5,nadir_2,b.png,,,,
2d502,7.5,nadir_2,b.png,,,,
"""


def tray(folder):
    "Three doses, a genotype without controls, two plants in one photograph, two views"
    from PIL import Image
    from test_description import SMALL, made

    text = SMALL.replace(
        '{wet: control, dry: {role: stress, label: drought}}',
        '{d0: control, d50: stress, d100: stress}',
    )
    doses = ('d0', 'd50', 'd100')
    made(folder, text + 'images: i.csv\n', groups=3, tables={'i.csv': TRAY}, treatments=doses)
    table = pd.read_csv(folder / 'plants.csv')
    table[~((table.genotype == 'g2') & (table.treatment == 'd0'))].to_csv(
        folder / 'plants.csv', index=False
    )
    both = Image.new('RGB', (80, 40), 'red')
    both.paste((0, 160, 0), (40, 0, 80, 40))
    both.save(folder / 'a.png')
    Image.new('RGB', (80, 40), 'blue').save(folder / 'b.png')
    return folder


def colour_of(jpeg):
    "Which of red, green and blue a small picture is"
    import io

    from PIL import Image

    picture = np.asarray(Image.open(io.BytesIO(jpeg)).convert('RGB'))
    return ('red', 'green', 'blue')[picture.mean((0, 1)).argmax()]


@pytest.fixture(scope='module')
def described(tmp_path_factory):
    from faba_nb.exploring.plants_explorer import PlantsExplorer

    folder = tray(tmp_path_factory.mktemp('described') / 'x')
    return PlantsExplorer(folder, tmp_path_factory.mktemp('none'))


def test_plants_of_a_tray_have_their_own_pictures(described):
    e = described
    e.find('g1')
    e._goto('g1', 2)
    e.view.value = 'all views'
    assert e.view.options == ('nadir_2', 'top', 'all views')
    photos = e.src.images[e.src.images.plant_id.isin(['1d02', '1d502'])]
    small = e.thumbs.get(photos.photo)
    seen = {p: colour_of(small[name]) for p, name in zip(photos.plant_id, photos.photo)}
    assert seen == {'1d02': 'red', '1d502': 'green'}
    e.draw(np.inf)
    assert e.picture.html.count('<image') == 4
    green = photos.photo[photos.plant_id == '1d502'].iloc[0]
    e.enlarge(f'photo|{green}')
    assert e.photo.plant_id == '1d502' and '1d502' in e.big.value
    e.hide()


def test_any_number_of_doses_and_no_control(described):
    e = described
    assert e.treatment.options == ('all', 'd0', 'd50', 'd100')
    e._goto('g1', 2)
    assert e.pair().treatment.tolist() == ['d0', 'd50', 'd100']
    e._goto('g2', 2)
    assert e.pair().treatment.tolist() == ['d50', 'd100']
    e.view.value = 'nadir_2'
    e.load()
    e.draw(np.inf)
    assert e.picture.html.count('<image') == 1 and 'no photographs of this view' in e.picture.html
    assert e.shown.options == (('area (size)', ('size', 'area')),)
    assert 'area (size)' in e.charts.html and '<circle' in e.charts.html


def test_days_and_words_are_those_of_the_experiment(described):
    e = described
    e._goto('g1', 2)
    e.view.value = 'all views'
    e.draw(np.inf)
    html = e.picture.html
    assert '>7.5<' in html and 'day 7.5' in html
    assert 'nan' not in html and 'annotated' not in html and 'onset' not in html
    assert 'stress from day 3' in html
    assert 'img there' not in ' '.join(e.src.missing)


def test_a_name_without_a_number_is_found(described):
    described.find('3')
    assert 'genotypes match' in described.said.value or described.at[0] == 'g3'


def test_pages_show_the_views_and_boxes_of_the_experiment(described):
    from faba_nb.reporting.figures import cut, main_view, plant_boxes

    images = described.src.images
    assert main_view(images) == 'nadir_2'
    tray = images[images.path == 'a.png']
    assert plant_boxes(tray) == [(0, 0, 40, 40), (0, 0, 40, 40), (40, 0, 80, 40)]
    files = [described.src.xp.folder / p for p in tray.path]
    red, _, green = cut(files, 40, plant_boxes(tray))
    assert red.shape == green.shape and red.shape[1] == red.shape[0]
    assert red[..., 0].mean() > 200 and green[..., 1].mean() > 120
    assert green[..., 0].mean() < 50 < red[..., 0].mean()


def test_features_of_a_described_experiment(described, tmp_path):
    from faba_nb.exploring.features_explorer import colour_choices
    from faba_nb.exploring.sources import Sources

    src = Sources(described.src.data, tmp_path)
    choices = [c for _, c in colour_choices(src)]
    assert {'treatment', 'genotype', 'stressed', ('size', 'area')} <= set(choices)
    assert not {'fw_g', 'dw_g', ('fluor', 'NPQ_Lss')} & set(choices)


# ---- maps over photographs ----


def test_a_key_lays_the_map_over_the_enlarged_day(explained_twin, twin):
    "And takes it off; on a day without one it says so; no map is read twice"
    from faba_nb.exploring.plants_explorer import PlantsExplorer

    e = PlantsExplorer(twin, explained_twin)
    assert 'faba explain' not in e.said.value
    m = e.overlays()[0].maps[0]
    p = e.src.xp.plants.set_index('plant_id').loc[m.plant_id]
    e._goto(p.genotype, p.replicate)
    im = e.src.images
    mine = im[(im.plant_id == m.plant_id) & (im['view'] == m.view)].sort_values('dag')
    e.enlarge('photo|' + mine[mine.dag == m.day].photo.iloc[0])
    assert 'faba-map' not in e.big.value and e.mapped.value == ''
    e.press(['o'])
    assert 'faba-map' in e.big.value and 'log-odds of DINOv2' in e.mapped.value
    known = e.overlays()
    e.enlarge('photo|' + mine.photo.iloc[0])
    assert 'faba-map' not in e.big.value and 'no map of this day' in e.mapped.value
    assert e.overlays() is known
    e.press(['o'])
    assert 'faba-map' not in e.big.value and e.mapped.value == ''


def test_without_explanations_the_key_says_what_to_do(twin, tmp_path):
    from faba_nb.exploring.plants_explorer import PlantsExplorer

    e = PlantsExplorer(twin, tmp_path)
    e.press(['o'])
    assert 'faba explain OUT' in e.said.value and e.mapped.value == ''


def test_a_drawing_of_ours_is_drawn_and_one_among_photographs_is_not():
    import pyvips
    from faba_nb.backbones import photographs
    from faba_nb.exploring.charts import as_png

    drawing = '<svg width="8" height="8"><rect width="8" height="8" fill="red"/></svg>'
    assert photographs and as_png(drawing).startswith(b'\x89PNG')
    named = drawing.replace('<svg ', '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    with pytest.raises(pyvips.Error, match='blocked'):
        pyvips.Image.svgload_buffer(named.encode())
