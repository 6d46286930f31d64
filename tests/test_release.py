"A finished study as a bundle: whole, without places, and with tables that come out again"

import gzip, hashlib, json, os, re, shutil, socket, subprocess, sys, venv, zipfile
from pathlib import Path

import pandas as pd, pytest, yaml

from faba_nb.core.files import write_json, write_text
from faba_nb.core.provenance import log_event
from faba_nb.core.study_folder import StudyFolder
from faba_nb.experiment.experiment_folder import Experiment
from faba_nb.running.cli import main
from faba_nb.running.published_study import PHOTOGRAPHED, copy_study, without_photographs
from faba_nb.running.release import copy_photographs
from faba_nb.running.without_places import Scrubber, places_here
from faba_nb.testing.example_studies import example_results
from faba_nb.twin.writing import write_twin

ROOT = Path(__file__).resolve().parent.parent
USER, HOST = 'hannasmith', 'greenhouse-42'
RASTER = 'data:image/webp;base64,' + 'QUJD' * 600
PAGE = f"""<a href="plants.html#p1">plants</a> <a href="../tables/metrics.csv">metrics</a>
<p>made by {USER} on {HOST} in PLACE, from DATA</p>
<figure id="fig_strip"><image href="{RASTER}"/></figure>"""


def plant_traces(out, data, home):
    "Pages, a notebook and a log that say where, by whom and on what they were made"
    folder = StudyFolder(out)
    page = PAGE.replace('PLACE', str(out)).replace('DATA', str(data))
    write_text(page, folder.report / 'index.html')
    write_text(f'<p>{RASTER.split(",")[1]}</p>', folder.report / 'plants.html')
    told = {'input_path': '/far/code/nbs/80_jobs/evaluate.ipynb', 'parameters': {'out': '/far/out'}}
    lines = [f'{out} {data} {home} {USER} /far/out/tables /far/code/x']
    output = {'output_type': 'stream', 'name': 'stdout', 'text': lines}
    cells = [
        {'cell_type': 'code', 'source': [f'out = "{out}"'], 'metadata': {}, 'outputs': [output]},
        {
            'cell_type': 'code',
            'source': ["page.figure('fig_strip')"],
            'metadata': {},
            'outputs': [1],
        },
    ]
    book = {'metadata': {'papermill': told}, 'cells': cells, 'nbformat': 4, 'nbformat_minor': 5}
    write_json(book, folder.notebook('evaluate'))
    write_text('a figure', folder.figures / 'fig_strip_90mm.svg')
    write_text('a figure', folder.figures / 'fig_scores_90mm.svg')
    log_event(out, step='train', event='started', host=HOST, pid=1, lock=f'{out}/steps/train.lock')


@pytest.fixture(scope='module')
def study(tmp_path_factory):
    "A finished study of a small simulated experiment, on the machine of somebody with a name"
    top = tmp_path_factory.mktemp('release')
    home, data = top / 'homes' / USER, top / 'measurements'
    with pytest.MonkeyPatch.context() as m:
        m.setenv('FABA_CACHE', os.environ.get('FABA_CACHE', str(top / 'cache')))
        m.setenv('HOME', str(home))
        m.setenv('LOGNAME', USER)
        m.setattr(socket, 'gethostname', lambda: HOST)
        write_twin(data, genotypes=2, seed=3, height=48)
        out = home / 'results' / 'out'
        example_results(out, data, ['dinov2', 'no_image'], 20, init_seeds=(42,), alone=True)
        plant_traces(out, data, home)
        yield out


@pytest.fixture(scope='module')
def bundle(study):
    to = study.parents[2] / 'bundle'
    assert main(['release', str(study), str(to), '--licence', 'cc-by-4.0']) == 0
    return to


def files(folder):
    return sorted(p for p in folder.rglob('*') if p.is_file())


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def listed(path):
    "name -> hash of a list in the form of sha256sum"
    return {l.split('  ')[1]: l.split('  ')[0] for l in path.read_text().splitlines()}


def test_every_file_has_its_hash(bundle):
    "In the list, and in the metadata of the crate; nothing else lies beside the bundle"
    named = {p.relative_to(bundle).as_posix(): digest(p) for p in files(bundle)}
    named.pop('sha256.txt')
    assert listed(bundle / 'sha256.txt') == named
    record = json.loads((bundle / 'ro-crate-metadata.json').read_text())
    graph = {e['@id']: e for e in record['@graph']}
    hashes = {n: e['sha256'] for n, e in graph.items() if 'sha256' in e}
    assert hashes == {n: h for n, h in named.items() if n != 'ro-crate-metadata.json'}
    assert record['@context'] == 'https://w3id.org/ro/crate/1.2/context'
    assert graph['./']['license']['@id'].endswith('/CC-BY-4.0')
    assert not list(bundle.parent.glob('.bundle*'))


def contents(path):
    "What a file holds, and what is packed in it"
    data = path.read_bytes()
    yield data
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as z:
            yield from map(z.read, z.namelist())
    if path.suffix == '.gz':
        yield gzip.decompress(data)
    if path.suffix == '.ipynb':
        yield json.dumps(json.loads(data), ensure_ascii=False).encode()


def test_no_place_and_no_name(study, bundle):
    home, data = study.parents[1], study.parents[3] / 'measurements'
    telling = [USER, HOST, '/far/', *map(str, (home, data, study, ROOT, bundle.parent))]
    if len(str(Path('~root').expanduser())) > 5:
        telling.append(str(Path('~root').expanduser()))
    found = []
    for path in files(bundle):
        for text in contents(path):
            found += [(path.name, t) for t in telling if t.encode() in text]
    assert not found
    text = (bundle / 'study' / 'notebooks' / 'evaluate.ipynb').read_text()
    assert 'OUT DATA HOME USER OUT/tables CODE/x' in text
    assert (
        'made by USER on HOST in OUT, from DATA' in (bundle / 'study/report/index.html').read_text()
    )


def test_photographs_stay_at_home(study, bundle):
    "No photograph, no figure made of some, no link to what is not there"
    photographs = {digest(p) for p in (study.parents[3] / 'measurements' / 'img').rglob('*.png')}
    assert photographs and not photographs & {digest(p) for p in files(bundle)}
    report = bundle / 'study' / 'report'
    page = (report / 'index.html').read_text()
    assert 'QUJDQUJD' not in page and 'Photographs are left out' in page
    assert 'plants.html' not in page and '<a href="../tables/metrics.csv">' in page
    assert not (report / 'plants.html').exists()
    names = [p.name for p in (bundle / 'study' / 'figures').iterdir()]
    assert names == ['fig_scores_90mm.svg']
    cells = json.loads((bundle / 'study/notebooks/evaluate.ipynb').read_text())['cells']
    assert [len(c['outputs']) for c in cells] == [1, 0]
    assert 'Photographs are not part' in (bundle / 'README.md').read_text()


def test_photographs_where_somebody_says_so(study, tmp_path):
    data = study.parents[3] / 'measurements'
    n = copy_photographs(Experiment(data), tmp_path / 'photographs')
    copied = files(tmp_path / 'photographs')
    assert n == len(copied) > 100
    known = {digest(p) for p in (data / 'img').rglob('*.png')}
    assert {digest(p) for p in copied} <= known
    copy_study(study, tmp_path / 'study', Scrubber(places_here(study, {}), {}), photographs=True)
    page = (tmp_path / 'study' / 'report' / 'index.html').read_text()
    assert 'QUJDQUJD' in page and 'plants.html' in page and 'left out' not in page
    assert (tmp_path / 'study' / 'figures' / 'fig_strip_90mm.svg').is_file()


def test_figures_of_photographs_are_known():
    "Every figure that a report draws with photographs is among those that are left out"
    drawing = ('figures.plant_strip', 'dataset.class_strip', 'genotypes.rows')
    found = set()
    for path in (ROOT / 'reports').glob('*.ipynb'):
        for cell in json.loads(path.read_text())['cells']:
            for name, made_by in re.findall(r"figure\('(\w+)', ([\w.]+)", ''.join(cell['source'])):
                if made_by in drawing or name.startswith(PHOTOGRAPHED):
                    found.add(name)
    assert len(found) >= 5 and all(n.startswith(PHOTOGRAPHED) for n in found)
    text = '\n'.join(p.read_text() for p in (ROOT / 'faba_nb' / 'reporting').glob('*.py'))
    assert len(re.findall(r'(?<!def )\bcut\(', text)) == 2, 'is another figure made of photographs?'
    assert without_photographs('<p>no figure</p>') == '<p>no figure</p>'


def test_two_commands_make_the_tables_again(bundle, tmp_path):
    "In a process of its own, with the program of the bundle and no data folder"
    there = tmp_path / 'elsewhere'
    shutil.copytree(bundle, there)
    hashes = listed(there / 'reproducible.sha256')
    assert all(digest(there / n) == h for n, h in hashes.items())
    for name in hashes:
        (there / name).unlink()
    env = {k: v for k, v in os.environ.items() if k != 'FABA_DATA'}
    env |= {'PYTHONPATH': str(there / 'software'), 'HOME': str(tmp_path)}
    run = subprocess.run(
        [sys.executable, '-m', 'faba_nb', 'evaluate', 'study'],
        cwd=there, env=env, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert {n: digest(there / n) for n in hashes} == hashes
    code = json.loads((there / 'study' / 'steps' / 'evaluate.json').read_text())
    assert code['files'], 'the step ran'


def test_what_cannot_be_made_again_is_named(bundle):
    "Every table is either among the hashes or in the README with its reason"
    hashes = {Path(n).stem for n in listed(bundle / 'reproducible.sha256')}
    tables = {p.stem for p in (bundle / 'study' / 'tables').glob('*.csv')}
    text = (bundle / 'README.md').read_text()
    rest = tables - hashes
    assert {'cost', 'families', 'fluorescence_effects'} <= rest
    assert {'metrics', 'contrasts', 'robustness', 'delay', 'ranking'} <= hashes
    assert all(f'`{n}`' in text for n in rest)
    metrics = pd.read_csv(bundle / 'study' / 'tables' / 'metrics.csv', low_memory=False)
    assert metrics.arm.str.contains('growth').any(), 'a rule that reads sizes of plants'


def refused(capsys, *args):
    capsys.readouterr()
    code = main(['release', *map(str, args)])
    out, err = capsys.readouterr()
    lines = [l for l in err.splitlines() if l.startswith('faba release')]
    assert code == 2 and len(lines) == 1 and not out
    return lines[0]


def test_without_a_licence(study, tmp_path, capsys):
    to = tmp_path / 'to'
    assert 'no licence is named' in refused(capsys, study, to)
    for wrong in ('mine', 'CC BY 4.0', 'MIT OR ISC'):
        assert 'SPDX' in refused(capsys, study, to, '--licence', wrong)
    assert not list(tmp_path.iterdir())


def test_where_something_lies(study, tmp_path, capsys):
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'mine.txt').write_text('mine')
    (tmp_path / 'file').write_text('mine')
    for name in ('full', 'file'):
        said = refused(capsys, study, tmp_path / name, '--licence', 'MIT')
        assert 'something lies here already' in said
    assert (tmp_path / 'full' / 'mine.txt').read_text() == 'mine'
    assert len(list(tmp_path.iterdir())) == 2


def test_unfinished_studies(study, tmp_path, capsys):
    "Each is refused with the command that finishes it"
    out, to = tmp_path / 'out', tmp_path / 'to'
    shutil.copytree(study, out)
    folder = StudyFolder(out)
    ask = lambda: refused(capsys, out, to, '--licence', 'MIT')
    table = folder.table('contrasts')
    was = table.read_bytes()
    table.write_bytes(was + b'\n')
    said = ask()
    assert 'contrasts.csv is not as recorded (changed)' in said and '--only evaluate`' in said
    table.write_bytes(was)
    shutil.move(folder.report, tmp_path / 'report')
    assert 'finish it with `faba report' in ask()
    shutil.move(tmp_path / 'report', folder.report)
    folder.table('metrics').unlink()
    assert 'metrics.csv is missing; finish it with `faba evaluate' in ask()
    folder.arm('no_image').predictions.unlink()
    assert 'no predictions of no_image' in ask() and not to.exists()
    assert 'no such folder' in refused(capsys, tmp_path / 'none', to, '--licence', 'MIT')


def test_half_a_bundle_has_no_name(study, tmp_path, monkeypatch):
    "Where writing breaks off, nothing is left"
    from faba_nb.running import release

    def full(*_):
        raise OSError(28, 'No space left on device', str(tmp_path))

    monkeypatch.setattr(release, 'made_again', full)
    assert main(['release', str(study), str(tmp_path / 'to'), '--licence', 'MIT']) == 2
    assert not list(tmp_path.iterdir())


def test_a_trace_that_cannot_be_taken_out(study, tmp_path, capsys, monkeypatch):
    "A table that names the user is neither changed nor published"
    from faba_nb.running import release

    out = tmp_path / 'out'
    shutil.copytree(study, out)
    (StudyFolder(out).figures / 'note.dat').write_text(f'by {USER}')
    monkeypatch.setattr(release, 'made_again', lambda *_: release.Again((), (), (), (), ()))
    said = refused(capsys, out, tmp_path / 'to', '--licence', 'MIT')
    assert 'note.dat' in said and not (tmp_path / 'to').exists()


def test_miappe_fields_are_those_of_the_checklist(bundle):
    golden = pd.read_csv(ROOT / 'tests' / 'golden' / 'miappe_1_1.csv')
    of = golden.groupby('section').field.agg(list).to_dict()
    found = {p.stem: pd.read_csv(p, keep_default_na=False) for p in (bundle / 'miappe').iterdir()}
    assert len(found) == len(of)
    for section, fields in of.items():
        heads = list(found[section.lower().replace(' ', '_')])
        links = [h for h in heads if h not in fields]
        assert [h for h in heads if h in fields] == fields
        assert set(links) <= {'Study unique ID', 'Biological material ID'}
    assert found['investigation']['MIAPPE version'].tolist() == [1.1]
    assert found['study']['Geographic location (country)'].tolist() == ['']
    assert found['study']['Start date of study'].str.fullmatch(r'\d{4}-\d\d-\d\d').all()
    plants = pd.read_csv(bundle / 'study' / 'tables' / 'plants.csv')
    units = found['observation_unit']
    assert set(units['Observation unit ID']) == set(plants.plant_id) and len(units) == 12
    replicate = dict(zip(plants.plant_id, plants.replicate))
    where = dict(zip(units['Observation unit ID'], units['Spatial distribution']))
    assert where == {p: f'rep:{r}' for p, r in replicate.items()}
    assert set(found['biological_material']['Biological material ID']) == set(plants.genotype)
    assert len(found['observed_variable']) > 50


def test_cards_hold_the_numbers_of_the_table(bundle):
    "In the head as in the body, with intervals; and they say that data are simulated"
    metrics = pd.read_csv(bundle / 'study' / 'tables' / 'metrics.csv', low_memory=False)
    metrics = metrics[metrics.stratum.isna()]
    for arm in ('dinov2', 'no_image'):
        text = (bundle / 'cards' / f'{arm}.md').read_text()
        _, head, body = text.split('---\n', 2)
        told = yaml.safe_load(head)
        assert told['license'] == 'cc-by-4.0' and 'simulated-data' in told['tags']
        (index,) = told['model-index']
        mine = metrics[metrics.arm == arm]
        for result in index['results']:
            protocol = result['dataset']['split'].split(', ')[1]
            assert 'simulated' in result['dataset']['name'] and len(result['metrics']) > 4
            for m in result['metrics']:
                rows = mine[(mine.protocol == protocol) & (mine.metric == m['type'])]
                assert (rows.value.round(6) == m['value']).any()
        f1 = mine[(mine.group == 'pooled') & (mine.metric == 'f1')].iloc[0]
        assert f'| F1, pooled | {f1.protocol} | {f1.value:.3f} |' in body
        assert '**The data are simulated.**' in body and '## Limits' in body


def test_citation_and_environment(bundle):
    cff = yaml.safe_load((bundle / 'CITATION.cff').read_text())
    assert cff['cff-version'] == '1.2.0' and cff['type'] == 'dataset' and cff['authors']
    assert cff['license'] == 'CC-BY-4.0' and 'simulated' in cff['title']
    pins = (bundle / 'environment' / 'constraints.txt').read_text().splitlines()
    assert any(p.startswith('numpy==') for p in pins) and not any(
        '@' in p or '/' in p for p in pins
    )
    facts = json.loads((bundle / 'experiment' / 'facts.json').read_text())
    assert facts['simulated'] and facts['facts']['treatments']


VALIDATOR = 'roc-validator==0.13.0'
CONTEXT = 'https://w3id.org/ro/crate/1.2/context'
# puts a document into the cache of the validator, as if it had been fetched
FILL = """
import io, sys
from requests.adapters import HTTPAdapter
from requests_cache import CachedSession
from urllib3 import HTTPResponse

url, path, cache = sys.argv[1:]

class Local(HTTPAdapter):
    def send(self, request, **kwargs):
        body, kind = open(path, 'rb'), {'Content-Type': 'application/ld+json'}
        raw = HTTPResponse(body, headers=kind, status=200, preload_content=False)
        return self.build_response(request, raw)

session = CachedSession(cache, backend='sqlite', expire_after=-1)
session.mount('https://', Local())
session.get(url)
"""


def online(url):
    "Can the document be fetched from here?"
    import urllib.request

    try:
        with urllib.request.urlopen(url, timeout=20):
            return True
    except OSError:
        return False


@pytest.mark.full
def test_the_validator_of_crates(bundle, tmp_path):
    "Its own command finds nothing that RO-Crate 1.2 requires and the bundle lacks"
    import rocrate

    venv.create(tmp_path / 'venv', with_pip=True)
    python = tmp_path / 'venv' / 'bin' / 'python'
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'} | {'HOME': str(tmp_path)}
    ask = lambda *words: subprocess.run(
        list(map(str, words)), env=env, capture_output=True, text=True
    )
    got = ask(python, '-m', 'pip', 'install', '-q', VALIDATOR)
    if got.returncode:
        pytest.skip(f'no package index: {got.stderr.strip().splitlines()[-1][:100]}')
    more = []
    if not online(CONTEXT):
        # the library ships the terms of 1.3, which are those of 1.2 and some more
        shipped = Path(rocrate.__file__).parent / 'data' / 'ro-crate.jsonld'
        filled = ask(python, '-c', FILL, CONTEXT, shipped, tmp_path / 'cache')
        assert filled.returncode == 0, filled.stderr
        more = ['--offline', '--cache-path', tmp_path / 'cache']
    command = [python.with_name('rocrate-validator'), 'validate', '-p', 'ro-crate-1.2']
    command += ['-l', 'required', '--no-paging', '-v', *more]
    found = ask(*command, bundle)
    assert found.returncode == 0, found.stdout
    assert 'is a valid ro-crate-1.2' in found.stdout
    worse = tmp_path / 'worse'
    shutil.copytree(bundle, worse)
    record = json.loads((worse / 'ro-crate-metadata.json').read_text())
    root = next(e for e in record['@graph'] if e['@id'] == './')
    del root['license'], root['datePublished']
    (worse / 'ro-crate-metadata.json').write_text(json.dumps(record))
    assert ask(*command, worse).returncode, 'a crate without a licence and a date is refused'


@pytest.mark.full
def test_the_first_command(bundle, tmp_path):
    "pip takes the program of the bundle, and `faba` is then there"
    there = tmp_path / 'bundle'
    shutil.copytree(bundle, there)
    venv.create(tmp_path / 'venv', with_pip=True)
    bin = tmp_path / 'venv' / 'bin'
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    pip = [bin / 'python', '-m', 'pip', 'install', '-q', '--no-deps']
    pip += ['-c', 'environment/constraints.txt', '-e', 'software']
    got = subprocess.run(pip, cwd=there, env=env, capture_output=True, text=True)
    if got.returncode and 'setuptools' in got.stderr:
        pytest.skip('no package index for setuptools')
    assert got.returncode == 0, got.stderr
    site = next(p for p in sys.path if p.endswith('site-packages'))
    where = next((tmp_path / 'venv').rglob('site-packages'))
    (where / 'shared.pth').write_text(f'{site}\n')
    asked = 'import faba_nb; print(faba_nb.__file__)'
    said = subprocess.run(
        [bin / 'python', '-c', asked], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert said.stdout.strip().startswith(str(there / 'software')), said
    assert (bin / 'faba').is_file()
