"Signals by treatment, by day and by plant, on planted effects and on a real experiment"

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from faba_nb.evaluation import signal_effects
from faba_nb.evaluation.signal_alarms import alarm_lead, deviation_scores
from faba_nb.evaluation.signal_dates import agreement_table, dates_agree
from faba_nb.evaluation.signal_effects import (
    TOO_FEW,
    crossing_days,
    day_model,
    divergence_day,
    flip_p,
    fluorescence_change,
    signal_effects as effects_of,
    signal_rows,
    smallest_p,
    unit_band,
    unit_changes,
    unit_effects,
    unit_lead,
)
from faba_nb.testing.example_predictions import real_onsets
from faba_nb.testing.example_signals import toy_signal
from faba_nb.testing.simulated_studies import without_effect

DAYS = {r: list(range(3, 39, 4)) for r in (1, 2, 3)}


# ---- the mixed model ----


@pytest.mark.parametrize('factors', [('genotype',), ('genotype', 'tray')])
def test_mixed_model_beside_statsmodels(factors):
    "Rows missing, plants nested in genotypes, trays across them"
    from statsmodels.regression.mixed_linear_model import MixedLM

    rng = np.random.default_rng(8)
    table, plants = toy_signal(real_onsets[::5], dict(y=8), days={1: [5, 12], 2: [5, 12, 19]})
    tray = rng.integers(0, 5, len(plants))
    own = dict(zip(plants.plant_id, rng.normal(0, 1.5, len(plants)) + tray))
    table['y'] += table.plant_id.map(own)
    if 'tray' in factors:
        plants['tray'] = tray.astype(str)
    d = signal_rows(table.sample(frac=0.8, random_state=2), plants, 'y')
    _, fit = day_model(d)
    parts = {k: f'0 + C({k})' for k in ('plant_id', *factors)}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        model = MixedLM.from_formula(
            'y ~ 0 + C(dag) + C(dag):drought', d, groups=np.ones(len(d)), vc_formula=parts
        )
        theirs = model.fit(reml=True)
    np.testing.assert_allclose(fit.effects, theirs.fe_params, atol=1e-3)
    sds = [fit.sd[k.removesuffix('_id')] for k in sorted(parts)]
    np.testing.assert_allclose(sds, np.sqrt(theirs.vcomp), atol=2e-3)
    assert fit.sd['error'] == pytest.approx(np.sqrt(theirs.scale), abs=2e-3)


def test_a_search_that_touches_zero_goes_on():
    "The likelihood's slope is zero where a standard deviation is: of 20 experiments, none stays there"
    plant = np.repeat(np.arange(240), 11)
    genotype = plant // 6
    day = np.eye(11)[np.tile(np.arange(11), 240)]
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        own, common = rng.normal(0, 0.25, 240), rng.normal(0, 0.75, 40)
        y = own[plant] + common[genotype] + rng.normal(size=len(plant))
        sums = signal_effects._summed(day, y, plant, [genotype])
        found.append(signal_effects._likeliest(sums, [True, True]))
    assert np.min(found, axis=0)[0] > 0.12, found  # four standard errors below what is planted
    np.testing.assert_allclose(np.mean(found, axis=0), [0.25, 0.75], atol=0.06)


def test_what_rounding_leaves_is_no_negative_square():
    "Whatever standard deviations the search tries, no logarithm of less than nothing"
    table, plants = toy_signal(real_onsets[:9], dict(a=8, b=-99, c=-99), effect=6, days=DAYS)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        _, one = fluorescence_change(table, plants, ['a', 'b', 'c'])
    assert np.isfinite(one.filter(like='sd_').to_numpy()).all()


def test_units_average_to_the_effect_of_the_model():
    "In an unbalanced design too; a genotype with one treatment on a day says nothing about it"
    table, plants = toy_signal(real_onsets[::5], dict(y=8), days=DAYS)
    gone = plants[(plants.genotype == 'G00') & (plants.treatment == 'WHC-30')].plant_id
    table = table[~(table.plant_id.isin(gone) & (table.dag == 19))].sample(frac=0.9, random_state=1)
    d = signal_rows(table, plants, 'y')
    days, fit = day_model(d)
    units = unit_effects(d, fit)
    np.testing.assert_allclose(units.mean(), fit.effects[len(days) :], atol=1e-10)
    assert np.isnan(units.loc['G00', 19]) and units.loc['G01'].notna().all()


def test_the_largest_z_beside_scipy():
    "The quantile of the largest |z| of correlated days: scipy's multivariate normal puts 95 % inside"
    cov = 0.6 + 0.4 * np.eye(5)
    wide = signal_effects._largest_z(cov, draws=40_000)
    normal = stats.multivariate_normal(np.zeros(5), cov)
    inside = normal.cdf(np.full(5, wide), lower_limit=np.full(5, -wide))
    assert inside == pytest.approx(0.95, abs=0.006)


# ---- genotypes are the units ----


def test_p_values_know_how_many_genotypes_there_are():
    "However many plants and however large the effect: six genotypes, 2 of 64 patterns of signs"
    table, plants = toy_signal(np.full(6, 20.0), dict(y=8), effect=50, days=DAYS)
    t, about = effects_of(signal_rows(table, plants, 'y'))
    assert about['smallest_p'] == smallest_p(6) == 2 / 64
    assert t.p.min() == about['p'] == 2 / 64
    five = table[table.plant_id.str[:2] != '05']
    t, about = effects_of(signal_rows(five, plants, 'y'))
    assert about['p'] == 2 / 32 and t.change_low[t.change != 0].isna().all()
    assert divergence_day(t) == (pytest.approx(np.nan, nan_ok=True), TOO_FEW)


def test_no_effect_no_day_of_divergence():
    "Genotypes that drift each in its own way: plants would agree on a day that genotypes do not"
    days = []
    for seed in range(120):
        t, _ = effects_of(signal_rows(*without_effect(6, seed), 'y'))
        days.append((divergence_day(t)[0], divergence_day(t, 'change_band')[0]))
    alone, together = np.isfinite(days).sum(0)
    assert stats.binom.sf(alone - 1, 120, 0.05) > 0.01, alone
    assert together <= alone


def test_p_values_without_an_effect():
    p = [effects_of(signal_rows(*without_effect(8, seed), 'y'))[1]['p'] for seed in range(120)]
    assert stats.binom.sf(np.sum(np.array(p) <= 0.05) - 1, 120, 0.05) > 0.01


def test_an_offset_from_the_first_day_is_no_response():
    "A tray of drought plants that is off by two standard deviations"
    dated = 0
    for seed in range(30):
        t, _ = effects_of(signal_rows(*without_effect(8, seed, tray=2.0), 'y'))
        assert t.effect.mean() > 0.4  # a comparison of the days alone sees it
        dated += np.isfinite(divergence_day(t)[0])
    assert stats.binom.sf(dated - 1, 30, 0.05) > 0.01


def test_a_band_holds_the_truth():
    inside = []
    for seed in range(200):
        x = np.random.default_rng(seed).standard_t(6, (9, 7)) + np.arange(7)
        half = unit_band(x, np.eye(7) * 1e-9, together=True)
        inside.append((np.abs(x.mean(0) - np.arange(7)) <= half).all())
    assert stats.binomtest(sum(inside), 200, 0.95, 'less').pvalue > 0.01


def test_parameters_are_adjusted_together():
    table, plants = toy_signal(real_onsets[:9], dict(a=8, b=-99, c=-99), effect=6, days=DAYS)
    t, one = fluorescence_change(table, plants, ['a', 'b', 'c'])
    p = one.p.to_numpy()
    np.testing.assert_allclose(sorted(one.p_adjusted)[0], min(1, 3 * p.min()))
    assert one.set_index('parameter').divergence_dag.notna().tolist() == [True, False, False]
    assert (t.p_holm >= t.p).all() and (t.p_bh >= t.p).all()


# ---- a plant's alarm ----


def test_false_alarms_of_the_sequential_test_are_what_was_asked_for():
    "No effect, trays off from the first day: controls and drought plants are alarmed alike"
    alarmed = {False: [], True: []}
    for seed in range(12):
        table, plants = toy_signal(
            np.full(20, 20.0), dict(y=0), effect=0, days=DAYS, seed=100 + seed
        )
        table['y'] += 2.0 * table.plant_id.map(plants.set_index('plant_id').treatment == 'WHC-30')
        s = deviation_scores(table, plants, ['y'])
        theta = s.cross_fitted_threshold(1, 0.1)[:, s.plants.g]
        days = s.alarm_day(theta, 1)[0]
        for kind in alarmed:
            alarmed[kind].extend(np.isfinite(days[s.plants.drought == kind]))
    for kind, of in alarmed.items():
        assert stats.binomtest(int(np.sum(of)), len(of), 0.1).pvalue > 0.01, (kind, np.mean(of))


def test_an_alarm_uses_the_past_only():
    "Days after an alarm do not move the scores before it, other than by what is learned of others"
    table, plants = toy_signal(real_onsets[:10], dict(y=6), effect=5, days=DAYS)
    one = plants.plant_id.iloc[4]
    later = table.copy()
    later.loc[(later.plant_id == one) & (later.dag > 19), 'y'] += 40
    a, b = (deviation_scores(t, plants, ['y']) for t in (table, later))
    before = (a.steps.plant_id == one) & (a.steps.dag <= 19)
    np.testing.assert_array_equal(a.p[0, before], b.p[0, before])
    after = (a.steps.plant_id == one) & (a.steps.dag > 19)
    assert (b.p[0, after] != a.p[0, after]).all()


@pytest.mark.parametrize('ahead', [0, 6])
def test_the_lead_of_an_alarm_holds_what_was_planted(ahead):
    often = {r: list(range(3, 39, 2)) for r in (1, 2, 3)}
    found = []
    for seed in range(12):
        leads = dict(early=ahead, late=0)
        table, plants = toy_signal(real_onsets[::3], leads, effect=6, days=often, seed=seed)
        both = [deviation_scores(table, plants, [k], arm=k) for k in leads]
        found.append(alarm_lead(*both, draws=200))
    f = pd.DataFrame(found)
    inside = ((f.low <= ahead) & (ahead <= f.high)).sum()
    assert stats.binomtest(int(inside), 12, 0.95, 'less').pvalue > 0.01
    assert f.lead_d.mean() == pytest.approx(ahead, abs=2.5)


# ---- dates ----


def test_dates_are_correlated_and_never_leads():
    "Two signals that share nothing but the onset's genotypes: no table shows a correlation of leads"
    rng = np.random.default_rng(3)
    p = []
    for _ in range(100):
        a, b = rng.normal(25, 5.5, (2, 44))
        p.append(dates_agree(a, b, draws=300)['p_dates'])
    assert stats.binom.sf(np.sum(np.array(p) <= 0.05) - 1, 100, 0.05) > 0.01
    dates = pd.DataFrame(
        dict(
            signal=np.repeat(['x', 'y'], 44),
            genotype=np.tile(range(44), 2),
            alarm_dag=[*a, *a + rng.normal(0, 1, 44)],
        )
    )
    t = agreement_table(dates)
    assert not [c for c in t if 'lead' in c]
    assert t.r_dates[0] > t.null_high[0] and t.p_dates[0] < 0.01


# ---- a real experiment ----


def tartu(folder, name, column, light):
    "Values and plants of one light: water and light stand in the tray's name, day 0 is the first"
    d = pd.read_csv(folder / 'tartu' / f'{name}.csv', sep=';', decimal=',')
    d = d[(d.genotype != 'empty') & d.tray_id.str.endswith(light)]
    water = d.tray_id.str.extract('_(HW|LW)_')[0].map(dict(HW='control', LW='stress'))
    day = (pd.to_datetime(d.date) - pd.Timestamp('2018-07-31')).dt.days
    d = d.assign(
        dag=day, role=water, treatment=water, tray=d.tray_id, replicate=1, signal=d[column]
    )
    onset = np.where(d.role == 'stress', 0.0, np.nan)  # exposed from day 0 on
    keep = [
        'plant_id',
        'genotype',
        'treatment',
        'role',
        'tray',
        'position',
        'replicate',
        'onset_dag',
    ]
    plants = d.assign(onset_dag=onset)[keep].drop_duplicates('plant_id', ignore_index=True)
    return d[['plant_id', 'dag', 'signal']], plants


@pytest.fixture(scope='module')
def real(shared):
    "Leaf temperature and rosette area in high light"
    columns = dict(Ir='Temp-avg', Morpho='AREA_MM')
    return {name: tartu(shared, name, c, 'HL') for name, c in columns.items()}


def test_real_leaf_temperature_leads_rosette_area(real):
    "High light: temperature departs on day 12, area on day 16; six genotypes, so p is 2 of 64"
    day, crossed = {}, {}
    for name, (table, plants) in real.items():
        assert plants.genotype.nunique() == 6 and len(plants) == 216
        rows = signal_rows(table, plants, 'signal')
        t, about = effects_of(rows)
        day[name], note = divergence_day(t)
        assert note == '' and about['p'] == about['smallest_p'] == 2 / 64
        assert about['sd_tray'] > 0.05
        crossed[name] = crossing_days(unit_changes(rows)[0], 0)
    assert day['Ir'] == pytest.approx(12, abs=2) and day['Morpho'] == pytest.approx(16, abs=2)
    lead = unit_lead(crossed['Ir'], crossed['Morpho'])
    assert lead['n_genotypes'] == 6 and lead['without_date'] == 0
    assert lead['low'] > 0 and lead['low'] < 4 < lead['high'] and lead['p'] == 2 / 64


def test_real_tray_offset_is_no_response(real):
    "Cooler trays on day 0, and so on day 6: neither that day nor that sign"
    t, _ = effects_of(signal_rows(*real['Ir'], 'signal'))
    at = t.set_index('dag')
    assert at.effect[0] < -0.5 and at.p[0] == 2 / 64 and at.effect[6] < -0.5
    assert abs(at.change[6]) < 0.5
    day, _ = divergence_day(t)
    assert day > 8 and at.change[day] > 0


def test_real_alarms_come_in_the_same_order(real):
    scored = [deviation_scores(*real[k], ['signal'], arm=k) for k in ('Ir', 'Morpho')]
    lead = alarm_lead(*scored, draws=100)
    assert lead['n_genotypes'] == 6 and lead['only_first'] > lead['only_second']
    assert lead['lead_d'] > 0
