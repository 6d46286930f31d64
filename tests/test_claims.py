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
