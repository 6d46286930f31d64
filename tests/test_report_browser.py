"The pages of a finished study in a real browser: offline, silent, accessible, no wider than a phone"

import os, re, subprocess
from itertools import combinations
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = [pytest.mark.full, pytest.mark.usefixtures('site')]
SITE = Path(os.environ.get('FABA_REPORT') or ROOT / 'results' / 'demo' / 'report')
PAGES = sorted(SITE.glob('*.html'))


@pytest.fixture(scope='module')
def site():
    "The folder of pages"
    if not PAGES:
        pytest.skip(f'no report at {SITE}: `make demo` makes one')
    return SITE


def test_site_is_there(site):
    assert SITE / 'index.html' in PAGES
    assert (SITE / 'index.html').stat().st_size < 1_000_000
    most = {'plants': 25_000_000}  # photographs of every plant
    assert all(p.stat().st_size <= most.get(p.stem, 3_000_000) for p in PAGES)


def opened(browser, page, width, scheme):
    "The page, and everything it said or asked the network for"
    tab, said = browser.new_page(viewport={'width': width, 'height': 900}, color_scheme=scheme), []
    tab.on('console', lambda m: said.append(f'console: {m.text}'))
    tab.on('pageerror', lambda e: said.append(f'error: {e}'))
    tab.on('requestfailed', lambda r: said.append(f'failed: {r.url[:100]}'))
    tab.on(
        'request',
        lambda r: (
            r.url.startswith(('file:', 'data:', 'blob:')) or said.append(f'network: {r.url[:100]}')
        ),
    )
    tab.goto(page.resolve().as_uri())
    tab.wait_for_timeout(200)
    return tab, said


@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.stem)
@pytest.mark.parametrize(
    'width, scheme',
    [(1280, 'light'), (1280, 'dark'), (390, 'light')],
    ids=['wide', 'dark', 'phone'],
)
def test_page(browser, page, width, scheme):
    from axe_playwright_python.sync_playwright import Axe

    tab, said = opened(browser, page, width, scheme)
    assert said == []
    assert tab.locator('h1').count() == 1
    assert 'imulated data' in tab.inner_text('body')
    alts = tab.eval_on_selector_all('img', 'images => images.map(i => i.alt)')
    assert all(len(a) > 20 and 'No description' not in a for a in alts), alts
    assert tab.evaluate('document.documentElement.scrollWidth - innerWidth') <= 0, (
        'the page is wider than the window'
    )
    found = [
        f"{v['id']}: {v['nodes'][0]['html'][:120]}" for v in Axe().run(tab).response['violations']
    ]
    assert found == []
    tab.close()


def test_print(browser):
    "A reader with a dark screen prints on white paper, without the buttons"
    tab, said = opened(browser, SITE / 'index.html', 1280, 'dark')
    dark = tab.evaluate('getComputedStyle(document.body).backgroundColor')
    tab.emulate_media(media='print', color_scheme='dark')
    light = tab.evaluate('getComputedStyle(document.body).backgroundColor')
    brightness = lambda c: (
        sum(map(int, re.findall(r'\d+', c)[:3])) if re.findall(r'\d+', c)[3:4] != ['0'] else 765
    )
    assert brightness(dark) < 200 and brightness(light) > 700, (dark, light)
    assert not tab.locator('#theme').is_visible() and tab.locator('h1').is_visible()
    assert tab.pdf(format='A4').startswith(b'%PDF') and said == []
    tab.close()


def test_search_sort_and_code(browser):
    "Tables can be searched and sorted, code can be shown"
    tab, said = opened(browser, SITE / 'claims.html', 1280, 'light')
    rows = tab.locator('#tab_claims-grid tbody tr:visible')
    folded = rows.count()
    every = tab.locator('#tab_claims-grid tbody tr').count()
    assert folded < every  # what could not be judged is shown when asked
    tab.locator('#tab_claims-grid .fold').click()
    before = rows.count()
    assert before == every
    tab.locator('#tab_claims-grid .fold').click()
    assert rows.count() == folded
    tab.locator('input[type=search]').first.fill('random forest')
    assert 0 < rows.count() < before
    tab.locator('input[type=search]').first.fill('')
    tab.locator('#tab_claims-grid button.sort').first.click()
    assert tab.locator('#tab_claims-grid th[aria-sort]').count() == 1
    assert tab.locator('div.code:visible').count() == 0
    tab.locator('#code').click()
    assert tab.locator('div.code:visible').count() > 2 and said == []
    tab.close()


WORDS = """() => {
  const words = texts => texts.join(' ').split(/\\s+/).filter(Boolean).length
  const main = document.querySelector('main')
  const drawn = [...main.querySelectorAll('svg')].filter(s => s.getBoundingClientRect().width)
  const labels = drawn.flatMap(s => [...s.querySelectorAll('text')].map(t => t.textContent))
  return words([main.innerText]) - words(labels)
}"""


@pytest.mark.parametrize('page', [p for p in PAGES if p.stem != 'methods'], ids=lambda p: p.stem)
def test_a_page_has_a_length_one_reads(browser, page):
    "Words of text and tables that are shown, without the lettering of figures"
    tab, _ = opened(browser, page, 1280, 'light')
    assert tab.evaluate(WORDS) <= (700 if page.stem == 'index' else 1500)
    tab.close()


FIGURES = sorted((SITE.parent / 'figures').glob('*mm.svg'))
WATERMARK = 'SIMULATED', 'DATA'  # across the figure, behind everything


def boxes(pdf):
    "Width of a PDF; (left, top, right, bottom, word) of every word but those of the watermark"
    r = subprocess.run(['pdftotext', '-bbox', pdf, '-'], capture_output=True, text=True, check=True)
    found = re.findall(
        r'<word xMin="(.*?)" yMin="(.*?)" xMax="(.*?)" yMax="(.*?)">(.*?)</word>', r.stdout
    )
    words = [
        (*map(float, sides), word)
        for *sides, word in found
        if not any(word in w for w in WATERMARK)
    ]
    return float(re.search(r'page width="(.*?)"', r.stdout)[1]), words


def share_covered(a, b):
    "How much of the smaller of two boxes the other covers, 0–1"
    wide = min(a[2], b[2]) - max(a[0], b[0])
    tall = min(a[3], b[3]) - max(a[1], b[1])
    if wide <= 0 or tall <= 0:
        return 0
    return wide * tall / min((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b))


@pytest.mark.parametrize('figure', FIGURES, ids=lambda p: p.stem)
def test_lettering_can_be_read_in_print(figure):
    "No text below 6 points, no word upon another or cut off, at one and at two columns"
    sizes = re.findall(r'font(?:-size)?: ?(?:[a-z0-9 ]+ )?([\d.]+)px', figure.read_text())
    assert sizes and min(map(float, sizes)) >= 6
    width, words = boxes(figure.with_suffix('.pdf'))
    upon = [(a[4], b[4]) for a, b in combinations(words, 2) if share_covered(a, b) > 0.3]
    assert words and upon == []
    assert [word for left, _, right, _, word in words if left < 0 or right > width] == []


def test_words_upon_each_other_are_seen():
    assert share_covered((0, 0, 10, 4, 'a'), (5, 0, 15, 4, 'b')) == 0.5
    assert share_covered((0, 0, 10, 4, 'a'), (10, 0, 15, 4, 'b')) == 0
