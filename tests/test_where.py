"Where on the photograph an alarm comes from: files, refusals, and whether the tests of maps can tell"

from dataclasses import replace
from pathlib import Path

import numpy as np, pandas as pd, pytest

from faba_nb.core.errors import BadInput
from faba_nb.core.files import read_json, write_json, write_text
from faba_nb.core.studies import read_study, study_from
from faba_nb.running.cli import main
from faba_nb.training.covering import SIZES
from faba_nb.training.map_tests import FEWEST, hits, in_words, judged, likeness, paired, top_fifth
from faba_nb.training.where import FILES, read_where

PLANTS = 4


@pytest.fixture(scope='module')
def study(tmp_path_factory):
    "A small study of two arms that see photographs, trained, and the folder it lies in"
    from faba_nb.backbones.extraction import extract
    from faba_nb.training.study_training import train_study
    from faba_nb.twin.writing import write_twin

    top = tmp_path_factory.mktemp('where')
    data, out = top / 'data', top / 'out'
    write_twin(data, genotypes=6, seed=1, height=64, workers=1)
    how = dict(
        backbone='random_vit', framing='padded', modalities=['image'], max_epochs=12, lr=2e-3
    )
    arms = {'mean': how | {'layer': 'mean'}, 'norm': how | {'layer': 'norm'}}
    plan = study_from({'name': 'where', 'arms': arms})
    write_text(plan.to_yaml(), out / 'study.yaml')
    write_json(dict(data=str(data), features=str(data / 'features')), out / 'run.json')
    extract(data, data / 'features', 'random_vit', layer='mean,norm', framing='padded', workers=0)
    train_study(plan, data, data / 'features', out, list(arms), workers=1, device='cpu')
    return out


@pytest.fixture(scope='module')
def plants(study):
    "Names of some stressed plants, with a comma between them"
    p = pd.read_csv(study / 'arms' / 'mean' / 'predictions.csv')
    return ','.join(p[p.treatment == 'WHC-30'].plant_id.unique()[:PLANTS])


@pytest.fixture(scope='module')
def explained(study, plants):
    "The study with the maps of one arm"
    assert main(['explain', str(study), '--arm', 'mean', '--plants', plants]) == 0
    return study / 'explanations' / 'mean'


def test_every_map_is_in_the_table_and_in_the_arrays(explained):
    t, arrays, tests = read_where(explained)
    assert t.groupby('plant_id').main.any().all() and t.plant_id.nunique() == PLANTS
    assert set(t[t.main].method) == {*(f'patches{n}' for n in SIZES), 'path'}
    for method, mine in t.groupby('method'):
        n = mine.cells.iloc[0]
        assert arrays[method].shape == (len(mine), n, n)
        assert sorted(mine.row) == list(range(len(mine)))
        sums = arrays[method].sum((1, 2))[mine.row]
        assert np.allclose(sums, mine.part, atol=1e-4)
        empty = arrays[f'{method} plant'] == 0
        assert not (arrays[method][empty]).any() or method == 'path'
    assert len(tests) == 12 and (t.photograph.map(lambda p: not Path(p).is_absolute())).all()


def test_the_page_shows_what_was_written_over_the_photographs(explained):
    from faba_nb.reporting.explanations_page import verdict_sentences, verdict_table, where_figure
    from faba_nb.reporting.results import Results

    results, tests = Results(explained.parents[1]), read_where(explained)[2]
    assert tests.words.tolist() == [in_words(r) for r in tests.to_dict('records')]
    said = verdict_sentences(results, explained.name)[0]
    failed = tests[tests.verdict == 'fails'].method.nunique()
    assert said.count(' fails ') == failed
    assert verdict_table(results, explained.name).frame.words.tolist() == tests.words.tolist()
    drawn = where_figure(results, 190, explained.name)
    assert 'not shown' not in drawn.caption
    pictures = [i for ax in drawn.figure.axes for i in ax.images]
    assert len(pictures) == PLANTS * 4 + 3  # photographs and three maps, and their scales


def test_log_odds_are_those_of_the_predictions(explained):
    t = read_where(explained)[0]
    p = pd.read_csv(explained.parents[1] / 'arms' / 'mean' / 'predictions.csv')
    p = p[(p.protocol == 'online') & (p.split == 'test')]
    p = p.assign(said=np.log(p.probability / (1 - p.probability)))
    said = p.groupby(['plant_id', 'dag']).said.mean()
    one = t.drop_duplicates(['plant_id', 'day'])
    assert len(one) >= 2 * PLANTS
    found = said[pd.MultiIndex.from_frame(one[['plant_id', 'day']])].to_numpy()
    assert np.allclose(found, one.log_odds, atol=0.02)


def test_cells_of_all_photographs_add_up_to_the_whole(explained):
    t = read_where(explained)[0]
    day = t[t.method == 'path'].groupby(['plant_id', 'day'])
    whole = day.whole.first()
    assert (np.abs(day.part.sum() - whole) <= 0.05 * np.maximum(1, np.abs(whole))).all()


def test_verdicts_follow_from_the_numbers(explained):
    tests = read_where(explained)[2]
    assert tests.verdict.tolist() == [judged(r) for r in tests.to_dict('records')]
    assert tests[(tests.method == 'path') & (tests.test == 'adds up')].verdict.item() == 'passes'
    for row in tests.to_dict('records'):
        said = in_words(row)
        assert ('not' in said.lower() or 'more than the' in said) == (row['verdict'] != 'passes')


@pytest.mark.parametrize(
    'row',
    [
        dict(test='adds up', value=0.2),
        dict(test='drawn weights', value=0.31),
        dict(test='top fifth', value=0.5, low=-0.01, high=1),
        dict(test='truth', value=0.5, low=0.0, high=1),
    ],
)
def test_a_method_that_fails_is_shown_as_failing(row):
    assert judged(row) == 'fails'
    assert judged(row | dict(value=np.nan, low=np.nan)) == 'not known'
    said = in_words(row | dict(verdict='fails', plants=9))
    assert 'not' in said or 'more than' in said


def test_a_map_of_the_plant_alone_fails_with_drawn_weights():
    "What does not depend on the weights is alike under all of them"

    class Found:
        def __init__(self, maps):
            shares = np.random.default_rng(len(maps)).random((2, 4, 4))
            self.day = type('Day', (), dict(shares={4: shares}))
            self.cells, self.asked = dict(outline=4, noise=4), []
            self.maps = self.read_with([])

        def read_with(self, asked):
            noise = np.random.default_rng().normal(size=(1, 2, 4, 4))
            return dict(outline=self.day.shares[4][None], noise=noise)

    said = likeness([Found('a') for _ in range(20)], ['outline', 'noise'])
    assert judged(dict(test='drawn weights', value=said['outline'])) == 'fails'
    assert judged(dict(test='drawn weights', value=said['noise'])) == 'passes'


def verdict_of(seed, map_of, plants=12):
    "What the test of truth says of maps of imaginary plants"
    rng, pairs = np.random.default_rng(seed), []
    for _ in range(plants):
        shares = rng.random((3, 7, 7)) * (rng.random((3, 7, 7)) < 0.5)
        truth = shares * (rng.random((3, 7, 7)) < 0.4)
        pairs.append(hits(map_of(truth, rng), shares, truth))
    return judged(dict(test='truth') | paired(*np.array(pairs).T, draws=300))


def test_the_truth_tells_right_maps_from_wrong_ones():
    assert verdict_of(0, lambda truth, rng: truth) == 'passes'
    assert verdict_of(0, lambda truth, rng: -truth) == 'fails'
    assert verdict_of(0, lambda truth, rng: truth, FEWEST - 1) == 'not known'
    blind = [verdict_of(i, lambda truth, rng: rng.random(truth.shape)) for i in range(150)]
    assert blind.count('passes') <= 12  # 2.5 % are meant, 4 % are expected of so few plants


def test_the_top_fifth_holds_plant_only():
    rng = np.random.default_rng(0)
    shares = rng.random((4, 8, 8)) * (rng.random((4, 8, 8)) < 0.2)
    on = top_fifth(rng.normal(size=shares.shape), shares)
    assert (shares[on] > 0).all() and on.sum() == round(0.2 * (shares > 0).sum())


def test_a_layer_that_is_no_mean_is_covered_only(study, plants, capsys):
    assert main(['explain', str(study), '--arm', 'norm', '--plants', plants]) == 0
    t, arrays, tests = read_where(study / 'explanations' / 'norm')
    assert set(t.method) == set(tests.method) == {f'patches{n}' for n in SIZES}


def refused(capsys, *args):
    "What is said in the one line of a refusal"
    capsys.readouterr()
    assert main(['explain', *map(str, args)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert sum(line.startswith('faba explain: ') for line in said) == 1
    return said[-1]


def test_photographs_that_are_gone_or_others_are_refused(study, plants, explained, capsys):
    data = Path(read_json(study / 'run.json')['data'])
    t = read_where(explained)[0]
    a, b = (data / p for p in t.photograph.unique()[[0, 5]])
    before = a.read_bytes()
    try:
        a.unlink()
        said = refused(capsys, study, '--arm', 'mean', '--plants', plants)
        assert 'no photograph' in said and t['view'][0] in said and '--data' in said
        a.write_bytes(before[:200])
        said = refused(capsys, study, '--arm', 'mean', '--plants', plants)
        assert a.name in said and '--data' in said
        a.write_bytes(b.read_bytes())
        said = refused(capsys, study, '--arm', 'mean', '--plants', plants)
        assert 'gives another feature' in said and a.name in said
    finally:
        a.write_bytes(before)
    assert read_where(explained)[0].equals(t)


def test_files_that_were_changed_are_refused(explained, tmp_path):
    import shutil

    shutil.copytree(explained, tmp_path / 'copy')
    (tmp_path / 'copy' / FILES[1]).write_text('plant_id\n')
    with pytest.raises(BadInput, match='not what was written'):
        read_where(tmp_path / 'copy')


def test_arms_without_a_place_are_told_apart(study, capsys):
    from faba_nb.training.where import no_place

    arm = read_study(study / 'study.yaml').arms['mean']
    ruler = replace(arm, backbone='morphology', layer='published')
    assert 'measures the whole plant' in no_place(ruler)
    assert no_place(replace(arm, modalities=('fluor',))) == 'it sees no photographs'
    assert no_place(arm) == ''


# ---- real photographs ----


def real_photographs(shared):
    "{(day's place, view's place): file} of one plant that was grown, on eight days from three sides"
    files = sorted((shared / 'images' / 'brassica').glob('BR017-531121*.png'))
    days, views = ({f.stem.split('_')[i] for f in files} for i in (1, 3))
    place = lambda f, i, among: sorted(among).index(f.stem.split('_')[i])
    return {(place(f, 1, days), place(f, 3, views)): f for f in files}


def cut_out(file, to):
    "A photograph whose background is transparent, by its excess of green, in the size of another"
    from PIL import Image, ImageOps

    size = Image.open(to).size
    rgb = np.asarray(Image.open(file).convert('RGB'), int)
    green = 2 * rgb[..., 1] - rgb[..., 0] - rgb[..., 2] > 15
    rgba = np.dstack([rgb, 255 * green]).astype(np.uint8)
    ImageOps.pad(Image.fromarray(rgba), size, color=(0, 0, 0, 0), centering=(0.5, 1)).save(to)


@pytest.fixture(scope='module')
def seen_for_real(shared, tmp_path_factory):
    "A study in which one stressed plant of a simulated experiment shows real photographs"
    from faba_nb.backbones.extraction import extract
    from faba_nb.experiment.experiment_folder import Experiment
    from faba_nb.training.study_training import train_study
    from faba_nb.twin.writing import write_twin

    top = tmp_path_factory.mktemp('real')
    data, out = top / 'data', top / 'out'
    write_twin(data, genotypes=6, seed=1, height=240, workers=1)
    e, real = Experiment(data), real_photographs(shared)
    for r in e.images[e.images['round'] % 3 > 0].itertuples():
        e.image_path(r.path).unlink()  # fewer days to encode
    e = Experiment(data)
    plant = e.plants[e.plants.treatment == 'WHC-30'].plant_id.iloc[0]
    mine = e.images[e.images.plant_id == plant]
    sides = sorted(set(mine['view']) - {'top'})
    for r in mine[mine['view'].isin(sides)].itertuples():
        day = min(int(r.round) - 2, 7)
        cut_out(real[day, sides.index(r.view) % 3], e.image_path(r.path))
    how = dict(backbone='effnet_lite0', layer='plant', framing='padded', modalities=['image'])
    plan = study_from({'name': 'real', 'arms': {'plant': how | dict(max_epochs=8)}})
    write_text(plan.to_yaml(), out / 'study.yaml')
    write_json(dict(data=str(data), features=str(data / 'features')), out / 'run.json')
    extract(data, data / 'features', 'effnet_lite0', layer='plant', framing='padded', workers=0)
    train_study(plan, data, data / 'features', out, ['plant'], workers=1, device='cpu')
    assert main(['explain', str(out), '--arm', 'plant', '--plants', plant]) == 0
    return out


@pytest.mark.full
def test_maps_of_real_photographs(seen_for_real):
    "Covering and the path through a trained encoder, on photographs of a plant that was grown"
    folder = seen_for_real / 'explanations' / 'plant'
    t, arrays, tests = read_where(folder)
    sides = t[t['view'] != 'top']
    assert sides['view'].nunique() == 3
    for method, mine in sides.groupby('method'):
        plant = arrays[f'{method} plant'][mine.row]
        assert ((plant > 0).any((1, 2)) & (plant == 0).any((1, 2))).all()
        assert np.abs(arrays[method][mine.row]).max() > 1e-4
        assert not arrays[method][mine.row][plant == 0].any()
    adds = tests[(tests.method == 'path') & (tests.test == 'adds up')]
    assert adds.value.item() < 0.05
