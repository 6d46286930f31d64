"Fair rivals, families of comparisons, equivalence, power at the level used, and robustness"

import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from faba_nb.core.config import parse_yaml
from faba_nb.core.errors import BadInput
from faba_nb.core.studies import read_study, studies, study_from
from faba_nb.evaluation import comparing
from faba_nb.evaluation.comparing import (
    Entry,
    adjust,
    contrasts,
    decide,
    equivalence_interval,
    equivalence_p,
    holm,
    leaves_out_zero,
    MARGIN,
)
from faba_nb.evaluation.evaluating import (
    TESTS,
    compare_study,
    evaluate_study,
    every_test,
    metric_rows,
    resampler_maker,
    rules_on,
)
from faba_nb.evaluation.growth_curve import growth_rival
from faba_nb.evaluation.inferred import inferred_clock
from faba_nb.evaluation.information import information, permutation_table
from faba_nb.evaluation.information_free import (
    fair_rival,
    information_free,
    rule_on_all_days,
)
from faba_nb.evaluation.metrics import by_genotype, fold_values, plant_means, ratio, rates
from faba_nb.evaluation.power import detectable, first_step, observed_power
from faba_nb.evaluation.predictions import scores
from faba_nb.evaluation.probabilities import log_losses, scaled, squared_error
from faba_nb.evaluation.resampling import max_t, signs
from faba_nb.evaluation.robustness import analyses, cannot_move, holds_in, robustness_table
from faba_nb.testing.example_predictions import real_onsets, toy_predictions, toy_steps

GENOTYPES = [f'G{i:02d}' for i in range(44)]


def entry(name, f1, kind='arm', **more):
    "An arm with these values of F1, (runs, genotypes)"
    f1 = np.atleast_2d(f1)
    tp = np.round(f1 * 12)
    counts = dict(tp=tp, fp=12 - tp, fn=12 - tp)
    values = dict(f1=f1, auc=0.5 + f1 / 2) | more
    return Entry(name, values, counts, GENOTYPES[: f1.shape[1]], kind)


def drawn(seed=0, G=44, runs=2, **shifts):
    "Arms that share the genotypes' difficulty and are shifted"
    rng = np.random.default_rng(seed)
    base = rng.beta(5, 3, G)
    noise = lambda: rng.normal(0, 0.06, (runs, G))
    return {k: np.clip(base + s + noise(), 0, 1) for k, s in shifts.items()}


def toy(skill=0.3, noise=0.6, protocol='retrospective', n=44, seed=0, arm='toy'):
    "Scores of an imaginary model"
    onsets = real_onsets if n == 44 else None
    steps = toy_steps(n, onsets=onsets)
    return scores(toy_predictions(steps, skill, noise, protocol, seed=seed), protocol, arm)


def drawn_sizes(s, stops=6, noise=0.05, seed=0):
    "Heights of growing plants; drought plants stop some days before the onset"
    rng = np.random.default_rng(seed)
    parts = []
    for q, p in enumerate(s.plants.itertuples()):
        day = s.dag[s.plant == q]
        grown = np.minimum(day, p.onset_dag - stops if p.drought else 99)
        log = 4 + rng.normal(0, 0.15) - np.log1p(np.exp(-0.12 * (grown - 25)))
        height = np.exp(log + rng.normal(0, noise, len(day)))
        parts.append(pd.DataFrame(dict(plant_id=p.plant_id, dag=day, height_cm=height)))
    return pd.concat(parts, ignore_index=True)


# ---- fair rivals ----


def test_one_function_names_the_fair_rival_and_its_note_says_what_it_sees():
    assert fair_rival('retrospective') == 'treatment_clock'
    assert fair_rival('online') == 'inferred_treatment_clock'
    s = toy(protocol='online')
    y = inferred_clock(s, drawn_sizes(s))
    assert y.arm == fair_rival('online') and 'sees the size of the plant' in y.note


@pytest.mark.parametrize('rule', ['clock', 'inferred_treatment_clock', 'growth_curve'])
def test_thresholds_of_rules_are_those_of_the_other_genotypes(rule):
    "By plain loops; and labels of a genotype have no say in its own threshold"
    s = toy(protocol='online', n=14)
    y = {r.arm: r for r in rules_on(s, drawn_sizes(s))}[rule]
    assert 'threshold cross-fitted over genotypes' in y.note
    candidates = np.unique(np.r_[-1e-9, y.p[0]])[:-1]
    f1 = np.array([rates(y.counts(t))['f1'][0] for t in candidates])
    for j, g in enumerate(y.genotypes):
        others = np.delete(f1, j, axis=1).mean(1)
        assert y.thresholds_of[g] == candidates[np.argmax(np.round(others, 12))]
    own = np.array([y.thresholds_of[g] for g in y.genotypes])
    said = y.p[0] > own[y.g]
    np.testing.assert_array_equal(y.counts()['tp'][0], np.bincount(y.g, said & y.y))
    alarm = [y.dag[(y.plant == q) & said] for q in range(len(y.plants))]
    first = np.array([d.min() if len(d) else np.nan for d in alarm])
    np.testing.assert_array_equal(y.alarm_day()[0], first)


def test_the_inferred_clock_gains_by_its_own_threshold():
    "Cut at 0.5 it is a weaker rival than it is"
    s = toy(protocol='online')
    y = inferred_clock(s, drawn_sizes(s))
    at_half = rates(y.counts(0.5))['f1'].mean()
    assert fold_values(y)['f1'].mean() > at_half + 0.01


def test_a_constant_onset_knows_the_other_genotypes_only():
    s = toy(n=3)
    onset = dict(zip(s.genotypes, (10.0, 20.0, 35.0)))
    steps = toy_steps(3, onsets=list(onset.values()))
    s = scores(toy_predictions(steps, 0.3))
    rule = next(y for y in information_free(s) if y.arm == 'constant_onset')
    for found in (rule, rule_on_all_days(rule)):
        for j, g in enumerate(found.genotypes):
            day = np.median([o for h, o in onset.items() if h != g])
            drought = (found.steps.treatment == 'WHC-30').to_numpy()
            want = (found.dag >= day) & drought
            np.testing.assert_array_equal(found.p[0][found.g == j], want[found.g == j])


def test_brier_skill_is_against_the_fair_rival_or_undefined():
    s = toy(protocol='online', n=12)
    permuted = permutation_table(s, information(s, 20))
    maker = resampler_maker(50, 0)
    t = scaled(s)
    v = fold_values(s)
    skill = {}
    for shape in (drawn_sizes(s), None):
        clocks = {y.arm: y for y in rules_on(s, shape)}
        rows = metric_rows(s, t, v, permuted, clocks, maker).set_index('metric')
        skill[shape is not None] = rows.loc['brier_skill']
    rival = inferred_clock(s, drawn_sizes(s))
    e, theirs = squared_error(s)[0], squared_error(rival)[0]
    assert skill[True].value == pytest.approx(1 - (e.sum(1) / theirs.sum()).mean())
    assert 'inferred_treatment_clock' in skill[True].note
    assert np.isnan(skill[False].value) and 'no fair rival' in skill[False].note
    assert skill[False].undefined == 1


# ---- the growth curve ----


def test_the_growth_rival_sees_the_past_only_and_needs_sizes():
    s = toy(protocol='online')
    shape = drawn_sizes(s)
    y = growth_rival(s, shape)
    none = growth_rival(s, drawn_sizes(s, stops=-99))
    assert fold_values(y)['f1'].mean() > fold_values(none)['f1'].mean() + 0.1
    early = growth_rival(s, shape[shape.dag < 20])
    np.testing.assert_array_equal(early.p[0][s.dag < 20], y.p[0][s.dag < 20])
    assert growth_rival(s, shape[:0]) is None
    assert growth_rival(s, shape.drop(columns='height_cm')) is None
    assert {r.arm for r in rules_on(s, None)} & {'growth_curve', fair_rival('online')} == set()


# ---- families ----


@pytest.fixture(scope='module')
def made():
    "Contrasts of both protocols of four arms and three rules"
    f1 = drawn(a=0, b=0.05, c=0.02, d=0.0)
    rival = drawn(seed=9, runs=1, treatment_clock=0.1, inferred_treatment_clock=0, clock=-0.2)
    arms = [entry(k, v) for k, v in f1.items()]
    rules = [entry(k, v, 'yardstick') for k, v in rival.items()]
    stated = [('b', 'a'), ('c', 'a'), ('d', 'a')]
    raw = [contrasts(arms + rules, stated, p, draws=500) for p in ('retrospective', 'online')]
    return arms, rules, stated, decide(pd.concat(raw, ignore_index=True))


def test_each_family_is_adjusted_by_itself_and_no_row_is_in_two(made):
    t = made[-1]
    fair, stated, rest = (t[t.family == f] for f in ('fair_rival', 'stated', 'exploratory'))
    assert len(fair) + len(stated) + len(rest) == len(t)
    tested = fair[fair.p.notna()]
    assert set(tested.metric) == {'f1'} and len(tested) == 4 * 2
    np.testing.assert_allclose(tested.p_adjusted, holm(tested.p))
    np.testing.assert_allclose(stated.p_adjusted, holm(stated.p))
    np.testing.assert_allclose(rest.p_adjusted, stats.false_discovery_control(rest.p))
    assert len(stated) == 3 and (stated.primary == 1).all() and t.primary.sum() == 3
    rival = fair.groupby('protocol').arm_b.unique().map(list).to_dict()
    assert rival == {p: [fair_rival(p)] for p in ('retrospective', 'online')}
    assert t.family.drop_duplicates().tolist() == ['fair_rival', 'stated', 'exploratory']


def test_rules_are_not_tested_among_themselves(made):
    arms, rules, _, t = made
    names = {e.arm for e in rules}
    assert not t.arm_a.isin(names).any()
    only = t[t.arm_b.isin(names)]
    assert (only.family == 'fair_rival').all() and 'clock' not in set(t.arm_b)


def test_rules_more_or_less_change_no_p_value_between_arms(made):
    arms, rules, stated, _ = made
    without = decide(contrasts(arms, stated, draws=500))
    extra = entry('other_rule', np.full((5, 44), 0.9), 'yardstick')
    extra.genotypes = [f'H{i}' for i in range(44)]  # not even its genotypes
    more = decide(contrasts([extra, *rules, *arms], stated, draws=500))
    more = more[more.family != 'fair_rival'].reset_index(drop=True)
    columns = [c for c in without if c not in ('p_selected', 'best', 'verdict_selected')]
    pd.testing.assert_frame_equal(without[columns], more[columns], check_dtype=False)


def test_max_t_runs_over_arms_only(made):
    arms, _, _, t = made
    f1 = {e.arm: e.values['f1'].mean(0) for e in arms}
    q = t[(t.metric == 'f1') & (t.protocol == 'retrospective') & (t.family != 'fair_rival')]
    d = np.stack([f1[a] - f1[b] for a, b in zip(q.arm_a, q.arm_b)])
    np.testing.assert_allclose(q.p_max_t, max_t(d, signs(44, 500)))
    assert t[t.family == 'fair_rival'].p_max_t.isna().all()


def test_names_and_order_of_arms_change_nothing(made):
    "Renamed and turned round: the same numbers, up to the direction of a pair"
    arms, rules, stated, _ = made
    new = dict(a='zz', b='m', c='aa', d='k')
    renamed = [Entry(new[e.arm], e.values, e.counts, e.genotypes, e.kind) for e in arms]
    pairs = [(new[a], new[b]) for a, b in stated]
    one = decide(contrasts([*arms, *rules], stated, draws=300))
    two = decide(contrasts([*rules, *renamed[::-1]], pairs, draws=300))
    back = {v: k for k, v in new.items()}

    def key(t, names):
        "Rows by pair, whichever comes first"
        pair = zip(t.arm_a.map(lambda a: names.get(a, a)), t.arm_b.map(lambda a: names.get(a, a)))
        turned = [(min(p), max(p), p[0] > p[1]) for p in pair]
        t = t.assign(x=[p[0] for p in turned], y=[p[1] for p in turned])
        t['difference'] = t.difference * np.where([p[2] for p in turned], -1, 1)
        return t.set_index(['family', 'x', 'y', 'metric']).sort_index()

    columns = ['p', 'p_adjusted', 'p_max_t', 'p_selected', 'best', 'detectable_80', 'difference']
    columns += ['p_equivalence_adjusted', 'smallest_margin', 'prob_equal', 'alpha']
    x, y = key(one, {}), key(two, back)
    assert x.index.equals(y.index)
    for c in columns:
        np.testing.assert_allclose(x[c].astype(float), y[c].astype(float), atol=1e-9, err_msg=c)


def test_the_carrier_of_the_rules_is_not_the_first_arm(tmp_path):
    "An arm of fewer genotypes, named before or after the others: the rules' numbers stay"
    found = []
    for few in ('a_few', 'z_few'):
        table = toy_predictions(toy_steps(8), 0.3, 0.6)
        arms = {'m': table, few: table[table.genotype != 'G03']}
        out = tmp_path / few
        study = dict(name='s', defaults=dict(init_seeds=[42, 123]), arms={k: {} for k in arms})
        out.mkdir()
        (out / 'study.yaml').write_text(study_from(study, 's.yaml').to_yaml())
        for k, t in arms.items():
            (out / 'arms' / k).mkdir(parents=True)
            t = t.assign(study='s', arm=k, backbone='dinov2')
            t.to_csv(out / 'arms' / k / 'predictions.csv', index=False)
        evaluate_study(out, draws=20)
        m = pd.read_csv(out / 'tables' / 'metrics.csv')
        m = m[(m.kind == 'yardstick') & (m.group == 'published')]
        found.append(m.set_index(['arm', 'metric']).value.sort_index())
        assert set(pd.read_csv(out / 'tables' / 'families.csv').family) >= {'fair_rival'}
    pd.testing.assert_series_equal(*found)


@pytest.mark.full
def test_identical_arms_are_told_apart_in_5_percent_of_studies_each_family_apart():
    wrong = dict(stated=0, fair_rival=0)
    for seed in range(60):
        f1 = drawn(seed=seed, runs=1, a=0, b=0, c=0, treatment_clock=0)
        arms = [entry(k, v, 'yardstick' if 'clock' in k else 'arm') for k, v in f1.items()]
        t = decide(contrasts(arms, [('a', 'b'), ('a', 'c')], draws=199, metrics=('f1',)))
        for f in wrong:
            wrong[f] += t[t.family == f].verdict.isin(['better', 'worse']).any()
    for f, n in wrong.items():
        assert stats.binomtest(int(n), 60, 0.05, 'greater').pvalue > 0.001, (f, n)


# ---- every test counted ----


def test_every_p_value_of_every_table_is_counted(made):
    "A module that adds a column of p values without handing it over is found"
    *_, t = made
    perm = pd.DataFrame(dict(arm=['a'], statistic='concordance', protocol='online', p=[0.2]))
    days = pd.DataFrame(dict(parameter=['x', 'y'], dag=3, p=[0.1, 0.2], p_bh=0.2, p_holm=0.2))
    f = every_test(dict(contrasts=t, permutation=perm, fluorescence_effects=days))
    assert list(f.columns[:1]) == ['family'] and {'p', 'p_adjusted', 'adjustment'} <= set(f)
    counted = f.groupby('family').size()
    assert counted['genotype information'] == 1 and counted['fluorescence by day'] == 2
    raw = t.p.notna().sum() + t.p_equivalence.notna().sum()
    families = ('stated', 'fair_rival', 'exploratory')
    assert sum(counted[k] for k in families) == raw
    for family in ('stated', 'fair_rival'):
        for _, q in f[f.family == family].groupby('test'):
            np.testing.assert_allclose(q.p_adjusted, holm(q.p))
    assert f.p.notna().all() and f.adjustment.notna().all()


@pytest.fixture(scope='module')
def study(tmp_path_factory):
    "Tables of a study of three arms"
    out = tmp_path_factory.mktemp('families')
    plan = dict(name='s', contrasts=[['b', 'a'], ['c', 'a']], defaults=dict(init_seeds=[42, 123]))
    plan['arms'] = {k: {} for k in 'abc'}
    (out / 'study.yaml').write_text(study_from(plan, 's.yaml').to_yaml())
    steps = toy_steps(12)
    for i, k in enumerate('abc'):
        parts = [
            toy_predictions(steps, 0.3 + 0.2 * i, 0.6, p, seed=i)
            for p in ('retrospective', 'online')
        ]
        t = pd.concat(parts).assign(study='s', arm=k, backbone='dinov2')
        (out / 'arms' / k).mkdir(parents=True)
        t.to_csv(out / 'arms' / k / 'predictions.csv', index=False)
    evaluate_study(out, draws=100)
    return out, {p.stem: pd.read_csv(p) for p in (out / 'tables').glob('*.csv')}


def test_tables_of_a_study_count_their_tests(study):
    _, tables = study
    known = {(t[0], t[4] if len(t) > 4 else 'p') for t in TESTS}
    known |= {(t[0], t[5]) for t in TESTS if len(t) > 5}
    for name, t in tables.items():
        if name in ('contrasts', 'families'):
            continue
        for c in t.columns:
            if re.fullmatch(r'p(_.*)?', c) and pd.api.types.is_numeric_dtype(t[c]):
                assert (name, c) in known, f'{name}.csv: {c} is not in families.csv'
    f, c = tables['families'], tables['contrasts']
    assert (f.family == 'stated').sum() == 2 * 2  # two contrasts, difference and equivalence
    assert len(f[f.family == 'genotype information']) == len(
        tables['permutation'].dropna(subset='p')
    )
    assert set(c.family) == {'stated', 'fair_rival', 'exploratory'}
    assert (c.basis == 'exploratory').all() and not c.sentence.str.contains('confirmatory').any()
    assert (tables['power'].alpha == 0.05 / 2).all()


# ---- registered or exploratory ----


def test_a_contrast_is_exploratory_unless_it_says_where_and_when():
    text = """
name: s
contrasts:
- [b, a]
- {pair: [c, a], basis: registered, where: osf.io/abcde, when: 2027-01-31}
arms: {a: {}, b: {}, c: {}}
"""
    study = study_from(parse_yaml(text))
    assert study.contrasts == (('b', 'a'), ('c', 'a'))
    assert study.basis('b', 'a')['basis'] == 'exploratory'
    assert study.basis('a', 'c') == dict(
        basis='registered', where='osf.io/abcde', when='2027-01-31'
    )
    assert study_from(parse_yaml(study.to_yaml())) == study
    f1 = drawn(a=0, b=0.0, c=0.02)
    done = [dict(entry=entry(k, v)) for k, v in f1.items()]
    found = [(toy(n=3, arm=k), None) for k in f1]
    t = compare_study(found, done, study, 100, 0)['contrasts']
    said = t[t.sentence.str.contains('confirmatory')]
    assert said[['arm_a', 'arm_b', 'metric']].values.tolist() == [['c', 'a', 'f1']]
    assert 'registered at osf.io/abcde on 2027-01-31' in said.sentence.iloc[0]
    assert t[t.primary == 1].set_index('arm_a').basis.to_dict() == dict(
        b='exploratory', c='registered'
    )
    for bad, why in {
        '{pair: [c, a], basis: registered}': 'where, when is missing',
        '{pair: [c, a], where: x}': 'basis: registered',
        '{basis: registered, where: x, when: 2027-01-31}': 'pair is missing',
    }.items():
        with pytest.raises(BadInput, match=why):
            study_from(parse_yaml(f'contrasts: [{bad}]\narms: {{a: {{}}, c: {{}}}}'))


def test_all_shipped_contrasts_are_exploratory():
    for name in studies():
        assert read_study(name).registered == ()
        for a, b in read_study(name).contrasts:
            assert read_study(name).basis(a, b)['basis'] == 'exploratory'


# ---- equivalence ----


def test_the_90_percent_interval_is_what_the_equivalence_test_looks_at():
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.02, 0.06):
        d = rng.normal(shift, 0.08, 44)
        low, high, smallest = equivalence_interval(d)
        assert (equivalence_p(d) <= 0.05) == (-MARGIN < low and high < MARGIN)
        assert equivalence_p(d, smallest) == pytest.approx(0.05)
        assert stats.t.interval(0.9, 43, d.mean(), stats.sem(d)) == pytest.approx((low, high))


def test_equivalence_is_said_with_metric_margin_and_interval_and_only_when_it_was_shown():
    f1 = drawn(a=0, alike=0.0, apart=0.1)
    f1['noisy'] = np.clip(f1['a'] + np.random.default_rng(1).normal(0, 0.4, (2, 44)), 0, 1)
    arms = [entry(k, v) for k, v in f1.items()]
    t = decide(contrasts(arms, [(k, 'a') for k in ('alike', 'apart', 'noisy')], draws=300))
    for r in t.itertuples():
        assert ('equivalent' in r.sentence) == (r.verdict == 'equivalent')
    r = t[t.primary == 1].set_index('arm_a')
    assert r.verdict['alike'] == 'equivalent' and r.verdict['noisy'] == 'undecided'
    number = lambda x: f'{x:.3f}'.replace('-', '−')
    ends = f'{number(r.low_90["alike"])} to {number(r.high_90["alike"])}'
    said = f'equivalent in F1 within ± 0.05, a chosen margin (90 % interval {ends})'
    assert said in r.sentence['alike']
    assert (r.margin == 0.05).all() and r.smallest_margin['alike'] < 0.05


def test_no_page_says_equivalent_without_metric_and_margin():
    "In the code of pages: the word stands beside F1 and the margin, or names the test"
    from faba_nb.core.places import root

    for path in sorted((root() / 'faba_nb').glob('*/*.py')):
        if path.parent.name not in ('reporting', 'legacy', 'exploring', 'evaluation'):
            continue
        text = path.read_text()
        for m in re.finditer(r"(is|were|are|be) equivalent\b(.{0,80})", text):
            assert re.match(r' in F1 within ± ', m[2]) or 'F1' in m[2], f'{path.name}: {m[0]}'


# ---- power at the level that is used ----


@pytest.mark.parametrize('tests', [1, 4, 40])
def test_detectable_differences_are_found_as_often_as_they_say(tests):
    alpha = first_step(tests)
    sd = 0.21 * np.sqrt(0.4)
    d = detectable(sd, 44, alpha=alpha)
    z = np.random.default_rng(tests).normal(d, sd, (400_000, 44))
    t = z.mean(1) / (z.std(1, ddof=1) / np.sqrt(44))
    power = np.mean(2 * stats.t.sf(np.abs(t), 43) <= alpha)
    assert power == pytest.approx(0.8, abs=0.003)


def test_power_is_that_of_the_first_step_of_holm():
    sd = 0.21 * np.sqrt(0.4)
    assert round(detectable(sd, 44, alpha=0.05 / 4), 3) == 0.069
    for G, alpha in [(3, 1e-5), (4, 1e-8), (12, 1e-6), (44, 1e-9)]:
        assert np.isfinite(detectable(1.0, G, alpha=alpha))
    f1 = drawn(a=0, b=0, c=0)
    arms = [entry(k, v) for k, v in f1.items()]
    assert (observed_power(arms, 4).alpha == 0.0125).all()
    assert (
        observed_power(arms, 4).detectable_difference_80
        > observed_power(arms).detectable_difference_80
    ).all()
    t = decide(contrasts(arms, [('a', 'b'), ('a', 'c')], draws=100))
    first = t[t.primary == 1]
    assert (first.alpha == 0.025).all()
    want = [detectable(r.sd, r.n, alpha=0.025) for r in first.itertuples()]
    np.testing.assert_allclose(first.detectable_80, want)
    rest = t[(t.family == 'exploratory') & t.p.notna()]
    np.testing.assert_allclose(rest.alpha, 0.05 / len(rest))
    few = [entry(k, v) for k, v in drawn(a=0, b=0, c=0, G=5, runs=1).items()]
    t = decide(contrasts(few, [('a', 'b'), ('a', 'c')], draws=100))
    undecided = t[(t.primary == 1) & (t.verdict == 'undecided')]
    assert 'at the level 0.025' in undecided.sentence.iloc[0]


# ---- interval and verdict ----


def test_where_interval_and_verdict_disagree_the_adjusted_interval_stands_beside_it():
    "Eight contrasts, one of them just below 0.05 before Holm"
    rng = np.random.default_rng(3)
    base = rng.beta(5, 3, 44)
    d = rng.normal(0, 0.1, 44)
    d += 2.4 * d.std(ddof=1) / np.sqrt(44) - d.mean()
    arms = [entry('a', base), entry('near', base + d)]
    for i in range(7):
        e = rng.normal(0, 0.1, 44)
        arms.append(entry(f'n{i}', base + e - e.mean() + 0.001))
    t = decide(contrasts(arms, [(e.arm, 'a') for e in arms[1:]], draws=4000, metrics=('f1',)))
    r = t[t.primary == 1].set_index('arm_a').loc['near']
    assert r.p < 0.05 < r.p_adjusted and leaves_out_zero(r.low, r.high)
    assert r.level_adjusted == pytest.approx(0.05 / 8)
    assert r.low_adjusted < 0 < r.low and r.high_adjusted > r.high
    assert 'the 95 % interval leaves out 0, that at the adjusted level (99.38 %:' in r.sentence
    assert r.sentence.endswith('contains 0.')
    for q in t.itertuples():
        decided = q.verdict in ('better', 'worse')
        disagree = np.isfinite(q.p) and decided != leaves_out_zero(q.low, q.high)
        assert np.isfinite(q.low_adjusted) == disagree == ('adjusted level' in q.sentence)


# ---- the best arm ----


@pytest.mark.full
def test_the_best_of_equal_arms_is_not_better_than_a_rival_of_their_kind(monkeypatch):
    "Eight equal arms: the best one's own p is below 0.05 far too often, after the selection it is not"
    # the Bayesian test has no part in this and takes nearly all of the time
    monkeypatch.setattr(comparing, 'signed_rank_probabilities', lambda d: (np.nan,) * 3)
    raw, corrected = 0, 0
    for seed in range(100):
        f1 = drawn(seed=seed, runs=1, treatment_clock=0, **{f'a{i}': 0 for i in range(8)})
        rng = np.random.default_rng(1000 + seed)
        f1 = {k: v + rng.normal(0, 0.15, v.shape) for k, v in f1.items()}
        arms = [entry(k, v, 'yardstick' if 'clock' in k else 'arm') for k, v in f1.items()]
        t = contrasts(arms, draws=199, metrics=('f1',))
        t = decide(t)
        best = t[t.best == 1]
        assert len(best) == 1 and (best.family == 'fair_rival').all()
        top = max(f1.keys() - {'treatment_clock'}, key=lambda k: f1[k].mean())
        assert best.arm_a.iloc[0] == top
        raw += (best.p <= 0.05).any() and best.difference.iloc[0] > 0
        corrected += (best.verdict_selected == 'better').any()
    assert raw > 10 and stats.binomtest(int(corrected), 100, 0.05, 'greater').pvalue > 0.001
    assert (t.verdict_selected[t.best == 0] == '').all()


# ---- silence ----


def restricted(s):
    "min(|alarm − onset|, 14 d), never = 14 d, mean per genotype"
    error = np.abs(s.measured_error())
    never = np.isnan(error) & s.plants.drought.to_numpy()
    error = np.where(never, 14.0, np.minimum(error, 14))
    error = np.where(s.plants.drought.to_numpy(), error, np.nan)
    return plant_means(error, s.plants.g.to_numpy())[0]


def arm_entry(s):
    "An arm as evaluation compares it"
    v = fold_values(s, s)
    v |= dict(restricted_mae=restricted(s), log_loss=log_losses(s))
    counts = {k: x for k, x in s.counts().items() if k != 'tn'}
    return Entry(s.arm, v, counts, list(s.genotypes))


@pytest.mark.parametrize('limit', [2, 5, 8])
def test_an_arm_silenced_on_its_bad_plants_is_never_better(limit):
    "Its mean error over detected plants falls; no verdict follows it"
    from dataclasses import replace

    s = toy(0.3, 0.8, seed=4, arm='open')
    error = np.abs(s.measured_error())
    bad = (error > limit)[:, s.plant]
    mute = replace(s, p=np.where(bad, 0.01, s.p), arm='mute')
    a, b = arm_entry(mute), arm_entry(s)
    assert np.nanmean(a.values['mae_measured']) < np.nanmean(b.values['mae_measured']) - 0.5
    t = decide(contrasts([a, b], [('mute', 'open')], draws=500))
    assert 'better' not in set(t.verdict), t[t.verdict == 'better'].sentence.tolist()
    q = t.set_index('metric')
    assert q.verdict['restricted_mae'] in ('worse', 'undecided', 'equivalent')
    for m in ('mae_measured', 'mae_published'):
        assert q.verdict[m] == 'not tested' and np.isnan(q.p[m])
        assert 'silence lowers this error' in q.sentence[m] and 'better' not in q.sentence[m]


def test_a_smaller_restricted_error_is_better():
    rng = np.random.default_rng(0)
    f1 = drawn(a=0, b=0)
    mae = rng.normal(6, 1, (2, 44))
    arms = [entry('a', f1['a'], restricted_mae=mae - 1), entry('b', f1['b'], restricted_mae=mae)]
    t = decide(contrasts(arms, [('a', 'b')], draws=300)).set_index('metric')
    assert t.verdict['restricted_mae'] == 'better'
    assert 'restricted MAE (d)' in t.sentence['restricted_mae']
    assert 'lead' not in t.index  # a value that no arm has is left out


# ---- robustness ----


@pytest.fixture(scope='module')
def robust():
    skills = dict(base=0.2, twin=0.2, better=0.9, noisy=0.25, other=0.3)
    found = [(toy(v, 0.6, seed=i, arm=k), None) for i, (k, v) in enumerate(skills.items())]
    stated = [(k, 'base') for k in skills if k != 'base']
    flagged = found[0][0].steps
    flagged = flagged[flagged.plant_id == 'P004'][['plant_id', 'round']]
    return found, stated, flagged, robustness_table(found, stated, flagged)


def test_robustness_has_every_analysis(robust):
    found, stated, _, t = robust
    want = {'primary', 'not_within_3d', 'onset_one_round_earlier', 'onset_one_round_later'}
    want |= {'without_flagged', 'threshold_0.3', 'threshold_0.7'}
    want |= {f'without_replicate_{r}' for r in (1, 2, 3)}
    for pair, q in t.groupby(['arm_a', 'arm_b']):
        assert pair in stated and set(q.analysis) == want and len(q) == len(want)
    assert (t.draws == 2000).all() and (t.metric == 'f1').all()
    assert t[t.analysis == 'primary'].same_as_primary.eq(1).all()
    same = t.verdict == t.groupby('arm_a').verdict.transform('first')
    np.testing.assert_array_equal(t.same_as_primary, same.astype(float))
    late = t[t.analysis == 'onset_one_round_later'].note
    assert late.str.startswith('15 plants cannot move: P238, ').all()
    assert (t[t.analysis == 'onset_one_round_earlier'].note.fillna('') == '').all()
    flagged = t[t.analysis == 'without_flagged'].note
    assert (flagged == '11 plant-days of 1 plants left out').all()


@pytest.mark.parametrize('analysis', ['not_within_3d', 'threshold_0.7', 'without_replicate_2'])
def test_robustness_by_plain_loops(robust, analysis):
    found, *_, t = robust

    def f1(s):
        "Mean over runs of F1 per genotype"
        d = s.steps
        keep = np.ones(len(d), bool)
        if analysis == 'not_within_3d':
            keep = ~((d.dag - d.onset_dag).abs() <= 3).to_numpy()
        if analysis == 'without_replicate_2':
            keep = (d.replicate != 2).to_numpy()
        said = s.p[:, keep] > (0.7 if analysis == 'threshold_0.7' else 0.5)
        y, g = s.y[keep], s.g[keep]
        tp, fp, fn = (by_genotype(x, g) for x in (said & y, said & ~y, ~said & y))
        return ratio(2 * tp, 2 * tp + fp + fn, 0).mean(0)

    by = {s.arm: f1(s) for s, _ in found}
    q = t[t.analysis == analysis].set_index('arm_a')
    for a in q.index:
        assert q.difference[a] == pytest.approx((by[a] - by['base']).mean())
        assert q.p_adjusted[a] == pytest.approx(adjust(q.p, 'holm')[list(q.index).index(a)])


def test_analyses_that_cannot_be_made_are_named_and_not_counted(robust):
    found, stated, flagged, *_ = robust
    t = robustness_table(found[:2], stated[:1], None, draws=200)
    row = t[t.analysis == 'without_flagged'].iloc[0]
    assert row.verdict == 'not computed' and np.isnan(row.same_as_primary)
    assert 'raw data is not within reach' in row.note
    said = holds_in(t, 'twin', 'base')
    n = (t.analysis != 'primary').sum() - 1
    assert f'of {n} analyses' in said and 'not computed: flagged plants left out' in said
    assert set(t.draws.dropna()) == {200}
    assert cannot_move(found[0][0], -1) == []
    one = found[0][0].steps.replicate == 1
    from faba_nb.evaluation.strata import part

    assert not [k for k in analyses(part(found[0][0], one)) if 'replicate' in k]


def test_the_sentence_counts_and_names_what_does_not_hold(robust):
    *_, t = robust
    for a, b in t[['arm_a', 'arm_b']].drop_duplicates().itertuples(index=False):
        q = t[(t.arm_a == a) & (t.analysis != 'primary')]
        k = int(q.same_as_primary.sum())
        said = holds_in(t, a, b)
        assert f'holds in {k} of {len(q)} analyses' in said
        assert ('not in:' in said) == (k < len(q))
        for r in q[q.same_as_primary == 0].itertuples():
            assert r.verdict.split()[0] in said.split('not in:')[1]
    assert 'alarm threshold 0.7 (undecided)' in holds_in(t, 'better', 'base')


def test_a_study_without_stated_contrasts_has_an_empty_table_of_robustness(robust):
    found = robust[0]
    assert len(robustness_table(found, [])) == 0
    assert 'same_as_primary' in robustness_table(found, [('x', 'base')])


# ---- the first page ----


def test_the_first_page_corrects_the_first_arm_for_its_selection(study):
    from faba_nb.core.files import seal
    from faba_nb.reporting.results import Results
    from faba_nb.reporting.sentences import against_clock, robust as robust_lines

    out, tables = study
    c = tables['contrasts']
    path = out / 'tables' / 'contrasts.csv'
    best = c[c.best == 1]
    best = best[best.protocol == 'retrospective']
    said = against_clock(Results(out))
    words = dict(better='above it', worse='below it', undecided='not distinguishable')
    assert words[best.verdict_selected.iloc[0]] in said and 'after the selection' in said
    changed = c.copy()
    changed.loc[best.index, ['verdict', 'verdict_selected']] = 'better', 'undecided'
    changed.to_csv(path, index=False)
    seal(path)
    said = against_clock(Results(out))
    assert 'not distinguishable from it' in said and 'above it' not in said
    changed.drop(columns=['p_selected', 'best']).to_csv(path, index=False)
    seal(path)
    said = against_clock(Results(out))
    assert 'was not tested' in said and 'than chance (' not in said
    c.to_csv(path, index=False)
    seal(path)
    assert len(robust_lines(Results(out))) == 2
