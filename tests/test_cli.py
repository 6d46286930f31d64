"The command line as its user meets it: help, one line per mistake, exit codes, from any folder"
import os, subprocess, sys

import pytest
from conftest import ROOT

VERBS = 'twin check yardsticks backbones fetch features study run train evaluate report submit status sites'.split()


@pytest.mark.parametrize('verb', VERBS)
def test_help_of_every_verb(verb):
    "Every verb explains itself, every argument has its help"
    from faba_nb.running.cli import VERBS as known, _parser
    assert known[verb][0].__doc__
    assert [names for names, how in known[verb][1] if not how.get('help')] == []
    with pytest.raises(SystemExit) as e: _parser().parse_args([verb, '--help'])
    assert e.value.code == 0


def test_help_loads_nothing_heavy_and_works_from_anywhere(faba):
    r = faba('--help', cwd='/')
    assert r.returncode == 0 and all(v in r.stdout for v in VERBS) and '75 stopped in good order' in r.stdout
    code = "import sys; import faba_nb.running.cli; print([m for m in ('torch', 'open_clip', 'timm', 'matplotlib', 'pandas', 'numpy', 'papermill') if m in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd='/').stdout == '[]\n'


@pytest.mark.parametrize('args, line', [
    (['study', 'backbonez'], "unknown study 'backbonez'; did you mean 'backbones'?"),
    (['study', 'backbones', '--set', 'arms.clip.temporal=nun'], "unknown value 'nun'; did you mean 'none'?"),
    (['study', 'backbones', '--diff', 'clip', 'dino'], "unknown arm 'dino'; did you mean 'dinov2'?"),
    (['run', 'demo', '--data', '/nowhere', '--out', '/tmp/never'], '/nowhere: there is no such folder'),
    (['run', 'demo', '--out', '/tmp/never'], '--data: the experiment is not named'),
    (['evaluate'], 'neither a study nor its folder is named'),
    (['evaluate', '--out', '/nowhere'], 'there is no such study file'),
    (['status', '/nowhere'], 'no study has been run here'),
    (['submit', 'demo', '--site', 'mathi', '--data', '/d'], "unknown site 'mathi'; did you mean 'mahti'?"),
    (['submit', 'demo', '--site', 'mahti', '--data', '/d', '--account', '2001234'], 'does not look like an account'),
    (['submit', 'demo', '--site', 'mahti', '--data', '/d', '--out', '/proc/x', '--account', 'project_2001234'], 'the plan cannot be written'),
    (['sites', 'mahti'], '--account: nobody pays')], ids=lambda x: ' '.join(x)[:40] if isinstance(x, list) else '')
def test_a_mistake_is_one_line(faba, args, line):
    env = {k: v for k, v in os.environ.items() if not k.startswith(('FABA_', 'SBATCH_'))}
    r = faba(*args, env=env)
    assert r.returncode == 2, r
    assert line in r.stderr and r.stderr.count('\n') == 1 and 'Traceback' not in r.stderr, r.stderr


def test_debug_shows_where(faba):
    r = faba('study', 'backbonez', '--debug')
    assert r.returncode == 2 and 'Traceback' in r.stderr


def test_unknown_arguments_exit_2(faba):
    for args in (['nonsense'], ['run', 'demo', '--only', 'trian'], ['train', 'demo', '--shard', '3/2'], []):
        r = faba(*args)
        assert r.returncode == 2 and 'Traceback' not in r.stderr, r


def test_closed_pipe_is_no_error():
    r = subprocess.run(f'{sys.executable} -m faba_nb study backbones-seeds | head -1', shell=True, capture_output=True, text=True)
    assert r.stderr == '' and r.stdout.startswith('name:')


def test_the_three_backbones_differ_from_dinov2_in_one_key(faba):
    for arm in ('clip', 'bioclip', 'bioclip2'):
        assert faba('study', 'backbones', '--diff', arm, 'dinov2').stdout == f'backbone: {arm} -> dinov2\n'


def test_twin_and_check(tmp_path, faba):
    assert faba('twin', tmp_path/'t', '--genotypes', '3', '--height', '32').returncode == 0
    r = faba('check', tmp_path/'t')
    assert r.returncode == 0 and 'ready' in r.stdout, r.stdout + r.stderr
