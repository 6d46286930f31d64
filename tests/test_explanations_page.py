"The page of explanations: verdicts in words, only where there are any, with and without photographs"

import numpy as np
import pytest
from conftest import once

from faba_nb.core.files import read_json, seal, write_csv, write_json
from faba_nb.core.study_folder import StudyFolder
from faba_nb.reporting import explanations_page as page
from faba_nb.reporting.report_steps import page_inputs, run_report
from faba_nb.reporting.results import NotThere, Results
from faba_nb.reporting.site import reports
from faba_nb.testing.example_explanations import GRIDS, example_explanations, example_tests

NAME = 'explanations'


def example(folder, **kwargs):
    from faba_nb.testing.example_studies import example_results

    arms = ['dinov2', 'no_image']
    return example_results(folder, draws=20, arms=arms, genotypes=8, **kwargs)


@pytest.fixture(scope='module')
def bare(tmp_path_factory):
    "A study without photographs, nothing of it explained; read only"
    return once(tmp_path_factory, 'unexplained', example)


@pytest.fixture
def explained(bare, tmp_path):
    "A copy of it in which an arm with and an arm without photographs were explained"
    import shutil

    out = shutil.copytree(bare, tmp_path / 'out')
    example_explanations(out, 'dinov2', {'path': ['truth']})
    example_explanations(out, 'no_image')
    return out


def judged_as(out, fails):
    "What is said of an arm whose maps fail these tests"
    folder = StudyFolder(out).explanation('dinov2')
    path = folder / 'where_tests.csv'
    write_csv(example_tests(fails, 4), path)
    seal(path)
    return ' '.join(page.verdict_sentences(Results(out), 'dinov2'))


# ---- the verdict ----
def test_a_method_fails_in_words_exactly_where_its_verdict_does(explained):
    for test in page.TESTS:
        for method, n in GRIDS.items():
            said = judged_as(explained, {method: [test]})
            name = page.way(method, n)
            assert f'{name} fails 1 of 4 tests (“{page.TESTS[test]}”)' in said
            assert said.count('fails') == 2  # the method, and what that means
            assert 'Of 3 methods' in said and ' 2 pass all tests' in said
            others = [page.way(m, k) for m, k in GRIDS.items() if m != method]
            assert all(f'{other} passes all 4 tests' in said for other in others)


def test_nothing_fails_in_words_where_nothing_does(explained):
    said = judged_as(explained, {})
    assert ' 3 pass all tests' in said and 'fail' not in said and 'not known' not in said
    t = page.verdict_table(Results(explained), 'dinov2')
    assert not t.frame.failed.any() and len(t.frame) == 12
    alone = judged_as(explained, {m: ['truth'] for m in GRIDS})
    assert 'none passes all tests' in alone and 'passes all 4' not in alone


def test_too_few_plants_leave_a_test_open(explained):
    path = StudyFolder(explained).explanation('dinov2') / 'where_tests.csv'
    t = example_tests({}, 2)
    t.loc[t.test == 'top fifth', ['verdict', 'low', 'high']] = ['not known', np.nan, np.nan]
    write_csv(t, path)
    seal(path)
    said = ' '.join(page.verdict_sentences(Results(explained), 'dinov2'))
    assert said.count('is not known to pass 1 of 4 tests (“top fifth counts”)') == 3
    assert 'fail' not in said and 'none passes' in said


def test_words_of_the_table_are_those_that_were_written(explained):
    t = page.verdict_table(Results(explained), 'dinov2').frame
    assert t.words.tolist() == example_tests({'path': ['truth']}, 4).words.tolist()
    assert t[t.failed].name.tolist() == ['Finds the damage']


def test_an_arm_without_photographs_has_no_place_to_show(explained):
    said = page.verdict_sentences(Results(explained), 'no_image')
    assert said == ['Arm no_image sees no photographs, so there is no place to show.']
    with pytest.raises(NotThere):
        page.where_figure(Results(explained), 190, 'no_image')


def test_changed_and_earlier_files_are_refused(explained):
    from faba_nb.core.errors import BadInput

    path = StudyFolder(explained).explanation('dinov2') / 'where_tests.csv'
    old = example_tests({}, 4).drop(columns='words')
    write_csv(old, path)
    with pytest.raises(BadInput, match='not what was written'):
        page.verdict_sentences(Results(explained), 'dinov2')
    seal(path)
    with pytest.raises(BadInput, match='an earlier edition'):
        page.verdict_sentences(Results(explained), 'dinov2')


# ---- sensors and days ----
def test_sentences_of_sensors_and_days_follow_from_the_tables(explained):
    results = Results(explained)
    t = page._read(results, 'dinov2', 'modalities.csv')
    t['part'] = np.where(t.modality == 'fluor', 1.0, -0.5)
    said = page.sensor_sentence(results, 'dinov2')
    assert said.endswith('is fluorescence in 4 of 4 plants.')
    first = t.plant_id == t.plant_id.iloc[0]
    t.loc[first & (t.modality == 'image'), 'part'] = 2.0
    said = page.sensor_sentence(results, 'dinov2')
    assert said.endswith('is fluorescence in 3 and photographs in 1 of 4 plants.')
    t['part'] = -1.0
    assert page.sensor_sentence(results, 'dinov2') == ''
    days = page._read(results, 'dinov2', 'days.csv')
    days['part'] = np.where(days.dag - days.day == 4, 0.6, 0.1)
    said = page.day_sentence(results, 'dinov2')
    assert 'lies 4 d before it (median of 4 plants)' in said and 'lower by 0.60' in said
    days['part'] = -0.1
    assert page.day_sentence(results, 'dinov2') == ''


def test_diamonds_are_the_sums_of_the_bars(explained):
    results = Results(explained)
    t = page._read(results, 'dinov2', 'modalities.csv')
    drawn = page.sensor_figure(results, 90, 'dinov2')
    left = drawn.figure.axes[0]
    at = [line.get_xdata()[0] for line in left.lines if getattr(line, 'shown', {})]
    assert np.allclose(at, t.groupby('plant_id', sort=False).part.sum())


# ---- pictures ----
def test_a_map_is_laid_over_the_photograph_cell_by_cell():
    photo = np.zeros((32, 32, 3), np.uint8)
    photo[:16] = 100
    picture = page.overlay(np.array([[0.0, 2.0], [-1.0, 0.0]]), 2.0, photo)
    grey, fall, rise, nothing = picture[0, 0], picture[0, -1], picture[-1, 0], picture[-1, -1]
    assert (
        np.allclose(grey, [page.LIFT + (1 - page.LIFT) * 100 / 255] * 3 + [1]) and nothing[3] == 0
    )
    assert fall[0] > fall[2] and rise[2] > rise[0] and fall[3] == 1
    assert np.isclose(rise[3], page.OPAQUE / 2)


@pytest.fixture
def grown(explained_twin):
    return explained_twin


def test_photographs_lie_below_the_maps_where_they_are_within_reach(grown):
    results = Results(grown)
    drawn = page.where_figure(results, 190, 'dinov2')
    assert 'not shown' not in drawn.caption and 'the first 6 of 8 plants' in drawn.caption
    pictures = [i.get_array() for ax in drawn.figure.axes for i in ax.images]
    assert len(pictures) == 6 * 4 + 3  # photographs and maps of six plants, three scales
    assert sum(p.shape[:2] == (64, 64) for p in pictures) >= 6 * 4
    words = [ax.get_ylabel() for ax in drawn.figure.axes]
    assert sum('FAILS 1 of 4 tests' in w for w in words) == 1
    assert sum('passes 4 of 4 tests' in w for w in words) == 2


@pytest.mark.parametrize('gone', ['data', 'features'])
def test_maps_alone_are_shown_with_the_reason(grown, monkeypatch, gone):
    results = Results(grown)
    monkeypatch.setitem(results.run, gone, str(grown / 'nowhere'))
    drawn = page.where_figure(results, 90, 'dinov2')
    assert 'The photographs are not shown: ' in drawn.caption
    assert str(grown) not in drawn.caption
    assert sum(len(ax.images) for ax in drawn.figure.axes) == 6 * 3 + 6  # scales of two blocks


def test_a_photograph_that_cannot_be_read_is_told_without_its_place(grown, twin, monkeypatch):
    from faba_nb.core.errors import BadInput

    def refuse(path, *cut):
        raise BadInput('it shows no plant', path)

    monkeypatch.setattr(page, 'read_photograph', refuse)
    said = page.where_figure(Results(grown), 190, 'dinov2').caption
    assert 'The photographs are not shown: ' in said and 'shows no plant' in said
    assert str(twin) not in said and 'not shown: /' not in said


# ---- the page ----
def test_there_is_no_page_without_explanations(bare):
    from faba_nb.core.errors import BadInput

    assert NAME in reports() and NAME not in reports(out=bare)
    with pytest.raises(BadInput, match='nothing like it is here'):
        run_report(bare, NAME)


def test_other_pages_do_not_depend_on_explanations(explained):
    mine, other = reports(out=explained)[NAME], reports(out=explained)['methods']
    before = page_inputs(explained, mine), page_inputs(explained, other)
    example_explanations(explained, 'dinov2', {'patches4': ['truth']})
    after = page_inputs(explained, mine), page_inputs(explained, other)
    assert {k for k in before[0] if before[0][k] != after[0][k]} == {NAME}
    assert before[1] == after[1]


def test_the_page_is_made_once_and_again_when_its_files_change(explained):
    assert run_report(explained, NAME) == 2  # the page, the workbook
    html = (explained / 'report' / f'{NAME}.html').read_text(encoding='utf-8')
    assert 'Simulated data' in html and 'class="gap"' not in html
    assert 'taking the feature apart fails 1 of 4' in html and 'sees no photographs' in html
    first = html.index('taking the feature apart fails')
    assert first < html.index('id="tab_where_tests_dinov2"') < html.index('<svg')
    assert 'what the model sees' not in html
    assert run_report(explained, NAME) == 0
    example_explanations(explained, 'dinov2', {'patches8': ['top fifth']})
    assert run_report(explained, NAME) == 2
    html = (explained / 'report' / f'{NAME}.html').read_text(encoding='utf-8')
    assert 'covering 8×8 patches fails 1 of 4' in html
    assert 'taking the feature apart fails' not in html
