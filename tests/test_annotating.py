"The annotator without a browser: what raters may do, and what they may not learn"

import io, json, re, shutil

import numpy as np
import pandas as pd
import pytest
from ipywidgets.embed import dependency_state
from PIL import Image
from test_exploring import linked
from test_exploring_browser import own_cache

from faba_nb.core.errors import BadInput
from faba_nb.experiment.annotations import (
    hash_of_shown,
    left_of,
    plan_of,
    read_annotations,
    standing,
)
from faba_nb.experiment.experiment_folder import Experiment
from faba_nb.experiment.raw_tree import check
from faba_nb.exploring.rating_session import KEYS, Session
from faba_nb.testing.example_annotations import toy_plants
from faba_nb.testing.example_experiment import write_example

PLANTS = toy_plants(4)
DAYS = {p: [3 + i % 3, 7, 10 + i % 2, 14, 19] for i, p in enumerate(PLANTS.plant_id)}


@pytest.fixture(scope='module')
def example(tmp_path_factory):
    "Twelve plants with photographs"
    return write_example(tmp_path_factory.mktemp('rated') / 'faba')


@pytest.fixture
def annotator(example, tmp_path):
    "A front on a folder of its own"
    from faba_nb.exploring.annotator import Annotator

    return lambda **kwargs: Annotator(linked_once(example, tmp_path / 'faba'), **kwargs)


def linked_once(source, folder):
    return folder if folder.exists() else linked(source, folder)


@pytest.mark.parametrize('mode', ['whole', 'forward'])
@pytest.mark.parametrize('seed', range(3))
def test_whatever_is_pressed_and_wherever_it_is_killed(tmp_path, mode, seed):
    "At the end each place has one answer that counts, and forward nobody went back"
    random = np.random.default_rng(seed)
    session = Session(tmp_path, 'Ada', PLANTS, DAYS, mode)
    shown = {}
    for _ in range(5000):
        if random.random() < 0.02:
            session = Session(tmp_path, 'Ada', PLANTS, DAYS, mode)
            shown.clear()
        if session.place is None:
            break
        plant, last = session.shown()
        assert mode == 'whole' or last >= shown.get(session.place.order, 1)
        shown[session.place.order] = last
        session.saw(f'{plant} {last}'.encode())
        session.press(str(random.choice([*KEYS, *['right'] * 8])))
        session.save()
    assert session.place is None and session.share == 1
    said = read_annotations(tmp_path, PLANTS.plant_id)
    plan = plan_of('Ada', PLANTS, mode=mode)
    counts = standing(said)
    assert counts[['order', 'plant_id']].values.tolist() == plan.values.tolist()
    assert left_of(plan, said, 'Ada', mode).empty
    assert {'onset', 'none', 'unclear'} == set(counts.answer)


def test_the_interval_is_that_of_the_looks(tmp_path):
    "From the last day without to the first day with symptoms, for each look"
    session = Session(tmp_path, 'Ada', PLANTS, DAYS, 'forward')
    for look in range(1, 6):
        days = session.place.days
        pictures = []
        for at in range(1, look + 1):
            pictures.append(f'look {at}'.encode())
            session.saw(pictures[-1])
            session.press('right' if at < look else 's')
        session.press('2')
        session.save()
        r = read_annotations(tmp_path).iloc[-1]
        assert r.high_dag == days[look - 1]
        assert np.isnan(r.low_dag) if look == 1 else r.low_dag == days[look - 2]
        assert r.shown == hash_of_shown(pictures)


def state_of(widget):
    "Everything that a browser knows of a widget: text without names of models, and pictures"
    state = dependency_state([widget], drop_defaults=False)
    numbers = {model: f'model {i}' for i, model in enumerate(state)}
    text = json.dumps([s['state'] for s in state.values()], sort_keys=True, default=str)
    for model, number in numbers.items():
        text = text.replace(model, number)
    buffers = [b['data'] for s in state.values() for b in s.get('buffers', [])]
    return text, buffers


def words_of(xp):
    "What would tell who a plant is"
    p = xp.plants
    return {*p.plant_id, *p.genotype, *p.treatment, *xp.images.path, 'Rep-', 'DAG'}


@pytest.mark.parametrize('mode', ['whole', 'forward'])
def test_the_state_of_the_widgets_tells_no_plant(annotator, mode):
    "The text is one for all plants, but for progress; the picture has one size, length and header"
    front = annotator(rater='Ada', mode=mode)
    front.begin()
    front.session.minutes_left = lambda: 7.0
    front.show()
    words = words_of(front.src.xp)
    texts, lengths, sizes = {'': set(), 'c': set()}, set(), set()
    while front.session.place:
        share = front.session.share
        for key in texts:
            front.press([key] if key else [])
            text, buffers = state_of(front)
            assert not [word for word in words if word in text]
            text = text.replace(f'{share:.1%}', '').replace(f'width:{100 * share:.1f}%', '')
            texts[key].add(re.sub(r'data-shown=\W*\d+', '', text))
            lengths.add(tuple(map(len, buffers)))
            image = Image.open(io.BytesIO(front.image.value))
            assert not image.getexif() and 'comment' not in image.info
            sizes.add(image.size)
        front.press(['2'])
    assert [len(some) for some in texts.values()] == [1, 1]
    assert sizes == {(1320, 640)} and len(lengths) == 1 and len(lengths.pop()) == 1


def test_pictures_are_alike_but_for_their_pixels(annotator):
    "Treatment and genotype show in no number that the browser has"
    pictures = annotator().pictures
    strips = [pictures.strip(p, last) for p in pictures.looks for last in (1, 6, 11)]
    large = [pictures.enlarged(p, 4) for p in pictures.looks]
    for some in (strips, large):
        assert len({len(s) for s in some}) == 1
        assert len({s[: s.index(b'\xff\xda')] for s in some}) == 1
        assert len({Image.open(io.BytesIO(s)).size for s in some}) == 1


def test_a_number_of_looks_tells_no_replicate(example, tmp_path):
    "A plant that was photographed more often is shown as often as the others"
    from faba_nb.exploring.blind_pictures import looks_of

    images = Experiment(example).images
    one = images[images.plant_id == images.plant_id[0]]
    more = pd.concat([images, one.assign(dag=one.dag + 100)])
    assert {len(d) for d in looks_of(more).values()} == {11}


def test_a_photograph_that_cannot_be_read_is_an_empty_place(example, tmp_path):
    "And nothing says which"
    from faba_nb.exploring.annotator import Annotator

    here = tmp_path / 'faba'
    shutil.copytree(example, here)
    images = Experiment(here).images
    for path in images.path[::5]:
        (here / path).write_bytes(b'no photograph')
    front = Annotator(here, rater='Ada')
    front.begin()
    front.press(['n', '3'])
    assert front.session.at == 1 and not front.trouble.value


def test_a_session_refuses_without_naming_a_plant(tmp_path):
    "The order has changed; a rater who reads why learns nothing"
    session = Session(tmp_path, 'Ada', PLANTS, DAYS)
    session.saw(b'strip')
    session.press('n')
    session.press('1')
    session.save()
    with pytest.raises(BadInput, match='plants or the seed have changed') as e:
        Session(tmp_path, 'Ada', PLANTS, DAYS, seed=1)
    assert 'FabaDr' not in str(e.value)
    with pytest.raises(BadInput, match='needs a name'):
        Session(tmp_path, ' ', PLANTS, DAYS)


def test_the_check_judges_raters(example, tmp_path):
    "Never none, symptoms on controls, too fast; a wrong line is named and stops nothing"
    here = linked(example, tmp_path / 'faba')
    xp = Experiment(here)
    looks = xp.images.groupby('plant_id').dag.unique().map(sorted).to_dict()
    for mode in ('whole', 'forward'):
        session = Session(here, 'Ada', xp.plants, looks, mode)
        while session.place:
            session.saw(b'strip')
            session.press('left' if mode == 'whole' else 's')
            session.press('3')
            session.save()
    found = check(here).findings.query('table == "annotations"')
    said = ' '.join(found[found.severity == 'suspicious'].what)
    assert 'answers in less than 2 s' in said
    assert not (found.severity == 'fatal').any()
    assert sum('has rated 12 of 12 plants' in what for what in found.what) == 2
    file = here / 'annotations.csv'
    file.write_text(file.read_text().replace(',whole,', ',half,', 1))
    found = check(here).findings.query('table == "annotations"')
    assert found.row.tolist() == [2] and "mode is 'half'" in found.what.iloc[0]
