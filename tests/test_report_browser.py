"The pages of a finished study in a real browser: offline, silent, accessible, no wider than a phone"

import os, re
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
    before = rows.count()
    tab.locator('input[type=search]').first.fill('random forest')
    assert 0 < rows.count() < before
    tab.locator('input[type=search]').first.fill('')
    tab.locator('#tab_claims-grid button.sort').first.click()
    assert tab.locator('#tab_claims-grid th[aria-sort]').count() == 1
    assert tab.locator('div.code:visible').count() == 0
    tab.locator('#code').click()
    assert tab.locator('div.code:visible').count() > 2 and said == []
    tab.close()
