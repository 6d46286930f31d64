"""A campaign of damage: every kind of file that is read is mutated, the command that reads it is run,
and what comes of it is counted.

Allowed is: refused in one line, repaired (the same numbers in the end), or accepted unchanged;
for input that is ambiguous also accepted and named.
Never allowed: other numbers without a word, a hang, a library's error, an exit code that is not agreed upon.
"""

import contextlib, copy, faulthandler, functools, io, json, os, random, re, shutil, signal, subprocess, sys, time
from collections import Counter
from pathlib import Path

import joblib, numpy as np, pandas as pd, pytest
from conftest import ROOT, once

pytestmark = pytest.mark.full
GOOD = ['refused', 'repaired', 'unchanged', 'named']
BAD = ['OTHER NUMBERS', 'HANG', 'RAW ERROR', 'ODD EXIT']
PATIENCE = 180  # seconds a command may take
DRAWS = 20  # of bootstraps: the question is whether numbers are equal, not how precise they are
TINY = """name: tiny
defaults: {max_epochs: 2, init_seeds: [42], protocols: [retrospective]}
contrasts: [[morphology, no_image]]
arms:
  morphology: {backbone: morphology}
  no_image: {modalities: [fluor, env, vi]}
"""


# ---- damage


def flip(rng, b):
    "One bit"
    b = bytearray(b)
    b[rng.randrange(len(b))] ^= 1 << rng.randrange(8)
    return bytes(b)


def cut(rng, b):
    return b[: rng.randrange(1, max(2, len(b)))]


def empty(rng, b):
    return b''


def zeros(rng, b):
    "A block that never reached the disk"
    at = rng.randrange(len(b))
    n = min(max(8, len(b) // 10), len(b) - at)
    return b[:at] + bytes(n) + b[at + n :]


def twice(rng, b):
    return b + b[len(b) // 2 :]


def noise(rng, b):
    return rng.randbytes(len(b))


def foreign(rng, b):
    return b'\x89PNG\r\n\x1a\n' + b


BYTES = [flip, flip, flip, cut, cut, empty, zeros, twice, noise]


def digit(rng, b):
    "One digit of a text is another; a text without digits gets one"
    digits = [m.start() for m in re.finditer(rb'[0-9]', b)]
    if not digits:
        return b + b'7'
    at = rng.choice(digits)
    other = (int(b[at : at + 1]) + rng.randrange(1, 10)) % 10
    return b[:at] + str(other).encode() + b[at + 1 :]


def lines(change):
    "A change of the list of lines of a text"

    def mutate(rng, b):
        rows = b.split(b'\n')
        if len(rows) < 3:
            return b + b'\n'  # a heading alone: no line to lose, a blank one to gain
        return b'\n'.join(change(rng, rows) or rows)

    mutate.__name__ = change.__name__
    return mutate


@lines
def line_lost(rng, rows):
    rows.pop(rng.randrange(1, len(rows) - 1))


@lines
def line_twice(rng, rows):
    rows.insert(at := rng.randrange(1, len(rows) - 1), rows[at])


@lines
def cell_lost(rng, rows):
    at = rng.randrange(1, len(rows) - 1)
    rows[at] = rows[at].rpartition(b',')[0]


@lines
def heading_twice(rng, rows):
    names = rows[0].split(b',')
    names[rng.randrange(1, len(names))] = names[0]
    rows[0] = b','.join(names)


@lines
def heading_lost(rng, rows):
    rows.pop(0)


TABLE = [
    digit,
    digit,
    line_lost,
    line_twice,
    cell_lost,
    heading_twice,
    heading_lost,
    flip,
    cut,
    empty,
    zeros,
    noise,
]
RECORD = [digit, digit, flip, flip, cut, empty, zeros, noise]


# ---- running


class Hang(BaseException):
    "The watchdog's word"


def said_by(*args):
    "Exit code and all that is said by a command, in this process"
    from faba_nb.running.cli import main

    def bark(*_):
        raise Hang

    said, before = io.StringIO(), signal.signal(signal.SIGALRM, bark)
    signal.alarm(PATIENCE)
    # a library that never comes back hears no signal: then this process ends, and says where
    faulthandler.dump_traceback_later(2 * PATIENCE, exit=True)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                code = main(list(map(str, args)))
            except Hang:
                code = 'hang'
            except SystemExit as e:
                code = e.code
            except BaseException as e:
                code, _ = 'raised', print(f'{type(e).__name__}: {e}')
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return code, said.getvalue()


def apart(*args):
    "The same in a process of its own with bounded memory, for files that can end a process"
    import resource

    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
    try:
        r = subprocess.run(
            [sys.executable, '-m', 'faba_nb', *map(str, args)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            preexec_fn=limit,
            cwd='/',
        )
    except subprocess.TimeoutExpired:
        return 'hang', ''
    return r.returncode, r.stdout + r.stderr


def here(notebook, parameters, out, name=None, env=None):
    "A job notebook run in this process: its cells, without a kernel"
    from faba_nb.core.errors import BadInput, StepFailed, Stopped

    names, summary = {'display': print}, {}
    for cell in json.loads(Path(notebook).read_text())['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] != 'code' or source.startswith('done('):
            continue
        try:
            exec(source, names)
        except (BadInput, Stopped):
            raise
        except Exception as e:
            raise StepFailed(f'{name}: cell failed with {type(e).__name__}: {e}') from e
        if 'parameters' in cell['metadata'].get('tags', []):
            names |= {k: str(v) if isinstance(v, Path) else v for k, v in parameters.items()}
    return {'summary': summary, 'files': {}}


def verdict(code, said, equal, repaired=False, named=False):
    "What came of a mutation"
    from faba_nb.core.errors import BadInput

    if code == 'hang':
        return 'HANG'
    if code == 'raised' or 'Traceback' in said:
        return 'RAW ERROR'
    if code not in (0, 1, 2, 75, 130):
        return 'ODD EXIT'
    if code:
        last = [l for l in said.splitlines() if l.startswith('faba ')]
        raw = not last or 'unexpected ' in last[-1] or 'cell failed with' in last[-1]
        return 'RAW ERROR' if raw else 'refused'
    try:
        same = equal()
    except BadInput:
        return 'refused'  # by whoever reads it next
    except Exception:
        return 'RAW ERROR'
    if same:
        return 'repaired' if repaired else 'unchanged'
    return 'named' if named else 'OTHER NUMBERS'


def put(path, content):
    "The bytes as a new file, so that a hard link elsewhere keeps its content"
    path.unlink()
    path.write_bytes(content)


# ---- the small study that is damaged


@pytest.fixture(scope='session')
def features(tmp_path_factory, twin):
    "Features of the twin, and a cache with its tables"

    def make(folder):
        folder.mkdir()
        subprocess.run(
            [
                sys.executable,
                '-m',
                'faba_nb',
                'features',
                '--data',
                twin,
                '--features',
                folder / 'features',
                '--backbones',
                'morphology',
            ],
            check=True,
            capture_output=True,
            env={**os.environ, 'FABA_CACHE': str(folder / 'cache')},
        )

    return once(tmp_path_factory, 'mutated', make)


def once_for_each_input(function):
    "The function, which computes once what it is asked again: the whole content is compared"
    kept = {}

    @functools.wraps(function)
    def computed(*args, **more):
        key = joblib.hash((args, more))
        if key not in kept:
            kept[key] = function(*args, **more)
        return copy.deepcopy(kept[key])

    return computed


@pytest.fixture(scope='module', autouse=True)
def in_process():
    "Job notebooks run here, bootstraps are short, undamaged sensors and features looked at once"
    from faba_nb.core import steps
    from faba_nb.evaluation import evaluating, feature_space, signal_tables

    with pytest.MonkeyPatch.context() as m:
        for module, name in (
            (signal_tables, 'known_change'),
            (feature_space, 'map_tables'),
            (feature_space, 'separation'),
        ):
            m.setattr(module, name, once_for_each_input(getattr(module, name)))
        m.setattr(steps, 'run_notebook', here)
        m.setattr(
            evaluating, 'evaluate_study', functools.partial(evaluating.evaluate_study, draws=DRAWS)
        )
        yield


def linked(a, b):
    "A large file is linked, a small one copied"
    os.link(a, b) if Path(a).stat().st_size > 500_000 else shutil.copy2(a, b)


class World:
    "The study in one place, put back before each mutation"

    def __init__(self, folder, twin, features):
        self.folder, self.twin, self.safe = folder, twin, folder / 'safe'
        self.work = folder / 'work'
        self.out, self.features, self.cache = (
            self.work / 'out',
            self.work / 'features',
            self.work / 'cache',
        )
        self.study = folder / 'tiny.yaml'
        self.study.write_text(TINY)
        self.work.mkdir()
        for name in ('features', 'cache'):
            shutil.copytree(features / name, self.work / name)

    def run(self, only='train,evaluate'):
        return said_by(
            'run',
            self.study,
            '--data',
            self.twin,
            '--out',
            self.out,
            '--features',
            self.features,
            '--only',
            only,
        )

    def restore(self):
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.safe, self.work, copy_function=linked)

    def numbers(self):
        "Predictions and tables, without what says how long something took"
        found = sorted(
            p
            for pattern in ('arms/*/predictions*.csv', 'tables/*.csv')
            for p in self.out.glob(pattern)
        )
        return {str(p.relative_to(self.out)): p.read_bytes() for p in found if p.name != 'cost.csv'}


@pytest.fixture(scope='module')
def world(tmp_path_factory, twin, features):
    "Trained and evaluated, and kept aside"
    w = World(tmp_path_factory.mktemp('world'), twin, features)
    with pytest.MonkeyPatch.context() as m:
        m.setenv('FABA_CACHE', str(w.cache))
        code, said = w.run()
        assert code == 0, said
        w.reference = w.numbers()
        w.mid = _checkpoint(w)
        shutil.copytree(w.work, w.safe)
        yield w


def _checkpoint(w):
    "A fit as it lies there half way, made by asking it to leave; its bytes and its name"
    files = sorted((w.out / 'arms' / 'morphology' / 'fits').glob('*.safetensors'))
    return files[0].with_suffix('.checkpoint').name, files[0].read_bytes()


# ---- judges: mutate, run, look


def own(w, rel, mutate, rng, also=(), only='train,evaluate', then=None):
    "A file of ours is damaged, and the study run again"
    w.restore()
    path = w.out / rel if (w.out / rel).exists() else w.work / rel
    damaged = mutate(rng, path.read_bytes())
    if damaged == path.read_bytes():
        damaged += b'\0'
    put(path, damaged)
    for pattern in also:
        for p in w.out.glob(pattern):
            p.unlink()
    code, said = then(w) if then else w.run(only)
    repaired = not path.is_file() or path.read_bytes() != damaged
    return verdict(code, said, lambda: w.numbers() == w.reference, repaired), said


def again(w):
    return said_by('evaluate', '--out', w.out)


def state(w):
    "Status first, then the study"
    code, said = said_by('status', w.out)
    return (code, said) if code else w.run()


def spread(rng, names, mutations, n):
    "`n` pairs of a file and a damage, every damage and every file in turn"
    names, mutations = list(names), list(mutations)
    rng.shuffle(names)
    return [(names[i % len(names)], mutations[i % len(mutations)]) for i in range(n)]


def _own(names, mutations, n, **how):
    "Cases over files of ours"

    def cases(w, rng):
        found = sorted(
            str(p.relative_to(w.safe / 'out'))
            for pattern in names
            for p in (w.safe / 'out').glob(pattern)
        )
        assert found, names
        for rel, m in spread(rng, found, mutations, n):
            yield f'{rel}: {m.__name__}', functools.partial(own, w, rel, m, rng, **how)

    cases.n = n
    return cases


def _work(names, mutations, n, **how):
    "Cases over features and caches"

    def cases(w, rng):
        found = sorted(
            str(p.relative_to(w.safe))
            for pattern in names
            for p in w.safe.glob(pattern)
            if p.is_file()
        )
        assert found, names
        for rel, m in spread(rng, found, mutations, n):
            yield f'{rel}: {m.__name__}', functools.partial(own, w, rel, m, rng, **how)

    cases.n = n
    return cases


REDO = (
    'arms/*/predictions*.csv',
)  # other numbers in a bundle would be another fit, which is trained anew


def sign(rng, b):
    "The sign of 400 numbers in the second half"
    b = bytearray(b)
    for _ in range(400):
        b[len(b) // 2 + 4 * rng.randrange(len(b) // 8) + 3] ^= 128
    return bytes(b)


def half_way(n):
    "A checkpoint that no fit wrote, where one is looked for"

    def cases(w, rng):
        for m in [noise, cut, empty, flip, zeros, twice][:n]:

            def judge(m=m):
                w.restore()
                name, content = w.mid
                fits = w.out / 'arms' / 'morphology' / 'fits'
                for p in (
                    *fits.glob('split42_seed42_fold00*'),
                    *w.out.glob('arms/*/predictions*.csv'),
                ):
                    p.unlink()
                (fits / name).write_bytes(m(rng, content))
                code, said = w.run()
                return verdict(code, said, lambda: w.numbers() == w.reference, True), said

            yield f'{w.mid[0]}: {m.__name__}', judge

    cases.n = n
    return cases


def locks(n):
    "Locks that are empty, torn, of nobody"

    def cases(w, rng):
        for i in range(n):
            content = [
                b'',
                b'{"pid": 1, "ho',
                b'\0' * 80,
                rng.randbytes(60),
                b'[]',
                b'{}',
                b'{"pid": "x"}',
                b'{"pid": 4000000, "host": "elsewhere"}',
            ][i % 8]
            name = ['train.lock', 'evaluate.lock'][i // 8 % 2]

            def judge(name=name, content=content):
                w.restore()
                for p in w.out.glob('arms/*/predictions*.csv'):
                    p.unlink()
                (w.out / 'steps' / name).write_bytes(content)
                os.utime(w.out / 'steps' / name, (1e9, 1e9))
                code, said = state(w)
                return verdict(code, said, lambda: w.numbers() == w.reference, True), said

            yield f'{name}: {content[:12]!r}', judge

    cases.n = n
    return cases


# ---- inputs


def textual(verb, make, mutations, n, *rest):
    "A text file that one verb reads; what is said tells whether it was read as before"

    def cases(w, rng):
        path, content = make(w)
        said = lambda: said_by(verb, path, *rest)
        path.write_bytes(content)
        reference = said()
        assert reference[0] == 0, reference
        for i in range(n):
            m = mutations[i % len(mutations)]

            def judge(m=m):
                path.write_bytes(m(rng, content))
                code, text = said()
                return verdict(code, text, lambda: text == reference[1]), text

            yield m.__name__, judge

    cases.n = n
    return cases


def written(name, text):
    "A damage that is a text"

    def mutate(rng, b):
        return text(b) if callable(text) else text

    mutate.__name__ = name
    return mutate


BOMB = (
    b'a: &a [x, x, x, x, x, x, x, x, x]\n'
    + b''.join(
        b'%c: &%c [%s]\n' % (y, y, b', '.join(9 * [b'*%c' % x]))
        for x, y in zip(b'abcdef', b'bcdefg')
    )
    + b'arms: *g\n'
)
STUDY = [
    cut,
    empty,
    zeros,
    noise,
    foreign,
    written('bomb', BOMB),
    written('UTF-16', lambda b: b.decode().encode('utf-16')),
    written('Latin-1', lambda b: b'title: M\xe9lodie\n' + b),
    written('NUL', lambda b: b + b'\0'),
    written('key twice', lambda b: b + b'name: other\n'),
    written('tab', lambda b: b.replace(b'  no_image', b'\tno_image')),
    written('tag', lambda b: b.replace(b'[42]', b'!!python/tuple [42]')),
    written(
        'merge', lambda b: b.replace(b'{backbone: morphology}', b'{<<: {backbone: morphology}}')
    ),
    written(
        'alias',
        lambda b: b.replace(b'[42]', b'&s [42]').replace(
            b'{modalities', b'{split_seeds: *s, modalities'
        ),
    ),
    written('deep', lambda b: b + b'title: ' + b'[' * 10**5),
    written('infinite', lambda b: b.replace(b'max_epochs: 2', b'lr: .inf')),
    written('octal', lambda b: b.replace(b'[42]', b'[010]')),
    written('sixty', lambda b: b.replace(b': 2,', b': 1:30,')),
    written('text for a list', lambda b: b.replace(b'[retrospective]', b'retrospective')),
    written('truth for a number', lambda b: b.replace(b': 2,', b': yes,')),
    written('name', lambda b: b.replace(b'name: tiny', b'name: "a\\nb"')),
    written('unknown key', lambda b: b.replace(b'max_epochs', b'max_epoch')),
    written('two documents', lambda b: b + b'---\n' + b),
    written('BOM', lambda b: b'\xef\xbb\xbf' + b),
    written('returns', lambda b: b.replace(b'\n', b'\r\n')),
]
SITE = [
    cut,
    empty,
    zeros,
    noise,
    foreign,
    written('UTF-16', lambda b: b.decode().encode('utf-16')),
    written('Latin-1', lambda b: b'# M\xe9lodie\n' + b),
    written('NUL', lambda b: b + b'\0'),
    written('key twice', lambda b: b'title = "x"\n' + b),
    written('unknown key', lambda b: b'colour = 1\n' + b),
    written('infinite', lambda b: b.replace(b'hours = 36', b'hours = inf')),
    written('text for a number', lambda b: b.replace(b'hours = 36', b'hours = "36"')),
    written('huge', lambda b: b + b'#' * (1 << 21)),
    written('field', lambda b: b.replace(b'{repository}/results', b'{repo}/results')),
    written('brace', lambda b: b.replace(b'{repository}/results', b'{repository/results')),
]


def _plan(w):
    "Plant and round tables in the owner's form"
    from faba_nb.experiment.experiment_folder import Experiment

    e, folder = Experiment(w.twin), w.folder / 'plan'
    folder.mkdir(exist_ok=True)
    p = e.plants.rename(columns=dict(genotype='accession', onset_dag='dag_drought_onset'))
    seen = e.plant_rounds.groupby('plant_id')['round'].agg(lambda r: str(sorted(map(int, r))))
    p.assign(available_timepoints=p.plant_id.map(seen))[
        [
            'plant_id',
            'accession',
            'treatment',
            'replicate',
            'dag_drought_onset',
            'fw_g',
            'dw_g',
            'is_dead',
            'available_timepoints',
        ]
    ].to_csv(folder / 'plants.csv', index=False)
    e.rounds[['round', 'dag', 'das', 'date']].to_csv(folder / 'rounds.csv', index=False)
    return folder


def cell(column, value, name=None):
    "Another value in one cell of a CSV that is an input"

    def mutate(rng, b):
        t = pd.read_csv(io.BytesIO(b), dtype=str, keep_default_na=False)
        filled = [i for i in t.index if t.at[i, column] != '']
        t.at[rng.choice(filled), column] = value
        return t.to_csv(index=False).encode()

    mutate.__name__ = f'{column}={value!r}'
    return mutate


PLANTS = [
    cut,
    empty,
    noise,
    foreign,
    heading_lost,
    heading_twice,
    line_twice,
    written('UTF-16', lambda b: b.decode().encode('utf-16')),
    cell('treatment', '?'),
    cell('replicate', 'x'),
    cell('dag_drought_onset', '20-24'),
    cell('dag_drought_onset', ''),
    cell('dag_drought_onset', '1e9'),
    cell('dag_drought_onset', '-3'),
    cell('plant_id', ''),
    cell('available_timepoints', '[2, x]'),
    cell('available_timepoints', '[' * 300),
    cell('accession', ''),
    cell('plant_id', 'a\0b'),
]
ROUNDS = [
    cut,
    empty,
    noise,
    heading_lost,
    heading_twice,
    line_twice,
    cell('dag', 'x'),
    cell('dag', '1e12'),
    cell('dag', '-5'),
    cell('round', ''),
    cell('round', '2.5'),
    cell('dag', '3.7'),
]


def plan(n):
    "Information-free baselines of plant and round tables"

    def cases(w, rng):
        folder = _plan(w)
        content = {p.name: p.read_bytes() for p in folder.iterdir()}
        said = lambda: said_by(
            'yardsticks', '--plants', folder / 'plants.csv', '--rounds', folder / 'rounds.csv'
        )
        reference = said()
        assert reference[0] == 0, reference
        todo = [('plants.csv', m) for m in PLANTS] + [('rounds.csv', m) for m in ROUNDS]
        for name, m in (todo * 9)[:n]:

            def judge(name=name, m=m):
                for k, b in content.items():
                    (folder / k).write_bytes(b)
                (folder / name).write_bytes(m(rng, content[name]))
                code, text = said()
                return verdict(
                    code, text, lambda: text == reference[1], named='line ' in text and name in text
                ), text

            yield f'{name}: {m.__name__}', judge

    cases.n = n
    return cases


# photographs and their manifest


def _photos(w):
    "Six photographs and a manifest"
    folder = w.folder / 'photos'
    if folder.exists():
        return folder
    folder.mkdir()
    found = sorted((w.twin / 'img').rglob('*.png'))[::400][:6]
    rows = [(f'p{i}', i % 2 + 1, 'side_000', f'{i}.png') for i in range(len(found))]
    for i, p in enumerate(found):
        shutil.copy(p.resolve(), folder / f'{i}.png')
    pd.DataFrame(rows, columns=['plant', 'round', 'view', 'path']).to_csv(
        folder / 'manifest.csv', index=False
    )
    return folder


def vectors(features):
    "(plant, round, view) to vector"
    import h5py

    found = {}
    with h5py.File(features / 'morphology_features.h5') as f:
        f.visititems(
            lambda k, d: found.update({k: d[()].tobytes()}) if hasattr(d, 'shape') else None
        )
    return found


def extracted(folder, features):
    return said_by(
        'features',
        '--data',
        folder / 'manifest.csv',
        '--backbones',
        'morphology',
        '--features',
        features,
        '--workers',
        1,
    )


def photos(n, of, mutations, stale=False):
    "A photograph, the manifest, or features already made of them"

    def cases(w, rng):
        folder, made = _photos(w), w.folder / 'photos-features'
        if not made.exists():
            assert extracted(folder, made)[0] == 0
        reference, content = vectors(made), {p.name: p.read_bytes() for p in folder.iterdir()}
        names = (
            [k for k in content if re.search(of, k)]
            if not stale
            else sorted(p.name for p in made.iterdir() if re.search(of, p.name) and p.is_file())
        )
        for name, m in spread(rng, names, mutations, n):

            def judge(name=name, m=m):
                for k, b in content.items():
                    (folder / k).write_bytes(b)
                now = w.folder / 'photos-now'
                shutil.rmtree(now, ignore_errors=True)
                if stale:
                    shutil.copytree(made, now)
                path = now / name if stale else folder / name
                path.write_bytes(m(rng, path.read_bytes()))
                code, text = extracted(folder, now)
                for k, b in content.items():
                    (folder / k).write_bytes(b)

                def equal():
                    found = vectors(now)
                    return all(found.get(k) == v for k, v in reference.items()) and len(
                        found
                    ) == len(reference)

                return verdict(
                    code,
                    text,
                    equal,
                    stale,
                    named=not stale and (name in text or re.search(r'corrupt|missing', text)),
                ), text

            yield f'{name}: {m.__name__}', judge

    cases.n = n
    return cases


MANIFEST = [
    cell_lost,
    empty,
    noise,
    heading_lost,
    heading_twice,
    line_twice,
    foreign,
    cell('path', '/dev/zero'),
    cell('path', '../../../../etc/passwd'),
    cell('path', ''),
    cell('path', 'none.png'),
    cell('view', 'x_patches'),
    cell('view', 'a/b'),
    cell('view', ''),
    cell('plant', ''),
    cell('plant', '../x'),
    cell('plant', 'a\0b'),
    cell('round', 'x'),
    cell('round', '1.5'),
    cell('round', ''),
    written('UTF-16', lambda b: b.decode().encode('utf-16')),
]


# workbooks

BOOKS = {
    'FCQ': ('TimeCourse Datasets/FCQ_FabaDr_Auto.xlsx', 'Fo'),
    'indices': ('TimeCourse Datasets/VegIndex_FabaDr_RGB2.xlsx', 'TGI'),
    'onsets': ('SinglePoint Datasets/Drought_Impact(DAG).xlsx', 'Drought Impact (DAG)'),
    'weights': ('00-Misc/EndPoint_Raw_FW&DW.xlsx', 'Bag Weight (g)'),
    'biomass': ('TimeCourse Datasets/DigitalBiomass_FabaDr_Auto.xlsx', None),
    'log': ('00-Misc/FabaDr_Obs.xlsx', None),
}


def farm(w):
    "The experiment with its workbooks as files of its own"
    folder = w.folder / 'experiment'
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for p in w.twin.iterdir():
        if p.name == 'img':
            (folder / 'img').symlink_to(p)
        elif p.name == 'features':
            continue
        elif p.is_dir():
            shutil.copytree(p, folder / p.name, copy_function=os.link)
        else:
            shutil.copy2(p, folder / p.name)
    return folder


def digest(folder):
    "Everything a model can be given"
    from faba_nb.core.studies import Arm
    from faba_nb.experiment.experiment_folder import Experiment
    from faba_nb.training.bundle import load_bundle

    return load_bundle(
        Arm(modalities=('fluor', 'env', 'vi', 'water', 'shape')), Experiment(folder)
    ).digest()


def _column(sheet, name):
    "Number of the column of that heading, or of a numeric one far right"
    heads = [c.value for c in sheet[1]]
    return (
        heads.index(name) + 1
        if name in heads
        else max(i for i, c in enumerate(sheet[2]) if isinstance(c.value, (int, float))) + 1
    )


def book(change):
    "A change of the first sheet of a workbook: (rng, workbook, sheet, column of numbers)"

    def mutate(rng, b, column):
        import openpyxl

        wb = openpyxl.load_workbook(io.BytesIO(b))
        sheet = wb.worksheets[0]
        change(rng, wb, sheet, _column(sheet, column))
        wb.save(into := io.BytesIO())
        return into.getvalue()

    mutate.__name__ = change.__name__
    return mutate


def _filled(rng, sheet, c):
    "A filled cell of the column"
    return rng.choice(
        [
            x
            for x in (sheet.cell(r, c) for r in range(2, sheet.max_row + 1))
            if x.value not in (None, '')
        ]
    )


def _ids(sheet):
    "The column that says which plant or accession"
    heads = [str(c.value) for c in sheet[1]]
    return (
        next(
            i
            for h in ('Plant ID', 'TrayID', 'Tray ID', 'Accession Name')
            for i, x in enumerate(heads)
            if x == h
        )
        + 1
    )


@book
def text_in_number(rng, wb, s, c):
    _filled(rng, s, c).value = 'about 3'


@book
def span_in_number(rng, wb, s, c):
    _filled(rng, s, c).value = '20-24'


@book
def heading_again(rng, wb, s, c):
    s.cell(1, c + 1 if c < s.max_column else c - 1).value = s.cell(1, c).value


@book
def heading_gone(rng, wb, s, c):
    s.cell(1, c).value = None


@book
def heading_other(rng, wb, s, c):
    s.cell(1, c).value = 'Zq17'


@book
def unit_changed(rng, wb, s, c):
    for r in range(2, s.max_row + 1):
        if isinstance(v := s.cell(r, c).value, (int, float)):
            s.cell(r, c).value = v * 1000


@book
def formulas(rng, wb, s, c):
    for r in range(2, s.max_row + 1):
        s.cell(r, c).value = f'=A{r}+1'


@book
def hidden_in_front(rng, wb, s, c):
    new = wb.create_sheet('old', 0)
    for row in s.iter_rows(values_only=True):
        new.append([v * 2 if isinstance(v, float) else v for v in row])
    new.sheet_state, wb.active = 'hidden', 1


@book
def id_with_zero_width(rng, wb, s, c):
    x = s.cell(rng.randrange(2, s.max_row + 1), _ids(s))
    x.value = f'{str(x.value)[:4]}\u200b{str(x.value)[4:]}'


@book
def id_unknown(rng, wb, s, c):
    s.cell(rng.randrange(2, s.max_row + 1), _ids(s)).value = '24_FabaDr_999'


@book
def id_lost(rng, wb, s, c):
    s.cell(rng.randrange(2, s.max_row + 1), _ids(s)).value = None


@book
def column_emptied(rng, wb, s, c):
    for r in range(2, s.max_row + 1):
        s.cell(r, c).value = None


@book
def rows_gone(rng, wb, s, c):
    s.delete_rows(2, s.max_row)


@book
def negative(rng, wb, s, c):
    _filled(rng, s, c).value = -1e9


@book
def error_value(rng, wb, s, c):
    _filled(rng, s, c).value = '#REF!'


@book
def row_again(rng, wb, s, c):
    s.append([x.value for x in s[rng.randrange(2, s.max_row)]])


@book
def stray_cell(rng, wb, s, c):
    s['XFD100000'] = 1


CELLS = [
    text_in_number,
    span_in_number,
    heading_again,
    heading_gone,
    heading_other,
    unit_changed,
    formulas,
    hidden_in_front,
    id_with_zero_width,
    id_unknown,
    id_lost,
    column_emptied,
    rows_gone,
    negative,
    error_value,
    row_again,
]


def workbooks(todo, said_by=said_by):
    "Check, and what a model would be given"

    def cases(w, rng):
        folder = farm(w)
        reference, numbers = said_by('check', folder), digest(folder)
        assert reference[0] == 0, reference
        known = set(reference[1].splitlines())
        for name, m in todo:
            rel, column = BOOKS[name]

            def judge(rel=rel, column=column, m=m):
                folder = farm(w)
                content = (folder / rel).read_bytes()
                put(
                    folder / rel,
                    m(rng, content, column) if m in CELLS or m is stray_cell else m(rng, content),
                )
                code, text = said_by('check', folder)
                new = [l for l in text.splitlines() if l not in known]
                return verdict(
                    code, text, lambda: digest(folder) == numbers, named=any('→' in l for l in new)
                ), '\n'.join(new)

            yield f'{name}: {m.__name__}', judge

    cases.n = len(todo)
    return cases


def marks(n):
    "Marks of people"
    text = (
        b'plant_id,round,view,mark,note,author,time\n'
        b'24_FabaDr_007,3,,exclude,,x,2026-01-01T00:00:00Z\n'
        b'24_FabaDr_008,,fluor,doubtful,"a, b",x,2026-01-01T00:00:00Z\n'
    )
    todo = [
        cell_lost,
        empty,
        noise,
        heading_lost,
        heading_twice,
        cell('mark', 'exlude'),
        cell('plant_id', 'nobody'),
        cell('plant_id', ''),
        cell('round', 'x'),
        cell('round', '2.5'),
        cell('round', '99'),
        cell('view', 'x'),
        foreign,
        written('UTF-16', lambda b: b.decode().encode('utf-16')),
    ]

    def cases(w, rng):
        folder = farm(w)
        (folder / 'marks.csv').write_bytes(text)
        reference, numbers = said_by('check', folder), digest(folder)
        assert reference[0] == 0, reference
        known = set(reference[1].splitlines())
        for m in todo[:n]:

            def judge(m=m):
                (folder / 'marks.csv').write_bytes(m(rng, text))
                code, said = said_by('check', folder)
                return verdict(
                    code,
                    said,
                    lambda: digest(folder) == numbers,
                    named=any('mark' in l for l in said.splitlines() if l not in known),
                ), said[-300:]

            yield m.__name__, judge

    cases.n = n
    return cases


def theirs(todo):
    "Predictions of another system, given from outside"

    def cases(w, rng):
        w.restore()
        given = w.out / 'arms' / 'theirs' / 'predictions.csv'
        given.parent.mkdir()
        content = (
            pd.read_csv(
                w.out / 'arms' / 'no_image' / 'predictions.csv', dtype=str, keep_default_na=False
            )
            .assign(arm='theirs')
            .to_csv(index=False)
            .encode()
        )
        given.write_bytes(content)
        code, said = again(w)
        assert code == 0, said
        reference = {
            p.name: p.read_bytes() for p in (w.out / 'tables').glob('*.csv') if p.name != 'cost.csv'
        }
        for m in todo:

            def judge(m=m):
                w.restore()
                given.parent.mkdir()
                given.write_bytes(m(rng, content))
                code, said = again(w)
                equal = lambda: (
                    reference
                    == {
                        p.name: p.read_bytes()
                        for p in (w.out / 'tables').glob('*.csv')
                        if p.name != 'cost.csv'
                    }
                )
                return verdict(
                    code,
                    said,
                    equal,
                    named='theirs' in said and re.search('left out|skipped|line', said),
                ), said

            yield m.__name__, judge

    cases.n = len(todo)
    return cases


THEIRS = [
    cut,
    empty,
    noise,
    foreign,
    heading_lost,
    heading_twice,
    line_lost,
    line_twice,
    cell('probability', 'x'),
    cell('probability', ''),
    cell('probability', '1.5'),
    cell('probability', '-inf'),
    cell('label', '2'),
    cell('dag', ''),
    cell('dag', 'x'),
    cell('dag', '99'),
    cell('plant_id', 'nobody'),
    cell('plant_id', ''),
    cell('genotype', ''),
    cell('fold', 'x'),
    cell('split', 'tset'),
    cell('protocol', 'onlin'),
    written('UTF-16', lambda b: b.decode().encode('utf-16')),
]


# results of the earlier system


def _earlier(w):
    "Checkpoints, their configuration, and a file of features for them"
    import h5py, torch, yaml
    from faba_nb.experiment.experiment_folder import Experiment
    from faba_nb.legacy.old_network import Variant
    from faba_nb.testing.example_checkpoints import invented_checkpoint
    from faba_nb.legacy.checkpoints import STATE

    folder, file = w.folder / 'earlier', w.folder / 'clip_features.h5'
    if folder.exists():
        return folder, file, STATE
    for f in range(12):
        (at := folder / f'fold_{f}').mkdir(parents=True)
        torch.save(invented_checkpoint(dict(image=16), Variant(), seed=f), at / STATE)
        (at / 'metrics.json').write_text(json.dumps(dict(fold_id=f, best_epoch=3)))
    said = dict(
        model=dict(
            image_encoder='openai/clip-vit-base-patch16',
            ablation=dict(
                enabled_modalities=['image', 'fluor', 'env', 'vi'],
                fusion_mode='gating',
                temporal_mode='transformer',
                causal_mask=False,
            ),
        ),
        training=dict(lr=1e-4, pos_weight=1.5, cv=dict(n_folds=12, seed=42)),
        data=dict(fluor_normalize=True),
    )
    (folder / 'config.yaml').write_text(yaml.safe_dump(said))
    images = Experiment(w.twin).images
    x = np.random.default_rng(0).normal(size=(len(images), 16)).astype(np.float32)
    with h5py.File(file, 'w') as f:
        for row, v in zip(images.itertuples(), x):
            f[f'{row.plant_id}/{row.round}/{row.view}'] = v
    return folder, file, STATE


def earlier(todo):
    "An import of damaged results"

    def cases(w, rng):
        folder, file, STATE = _earlier(w)
        out = w.folder / 'imported'
        run = lambda: said_by(
            'import', folder, '--data', w.twin, '--out', out, '--arm', 'clip', '--features', file
        )
        found = lambda: {p.name: p.read_bytes() for p in out.glob('arms/clip/predictions*.csv')}
        shutil.rmtree(out, ignore_errors=True)
        code, said = run()
        assert code == 0, said
        reference = found()
        for name, m in todo:
            path = {
                'state': folder / 'fold_0' / STATE,
                'metrics': folder / 'fold_0' / 'metrics.json',
                'configuration': folder / 'config.yaml',
                'features': file,
            }[name]

            def judge(path=path, m=m):
                content = path.read_bytes()
                shutil.rmtree(out, ignore_errors=True)
                try:
                    path.write_bytes(m(rng, content))
                    code, said = run()
                finally:
                    path.write_bytes(content)
                return verdict(
                    code, said, lambda: found() == reference, named=path.name in said
                ), said

            yield f'{name}: {m.__name__}', judge

    cases.n = len(todo)
    return cases


def flip_late(rng, b):
    "One bit of the numbers"
    b = bytearray(b)
    b[rng.randrange(len(b) // 4, 3 * len(b) // 4)] ^= 64
    return bytes(b)


def imported(n):
    "The record of an imported arm, and its predictions"

    def cases(w, rng):
        folder, file, _ = _earlier(w)
        out, safe = w.folder / 'kept', w.folder / 'kept-safe'
        run = lambda: said_by(
            'import', folder, '--data', w.twin, '--out', out, '--arm', 'clip', '--features', file
        )
        if not safe.exists():
            assert run()[0] == 0
            shutil.copytree(out, safe)
        reference = (safe / 'arms' / 'clip' / 'predictions.csv').read_bytes()
        for name, m in spread(
            rng, ['imported.json', 'predictions.csv', 'predictions_all_rounds.csv'], RECORD, n
        ):

            def judge(name=name, m=m):
                shutil.rmtree(out, ignore_errors=True)
                shutil.copytree(safe, out)
                path = out / 'arms' / 'clip' / name
                path.write_bytes(m(rng, path.read_bytes()))
                code, said = run()
                return verdict(
                    code,
                    said,
                    lambda: all(
                        (out / 'arms' / 'clip' / p.name).read_bytes() == p.read_bytes()
                        for p in (safe / 'arms' / 'clip').glob('predictions*.csv')
                    ),
                    True,
                ), said

            yield f'{name}: {m.__name__}', judge

    cases.n = n
    return cases


KINDS = {
    'study YAML': textual(
        'study', lambda w: (w.folder / 'given.yaml', TINY.encode()), STUDY, len(STUDY)
    ),
    'site profile': textual(
        'sites',
        lambda w: (w.folder / 'mini.toml', (ROOT / 'slurm' / 'sites' / 'mini.toml').read_bytes()),
        SITE,
        22,
        '--account=project_2013932',
    ),
    'workbook, bytes': workbooks(
        list(zip(list(BOOKS) * 2, [flip, cut, zeros, empty, noise, flip])), apart
    ),
    'workbook, cells': workbooks(
        [(n, m) for i, m in enumerate(CELLS) for n in (('onsets', 'indices')[i % 2],)]
        + [('FCQ', m) for m in (heading_again, unit_changed, formulas, hidden_in_front)]
    ),
    'workbook, stray cell': workbooks([(n, stray_cell) for n in ('onsets', 'weights')], apart),
    'plant and round tables': plan(len(PLANTS) + len(ROUNDS)),
    'photograph': photos(12, r'\.png$', [flip, cut, empty, zeros, noise, cut]),
    'manifest of photographs': photos(len(MANIFEST), 'manifest', MANIFEST),
    'marks.csv': marks(14),
    'predictions from outside': theirs(THEIRS),
    'earlier checkpoint': earlier(
        [('state', m) for m in [flip_late] * 4 + [flip, cut, cut, empty, zeros, noise, twice]]
    ),
    'earlier records': earlier(
        [('metrics', m) for m in (cut, empty, noise, zeros)]
        + [('configuration', m) for m in (cut, empty, noise, zeros)]
        + [('features', m) for m in (flip_late, flip_late, cut, empty, zeros, noise)]
    ),
    'fits': _own(
        ['arms/*/fits/*.safetensors'],
        [sign, flip, zeros, cut, empty, noise],
        6,
        also=['arms/*/predictions*.csv'],
        only='train',
    ),
    'fit records': _own(
        ['arms/*/fits/*.json'], RECORD, 5, also=['arms/*/predictions*.csv'], only='train'
    ),
    'fit checkpoints': half_way(6),
    'predictions, run again': _own(['arms/*/predictions.csv'], TABLE, 8),
    'predictions, evaluate': _own(['arms/*/predictions.csv'], TABLE, 12, then=again),
    'tables': _own(['tables/*.csv'], TABLE, 4, then=again),
    'features, small': photos(
        14, r'features\.h5$', [flip_late, flip_late, flip, cut, empty, zeros, noise], stale=True
    ),
    'features manifest': photos(10, r'manifest\.csv$', TABLE, stale=True),
    'features, trained on': _work(
        ['features/*.h5'],
        [flip_late, flip_late, flip_late, sign, cut, zeros, noise, empty],
        8,
        also=REDO,
        only='train',
    ),
    'run.json': _own(['run.json'], RECORD, 8, then=state),
    'study.yaml': _own(['study.yaml'], RECORD, 10, then=state),
    'step records': _own(['steps/train.json', 'steps/evaluate.json'], RECORD, 6, then=state),
    'arm records': _own(
        ['arms/*/*.json', 'arms/**/sha256.json', 'tables/**/sha256.json'], RECORD, 10, then=state
    ),
    'log.jsonl': _own(
        ['log.jsonl'], [flip, cut, empty, zeros, noise, twice, line_lost], 10, then=state
    ),
    'locks': locks(6),
    'imported arm': imported(4),
    'cache of tables': _work(
        ['cache/tables/*.pickle'],
        [flip_late, flip, cut, empty, zeros, noise],
        6,
        also=REDO,
        only='train',
    ),
    'cache of features': _work(
        ['cache/features/**/*'],
        [flip_late, digit, flip, cut, empty, zeros],
        6,
        also=REDO,
        only='train',
    ),
}


def test_the_campaign_is_large_enough():
    assert sum(c.n for c in KINDS.values()) >= 300


@pytest.mark.parametrize('kind', KINDS)
def test_damage_never_becomes_a_number(kind, world, record_property):
    "Counted by what came of it; seeded, so that a failure comes again"
    rng, start = random.Random(kind), time.monotonic()
    counts, bad = Counter(), []
    for what, judge in KINDS[kind](world, rng):
        came, said = judge()
        with open(world.folder.parent / 'campaign.txt', 'a') as f:
            print(kind, what, came, ' '.join(said.split())[-300:], sep=' | ', file=f)
        counts[came] += 1
        if came in BAD:
            bad.append(f'{came}: {what}: {" ".join(said.split())[-220:]}')
    record_property('damage', (kind, dict(counts), time.monotonic() - start))
    assert sum(counts.values()) == KINDS[kind].n
    assert bad == [], '\n' + '\n'.join(bad)


@pytest.mark.parametrize(
    'verb, damage',
    [('study', cut), ('study', noise), ('evaluate', noise), ('evaluate', cut), ('status', noise)],
    ids=lambda x: getattr(x, '__name__', x),
)
def test_a_process_of_its_own_says_the_same(verb, damage, world, tmp_path, faba):
    "The campaign runs in one process; a few of its cases as a user meets them"
    world.restore()
    path = {
        'study': tmp_path / 'x.yaml',
        'evaluate': world.out / 'arms' / 'morphology' / 'predictions.csv',
        'status': world.out / 'run.json',
    }[verb]
    content = TINY.encode() if verb == 'study' else path.read_bytes()
    path.write_bytes(damage(random.Random(verb), content))
    r = faba(
        *{
            'study': ('study', path),
            'evaluate': ('evaluate', '--out', world.out),
            'status': ('status', world.out),
        }[verb],
        timeout=300,
    )
    assert r.returncode in (0, 1, 2, 75, 130) and 'Traceback' not in r.stdout + r.stderr, r
    if r.returncode:
        assert (
            r.stderr.strip().splitlines()[-1].startswith('faba ') and 'unexpected' not in r.stderr
        ), r
