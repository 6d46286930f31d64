"What a change costs: none, a page, an arm, beside the whole study"

import os, subprocess, sys, tempfile, time
from pathlib import Path

STUDY = """
name: changes
defaults: {{framing: padded, init_seeds: [42], max_epochs: {epochs}}}
contrasts: [[morphology, no_image]]
arms:
  morphology: {{backbone: morphology}}
  no_image:   {{backbone: morphology, modalities: [fluor, env, vi], lr: {rate}}}
"""


def seconds(*args):
    "Of `faba` with these arguments, and what it said was done"
    begun = time.perf_counter()
    command = [sys.executable, '-m', 'faba_nb', *map(str, args)]
    run = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert run.returncode == 0, run.stdout[-2000:]
    done = [line.split()[0] for line in run.stdout.splitlines() if ' done in ' in line]
    return time.perf_counter() - begun, done


def bench(short=False):
    "Rows for `make bench`; the ratio is how much less a change costs than the whole"
    from faba_nb.core.study_folder import StudyFolder
    from faba_nb.twin.writing import write_twin

    before = os.environ.get('FABA_CACHE')
    rows = []

    def row(name, took, steps):
        whole = rows[0]['value'] if rows else took
        beside = f'steps: {", ".join(dict.fromkeys(s.partition("-")[0] for s in steps)) or "none"}'
        rows.append(dict(name=name, value=took, unit='s', beside=beside, ratio=whole / took))

    with tempfile.TemporaryDirectory() as d:
        os.environ['FABA_CACHE'] = f'{d}/cache'
        data, out, study = (Path(d) / n for n in ('twin', 'out', 'changes.yaml'))
        write_twin(data, genotypes=6, seed=1, height=64 if short else 160)
        write = lambda rate: study.write_text(STUDY.format(epochs=2 if short else 12, rate=rate))
        run = 'run', study, '--data', data, '--out', out
        if short:
            run += '--only', 'features,train,evaluate'
        write(1e-4)
        row('a study of two arms and six genotypes', *seconds(*run))
        row('the same again', *seconds(*run))
        if not short:
            StudyFolder(out).step_record('report-robustness').unlink()
            row('one page', *seconds(*run))
        write(2e-4)
        row('one arm of two', *seconds(*run))
    os.environ.pop('FABA_CACHE') if before is None else os.environ.update(FABA_CACHE=before)
    return rows
