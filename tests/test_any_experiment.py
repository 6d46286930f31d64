"Training on experiments that describe themselves: groups, modalities, parts, batches of unequal size, a first study"

import html
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from test_description import SMALL, TARTU, made

from faba_nb.core.errors import BadInput
from faba_nb.core.provenance import read_log
from faba_nb.core.studies import Arm, study_from
from faba_nb.core.study_folder import StudyFolder
from faba_nb.evaluation.evaluating import evaluate_study, plant_sizes, read_arm
from faba_nb.evaluation.own_signals import (
    comparisons,
    own_columns,
    own_effects,
    own_leads,
    own_signal_tables,
    places_of,
)
from faba_nb.evaluation.robustness import analysis_words
from faba_nb.evaluation.strata import factors_of
from faba_nb.experiment.description import TASKS
from faba_nb.experiment.experiment_folder import Experiment
from faba_nb.experiment.facts import facts_from
from faba_nb.experiment.plant_size import plant_size
from faba_nb.reporting.answer import against_rivals, answer_table, not_said, verdict, whose_label
from faba_nb.reporting.comparison_tables import (
    METRICS,
    SENSITIVITIES,
    measured_table,
    metric_name,
    nice,
    rivals_table,
    strata_table,
)
from faba_nb.reporting.figures import scores
from faba_nb.reporting.glossary import glossary
from faba_nb.reporting.methods import labels_text, pipeline
from faba_nb.reporting.presymptomatic import earliness_table, gate_weights
from faba_nb.reporting.results import Results
from faba_nb.reporting.sentences import facts
from faba_nb.reporting.signals import alarm_table
from faba_nb.reporting.site import NEEDS
from faba_nb.reporting.words import filled, label_words
from faba_nb.running.pipeline import write_study
from faba_nb.running.preconditions import preconditions
from faba_nb.testing.example_bundles import invented
from faba_nb.training.bundle import load_bundle, relabelled
from faba_nb.training.engine import Fit, Stack
from faba_nb.training.folds import make_folds, members
from faba_nb.training.starter import default_encoder, starter_study
from faba_nb.training.study_training import arm_fits, check_folds, train_study

pytestmark = pytest.mark.usefixtures('one_thread')

SIZE = Arm(modalities=('size',), max_epochs=1)
DOSES = SMALL.replace(
    '{wet: control, dry: {role: stress, label: drought}}',
    '{d0: control, d50: {role: stress, from: 2}, d100: stress}',
).replace('{from: exposure, day: 3}', 'unknown')


def in_blocks(folder):
    "Two genotypes in eight blocks, of which a block is left out"
    rows = [f'{g}{t}{b},{g},{t},{b}' for g in 'AB' for t in ('wet', 'dry') for b in range(1, 9)]
    sizes = [f'{r.split(",")[0]},{d},{d + i % 7}' for i, r in enumerate(rows) for d in (0, 2, 4)]
    tables = {
        'plants.csv': '\n'.join(['plant,genotype,treatment,block', *rows]),
        'size.csv': '\n'.join(['plant,day,area', *sizes]),
    }
    return made(folder, SMALL + 'leave_out: block\n', tables=tables)


def run(folder, out, *settings):
    "The starter study, trained and evaluated; its predictions and its table of metrics"
    study = starter_study(Experiment(folder), ['defaults.max_epochs=1', *settings])
    assert preconditions(study, folder) == []
    write_study(study, folder, folder / 'features', out)
    done = train_study(study, folder, folder / 'features', out, workers=1)
    assert sorted(done['complete']) == sorted(study.arms)
    evaluate_study(out, draws=100)
    arm = next(iter(study.arms))
    found = pd.read_csv(out / 'arms' / arm / 'predictions.csv', dtype={'genotype': str})
    return found, pd.read_csv(out / 'tables' / 'metrics.csv')


def value(metrics, metric, arm='size_alone'):
    "The first value of a metric"
    of = metrics[(metrics.arm == arm) & (metrics.metric == metric)]
    return of.value.iloc[0]


# ---- made experiments, from tables to tables ----
def test_blocks_are_left_out(tmp_path):
    found, metrics = run(in_blocks(tmp_path / 'x'), tmp_path / 'out')
    assert sorted(found.genotype.unique()) == list('12345678')
    test = found[(found.split == 'test') & (found.protocol == 'online')]
    assert test.groupby('genotype').plant_id.nunique().eq(4).all()
    assert test.groupby('genotype').fold.unique().map(len).eq(1).all()
    assert np.isfinite(value(metrics, 'f1'))
    results = Results(tmp_path / 'out')
    drawn, table = against_rivals(results, 190), answer_table(results)
    said = [*verdict(results), whose_label(results), not_said(results), facts(results)]
    said += [drawn.caption, table.caption]
    said += [scores(results, 190).caption, rivals_table(results).caption]
    assert 'over 8 left-out blocks' in said[0] and '8 blocks left out in turn' in ' '.join(said)
    assert not re.search('genotype', ' '.join(said))


def test_gates_of_freely_named_modalities_are_shown(tmp_path):
    "Every modality of the experiment has its line, each of another colour"
    text = SMALL.replace('{size: size.csv}', '{size: size.csv, warmth: size.csv, water: size.csv}')
    out = tmp_path / 'out'
    run(made(tmp_path / 'x', text), out)
    shown = gate_weights(Results(out), 190, 'all')
    for name in ('size', 'warmth', 'water'):
        assert f'{name} 0.' in shown.alt
    for ax in shown.figure.axes:
        assert len({line.get_color() for line in ax.lines}) == 3


LIT = [('dry', 1, 'LL'), ('dry', 2, 'LL'), ('wet', 1, 'HL'), ('wet', 2, 'HL'), ('wet', 3, 'LL')]


def test_predictions_carry_what_controls_must_share(tmp_path):
    "The light of every plant stands in its rows, and pairs are made within it; without the column, one line"
    text = SMALL.replace('role: stress, label: drought', 'role: stress, with: {light: LL}')
    plants = [f'{g}{t}{i},g{g},{t},{light}' for g in range(6) for t, i, light in LIT]
    sizes = [f'{p.split(",")[0]},{d},{d + i % 5}' for i, p in enumerate(plants) for d in (0, 2, 4)]
    tables = {
        'plants.csv': '\n'.join(['plant,genotype,treatment,light', *plants]),
        'size.csv': '\n'.join(['plant,day,area', *sizes]),
    }
    folder = made(tmp_path / 'x', text, tables=tables)
    found, metrics = run(folder, tmp_path / 'out')
    light = pd.read_csv(folder / 'plants.csv').set_index('plant').light
    assert (found.with_light == found.plant_id.map(light)).all()
    assert np.isfinite(value(metrics, 'lead'))
    folder = StudyFolder(tmp_path / 'out').arm('size_alone')
    read, _ = read_arm(tmp_path / 'out', 'size_alone')
    s = next(s for s, _ in read if s.protocol == 'online')
    assert set(s.plants.with_light[s.pairs[:, 1]]) == {'LL'}
    assert s.pairs[:, 0].tolist() == s.plants.index[s.plants.drought].tolist()
    assert 'with_light' in pd.read_csv(folder.predictions_permuted)


def test_doses_are_detected_from_their_day(tmp_path):
    folder = made(tmp_path / 'x', DOSES, treatments=('d0', 'd50', 'd100'))
    found, metrics = run(folder, tmp_path / 'out')
    labels = found.groupby('treatment').apply(lambda t: set(t.dag[t.label == 1]))
    assert labels.to_dict() == {'d0': set(), 'd50': {2, 4}, 'd100': {0, 2, 4}}
    assert np.isfinite(value(metrics, 'f1'))


def test_days_stay_as_they_are(tmp_path):
    folder = made(tmp_path / 'x', days=(0.5, 7.0, 7.5, 14.5))
    found, metrics = run(folder, tmp_path / 'out')
    assert sorted(found.dag.unique()) == [0.5, 7.0, 7.5, 14.5]
    bundle = load_bundle(SIZE, Experiment(folder))
    assert bundle.steps.dag[0].tolist() == [0.5, 7.0, 7.5, 14.5]


def test_hundreds_of_groups_in_parts(tmp_path):
    folder = made(tmp_path / 'x', groups=120, days=(0, 2, 4))
    study = starter_study(Experiment(folder), ['defaults.estimator=logistic'])
    arm = study.arms['size_alone']
    assert arm.folds == 44 and arm.fits(120) == 44
    assert preconditions(study, folder) == []
    done = train_study(study, folder, tmp_path, tmp_path / 'out', workers=1)
    assert done['fits'] == 44
    found = pd.read_csv(tmp_path / 'out' / 'arms' / 'size_alone' / 'predictions.csv')
    test = found[(found.split == 'test') & (found.protocol == 'online')]
    assert test.genotype.nunique() == 120 and not test.duplicated(['plant_id', 'dag']).any()
    assert test.groupby('fold').genotype.nunique().isin([2, 3]).all()


# ---- refused in one line ----
REFUSED = {
    'no control': (
        SMALL.replace('wet: control', 'wet: stress'),
        {},
        'no plant with the role contr',
    ),
    'one day': (SMALL, {'days': (3,)}, 'one day (3)'),
    'two groups': (SMALL, {'groups': 2}, '2 groups (genotype)'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_what_cannot_be_trained_is_refused(tmp_path, case):
    text, more, line = REFUSED[case]
    folder = made(tmp_path / 'x', text, **more)
    found = preconditions(
        study_from({'name': 's', 'arms': {'a': {'modalities': ['size']}}}), folder
    )
    assert line in str(found[0]) and '\n' not in str(found[0])


ASKED = {
    'sise': ({'modalities': ['sise']}, "no modality 'sise' (arm b); did you mean 'size'"),
    'image': ({'modalities': ['size', 'image']}, "no modality 'image' (arm b); there are: size"),
    'built-in': ({}, "no modality 'image'"),
    'published': (
        {'modalities': ['size'], 'preparation': 'published'},
        'the published preparation is that of the built-in layout (arm b)',
    ),
}


@pytest.mark.parametrize('case', ASKED)
def test_a_modality_that_is_not_there(tmp_path, case):
    arm, line = ASKED[case]
    arms = {'a': {'modalities': ['size']}, 'b': arm}
    found = preconditions(study_from({'name': 's', 'arms': arms}), made(tmp_path / 'x'))
    assert [line in str(e) for e in found] == [True], found
    assert '\n' not in str(found[0])


def test_no_control_on_the_command_line(tmp_path, faba):
    folder = made(tmp_path / 'x', SMALL.replace('wet: control', 'wet: stress'))
    done = faba('run', 'starter', '--data', folder, '--out', tmp_path / 'out')
    assert done.returncode == 2 and done.stderr.count('\n') == 1
    assert 'no plant with the role control' in done.stderr and not (tmp_path / 'out').exists()


def test_starter_needs_an_experiment(faba, tmp_path):
    done = faba('study', 'starter', env={'PATH': '', 'HOME': str(tmp_path)})
    assert done.returncode == 2 and 'made from what an experiment has' in done.stderr


# ---- what is loaded ----
def test_clocks_are_off_unless_asked_for(tmp_path):
    text = SMALL.replace('{size: size.csv}', '{size: size.csv, weather: w.csv}')
    folder = made(tmp_path / 'x', text, tables={'w.csv': 'day,light\n0,100\n2,90\n4,50\n'})
    xp = Experiment(folder)
    assert list(starter_study(xp).arms) == ['size_alone']
    asked = load_bundle(Arm(modalities=('size', 'weather')), xp)
    assert asked.widths() == {'size': 1, 'weather': 1}
    assert asked.steps.values['weather'][:, :, 0].std(axis=0).max() == 0


def test_starter_of_photographs(tmp_path):
    from PIL import Image

    text = SMALL.replace('onset:', 'images: "{plant_id}_d{day}.png"\nonset:').replace(
        '{size: size.csv}', '{size: size.csv, leaf: leaf.csv}'
    )
    sizes = made(tmp_path / 'x') / 'size.csv'
    folder = made(tmp_path / 'x', text, tables={'leaf.csv': sizes.read_text()})
    ids = pd.read_csv(folder / 'plants.csv').plant_id
    for plant in ids:
        Image.new('RGB', (16, 16), 'white').save(folder / f'{plant}_d0.png')
    arms = starter_study(Experiment(folder)).arms
    assert list(arms) == ['image_alone', 'size_alone', 'leaf_alone', 'all', 'without_images']
    assert arms['image_alone'].backbone == default_encoder()
    for plant in ids:  # cut out on black
        picture = Image.new('RGB', (16, 16))
        picture.paste((40, 160, 40), (4, 4, 12, 12))
        picture.save(folder / f'{plant}_d0.png')
    arms = starter_study(Experiment(folder)).arms
    assert arms['morphology'].backbone == 'morphology' and 'image_alone' in arms


def test_treatments_without_a_role_are_no_input(tmp_path):
    text = SMALL.replace('{wet: control,', '{wet: control, salt: other,')
    xp = Experiment(made(tmp_path / 'x', text, treatments=('wet', 'dry', 'salt')))
    bundle = load_bundle(SIZE, xp)
    assert set(bundle.plants.treatment) == {'wet', 'dry'} and len(bundle.plants) == 24


def test_a_group_without_a_control_is_never_left_out(tmp_path):
    folder = made(tmp_path / 'x')
    plants = pd.read_csv(folder / 'plants.csv')
    plants[~((plants.genotype == 'g2') & (plants.treatment == 'wet'))].to_csv(
        folder / 'plants.csv', index=False
    )
    bundle = load_bundle(SIZE, Experiment(folder))
    folds = make_folds(bundle.plants)
    assert [f.test for f in folds] == ['g1', 'g3', 'g4', 'g5', 'g6']
    assert not any('g2' in f.validation for f in folds)
    learned = members(folds[0], bundle.plants.genotype)['train']
    assert 'g2' in set(bundle.plants.genotype.iloc[learned])
    check_folds(arm_fits('a', SIZE, bundle.plants), bundle)


def test_classes_are_thirds_where_each_has_two_groups(tmp_path):
    folder = made(tmp_path / 'x', SMALL.replace('{from: exposure, day: 3}', '{from: plants}'))
    plants = pd.read_csv(folder / 'plants.csv')
    day = plants.genotype.str[1:].astype(int)
    plants['onset_day'] = (day / 2 + 0.5).where(plants.treatment == 'dry')
    plants.to_csv(folder / 'plants.csv', index=False)
    bundle = load_bundle(SIZE, Experiment(folder))
    classes = bundle.plants.drop_duplicates('genotype').set_index('genotype').onset_class
    assert classes.value_counts().eq(2).all()
    for f in make_folds(bundle.plants):
        assert [classes[v] for v in f.validation] == ['Early', 'Mid', 'Late']
    again = relabelled(bundle, bundle.plants.set_index('plant_id').onset_dag)
    assert again.plants.onset_class.equals(bundle.plants.onset_class)
    made(tmp_path / 'x', groups=5)
    plants[plants.genotype != 'g6'].to_csv(folder / 'plants.csv', index=False)
    (folder / 'experiment.yaml').write_text(
        SMALL.replace('{from: exposure, day: 3}', '{from: plants}')
    )
    five = make_folds(load_bundle(SIZE, Experiment(folder)).plants)
    assert {len(f.validation) for f in five} == {1}


# ---- engine ----
def test_unequal_groups_do_not_see_each_other():
    "Other numbers of batches and of validation plants: to the bit as alone"
    b = invented(12, 47)
    large = {f'Bean {i:02d}': 'Bean 00' for i in range(5)}
    b.plants = b.plants.assign(onset_class='', genotype=b.plants.genotype.replace(large))
    arm = Arm(batch_size=7)
    fits = [Fit('a', f, 1) for f in make_folds(b.plants)]

    def trained(some):
        stack = Stack(b, arm)
        stack.add(some)
        for _ in range(3):
            stack.epoch()
        return stack

    def losses(stack, row):
        return [(e['train'], e['validation']) for e in stack.state.logs[row]]

    together = trained(fits)
    assert len(set(together.steps)) == 2 and len({len(f.fold.validation) for f in fits}) == 1
    for i, f in enumerate(fits):
        alone = trained([f])
        assert losses(alone, 0) == losses(together, i), f.name
        for n, x in alone.state.weights.items():
            assert torch.equal(x[0], together.state.weights[n][i]), (f.name, n)


def test_parts_change_the_fingerprint_and_nothing_else_does():
    from faba_nb.training.fits import fit_fingerprint

    b = invented(9)
    fit = arm_fits('a', Arm(), b.plants)[0]
    whole = fit_fingerprint(fit, Arm(), 'data')
    assert fit_fingerprint(fit, Arm(folds=3), 'data') != whole
    parts = arm_fits('a', Arm(folds=3), b.plants.assign(onset_class=''))
    assert [len(f.fold.left_out) for f in parts] == [3, 3, 3]
    test = [members(f.fold, b.plants.genotype)['test'] for f in parts]
    assert sorted(np.concatenate(test)) == list(range(54))


def test_one_part_is_refused():
    with pytest.raises(BadInput, match='one part would be everybody'):
        study_from({'arms': {'a': {'folds': 1}}})


# ---- signals of its own modalities ----
def test_signals_are_of_the_groups_that_are_left_out(tmp_path):
    folder = in_blocks(tmp_path / 'x')
    sizes = pd.read_csv(folder / 'size.csv')
    noise = np.random.default_rng(0).normal(0, 1, len(sizes))
    dry = sizes.plant.str.contains('dry')
    sizes['area'] = 10 + noise - 4 * (dry & (sizes.day > 0))
    sizes.to_csv(folder / 'size.csv', index=False)
    xp = Experiment(folder)
    assert [(c.treatment, c.unit) for c in comparisons(xp)] == [('dry', 'block')]
    one = own_signal_tables(xp, 20)['signal_divergence'].iloc[0]
    assert one.n_groups == 8 and one.divergence_dag == 2 and one.sd_block >= 0


def test_every_dose_is_compared_with_the_controls(tmp_path):
    xp = Experiment(made(tmp_path / 'x', DOSES, treatments=('d0', 'd50', 'd100')))
    found = comparisons(xp)
    assert [c.treatment for c in found] == ['d50', 'd100']
    assert [set(c.plants.treatment) for c in found] == [{'d0', 'd50'}, {'d0', 'd100'}]


def test_places_are_shared_and_not_decided_by_treatment_or_genotype():
    n = 24
    plants = pd.DataFrame(
        dict(
            genotype=np.repeat(list('abcdef'), 4),
            treatment=np.tile(['wet', 'dry'], 12),
            tray=np.tile(range(4), 6),
            same_tray=np.tile(list('wxyz'), 6),
            water=np.tile(['much', 'little'], 12),
            country=np.repeat(['x', 'y', 'z'], 8),
            mass=np.arange(n) % 3 / 2,
            label=[f'L{i}' for i in range(n)],
        )
    )
    assert places_of(plants) == ['tray']


def leading(folder):
    "Onsets in a column of the plant table; heat changes 8 days before them, size 2 days after"
    text = SMALL.replace('{from: exposure, day: 3}', '{from: plants}')
    text = text.replace('{size: size.csv}', '{heat: heat.csv, size: size.csv}')
    made(folder, text, groups=6, days=range(0, 32, 2))
    plants = pd.read_csv(folder / 'plants.csv')
    onset = 14 + plants.genotype.str[1:].astype(int)
    plants['onset_day'] = onset.where(plants.treatment == 'dry')
    plants.to_csv(folder / 'plants.csv', index=False)
    rng = np.random.default_rng(0)
    keys = pd.read_csv(folder / 'size.csv')[['plant_id', 'day']].merge(plants)
    for name, after in (('heat', -8), ('size', 2)):
        since = (keys.day - keys.onset_day.fillna(99) - after).clip(0)
        t = keys[['plant_id', 'day']].assign(value=rng.normal(0, 1, len(keys)) + 3 * since)
        t.to_csv(folder / f'{name}.csv', index=False)
    return folder


def test_leads_before_an_onset_in_a_column(tmp_path):
    folder = leading(tmp_path / 'x')
    t = own_signal_tables(Experiment(folder), 50)
    [lead] = t['signal_leads'].itertuples()
    assert 0 < lead.low < 10 < lead.high
    after = t['signal_alarms'].set_index('modality').days_after
    assert after['heat'] < 0 < after['size']
    out = tmp_path / 'out'
    _, metrics = run(folder, out, 'defaults.estimator=logistic')
    early = metrics[(metrics.protocol == 'online') & (metrics.stratum == 'k=1,target=0.05')]
    early = early.set_index(['arm', 'metric']).value
    assert early['heat_alone', 'lead'] > 0 == early['size_alone', 'lead']
    assert early['heat_alone', 'pre_onset_excess'] > 0
    alarms = alarm_table(Results(out))
    assert 'Days from onset to the alarm' in alarms.caption
    assert any('Lead' in c.title for c in earliness_table(Results(out)).columns)
    shown = pipeline(Results(out), 190)
    boxes = ' '.join(text.get_text() for text in shown.figure.axes[0].texts)
    assert 'heat, size' in boxes and not re.search('Photo|encoder|fluorescence|sides', boxes)
    assert 'Photographs' not in shown.alt and 'The sensor tables go into' in shown.alt


def test_a_weather_table_and_a_constant_are_no_signals(tmp_path):
    text = SMALL.replace('{size: size.csv}', '{size: size.csv, weather: w.csv}')
    weather = 'day,light\n0,100\n2,90\n4,50\n'
    xp = Experiment(made(tmp_path / 'x', text, tables={'w.csv': weather}))
    assert own_columns(xp) == {'size': ['area']}
    assert own_signal_tables(xp, 20) == {}  # sizes grow alike to the last digit


@pytest.fixture(scope='module')
def high_light(shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp('tartu')
    (folder / 'experiment.yaml').write_text(TARTU.format(shared / 'tartu'))
    xp = Experiment(folder)
    return xp, next(c for c in comparisons(xp) if c.treatment.endswith('HL'))


def test_tartu_temperature_leads_rosette_area(high_light):
    "High light: temperature from day 12, area from day 16; six genotypes, so p is 2 of 64"
    xp, c = high_light
    assert c.places == ('tray_id', 'position')
    day = {m: own_effects(xp, c, m)[1].set_index('column') for m in ('thermal', 'rosette')}
    assert day['thermal'].divergence_dag['Temp-avg'] == 12
    assert day['rosette'].divergence_dag['AREA_MM'] == 16
    leads = own_leads(xp, c).set_index(['first', 'second'])
    lead = leads.loc[('Temp-avg', 'AREA_MM')]
    assert lead.low > 2 and lead.low < 4 < lead.high and lead.p == 2 / 64
    assert leads.leading['Temp-avg', 'AREA_PX'] == 1 and lead.leading == 0


def test_tartu_tray_offset_is_no_divergence(high_light):
    "Cooler trays on day 0, and so on day 6"
    t, one = own_effects(*high_light, 'thermal')
    at = t[t['column'] == 'Temp-avg'].set_index('dag')
    assert at.effect[0] < -0.5 and at.effect[6] < -0.5 and abs(at.change[6]) < 0.5
    first = one.set_index('column').loc['Temp-avg']
    assert first.first_high < 0 and at.change[first.divergence_dag] > 0


# ---- baselines that see the size of plants ----
def logged(out):
    "Which size the evaluation took, in words"
    return [e['plant_size'] for e in read_log(out) if 'plant_size' in e][-1]


def test_a_size_column_makes_the_growth_curve(tmp_path):
    folder = made(tmp_path / 'x', days=(0, 2, 4, 6))
    found, metrics = run(folder, tmp_path / 'out', 'defaults.estimator=logistic')
    assert {'growth_curve', 'inferred_treatment_clock'} <= set(metrics.arm)
    assert logged(tmp_path / 'out').startswith('area of size, the first column with area')


def test_without_a_size_the_growth_curve_is_absent_with_a_reason(tmp_path):
    folder = made(tmp_path / 'x')
    sizes = pd.read_csv(folder / 'size.csv').rename(columns={'area': 'colour'})
    sizes.to_csv(folder / 'size.csv', index=False)
    found, metrics = run(folder, tmp_path / 'out', 'defaults.estimator=logistic')
    assert 'growth_curve' not in set(metrics.arm)
    assert 'no table has a size' in logged(tmp_path / 'out')
    (folder / 'experiment.yaml').write_text(SMALL + 'size: colour\n')
    evaluate_study(tmp_path / 'out', draws=100)
    assert logged(tmp_path / 'out') == 'colour of size, as the description says'
    (folder / 'experiment.yaml').write_text(SMALL + 'size: color\n')
    with pytest.raises(BadInput, match="did you mean 'colour'"):
        evaluate_study(tmp_path / 'out', draws=100)


def test_photographs_of_plants_give_a_size(tmp_path, faba):
    from PIL import Image

    text = SMALL.replace('onset:', 'images: "{plant_id}_d{day}.png"\nonset:').replace(
        'modalities: {size: size.csv}\n', ''
    )
    folder = made(tmp_path / 'x', text)
    for plant in pd.read_csv(folder / 'plants.csv').plant_id:
        for day in (0, 2, 4):
            picture = Image.new('RGB', (32, 32))
            picture.paste((40, 160, 40), (8, 8, 16 + day, 24))
            picture.save(folder / f'{plant}_d{day}.png')
    xp = Experiment(folder)
    assert plant_sizes(xp, tmp_path)[1].endswith('and no features of `morphology` are there')
    done = faba('features', '--data', folder, '--backbones', 'morphology')
    assert done.returncode == 0, done.stderr
    table, words = plant_sizes(xp, folder / 'features')
    assert 'morphology' in words and len(table) == 24 * 3
    mean = table.groupby('dag')['size'].mean()
    assert mean[4] / mean[0] == pytest.approx(12 / 8, rel=0.05)


def test_sizes_are_compared_where_the_light_is_the_same(shared, tmp_path):
    (tmp_path / 'experiment.yaml').write_text(TARTU.format(shared / 'tartu'))
    size = plant_size(Experiment(tmp_path))
    assert size.words.startswith('AREA_PX of rosette')
    assert sorted(size.table.stratum.unique()) == ['light=HL', 'light=LL']


# ---- parts by factors of its own ----
def test_light_is_a_factor_and_water_is_none(high_light):
    factors = factors_of(high_light[0].plants)
    assert list(factors) == ['light'] and factors.light.value_counts().tolist() == [216, 216]


def test_every_level_of_a_factor_is_scored(tmp_path):
    folder = made(tmp_path / 'x')
    plants = pd.read_csv(folder / 'plants.csv')
    plants['light'] = plants.block.map({1: 'low', 2: 'high'})
    plants.drop(columns='block').to_csv(folder / 'plants.csv', index=False)
    _, metrics = run(folder, tmp_path / 'out', 'defaults.estimator=logistic')
    of = metrics[(metrics.arm == 'size_alone') & (metrics.group == 'strata')]
    f1 = of[of.metric == 'f1'].stratum
    assert {'light=low', 'light=high'} <= set(f1)
    table = strata_table(Results(tmp_path / 'out'))
    assert sorted(set(table.frame.level)) == ['light high', 'light low']
    assert set(table.frame.n) == {6}


# ---- words where no onset is known ----
def told(onset_from, results):
    "Texts of pages in the words of an experiment"
    task = TASKS[onset_from]
    treatments = dict(wet='control', dry=dict(role='stress', label='drought'))
    facts = facts_from(dict(treatments=treatments, onset_from=onset_from, task=task))
    results.facts = facts
    texts = [metric_name(m, facts) for m in METRICS]
    words = glossary(facts)
    has = [not need or onset_from == 'plants' for need in words.needs.replace('photographs', '')]
    texts += [nice('constant_onset', facts), labels_text(results), *words.meaning[has]]
    texts += [filled(text, facts) for text in SENSITIVITIES.values()]
    return [*texts, analysis_words('not_within_3d', label_words(facts)['onset'])]


@pytest.mark.parametrize('onset_from', ['exposure', 'unknown'])
def test_no_onset_is_spoken_of_where_none_is_known(onset_from):
    texts = told(onset_from, SimpleNamespace())
    assert [t for t in texts if 'onset' in t.lower()] == []
    assert 'Treatment to alarm' in texts and 'constant alarm day' in texts


def test_onsets_are_spoken_of_where_they_are_known():
    study = study_from(dict(name='s', arms={'a': {}}))
    plants = pd.DataFrame({'genotype': ['x', 'x'], 'onset_dag': [21, 21]})
    texts = told('plants', SimpleNamespace(study=study, table=lambda name: plants))
    for words in ('Onset MAE', 'Mean onset error', 'constant onset day', 'onset one round later'):
        assert words in texts
    assert 'steps within 3 d of the onset not scored' in texts
    assert not any('start of treatment' in text for text in texts)
    assert any('symptoms were annotated as one day' in text for text in texts)


def test_words_of_onsets_are_left_out_of_the_glossary():
    needed = glossary().term[glossary().needs == 'onsets']
    assert set(needed) == {'lead', 'onset', 'utility'}
    for onset_from, task in TASKS.items():
        facts = SimpleNamespace(task=task)
        assert NEEDS['onsets'](SimpleNamespace(facts=facts)) == (
            onset_from in ('plants', 'annotations')
        )


def test_days_from_treatment_come_from_the_threshold_of_the_alarms(tmp_path):
    folder = made(tmp_path / 'x', days=(0, 2, 4, 6, 8))
    run(folder, tmp_path / 'out', 'defaults.estimator=logistic')
    out = tmp_path / 'out'
    [(s, _)] = [f for f in read_arm(out, 'size_alone')[0] if f[0].protocol == 'online']
    theta, _ = s.thresholds(2, 0.05)
    level = theta[:, s.plants.g.to_numpy()]
    expected = np.nanmean(s.restricted_error(level, 2))
    assert expected != np.nanmean(s.restricted_error(0.5))
    metrics = pd.read_csv(out / 'tables' / 'metrics.csv')
    of = metrics[(metrics.arm == 'size_alone') & (metrics.protocol == 'online')]
    said = of.set_index(['group', 'metric']).value
    assert said['measured', 'restricted_mae'] == pytest.approx(expected)
    never = np.isnan(s.alarm_day(level, 2))[:, s.plants.drought].sum(1).mean()
    assert said['measured', 'never_detected'] == pytest.approx(never)
    table = measured_table(Results(out), 'online')
    words = '2 plant-days in a row above a threshold that alarms 5 % of the control plants'
    assert words in table.caption
    heads = {c.key: c.help for c in table.columns}
    assert words in heads['restricted_mae'] and '0.5' not in heads['restricted_mae']


def seen(page):
    "The visible text of a page, without the code that made it"
    text = re.sub('<(script|style).*?</\\1>|<pre.*?</pre>', '', page.read_text(), flags=re.S)
    return re.sub(r'\s+', ' ', html.unescape(re.sub('<[^>]+>', ' ', text)))


# ---- a real experiment ----
@pytest.mark.full
def test_tartu(shared, tmp_path, faba):
    (tmp_path / 'experiment.yaml').write_text(TARTU.format(shared / 'tartu'))
    settings = ('--set', 'defaults.max_epochs=1')
    done = faba('run', 'starter', '--data', tmp_path, '--out', tmp_path / 'out', *settings)
    assert done.returncode == 0, done.stderr
    metrics = pd.read_csv(tmp_path / 'out' / 'tables' / 'metrics.csv')
    arms = {'thermal_alone', 'rosette_alone', 'weight_alone', 'all'}
    assert arms <= set(metrics.arm)
    assert np.isfinite([value(metrics, 'auc', a) for a in arms]).all()
    pages = {p.name: seen(p) for p in (tmp_path / 'out' / 'report').glob('*.html')}
    assert {'index.html', 'presymptomatic.html', 'methods.html', 'signals.html'} <= set(pages)
    assert [name for name, text in pages.items() if 'onset' in text.lower()] == []
    early = pages['presymptomatic.html']
    assert 'Days from treatment to alarm' in early and 'Treatment detection' in early
    assert re.search('at a threshold that alarms 5 % of the control plants', early)
    assert 'when symptoms began is not known' in pages['methods.html']
