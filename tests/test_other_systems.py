"Predictions of another experiment: its words on every page, and nothing of the built-in one"

import html
import re

import pandas as pd
import pytest
from conftest import once

from faba_nb.core.errors import BadInput

SPECIES = 'Lactuca sativa'
DESCRIPTION = f'''title: Lettuce on salty ground
species: {SPECIES}
day_label: days after first imaging
day_word: day
stress_word: salinity
treatments:
  S0: {{role: control, label: fresh}}
  S9: {{role: stress, label: salted}}
'''
NAMES = {'WHC-80': 'S0', 'WHC-30': 'S9'}
# words of the built-in experiment; `faba VERB` is a command and faba_nb the program
FOREIGN = [
    r'\bfaba\b(?! [a-z]+ --| import)',
    r'\bbeans?\b',
    r'\bWHC\b',
    r'water-holding',
    r'\bDAG\b',
    r'chlorophyll',
    r'fluoresc',
    r'photograph',
    r'germination',
    r'drought',
    r'watered',
    r'(?<![\d.])44 [a-z]',
    r'22 rounds',
    r'day 38',
    r'three replicates',
    r'earlier paper',
    r'\{\w+\}',
]


def predictions():
    "A table as another system would write it: no replicate, no round, days from the first image"
    from faba_nb.testing.example_predictions import toy_predictions, toy_steps

    steps = toy_steps(9, onsets=[10, 13, 17, 19, 20, 28, 29, 33, 34])
    df = pd.concat(
        toy_predictions(steps, skill=s, protocol=p, seed=i).assign(arm=a)
        for i, (a, s) in enumerate({'thermal': 0.9, 'guess': 0.1}.items())
        for p in ('retrospective', 'online')
    )
    df = df[df.split == 'test']
    kept = 'arm protocol split_seed init_seed fold genotype plant_id treatment'.split()
    shifted = df[['dag', 'onset_dag']] - 3
    names = dict(treatment=df.treatment.map(NAMES), genotype=df.genotype.str.replace('G', 'acc'))
    return df[kept].assign(**names, **shifted, probability=df.probability.round(6))


@pytest.fixture(scope='module')
def brought(tmp_path_factory):
    "A folder with the table, its description and the study made of them, pages included; read only"
    from faba_nb.evaluation.evaluating import evaluate_study
    from faba_nb.evaluation.other_systems import bring
    from faba_nb.reporting.report_steps import run_report

    def make(folder):
        folder.mkdir()
        predictions().to_csv(folder / 'thermal.csv', index=False)
        (folder / 'lettuce.yaml').write_text(DESCRIPTION, encoding='utf-8')
        out = folder / 'study'
        bring(folder / 'thermal.csv', out, folder / 'lettuce.yaml')
        evaluate_study(out, draws=60)
        run_report(out)

    return once(tmp_path_factory, 'brought', make)


def visible(page):
    "What a reader of a page sees or hears: text and alternative texts, neither code nor style"
    text = re.sub(r'<(style|script)\b.*?</\1>', '', page, flags=re.S)
    text = re.sub(r'<div class="code" hidden>.*?</pre></div>\s*</div>', '', text, flags=re.S)
    other = re.findall(r'(?:aria-label|alt|title)="([^"]*)"', text)
    return html.unescape('\n'.join([re.sub(r'<[^>]+>', ' ', text), *other]))


def pages_of(brought):
    "{name of a page: its visible text}"
    files = sorted((brought / 'study' / 'report').glob('*.html'))
    return {p.name: visible(p.read_text(encoding='utf-8')) for p in files}


def test_pages_speak_of_their_own_experiment_only(brought):
    pages = pages_of(brought)
    for name, text in pages.items():
        for word in FOREIGN:
            hit = re.search(f'.{{0,60}}(?:{word}).{{0,60}}', text, re.I)
            assert not hit, f'{name}: {hit[0]}'
    everything = '\n'.join(pages.values())
    for word in (SPECIES, 'fresh', 'salted', 'salinity plants', 'Days after first imaging'):
        assert word in everything, word
    assert f'9 genotypes of {SPECIES}' in pages['index.html'] and 'salinity' in pages['index.html']
    assert 'three plants per genotype' in pages['methods.html']


def test_printed_tables_speak_of_their_own_experiment_only(brought):
    "Values and headings of LaTeX; the columns of CSV files have the names they were published with"
    files = sorted((brought / 'study' / 'tables' / 'report').glob('*.tex'))
    assert len(files) > 8
    texts = {p.name: p.read_text(encoding='utf-8') for p in files}
    metrics = pd.read_csv(brought / 'study' / 'tables' / 'metrics.csv', dtype=str)
    texts['notes of metrics.csv'] = '\n'.join(metrics.note.dropna())
    undefined = pd.read_csv(brought / 'study' / 'tables' / 'undefined.csv', dtype=str)
    texts['reasons in undefined.csv'] = '\n'.join(undefined.reason.dropna())
    for name, text in texts.items():
        for word in FOREIGN[:-1]:
            hit = re.search(f'.{{0,60}}(?:{word}).{{0,60}}', text, re.I)
            assert not hit, f'{name}: {hit[0]}'


def test_pages_about_what_is_not_there_are_not_made(brought):
    pages = pages_of(brought)
    assert set(pages) == {
        'backbone_comparison.html',
        'genotypes.html',
        'index.html',
        'main_results.html',
        'methods.html',
        'plants.html',
        'presymptomatic.html',
        'robustness.html',
    }
    for gone in ('Fluorescence', 'What was grown', 'Distillation', 'Old controls', 'Decisions'):
        assert not [n for n, text in pages.items() if gone in text], gone


def test_a_page_about_what_is_not_there_is_refused_in_one_line(brought):
    from faba_nb.reporting.site import reports

    for name in ('claims', 'dataset', 'earlier_results', 'features'):
        with pytest.raises(BadInput, match=f'the page {name!r} needs'):
            reports(name, brought / 'study')


@pytest.mark.parametrize(
    'change, said',
    [
        ({'  S9: ': '  S8: '}, "unknown treatment 'S9'"),
        ({'role: stress': 'role: wet'}, 'wet'),
        ({'role: stress': 'role: control'}, 'no treatment has the role stress'),
        ({'title: ': 'window: 28 days\ntitle: '}, 'window'),
        ({'title: ': 'senescence_day: 28 days\ntitle: '}, 'senescence_day'),
        ({'title: ': 'onset_classes: {Soon: 28 days}\ntitle: '}, 'onset_classes'),
        ({'treatments:': 'treatment:'}, 'no treatments are named'),
    ],
)
def test_a_bad_description_is_one_line(change, said, tmp_path, faba):
    text = DESCRIPTION
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / 'other.yaml').write_text(text, encoding='utf-8')
    predictions().to_csv(tmp_path / 'other.csv', index=False)
    asked = ('--predictions', tmp_path / 'other.csv', '--description', tmp_path / 'other.yaml')
    r = faba('evaluate', *asked, '--out', tmp_path / 'out')
    assert r.returncode == 2 and len(r.stderr.strip().splitlines()) == 1, r.stderr
    assert said in r.stderr and not (tmp_path / 'out').exists()


def test_a_missing_description_is_one_line(tmp_path, faba):
    predictions().to_csv(tmp_path / 'other.csv', index=False)
    asked = ('evaluate', '--predictions', tmp_path / 'other.csv', '--out', tmp_path / 'out')
    for more, said in (
        ((), 'which of the treatments S0, S9 is the stress'),
        (('--description', tmp_path / 'none.yaml'), 'none.yaml'),
    ):
        r = faba(*asked, *more)
        assert r.returncode == 2 and len(r.stderr.strip().splitlines()) == 1, r.stderr
        assert said in r.stderr and not (tmp_path / 'out').exists()


def brought_to(tmp_path, text=DESCRIPTION):
    "A folder made of predictions, and the files it was made of"
    from faba_nb.evaluation.other_systems import bring

    (tmp_path / 'other.yaml').write_text(text, encoding='utf-8')
    predictions().to_csv(tmp_path / 'other.csv', index=False)
    files = tmp_path / 'other.csv', tmp_path / 'other.yaml'
    return bring, files


@pytest.mark.parametrize('study', ['name: mine\narms: {a: {}}\n', ''])
def test_a_folder_of_another_study_is_left_as_it_is(study, tmp_path):
    "A study that was trained or imported keeps its settings and its arms"
    from faba_nb.core.errors import BadInput

    bring, (table, description) = brought_to(tmp_path)
    out = tmp_path / 'out'
    (out / 'arms' / 'a').mkdir(parents=True)
    (out / 'arms' / 'a' / 'imported.json').write_text('{}')
    if study:
        (out / 'study.yaml').write_text(study)
    before = sorted((p, p.read_bytes()) for p in out.rglob('*') if p.is_file())
    with pytest.raises(BadInput, match='another'):
        bring(table, out, description)
    assert before == sorted((p, p.read_bytes()) for p in out.rglob('*') if p.is_file())


def test_other_words_for_the_experiment_are_refused(tmp_path):
    from faba_nb.core.errors import BadInput

    bring, (table, description) = brought_to(tmp_path)
    bring(table, tmp_path / 'out', description)
    description.write_text(DESCRIPTION.replace('title: ', 'title: not '), encoding='utf-8')
    with pytest.raises(BadInput, match='other words'):
        bring(table, tmp_path / 'out', description)


def test_a_table_without_one_role_is_refused(tmp_path):
    "Nothing can be compared where no control, or no plant under stress, has predictions"
    from faba_nb.core.errors import BadInput

    bring, (table, description) = brought_to(tmp_path)
    whole = predictions()
    for name, role in (('S0', 'stress'), ('S9', 'control')):
        whole[whole.treatment == name].to_csv(table, index=False)
        with pytest.raises(BadInput, match=f'no plant has the role {role}'):
            bring(table, tmp_path / 'out', description)
        assert not (tmp_path / 'out').exists()


def test_a_row_is_named_as_the_file_counts_it(tmp_path):
    "Also in the second of two arms"
    from faba_nb.core.errors import BadInput

    bring, (table, description) = brought_to(tmp_path)
    whole = predictions().reset_index(drop=True)
    whole.loc[len(whole) - 1, 'probability'] = 1.5
    whole.to_csv(table, index=False)
    with pytest.raises(BadInput, match=f'row {len(whole) + 1}: probability 1.5'):
        bring(table, tmp_path / 'out', description)
