"Every notebook under nbs/ runs from top to bottom in a kernel of its own, unless its folder has a .notest"

import os, subprocess, sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = [
    p
    for p in sorted((ROOT / 'nbs').rglob('*.ipynb'))
    if not (p.parent / '.notest').exists() and '.ipynb_checkpoints' not in p.parts
]


@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=lambda p: str(p.relative_to(ROOT / 'nbs')))
def test_notebook(notebook):
    code = f'''
import sys
from pathlib import Path
from nbdev.test import test_nb
ok, seconds = test_nb(Path({str(notebook)!r}), basepath=Path({str(ROOT / 'nbs')!r}))
sys.exit(not ok)'''
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=notebook.parent,
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
