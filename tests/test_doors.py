"Names, tables for spreadsheets, YAML and settings from outside: refused in one line, before any work"

import os, random, socket, subprocess, sys, time

import pandas as pd, pytest
from conftest import ROOT

OLD = """model:
  image_encoder: "openai/clip-vit-base-patch16"
  ablation: {enabled_modalities: [image], fusion_mode: gating}
training: {lr: 1.0e-4, max_epochs: 100}
logging: {checkpoint_dir: results/ablation/clip_backbone/checkpoints/}
seed: 42
"""
ONE = 'arms: {full: {}}\n'
BOMB = (
    'a: &a [x, x, x, x, x, x, x, x, x]\n'
    + ''.join(f'{b}: &{b} [{", ".join(9 * ["*" + a])}]\n' for a, b in zip('abcdef', 'bcdefg'))
    + 'arms: *g\n'
)


def refused(capsys, *args, within=10):
    "The one line that is said; exit code 2, soon"
    from faba_nb.running.cli import main

    start = time.monotonic()
    code = main(list(map(str, args)))
    said = capsys.readouterr()
    assert time.monotonic() - start < within, 'it took too long'
    assert code == 2, (code, said)
    assert said.out == '' and said.err.count('\n') == 1 and len(said.err) < 500, said
    return said.err


def given(tmp_path, content, name='mine.yaml'):
    "A file with that content"
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


NAMES = [
    'a\ntouch OUT',
    'x; touch OUT',
    '$(touch OUT)',
    '`id`',
    '../../etc/x',
    '/etc/x',
    '..',
    'a/b',
    'a b',
    '-rf',
    '--help',
    '',
    'Ackerbohne_ä',
    '٣',
    'a' * 65,
    "it's",
    'yes',
    'No',
    'off',
    'null',
    'NaN',
    'NA',
    '1e3',
    '007',
    '1_000',
    '0x1F',
    '2026-11-28',
]


@pytest.mark.parametrize('name', NAMES, ids=ascii)
@pytest.mark.parametrize('place', ['study', 'arm'])
def test_a_name_means_the_same_everywhere(tmp_path, capsys, place, name):
    "Studies and arms become folders, words of a shell, keys and cells"
    quoted = '"' + name.replace('\n', '\\n') + '"'
    path = given(
        tmp_path, f'name: {quoted}\n{ONE}' if place == 'study' else f'arms: {{{quoted}: {{}}}}\n'
    )
    assert f'cannot be the name of {"a study" if place == "study" else "an arm"}' in refused(
        capsys, 'study', path
    )


def test_a_file_names_its_study(tmp_path, capsys):
    "The name of the file counts where the study has none"
    assert "'my study' cannot be the name of a study" in refused(
        capsys, 'study', given(tmp_path, ONE, 'my study.yaml')
    )
    assert 'there is no such folder' in refused(capsys, 'study', '../studies/demo')


@pytest.mark.parametrize(
    'arms',
    [
        '{a: {}, b: {distillation: teacher, teacher: "x y"}}',
        '{a: {}, b: {distillation: teacher, teacher: yes}}',
    ],
)
def test_a_teacher_is_an_arm(tmp_path, capsys, arms):
    assert 'arms.b.teacher' in refused(capsys, 'study', given(tmp_path, f'arms: {arms}\n'))


def test_shipped_studies_keep_their_names():
    from faba_nb.core.files import check_name
    from faba_nb.core.studies import read_study, studies

    for s in map(read_study, studies()):
        assert s.name in studies() and s.arms and [check_name(n) for n in s.arms]


CELLS = [
    '=HYPERLINK("http://x","y")',
    '+1+1',
    '-1+1',
    '@SUM(A1)',
    '\t=1',
    '\r=1',
    '-',
    '=',
    "'=1",
    "''=1",
    '=1\r2',
    'a\rb',
    '=a,b',
    '="x"',
    '- none',
    '+-5',
    '-5x',
]


def test_no_cell_of_a_table_is_a_formula(tmp_path):
    "Headings too; in the bytes of the file, as a spreadsheet reads them"
    import csv
    from faba_nb.core.files import read_csv, write_csv

    table = pd.DataFrame({'accession': CELLS, '=heading': range(len(CELLS))})
    write_csv(table, tmp_path / 'a.csv')
    with open(tmp_path / 'a.csv', newline='', encoding='utf-8') as f:
        cells = [c for row in csv.reader(f) for c in row]
    assert [c for c in cells if c[:1] in tuple('=+-@\t\r')] == [] and len(cells) == 2 * len(
        CELLS
    ) + 2
    pd.testing.assert_frame_equal(read_csv(tmp_path / 'a.csv', keep_default_na=False), table)


def test_every_text_comes_back(tmp_path):
    "Ten thousand texts of the characters that matter"
    from faba_nb.core.files import read_csv, write_csv

    rng = random.Random(1)
    texts = [
        ''.join(rng.choices('\'=+-@\t\r\n",;a5.eé ', k=rng.randrange(1, 6))) for _ in range(10_000)
    ]
    table = pd.DataFrame(
        {
            'text': texts,
            'same': pd.Categorical(texts),
            'number': [rng.uniform(-1, 1) for _ in texts],
        }
    )
    write_csv(table, tmp_path / 'a.csv')
    back = read_csv(
        tmp_path / 'a.csv',
        dtype={'text': str, 'same': str},
        keep_default_na=False,
        float_precision='round_trip',
    )
    assert (
        back.text.tolist() == texts
        and back.same.tolist() == texts
        and back.number.tolist() == table.number.tolist()
    )


def test_a_clean_table_is_written_as_ever(tmp_path):
    "Byte for byte, negative numbers too, also those kept as text"
    from faba_nb.core.files import write_csv

    table = pd.DataFrame(
        {
            'arm': ['clip', "Kontu's", 'a=b'],
            'text': ['-5', '+1.5e-3', '-.5'],
            'x': [-1.5, float('nan'), float('-inf')],
            'mixed': [-1, None, 'b'],
        }
    )
    write_csv(table, tmp_path / 'a.csv', float_format='%.9g')
    assert (tmp_path / 'a.csv').read_text() == table.to_csv(index=False, float_format='%.9g')


@pytest.mark.parametrize(
    'content, said',
    [
        (BOMB, 'aliases such as *a are not read'),
        ('d: &d {backbone: clip}\narms: {a: *d}\n', 'aliases such as *d are not read'),
        ('arms: {a: {<<: {lr: 1}}}\n', 'merge keys (<<) are not read'),
        ('arms: {a: {}, a: {lr: 1e-3}}\n', "the key 'a' is duplicated"),
        ('arms: !!python/object/apply:os.system ["touch /tmp/x"]\n', 'tags such as'),
        ('arms: {a: {lr: !!float x}}\n', 'tags such as'),
        ('arms: {a: {lr: !!binary x}}\n', 'tags such as'),
        ('arms: ' + '[' * 100_000, 'more than 20 levels'),
        ('arms: ' + '{a: ' * 5000, 'more than 20 levels'),
        ('arms:\n' + ''.join(' ' * i + 'a:\n' for i in range(1, 900)), 'more than 20 levels'),
        ('arms: {a: {init_seeds: [' + '1, ' * 300_000 + ']}}\n', 'more than 50,000 values'),
        ('arms: {a: {init_seeds: [' + '1, ' * 600_000 + ']}}\n', 'bytes are too many'),
        ('arms: {a: {' + 'k' * 100_000 + ': 1}}\n', 'line 1'),
        ('? ' + 'k' * 100_000 + '\n: 1\n', 'a key of 100000 characters'),
        ('arms:\n  a: {}\n' + 'k' * 900 + ': 1\n', 'a key of 900 characters'),
        ('arms:\n\ta: {}\n', "line 2: found character '\\t'"),
        ('? [a]\n: 1\n', 'is not text'),
        ('arms: {on: {}}\n', 'the key True is not text'),
        ('arms: {1: {}}\n', 'the key 1 is not text'),
        ('arms: {a: {}}\n---\narms: {b: {}}\n', 'document'),
        ('arms: {a: {}}\0\n', 'NUL'),
        (ONE.encode('utf-16'), 'this is not UTF-8 but UTF-16'),
        (ONE.encode('utf-16-be'), 'this is not UTF-8 but UTF-16'),
        (ONE.encode('utf-32'), 'this is not UTF-8 but UTF-32'),
        (
            'title: Mélodie\n'.encode('latin-1') + ONE.encode(),
            'this is not UTF-8 but Latin-1 or another old coding (line 1)',
        ),
        (b'\x89PNG\r\n\x1a\n' + bytes(range(256)), 'this is not UTF-8'),
        ('title: 2026-13-45\narms: [x]\n', 'at least one arm'),
        ('', 'this is empty'),
        ('[a]\n', 'this is not a mapping'),
        ('arms: {a: {max_epochs: ' + '9' * 5000 + '}}\n', 'a number of 5000 digits'),
        ('title: "a\\nb"\n' + ONE, 'write one line'),
        ('title: "\\e[2J"\n' + ONE, 'write one line'),
        (f'title: {"x" * 5000}\n' + ONE, '5000 characters'),
    ],
    ids=lambda x: repr(x)[:36],
)
def test_yaml_that_is_no_study(tmp_path, capsys, content, said):
    "Named for what it is, at once, whatever a parser could make of it"
    assert said in refused(capsys, 'study', given(tmp_path, content))


def test_the_bomb_costs_nothing(tmp_path):
    "A process of its own with a tenth of the memory that the list would need"
    import resource

    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    r = subprocess.run(
        [sys.executable, '-m', 'faba_nb', 'study', given(tmp_path, BOMB)],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=limit,
    )
    assert r.returncode == 2 and r.stderr.count('\n') == 1, r


@pytest.mark.parametrize(
    'kind', ['pipe', 'device', 'random', 'folder', 'huge', 'loop', 'socket', 'absent', 'forbidden']
)
def test_a_path_that_leads_to_no_file(tmp_path, capsys, kind):
    "A named pipe never ends, a device never, a gigabyte late: not a byte of them is read"
    path, said = (
        tmp_path / 'x.yaml',
        {
            'pipe': 'this is a named pipe',
            'device': 'this is a device',
            'random': 'this is a device',
            'folder': 'this is a folder',
            'huge': 'bytes are too many',
            'loop': 'cannot be read',
            'socket': 'this is a socket',
            'absent': 'there is no such study file',
            'forbidden': 'cannot be read',
        }[kind],
    )
    if kind == 'pipe':
        os.mkfifo(path)
    if kind in ('device', 'random'):
        path.symlink_to({'device': '/dev/zero', 'random': '/dev/urandom'}[kind])
    if kind == 'folder':
        path.mkdir()
    if kind == 'huge':
        with open(path, 'wb') as f:
            f.truncate(1 << 30)
    if kind == 'loop':
        path.symlink_to(path)
    if kind == 'socket':
        with socket.socket(socket.AF_UNIX) as s, pytest.MonkeyPatch.context() as m:
            m.chdir(tmp_path)
            s.bind('x.yaml')
    if kind == 'forbidden':
        if os.geteuid() == 0:
            pytest.skip('root may read everything')
        given(tmp_path, ONE, 'x.yaml').chmod(0)
    assert said in refused(capsys, 'study', path)


def test_records_that_are_torn_are_named(tmp_path):
    "Empty, cut off, not text: the file and what to do"
    from faba_nb.core.errors import BadInput
    from faba_nb.core.files import read_json

    for torn in (b'', b'{"a": 1', b'\xff\xfe{\0}\0'[:5], b'\0' * 64, b'[' * 100_000):
        with pytest.raises(BadInput, match='a.json: this is no whole record'):
            read_json(given(tmp_path, torn, 'a.json'))


SETTINGS = [
    ('lr', '.inf', 'is not a finite number'),
    ('lr', '-.inf', 'is not a finite number'),
    ('lr', '.nan', 'is not a finite number'),
    ('lr', '1e400', 'is not a finite number'),
    ('lr', '0', 'is not within 1e-06 … 1.0'),
    ('lr', '-1e-4', 'is not within'),
    ('lr', '2', 'is not within'),
    ('lr', '"1e-4"', "'1e-4' is not a number"),
    ('lr', 'yes', 'True is not a number'),
    ('lr', '1:30', "'1:30' is not a number"),
    ('lr', '', 'None is not a number'),
    ('max_epochs', '1e12', 'is not a whole number'),
    ('max_epochs', '1000000000000', 'is not within 1 … 10000'),
    ('max_epochs', '010', "'010' is not a whole number"),
    ('max_epochs', 'true', 'True is not a whole number'),
    ('max_epochs', '-1', 'is not within'),
    ('max_epochs', '9' * 40, 'a number of 40 digits'),
    ('patience', '0', 'is not within'),
    ('warmup_epochs', '-1', 'is not within'),
    ('batch_size', '1000000000', 'is not within 1 … 4096'),
    ('dropout', '.nan', 'is not a finite number'),
    ('dropout', '1', 'is not within 0.0 … 0.99'),
    ('dropout', '-0.1', 'is not within'),
    ('weight_decay', '.inf', 'is not a finite number'),
    ('weight_decay', '5', 'is not within'),
    ('pos_weight', '1e30', 'is not within'),
    ('clip_norm', '.inf', 'is not a finite number'),
    ('clip_norm', '0', 'is not within'),
    ('init_seeds', '[-1]', 'is not within 0 … 4294967295'),
    ('init_seeds', '[4294967296]', 'is not within'),
    ('split_seeds', '[99999999999999999999]', 'is not within'),
    ('init_seeds', '[1.5]', '1.5 is not a whole number'),
    ('init_seeds', '[true]', 'True is not a whole number'),
    ('init_seeds', '42', '42 is not a list; write [42]'),
    ('init_seeds', 'abc', "'abc' is not a list"),
    ('init_seeds', '[]', 'the list is empty'),
    ('init_seeds', '[1, 1]', 'names something twice'),
    ('init_seeds', '[' + ', '.join(map(str, range(5000))) + ']', '5000 seeds; at most 1000'),
    ('modalities', 'image', "'image' is not a list"),
    ('nested', '1', '1 is not true or false'),
    ('backbone', '5', '5 is not text'),
    ('backbone', '""', '0 characters'),
]


@pytest.mark.parametrize('key, value, said', SETTINGS, ids=lambda x: x[:24])
def test_a_setting_out_of_range(tmp_path, capsys, key, value, said):
    "In the file and on the command line alike; the message names the setting"
    in_file = refused(capsys, 'study', given(tmp_path, f'arms:\n  full:\n    {key}: {value}\n'))
    on_line = refused(capsys, 'study', given(tmp_path, ONE), '--set', f'defaults.{key}={value}')
    assert said in in_file and said in on_line
    assert 'digits' in said or key in in_file and key in on_line


def test_settings_at_their_bounds(tmp_path):
    "What is just within is taken, and written out and read back as it was"
    from faba_nb.core.studies import LIMITS, Arm, read_study

    for key, (low, high, why) in LIMITS.items():
        many = isinstance(getattr(Arm(), key), tuple)
        for x in (low, high):
            study = read_study(
                given(tmp_path, f'arms: {{full: {{{key}: {[x] if many else x}}}}}\n')
            )
            again = read_study(given(tmp_path, study.to_yaml(), 'again.yaml'))
            assert getattr(again.arms['full'], key) == ((x,) if many else x) and why


@pytest.mark.parametrize(
    'setting, said',
    [
        (
            'max_epochs=5',
            'max_epochs is a setting of arms; for all of them write defaults.max_epochs=…',
        ),
        ('full.lr=1e-3', 'full is an arm; write arms.full.lr=…'),
        ('arms.fulll.lr=1e-3', "unknown arm 'fulll'; did you mean 'full'?"),
        ('arms.full.temporal.x=1', 'arms.full.temporal is a single value'),
        ('defualts.lr=1', "unknown key 'defualts'; did you mean 'defaults'?"),
        ('defaults', 'this is not KEY=VALUE'),
        ('arms', 'this is not KEY=VALUE'),
        ('a..b=1', 'this is not KEY=VALUE'),
        ('=5', 'this is not KEY=VALUE'),
        ('.=5', 'this is not KEY=VALUE'),
        ('', 'this is not KEY=VALUE'),
        ('defaults=5', 'this is not a mapping'),
        ('arms=', 'a study needs at least one arm'),
        ('arms.full=5', 'this is not a mapping'),
        ('name=a b', 'cannot be the name of a study'),
        ('title.x=1', 'title is a single value'),
        ('defaults.lr=[1', '--set defaults.lr=[1'),
        ('defaults.lr=*a', 'aliases such as *a'),
    ],
)
def test_set_says_what_was_meant(tmp_path, capsys, setting, said):
    assert said in refused(capsys, 'study', given(tmp_path, ONE), '--set', setting)


@pytest.mark.parametrize('verb', ['study', 'run', 'submit'])
def test_a_configuration_of_the_earlier_system(tmp_path, capsys, verb):
    "Named for what it is, with the way to its results"
    path = given(tmp_path, OLD, 'clip_backbone.yaml')
    rest = {
        'study': [],
        'run': ['--data', tmp_path, '--out', tmp_path / 'out'],
        'submit': ['--site', 'mini', '--data', tmp_path],
    }[verb]
    said = refused(capsys, verb, path, *rest)
    assert (
        'clip_backbone.yaml: this is a configuration of the earlier system, not a study' in said
        and 'faba import RESULTS --configuration clip_backbone.yaml' in said
    )


def test_what_is_written_is_read_back(tmp_path):
    "A commit such as 1234e567 is no number, and no alias is written"
    from dataclasses import replace
    from faba_nb.core.studies import read_study

    study = replace(
        read_study('demo'),
        title='no',
        provenance={'commit': '1234e567', 'a': ['1e5'], 'b': ['1e5'], 'day': '2026-11-28'},
    )
    assert read_study(given(tmp_path, study.to_yaml())) == study


def test_cache_that_cannot_be_made(tmp_path, monkeypatch):
    from faba_nb.core.errors import BadInput
    from faba_nb.core.places import cache_folder

    monkeypatch.setenv('FABA_CACHE', str(given(tmp_path, '', 'file')))
    with pytest.raises(BadInput, match='the cache cannot be written'):
        cache_folder('tables')
