"Run notebooks in place (all, or those given), clean and export them: what `make nbs` does"
import subprocess, sys
from pathlib import Path

ROOT, BIN = Path(__file__).resolve().parent.parent, Path(sys.executable).parent
given = [Path(a).resolve() for a in sys.argv[1:]]
notebooks = given or [p for p in sorted((ROOT/'nbs').rglob('*.ipynb')) if p.parent.name != '80_jobs' and '.ipynb_checkpoints' not in p.parts]
subprocess.run([BIN/'nbdev_export'], cwd=ROOT, check=True)
failed = []
for nb in notebooks:
    done = subprocess.run([BIN/'jupyter-nbconvert', '--to', 'notebook', '--inplace', '--execute', '--log-level=ERROR', '--ExecutePreprocessor.timeout=1200', nb], cwd=nb.parent)
    subprocess.run([BIN/'nbdev_clean', '--fname', nb], cwd=ROOT, check=True)
    print('ran   ' if done.returncode == 0 else 'FAILED', nb.relative_to(ROOT), f'{nb.stat().st_size/1e3:.0f} kB', flush=True)
    if done.returncode: failed.append(nb)
sys.exit(bool(failed))
