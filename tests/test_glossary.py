"The glossary has every word that a reader of the first page meets in the heads of its tables"

import ast
import json
import re

import pytest

from faba_nb.core.places import root
from faba_nb.experiment.facts import built_in
from faba_nb.reporting import comparison_tables
from faba_nb.reporting.comparison_tables import METRICS, metric_name
from faba_nb.reporting.glossary import glossary, glossary_table, meaning
from faba_nb.reporting.layout import Table
from faba_nb.reporting.results import NotThere, Results

PLAIN = {'Remark', 'Reason', 'Share', 'Training', 'Treated', 'Parameters'}  # plain English
OWN = 'study arm fit layer framing preparation protocol site'.split()
STATISTICS = [
    'restricted MAE',
    'lead',
    'utility',
    'fair rival',
    'information-free baseline',
    'no-information range',
    'permutation range',
    'group-conformal threshold',
    'stated',
    'registered',
    'exploratory',
    'family',
    'margin',
    'equivalent',
]


def cells(path):
    "Sources of a notebook's cells"
    return [''.join(c['source']) for c in json.loads(path.read_text(encoding='utf-8'))['cells']]


def first_page():
    "(function, arguments) of every table of the comparison, whose heads are those of the first page"
    names = 'backbone_comparison', 'main_results', 'robustness'
    pages = [root() / 'reports' / f'{n}.ipynb' for n in names]
    for source in (s for page in pages for s in cells(page)):
        for node in ast.walk(ast.parse(source if 'page.table' in source else '')):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == 'page.table':
                module, _, make = ast.unparse(node.args[1]).partition('.')
                how = {k.arg: ast.literal_eval(k.value) for k in node.keywords}
                how.pop('quiet', None)  # of the page, not of the table
                if module == 'comparison_tables':
                    yield getattr(comparison_tables, make), how


def written_heads():
    "Headings that stand in the code of the comparison's tables, and those of all metrics"
    tree = ast.parse((root() / 'faba_nb' / 'reporting' / 'comparison_tables.py').read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'Column':
            if len(node.args) > 1 and isinstance(node.args[1], ast.Constant):
                yield node.args[1].value
    yield from (metric_name(m, built_in()) for m in METRICS)


@pytest.fixture(scope='module')
def shown(tmp_path_factory):
    "Headings, and the words below them, of the tables of an example study's first page"
    from faba_nb.testing.example_studies import example_results

    folder = tmp_path_factory.mktemp('words') / 'example'
    results = Results(example_results(folder, arms=('dinov2', 'clip'), draws=50))
    heads, units = set(), set()
    for make, how in first_page():
        try:
            t = make(results, **how)
        except NotThere:
            continue
        assert isinstance(t, Table)
        heads |= {c.title for c in t.columns}
        units |= {c.unit for c in t.columns}
    return heads, units


def unknown(heads):
    return sorted(h for h in set(heads) - PLAIN if not meaning(h))


def test_every_head_that_the_code_can_print_is_explained():
    heads = list(written_heads())
    assert len(heads) > 40 and 'Concordance' in heads and 'p max-T' in heads
    assert not unknown(heads)
    assert unknown(['Concordance', 'Perspicacity']) == ['Perspicacity']


def test_every_head_of_the_first_page_is_explained(shown):
    heads, units = shown
    assert len(heads) > 20
    assert not unknown(heads)
    assert not unknown(u for u in units if u.endswith('range'))


def test_the_words_of_the_project_and_of_its_statistics_are_there():
    assert not unknown(OWN + STATISTICS)
    readme = (root() / 'README.md').read_text(encoding='utf-8')
    listed = re.findall(
        r'^\| ([\w ,-]+) \| ', readme.split('## Glossary')[1].split('\n## ')[0], re.M
    )
    assert set(OWN) <= set(listed)


def test_one_meaning_per_word_in_alphabetical_order():
    words = glossary()
    terms = words.term.str.lower()
    assert terms.is_unique and terms.is_monotonic_increasing
    assert (words.meaning.str.strip() == words.meaning).all()
    assert (
        words.meaning.str.endswith('.').all() and words.meaning.str[0].str.match('[A-Z0-9]').all()
    )
    assert not re.search('faba|bean|chamber|beforehand', ' '.join(words.meaning))


def test_the_page_of_methods_ends_with_it():
    *_, head, last = cells(root() / 'reports' / 'methods.ipynb')
    assert head == '## Words' and 'glossary.glossary_table' in last and 'page.finish()' in last
    assert len(glossary_table().frame) == len(glossary())
