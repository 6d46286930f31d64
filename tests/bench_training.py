"Seconds of a model-epoch: the engine beside the loops it replaces and the arithmetic floor"

import threading, time
from pathlib import Path
import tempfile

import h5py
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from faba_nb.core.studies import Arm
from faba_nb.testing.example_bundles import invented
from faba_nb.training.engine import Fit, Stack
from faba_nb.training.folds import make_folds, members
from faba_nb.training.network import blueprint
from test_training import Reference

CORES = 2


def timed(f, at_least=1):
    "Median seconds of a few runs"
    runs = []
    for _ in range(at_least):
        start = time.perf_counter()
        f()
        runs.append(time.perf_counter() - start)
    return float(np.median(runs))


class Items(Dataset):
    "One plant at a time over all 22 rounds; with a file of the features format, every vector is read from it again"

    def __init__(self, bundle, plants, file=None):
        self.b, self.plants, self.file = bundle, plants, file

    def __len__(self):
        return len(self.plants)

    def __getitem__(self, i):
        g, p = self.b.steps, self.plants[i]
        x = np.zeros((22, 4, self.b.table.shape[1]), np.float32)
        for s, rows in enumerate(g.rows[p]):
            for v, r in enumerate(rows):
                if r:
                    x[2 * s, v] = (
                        self.file[str(p)][str(s)][str(v)][:] if self.file else self.b.table[r]
                    )
        wide = lambda a: np.repeat(a[p], 2, 0)
        values = {m: np.nan_to_num(wide(v)) for m, v in g.values.items()}
        return (
            wide(g.observed),
            wide(g.dag),
            values,
            x,
            np.abs(x).sum(-1) > 0,
            {m: wide(v) for m, v in g.present.items()},
            wide(self.b.label),
        )


def plain_epoch(bundle, arm, items, net, opt):
    "An ordinary training loop"
    for observed, dag, values, x, seen, present, y in DataLoader(
        items, arm.batch_size, shuffle=True
    ):
        z = net(observed, dag, values | {'image': (x, seen)}, present)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            z[observed], y[observed], pos_weight=torch.tensor(arm.pos_weight)
        )
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        opt.step()


class Ready(Items):
    "The same items, laid out in memory beforehand"

    def __init__(self, bundle, plants):
        super().__init__(bundle, plants)
        self.all = [super(Ready, self).__getitem__(i) for i in range(len(plants))]

    def __getitem__(self, i):
        return self.all[i]


def plain(bundle, arm, kind):
    "Seconds of an epoch of one model in the plain loop, all cores"
    train = members(make_folds(bundle.plants)[0], bundle.plants.genotype)['train']
    net = Reference(blueprint(arm, bundle.widths()))
    net.train()
    for m in net.modules():
        if isinstance(m, torch.nn.Dropout):
            m.p = 0.1
    opt = torch.optim.AdamW(net.parameters(), 1e-4)
    if kind == 'memory':
        items = Ready(bundle, train)
        return timed(lambda: plain_epoch(bundle, arm, items, net, opt), 3)
    with tempfile.TemporaryDirectory() as d, h5py.File(Path(d) / 'f.h5', 'w') as f:
        for p, s, v in np.argwhere(bundle.steps.rows > 0):
            f[f'{p}/{s}/{v}'] = bundle.table[bundle.steps.rows[p, s, v]]
        return timed(lambda: plain_epoch(bundle, arm, Items(bundle, train, f), net, opt))


def stacked_epoch(bundle, arm, fits, size=22):
    "Seconds per model-epoch when so many fits train on all cores, once they have begun"
    folds, queue = (
        make_folds(bundle.plants),
        [(s, f) for s in range(3) for f in range(bundle.plants.genotype.nunique())][:fits],
    )
    stacks, lock = [Stack(bundle, arm) for _ in range(0, fits, size)], threading.Lock()
    for i, s in enumerate(stacks):
        s.add([Fit('bench', folds[f], seed) for seed, f in queue[i * size : (i + 1) * size]])

    def work(todo):
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        while True:
            with lock:
                if not todo:
                    return
                s = todo.pop()
            s.epoch()

    def epoch():
        todo = list(stacks)
        threads = [threading.Thread(target=work, args=(todo,)) for _ in range(CORES)]
        start = time.perf_counter()
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        return (time.perf_counter() - start) / fits

    epoch()
    return epoch()


def floor(bundle, arm):
    "Seconds of the matrix products of one model-epoch at the rate measured on this machine"
    rows, plants = 16 * bundle.steps.dag.shape[1], 15
    w = dict(bundle.widths())
    token = rows + 16
    forward = rows * (
        sum(d * 128 + 128 * 128 for d in w.values()) + 512 * 64 + 64 * 4 + 128 * 64 + 64
    ) + 2 * token * (128 * 384 + 128 * 128 + 2 * 128 * 512)
    flop = 2 * (3 * plants + 18 / 16) * forward
    a, b = torch.randn(CORES, 8, 192, 128), torch.randn(8, 128, 512)
    rates = []

    def rate(a):
        torch.set_num_threads(1)
        for _ in range(20):
            torch.bmm(a, b)
        start = time.perf_counter()
        for _ in range(150):
            torch.bmm(a, b)
        rates.append(150 * 2 * 8 * 192 * 128 * 512 / (time.perf_counter() - start))

    threads = [threading.Thread(target=rate, args=(x,)) for x in a]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return flop / sum(rates), sum(rates), flop


PRODUCTS = 'aten::bmm', 'aten::baddbmm', 'aten::mm', 'aten::addmm'


def where_it_goes(bundle, arm, fits):
    "Per cent of a stack's epoch on one core that is matrix products, and the largest of the rest, in words"
    from torch.profiler import ProfilerActivity, profile

    torch.set_num_threads(1)
    folds, stack = make_folds(bundle.plants), Stack(bundle, arm)
    stack.add([Fit('bench', f, 42) for f in folds[:fits]])
    stack.epoch()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        stack.epoch()
    spent = {e.key: e.self_cpu_time_total for e in seen.key_averages()}
    whole = sum(spent.values())
    share = lambda names: 100 * sum(spent.get(n, 0) for n in names) / whole
    rest = sorted(set(spent) - set(PRODUCTS), key=spent.get, reverse=True)[:4]
    return share(PRODUCTS), ', '.join(f'{n.removeprefix("aten::")} {share([n]):.0f}' for n in rest)


def bench(short=False):
    genotypes, width = (9, 32) if short else (44, 768)
    bundle, arm = invented(genotypes, width), Arm()
    torch.set_num_threads(CORES)
    c, rate, flop = floor(bundle, arm)
    torch.set_num_threads(CORES)
    a, b = plain(bundle, arm, 'files'), plain(bundle, arm, 'memory')
    row = lambda name, value, beside=None: dict(
        name=name,
        value=round(value, 4),
        unit='s per model-epoch',
        beside=None if beside is None else round(beside, 4),
        ratio=None if beside is None else beside / value,
    )
    out = [
        dict(name='matrix rate, two threads', value=rate / 1e9, unit='GFLOP/s'),
        dict(name='counted arithmetic of a model-epoch', value=flop / 1e9, unit='GFLOP'),
        row('(c) floor', c),
        row('(a) plain loop, every vector read from HDF5', a),
        row('(b) plain loop in memory, all 22 rounds', b),
    ]
    for n in (9,) if short else (44, 132):
        t = stacked_epoch(bundle, arm, n)
        out += [
            row(f'{n} fits, beside (a)', t, a),
            row(f'{n} fits, beside (b)', t, b),
            row(f'{n} fits, beside (c): ratio of 0.4 is 2.5 times the floor', t, c),
        ]
    products, others = where_it_goes(bundle, arm, 4 if short else 22)
    name = 'share of matrix products in an epoch, on one core'
    out.append(dict(name=name, value=products, unit='%', beside=f'then {others} %'))
    return out
