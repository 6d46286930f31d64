"Features say what is in the photographs that are there now: by content, whole, of this experiment"

import io, os, signal, subprocess, sys, time
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from faba_nb.backbones import extraction, store
from faba_nb.backbones.extraction import extract, fill_gaps, manifest_path, read_facts, summary_text
from faba_nb.backbones.manifests import check_experiment, expected_images, experiment_of
from faba_nb.backbones.morphology import NAMES
from faba_nb.backbones.store import FeatureFile, check_features, write_features
from faba_nb.backbones.verification import verify_features
from faba_nb.core.errors import BadInput
from test_backbones_faults import content, experiment, leaf, png


def facts(folder):
    return read_facts(manifest_path(folder / 'morphology_features.h5')).set_index('path')


def states(folder):
    return {
        p: (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(folder.rglob('*')) if p.is_file()
    }


def same_length(path, seed):
    "Replace a photograph by another of the same number of bytes"
    old, new = path.read_bytes(), png(leaf(seed))
    path.write_bytes(new + bytes(max(len(old) - len(new), 0)))
    return path.stat().st_size == len(old)


def padded(folder):
    "Photographs of one length, so that one may replace another unnoticed"
    for p in folder.glob('*.png'):
        p.write_bytes(p.read_bytes() + bytes(30000 - p.stat().st_size))


def test_a_photograph_of_equal_length_gets_a_new_vector(tmp_path):
    m = experiment(tmp_path / 'd', 12)
    padded(tmp_path / 'd')
    extract(m, tmp_path / 'f', 'morphology', workers=0)
    before = content(tmp_path / 'f', 'morphology')
    assert same_length(tmp_path / 'd' / '0005.png', 99)
    s = extract(m, tmp_path / 'f', 'morphology', workers=0)
    extract(m, tmp_path / 'anew', 'morphology', workers=0)
    after = content(tmp_path / 'f', 'morphology')
    assert s['decoded'] == 1 and (before != after).any(1).sum() == 1
    assert np.array_equal(after, content(tmp_path / 'anew', 'morphology'))
    assert (
        FeatureFile(tmp_path / 'f' / 'morphology_features.h5').attrs['content_sha256']
        == FeatureFile(tmp_path / 'anew' / 'morphology_features.h5').attrs['content_sha256']
    )


def test_a_path_that_names_another_file_is_another_photograph(tmp_path):
    m = experiment(tmp_path / 'd', 8)
    padded(tmp_path / 'd')
    for p in (tmp_path / 'd').glob('*.png'):
        os.utime(p, (1000, 1000))
    extract(m, tmp_path / 'f', 'morphology', workers=0)
    m.write_text(m.read_text().replace('0003.png', '0004.png'))
    extract(m, tmp_path / 'f', 'morphology', workers=0)
    x = content(tmp_path / 'f', 'morphology')
    assert np.array_equal(x[3], x[4])


@pytest.mark.parametrize('broken', ['corrupt', 'missing'])
def test_a_photograph_that_is_whole_again_is_used(tmp_path, broken):
    m = experiment(tmp_path / 'd', 8)
    padded(tmp_path / 'd')
    good = (tmp_path / 'd' / '0002.png').read_bytes()
    if broken == 'corrupt':
        (tmp_path / 'd' / '0002.png').write_bytes(good[:40] + bytes(len(good) - 40))
    else:
        (tmp_path / 'd' / '0002.png').unlink()
    assert [b['status'] for b in extract(m, tmp_path / 'f', 'morphology', workers=0)['bad']] == [
        broken
    ]
    still = states(tmp_path / 'f')
    assert (
        extract(m, tmp_path / 'f', 'morphology', workers=0)['made'] == []
        and states(tmp_path / 'f') == still
    )
    (tmp_path / 'd' / '0002.png').write_bytes(good)
    s = extract(m, tmp_path / 'f', 'morphology', workers=0)
    assert s['decoded'] == 1 and not s['bad'] and len(content(tmp_path / 'f', 'morphology')) == 8


def test_what_is_untouched_is_not_read_and_what_was_touched_is_hashed_once(tmp_path, monkeypatch):
    m = experiment(tmp_path / 'd', 8)
    extract(m, tmp_path / 'f', 'morphology', workers=0)
    from faba_nb.backbones import manifests

    hashed = []
    real = manifests._taken_from
    monkeypatch.setattr(manifests, '_taken_from', lambda f: (hashed.append(f), real(f))[1])
    monkeypatch.setenv('FABA_CACHE', str(tmp_path / 'cache'))
    still = states(tmp_path / 'f')
    assert extract(m, tmp_path / 'f', 'morphology', workers=0)['decoded'] == 0 and hashed == []
    for p in (tmp_path / 'd').glob('000[12].png'):
        os.utime(p, (5, 5))
    for _ in range(2):
        assert extract(m, tmp_path / 'f', 'morphology', workers=0)['decoded'] == 0
    assert len(hashed) == 2 and states(tmp_path / 'f') == still
    # a cache that cannot be read, or says something else, costs time and no truth
    for damage in (b'\0garbage', b'file,now\n1,2\n'):
        next((tmp_path / 'cache' / 'photographs').iterdir()).write_bytes(damage)
        assert extract(m, tmp_path / 'f', 'morphology', workers=0)['decoded'] == 0
    assert len(hashed) == 6


def first_edition(path):
    "Make of a file and its manifest what the first edition wrote"
    manifest = manifest_path(path)
    pd.read_csv(manifest, keep_default_na=False).drop(
        columns=['mtime_ns', 'orientation', 'range']
    ).to_csv(manifest, index=False)
    with h5py.File(path, 'a') as f:
        for k in ('experiment', 'content_sha256'):
            f.attrs.pop(k)
        f.attrs['manifest_sha256'] = extraction.sha256(manifest)


def test_files_of_the_first_edition_are_read_and_judged_by_content(tmp_path):
    m = experiment(tmp_path / 'd', 8)
    padded(tmp_path / 'd')
    lying = Image.Exif()
    lying[0x112] = 6
    (tmp_path / 'd' / '0006.png').write_bytes(png(leaf(6), exif=lying))
    extract(m, tmp_path / 'f', 'morphology', workers=0)
    first_edition(tmp_path / 'f' / 'morphology_features.h5')
    same_length(tmp_path / 'd' / '0001.png', 77)
    s = extract(m, tmp_path / 'f', 'morphology', workers=0)
    assert (
        s['decoded'] == 2 and len(facts(tmp_path / 'f')) == 8
    )  # the other photograph, and the one that lies
    assert FeatureFile(tmp_path / 'f' / 'morphology_features.h5').attrs[
        'experiment'
    ] == experiment_of(m)


def test_changed_bits_are_found_in_file_and_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('FABA_CACHE', str(tmp_path / 'cache'))
    m = experiment(tmp_path / 'd', 12)
    extract(m, tmp_path / 'f', 'morphology', workers=0)
    path = tmp_path / 'f' / 'morphology_features.h5'
    f = FeatureFile(path)
    x, whole = np.array(f.features), path.read_bytes()
    with h5py.File(path, 'r') as h:
        assert h['p1/0/side_000'].fletcher32
    assert check_features(path) == ''
    for i in range(4):
        at = whole.index(x[3 * i].tobytes()) + 2
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 128]) + whole[at + 1 :])
        assert check_features(path)
        with pytest.raises(BadInput, match='readable file of features'):
            FeatureFile(path)
    path.write_bytes(whole)
    FeatureFile(path)
    for flat in (tmp_path / 'cache' / 'features').glob('*/features.npy'):
        rotten = bytearray(flat.read_bytes())
        rotten[-3] ^= 128
        flat.write_bytes(rotten)
    assert np.array_equal(FeatureFile(path).features, x)


def test_numbers_that_were_exchanged_after_writing_are_refused(tmp_path):
    "HDF5's own checksum is right, the content is another"
    m = experiment(tmp_path / 'd', 6)
    extract(m, tmp_path / 'f', 'morphology', workers=0)
    path = tmp_path / 'f' / 'morphology_features.h5'
    with h5py.File(path, 'a') as h:
        h['p1/0/side_000'][3] *= -1
    assert check_features(path) == 'its numbers are not those that were written'
    with pytest.raises(BadInput, match='not those that were written'):
        FeatureFile(path)


def test_values_that_are_no_numbers_and_links_are_refused(tmp_path):
    path, outside = tmp_path / 'old_features.h5', tmp_path / 'outside.h5'
    for bad in (np.nan, np.inf, -np.inf):
        with h5py.File(path, 'w') as h:
            for r in (2, 3):
                h[f'a/{r}/top'] = np.full(5, bad if r == 3 else 1, np.float32)
        with pytest.raises(BadInput, match='plant a, round 3, view top'):
            FeatureFile(path)
    with h5py.File(outside, 'w') as h:
        h['a/2/top'] = np.ones(5, np.float32)
    links = {
        'external': lambda h: h.require_group('a/2').__setitem__(
            'top', h5py.ExternalLink('outside.h5', 'a/2/top')
        ),
        'plant': lambda h: h.__setitem__('a', h5py.ExternalLink('outside.h5', 'a')),
        'soft': lambda h: (
            h.__setitem__('a/2/top', np.ones(5, np.float32)),
            h.__setitem__('b', h5py.SoftLink('/a')),
        ),
        'raw': lambda h: h.create_dataset(
            'a/2/top', (5,), 'f4', external=[(str(tmp_path / 'raw.bin'), 0, 20)]
        ),
    }
    (tmp_path / 'raw.bin').write_bytes(np.ones(5, np.float32).tobytes())
    for kind, make in links.items():
        with h5py.File(path, 'w') as h:
            make(h)
        with pytest.raises(BadInput, match='not followed') as e:
            FeatureFile(path)
        assert '\n' not in str(e.value), kind
        assert 'not followed' in check_features(path)


@pytest.mark.parametrize(
    'damage', ['truncated', 'garbage', 'empty', 'not complete', 'bits', 'manifest']
)
def test_a_damaged_file_is_set_aside_and_done_again(tmp_path, damage, capsys):
    m = experiment(tmp_path / 'd', 10)
    extract(m, tmp_path / 'f', 'morphology', workers=0)
    path = tmp_path / 'f' / 'morphology_features.h5'
    want, whole = content(tmp_path / 'f', 'morphology'), path.read_bytes()
    (tmp_path / 'f' / 'morphology_features.h5.damaged-1').write_text('an older one')
    if damage == 'not complete':
        with h5py.File(path, 'a') as h:
            del h.attrs['complete']
    elif damage == 'manifest':
        manifest_path(path).write_text(manifest_path(path).read_text().replace('ok', 'OK', 1))
    elif damage == 'bits':
        with h5py.File(path, 'a') as h:
            h['p1/0/side_000'][3] *= -1
    else:
        path.write_bytes(
            {'truncated': whole[: len(whole) // 2], 'garbage': bytes(1000), 'empty': b''}[damage]
        )
    kept = path.read_bytes()
    capsys.readouterr()
    s = extract(m, tmp_path / 'f', 'morphology', workers=0)
    said = [l for l in capsys.readouterr().out.splitlines() if 'damaged-2' in l]
    assert (
        len(said) == 1
        and s['decoded'] == 10
        and np.array_equal(content(tmp_path / 'f', 'morphology'), want)
    )
    assert (
        path.with_name(path.name + '.damaged-2').read_bytes() == kept
        and path.with_name(path.name + '.damaged-1').read_text() == 'an older one'
    )


def test_an_earlier_file_is_never_moved(tmp_path):
    m = experiment(tmp_path / 'd', 10)
    old = tmp_path / 'f' / 'morphology_features.h5'
    old.parent.mkdir()
    for content in (bytes(1000), b''):
        old.write_bytes(content)
        with pytest.raises(BadInput, match='move it away'):
            extract(m, tmp_path / 'f', 'morphology', workers=0)
        assert old.read_bytes() == content and list(old.parent.iterdir()) == [old]


def test_a_damaged_part_is_done_again(tmp_path, capsys):
    m = experiment(tmp_path / 'd', 200)
    extract(m, tmp_path / 'whole', 'morphology', workers=0)
    extract(m, tmp_path / 'f', 'morphology', shard=(0, 2), workers=0)
    part = sorted((tmp_path / 'f').glob('.*.parts/*.npz'))[0]
    rotten = bytearray(part.read_bytes())
    rotten[len(rotten) // 2] ^= 255
    part.write_bytes(rotten)
    extract(m, tmp_path / 'f', 'morphology', workers=0)
    assert 'is damaged' in capsys.readouterr().out and np.array_equal(
        content(tmp_path / 'whole', 'morphology'), content(tmp_path / 'f', 'morphology')
    )


def test_a_photograph_that_changes_between_two_shards_is_not_mixed_up(tmp_path):
    m = experiment(tmp_path / 'd', 130)
    padded(tmp_path / 'd')
    extract(m, tmp_path / 'f', 'morphology', shard=(0, 2), workers=0)
    same_length(tmp_path / 'd' / '0000.png', 99)
    assert extract(m, tmp_path / 'f', 'morphology', shard=(1, 2), workers=0)['made'] == []
    extract(m, tmp_path / 'f', 'morphology', workers=0)
    extract(m, tmp_path / 'anew', 'morphology', workers=0)
    assert np.array_equal(
        content(tmp_path / 'anew', 'morphology'), content(tmp_path / 'f', 'morphology')
    )


def test_features_of_another_experiment_are_refused(tmp_path):
    a, b = experiment(tmp_path / 'a', 12), experiment(tmp_path / 'b', 12)
    extract(a, tmp_path / 'f', 'morphology', workers=0)
    path = tmp_path / 'f' / 'morphology_features.h5'
    before = states(tmp_path / 'f')
    for i, p in enumerate(sorted((tmp_path / 'b').glob('*.png'))):
        p.write_bytes(png(leaf(i + 50)))
    b.write_text(b.read_text().replace('\np7', '\nq7'))
    for call in (
        lambda: check_experiment(path, b),
        lambda: extract(b, tmp_path / 'f', 'morphology', workers=0),
    ):
        with pytest.raises(BadInput, match='another experiment'):
            call()
    assert states(tmp_path / 'f') == before
    check_experiment(path, a)
    # one plant more, one photograph fixed: the same experiment
    (tmp_path / 'a' / '0003.png').write_bytes(png(leaf(70)))
    a.write_text(a.read_text() + '\nnew,1,side_000,0003.png')
    check_experiment(path, a)
    assert (
        len(FeatureFile(path).index) == 12
        and extract(a, tmp_path / 'f', 'morphology', workers=0)['decoded'] == 2
    )


def test_the_fingerprint_is_of_the_plan_not_of_its_photographs(shared, tmp_path):
    "The real plan: photographs come and go, marks leave plants out, a treatment is another experiment"
    for name in ('plant_metadata.csv', 'timepoint_metadata.csv'):
        (tmp_path / name).write_bytes((shared / 'faba' / name).read_bytes())
    said, plan = experiment_of(tmp_path), tmp_path / 'plant_metadata.csv'
    (tmp_path / 'img').mkdir()
    (tmp_path / 'img' / 'new.png').write_bytes(png(leaf(1)))
    assert experiment_of(tmp_path) == said
    plants = pd.read_csv(plan, dtype=str, keep_default_na=False)
    (tmp_path / 'marks.csv').write_text(
        f'plant_id,round,view,mark,note,author,time\n{plants.plant_id[0]},,,exclude,ill,me,2026-01-01\n'
    )
    from faba_nb.experiment.experiment_folder import Experiment

    assert (
        plants.plant_id[0] not in set(Experiment(tmp_path).plants.plant_id)
        and experiment_of(tmp_path) == said
    )
    (tmp_path / 'SIMULATED.txt').write_text('world: onset\nseed: 2\n')
    assert experiment_of(tmp_path) != said
    (tmp_path / 'SIMULATED.txt').unlink()
    plants.loc[plants.index[plants.treatment != 'WHC-80'][0], 'treatment'] = 'WHC-80'
    plants.to_csv(plan, index=False)
    assert experiment_of(tmp_path) != said


def test_lying_dark_and_printed_photographs(tmp_path, shared):
    s = extract(
        shared / 'cases' / 'manifest.csv',
        tmp_path / 'f',
        'morphology,random_vit',
        workers=0,
        device='cpu',
    )
    t = facts(tmp_path / 'f')
    f = FeatureFile(tmp_path / 'f' / 'morphology_features.h5')
    x, there = f.load(t.reset_index()[['plant_id', 'round', 'view']])
    at = {p: i for i, p in enumerate(t.index)}
    for name in ('height', 'width'):
        a, b = (x[at[p], NAMES.index(name)] for p in ('plant.png', 'plant_exif6.jpg'))
        assert abs(a - b) < 0.02, (name, a, b)
    assert there[at['plant.png']] and there[at['plant_exif6.jpg']] and there.sum() == 2
    assert t.orientation['plant_exif6.jpg'] == 6 and t.form['plant_exif6.jpg'] == 'RGB 300×400'
    assert (
        'no plant found' in t.reason['plant_12bit_in_16.png']
        and 'values 0 to 2384' in t.reason['plant_12bit_in_16.png']
    )
    assert 'cmyk' in t.reason['plant_cmyk.jpg'] and t.status['nothing.png'] == 'missing'
    lines = summary_text(s).splitlines()
    assert lines[-4] == 'photographs 5: 2 used, 1 corrupt, 1 missing, 1 no plant found'
    assert all(
        any(p in l for l in lines[-3:])
        for p in ('plant_12bit_in_16.png', 'plant_cmyk.jpg', 'nothing.png')
    )
    with pytest.raises(BadInput, match='3 photographs cannot be used') as e:
        extract(shared / 'cases' / 'manifest.csv', tmp_path / 'f', 'morphology', strict=True)
    assert e.value.exit_code == 2


@pytest.mark.parametrize('said', range(2, 9))
def test_every_orientation_is_the_upright_picture(tmp_path, said):
    "Written as a camera writes it, compared with the upright one to the pixel"
    from faba_nb.backbones.photographs import read_photograph

    back = {
        2: 'FLIP_LEFT_RIGHT',
        3: 'ROTATE_180',
        4: 'FLIP_TOP_BOTTOM',
        5: 'TRANSPOSE',
        6: 'ROTATE_90',
        7: 'TRANSVERSE',
        8: 'ROTATE_270',
    }
    upright, exif = leaf(4, mode='RGB'), Image.Exif()
    exif[0x112] = said
    lying = png(upright.transpose(Image.Transpose[back[said]]), exif=exif)
    a, b = read_photograph(png(upright)), read_photograph(lying)
    assert (
        np.array_equal(np.asarray(a.image), np.asarray(b.image))
        and (a.box, a.size, a.form) == (b.box, b.size, b.form)
        and b.orientation == said
    )


def test_pipes_folders_and_devices_do_not_hang(tmp_path):
    m = experiment(tmp_path / 'd', 12)
    (tmp_path / 'd' / '0001.png').unlink()
    os.mkfifo(tmp_path / 'd' / '0001.png')
    (tmp_path / 'd' / '0002.png').unlink()
    (tmp_path / 'd' / '0002.png').symlink_to('/dev/zero')
    code = (
        'import sys\n'
        'from faba_nb.backbones.extraction import extract\n'
        'from faba_nb.core.errors import BadInput\n'
        'try: print(extract(*sys.argv[1:3], "morphology", workers=0)["bad"])\n'
        'except BadInput as e: print(e)'
    )
    run = lambda *a: subprocess.run(
        [sys.executable, '-c', code, *map(str, a)], capture_output=True, text=True, timeout=60
    )
    assert run(m, tmp_path / 'f').stdout.count('not a file') == 2
    for name in ('morphology_features.h5', 'morphology_features_manifest.csv'):
        folder = tmp_path / name
        folder.mkdir()
        os.mkfifo(folder / name)
        assert 'not a file' in (done := run(m, folder)).stdout and not done.stderr
    os.mkfifo(tmp_path / 'pipe.csv')
    for where in (tmp_path / 'pipe.csv', '/dev/zero'):
        assert 'neither a folder nor a file' in run(where, tmp_path / 'g').stdout
    for where in ('/dev/zero', tmp_path / 'pipe.csv', tmp_path):
        with pytest.raises(BadInput, match='not a file'):
            FeatureFile(where)


BAD_ROWS = [
    'p1,1,x_patches,a.png',
    'p\x001,1,top,a.png',
    'p1,1,top,a\x00.png',
    'p1,1,t\x07op,a.png',
    'a/b,1,top,a.png',
    '.,1,top,a.png',
    '..,1,top,a.png',
    'p1,1.5,top,a.png',
    'p1,,top,a.png',
    'p1,-1,top,a.png',
    'p1,1e3,top,a.png',
    'p1,99999999999999999999,top,a.png',
    'p0,1,top,a.png',
    'p0,01,top,a.png',
    ',1,top,a.png',
    'p1,1,,a.png',
    'p1,1,to/p,a.png',
    'p1,1,top,',
    'p1,1,top',
    'p1\u200b,1,top,a.png',
]


@pytest.mark.parametrize('row', BAD_ROWS, ids=range(len(BAD_ROWS)))
def test_rows_that_cannot_be_are_refused_by_row_before_work(tmp_path, row):
    (tmp_path / 'm.csv').write_text(f'plant,round,view,path\np0,1,top,a.png\n{row}\n')
    with pytest.raises(BadInput, match='m.csv, line 3: ') as e:
        extract(tmp_path / 'm.csv', tmp_path / 'f', 'morphology', workers=0)
    assert e.value.exit_code == 2 and '\n' not in str(e.value) and not (tmp_path / 'f').exists()


def test_other_encodings_of_a_manifest(tmp_path):
    text = 'plant,round,view,path\np0,1,top,a.png\n'
    for coding in ('utf-16', 'utf-16-le', 'utf-32'):
        (tmp_path / 'm.csv').write_bytes(text.encode(coding))
        with pytest.raises(BadInput) as e:
            expected_images(tmp_path / 'm.csv')
        assert '\n' not in str(e.value)
    (tmp_path / 'm.csv').write_bytes(text.encode('utf-8-sig'))
    assert len(expected_images(tmp_path / 'm.csv')) == 1


RUN = '''import sys
from faba_nb.backbones.extraction import extract
extract(sys.argv[1], sys.argv[2], "morphology", workers=2, device="cpu")'''
SLOW = (
    '''import os, sys, time
from faba_nb.core import files
real = os.replace
def slow(a, b):
    if sys.argv[3] in str(b): print("writing", flush=True); time.sleep(60)
    real(a, b)
os.replace = slow
'''
    + RUN
)


def kill_while_writing(m, f, what):
    "A real kill of a real extraction that has a temporary file open"
    p = subprocess.Popen(
        [sys.executable, '-c', SLOW, str(m), str(f), what],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    while (line := p.stdout.readline()) and 'writing' not in line:
        pass
    p.send_signal(signal.SIGKILL)
    p.wait()


@pytest.mark.parametrize(
    'what', ['.npz', 'morphology_features_manifest.csv', 'morphology_features.h5']
)
def test_nothing_is_left_lying_after_a_kill(tmp_path, what):
    m = experiment(tmp_path / 'd', 70)
    extract(m, tmp_path / 'calm', 'morphology', workers=0, device='cpu')
    kill_while_writing(m, tmp_path / 'f', what)
    assert [p for p in (tmp_path / 'f').rglob('.*') if p.is_file()], (
        'the kill left nothing to sweep'
    )
    (tmp_path / 'f' / '.morphology_features.0000000000000000.parts').mkdir()  # begun in another way
    s = extract(m, tmp_path / 'f', 'morphology', workers=0, device='cpu')
    assert sorted(p.name for p in (tmp_path / 'f').rglob('*')) == sorted(
        p.name for p in (tmp_path / 'calm').rglob('*')
    )
    assert s['made'] == ['morphology_features.h5'] and np.array_equal(
        content(tmp_path / 'calm', 'morphology'), content(tmp_path / 'f', 'morphology')
    )


def test_a_kill_while_a_finished_file_is_replaced_loses_nothing(tmp_path):
    m = experiment(tmp_path / 'd', 70)
    extract(m, tmp_path / 'f', 'morphology', workers=0, device='cpu')
    (tmp_path / 'd' / '0003.png').write_bytes(png(leaf(99)))
    kill_while_writing(m, tmp_path / 'f', 'morphology_features.h5')
    s = extract(m, tmp_path / 'f', 'morphology', workers=0, device='cpu')
    assert (
        s['decoded'] == 0
        and s['made'] == ['morphology_features.h5']
        and not list((tmp_path / 'f').glob('*damaged*'))
    )
    extract(m, tmp_path / 'anew', 'morphology', workers=0)
    assert np.array_equal(
        content(tmp_path / 'anew', 'morphology'), content(tmp_path / 'f', 'morphology')
    )


def test_files_of_a_writer_at_work_are_left_alone(tmp_path):
    m = experiment(tmp_path / 'd', 4)
    extract(m, tmp_path / 'f', 'morphology', workers=0)
    theirs = tmp_path / 'f' / '.clip_features.h5.0123abcd'
    theirs.touch()
    code = (
        'import sys, time\n'
        'from faba_nb.backbones.leftovers import writing\n'
        'with writing(sys.argv[1]):\n'
        '    print("in", flush=True); sys.stdin.read()'
    )
    p = subprocess.Popen(
        [sys.executable, '-c', code, str(tmp_path / 'f')],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    p.stdout.readline()
    extract(m, tmp_path / 'f', 'morphology', workers=0)
    assert theirs.exists()
    p.kill()
    p.wait()
    extract(m, tmp_path / 'f', 'morphology', workers=0)
    assert not [q for q in (tmp_path / 'f').iterdir() if q.name.startswith('.')]


def earlier(path, m, x):
    "A file as the earlier system wrote it"
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, 'w') as h:
        for key, v in zip(expected_images(m).itertuples(index=False), x):
            h[f'{key.plant_id}/{key.round}/{key.view}'] = v
    return path


@pytest.mark.parametrize(
    'name', ['morphology_features.h5', 'my.h5', 'my features', 'my.gaps_features.h5']
)
def test_gaps_are_filled_whatever_the_name(tmp_path, name):
    m = experiment(tmp_path / 'd', 12)
    extract(m, tmp_path / 'whole', 'morphology', workers=0)
    want = content(tmp_path / 'whole', 'morphology')
    old = earlier(tmp_path / 'old' / name, m, want[:8])
    before = old.read_bytes()
    assert len(FeatureFile(old).index) == 8
    s = fill_gaps(old, m, None if name.startswith('morphology') else 'morphology', workers=0)
    assert (
        len(FeatureFile(old).index) == 12
        and len(FeatureFile(old, gaps=False).index) == 8
        and old.read_bytes() == before
    )
    f = FeatureFile(old)
    assert (
        np.allclose(f.load(f.index.sort_values(['plant_id', 'round', 'view']))[0], want)
        and s['counts']['used'] == 12
    )
    assert fill_gaps(old, m, 'morphology', workers=0)['decoded'] == 0


def test_filling_gaps_needs_a_proof_and_an_earlier_file(tmp_path):
    m = experiment(tmp_path / 'd', 12)
    old = earlier(
        tmp_path / 'old' / 'morphology_features.h5',
        m,
        np.random.default_rng(0).normal(size=(8, 47)).astype(np.float32),
    )
    with pytest.raises(BadInput, match='gaps cannot be filled'):
        fill_gaps(old, m, workers=0)
    extract(m, tmp_path / 'ours', 'morphology', workers=0)
    with pytest.raises(BadInput, match='not of the earlier system'):
        fill_gaps(tmp_path / 'ours' / 'morphology_features.h5', m)
    with pytest.raises(BadInput, match='no such file'):
        fill_gaps(tmp_path / 'none.h5', m)
    text = summary_text(extract(m, old.parent, 'morphology', workers=0))
    assert f'`faba features --fill-gaps {old}`' in text and 'fill_gaps' not in text


def test_a_photograph_among_the_gaps_that_changed_is_done_again(tmp_path):
    m = experiment(tmp_path / 'd', 12)
    padded(tmp_path / 'd')
    extract(m, tmp_path / 'whole', 'morphology', workers=0)
    old = earlier(
        tmp_path / 'old' / 'morphology_features.h5',
        m,
        content(tmp_path / 'whole', 'morphology')[:8],
    )
    fill_gaps(old, m, workers=0)
    last = expected_images(m).file.iloc[-1]
    same_length(Path(last), 99)
    assert extract(m, old.parent, 'morphology', workers=0)['decoded'] == 1


def test_none_matches_and_nothing_could_be_tried_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setenv('HF_HUB_CACHE', str(tmp_path / 'hub'))
    monkeypatch.setenv('FABA_CACHE', str(tmp_path / 'cache'))
    m = experiment(tmp_path / 'd', 6)
    noise = lambda d: np.random.default_rng(0).normal(size=(6, d)).astype(np.float32)
    v = verify_features(earlier(tmp_path / 'a.h5', m, noise(47)), m, backbones=['morphology'])
    assert (v.matches, v.tried, v.state, v.fetch) == (False, True, 'none matches', '')
    v = verify_features(
        earlier(tmp_path / 'b.h5', m, noise(768)), m, backbones=['dinov2', 'bioclip2']
    )
    assert (
        (v.matches, v.tried, v.state) == (False, False, 'not tried')
        and v.fetch == 'faba fetch dinov2 bioclip2'
        and v.fetch in v.text
    )
    v = verify_features(earlier(tmp_path / 'c.h5', m, noise(999)), m)
    assert (v.state, v.fetch) == ('not tried', '') and 'no known backbone' in v.text


def test_a_huge_declared_size_is_bounded_and_named(tmp_path):
    path = tmp_path / 'old_features.h5'
    with h5py.File(path, 'w') as h:
        h.create_dataset('a/2/top', (10**12,), 'f4', chunks=(1000,))
    with pytest.raises(BadInput, match='a/2/top holds 1000000000000 numbers'):
        FeatureFile(path)
    (tmp_path / 'big.png').touch()
    os.truncate(tmp_path / 'big.png', 2**40)
    (tmp_path / 'm.csv').write_text('plant,round,view,path\np0,1,top,big.png\n')
    assert (
        'is no photograph'
        in extract(tmp_path / 'm.csv', tmp_path / 'f', 'morphology', workers=0)['bad'][0]['reason']
    )
