"Preparing full-size photographs in one pass against the plain path, far away and near, and reading features"

import contextlib, io, os, subprocess, tempfile, time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
from PIL import Image


def photographs(n=4, height=3476):
    "Side views of simulated plants at 2560 × 3476, as bytes of RGBA PNGs"
    from faba_nb.twin.design import planned_plants, stream
    from faba_nb.twin.plant_drawing import photograph, png
    from faba_nb.twin.form import plant_form
    from faba_nb.twin.growth import grow, state_on
    from faba_nb.twin.latent import course, with_onsets

    plants, out = with_onsets(planned_plants(4), 'onset', 1).to_dict('records'), []
    for i, dag in zip(range(n), (10, 20, 31, 38)):
        p = plants[2 * i]
        g = grow(
            plant_form(p['genotype'], p['plant_id'], 1, p['odd']),
            state_on(course(p, 'onset', 1), dag),
            parts=10 if height > 1000 else 3,
        )
        out.append(
            png(photograph(g, 0, height, stream(1, p['plant_id'], 'photograph', dag, 0), 0.0))
        )
    return out


def cpu(f, items, times=2):
    "Milliseconds of processor time per item, the best of `times`"
    best = []
    for _ in range(times):
        start = time.process_time()
        for x in items:
            f(x)
        best.append(time.process_time() - start)
    return min(best) / len(items) * 1e3


def plain(transform):
    "Pillow decodes, composites, and the library's own transform does the rest"

    def run(data):
        im = Image.open(io.BytesIO(data))
        black = Image.new('RGBA', im.size, (0, 0, 0, 255))
        black.alpha_composite(im)
        return transform(black.convert('RGB'))

    return run


def bench(short=False):
    import pyvips
    import torch

    torch.set_num_threads(1)
    pyvips.cache_set_max(0)
    import torchvision.transforms as T
    from open_clip.transform import image_transform
    from faba_nb.backbones.framing import Framing, framed
    from faba_nb.backbones.encoders import load_encoder
    from faba_nb.backbones.photographs import decode, read_photograph

    data = photographs(*((1, 600) if short else ()))
    clip = image_transform(224, False)
    dinov2 = T.Compose(
        [
            T.Resize(256, T.InterpolationMode.BICUBIC),
            T.CenterCrop(224),
            T.ToTensor(),
            T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    framings = (Framing(), Framing(resize=256))

    def one_pass(data, exact=True):
        photo = read_photograph(data)
        return [framed(photo, replace(c, exact=exact)) for c in framings]

    separate = sum(cpu(plain(t), data) for t in (dinov2, clip, clip, clip))
    exact, fast, floor = (
        cpu(one_pass, data),
        cpu(lambda d: one_pass(d, False), data),
        cpu(decode, data),
    )
    rows = [
        dict(name='four separate plain passes, per photograph', value=separate, unit='ms of CPU'),
        dict(
            name='one pass for all four, exact',
            value=exact,
            unit='ms of CPU',
            beside='3.3 asked, 4 aimed at',
            ratio=separate / exact,
        ),
        dict(
            name='  of which decoding, the floor',
            value=floor,
            unit='ms of CPU',
            ratio=separate / floor,
        ),
        dict(
            name='one pass for all four, fast', value=fast, unit='ms of CPU', ratio=separate / fast
        ),
    ]
    for name, c, t in (('CLIP', framings[0], clip), ('DINOv2', framings[1], dinov2)):
        steps = T.Compose([s for s in t.transforms if isinstance(s, (T.Resize, T.CenterCrop))])
        want = [np.asarray(plain(steps)(d)) for d in data]
        for mode in (True, False):
            off = max(
                np.abs(framed(read_photograph(d), replace(c, exact=mode)).astype(int) - w).max()
                for d, w in zip(data, want)
            )
            rows.append(
                dict(
                    name=f"  {name}: pixels beside the library's transform, {'exact' if mode else 'fast'}",
                    value=int(off),
                    unit='grey levels at most',
                )
            )
    e = load_encoder('random_vit', 'cpu')
    a, b = (
        e.layers(
            np.stack([framed(read_photograph(d), replace(framings[0], exact=m)) for d in data])
        )['norm']
        for m in (True, False)
    )
    rows.append(
        dict(
            name='  fast: 1 - cosine of features (untrained encoder)',
            value=float(
                (1 - (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).max()
            ),
            unit='at most',
        )
    )
    rows += far_and_near(data, 1 if short else 12)
    return rows + reading(200 if short else 11600)


# ---- from disk to measures, by one process and by two, here and far away ----

HERE = Path(__file__).resolve().parent
DEBIAN = '/usr/bin/python3'  # which has what `apt-get install python3-fusepy` brings


@contextlib.contextmanager
def far_away(folder):
    "The same folder where every request takes 5 ms, or None where that cannot be had"
    known = subprocess.run([DEBIAN, '-c', 'import fusepy'], capture_output=True)
    if known.returncode or not os.access('/dev/fuse', os.W_OK):
        yield None
        return
    with tempfile.TemporaryDirectory() as d:
        mount = subprocess.Popen([DEBIAN, HERE / 'slow_files.py', folder, d])
        try:
            until = time.monotonic() + 20
            while not os.path.ismount(d) and time.monotonic() < until:
                time.sleep(0.1)
            yield Path(d) if os.path.ismount(d) else None
        finally:
            mount.terminate()
            mount.wait()


def rate(folder, out, workers):
    "Photographs a second that become measures, by so many processes"
    import pandas as pd
    from faba_nb.backbones.extraction import extract

    files = sorted(map(str, Path(folder).glob('*.png')))
    about = dict(plant_id=[Path(f).stem for f in files], round=2, view='side_000', path=files)
    pd.DataFrame(about).to_csv(Path(out) / 'photographs.csv')
    begun = time.perf_counter()
    extract(Path(out) / 'photographs.csv', out, ['morphology'], workers=workers)
    return len(files) / (time.perf_counter() - begun)


def rates(folder):
    "By one process and by two"
    found = []
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as out:
            found.append(rate(folder, out, workers))
    return found


def far_and_near(data, copies):
    "Rows: 1 and 2 processes, here and where every request takes 5 ms"
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(copies * len(data)):
            (Path(folder) / f'{i}.png').write_bytes(data[i % len(data)])
        near = rates(folder)
        with far_away(folder) as far:
            distant = rates(far) if far else (None, None)
    for n, here, there in zip((1, 2), near, distant):
        name = f'photographs measured, {n} process' + 'es' * (n > 1)
        beside = None if n == 1 else f'{near[0]:.3g} by one'
        rows.append(dict(name=name, value=here, unit='/s', beside=beside, ratio=here / near[0]))
        name = '  where every request to the disk takes 5 ms'
        if there is None:
            rows.append(dict(name=name, value='not measured', unit='(no python3-fusepy)'))
        else:
            rows.append(dict(name=name, value=there, unit='/s', ratio=there / here))
    return rows


def reading(n=11600, dim=768):
    "Reading a file of the earlier system with patch tokens, first and second time"
    from faba_nb.backbones.store import FeatureFile

    with tempfile.TemporaryDirectory() as d:
        os.environ['FABA_CACHE'], old = d, os.environ.get('FABA_CACHE')
        try:
            with h5py.File(Path(d) / 'dinov2_features.h5', 'w') as f:
                x, patches = (
                    np.random.default_rng(0).normal(size=dim).astype(np.float32),
                    np.zeros((16, dim), np.float32),
                )
                for i in range(n):
                    g = f.require_group(f'p{i // 44:03d}/{i // 4 % 11 + 2}')
                    g[f'side_{i % 4}'] = x
                    g[f'side_{i % 4}_patches'] = patches
            rows = []
            for name in ('first', 'second'):
                start = time.perf_counter()
                f = FeatureFile(Path(d) / 'dinov2_features.h5')
                f.load(f.index)
                rows.append(
                    dict(
                        name=f'reading {n} features of the earlier system, {name} time',
                        value=time.perf_counter() - start,
                        unit='s',
                        beside='5 s asked',
                    )
                )
        finally:
            if old is None:
                del os.environ['FABA_CACHE']
            else:
                os.environ['FABA_CACHE'] = old
    return rows
