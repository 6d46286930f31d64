"Plans, batch files, and a real Slurm on this machine (slurm/mini)"
import json, os, random, re, shutil, signal, socket, subprocess, sys, tempfile, time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import ROOT
from test_running import contents, full_disk, reference, tables

GOLDEN = ROOT/'tests'/'golden'
FILES = [str(p) for p in sorted((ROOT/'slurm').rglob('*')) if p.suffix in ('.sh', '.sbatch') and p.name != 'here.sh']
HERE = {'repository': str(ROOT), 'user': subprocess.run(['id', '-un'], capture_output=True, text=True).stdout.strip()}


def wait_for(what, condition, seconds=900):
    end = time.time() + seconds
    while time.time() < end:
        if found := condition(): return found
        time.sleep(.2)
    raise AssertionError(f'{what} did not happen in {seconds} s')


def plan_of(site, split, name='backbones'):
    "Plan and script for the real study on a cluster that is not here"
    from dataclasses import replace
    from faba_nb.core.studies import read_study
    from faba_nb.running.sites import read_site
    from faba_nb.running.submitting import describe, make_plan, script
    base = '/scratch/project_2001234/faba'
    plan = make_plan(read_study(name), name, read_site(site), 'project_2001234', f'{base}/data', None, f'{base}/results/{name}', split=split)
    plan = replace(plan, most=None, machine='x86_64')
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


@pytest.mark.parametrize('args, line', [
    (('nosuch', '--site', 'mini'), "unknown study 'nosuch'"), (('demo', '--site', 'nosuch'), "unknown site 'nosuch'; known: mahti, mini, roihu"),
    (('demo', '--site', 'mini', '--set', 'defaults.max_epoch=3'), "unknown key 'max_epoch'; did you mean 'max_epochs'?"),
    (('demo', '--site', 'mahti', '--account', 'mine'), "'mine' does not look like an account")], ids=['study', 'site', 'setting', 'account'])
def test_wrong_words_are_one_line(tmp_path, faba, args, line):
    r = faba('submit', *args, '--data', tmp_path, '--out', tmp_path/'out')
    assert (r.returncode, r.stdout, r.stderr.count('\n')) == (2, '', 1) and line in r.stderr
    assert not (tmp_path/'out').exists()


def test_folder_of_another_study_is_refused_before_anything_is_queued(tmp_path, faba):
    from faba_nb.core.studies import read_study
    (tmp_path/'study.yaml').write_text(read_study('one').to_yaml())
    r = faba('submit', 'demo', '--site', 'mini', '--data', tmp_path, '--out', tmp_path)
    assert (r.returncode, r.stdout, r.stderr.count('\n')) == (2, '', 1) and "this folder holds the study 'one', not 'demo'" in r.stderr


# ---- the batch files under bash, with a stand-in for the command ------------------------------------------------------

# It has a child that knows nothing of signals, as a kernel has while it starts; asked to stop it needs its local folder to save.
STAND_IN = """#!/usr/bin/env -S {python} -SE
import json, os, subprocess, sys, time
child = subprocess.Popen(['sleep', '60'])
local, stop, end = os.environ['TMPDIR'], os.environ['FABA_STOP_FILE'], time.monotonic() + float(os.environ['LONG'])
while time.monotonic() < end and not os.path.exists(stop) and child.poll() is None: time.sleep(.02)
died, stopped = child.poll(), os.path.exists(stop)
child.kill()
time.sleep(.4)
with open(local + '/checkpoint', 'w') as f: f.write('saved')
with open(os.environ['TOLD'], 'a') as f: f.write(json.dumps(dict(args=sys.argv[1:], died=died, stopped=stopped)) + chr(10))
sys.exit(1 if died is not None else 75 if stopped else 0)
"""
# it answers as Slurm does: when a job is requeued, its life is ended by TERM to every process
SCONTROL = """#!/bin/bash
echo "$*" >>"$TOLD.scontrol"
case $1 in
    show) echo "JobId=7 Reason=${REASON:-None}" ;;
    requeue) (sleep .3; kill -TERM 0) & ;;
esac
"""


def program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


class Pretended:
    "A batch file that runs under bash with the stand-in, in a process group of its own, as a job has one"
    def __init__(self, folder, file, *args, long=60, **more):
        self.folder, self.told, self.disk = folder, folder/'told', folder/'disk'
        self.disk.mkdir(parents=True)
        program(folder/'venv'/'bin'/'faba', STAND_IN.format(python=sys.executable))
        program(folder/'bin'/'scontrol', SCONTROL)
        (folder/'venv'/'bin'/'python').symlink_to(sys.executable)
        (folder/'venv'/'bin'/'activate').write_text(f'PATH={folder}/venv/bin:$PATH')
        clean = {k: v for k, v in os.environ.items() if not k.startswith(('SLURM', 'SBATCH', 'FABA_'))}
        env = {**clean, 'PATH': f'{folder}/bin:{os.environ["PATH"]}', 'FABA_ROOT': str(ROOT), 'FABA_VENV': str(folder/'venv'), 'FABA_LOCAL_DISK': 'DISK', 'DISK': str(self.disk),
               'FABA_RESULTS': str(folder), 'SLURM_JOB_ID': '7', 'TOLD': str(self.told), 'LONG': str(long), **more}
        self.log = open(folder/'log', 'w+')
        self.process = subprocess.Popen(['bash', ROOT/'slurm'/file, *args], env=env, stdout=self.log, stderr=self.log, start_new_session=True)
        self.began = time.monotonic()

    def send(self, sign, after=0):
        "A signal to every process of the job, `after` seconds after its start"
        time.sleep(max(0, self.began + after - time.monotonic()))
        os.killpg(self.process.pid, sign)

    def wait(self):
        "Exit code, what the stand-ins told, the log"
        try: code = self.process.wait(timeout=60)
        finally:
            with suppress(ProcessLookupError): os.killpg(self.process.pid, signal.SIGKILL)
        told = [json.loads(l) for l in self.told.read_text().splitlines()] if self.told.exists() else []
        return code, told, (self.folder/'log').read_text()

    def child(self):
        "The number of the stand-in's child, once there is one"
        return int(wait_for('the command', lambda: subprocess.run(['pgrep', '-g', str(self.process.pid), 'sleep'], capture_output=True, text=True).stdout))

    def requeued(self): return (p.read_text() if (p := Path(f'{self.told}.scontrol')).exists() else '').count('requeue')


JOBS = [('study.sbatch', 'backbones'), ('study.sbatch', 'demo'), ('features.sbatch', 'backbones'), ('features.sbatch', '--backbones', 'clip'), ('train.sbatch', 'one'), ('evaluate.sbatch', 'one')]


def test_a_job_that_is_ended_saves_and_is_stopped_whenever_it_comes(tmp_path):
    "TERM to all of a job's processes at 24 moments: the command is asked once, saves on the local disk, the job ends with 75, and only then the folder goes"
    rng = random.Random(7)
    moments = sorted(rng.uniform(.03, 1.5) for _ in range(24))
    jobs = [(Pretended(tmp_path/str(i), *JOBS[i % len(JOBS)]), m) for i, m in enumerate(moments)]
    for job, m in sorted(jobs, key=lambda j: j[0].began + j[1]): job.send(signal.SIGTERM, m)
    ends = [(*job.wait(), job) for job, _ in jobs]
    for code, told, log, job in ends:
        never = code == -signal.SIGTERM and not log # bash had not read the first line yet
        assert never or code == 75, (code, told, log)
        assert not told or [(t['died'], t['stopped']) for t in told] == [(None, True)], (told, log)
        assert list(job.disk.iterdir()) == [] and job.requeued() == 0, log
    assert sum(bool(told) for _, told, _, _ in ends) >= 6, 'the moments have to reach the command'


def test_a_job_whose_work_is_done_says_so(tmp_path):
    "The exit code, the mark, the arguments; an end that nobody asked for is no stop"
    done = tmp_path/'a b'/'done'
    done.parent.mkdir()
    job = Pretended(tmp_path/'1', 'study.sbatch', 'demo', '--set', "a=$(touch no) 'x'", long=.1, FABA_JOB_DONE=str(done))
    code, told, log = job.wait()
    assert (code, done.exists(), list(job.disk.iterdir())) == (0, True, []), log
    twin = f'{job.folder}/twin-demo'
    assert [t['args'] for t in told] == [['twin', twin, '--genotypes', '12', '--seed', '1'], ['run', 'demo', '--set', "a=$(touch no) 'x'", '--data', twin]]
    code, told, log = Pretended(tmp_path/'2', 'study.sbatch', 'demo', '--data=here', long=.1).wait()
    assert (code, [t['args'] for t in told]) == (0, [['run', 'demo', '--data=here']]), log
    killed = Pretended(tmp_path/'3', 'train.sbatch', 'one')
    os.kill(killed.child(), signal.SIGKILL)
    assert killed.wait()[0] == 1


def test_a_job_near_its_time_limit_is_requeued_once(tmp_path):
    "USR1: asked, saved, requeued. Cancelled after it: not requeued. At the limit itself, still at work: requeued before the command has left, and the folder stays until it has"
    jobs = [Pretended(tmp_path/str(i), 'train.sbatch', 'one', **more) for i, more in enumerate(({}, {}, {'REASON': 'TimeLimit'}, {'SLURM_RESTART_COUNT': '50'}))]
    for j in jobs: j.child()
    for j in jobs: j.send(signal.SIGUSR1)
    time.sleep(.1)
    for j in jobs[1:3]: j.send(signal.SIGTERM)
    for j, times in zip(jobs, (1, 0, 1, 0)):
        code, told, log = j.wait()
        assert (code, j.requeued(), [t['stopped'] for t in told], list(j.disk.iterdir())) == (75, times, [True], []), log
    assert 'submit it again with a longer --time' in log


def test_a_job_says_in_one_line_what_it_lacks(tmp_path):
    "No module command, no environment, no disk, a variable that is none: exit code 2"
    for i, (more, line) in enumerate(((dict(FABA_MODULES='pytorch/2.9'), 'there is no command `module` here'), (dict(FABA_VENV='/no where'), "there is no environment at '/no where'"),
                                      (dict(DISK='/no/disk'), 'cannot write to the local disk /no/disk'), (dict(FABA_LOCAL_DISK='a[$(touch no)]'), 'is not the name of a variable'))):
        code, told, log = Pretended(tmp_path/str(i), 'train.sbatch', 'one', **more).wait()
        assert (code, told) == (2, []) and line in log.splitlines()[-1], log
    assert not (ROOT/'no').exists() and not Path('no').exists()


# ---- on a real Slurm -------------------------------------------------------------------------------------------------

def lacking():
    "What slurm/mini/up.sh needs and this machine lacks"
    path = os.environ['PATH'] + ':/usr/sbin:/sbin'
    if os.getuid() != 0: return 'root'
    return next((t for t in ('slurmctld', 'slurmd', 'slurmdbd', 'munged', 'mariadbd', 'sacctmgr') if not shutil.which(t, path=path)), None)


def on_slurm(f):
    "A test of `make test-all`, where Slurm is installed"
    return pytest.mark.slurm(pytest.mark.skipif(lacking() is not None, reason=f'a Slurm on this machine needs {lacking()} (see slurm/mini/up.sh)')(f))


def free_ports(n=4):
    "The first of `n` ports in a row that nobody listens to"
    def free(port):
        with socket.socket() as s: return s.connect_ex(('127.0.0.1', port)) != 0
    return next(p for p in range(26817, 32000, n) if all(map(free, range(p, p + n))))


def mini_script(name, env): return subprocess.run(['bash', ROOT/'slurm'/'mini'/name], env=env, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope='session')
def mini():
    "A Slurm of these tests' own, as its environment; it goes when they end, however they end"
    folder = Path(tempfile.mkdtemp(prefix='faba-mini-', dir='/var/tmp'))
    folder.chmod(0o755)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(('SLURM', 'SBATCH', 'FABA_')) or k == 'FABA_SHARED'}
    env = {**clean, 'FABA_MINI': str(folder), 'FABA_MINI_PORT': str(free_ports()), 'FABA_FEED_SECONDS': '1', 'SLURM_CONF': str(folder/'slurm.conf')}
    try:
        said = mini_script('up.sh', env)
        assert said.returncode == 0, said.stderr
        yield env
    finally:
        mini_script('down.sh', env)
        shutil.rmtree(folder, ignore_errors=True)


def call(env, *args, **kwargs): return subprocess.run([str(a) for a in args], env=env, capture_output=True, text=True, timeout=kwargs.pop('timeout', 600), **kwargs)


def queue(env): return call(env, 'squeue', '-h', '-o', '%i %j %T %r').stdout.splitlines()


@pytest.fixture
def slurm(mini):
    "The Slurm with an empty queue, before and after"
    yield mini
    call(mini, 'scancel', '-u', 'root')
    wait_for('an empty queue', lambda: not queue(mini), 60)


def faba_in(env, *args): return call(env, sys.executable, '-m', 'faba_nb', *args)


def submit(env, reference, twin, out, *more):
    return faba_in(env, 'submit', reference/'tiny.yaml', '--site', 'mini', '--venv', sys.prefix, '--data', twin, '--features', reference/'features', '--out', out, *more)


def by_hand(env, *more):
    "What `. slurm/here.sh` puts into a shell"
    lines = faba_in(env, 'sites', 'mini', '--venv', sys.prefix, *more).stdout
    return {**env, **dict(re.findall(r"^export (\w+)='?(.*?)'?$", lines, re.M))}


def logs(out): return '\n'.join(p.read_text() for p in sorted((out/'jobs').glob('*.log')))


@pytest.mark.parametrize('site, name', [(s, n) for s in ('mahti', 'roihu') for n in ('one', 'chain')])
@on_slurm
def test_sbatch_accepts_the_scripts_of_the_clusters(mini, site, name, tmp_path):
    "`sbatch --test-only` on nodes of the sizes of Mahti's and Roihu's"
    lines = re.findall(r"^job \S+ (?:''|'[^']*'|\S+) (--account.*?) /home/user/faba_nb/slurm/(\S+)", (GOLDEN/f'plan_{site}_{name}.txt').read_text(), re.M)
    assert len(lines) == (1 if name == 'one' else 3)
    call(mini, 'scontrol', 'delete', 'reservation=nobody')
    try:
        for opts, file in lines:
            opts = opts.replace('project_2001234', 'project_2013932').split()
            r = call(mini, 'sbatch', '--test-only', *opts, ROOT/'slurm'/file, 'backbones', cwd=tmp_path)
            assert r.returncode == 0 and 'to start at' in r.stderr, r.stderr
    finally: assert mini_script('up.sh', mini).returncode == 0


@on_slurm
def test_lines_typed_by_hand_are_accepted(mini, tmp_path):
    "The batch files with what setup_site.sh writes, with a GPU and without; and the GPU's options beside the CPU's are what Slurm refuses"
    env = by_hand(mini)
    for line in ('sbatch --test-only FILE/study.sbatch demo', 'sbatch --test-only --partition=gputest --time=0:15:00 FILE/study.sbatch demo', 'sbatch --test-only FILE/train.sbatch demo', '$FABA_CPU --test-only FILE/evaluate.sbatch demo'):
        r = call(env, 'bash', '-c', line.replace('FILE', str(ROOT/'slurm')), cwd=tmp_path)
        assert r.returncode == 0 and 'to start at' in r.stderr, (line, r.stderr)
        assert ('in partition small' in r.stderr) == ('FABA_CPU' in line)
    assert call(env, 'sbatch', '--test-only', '--partition=small', '--cpus-per-task=1', ROOT/'slurm'/'evaluate.sbatch', 'demo', cwd=tmp_path).returncode != 0


@on_slurm
def test_demo_in_one_job_and_as_a_chain(slurm, tmp_path):
    "`sbatch slurm/study.sbatch demo`, which simulates its own plants, and beside it `faba submit demo --site mini --split --go` on them: to the report, with the tables of `faba run`"
    env, few, results = by_hand(slurm), ('--set', 'defaults.max_epochs=2'), tmp_path/'results'
    env.update(FABA_RESULTS=str(results), FABA_CACHE=str(tmp_path/'cache'))
    r = call(env, 'sbatch', '--parsable', '--time=60', ROOT/'slurm'/'study.sbatch', 'demo', *few, cwd=tmp_path)
    assert r.returncode == 0, r.stderr
    log = tmp_path/f'faba-{r.stdout.strip()}.log'
    one, chain, here, data = results/'demo', results/'chain', results/'here', results/'twin-demo'
    wait_for('the simulated plants', lambda: (one/'run.json').exists() or not queue(slurm))
    go = faba_in(slurm, 'submit', 'demo', *few, '--site', 'mini', '--venv', sys.prefix, '--split', '--go', '--data', data, '--features', tmp_path/'features', '--out', chain)
    assert go.returncode == 0 and 'refused' not in go.stderr and go.stderr.count(' is job ') == 3, go.stdout + go.stderr
    wait_for('the features of the first job', lambda: (one/'steps'/'features.json').exists() or not queue(slurm))
    whole = faba_in(env, 'run', 'demo', *few, '--data', data, '--out', here, '--only', 'train,evaluate')
    assert whole.returncode == 0, whole.stderr
    wait_for('the end', lambda: not queue(slurm))
    assert 'ended with exit code 0' in log.read_text(), log.read_text()
    for out in (one, chain):
        assert (out/'report'/'index.html').exists(), log.read_text() + logs(out)
        assert tables(out) == tables(here) and len(tables(out)) > 8
    seen = faba_in(slurm, 'status', chain).stdout
    assert len(re.findall(r'job (?:features|train|evaluate) +done', seen)) == 3 and re.search(r'[1-9]\d*(\.\d+)? GPU-BU|0\.\d*[1-9]\d* GPU-BU', seen), seen


@on_slurm
def test_chain_through_a_killed_feeder_and_a_cancelled_job(slurm, reference, twin, tmp_path):
    "More jobs than the account may have in the queue; a second feeder beside the first; the feeder killed; a job cancelled; the tables are those of `faba run`, nothing is submitted twice"
    out = tmp_path/'out'
    r = submit(slurm, reference, twin, out, '--split', '--hours', '0.0027')
    assert r.returncode == 0 and (out/'submit.sh').read_text().count('\njob ') == 6, r.stdout
    feeder = subprocess.Popen(['bash', out/'submit.sh'], env=slurm, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        wait_for('the first four jobs', lambda: len(list((out/'jobs').glob('*.id'))) == 4)
        for second in (call(slurm, 'bash', out/'submit.sh'), submit(slurm, reference, twin, out, '--split', '--hours', '0.0027', '--go')):
            assert second.returncode == 75 and 'is feeding this study already' in second.stderr, second.stderr
    finally:
        os.killpg(feeder.pid, signal.SIGKILL)
        feeder.communicate()
    victim = (out/'jobs'/'train-1of5.id').read_text().strip()
    call(slurm, 'scancel', victim)
    wait_for('the cancelled job to leave', lambda: not any(l.startswith(f'{victim} ') for l in queue(slurm)))
    again = call(slurm, 'bash', out/'submit.sh', timeout=900)
    assert again.returncode == 0 and 'refused' not in again.stderr, again.stderr
    wait_for('the tables', lambda: (out/'steps'/'evaluate.json').exists() or not queue(slurm))
    assert tables(out) == tables(reference/'out'), logs(out)
    ids = call(slurm, 'sacct', '-n', '-P', '-X', '-o', 'JobName').stdout.split()
    assert [ids.count(f'faba-tiny-train-{i}of5') for i in range(2, 6)] == [1]*4, ids


@on_slurm
def test_a_job_outlives_its_time_limit(slurm, reference, twin, tmp_path):
    "Signal before the limit, checkpoint, requeue, twice; a killed kernel on the way; nothing trained twice, the same predictions"
    out, long = tmp_path/'out', ('--set', 'arms.morphology.modalities=[env]', '--set', 'defaults.max_epochs=90', '--set', 'defaults.patience=90')
    assert submit(slurm, reference, twin, out, '--split', *long).returncode == 0
    text = (out/'submit.sh').read_text()
    (out/'submit.sh').write_text(re.sub(r"(job train .*?)--time=\S+ --signal=\S+", r'\1--time=0:01:00 --signal=B:USR1@25', text))
    assert call(slurm, 'bash', out/'submit.sh').returncode == 0
    whole = subprocess.Popen([sys.executable, '-m', 'faba_nb', 'run', reference/'tiny.yaml', *long, '--data', twin, '--features', reference/'features', '--out', tmp_path/'here', '--only', 'train'], stderr=subprocess.PIPE, text=True)
    try:
        kernel = wait_for('a kernel', lambda: kernel_of(out/'steps'/'train.lock') if (out/'steps'/'train.heartbeat.json').exists() else None)
        os.kill(kernel, signal.SIGKILL)
        wait_for('more lives and the end', lambda: (out/'jobs'/'train.done').exists() or not queue(slurm))
        said = whole.communicate(timeout=900)[1]
    finally: whole.kill()
    log = logs(out)
    assert (out/'jobs'/'train.done').exists(), log
    assert 'the kernel was killed (SIGKILL)' in log and 'trying once more with less memory' in log, log
    assert log.count('requeueing job') >= 2 and 'life 3,' in log, log
    assert whole.returncode == 0 and contents(out, 'arms/*/predictions*.csv') == contents(tmp_path/'here', 'arms/*/predictions*.csv'), said
    seen = faba_in(slurm, 'status', out).stdout
    assert re.search(r'job train +done', seen) and 'GPU-BU' in seen, seen


def node_fails(env, job):
    "The power goes: Slurm's daemon, the job's shepherd and all of the job's processes end at once; then Slurm gives the node up, as it does by itself after SlurmdTimeout"
    of_job = {int(l.split()[0]) for l in call(env, 'scontrol', 'listpids', job).stdout.splitlines()[1:]}
    parents = {int(p) for p in subprocess.run(['ps', '-o', 'ppid=', '-p', ','.join(map(str, of_job))], capture_output=True, text=True).stdout.split()}
    for pid in (int((Path(env['FABA_MINI'])/'run'/'slurmd.pid').read_text()), *(parents - of_job), *of_job):
        with suppress(ProcessLookupError): os.kill(pid, signal.SIGKILL)
    r = call(env, 'scontrol', 'update', f'nodename={socket.gethostname().split(".")[0]}', 'state=down', 'reason=test')
    assert r.returncode == 0, r.stderr


@on_slurm
def test_a_job_outlives_its_node(slurm, reference, twin, tmp_path):
    "Without a warning everything on the node is gone: Slurm requeues the job, its second life takes over the locks of the first, trains no finished fit again, and ends with the same predictions"
    out, long = tmp_path/'out', ('--set', 'arms.morphology.modalities=[env]', '--set', 'defaults.max_epochs=12')
    assert submit(slurm, reference, twin, out, '--split', *long, '--go').returncode == 0
    job, fits = (out/'jobs'/'train.id').read_text().strip(), lambda: {p: p.stat().st_mtime_ns for p in out.glob('arms/*/fits/*.json')}
    wait_for('finished fits', lambda: fits() or not queue(slurm))
    node_fails(slurm, job)
    before = fits()
    assert 0 < len(before) < 24, logs(out)
    wait_for('the job to be requeued', lambda: any(l.startswith(f'{job} ') and 'PENDING' in l for l in queue(slurm)), 60)
    wait_for('the node to be back', lambda: mini_script('up.sh', slurm).returncode == 0, 180)
    here = faba_in(slurm, 'run', reference/'tiny.yaml', *long, '--data', twin, '--features', reference/'features', '--out', tmp_path/'here', '--only', 'train')
    wait_for('the end', lambda: (out/'jobs'/'train.done').exists() or not queue(slurm))
    assert (out/'jobs'/'train.done').exists() and 'life 2,' in logs(out), logs(out)
    assert {p: t for p, t in fits().items() if p in before} == before, 'finished fits were trained again'
    assert here.returncode == 0 and contents(out, 'arms/*/predictions*.csv') == contents(tmp_path/'here', 'arms/*/predictions*.csv'), here.stderr
    lives = call(slurm, 'sacct', '-D', '-X', '-n', '-P', '-j', job, '-o', 'State').stdout.split()
    assert lives[0] == 'NODE_FAIL' and len(lives) == 2, lives


def kernel_of(lock):
    "The process below the one that holds the lock of a step"
    from faba_nb.running.locks import holder
    found = subprocess.run(['pgrep', '-P', str((holder(lock) or {}).get('pid', 0)), '-f', 'kernel'], capture_output=True, text=True).stdout.split()
    return int(found[0]) if found else None


@on_slurm
def test_full_local_disk_of_a_job(slurm, reference, twin, tmp_path, full_disk):
    "One line in the job's log and in the status; with room again the same script goes on to the same predictions"
    out = tmp_path/'out'
    assert submit(slurm, reference, twin, out, '--split').returncode == 0
    first = call({**slurm, 'TMPDIR': str(full_disk)}, 'bash', out/'submit.sh')
    assert first.returncode == 0, first.stderr
    wait_for('the end of the job', lambda: not queue(slurm))
    assert logs(out).count('no space left') == 1 and 'set TMPDIR to a local folder with room' in logs(out) and 'Traceback' not in logs(out), logs(out)
    assert re.search(r'train +failed.*no space left', ' '.join(faba_in(slurm, 'status', out).stdout.split()))
    assert call({**slurm, 'TMPDIR': str(tmp_path)}, 'bash', out/'submit.sh').returncode == 0
    wait_for('the predictions', lambda: (out/'jobs'/'train.done').exists() or not queue(slurm))
    assert contents(out, 'arms/*/predictions*.csv') == contents(reference/'out', 'arms/*/predictions*.csv'), logs(out)
