"The annotator as raters have it: voila and JupyterLab in headless Chromium, by keyboard alone"

import os, re, shutil, statistics
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import PIL.Image
import psutil
import pytest
from conftest import ROOT, once
from test_exploring import linked
from test_exploring_browser import (
    PATIENCE,
    jupyterlab,
    opened,
    own_cache,
    run_all_cells,
    says,
    serve,
    shot,
)

from faba_nb.experiment.annotations import left_of, plan_of, read_annotations
from faba_nb.experiment.experiment_folder import Experiment
from faba_nb.twin.plant_drawing import SIDE, TOP
from faba_nb.twin.writing import write_twin

pytestmark = pytest.mark.full
LATENCY = 150  # ms from the last key about a plant to the picture of the next one
PACE = 3600 / 264  # s a plant, when 264 are rated in an hour
FULL_SIZE = bool(os.environ.get('FABA_FULL_SIZE'))  # photographs as large as the real ones

# what the time from a key to the next picture is, seen from inside the browser
STOPWATCH = """() => {
  window.took = [];
  let began = 0;
  document.addEventListener('keydown', e => { began = performance.now(); }, true);
  const image = document.querySelector('.faba-picture img');
  image.addEventListener('load', () => { window.took.push(performance.now() - began); });
}"""


def enlarged(photograph):
    "A photograph in the size of the real ones; its pixels are squares"
    im = PIL.Image.open(photograph)
    size = TOP if 'top_view' in photograph.parts else SIDE
    im.resize(size, PIL.Image.Resampling.NEAREST).save(photograph, compress_level=1)


def drawn(folder):
    "Photographs of 24 plants: small ones, or with FABA_FULL_SIZE as large as the real ones"
    write_twin(folder, genotypes=4, seed=2, height=128)
    if FULL_SIZE:
        with ThreadPoolExecutor() as beside:
            list(beside.map(enlarged, sorted((folder / 'img').rglob('*.png'))))


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    "A simulated experiment of 24 plants, all of which a rater sees"
    made = once(tmp_path_factory, 'twin_to_rate', drawn)
    return linked(made, tmp_path_factory.mktemp('rated') / 'faba')


@pytest.fixture
def voila(small, tmp_path):
    "Starts a server; the last one is ended"
    pytest.importorskip('voila', reason='voila is not installed')
    shutil.copy(ROOT / 'nbs' / '90_explore' / 'annotate.ipynb', tmp_path)
    running = []

    def start():
        log = tmp_path / f'voila{len(running)}.log'
        own = dict(FABA_DATA=str(small), FABA_OUT=str(tmp_path / 'none'))
        p, url = serve(['voila', str(tmp_path), '--no-browser'], '/', log, **own)
        running.append(p)
        return p, f'{url}/voila/render/annotate.ipynb'

    yield start
    for p in running:
        kill(p)


def kill(server):
    "End a server and its kernels at once, as a power cut does"
    if server.poll() is not None:
        return
    family = psutil.Process(server.pid).children(recursive=True)
    server.kill()
    server.wait()
    for kernel in family:
        if kernel.is_running():
            kernel.kill()


class Rater:
    "Somebody who has a keyboard and no mouse"

    def __init__(self, browser, url, name, mode):
        self.name, self.mode = name, mode
        self.page, self.errors = opened(browser, url, 'input[placeholder="your name"]')
        self.keys = self.page.keyboard
        self.page.locator('input[placeholder="your name"]').focus()
        self.keys.type(name)
        self.keys.press('Tab')
        if mode == 'forward':
            self.keys.press('Tab')
            self.keys.press('Enter')
            self.page.wait_for_selector('button.mod-active:has-text("forward")')
        while self.focused() != 'begin':
            self.keys.press('Tab')
        self.keys.press('Enter')
        self.page.wait_for_selector('[data-shown="1"]')
        self.page.wait_for_function('document.activeElement.classList.contains("faba-picture")')
        self.page.evaluate(STOPWATCH)
        self.pictures = 1

    def focused(self):
        return self.page.evaluate('document.activeElement.textContent.trim()')

    def press(self, key, changes):
        "Press a key, and wait for the new picture, or for a question how sure"
        self.keys.press(key_name(key))
        if changes:
            self.pictures += 1
            self.page.wait_for_selector(f'[data-shown="{self.pictures}"]')
        else:
            says(self.page, 'How sure?')

    def rate(self, order):
        "Say about a place what its number says"
        for key in script(order, self.mode):
            self.press(key, changes=self.mode == 'forward' and key == 'right')
        if order % 3 == 2 and self.mode == 'forward':
            self.press('right', changes=False)  # at the last look: none
        self.press(str(1 + order % 3), changes=True)

    def share(self):
        "Per cent that the bar says is done"
        said = self.page.locator('text=/% done/').first.text_content()
        return float(re.search(r'([\d.]+)%', said)[1])

    def close(self):
        assert not self.errors, '\n'.join(self.errors)
        self.page.close()


LOOKS = 11  # of every plant of this twin


def script(order, mode):
    "The keys about a place before the one that says how sure"
    if mode == 'whole':
        return [['left', 'left'], ['n'], ['c']][order % 3]
    steps = [2, 0, LOOKS - 1][order % 3]
    return ['right'] * steps + [['s'], ['c'], []][order % 3]


def key_name(key):
    "The browser's name of a key"
    return {'left': 'ArrowLeft', 'right': 'ArrowRight'}.get(key, key)


def expected(order, mode, days):
    "(answer, low_dag, high_dag, confidence) that `rate` gives; None for none"
    sure = 1 + order % 3
    none = 'none', days[-1], None, sure
    unclear = 'unclear', None, None, sure
    if mode == 'whole':
        return [('onset', days[-3], days[-2], sure), none, unclear][order % 3]
    return [('onset', days[1], days[2], sure), unclear, none][order % 3]


def test_two_raters_by_keyboard_in_both_modes_killed_and_resumed(browser, voila, small):
    "All plants; the file holds each answer once, about the plant that was shown"
    xp = Experiment(small)
    plans = {}
    for mode, other in [('whole', 'forward'), ('forward', 'whole')]:
        server, url = voila()
        asked = {'Ada': mode, 'Eero': other}
        for name, way in asked.items():
            plans[name, way] = plan_of(name, xp.plants, mode=way)
        raters = [Rater(browser, url, n, m) for n, m in asked.items()]
        places = plans['Ada', mode].order.tolist()
        for order in places[:10]:
            for rater in raters:
                rater.rate(order)
        if mode == 'whole':
            shot(raters[0].page, 'annotate-whole')
            shot(raters[1].page, 'annotate-forward')
        for rater in raters:
            rater.page.wait_for_timeout(1500)  # the last answer reaches the disk
        kill(server)
        for rater in raters:
            rater.page.close()
        server, url = voila()
        raters = [Rater(browser, url, n.upper(), m) for n, m in asked.items()]
        for rater in raters:
            assert rater.share() == pytest.approx(100 * 10 / len(places), abs=0.06)
        for order in places[10:]:
            for rater in raters:
                rater.rate(order)
        for rater in raters:
            says(rater.page, 'All plants are done')
            assert rater.share() == 100
            rater.page.wait_for_timeout(1500)
        for rater in raters:
            rater.close()
        kill(server)
    said = read_annotations(small, xp.plants.plant_id)
    planned = {(n, m, o, p) for (n, m), plan in plans.items() for o, p in plan.values}
    found = Counter(zip(said.rater, said['mode'], said.order, said.plant_id))
    assert found == Counter(planned)
    days = xp.images.groupby('plant_id').dag.unique().map(sorted)
    for r in said.itertuples():
        want = expected(r.order, r.mode, days[r.plant_id])
        low, high = (None if d != d else d for d in (r.low_dag, r.high_dag))
        assert (r.answer, low, high, r.confidence) == want
    for (name, mode), plan in plans.items():
        assert left_of(plan, said, name, mode).empty
    assert said.groupby(['rater', 'mode']).session.nunique().eq(2).all()
    whole = said[said['mode'] == 'whole']
    assert whole.groupby('plant_id').shown.nunique().eq(1).all()  # both saw the same pictures


@pytest.mark.skipif(not FULL_SIZE, reason='FABA_FULL_SIZE=1 asks how fast full-size pictures come')
def test_the_next_plant_is_there_when_a_rater_is(browser, voila, small):
    "Two raters who take as long as people do, photographs of full size: prints from a key to the next picture"
    _, url = voila()
    raters = [Rater(browser, url, n, m) for n, m in (('Ada', 'whole'), ('Eero', 'forward'))]
    for order in range(1, 9):
        for rater in raters:
            rater.page.wait_for_timeout(1000 * PACE / len(raters))
            rater.rate(order)
    for rater in raters:
        took = rater.page.evaluate('window.took')
        middle, most = statistics.median(took), max(took)
        print(f'{rater.mode}: {middle:.0f} ms, {most:.0f} at most of {len(took)}; aim {LATENCY}')
        rater.close()


def test_undo_zoom_and_pause_by_keyboard(browser, voila, small):
    "A slip is corrected, a look is enlarged, a pause hides the plant"
    _, url = voila()
    ines = Rater(browser, url, 'Ines', 'whole')
    ines.press('n', changes=False)
    ines.press('3', changes=True)
    ines.press('u', changes=True)
    ines.press('ArrowLeft', changes=False)
    ines.press('z', changes=True)
    shot(ines.page, 'annotate-enlarged')
    ines.press('ArrowLeft', changes=True)
    ines.press('z', changes=True)
    ines.press('p', changes=True)
    says(ines.page, 'Paused')
    ines.keys.press('3')
    ines.press('p', changes=True)
    says(ines.page, 'First symptoms at look 10')
    ines.press('2', changes=True)
    ines.page.wait_for_timeout(1500)
    said = read_annotations(small).query('rater == "Ines"')
    assert said.answer.tolist() == ['none', 'onset'] and said.order.tolist() == [1, 1]
    assert said.confidence.tolist() == [3, 2] and said.plant_id.nunique() == 1
    ines.close()


def test_what_the_browser_gets_names_no_plant(browser, voila, small):
    "Everything in the page and on the wire, while plants go by"
    xp = Experiment(small)
    _, url = voila()
    page = browser.new_page()
    heard = []
    page.on(
        'websocket',
        lambda ws: ws.on('framereceived', lambda f: heard.append(f)),
    )
    asked = []
    page.on('request', lambda r: asked.append(r.url))
    page.goto(url, timeout=120_000)
    page.wait_for_selector('input[placeholder="your name"]', timeout=120_000)
    page.locator('input[placeholder="your name"]').fill('Outi')
    page.get_by_role('button', name='begin').click()
    for i in range(1, 7):
        page.wait_for_selector(f'[data-shown="{i}"]')
        page.keyboard.press('n')
        says(page, 'How sure?')
        page.keyboard.press('1')
    page.wait_for_selector('[data-shown="7"]')
    frames = [f if isinstance(f, bytes) else str(f).encode() for f in heard]
    text = b'\n'.join(frames).decode('latin-1') + page.content() + '\n'.join(asked)
    names = {*xp.plants.plant_id, *xp.plants.genotype, *xp.plants.treatment, '.png"', 'Rep-'}
    assert not [n for n in names if n in text]
    lengths = page.evaluate(
        """async () => (await fetch(document.querySelector('.faba-picture img').src))
        .blob().then(b => b.size)"""
    )
    assert lengths > 10_000
    large = Counter(len(f) for f in frames if len(f) > 100_000)
    assert sum(large.values()) >= 7 and max(large) - min(large) < 200, large
    page.close()


def test_in_jupyterlab(browser, small, tmp_path):
    "One pass in JupyterLab: its own shortcuts keep away from the keys of a rater"
    own = dict(FABA_DATA=str(small), FABA_OUT=str(tmp_path / 'none'))
    server, url = jupyterlab('annotate', tmp_path, **own)
    try:
        page, errors = opened(browser, f'{url}/lab/tree/annotate.ipynb', '.jp-CodeCell')
        run_all_cells(page)
        page.wait_for_selector('input[placeholder="your name"]', timeout=PATIENCE)
        page.locator('input[placeholder="your name"]').fill('Lempi')
        page.get_by_role('button', name='begin').click()
        page.wait_for_selector('[data-shown="1"]')
        page.wait_for_function('document.activeElement.classList.contains("faba-picture")')
        for key in ['ArrowLeft', 'ArrowLeft']:
            page.keyboard.press(key)
        says(page, 'First symptoms at look 10')
        page.keyboard.press('2')
        page.wait_for_selector('[data-shown="2"]')
        page.keyboard.press('c')
        says(page, 'Cannot say')
        page.keyboard.press('1')
        page.wait_for_selector('[data-shown="3"]')
        page.wait_for_timeout(1500)
        shot(page, 'annotate-lab')
        said = read_annotations(small).query('rater == "Lempi"')
        assert said.answer.tolist() == ['onset', 'unclear']
        assert not errors, '\n'.join(errors)
        page.close()
    finally:
        kill(server)
