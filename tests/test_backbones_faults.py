"Extraction under bad pictures, kills and shards: nothing lost, nothing twice, nothing that stops the run"

import io, os, random, subprocess, sys, time, zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from faba_nb.backbones import extraction
from faba_nb.backbones.decoding import Decoder, DecodeSpec
from faba_nb.backbones.extraction import extract, manifest_path, read_facts, summary_text
from faba_nb.backbones.store import FeatureFile, write_features
from faba_nb.core.errors import BadInput, Stopped

BOTH = 'morphology,random_vit'


def leaf(seed=0, size=(118, 160), mode='RGBA'):
    "A drawn plant, different for every seed"
    a, r = np.zeros((size[1], size[0], 4), np.uint8), np.random.default_rng(seed)
    x, y = 30 + seed % 20, 20 + seed % 60
    a[y:150, x : x + 40] = (*r.integers((50, 110, 30), (110, 170, 80)), 255)
    a[y:150, x : x + 40, :3] += r.integers(0, 20, (150 - y, 40, 3), dtype=np.uint8)
    return Image.fromarray(a).convert(mode)


def png(im, **kw):
    b = io.BytesIO()
    im.save(b, kw.pop('format', 'PNG'), **kw)
    return b.getvalue()


def experiment(folder, n, plants=8):
    "A manifest of `n` drawn photographs"
    folder.mkdir(parents=True, exist_ok=True)
    lines = ['plant,round,view,path']
    for i in range(n):
        (folder / f'{i:04d}.png').write_bytes(png(leaf(i)))
        lines.append(f'p{i % plants},{i // plants},side_000,{i:04d}.png')
    (folder / 'm.csv').write_text('\n'.join(lines))
    return folder / 'm.csv'


def content(folder, name):
    "Features by key, sorted"
    f = FeatureFile(Path(folder) / f'{name}_features.h5')
    return f.load(f.index.sort_values(['plant_id', 'round', 'view']))[0]


def chunk(kind, data):
    return len(data).to_bytes(4, 'big') + kind + data + zlib.crc32(kind + data).to_bytes(4, 'big')


def bad_pictures(folder):
    "Files that are no usable photograph, kind to content or to a function that makes them"
    good = png(leaf(3))
    noisy = png(
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (160, 118, 4), dtype=np.uint8))
    )
    flipped = bytearray(noisy)
    flipped[len(noisy) // 2] ^= 0xFF
    crc = bytearray(good)
    crc[29] ^= 1
    header = lambda w, h: (
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', w.to_bytes(4, 'big') + h.to_bytes(4, 'big') + b'\x08\x06\0\0\0')
    )
    tiff = lambda a: png(Image.fromarray(a), format='TIFF')
    kinds = {
        'missing': None,
        'empty': b'',
        'a web page': b'<html><body>404</body></html>',
        'text': b'not a picture\n' * 50,
        'zeros': bytes(5000),
        'half': noisy[: len(noisy) // 2],
        'without its last byte': good[:-1],
        'without its end': good[:-12],
        'header only': header(118, 160),
        'a flipped byte': bytes(flipped),
        'a wrong checksum': bytes(crc),
        'no pixels': header(118, 160) + chunk(b'IEND', b''),
        'a bomb of 60000 × 60000': header(60000, 60000)
        + chunk(b'IDAT', zlib.compress(bytes(999)))
        + chunk(b'IEND', b''),
        'width 0': header(0, 160) + chunk(b'IEND', b''),
        'tiny': png(leaf().resize((4, 4))),
        'all transparent': png(Image.new('RGBA', (118, 160))),
        'all black': png(Image.new('RGB', (118, 160))),
        'half a JPEG': png(leaf(mode='RGB'), format='JPEG')[:900],
        'CMYK': png(leaf(mode='RGB').convert('CMYK'), format='JPEG'),
        'floating point': tiff(np.random.rand(160, 118).astype(np.float32)),
        'another size': png(leaf(size=(236, 320))),
        'no transparency': png(leaf(mode='RGB')),
        'grey': png(leaf(mode='L')),
        'SVG': b'<svg xmlns="http://www.w3.org/2000/svg" width="118" height="160"><rect width="9" height="9"/></svg>',
        'a folder': lambda p: p.mkdir(),
        'a pipe': os.mkfifo,
        'a link to nowhere': lambda p: p.symlink_to('nowhere'),
        'a link to itself': lambda p: p.symlink_to(p.name),
        'ZIP': b'PK\x03\x04' + bytes(300),
    }
    if os.geteuid():
        kinds['not readable'] = lambda p: (p.write_bytes(good), p.chmod(0))
    for i, (kind, what) in enumerate(kinds.items()):
        path = folder / f'bad{i}.png'
        if callable(what):
            what(path)
        elif what is not None:
            path.write_bytes(what)
    return list(kinds)


@pytest.mark.parametrize('workers', [0, 2])
def test_no_bad_picture_stops_the_run_and_each_is_named(tmp_path, workers, capsys):
    m = experiment(tmp_path / 'd', 70)
    kinds = bad_pictures(tmp_path / 'd')
    assert len(kinds) >= 20
    m.write_text(
        m.read_text() + ''.join(f'\nq{i},1,side_000,bad{i}.png' for i in range(len(kinds)))
    )
    s = extract(m, tmp_path / 'f', BOTH, workers=workers, device='cpu')
    named = {b['path']: b for b in s['bad']}
    assert set(named) == {f'bad{i}.png' for i in range(len(kinds))}
    assert all(b['status'] in ('missing', 'corrupt') and b['reason'] for b in named.values())
    text = summary_text(s, most=99)
    assert all(f'bad{i}.png' in text for i in range(len(kinds)))
    for name in BOTH.split(','):
        facts = read_facts(manifest_path(tmp_path / 'f' / f'{name}_features.h5'))
        assert len(facts) == 70 + len(kinds) and (facts.status == 'ok').sum() == 70 == len(
            content(tmp_path / 'f', name)
        )
    with capsys.disabled():
        print(
            f'\n  {len(kinds)} kinds of bad picture, {workers} workers: run completed, all named, 70 good ones kept',
            end='',
        )
    with pytest.raises(BadInput, match=f'{len(kinds)} photographs cannot be used'):
        extract(m, tmp_path / 'f', BOTH, strict=True)


def test_reasons_say_what_is_wrong(tmp_path):
    m = experiment(tmp_path / 'd', 60)
    kinds = bad_pictures(tmp_path / 'd')
    m.write_text(
        m.read_text() + ''.join(f'\nq{i},1,side_000,bad{i}.png' for i in range(len(kinds)))
    )
    reason = {
        kinds[int(b['path'][3:-4])]: f'{b["status"]}: {b["reason"]}'
        for b in extract(m, tmp_path / 'f', 'morphology', workers=0)['bad']
    }
    expected = {
        'missing': 'missing: no such file',
        'empty': 'empty file',
        'without its last byte': 'truncated',
        'tiny': '4×4',
        'all transparent': 'nothing visible',
        'all black': 'nothing visible',
        'CMYK': 'cmyk',
        'another size': 'RGBA 236×320 where the other photographs of this view are RGBA 118×160',
        'no transparency': 'RGB 118×160 where',
        'a folder': 'not a file',
        'a pipe': 'not a file',
        'a bomb of 60000 × 60000': '60000×60000',
        'a link to nowhere': 'missing: no such file',
        'a link to itself': 'missing: too many levels',
        'floating point': 'type float',
    }
    for kind, words in expected.items():
        assert words in reason[kind], (kind, reason[kind])


def test_a_picture_that_hangs_its_decoder_is_named(tmp_path, monkeypatch):
    (tmp_path / 'slow.py').write_text(
        'import time\ndef measure(photo):\n    time.sleep(60 if photo.size[0] == 77 else 0)\n    return [1.]\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    for i in range(9):
        (tmp_path / f'{i}.png').write_bytes(png(leaf(i) if i != 5 else leaf(i).resize((77, 77))))
    d = Decoder(DecodeSpec((), ('slow.measure',)), workers=2, chunk=2, patience=8)
    try:
        found = list(d([(i, tmp_path / f'{i}.png', None) for i in range(9)]))
    finally:
        d.close()
    assert [(p.row, p.reason) for p in found if p.status != 'ok'] == [
        (5, 'decoding it took more than 8 s')
    ] and [p.row for p in found] == list(range(9))


def test_shards_make_the_file_that_one_process_makes(tmp_path):
    m = experiment(tmp_path / 'd', 200)
    extract(m, tmp_path / 'one', BOTH, device='cpu', workers=1)
    for i in range(3):
        s = extract(m, tmp_path / 'three', BOTH, shard=(i, 3), device='cpu', workers=0)
        assert bool(s['made']) == (i == 2) and len(s['unfinished']) == (0 if i == 2 else 2)
    for name in BOTH.split(','):
        assert np.array_equal(content(tmp_path / 'one', name), content(tmp_path / 'three', name))
    assert not [p for p in (tmp_path / 'three').iterdir() if p.name.startswith('.')]
    assert extract(m, tmp_path / 'three', BOTH)['decoded'] == 0


def test_stopped_in_good_order_and_gone_on_bit_for_bit(tmp_path, monkeypatch):
    m = experiment(tmp_path / 'd', 200)
    extract(m, tmp_path / 'whole', BOTH, device='cpu', workers=0)
    real, done = extraction._save, []

    def save(*a):
        real(*a)
        done.append(1)
        if len(done) == 3:
            (tmp_path / 'stop').touch()

    monkeypatch.setattr(extraction, '_save', save)
    monkeypatch.setenv('FABA_STOP_FILE', str(tmp_path / 'stop'))
    with pytest.raises(Stopped):
        extract(m, tmp_path / 'f', BOTH, device='cpu', workers=0)
    assert len(done) == 4
    (tmp_path / 'stop').unlink()
    monkeypatch.setattr(extraction, '_save', real)
    s = extract(m, tmp_path / 'f', BOTH, device='cpu', workers=0)
    assert s['decoded'] == 200 - 128
    for name in BOTH.split(','):
        assert np.array_equal(content(tmp_path / 'whole', name), content(tmp_path / 'f', name))


def test_features_outlive_their_photographs_and_follow_changes(tmp_path):
    m = experiment(tmp_path / 'd', 40)
    extract(m, tmp_path / 'f', 'morphology', workers=0)
    before = content(tmp_path / 'f', 'morphology')
    for i in range(20):
        (tmp_path / 'd' / f'{i:04d}.png').unlink()
    assert extract(m, tmp_path / 'f', 'morphology', workers=0)['decoded'] == 0
    (tmp_path / 'd' / '0030.png').write_bytes(png(leaf(99)) + b'')
    s = extract(m, tmp_path / 'f', 'morphology', workers=0)
    after = content(tmp_path / 'f', 'morphology')
    assert s['decoded'] == 1 and len(after) == 40 and (before != after).any(1).sum() == 1
    m.write_text(m.read_text() + '\np9,1,side_000,0031.png')
    assert (
        extract(m, tmp_path / 'f', 'morphology', workers=0)['decoded'] == 1
        and len(content(tmp_path / 'f', 'morphology')) == 41
    )


def test_an_unfinished_file_under_a_final_name_is_never_used(tmp_path):
    import h5py

    with h5py.File(tmp_path / 'clip_features.h5', 'w') as f:
        f.attrs['schema'] = 'faba features 1'
        f['p/1/top'] = np.ones(4, np.float32)
    with pytest.raises(BadInput, match='not complete'):
        FeatureFile(tmp_path / 'clip_features.h5')
    (tmp_path / 'dinov2_features.h5').write_bytes(
        (tmp_path / 'clip_features.h5').read_bytes()[:700]
    )
    with pytest.raises(BadInput, match='not a readable HDF5'):
        FeatureFile(tmp_path / 'dinov2_features.h5')


def test_other_peoples_manifests(tmp_path, shared):
    "32 real photographs of two oilseed rape plants on eight dates: area grows until they flower"
    meta = pd.read_csv(shared / 'images' / 'brassica' / 'metadata.csv')
    meta['round'] = meta.groupby('plant_id').date.rank('dense').astype(int)
    meta['path'] = [str(shared / 'images' / 'brassica' / Path(f).name) for f in meta.file]
    meta.rename(columns={'plant_id': 'plant'})[['plant', 'round', 'view', 'path']].to_csv(
        tmp_path / 'm.csv', index=False
    )
    s = extract(tmp_path / 'm.csv', tmp_path / 'f', BOTH, workers=0, device='cpu')
    assert s['decoded'] == 32 and not s['bad']
    f = FeatureFile(tmp_path / 'f' / 'morphology_features.h5')
    for plant, t in meta[meta['view'] == 'sv_000'].sort_values('round').groupby('plant_id'):
        x, there = f.load(t[['plant_id', 'round', 'view']])
        area, height = x[:, 0] ** 2, x[:, 1]
        assert there.all() and (np.diff(area) > 0).all() and area[-1] > 5 * area[0], (plant, area)


def test_formats_of_other_cabinets(tmp_path, shared):
    "Palette with transparency, 16 bit, grey JPEG, colour JPEG, mask: all are read; a plant is measured where it is cut out"
    files = sorted(
        p for p in (shared / 'images' / 'formats').iterdir() if p.suffix in ('.png', '.jpg')
    ) + sorted((shared / 'images' / 'masks').rglob('*.png'))
    (tmp_path / 'm.csv').write_text(
        'plant,round,view,path\n' + '\n'.join(f'{i},1,view_{i},{p}' for i, p in enumerate(files))
    )
    s = extract(tmp_path / 'm.csv', tmp_path / 'f', BOTH, workers=0, device='cpu')
    encoded, measured = (
        read_facts(manifest_path(tmp_path / 'f' / f'{b}_features.h5'))
        for b in ('random_vit', 'morphology')
    )
    refused = lambda facts: {Path(p).name for p in facts.path[facts.status != 'ok']}
    dark, walls = (
        'FLUO_TV_dark.png',
        {
            'NIR_SV_0_z1_h1_g0_e65_117779.jpg',
            'VIS_SV_0_z1_h1_g0_e82_117770.jpg',
            'setaria_small_plant_rgb.png',
        },
    )
    assert len(files) == 19 and refused(encoded) == {dark}
    assert refused(measured) == {dark} | walls
    why = {Path(b['path']).name: b['reason'] for b in s['bad']}
    assert 'values' in why.pop(dark) and set(why) == walls
    assert all(reason.startswith('no mask') for reason in why.values())
    assert {f.rsplit(' ', 1)[0] for f in encoded.form} >= {'RGBA', 'RGB', 'L', 'LA'}


RUN = '''import sys
from faba_nb.backbones.extraction import extract
m, f, i, n = sys.argv[1:]
extract(m, f, "morphology,random_vit", shard=(int(i), int(n)), workers=2, device="cpu")'''


def _start(m, f, i, n):
    return subprocess.Popen(
        [sys.executable, '-c', RUN, str(m), str(f), str(i), str(n)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


PHOTOS = 800  # of the kill campaign: some seconds of work for two shards


@pytest.mark.full
def test_kill_campaign(tmp_path, capsys):
    "At least 40 SIGKILLs at random instants of two shards at work"
    m, r, kills, rounds = experiment(tmp_path / 'd', PHOTOS), random.Random(1), 0, 0
    extract(m, tmp_path / 'calm', BOTH, device='cpu')
    start = time.monotonic()
    while kills < 40:
        rounds += 1
        pair = [_start(m, tmp_path / 'f', i, 2) for i in (0, 1)]
        time.sleep(r.uniform(0.5, 5))
        for p in pair:
            if p.poll() is None:
                p.kill()
                kills += 1
            p.wait()
        if (tmp_path / 'f' / 'random_vit_features.h5').exists() and kills < 40:
            _again(tmp_path / 'f', r)
    for i in (0, 1):
        assert _start(m, tmp_path / 'f', i, 2).wait() == 0
    for name in BOTH.split(','):
        f = FeatureFile(tmp_path / 'f' / f'{name}_features.h5')
        assert len(f.index) == PHOTOS and not f.index.duplicated().any()
        assert np.array_equal(content(tmp_path / 'calm', name), content(tmp_path / 'f', name))
    with capsys.disabled():
        print(
            f'\n  {kills} kills in {rounds} rounds of two shards, {time.monotonic() - start:.0f} s: '
            'features bit-equal to an undisturbed run, none missing, none twice',
            end='',
        )


def _again(folder, r):
    "Both files are finished: take one or both away so that there is something left to kill"
    for name in r.choice([('morphology',), ('random_vit',), ('morphology', 'random_vit')]):
        for p in folder.glob(f'{name}_features*'):
            p.unlink()


MEMORY = '''import json, resource as r, sys
from faba_nb.backbones.extraction import extract
extract(sys.argv[1], sys.argv[2], "morphology,random_vit", workers=2, device="cpu")
print(json.dumps([r.getrusage(w).ru_maxrss for w in (r.RUSAGE_SELF, r.RUSAGE_CHILDREN)]))'''


@pytest.mark.full
def test_memory_stays_flat(tmp_path, capsys):
    "Peaks of the parent and of its largest worker, as the kernel counts them, over ten times as many photographs"
    import json

    peaks = {}
    for n in (200, 2000):
        m = experiment(tmp_path / f'd{n}', n)
        done = subprocess.run(
            [sys.executable, '-c', MEMORY, str(m), str(tmp_path / f'f{n}')],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks[n] = json.loads(done.stdout.splitlines()[-1])
    parent, worker = ([peaks[n][i] / 1024 for n in peaks] for i in (0, 1))
    with capsys.disabled():
        print(
            '\n  peak memory over 200 and 2000 photographs: '
            f'parent {parent[0]:.0f} and {parent[1]:.0f} MB, '
            f'a worker {worker[0]:.0f} and {worker[1]:.0f} MB',
            end='',
        )
    assert parent[1] + 2 * worker[1] < 1.1 * (parent[0] + 2 * worker[0])


FLIPPED = '''import sys
from pathlib import Path
from faba_nb.backbones.store import _attrs
from faba_nb.core.errors import BadInput
path = Path(sys.argv[1])
whole, refused = path.read_bytes(), 0
for at in range(len(whole)):
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 128]) + whole[at + 1 :])
    try:
        _attrs(path)
    except BadInput:
        refused += 1
print(refused)'''


def test_no_single_bit_keeps_a_reader_busy(tmp_path):
    "A file of features with one bit changed, wherever it lies, is opened or refused, at once"
    path = tmp_path / 'm_features.h5'
    papers = {f'told_{i}': 'some words ' * 20 for i in range(4)} | dict(preprocess={'size': 224})
    index = pd.DataFrame(dict(plant_id=['a'], round=[1], view=['x']))
    write_features(path, index, np.ones((1, 2)), papers)
    done = subprocess.run(
        [sys.executable, '-c', FLIPPED, path], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100
