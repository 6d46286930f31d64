"Fixtures for all tests: the shared real data, a small simulated experiment, the command line"

import os, subprocess, sys
from collections import Counter
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent
# two test processes on two cores: one thread each, here and in every process started from here
for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'):
    os.environ.setdefault(name, '1')
os.environ.setdefault('HF_HUB_OFFLINE', '1')
os.environ.setdefault('MPLBACKEND', 'Agg')


def pytest_terminal_summary(terminalreporter):
    "The closing line, in the plain form that any script can read"
    for line in damage_lines(
        r for rs in terminalreporter.stats.values() for r in rs if getattr(r, 'when', '') == 'call'
    ):
        terminalreporter.write_line(line)
    n = lambda *keys: sum(len(terminalreporter.stats.get(k, [])) for k in keys)
    terminalreporter.write_line(
        f"{n('passed')} passed, {n('failed', 'error')} failed, {n('skipped')} skipped"
    )


def damage_lines(reports):
    "What came of the damage of test_mutations.py, a line per kind of file and one for all"
    found = [v for r in reports for k, v in r.user_properties if k == 'damage']
    if not found:
        return
    total = Counter()
    for kind, counts, seconds in found:
        total.update(counts)
        yield (
            f'damaged {kind:26}'
            + ', '.join(f'{k} {n}' for k, n in sorted(counts.items()))
            + f' ({seconds:.0f} s)'
        )
    yield f'damaged in all {sum(total.values())}: ' + ', '.join(
        f'{k} {n}' for k, n in sorted(total.items())
    )


def shared_folder():
    "The folder with real tables and photographs, or None"
    for p in (os.environ.get('FABA_SHARED'), ROOT.parent / 'shared' / 'data'):
        if p and (Path(p) / 'faba' / 'plant_metadata.csv').is_file():
            return Path(p)


@pytest.fixture(scope='session')
def shared():
    "Real tables and photographs; tests that need them skip where the folder is absent"
    folder = shared_folder()
    if folder is None:
        pytest.skip(
            'the real tables and photographs are not here (set FABA_SHARED to their folder)'
        )
    return folder


@pytest.fixture(scope='module', autouse=True)
def nothing_left_set():
    "A file of tests leaves this process as it found it: the next one may run in the same"
    from faba_nb.core import steps

    found = lambda: ({k: v for k, v in os.environ.items() if 'FABA' in k}, steps.run_notebook)
    before = found()
    yield
    assert found() == before, 'this file of tests left something set for the files after it'


def once(tmp_path_factory, name, make):
    "A folder made once per test run, whatever the number of worker processes"
    base = tmp_path_factory.getbasetemp()
    if os.environ.get('PYTEST_XDIST_WORKER'):
        base = base.parent
    folder = base / name
    with FileLock(f'{folder}.lock'):
        if not (base / f'{name}.made').exists():
            make(folder)
            (base / f'{name}.made').touch()
    return folder


@pytest.fixture(scope='session')
def twin(tmp_path_factory):
    "A simulated experiment of 12 genotypes with small photographs; read only"
    from faba_nb.twin.writing import write_twin

    return once(
        tmp_path_factory,
        'twin',
        lambda folder: write_twin(folder, genotypes=12, seed=1, height=128),
    )


@pytest.fixture(scope='session')
def explained_twin(twin, tmp_path_factory):
    "A study over it with an arm explained, and how its photographs were framed; read only"
    import h5py, json
    from faba_nb.core.files import read_json, write_json
    from faba_nb.core.study_folder import StudyFolder
    from faba_nb.testing.example_explanations import example_explanations
    from faba_nb.testing.example_studies import example_results

    def make(folder):
        arms = ['dinov2', 'no_image']
        out = example_results(folder, draws=20, arms=arms, genotypes=8, data=twin)
        run = StudyFolder(out).run
        write_json(read_json(run) | dict(features=str(folder / 'features')), run)
        (folder / 'features').mkdir()
        how = dict(mode='pad', resize=64, size=64, filter='bicubic', exact=True, mean=[0.5] * 3)
        with h5py.File(folder / 'features' / 'dinov2_features.h5', 'w') as f:
            f.attrs['preprocess'] = json.dumps(how)
        example_explanations(out, 'dinov2', {'path': ['truth']}, plants=8, data=twin)

    return once(tmp_path_factory, 'explained_twin', make)


@pytest.fixture
def faba():
    "Run the command line in a process of its own"

    def run(*args, cwd='/', **kwargs):
        return subprocess.run(
            [sys.executable, '-m', 'faba_nb', *map(str, args)],
            cwd=cwd,
            capture_output=True,
            text=True,
            **kwargs,
        )

    return run


CHROMIUM = Path('/usr/bin/chromium')
FLAGS = '--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync'.split()


@pytest.fixture(scope='module')
def browser():
    "A real headless Chromium that asks nothing of the network by itself"
    if not CHROMIUM.exists():
        pytest.skip('Debian\'s chromium is not installed')
    api = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    with api.sync_playwright() as p:
        b = p.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield b
        b.close()


@pytest.fixture
def one_thread():
    "PyTorch on one thread, as in the processes of a study"
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
