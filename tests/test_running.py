"A study in real processes: killed, interrupted, run twice at once, refused"

import json, os, random, re, shutil, signal, subprocess, sys, tempfile, time
from contextlib import contextmanager
from pathlib import Path

import nbformat, pytest
from conftest import ROOT, once

JOBS = sorted((ROOT / 'nbs' / '80_jobs').glob('*.ipynb'))
TINY = """name: tiny
defaults: {max_epochs: 2, init_seeds: [42], protocols: [retrospective]}
contrasts: [[morphology, no_image]]
arms:
  morphology: {backbone: morphology}
  no_image: {modalities: [fluor, env, vi]}
"""


def study(tmp_path):
    "A study small enough to be run many times"
    path = tmp_path / 'tiny.yaml'
    path.write_text(TINY)
    return path


def start(*args, **kwargs):
    "The command line in the background, its own process group"
    return subprocess.Popen(
        [sys.executable, '-m', 'faba_nb', *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **kwargs,
    )  # a background shell has its children ignore Ctrl-C


@contextmanager
def ended(p):
    "Whatever happens in the block, the process does not outlive it"
    try:
        yield
    finally:
        if p.poll() is None:
            p.kill()
        p.wait()


def appears(path, p):
    "Wait for a file that a process makes"
    while not path.exists():
        assert p.poll() is None, p.communicate()[0]
        time.sleep(0.05)


def contents(out, *patterns):
    "Bytes of a study's results"
    return {
        str(p.relative_to(out)): p.read_bytes()
        for pattern in patterns
        for p in sorted(out.glob(pattern))
    }


def tables(out):
    "Those that do not say how long something took"
    return {k: v for k, v in contents(out, 'tables/*.csv').items() if not k.endswith('cost.csv')}


def orphans():
    "Kernels that have no parent of ours any more"
    said = subprocess.run(
        ['ps', '-eo', 'ppid,args'], capture_output=True, text=True
    ).stdout.splitlines()
    return [l for l in said if 'faba_nb.core.kernel' in l and l.split()[0] == '1']


@pytest.fixture(scope='session')
def trained(tmp_path_factory, twin):
    "The tiny study, trained without disturbance"

    def make(folder):
        folder.mkdir()
        subprocess.run(
            [
                sys.executable,
                '-m',
                'faba_nb',
                'run',
                study(folder),
                '--data',
                twin,
                '--out',
                folder / 'out',
                '--only',
                'features,train',
            ],
            check=True,
            capture_output=True,
        )

    return once(tmp_path_factory, 'trained', make) / 'out'


@pytest.fixture(scope='session')
def reference(tmp_path_factory, twin):
    "The tiny study to its tables without disturbance, on features of its own"

    def make(folder):
        folder.mkdir()
        subprocess.run(
            [
                sys.executable,
                '-m',
                'faba_nb',
                'run',
                study(folder),
                '--data',
                twin,
                '--out',
                folder / 'out',
                '--features',
                folder / 'features',
                '--only',
                'features,train,evaluate',
            ],
            check=True,
            capture_output=True,
        )

    return once(tmp_path_factory, 'reference', make)


@pytest.mark.parametrize('notebook', JOBS, ids=lambda p: p.stem)
def test_job_notebooks_read_every_parameter(notebook):
    "One tagged cell, and every name in it is read further down"
    from faba_nb.core.notebooks import parameters_of

    cells = [c for c in nbformat.read(notebook, 4).cells if c.cell_type == 'code']
    tagged = [i for i, c in enumerate(cells) if 'parameters' in c.metadata.get('tags', [])]
    assert len(tagged) == 1
    rest = '\n'.join(c.source for c in cells[tagged[0] + 1 :])
    assert [n for n in parameters_of(notebook) if not re.search(rf'\b{n}\b', rest)] == []
    assert 'done(' in cells[-1].source


def test_kernel_log_and_notebook_are_kept(trained):
    assert {'features.ipynb', 'train.ipynb'} <= {p.name for p in (trained / 'notebooks').iterdir()}
    events = [
        (e['step'], e['event'])
        for e in map(json.loads, (trained / 'log.jsonl').read_text().splitlines())
        if 'event' in e
    ]
    assert events[:4] == [
        ('features', 'started'),
        ('features', 'finished'),
        ('train', 'started'),
        ('train', 'finished'),
    ]


def test_killed_and_run_again_gives_the_same(tmp_path, twin, trained):
    "SIGKILL while it works, twice, then to the end"
    args, rng = (
        (
            'run',
            study(tmp_path),
            '--data',
            twin,
            '--out',
            tmp_path / 'out',
            '--only',
            'features,train',
        ),
        random.Random(1),
    )
    for _ in range(2):
        p = start(*args)
        time.sleep(rng.uniform(2, 6))
        os.kill(p.pid, signal.SIGKILL)
        p.communicate()
    time.sleep(0.5)
    assert orphans() == []
    assert start(*args).wait() == 0
    assert contents(tmp_path / 'out', 'arms/*/predictions*.csv') == contents(
        trained, 'arms/*/predictions*.csv'
    )


def test_second_run_does_nothing(tmp_path, twin, trained):
    "Everything is skipped, nothing heavy is loaded for that"
    study = str(trained.parent / 'tiny.yaml')
    words = ['run', study, '--data', str(twin), '--out', str(trained), '--only', 'features,train']
    code = f"""
import sys
from faba_nb.running.cli import main
main({words!r})
print([m for m in ('torch', 'papermill', 'matplotlib') if m in sys.modules])
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd='/')
    assert done.stdout == '[]\n' and done.stderr.count('nothing has changed') == 3, done.stderr


@pytest.mark.parametrize(
    'sign, code',
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, 75),
        pytest.param(signal.SIGUSR1, 75, marks=pytest.mark.full),
    ],
    ids=['ctrl-c', 'term', 'usr1'],
)
def test_asked_to_leave(tmp_path, twin, sign, code):
    "Ctrl-C leaves at once; a deadline leaves in good order; neither leaves a kernel behind"
    p = start(
        'run',
        study(tmp_path),
        '--data',
        twin,
        '--out',
        tmp_path / 'out',
        '--only',
        'train',
        '--set',
        'arms.morphology.modalities=[env]',
        '--set',
        'defaults.max_epochs=400',
        '--set',
        'defaults.patience=400',
    )
    with ended(p):
        appears(tmp_path / 'out' / 'steps' / 'train.heartbeat.json', p)
        os.kill(p.pid, sign)
        said = p.communicate(timeout=300)[0]
    assert p.returncode == code, said
    assert 'Traceback' not in said and orphans() == []
    assert (
        json.loads((tmp_path / 'out' / 'log.jsonl').read_text().splitlines()[-1])['event']
        == 'stopped'
    )


def test_two_runs_at_once(tmp_path, twin, faba):
    "The second says who is at it, and may come again"
    args = (
        'run',
        study(tmp_path),
        '--data',
        twin,
        '--out',
        tmp_path / 'out',
        '--only',
        'train',
        '--set',
        'arms.morphology.modalities=[env]',
        '--set',
        'defaults.max_epochs=400',
        '--set',
        'defaults.patience=400',
    )
    p = start(*args)
    with ended(p):
        appears(tmp_path / 'out' / 'steps' / 'train.lock', p)
        second = faba(*args)
        part = faba(
            'train',
            tmp_path / 'tiny.yaml',
            '--data',
            twin,
            '--out',
            tmp_path / 'out',
            '--shard',
            '1/2',
        )
        for r in (second, part):
            assert (
                r.returncode == 75
                and f'process {p.pid} on' in r.stderr
                and r.stderr.count('\n') <= 2
            ), r.stderr
        table = faba('status', tmp_path / 'out')
        assert table.returncode == 0 and re.search(r'train +running', table.stdout), table.stdout


def test_other_study_in_the_folder_is_refused(tmp_path, twin, trained, faba):
    r = faba('run', 'one', '--data', twin, '--out', trained)
    assert (r.returncode, r.stderr.count('\n')) == (2, 1) and "holds the study 'tiny'" in r.stderr


@pytest.mark.full
def test_parts_do_not_pass_for_the_whole(tmp_path, twin, faba):
    "A shard leaves the step undone; the rest is trained, nothing twice"
    common = (
        study(tmp_path),
        '--data',
        twin,
        '--out',
        tmp_path / 'out',
        '--set',
        'arms.morphology.modalities=[env]',
    )
    assert faba('train', *common, '--shard', '1/2').returncode == 0
    assert faba('train', *common, '--shard', '1/2').stderr.count('nothing has changed') == 1
    whole = faba('run', *common, '--only', 'train')
    assert 'not done yet' in whole.stderr
    summary = json.loads((tmp_path / 'out' / 'steps' / 'train.json').read_text())['summary']
    assert (summary['trained'], summary['fits']) == (12, 24)


@pytest.mark.parametrize(
    'break_it, line',
    [
        (
            lambda nb: nb.cells.__setitem__(
                slice(None), [c for c in nb.cells if 'parameters' not in c.metadata.get('tags', [])]
            ),
            'no cells are tagged',
        ),
        (
            lambda nb: nb.cells.append(
                nbformat.v4.new_code_cell('out = 1', metadata={'tags': ['parameters']})
            ),
            '2 cells are tagged',
        ),
        (
            lambda nb: [
                c.__setitem__('source', c.source.replace('out =', 'output ='))
                for c in nb.cells
                if 'parameters' in c.metadata.get('tags', [])
            ],
            "unknown parameter 'out'; did you mean 'output'?",
        ),
    ],
    ids=['none', 'two', 'renamed'],
)
def test_spoilt_notebook_is_refused_before_anything_starts(
    tmp_path, twin, monkeypatch, break_it, line
):
    "Found before the first step, not after a night of training; and before a job is queued"
    import faba_nb.running.pipeline as pipeline, faba_nb.running.submitting as submitting
    from faba_nb.core.errors import BadInput
    from faba_nb.core.studies import read_study

    nb = nbformat.read(ROOT / 'nbs' / '80_jobs' / 'evaluate.ipynb', 4)
    break_it(nb)
    nbformat.write(nb, tmp_path / 'evaluate.ipynb')
    real = pipeline.job_notebook
    spoilt = lambda name: tmp_path / 'evaluate.ipynb' if name == 'evaluate' else real(name)
    monkeypatch.setattr(pipeline, 'job_notebook', spoilt)
    s = read_study(study(tmp_path))
    with pytest.raises(BadInput, match=re.escape(line)):
        pipeline.run_study(s, twin, tmp_path / 'features', tmp_path / 'out')
    assert not (tmp_path / 'features').exists() and not (tmp_path / 'out' / 'arms').exists()
    with pytest.raises(BadInput, match=re.escape(line)):
        submitting.check_notebooks(s, twin, tmp_path / 'features', tmp_path / 'out')


@contextmanager
def small_disk(size='64k'):
    "A little disk of its own; its path is short, as that of a node's own disk is"
    if os.getuid() != 0:
        pytest.skip('mounting a small disk needs root')
    small = Path(tempfile.mkdtemp(prefix='full-', dir='/tmp'))
    if subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', f'size={size}', 'tmpfs', small], capture_output=True
    ).returncode:
        small.rmdir()
        pytest.skip('a small disk cannot be mounted here')
    try:
        yield small
    finally:
        subprocess.run(['umount', '-l', small])
        small.rmdir()


def fill(small):
    "Leave not a byte"
    with (
        open(small / 'fill', 'wb', buffering=0) as f,
        pytest.raises(OSError, match='No space left'),
    ):
        while True:
            f.write(b'x' * 4096)


@pytest.fixture
def full_disk():
    with small_disk() as small:
        fill(small)
        yield small


@pytest.mark.parametrize('deep', [False, True], ids=['short', 'long'])
def test_full_local_disk_is_one_line(tmp_path, twin, faba, full_disk, deep):
    "Named, with what to do; also where the path is too long for sockets; the disk stays the one asked for"
    disk = full_disk / ('d' * 90) if deep else full_disk
    disk.mkdir(exist_ok=True)
    args = (
        'run',
        study(tmp_path),
        '--data',
        twin,
        '--out',
        tmp_path / 'out',
        '--only',
        'train',
        '--set',
        'arms.morphology.modalities=[env]',
    )
    r = faba(*args, env={**os.environ, 'TMPDIR': str(disk)})
    assert (r.returncode, r.stderr.count('\n')) == (
        2,
        2,
    ) and f'no space left on its disk ({full_disk}, 0 MB free)' in r.stderr, r.stderr
    assert (
        json.loads((tmp_path / 'out' / 'log.jsonl').read_text().splitlines()[-1])['event']
        == 'failed'
    )
    assert faba(*args).returncode == 0


@pytest.mark.full
def test_full_or_read_only_results_are_one_line(tmp_path, twin, trained, faba):
    "A full or read-only disk of results is named in one line, nothing is lost; with room the command ends well"
    with small_disk('64m') as disk:
        out = disk / 'out'
        shutil.copytree(trained, out)
        before = contents(out, 'arms/*/predictions*.csv', 'arms/*/fits/*', 'study.yaml', 'run.json')
        args = (
            'run',
            trained.parent / 'tiny.yaml',
            '--data',
            twin,
            '--out',
            out,
            '--only',
            'train,evaluate',
        )
        fill(disk)
        for more in ((), ('--set', 'defaults.max_epochs=3')):
            r = faba(*args, *more)
            assert (
                r.returncode == 2
                and f'no space left on its disk ({disk}, 0 MB free)' in r.stderr
                and 'Traceback' not in r.stderr
            ), r.stderr
            assert len([l for l in r.stderr.splitlines() if l.startswith('faba run:')]) == 1
            assert (
                contents(out, 'arms/*/predictions*.csv', 'arms/*/fits/*', 'study.yaml', 'run.json')
                == before
                and faba('status', out).returncode == 0
            )
        subprocess.run(['mount', '-o', 'remount,ro', disk], check=True)
        for more in ((), ('--set', 'defaults.max_epochs=3')):
            r = faba(*args, *more)
            assert r.returncode == 2 and f'its disk ({disk}) is read-only' in r.stderr, r.stderr
            assert faba('status', out).returncode == 0
        subprocess.run(['mount', '-o', 'remount,rw', disk], check=True)
        (disk / 'fill').unlink()
        assert (r := faba(*args)).returncode == 0, r.stderr
        assert contents(out, 'arms/*/predictions*.csv') == {
            k: v for k, v in before.items() if 'predictions' in k
        }


@pytest.mark.full
def test_full_features_folder_is_one_line(tmp_path, twin, faba, full_disk):
    r = faba(
        'run',
        study(tmp_path),
        '--data',
        twin,
        '--features',
        full_disk / 'features',
        '--out',
        tmp_path / 'out',
        '--only',
        'features',
    )
    assert (
        r.returncode == 2
        and f'no space left on its disk ({full_disk}, 0 MB free)' in r.stderr
        and 'Traceback' not in r.stderr
    ), r.stderr


@pytest.fixture
def mine(trained, tmp_path):
    "A copy of the trained study, to spoil"
    shutil.copytree(trained, tmp_path / 'out')
    return tmp_path / 'out'


def again(mine, twin, trained, *more):
    "The command that trained it, in this process, on the copy"
    from faba_nb.core.studies import read_study
    from faba_nb.running.pipeline import run_study

    return run_study(read_study(trained.parent / 'tiny.yaml'), twin, None, mine, ['train'])


def test_torn_log_and_records_mend_themselves(mine, twin, trained, faba, capsys):
    "A torn log, step record, run.json and lock: status names them, the next run goes on, and the results are the same"
    (mine / 'log.jsonl').open('ab').write(b'{"event": "sto')
    for name in ('run.json', 'steps/train.json', 'steps/train.lock'):
        (mine / name).write_bytes(b'{"a')
    os.utime(mine / 'steps' / 'train.lock', (time.time() - 400,) * 2)
    r = faba('status', mine)
    assert (
        r.returncode == 0
        and r.stderr == ''
        and all(
            f'file {n}' in r.stdout for n in ('run.json', 'steps/train.json', 'steps/train.lock')
        )
    ), r
    assert (
        again(mine, twin, trained) == 1
        and 'steps/train.json cannot be read' in capsys.readouterr().err
    )
    lines = (mine / 'log.jsonl').read_text().splitlines()
    assert [l for l in lines if not l.endswith('}')] == ['{"event": "sto'] and json.loads(
        lines[-1]
    )['event'] == 'finished'
    assert 'damaged' not in faba('status', mine).stdout and not list(mine.glob('steps/*.lock'))
    assert contents(mine, 'arms/*/predictions*.csv') == contents(trained, 'arms/*/predictions*.csv')


def test_study_changed_by_hand_is_noticed(mine, twin, trained, faba):
    "Another number of epochs in study.yaml never passes for the study that was run; a new run writes it again"
    text = (mine / 'study.yaml').read_text()
    for name, old, new in (
        ('study.yaml', 'max_epochs: 2', 'max_epochs: 9'),
        ('study.yaml', text, 'name: [torn'),
        ('run.json', '"genotypes": 12', '"genotypes": 13'),
    ):
        (mine / name).write_text((mine / name).read_text().replace(old, new))
        for verb in ('evaluate', 'report'):
            r = faba(verb, '--out', mine)
            assert (
                r.returncode == 2 and r.stderr.count('\n') == 1 and 'Traceback' not in r.stderr
            ), r.stderr
        assert faba('status', mine).returncode == 0
        again(mine, twin, trained)
        assert (mine / 'study.yaml').read_text() == text


def test_verify_names_what_changed(mine, twin, trained, monkeypatch):
    "One sign flipped in a fit, a prediction, a page and the features: a row each, with what to run; then none"
    import faba_nb.backbones.store as store
    from faba_nb.running.verifying import verify

    monkeypatch.setattr(store, 'check_features', lambda path: '', raising=False)
    assert verify(mine).empty, verify(mine)
    fit = sorted(mine.glob('arms/morphology/fits/*.safetensors'))[3]
    data = bytearray(fit.read_bytes())
    data[-1] ^= 128
    fit.write_bytes(data)
    csv = mine / 'arms' / 'no_image' / 'predictions.csv'
    csv.write_text(csv.read_text().replace('0.5', '0.6', 1))
    (mine / 'notebooks' / 'train.ipynb').unlink()
    found = verify(mine).set_index('file')
    assert dict(found.problem) == {
        f'arms/morphology/fits/{fit.name}': 'changed',
        'arms/no_image/predictions.csv': 'changed',
        'notebooks/train.ipynb': 'missing',
    }
    assert all(r.endswith('--only train') for r in found.run)
    again(mine, twin, trained)
    assert verify(mine).empty and contents(mine, 'arms/*/predictions*.csv') == contents(
        trained, 'arms/*/predictions*.csv'
    )
    monkeypatch.setattr(store, 'check_features', lambda path: 'changed')
    assert verify(mine).problem.tolist() == ['changed'] and verify(mine).run[0].endswith(
        '--only features'
    )


def test_dead_lock_after_finished_work_goes(mine, twin, trained):
    "Killed between the record and the end: the next run, which has nothing to do, removes what lies about"
    from faba_nb.core.locks import owner

    (mine / 'steps' / 'train.lock').write_text(json.dumps({**owner('train'), 'born': 1}))
    for n in (
        'steps/.train.lock.0123abcd',
        'steps/.train.json.0123abcd',
        'notebooks/.train.ipynb.0123abcd',
        'steps/train.heartbeat.json',
    ):
        (mine / n).write_text('x')
    assert again(mine, twin, trained) == 0
    assert (
        not list(mine.glob('steps/*.lock'))
        and not list(mine.rglob('.*'))
        and not (mine / 'steps' / 'train.heartbeat.json').exists()
    )


def lying_about(*folders):
    "Files that nobody needs once a study has ended"
    found = [p for f in folders for p in f.rglob('*') if p.is_file()]
    odd = lambda p: (
        p.name.startswith('.')
        or p.suffix in ('.lock', '.checkpoint')
        or '.damaged-' in p.name
        or '.parts' in str(p)
        or p.name.endswith('.heartbeat.json')
    )
    return [p for p in found if odd(p)]


AFTER_THREADS = """
import sys, threading
import torch, cv2
torch.set_num_threads(2)
(torch.randn(500, 500)@torch.randn(500, 500)).sum()
cv2.setNumThreads(2)
cv2.GaussianBlur(torch.zeros(600, 600).numpy(), (0, 0), 9)
from faba_nb.twin.writing import write_twin
write_twin(sys.argv[1], genotypes=1, height=48, workers=2)
"""


def test_no_process_is_forked_after_threads(tmp_path):
    "Drawn by two processes after torch and OpenCV have run threads, a twin has the bytes of one drawn here"
    from faba_nb.twin.writing import write_twin

    env = {**os.environ, 'OMP_NUM_THREADS': '2'}
    subprocess.run(
        [sys.executable, '-c', AFTER_THREADS, tmp_path / 'a'],
        check=True,
        capture_output=True,
        timeout=120,
        env=env,
    )
    write_twin(tmp_path / 'b', genotypes=1, height=48, workers=1)
    assert contents(tmp_path / 'a', '**/*.png', '**/*.csv', '**/*.xlsx') == contents(
        tmp_path / 'b', '**/*.png', '**/*.csv', '**/*.xlsx'
    )


def test_no_code_forks():
    "One way to start processes in the whole package: loky, which begins them anew"
    source = ''.join(p.read_text() for p in (ROOT / 'faba_nb').rglob('*.py'))
    assert not re.findall(
        r'os\.fork\(|concurrent\.futures import[^\n]*ProcessPoolExecutor|import multiprocessing|preexec_fn',
        source,
    )


def undisturbed(reference):
    "Seconds from the first to the last event of the study that nobody killed"
    from datetime import datetime
    from faba_nb.core.provenance import read_log

    first, *_, last = (
        datetime.strptime(e['time'], '%Y-%m-%dT%H:%M:%S%z') for e in read_log(reference / 'out')
    )
    return (last - first).total_seconds()


@pytest.mark.full
def test_forty_kills(tmp_path, twin, reference, faba):
    "SIGKILL of the whole group at 40 moments from features to tables: the same tables, and nothing is left"
    from faba_nb.core.provenance import read_log

    tmp = tmp_path / 'tmp'
    tmp.mkdir()
    moments = [
        0.2 + 0.3 * undisturbed(reference) * i / 39 for i in range(40)
    ]  # what an attempt has done stays, so later attempts reach the last step well before
    random.Random(7).shuffle(moments)
    attempts = 0
    while moments:
        attempts += 1
        at = tmp_path / str(attempts)
        args = (
            'run',
            study(tmp_path),
            '--data',
            twin,
            '--features',
            at / 'features',
            '--out',
            at / 'out',
            '--only',
            'features,train,evaluate',
        )
        code = None
        while code is None:
            p = start(*args, env={**os.environ, 'TMPDIR': str(tmp)})
            with ended(p):
                try:
                    code = p.wait(timeout=moments[-1] if moments else 300)
                except subprocess.TimeoutExpired:
                    os.killpg(p.pid, signal.SIGKILL)
                    moments.pop()
                    p.wait()
                    assert (
                        not (at / 'out' / 'study.yaml').exists()
                        or status_of(at / 'out') is not None
                    )
            said = p.stdout.read()
            assert code in (None, 0), said
        time.sleep(0.6)
        assert orphans() == [] and lying_about(at) == []
        assert [p for p in tmp.rglob('*') if p != tmp / f'faba-{os.getuid()}'] == []
        assert tables(at / 'out') == tables(reference / 'out') and len(tables(at / 'out')) > 8
        assert contents(at / 'out', 'arms/*/predictions*.csv') == contents(
            reference / 'out', 'arms/*/predictions*.csv'
        )
        assert (
            read_log(at / 'out')[-1]['event'] == 'finished'
            and (r := faba('status', at / 'out')).returncode == 0
            and 'damaged' not in r.stdout
        )


def status_of(out):
    "The table of `faba status`, made here: forty processes for it would take a minute"
    from faba_nb.running.status import cost_text, status

    cost_text(out)
    return status(out)
