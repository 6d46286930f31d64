"""The references and the checklist of the methods page"""

import re

import bibtexparser
import pandas as pd
import pytest

from faba_nb.core.places import root
from faba_nb.reporting import methods
from faba_nb.reporting.site import reports

NEEDED = """turnbull1976 page1954 westfall1993 vickers2006 clopper1934 platt1999 rubin1987
krippendorff2019 dunn2023 nadeau2003 benavoli2017 holm1979 benjamini1995 efron1987 kapoor2024
reyna2020 papoutsoglou2020 oquab2023 radford2021 stevens2024 gu2025""".split()


@pytest.fixture(scope='module')
def entries():
    text = (root() / 'reports' / 'references.bib').read_text(encoding='utf-8')
    found = bibtexparser.loads(text).entries
    assert len(found) == len(re.findall(r'^@', text, re.M)), 'an entry does not parse'
    return found


def test_every_entry_is_complete(entries):
    keys = [e['ID'] for e in entries]
    assert len(keys) == len(set(keys))
    for e in entries:
        assert e.get('author') and e.get('title') and re.fullmatch(r'\d{4}', e['year']), e['ID']
        assert any(e.get(v) for v in methods.VENUES), e['ID']
        assert re.match(r'10\.\d{4,}/', e.get('doi', '')) or e.get('url', '').startswith(
            'https://'
        ), e['ID']


def test_the_works_behind_the_methods_are_there(entries):
    assert not set(NEEDED) - {e['ID'] for e in entries}


def test_the_year_of_the_key_is_the_year_of_the_work(entries):
    assert not [e['ID'] for e in entries if not e['ID'].endswith(e['year'])]


def test_a_work_is_written_out():
    work = methods.references().loc['holm1979']
    assert work.text.startswith('Holm S. (1979) A simple sequentially rejective')
    assert work.doi == '' and work.url == 'https://www.jstor.org/stable/4615733'


def test_a_key_without_entry_is_refused():
    assert methods.cited('Holm [@holm1979].') == ['holm1979']
    with pytest.raises(KeyError, match='nobody1900'):
        methods.cited('As shown [@nobody1900].')


def test_keys_in_the_source_have_entries(entries):
    source = (root() / 'faba_nb' / 'reporting' / 'methods.py').read_text(encoding='utf-8')
    used = set(re.findall(r'@([a-z]+\d{4})', source))
    assert used and not used - {e['ID'] for e in entries}


def test_the_checklist_has_every_item_of_reforms():
    f = pd.read_csv(root() / 'reports' / 'checklist.csv', dtype=str, keep_default_na=False)
    sizes = dict(zip('12345678', (3, 5, 7, 3, 6, 3, 3, 2)))
    assert list(f.number) == [m + 'abcdefg'[i] for m, n in sizes.items() for i in range(n)]
    assert len(f) == 32 and f.section.nunique() == 8
    assert (f != '').all(axis=None)
    text = ' '.join(f.answer).lower()
    assert not [w for w in ('faba bean', 'climate chamber', 'fixed beforehand') if w in text]


def test_the_checklist_has_the_topics_of_reforms():
    "Numbered as in its table 1; the words are ours"
    f = pd.read_csv(root() / 'reports' / 'checklist.csv', dtype=str).set_index('number')
    topics = {
        '1a': 'population',
        '2e': 'script',
        '3b': 'sampling frame',
        '3e': 'number of samples',
        '3f': 'missing',
        '4b': 'corrupt',
        '5d': 'selected',
        '5f': 'baselines',
        '6a': 'training data alone',
        '6b': 'duplicates',
        '6c': 'legitimate',
        '7c': 'assumptions',
        '8a': 'external validity',
        '8b': 'not expected to hold',
    }
    assert not {n for n, word in topics.items() if word not in f.item[n].lower()}
    assert list(f.section.unique())[-1] == 'Generalizability and limitations'


def test_the_checklist_sends_readers_to_pages_that_exist():
    f = pd.read_csv(root() / 'reports' / 'checklist.csv', dtype=str)
    titles = {r.title for r in reports().values()}
    named = f['where'].str.extract('^pages? (.+)$')[0].dropna().str.split(' and ')
    assert len(named) > 20 and not {page for pages in named for page in pages} - titles
