"Lay out, run in place, clean and export notebooks (all, or those given): what `make nbs` does"

import os, subprocess, sys
from pathlib import Path

os.environ['FABA_STILL'] = '1'  # explorers leave their picture, not a widget's number
ROOT, BIN = Path(__file__).resolve().parent.parent, Path(sys.executable).parent
given = [Path(a).resolve() for a in sys.argv[1:]]
notebooks = given or [
    p
    for p in sorted((ROOT / 'nbs').rglob('*.ipynb'))
    if p.parent.name != '80_jobs' and '.ipynb_checkpoints' not in p.parts
]
subprocess.run([BIN / 'ruff', 'format', '--quiet', *notebooks], cwd=ROOT, check=True)
subprocess.run([BIN / 'nbdev_export'], cwd=ROOT, check=True)
failed = []
for nb in notebooks:
    done = subprocess.run(
        [
            BIN / 'jupyter-nbconvert',
            '--to',
            'notebook',
            '--inplace',
            '--execute',
            '--log-level=ERROR',
            '--ExecutePreprocessor.timeout=1200',
            '--ExecutePreprocessor.store_widget_state=False',
            nb,
        ],
        cwd=nb.parent,
    )
    subprocess.run([BIN / 'nbdev_clean', '--fname', nb], cwd=ROOT, check=True)
    print(
        'ran   ' if done.returncode == 0 else 'FAILED',
        nb.relative_to(ROOT),
        f'{nb.stat().st_size / 1e3:.0f} kB',
        flush=True,
    )
    if done.returncode:
        failed.append(nb)
sys.exit(bool(failed))
