"Stepping through plants: milliseconds per step, the first view of full-resolution photographs, memory"

import json, os, subprocess, sys, tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SIZE = 3476, 2560  # pixels of a side view as the cameras write it


def enlarge(data):
    "The photographs that the first view shows, at the cameras' size"
    import pyvips
    from faba_nb.experiment.experiment_folder import Experiment

    xp = Experiment(data)
    first = xp.plants.query('genotype == @xp.plants.genotype.min() and replicate == 1').plant_id
    for path in xp.images.query('plant_id in @first and view == "side_000"').path:
        im = pyvips.Image.new_from_file(str(data / path))
        im.resize(SIZE[0] / im.height, vscale=SIZE[0] / im.height).pngsave(str(data / '.new.png'))
        (data / '.new.png').replace(data / path)


LOOK = '''
import json, resource, sys, time
start = time.perf_counter()
import faba_nb.exploring.plants_explorer as m
imported = time.perf_counter() - start
def timed(f, clock=time.perf_counter):
    start = clock(); f(); return clock() - start
out = {}
later, m.later = m.later, lambda f: None # a kernel does the rest when it is free
def first(): out['e'] = m.PlantsExplorer(sys.argv[1], sys.argv[2])
cpu = timed(lambda: out.update(seen=timed(first)), time.process_time); seen, e, m.later = out['seen'], out['e'], later
while e.picture.html.count('<image') < 22: e.draw()
e.load()
for _ in range(5): e.press(['right'])
for _ in range(5): e.press(['left'])
steps = [timed(lambda: e.press([k])) for k in ['right']*5 + ['left']*5]
e.view.value = 'all views'
while e.picture.html.count('<image') < 88: e.draw()
everything = timed(e.draw)
shown = e.src.images.plant_id == e.pair().plant_id.iloc[0]
large = timed(lambda: e.enlarge('photo|' + e.src.images.path[shown].iloc[0]))
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
times = dict(imported=imported, seen=seen, cpu=cpu, steps=sorted(steps), everything=everything, large=large)
print(json.dumps(times | dict(html=len(e.picture.html), memory=memory)))
'''


def look(data, out, cache):
    "What one kernel measures"
    done = subprocess.run(
        [sys.executable, '-c', LOOK, str(data), str(out)],
        capture_output=True,
        text=True,
        env={**os.environ, 'FABA_CACHE': str(cache)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def bench(short=False):
    from faba_nb.twin.writing import write_twin

    sys.path.insert(0, str(ROOT / 'tests'))
    from test_exploring import write_study

    with tempfile.TemporaryDirectory() as d:
        data, out = Path(d) / 'faba', Path(d) / 'out'
        write_twin(data, genotypes=4 if short else 12, seed=1, height=64 if short else 128)
        if not short:
            enlarge(data)
        write_study(data, out, evaluated=False)
        a = look(data, out, Path(d) / 'cache')
        b = look(data, out, Path(d) / 'cache')
    rows = [
        dict(name='packages imported', value=a['imported'], unit='s'),
        dict(
            name='first view ever, 22 photographs' + ('' if short else ' of 2560 × 3476'),
            value=a['seen'],
            unit='s',
            beside='3 s asked',
            ratio=3 / a['seen'],
        ),
        dict(name='  of which processor time', value=a['cpu'], unit='s'),
        dict(name='first view of another kernel', value=b['seen'], unit='s', ratio=3 / b['seen']),
    ]
    for name, v in (('median', a['steps'][5]), ('slowest of ten', a['steps'][-1])):
        rows.append(
            dict(
                name=f'step to a pair seen before, {name}',
                value=1e3 * v,
                unit='ms',
                beside='150 ms asked',
                ratio=0.15 / v,
            )
        )
    return rows + [
        dict(name='all four views of a pair seen before', value=1e3 * a['everything'], unit='ms'),
        dict(name='enlarging a day of both plants', value=1e3 * a['large'], unit='ms'),
        dict(name='HTML of a step, all views', value=a['html'] / 1e6, unit='MB'),
        dict(
            name='memory of the kernel at most',
            value=a['memory'],
            unit='GB',
            beside='1.5 GB asked',
            ratio=1.5 / a['memory'],
        ),
    ]
