"Alarms in time: what a lead, an onset error, a utility and a false-alarm rate may say"

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from faba_nb.evaluation.alarms import (
    alarm_rows,
    best_utility,
    conformal_level,
    conformal_table,
    days_early,
    false_alarms,
    in_time,
    utility,
    utility_of,
)
from faba_nb.evaluation.delay_curves import (
    Delays,
    delay_tables,
    median_delay,
    middle_of,
    of_controls,
    restricted_mean,
)
from faba_nb.evaluation.evaluating import Resampler, measured_rows
from faba_nb.evaluation.predictions import check_predictions, scores
from faba_nb.evaluation.resampling import bootstrap_draws, with_reasons
from faba_nb.core.errors import BadInput
from faba_nb.experiment.facts import facts_from
from faba_nb.testing.example_predictions import toy_predictions, toy_steps
from faba_nb.testing.simulated_studies import alarmed_after, new_genotypes


def said(p, G=12, skill=0.6, seed=0):
    "Online scores of 12 genotypes with the probabilities that `p` makes of the table"
    table = toy_predictions(toy_steps(G), skill, 1.0, 'online', seed=seed)
    return scores(table.assign(probability=p(table)), 'online', 'toy')


def lead(s, threshold=0.5):
    "The lead at one threshold, days"
    a, b = in_time(s.delays(s.alarm_day(threshold)))['lead']
    return a.sum() / b.sum()


def worth(s, threshold=0.5):
    "The utility at one threshold"
    return utility(s, np.full((len(s.runs), len(s.genotypes)), threshold), 1)[0]


def test_a_model_silent_until_two_days_after_the_onset_has_no_lead():
    assert lead(alarmed_after(2)) == 0
    assert lead(alarmed_after(0)) == 0
    early = alarmed_after(-6)
    assert 0 < lead(early) <= 6


LIGHT = {
    'WHC-80': {'role': 'control'},
    'WHC-30': {'role': 'stress', 'shares': {'light': 'LL'}},
}


def alarmed(early):
    "Alarms of all stressed plants from the second day on, of a control from there on where `early` says so"
    table = toy_predictions(toy_steps(6), 0.6, 1.0, 'online')
    loud = (table.dag >= 4) & (table.onset_dag.notna() | early(table))
    return table.assign(probability=np.where(loud, 0.9, 0.1))


def test_a_plant_is_compared_with_the_mean_of_several_controls():
    "Nothing tells the controls of a genotype apart; one of three is alarmed as early as the plants"
    s = scores(alarmed(lambda t: t.replicate == 2).assign(replicate=1), 'online')
    alarm = s.alarm_day(0.5)
    lead, there = in_time(s.delays(alarm))['lead']
    p = s.plants.assign(alarm=alarm[0])
    for i, plant in enumerate(p[p.drought].itertuples()):
        beside = p[(p.genotype == plant.genotype) & ~p.drought].alarm
        early = days_early(beside.fillna(np.inf) - plant.onset_dag)
        assert sorted(early)[:2] == [0, 0] and len(beside) == 3
        own = days_early(plant.alarm - plant.onset_dag)
        assert there[0, i] and lead[0, i] == pytest.approx(own - early.mean())
    of_plants = of_controls(s.delay_intervals(alarm), len(s.genotypes)).counts.sum((1, 2))
    np.testing.assert_allclose(of_plants, p.drought.sum())


@pytest.mark.parametrize('first', ['LL', 'HL'])
def test_a_control_shares_what_the_description_says(first):
    "Two controls of a genotype and replicate, in low and in high light; those in high light are always alarmed"
    light = {1: first, 2: 'HL' if first == 'LL' else 'LL'}
    table = alarmed(lambda t: t.replicate.map(light) == 'HL')
    table = table[table.onset_dag.isna() | (table.replicate == 1)]
    table['with_light'] = np.where(table.onset_dag.isna(), table.replicate.map(light), 'LL')
    table = table[table.replicate < 3].assign(replicate=1)
    facts = facts_from({'treatments': LIGHT})
    s = scores(check_predictions(table, facts=facts), 'online', facts=facts)
    assert set(s.plants.with_light[s.pairs[:, 1]]) == {'LL'} and len(s.pairs) == 6
    x = s.delays(s.alarm_day(0.5))
    days, there = in_time(x)['lead']
    assert there.all() and (days > 0).all() and (days == days_early(x['drought'])).all()
    none = scores(
        check_predictions(table.assign(with_light='HL'), facts=facts), 'online', facts=facts
    )
    assert not len(none.pairs) and not in_time(none.delays(none.alarm_day(0.5)))['lead'][1].any()


def test_without_the_column_that_controls_must_share_nothing_is_compared():
    facts = facts_from({'treatments': LIGHT})
    table = alarmed(lambda t: t.replicate == 2)
    with pytest.raises(BadInput, match='column with_light missing'):
        check_predictions(table, facts=facts)
    table['with_light'] = np.where(table.dag < 10, 'LL', 'HL')
    with pytest.raises(BadInput, match='changes its with_light'):
        check_predictions(table, facts=facts)
    table = alarmed(lambda t: t.replicate == 2)
    check_predictions(table.assign(with_rain=table.dag))  # nothing that a treatment asks for


def test_silence_has_no_lead_no_utility_and_the_largest_error():
    mute = said(lambda t: 0.0)
    assert lead(mute) == 0 and worth(mute) == 0
    assert np.nanmin(mute.restricted_error()) == 14


def test_alarms_everywhere_gain_nothing_over_the_controls():
    loud = said(lambda t: 1.0)
    assert lead(loud) == pytest.approx(0)
    assert worth(loud) < 0


def test_silence_on_bad_plants_makes_nothing_better():
    "The mean error over detected plants falls; restricted error, lead and utility do not gain"
    table = toy_predictions(toy_steps(12), 0.6, 1.0, 'online')
    whole = scores(table, 'online', 'toy')
    error = np.abs(whole.measured_error())
    drought = whole.plants.drought.to_numpy()
    bad = whole.plants.plant_id[drought & (np.nan_to_num(error).mean(0) > 5)]
    assert len(bad) > 3
    quiet = table.assign(probability=np.where(table.plant_id.isin(bad), 0.0, table.probability))
    muted = scores(quiet, 'online', 'toy')
    assert np.nanmean(np.abs(muted.measured_error())) < np.nanmean(error)
    assert np.nanmean(muted.restricted_error()) > np.nanmean(whole.restricted_error())
    assert (days_early([3, np.inf]) == 0).all()


def test_skill_is_that_of_the_fair_rival_on_the_same_plants():
    s, rival = alarmed_after(0), alarmed_after(5)
    resampler = Resampler(len(s.genotypes), len(s.runs), 200, 0)
    rows = {r['metric']: r for r in measured_rows(s, resampler, rival)}
    own, other = (np.nanmean(x.restricted_error()) for x in (s, rival))
    assert rows['restricted_mae']['value'] == pytest.approx(own)
    assert rows['skill']['value'] == pytest.approx(1 - own / other)
    nothing = {r['metric']: r for r in measured_rows(s, resampler, None)}['skill']
    assert np.isnan(nothing['value']) and 'fair rival' in nothing['note']


def test_the_best_alarms_have_utility_1_also_where_plants_are_seldom_measured():
    "The day before the onset is measured for no plant: 1 is still in reach"
    table = toy_predictions(toy_steps(12), 0.6, 1.0, 'online')
    close = (table.onset_dag - table.dag).between(0, 9)
    sparse = table[~close].reset_index(drop=True)
    best = utility_of(sparse.dag - sparse.onset_dag.fillna(1e9), 0)
    largest = pd.Series(best).groupby(sparse.plant_id).transform('max')
    ideal = sparse.onset_dag.notna() & (best == largest) & (best > 0)
    s = scores(sparse.assign(probability=np.where(ideal, 0.9, 0.1)), 'online', 'toy')
    drought = s.plants.drought.to_numpy()
    assert best_utility(s)[drought].mean() < 0.95
    assert worth(s) == pytest.approx(1)


def test_utility_of_perfect_late_and_false_alarms():
    perfect = alarmed_after(0)
    assert worth(perfect) > 0.8  # the first plant-day at or after the onset
    loud = said(lambda t: 1.0)
    costs = [utility(loud, np.full((len(loud.runs), 12), 0.5), 1, c)[0] for c in (0, 0.5, 1)]
    assert costs[0] > costs[1] > costs[2] and costs[1] < 0
    assert worth(alarmed_after(15)) == pytest.approx(0)
    false = said(lambda t: np.where(t.onset_dag.isna(), 0.9, 0.1))
    assert worth(false) == pytest.approx(-0.5)


def test_false_alarms_of_one_genotype_say_little_of_the_next():
    "All in one of 6 genotypes: the interval reaches from 0 to above 0.4"
    s = said(lambda t: np.where(t.onset_dag.isna() & (t.genotype == 'G02'), 0.9, 0.1), G=6)
    theta = np.full((len(s.runs), 6), 0.5)
    alarmed, plants = false_alarms(s, theta, 1)
    assert (alarmed > 0).sum(1).tolist() == [1] * len(s.runs)
    resampler = Resampler(6, len(s.runs), 4000, 0)
    from faba_nb.evaluation.alarms import false_alarm_rows

    row = false_alarm_rows(s, theta, 1, resampler)[0]
    assert row['value'] == pytest.approx(1 / 6)
    assert row['low'] == pytest.approx(0) and row['high'] > 0.4


@pytest.mark.parametrize('alpha', [0.05, 0.1, 0.25])
def test_at_most_alpha_of_new_genotypes_are_falsely_alarmed(alpha):
    "1 000 experiments; in each the first of 21 genotypes is new"
    n, G = 1000, 21
    s = new_genotypes(n, G)
    alarmed, plants = false_alarms(s, s.group_conformal(1, alpha), 1)
    new = int((alarmed[:, 0] > 0).sum())
    promised = conformal_level(G - 1, alpha)[1]
    assert 0.5 * alpha < promised <= alpha
    assert stats.binomtest(new, n, promised, 'greater').pvalue > 0.01
    # a threshold for plants promises nothing of genotypes, and breaks it
    plain, _ = false_alarms(s, s.cross_fitted_threshold(1, alpha), 1)
    broken = int((plain[:, 0] > 0).sum())
    assert stats.binomtest(broken, n, alpha, 'greater').pvalue < 0.01


def test_a_threshold_for_genotypes_says_what_it_promises():
    s = said(lambda t: t.probability, G=12)
    score = s.alarm_score(1)
    control, g = ~s.plants.drought.to_numpy(), s.plants.g.to_numpy()
    others = [score[0, control & (g == j)].max() for j in range(12) if j != 4]
    assert s.group_conformal(1, 0.2)[0, 4] == np.sort(others)[int(np.ceil(12 * 0.8)) - 1]
    assert np.isinf(s.group_conformal(1, 0.01)).all()
    t = conformal_table(s, Resampler(12, len(s.runs), 200, 0)).set_index(['k', 'alpha'])
    impossible, possible = t.loc[(1, 0.05)], t.loc[(1, 0.1)]
    assert np.isnan(impossible.promised) and impossible.value == 0
    assert 'no threshold of 11 other genotypes can promise 5%' in impossible.note
    assert possible.promised == pytest.approx(1 / 12)
    assert f'realised {possible.value:.1%}' in possible.note
    assert f'{possible.per_plant:.1%}' in possible.note


def test_rows_of_every_rule_and_no_interval_without_spread():
    s = said(lambda t: 0.0)
    t = pd.DataFrame(alarm_rows(s, Resampler(len(s.genotypes), len(s.runs), 200, 0)))
    assert set(t.metric) >= {'lead', 'utility', 'false_alarm_rate', 'genotypes_falsely_alarmed'}
    assert t.stratum.nunique() == 12
    few = t[t.stratum.str.contains('group=0.05')].note
    assert few.str.contains('too few').all()
    assert t[t.metric == 'lead'].low.isna().all()
    assert (t[t.metric == 'lead'].no_interval == 'all draws equal').all()


def test_a_missing_interval_always_has_a_reason():
    t = pd.DataFrame(dict(value=[1.0, 0.0], low=[0.5, np.nan], high=[1.5, np.nan]))
    assert with_reasons(t).no_interval.tolist()[0] == ''
    assert with_reasons(t).no_interval.tolist()[1] != ''
    one = Resampler(1, 2, 200, 0).row(0.4, lambda d: np.full(len(d.genotype), 0.4))
    assert one['no_interval'] == 'one genotype' and np.isnan(one['low'])


LOOKS = (2, 5)  # days between two looks, from and below


def planted(rng, G=44, plants=3, middle=3.0, spread=4.0, shared=2.0):
    "Delays between two days each, of plants that are looked at every second to fourth day"
    g = np.repeat(np.arange(G), plants)
    onset = rng.uniform(12, 26, G)[g]
    own = rng.normal(0, spread, G * plants)
    alarm = onset + middle + rng.normal(0, shared, G)[g] + own
    ends = []
    for o, a in zip(onset, alarm):
        days = np.cumsum(rng.integers(*LOOKS, 20)) + rng.integers(0, 4)
        looks = np.r_[0, days[days <= 38]]
        low, high = looks[looks < o].max(), looks[looks >= o].min()
        late = looks[looks >= a]
        at = late.min() if len(late) else np.inf
        ends.append((looks[looks < a].max(initial=0) - high, at - low))
    return Delays(np.array(ends, float).T[:, None], g, G)


def test_planted_delays_come_back():
    "The truth: median 3 d, and the mean of normal delays between 0 and 14 d"
    drawn = np.random.default_rng(0).normal(3, np.hypot(4, 2), 100_000)
    truth = dict(median=3.0, mean=np.clip(drawn, 0, 14).mean())
    held, values = dict(median=[], mean=[]), dict(median=[], mean=[])
    for i in range(40):
        d = planted(np.random.default_rng(i))
        resampled = d.drawn_shares(bootstrap_draws(44, 1, 200, i))
        for name, f in dict(median=median_delay, mean=restricted_mean).items():
            value = f(d.shares, d.left, d.right)[0]
            row = middle_of(value, f(resampled, d.left, d.right))
            held[name].append(row['low'] <= truth[name] <= row['high'])
            values[name].append(value)
    for name in truth:
        assert np.mean(held[name]) >= 0.8, name
        assert np.mean(values[name]) == pytest.approx(truth[name], abs=0.3)


def test_the_days_between_looks_do_not_shift_the_median():
    "The look of an alarm is a day later than the alarm on average; the estimate is not"
    d = planted(np.random.default_rng(1), middle=0.0, spread=0.5, shared=0.0)
    at = median_delay(d.shares, d.left, d.right)[0]
    assert abs(at) < 0.7


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_estimate_beside_lifelines(seed):
    npmle = pytest.importorskip('lifelines.fitters.npmle', reason='lifelines is not installed')
    rng = np.random.default_rng(seed)
    left = rng.integers(-10, 15, 90).astype(float)
    right = left + rng.integers(1, 8, 90)
    right[rng.random(90) < 0.2] = np.inf
    d = Delays(np.stack([left, right])[:, None], np.arange(90) % 30, 30)
    theirs, sets = npmle.npmle(left + 1e-3, right - 1e-3, tol=1e-10)
    np.testing.assert_allclose(d.left, [s.left - 1e-3 for s in sets])
    np.testing.assert_allclose(np.cumsum(d.shares[0]), np.cumsum(theirs), atol=3e-3)


def test_an_arm_without_alarms_is_censored_and_not_at_once():
    mute = said(lambda t: 0.0)
    t = delay_tables(mute, bootstrap_draws(12, len(mute.runs), 100))
    summary = t['delay_summary'].set_index(['k', 'target', 'statistic'])
    median = summary.loc[(1, 0.05, 'median')]
    assert np.isinf(median.value) and 'not reached' in median.note
    assert summary.loc[(1, 0.05, 'restricted_mean')].value == 14
    assert (summary.no_interval == 'all draws equal').all()
    assert (t['delay'].detected == 0).all() and (t['delay'].no_interval != '').all()
    assert (summary.draws == 100).all()


def test_the_delay_of_an_alarm_lies_between_two_looks():
    "By hand: the look before the alarm less the look after the onset, and the other way round"
    s = alarmed_after(0)
    x = s.delay_intervals(s.alarm_day(0.5))
    drought = s.plants[s.plants.drought]
    width = (drought.label_high_dag - drought.label_low_dag).to_numpy()
    np.testing.assert_allclose(x['drought'][1, 0], width)
    np.testing.assert_allclose(x['drought'][0, 0], -width)
    last = s.steps.groupby('plant_id').dag.max()[drought.plant_id].to_numpy()
    never = s.delay_intervals(np.full((len(s.runs), len(s.plants)), np.nan))['drought']
    np.testing.assert_allclose(never[0, 0], last - drought.label_high_dag)
    assert np.isinf(never[1]).all()
