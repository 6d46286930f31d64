"What `faba compare` says of two studies"

import pandas as pd, pytest

from faba_nb.core.study_folder import StudyFolder
from faba_nb.running.cli import main
from faba_nb.testing.example_studies import example_results, later_onset


@pytest.fixture(scope='module')
def two(tmp_path_factory):
    "A study, and the same one with a later onset of one genotype"
    folder = tmp_path_factory.mktemp('two')
    example_results(folder / 'first', arms=['dinov2', 'no_image'], draws=60, genotypes=6)
    later_onset(folder / 'first', folder / 'second', days=4, draws=60)
    return folder / 'first', folder / 'second'


def said(capsys, *args):
    code = main(['compare', *map(str, args)])
    return code, *capsys.readouterr()


def test_a_study_and_itself(two, capsys):
    code, out, _ = said(capsys, two[0], two[0])
    assert code == 0
    assert 'All settings are the same.' in out and 'None of the' in out
    assert 'another' not in out


def test_a_page_and_its_tables(two, capsys, tmp_path):
    "Numbers on the page are those of the two tables"
    code, out, _ = said(capsys, *two, '--report', tmp_path / 'page')
    assert code == 0 and 'plants have another onset, by +4 days in the second' in out
    assert 'All settings are the same.' in out and 'None of the' not in out
    moved = pd.read_csv(tmp_path / 'page' / 'numbers.csv')
    row = moved[moved.row.eq('dinov2 · retrospective · published · f1')].iloc[0]
    for side, study in zip(('first', 'second'), two):
        t = pd.read_csv(StudyFolder(study).table('metrics'))
        t = t[(t.arm == 'dinov2') & (t.protocol == 'retrospective')]
        (value,) = t[(t.group == 'published') & (t.metric == 'f1')].value
        assert row[f'value_{side}'] == pytest.approx(value, abs=1e-12)
    html = (tmp_path / 'page' / 'index.html').read_text()
    assert 'Simulated data' in html and str(tmp_path) not in html


def test_an_arm_of_one_study_alone_and_a_setting(two, capsys, tmp_path):
    "Named; and nothing is called unexplained"
    other = tmp_path / 'other'
    example_results(other, arms=['dinov2'], draws=60, genotypes=6)
    path = StudyFolder(other).study
    path.write_text(path.read_text().replace('clip:     {backbone', 'clip2:    {backbone'))
    path.write_text(path.read_text().replace('[clip, dinov2]', '[clip2, dinov2]'))
    code, out, _ = said(capsys, two[0], other)
    assert code == 0 and 'arms.clip, ' in out and 'settings are not the same' in out
    assert 'Nothing that was recorded' not in out


def test_folders_without_a_study_or_tables(two, capsys, tmp_path):
    code, _, err = said(capsys, two[0], tmp_path)
    assert code == 2 and 'no study is here' in err
    bare = tmp_path / 'bare'
    bare.mkdir()
    (bare / 'study.yaml').write_text(StudyFolder(two[0]).study.read_text())
    code, _, err = said(capsys, two[0], bare)
    assert code == 2 and 'is missing' in err and 'faba evaluate' in err
