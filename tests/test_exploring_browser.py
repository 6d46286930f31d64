"The explorers as their user has them: voila and JupyterLab in headless Chromium, by keyboard and mouse"

import os, re, shutil, socket, subprocess, sys, time, urllib.request
from pathlib import Path

import pytest
from conftest import ROOT
from test_exploring import linked

pytestmark = pytest.mark.full
PATIENCE = 300_000  # ms for a kernel to start and show a first view on a busy machine

# what voila and JupyterLab say about themselves on every notebook, ours or not
NOT_OURS = [
    # voila's page asks the network for its icons; there is none in CI
    r'ERR_NAME_NOT_RESOLVED https://cdn\.jsdelivr\.net/npm/@fortawesome',
    r'nbdime-jupyterlab',  # that extension is written for JupyterLab and voila loads it, too
]


@pytest.fixture(scope='module', autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as m:
        m.setenv('FABA_CACHE', str(tmp_path_factory.mktemp('cache')))
        yield


@pytest.fixture(scope='module')
def looked_at(request, tmp_path_factory):
    "A trained study of 12 genotypes; `FABA_LOOK_AT=OUT` takes a larger one instead, with marks kept apart"
    from faba_nb.core.files import read_json, write_json

    out = tmp_path_factory.mktemp('study') / 'out'
    if os.environ.get('FABA_LOOK_AT'):
        given = Path(os.environ['FABA_LOOK_AT'])
        run = read_json(given / 'run.json')
        out.mkdir()
        for part in given.iterdir():
            if part.name != 'run.json':
                (out / part.name).symlink_to(part)
        data = linked(Path(run['data']), out.parent / 'faba')
        write_json(run | dict(data=str(data)), out / 'run.json')
        return data, out
    data = linked(request.getfixturevalue('twin'), out.parent / 'faba')
    done = subprocess.run(
        [
            sys.executable,
            '-m',
            'faba_nb',
            'run',
            'demo',
            '--data',
            data,
            '--out',
            out,
            '--only',
            'features,train,evaluate',
            '--set',
            'defaults.max_epochs=4',
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return data, out


def serve(command, ready, log, **env):
    "A server, once it answers"
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    with open(log, 'w') as f:
        p = subprocess.Popen(
            [sys.executable, '-m', *command, f'--port={port}'],
            env={**os.environ, **env},
            stdout=f,
            stderr=f,
            cwd=ROOT,
        )
    for _ in range(240):
        try:
            urllib.request.urlopen(f'http://127.0.0.1:{port}{ready}', timeout=5)
            return p, f'http://127.0.0.1:{port}'
        except Exception:
            time.sleep(0.5)
        assert p.poll() is None, Path(log).read_text()[-3000:]
    p.terminate()
    raise AssertionError('the server never answered: ' + Path(log).read_text()[-3000:])


@pytest.fixture(scope='module')
def voila(looked_at, tmp_path_factory):
    pytest.importorskip('voila', reason='voila is not installed')
    folder = tmp_path_factory.mktemp('books')
    for n in (ROOT / 'nbs' / '90_explore').glob('*.ipynb'):
        shutil.copy(n, folder)
    p, url = serve(
        ['voila', str(folder), '--no-browser'],
        '/',
        folder / 'voila.log',
        FABA_OUT=str(looked_at[1]),
    )
    yield url + '/voila/render/'
    p.terminate()
    p.wait()


def opened(browser, url, wait):
    "A page and the list that its console errors go to"
    page, errors = browser.new_page(viewport=dict(width=1400, height=1900)), []
    page.set_default_timeout(30_000)
    keep = lambda text: None if any(re.search(r, text) for r in NOT_OURS) else errors.append(text)
    page.on(
        'console',
        lambda m: keep(f'{m.text} {m.location.get("url", "")}') if m.type == 'error' else None,
    )
    page.on('pageerror', lambda e: errors.append(str(e)))
    page.goto(url, timeout=PATIENCE)
    page.wait_for_selector(wait, timeout=PATIENCE)
    return page, errors


def shot(page, name):
    if folder := os.environ.get('FABA_SHOTS'):
        page.screenshot(path=f'{folder}/{name}.png', full_page=True)


def jupyterlab(notebook, folder, **env):
    "A server with one explorer in a folder and nobody's settings, once it answers"
    shutil.copy(ROOT / 'nbs' / '90_explore' / f'{notebook}.ipynb', folder)
    own = {
        'JUPYTERLAB_SETTINGS_DIR': str(folder / 'settings'),
        'JUPYTERLAB_WORKSPACES_DIR': str(folder / 'workspaces'),
        'JUPYTER_CONFIG_DIR': str(folder / 'config'),
    }
    lab = ['jupyter', 'lab', '--no-browser', '--allow-root', '--ServerApp.token=']
    lab += ['--ServerApp.password=', f'--ServerApp.root_dir={folder}']
    return serve(lab, '/api', folder / 'lab.log', **own, **env)


def run_all_cells(page):
    "JupyterLab's command, once the kernel listens: what is run before is dropped without a word"
    page.wait_for_selector('.jp-Notebook .jp-CodeCell', timeout=PATIENCE)
    page.wait_for_selector('text=/ipykernel.* Idle/', timeout=PATIENCE)
    page.locator('.jp-Notebook .jp-CodeCell').first.click()
    page.get_by_role('menuitem', name='Run', exact=True).click()
    page.get_by_role('menuitem', name='Run All Cells', exact=True).click()


def says(page, text):
    page.wait_for_selector(f'text={text}')


def heading(page):
    return [page.locator('.faba-picture svg text').nth(i).text_content() for i in (0, 1)]


def choose(page, label, value):
    page.locator('.widget-dropdown', has_text=label).locator('select').first.select_option(value)


def slide(page, label, key, times):
    "Move a slider with the keyboard"
    page.locator('.widget-slider', has_text=label).locator('.noUi-handle').last.focus()
    for _ in range(times):
        page.keyboard.press(key)


def find(page, text):
    "Type into the search field"
    page.locator('input[placeholder="type to search"]').fill(text)
    page.keyboard.press('Enter')


def test_plants(browser, voila, looked_at):
    page, errors = opened(browser, voila + 'plants.ipynb', '.faba-picture image')
    page.wait_for_selector('svg text:has-text("height, cm")')  # tables follow the photographs
    says(page, 'simulated data')
    find(page, 'pirho')
    page.wait_for_selector('.faba-picture text:text-is("Pirhonen")')
    assert heading(page)[1].startswith('replicate 1, onset annotated on DAG')
    photos = page.locator('.faba-picture g[data-key^="photo|"]')
    photos.nth(14).click()  # enlarges the day, and gives the picture the keyboard
    page.wait_for_selector('img[alt*="DAG"]')
    assert page.locator('img[alt*="DAG"]').count() == 2
    page.keyboard.press('ArrowRight')
    says(page, 'replicate 2, onset')
    page.keyboard.press('ArrowRight')
    page.keyboard.press('ArrowRight')
    page.keyboard.press('ArrowLeft')
    says(page, 'replicate 3, onset')
    page.keyboard.press('ArrowDown')
    page.wait_for_function('document.querySelector(".faba-picture text").textContent != "Pirhonen"')
    page.keyboard.press('ArrowUp')
    page.wait_for_selector('.faba-picture text:text-is("Pirhonen")')
    photos.nth(2).click()
    page.wait_for_selector('b:has-text("WHC-80")')
    before = page.locator('img[alt*="DAG"]').first.get_attribute('alt')
    page.keyboard.press(']')  # the next day, by keyboard
    page.wait_for_function('t => document.querySelector("img[alt*=DAG]").alt != t', arg=before)
    page.locator('input[placeholder="why, in a few words"]').fill('leaf torn')
    page.keyboard.press('Tab')
    page.keyboard.press('Enter')  # to the button, and press it
    says(page, '1 mark of')
    says(page, 'leaf torn')
    page.wait_for_function(
        '[...document.querySelectorAll(".faba-picture title")]'
        '.filter(t => t.textContent == "marked doubtful").length == 1'
    )
    assert 'leaf torn' in (looked_at[0] / 'marks.csv').read_text()
    page.get_by_text('what the charts show').click()
    slide(page, 'threshold', 'ArrowLeft', 5)
    choose(page, 'protocol', 'online')
    page.wait_for_function(
        '![...document.querySelectorAll(".faba-picture svg")]'
        '.some(s => s.textContent.includes("dashed: retrospective"))'
    )
    page.wait_for_timeout(800)
    shot(page, 'plants')
    choose(page, 'view', 'all views')
    page.wait_for_function('document.querySelectorAll(".faba-picture image").length > 80')
    shot(page, 'plants-all-views')
    assert not errors, '\n'.join(errors)
    page.close()
    again, errors = opened(
        browser, voila + 'plants.ipynb', '.faba-picture image'
    )  # a new kernel still knows the mark
    find(again, 'Pirhonen')
    again.wait_for_selector('.faba-picture text:text-is("Pirhonen")')
    again.get_by_role('button', name='3', exact=True).click()
    says(again, 'replicate 3, onset')
    again.wait_for_function(
        '[...document.querySelectorAll(".faba-picture title")].some(t => t.textContent == "marked doubtful")'
    )
    assert not errors, '\n'.join(errors)
    again.close()


def test_a_click_shows_its_result_without_scrolling(browser, voila):
    "On a small laptop's screen, 1280 × 800"
    page, errors = opened(browser, voila + 'plants.ipynb', '.faba-picture image')
    page.set_viewport_size(dict(width=1280, height=800))
    page.locator('.faba-picture g[data-key^="photo|"]').last.click()
    page.wait_for_selector('img[alt*="DAG"]')
    page.wait_for_timeout(500)
    shot(page, 'plants-1280')
    assert page.evaluate('scrollY') == 0
    for large in page.locator('img[alt*="DAG"]').all():
        box = large.bounding_box()
        assert box['height'] > 150
        assert box['x'] + box['width'] <= 1280 and box['y'] + box['height'] <= 800, box
    assert not errors, '\n'.join(errors)
    page.close()


def test_the_plant_on_the_screen_is_the_one_that_is_marked(browser, voila, looked_at):
    "Keys and the mouse alone: a day is clicked, the strip moves on, m marks what is framed now, u takes it back"
    from faba_nb.experiment.marks import read_marks

    before = read_marks(looked_at[0])
    page, errors = opened(browser, voila + 'plants.ipynb', '.faba-picture image')
    page.wait_for_selector('svg text:has-text("height, cm")')
    framed = lambda: (
        page.locator('[style*="rgb(224, 168, 0)"] img, [style*="#e0a800"] img')
        .get_attribute('alt')
        .split(',')[0]
    )
    page.locator('.faba-picture g[data-key^="photo|"]').nth(4).click()
    page.wait_for_selector('img[alt*="DAG"]')
    first = framed()
    page.keyboard.press('ArrowRight')
    says(page, 'replicate 2, onset')
    page.wait_for_function(
        't => ![...document.querySelectorAll("img[alt*=DAG]")].some(i => i.alt.startsWith(t))',
        arg=first,
    )
    now = framed()
    shot(page, 'plants-moved-on')
    assert now != first and page.locator(f'.faba-picture svg text:has-text("{now}")').count()
    page.keyboard.press('m')
    says(page, f'mark of {now}')
    marks = read_marks(looked_at[0])
    assert len(marks) == len(before) + 1 and marks.plant_id.iloc[-1] == now
    page.keyboard.press('ArrowRight')
    page.keyboard.press('m')  # at once, before the picture follows
    says(page, 'replicate 3, onset')
    page.wait_for_function(
        't => ![...document.querySelectorAll("img[alt*=DAG]")].some(i => i.alt.startsWith(t))',
        arg=now,
    )
    then = framed()
    says(page, f'mark of {then}')
    assert read_marks(looked_at[0]).plant_id.tolist()[-2:] == [now, then]
    page.keyboard.press('u')
    says(page, f'taken back: {then}')
    page.get_by_role('button', name='undo').click()
    says(page, f'taken back: {now}')
    assert read_marks(looked_at[0]).to_dict('list') == before.to_dict('list')
    page.locator('.faba-picture svg').first.click(position=dict(x=5, y=5))
    page.keyboard.press('Escape')
    page.wait_for_function('!document.querySelector("img[alt*=DAG]")')
    page.keyboard.press('m')
    page.wait_for_timeout(800)
    assert len(read_marks(looked_at[0])) == len(before)
    assert not errors, '\n'.join(errors)
    page.close()


def zoom_of(page):
    "Zoom, and left and top of the part shown, as the browser has them"
    return page.evaluate(
        """() => {
            const box = document.querySelector('[data-zoom]').closest('.faba-picture');
            return ['--zoom', '--left', '--top'].map(v => parseFloat(box.style.getPropertyValue(v)));
        }"""
    )


def shown_parts(page):
    "Where each enlarged photograph lies in its frame, in widths of the frame"
    return page.evaluate(
        """() => [...document.querySelectorAll('[data-zoom]')].map(f => {
            const a = f.getBoundingClientRect(), b = f.querySelector('img').getBoundingClientRect();
            const wide = f.clientWidth, high = f.clientHeight;
            const left = a.left + f.clientLeft, top = a.top + f.clientTop;
            return [b.width / wide, (b.left - left) / wide, (b.top - top) / high];
        })"""
    )


def check_zooming(page):
    "Wheel, keys, dragging and both ways back, on both photographs at once"
    frame = page.locator('[data-zoom]').first
    full = '[data-zoom="full"] img'
    assert page.locator(full).count() == 0 and zoom_of(page)[0] == 1
    before = page.evaluate('scrollY')
    box = frame.bounding_box()
    page.mouse.move(box['x'] + box['width'] / 2, box['y'] + box['height'] / 4)
    for _ in range(5):
        page.mouse.wheel(0, -120)
    page.wait_for_function('document.querySelectorAll(\'[data-zoom="full"]\').length == 2')
    zoom, left, top = zoom_of(page)
    assert 3 < zoom < 4 and left < 0 and page.evaluate('scrollY') == before
    parts = shown_parts(page)
    assert len(parts) == 2
    for wide, x, y in parts:  # both show the same part
        assert abs(wide - zoom) < 0.05 and abs(x - left / 100) < 0.05 and abs(y - top / 100) < 0.05
    said = page.evaluate('document.querySelector("[data-scale]").dataset.scale')
    real = page.evaluate(
        'f => f.querySelector("img").getBoundingClientRect().width / f.dataset.wide',
        frame.element_handle(),
    )
    assert re.match(r'zoom 3\.\d ×; a pixel of the photograph is [\d.]+ pixels of the screen', said)
    assert abs(float(re.search(r'is ([\d.]+)', said)[1]) / real - 1) < 0.06
    natural = page.evaluate('document.querySelector("[data-zoom] img").naturalWidth')
    assert natural == int(frame.get_attribute('data-wide'))  # every pixel of the file
    box = frame.bounding_box()
    page.mouse.move(box['x'] + 60, box['y'] + 60)
    page.mouse.down()
    page.mouse.move(box['x'] + 90, box['y'] + 80, steps=3)
    page.mouse.up()
    moved = zoom_of(page)
    assert moved[0] == zoom and moved[1] > left + 5 and moved[2] > top
    return moved


def test_zooming_shows_the_same_part_of_both_photographs(browser, voila):
    "Without a word to Python but the one that asks for every pixel; kept from day to day"
    page, errors = opened(browser, voila + 'plants.ipynb', '.faba-picture image')
    page.set_viewport_size(dict(width=1280, height=800))
    page.wait_for_selector('svg text:has-text("height, cm")')
    page.locator('.faba-picture g[data-key^="photo|"]').nth(6).click()
    page.wait_for_selector('img[alt*="DAG"]')
    page.wait_for_timeout(300)
    moved = check_zooming(page)
    shot(page, 'plants-zoomed')
    first = page.locator('img[alt*="DAG"]').first.get_attribute('alt')
    page.keyboard.press(']')  # another day: the same part, again with every pixel
    page.wait_for_function('t => document.querySelector("img[alt*=DAG]").alt != t', arg=first)
    page.wait_for_function('document.querySelectorAll(\'[data-zoom="full"]\').length == 2')
    assert zoom_of(page) == moved
    page.locator('[data-zoom]').last.dblclick()
    assert zoom_of(page) == [1, 0, 0]
    page.keyboard.press('+')
    page.keyboard.press('+')
    assert abs(zoom_of(page)[0] - 1.25**2) < 0.01
    page.keyboard.press('-')
    assert abs(zoom_of(page)[0] - 1.25) < 0.01
    page.keyboard.press('0')
    assert zoom_of(page) == [1, 0, 0]
    page.locator('.faba-picture g[data-key^="photo|"]').nth(2).click()  # keys of the strip, too
    page.wait_for_timeout(500)
    page.keyboard.press('+')
    assert abs(zoom_of(page)[0] - 1.25) < 0.01
    page.keyboard.press('Escape')
    page.wait_for_function('!document.querySelector("[data-zoom]")')
    page.locator('.faba-picture g[data-key^="photo|"]').nth(4).click()
    page.wait_for_selector('img[alt*="DAG"]')
    assert zoom_of(page) == [1, 0, 0]  # what was closed is whole again
    assert not errors, '\n'.join(errors)
    page.close()


def test_the_queue_of_worst_cases_and_many_marks(browser, voila, looked_at):
    "Choose what to look at, n and p; f marks from the framed day on, u takes all of it back"
    from faba_nb.experiment.marks import read_marks

    before = read_marks(looked_at[0])
    page, errors = opened(browser, voila + 'plants.ipynb', '.faba-picture image')
    page.set_viewport_size(dict(width=1280, height=800))
    page.wait_for_selector('svg text:has-text("height, cm")')
    choose(page, 'look at', 'what the check suspects')
    says(page, 'looks exchanged with a plant of the other treatment')
    page.wait_for_selector('img[alt*="DAG"]')
    reason = lambda: page.locator('.widget-html', has_text=re.compile(r', \d+ of \d+$')).first
    first = reason().inner_text()
    assert ', 1 of ' in first
    page.get_by_role('button', name='next').click()
    page.wait_for_selector('text=/, 2 of \\d+$/')
    page.locator('.faba-picture svg').first.click(position=dict(x=5, y=5))
    page.keyboard.press('n')
    page.wait_for_selector('text=/, 3 of \\d+$/')
    page.keyboard.press('p')
    page.keyboard.press('p')
    page.wait_for_selector('text=/, 1 of \\d+$/')
    plant = reason().inner_text().split(':')[0]
    page.wait_for_selector(f'img[alt^="{plant}"]')
    assert reason().inner_text() == first
    for _ in range(4):
        page.keyboard.press('[')
    page.keyboard.press('f')
    says(page, f'5 marks of {plant}')
    says(page, 'marked doubtful or exclude')
    page.wait_for_timeout(500)
    shot(page, 'plants-queue')
    for large in page.locator('img[alt*="DAG"]').all():
        box = large.bounding_box()
        assert box['x'] + box['width'] <= 1280 and box['y'] + box['height'] <= 800, box
    assert len(read_marks(looked_at[0])) == len(before) + 5
    page.keyboard.press('u')
    says(page, f'taken back: {plant}, 5 of 5 marks')
    assert read_marks(looked_at[0]).to_dict('list') == before.to_dict('list')
    assert not errors, '\n'.join(errors)
    page.close()


def test_features(browser, voila):
    page, errors = opened(browser, voila + 'features.ipynb', 'svg[data-box] circle')
    dots = page.locator('svg[data-box] circle')
    before = dots.count()
    dots.nth(40).click(force=True)
    says(page, '1 selected')
    page.wait_for_selector('img[alt*="DAG"]')
    box = page.locator('svg[data-box]').bounding_box()
    page.mouse.move(box['x'] + 60, box['y'] + 40)
    page.mouse.down()
    page.mouse.move(box['x'] + 200, box['y'] + 200, steps=4)
    page.mouse.move(box['x'] + 420, box['y'] + 440, steps=6)
    page.mouse.up()
    page.wait_for_function(
        '/^[2-9]\\d* selected|^1\\d+ selected/.test([...document.querySelectorAll("b")]'
        '.map(b => b.textContent).find(t => / selected$/.test(t)))'
    )
    row = page.locator('table.faba-selected tbody tr').nth(1)
    plant, genotype = (
        row.locator('td').nth(0).inner_text(),
        page.locator('table.faba-selected tbody tr td').nth(1).inner_text(),
    )
    row.click()
    page.wait_for_selector(f'b:has-text("{plant}")')
    page.get_by_role('button', name='show in plants').click()
    says(page, 'selected pairs')
    page.wait_for_selector(f'.faba-picture text:text-is("{genotype}")')
    slide(page, 'DAG', 'ArrowLeft', 12)
    page.wait_for_function(
        'n => document.querySelectorAll("svg[data-box] circle").length < n', arg=before
    )
    choose(page, 'colour', 'dag')
    page.wait_for_selector('svg[data-box] circle[fill="#2b1a80"]')
    says(page, 'dag:')
    shot(page, 'features')
    choose(
        page,
        'features',
        page.locator('.widget-dropdown', has_text='features').locator('option').last.inner_text(),
    )
    page.wait_for_timeout(300)
    choose(page, 'points', 'plants')
    page.wait_for_function(
        'n => document.querySelectorAll("svg[data-box] circle").length < n/4', arg=before
    )
    assert not errors, '\n'.join(errors)
    page.close()


def test_arms(browser, voila, looked_at):
    other = min(p.parent.name for p in (looked_at[1] / 'arms').glob('*/predictions.csv'))
    page, errors = opened(
        browser,
        voila + 'arms.ipynb',
        'text=online protocol, alarm on the first plant-day above 0.5',
    )
    text = lambda: page.locator('table.faba-table').first.inner_text()
    before = text()
    assert (
        other in before
        and 'treatment_clock' in page.locator('table.faba-table').nth(1).inner_text()
    )
    slide(page, 'threshold', 'ArrowLeft', 20)
    says(page, 'plant-day above 0.1;')
    assert text() != before
    before = text()
    slide(page, 'k steps', 'ArrowRight', 1)
    says(page, 'alarm after 2 plant-days in a row')
    assert text() != before
    page.wait_for_timeout(500)
    shot(page, 'arms')
    choose(page, 'metrics', 'measured')
    page.wait_for_selector('th:text-is("mae_measured")')
    choose(page, 'difference of', 'auc')
    says(page, 'auc: ')
    choose(page, 'protocol', 'retrospective')
    says(page, 'retrospective protocol, alarm after 2 plant-days in a row above 0.1')
    names = page.locator('.widget-select-multiple select').first.locator('option').all_inner_texts()
    assert other in names and len(names) > 1
    page.locator('.widget-select-multiple select').first.select_option(
        [n for n in names if n != other]
    )
    page.wait_for_function(
        'a => !document.querySelector("table.faba-table").innerText.includes(a)', arg=other
    )
    assert not errors, '\n'.join(errors)
    page.close()


def test_nothing_there(browser, tmp_path):
    """Opened before anything has run, a notebook says which commands make what is missing (the other
    two: test_exploring.py)"""
    pytest.importorskip('voila', reason='voila is not installed')
    shutil.copy(ROOT / 'nbs' / '90_explore' / 'plants.ipynb', tmp_path)
    p, url = serve(
        ['voila', str(tmp_path), '--no-browser'],
        '/',
        tmp_path / 'voila.log',
        FABA_OUT=str(tmp_path / 'none'),
    )
    try:
        page, errors = opened(browser, f'{url}/voila/render/plants.ipynb', 'text=make demo')
        says(page, 'faba twin')
        assert not errors, '\n'.join(errors)
        page.close()
    finally:
        p.terminate()
        p.wait()


def test_in_jupyterlab(browser, looked_at, tmp_path):
    "One pass in JupyterLab: run all cells, click, zoom, step, mark; its own shortcuts keep away from the picture"
    p, url = jupyterlab('plants', tmp_path, FABA_OUT=str(looked_at[1]))
    try:
        page, errors = opened(browser, f'{url}/lab/tree/plants.ipynb', '.jp-Notebook')
        run_all_cells(page)
        page.wait_for_selector('.faba-picture image', timeout=PATIENCE)
        page.wait_for_selector('svg text:has-text("height, cm")')
        page.locator('.faba-picture g[data-key^="photo|"]').nth(12).click()
        page.wait_for_selector('img[alt*="DAG"]')
        check_zooming(page)
        shot(page, 'lab-zoomed')
        page.keyboard.press('0')
        first = heading(page)[0]
        page.keyboard.press('ArrowRight')
        page.wait_for_selector('text=replicate 2, onset')
        page.keyboard.press('ArrowDown')
        page.wait_for_function(
            't => document.querySelector(".faba-picture text").textContent != t', arg=first
        )
        page.locator('.faba-picture g[data-key^="photo|"]').nth(3).click()
        day = page.locator('.faba-picture g[data-key^="photo|"] > title').nth(3).text_content()
        page.wait_for_selector(f'[style*="#e0a800"] img[alt$=", {day.split(",")[0]}"]')
        page.wait_for_selector('button:has-text("mark"):not([disabled])')
        page.locator('input[placeholder="why, in a few words"]').fill('seen in the lab')
        page.keyboard.press('Tab')
        page.keyboard.press('Enter')
        says(page, 'seen in the lab')
        assert 'seen in the lab' in (looked_at[0] / 'marks.csv').read_text()
        shot(page, 'lab')
        assert not errors, '\n'.join(errors)
        page.close()
    finally:
        p.terminate()
        p.wait()
