"Plans, batch files, and a real Slurm on this machine (slurm/mini)"
import json, os, re, shutil, signal, subprocess, sys, time
from pathlib import Path

import pytest
from conftest import ROOT, once
from test_running import TINY, contents, study

GOLDEN = ROOT/'tests'/'golden'
FILES = [str(p) for p in sorted((ROOT/'slurm').rglob('*')) if p.suffix in ('.sh', '.sbatch') and p.name != 'here.sh']
HERE = {'repository': str(ROOT), 'user': subprocess.run(['id', '-un'], capture_output=True, text=True).stdout.strip()}


def plan_of(site, split, name='backbones'):
    "Plan and script for the real study on a cluster that is not here"
    from dataclasses import replace
    from faba_nb.core.studies import read_study
    from faba_nb.running.sites import read_site
    from faba_nb.running.submitting import describe, make_plan, script
    base = '/scratch/project_2001234/faba'
    plan = make_plan(read_study(name), name, read_site(site), 'project_2001234', f'{base}/data', None, f'{base}/results/{name}', split=split)
    plan = replace(plan, most=None)
    text = describe(plan) + '\n' + script(plan)
    return text.replace(HERE['repository'], '/home/user/faba_nb').replace(f'/{HERE["user"]}/', '/user/')


@pytest.mark.parametrize('split', [False, True], ids=['one', 'chain'])
@pytest.mark.parametrize('site', ['mahti', 'roihu'])
def test_plans_are_golden(site, split):
    "Partitions, gres, modules and times of the real study: a change of them has to be meant (FABA_GOLDEN=1 writes the files anew)"
    path, text = GOLDEN/f'plan_{site}_{"chain" if split else "one"}.txt', plan_of(site, split)
    if os.environ.get('FABA_GOLDEN'): path.write_text(text)
    assert text == path.read_text()


def test_plans_say_what_the_sites_say():
    "The golden files are not only the same as before but right"
    mahti, roihu = ((GOLDEN/f'plan_{s}_chain.txt').read_text() for s in ('mahti', 'roihu'))
    assert mahti.count('--partition=gpusmall --gres=gpu:a100:1,nvme:100 --cpus-per-task=32') == 2 and mahti.count('--partition=small --cpus-per-task=8') == 1
    assert roihu.count('--partition=gpumedium --gres=gpu:gh200:1 --cpus-per-task=72') == 3
    assert "FABA_MODULES=pytorch/2.9" in mahti and "FABA_MODULES=python-pytorch/2.10" in roihu
    for text in (mahti, roihu):
        assert text.count('--account=project_2001234') == 4 and text.count('--signal=B:USR1@') == 3
        assert not re.search(r'--array|--mem', text)


def test_shell_files_are_sound(tmp_path):
    for site in ('mahti', 'roihu'):
        for split in (False, True):
            text = plan_of(site, split)
            (tmp_path/f'{site}_{split}.sh').write_text(text[text.index('#!/bin/bash'):])
    files = FILES + [str(p) for p in tmp_path.iterdir()]
    for f in files: assert subprocess.run(['bash', '-n', f], capture_output=True, text=True).stderr == ''
    if not shutil.which('shellcheck'): pytest.skip('shellcheck is not installed')
    assert subprocess.run(['shellcheck', '-x', *files], capture_output=True, text=True, cwd=ROOT).stdout == ''


def test_batch_files_hold_no_site():
    "A site's facts stand in its profile and nowhere else"
    words = re.compile(r'gpusmall|gpumedium|a100|gh200|pytorch/|project_2|LOCAL_SCRATCH|mahti|roihu', re.I)
    for f in FILES:
        if '/mini/' not in f: assert words.findall(Path(f).read_text()) == [], f


def test_without_account_only_go_refuses(tmp_path, faba):
    env = {k: v for k, v in os.environ.items() if k not in ('FABA_ACCOUNT', 'SBATCH_ACCOUNT')}
    args = ('submit', 'demo', '--site', 'mahti', '--data', tmp_path, '--out', tmp_path/'out')
    r = faba(*args, env=env)
    assert r.returncode == 0 and '--account=<missing>' in r.stdout and '--account=<missing>' in (tmp_path/'out'/'submit.sh').read_text()
    r = faba(*args, '--go', env=env)
    assert r.returncode == 2 and r.stderr == 'faba submit: --account: nobody pays for these jobs; give --account=project_NNNNNNN, or set FABA_ACCOUNT\n'


def test_without_sbatch_the_script_is_to_be_pasted(tmp_path, faba):
    r = faba('submit', 'demo', '--site', 'mahti', '--account', 'project_2001234', '--data', tmp_path, '--out', tmp_path/'out', '--go', env={**os.environ, 'PATH': '/nowhere'})
    assert r.returncode == 2 and f'paste this into a login shell: bash {tmp_path}/out/submit.sh' in r.stderr


def test_site_without_gpu_for_a_gpu_arm(tmp_path, faba):
    text = (ROOT/'slurm'/'sites'/'mini.toml').read_text()
    (tmp_path/'cpu.toml').write_text(text[:text.index('[gpu]')] + text[text.index('[cpu]'):])
    r = faba('submit', 'backbones', '--site', tmp_path/'cpu.toml', '--data', tmp_path, '--out', tmp_path/'out')
    assert r.returncode == 2 and r.stderr.count('\n') == 1 and 'arm dinov2 looks at photographs through dinov2, which needs a GPU' in r.stderr
    assert faba('submit', 'demo', '--site', tmp_path/'cpu.toml', '--data', tmp_path, '--out', tmp_path/'out').returncode == 0


# ---- on the mini site ------------------------------------------------------------------------------------------------

def tools():
    "What the mini site needs and this machine lacks"
    path = os.environ['PATH'] + ':/usr/sbin:/sbin'
    if os.getuid() != 0: return 'root'
    return next((t for t in ('slurmctld', 'slurmd', 'slurmdbd', 'munged', 'mariadbd', 'sacctmgr') if not shutil.which(t, path=path)), None)


full = [pytest.mark.full, pytest.mark.skipif(tools() is not None, reason=f'the mini Slurm needs {tools()} (see slurm/mini/up.sh)')]


@pytest.fixture(scope='session')
def mini():
    "A real Slurm; its environment"
    dir = os.environ.get('FABA_MINI', '/var/tmp/faba-mini')
    running = (Path(dir)/'run'/'slurmctld.pid').exists()
    said = subprocess.run(['bash', ROOT/'slurm'/'mini'/'up.sh'], capture_output=True, text=True, timeout=180)
    assert said.returncode == 0, said.stderr
    env = {**os.environ, 'SLURM_CONF': re.search(r'SLURM_CONF=(\S+)', said.stdout)[1], 'FABA_FEED_SECONDS': '1'}
    yield env
    subprocess.run(['scancel', '-u', 'root'], env=env)
    if not running: subprocess.run(['bash', ROOT/'slurm'/'mini'/'down.sh'], env=env, capture_output=True)


@pytest.fixture(scope='session')
def reference(tmp_path_factory, twin):
    "The tiny study to its tables by `faba run`, on features of its own"
    def make(folder):
        folder.mkdir()
        subprocess.run([sys.executable, '-m', 'faba_nb', 'run', study(folder), '--data', twin, '--out', folder/'out', '--features', folder/'features', '--only', 'features,train,evaluate'], check=True, capture_output=True)
    return once(tmp_path_factory, 'reference', make)


def queue(env): return subprocess.run(['squeue', '-h', '-o', '%i %j %T %r'], env=env, capture_output=True, text=True).stdout.splitlines()


def wait_for(what, condition, seconds=300):
    end = time.time() + seconds
    while time.time() < end:
        if condition(): return
        time.sleep(.5)
    raise AssertionError(f'{what} did not happen in {seconds} s')


def tables(out): return {k: v for k, v in contents(out, 'tables/*.csv').items() if not k.endswith('cost.csv')}


def submit(env, reference, twin, out, *more):
    return subprocess.run([sys.executable, '-m', 'faba_nb', 'submit', reference/'tiny.yaml', '--site', 'mini', '--venv', sys.prefix, '--data', twin, '--features', reference/'features', '--out', out, *map(str, more)], env=env, capture_output=True, text=True)


@pytest.mark.parametrize('site, name', [(s, n) for s in ('mahti', 'roihu') for n in ('one', 'chain')])
@pytest.mark.slurm
@full[1]
def test_sbatch_accepts_the_scripts_of_the_clusters(mini, site, name, tmp_path):
    "`sbatch --test-only` on nodes of the sizes of Mahti's and Roihu's"
    lines = re.findall(r"^job \S+ (?:''|'[^']*'|\S+) (--account.*?) /home/user/faba_nb/slurm/(\S+)", (GOLDEN/f'plan_{site}_{name}.txt').read_text(), re.M)
    assert lines
    subprocess.run(['scontrol', 'delete', 'reservation=nobody'], env=mini, capture_output=True)
    try:
        for opts, file in lines:
            opts = opts.replace('project_2001234', 'project_2013932').split()
            r = subprocess.run(['sbatch', '--test-only', *opts, ROOT/'slurm'/file, 'backbones'], env=mini, capture_output=True, text=True, cwd=tmp_path)
            assert r.returncode == 0 and 'to start at' in r.stderr, r.stderr
    finally: subprocess.run(['bash', ROOT/'slurm'/'mini'/'up.sh'], env=mini, capture_output=True)


@pytest.mark.slurm
@full[1]
def test_chain_through_a_killed_feeder_and_a_cancelled_job(mini, reference, twin, tmp_path):
    "More jobs than the account may have in the queue; the feeder killed; a job cancelled; the tables are those of `faba run`"
    out = tmp_path/'out'
    r = submit(mini, reference, twin, out, '--split', '--hours', '0.0027')
    assert r.returncode == 0 and (out/'submit.sh').read_text().count('\njob ') == 6, r.stdout
    feeder = subprocess.Popen(['bash', out/'submit.sh'], env=mini, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for('the first four jobs', lambda: len(list((out/'jobs').glob('*.id'))) == 4)
    second = subprocess.run(['bash', out/'submit.sh'], env=mini, capture_output=True, text=True)
    assert second.returncode == 75 and 'is feeding this study already' in second.stderr
    os.killpg(feeder.pid, signal.SIGKILL)
    feeder.wait()
    victim = (out/'jobs'/'train-1of5.id').read_text().strip()
    subprocess.run(['scancel', victim], env=mini, check=True)
    wait_for('the cancelled job to leave', lambda: not any(l.startswith(f'{victim} ') for l in queue(mini)))
    again = subprocess.run(['bash', out/'submit.sh'], env=mini, capture_output=True, text=True, timeout=400)
    assert again.returncode == 0 and 'refused' not in again.stderr, again.stderr
    wait_for('the tables', lambda: (out/'steps'/'evaluate.json').exists())
    subprocess.run(['scancel', '-u', 'root'], env=mini) # the pages are another test's
    assert tables(out) == tables(reference/'out')
    ids = subprocess.run(['sacct', '-n', '-P', '-X', '-o', 'JobID,JobName', '-S', 'now-1hours'], env=mini, capture_output=True, text=True).stdout
    assert len(re.findall(r'faba-tiny-train-2of5', ids)) == 1, ids


@pytest.mark.slurm
@full[1]
def test_a_job_outlives_its_time_limit(mini, reference, twin, tmp_path):
    "Signal before the limit, checkpoint, requeue, go on; a killed kernel on the way; nothing trained twice"
    out = tmp_path/'out'
    LONG = (reference/'tiny.yaml', '--set', 'arms.morphology.modalities=[env]', '--set', 'defaults.max_epochs=60', '--set', 'defaults.patience=60')
    assert submit(mini, reference, twin, out, '--split', *LONG[1:]).returncode == 0
    text = (out/'submit.sh').read_text()
    (out/'submit.sh').write_text(re.sub(r"(job train .*?)--time=\S+ --signal=\S+", r'\1--time=0:01:00 --signal=B:USR1@45', text))
    assert subprocess.run(['bash', out/'submit.sh'], env=mini, capture_output=True).returncode == 0
    def over():
        for l in queue(mini): # Slurm lets a requeued job rest for two minutes; this test does not
            if 'BeginTime' in l: subprocess.run(['scontrol', 'update', f'JobId={l.split()[0]}', 'StartTime=now'], env=mini, capture_output=True)
        return (out/'jobs'/'train.done').exists() or not queue(mini)
    wait_for('more lives and the end', over, 600)
    subprocess.run(['scancel', '-u', 'root'], env=mini)
    log = next((out/'jobs').glob('train-*.log')).read_text()
    assert log.count('requeueing job') >= 2 and 'life 3,' in log, log
    assert (out/'jobs'/'train.done').exists(), log
    seen = subprocess.run([sys.executable, '-m', 'faba_nb', 'status', out], env=mini, capture_output=True, text=True)
    assert re.search(r'job train +done', seen.stdout) and 'GPU-BU' in seen.stdout, seen.stdout
    whole = subprocess.run([sys.executable, '-m', 'faba_nb', 'run', *LONG, '--data', twin, '--features', reference/'features', '--out', tmp_path/'here', '--only', 'train'], capture_output=True, text=True)
    assert whole.returncode == 0 and contents(out, 'arms/*/predictions*.csv') == contents(tmp_path/'here', 'arms/*/predictions*.csv'), whole.stderr


@pytest.mark.slurm
@full[1]
def test_one_job_to_the_report(mini, reference, twin, tmp_path):
    "`sbatch slurm/study.sbatch STUDY`, by hand, with what setup_site.sh writes: the same tables, and pages"
    lines = subprocess.run([sys.executable, '-m', 'faba_nb', 'sites', 'mini', '--venv', sys.prefix, '--data', twin], capture_output=True, text=True).stdout
    env = {**mini, **dict(re.findall(r"^export (\w+)='?(.*?)'?$", lines, re.M))}
    r = subprocess.run(['sbatch', '--parsable', '--time=60', ROOT/'slurm'/'study.sbatch', reference/'tiny.yaml', '--features', reference/'features', '--out', tmp_path/'out'], env=env, capture_output=True, text=True, cwd=tmp_path)
    assert r.returncode == 0, r.stderr
    wait_for('the end', lambda: not queue(mini), 600)
    log = next(tmp_path.glob('faba-*.log')).read_text()
    assert 'ended with exit code 0' in log and (tmp_path/'out'/'report'/'index.html').exists(), log
    assert tables(tmp_path/'out') == tables(reference/'out')
