"""What a GPU makes of it: photographs a second, a whole study, bfloat16 beside float32, a fit alone and in company.
Meant for a job of ten minutes, without network. Without a GPU everything runs at a tiny size, to see that it runs.
"""

import contextlib, json, subprocess, tempfile, time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from bench_backbones import photographs
from faba_nb.backbones.encoders import Encoder, dinov2_as_published, timm_layers
from faba_nb.backbones.extraction import extract
from faba_nb.backbones.framing import Framing
from faba_nb.backbones.registry import Backbone, register_backbone
from faba_nb.core.studies import Arm, study_from
from faba_nb.testing.example_bundles import invented
from faba_nb.training import engine, protocols, stacked, streams, study_training, training_pool
from faba_nb.training.engine import Fit, Stack
from faba_nb.training.folds import make_folds
from faba_nb.training.protocols import read_fit
from held_bundles import held
from small_weights import TEXT, randomize

ARMS = 'dinov2', 'clip', 'bioclip', 'bioclip2', 'no_image'
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
AIM = 60  # seconds of a study of 5 arms, 3 seeds and 44 folds, from features to predictions


# ---- encoders of full size, never trained ----


def dinov2(backbone, depth=12):
    "DINOv2's network with random weights"
    import timm

    model = timm.create_model('vit_base_patch14_dinov2', img_size=518, num_classes=0, depth=depth)
    framing = Framing('shortest', 518, 518)
    e = Encoder(backbone.name, randomize(model), timm_layers, framing, *IMAGENET, None)
    e.papers = dict(repository='', revision='random', weights_sha256='', activation='GELU')
    return dinov2_as_published(e)


def shallow_dinov2(backbone):
    "The same with one layer, for a trial on a processor"
    return dinov2(backbone, 1)


def open_clip_folder(folder, layers, width, patch, embed, quick):
    "A network of open_clip's with random weights, as a folder that it loads"
    import open_clip
    from safetensors.torch import save_file

    vision = dict(image_size=224, layers=layers, width=width, patch_size=patch)
    cfg = dict(embed_dim=embed, quick_gelu=quick, vision_cfg=vision, text_cfg=TEXT)
    folder.mkdir()
    config = json.dumps(dict(model_cfg=cfg, preprocess_cfg={}))
    (folder / 'open_clip_config.json').write_text(config)
    weights = randomize(open_clip.CLIP(**cfg)).state_dict()
    save_file(weights, folder / 'open_clip_model.safetensors')
    return f'local:{folder}'


def encoders(folder, short):
    "Four sources, of the four networks of the published comparison"
    base = dict(layers=1 if short else 12, width=768, patch=16, embed=512)
    large = dict(layers=1 if short else 24, width=1024, patch=14, embed=768)
    build = 'bench_gpu.shallow_dinov2' if short else 'bench_gpu.dinov2'

    def bench_dinov2():
        "DINOv2, random weights"
        layers = dict.fromkeys(('cls', 'norm', 'mean', 'plant'), 768)
        return Backbone('embedded:bench_dinov2', layers, build=build)

    register_backbone(bench_dinov2)
    return [
        'bench_dinov2',
        open_clip_folder(folder / 'clip', quick=True, **base),
        open_clip_folder(folder / 'bioclip', quick=False, **base),
        open_clip_folder(folder / 'bioclip2', quick=False, **large),
    ]


# ---- (a) photographs a second ----


@contextlib.contextmanager
def busy(device):
    "A list that holds, after the block, how many per cent of the time the GPU was busy"
    found = []
    if device == 'cpu':
        yield found
        return
    ask = ['nvidia-smi', '--query-gpu=utilization.gpu', '--format=csv,noheader,nounits']
    watch = subprocess.Popen([*ask, '-lms', '200'], stdout=subprocess.PIPE, text=True)
    try:
        yield found
    finally:
        watch.terminate()
        seen = [int(x) for x in watch.communicate()[0].split() if x.isdigit()]
        found.append(float(np.mean(seen)) if seen else np.nan)


def feature_rows(folder, device, short):
    "Each encoder alone and all in one pass, decoding included"
    n, files = (4, photographs(1, 600)) if short else (768, photographs(4))
    for i, data in enumerate(files):
        (folder / f'{i}.png').write_bytes(data)
    path = [str(folder / f'{i % len(files)}.png') for i in range(n)]
    ids = [f'p{i}' for i in range(n)]
    manifest = folder / 'photographs.csv'
    pd.DataFrame(dict(plant_id=ids, round=2, view='side_000', path=path)).to_csv(manifest)
    names, rows = encoders(folder, short), []
    for some in [[name] for name in names] + [names]:
        with tempfile.TemporaryDirectory() as out, busy(device) as share:
            start = time.perf_counter()
            extract(manifest, out, some, workers=0 if short else None, device=device)
            rate = n / (time.perf_counter() - start)
        what = Path(some[0]).name if len(some) == 1 else 'all four in one pass'
        beside = f'GPU busy {share[0]:.0f} %' if share else None
        rows.append(dict(name=f'features, {what}', value=rate, unit='photographs/s', beside=beside))
    return rows


# ---- (b) a study ----


def study_rows(bundle, device, short):
    "From features to predictions: seconds, memory, fits at once"
    seeds, epochs = ([42], 2) if short else ([42, 123, 456], 100)
    sensors = dict(modalities=['fluor', 'env', 'vi'])
    arms = {name: sensors if name == 'no_image' else {} for name in ARMS}
    how = dict(init_seeds=seeds, max_epochs=epochs)
    study = study_from(dict(name='gpu', defaults=how, arms=arms))
    if device != 'cpu':
        torch.cuda.reset_peak_memory_stats()
    with held(bundle) as cache, tempfile.TemporaryDirectory() as out:
        works = study_training.arm_trainings(study, cache, out)
        at_once = training_pool.stack_size(works[:1], 1, device)
        done = study_training.train_study(study, '', '', out, device=device)
    rows = [
        dict(
            name=f'study, {done["fits"]} fits from features to predictions',
            value=float(done['seconds']),
            unit='s',
            beside=None if short else f'{AIM} s aimed at',
            ratio=None if short else done['seconds'] / AIM,
        ),
        dict(name='study, fits of an arm at once at most', value=at_once),
    ]
    if device != 'cpu':
        most = torch.cuda.max_memory_allocated() / 1e9
        rows.append(dict(name='study, memory of the GPU at most', value=most, unit='GB'))
    return rows


# ---- (c) bfloat16, (d) company ----


@contextlib.contextmanager
def precision(low):
    "Compute in bfloat16 or not, whatever the device"
    parts = streams, stacked, engine, protocols, training_pool
    own = [m.accelerated for m in parts]
    for m in parts:
        m.accelerated = lambda d: low
    try:
        yield
    finally:
        for m, was in zip(parts, own):
            m.accelerated = was


def trained(bundle, arm, fits, device, epochs):
    "A stack after so many epochs"
    stack = Stack(bundle, arm, device)
    stack.add(fits)
    for _ in range(epochs):
        stack.epoch()
    return stack


def probabilities(bundle, arm, fits, device, epochs, low):
    "Of all plants by the first of some fits, trained and read in one precision, on the whole season"
    with precision(low):
        stack = trained(bundle, arm, fits, device, epochs)
        first = {k: v[:1] for k, v in stack.state.weights.items()}
        logits = read_fit(first, stack.bp, arm, bundle, fits[0].fold, device)
    return 1 / (1 + np.exp(-logits['steps/retrospective'][0]))


def f1(p, bundle):
    "Of all steps that were measured"
    seen = bundle.steps.observed & np.isfinite(p)
    said, true = p[seen] > 0.5, bundle.label[seen] > 0
    return 2 * (said & true).sum() / max(said.sum() + true.sum(), 1)


def number_rows(bundle, device, short):
    "How far bfloat16 is from float32, and whether company is seen"
    arm, folds = Arm(), make_folds(bundle.plants)
    fits = [Fit('a', f, 1) for f in folds[: 2 if short else 8]]
    rows = []
    for epochs in (2, 3) if short else (5, 100):
        how = bundle, arm, fits, device, epochs
        exact, fast = (probabilities(*how, low) for low in (False, True))
        off = float(np.nanmax(np.abs(exact - fast)))
        name = f'bfloat16 beside float32 after {epochs} epochs'
        rows.append(dict(name=f'{name}, probability at most', value=off))
        lost = float(f1(fast, bundle) - f1(exact, bundle))
        rows.append(dict(name=f'{name}, F1', value=lost))
    many = [Fit('a', folds[i % len(folds)], s) for s in (1, 2, 3) for i in range(len(folds))]
    many = many[: 4 if short else 132]
    together = trained(bundle, arm, many, device, 2).state.weights
    alone = trained(bundle, arm, many[:1], device, 2).state.weights
    same = all(torch.equal(x[0], together[n][0]) for n, x in alone.items())
    name = f'a fit alone and among {len(many) - 1} others, equal to the bit'
    return [*rows, dict(name=name, value='yes' if same else 'no')]


def bench(short=False):
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    short = short or device == 'cpu'
    bundle = invented(9, 32) if short else invented(44, 768)
    what = torch.cuda.get_device_name() if device == 'cuda' else 'none here: a trial at a tiny size'
    rows = [dict(name='GPU', value=what)]
    with tempfile.TemporaryDirectory() as d:
        rows += feature_rows(Path(d), device, short)
    return rows + study_rows(bundle, device, short) + number_rows(bundle, device, short)
