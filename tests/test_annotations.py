"Answers of raters: written once each by several at once and after a kill, read with every fault named"

import os, signal, subprocess, sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from faba_nb.core.errors import BadInput
from faba_nb.experiment.annotations import add_annotation, left_of, plan_of, read_annotations


ROOT = Path(__file__).resolve().parent.parent
PLANTS = pd.DataFrame(
    {
        'plant_id': [f'24_FabaDr_{i:03d}' for i in range(1, 13)],
        'treatment': ['WHC-30', 'WHC-80'] * 6,
    }
)
GIVEN = dict(session='1', mode='whole', answer='onset', low_dag=20, high_dag=23, confidence=2)
GIVEN |= dict(seconds=4.0, shown='0123456789abcdef')

# a rater who answers what is left, in order, and tells after each answer that it is kept
RATER = """
import sys
sys.path.insert(0, 'tests')
from test_annotations import GIVEN, PLANTS
from faba_nb.experiment.annotations import add_annotation, left_of, plan_of, read_annotations
folder, name = sys.argv[1:]
for row in left_of(plan_of(name, PLANTS), read_annotations(folder), name).itertuples():
    add_annotation(folder, GIVEN | dict(rater=name, order=row.order, plant_id=row.plant_id))
    print(row.order, flush=True)
"""


def rater(folder, name):
    "A process in which somebody answers"
    command = [sys.executable, '-c', RATER, str(folder), name]
    env = {
        **os.environ,
        'PYTHONPATH': os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]),
    }
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)


def test_two_raters_at_once_one_of_them_killed(tmp_path):
    "Each answer is there once, and what was told as kept is kept"
    ada, eero = rater(tmp_path, 'Ada'), rater(tmp_path, 'Eero')
    for line in ada.stdout:
        if int(line) == 4:
            break
    ada.send_signal(signal.SIGKILL)
    ada.wait()
    assert eero.wait(60) == 0
    kept = read_annotations(tmp_path, PLANTS.plant_id).query('rater == "Ada"')
    assert set(kept.order) >= {1, 2, 3, 4}
    again = rater(tmp_path, 'Ada')
    assert again.wait(60) == 0
    said = read_annotations(tmp_path, PLANTS.plant_id)
    planned = {(n, o, p) for n in ['Ada', 'Eero'] for o, p in plan_of(n, PLANTS).values}
    assert Counter(zip(said.rater, said.order, said.plant_id)) == Counter(planned)
    assert left_of(plan_of('Ada', PLANTS), said, 'Ada').empty


def test_a_file_that_cannot_be_understood_is_not_written_over(tmp_path):
    "The line, the cell and the remedy are named; the bytes stay"
    answer = GIVEN | dict(rater='Ada', order=1, plant_id='24_FabaDr_001')
    assert add_annotation(tmp_path, answer)
    path = tmp_path / 'annotations.csv'
    broken = path.read_text().replace('whole', 'half')
    path.write_text(broken)
    with pytest.raises(BadInput, match="annotations.csv, line 2: mode is 'half'; known: whole"):
        add_annotation(tmp_path, answer | dict(order=2))
    assert path.read_text() == broken


def test_lines_are_added_and_never_changed(tmp_path):
    "What stood in the file stands in it afterwards, byte for byte, before what is new"
    before = b''
    for i in range(1, 6):
        add_annotation(tmp_path, GIVEN | dict(rater='=Ada', order=i, plant_id=f'plant {i}'))
        now = (tmp_path / 'annotations.csv').read_bytes()
        assert now.startswith(before) and len(now) > len(before)
        before = now
    assert set(read_annotations(tmp_path).rater) == {'=Ada'}
