"Alarms in time: what a lead, an onset error, a utility and a false-alarm rate may say"

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from faba_nb.evaluation.alarms import alarm_rows, days_early, false_alarms, in_time, utility
from faba_nb.evaluation.evaluating import Resampler, measured_rows
from faba_nb.evaluation.predictions import scores
from faba_nb.testing.example_predictions import toy_predictions, toy_steps


def said(p, G=12, skill=0.6, seed=0):
    "Online scores of 12 genotypes with the probabilities that `p` makes of the table"
    table = toy_predictions(toy_steps(G), skill, 1.0, 'online', seed=seed)
    return scores(table.assign(probability=p(table)), 'online', 'toy')


def alarmed_after(days):
    "A model whose drought plants alarm from so many days after the onset, controls never"
    return said(lambda t: np.where(t.dag >= t.onset_dag.fillna(1e9) + days, 0.9, 0.1))


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


def test_utility_of_perfect_late_and_false_alarms():
    perfect = alarmed_after(0)
    assert worth(perfect) > 0.8  # the first plant-day at or after the onset
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


def test_at_most_alpha_of_new_genotypes_are_falsely_alarmed():
    "1 000 experiments of 20 genotypes whose controls have a level of their genotype"
    rng = np.random.default_rng(3)
    G, alpha, n = 20, 0.1, 1000
    level = rng.normal(0, 1, (n, G + 1, 1))
    largest = (level + rng.normal(0, 0.5, (n, G + 1, 3))).max(2)
    rank = int(np.ceil((G + 1) * (1 - alpha)))
    theta = np.sort(largest[:, :G], axis=1)[:, rank - 1]
    alarmed = int((largest[:, G] > theta).sum())
    assert stats.binomtest(alarmed, n, alpha, 'greater').pvalue > 0.01
    s = said(lambda t: rng.uniform(0, 1, len(t)), G=12)
    ours = s.group_conformal(1, 0.2)
    score = s.alarm_score(1)
    control, g = ~s.plants.drought.to_numpy(), s.plants.g.to_numpy()
    others = [score[0, control & (g == j)].max() for j in range(12) if j != 4]
    assert ours[0, 4] == np.sort(others)[int(np.ceil(12 * 0.8)) - 1]
    assert np.isinf(s.group_conformal(1, 0.01)).all()


def test_rows_of_every_rule_and_no_interval_without_spread():
    s = said(lambda t: 0.0)
    t = pd.DataFrame(alarm_rows(s, Resampler(len(s.genotypes), len(s.runs), 200, 0)))
    assert set(t.metric) >= {'lead', 'utility', 'false_alarm_rate', 'genotypes_falsely_alarmed'}
    assert t.stratum.nunique() == 12
    few = t[t.stratum.str.contains('group=0.05')].note
    assert few.str.contains('too few').all()
    assert t[t.metric == 'lead'].low.isna().all()
