"The repository cannot drift: clean notebooks, an export in step, floors, a light import"

import ast, json, os, re, shutil, subprocess, sys
from collections import Counter
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
FLOORS = (
    'core experiment twin backbones training evaluation reporting legacy running exploring'.split()
)
LEAF = 'testing'  # may import every room; no module of another room may import it
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


# what names a colour: six digits of which not all three pairs are nearly equal (a grey means nothing), or a word of a drawing library
HEX = re.compile(r'#([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})\b', re.I)
NAMED = re.compile(
    r"""['"](?:tab:(?:blue|orange|green|red|purple|brown|pink|olive|cyan)|C\d)['"]|\b(?:hsl|rgb)\("""
    r"""|\b(?:colou?r|c|fc|ec|fill|stroke|facecolor)=['"](?!none|black|white|transparent|(?:light|dark)?gr[ea]y)[a-z]{3,}['"]"""
)
PALETTES = (
    'nbs/00_core/16_palette.ipynb',
    'nbs/15_twin/05_plant_drawing.ipynb',
)  # the second paints plants


def strays(text):
    "Colours that a text names itself"
    apart = lambda m: max(v := [int(g, 16) for g in m.groups()]) - min(v) > 12
    return [m.group() for m in HEX.finditer(text) if apart(m)] + [
        m.group() for m in NAMED.finditer(text)
    ]


def test_strays_are_seen():
    found = strays(
        "a = '#1b7837'; b = '#eeeeee'; c = 'tab:blue'; d = 'C0'; e = 'rgb(1 2 3)'; f = 'green leaves'; g(color='firebrick')"
    )
    assert found == ['#1b7837', "'tab:blue'", "'C0'", 'rgb(', "color='firebrick'"]


@pytest.mark.parametrize('notebook', [n for n in NOTEBOOKS if name(n) not in PALETTES], ids=name)
def test_colours_come_from_the_palette(notebook):
    "What a colour means is decided in one place, for pages, figures, notebooks and explorers"
    cells = json.loads(notebook.read_text())['cells']
    code = '\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'code')
    tested = re.compile(r'^.*(?:test_eq|assert|_themed).*$', re.M)  # examples of what comes out
    assert strays(tested.sub('', code)) == []


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


@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=name)
def test_no_warning_in_outputs(notebook):
    "A warning in a committed output is fixed where it comes from"
    cells = json.loads(notebook.read_text())['cells']
    outputs = [o for c in cells for o in c.get('outputs', [])]
    said = [''.join(o['text']) for o in outputs if o['output_type'] == 'stream']
    assert not [text for text in said if 'Warning' in text]


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


def room_of(module):
    "The room of faba_nb.ROOM.MODULE"
    return module.split('.')[1]


@pytest.mark.parametrize('module', MODULES, ids=name)
def test_floors(module):
    "A module imports its own room or one below; what is invented for examples is imported by no other room"
    room = module.relative_to(ROOT / 'faba_nb').parts[0]
    if room not in [*FLOORS, LEAF]:
        return
    for other in imports(module):
        if room == LEAF:
            continue
        assert room_of(other) != LEAF, (
            f'{name(module)} imports {other}, made for examples and tests'
        )
        assert FLOORS.index(room_of(other)) <= FLOORS.index(room), (
            f'{name(module)} imports {other} from a higher room'
        )


def test_every_room_has_a_floor():
    rooms = {p.parent.name for p in (ROOT / 'faba_nb').glob('*/__init__.py')}
    assert rooms == {*FLOORS, LEAF}


def test_no_file_name_repeats():
    "A module can be told from every other module, and from a room, by its file name alone"
    modules = [p for p in MODULES if not p.stem.startswith('__')]
    names = Counter([p.stem for p in modules] + [*FLOORS, LEAF])
    assert {n for n, times in names.items() if times > 1} == set()


def earlier_system():
    "What is deleted together with the earlier system, as its room says: whole paths, and parts of files"
    cells = json.loads((ROOT / 'nbs/55_legacy/00_legacy.ipynb').read_text())['cells']
    text = next(t for c in cells if '```' in (t := ''.join(c['source'])))
    lines = text.split('```')[1].strip().split('\n')
    return [n for n in lines if ':' not in n], {n.split(':')[0] for n in lines if ':' in n}


def cells_with(notebook, text):
    "Numbers of the cells in which a text stands"
    cells = json.loads(notebook.read_text())['cells']
    return [i for i, c in enumerate(cells) if text in ''.join(c['source'])]


def test_one_cell_of_the_command_line_knows_the_earlier_system():
    knows = {name(p) for p in MODULES if any(room_of(m) == 'legacy' for m in imports(p))}
    others = {p for p in knows if p.split('/')[1] not in ('legacy', LEAF)}
    assert others == {'faba_nb/running/cli.py'}
    assert len(cells_with(ROOT / 'nbs/60_running/07_cli.ipynb', 'faba_nb.legacy')) == 1


WITHOUT = '''
import importlib, pkgutil, sys, faba_nb
from pathlib import Path
for m in pkgutil.walk_packages(faba_nb.__path__, 'faba_nb.'):
    m.name.endswith('__main__') or importlib.import_module(m.name)
assert not [m for m in sys.modules if m.startswith('faba_nb.legacy')]
from faba_nb.core.errors import BadInput
from faba_nb.reporting.report_steps import run_report
from faba_nb.reporting.site import reports
from faba_nb.testing.example_studies import example_results
assert sorted(reports()) == sorted(p.stem for p in Path('reports').glob('*.ipynb'))
out = example_results(Path(sys.argv[1]), draws=60)
run_report(out, 'main_results')
assert (out / 'report' / 'main_results.html').is_file()
print('whole')
'''


@pytest.mark.full
def test_the_earlier_system_can_be_deleted(tmp_path):
    "Without what its room lists every module is exported and imported, the command line answers, and a page is made"
    tree, (paths, parts) = tmp_path / 'faba_nb', earlier_system()
    for d in ('nbs', 'reports', 'faba_nb', 'tests', 'data/design', 'data/studies'):
        shutil.copytree(ROOT / d, tree / d, ignore=shutil.ignore_patterns('__pycache__'))
    for f in ('settings.ini', 'setup.py', 'pyproject.toml', 'README.md'):
        shutil.copy(ROOT / f, tree)
    for p in paths:
        assert (tree / p).exists(), f'{p} is not there'
        shutil.rmtree(tree / p) if (tree / p).is_dir() else (tree / p).unlink()
    cli = tree / 'nbs/60_running/07_cli.ipynb'
    nb = json.loads(cli.read_text())
    for i in cells_with(cli, 'faba_nb.legacy'):
        del nb['cells'][i]
    cli.write_text(json.dumps(nb))
    left = [p for d in ('nbs', 'reports', 'tests') for p in (tree / d).rglob('*.*')]
    left = [p for p in left if p.suffix in ('.py', '.ipynb') and 'faba_nb.legacy' in p.read_text()]
    assert {str(p.relative_to(tree)) for p in left} - {'tests/test_repository.py'} <= parts
    run = lambda *args: subprocess.run(
        args, cwd=tree, env={**os.environ, 'PYTHONPATH': str(tree)}, capture_output=True, text=True
    )
    shutil.rmtree(tree / 'faba_nb')
    exported = run(BIN / 'nbdev_export')
    assert exported.returncode == 0, exported.stderr[-2000:]
    done = run(sys.executable, '-c', WITHOUT, tmp_path / 'study')
    assert done.stdout.endswith('whole\n'), done.stderr[-2000:]
    told = run(sys.executable, '-m', 'faba_nb', '--help')
    assert told.returncode == 0 and ' report ' in told.stdout and ' import ' not in told.stdout


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
        "import sys; sys.argv=['faba', '--help']\n"
        'from faba_nb.running.cli import main\n'
        'try: main()\n'
        'except SystemExit: pass',
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
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == 'scipy':
                yield f'scipy.{node.attr}'
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


LONGEST = 120  # columns
DENSEST = 30  # nodes of the syntax tree a line of a function's body
FORMULAS = set()  # functions that may be denser: their formulas read better on one line
SCRIPTS = {'FUNCTIONS'}  # constants that hold a shell script, whose lines may be longer


def functions(path):
    "(name, nodes a line) of every function of a module"
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        body = node.body[1:] if ast.get_docstring(node) else node.body
        if not body:
            continue
        lines = body[-1].end_lineno - body[0].lineno + 1
        yield node.name, sum(1 for part in body for _ in ast.walk(part)) / lines


def in_scripts(path):
    "Numbers of the lines of constants that hold a script"
    for node in ast.parse(path.read_text(encoding='utf-8')).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') in SCRIPTS:
            yield from range(node.lineno, node.end_lineno + 1)


def made_by_nbdev(line):
    "Lines that the export writes itself"
    return line.startswith(('# %%', '__all__', '           '))


@pytest.mark.parametrize('module', MODULES, ids=name)
def test_lines_say_one_thing(module):
    lines = module.read_text(encoding='utf-8').splitlines()
    allowed = set(in_scripts(module))
    long = [i for i, l in enumerate(lines, 1) if len(l) > LONGEST and not made_by_nbdev(l)]
    long = [i for i in long if i not in allowed]
    assert not long, f'longer than {LONGEST} columns: {name(module)}, lines {long}'
    dense = {f: round(n) for f, n in functions(module) if n > DENSEST and f not in FORMULAS}
    assert not dense, f'more than {DENSEST} nodes a line: {dense}'


# of the study folder; `core.study_folder` alone writes them out
OF_OUT = r"""'(run\.json|study\.yaml|log\.jsonl|arm\.json|imported\.json|predictions\w*\.csv)'|/ '(arms|fits|steps|notebooks|tables|report|jobs)'"""


@pytest.mark.parametrize('module', MODULES, ids=name)
def test_paths_of_a_study_are_written_out_once(module):
    if module.stem == 'study_folder':
        return
    lines = module.read_text(encoding='utf-8').splitlines()
    assert not [l for l in lines if re.search(OF_OUT, l)]


@pytest.mark.parametrize('step', ['features', 'train', 'evaluate', 'explain', 'report'])
def test_a_step_knows_every_room_whose_code_it_runs(step):
    "Else a change of code there would leave its results as they are"
    from faba_nb.core.steps import ROOMS

    for module in MODULES:
        room = module.relative_to(ROOT / 'faba_nb').parts[0]
        if (
            room == 'legacy' or room not in ROOMS[step]
        ):  # pages do not import what is imported there
            continue
        needed = {other.split('.')[1] for other in imports(module)}
        assert needed <= set(ROOMS[step]), f'{name(module)} runs {needed} in the step {step}'
