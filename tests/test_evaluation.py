"""Evaluation: what is refused, and every statistic beside an independent implementation.

Beside a library: F1, precision, recall, accuracy, AUC, AUPRC, calibration curve (scikit-learn),
Spearman, BCa, sign-flip permutation, exact binomial (scipy), Holm, two one-sided tests,
cluster-robust slopes, power (statsmodels), the largest |t| of correlated days
(scipy), concordance (lifelines 0.30.3), Bayesian signed rank (baycomp 1.0.3): the numbers of
the last two on the worked example stand in the test. Beside plain slow loops: max-T,
cross-fitted thresholds, ranking within a day, permuted onsets, the cluster bootstrap, onset
errors, leads, CUSUM. What the notebooks of the room already hold against scikit-learn, scipy
and statsmodels cell by cell is not repeated here."""

import json, re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as skm
from scipy import stats

from faba_nb.core.errors import BadInput
from faba_nb.core.files import write_text
from faba_nb.core.studies import study_from
from faba_nb.evaluation.comparing import (
    corrected_t,
    decide,
    contrasts,
    Entry,
    signed_rank_probabilities,
)
from faba_nb.evaluation.evaluating import evaluate_study
from faba_nb.evaluation.information import (
    alarm_order,
    concordance,
    error_matrices,
    genotype_onsets,
    permuted_concordance,
    replicate_alarms,
)
from faba_nb.evaluation.metrics import fold_values, overall, reference_rank
from faba_nb.evaluation.predictions import (
    KEY_COLUMNS,
    NUMBER_COLUMNS,
    read_predictions,
    scores,
    TEXT_COLUMNS,
    with_labels,
)
from faba_nb.testing.example_predictions import real_onsets, toy_predictions, toy_steps
from faba_nb.evaluation.resampling import (
    Draws,
    bootstrap_draws,
    drawn_mean,
    drawn_ratio,
    max_t,
    signs,
)
from faba_nb.evaluation.information_free import (
    plan_scores,
    plan_steps,
    rule_on_all_days,
    score_plan,
    information_free,
)


def table(n=6, **kwargs):
    "Predictions of an imaginary model on n genotypes, both protocols"
    steps = toy_steps(n, seed=3)
    return pd.concat(
        [
            toy_predictions(steps, protocol=p, seed=i, **kwargs)
            for i, p in enumerate(['retrospective', 'online'])
        ],
        ignore_index=True,
    )


# ---- what is refused, in one line that names file, row and remedy ----


def with_value(column, row, value):
    def change(df):
        df = df.astype({column: object})
        df.loc[row, column] = value
        return df

    return change


def twice(df):
    return pd.concat([df, df.iloc[[7]]], ignore_index=True)


def in_two_folds(df):
    g = df[(df.fold == 0) & (df.split == 'test')]
    return pd.concat([df, g.assign(fold=1)], ignore_index=True)


def both_splits(df):
    g = df[(df.fold == 0) & (df.split == 'test')]
    return pd.concat([df, g.assign(split='validation')], ignore_index=True)


def other_genotype(df):
    df.loc[5, 'genotype'] = 'G05'
    return df


BAD = {
    'a missing column': (lambda df: df.drop(columns='probability'), 'column probability missing'),
    'two missing columns': (
        lambda df: df.drop(columns=['fold', 'dag']),
        'column fold, dag missing',
    ),
    'no rows': (lambda df: df.iloc[:0], 'no rows'),
    'a probability above 1': (
        with_value('probability', 3, 1.3),
        r'row 5: probability 1.3 is not between 0 and 1',
    ),
    'a logit': (
        with_value('probability', 3, -2.0),
        r'row 5: probability -2 is not between 0 and 1',
    ),
    'an infinite probability': (
        with_value('probability', 3, np.inf),
        r'row 5: probability inf is not between 0 and 1',
    ),
    'no probability': (with_value('probability', 3, None), 'row 5: probability is missing'),
    'text for a probability': (
        with_value('probability', 3, 'high'),
        "row 5: probability is 'high', not a number",
    ),
    'a row twice': (twice, r'row \d+: plant P\d+ on DAG \d+ is duplicated'),
    'a genotype tested in two folds': (
        in_two_folds,
        r'row \d+: genotype G00 is tested in two folds',
    ),
    'test and validation in one fold': (
        both_splits,
        r'row \d+: genotype G00 is both test and validation in fold 0',
    ),
    'an unknown treatment': (
        with_value('treatment', 3, 'WHC-50'),
        "row 5: treatment is 'WHC-50'; use one of WHC-80, WHC-30",
    ),
    'an unknown split': (with_value('split', 3, 'dev'), "row 5: split is 'dev'"),
    'no plant': (with_value('plant_id', 3, None), 'row 5: plant_id is missing'),
    'a drought plant without an onset': (
        lambda df: df.assign(onset_dag=df.onset_dag.where(df.plant_id != 'P005')),
        'onset_dag is missing',
    ),
    'a label against the onset': (lambda df: df.assign(label=0), 'contradicts onset_dag'),
    'a plant that changes its genotype': (
        other_genotype,
        r'row \d+: (plant P\d+ changes its genotype|genotype G05 is)',
    ),
    'a run with a step less': (
        lambda df: df.drop(df.index[(df.split == 'test') & (df.init_seed == 123)][4]),
        r'is tested in 1 of 2 runs',
    ),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_predictions_are_refused_in_one_line(tmp_path, name):
    change, what = BAD[name]
    path = tmp_path / 'predictions.csv'
    change(table(validation=2)).to_csv(path, index=False)
    with pytest.raises(BadInput) as e:
        read_predictions(path)
    line = str(e.value)
    assert '\n' not in line and line.startswith(str(path)) and re.search(what, line), line


@pytest.mark.parametrize('text', ['', '"unclosed', '\x00\x01'], ids=['empty', 'broken', 'binary'])
def test_files_that_are_no_tables(tmp_path, text):
    path = tmp_path / 'predictions.csv'
    path.write_text(text)
    with pytest.raises(BadInput) as e:
        read_predictions(path)
    assert '\n' not in str(e.value) and str(path) in str(e.value)


def test_the_row_named_is_the_row_of_the_file(tmp_path):
    "Counted as an editor counts, the header being line 1"
    path = tmp_path / 'predictions.csv'
    df = table()
    df.loc[41, 'probability'] = 2
    df.to_csv(path, index=False)
    with pytest.raises(BadInput) as e:
        read_predictions(path)
    row = int(re.search(r'row (\d+)', str(e.value))[1])
    assert '2.0' in path.read_text().splitlines()[row - 1].split(',')


def test_a_bad_file_stops_the_study_and_writes_nothing(tmp_path):
    out = study_of(tmp_path, good=table(), bad=table().drop(columns='label'))
    with pytest.raises(BadInput, match='bad/predictions.csv: column label missing'):
        evaluate_study(out, draws=50)
    assert not (out / 'tables').exists()


def test_one_genotype_is_too_few(tmp_path):
    "Every information-free baseline leaves a genotype out"
    out = study_of(tmp_path, alone=table().query("genotype == 'G00' and split == 'test'"))
    with pytest.raises(
        BadInput,
        match='all predictions are of one genotype; every information-free baseline leaves a genotype out',
    ):
        evaluate_study(out, draws=50)


# ---- a study from end to end ----


def study_of(folder, contrasts=(('a', 'b'),), **arms):
    "An output folder with these predictions"
    out = folder / 'out'
    for name, df in arms.items():
        (out / 'arms' / name).mkdir(parents=True)
        df.to_csv(out / 'arms' / name / 'predictions.csv', index=False)
    known = [n for n in arms if n not in ('theirs',)]
    write_text(
        study_from(
            dict(
                name='tiny',
                contrasts=[list(c) for c in contrasts if set(c) <= set(known)],
                defaults=dict(init_seeds=[42, 123]),
                arms={n: dict(backbone='dinov2') for n in known},
            )
        ).to_yaml(),
        out / 'study.yaml',
    )
    return out


@pytest.fixture(scope='module')
def evaluated(tmp_path_factory):
    "Two arms and another system's predictions, which bring the needed columns and nothing else"
    theirs = (
        table(8, skill=0.9)[[*TEXT_COLUMNS, *NUMBER_COLUMNS]]
        .query("protocol == 'retrospective'")
        .sample(frac=1, random_state=0)
    )
    out = study_of(
        tmp_path_factory.mktemp('study'), a=table(8), b=table(8, skill=0.1), theirs=theirs
    )
    return out, evaluate_study(out, draws=300)


def tables_of(out):
    return {
        p.stem: pd.read_csv(p, keep_default_na=False, na_values=[''])
        for p in sorted((out / 'tables').glob('*.csv'))
    }


def test_all_tables_are_there_with_the_columns_of_the_opening_page(evaluated):
    "Every name the room's opening page promises is in the files, and no file is without a word there"
    from faba_nb.core.places import root

    out, rows = evaluated
    cells = json.loads((root() / 'nbs' / '40_evaluation' / '00_evaluation.ipynb').read_text())[
        'cells'
    ]
    text = '\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'markdown')
    for name, t in tables_of(out).items():
        assert f'`{name}.csv`' in text and rows[name] == len(t)
        for c in t.columns:
            assert re.search(rf'\b{re.escape(c)}\b', text), f'{name}.csv: {c} is not described'


def test_numbers_are_those_of_scikit_learn_on_the_same_file(evaluated):
    "Published metrics, pooled F1 and AUPRC recomputed from predictions.csv, for an arm and for another system"
    out, _ = evaluated
    m = tables_of(out)['metrics']
    for arm in ('a', 'theirs'):
        df = pd.read_csv(out / 'arms' / arm / 'predictions.csv').query(
            "split == 'test' and protocol == 'retrospective'"
        )
        fold = lambda f: (
            df.groupby(['split_seed', 'init_seed', 'fold']).apply(f, include_groups=False).mean()
        )
        run = lambda f: (
            df.groupby(['split_seed', 'init_seed']).apply(f, include_groups=False).mean()
        )
        want = {
            ('published', 'f1'): fold(
                lambda q: skm.f1_score(q.label, q.probability > 0.5, zero_division=0)
            ),
            ('published', 'auc'): fold(lambda q: skm.roc_auc_score(q.label, q.probability)),
            ('published', 'precision'): fold(
                lambda q: skm.precision_score(q.label, q.probability > 0.5, zero_division=0)
            ),
            ('pooled', 'f1'): run(lambda q: skm.f1_score(q.label, q.probability > 0.5)),
            ('pooled', 'auprc'): run(lambda q: skm.average_precision_score(q.label, q.probability)),
            ('probabilities', 'brier'): run(lambda q: skm.brier_score_loss(q.label, q.probability)),
        }
        got = (
            m[(m.arm == arm) & (m.protocol == 'retrospective') & (m.stratum.fillna('') == '')]
            .set_index(['group', 'metric'])
            .value
        )
        for k, v in want.items():
            assert got[k] == pytest.approx(v, abs=1e-9), (arm, k)


def test_other_systems_stand_in_every_table_that_can_hold_them(evaluated):
    out, _ = evaluated
    t = tables_of(out)
    assert set(t['metrics'][t['metrics'].arm == 'theirs'].kind) == {'imported'}
    assert set(t['metrics'][t['metrics'].arm == 'theirs'].protocol) == {'retrospective'}
    for name in ('folds', 'genotypes', 'plants', 'permutation', 'calibration', 'decision'):
        assert (t[name].arm == 'theirs').any(), name
    c = t['contrasts']
    assert ((c.arm_a == 'a') & (c.arm_b == 'theirs')).any() and not c[
        (c.arm_b == 'theirs')
    ].stated.any()
    assert list(c[c.primary == 1].arm_a + c[c.primary == 1].arm_b) == ['ab']


def test_information_free_baselines_beside_every_arm_and_every_protocol(evaluated):
    out, _ = evaluated
    m = tables_of(out)['metrics']
    for protocol in ('retrospective', 'online'):
        rules = set(m[(m.kind == 'yardstick') & (m.protocol == protocol)].arm)
        assert {'treatment_clock', 'clock', 'constant_onset', 'prevalence'} <= rules
    assert (
        set(m[m.protocol == 'retrospective'].group) & {'alarms', 'earliness'} == set()
    )  # words of earliness belong to the online protocol


def test_undefined_values_are_counted_and_listed(tmp_path):
    "A model that never says anything: no precision, no alarm, no F1, and nothing dropped in silence"
    out = study_of(tmp_path, contrasts=(), a=table(6), mute=table(6).assign(probability=0.1))
    evaluate_study(out, draws=50)
    t = tables_of(out)
    u, m = t['undefined'], t['metrics']
    mine = u[(u.arm == 'mute') & (u.protocol == 'retrospective')]
    assert (mine.metric == 'precision').sum() == 6 * 2 and (
        mine.metric == 'mae_measured'
    ).sum() == 6 * 2
    row = lambda group, metric: m[
        (m.arm == 'mute')
        & (m.protocol == 'retrospective')
        & (m.group == group)
        & (m.metric == metric)
        & (m.stratum.fillna('') == '')
    ].iloc[0]
    assert (
        row('measured', 'never_detected').value == 18
        and row('measured', 'mae_measured').undefined == 36
        and np.isnan(row('measured', 'mae_measured').value)
    )
    assert row('published', 'f1').value == 0


def test_same_input_same_bytes_and_other_order_of_rows(evaluated, tmp_path):
    "Rows may come in any order; twice the same files"
    out, _ = evaluated
    one = {p.name: p.read_bytes() for p in (out / 'tables').glob('*.csv')}
    shuffled = {
        n: pd.read_csv(out / 'arms' / n / 'predictions.csv').sample(frac=1, random_state=5)
        for n in ('a', 'b', 'theirs')
    }
    again = study_of(tmp_path, **shuffled)
    evaluate_study(again, draws=300)
    assert {p.name: p.read_bytes() for p in (again / 'tables').glob('*.csv')} == one


# ---- the real plan: what a clock can do ----


@pytest.fixture(scope='module')
def real(shared):
    plants, rounds = (shared / 'faba' / f for f in ('plant_metadata.csv', 'timepoint_metadata.csv'))
    from faba_nb.experiment.plan import read_plant_table, read_round_table

    return (
        plants,
        rounds,
        plan_scores(plan_steps(read_plant_table(plants), read_round_table(rounds))),
    )


def test_published_yardsticks_from_the_real_tables(real):
    """F1 0.763, fold AUC 0.998, MAE 6.07 d on all rounds and 6.43 d on plant-days; 0.509 and 0.882
    for the clock at its best threshold; a perfect alarm 1.15 d"""
    t = score_plan(*real[:2])
    v = t.set_index(['arm', 'group', 'metric']).value
    want = {
        ('treatment_clock', 'published', 'f1'): 0.763,
        ('treatment_clock', 'published', 'auc'): 0.998,
        ('clock', 'published', 'f1'): 0.509,
        ('clock', 'published', 'auc'): 0.882,
    }
    for k, x in want.items():
        assert round(v[k], 3) == x, k
    for k, x in {
        ('treatment_clock', 'published', 'mae_published'): 6.07,
        ('treatment_clock', 'measured', 'mae_measured'): 6.43,
        ('perfect_alarm', 'measured', 'mae_measured'): 1.15,
    }.items():
        assert round(v[k], 2) == x, k


def test_published_yardsticks_by_plain_loops(real):
    "The same numbers from the metadata, scikit-learn and four loops"
    s = real[2].steps
    onset = s.groupby('genotype').onset_dag.first()
    share = lambda g, d: np.mean([o <= d for h, o in onset.items() if h != g])
    p = np.array([share(r.genotype, r.dag) * (r.treatment == 'WHC-30') for r in s.itertuples()])
    clock = next(y for y in information_free(real[2]) if y.arm == 'treatment_clock')
    np.testing.assert_allclose(clock.p[0], p)
    f1 = [
        skm.f1_score(q.label, p[q.index] > 0.5, zero_division=0) for _, q in s.groupby('genotype')
    ]
    assert overall(fold_values(clock)['f1']) == pytest.approx(np.mean(f1))
    days = sorted(s.dag.unique())
    late = [abs(next(d for d in days if share(g, d) > 0.5) - o) for g, o in onset.items()]
    assert overall(fold_values(clock, rule_on_all_days(clock))['mae_published']) == pytest.approx(
        np.mean(late)
    )


def test_a_constant_alarm_day_makes_the_early_mid_late_pattern(real):
    "Lead = onset - alarm: a fixed day 'detects' late genotypes early and early ones late, about as the paper reports"
    from faba_nb.experiment.plan import onset_class

    plan = real[2]
    alarm = replace(plan, p=(plan.dag >= 28).astype(float)[None]).alarm_day()[0]
    p = plan.plants[plan.plants.drought]
    lead = (p.onset_dag - alarm[p.index]).groupby(onset_class(p.onset_dag)).mean()
    assert lead['Early'] < -5 < lead['Mid'] < lead['Late'] and lead['Late'] > 5, lead


def test_leads_of_two_independent_series_correlate_by_about_seven_tenths(real):
    onset, rng = genotype_onsets(real[2]), np.random.default_rng(0)
    a, b = rng.normal(25, 0.64 * onset.std(ddof=1), (2, 4000, 44))
    r = np.mean([np.corrcoef(onset - x, onset - y)[0, 1] for x, y in zip(a, b)])
    assert r == pytest.approx(0.71, abs=0.02)
    assert np.mean([np.corrcoef(x, y)[0, 1] for x, y in zip(a, b)]) == pytest.approx(0, abs=0.02)


def test_a_leave_one_out_mean_has_concordance_zero(real):
    plan, onset = real[2], genotype_onsets(real[2])
    mean = np.array([np.delete(onset, i).mean() for i in range(44)])
    order, pairs = alarm_order(mean[plan.plants.g], plan.plants, 44)
    assert concordance(order, pairs, onset[None])[0, 0] == 0


# ---- statistics beside plain loops and libraries ----


@pytest.fixture(scope='module')
def model():
    steps = toy_steps(10, seed=2)
    return scores(
        toy_predictions(steps, 0.4, 1.0, 'online', validation=3, seed=4), 'online', 'model'
    )


def test_onset_errors_by_plain_loops(model):
    p, v = model.plants, fold_values(model, model)
    for run in range(2):
        for j, g in enumerate(model.genotypes):
            published, measured = [], []
            for i in p.index[(p.genotype == g) & p.drought]:
                d = sorted(model.dag[(model.plant == i) & (model.p[run] > 0.5)])
                published.append(abs((d[0] if d else 38) - p.onset_dag[i]))
                if d:
                    measured.append(abs(d[0] - p.onset_dag[i]))
            assert v['mae_published'][run, j] == pytest.approx(np.mean(published))
            assert v['never_detected'][run, j] == 3 - len(measured)
            assert (
                v['mae_measured'][run, j] == pytest.approx(np.mean(measured))
                if measured
                else np.isnan(v['mae_measured'][run, j])
            )


def test_ranking_within_a_day_by_plain_loops(model):
    "Each fold on the scale of its validation controls, pairs of one day, ties half"
    at, run = model.steps.treatment.to_numpy() == 'WHC-30', model.runs.iloc[1]
    held = model.held[(model.held.treatment == 'WHC-80') & (model.held.init_seed == run.init_seed)]
    z = np.array(
        [
            reference_rank(np.array([p]), held.probability[held.fold == f].to_numpy())[0]
            for p, f in zip(model.p[1], model.fold)
        ]
    )
    for x, f, p in list(zip(z, model.fold, model.p[1]))[
        ::97
    ]:  # the rank itself: share of controls below, ties half
        ref = held.probability[held.fold == f].to_numpy()
        assert x == pytest.approx((np.sum(ref < p) + 0.5 * np.sum(ref == p) + p) / (len(ref) + 1))
    won = n = 0.0
    for i in np.flatnonzero(at & model.y):
        for j in np.flatnonzero(at & ~model.y & (model.dag == model.dag[i])):
            won += (z[i] > z[j]) + 0.5 * (z[i] == z[j])
            n += 1
    right, total, how = model.within_day(at)
    assert (right[1].sum() / total.sum(), how) == (pytest.approx(won / n), 'validation')


@pytest.mark.parametrize('k, target', [(1, 0.05), (2, 0.1), (3, 0.1)])
def test_cross_fitted_thresholds_by_plain_loops(model, k, target):
    """The smallest threshold that alarms at most the target share of the other genotypes' controls,
    and never a look at the own ones"""
    got = model.cross_fitted_threshold(k, target)
    p = model.plants
    for run in range(2):

        def score(i):
            v = model.p[run, model.plant == i]
            return max(min(v[j : j + k]) for j in range(len(v) - k + 1))

        for j, g in enumerate(model.genotypes):
            other = np.array([score(i) for i in p.index[(p.genotype != g) & ~p.drought]])
            smallest = min(t for t in other if np.mean(other > t) <= target)
            assert got[run, j] == smallest


def test_permuted_onsets_are_the_statistics_of_permuted_labels(model):
    "Skill and concordance of a dealing = the same predictions evaluated under the permuted onsets, clock and all"
    from faba_nb.evaluation.information import information, permutation_table

    onset, G = genotype_onsets(model), len(model.genotypes)
    got = information(model, draws=5, seed=7)
    at = np.random.default_rng(7).permuted(np.tile(np.arange(G), (5, 1)), axis=1)
    for i, a in enumerate(at):
        dealt = dict(zip(model.genotypes, onset[a]))
        steps = with_labels(
            model.steps.assign(
                onset_dag=np.where(
                    model.steps.treatment == 'WHC-30', model.steps.genotype.map(dealt), np.nan
                )
            )
        )
        q = replace(
            model,
            steps=steps.sort_values(['genotype', 'plant_id', 'dag'], ignore_index=True)[
                model.steps.columns
            ],
        )
        clock = next(y for y in information_free(q) if y.arm == 'treatment_clock')
        e, c = (
            np.abs(q.measured_error()),
            np.broadcast_to(np.abs(clock.measured_error()), q.measured_error().shape),
        )
        both = np.isfinite(e)
        assert got['mae_skill'][i + 1] == pytest.approx(1 - e[both].sum() / c[both].sum())
        right, total, _ = q.within_day(q.steps.treatment.to_numpy() == 'WHC-30')
        assert got['auc_within_day_drought'][i + 1] == pytest.approx(
            (right.sum((1, 2)) / total.sum()).mean()
        )
        o = [alarm_order(x, q.plants, G) for x in q.alarm_day()]
        assert got['concordance'][i + 1] == pytest.approx(
            np.mean([concordance(x, n, onset[a][None])[0, 0] for x, n in o])
        )
    t = permutation_table(model, information(model, 199)).set_index('statistic')
    assert ((t.p >= 1 / 200) & (t.p <= 1)).all()


def test_max_t_by_plain_loops():
    "Westfall and Young's single step, pattern by pattern with scipy's t"
    rng = np.random.default_rng(0)
    d, s = rng.normal([[0], [0.5], [0.9]], 1, (3, 9)), signs(9)
    t = np.array([[abs(stats.ttest_1samp(row * x, 0).statistic) for row in d] for x in s])
    np.testing.assert_allclose(max_t(d, s), [(t.max(1) >= t[0, i] - 1e-9).mean() for i in range(3)])


def test_cluster_bootstrap_by_plain_loops():
    "Genotypes with replacement, within each its seeds; the same draws for every arm"
    rng = np.random.default_rng(0)
    a, b, d = rng.random((3, 7)), rng.random((3, 7)) + 0.5, bootstrap_draws(7, 3, 20)
    run = d.run(3)
    for i in range(20):
        cells = [[a[run[i, j, r], d.genotype[i, j]] for r in range(3)] for j in range(7)]
        assert drawn_mean(a, d)[i] == pytest.approx(np.mean([np.mean(c) for c in cells]), abs=1e-6)
        per_run = [
            sum(a[run[i, j, r], d.genotype[i, j]] for j in range(7))
            / sum(b[run[i, j, r], d.genotype[i, j]] for j in range(7))
            for r in range(3)
        ]
        assert drawn_ratio(a, b, d)[i] == pytest.approx(np.mean(per_run), abs=1e-6)


differences = np.array(
    [
        -0.079,
        0.154,
        -0.039,
        0.02,
        0.081,
        -0.13,
        -0.031,
        0.126,
        0.024,
        -0.016,
        0.045,
        -0.025,
        0.035,
        -0.023,
        -0.085,
        0.084,
        0.014,
        0.067,
        0.02,
        0.125,
        0.076,
        0.046,
        -0.042,
        -0.062,
        0.136,
        0.094,
        -0.022,
        0.189,
        0.067,
        0.038,
        -0.071,
        -0.025,
        0.056,
        0.059,
        0.05,
        -0.092,
        0.064,
        0.054,
        0.002,
        0.04,
        0.046,
        0.119,
        0.031,
        0.065,
    ]
)


@pytest.mark.parametrize(
    'd, baycomp',
    [
        (differences, (0.9951, 0.0012, 0.0037)),
        (differences[:20] - 0.013, (0.503, 0.2278, 0.2691)),
        (np.round(differences / 3 - 0.005, 4), (0.0, 1.0, 0.0)),
    ],
)
def test_bayesian_signed_rank_beside_baycomp(d, baycomp):
    """baycomp 1.0.3, `SignedRankTest.probs(d, 0, rope=0.02, nsamples=400000, random_state=1)`, gave
    these numbers in an environment of its own (it is not installed here). It counts a pair
    exactly on the border half to either side, we count it as equal: 0.001 here. The rest is
    Monte Carlo."""
    np.testing.assert_allclose(
        signed_rank_probabilities(d, rope=0.02, draws=50_000), baycomp, atol=0.006
    )


def test_corrected_t_by_its_formula():
    "Nadeau and Bengio 2003, eq. 8: variance times (1/n + test/train), t with n - 1 degrees of freedom"
    d = differences
    t = d.mean() / np.sqrt((1 / 44 + 1 / 40) * sum((x - d.mean()) ** 2 for x in d) / 43)
    assert corrected_t(d) == pytest.approx(2 * (1 - stats.t(43).cdf(abs(t))))


def test_concordance_beside_lifelines():
    "lifelines' concordance_index of the alarms below is 0.5192307692"
    onset, alarm = (
        np.array([13.0, 38, 38, 34, 10, 34, 13, 38, 38, 28, 38, 34]),
        np.array([17.0, np.nan, 17, 12, 24, np.nan, 31, 17, np.nan, 24, 17, 12]),
    )
    plants = pd.DataFrame(dict(drought=True, replicate=1, treatment='dry', g=np.arange(12)))
    order, pairs = alarm_order(alarm, plants, 12)
    assert concordance(order, pairs, onset[None])[0, 0] == pytest.approx(0.5192307692307693)


def test_every_stressed_plant_of_a_replicate_is_compared():
    "Three doses of two genotypes: each dose with the same dose, the last one no more than the others"
    rows = [(g, dose) for g in (0, 1) for dose in ('d1', 'd2', 'd3')]
    plants = pd.DataFrame(rows, columns=['g', 'treatment']).assign(drought=True, replicate=1)
    alarm = np.array([9.0, 9, 3, 11, 12, 5])  # the second genotype later in each dose
    for days, order in ((alarm, 3), (np.where(plants.treatment == 'd3', 4, alarm), 2)):
        made, pairs = alarm_order(days, plants, 2)
        assert (made[0, 1], pairs[0, 1]) == (order, 3)
        onset = np.array([1.0, 2])
        at = np.array([[0, 1]])
        slow = concordance(made, pairs, onset[None])[0, 0]
        quick = permuted_concordance(replicate_alarms(days[None], plants, 2), onset, at)
        assert quick[0] == pytest.approx(slow) == pytest.approx(0.5 + order / 6)


def test_calibration_bins_beside_scikit_learn():
    from sklearn.calibration import calibration_curve
    from faba_nb.evaluation.probabilities import calibration_error, calibration_table

    s = scores(toy_predictions(toy_steps(44, onsets=real_onsets), init_seeds=(42,)), arm='x')
    happened, said = calibration_curve(s.y, s.p[0], n_bins=10, strategy='quantile')
    t = calibration_table(s, 'as predicted')
    np.testing.assert_allclose((t.said, t.happened), (said, happened))
    assert calibration_error(s.p[0], s.y) == pytest.approx(
        np.sum(t.n * np.abs(said - happened)) / t.n.sum()
    )


def test_net_benefit_by_hand():
    from faba_nb.evaluation.probabilities import decision_curve

    s = scores(toy_predictions(toy_steps(5)), arm='x')
    said = s.p > 0.3
    tp, fp = (said & s.y).sum(1).mean(), (said & ~s.y).sum(1).mean()
    assert decision_curve(s, [0.3]).net_benefit[0] == pytest.approx(
        tp / len(s.y) - fp / len(s.y) * 0.3 / 0.7
    )


def test_lead_is_the_least_squares_fit_of_scipy():
    "The grid finds what scipy's curve_fit finds, to its grid of a quarter of a day"
    from scipy.optimize import curve_fit
    from faba_nb.evaluation.signal_dates import best_lead, lead_sums, pair_differences
    from faba_nb.testing.example_signals import toy_signal

    t, plants = toy_signal(real_onsets, dict(QY=8), effect=4.0, s=2.5)
    D, _, days = pair_differences(t, plants, ['QY'])
    x = (days[None] - real_onsets[:, None]).ravel()
    (E, lead), _ = curve_fit(
        lambda x, E, lead: E / (1 + np.exp(-(x + lead) / 2.5)), x, D[..., 0].ravel(), p0=(3, 5)
    )
    xx, xy, _ = lead_sums(D[..., 0], days, real_onsets)
    keep = slice(3 * 177, 4 * 177)  # the width of 2.5 days
    from faba_nb.evaluation.signal_dates import leads, WIDTHS

    assert WIDTHS[3] == 2.5 and len(leads) == 177
    gain = xy.sum(0)[keep] ** 2 / xx.sum(0)[keep]
    i = gain.argmax()
    assert leads[i] == pytest.approx(lead, abs=0.13) and xy.sum(0)[keep][i] / xx.sum(0)[keep][
        i
    ] == pytest.approx(E, rel=0.01)


def test_holm_decides_the_stated_and_only_the_stated():
    "Three stated contrasts by hand: p sorted, times 3, 2, 1; everything else by Benjamini and Hochberg"
    rng = np.random.default_rng(2)
    base = rng.beta(5, 3, 44)
    f1 = {
        k: np.clip(base + shift + rng.normal(0, 0.05, (2, 44)), 0, 1)
        for k, shift in dict(a=0, b=0.03, c=0.012, d=0.02).items()
    }
    counts = dict(tp=np.ones((2, 44)), fp=np.ones((2, 44)), fn=np.ones((2, 44)))
    entries = [
        Entry(k, dict(f1=v, auc=v), counts, [f'G{i}' for i in range(44)]) for k, v in f1.items()
    ]
    t = decide(contrasts(entries, [('b', 'a'), ('c', 'a'), ('d', 'a')], draws=500))
    first = t[t.primary == 1].sort_values('p')
    want = np.maximum.accumulate(np.minimum(1, first.p.to_numpy() * [3, 2, 1]))
    np.testing.assert_allclose(first.p_adjusted, want)
    rest = t[t.primary == 0]
    np.testing.assert_allclose(rest.p_adjusted, stats.false_discovery_control(rest.p))
    assert set(first.adjustment) == {'Holm'} and set(rest.adjustment) == {'Benjamini-Hochberg'}


# ---- importance: predictions with a modality replaced ----


def test_importance_is_scored_from_what_training_writes(tmp_path):
    """Fits of an experiment in which only fluorescence speaks: losing it costs, losing noise does not,
    and exchanging the shared climate costs nothing"""
    torch = pytest.importorskip('torch')
    from faba_nb.core.studies import Arm
    from types import SimpleNamespace
    from faba_nb.core.files import seal, write_csv
    from faba_nb.evaluation.importance import COLUMNS, arm_importance, importance_table
    from faba_nb.testing.example_bundles import invented
    from faba_nb.core.study_folder import ArmFolder
    from faba_nb.training.training_pool import ArmTraining
    from faba_nb.training.engine import Fit, Stack
    from faba_nb.training.fits import save_fit
    from faba_nb.training.folds import make_folds
    from faba_nb.training.study_training import gather_permuted

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    b, rng = invented(9, width=8, signal=3.0), np.random.default_rng(1)
    b.table, b.steps.values['vi'] = (
        rng.normal(size=b.table.shape).astype(np.float32),
        rng.normal(size=b.steps.values['vi'].shape).astype(np.float32),
    )
    arm = Arm(max_epochs=15, lr=2e-3, warmup_epochs=1)
    fits = [Fit('demo', f, 1) for f in make_folds(b.plants)]
    stack = Stack(b, arm)
    stack.add(fits)
    for _ in range(15):
        stack.epoch()
    folder = tmp_path / 'arms' / 'demo'
    (folder / 'fits').mkdir(parents=True)
    for i, f in enumerate(fits):
        save_fit(
            folder / 'fits',
            f,
            {k: v[i : i + 1] for k, v in stack.state.best.items()},
            {},
            stack.state.logs[i],
            'mark',
        )
    work = ArmTraining('demo', arm, b, ArmFolder(folder), {f: 'mark' for f in fits})
    table, again = (gather_permuted(SimpleNamespace(name='s'), work) for _ in range(2))
    torch.set_num_threads(threads)
    pd.testing.assert_frame_equal(table, again)  # the same exchanges every time
    assert len(table) == 2 * b.steps.observed.sum() and set(table.split) == {'test'}
    write_csv(table, folder / 'predictions_permuted.csv', float_format='%.9g')
    seal(folder / 'predictions_permuted.csv')
    study = SimpleNamespace(arms={'demo': arm, 'not trained': arm})
    t, absent = importance_table(study, tmp_path, draws=200)
    assert absent == ['not trained']
    pd.testing.assert_frame_equal(t, arm_importance(table, 'demo', draws=200), check_exact=True)
    assert list(t.columns) == COLUMNS and set(t.n) == {9}
    assert set(t[t.protocol == 'online'].how) == {'other_plant', 'dropped'} and set(
        t[t.protocol == 'retrospective'].how
    ) == {'other_plant', 'other_day', 'dropped'}
    for protocol in arm.protocols:
        loss = t[t.protocol == protocol].set_index(['modality', 'how', 'metric']).loss
        assert (
            loss['fluor', 'other_plant', 'log_loss'] > 0.05
            and loss['fluor', 'dropped', 'log_loss'] > 0.05
        )
        assert (
            abs(loss['vi', 'other_plant', 'log_loss'])
            < 0.3 * loss['fluor', 'other_plant', 'log_loss']
        )
        assert loss['env', 'other_plant', 'log_loss'] == pytest.approx(0, abs=1e-6)
    assert t.set_index('modality').available['fluor'].iloc[0] == pytest.approx(
        b.steps.present['fluor'][b.steps.observed].mean()
    )


def test_importance_is_absent_with_a_reason(evaluated):
    "Without predictions with a modality replaced there is no table, and the log says so"
    out, rows = evaluated
    assert 'importance' not in rows and not (out / 'tables' / 'importance.csv').exists()
    assert (
        json.loads((out / 'log.jsonl').read_text().splitlines()[-1])['importance']
        == 'not computed: no network has predictions with a modality replaced'
    )


def test_a_permuted_file_that_was_changed_is_refused(tmp_path):
    "One digit more, and evaluation says which file, and how to fix it"
    from types import SimpleNamespace
    from faba_nb.core.errors import BadInput
    from faba_nb.core.files import seal
    from faba_nb.core.studies import Arm
    from faba_nb.evaluation.importance import importance_table

    path = tmp_path / 'arms' / 'demo' / 'predictions_permuted.csv'
    path.parent.mkdir(parents=True)
    path.write_text('protocol,label\n')
    seal(path)
    path.write_text('protocol,label\n\n')
    with pytest.raises(BadInput, match='faba train'):
        importance_table(SimpleNamespace(arms={'demo': Arm()}), tmp_path)


# ---- feature space and ranking ----


def test_feature_space_needs_features_and_says_so(evaluated):
    "Without features files there is no table of them, and the log says so"
    out, rows = evaluated
    assert not any(name.startswith('feature_') for name in rows)
    last = json.loads((out / 'log.jsonl').read_text().splitlines()[-1])
    assert last['feature_space'] == 'not computed: raw data or features are not within reach'


def test_the_ranking_has_every_accession_of_every_arm(evaluated):
    "A row per genotype, dated as in the alarms; rank intervals hold between 1 and the number of genotypes"
    out, rows = evaluated
    t = pd.read_csv(out / 'tables' / 'ranking.csv')
    G = t.genotype.nunique()
    assert rows['ranking'] == len(t) == G * t.arm.nunique()
    assert t.rank_low.between(1, G).all() and t.rank_high.between(1, G).all()
    assert (t.rank_low <= t.rank_high).all() and t['rank'].between(1, G).all()
    assert (t.day_low <= t.day.fillna(np.inf)).all()
    s = pd.read_csv(out / 'tables' / 'stability.csv')
    assert s.tau.between(s.lowest, s.highest).all() and set(s.arms) == {t.arm.nunique()}


def test_what_looks_wrong_is_left_out_once(model):
    "Steps named by plant and round, and nothing else"
    from faba_nb.evaluation.strata import sensitivities

    odd = model.steps.loc[
        (model.steps.plant_id == 'P002')
        | ((model.steps.plant_id == 'P020') & (model.steps['round'] == 10)),
        ['plant_id', 'round'],
    ]
    q = sensitivities(model, odd)['without_flagged']
    gone = set(map(tuple, model.steps[['plant_id', 'dag']].to_numpy())) - set(
        map(tuple, q.steps[['plant_id', 'dag']].to_numpy())
    )
    assert len(gone) == len(odd) == 12 and {p for p, _ in gone} == {'P002', 'P020'}
    assert 'without_flagged' not in sensitivities(model) and len(
        sensitivities(model)['not_within_3d'].y
    ) < len(model.y)


def test_plants_that_look_wrong(twin):
    "Dead, swapped and outlier rows of the simulated experiment; plants of an odd weight ratio alone stay"
    from faba_nb.evaluation.evaluating import flagged_steps
    from faba_nb.experiment.experiment_folder import Experiment

    e = Experiment(twin)
    got, p = flagged_steps(e), e.plants.set_index('plant_id')['flags'].fillna('')
    steps = e.measured.groupby('plant_id').size()
    whole = {i for i, n in got.groupby('plant_id').size().items() if n == steps[i]}
    wrong = {
        i for i, f in p.items() if {'dead', 'treatment_swapped', 'weights_swapped'} & set(f.split())
    }
    assert wrong and wrong <= whole and not got.duplicated().any()
    marked = set(
        map(tuple, e.images.loc[e.images.outlier.astype(bool), ['plant_id', 'round']].to_numpy())
    )
    assert marked <= set(map(tuple, got.to_numpy()))
    assert not {i for i, f in p.items() if f == 'odd_ratio'} & whole - {i for i, _ in marked}


def test_comparisons_look_for_a_stop_request(tmp_path, monkeypatch):
    "A comparison, an analysis of robustness and a model of one column each end when asked to"
    from faba_nb.core.errors import Stopped
    from faba_nb.evaluation.comparing import Entry, contrasts
    from faba_nb.evaluation.signal_effects import fluorescence_change

    names = [f'G{i}' for i in range(8)]
    ones = {k: np.ones((1, 8)) for k in ('tp', 'fp', 'fn')}
    entries = [Entry(a, {'f1': np.full((1, 8), 0.5)}, ones, names) for a in 'ab']
    assert len(contrasts(entries, draws=10))
    (tmp_path / 'stop').touch()
    monkeypatch.setenv('FABA_STOP_FILE', str(tmp_path / 'stop'))
    with pytest.raises(Stopped):
        contrasts(entries, draws=10)
    with pytest.raises(Stopped):
        fluorescence_change(pd.DataFrame(), pd.DataFrame(), ['Fv'])


def test_bins_of_equal_probabilities_do_not_depend_on_rounding():
    "Probabilities that differ in the fifteenth digit, as the same sum in another order does, stay together"
    from faba_nb.evaluation.probabilities import bins_of

    rng = np.random.default_rng(0)
    p = np.repeat(np.linspace(0.05, 0.95, 15), 60)
    assert (bins_of(p + rng.normal(0, 1e-15, len(p))) == bins_of(p)).all()
