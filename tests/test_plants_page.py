"The page of plants: its numbers, its words, its size, and that it works in a real browser"

import base64
import html as html_module
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, once
from PIL import Image

from faba_nb.core.files import read_json, seal, write_csv, write_json

WHOLE = 25e6 / 264  # bytes of a plant on the page, at most


def example(folder, **kwargs):
    from faba_nb.testing.example_studies import example_results

    return example_results(folder, draws=60, arms=['dinov2', 'clip'], **kwargs)


@pytest.fixture(scope='module')
def bare(tmp_path_factory):
    "A study without photographs, some of whose genotypes have awkward names; read only"
    return once(tmp_path_factory, 'plants_bare', lambda folder: example(folder, genotypes=8))


@pytest.fixture(scope='module')
def grown(twin, tmp_path_factory):
    "A study over the simulated experiment, with its page of plants; read only"
    from faba_nb.reporting.plants_page import write_plants

    def make(folder):
        example(folder, data=twin)
        write_plants(folder, 'test')

    return once(tmp_path_factory, 'plants_grown', make)


def page_of(out):
    "The page, what its program reads, and its pictures"
    html = (out / 'report' / 'plants.html').read_text(encoding='utf-8')
    data = json.loads(re.search(r'id="data">(.*?)</script>', html, flags=re.S)[1])
    pictures = dict(re.findall(r'<script type="text/plain" id="(\S+)">(.*?)</script>', html))
    return html, data, {k: base64.b64decode(v) for k, v in pictures.items()}


def written(out):
    "The page of a study, made now"
    from faba_nb.reporting.plants_page import write_plants

    write_plants(out, 'test')
    return page_of(out)


def visible(html):
    "What a reader of the page sees before its program runs"
    text = re.sub(r'<(style|script)\b.*?</\1>', '', html, flags=re.S)
    return html_module.unescape(re.sub(r'<[^>]+>', ' ', text))


# ---- numbers ----


def test_every_number_is_that_of_the_predictions(grown):
    from faba_nb.reporting.results import Results

    r, (_, data, _) = Results(grown), page_of(grown)
    assert len(data['plants']) == 72 and [a['name'] for a in data['arms']] == ['dinov2', 'clip']
    for arm in ('dinov2', 'clip'):
        for protocol in ('online', 'retrospective'):
            mean = r.predictions(arm, protocol).groupby(['plant_id', 'dag']).probability.mean()
            for p in data['plants']:
                own = mean[p['id']]
                assert p['days'] == own.index.tolist()
                np.testing.assert_allclose(p['said'][arm][protocol], own, atol=5.1e-5)


def test_an_alarm_is_that_of_the_rule(grown):
    from faba_nb.evaluation.alarms import genotype_rule, middle_day, plant_alarms
    from faba_nb.reporting.results import Results

    r, (_, data, _) = Results(grown), page_of(grown)
    s = r.scores('dinov2', 'online')
    days = plant_alarms(s).groupby('plant_id').alarm_dag.agg(middle_day)
    theta, _ = s.thresholds(genotype_rule.k, genotype_rule.target)
    genotype = s.plants.set_index('plant_id').g
    said = {p['id']: p['said']['dinov2'] for p in data['plants']}
    assert days.notna().sum() > 10
    for plant, day in days.items():
        assert said[plant]['alarm'] == (None if day != day else day)
    for plant, told in said.items():
        own = theta[:, genotype[plant]]
        np.testing.assert_allclose(
            told['threshold'], [own.min(), np.median(own), own.max()], atol=5.1e-5
        )


def test_pairs_are_those_of_the_explorer(grown):
    "Same plants together, in the same order"
    from faba_nb.exploring.plants_explorer import PlantsExplorer
    from faba_nb.reporting.results import Results

    _, data, _ = page_of(grown)
    e = PlantsExplorer(Results(grown).experiment.folder, grown)
    assert e.places == [(p['genotype'], p['replicate']) for p in data['places']]
    for place in data['places'][:6]:
        e.at = place['genotype'], place['replicate']
        assert e.pair().plant_id.tolist() == [data['plants'][i]['id'] for i in place['plants']]


# ---- photographs ----


def test_photographs_of_a_pair_are_in_one_frame(grown, twin):
    import io

    from faba_nb.experiment.experiment_folder import Experiment

    _, data, pictures = page_of(grown)
    images = Experiment(twin).images
    for place in data['places'][:4]:
        for view, cell in enumerate(place['cells']):
            for i in place['plants']:
                of, plant = data['plants'][i]['photographs'][view], data['plants'][i]['id']
                name = data['views'][view].replace(' ', '_')
                own = images[(images.plant_id == plant) & (images['view'] == name)]
                assert sorted(of['days'] + of['lost']) == sorted(own.dag.unique())
                sheet = Image.open(io.BytesIO(pictures[f's{i}-{view}']))
                w, h = cell['size']
                assert sheet.format == 'WEBP'
                assert sheet.size == (w * of['columns'], h * of['rows'])
                assert of['columns'] * of['rows'] >= len(of['days'])


def test_a_plant_keeps_to_its_bytes(grown):
    from faba_nb.reporting.plants_page import HEIGHTS, LIMIT, LONGEST, sheets

    html, data, pictures = page_of(grown)
    assert len(html.encode()) <= WHOLE * len(data['plants'])
    for i in range(len(data['plants'])):
        assert sum(len(v) for k, v in pictures.items() if k.startswith(f's{i}-')) <= LIMIT
    # the worst that a camera could send, on as many days as the longest experiment has
    noise = np.random.default_rng(1).integers(0, 255, (LONGEST, LONGEST // 2, 3), 'uint8')
    cell, _, _, made = sheets(
        {0: [Image.fromarray(noise)] * 60, 1: [Image.fromarray(noise)]}, LIMIT
    )
    assert max(map(len, made.values())) <= LIMIT and cell[1] in HEIGHTS
    assert LIMIT * 4 / 3 < 0.9 * WHOLE  # the rest is for numbers


@pytest.mark.parametrize('case', ['never recorded', 'gone', 'no photographs', 'broken ones'])
def test_without_photographs_there_are_curves(bare, grown, twin, tmp_path, case):
    out = shutil.copytree(bare if case == 'never recorded' else grown, tmp_path / 'out')
    data = tmp_path / 'data'
    if case in ('no photographs', 'broken ones'):
        ignore = shutil.ignore_patterns('img') if case == 'no photographs' else None
        shutil.copytree(twin, data, ignore=ignore)
        for p in data.glob('img/**/*.png'):
            p.write_bytes(b'half a pho')
    if case != 'never recorded':
        write_json(read_json(out / 'run.json') | dict(data=str(data)), out / 'run.json')
    html, found, pictures = written(out)
    assert not pictures and all(p['said']['clip']['online'] for p in found['plants'])
    assert str(tmp_path) not in html
    text = visible(html)
    if case == 'broken ones':
        assert 'that cannot be read or show no plant' in text
    else:
        assert 'No photographs are shown.' in text and 'their photographs' not in text
        assert found['views'] == [] and all(not p['cells'] for p in found['places'])


def test_one_lost_photograph_is_said(twin, tmp_path):
    from faba_nb.experiment.experiment_folder import Experiment
    from faba_nb.reporting.plants_page import all_photographs, places_of

    e = Experiment(shutil.copytree(twin, tmp_path / 'data'))
    lost = e.images[e.images['view'] == 'side_000'].iloc[3]
    e.image_path(lost.path).write_bytes(b'half a pho')
    plants = e.plants[e.plants.plant_id == lost.plant_id].reset_index(drop=True)

    class Of:
        experiment = e

    found = all_photographs(Of, plants, places_of(plants, e.facts))
    assert [of['lost'] for of in found.sheets[0] if of and of['lost']] == [[lost.dag]]
    assert 'Not shown: 1 photograph that cannot be read or shows no plant.' in found.note


def test_a_photograph_that_is_replaced_makes_pages_again(twin, tmp_path):
    "Under the same name and with as many bytes; looked at once in a run"
    from faba_nb.experiment.experiment_folder import Experiment
    from faba_nb.reporting.report_steps import page_inputs, photographs_seen, plants_inputs
    from faba_nb.reporting.site import reports

    data = shutil.copytree(twin, tmp_path / 'data')
    out = example(tmp_path / 'out', data=data)

    def inputs():
        photographs_seen.cache_clear()  # as a run does when it begins
        return plants_inputs(out), page_inputs(out, reports(out=out)['backbone_comparison'])

    before = inputs()
    assert inputs() == before
    e = Experiment(data)
    path = e.image_path(e.images.path.iloc[0])
    path.write_bytes(path.read_bytes())
    for old, new in zip(before, inputs()):
        assert {k for k in new if new[k] != old[k]} == {'photographs'}


# ---- words ----

OTHER = dict(
    treatments={
        'S0': {'role': 'control', 'label': 'fresh'},
        'S5': {'role': 'stress', 'label': 'brackish'},
        'S9': {'role': 'stress', 'label': 'salted'},
    },
    species='lettuce',
    stress_word='salinity',
    day_label='days after transplanting',
    leave_out='block',
)


def doses(out, bare, **more):
    "The example study as one of another species under two doses, its days halved"
    shutil.copytree(bare, out)
    run = read_json(out / 'run.json')
    write_json(run | dict(experiment=OTHER | more), out / 'run.json')
    for arm in ('dinov2', 'clip'):
        path = out / 'arms' / arm / 'predictions.csv'
        t = pd.read_csv(path, dtype={'plant_id': str})
        stressed = t.treatment == 'WHC-30'
        days = ['dag', 'onset_dag', 'label_low_dag', 'label_high_dag']
        t[[d for d in days if d in t]] /= 2
        again = t[stressed].assign(treatment='S9', plant_id='X' + t.plant_id[stressed])
        t['treatment'] = np.where(stressed, 'S5', 'S0')
        write_csv(pd.concat([t, again]), path)
    return out


def test_words_are_those_of_the_experiment(bare, tmp_path):
    html, data, _ = written(doses(tmp_path / 'out', bare))
    text = visible(html) + json.dumps(data['words']) + json.dumps(data['treatments'])
    assert not re.search('drought|DAG|WHC|faba bean|germination|pair', text)
    assert 'probability of salinity' in text and 'whose block it had not seen' in text
    assert 'about lettuce' in text and 'Days after transplanting' in html
    members = [[data['plants'][i]['treatment'] for i in p['plants']] for p in data['places']]
    assert all(m == ['S0', 'S5', 'S9'] for m in members)
    assert [t['same'] for t in data['treatments'].values()] == [0, 0, 1]
    assert any(d != int(d) for p in data['plants'] for d in p['days'])
    assert any(re.search(r'day \d+\.5', s) for p in data['plants'] for s in p['known'])
    assert (
        data['plants'][0]['known'] == [] or 'brackish: onset day ' in data['plants'][0]['known'][0]
    )


def test_without_onsets_there_is_no_onset(bare, tmp_path):
    html, data, _ = written(doses(tmp_path / 'out', bare, task='treatment detection'))
    known = [s for p in data['plants'] for s in p['known']]
    assert known and all(
        re.fullmatch(r'(brackish|salted): treated from day [\d.]+\.', s) for s in known
    )
    assert all(p['onset'] is None for p in data['plants'])
    assert not re.search('onset|symptom', visible(html))


def test_the_page_says_whose_onsets_they_are(bare, tmp_path):
    from faba_nb.reporting.sentences import RATED

    _, data, _ = written(shutil.copytree(bare, tmp_path / 'one'))
    known = [s for p in data['plants'] for s in p['known']]
    assert known and all('(one annotated day per genotype)' in s for s in known)
    out = shutil.copytree(bare, tmp_path / 'other')
    text = (out / 'study.yaml').read_text().replace('defaults: {', 'defaults: {labels: consensus, ')
    (out / 'study.yaml').write_text(text)
    _, data, _ = written(out)
    known = [s for p in data['plants'] for s in p['known']]
    assert known and all(f'({RATED["consensus"]})' in s for s in known)


def test_around_an_onset_are_plant_days(grown):
    "The day before is one without the label, the day from it on is one with it"
    _, data, _ = page_of(grown)
    for p in data['plants']:
        if p['onset']:
            day, low, high = p['onset']
            before = [d for d in p['days'] if d < day]
            after = [d for d in p['days'] if d >= day]
            assert low == (max(before) if before else None)
            assert high == (min(after) if after else None)


def test_plants_in_doubt_say_so(grown):
    from faba_nb.reporting.results import Results, doubts

    _, data, _ = page_of(grown)
    flags = Results(grown).experiment.plants.set_index('plant_id')['flags']
    assert {p['id']: p['doubt'] for p in data['plants']} == flags.map(doubts).to_dict()
    assert any(p['doubt'] for p in data['plants'])


def test_names_cannot_inject_markup(bare, tmp_path):
    html, data, _ = written(shutil.copytree(bare, tmp_path / 'out'))
    assert '<b>7</b>' not in html
    assert 'R&D <b>7</b>' in {p['genotype'] for p in data['places']}


def test_simulated_plants_are_said_to_be(grown):
    html, _, _ = page_of(grown)
    assert 'Simulated data.' in visible(html) and 'No plant was grown' in visible(html)


# ---- a step like others ----


def test_an_unchanged_study_does_no_work(bare, tmp_path):
    from faba_nb.reporting.report_steps import run_report

    out = shutil.copytree(bare, tmp_path / 'out')
    assert run_report(out, 'plants') == 2  # the page, the workbook
    assert run_report(out, 'plants') == 0
    page = out / 'report' / 'plants.html'
    before = page.read_bytes()
    (out / 'tables' / 'cost.csv').write_text('other\n1\n')  # nothing of it is on the page
    seal(out / 'tables' / 'cost.csv')
    assert run_report(out, 'plants') == 1 and page.read_bytes() == before
    path = out / 'arms' / 'clip' / 'predictions.csv'
    t = pd.read_csv(path)
    write_csv(t.assign(probability=t.probability * 0.5), path)
    assert run_report(out, 'plants') == 1 and page.read_bytes() != before


def test_pages_lead_to_plants_where_there_are_any(bare, tmp_path):
    from faba_nb.core.errors import BadInput
    from faba_nb.reporting.genotypes import genotype_table, plants_sentence
    from faba_nb.reporting.layout import to_html
    from faba_nb.reporting.report_steps import report_steps
    from faba_nb.reporting.results import NoSubject, Results

    there = to_html(genotype_table(Results(bare)), 'tab')
    assert '<a href="plants.html#M%C3%A9lodie%2F2">Mélodie/2</a>' in there
    assert '<a href="plants.html">' in plants_sentence(Results(bare))
    assert '"plants.html"' in written(shutil.copytree(bare, tmp_path / 'one'))[0]
    out = shutil.copytree(bare, tmp_path / 'out', ignore=shutil.ignore_patterns('arms'))
    assert 'plants.html' not in to_html(genotype_table(Results(out)), 'tab')
    assert 'report-plants' not in {s.name for s in report_steps(out)}
    with pytest.raises(NoSubject):
        plants_sentence(Results(out))
    with pytest.raises(BadInput, match='needs arms/'):
        report_steps(out, 'plants')


# ---- maps ----


@pytest.fixture
def mapped(explained_twin, tmp_path):
    "A copy of a study with an explained arm, its page, and what the page's program reads"
    out = shutil.copytree(explained_twin, tmp_path / 'out')
    return out, written(out)[1]


def test_maps_lie_where_their_squares_were_cut(mapped, twin):
    "A padded square is as wide as the photograph is tall, and both have one middle"
    from faba_nb.backbones.photographs import read_photograph
    from faba_nb.training.where import read_where

    out, data = mapped
    (arm,) = data['maps']
    t, _, _ = read_where(out / 'explanations' / 'dinov2')
    views = t['view'].str.replace('_', ' ').isin(data['views'])
    t = t[(t.method == 'patches8') & views]
    assert len(arm['of']) == len(t) > 0
    ids = [p['id'] for p in data['plants']]
    for r in t.itertuples():
        view = data['views'].index(r.view.replace('_', ' '))
        plant = ids.index(str(r.plant_id))
        left, top, wide, high = arm['of'][f'{plant}/{view}/{r.day:g}'][0]
        place = next(p for p in data['places'] if plant in p['plants'])
        shown = np.divide(*place['cells'][view]['size'])
        assert wide * shown == pytest.approx(high, rel=0.05)  # a square, whatever is shown of it
        width, height = read_photograph(twin / r.photograph).size
        assert left < 0 < top + high or max(width, height) == width


def test_maps_come_with_what_their_tests_say(mapped):
    out, data = mapped
    (arm,) = data['maps']
    assert 'passes all 4 tests' in arm['words'] and 'covering 8×8 patches' in arm['words']
    assert all(base64.b64decode(p).startswith(b'\x89PNG') for _, p in arm['of'].values())


def test_words_follow_the_method_that_is_shown(mapped):
    "Covering is not taking apart; a file that was changed is said instead of shown"
    from faba_nb.testing.example_explanations import example_tests

    out, data = mapped
    assert data['maps'][0]['words'].startswith('By how much the log-odds of DINOv2 fall')
    path = out / 'explanations' / 'dinov2' / 'where_tests.csv'
    write_csv(example_tests({'patches4': ['truth'], 'patches8': ['truth']}, 8), path)
    seal(path)
    assert written(out)[1]['maps'][0]['words'].startswith('What each part adds to the log-odds')
    path.write_text(path.read_text() + ' ')
    html, data, _ = written(out)
    assert data['maps'] == [] and 'No map of DINOv2 is shown' in visible(html)
    assert str(out) not in visible(html)


def test_there_are_no_maps_of_another_training(mapped):
    from faba_nb.core.steps import file_digests
    from faba_nb.core.provenance import fingerprint
    from faba_nb.core.study_folder import StudyFolder

    out, _ = mapped
    folder = StudyFolder(out)
    now = fingerprint(file_digests(folder.arm('dinov2').all_predictions(), out))
    record = folder.step_record('explain-dinov2')
    write_json(dict(inputs=dict(predictions=now), files={}), record)
    assert written(out)[1]['maps']
    write_json(dict(inputs=dict(predictions='another'), files={}), record)
    assert written(out)[1]['maps'] == []


def test_without_explanations_nothing_is_said_of_maps(grown):
    assert page_of(grown)[1]['maps'] == []


def test_the_program_asks_nothing_of_the_network():
    for name in ('plants.js', 'plants.css', 'plants.html.j2'):
        text = (ROOT / 'reports' / 'site' / name).read_text(encoding='utf-8')
        text = text.replace('http://www.w3.org/2000/svg', '')
        assert not re.search(r'https?:|fetch\(|XMLHttp|import\(|innerHTML', text), name


# ---- in a browser ----


@pytest.fixture
def tab(browser, grown):
    "A function that opens the page; whatever it said or asked for is judged at the end"
    tabs, said = [], []

    def open_page(out=grown, address='', width=1280, scheme='light'):
        size = {'width': width, 'height': 900}
        t = browser.new_page(viewport=size, color_scheme=scheme)
        t.on('console', lambda m: said.append(f'console: {m.text}'))
        t.on('pageerror', lambda e: said.append(f'error: {e}'))
        own = ('file:', 'data:', 'blob:')
        t.on('request', lambda r: r.url.startswith(own) or said.append(f'network: {r.url}'))
        t.goto((out / 'report' / 'plants.html').resolve().as_uri() + address)
        tabs.append(t)
        return t

    yield open_page
    for t in tabs:
        t.close()
    assert said == []


def place(t):
    "Who is shown, and on which day"
    return t.inner_text('#who'), t.inner_text('#today')


@pytest.mark.full
@pytest.mark.parametrize(
    'width, scheme',
    [(1280, 'light'), (1280, 'dark'), (390, 'light'), (390, 'dark')],
    ids=['wide', 'dark', 'phone', 'phone-dark'],
)
@pytest.mark.parametrize('photographs', [True, False], ids=['photographs', 'curves'])
def test_page_is_accessible(tab, bare, tmp_path, width, scheme, photographs):
    from axe_playwright_python.sync_playwright import Axe

    out = None if photographs else shutil.copytree(bare, tmp_path / 'out')
    if out:
        written(out)
    t = tab(*([out] if out else []), width=width, scheme=scheme)
    assert t.locator('h1').count() == 1 and 'Simulated data' in t.inner_text('body')
    assert t.locator('.picture').count() == (2 if photographs else 0)
    assert t.locator('.arm svg').count() == 2
    assert t.evaluate('document.documentElement.scrollWidth - innerWidth') <= 0
    t.fill('#search', '1')
    found = [
        f'{v["id"]}: {v["nodes"][0]["html"][:120]}' for v in Axe().run(t).response['violations']
    ]
    assert found == []


@pytest.mark.full
def test_keys_step_through_days_and_plants(tab, grown):
    t, data = tab(), page_of(grown)[1]
    first, second = data['places'][:2]
    title = lambda p: f'{p["genotype"]}, replicate {p["replicate"]}'
    days = [f'DAG {d:g}' for d in first['days']]
    assert place(t) == (title(first), days[-1])
    for key, day in (('ArrowLeft', days[-2]), ('Home', days[0]), ('ArrowRight', days[1])):
        t.keyboard.press(key)
        assert place(t)[1] == day
    t.keyboard.press('ArrowDown')
    assert place(t)[0] == title(second)
    t.keyboard.press('ArrowUp')
    t.keyboard.press('ArrowUp')
    assert place(t)[0] == title(data['places'][-1])
    t.keyboard.press('End')
    t.keyboard.press('ArrowRight')  # the last day stays the last
    assert place(t)[1] == f'DAG {data["places"][-1]["days"][-1]:g}'
    t.keyboard.press('/')
    t.keyboard.type('p')  # typing is typing
    assert t.input_value('#search') == 'p' and t.inner_text('#play') == 'Play'


@pytest.mark.full
def test_photographs_and_numbers_follow_the_day(tab, grown):
    t, data = tab(), page_of(grown)[1]
    style = lambda: t.eval_on_selector_all('.picture', 'e => e.map(x => x.style.cssText)')
    before = style()
    assert len(before) == 2 and all('data:image/webp;base64,' in s for s in before)
    t.keyboard.press('Home')
    assert all(a != b for a, b in zip(before, style()))
    own = [data['plants'][i] for i in data['places'][0]['plants']]
    t.keyboard.press('End')
    text = t.inner_text('.arm >> nth=0')
    for p in own:
        value = p['said']['dinov2']['online'][-1]
        assert f'{value:.2f}' in text
        alarm = p['said']['dinov2']['alarm']
        assert ('no alarm' if alarm is None else f'alarm DAG {alarm:g}') in text
    assert f'threshold {own[0]["said"]["dinov2"]["threshold"][1]:.2f}' in text
    assert t.locator('.arm >> nth=0 >> .onset').count() == 1
    assert 'one annotated day per genotype' in t.inner_text('#about')
    t.select_option('#protocol', 'retrospective')
    assert 'threshold' not in t.inner_text('#charts') and 'alarm' not in t.inner_text('#legend')


@pytest.mark.full
def test_a_key_lays_the_map_over_the_photograph(tab, mapped):
    out, data = mapped
    key = next(iter(data['maps'][0]['of']))
    plant, view, day = key.split('/')
    t = tab(out)
    t.select_option('#view', view)
    t.evaluate('document.activeElement.blur()')
    t.evaluate('d => { location.hash = d }', f'{data["plants"][int(plant)]["id"]}//{day}')
    t.wait_for_function('d => document.getElementById("today").textContent == d', arg=f'DAG {day}')
    assert t.locator('.map').count() == 0 and t.inner_text('#map') == 'Map: off'
    t.keyboard.press('o')
    assert t.locator('.map').count() >= 1 and 'DINOv2' in t.inner_text('#map')
    assert 'passes all 4 tests' in t.inner_text('#mapped')
    label = t.get_attribute(f'#picture-{plant}', 'aria-label')
    assert 'under the map of DINOv2' in label
    t.keyboard.press('Home')
    assert t.locator('.map').count() == 0 and 'no map of this day' in t.inner_text('#mapped')
    t.click('#map')
    assert t.inner_text('#map') == 'Map: off' and t.inner_text('#mapped') == ''


@pytest.mark.full
def test_search_finds_genotypes_and_plants(tab, grown):
    t, data = tab(), page_of(grown)[1]
    genotype = data['places'][-1]['genotype']
    t.fill('#search', genotype.lower()[:4])
    assert genotype in t.inner_text('#found')
    t.click(f'#found button:has-text("{genotype}")')
    assert place(t)[0].startswith(f'{genotype}, ')
    plant = data['plants'][0]['id']
    t.fill('#search', plant)
    t.press('#search', 'Enter')
    at = next(p for p in data['places'] if 0 in p['plants'])
    assert place(t)[0] == f'{at["genotype"]}, replicate {at["replicate"]}'
    assert plant in t.inner_text('#photos')
    t.fill('#search', '<b>nobody')
    assert 'Nothing is called <b>nobody here.' in t.inner_text('#said')


@pytest.mark.full
def test_play_goes_through_the_days_and_stops(tab):
    t = tab()
    t.evaluate('window.seen = new Set()')
    t.evaluate(
        "new MutationObserver(() => seen.add(document.getElementById('today').textContent))"
        ".observe(document.getElementById('today'), {childList: true})"
    )
    t.click('#play')
    assert t.inner_text('#play') == 'Pause'
    t.wait_for_function("document.getElementById('play').textContent === 'Play'", timeout=30_000)
    assert t.evaluate('seen.size') == t.evaluate('Number(document.getElementById("day").max) + 1')
    t.keyboard.press('Home')
    t.keyboard.press('p')
    t.keyboard.press('p')
    assert t.get_attribute('#play', 'aria-pressed') == 'false'


@pytest.mark.full
def test_a_link_restores_what_was_shown(tab, grown):
    from faba_nb.reporting.site import plant_link

    t, data = tab(), page_of(grown)[1]
    for key in ('ArrowDown', 'ArrowDown', 'ArrowDown', 'ArrowDown', 'ArrowLeft', 'ArrowLeft'):
        t.keyboard.press(key)
    shown, address = place(t), '#' + t.url.split('#')[1]
    p = data['places'][4]
    assert address == plant_link(p['genotype'], p['replicate'], p['days'][-3]).removeprefix(
        'plants.html'
    )
    other = tab(address=address)
    assert place(other) == shown
    other.evaluate(f"location.hash = '#{data['plants'][0]['id']}'")
    other.wait_for_function(f"document.body.innerText.includes('{data['plants'][0]['id']}')")
    lost = tab(address='#nobody/1/3')
    assert 'nobody/1/3, which is not here' in lost.inner_text('#said')
    assert place(lost)[0]


@pytest.mark.full
def test_the_first_view_is_there_at_once(tab, grown, tmp_path):
    "With as many bytes of photographs as the largest page may have"
    html, data, _ = page_of(grown)
    more = f'<script type="text/plain">{"A" * 1000}</script>\n' * 24_000
    (tmp_path / 'report').mkdir()
    big = tmp_path / 'report' / 'plants.html'
    big.write_text(html.replace('</body>', more[: int(24.9e6) - len(html)] + '</body>'))
    t = tab(tmp_path)
    painted = t.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert painted < 1000
    t.wait_for_function("document.querySelector('.picture').style.backgroundImage !== ''")


@pytest.mark.full
def test_nothing_is_printed_but_a_sentence(tab):
    t = tab()
    t.emulate_media(media='print')
    assert not t.locator('#explorer').is_visible() and t.locator('.onpaper').is_visible()
    assert t.pdf(format='A4').count(b'/Type /Page\n') <= 1
