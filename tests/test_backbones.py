"Every registered backbone through the libraries' own loading code, offline, on small random weights"

import hashlib, json, os, subprocess, sys, warnings
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import small_weights as small
from faba_nb.backbones import registry
from faba_nb.backbones.framing import Framing, framed
from faba_nb.backbones.encoder_check import check_backbone, drawn_pictures, _bytes, _composited
from faba_nb.backbones.encoders import load_encoder
from faba_nb.backbones.extraction import extract
from faba_nb.backbones.fetching import find_weights, record_path
from faba_nb.backbones.photographs import read_photograph
from faba_nb.backbones.registry import get_backbone
from faba_nb.backbones.store import FeatureFile, feature_path
from faba_nb.backbones.verification import verify_features
from faba_nb.core.errors import BadInput

NAMES = list(registry.backbones().index)
PUBLISHED = ['dinov2', 'clip', 'bioclip', 'bioclip2']
BUILT_IN = ['clip', 'siglip2', 'pe_core']
WITH_WEIGHTS = [n for n in NAMES if get_backbone(n).repository]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    "An empty cache of weights"
    monkeypatch.setenv('HF_HUB_CACHE', str(tmp_path / 'hf' / 'hub'))
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    monkeypatch.setenv('FABA_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'hf' / 'hub'


@pytest.fixture
def towers():
    "open_clip's built-in configurations, shrunk"
    with small.small_towers(*BUILT_IN):
        yield


def written(folder, n=6):
    "A manifest of `n` drawn photographs, transparent ones among them"
    folder.mkdir(parents=True, exist_ok=True)
    lines = ['plant,round,view,path']
    for i in range(n):
        im = drawn_pictures(i)[i % 2]
        im.save(folder / f'{i}.png')
        lines.append(f'p{i // 2},{2 + i % 2},side_000,{i}.png')
    (folder / 'm.csv').write_text('\n'.join(lines))
    return folder / 'm.csv'


@pytest.mark.parametrize('name', NAMES)
def test_every_backbone_keeps_its_promises(name, hub, towers):
    if name in WITH_WEIGHTS:
        small.put(name, hub)
    found = check_backbone(name)
    assert found.kept.all(), found.to_string()
    assert len(found) >= (1 if name == 'morphology' else 6)


@pytest.mark.parametrize('name', WITH_WEIGHTS)
def test_what_was_loaded_is_written_down(name, hub, towers, tmp_path):
    small.put(name, hub)
    m = written(tmp_path / 'data', 2)
    extract(m, tmp_path / 'f', [name], workers=0, device='cpu')
    f = FeatureFile(feature_path(tmp_path / 'f', name))
    record = json.loads(record_path(get_backbone(name)).read_text())
    assert (f.attrs['revision'], f.attrs['weights_sha256'], f.attrs['source']) == (
        'a' * 40,
        record['sha256'],
        get_backbone(name).source,
    )
    assert f.attrs['activation'] == ('QuickGELU' if name == 'clip' else 'GELU')
    assert f.attrs['preprocess']['exact'] is True and f.attrs['complete'] and f.attrs['images'] == 2


@pytest.mark.parametrize('name', ['clip', 'bioclip', 'dinov2'])
def test_nothing_less_than_the_recorded_weights(name, hub, towers):
    refused = lambda *words: _refused(
        lambda: load_encoder(name, 'cpu'), f'`faba fetch {name}`', *words
    )
    refused('weights are not in the cache')
    small.put(name, hub, record=False)
    refused('there is no record of which they are')
    small.put(name, hub)
    load_encoder(name, 'cpu')
    file = find_weights(name).file
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.resolve().write_bytes(data)
    refused('not the ones that were fetched')
    file.unlink()
    refused('only half of its files' if name != 'clip' else 'weights are not in the cache')


def _refused(f, *words):
    with pytest.raises(BadInput) as e:
        f()
    for w in words:
        assert w in str(e.value), (w, str(e.value))
    assert '\n' not in str(e.value)


def test_a_library_that_leaves_parameters_random_is_noticed(hub, towers, monkeypatch):
    "Weights with the right hash that the library did not put into the network"
    import timm

    small.put('dinov2', hub)
    real = timm.create_model
    monkeypatch.setattr(
        timm,
        'create_model',
        lambda name, pretrained=False, **kw: real(
            'vit_base_patch14_dinov2', pretrained=False, depth=1, num_classes=0
        ),
    )
    _refused(
        lambda: load_encoder('dinov2', 'cpu'), 'of its parameters are those of', 'faba fetch dinov2'
    )


def test_another_width_is_refused(hub):
    "BioCLIP 2 as published is 768 wide; a ViT-B under its name never meets a photograph"
    import open_clip

    cfg = dict(
        embed_dim=512,
        vision_cfg=dict(image_size=224, layers=1, width=768, patch_size=16),
        text_cfg=small.TEXT,
    )
    data = small.as_bytes(small.randomize(open_clip.CLIP(**cfg)))
    small.snapshot(
        hub,
        'imageomics/bioclip-2',
        {
            'open_clip_config.json': json.dumps(dict(model_cfg=cfg)).encode(),
            'open_clip_model.safetensors': data,
        },
    )
    small.write_json(
        dict(
            repository='imageomics/bioclip-2',
            revision='a' * 40,
            sha256=hashlib.sha256(data).hexdigest(),
        ),
        record_path(get_backbone('bioclip2')),
    )
    _refused(lambda: load_encoder('bioclip2', 'cpu'), "'proj': 512", "'proj': 768")


def test_the_four_published_are_768_wide_and_the_old_checks_work(hub, towers, tmp_path):
    import h5py

    for n in PUBLISHED:
        small.put(n, hub)
    m = written(tmp_path / 'data')
    s = extract(m, tmp_path / 'f', PUBLISHED, workers=0, device='cpu')
    assert s['decoded'] == 6 and len(s['made']) == 4
    for n in PUBLISHED:
        with h5py.File(tmp_path / 'f' / f'{n}_features.h5') as f:
            p = list(f.keys())[0]
            r = list(f[p].keys())[0]
            v = list(f[p][r].keys())[0]
            assert f[p][r][v][:].shape == (768,)
            assert sorted(f) == ['p0', 'p1', 'p2'] and f[p][r][v].dtype == np.float32
    wide = extract(
        m, tmp_path / 'f', 'bioclip2', layer='norm', framing='padded', workers=0, device='cpu'
    )
    assert (
        wide['made'] == ['bioclip2.norm.padded_features.h5']
        and FeatureFile(tmp_path / 'f' / wide['made'][0]).dim == 1024
    )


def test_one_pass_gives_what_separate_passes_give(hub, towers, tmp_path):
    names = ['clip', 'dinov2', 'random_vit', 'morphology']
    for n in names[:2]:
        small.put(n, hub)
    m = written(tmp_path / 'data')
    extract(m, tmp_path / 'together', names, workers=0, device='cpu')
    for n in names:
        extract(m, tmp_path / 'alone', n, workers=0, device='cpu')
        a, b = (
            FeatureFile(tmp_path / d / f'{n}_features.h5').load(
                FeatureFile(tmp_path / d / f'{n}_features.h5').index
            )[0]
            for d in ('together', 'alone')
        )
        assert np.array_equal(a, b)


def test_adding_a_backbone_changes_no_other_file(hub, towers, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, '_REGISTRY', dict(registry._REGISTRY))
    small.put('clip', hub)
    m = written(tmp_path / 'data')
    extract(m, tmp_path / 'f', 'clip,morphology,random_vit', workers=0, device='cpu')
    before = {p.name: p.read_bytes() for p in (tmp_path / 'f').iterdir()}

    @registry.register_backbone
    def second_vit():
        "Another untrained transformer"
        return registry.Backbone(
            'embedded:second_vit',
            dict(cls=192, norm=192, mean=192, plant=192),
            build='faba_nb.backbones.encoders.untrained_vit',
        )

    s = extract(m, tmp_path / 'f', 'clip,morphology,random_vit,second_vit', workers=0, device='cpu')
    assert s['made'] == ['second_vit_features.h5'] and len(s['skipped']) == 3
    after = {p.name: p.read_bytes() for p in (tmp_path / 'f').iterdir()}
    assert {k: after[k] for k in before} == before and len(after) == len(before) + 2


def test_quick_gelu_is_right_whatever_name_is_used(hub, towers):
    "`ViT-B-16` with OpenAI's weights would get the plain GELU; the tag decides"
    from open_clip import factory

    small.put('clip', hub)
    record = record_path(get_backbone('clip')).read_text()
    plain = get_backbone('open_clip:ViT-B-16/openai')
    record_path(plain).write_text(record)
    saved = factory._MODEL_CONFIGS['ViT-B-16']
    factory._MODEL_CONFIGS['ViT-B-16'] = {
        k: v for k, v in factory._MODEL_CONFIGS['ViT-B-16-quickgelu'].items() if k != 'quick_gelu'
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            e = load_encoder('open_clip:ViT-B-16/openai', 'cpu')
    finally:
        factory._MODEL_CONFIGS['ViT-B-16'] = saved
    x = np.random.default_rng(0).integers(0, 255, (2, 224, 224, 3), dtype=np.uint8)
    assert e.papers['activation'] == 'QuickGELU' and np.array_equal(
        e.layers(x)['cls'], load_encoder('clip', 'cpu').layers(x)['cls']
    )


def test_dinov2_positions_are_the_plain_bicubic_ones(hub):
    native = small.put('dinov2', hub).pos_embed.detach()
    e = load_encoder('dinov2', 'cpu')
    grid = torch.nn.functional.interpolate(
        native[:, 1:].reshape(1, 37, 37, 768).permute(0, 3, 1, 2),
        size=(16, 16),
        mode='bicubic',
        align_corners=False,
    )
    assert torch.equal(e.model.pos_embed[:, 1:], grid.permute(0, 2, 3, 1).reshape(1, 256, 768))
    assert torch.equal(e.model.pos_embed[:, :1], native[:, :1])
    assert (e.framing.resize, e.framing.size) == (256, 224)


def mystery(folder, features, m):
    "A file as the earlier system wrote it: groups, no attributes, patch tokens beside"
    import h5py

    t = pd.read_csv(m)
    with h5py.File(folder / 'mystery_features.h5', 'w') as f:
        for (p, r, v), x in zip(t[['plant', 'round', 'view']].values, features):
            f[f'{p}/{r}/{v}'] = x
            f[f'{p}/{r}/{v}_patches'] = np.zeros((4, len(x)), np.float32)
    return folder / 'mystery_features.h5'


CASES = [
    ('clip', 'norm', 'padded', ''),
    ('dinov2', 'norm', 'published', ''),
    ('bioclip', 'norm', 'published', 'RGBA into the transform'),
]
MORE = [
    ('clip', 'cls', 'published', ''),
    ('clip', 'cls', 'published', 'GELU'),
    ('clip', 'proj', 'published', ''),
    ('clip', 'mean', 'padded', ''),
    ('clip', 'norm', 'published', ''),
    ('clip', 'cls', 'padded', ''),
    ('bioclip', 'norm', 'published', ''),
    ('bioclip', 'cls', 'padded', ''),
    ('dinov2', 'cls', 'padded', ''),
    ('dinov2', 'norm', 'published', 'positions resampled by timm'),
    ('bioclip', 'norm', 'published', 'QuickGELU'),
    ('bioclip2', 'proj', 'published', ''),
    ('bioclip2', 'norm', 'padded', ''),
    ('bioclip2', 'proj', 'published', 'RGBA into the transform'),
    ('clip', 'norm', 'published', 'RGBA into the transform'),
]


@pytest.mark.parametrize(
    'cases', [CASES, pytest.param(MORE, marks=pytest.mark.full)], ids=['some', 'all']
)
def test_verify_features_names_the_way_among_all(cases, hub, towers, tmp_path):
    for n in PUBLISHED:
        small.put(n, hub)
    m = written(tmp_path / 'data', 4)
    pictures = [Image.open(tmp_path / 'data' / f'{i}.png') for i in range(4)]
    for name, layer, framing, mistake in cases:
        v = verify_features(
            mystery(tmp_path, _by_hand(name, layer, framing, mistake, pictures), m), m, device='cpu'
        )
        best = v.table.iloc[0]
        assert v.matches and (best.backbone, best.layer, best.framing, best.variant) == (
            name,
            layer,
            framing,
            mistake,
        ), (name, layer, framing, mistake, v.text)
        assert f'{name}, layer {layer}' in v.text and 'cosine 1.0000' in v.text


def _by_hand(name, layer, framing, mistake, pictures):
    "Features made without this project's preparation: Pillow, torchvision and the library's modules"
    import torchvision.transforms as T
    from open_clip.transformer import QuickGELU

    e = load_encoder(name, 'cpu')
    if 'timm' in mistake:
        import timm

        e.model = timm.create_model(
            f'local-dir:{find_weights(name).folder}', pretrained=True, num_classes=0, img_size=224
        ).eval()
    if mistake.endswith('GELU'):
        for block in e.model.transformer.resblocks:
            block.mlp.gelu = torch.nn.GELU() if mistake == 'GELU' else QuickGELU()
    side = 256 if name == 'dinov2' else 224
    steps = (
        [T.Resize(side, T.InterpolationMode.BICUBIC), T.CenterCrop(224)]
        if framing == 'published'
        else [T.Resize((224, 224), T.InterpolationMode.BICUBIC)]
    )
    last = [lambda im: im.convert('RGB'), T.ToTensor(), T.Normalize(e.mean, e.std)]
    x = []
    for im in pictures:
        if 'RGBA' not in mistake:
            im = _composited(im)
        if framing == 'padded':
            whole = Image.new('RGB', (max(im.size),) * 2)
            whole.paste(im, ((max(im.size) - im.width) // 2, (max(im.size) - im.height) // 2))
            im = whole
        x.append(T.Compose(steps + last)(im))
    with torch.no_grad():
        return e.forward(e.model, torch.stack(x))[layer].numpy()


def test_verify_features_asks_for_weights_it_lacks(hub, tmp_path):
    m = written(tmp_path / 'data', 4)
    v = verify_features(
        mystery(tmp_path, np.random.default_rng(0).normal(size=(4, 512)).astype(np.float32), m), m
    )
    assert (
        not v.matches and v.missing == ['clip', 'bioclip'] and '`faba fetch clip bioclip`' in v.text
    )


def test_gaps_of_an_earlier_file_are_filled_only_with_the_same_kind(hub, towers, tmp_path):
    small.put('clip', hub)
    m = written(tmp_path / 'data', 8)
    extract(m, tmp_path / 'whole', 'clip', workers=0, device='cpu')
    whole = FeatureFile(tmp_path / 'whole' / 'clip_features.h5')
    x = whole.load(whole.index)[0]
    old = tmp_path / 'old' / 'clip_features.h5'
    old.parent.mkdir()
    mystery(tmp_path, x[:6, ::-1], m).rename(old)
    with pytest.raises(BadInput, match='gaps cannot be filled'):
        extract(m, old.parent, 'clip', device='cpu', fill_gaps=True)
    mystery(tmp_path, x[:6], m).rename(old)
    before = old.read_bytes()
    s = extract(m, old.parent, 'clip', device='cpu')
    assert s['gaps'] == {'clip': ['6.png', '7.png']} and s['decoded'] == 0
    s = extract(m, old.parent, 'clip', device='cpu', fill_gaps=True)
    got, there = FeatureFile(old).load(whole.index)
    assert (
        there.all()
        and np.abs(got - x).max() < 1e-4
        and s['gaps'] == {}
        and old.read_bytes() == before
    )


def test_half_precision_is_recorded_and_close(hub, towers, tmp_path):
    small.put('clip', hub)
    m = written(tmp_path / 'data')
    for d in ('float32', 'bfloat16'):
        extract(m, tmp_path / d, 'clip', dtype=d, workers=0, device='cpu')
    a, b = (FeatureFile(tmp_path / d / 'clip_features.h5') for d in ('float32', 'bfloat16'))
    assert b.attrs['dtype'] == 'bfloat16'
    x, y = a.load(a.index)[0], b.load(a.index)[0]
    assert (
        0
        < 1
        - (x * y).sum(1).min() / np.linalg.norm(x, axis=1).max() / np.linalg.norm(y, axis=1).max()
        < 0.05
    )
    assert ((x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)).min() > 0.999


def test_memory_that_runs_out_halves_the_batch(monkeypatch, capsys):
    e = load_encoder('random_vit', 'cpu')
    pixels = np.random.default_rng(0).integers(0, 255, (10, 224, 224, 3), dtype=np.uint8)
    want = e.encode(pixels, 'norm', 64)
    inner = e.forward

    def small_memory(model, x, pool=None):
        if len(x) > 1:
            raise torch.OutOfMemoryError('full')
        return inner(model, x, pool)

    e = load_encoder('random_vit', 'cpu')
    e.forward = small_memory
    got = e.encode(pixels, 'norm', 8)
    assert np.allclose(got, want, atol=1e-5) and e.batch == 1
    assert 'going on with 2' in (out := capsys.readouterr().out) and 'going on with 1' in out


def test_a_missing_extra_says_so_before_any_work(tmp_path):
    with pytest.raises(BadInput, match='has no layer'):
        extract(written(tmp_path / 'd', 2), tmp_path / 'f', 'dinov2', layer='proj')
    with pytest.raises(BadInput, match='unknown backbone'):
        extract(tmp_path / 'd' / 'm.csv', tmp_path / 'f', 'dinov22')


def test_light_modules_load_no_torch():
    code = (
        'import sys, faba_nb.backbones.extraction, faba_nb.backbones.registry as r; r.backbones(); '
        "print([m for m in ('torch', 'open_clip', 'timm') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout.strip()
        == '[]'
    )


READING = '''import json, resource, sys
from faba_nb.backbones.store import FeatureFile
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024
before, f = peak(), FeatureFile(sys.argv[1])
x, there = f.load(f.index)
print(json.dumps([peak() - before, x.shape, int(there.sum()), float(x[:, 0].sum())]))'''


@pytest.mark.full
def test_a_whole_file_of_the_earlier_system_in_little_memory(tmp_path):
    "11 600 vectors between patch tokens as large as the real ones (9 GB, here without content)"
    import h5py

    values = np.random.default_rng(0).normal(size=11600).astype(np.float32)
    with h5py.File(tmp_path / 'dinov2_features.h5', 'w') as f:
        for i, v in enumerate(values):
            g = f.require_group(f'p{i // 44:03d}/{i // 4 % 11 + 2}')
            g[f'side_{i % 4}'] = np.full(768, v)
            g.create_dataset(f'side_{i % 4}_patches', (256, 768), 'f4')
    for _ in ('read', 'read again from the cache'):
        done = subprocess.run(
            [sys.executable, '-c', READING, str(tmp_path / 'dinov2_features.h5')],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, 'FABA_CACHE': str(tmp_path / 'cache')},
        )
        peak, shape, there, total = json.loads(done.stdout)
        assert shape == [11600, 768] and there == 11600 and abs(total - values.sum()) < 1
        assert peak < 300
