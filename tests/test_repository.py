"The repository cannot drift: clean notebooks, an export in step, floors, a light import"

import ast, json, os, shutil, subprocess, sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
NOTEBOOKS = sorted(
    p
    for folder in ('nbs', 'reports')
    for p in (ROOT / folder).rglob('*.ipynb')
    if '.ipynb_checkpoints' not in p.parts
)
FLOORS = 'core experiment twin backbones training evaluation reporting running exploring'.split()
name = lambda p: str(p.relative_to(ROOT))


@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    "The sources in a folder of their own, to be cleaned and exported there"
    new = tmp_path_factory.mktemp('copy') / 'faba_nb'
    new.mkdir()
    for f in ('settings.ini', 'setup.py', 'pyproject.toml', 'README.md'):
        shutil.copy(ROOT / f, new)
    for d in ('nbs', 'reports', 'faba_nb'):
        shutil.copytree(
            ROOT / d, new / d, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints')
        )
    return new


def files(folder):
    return {
        p.relative_to(folder)
        for p in folder.rglob('*')
        if p.is_file() and '__pycache__' not in p.parts and '.ipynb_checkpoints' not in p.parts
    }


def test_export_in_step(copy):
    shutil.rmtree(copy / 'faba_nb')
    subprocess.run(
        [BIN / 'nbdev_export'],
        cwd=copy,
        check=True,
        capture_output=True,
        env={**os.environ, 'PYTHONPATH': str(copy)},
    )
    assert files(copy / 'faba_nb') == files(ROOT / 'faba_nb')
    differ = [
        str(f)
        for f in files(copy / 'faba_nb')
        if f.name != '_modidx.py'
        and (copy / 'faba_nb' / f).read_bytes() != (ROOT / 'faba_nb' / f).read_bytes()
    ]
    assert not differ, (
        f'the package differs from its notebooks: {differ}; run `make nbs` or nbdev_export'
    )


def test_notebooks_clean(copy):
    for folder in ('nbs', 'reports'):
        subprocess.run(
            [BIN / 'nbdev_clean', '--fname', folder], cwd=copy, check=True, capture_output=True
        )
    dirty = [
        str(f)
        for d in ('nbs', 'reports')
        for f in files(copy / d)
        if f.suffix == '.ipynb'
        and json.loads((copy / d / f).read_text()) != json.loads((ROOT / d / f).read_text())
    ]
    assert not dirty, f'run nbdev_clean on {dirty}'


def test_laid_out():
    "One formatter lays out every line that is not exported"
    r = subprocess.run(
        [sys.executable, '-m', 'ruff', 'format', '--check', '.'],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert r.returncode == 0, f'run `ruff format`:\n{r.stdout}{r.stderr}'


@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=name)
def test_notebook_form(notebook):
    nb = json.loads(notebook.read_text())
    assert (nb['nbformat'], nb['nbformat_minor']) >= (4, 5)
    ids = [c.get('id') for c in nb['cells']]
    assert all(ids) and len(set(ids)) == len(ids), 'every cell needs an id of its own'
    assert notebook.stat().st_size <= 800_000, (
        'a notebook is read on a code host: show less or smaller pictures'
    )
    tagged = [c for c in nb['cells'] if 'parameters' in c['metadata'].get('tags', [])]
    assert len(tagged) == (1 if notebook.parent.name in ('80_jobs', 'reports') else 0)
    failed = [o for c in nb['cells'] for o in c.get('outputs', []) if o['output_type'] == 'error']
    assert not failed, 'a committed notebook shows an error'
    assert str(ROOT) not in notebook.read_text(), (
        'a committed notebook shows where the repository lies on one machine'
    )


def imports(path):
    "(module of ours, whether at top level) of every import in a source file"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            module = (
                '.'.join(
                    filter(None, [*path.relative_to(ROOT).parts[: -node.level]] + [node.module])
                )
                if node.level
                else node.module
            )
            if module and module.startswith('faba_nb.'):
                yield module
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith('faba_nb.'))


MODULES = [p for p in sorted((ROOT / 'faba_nb').rglob('*.py')) if p.name != '_modidx.py']


@pytest.mark.parametrize('module', MODULES, ids=name)
def test_floors(module):
    room = module.relative_to(ROOT / 'faba_nb').parts[0]
    if room not in FLOORS:
        return
    for other in imports(module):
        assert FLOORS.index(other.split('.')[1]) <= FLOORS.index(room), (
            f'{name(module)} imports {other} from a higher room'
        )


def test_no_circles():
    graph = {'.'.join(p.relative_to(ROOT).with_suffix('').parts): set(imports(p)) for p in MODULES}
    done, path = set(), []

    def visit(m):
        assert m not in path, f"circle: {' -> '.join(path[path.index(m) :] + [m])}"
        if m in done or m not in graph:
            return
        path.append(m)
        for n in graph[m]:
            visit(n)
        done.add(path.pop())

    for m in graph:
        visit(m)


@pytest.mark.parametrize(
    'code',
    [
        'import faba_nb',
        "import sys; sys.argv=['faba', '--help']\nfrom faba_nb.running.cli import main\ntry: main()\nexcept SystemExit: pass",
    ],
    ids=['import', 'help'],
)
def test_light(code):
    seen = subprocess.run(
        [
            sys.executable,
            '-c',
            f"{code}\nimport sys; print([m for m in ('torch', 'open_clip', 'timm', 'matplotlib') if m in sys.modules])",
        ],
        capture_output=True,
        text=True,
        cwd='/',
    )
    assert seen.stdout.strip().endswith('[]'), seen.stdout[-300:] + seen.stderr[-300:]


def test_reports_compute_nothing_and_evaluation_needs_no_training():
    "No statistics library and no fitting or resampling in a page, nothing of training in evaluation"
    import ast

    def imported(path):
        "Dotted names that a module imports, those inside functions included"
        room = path.relative_to(ROOT).parts[:-1]
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import):
                yield from (a.name for a in node.names)
            elif isinstance(node, ast.ImportFrom):
                above = room[: len(room) + 1 - node.level] if node.level else ()
                module = '.'.join([*above, *filter(None, [node.module])])
                yield from (f'{module}.{a.name}' for a in node.names)

    def guilty(room, forbidden):
        inside = lambda name, stem: name == stem or name.startswith(f'{stem}.')
        return [
            f'{path.name}: {name}'
            for path in sorted((ROOT / 'faba_nb' / room).glob('*.py'))
            for name in imported(path)
            if any(inside(name, stem) for stem in forbidden)
        ]

    makers = ('resampling', 'importance', 'feature_space', 'ranking', 'variance', 'presymptomatic')
    makers = [f'faba_nb.evaluation.{m}' for m in makers]
    libraries = ['scipy.stats', 'scipy.cluster', 'sklearn', 'statsmodels', 'faba_nb.training']
    assert guilty('reporting', [*libraries, *makers]) == []
    assert guilty('evaluation', ['faba_nb.training']) == []
    assert guilty('evaluation', ['scipy.stats'])  # the question finds what is there
