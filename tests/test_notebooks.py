"Every notebook under nbs/ runs from top to bottom in a process of its own, unless its folder has a .notest"

import multiprocessing as mp
import os, sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = [
    p
    for p in sorted((ROOT / 'nbs').rglob('*.ipynb'))
    if not (p.parent / '.notest').exists() and '.ipynb_checkpoints' not in p.parts
]
LONGEST = 900  # seconds
# what many notebooks import: a server imports it once, and every notebook starts from there
HEAVY = [
    'nbdev.test',
    'pandas',
    'matplotlib.pyplot',
    'scipy.stats',
    'torch',
    'sklearn.linear_model',
    'sklearn.ensemble',
    'sklearn.manifold',
    'statsmodels.regression.mixed_linear_model',
    'pandera.pandas',
    'pydantic',
    'h5py',
    'cv2',
    'nbconvert.filters',
    'ipywidgets',
]


@pytest.fixture(scope='module')
def server():
    "Starts processes that have imported what is heavy, and nothing of ours"
    context = mp.get_context('forkserver')
    context.set_forkserver_preload(HEAVY)
    return context


def run(notebook, said):
    "In a fresh process: the notebook's cells, and an exit code that says whether they passed"
    log = os.open(said, os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.chdir(notebook.parent)
    sys.path.insert(0, str(ROOT))
    os.environ['PYTHONPATH'] = str(ROOT)
    from nbdev.test import test_nb

    passed, _ = test_nb(notebook, basepath=ROOT / 'nbs')
    sys.stdout.flush()
    sys.exit(not passed)


@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=lambda p: str(p.relative_to(ROOT / 'nbs')))
def test_notebook(notebook, server, tmp_path):
    said = tmp_path / 'said.txt'
    process = server.Process(target=run, args=(notebook, said))
    process.start()
    process.join(LONGEST)
    if process.is_alive():
        process.kill()
        process.join()
    text = said.read_text(errors='replace') if said.exists() else ''
    assert process.exitcode == 0, f'exit code {process.exitcode}\n{text[-4000:]}'
