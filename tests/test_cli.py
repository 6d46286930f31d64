"The command line as its user meets it: help, one line per mistake, exit codes, from any folder"

import os, re, subprocess, sys, types
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT

from faba_nb.running.cli import VERBS as KNOWN, main

VERBS = (
    'twin init check annotations yardsticks backbones fetch features verify-features import study '
    'run train evaluate report explain submit status verify compare sites'
).split()


@pytest.mark.parametrize('verb', VERBS)
def test_help_of_every_verb(verb):
    "Every verb explains itself, every argument has its help"
    from faba_nb.running.cli import _parser

    assert KNOWN[verb][0].__doc__
    assert [names for names, how in KNOWN[verb][1] if not how.get('help')] == []
    with pytest.raises(SystemExit) as e:
        _parser().parse_args([verb, '--help'])
    assert e.value.code == 0


def test_help_names_every_default():
    "Every option that may be left out says what holds then"
    optional = lambda names, how: (
        names[0].startswith('-') and not how.get('required') and how.get('action') != 'store_true'
    )
    silent = [
        (v, names[0])
        for v, (_, args) in KNOWN.items()
        for names, how in args
        if optional(names, how) and '(default: ' not in how['help']
    ]
    assert silent == []


def documented():
    "Every call in code in the README's table of verbs"
    table = (ROOT / 'README.md').read_text().split('| verb | does |')[1].split('\n\n')[0]
    rows = [line.split('|')[1:3] for line in table.splitlines()[2:]]
    return [(call, does) for calls, does in rows for call in re.findall('`([^`]+)`', calls)]


def test_the_readme_names_every_verb_and_no_other():
    assert sorted({call.split()[0] for call, _ in documented()}) == sorted(KNOWN)


@pytest.mark.parametrize('call, does', documented(), ids=lambda x: x.split()[0])
def test_verbs_as_documented(call, does, capsys):
    "`faba VERB --help` works for every verb of the README, and names the options that stand there"
    with pytest.raises(SystemExit) as e:
        main([call.split()[0], '--help'])
    shown = capsys.readouterr().out
    assert (
        e.value.code == 0
        and [
            o
            for o in re.findall(r'--[a-z-]+', call + ('' if ',' in call else does))
            if o not in shown
        ]
        == []
    )


def test_help_loads_nothing_heavy_and_works_from_anywhere(faba):
    r = faba('--help', cwd='/')
    assert (
        r.returncode == 0
        and all(v in r.stdout for v in VERBS)
        and '75 stopped in good order' in r.stdout
    )
    code = """
import sys
import faba_nb.running.cli
slow = ('torch', 'open_clip', 'timm', 'matplotlib', 'pandas', 'numpy', 'papermill')
print([m for m in slow if m in sys.modules])
"""
    assert (
        subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd='/').stdout
        == '[]\n'
    )


@pytest.mark.parametrize(
    'args, line',
    [
        (['study', 'backbonez'], "unknown study 'backbonez'; did you mean 'backbones'?"),
        (
            ['study', 'backbones', '--set', 'arms.clip.temporal=nun'],
            "unknown value 'nun'; did you mean 'none'?",
        ),
        (
            ['study', 'backbones', '--diff', 'clip', 'dino'],
            "unknown arm 'dino'; did you mean 'dinov2'?",
        ),
        (
            ['run', 'demo', '--data', '/nowhere', '--out', 'NEVER'],
            '/nowhere: there is no such folder',
        ),
        (['run', 'demo', '--out', 'NEVER'], '--data: the experiment is not named'),
        (['evaluate'], 'neither a study nor its folder is named'),
        (['evaluate', '--out', '/nowhere'], 'no study has been run here'),
        (['status', '/nowhere'], '/nowhere: there is no such folder'),
        (
            ['submit', 'demo', '--site', 'mathi', '--data', '/d'],
            "unknown site 'mathi'; did you mean 'mahti'?",
        ),
        (
            ['submit', 'demo', '--site', 'mahti', '--data', '/d', '--account', '2001234'],
            'does not look like an account',
        ),
        (
            [
                'submit',
                'demo',
                '--site',
                'mahti',
                '--data',
                '/d',
                '--out',
                '/proc/x',
                '--account',
                'project_2001234',
            ],
            'the plan cannot be written',
        ),
        (['sites', 'mahti'], '--account: no billing account given'),
        (['rnu', 'demo'], "faba: unknown verb 'rnu'; did you mean 'run'?"),
        (['run', 'demo', '--dta', '/d'], "unknown option '--dta'; did you mean '--data'?"),
        (
            ['features', '--backbone', 'clip'],
            "unknown option '--backbone'; did you mean '--backbones'?",
        ),
        (
            ['twin', 'NEVER', '--world', 'onst'],
            "--world: unknown world 'onst'; did you mean 'onset'?",
        ),
        (['run', 'demo', '--only', 'trian'], "--only: unknown step 'trian'; did you mean 'train'?"),
        (
            ['report', 'demo', '--only', 'genotyps'],
            "--only: unknown report 'genotyps'; did you mean 'genotypes'?",
        ),
        (
            ['features', '--data', '/d', '--backbones', 'dinoo2'],
            "unknown backbone 'dinoo2'; did you mean 'dinov2'?",
        ),
        (
            ['features', '--data', '/d', '--backbones', 'clip', '--layer', 'nrm'],
            "--layer: unknown layer 'nrm'; did you mean 'norm'?",
        ),
        (['features', '--data', '/d'], '--backbones: no backbone is named'),
        (
            ['features', '--data', '/d', '--fill-gaps', '/nowhere.h5'],
            '/nowhere.h5: there is no such file of features',
        ),
        (['fetch', 'clipp'], "unknown backbone 'clipp'; did you mean 'clip'?"),
        (
            ['study', 'backbones', '--set', 'max_epochs=5'],
            'for all of them write defaults.max_epochs=…',
        ),
        (['study', 'backbones', '--set', 'max_epoch=5'], "did you mean 'defaults.max_epochs'?"),
        (['study', 'backbones', '--set', 'clip.lr=1'], 'write arms.clip.lr'),
        (
            ['study', 'backbones', '--set', 'arms.clipp.lr=1'],
            "unknown arm 'clipp'; did you mean 'clip'?",
        ),
        (
            ['study', 'backbones', '--set', 'defaults.backbone=clip'],
            'this changes nothing: every arm sets backbone itself',
        ),
        (
            ['train', 'demo', '--data', '/d', '--arms', 'morfology'],
            "--arms: unknown arm 'morfology'; did you mean 'morphology'?",
        ),
        (['run'], 'faba run: STUDY is missing'),
        (['run', 'demo', '--out'], '--out: its value is missing'),
        (['study', 'backbones', '--diff', 'clip'], '--diff: its 2 values are missing'),
        (['study', 'demo', 'more'], "'more' is more than this takes; `faba study --help`"),
        (['yardsticks', '--power=5'], '--power: this takes no value'),
        (['yardsticks', '--plants', '/p.csv'], '--plants and --rounds belong together'),
        (['check', 'a' * 300], 'file name too long'),
    ],
    ids=lambda x: ' '.join(x)[:40] if isinstance(x, list) else '',
)
def test_a_mistake_is_one_line(args, line, capsys, monkeypatch, tmp_path):
    args = [a.replace('NEVER', str(tmp_path / 'never')) for a in args]
    for k in [k for k in os.environ if k.startswith(('FABA_', 'SBATCH_'))]:
        monkeypatch.delenv(k)
    code, said = main(args), capsys.readouterr()
    assert code == 2 and line in said.err and said.err.count('\n') == 1, said
    assert (
        said.err.startswith('faba ' if args[0] in KNOWN else 'faba: ')
        and 'usage' not in said.err
        and not (tmp_path / 'never').exists()
    )


def test_a_mistake_in_a_process_of_its_own(faba):
    r = faba('train', 'demo', '--shrad', '1/4')
    assert (r.returncode, r.stdout, r.stderr) == (
        2,
        '',
        "faba train: unknown option '--shrad'; did you mean '--shard'?\n",
    )


def test_debug_shows_where(faba):
    r = faba('study', 'backbonez', '--debug')
    assert r.returncode == 2 and 'Traceback' in r.stderr


def test_unknown_arguments_exit_2(faba):
    for args in (
        ['nonsense'],
        ['run', 'demo', '--only', 'trian'],
        ['train', 'demo', '--shard', '3/2'],
        ['--debug'],
    ):
        r = faba(*args)
        assert r.returncode == 2 and r.stderr.count('Traceback') == ('--debug' in args), r


def test_faba_alone_shows_the_help(faba):
    r = faba()
    assert (r.returncode, r.stdout, r.stderr) == (0, faba('--help').stdout, '')


@pytest.mark.parametrize(
    'args',
    [('twin', 'NEVER', '--genotypes', v) for v in ('0', '-3', '45', '1e9', 'many', '9' * 5000)]
    + [('twin', 'NEVER', '--seed', v) for v in ('-1', '1.5', '9' * 30)]
    + [('twin', 'NEVER', '--height', v) for v in ('31', '0', '100000')]
    + [
        (*verb, o, v)
        for verb in (('twin', 'NEVER'), ('features', '--data', '/d', '--backbones', 'clip'))
        for o in ('--workers',)
        for v in ('0', '-1', '100000')
    ]
    + [
        ('features', '--data', '/d', '--backbones', 'clip', o, v)
        for o, v in (
            ('--batch', '0'),
            ('--batch', '-4'),
            ('--batch', '10000000'),
            ('--shard', '0/4'),
            ('--shard', '5/4'),
            ('--shard', '-1/4'),
            ('--shard', '1/99999'),
        )
    ],
    ids=lambda a: f'{a[0]} {a[-2]} {a[-1][:9]}',
)
def test_numbers_are_refused_by_their_range(args, capsys, tmp_path):
    "Before any work: exit code 2, one line that names the option and the range"
    assert main([a.replace('NEVER', str(tmp_path / 'never')) for a in args]) == 2
    said = capsys.readouterr()
    assert (
        said.out == ''
        and said.err.count('\n') == 1
        and f'{args[-2]}: ' in said.err
        and re.search(r'give [\d.]+ to [\d.]+|as in 1/4|for example 1/4|I counts from 1', said.err)
    ), said.err
    assert not (tmp_path / 'never').exists()


def test_closed_pipe_is_no_error():
    r = subprocess.run(
        f'{sys.executable} -m faba_nb study backbones-seeds | head -1',
        shell=True,
        capture_output=True,
        text=True,
    )
    assert r.stderr == '' and r.stdout.startswith('name:')


def test_the_three_backbones_differ_from_dinov2_in_one_key(faba):
    for arm in ('clip', 'bioclip', 'bioclip2'):
        assert (
            faba('study', 'backbones', '--diff', arm, 'dinov2').stdout
            == f'backbone: {arm} -> dinov2\n'
        )


def test_twin_and_check(tmp_path, faba):
    "Three genotypes make an experiment that can be read, but no folds: not ready, and `run` says the same"
    assert faba('twin', tmp_path / 't', '--genotypes', '3', '--height', '32').returncode == 0
    r = faba('check', tmp_path / 't')
    assert (
        r.returncode == 2
        and 'ready:' not in r.stdout
        and 'no study that comes with the repository can run' in r.stderr
    ), r.stdout + r.stderr
    assert 'each of Early, Mid and Late needs two genotypes' in ' '.join(r.stdout.split()), r.stdout


# ---- a study or its folder ----


@pytest.fixture
def folder(tmp_path, twin):
    "The folder of a study that was run on the twin, without its results"
    from faba_nb.core.files import write_json, write_text
    from faba_nb.core.studies import read_study

    out = tmp_path / 'results' / 'demo'
    write_text(read_study('demo', ['defaults.max_epochs=3']).to_yaml(), out / 'study.yaml')
    write_json(
        {
            'data': str(twin),
            'features': str(tmp_path / 'features'),
            'simulated': {},
            'genotypes': 12,
        },
        out / 'run.json',
    )
    return out


@pytest.fixture
def ran(monkeypatch):
    "What `run_study` is asked to do instead of doing it"
    from faba_nb.running import cli, pipeline

    calls = []

    def note(study, data, features, out, only, options):
        calls.append(
            (
                study.arms['morphology'].max_epochs,
                data and str(data),
                features and str(features),
                str(out),
                list(only),
            )
        )

    monkeypatch.setattr(pipeline, 'run_study', note)
    monkeypatch.setattr(cli, 'show_comparison', lambda out: None)
    monkeypatch.delenv('FABA_DATA', raising=False)
    return calls


@pytest.mark.parametrize(
    'verb, only',
    [
        ('run', ['features', 'train', 'evaluate', 'explain', 'report']),
        ('train', ['train']),
        ('evaluate', ['evaluate']),
        ('report', ['report']),
    ],
)
def test_a_study_or_its_folder(verb, only, folder, twin, ran, monkeypatch):
    "By its folder, by the study file in it, by its name, by --out alone: the same study in the same folder"
    from faba_nb.core.studies import read_study
    from faba_nb.running import preconditions

    monkeypatch.setattr(preconditions, 'require', lambda *args: None)
    monkeypatch.setenv('FABA_RESULTS', str(folder.parent))
    data, features = (
        (str(twin), str(folder.parent.parent / 'features')) if 'train' in only else (None, None)
    )
    assert main([verb, str(folder)]) == 0 and main([verb, str(folder / 'study.yaml')]) == 0
    assert ran == [(3, data, features, str(folder), only)] * 2
    assert main([verb, 'demo']) == 0
    epochs = read_study('demo').arms['morphology'].max_epochs
    assert ran[2] == (epochs, data, features, str(folder), only)
    if verb in ('evaluate', 'report'):
        assert main([verb, '--out', str(folder)]) == 0 and ran[3] == ran[0]


def test_the_folder_wins_over_the_environment(folder, twin, ran, monkeypatch, tmp_path):
    "FABA_DATA names another experiment: a study in a folder goes on with its own, also its pages"
    from faba_nb.running import preconditions

    monkeypatch.setattr(preconditions, 'require', lambda *args: None)
    monkeypatch.setenv('FABA_DATA', str(tmp_path))
    for args in (
        ['train', str(folder)],
        ['report', str(folder)],
        ['report', 'demo', '--out', str(folder)],
    ):
        assert main(args) == 0
    assert [c[1] for c in ran] == [str(twin), None, None]


def test_status_study_and_submit_take_either(folder, twin, capsys, monkeypatch):
    monkeypatch.setenv('FABA_RESULTS', str(folder.parent))
    monkeypatch.delenv('FABA_DATA', raising=False)
    shown = []
    for args in (
        ['status', str(folder)],
        ['status', 'demo'],
        ['status', str(folder / 'study.yaml')],
    ):
        assert main(args) == 0
        shown.append(capsys.readouterr().out.split('\n', 1)[1])
    assert shown[0] == shown[1] == shown[2] and 'train' in shown[0]
    assert (
        main(['study', str(folder)]) == 0
        and capsys.readouterr().out == (folder / 'study.yaml').read_text()
    )
    for named in (str(folder), 'demo'):
        assert main(['submit', named, '--site', 'mini', '--data', str(twin)]) == 0, (
            capsys.readouterr().err
        )
        assert f'out       {folder}\n' in capsys.readouterr().out
    assert main(['submit', str(folder), '--site', 'mini']) == 0
    assert (
        f'{folder}/study.yaml' in (folder / 'submit.sh').read_text()
        and f'data      {twin}' in capsys.readouterr().out
    )


def test_folders_that_are_no_study(folder, capsys, monkeypatch):
    "None, several, one that only was planned, two at once, and a name that means both"

    def refused(*args):
        assert main(list(map(str, args))) == 2
        said = capsys.readouterr().err
        assert said.count('\n') == 1
        return said

    assert f'give one of {folder}' in refused('report', folder.parent)
    (folder.parent / 'empty').mkdir()
    assert 'no study has been run here: study.yaml is missing; give the --out folder' in refused(
        'report', folder.parent / 'empty'
    )
    (folder.parent / 'planned' / 'jobs').mkdir(parents=True)
    (folder.parent / 'planned' / 'jobs' / 'plan.json').write_text('{}')
    assert 'it is only planned: name the study instead' in refused(
        'evaluate', folder.parent / 'planned'
    )
    assert 'two folders are named' in refused('run', folder, '--out', folder.parent / 'empty')
    (folder.parent / 'file.txt').touch()
    assert 'a study file ends in .yaml' in refused('report', folder.parent / 'file.txt')
    monkeypatch.chdir(folder.parent)
    assert 'demo is a study, and here also a folder that holds one; give ./demo' in refused(
        'report', 'demo'
    )


# ---- what would stop a study is known before ----


def copied(twin, to, without=()):
    "A twin's folder again, of links; some of its files left out"
    to.mkdir(parents=True)
    for p in twin.iterdir():
        if p.name in ('features', *without):
            continue
        inside = [w for w in without if w.startswith(f'{p.name}/')]
        if not inside:
            (to / p.name).symlink_to(p)
        else:
            copied(p, to / p.name, [w.split('/', 1)[1] for w in inside])
    return to


def of_demo(data, **how):
    "What stands in the way of the study `demo`"
    from faba_nb.core.studies import read_study
    from faba_nb.running.preconditions import preconditions

    return [str(p) for p in preconditions(read_study('demo'), data, **how)]


def owners_table(twin, change):
    "The twin's plants in the owner's form, changed"
    from faba_nb.experiment.experiment_folder import Experiment

    xp = Experiment(twin)
    t = xp.plants[['plant_id', 'genotype', 'treatment', 'replicate', 'onset_dag']].rename(
        columns={'genotype': 'accession', 'onset_dag': 'dag_drought_onset'}
    )
    return change(t)


def four(t):
    return t[t.accession.isin(t[t.dag_drought_onset > 20].accession.unique()[:4])]


def no_drought(t):
    return t[(t.accession != t.accession.iloc[0]) | (t.treatment == 'WHC-80')]


def no_control(t):
    return t[(t.accession != t.accession.iloc[0]) | (t.treatment == 'WHC-30')]


@pytest.mark.parametrize(
    'change, line',
    [
        (four, 'no genotype has an Early onset'),
        (no_drought, 'has no drought plant (WHC-30)'),
        (no_control, 'has no control plant (WHC-80)'),
    ],
    ids=['no Early', 'no drought', 'no control'],
)
def test_plants_that_make_no_folds(change, line, twin, tmp_path, capsys):
    "`run` and `train` refuse before any work, and `check` says the same of every study"
    from faba_nb.running.preconditions import can_run

    data = copied(twin, tmp_path / 'data')
    owners_table(twin, change).to_csv(data / 'plant_metadata.csv', index=False)
    for verb in ('run', 'train'):
        assert main([verb, 'demo', '--data', str(data), '--out', str(tmp_path / 'out')]) == 2
        said = capsys.readouterr().err
        assert line in said and said.count('\n') == 1 and not (tmp_path / 'out').exists()
    table = can_run(data)
    assert (
        set(table['can run']) == {'no'} and table['why not'].str.contains(line, regex=False).all()
    )


@pytest.mark.parametrize('where, to', [('img/loop', '..'), ('itself', 'itself'), ('again', '.')])
def test_a_link_to_itself(where, to, twin, tmp_path, capsys):
    "Named by `check` and by `run`; in seconds"
    data = copied(twin, tmp_path / 'data', without=['img/nothing'])
    (data / where).symlink_to(to)
    assert main(['run', 'demo', '--data', str(data), '--out', str(tmp_path / 'out')]) == 2
    assert (
        capsys.readouterr().err
        == f'faba run: {data / where}: this link leads back to a folder it lies in; remove it\n'
    )
    assert of_demo(data) == [
        f'{data / where}: this link leads back to a folder it lies in; remove it'
    ]


def test_a_modality_without_its_table(twin, tmp_path):
    "Only the arms that need it are named, each reason once; the study without photographs is not asked for features"
    from faba_nb.core.studies import study_from
    from faba_nb.running.preconditions import can_run, preconditions

    data = copied(twin, tmp_path / 'data', without=['TimeCourse Datasets/EnvData_FabaDr.xlsx'])
    arms = {
        'a': {'modalities': ['env', 'vi']},
        'b': {'modalities': ['env']},
        'c': {'modalities': ['vi']},
    }
    found = preconditions(study_from({'name': 's', 'arms': arms}), data)
    assert (
        len(found) == 1
        and 'EnvData_FabaDr.xlsx' in str(found[0])
        and '(arms a, b)' in str(found[0])
    ), found
    table = can_run(data).set_index('study')
    assert table['can run']['distillation'] == 'no' and 'EnvData' in table['why not']['demo'], table


def test_encoders_weights_and_photographs(twin, tmp_path, monkeypatch):
    "Unknown encoders stop a study; weights not fetched stop `run`, not the data; training alone wants features"
    from faba_nb.core.studies import read_study
    from faba_nb.running.preconditions import NotFetched, can_run, preconditions

    monkeypatch.setenv('HF_HUB_CACHE', str(tmp_path / 'cache'))
    demo, clip, slip = (
        read_study('demo', s)
        for s in ((), ['arms.morphology.backbone=clip'], ['arms.morphology.backbone=clipp'])
    )
    assert preconditions(demo, twin, tmp_path / 'features') == []
    found = preconditions(clip, twin, tmp_path / 'features')
    assert [type(p) for p in found] == [NotFetched] and 'run `faba fetch clip`' in str(found[0])
    assert preconditions(clip, twin, tmp_path / 'features', weights=False) == []
    assert [str(p) for p in preconditions(slip, twin, tmp_path / 'features')] == [
        "unknown backbone 'clipp'; did you mean 'clip'?"
    ]
    lacking = preconditions(demo, twin, tmp_path / 'features', only=('train',))
    assert (
        len(lacking) == 1
        and 'there are no features of morphology, effnet_lite0, random_vit' in str(lacking[0])
        and 'faba features --data' in str(lacking[0])
    )
    table = can_run(twin, tmp_path / 'features').set_index('study')['can run']
    assert (table['demo'], table['backbones']) == ('yes', 'once fetched')


def test_check_is_ready_where_run_is(twin, faba):
    r = faba('check', twin)
    assert r.returncode == 0 and r.stdout.splitlines()[-1].startswith('ready: demo, one'), (
        r.stdout + r.stderr
    )


def test_nothing_is_asked_of_a_finished_study(monkeypatch, twin, tmp_path):
    "Where no step would do anything, no table is read again"
    from faba_nb.core.studies import read_study
    from faba_nb.running import preconditions as p

    monkeypatch.setattr(p, 'reason', lambda step, out: '')
    monkeypatch.setattr(p, 'preconditions', lambda *a, **k: pytest.fail('asked'))
    p.require(read_study('demo'), twin, None, tmp_path / 'out')


# ---- information-free baselines ----


def test_yardsticks_of_any_experiment(twin, tmp_path, capsys):
    "Of a twin as photographed, of the plan in the repository, of two tables; not of one genotype"
    from faba_nb.evaluation.information_free import plan_of, planned, power_plan, score_plan
    from faba_nb.experiment.experiment_folder import Experiment

    plants, rounds, source = plan_of(twin)
    seen = Experiment(twin).images.groupby('plant_id')['round'].nunique()
    assert (
        source == 'as photographed'
        and (plants.set_index('plant_id').available_timepoints.map(len) == seen).all()
    )
    assert main(['yardsticks', '--data', str(twin), '--csv', str(tmp_path / 't.csv')]) == 0
    clock = lambda t: t.set_index(['arm', 'group', 'metric']).value[
        'treatment_clock', 'published', 'f1'
    ]
    assert clock(pd.read_csv(tmp_path / 't.csv')) == pytest.approx(
        clock(score_plan(plants, rounds))
    )
    assert main(['yardsticks']) == 0 and 'the plan in data/design' in capsys.readouterr().out
    assert round(clock(score_plan(*planned())), 3) == 0.762
    few = plants[plants.genotype.isin(plants.genotype.unique()[:2])].reset_index(drop=True)
    assert power_plan(few, rounds, seeds=(1,)).detectable_difference_80.gt(0).all()
    one = copied(twin, tmp_path / 'one')
    owners_table(twin, lambda t: t[t.accession == t.accession.iloc[0]]).to_csv(
        one / 'plant_metadata.csv', index=False
    )
    assert (
        main(['yardsticks', '--data', str(one)]) == 2
        and '1 genotype of this plan has an onset' in capsys.readouterr().err
    )


def test_yardsticks_of_the_real_tables(shared, capsys):
    "The folder of the two tables is an experiment, too: F1 0.763 for the time-and-treatment baseline"
    assert main(['yardsticks', '--data', str(shared / 'faba')]) == 0
    said = capsys.readouterr().out
    assert 'as written in plant_metadata.csv' in said and re.search(
        r'treatment_clock +0\.763 +0\.998 +6\.068', said
    ), said


# ---- verbs that pass on what others find ----


def test_verify_prints_a_line_per_difference(folder, monkeypatch, capsys):
    told = pd.DataFrame(
        [('arms/a/predictions.csv', 'its hash differs', 'faba train OUT')],
        columns=['file', 'problem', 'run'],
    )
    asked, stub = [], types.ModuleType('faba_nb.running.verifying')
    stub.verify = lambda out: asked.append(str(out)) or told
    monkeypatch.setitem(sys.modules, stub.__name__, stub)
    assert main(['verify', str(folder)]) == 1 and asked == [str(folder)]
    said = capsys.readouterr()
    assert (
        said.out == 'arms/a/predictions.csv: its hash differs; faba train OUT\n'
        and said.err.startswith('faba verify: 1 file is not as recorded')
    )
    told = told[:0]
    told.attrs['files'] = 7
    assert main(['verify', str(folder)]) == 0 and capsys.readouterr().out == '7 files as recorded\n'


def test_features_without_a_match_are_no_success(monkeypatch, capsys):
    from faba_nb.backbones import verification

    answer = verification.Verification(
        pd.DataFrame(),
        False,
        'x.h5 holds 768 numbers per photograph; weights to fetch first: `faba fetch clip`',
        ['clip'],
    )
    monkeypatch.setattr(verification, 'verify_features', lambda *a: answer)
    assert main(['verify-features', 'x.h5', '--data', '/d']) == 1
    assert capsys.readouterr() == ('', f'faba verify-features: {answer.text}\n')
    answer.matches = True
    assert (
        main(['verify-features', 'x.h5', '--data', '/d']) == 0
        and capsys.readouterr().out == answer.text + '\n'
    )


def test_features_end_with_the_photographs_that_are_bad(monkeypatch, tmp_path, capsys):
    "The closing lines are those of `summary_text`, after a pass and after filling gaps"
    from faba_nb.backbones import extraction

    bad = [dict(path='a.png', status='corrupt', reason='truncated')]
    summary = dict(
        photographs=4,
        decoded=4,
        seconds=1.0,
        made=['clip_features.h5'],
        skipped=[],
        unfinished=[],
        bad=bad,
        gaps={},
        counts=dict(used=3, corrupt=1),
        earlier={},
    )
    asked = []
    monkeypatch.setattr(extraction, 'extract', lambda *a, **k: summary)
    monkeypatch.setattr(
        extraction, 'fill_gaps', lambda *a, **k: asked.append((a, k)) or summary, raising=False
    )
    (tmp_path / 'clip_features.h5').touch()
    for args in (
        ['--backbones', 'clip'],
        ['--fill-gaps', str(tmp_path / 'clip_features.h5'), '--batch', '8'],
    ):
        assert main(['features', '--data', '/d', *args]) == 0
        assert capsys.readouterr().out == extraction.summary_text(summary) + '\n'
    assert 'a.png: corrupt, truncated' in extraction.summary_text(summary)
    assert asked == [
        ((str(tmp_path / 'clip_features.h5'), '/d', None), dict(workers=None, batch=8))
    ]
    assert (
        main(
            [
                'features',
                '--data',
                '/d',
                '--fill-gaps',
                str(tmp_path / 'clip_features.h5'),
                '--shard',
                '1/2',
            ]
        )
        == 2
    )
