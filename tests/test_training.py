"Training beside plain PyTorch, the published model, kills, shards and bad input"

import os, signal, subprocess, sys, time, unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from torch import nn

from faba_nb.core.errors import BadInput, Stopped
from faba_nb.core.files import read_json, write_json
from faba_nb.core.studies import Arm, Study, read_study, studies
from faba_nb.training import training_pool, engine, protocols, study_training, stacked, streams
from faba_nb.training.bundle import BatchSource, load_bundle, scaling
from faba_nb.testing.example_bundles import invented
from faba_nb.training.training_pool import TrainingPool
from faba_nb.training.engine import Fit, Stack, epoch_batches
from faba_nb.training.fits import from_disk, load_fit, to_disk
from faba_nb.training.folds import inner_folds, make_folds, members
from faba_nb.training.network import Blueprint, blueprint, encode_days, forward, initialise
from faba_nb.testing.example_bundles import random_batch
from faba_nb.training.protocols import read_fit
from faba_nb.training.study_training import BundleCache, arm_trainings, write_predictions


pytestmark = pytest.mark.usefixtures('one_thread')


# ---- the reference: one fit, plain PyTorch, readable in one screen ----


class Reference(nn.Module):
    def __init__(self, bp):
        super().__init__()
        small = lambda a, b, c: nn.Sequential(
            nn.Linear(a, b), nn.ReLU(), nn.Dropout(0.0), nn.Linear(b, c)
        )
        self.bp, n = bp, 128 * len(bp.gates)
        if 'image' in dict(bp.widths):
            self.query = nn.Parameter(torch.zeros(dict(bp.widths)['image']))
        self.token = nn.ParameterDict({m: nn.Parameter(torch.zeros(128)) for m in bp.tokens})
        self.project = nn.ModuleDict({m: small(d, 128, 128) for m, d in bp.widths})
        self.gate = small(n, 64, len(bp.gates)) if bp.fusion == 'gating' else nn.Linear(n, 128)
        if bp.temporal == 'transformer':
            self.cls = nn.Parameter(torch.zeros(128))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(128, 4, 512, 0.0, 'gelu', batch_first=True)
            for _ in range(2 if bp.temporal != 'none' else 0)
        )
        self.head = nn.Sequential(nn.LayerNorm(128), *small(128, 64, 1))

    def forward(self, observed, dag, values, present):
        parts = []
        for m in self.bp.gates:
            if m not in self.project:
                parts.append(torch.zeros(*observed.shape, 128))
                continue
            x = values[m]
            if m == 'image':  # (plants, steps, views, D) and which views are there
                x, seen = x
                a = (x @ self.query / x.shape[-1] ** 0.5).masked_fill(~seen, -1e9).softmax(-1)
                x = (a[..., None] * x).sum(-2)
            y = self.project[m](x)
            parts.append(
                torch.where(present[m][..., None], y, self.token[m]) if m in self.token else y
            )
        all_ = torch.cat(parts, -1)
        if self.bp.fusion == 'concat':
            x = self.gate(all_)
        else:
            x = sum(w * p for w, p in zip(self.gate(all_).softmax(-1)[..., None].unbind(-2), parts))
        if self.bp.temporal == 'none':
            return self.head(x)[..., 0]
        x = x + encode_days(dag)
        if self.bp.temporal == 'mlp':
            for l in self.layers:
                x = l.norm2(x + l.linear2(nn.functional.gelu(l.linear1(x))))
            return self.head(x)[..., 0]
        x = torch.cat([(self.cls + encode_days(torch.zeros(1))).expand(len(x), 1, 128), x], 1)
        hidden = ~nn.functional.pad(observed, (1, 0), value=True)
        later = (
            torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
            if self.bp.attention == 'causal'
            else None
        )
        for l in self.layers:
            x = l(x, src_mask=later, src_key_padding_mask=hidden)
        return self.head(x[:, 1:])[..., 0]


NAMES = {
    'query': 'view_agg.query',
    'cls': 'temporal.cls_token',
    'project.': 'modality_proj.',
    'gate.': 'modality_gating.gate_network.',
    'layers.': 'temporal.encoder.layers.',
    'head.0': 'stress_head.norm',
}


def published_name(n, bp):
    "The engine's name of a parameter of the reference"
    if n.startswith('token.'):
        return f'modality_proj.{n[6:]}_mask_token'
    if n.startswith('project.'):
        m, rest = n[8:].split('.', 1)
        return f'modality_proj.{m}_proj.{rest}'
    if n.startswith('gate.') and bp.fusion == 'concat':
        return n.replace('gate', 'modality_concat')
    if n.startswith('head.') and not n.startswith('head.0'):
        k, rest = n[5:].split('.', 1)
        return f'stress_head.mlp.{int(k) - 1}.{rest}'
    for short, full in NAMES.items():
        if n.startswith(short):
            return n.replace(short, full, 1)


def reference_inputs(bundle, arm, train, plants):
    "Values of some plants, scaled with NumPy alone"
    g, values = bundle.steps, {}
    for m in arm.modalities:
        if m == 'image':
            x, seen = bundle.table[g.rows], g.rows > 0
            if arm.preparation == 'clean':
                t = x[train][seen[train]].astype(float)
                x = (x - t.mean(0)) / t.std(0)
            values[m] = torch.tensor(x[plants], dtype=torch.float32), torch.tensor(seen[plants])
            continue
        x = g.values[m].astype(float)
        published = arm.preparation == 'published' and m in ('fluor', 'env', 'vi')
        if published and m == 'fluor':
            t = x[g.present[m]]
            x = (np.nan_to_num(x) - np.nanmean(t, 0)) / np.nanstd(t, 0)
        elif published:
            x = np.nan_to_num(x)
        else:
            t = x[train].reshape(-1, x.shape[-1])
            x = np.nan_to_num((x - np.nanmean(t, 0)) / np.nanstd(t, 0))
        values[m] = torch.tensor(x[plants], dtype=torch.float32)
    at = lambda a: torch.tensor(a[plants])
    return at(g.observed), at(g.dag), values, {m: at(p) for m, p in g.present.items()}


def train_reference(bundle, arm, fit, epochs):
    "The plain loop: predictions of every plant after the last epoch"
    m, bp = members(fit.fold, bundle.plants.genotype), blueprint(arm, bundle.widths())
    net, start = Reference(bp), to_disk(initialise(bp, [fit.key]))
    with torch.no_grad():
        for n, p in net.named_parameters():
            if published_name(n, bp) in start:
                p.copy_(start[published_name(n, bp)])
    opt = torch.optim.AdamW(
        [p for n, p in net.named_parameters() if published_name(n, bp) in start],
        lr=arm.lr,
        weight_decay=arm.weight_decay,
    )
    warm = torch.optim.lr_scheduler.LinearLR(opt, 0.01, total_iters=arm.warmup_epochs)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(
        opt, arm.max_epochs - arm.warmup_epochs, 1e-6
    )
    schedule = torch.optim.lr_scheduler.SequentialLR(opt, [warm, cosine], [arm.warmup_epochs])
    for e in range(epochs):
        for batch in epoch_batches(fit.key, e, m['train'], arm.batch_size):
            batch = batch[batch >= 0]
            inputs = reference_inputs(bundle, arm, m['train'], batch)
            z, y = net(*inputs)[inputs[0]], torch.tensor(bundle.label[batch])[inputs[0]]
            loss = nn.functional.binary_cross_entropy_with_logits(
                z, y, pos_weight=torch.tensor(arm.pos_weight)
            )
            opt.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(
                [p for g in opt.param_groups for p in g['params']], arm.clip_norm
            )
            opt.step()
        schedule.step()
    net.eval()
    with torch.no_grad():
        return torch.sigmoid(
            net(*reference_inputs(bundle, arm, m['train'], np.arange(len(bundle.plants))))
        ).numpy()


OPTIONS = {
    'full': {},
    'concat': dict(fusion='concat'),
    'mlp': dict(temporal='mlp'),
    'none': dict(temporal='none'),
    'causal': dict(attention='causal'),
    'no_image': dict(modalities=('fluor', 'env', 'vi')),
    'only_image': dict(modalities=('image',)),
    'with_water': dict(modalities=('image', 'fluor', 'env', 'vi', 'water')),
}


def small(arm, genotypes=9, width=16):
    "An invented bundle with the arm's modalities"
    b = invented(genotypes, width, signal=0.5)
    if 'water' in arm.modalities:
        b.steps.values['water'] = b.steps.values['vi'][..., :3] * 100 + 1000
        b.steps.present['water'] = b.steps.present['vi']
    b.steps.values = {m: v for m, v in b.steps.values.items() if m in arm.modalities}
    if 'image' not in arm.modalities:
        b.table = None
    b.steps.values.get('vi', np.zeros((2, 1, 1)))[1, 0] = (
        np.nan
    )  # a missing row of a modality that only the clean preparation masks
    if 'vi' in b.steps.values:
        b.steps.present['vi'] = np.isfinite(b.steps.values['vi']).any(-1)
    return b


@pytest.mark.parametrize('preparation', ['clean', 'published'])
@pytest.mark.parametrize('option', OPTIONS)
def test_reference(option, preparation):
    "Five epochs of the engine are five epochs of plain PyTorch"
    arm = Arm(dropout=0.0, preparation=preparation, lr=1e-3, **OPTIONS[option])
    b = small(arm)
    folds = make_folds(b.plants)
    stack = Stack(b, arm)
    stack.add([Fit('a', f, 1) for f in folds[3:5]])
    for _ in range(5):
        stack.epoch()
    for i, f in enumerate(stack.fits):
        z = read_fit(
            {n: x[i : i + 1] for n, x in stack.state.weights.items()}, stack.bp, arm, b, f.fold
        )['steps/retrospective'][0]
        wanted, observed = train_reference(b, arm, f, 5), b.steps.observed
        assert abs(1 / (1 + np.exp(-z)) - wanted)[observed].max() < 1e-4
        assert wanted[observed].std() > 0.02  # it did learn something that could differ


def test_published_model(shared):
    "The published checkpoint's log-odds and gates, all 22 rounds, from its weights under its names"
    g = np.load(shared / 'golden' / 'stress_model.npz')
    part = lambda p: {k[len(p) :]: torch.from_numpy(g[k]) for k in g.files if k.startswith(p)}
    x, out = part('input/'), part('output/')
    bp = Blueprint(
        (('image', 768), ('fluor', 94), ('env', 5), ('vi', 11)),
        ('image', 'fluor', 'env', 'vi'),
        ('image', 'fluor'),
    )
    p, (n, s, v, d) = from_disk(part('param/'), bp), x['images'].shape
    batch = random_batch(bp, 1, n, s)
    seen = x['image_mask'].any(-1)
    rows = torch.arange(1, n * s * v + 1).view(1, n, s, v) * x['image_mask']
    batch = replace(
        batch,
        observed=(seen | x['fluor_mask'])[None],
        position=encode_days(x['temporal_positions'])[None],
        present={'image': seen[None], 'fluor': x['fluor_mask'][None]},
        values={
            'image': rows,
            'fluor': x['fluorescence'][None],
            'env': x['environment'][None],
            'vi': x['vi'][None],
        },
        table=torch.cat([torch.zeros(1, d), x['images'].reshape(-1, d)]),
    )
    logits, gates = forward(p, bp, batch)
    torch.testing.assert_close(logits[0], out['stress_logits'], rtol=0, atol=1e-5)
    torch.testing.assert_close(gates[0], out['modality_gates'], rtol=0, atol=1e-5)
    back = to_disk(p)
    for k, w in part('param/').items():
        assert torch.equal(back[k].flatten(), w.flatten()), k


def test_published_folds(shared):
    t = pd.read_csv(shared / 'faba' / 'plant_metadata.csv')
    t['genotype'] = t.accession.map(lambda s: unicodedata.normalize('NFC', s))
    onset = t.groupby('genotype').dag_drought_onset.max()
    t['onset_class'] = t.genotype.map(onset).map(
        lambda d: 'Early' if d <= 20 else 'Mid' if d <= 29 else 'Late'
    )
    golden = pd.read_csv(shared / 'golden' / 'folds_seed42.csv')
    assert len(golden) == 44
    for f, w in zip(make_folds(t, 42), golden.itertuples(), strict=True):
        assert (f.number, f.test, *f.validation) == (
            w.fold,
            w.test,
            w.validation_early,
            w.validation_mid,
            w.validation_late,
        )
        sizes = {k: len(v) for k, v in members(f, t.genotype).items()}
        assert (sizes['train'], sizes['validation'], sizes['test']) == (
            w.n_train,
            w.n_validation,
            w.n_test,
        )


# ---- a fit depends on nothing but itself ----


@pytest.mark.parametrize('option', OPTIONS)
def test_company(option):
    "With dropout: alone, among others, at another place, beside fits at other epochs"
    arm = Arm(lr=1e-3, **OPTIONS[option])
    b = small(arm)
    fits = [Fit('a', f, s) for s in (1, 2) for f in make_folds(b.plants)]

    def run(first, then=()):
        s = Stack(b, arm)
        s.add(list(first))
        s.epoch()
        if then:
            s.add(list(then))
        s.epoch()
        s.epoch()
        return s

    alone, group = run([fits[5]]), run(fits[:9])
    late = run(fits[:4], [fits[5]])
    late.epoch()
    for stack, row in ((group, 5), (late, 4)):
        for n, x in alone.state.weights.items():
            assert torch.equal(x[0], stack.state.weights[n][row]), (n, row)
        assert [l['validation'] for l in stack.state.logs[row]][:3] == [
            l['validation'] for l in alone.state.logs[0]
        ]


class Bench(BundleCache):
    "Bundles of an invented experiment, as a study would get them"

    def __init__(self):
        self.kept = {}

    def get(self, arm):
        if arm.modalities not in self.kept:
            b = small(arm)
            self.kept[arm.modalities] = b, b.digest()
        return self.kept[arm.modalities]


STUDY = Study(
    'small',
    arms={
        'student': Arm(
            max_epochs=3, lr=1e-3, modalities=('image',), teacher='all', distillation='teacher'
        ),
        'all': Arm(max_epochs=3, lr=1e-3),
        'logistic': Arm(estimator='logistic'),
    },
)


def train(out, shard=None, workers=2, study=STUDY):
    trainings = arm_trainings(study, Bench(), out, shard=shard)
    TrainingPool(trainings, workers, every=0.0).run()
    return trainings


def tables(out):
    return {p.parent.name: p.read_bytes() for p in Path(out).glob('arms/*/predictions.csv')}


def test_shards_and_workers(tmp_path):
    "Two shards with one worker end with the bytes of one run with two; arms that are the same give the same"
    for w in train(tmp_path / 'whole'):
        assert write_predictions(STUDY, w)
    for i in (1, 0):
        train(tmp_path / 'parts', (i, 2), workers=1)
    for w in arm_trainings(STUDY, Bench(), tmp_path / 'parts'):
        assert not w.queue and write_predictions(STUDY, w)
    assert (
        tables(tmp_path / 'whole') == tables(tmp_path / 'parts')
        and len(tables(tmp_path / 'whole')) == 3
    )
    twins = Study('twins', arms={'a': STUDY.arms['all'], 'b': STUDY.arms['all']})
    a, b = (
        study_training.gather(twins, w).probability for w in train(tmp_path / 'twins', study=twins)
    )
    assert a.equals(b)


SCRIPT = '''import sys, torch; sys.path.insert(0, {here!r}); torch.set_num_threads(1)
from test_training import *
[write_predictions(STUDY, w) for w in train({out!r})]
'''


def start(out, **env):
    code = SCRIPT.format(here=str(Path(__file__).parent), out=str(out))
    return subprocess.Popen(
        [sys.executable, '-c', code],
        env={**os.environ, **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_at(out, fits):
    "Train in a process of its own and kill it when so many fits, or checkpoints, are there"
    p, limit = start(out), time.time() + 120
    while p.poll() is None and len(list(Path(out).glob('arms/*/fits/split*'))) < fits:
        assert time.time() < limit
        time.sleep(0.005)
    p.send_signal(signal.SIGKILL)
    p.wait()


def test_killed(tmp_path):
    "Killed twice, the study ends with the bytes it would have had"
    for w in train(tmp_path / 'whole'):
        assert write_predictions(STUDY, w)
    kill_at(tmp_path / 'killed', 5)
    kill_at(tmp_path / 'killed', 40)
    p = start(tmp_path / 'killed')
    assert p.wait() == 0, p.stderr.read()
    assert tables(tmp_path / 'whole') == tables(tmp_path / 'killed')
    assert not list((tmp_path / 'killed').rglob('*.checkpoint'))


def test_groups_fit_memory(tmp_path, monkeypatch):
    "A group is as large as half the free memory holds, half as large once a kernel was killed, never empty"
    import faba_nb.training.training_pool as training_pool

    work = next(w for w in arm_trainings(STUDY, Bench(), tmp_path) if w.name == 'all')
    each = training_pool.bytes_per_fit(work.bundle, work.arm, work.queue[0])
    for free, killed, size in (
        (1e12, '0', min(22, len(work.queue))),
        (1e12, '1', min(22, len(work.queue)) // 2),
        (each * 6.5, '0', 3),
        (each * 6.5, '1', 1),
        (1, '1', 1),
    ):
        monkeypatch.setattr(training_pool, 'free_memory', lambda device: free)
        monkeypatch.setenv('FABA_RETRY', killed)
        assert training_pool.stack_size([work], 1) == size, (free, killed)


def test_files_read_before_are_free_memory(tmp_path):
    "Pages of files are given up when asked for: a machine that has read much has room for whole stacks"
    big = tmp_path / 'big'
    with open(big, 'wb') as f:
        f.write(bytes(300 << 20))
    before = psutil.virtual_memory()
    free = training_pool.free_memory()
    limit = training_pool.left_in_groups(Path('/proc/self/cgroup').read_text())
    assert min(before.available, limit) == pytest.approx(free, rel=0.1)
    assert before.cached > 300e6  # of the file just written, if of nothing else
    assert free > before.free or limit < before.free


@pytest.mark.parametrize(
    'line, tree, names',
    [
        ('0::', '', ('memory.max', 'memory.current', 'inactive_file')),
        (
            '9:memory:',
            'memory',
            ('memory.limit_in_bytes', 'memory.usage_in_bytes', 'total_inactive_file'),
        ),
    ],
)
def test_a_job_has_its_share_of_the_memory(tmp_path, line, tree, names):
    "The tightest group on the way up counts, in both versions; pages of files are given up"
    limit, taken, pages = names

    def group(path, most, now, files):
        folder = tmp_path / tree / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / limit).write_text(f'{most}\n')
        (folder / taken).write_text(f'{now}\n')
        (folder / 'memory.stat').write_text(f'anon 1\n{pages} {files}\nother 2\n')

    left = lambda path: training_pool.left_in_groups(f'1:cpu:/x\n{line}{path}\n', tmp_path)
    group('slurm', 1000, 900, 300)
    group('slurm/job', 600, 500, 100)
    group('slurm/free', 'max', 500, 100)
    assert left('/slurm/job') == 200
    assert left('/slurm/free') == 400
    assert left('/elsewhere') == np.inf
    group('slurm', 150, 100, 0)
    assert left('/slurm/job') == 50


def test_asked_to_stop(tmp_path, monkeypatch):
    stop = tmp_path / 'stop'
    stop.touch()
    monkeypatch.setenv('FABA_STOP_FILE', str(stop))
    with pytest.raises(Stopped, match='run the same command again'):
        train(tmp_path / 'out')
    stop.unlink()
    train(tmp_path / 'out')
    assert not any(w.queue for w in arm_trainings(STUDY, Bench(), tmp_path / 'out'))


def test_valid_until_changed(tmp_path):
    "A finished study has nothing to train; another setting, a torn file or other data has"
    train(tmp_path)
    left = lambda study=STUDY: {
        w.name: len(w.queue) for w in arm_trainings(study, Bench(), tmp_path)
    }
    assert left() == {'all': 0, 'logistic': 0, 'student': 0}
    next((tmp_path / 'arms' / 'all' / 'fits').glob('*fold03.safetensors')).write_bytes(b'torn')
    assert left() == {'all': 1, 'logistic': 0, 'student': 0}
    other = replace(STUDY, arms=STUDY.arms | {'all': replace(STUDY.arms['all'], max_epochs=6)})
    assert left(other) == {
        'all': 9,
        'logistic': 0,
        'student': 9,
    }  # the student's teacher is another one


def changed_byte(path, at):
    "Flip the highest bit of one byte, as a disk may; size and name stay"
    data = bytearray(path.read_bytes())
    data[at] ^= 128
    path.write_bytes(data)


def test_changed_bits_are_trained_again(tmp_path):
    "A changed sign or figure, or no hash: none passes, each fit is trained again, tables are as before"
    for w in train(tmp_path):
        assert write_predictions(STUDY, w)
    fits, before = tmp_path / 'arms' / 'all' / 'fits', tables(tmp_path)
    left = lambda: {
        w.name: sorted(f.name for f in w.queue)
        for w in arm_trainings(STUDY, Bench(), tmp_path)
        if w.queue
    }
    paths = sorted(fits.glob('*.safetensors'))
    changed_byte(paths[0], -1)
    changed_byte(paths[1], 40_000)
    record = paths[2].with_suffix('.json')
    record.write_text(record.read_text().replace('"best_epoch": ', '"best_epoch": 1', 1))
    old = paths[3].with_suffix('.json')
    write_json(
        {k: v for k, v in read_json(old).items() if k not in ('sha256', 'seal')}, old
    )  # as the first edition wrote it
    assert left() == {'all': [p.stem for p in paths[:4]]}
    trainings = arm_trainings(STUDY, Bench(), tmp_path)
    student = next(w for w in trainings if w.name == 'student')
    with pytest.raises(
        BadInput, match='not what was written here .changed.; run `faba train` again'
    ):
        student.lesson(
            replace(next(iter(student.fingerprints)), fold=make_folds(student.bundle.plants)[0])
        )
    for w in train(tmp_path):
        assert write_predictions(STUDY, w)
    assert left() == {} and tables(tmp_path) == before


def test_changed_predictions_are_written_again(tmp_path):
    "Another probability in the table, or a torn record: written again from the fits, nothing is trained"
    trainings = train(tmp_path)
    for w in trainings:
        assert write_predictions(STUDY, w)
    before = tables(tmp_path)
    for name, spoil in (
        ('predictions.csv', lambda b: b.replace(b'0.5', b'0.6', 1)),
        ('arm.json', lambda b: b[:20]),
        ('sha256.json', lambda b: b''),
        ('predictions.csv', lambda b: b[:5000]),
    ):
        path = tmp_path / 'arms' / 'all' / name
        path.write_bytes(spoil(path.read_bytes()))
        trainings = arm_trainings(STUDY, Bench(), tmp_path)
        assert not any(w.queue for w in trainings) and all(
            write_predictions(STUDY, w) for w in trainings
        )
        assert tables(tmp_path) == before, name
    assert not list(tmp_path.rglob('.predictions.lock'))


def test_garbage_checkpoints(tmp_path, capsys):
    "Truncated, other type, flipped bits: set aside with one line, the fit is done again, and ends as it would have"
    for w in train(tmp_path / 'whole'):
        assert write_predictions(STUDY, w)
    study, trainings = STUDY, arm_trainings(STUDY, Bench(), tmp_path / 'out')
    pool = TrainingPool(trainings, 1, every=0.0)
    tell, pool._tell = pool._tell, lambda *x: (tell(*x), pool.stop.set())
    with pytest.raises(Stopped):
        pool.run()
    found = sorted((tmp_path / 'out').rglob('*.checkpoint'))
    assert len(found) >= 4
    spoils = (
        lambda b: b[: len(b) // 2],
        lambda b: b.replace(b'"F32"', b'"I32"', 1),
        lambda b: b[:-5] + bytes([b[-5] ^ 64]) + b[-4:],
        lambda b: b'',
    )
    for p, spoil in zip(found, spoils):
        p.write_bytes(spoil(p.read_bytes()))
    capsys.readouterr()
    for w in train(tmp_path / 'out'):
        assert write_predictions(study, w)
    said = capsys.readouterr().err
    assert [said.count(f'{p}: damaged, set aside as {p.name}.damaged-1') for p in found[:4]] == [
        1
    ] * 4
    assert tables(tmp_path / 'whole') == tables(tmp_path / 'out')
    assert len(list((tmp_path / 'out').rglob('*.damaged-1'))) == 4 and not list(
        (tmp_path / 'out').rglob('*.checkpoint')
    )


def test_nested(tmp_path):
    "Asked for later, the folds within folds are trained beside what is there; evaluation sets its thresholds on them"
    from faba_nb.evaluation import alarms  # noqa: F401, it teaches scores about thresholds
    from faba_nb.evaluation.predictions import check_predictions, scores

    for w in train(tmp_path):
        write_predictions(STUDY, w)
    before, files = (
        {k: pd.read_csv(tmp_path / 'arms' / k / 'predictions.csv') for k in STUDY.arms},
        {p: p.read_bytes() for p in tmp_path.rglob('*.safetensors')},
    )
    study = replace(STUDY, arms={k: replace(a, nested=True) for k, a in STUDY.arms.items()})
    assert [len(w.queue) for w in arm_trainings(study, Bench(), tmp_path)] == [9 * 5] * 3
    for w in train(tmp_path, study=study):
        assert write_predictions(study, w)
    assert all(p.read_bytes() == x for p, x in files.items())
    for k in STUDY.arms:
        t = pd.read_csv(tmp_path / 'arms' / k / 'predictions.csv')
        pd.testing.assert_frame_equal(t[t.split != 'inner'].reset_index(drop=True), before[k])
        assert t[t.split == 'inner'].groupby(['protocol', 'fold']).genotype.nunique().eq(5).all()
        assert (
            scores(check_predictions(t), 'online').thresholds()[1] == 'nested'
            and scores(check_predictions(before[k]), 'online').thresholds()[1] != 'nested'
        )
    mixed = replace(study, arms=study.arms | {'all': STUDY.arms['all']})
    with pytest.raises(
        BadInput,
        match='no fit split42_seed42_fold00_inner1; give both the same seeds, and both or neither nested',
    ):
        arm_trainings(mixed, Bench(), tmp_path)


def test_nested_never_meets_the_test_genotype():
    "Whatever happens to what is kept out, the networks of that part stay the same bit for bit"
    arm = Arm(max_epochs=3, lr=1e-3)
    b = small(arm)
    fold = inner_folds(make_folds(b.plants)[3], b.plants.genotype)[1]

    def run(b):
        s = Stack(b, arm)
        s.add([Fit('a', fold, 1)])
        for _ in range(3):
            s.epoch()
        return s.state.weights

    first = run(b)
    unseen = b.plants.genotype.isin([fold.test, *fold.inner]).to_numpy()
    b.label[unseen] = 1 - b.label[unseen]
    for x in b.steps.values.values():
        x[unseen] += 5
    changed = run(b)
    assert all(torch.equal(x, changed[n]) for n, x in first.items())
    b.label[~unseen] = 1 - b.label[~unseen]
    name = 'stress_head.mlp.3.weight'
    assert not torch.equal(run(b)[name], first[name])  # what it does learn from, it would notice


# ---- the future ----


def test_causal_sees_no_future():
    "What comes after a step changes nothing before it, bit for bit; replay is the one-pass result"
    arm = Arm(attention='causal', lr=1e-3)
    b = small(arm)
    f = make_folds(b.plants)[2]
    s = Stack(b, arm)
    s.add([Fit('a', f, 1)])
    s.epoch()
    s.epoch()
    p = {
        n: x + 0.3 * torch.randn_like(x) for n, x in s.state.weights.items()
    }  # far from its gentle start
    before = read_fit(p, s.bp, arm, b, f)
    for m, v in b.steps.values.items():
        v[:, 6:] = 5.0
    b.steps.rows[:, 6:] = 1
    b.steps.present = {m: x | (np.arange(11) >= 6) for m, x in b.steps.present.items()}
    fixed = scaling(small(arm), arm, members(f, b.plants.genotype)['train'])
    with pytest.MonkeyPatch.context() as mp:
        mp.setattr(protocols, 'scaling', lambda *_: fixed)
        after = read_fit(p, s.bp, arm, b, f)
    for k in before:
        np.testing.assert_array_equal(before[k][0][:, :6], after[k][0][:, :6])
    assert not np.array_equal(
        before['steps/retrospective'][0][:, 6:], after['steps/retrospective'][0][:, 6:]
    )
    held = protocols.held_out(f, b.plants)
    np.testing.assert_allclose(
        before['steps/online'][0][held], before['steps/retrospective'][0][held], atol=2e-5
    )


@pytest.mark.parametrize('attention', ['causal', 'full'])
def test_replay_reads_every_prefix_of_its_own(attention):
    "Day by day, or a causal network in one pass: what plain cuts of the season give"
    arm = Arm(attention=attention, lr=1e-3)
    b = small(arm)
    f = make_folds(b.plants)[2]
    s = Stack(b, arm)
    s.add([Fit('a', f, 1)])
    s.epoch()
    p = {n: x + 0.3 * torch.randn_like(x) for n, x in s.state.weights.items()}
    scales = [scaling(b, arm, members(f, b.plants.genotype)['train'])]
    held = torch.tensor(protocols.held_out(f, b.plants)[None])
    batch = BatchSource(b, arm, scales, online=True).batch(held)
    whole = protocols.replay(p, s.bp, batch)[0]
    for t in range(batch.observed.shape[-1]):
        seen = batch.observed.clone()
        seen[..., t + 1 :] = False
        cut = protocols.forward(p, s.bp, replace(batch, observed=seen))[0]
        at = batch.observed[..., t]
        torch.testing.assert_close(cut[..., t][at], whole[..., t][at], atol=1e-5, rtol=0)


# ---- what a GPU would do, on a CPU ----


def test_accelerated_paths(monkeypatch, tmp_path):
    "bfloat16 arithmetic, hashed masks, one optimizer call for all fits, stacks that are not refilled"
    arm = Arm(max_epochs=6, lr=1e-3)
    b = small(arm)
    fits = [Fit('a', f, 1) for f in make_folds(b.plants)[:3]]

    def run():
        s = Stack(b, arm)
        s.add(fits)
        for _ in range(6):
            s.epoch()
        return np.array([[l['validation'] for l in log] for log in s.state.logs])

    plain = run()
    for m in (streams, stacked, engine, protocols, training_pool):
        monkeypatch.setattr(m, 'accelerated', lambda d: True)
    fast = run()
    assert not np.array_equal(plain, fast) and abs(plain - fast).max() < 0.05
    one = Study('one', arms={'all': arm})
    for w in train(tmp_path, study=one, workers=1):
        assert write_predictions(one, w)


# ---- the experiment's side ----


@pytest.fixture(scope='module')
def experiment(twin, tmp_path_factory):
    "A simulated experiment and a file of invented features for it"
    from faba_nb.backbones.store import write_features
    from faba_nb.experiment.experiment_folder import Experiment

    e, at = Experiment(twin), tmp_path_factory.mktemp('features')
    index = (
        e.images[['plant_id', 'round', 'view']]
        .drop_duplicates()
        .sort_values(['plant_id', 'round', 'view'])
    )
    write_features(
        at / 'morphology_features.h5',
        index,
        np.random.default_rng(0).normal(size=(len(index), 12)).astype(np.float32),
        dict(backbone='morphology', layer='published', framing='published'),
    )
    return e, at


@pytest.mark.parametrize('width', [23, 30, 47, 94, 768])
def test_company_is_not_seen_whatever_the_width(width):
    "A fit comes out the same to the bit alone and in any place of a stack, for features of any width"
    bundle, arm = invented(12, width), Arm()
    fits = [Fit('a', f, 1) for f in make_folds(bundle.plants)[:5]]

    def trained(some):
        s = Stack(bundle, arm)
        s.add(some)
        for _ in range(2):
            s.epoch()
        return s.state.weights

    together = trained(fits)
    for i, f in enumerate(fits):
        for n, x in trained([f]).items():
            assert torch.equal(x[0], together[n][i]), (f.name, n)


def test_study_of_an_experiment(experiment, tmp_path):
    "Both preparations and every modality, from the raw tree to the tables of the contract"
    e, features = experiment
    arms = dict(
        clean=Arm(backbone='morphology', max_epochs=1),
        published=Arm(backbone='morphology', preparation='published', max_epochs=1),
        extra=Arm(
            backbone='morphology',
            modalities=('image', 'fluor', 'env', 'vi', 'water', 'shape'),
            max_epochs=1,
        ),
    )
    study = Study('twin', arms=arms)
    done = study_training.train_study(study, e.folder, features, tmp_path)
    assert done['complete'] == list(arms) and done['trained'] == 36
    for name in arms:
        t = pd.read_csv(tmp_path / 'arms' / name / 'predictions.csv')
        key = ['protocol', 'split_seed', 'init_seed', 'fold', 'split', 'plant_id', 'dag']
        assert (
            list(t.columns[: len(study_training.COLUMNS)]) == study_training.COLUMNS
            and not t.duplicated(key).any()
            and t.probability.between(0, 1).all()
        )
        test = t.query('split == "test" and protocol == "online"').sort_values(
            ['plant_id', 'dag'], ignore_index=True
        )
        pd.testing.assert_frame_equal(
            test[['plant_id', 'round', 'dag', 'label']],
            e.measured.sort_values(['plant_id', 'dag'], ignore_index=True)[
                ['plant_id', 'round', 'dag', 'label']
            ],
            check_dtype=False,
        )
        gates = t.filter(like='gate_')
        assert gates.shape[1] == (6 if name == 'extra' else 4) and np.allclose(
            gates.sum(axis=1), 1, atol=1e-5
        )
    every = pd.read_csv(tmp_path / 'arms' / 'published' / 'predictions_all_rounds.csv')
    assert (
        every.groupby(['protocol', 'fold', 'split', 'plant_id']).size().eq(22).all()
        and not (tmp_path / 'arms' / 'clean' / 'predictions_all_rounds.csv').exists()
    )
    both = every.query('measured == 1 and protocol == "retrospective"').merge(
        pd.read_csv(tmp_path / 'arms' / 'published' / 'predictions.csv'),
        on=['protocol', 'fold', 'split', 'plant_id', 'round'],
    )
    rounds = e.images.groupby(['plant_id', 'dag'])['round'].nunique()
    twice = rounds[rounds > 1].reset_index().plant_id  # two rows in this table, one in the other
    both = both[~both.plant_id.isin(twice)]
    assert len(both)
    np.testing.assert_allclose(
        both.probability_x, both.probability_y, atol=1e-5
    )  # unmeasured rounds are read, but never looked at
    assert study_training.train_study(study, e.folder, features, tmp_path)['trained'] == 0


class Changed:
    "An experiment with some tables replaced"

    def __init__(self, e, **tables):
        self.e, self.tables = e, tables

    def __getattr__(self, name):
        return self.tables[name] if name in self.tables else getattr(self.e, name)

    def modality(self, name):
        return self.tables[name] if name in self.tables else self.e.modality(name)


class Features:
    "A file of features in memory"

    path = 'features.h5'

    def __init__(self, index, x):
        self.index, self.x, self.dim = index.reset_index(drop=True), x, x.shape[1]

    def load(self, keys):
        at = pd.MultiIndex.from_frame(self.index).get_indexer(
            pd.MultiIndex.from_frame(keys[['plant_id', 'round', 'view']])
        )
        return np.where(at[:, None] >= 0, self.x[at], 0), at >= 0


def test_bad_input(experiment):
    "One clear line each, never NaN results"
    e, _ = experiment
    index = e.images[['plant_id', 'round', 'view']].drop_duplicates()
    x = np.ones((len(index), 4), np.float32)
    arm = Arm(backbone='morphology')
    first = e.plants.plant_id.iloc[0]
    for value in (np.nan, np.inf):
        bad = x.copy()
        bad[7, 2] = value
        with pytest.raises(BadInput, match='not finite, the first is 24_FabaDr'):
            load_bundle(arm, e, Features(index, bad))
    gone = (index.plant_id != first).to_numpy()
    with pytest.raises(
        BadInput,
        match=f'no features for 1 of {e.images.plant_id.nunique()} photographed plants, the first is {first}',
    ):
        load_bundle(arm, e, Features(index[gone], x[gone]))
    with pytest.raises(BadInput, match='infinite value'):
        load_bundle(replace(arm, modalities=('vi',)), Changed(e, vi=e.vi.assign(ExG=np.inf)))
    g = e.plants.genotype.iloc[0]
    dry = e.plants[(e.plants.genotype != g) | (e.plants.treatment != 'WHC-30')]
    with pytest.raises(BadInput, match='has no drought plant'):
        load_bundle(replace(arm, modalities=('vi',)), Changed(e, plants=dry))
    b = load_bundle(
        replace(arm, modalities=('vi',)), Changed(e, measured=e.measured.assign(label=0))
    )
    with pytest.raises(BadInput, match='no stressed step'):
        study_training.check_folds(study_training.arm_fits('a', arm, b.plants), b)
    b = load_bundle(
        replace(arm, modalities=('vi',)), Changed(e, vi=e.vi.assign(ExG=np.nan))
    )  # a whole column missing is no NaN
    s = Stack(b, replace(arm, modalities=('vi',)))
    s.add([Fit('a', make_folds(b.plants)[0], 1)])
    s.epoch()
    assert np.isfinite(s.state.logs[0][0]['validation'])


def test_wrong_width(tmp_path):
    from faba_nb.training.fits import fit_path, save_fit

    arm = Arm()
    b = small(arm)
    bp, fit = blueprint(arm, b.widths()), Fit('a', make_folds(b.plants)[0], 1)
    save_fit(
        tmp_path, fit, initialise(bp, [(1, 1, 0)]), {}, [dict(seconds=1.0, validation=0.5)], 'mark'
    )
    with pytest.raises(
        BadInput, match=r'.safetensors: view_agg.query has the shape \(16,\), the data need \(20,\)'
    ):
        load_fit(fit_path(tmp_path, fit), replace(bp, widths=(('image', 20), *bp.widths[1:])))
    with pytest.raises(BadInput, match='no such fit'):
        load_fit(tmp_path / 'none.safetensors', bp)


# ---- studies ----


def test_studies():
    "The contract's table: names, sizes, and backbones that differ in nothing else"
    assert {
        'demo',
        'backbones',
        'backbones-clean',
        'backbones-seeds',
        'ablations',
        'distillation',
        'baselines',
    } <= set(studies())
    s = read_study('backbones')
    for name in ('clip', 'bioclip', 'bioclip2'):
        assert s.difference(name, 'dinov2') == {'backbone': (name, 'dinov2')}
    assert s.difference('no_image', 'dinov2') == {
        'modalities': (('fluor', 'env', 'vi'), ('image', 'fluor', 'env', 'vi'))
    } or list(s.difference('no_image', 'dinov2')) == ['modalities']
    assert len(s.contrasts) == 4 and all(
        len(a.init_seeds) == 3 and a.preparation == 'published' and a.max_epochs == 100
        for a in s.arms.values()
    )
    many = read_study('backbones-seeds').arms['clip']
    assert (len(many.init_seeds), len(many.split_seeds), many.layer, many.framing) == (
        5,
        3,
        'norm',
        'padded',
    )
    assert set(read_study('distillation').arms) == {
        'teacher',
        'student',
        'scratch',
        'shuffled_teacher',
        'self_distilled',
    }
    assert len({a.backbone for a in read_study('distillation').arms.values()}) == 1
