"The site of notebooks: every notebook has a page, nothing is broken, nothing is asked of a network"

import importlib.util, json, os, re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import ROOT, once

pytestmark = pytest.mark.full  # the site is made once, in a minute

spec = importlib.util.spec_from_file_location('docs_build', ROOT / 'nbs' / 'docs' / 'build.py')
docs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(docs)

PAGES = docs.all_pages()
NOTEBOOKS = sorted(
    p
    for folder in ('nbs', 'reports')
    for p in (ROOT / folder).rglob('*.ipynb')
    if '.ipynb_checkpoints' not in p.parts
)
ROOMS = list(dict.fromkeys(p.chapter for p in PAGES if p.chapter != 'documents'))
# the page with most to show in every room; the simulated plants are the one of `twin`
LARGEST = {
    room: max((p for p in PAGES if p.chapter == room), key=lambda p: p.source.stat().st_size).name
    for room in ROOMS
}
SEEN = ['index.html', 'README.html', 'DECISIONS.html', 'training-losses.html', *LARGEST.values()]


class Read(HTMLParser):
    "Ids, links and pictures of a page"

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loads, self.alts = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids += [found['id']] if 'id' in found else []
        self.links += [found['href']] if tag == 'a' and 'href' in found else []
        self.loads += [found[k] for k in ('src', 'srcset', 'poster') if k in found]
        self.loads += [found['href']] if tag == 'link' else []
        self.alts += [found.get('alt') or ''] if tag == 'img' else []


@pytest.fixture(scope='session')
def site(tmp_path_factory):
    "All pages, made once"
    return once(tmp_path_factory, 'docs', docs.build)


@pytest.fixture(scope='session')
def read(site):
    "Page name to what it holds"
    return {p.name: Read(p.read_text(encoding='utf-8')) for p in sorted(site.glob('*.html'))}


def test_every_notebook_has_a_page(site, read):
    assert {p.source for p in PAGES} >= set(NOTEBOOKS)
    assert set(read) == {p.name for p in PAGES} | {'index.html'}
    assert {p.name for p in PAGES} <= set(read['index.html'].links)


def test_links(site, read):
    "Every link leads to a page and a place in it, or to a file of the repository"
    broken = []
    for name, page in read.items():
        for link in page.links:
            if re.match(r'https?:|data:|mailto:', link):
                continue
            path, _, anchor = link.partition('#')
            there = read.get(path or name)
            if there and (not anchor or anchor in there.ids):
                continue
            if not there and (site / path).exists() and not anchor:
                continue
            broken.append(f'{name}: {link}')
    assert not broken


def test_nothing_is_loaded_from_elsewhere(read):
    loads = {x[:60] for page in read.values() for x in page.loads if not x.startswith('data:')}
    assert not loads


def test_pictures_are_described(read):
    plants = read[LARGEST['twin']].alts
    assert len(plants) >= 3
    assert all(len(a) > 20 for page in read.values() for a in page.alts)


def test_cells(site):
    "Hidden cells and directives are not shown, imports are folded, names lead to their definition"
    nb = json.loads((ROOT / 'nbs/30_training/06_losses.ipynb').read_text(encoding='utf-8'))
    assert any('#| hide' in ''.join(c['source']) for c in nb['cells'])
    text = (site / 'training-losses.html').read_text(encoding='utf-8')
    shown = re.sub(r'<[^>]+>', '', text)
    assert '#|' not in shown and 'fastcore.test' not in shown
    assert text.count('<details class="imports">') == 1
    assert '<a href="training-streams.html#stream">stream</a>' in text
    assert '<span id="step_losses"></span>' in text


def test_code_can_be_copied(site):
    "What a page shows as code is the notebook's, letter by letter"
    import html

    nb = json.loads((ROOT / 'nbs/30_training/06_losses.ipynb').read_text(encoding='utf-8'))
    text = (site / 'training-losses.html').read_text(encoding='utf-8')
    shown = html.unescape(re.sub(r'<[^>]+>', '', text))
    cells = [''.join(c['source']) for c in nb['cells'] if c['cell_type'] == 'code']
    cells = [re.sub(r'^#\|.*\n?', '', c, flags=re.M) for c in cells if '#| hide' not in c]
    assert len(cells) > 5
    assert all(c.strip() in shown for c in cells)


def test_nothing_of_this_machine(site):
    "No page says where it was made, but for its links to files of the repository"
    for p in site.iterdir():
        assert str(ROOT) not in re.sub('href="[^"]*"', '', p.read_text(encoding='utf-8')), p.name


def test_old_pages_go(site, tmp_path, monkeypatch):
    "A page whose notebook is gone is removed, other files stay"
    monkeypatch.setattr(docs, 'DOCUMENTS', ['README.md'])
    monkeypatch.setattr(docs, 'all_pages', lambda: [docs.read_document(ROOT / 'README.md')])
    (tmp_path / 'training-gone.html').write_text('old')
    (tmp_path / 'mine.txt').write_text('mine')
    assert docs.build(tmp_path) == 2
    assert sorted(os.listdir(tmp_path)) == ['README.html', 'index.html', 'mine.txt', 'search.js']


def test_contributing_names_what_is_there():
    "Files named for those who change something exist, and hold the name in brackets behind them"
    text = (ROOT / 'CONTRIBUTING.md').read_text(encoding='utf-8')
    found = re.findall(r'`((?:nbs|data|reports|slurm|tests)/[^`\s]+)`(?: \(`(\w+)`)?', text)
    found = [(path, name) for path, name in found if not re.search(r'NAME|ROOM', path)]
    assert len(found) > 15 and len([1 for _, name in found if name]) > 8
    for path, name in found:
        assert (ROOT / path).exists(), path
        assert not name or re.search(rf'\b{name}\b', (ROOT / path).read_text()), (path, name)


def test_number_of_the_walk():
    "CONTRIBUTING's example is one cell, and what it says of it is true"
    text = (ROOT / 'CONTRIBUTING.md').read_text(encoding='utf-8')
    pattern = re.search(r'grep -n "(.*?)" nbs', text)[1]
    holders = [p for p in NOTEBOOKS if re.search(pattern, p.read_text(encoding='utf-8'))]
    assert [str(p.relative_to(ROOT)) for p in holders] == ['nbs/40_evaluation/09_comparing.ipynb']


def opened(browser, page: Path, width=1280, scheme='light'):
    "A tab, and everything the page said or asked of a network"
    tab, said = browser.new_page(viewport={'width': width, 'height': 900}, color_scheme=scheme), []
    tab.on('console', lambda m: said.append(f'console: {m.text}'))
    tab.on('pageerror', lambda e: said.append(f'error: {e}'))
    tab.on('requestfailed', lambda r: said.append(f'failed: {r.url[:100]}'))
    local = ('file:', 'data:', 'blob:')
    tab.on('request', lambda r: r.url.startswith(local) or said.append(f'network: {r.url[:100]}'))
    tab.goto(page.resolve().as_uri())
    tab.wait_for_timeout(200)
    return tab, said


LOOKS = [(n, 1280, 'light') for n in SEEN]
# one style for all pages: a few of them in the dark and on a phone
LOOKS += [(n, *look) for n in SEEN[:6] for look in ((1280, 'dark'), (390, 'light'))]


@pytest.mark.parametrize('name, width, scheme', LOOKS)
def test_page(browser, site, name, width, scheme):
    from axe_playwright_python.sync_playwright import Axe

    tab, said = opened(browser, site / name, width, scheme)
    assert said == []
    assert tab.locator('h1').count() == 1
    wider = tab.evaluate('document.documentElement.scrollWidth - innerWidth')
    assert wider <= 0, 'the page is wider than the window'
    found = [
        f"{v['id']}: {v['nodes'][0]['html'][:160]}"
        for v in Axe().run(tab).response['violations']
        if v['impact'] in ('serious', 'critical')
    ]
    assert found == []
    tab.close()


def test_every_page_fits_a_phone(browser, site):
    tab, said = opened(browser, site / 'index.html', 390)
    wide = []
    for page in sorted(site.glob('*.html')):
        tab.goto(page.as_uri())
        if tab.evaluate('document.documentElement.scrollWidth - innerWidth') > 0:
            wide.append(page.name)
    assert wide == [] and said == []
    tab.close()


def test_search(browser, site):
    "Words are found without a server; a hit opens its section; nonsense finds nothing"
    tab, said = opened(browser, site / 'index.html')
    field, hits = tab.locator('.find input'), tab.locator('.find ol a')
    field.fill('DINOv2')
    hits.first.wait_for()
    assert hits.count() > 5
    assert any('backbones-' in h.get_attribute('href') for h in hits.all())
    field.fill('step_losses')
    assert 'training-losses.html' in hits.first.get_attribute('href')
    field.fill('no such word anywhere')
    assert hits.count() == 0 and tab.locator('.find li.none').is_visible()
    field.fill('teacher answer')
    hits.first.click()
    tab.wait_for_url('**/training-losses.html#*')
    assert said == []
    tab.close()


def test_buttons(browser, site):
    "Next leads through all pages' order; the choice of dark stays on the next page"
    tab, said = opened(browser, site / PAGES[0].name)
    tab.locator('#theme').click()
    tab.wait_for_timeout(2000)  # another page may have another process: it sees the choice later
    tab.locator('a[rel=next]').click()
    tab.wait_for_url(f'**/{PAGES[1].name}')
    assert tab.evaluate('document.documentElement.dataset.theme') == 'dark'
    tab.locator('a[rel=prev]').click()
    tab.wait_for_url(f'**/{PAGES[0].name}')
    assert said == []
    tab.close()
