"What workbooks, plans and folders may hide: each must end as one line or a named finding, never as another number"

import os, resource, shutil, subprocess, sys, zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from openpyxl import Workbook, load_workbook

from faba_nb.core.errors import BadInput
from faba_nb.experiment.raw_tree import check, line
from faba_nb.experiment.experiment_folder import Experiment
from faba_nb.testing.example_experiment import (
    example_plants,
    example_tables,
    example_visits,
    write_example,
    write_workbook,
)
from faba_nb.experiment.images import list_images
from faba_nb.experiment.labels import label_steps
from faba_nb.experiment.plan import design, read_plant_table, read_round_table
from faba_nb.experiment.plants import owners_form, plants_from_workbooks
from faba_nb.experiment.tables import FLUOR, read_table, table_spec


@pytest.fixture(autouse=True, scope='module')
def own_cache(tmp_path_factory):
    "Nothing is kept in the user's cache"
    before = os.environ.get('FABA_CACHE')
    os.environ['FABA_CACHE'] = str(tmp_path_factory.mktemp('cache'))
    yield
    os.environ.pop('FABA_CACHE') if before is None else os.environ.update(FABA_CACHE=before)


@pytest.fixture(scope='module')
def frames():
    "Table name -> sheets of the tiny experiment"
    plants = example_plants()
    return example_tables(plants, example_visits(plants))


@pytest.fixture(scope='module')
def tables_only(frames, tmp_path_factory):
    "The tiny experiment without photographs"
    folder = tmp_path_factory.mktemp('tables') / 'data'
    for name, sheets in frames.items():
        write_workbook(folder / table_spec(name).file, sheets)
    return folder


@pytest.fixture
def folder(tables_only, tmp_path):
    return shutil.copytree(tables_only, tmp_path / 'data')


@pytest.fixture(scope='module')
def few(tmp_path_factory):
    "The tiny experiment with the photographs of three rounds"
    whole = write_example(tmp_path_factory.mktemp('few') / 'data')
    for p in whole.rglob('*.png'):
        if p.name.split('-')[1] not in ('2', '14', '23', '21'):
            p.unlink()
    return whole


@pytest.fixture
def data(few, tmp_path):
    return shutil.copytree(few, tmp_path / 'data')


ONSETS, FLUORESCENCE = (
    'SinglePoint Datasets/Drought_Impact(DAG).xlsx',
    'TimeCourse Datasets/FCQ_FabaDr_Auto.xlsx',
)
INDICES, CLIMATE, WEIGHTS = (
    'TimeCourse Datasets/VegIndex_FabaDr_RGB2.xlsx',
    'TimeCourse Datasets/EnvData_FabaDr.xlsx',
    '00-Misc/EndPoint_Raw_FW&DW.xlsx',
)
SIDE, WATER = (
    'TimeCourse Datasets/RGB1_SideView_FabaDr_Manual_Morpho.xlsx',
    'TimeCourse Datasets/SC_Watering_24_FabaDr_Auto.xlsx',
)


def edit(path, change):
    "Change the first sheet of a workbook cell by cell"
    book = load_workbook(path)
    change(book.active)
    book.save(path)


def column(sheet, heading):
    return next(c.column for c in sheet[1] if c.value == heading)


def said(table, word):
    return [f for f in table.findings if word in f.what]


def fatal(folder):
    return [line(r) for r in check(folder).findings.query('severity == "fatal"').itertuples()]


# ---- 1. a drought plant without an onset

NO_ONSET = [
    '20-24',
    '~20',
    'n/a',
    '',
    None,
    -3,
    0,
    9999,
    45579,
    pd.Timestamp('2024-11-01'),
    '24.10.2024',
    True,
    'inf',
    '1_9',
    '2 0 1',
]


@pytest.mark.parametrize('cell', NO_ONSET, ids=repr)
def test_an_onset_that_is_none_is_refused_in_the_workbooks(folder, cell):
    edit(folder / ONSETS, lambda s: s.__setitem__('B3', cell))
    with pytest.raises(BadInput) as e:
        Experiment(folder).plants
    name = load_workbook(folder / ONSETS).active['A3'].value
    assert (
        name in str(e.value)
        and f'{ONSETS}, row 3, column Drought Impact (DAG)' in str(e.value)
        and 'write one number' in str(e.value)
    )


@pytest.mark.parametrize(
    'cell',
    ['20-24', '~20', 'n/a', '', '-3', '0', '9999', '45579', '24.10.2024', 'inf', 'nan', '1_9'],
)
def test_an_onset_that_is_none_is_refused_in_the_plan(tmp_path, cell):
    path = tmp_path / 'plant_metadata.csv'
    path.write_text(
        'plant_id,accession,treatment,replicate,dag_drought_onset\n'
        '24_FabaDr_007,Mélodie/2,WHC-80,1,\n'
        f'24_FabaDr_010,Mélodie/2,WHC-30,1,{cell}\n'
    )
    with pytest.raises(
        BadInput, match='line 3, column dag_drought_onset: the onset of Mélodie/2 is'
    ):
        read_plant_table(path)


def test_labels_refuse_a_drought_plant_without_onset():
    plants = pd.DataFrame(
        dict(
            plant_id=['a', 'b'],
            genotype='Kontu',
            treatment=['WHC-80', 'WHC-30'],
            replicate=1,
            onset_dag=np.nan,
        )
    )
    steps = pd.DataFrame(dict(plant_id=['a', 'b'], round=2, dag=3))
    with pytest.raises(BadInput, match='no onset is known of Kontu'):
        label_steps(steps, plants)


def test_check_calls_a_lost_onset_fatal(data):
    stressed = Experiment(data).measured.label.sum()
    edit(data / ONSETS, lambda s: s.__setitem__('B3', '20-24'))
    found = fatal(data)
    assert (
        stressed > 0
        and len(found) == 1
        and "row 3: the onset of" in found[0]
        and "'20-24'" in found[0]
    )


def test_two_onsets_of_one_accession_are_refused(folder):
    edit(folder / ONSETS, lambda s: s.append([s['A3'].value, 12, 'Early']))
    with pytest.raises(BadInput, match='is duplicated with different onset_dag'):
        read_table(folder, 'onsets')


def test_two_rows_of_one_plant_are_refused(folder):
    def change(s):
        row = [c.value for c in s[2]]
        s.append([('WHC-30%' if v == 'WHC-80%' else v) for v in row])

    edit(folder / WEIGHTS, change)
    with pytest.raises(BadInput, match='24_FabaDr_001 is duplicated with different treatment'):
        read_table(folder, 'weights')


# ---- 2. cells that look empty, headings that mean two things, other sheets


def formulas(heading, value='=1/2'):
    def change(s):
        for r in range(2, s.max_row + 1):
            s.cell(r, column(s, heading), value)

    return change


def test_formulas_without_stored_values_are_counted(folder):
    edit(folder / INDICES, lambda s: [s.cell(r, column(s, 'TGI'), '=A2*2') for r in range(2, 12)])
    found = said(read_table(folder, 'indices'), 'without a stored value')
    assert (
        len(found) == 1
        and found[0].what.startswith('TGI: 10 formulas')
        and found[0].row == 2
        and found[0].severity == 'suspicious'
    )


@pytest.mark.parametrize(
    'path, name, heading',
    [
        (INDICES, 'indices', 'TGI'),
        (FLUORESCENCE, 'fluorescence', 'NPQ_Lss'),
        (CLIMATE, 'environment', 't1_Buffer_C'),
        (WATER, 'watering', 'WHC.Bf'),
    ],
)
def test_a_column_that_is_wholly_lost_ends_its_table(folder, path, name, heading):
    edit(folder / path, formulas(heading))
    with pytest.raises(
        BadInput,
        match=f'column "{heading}" has no value in any row .*formulas without a stored value',
    ):
        read_table(folder, name)


def test_a_lost_column_is_fatal_for_its_modality(data):
    edit(data / FLUORESCENCE, formulas('QY_max'))
    edit(data / WATER, formulas('WHC.Bf'))
    c = check(data)
    assert [x for x in fatal(data) if 'FCQ_FabaDr' in x and '"QY_max" has no value' in x]
    other = [line(r) for r in c.findings.query('table == "watering"').itertuples()]
    assert 'fatal for arms that ask for it' in other[0] and c.findings.query(
        'table == "watering"'
    ).severity.tolist() == ['suspicious']


def test_errors_and_merged_cells_are_counted(folder):
    def change(s):
        for r in (5, 6, 7):
            s.cell(r, column(s, 'GLI'), '#DIV/0!')
        c = column(s, 'ExG')
        s.merge_cells(start_row=9, end_row=12, start_column=c, end_column=c)

    edit(folder / INDICES, change)
    t = read_table(folder, 'indices')
    assert said(t, 'GLI: 3 cells with an error such as #DIV/0!')[0].row == 5
    assert said(t, 'ExG: 3 cells merged into another')[0].row == 10


def twice(differ):
    def change(s):
        c, n = column(s, 'ExG'), s.max_column + 1
        for r in range(1, s.max_row + 1):
            s.cell(r, n, s.cell(r, c).value)
        if differ:
            s.cell(9, n, 99)

    return change


def test_a_heading_twice_is_refused_when_the_cells_differ(folder):
    edit(folder / INDICES, twice(False))
    assert said(read_table(folder, 'indices'), 'ExG is duplicated, with equal cells')
    edit(folder / INDICES, lambda s: s.cell(9, s.max_column, 99))
    with pytest.raises(
        BadInput, match='column "ExG" is duplicated, and 1 cell not equal, first in row 9'
    ):
        read_table(folder, 'indices')


def test_a_parameter_twice_is_no_further_parameter(folder):
    def change(s):
        n = s.max_column + 1
        for r in range(1, s.max_row + 1):
            s.cell(r, n, s.cell(r, column(s, 'Fo')).value)

    edit(folder / FLUORESCENCE, change)
    assert read_table(folder, 'fluorescence').other == ['Mystery']


def test_a_stray_number_is_no_parameter(folder):
    edit(folder / FLUORESCENCE, lambda s: s.cell(7, s.max_column + 3, 5))
    t = read_table(folder, 'fluorescence')
    assert t.other == ['Mystery'] and said(t, 'has no heading and holds 1 values')


def test_plant_id_and_tray_id_that_disagree_are_named(folder):
    def change(s):
        n = s.max_column + 1
        s.cell(1, n, 'Tray ID')
        for r in range(2, s.max_row + 1):
            s.cell(r, n, '24_FabaDr_012' if r == 4 else s.cell(r, column(s, 'Plant ID')).value)

    edit(folder / INDICES, change)
    assert (
        said(read_table(folder, 'indices'), 'Tray ID names another plant than Plant ID in 1 row')[
            0
        ].row
        == 4
    )


@pytest.mark.parametrize('state', ['hidden', 'veryHidden'])
def test_a_hidden_sheet_in_front_is_not_read(folder, state):
    def change(path):
        book = load_workbook(path)
        old = book.copy_worksheet(book.active)
        book.move_sheet(old, -1)
        old.title, old.sheet_state, book.active = 'old', state, 1
        for r in range(2, old.max_row + 1):
            old.cell(r, column(old, 'ExG'), 77)
        book.save(path)

    change(folder / INDICES)
    t = read_table(folder, 'indices')
    assert t.frame.ExG.max() < 1 and [f.sheet for f in said(t, 'the sheet is hidden')] == ['old']


def test_two_visible_sheets_of_one_table_are_named(folder, frames):
    sheet = frames['indices']['Sheet1']
    write_workbook(
        folder / INDICES,
        dict(
            notes=pd.DataFrame(dict(note=['see below'])), first=sheet, second=sheet.assign(ExG=9.0)
        ),
    )
    t = read_table(folder, 'indices')
    assert (t.sheet, t.frame.ExG.max() < 1) == ('first', True) and [
        f.sheet for f in said(t, 'holds such a table, too')
    ] == ['second']


INVISIBLE = ['\u200b', '\ufeff', '\u00ad', '\u00a0', '\u2060', '\u200e', ' ']


@pytest.mark.parametrize('sign', INVISIBLE, ids=ascii)
def test_signs_nobody_sees_lose_no_plant(folder, sign):
    before = read_table(folder, 'indices').frame

    def change(s):
        for r in range(2, 9):
            s.cell(
                r,
                column(s, 'Plant ID'),
                sign + s.cell(r, column(s, 'Plant ID')).value.strip() + sign,
            )
        s.cell(
            1, column(s, 'Round Order'), f'Round{sign if sign.isspace() else " " + sign}Order{sign}'
        )
        s.cell(3, column(s, 'TGI'), f'{sign}0,5{sign}')

    edit(folder / INDICES, change)
    t = read_table(folder, 'indices')
    assert t.frame.plant_id.tolist() == before.plant_id.tolist() and t.frame.TGI.iloc[1] == 0.5
    assert said(t, 'invisible characters') or sign.isspace()


def test_lookalikes_are_named_letter_by_letter(folder):
    edit(folder / INDICES, lambda s: s.cell(4, column(s, 'Plant ID'), '24_F\u0430baDr_007'))
    found = said(read_table(folder, 'indices'), 'cyrillic small letter a')
    assert found[0].row == 4 and found[0].action == 'the row is skipped'
    edit(folder / INDICES, lambda s: s.cell(1, column(s, 'Plant ID'), 'Pl\u0430nt ID'))
    with pytest.raises(BadInput, match='U\\+0430 cyrillic small letter a'):
        read_table(folder, 'indices')


def test_other_forms_of_letters_are_the_same(folder):
    def change(s):
        s.cell(1, column(s, 'TGI'), '\uff34\uff27\uff29')  # full width
        s.cell(4, column(s, 'Plant ID'), '\uff12\uff14_FabaDr_007')

    edit(folder / INDICES, change)
    assert read_table(folder, 'indices').frame.plant_id[4] == '24_FabaDr_007'


# ---- 3. ranges and units


def test_every_numeric_column_has_a_range_with_a_source():
    c = design('columns')
    numeric = c[c.kind.isin(['number', 'integer', 'time', 'replicate', 'accession_num'])]
    assert len(numeric) > 180 and set(FLUOR) <= set(c[c.table == 'fluorescence'].column)
    assert numeric[numeric.low.isna() | numeric.high.isna() | (numeric.source == '')].empty
    assert (numeric.low < numeric.high).all() and not (
        numeric.usual_low >= numeric.usual_high
    ).any()


def test_the_index_bounds_are_those_of_the_formulas():
    "Every colour of 8 bits lies within; the corners of the colour cube reach the bounds that have no other source"
    from faba_nb.twin.measuring import indices

    grid = [
        (r, g, b) for r in range(0, 256, 51) for g in range(0, 256, 51) for b in range(0, 256, 51)
    ]
    with np.errstate(all='ignore'):
        values = pd.DataFrame([{k: v for k, v in safe(indices, rgb).items()} for rgb in grid])
    for c in (
        design('columns')
        .query('table == "indices" and kind == "number" and source.str.startswith("formula, ")')
        .itertuples()
    ):
        assert values[c.column].min() >= c.low - 1e-6 and values[c.column].max() <= c.high + 1e-6, (
            c.column
        )
        assert np.isclose(
            [values[c.column].min(), values[c.column].max()], [c.low, c.high]
        ).all(), c.column


def safe(indices, rgb):
    "The indices of a colour; those whose denominator vanishes are left out"
    R, G, B = rgb
    if 0 in (2 * R + G + B, R + G + B, G + R, G + R - B, G, R + B):
        near = tuple(v + e for v, e in zip(rgb, (1e-9, 2e-9, 4e-9)))
        return indices(near)
    return indices(rgb)


RATIOS = ['GREENESS', 'GLI', 'GREEN_STRENGHT', 'NGRVI', 'CHROMA_BASE', 'CHROMA_RATIO']


@pytest.mark.parametrize('name', RATIOS)
@pytest.mark.parametrize('factor', [100, 1000])
def test_a_column_of_indices_in_another_unit_is_flagged(folder, frames, name, factor):
    write_workbook(
        folder / INDICES,
        dict(Sheet1=frames['indices']['Sheet1'].assign(**{name: lambda f: f[name] * factor})),
    )
    found = said(read_table(folder, 'indices'), f'{name}: the middle value is')
    assert len(found) == 1 and 'it would fit when multiplied by' in found[0].what


@pytest.mark.parametrize(
    'table, path, heading, factor',
    [
        ('environment', CLIMATE, 'rh1_Buffer_%', 0.01),
        ('environment', CLIMATE, 't1_Buffer_C', 10),
        ('watering', WATER, 'WHC.Bf', 0.01),
        ('fluorescence', FLUORESCENCE, 'QY_max', 100),
        ('fluorescence', FLUORESCENCE, 'Fv/Fm_Lss', 0.01),
        ('side', SIDE, 'HEIGHT_CM', 1000),
        ('weights', WEIGHTS, 'Plant+Bag FW (g)', 0.001),
    ],
)
def test_a_column_in_another_unit_is_flagged(folder, frames, table, path, heading, factor):
    write_workbook(
        folder / path,
        dict(Sheet1=frames[table]['Sheet1'].assign(**{heading: lambda f: f[heading] * factor})),
    )
    assert said(read_table(folder, table), 'the middle value is'), heading


@pytest.mark.parametrize(
    'table, path, heading',
    [
        ('fluorescence', FLUORESCENCE, 'Fm'),
        ('indices', INDICES, 'GLI'),
        ('side', SIDE, 'AREA_CM'),
        ('watering', WATER, 'WHC.Af'),
    ],
)
@pytest.mark.parametrize('factor', [100, 1000, 0.01])
@pytest.mark.parametrize('part', ['half', 'every third', 'late'])
def test_a_part_of_a_column_in_another_unit_is_flagged(
    folder, frames, table, path, heading, factor, part
):
    f = frames[table]['Sheet1']
    rows = (
        np.arange(len(f)) < len(f) // 2
        if part == 'half'
        else np.arange(len(f)) % 3 == 0
        if part == 'every third'
        else late(f)
    )
    write_workbook(
        folder / path,
        dict(Sheet1=f.assign(**{heading: f[heading].where(~rows, f[heading] * factor)})),
    )
    found = [
        x
        for x in read_table(folder, table).findings
        if 'the others' in x.what or 'those before' in x.what
    ]
    assert found and found[0].action.endswith('look whether the unit changed')


def late(f):
    return (
        f['Round Order'] >= 14
        if 'Round Order' in f
        else pd.to_datetime(f['Measuring Date'], dayfirst=True) >= '2024-11-04'
    ).to_numpy()


def test_no_false_alarm_on_the_twin(twin):
    "No value out of range and no changed unit where nothing was spoilt"
    for name in design('tables').table:
        odd = [
            f for f in read_table(twin, name).findings if 'expected' in f.what or 'unit' in f.action
        ]
        assert not odd, odd


# ---- 4. files that are something else


def stray(path, cell):
    book = load_workbook(path)
    book.active[cell] = 1
    book.save(path)


LIMITED = '''
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (3*2**30,)*2)
from faba_nb.core.errors import BadInput
from faba_nb.experiment.tables import read_table
try: read_table(sys.argv[1], 'indices')
except BadInput as e: print(e)
'''


@pytest.mark.parametrize('cell', ['XFD1048576', 'XFD100000', 'A1048576', 'XFD2000'])
def test_a_stray_cell_is_named_in_little_memory(folder, cell):
    stray(folder / INDICES, cell)
    done = subprocess.run(
        [sys.executable, '-c', LIMITED, folder], capture_output=True, text=True, timeout=120
    )
    assert (
        done.stdout.startswith(f'{INDICES}, sheet Sheet1: cell {cell} stands far from the table')
        and len(done.stdout.splitlines()) == 1
    ), done.stderr[-300:]


def zip_bomb(path):
    shutil.copy(path, path.with_suffix('.old'))
    with (
        zipfile.ZipFile(path.with_suffix('.old')) as old,
        zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as new,
    ):
        for i in old.infolist():
            if i.filename != 'xl/worksheets/sheet1.xml':
                new.writestr(i, old.read(i))
        with new.open('xl/worksheets/sheet1.xml', 'w', force_zip64=True) as f:
            for _ in range(260):
                f.write(b' ' * 2**20)


def test_a_zip_bomb_is_refused(folder):
    zip_bomb(folder / INDICES)
    assert (folder / INDICES).stat().st_size < 10**6
    done = subprocess.run(
        [sys.executable, '-c', LIMITED, folder], capture_output=True, text=True, timeout=120
    )
    assert 'holds more than 200 MB when it is unpacked' in done.stdout


def a_pipe(p):
    os.mkfifo(p)


def a_folder(p):
    p.mkdir()


def a_device(p):
    p.symlink_to('/dev/zero')


def a_link_to_nowhere(p):
    p.symlink_to('nowhere')


def a_link_to_itself(p):
    p.symlink_to(p.name)


def an_empty_file(p):
    p.touch()


def half_a_file(p):
    p.write_bytes(p.with_suffix('.kept').read_bytes()[:3000])


def an_old_workbook(p):
    p.write_bytes(b'\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1' + bytes(2000))


def a_protected_one(p):
    p.write_bytes(
        b'\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1'
        + bytes(500)
        + 'EncryptedPackage'.encode('utf-16-le')
        + bytes(500)
    )


def text(p):
    p.write_text('Plant ID,Round Order\n')


def broken_byte(p):
    "One byte of the sheet's packed content"
    content = bytearray(p.with_suffix('.kept').read_bytes())
    info = next(
        i
        for i in zipfile.ZipFile(p.with_suffix('.kept')).infolist()
        if i.filename.endswith('sheet1.xml')
    )
    content[info.header_offset + 60 + info.compress_size // 2] ^= 0x10
    p.write_bytes(content)


STRANGE = {
    a_pipe: 'is a pipe',
    a_folder: 'is a folder',
    a_device: 'is a device',
    a_link_to_nowhere: 'cannot be read',
    a_link_to_itself: 'cannot be read',
    an_empty_file: 'is empty',
    half_a_file: 'not a readable workbook',
    an_old_workbook: 'old .xls format',
    a_protected_one: 'protected by a password',
    text: 'not a readable workbook',
    broken_byte: 'not a readable workbook',
}


@pytest.mark.parametrize('make', STRANGE, ids=lambda f: f.__name__)
def test_what_is_no_workbook_is_one_line(folder, make):
    path = folder / INDICES
    path.rename(path.with_suffix('.kept'))
    make(path)
    done = subprocess.run(
        [sys.executable, '-c', LIMITED, folder], capture_output=True, text=True, timeout=60
    )
    assert (
        STRANGE[make] in done.stdout
        and len(done.stdout.splitlines()) == 1
        and INDICES in done.stdout
    ), (done.stdout, done.stderr[-300:])


PLAN = {
    a_pipe: 'is a pipe',
    a_folder: 'is a folder',
    a_device: 'is a device',
    a_link_to_nowhere: 'cannot be read',
    a_link_to_itself: 'cannot be read',
}


@pytest.mark.parametrize('make', PLAN, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    'name', ['plant_metadata.csv', 'timepoint_metadata.csv', 'marks.csv', 'SIMULATED.txt']
)
def test_what_is_no_table_of_the_plan_is_refused(folder, make, name):
    "Once it was passed over, and the workbooks served as if no such file were there"
    make(folder / name)
    xp = Experiment(folder)
    with pytest.raises(BadInput, match=f'{name}: {PLAN[make]}'):
        {
            'plant_metadata.csv': lambda: xp.plants,
            'timepoint_metadata.csv': lambda: xp.rounds,
            'marks.csv': lambda: xp.marks,
            'SIMULATED.txt': lambda: xp.simulated,
        }[name]()


def test_a_file_without_permission_is_refused(folder):
    if os.geteuid() == 0:
        pytest.skip('root may read everything')
    (folder / INDICES).chmod(0)
    with pytest.raises(BadInput, match='permission'):
        read_table(folder, 'indices')


def test_a_strange_file_changes_the_fingerprint_to_an_error(folder):
    (folder / INDICES).unlink()
    os.mkfifo(folder / INDICES)
    with pytest.raises(BadInput, match='is a pipe'):
        Experiment(folder).fingerprint


HEAD = 'plant_id,accession,treatment,replicate,dag_drought_onset'
ROW = '24_FabaDr_010,Kontu,WHC-30,1,28'
CSV = {
    'NUL': (f'{HEAD}\n24_FabaDr\0_010,Kontu,WHC-30,1,28\n', 'NUL characters'),
    'control character': (f'{HEAD}\n24_FabaDr_010\x07,Kontu,WHC-30,1,28\n', 'x07'),
    'a cell too many': (f'{HEAD}\n{ROW},9\n', '6 cells under 5 headings'),
    'a heading twice': (f'{HEAD},treatment\n{ROW},WHC-80\n', 'treatment is duplicated'),
    'an open quotation mark': (f'{HEAD}\n"{ROW}\n', 'not a readable CSV'),
    'a lookalike': (f'{HEAD}\n24_F\u0430baDr_010,Kontu,WHC-30,1,28\n', 'cyrillic'),
    'half a replicate': (f'{HEAD}\n24_FabaDr_010,Kontu,WHC-30,1.5,28\n', 'replicate is'),
}


@pytest.mark.parametrize('name', CSV)
def test_strange_plans_are_one_line(tmp_path, name):
    content, expected = CSV[name]
    (tmp_path / 'p.csv').write_bytes(content.encode())
    with pytest.raises(BadInput, match=expected) as e:
        read_plant_table(tmp_path / 'p.csv')
    assert str(e.value).isprintable()


def test_utf16_and_infinite_days_are_one_line(tmp_path):
    (tmp_path / 'p.csv').write_text(f'{HEAD}\n{ROW}\n', encoding='utf-16')
    with pytest.raises(BadInput, match='not a readable CSV'):
        read_plant_table(tmp_path / 'p.csv')
    for day in ('inf', '1e12', '2.5', '-99'):
        (tmp_path / 'r.csv').write_text(f'round,dag\n2,{day}\n')
        with pytest.raises(BadInput, match='dag is'):
            read_round_table(tmp_path / 'r.csv')


def test_signs_nobody_sees_in_the_plan(tmp_path):
    (tmp_path / 'p.csv').write_text(
        f'\ufeff{HEAD.replace("treatment", chr(0x200B) + "treatment ")}\n'
        '\u200b24_FabaDr_010\u00a0,Kontu\u00ad,WHC-30\u200b,1,28\n'
    )
    p = read_plant_table(tmp_path / 'p.csv').iloc[0]
    assert (p.plant_id, p.genotype, p.treatment, p.onset_dag) == (
        '24_FabaDr_010',
        'Kontu',
        'WHC-30',
        28,
    )


def test_rings_of_links_are_listed_once_and_named(data):
    before, _ = list_images(data)
    top = next((data / 'img/side_view').iterdir())
    (data / 'img/ring').symlink_to(data / 'img')
    (data / 'img/up').symlink_to(data)
    (top / 'self').symlink_to('self')
    (data / 'img/again').symlink_to(top)
    after, found = list_images(data)
    pd.testing.assert_frame_equal(before, after)
    assert sum('listed already' in f.what for f in found) >= 3


def test_a_thousand_crossing_links_end(tmp_path):
    "Each folder links to all others: once every way through them was walked"
    for i in range(12):
        (tmp_path / f'img/f{i}').mkdir(parents=True)
    for i in range(12):
        for j in range(12):
            (tmp_path / f'img/f{i}/to{j}').symlink_to(tmp_path / f'img/f{j}')
    assert len(list_images(tmp_path)[0]) == 0


def test_photographs_that_are_no_files_are_named(data):
    photos = sorted(data.rglob('*-RGB2-*.png'))[:3]
    for p in photos:
        p.unlink()
    os.mkfifo(photos[0])
    photos[1].symlink_to('nowhere')
    photos[2].symlink_to(photos[2].name)
    _, found = list_images(data)
    assert [f.file for f in found if f.action == 'ignored'] == [
        str(p.relative_to(data)) for p in photos
    ]


def test_a_simulation_note_that_refers_to_itself_is_refused(folder):
    (folder / 'SIMULATED.txt').write_text('a: &a [x, x]\nb: &b [*a, *a]\nworld: [*b, *b]\n')
    with pytest.raises(BadInput, match='SIMULATED.txt: cannot be read'):
        Experiment(folder).simulated


# ---- 5. the verdict follows from the findings


def test_a_folder_without_photographs_is_not_ready(folder):
    "A link to the folder itself in the place of img holds no photograph"
    (folder / 'img').symlink_to('.')
    assert [x for x in fatal(folder) if 'no photograph' in x]


def test_tables_about_other_plants_are_not_ready(data, frames):
    sheet = frames['fluorescence']['Sheet1']
    write_workbook(
        data / FLUORESCENCE,
        dict(
            Sheet1=sheet.assign(**{'Plant ID': sheet['Plant ID'].str.replace('FabaDr', 'BeanDr')})
        ),
    )
    assert [x for x in fatal(data) if 'no row is about a known plant and round' in x]


def test_a_broken_log_beside_the_plan_is_a_finding(data):
    xp = Experiment(data)
    owners_form(xp.plants, xp.listing[0]).assign(fw_g='heavy').to_csv(
        data / 'plant_metadata.csv', index=False
    )
    log = data / '00-Misc/FabaDr_Obs.xlsx'
    log.write_bytes(log.read_bytes()[:2000])
    c = check(data)
    assert c.fatal and 'fatal: correct these first' in c.text()
    assert [r for r in c.findings.what if r.startswith("fw_g holds 'heavy'")]


def test_other_rooms_can_add_checks(data):
    "The verdict counts what they add; genotypes per onset class are at hand"
    from faba_nb.experiment.plants import genotypes_by_class

    def look(c):
        c.add('study', f'{genotypes_by_class(c.plants)["Early"]} Early genotypes', '', 'fatal')

    assert not check(data).fatal and check(data, more=[look]).fatal
