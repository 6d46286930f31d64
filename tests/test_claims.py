"The claims of the earlier paper: a verdict follows its table"

import shutil
from types import SimpleNamespace

import pandas as pd
import pytest
from conftest import once
from test_reporting import grown

from faba_nb.core.files import seal
from faba_nb.evaluation.alarms import genotype_rule
from faba_nb.legacy import claims
from faba_nb.reporting.results import Results


@pytest.fixture(scope='module')
def example(tmp_path_factory):
    "A study of two arms; read only"
    from faba_nb.testing.example_studies import example_results

    return once(
        tmp_path_factory,
        'claims_example',
        lambda folder: example_results(folder, draws=60, arms=['dinov2', 'clip']),
    )


@pytest.fixture
def bare(example, tmp_path):
    "The same, to be changed"
    return shutil.copytree(example, tmp_path / 'bare')


def test_a_changed_number_changes_its_verdict(bare):
    path = bare / 'tables' / 'metrics.csv'
    m = pd.read_csv(path)
    printed = (m.metric == 'f1') & (m.group == 'published') & (m.arm == 'dinov2')
    m.loc[printed, ['value', 'low', 'high']] = 0.9371, 0.9012, 0.9648
    m.to_csv(path, index=False)
    seal(path)
    j = claims.judge(Results(bare)).set_index('id')
    assert '0.937 [0.901, 0.965]' in j.now['f1']
    assert j.verdict['f1'] == 'weaker'  # 0.634 is not in that interval


def test_verdicts_follow_the_contrasts(bare):
    path = bare / 'tables' / 'contrasts.csv'
    c = pd.read_csv(path)
    for verdict, expected in (
        ('better', 'stands'),
        ('undecided', 'cannot be said'),
        ('worse', 'cannot be said'),
    ):
        c.loc[(c.metric == 'f1') & (c.arm_a == 'clip') & (c.arm_b == 'dinov2'), 'verdict'] = verdict
        c.to_csv(path, index=False)
        seal(path)
        assert claims.judge(Results(bare)).set_index('id').verdict['clip_better'] == expected


def test_an_order_names_the_rule_of_its_alarms(grown):
    "In the words of the page of genotypes"
    claim = SimpleNamespace(arm='dinov2', metric='', protocol='online', printed=float('nan'))
    assert genotype_rule.words in claims.order(Results(grown), claim).instead


def judged(study, table=None, frame=None):
    "Claims by id, after a table was written"
    if table is not None:
        path = study / 'tables' / f'{table}.csv'
        frame.to_csv(path, index=False)
        seal(path)
    return claims.judge(Results(study)).set_index('id')


def test_without_fluorescence_nothing_about_it_stands(example):
    "The line says what is missing"
    days = [
        i for i, c in claims.read_claims().set_index('id').check.items() if c == 'fluorescence_day'
    ]
    j = judged(example).loc[[*days, 'cascade', 'triangulation']]
    assert len(j) == 8 and set(j.verdict) == {'cannot be judged'}
    assert j.answer.str.startswith('Cannot be judged: ').all()
    assert (j.now == '').all() and (j.latex == '').all()


@pytest.mark.parametrize(
    'r, p, verdict',
    [
        (0.4142, 0.004, 'stands'),
        (0.52, 0.004, 'weaker'),  # the dates correlate, and the number is another
        (0.4142, 0.2, 'cannot be said'),
        (-0.6, 0.001, 'cannot be said'),
    ],
)
def test_dates_that_correlate_are_judged_by_their_correlation(bare, r, p, verdict):
    pair = dict(first='fluorescence', second='dinov2', r_dates=r, p_dates=p, n=12)
    t = pd.DataFrame([pair | dict(null_low=-0.5, null_high=0.5)])
    j = judged(bare, 'presymptomatic_agreement', t)
    assert j.verdict['triangulation'] == verdict
    assert '-0.50 to 0.50' in j.yardstick['triangulation'].replace('−', '-')


@pytest.mark.parametrize('tau, verdict', [(0.2, 'cannot be said'), (0.3, 'stands')])
def test_a_stable_ranking_is_judged_by_its_own_range(bare, tau, verdict):
    t = pd.read_csv(bare / 'tables' / 'stability.csv')
    mine = t.against == 'another replicate'
    assert mine.sum() == 1
    t.loc[mine, ['tau', 'null_low', 'null_high']] = tau, -0.25, 0.25
    assert judged(bare, 'stability', t).verdict['ranking'] == verdict
    assert judged(bare, 'stability', t[~mine]).verdict['ranking'] == 'cannot be judged'


def test_found_again_is_one_unit_of_the_last_printed_digit(bare):
    "0.660 is printed to three digits; a day to none"
    path = bare / 'tables' / 'metrics.csv'
    for value, answer in ((0.6609, 'is found again'), (0.6612, 'comes out as 0.661')):
        m = pd.read_csv(path)
        mine = (m.metric == 'f1') & (m.group == 'published') & (m.arm == 'clip')
        m.loc[mine, ['value', 'low', 'high']] = value, 0.5, 0.8
        assert answer in judged(bare, 'metrics', m).answer['clip_f1']
    t = pd.DataFrame(dict(parameter=['NPQ_Lss', 'Fo', 'Fm'], divergence_dag=[13, 24, None]))
    j = judged(bare, 'fluorescence_divergence', t.assign(p_adjusted=0.01))
    assert j.verdict[['npq_day', 'fo_day', 'fm_day']].tolist() == [
        'stands',
        'weaker',
        'cannot be said',
    ]
    assert 'comes out as 24' in j.answer['fo_day']
