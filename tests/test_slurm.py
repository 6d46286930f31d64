"Plans, batch files, and a real Slurm on this machine (slurm/mini)"

import json, os, random, re, shutil, signal, socket, subprocess, sys, tempfile, time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import ROOT
from test_running import contents, full_disk, reference, tables

GOLDEN = ROOT / 'tests' / 'golden'
FILES = [
    str(p)
    for p in sorted((ROOT / 'slurm').rglob('*'))
    if p.suffix in ('.sh', '.sbatch') and p.name != 'here.sh'
]
HERE = {
    'repository': str(ROOT),
    'user': subprocess.run(['id', '-un'], capture_output=True, text=True).stdout.strip(),
}


def wait_for(what, condition, seconds=900):
    end = time.time() + seconds
    while time.time() < end:
        if found := condition():
            return found
        time.sleep(0.2)
    raise AssertionError(f'{what} did not happen in {seconds} s')


def plan_of(site, split, name='backbones'):
    "Plan and script for the real study on a cluster that is not here"
    from dataclasses import replace
    from faba_nb.core.studies import read_study
    from faba_nb.running.sites import read_site
    from faba_nb.running.submitting import describe, make_plan, script

    base = '/scratch/project_2001234/faba'
    plan = make_plan(
        read_study(name),
        name,
        read_site(site),
        'project_2001234',
        f'{base}/data',
        None,
        f'{base}/results/{name}',
        split=split,
    )
    plan = replace(plan, most=None, machine='x86_64')
    text = describe(plan) + '\n' + script(plan)
    return text.replace(HERE['repository'], '/home/user/faba_nb').replace(
        f'/{HERE["user"]}/', '/user/'
    )


PLANS = [('mahti', False), ('mahti', True), ('roihu', False)]


def golden(site, split):
    return GOLDEN / f'plan_{site}_{"split" if split else "one"}.txt'


@pytest.mark.parametrize('site, split', PLANS)
def test_plans_are_golden(site, split):
    "Partitions, gres, modules and times of the real study change on purpose only (FABA_GOLDEN=1 writes anew)"
    path, text = golden(site, split), plan_of(site, split)
    if os.environ.get('FABA_GOLDEN'):
        path.write_text(text)
    assert text == path.read_text()
    assert {golden(*p) for p in PLANS} == set(GOLDEN.glob('plan_*.txt'))


def test_plans_say_what_the_sites_say():
    "The golden files are not only the same as before but right"
    mahti, roihu = golden('mahti', True).read_text(), golden('roihu', False).read_text()
    first, second = [l for l in mahti.replace('\\\n', '').splitlines() if l.startswith('job ')][1:]
    assert '--partition=gpusmall --gres=gpu:a100:1,nvme:100 --cpus-per-task=32' in first
    assert '--partition=small --cpus-per-task=8' in second and 'gres' not in second
    assert first.startswith("job train '' ") and first.endswith(' --only features,train')
    assert second.startswith('job evaluate train ') and second.endswith(
        ' --only evaluate,explain,report'
    )
    assert roihu.count('--partition=gpumedium --gres=gpu:gh200:1 --cpus-per-task=72') == 1
    assert "FABA_MODULES=pytorch/2.9" in mahti and "FABA_MODULES=python-pytorch/2.10" in roihu
    for text, jobs in ((mahti, 2), (roihu, 1)):
        assert text.count('--account=project_2001234') == jobs + 1
        assert text.count('--signal=B:USR1@') == jobs
        assert 'export FABA_MAX_RESTARTS=5' in text and not re.search(r'--array|--mem', text)


def test_a_site_without_cpu_nodes_is_not_split(tmp_path, faba):
    "Roihu's CPU nodes are of another architecture than the environment of its GPU nodes"
    args = ('--site', 'roihu', '--data', tmp_path / 'elsewhere', '--out', tmp_path / 'out')
    r = faba('submit', 'demo', '--split', *args)
    assert (r.returncode, r.stdout, r.stderr.count('\n')) == (2, '', 1), r
    assert 'this site has none for it; leave --split out' in r.stderr, r.stderr
    assert not (tmp_path / 'out').exists()


def test_shell_files_are_sound(tmp_path):
    for site, split in PLANS:
        text = plan_of(site, split)
        (tmp_path / f'{site}_{split}.sh').write_text(text[text.index('#!/bin/bash') :])
    from faba_nb.running.submitting import script

    (tmp_path / 'odd').mkdir()
    (tmp_path / 'odd' / 'odd.sh').write_text(script(odd_plan(tmp_path / 'odd', True)))
    files = FILES + [str(p) for p in tmp_path.glob('*.sh')]
    for f in files:
        assert subprocess.run(['bash', '-n', f], capture_output=True, text=True).stderr == ''
    if not shutil.which('shellcheck'):
        pytest.skip('shellcheck is not installed')
    for found in (
        ['-x', *files],
        ['-x', '-e', 'SC2016', tmp_path / 'odd' / 'odd.sh'],
    ):  # a dollar sign in single quotes is what that one is about
        assert (
            subprocess.run(['shellcheck', *found], capture_output=True, text=True, cwd=ROOT).stdout
            == ''
        )


def test_batch_files_hold_no_site():
    "A site's facts stand in its profile and nowhere else"
    words = re.compile(
        r'gpusmall|gpumedium|a100|gh200|pytorch/|project_2|LOCAL_SCRATCH|mahti|roihu', re.I
    )
    for f in FILES:
        if '/mini/' not in f:
            assert words.findall(Path(f).read_text()) == [], f


def test_without_account_only_go_refuses(tmp_path, faba):
    env = {k: v for k, v in os.environ.items() if k not in ('FABA_ACCOUNT', 'SBATCH_ACCOUNT')}
    args = (
        'submit',
        'demo',
        '--site',
        'mahti',
        '--data',
        tmp_path / 'elsewhere',
        '--out',
        tmp_path / 'out',
    )
    r = faba(*args, env=env)
    assert (
        r.returncode == 0
        and '--account=<missing>' in r.stdout
        and '--account=<missing>' in (tmp_path / 'out' / 'submit.sh').read_text()
    )
    r = faba(*args, '--go', env=env)
    assert (
        r.returncode == 2
        and r.stderr
        == 'faba submit: --account: no billing account is given for these jobs; '
        'give --account=project_NNNNNNN, or set FABA_ACCOUNT\n'
    )


def test_without_sbatch_the_script_is_to_be_pasted(tmp_path, twin, faba):
    r = faba(
        'submit',
        'demo',
        '--site',
        'mahti',
        '--account',
        'project_2001234',
        '--data',
        twin,
        '--out',
        tmp_path / 'out',
        '--go',
        env={**os.environ, 'PATH': '/nowhere'},
    )
    assert (
        r.returncode == 2
        and f'paste this into a login shell: bash {tmp_path}/out/submit.sh' in r.stderr
    )


def test_site_without_gpu_for_a_gpu_arm(tmp_path, faba):
    text = (ROOT / 'slurm' / 'sites' / 'mini.toml').read_text()
    (tmp_path / 'cpu.toml').write_text(text[: text.index('[gpu]')] + text[text.index('[cpu]') :])
    r = faba(
        'submit',
        'backbones',
        '--site',
        tmp_path / 'cpu.toml',
        '--data',
        tmp_path / 'elsewhere',
        '--out',
        tmp_path / 'out',
    )
    assert (
        r.returncode == 2
        and r.stderr.count('\n') == 1
        and 'arm dinov2 looks at photographs through dinov2, which needs a GPU' in r.stderr
    )
    assert (
        faba(
            'submit',
            'demo',
            '--site',
            tmp_path / 'cpu.toml',
            '--data',
            tmp_path / 'elsewhere',
            '--out',
            tmp_path / 'out',
        ).returncode
        == 0
    )


@pytest.mark.parametrize(
    'args, line',
    [
        (('nosuch', '--site', 'mini'), "unknown study 'nosuch'"),
        (('demo', '--site', 'nosuch'), "unknown site 'nosuch'; known: mahti, mini, roihu"),
        (
            ('demo', '--site', 'mini', '--set', 'defaults.max_epoch=3'),
            "unknown key 'max_epoch'; did you mean 'max_epochs'?",
        ),
        (('demo', '--site', 'mahti', '--account', 'mine'), "'mine' does not look like an account"),
    ],
    ids=['study', 'site', 'setting', 'account'],
)
def test_wrong_words_are_one_line(tmp_path, faba, args, line):
    r = faba('submit', *args, '--data', tmp_path / 'elsewhere', '--out', tmp_path / 'out')
    assert (r.returncode, r.stdout, r.stderr.count('\n')) == (2, '', 1) and line in r.stderr
    assert not (tmp_path / 'out').exists()


def test_folder_of_another_study_is_refused_before_anything_is_queued(tmp_path, faba):
    from faba_nb.core.studies import read_study

    (tmp_path / 'study.yaml').write_text(read_study('one').to_yaml())
    r = faba(
        'submit', 'demo', '--site', 'mini', '--data', tmp_path / 'elsewhere', '--out', tmp_path
    )
    assert (r.returncode, r.stdout, r.stderr.count('\n')) == (
        2,
        '',
        1,
    ) and "this folder holds the study 'one', not 'demo'" in r.stderr


# ---- the batch files under bash, with a stand-in for the command ----------------------------

# It has a child that knows nothing of signals, as a kernel has while it starts;
# asked to stop it needs its local folder to save.
STAND_IN = """#!/usr/bin/env -S {python} -SE
import json, os, subprocess, sys, time
child = subprocess.Popen(['sleep', '60'])
local, stop, end = os.environ['TMPDIR'], os.environ['FABA_STOP_FILE'], time.monotonic() + float(os.environ['LONG'])
if 'deaf' in sys.argv:
    try: time.sleep(60)
    except KeyboardInterrupt: time.sleep(60 if 'stubborn' in sys.argv else 0); sys.exit(130)
while time.monotonic() < end and not os.path.exists(stop) and child.poll() is None: time.sleep(.02)
died, stopped = child.poll(), os.path.exists(stop)
child.kill()
time.sleep(.4)
with open(local + '/checkpoint', 'w') as f: f.write('saved')
told = dict(args=sys.argv[1:], died=died, stopped=stopped)
with open(os.environ['TOLD'], 'a') as f: f.write(json.dumps(told) + chr(10))
sys.exit(1 if died is not None else 75 if stopped else 0)
"""
# it answers as Slurm does: when a job is requeued, this attempt is ended by TERM to every process
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
        self.folder, self.told, self.disk = folder, folder / 'told', folder / 'disk'
        self.disk.mkdir(parents=True)
        program(folder / 'venv' / 'bin' / 'faba', STAND_IN.format(python=sys.executable))
        program(folder / 'bin' / 'scontrol', SCONTROL)
        (folder / 'venv' / 'bin' / 'python').symlink_to(sys.executable)
        (folder / 'venv' / 'bin' / 'activate').write_text(f'PATH={folder}/venv/bin:$PATH')
        clean = {
            k: v for k, v in os.environ.items() if not k.startswith(('SLURM', 'SBATCH', 'FABA_'))
        }
        env = {
            **clean,
            'PATH': f'{folder}/bin:{os.environ["PATH"]}',
            'FABA_ROOT': str(ROOT),
            'FABA_VENV': str(folder / 'venv'),
            'FABA_LOCAL_DISK': 'DISK',
            'DISK': str(self.disk),
            'FABA_RESULTS': str(folder),
            'SLURM_JOB_ID': '7',
            'TOLD': str(self.told),
            'LONG': str(long),
            **more,
        }
        self.log = open(folder / 'log', 'w+')
        self.process = subprocess.Popen(
            ['bash', ROOT / 'slurm' / file, *args],
            env=env,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        self.began = time.monotonic()

    def send(self, sign, after=0):
        "A signal to every process of the job, `after` seconds after its start"
        time.sleep(max(0, self.began + after - time.monotonic()))
        os.killpg(self.process.pid, sign)

    def wait(self):
        "Exit code, what the stand-ins told, the log"
        try:
            code = self.process.wait(timeout=60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        told = (
            [json.loads(l) for l in self.told.read_text().splitlines()]
            if self.told.exists()
            else []
        )
        return code, told, (self.folder / 'log').read_text()

    def child(self):
        "The number of the stand-in's child, once there is one"
        return int(
            wait_for(
                'the command',
                lambda: (
                    subprocess.run(
                        ['pgrep', '-g', str(self.process.pid), 'sleep'],
                        capture_output=True,
                        text=True,
                    ).stdout
                ),
            )
        )

    def requeued(self):
        return (p.read_text() if (p := Path(f'{self.told}.scontrol')).exists() else '').count(
            'requeue'
        )


JOBS = [
    ('study.sbatch', 'backbones'),
    ('study.sbatch', 'demo'),
    ('study.sbatch', 'backbones', '--only', 'features'),
    ('study.sbatch', 'features', '--backbones', 'clip'),
    ('study.sbatch', 'train', 'one'),
    ('study.sbatch', 'one', '--only', 'evaluate,report'),
]


def test_a_job_that_is_ended_saves_and_is_stopped_whenever_it_comes(tmp_path):
    "TERM to a whole job at 24 moments: asked once, saved locally, ended with 75; only then the folder goes"
    rng = random.Random(7)
    moments = sorted(rng.uniform(0.03, 1.5) for _ in range(24))
    jobs = [(Pretended(tmp_path / str(i), *JOBS[i % len(JOBS)]), m) for i, m in enumerate(moments)]
    for job, m in sorted(jobs, key=lambda j: j[0].began + j[1]):
        job.send(signal.SIGTERM, m)
    ends = [(*job.wait(), job) for job, _ in jobs]
    for code, told, log, job in ends:
        never = code == -signal.SIGTERM and not log  # bash had not read the first line yet
        assert never or code == 75, (code, told, log)
        assert not told or [(t['died'], t['stopped']) for t in told] == [(None, True)], (told, log)
        assert list(job.disk.iterdir()) == [] and job.requeued() == 0, log
    assert sum(bool(told) for _, told, _, _ in ends) >= 6, 'the moments have to reach the command'


def test_a_job_whose_work_is_done_says_so(tmp_path):
    "The exit code, the mark, the arguments; an end that nobody asked for is no stop"
    done = tmp_path / 'a b' / 'done'
    done.parent.mkdir()
    job = Pretended(
        tmp_path / '1',
        'study.sbatch',
        'demo',
        '--set',
        "a=$(touch no) 'x'",
        long=0.1,
        FABA_JOB_DONE=str(done),
    )
    code, told, log = job.wait()
    assert (code, done.exists(), list(job.disk.iterdir())) == (0, True, []), log
    twin = f'{job.folder}/twin-demo'
    assert [t['args'] for t in told] == [
        ['twin', twin, '--genotypes', '12', '--seed', '1'],
        ['run', 'demo', '--set', "a=$(touch no) 'x'", '--data', twin],
    ]
    code, told, log = Pretended(
        tmp_path / '2', 'study.sbatch', 'demo', '--data=here', long=0.1
    ).wait()
    assert (code, [t['args'] for t in told]) == (0, [['run', 'demo', '--data=here']]), log
    for i, (args, said) in enumerate(
        (
            (('features', '--backbones', 'clip'), ['features', '--backbones', 'clip']),
            (('train', 'one', '--shard', '1/2'), ['train', 'one', '--shard', '1/2']),
            (('one', '--only', 'train'), ['run', 'one', '--only', 'train']),
        )
    ):
        job = Pretended(tmp_path / f'verb{i}', 'study.sbatch', *args, long=0.1)
        code, told, log = job.wait()
        assert (code, [t['args'] for t in told]) == (0, [said]), log
    killed = Pretended(tmp_path / '3', 'study.sbatch', 'train', 'one')
    os.kill(killed.child(), signal.SIGKILL)
    assert killed.wait()[0] == 1


@pytest.mark.parametrize(
    'words, code, least',
    [(('deaf',), 130, 1), (('deaf', 'stubborn'), 137, 7)],
    ids=['interrupted', 'ended'],
)
def test_a_command_that_does_not_hear_is_ended_before_slurm_kills_it(tmp_path, words, code, least):
    "One that is busy importing or reading is interrupted after a while, then ended; its folder is cleared"
    job = Pretended(tmp_path, 'study.sbatch', 'train', *words, FABA_GRACE='1')
    job.child()
    job.send(signal.SIGTERM)
    began = time.monotonic()
    found, _, log = job.wait()
    assert (
        (found, list(job.disk.iterdir())) == (75, [])
        and f'ended with exit code {code}' in log
        and least - 0.1 < time.monotonic() - began < least + 8
    ), log


def test_a_job_near_its_time_limit_is_requeued_once(tmp_path):
    "USR1: asked, saved, requeued"
    # Cancelled after it: not requeued. At the limit itself, still at work: requeued before
    # the command has left, and the folder stays until it has. Restarted as often as the site
    # allows: it fails, and says so once.
    cases = (
        ({}, 75, 1),
        ({'CANCEL': '1'}, 75, 0),
        ({'CANCEL': '1', 'REASON': 'TimeLimit'}, 75, 1),
        ({'SLURM_RESTART_COUNT': '5'}, 1, 0),
        ({'SLURM_RESTART_COUNT': '5', 'CANCEL': '1', 'REASON': 'TimeLimit'}, 1, 0),
        ({'SLURM_RESTART_COUNT': '5', 'FABA_MAX_RESTARTS': '6'}, 75, 1),
        ({'FABA_MAX_RESTARTS': '0'}, 1, 0),
    )
    jobs = [
        Pretended(tmp_path / str(i), 'study.sbatch', 'train', 'one', **more)
        for i, (more, _, _) in enumerate(cases)
    ]
    for j in jobs:
        j.child()
    for j in jobs:
        j.send(signal.SIGUSR1)
    time.sleep(0.1)
    for j, (more, _, _) in zip(jobs, cases):
        if 'CANCEL' in more:
            j.send(signal.SIGTERM)
    for j, (more, end, times) in zip(jobs, cases):
        code, told, log = j.wait()
        assert (code, j.requeued(), [t['stopped'] for t in told], list(j.disk.iterdir())) == (
            end,
            times,
            [True],
            [],
        ), (more, log)
        assert log.count('submit it again with a longer --time') == (end == 1), (more, log)
    assert 'this job was restarted 0 times, and 0 is the most' in log


def test_a_job_says_in_one_line_what_it_lacks(tmp_path):
    "No module command, no environment, no disk, a variable that is none: exit code 2"
    for i, (more, line) in enumerate(
        (
            (dict(FABA_MODULES='pytorch/2.9'), 'there is no command `module` here'),
            (dict(FABA_VENV='/no where'), "there is no environment at '/no where'"),
            (dict(DISK='/no/disk'), 'cannot write to the local disk /no/disk'),
            (dict(FABA_LOCAL_DISK='a[$(touch no)]'), 'is not the name of a variable'),
        )
    ):
        code, told, log = Pretended(
            tmp_path / str(i), 'study.sbatch', 'train', 'one', **more
        ).wait()
        assert (code, told) == (2, []) and line in log.splitlines()[-1], log
    assert not (ROOT / 'no').exists() and not Path('no').exists()


# ---- submit.sh under bash, with a stand-in for Slurm ----------------------------------------

SBATCH = r"""#!/bin/bash
printf '%s\0' "$@" END >>"$TOLD.sbatch"
said=$(cat "$TOLD.answers" 2>/dev/null | head -1)
if [ -n "$said" ]; then sed -i 1d "$TOLD.answers"; printf '%b\n' "$said" >&2; exit 1; fi
for a; do [ "${a#--comment=}" = "$a" ] || echo "4711 ${a#--comment=}" >>"$TOLD.queue"; done
echo 4711
"""
SQUEUE = r"""#!/bin/bash
case "$*" in
    *%k*) [ ! -e "$TOLD.queue" ] || cat "$TOLD.queue" ;;
esac
"""
ODD = """a b'c"d $(touch no) `touch no`;touch no&*%j#-"""


@pytest.fixture
def shop(tmp_path):
    "Run a plan's script with a stand-in for Slurm; what sbatch was told comes back, call by call"
    for name, text in (
        ('sbatch', SBATCH),
        ('squeue', SQUEUE),
        ('scontrol', '#!/bin/bash\n'),
    ):
        program(tmp_path / 'bin' / name, text)
    here, told = tmp_path / 'cwd', tmp_path / 'told'
    here.mkdir()

    def run(text, *answers, **more):
        Path(f'{told}.answers').write_text(''.join(f'{a}\n' for a in answers))
        Path(f'{told}.sbatch').write_text('')
        env = {
            **os.environ,
            'PATH': f'{tmp_path}/bin:{os.environ["PATH"]}',
            'TOLD': str(told),
            **more,
        }
        r = subprocess.run(
            ['bash', '-c', text], env=env, capture_output=True, text=True, cwd=here, timeout=60
        )
        r.calls = [
            c.split('\0')[:-1] for c in Path(f'{told}.sbatch').read_text().split('END\0')[:-1]
        ]
        assert list(here.iterdir()) == [], 'something else was run'
        return r

    return run


def odd_plan(tmp_path, split=False, site='mahti', name='backbones'):
    "A plan whose folders, data and settings are words that a shell would act on"
    from faba_nb.core.studies import read_study
    from faba_nb.running.sites import read_site
    from faba_nb.running.submitting import make_plan

    study = tmp_path / f'{ODD}.yaml'
    study.write_text(read_study(name).to_yaml())
    return make_plan(
        read_study(name),
        str(study),
        read_site(site),
        'project_2001234',
        tmp_path / f'-data {ODD}',
        None,
        tmp_path / ODD,
        settings=('x=a\nb $(touch no)',),
        split=split,
        venv=f'/v {ODD}',
    )


@pytest.mark.parametrize('split', [False, True], ids=['one', 'split'])
def test_words_arrive_at_sbatch_as_they_are(tmp_path, shop, split):
    "Odd signs run nothing else: every argument arrives, and the log's name keeps its folder"
    from faba_nb.running.submitting import script

    plan = odd_plan(tmp_path, split)
    r = shop(script(plan))
    assert r.returncode == 0 and len(r.calls) == len(plan.jobs) == (2 if split else 1), r.stderr
    for call, job in zip(r.calls, plan.jobs):
        at = call.index(str(ROOT / 'slurm' / 'study.sbatch'))
        assert tuple(call[at + 1 :]) == job.args and job.args[0] == str(tmp_path / f'{ODD}.yaml')
        assert job.args[7:9] == ('--set', 'x=a\nb $(touch no)')
        assert ('--dependency=afterok:4711' in call[:at]) == (job.name == 'evaluate')
        assert f'--output={tmp_path}/{ODD.replace("%", "%%")}/jobs/{job.name}-%j.log' in call[:at]
        assert all(
            re.fullmatch('--comment=faba-[0-9a-f]{32}', o)
            for o in call[:at]
            if o.startswith('--comment')
        )
    assert f'faba status {tmp_path}/a\\ b' in r.stderr


def test_a_name_with_a_line_break_runs_nothing(tmp_path, shop):
    "Were such a name ever to come so far: the comment has one line, the name of the job is a word"
    from dataclasses import replace
    from faba_nb.running.submitting import script

    plan = odd_plan(tmp_path)
    for bad in ('x\ntouch no\n', 'x\rtouch no', 'x\u2028touch no', '$(touch no)\\', "';touch no;'"):
        text = script(
            replace(
                plan,
                study=replace(plan.study, name=bad),
                site=plan.site.model_copy(update={'title': bad, 'name': bad}),
                out=tmp_path / bad / 'o',
            )
        )
        r = shop(text)
        assert r.returncode == 0 and len(r.calls) == 1, r.stderr
        assert not [o for o in r.calls[0] if o.startswith('--job-name') and '\n' in o]


def test_names_that_a_script_would_misread_are_refused(tmp_path, faba):
    "One line, exit code 2, nothing written: a study, a site, a folder"
    from faba_nb.core.studies import read_study

    text = read_study('demo').to_yaml()
    for name in ('x\ntouch no', '-x', 'a b', '$(touch no)'):
        (tmp_path / 's.yaml').write_text(text.replace('name: demo', f'name: {json.dumps(name)}', 1))
        r = faba(
            'submit',
            tmp_path / 's.yaml',
            '--site',
            'mini',
            '--data',
            tmp_path / 'elsewhere',
            '--out',
            tmp_path / 'out',
            cwd=tmp_path,
        )
        assert (r.returncode, r.stdout, r.stderr.count('\n')) == (2, '', 1), r
    for folder in ('a\\b', 'a\nb'):
        r = faba(
            'submit',
            'demo',
            '--site',
            'mini',
            '--data',
            tmp_path / 'elsewhere',
            '--out',
            tmp_path / folder,
            cwd=tmp_path,
        )
        assert (r.returncode, r.stdout, r.stderr.count('\n')) == (
            2,
            '',
            1,
        ) and 'cannot be handed to Slurm' in r.stderr, r
    mini = (ROOT / 'slurm' / 'sites' / 'mini.toml').read_text()
    (tmp_path / 'odd.toml').write_text(mini.replace('title = "Slurm', r'title = "a\ntouch no'))
    r = faba(
        'submit',
        'demo',
        '--site',
        tmp_path / 'odd.toml',
        '--data',
        tmp_path / 'elsewhere',
        '--out',
        tmp_path / 'out',
        cwd=tmp_path,
    )
    assert (r.returncode, r.stdout, r.stderr.count('\n')) == (
        2,
        '',
        1,
    ) and 'more than one line' in r.stderr, r
    assert {p.name for p in tmp_path.iterdir()} == {'s.yaml', 'odd.toml'}


def test_a_job_that_slurm_has_is_not_submitted_twice(tmp_path, shop):
    "Also when the script was killed before it wrote the number down, whatever the folder is called"
    from faba_nb.running.submitting import script

    plan = odd_plan(tmp_path)
    assert len(shop(script(plan)).calls) == 1
    (plan.out / 'jobs' / 'study.id').unlink()
    r = shop(script(plan))
    assert r.returncode == 0 and r.calls == [] and 'study is with Slurm as job 4711' in r.stderr, (
        r.stderr
    )


def test_a_full_queue_is_no_fault_and_a_wrong_project_is(tmp_path, shop, twin, faba):
    "Slurm says `accounting/QOS policy` of both; where it names a limit, the same script goes on later"
    from faba_nb.running.submitting import script

    text, final = (
        script(odd_plan(tmp_path, split=True)),
        'sbatch: error: Batch job submission failed: Job violates accounting/QOS policy '
        "(job submit limit, user's size and/or time limits)",
    )
    for limit in ('AssocMaxSubmitJobLimit', 'QOSMaxSubmitJobPerUserLimit'):
        full = shop(text, rf'sbatch: error: {limit}\n{final}')
        assert (full.returncode, len(full.calls)) == (75, 1), full.stderr
        assert full.stderr.count('run this script again when one of them has ended') == 1
    go = ('submit', 'demo', '--site', 'mini', '--data', twin, '--out', tmp_path / 'demo', '--go')
    Path(f'{tmp_path}/told.answers').write_text(rf'sbatch: error: AssocMaxSubmitJobLimit\n{final}')
    path = f'{tmp_path}/bin:{os.environ["PATH"]}'
    r = faba(*go, env={**os.environ, 'PATH': path, 'TOLD': str(tmp_path / 'told')})
    assert r.returncode == 75 and 'the queue of this account is full' in r.stderr, r.stderr
    later = shop(text)
    assert (later.returncode, len(later.calls)) == (0, 2), later.stderr
    shutil.rmtree(tmp_path / ODD)
    (tmp_path / 'told.queue').unlink()
    for answer in (
        final,
        'sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified',
    ):
        wrong = shop(text, answer)
        assert (
            wrong.returncode == 2
            and len(wrong.calls) == 1
            and 'train was refused: ' in wrong.stderr
            and 'may project_2001234 be used here' in wrong.stderr
        ), wrong.stderr


@pytest.mark.parametrize(
    'site, words',
    [
        ('mahti', 'its compute part was to end on 31 August 2026'),
        ('roihu', 'the jobs run on aarch64: log in at roihu-gpu.csc.fi'),
        ('mini', None),
    ],
)
def test_what_has_to_be_known_of_a_site_is_one_line(tmp_path, faba, shop, site, words):
    "The script says it where it is run, and hands jobs of another architecture only what they need"
    r = faba(
        'submit',
        'demo',
        '--site',
        site,
        '--account',
        'project_2001234',
        '--data',
        tmp_path / 'elsewhere',
        '--out',
        tmp_path / 'out',
    )
    notes = [l for l in r.stdout.splitlines() if l.startswith('note ')]
    assert r.returncode == 0 and len(notes) == bool(words), r.stdout
    assert not words or words in notes[0]
    run = shop((tmp_path / 'out' / 'submit.sh').read_text(), SBATCH_EXPORT='ALL')
    whole = [o for o in run.calls[0] if o.startswith('--export')]
    assert run.returncode == 0 and ('log in at roihu-gpu.csc.fi' in run.stderr) == (
        site == 'roihu'
    ), run.stderr
    assert [
        o.startswith('--export=HOME,TERM,CSC_ENV_INIT_NON_INTERACTIVE=yes,FABA_SITE,')
        for o in whole
    ] == ([True] if site == 'roihu' else [])


# ---- setting up a site -----------------------------------------------------------------------

# python3 of a module: makes environments out of these stand-ins, and knows only the packages in $PACKAGES
PYTHON3 = """#!/bin/bash
if [ "$1 $2" = "-m venv" ]; then
    mkdir -p "${{@: -1}}/bin"
    ln -s "$0" "${{@: -1}}/bin/python"
    ln -s "$0" "${{@: -1}}/bin/python3"
    cp "$TOOLS/faba" "${{@: -1}}/bin/faba"
    printf 'PATH=%q:$PATH\\n' "${{@: -1}}/bin" >"${{@: -1}}/bin/activate"
elif [ "$1 $2" = "-m pip" ]; then
    printf '%s\\n' "$@" >"$TOLD.pip"
    while [ $# -gt 0 ]; do
        if [ "$1" = --constraint ]; then cat "$2" >>"$TOLD.constraints"; fi
        shift
    done
else
    PYTHONPATH=$PACKAGES exec {system} -S "$@"
fi
"""
FABA = """#!/bin/bash
printf '%s\\n' "$*" >>"$TOLD.faba"
[ "$1" = fetch ] || PYTHONPATH=$FABA_SOURCE exec {python} -m faba_nb "$@"
"""


def requirements():
    from configparser import ConfigParser

    ini = ConfigParser(delimiters=['='])
    ini.read(ROOT / 'settings.ini', encoding='utf-8')
    return [re.match(r'[\w.-]+', r)[0] for r in ini['DEFAULT']['requirements'].split()]


def packages(folder):
    "An empty package for every name that settings.ini requires, and for modules of ours that jobs import"
    import importlib.metadata as metadata

    normal, names = lambda n: re.sub(r'[-_.]+', '-', n).lower(), {}
    for top, owners in metadata.packages_distributions().items():
        for o in owners:
            names.setdefault(normal(o), []).append(top)
    for r in requirements():
        info = folder / f'{r.replace("-", "_")}-1.5.dist-info'
        info.mkdir(parents=True)
        (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {r}\nVersion: 1.5+site\n')
        (info / 'top_level.txt').write_text('\n'.join(names[normal(r)]))
        for top in names[normal(r)]:
            (folder / f'{top}.py').touch()
    from runpy import run_path

    for name in run_path(str(ROOT / 'slurm' / 'imports.py'))['OURS']:
        path = folder.joinpath(*name.split('.')).with_suffix('.py')
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture
def login_node(tmp_path):
    "What a site is set up with, without network, in a folder with a blank and a quote in its name"
    base = tmp_path / "it's a node"
    repository, tools = base / 'faba nb', base / 'tools'
    shutil.copytree(
        ROOT / 'slurm',
        repository / 'slurm',
        ignore=shutil.ignore_patterns('here.sh', '.here.sh.new'),
    )
    for f in ('settings.ini', 'constraints.txt'):
        shutil.copy(ROOT / f, repository)
    for d in ('nbs', 'data'):
        (repository / d).symlink_to(ROOT / d)
    shutil.copytree(
        ROOT / 'faba_nb', repository / 'faba_nb', ignore=shutil.ignore_patterns('__pycache__')
    )
    program(tools / 'python3', PYTHON3.format(system=os.path.realpath(sys.executable)))
    program(tools / 'faba', FABA.format(python=sys.executable))
    packages(base / 'packages')
    text = (ROOT / 'slurm' / 'sites' / 'mahti.toml').read_text()
    profile = base / 'my site' / 'mine.toml'
    profile.parent.mkdir()
    profile.write_text(
        text.replace('"/projappl/', f'"{base}/projappl/')
        .replace('"/scratch/', f'"{base}/scratch/')
        .replace('"x86_64"', f'"{os.uname().machine}"')
    )
    clean = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(('SLURM', 'SBATCH', 'FABA_', 'PIP_', 'HF_', 'PYTHON'))
    }
    env = {
        **clean,
        'PATH': f'{tools}:{os.environ["PATH"]}',
        'TOOLS': str(tools),
        'PACKAGES': str(base / 'packages'),
        'FABA_SOURCE': str(repository),
        'TOLD': str(base / 'told'),
        'BASH_FUNC_module%%': '() { echo "module $*" >>"$TOLD.module"; [ "$2" != none/1 ]; }',
    }

    def setup(*args):
        return subprocess.run(
            ['bash', repository / 'slurm' / 'setup_site.sh', *map(str, args)],
            env=env,
            capture_output=True,
            text=True,
            cwd=base,
            timeout=120,
        )

    setup.base, setup.repository, setup.profile, setup.env = base, repository, profile, env
    setup.told = lambda what: (base / f'told.{what}').read_text()
    return setup


def test_a_site_is_set_up_from_beginning_to_end(login_node):
    "From the environment to the weights, with a profile of one's own; hostile folders arrive unchanged"
    venv, data = login_node.base / 'v $(touch no)', "d ;'x' `touch no`"
    r = login_node(
        login_node.profile,
        'project_2001234',
        '--venv',
        venv,
        '--data',
        data,
        '--weights',
        'clip,bioclip2',
    )
    assert r.returncode == 0, r.stderr
    assert (
        'its compute part was to end on 31 August 2026' in r.stderr
        and 'every import works; torch 1.5' in r.stderr
    )
    assert login_node.told('module') == 'module load pytorch/2.9\n'
    assert login_node.told('pip').splitlines()[-2:] == ['--editable', str(login_node.repository)]
    held = login_node.told('constraints').splitlines()
    assert [l for l in held if re.match('(torch|torchvision|numpy|h5py)==', l)] == [
        'torch==1.5',
        'torchvision==1.5',
        'numpy==1.5',
        'h5py==1.5',
    ]
    assert {
        l
        for l in (ROOT / 'constraints.txt').read_text().splitlines()
        if re.match('(pandas|scipy|timm)==', l)
    } <= set(held) and not any(l.startswith(('nvidia', 'cuda', 'triton')) for l in held)
    assert login_node.told('faba').splitlines()[-1] == 'fetch clip bioclip2'
    show = 'printf "%s\\n" "$FABA_SITE" "$FABA_ROOT" "$FABA_VENV" "$FABA_DATA" "$SBATCH_ACCOUNT" "$(command -v faba)"'
    shell = subprocess.run(
        ['bash', '-c', f'. "$0"; {show}', login_node.repository / 'slurm' / 'here.sh'],
        env=login_node.env,
        capture_output=True,
        text=True,
        cwd=login_node.base,
    )
    assert shell.stdout.splitlines() == [
        'mine',
        str(login_node.repository),
        str(venv),
        str(login_node.base / data),
        'project_2001234',
        f'{venv}/bin/faba',
    ], shell
    assert login_node.told('module').count('module load pytorch/2.9') == 2 and not list(
        login_node.base.rglob('no')
    )


def test_setting_up_stops_where_it_has_to(login_node):
    "A package that is missing, broken or replaced is named, and no here.sh written; wrong words are refused"
    assert (
        login_node(
            'mini', 'project_2013932', '--venv', login_node.base / 'v', '--weights', 'none'
        ).returncode
        == 0
    )
    (login_node.repository / 'slurm' / 'here.sh').unlink()
    site = login_node.base / 'packages'
    (site / 'h5py.py').write_text('raise ImportError("no libhdf5")')
    shutil.rmtree(site / 'tqdm-1.5.dist-info')
    r = login_node('mini', 'project_2013932', '--venv', login_node.base / 'v', '--weights', 'none')
    assert (
        r.returncode == 1
        and 'h5py cannot be imported: ImportError: no libhdf5' in r.stderr
        and 'tqdm is required by settings.ini and not installed' in r.stderr
        and 'Traceback' not in r.stderr
    )
    pin = subprocess.run(
        [
            login_node.env['TOOLS'] + '/python3',
            login_node.repository / 'slurm' / 'imports.py',
            'numpy==1.4',
        ],
        env=login_node.env,
        capture_output=True,
        text=True,
    )
    assert (
        pin.returncode == 1 and "numpy was replaced: 1.5 instead of the module's 1.4" in pin.stderr
    )
    mine = login_node.profile.read_text()
    login_node.profile.write_text(mine.replace('pytorch/2.9"]', 'none/1"]'))
    other = login_node.profile.with_name('other.toml')
    other.write_text(
        mine.replace(f'machine = "{os.uname().machine}"', 'machine = "vax"\nlogin = "vax.csc.fi"')
    )
    for args, line in (
        (('-x', 'p'), 'SITE is a name'),
        (('nosuch', 'p'), 'there is no profile'),
        (('mini', '--account=x'), 'ACCOUNT is a name'),
        (('mini', 'p$(touch no)'), 'ACCOUNT is a name'),
        (('mini', 'p', '--venv'), '--venv needs a value'),
        (('mini', 'p', '--weights', '-x'), '--weights takes names'),
        (('mini', 'p', '--weights', 'a;touch no'), '--weights takes names'),
        ((login_node.profile, 'p'), 'the module none/1 cannot be loaded'),
        ((other, 'p'), 'the jobs run on vax: log in at vax.csc.fi'),
    ):
        r = login_node(*args)
        assert (r.returncode, r.stdout) == (2, '') and line in r.stderr.splitlines()[-1], (
            args,
            r.stderr,
        )
    assert not (login_node.repository / 'slurm' / 'here.sh').exists() and not list(
        login_node.base.rglob('no')
    )


@pytest.mark.full
def test_every_package_of_settings_is_imported_here():
    "The check that setting up ends with, on the real packages"
    import numpy

    r = subprocess.run(
        [sys.executable, ROOT / 'slurm' / 'imports.py', f'numpy=={numpy.__version__}'],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    assert (r.returncode, r.stdout) == (0, '') and 'every import works' in r.stderr, r.stderr


def test_constraints_of_the_sites_are_in_step():
    "`slurm/constraints.py` writes them; a module that brings torch has none of what torch comes with"
    from runpy import run_path

    text = run_path(str(ROOT / 'slurm' / 'constraints.py'))['text']
    profiles = sorted((ROOT / 'slurm' / 'sites').glob('*.toml'))
    for p in profiles:
        assert p.with_suffix('.constraints.txt').read_text() == text(p), (
            'run python3 slurm/constraints.py'
        )
    assert [p.name for p in sorted((ROOT / 'slurm' / 'sites').glob('*.txt'))] == [
        f'{p.stem}.constraints.txt' for p in profiles
    ]


def test_the_shell_reads_of_a_profile_what_python_reads():
    "setup_site.sh has no Python yet when it looks for the module"
    import tomllib

    text = (ROOT / 'slurm' / 'setup_site.sh').read_text()
    function = text[text.index('value() {') : text.index('# a path of the profile')]
    for p in sorted((ROOT / 'slurm' / 'sites').glob('*.toml')):
        profile = tomllib.loads(p.read_text())
        for key in (
            'title',
            'closed',
            'notice',
            'machine',
            'login',
            'modules',
            'kept',
            'venv',
            'scratch',
        ):
            known = profile.get(key, '')
            said = subprocess.run(
                [
                    'bash',
                    '-c',
                    f'profile=$1\n{function}\n{"list" if isinstance(known, list) else "value"} {key}',
                    '-',
                    p,
                ],
                capture_output=True,
                text=True,
            ).stdout.strip()
            assert said == (' '.join(known) if isinstance(known, list) else str(known)), (
                p.name,
                key,
            )


# ---- on a real Slurm -------------------------------------------------------------------------------------------------


def lacking():
    "What slurm/mini/up.sh needs and this machine lacks"
    path = os.environ['PATH'] + ':/usr/sbin:/sbin'
    if os.getuid() != 0:
        return 'root'
    return next(
        (
            t
            for t in ('slurmctld', 'slurmd', 'slurmdbd', 'munged', 'mariadbd', 'sacctmgr')
            if not shutil.which(t, path=path)
        ),
        None,
    )


def on_slurm(f):
    "A test of `make test-all`, where Slurm is installed"
    return pytest.mark.slurm(
        pytest.mark.skipif(
            lacking() is not None,
            reason=f'a Slurm on this machine needs {lacking()} (see slurm/mini/up.sh)',
        )(f)
    )


def free_ports(n=4):
    "The first of `n` ports in a row that nobody listens to"

    def free(port):
        with socket.socket() as s:
            return s.connect_ex(('127.0.0.1', port)) != 0

    return next(p for p in range(26817, 32000, n) if all(map(free, range(p, p + n))))


def mini_script(name, env):
    return subprocess.run(
        ['bash', ROOT / 'slurm' / 'mini' / name],
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.fixture(scope='session')
def mini():
    "A Slurm of these tests' own, as its environment; it goes when they end, however they end"
    folder = Path(tempfile.mkdtemp(prefix='faba-mini-', dir='/var/tmp'))
    folder.chmod(0o755)
    clean = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(('SLURM', 'SBATCH', 'FABA_')) or k == 'FABA_SHARED'
    }
    env = {
        **clean,
        'FABA_MINI': str(folder),
        'FABA_MINI_PORT': str(free_ports()),
        'SLURM_CONF': str(folder / 'slurm.conf'),
    }
    try:
        said = mini_script('up.sh', env)
        assert said.returncode == 0, said.stderr
        yield env
    finally:
        mini_script('down.sh', env)
        shutil.rmtree(folder, ignore_errors=True)


def call(env, *args, **kwargs):
    return subprocess.run(
        [str(a) for a in args],
        env=env,
        capture_output=True,
        text=True,
        timeout=kwargs.pop('timeout', 600),
        **kwargs,
    )


def queue(env):
    return call(env, 'squeue', '-h', '-o', '%i %j %T %r').stdout.splitlines()


@pytest.fixture
def slurm(mini):
    "The Slurm with an empty queue, before and after"
    yield mini
    call(mini, 'scancel', '-u', 'root')
    wait_for('an empty queue', lambda: not queue(mini), 60)


def faba_in(env, *args):
    return call(env, sys.executable, '-m', 'faba_nb', *args)


def submit(env, reference, twin, out, *more, site='mini'):
    return faba_in(
        env,
        'submit',
        reference / 'tiny.yaml',
        '--site',
        site,
        '--venv',
        sys.prefix,
        '--data',
        twin,
        '--features',
        reference / 'features',
        '--out',
        out,
        *more,
    )


def by_hand(env, *more):
    "What `. slurm/here.sh` puts into a shell"
    lines = faba_in(env, 'sites', 'mini', '--venv', sys.prefix, *more).stdout
    return {**env, **dict(re.findall(r"^export (\w+)='?(.*?)'?$", lines, re.M))}


def logs(out):
    return '\n'.join(p.read_text() for p in sorted((out / 'jobs').glob('*.log')))


@on_slurm
def test_sbatch_accepts_the_scripts_of_the_clusters(mini, tmp_path):
    "`sbatch --test-only` on nodes of the sizes of Mahti's and Roihu's"
    lines = [
        l
        for p in PLANS
        for l in re.findall(
            r"^job \S+ (?:''|'[^']*'|\S+) (--account.*?) /home/user/faba_nb/slurm/(\S+)",
            golden(*p).read_text(),
            re.M,
        )
    ]
    assert len(lines) == 4
    call(mini, 'scontrol', 'delete', 'reservation=nobody')
    try:
        for opts, file in lines:
            opts = opts.replace('project_2001234', 'project_2013932').split()
            r = call(
                mini,
                'sbatch',
                '--test-only',
                *opts,
                ROOT / 'slurm' / file,
                'backbones',
                cwd=tmp_path,
            )
            assert r.returncode == 0 and 'to start at' in r.stderr, r.stderr
    finally:
        assert mini_script('up.sh', mini).returncode == 0


@on_slurm
def test_lines_typed_by_hand_are_accepted(mini, tmp_path):
    "With what setup_site.sh writes, with a GPU and without; Slurm refuses GPU options beside those of CPUs"
    env = by_hand(mini)
    for line in (
        'sbatch --test-only FILE/study.sbatch demo',
        'sbatch --test-only --partition=gputest --time=0:15:00 FILE/study.sbatch demo',
        'sbatch --test-only FILE/study.sbatch train demo',
        '$FABA_CPU --test-only FILE/study.sbatch demo --only evaluate,report',
    ):
        r = call(env, 'bash', '-c', line.replace('FILE', str(ROOT / 'slurm')), cwd=tmp_path)
        assert r.returncode == 0 and 'to start at' in r.stderr, (line, r.stderr)
        assert ('in partition small' in r.stderr) == ('FABA_CPU' in line)
    assert (
        call(
            env,
            'sbatch',
            '--test-only',
            '--partition=small',
            '--cpus-per-task=1',
            ROOT / 'slurm' / 'study.sbatch',
            'demo',
            cwd=tmp_path,
        ).returncode
        != 0
    )


@on_slurm
def test_demo_in_one_job(slurm, tmp_path):
    "`sbatch slurm/study.sbatch demo` simulates its own plants and ends with the report"
    short = ('max_epochs=2', 'protocols=[retrospective]')
    few = [part for s in short for part in ('--set', f'defaults.{s}')]
    env, results = by_hand(slurm), tmp_path / 'results'
    env.update(FABA_RESULTS=str(results), FABA_CACHE=str(tmp_path / 'cache'))
    drawn = ROOT / 'data' / 'twin' / 'demo'  # after `make demo`: the same plants, not drawn again
    if (drawn / 'SIMULATED.txt').is_file():
        shutil.copytree(drawn, results / 'twin-demo')
    r = call(
        env,
        'sbatch',
        '--parsable',
        '--time=60',
        ROOT / 'slurm' / 'study.sbatch',
        'demo',
        *few,
        cwd=tmp_path,
    )
    assert r.returncode == 0, r.stderr
    log = tmp_path / f'faba-{r.stdout.strip()}.log'
    one = results / 'demo'
    wait_for('the end', lambda: not queue(slurm))
    assert 'ended with exit code 0' in log.read_text(), log.read_text()
    assert (one / 'report' / 'index.html').exists(), log.read_text()
    assert len(tables(one)) > 8 and (results / 'twin-demo').is_dir()


@on_slurm
def test_two_jobs_through_a_full_queue_and_a_cancelled_job(slurm, reference, twin, tmp_path):
    "`submit --split`: no job is submitted twice, and the tables are those of `faba run`"
    # A queue with room for one of the two; the script run again beside its jobs; the first
    # cancelled, and the second, which needs it, goes too; again, to the report.
    out = tmp_path / 'out'
    id_of = lambda name: (out / 'jobs' / f'{name}.id').read_text().strip()
    held = [
        call(slurm, 'sbatch', '--parsable', '--hold', '--wrap=true', cwd=tmp_path).stdout.strip()
        for _ in range(3)
    ]
    assert all(held), held
    first = submit(slurm, reference, twin, out, '--split', '--go')
    assert first.returncode == 75 and 'evaluate was refused' in first.stderr, first.stderr
    assert 'the queue of this account is full' in first.stderr, first.stderr
    call(slurm, 'scancel', *held)
    wait_for('room in the queue', lambda: len(queue(slurm)) == 1, 60)
    for words in ('evaluate is job', 'evaluate is with Slurm as job'):
        again = call(slurm, 'bash', out / 'submit.sh')
        assert again.returncode == 0 and words in again.stderr, again.stderr
        assert f'train is with Slurm as job {id_of("train")}' in again.stderr, again.stderr
    cancelled = [id_of('train'), id_of('evaluate')]
    call(slurm, 'scancel', cancelled[0])
    wait_for('both jobs to leave', lambda: not queue(slurm), 120)
    last = call(slurm, 'bash', out / 'submit.sh')
    assert last.returncode == 0 and last.stderr.count(' is job ') == 2, last.stderr
    wait_for('the end', lambda: not queue(slurm))
    assert tables(out) == tables(reference / 'out'), logs(out)
    assert (out / 'report' / 'index.html').exists(), logs(out)
    seen = faba_in(slurm, 'status', out).stdout
    assert len(re.findall(r'job (?:train|evaluate) +done', seen)) == 2, seen
    assert re.search(r'[1-9]\d*(\.\d+)? GPU-BU|0\.\d*[1-9]\d* GPU-BU', seen), seen
    known = call(slurm, 'sacct', '-n', '-P', '-X', '-o', 'JobID,JobName').stdout.split()
    mine = {l.split('|')[0] for l in known if '|faba-tiny-' in l}
    mine = {i for i in mine if int(i) >= int(cancelled[0])}
    at_end = {id_of('train'), id_of('evaluate')}
    assert {cancelled[0], *at_end} <= mine <= {*cancelled, *at_end}, mine  # none twice


@on_slurm
def test_folders_with_odd_names_and_a_limited_environment(slurm, tmp_path):
    "On Slurm itself: odd folders, and a site that names what its jobs inherit"
    # Per cent signs, blanks and quotes in a folder's name, the log where it belongs; such a site
    # gives its jobs that and our own variables, and a module system of the node's login shell.
    odd, site = tmp_path / "o 'u\"t %j $(touch no)", tmp_path / 'mine.toml'
    site.write_text(
        'exported = ["HOME", "TERM", "CSC_ENV_INIT_NON_INTERACTIVE=yes"]\n'
        + (ROOT / 'slurm' / 'sites' / 'mini.toml').read_text()
    )
    program(
        tmp_path / 'venv' / 'bin' / 'faba',
        '#!/bin/bash\n'
        f'env -0 >{str(tmp_path)!r}/environment\n'
        f'shopt login_shell >{str(tmp_path)!r}/shell\n'
        f'printf "%s\\n" "$@" >{str(tmp_path)!r}/arguments\n',
    )
    (tmp_path / 'venv' / 'bin' / 'python').symlink_to(sys.executable)
    (tmp_path / 'venv' / 'bin' / 'activate').write_text(f'PATH={tmp_path}/venv/bin:$PATH')
    r = faba_in(
        slurm,
        'submit',
        'demo',
        '--site',
        site,
        '--venv',
        tmp_path / 'venv',
        '--data',
        tmp_path / 'd %x',
        '--out',
        odd,
    )
    assert r.returncode == 0, r.stderr
    fed = call({**slurm, 'OF_THE_LOGIN_NODE': '1'}, 'bash', odd / 'submit.sh', cwd=tmp_path)
    assert fed.returncode == 0, fed.stderr
    job = (odd / 'jobs' / 'study.id').read_text().strip()
    wait_for('the end', lambda: not queue(slurm), 120)
    log = odd / 'jobs' / f'study-{job}.log'
    assert (
        log.exists()
        and 'ended with exit code 0' in log.read_text()
        and (odd / 'jobs' / 'study.done').exists()
    ), [str(p) for p in odd.rglob('*')]
    got = dict(
        v.split('=', 1) for v in (tmp_path / 'environment').read_text().split('\0') if '=' in v
    )
    assert (
        got['CSC_ENV_INIT_NON_INTERACTIVE'],
        got['FABA_VENV'],
        got['FABA_JOB_DONE'],
        got['SLURM_JOB_ID'],
    ) == ('yes', str(tmp_path / 'venv'), str(odd / 'jobs' / 'study.done'), job)
    assert 'OF_THE_LOGIN_NODE' not in got
    args = (tmp_path / 'arguments').read_text().splitlines()
    assert (
        args[:4] == ['run', 'demo', '--data', str(tmp_path / 'd %x')]
        and args[-1] == str(odd)
        and not list(tmp_path.rglob('no'))
    )


def told(out):
    return (
        [e for l in (out / 'log.jsonl').read_text().splitlines() if 'event' in (e := json.loads(l))]
        if (out / 'log.jsonl').exists()
        else []
    )


def now(out, step, event):
    return any(e['step'].startswith(step) and e['event'] == event for e in told(out))


# when a job of the whole study is cancelled: what has to be there, given the study's folder and the job's log
MOMENTS = {
    'before Python runs': lambda out, log: 'attempt 1' in log,
    'a kernel starts': lambda out, log: now(out, 'features', 'started'),
    'photographs are read': lambda out, log: (out / 'steps' / 'features.heartbeat.json').exists(),
    'a fit is done': lambda out, log: any(out.glob('arms/*/fits/*.json')),
    'predictions are there': lambda out, log: any(out.glob('arms/*/predictions.csv')),
    'evaluation begins': lambda out, log: now(out, 'evaluate', 'started'),
    'pages are made': lambda out, log: now(out, 'report', 'started'),
}


@on_slurm
def test_cancelled_at_any_moment_it_is_stopped_and_goes_on(slurm, reference, twin, tmp_path):
    "scancel at any moment: nothing is left, and the results are those of an undisturbed run"
    # It sends TERM to every process of the job: before Python runs, while a kernel starts, in the
    # middle, near the end; each time the step is stopped or done.
    out, disk, features = tmp_path / 'out', tmp_path / 'disk', tmp_path / 'features'
    disk.mkdir()
    env = {**by_hand(slurm), 'FABA_LOCAL_DISK': 'DISK', 'DISK': str(disk)}
    places = ('--data', twin, '--features', features, '--out', out)

    def start():
        words = ('sbatch', '--parsable', '--time=60', ROOT / 'slurm' / 'study.sbatch')
        r = call(env, *words, reference / 'tiny.yaml', *places, cwd=tmp_path)
        assert r.returncode == 0, r.stderr
        return r.stdout.strip(), tmp_path / f'faba-{r.stdout.strip()}.log'

    read = lambda log: log.read_text() if log.exists() else ''
    ends = {}
    for what, moment in MOMENTS.items():
        before = len(told(out))
        job, log = start()
        wait_for(what, lambda: moment(out, read(log)) or not queue(slurm))
        call(slurm, 'scancel', job)
        wait_for('the job to leave', lambda: not queue(slurm), 120)
        events, text = told(out)[before:], read(log)
        assert (
            re.search('ended with exit code (75|130|137)', text)
            or 'stopped before the work began' in text
            or 'ended with exit code 0' in text
        ), text
        assert [e for e in events if e['event'] not in ('started', 'stopped', 'finished')] == [], (
            events,
            text,
        )
        assert not events or events[-1]['event'] in ('stopped', 'finished'), (events, text)
        assert list(disk.iterdir()) == [], text
        seen = faba_in(slurm, 'status', out) if events else None
        assert not seen or seen.returncode == 0 and not re.search('killed|failed', seen.stdout), (
            seen
        )
        ends[what] = (events[-1]['step'], events[-1]['event']) if events else None
    stopped = {
        step.split('-')[0] for step, event in filter(None, ends.values()) if event == 'stopped'
    }
    assert {'features', 'train', 'evaluate'} <= stopped, ends
    job, log = start()
    wait_for('the end', lambda: not queue(slurm))
    assert 'ended with exit code 0' in read(log) and list(disk.iterdir()) == [], read(log)
    assert [p.name for p in sorted(features.glob('*.h5'))] == [
        p.name for p in sorted((reference / 'features').glob('*.h5'))
    ]
    assert contents(out, 'arms/*/predictions*.csv') == contents(
        reference / 'out', 'arms/*/predictions*.csv'
    )
    assert tables(out) == tables(reference / 'out')
    assert (out / 'report' / 'index.html').exists()


@on_slurm
def test_a_job_outlives_its_time_limit(slurm, reference, twin, tmp_path):
    "Checkpoint, requeue, twice: nothing is trained twice, and the predictions are the same"
    # The signal before the limit comes from Slurm itself and then, once there is a new fit, from
    # us; a kernel is killed on the way.
    out = tmp_path / 'out'
    long = (
        '--set',
        'arms.morphology.modalities=[env]',
        '--set',
        'defaults.max_epochs=90',
        '--set',
        'defaults.patience=90',
    )
    assert submit(slurm, reference, twin, out, '--split', *long).returncode == 0
    text = (out / 'submit.sh').read_text()
    near = r'\1--time=0:01:00 --signal=B:USR1@25'
    text = re.sub(r"(job train .*?)--time=\S+ --signal=\S+", near, text)
    (out / 'submit.sh').write_text(text)
    assert call(slurm, 'bash', out / 'submit.sh').returncode == 0
    job = (out / 'jobs' / 'train.id').read_text().strip()
    whole = subprocess.Popen(
        [
            sys.executable,
            '-m',
            'faba_nb',
            'run',
            reference / 'tiny.yaml',
            *long,
            '--data',
            twin,
            '--features',
            reference / 'features',
            '--out',
            tmp_path / 'here',
            '--only',
            'train',
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    done = lambda: (out / 'jobs' / 'train.done').exists() or not queue(slurm)
    try:
        wait_for('the second attempt', lambda: 'attempt 2,' in logs(out) or done())
        # from here on the machine may be as slow as it likes
        r = call(slurm, 'scontrol', 'update', f'jobid={job}', 'timelimit=60')
        assert r.returncode == 0, r.stderr
        began, beat = time.time(), out / 'steps' / 'train.heartbeat.json'
        beating = lambda: beat.exists() and beat.stat().st_mtime > began
        lock = out / 'steps' / 'train.lock'
        kernel = wait_for('a kernel', lambda: kernel_of(lock) if beating() else None)
        os.kill(kernel, signal.SIGKILL)
        before = len(list(out.glob('arms/*/fits/*.json')))
        wait_for(
            'a fit of the second attempt',
            lambda: len(list(out.glob('arms/*/fits/*.json'))) > before or done(),
        )
        call(slurm, 'scancel', '--batch', '--signal=USR1', job)
        wait_for('the end', done)
        said = whole.communicate(timeout=900)[1]
    finally:
        whole.kill()
    log = logs(out)
    assert (out / 'jobs' / 'train.done').exists(), log
    assert (
        'the kernel was killed (SIGKILL)' in log and 'trying once more with less memory' in log
    ), log
    assert log.count('requeueing job') >= 2 and 'attempt 3,' in log, log
    assert whole.returncode == 0 and contents(out, 'arms/*/predictions*.csv') == contents(
        tmp_path / 'here', 'arms/*/predictions*.csv'
    ), said
    seen = faba_in(slurm, 'status', out).stdout
    assert re.search(r'job train +done', seen) and 'GPU-BU' in seen, seen


def node_fails(env, job):
    "The power goes: Slurm's daemon, the job's shepherd and all processes of the job end at once"
    # Then Slurm gives the node up, as it does by itself after SlurmdTimeout.
    of_job = {
        int(l.split()[0]) for l in call(env, 'scontrol', 'listpids', job).stdout.splitlines()[1:]
    }
    parents = {
        int(p)
        for p in subprocess.run(
            ['ps', '-o', 'ppid=', '-p', ','.join(map(str, of_job))], capture_output=True, text=True
        ).stdout.split()
    }
    for pid in (
        int((Path(env['FABA_MINI']) / 'run' / 'slurmd.pid').read_text()),
        *(parents - of_job),
        *of_job,
    ):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    r = call(
        env,
        'scontrol',
        'update',
        f'nodename={socket.gethostname().split(".")[0]}',
        'state=down',
        'reason=test',
    )
    assert r.returncode == 0, r.stderr


@on_slurm
def test_a_job_outlives_its_node(slurm, reference, twin, tmp_path):
    "Everything on the node is gone: Slurm requeues the job, with the same predictions in the end"
    # Its second attempt takes over the locks of the first and trains no finished fit again.
    out, long = (
        tmp_path / 'out',
        ('--set', 'arms.morphology.modalities=[env]', '--set', 'defaults.max_epochs=12'),
    )
    assert submit(slurm, reference, twin, out, '--split', *long, '--go').returncode == 0
    job, fits = (
        (out / 'jobs' / 'train.id').read_text().strip(),
        lambda: {p: p.stat().st_mtime_ns for p in out.glob('arms/*/fits/*.json')},
    )
    wait_for('finished fits', lambda: fits() or not queue(slurm))
    node_fails(slurm, job)
    before = fits()
    assert 0 < len(before) < 24, logs(out)
    wait_for(
        'the job to be requeued',
        lambda: any(l.startswith(f'{job} ') and 'PENDING' in l for l in queue(slurm)),
        60,
    )
    wait_for('the node to be back', lambda: mini_script('up.sh', slurm).returncode == 0, 180)
    here = faba_in(
        slurm,
        'run',
        reference / 'tiny.yaml',
        *long,
        '--data',
        twin,
        '--features',
        reference / 'features',
        '--out',
        tmp_path / 'here',
        '--only',
        'train',
    )
    wait_for('the end', lambda: (out / 'jobs' / 'train.done').exists() or not queue(slurm))
    assert (out / 'jobs' / 'train.done').exists() and 'attempt 2,' in logs(out), logs(out)
    assert {p: t for p, t in fits().items() if p in before} == before, (
        'finished fits were trained again'
    )
    assert here.returncode == 0 and contents(out, 'arms/*/predictions*.csv') == contents(
        tmp_path / 'here', 'arms/*/predictions*.csv'
    ), here.stderr
    states = call(slurm, 'sacct', '-D', '-X', '-n', '-P', '-j', job, '-o', 'State').stdout.split()
    assert states[0] == 'NODE_FAIL' and len(states) == 2, states


def kernel_of(lock):
    "The process below the one that holds the lock of a step"
    from faba_nb.core.locks import holder

    found = subprocess.run(
        ['pgrep', '-P', str((holder(lock) or {}).get('pid', 0)), '-f', 'kernel'],
        capture_output=True,
        text=True,
    ).stdout.split()
    return int(found[0]) if found else None


@on_slurm
def test_full_local_disk_of_a_job(slurm, reference, twin, tmp_path, full_disk):
    "One line in the job's log and in the status; with room again the same script goes on to the same predictions"
    out = tmp_path / 'out'
    assert submit(slurm, reference, twin, out, '--split').returncode == 0
    first = call({**slurm, 'TMPDIR': str(full_disk)}, 'bash', out / 'submit.sh')
    assert first.returncode == 0, first.stderr
    wait_for('the end of the job', lambda: not queue(slurm))
    log = logs(out)
    (line,) = [l for l in log.splitlines() if 'no space left' in l]
    assert re.search(
        rf'no space left on its disk \({re.escape(str(full_disk))}, \d+ MB free\)', line
    )
    assert 'what is finished is kept' in line and 'give another folder' in line and 'TMPDIR' in line
    assert 'ended with exit code 2' in log and 'Traceback' not in log, log
    seen = ' '.join(faba_in(slurm, 'status', out).stdout.split())
    assert re.search(r'(features|train) +failed.*no space left', seen), seen
    assert call({**slurm, 'TMPDIR': str(tmp_path)}, 'bash', out / 'submit.sh').returncode == 0
    wait_for('the predictions', lambda: (out / 'jobs' / 'train.done').exists() or not queue(slurm))
    assert contents(out, 'arms/*/predictions*.csv') == contents(
        reference / 'out', 'arms/*/predictions*.csv'
    ), logs(out)
