"`make bench`: run every tests/bench_*.py and print its rows; ratios are what to quote, seconds depend on the machine"
import importlib.util, sys, time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))


def rows(path):
    "The rows of one benchmark file"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.bench()


if __name__ == '__main__':
    wanted = sys.argv[1:]
    for path in sorted(HERE.glob('bench_*.py')):
        if wanted and path.stem.removeprefix('bench_') not in wanted: continue
        start = time.time()
        print(f'\n{path.stem.removeprefix("bench_")}')
        for r in rows(path):
            beside = f"  beside {r['beside']}" if r.get('beside') is not None else ''
            ratio = f"  ratio {r['ratio']:.2f}" if r.get('ratio') is not None else ''
            value = f"{r['value']:.4g}" if isinstance(r['value'], float) else r['value']
            print(f"  {r['name']:60} {value} {r.get('unit', '')}{beside}{ratio}", flush=True)
        print(f'  ({time.time() - start:.0f} s)')
