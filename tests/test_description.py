"An experiment that describes itself: its tables, what is refused in one line, and what its check says"

import json

import numpy as np
import pandas as pd
import pytest

from faba_nb.core.errors import BadInput
from faba_nb.evaluation.annotation_tables import annotation_tables
from faba_nb.experiment import plain_tables
from faba_nb.experiment.described_check import check_described
from faba_nb.experiment.described_tables import controls_for
from faba_nb.experiment.experiment_folder import DescribedExperiment, Experiment
from faba_nb.experiment.labels import annotated_onsets
from faba_nb.testing.example_annotations import Eye, toy_annotations

SMALL = '''
title: Two lines of peas
plants: plants.csv
treatments: {wet: control, dry: {role: stress, label: drought}}
modalities: {size: size.csv}
onset: {from: exposure, day: 3}
'''


def made(folder, text=SMALL, groups=6, days=(0, 2, 4), tables=None, treatments=('wet', 'dry')):
    "A folder with a description, a plant table and sizes; `tables` adds or replaces files"
    plants = pd.DataFrame(
        [
            dict(plant_id=f'{g}{t}{r}', genotype=f'g{g}', treatment=t, block=r)
            for g in range(1, groups + 1)
            for t in treatments
            for r in (1, 2)
        ]
    )
    sizes = plants[['plant_id']].merge(pd.DataFrame(dict(day=days)), how='cross')
    sizes['area'] = [round(10 + 3 * d + 0.1 * i, 2) for i, d in enumerate(sizes.day)]
    folder.mkdir(exist_ok=True)
    plants.to_csv(folder / 'plants.csv', index=False)
    sizes.to_csv(folder / 'size.csv', index=False)
    for name, content in (tables or {}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            (folder / name).write_text(content)
    (folder / 'experiment.yaml').write_text(text)
    return folder


def said(folder, severity=None):
    "What the check finds, in one text"
    f = check_described(folder).findings
    f = f if severity is None else f[f.severity == severity]
    return '\n'.join(f.what + ' → ' + f.action)


def refusal(folder):
    "The one line in which an experiment is refused"
    xp = None
    with pytest.raises(BadInput) as e:
        xp = Experiment(folder)
        xp.measured, xp.modalities, xp.images
    assert '\n' not in str(e.value)
    return str(e.value)


# ---- real experiments ----
TARTU = '''
title: Leaf temperature of stomatal mutants under drought
species: Arabidopsis thaliana
day_label: days after first imaging
plants: {{table: {0}/Ir.csv, rename: {{plant_name: treatment}}, split: {{plant_name: "{{_}}_{{_}}_{{water}}_{{light}}"}}}}
treatments:
  LC_LT_HW_LL: {{role: control, label: watered in low light}}
  LC_LT_HW_HL: {{role: control, label: watered in high light}}
  LC_LT_LW_LL: {{role: stress, label: drought in low light, with: {{light: LL}}}}
  LC_LT_LW_HL: {{role: stress, label: drought in high light, with: {{light: HL}}}}
onset: {{from: exposure, day: 0}}
modalities:
  thermal: {{table: {0}/Ir.csv, separator: ";", decimal: ",", columns: [Temp-avg, Temp-stddev]}}
  rosette: {0}/Morpho.csv
  weight: {0}/Measure.csv
'''


@pytest.fixture(scope='module')
def tartu(shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp('tartu')
    (folder / 'experiment.yaml').write_text(TARTU.format(shared / 'tartu'))
    assert len(TARTU.strip().splitlines()) <= 25
    return check_described(folder)


def test_tartu_tables(tartu):
    xp = tartu.xp
    assert isinstance(xp, DescribedExperiment)
    assert (len(xp.plants), xp.plants.genotype.nunique(), len(xp.rounds)) == (432, 6, 11)
    assert xp.rounds.dag.tolist() == list(range(0, 21, 2)) and xp.rounds.dag.dtype.kind == 'i'
    assert xp.plants.groupby('treatment').size().tolist() == [108] * 4
    assert len(xp.measured) == 432 * 11 - 216 and len(xp.images) == 0
    thermal = xp.modality('thermal')
    assert list(thermal) == ['plant_id', 'round', 'dag', 'Temp-avg', 'Temp-stddev']
    first = thermal.query('plant_id == "ESTST001" and dag == 0')['Temp-avg'].iloc[0]
    assert first == 22.151968
    assert thermal['Temp-avg'].dropna().between(15, 35).all()
    assert (xp.measured.label == (xp.measured.treatment.str.contains('LW'))).all()


def test_tartu_controls_share_the_light(tartu):
    fits = controls_for(tartu.xp, 'LC_LT_LW_HL')
    assert set(fits.treatment) == {'LC_LT_HW_HL'} and len(fits) == 108


def test_tartu_check(tartu):
    page = tartu.text()
    assert not tartu.fatal and 'Arabidopsis thaliana' in page and '432 plants, 6 genotype' in page
    assert '504 rows of 48 empty places' in page
    assert '18 plant-days with more than one session' in page
    assert 'fits the plant' not in page
    for frame in (tartu.xp.plants, tartu.xp.measured, *tartu.xp.modalities.values()):
        assert frame.plant_id.dtype == object


BRASSICA = '''
title: Two oilseed rape plants
species: Brassica napus
plants: {{table: {0}/metadata.csv, rename: {{genotype_name: genotype}}}}
treatments: {{"2": {{role: other, label: vernalised at 10 °C}}}}
images: {{table: "{0}/{{plant_id}}_{{date}}_{{view}}.png", mask: black}}
'''


def test_brassica(shared, tmp_path):
    (tmp_path / 'experiment.yaml').write_text(BRASSICA.format(shared / 'images' / 'brassica'))
    check = check_described(tmp_path)
    images = check.xp.images
    assert (len(check.xp.plants), len(images)) == (2, 32)
    assert set(images['view']) == {'sv_000', 'sv_045', 'sv_090'} and set(images['mask']) == {
        'black'
    }
    assert images.dag.min() == 0 and images.dag.max() == 55
    assert all(check.xp.image_path(r).is_file() for r in images.itertuples())
    assert check.fatal and 'no plant with the role control' in said(tmp_path, 'fatal')


# ---- made experiments ----
def test_two_genotypes_in_eight_blocks(tmp_path):
    rows = [f'{g}{t}{b},{g},{t},{b}' for g in 'AB' for t in ('wet', 'dry') for b in range(1, 9)]
    sizes = [f'{r.split(",")[0]},{d},{d + i % 7}' for i, r in enumerate(rows) for d in (0, 2, 4)]
    tables = {
        'plants.csv': '\n'.join(['plant,genotype,treatment,block', *rows]),
        'size.csv': '\n'.join(['plant,day,area', *sizes]),
    }
    folder = made(tmp_path / 'x', tables=tables)
    fatal = said(folder, 'fatal')
    assert '2 groups (genotype)' in fatal and 'leave_out: block' in fatal
    (folder / 'experiment.yaml').write_text(SMALL + 'leave_out: block\n')
    assert said(folder, 'fatal') == ''
    xp = Experiment(folder)
    assert sorted(xp.plants.group.unique()) == list('12345678') and xp.facts.leave_out == 'block'


def test_three_doses(tmp_path):
    doses = 'treatments: {d0: control, d50: {role: stress, from: 2}, d100: stress}\nonset: unknown'
    text = SMALL.replace('treatments: {wet: control, dry: {role: stress, label: drought}}', '{}')
    text = text.replace('{}', doses.split('\n')[0]).replace(
        'onset: {from: exposure, day: 3}', 'onset: unknown'
    )
    xp = Experiment(made(tmp_path / 'x', text, treatments=('d0', 'd50', 'd100')))
    assert xp.facts.task == 'treatment detection'
    onsets = xp.plants.groupby('treatment').onset_dag.first().to_dict()
    assert onsets['d50'] == 2 and onsets['d100'] == 0 and np.isnan(onsets['d0'])
    assert xp.measured.groupby('treatment').label.sum().to_dict() == {
        'd0': 0,
        'd100': 36,
        'd50': 24,
    }


def test_weekly_days_half_a_day_apart(tmp_path):
    xp = Experiment(made(tmp_path / 'x', days=(0.5, 7.0, 7.5, 14.5)))
    assert xp.rounds.dag.tolist() == [0.5, 7.0, 7.5, 14.5]
    one = xp.measured.query('plant_id == "1dry1"')
    assert one.label.tolist() == [0, 1, 1, 1]
    assert one.label_low_dag.unique().tolist() == [0.5] and one.label_high_dag.unique() == [7]
    assert xp.modality('size').dag.dtype.kind == 'f'


def test_without_control(tmp_path):
    text = SMALL.replace('wet: control', 'wet: stress')
    fatal = said(made(tmp_path / 'x', text), 'fatal')
    assert (
        'no plant with the role control' in fatal and 'give one treatment the role control' in fatal
    )


def test_one_day(tmp_path):
    fatal = said(made(tmp_path / 'x', days=(3,)), 'fatal')
    assert 'one day (3)' in fatal and 'add a second day' in fatal


def test_four_groups_are_too_few_for_validation(tmp_path):
    text = said(made(tmp_path / 'x', groups=4), 'suspicious')
    assert '4 groups (genotype), too few to keep some for validation' in text


def test_440_genotypes(tmp_path):
    check = check_described(made(tmp_path / 'x', groups=440, days=(0, 2, 4, 6)))
    assert len(check.xp.plants) == 1760 and not check.fatal
    assert 'in 44 parts: folds: 44' in check.text()


def test_a_large_experiment_is_offered_parts_before_training(tmp_path, capsys):
    "What grows with the square is said before it begins; nothing is said of a small experiment, or of parts"
    from faba_nb.core.studies import study_from
    from faba_nb.running.preconditions import require

    arm = {'modalities': ['size']}
    whole = study_from({'name': 's', 'arms': {'a': arm}})
    parts = study_from({'name': 's', 'defaults': {'folds': 44}, 'arms': {'a': arm}})
    large = made(tmp_path / 'large', groups=100, days=(0, 2, 4, 6))
    small = made(tmp_path / 'small', groups=12, days=(0, 2, 4, 6))
    told = []
    for study, folder in ((whole, large), (parts, large), (whole, small)):
        require(study, folder, None, tmp_path / 'out', ['train'])
        told.append(capsys.readouterr().err)
    assert 'each of 100 groups is left out by itself: 100 fits' in told[0]
    assert 'dealt into 44 parts: 44 fits, --set defaults.folds=44' in told[0]
    assert told[1:] == ['', '']
    two = study_from({'name': 's', 'arms': {'a': arm, 'b': arm}})
    require(two, large, None, tmp_path / 'out', ['train'], {'train': {'arms': ['b']}})
    assert ': 100 fits' in capsys.readouterr().err  # of the arm that is asked for


def test_classes_and_treatments_keep_their_order_in_a_record(tmp_path):
    "A study's record sorts its keys; genotypes after day 31 are late all the same"
    from dataclasses import replace
    from faba_nb.core.config import to_dict
    from faba_nb.core.files import write_json
    from faba_nb.experiment.facts import built_in, facts_from, facts_of, names_of, onset_classes

    for facts in (built_in(), replace(built_in(), task='treatment detection')):
        write_json({'experiment': to_dict(facts)}, tmp_path / 'run.json')
        assert facts_of(tmp_path) == facts
    days = [10, 21, 22, 30, 31, 38]
    found = list(onset_classes(facts_of(tmp_path), days))
    assert found == ['Early', 'Early', 'Mid', 'Mid', 'Late', 'Late']
    earlier = to_dict(built_in()) | {'order': []}  # as a record of an earlier edition
    write_json({'experiment': earlier}, tmp_path / 'run.json')
    assert facts_of(tmp_path) == built_in()
    three = {'zero': 'control', 'mild': 'stress', 'harsh': 'stress'}
    write_json({'experiment': to_dict(facts_from({'treatments': three}))}, tmp_path / 'run.json')
    assert names_of(facts_of(tmp_path), 'stress') == ['mild', 'harsh']


def test_onset_classes_are_thirds(tmp_path):
    folder = made(tmp_path / 'x', SMALL.replace('{from: exposure, day: 3}', '{from: plants}'))
    plants = pd.read_csv(folder / 'plants.csv')
    plants['onset_day'] = (plants.genotype.str[1:].astype(int) + 1).where(plants.treatment == 'dry')
    plants.to_csv(folder / 'plants.csv', index=False)
    xp = Experiment(folder)
    classes = xp.plants.groupby('genotype').onset_class.first()
    assert classes.tolist() == ['Early', 'Early', 'Mid', 'Mid', 'Late', 'Late']
    plants.loc[2, 'onset_day'] = np.nan
    plants.to_csv(folder / 'plants.csv', index=False)
    line = refusal(folder)
    assert 'no onset is known of 1dry1' in line and 'row 4, column onset_day' in line


# ---- ways of writing ----
def test_dates_timestamps_and_sessions(tmp_path):
    sizes = (
        'plant;timestamp;area\n1wet1;2024-05-03 09:00;1,5\n1wet1;2024-05-03 15:00;2,5\n'
        '1wet1;2024-05-05T08:00:00Z;3,5\n1dry1;04.05.2024;9\n'
    )
    folder = made(tmp_path / 'x', tables={'size.csv': sizes})
    xp = Experiment(folder)
    assert xp.day_zero == pd.Timestamp('2024-05-03') and xp.rounds.dag.tolist() == [0, 1, 2]
    assert xp.modality('size').area.tolist() == [9, 2.5, 3.5]
    assert '1 plant-day with more than one session' in said(folder)
    (folder / 'experiment.yaml').write_text(SMALL + 'day_zero: {date: 2024-05-01, event: sowing}\n')
    again = Experiment(folder)
    assert again.rounds.dag.tolist() == [2, 3, 4] and again.facts.day_label == 'days after sowing'


@pytest.mark.parametrize('code', ['utf-8', 'utf-8-sig', 'utf-16', 'cp1252'])
@pytest.mark.parametrize('separator', [',', ';', '\t', '|'])
def test_any_encoding_and_separator(tmp_path, code, separator):
    rows = [['plant', 'Génotype', 'day', 'area']]
    plants = pd.read_csv(made(tmp_path / 'x') / 'plants.csv')
    rows += [[p, 'Mélodie', str(d), f'{d}.25'] for p in plants.plant_id for d in (0, 4)]
    table = '\n'.join(separator.join(r) for r in rows).encode(code)
    xp = Experiment(made(tmp_path / 'x', tables={'size.csv': table}))
    assert xp.modality('size').area.tolist() == [0.25, 4.25] * 24


def test_workbooks(tmp_path):
    from faba_nb.testing.example_experiment import write_workbook

    folder = made(
        tmp_path / 'x', SMALL.replace('size.csv', 'size.xlsx').replace('plants.csv', 'p.xlsx')
    )
    csv = Experiment(made(tmp_path / 'y'))
    write_workbook(
        folder / 'p.xlsx',
        {'notes': pd.DataFrame({'a': ['b']}), 'grown': pd.read_csv(folder / 'plants.csv')},
    )
    write_workbook(folder / 'size.xlsx', {'size': pd.read_csv(folder / 'size.csv')})
    xp = Experiment(folder)
    pd.testing.assert_frame_equal(xp.plants, csv.plants)
    pd.testing.assert_frame_equal(xp.modality('size'), csv.modality('size'))


def parquet(folder, monkeypatch, there, read=None):
    "A folder with sizes in Parquet, where the package for it is there or not; how it is refused"
    made(folder, SMALL.replace('size.csv', 'size.parquet'), tables={'size.parquet': b'PAR1'})
    monkeypatch.setattr(plain_tables, 'find_spec', lambda name: there)
    monkeypatch.setattr(pd, 'read_parquet', read)
    return refusal(folder)


def test_parquet_without_its_package_is_one_clear_line(tmp_path, monkeypatch):
    said = parquet(tmp_path / 'x', monkeypatch, None)
    assert said == (
        'size.parquet: a Parquet file needs pyarrow, which is not installed; '
        'pip install pyarrow, or save the table as CSV'
    )
    made(tmp_path / 'x')  # the same folder with CSV
    assert len(Experiment(tmp_path / 'x').modality('size')) == 72


def test_a_broken_parquet_is_one_clear_line(tmp_path, monkeypatch):
    def broken(path):
        raise ValueError('no footer\nin this file')

    said = parquet(tmp_path / 'x', monkeypatch, object(), broken)
    assert 'size.parquet: this is no Parquet file (no footer in this file)' in said


def test_parquet_reads_as_the_same_table_in_csv(tmp_path, monkeypatch):
    made(tmp_path / 'x', SMALL.replace('size.csv', 'size.parquet'), tables={'size.parquet': b''})
    frame = pd.read_csv(tmp_path / 'x' / 'size.csv')
    monkeypatch.setattr(plain_tables, 'find_spec', lambda name: object())
    monkeypatch.setattr(pd, 'read_parquet', lambda path: frame)
    csv = Experiment(made(tmp_path / 'y')).modality('size')
    pd.testing.assert_frame_equal(Experiment(tmp_path / 'x').modality('size'), csv)


def test_results_of_plantcv(tmp_path):
    folder = made(tmp_path / 'x', SMALL.replace('size.csv', '"r/*.json"'), days=(0,))
    (folder / 'r').mkdir()
    for plant in pd.read_csv(folder / 'plants.csv').plant_id:
        for day in (3, 6):
            result = {
                'metadata': {
                    'plantbarcode': {'value': [plant]},
                    'timestamp': {'value': [f'2024-05-0{day} 10:00']},
                },
                'observations': {'default_1': {'area': {'value': day * 10 + len(plant)}}},
            }
            (folder / 'r' / f'{plant}_{day}.json').write_text(json.dumps(result))
    xp = Experiment(folder)
    assert xp.rounds.dag.tolist() == [0, 3] and set(xp.modality('size').area) == {35, 65}


def test_a_table_without_plants_is_a_clock(tmp_path):
    text = SMALL.replace('{size: size.csv}', '{size: size.csv, weather: w.csv}')
    weather = 'day,light\n0,100\n0,300\n4,50\n'
    xp = Experiment(made(tmp_path / 'x', text, tables={'w.csv': weather}))
    assert xp.facts.clocks == ('weather',)
    one = xp.modality('weather').query('plant_id == "1wet1"')
    assert one.light.iloc[[0, 2]].tolist() == [200, 50] and np.isnan(one.light.iloc[1])


PHOTOGRAPHED = SMALL.replace(
    'modalities: {size: size.csv}', 'images: {table: i.csv, mask: excess_green}'
)


def test_boxes_masks_and_missing_files(tmp_path):
    from PIL import Image

    rows = [
        'plant_id,day,view,path,left,top,right,bottom,mask',
        '1wet1,0,top,a.jpg,0,0,20,20,',
        '1dry1,0,top,a.jpg,20,0,40,20,black',
        '1wet2,0,top,a.jpg,9,0,9,20,',
        '1dry2,0,top,b.jpg,0,0,20,20,',
        '2wet1,3,top,a.jpg,0,0,99,20,',
        '2wet1,3,top,a.gif,0,0,9,9,',
    ]
    folder = made(tmp_path / 'x', PHOTOGRAPHED, tables={'i.csv': '\n'.join(rows)})
    Image.new('RGB', (40, 20)).save(folder / 'a.jpg')
    xp = Experiment(folder)
    assert xp.images.plant_id.tolist() == ['1dry1', '1wet1', '2wet1']
    assert xp.images['mask'].tolist() == ['black', 'excess_green', 'excess_green']
    assert xp.images.right.tolist() == [40, 20, 99]
    found = said(folder)
    for line in (
        'the box has no inside',
        'b.jpg: cannot be read',
        'a.gif: is no PNG',
        'ends at 99, 20',
    ):
        assert line in found
    bad = check_described(folder).findings.query('table == "images" and row > 0')
    assert bad.row.tolist() == [4, 5, 7]
    (folder / 'i.csv').write_text('\n'.join(rows).replace('black', 'blak'))
    assert "unknown mask rule 'blak'; did you mean 'black'?" in refusal(folder)


def test_unmasked_photographs_are_named(tmp_path):
    from PIL import Image

    text = PHOTOGRAPHED.replace('{table: i.csv, mask: excess_green}', '"{plant_id}_d{day}.jpg"')
    folder = made(tmp_path / 'x', text)
    for plant in pd.read_csv(folder / 'plants.csv').plant_id:
        for day in (0, 4):
            Image.new('RGB', (8, 8), 'white').save(folder / f'{plant}_d{day}.jpg')
    check = check_described(folder)
    assert len(check.xp.images) == 48 and 'nothing says what is plant' in said(folder, 'suspicious')


def test_rows_that_fit_no_plant_are_counted(tmp_path):
    folder = made(tmp_path / 'x')
    text = (folder / 'size.csv').read_text()
    (folder / 'size.csv').write_text(text + 'zz1,0,3\nzz2,0,4\n1wet1,0,soon\n1wet1,x,4\n')
    found = check_described(folder).findings.set_index('what')
    rows = found.row[found.table == 'size']
    assert rows['2 rows of 2 plants that the plant table does not have: zz1, zz2'] == 74
    assert rows["area holds 'soon'"] == 76 and rows["day holds 'x'"] == 77
    assert 'the row is skipped' in found.action.loc['there is no day']


REFUSED = {
    'unknown key': (SMALL + 'treatmets: {}\n', "did you mean 'treatments'?"),
    'role': (SMALL.replace('wet: control', 'wet: controls'), "did you mean 'control'?"),
    'annotations': (
        SMALL.replace('{from: exposure, day: 3}', 'annotations'),
        'nobody has rated these plants: annotations.csv has no answer',
    ),
    'onset column': (
        SMALL.replace('{from: exposure, day: 3}', '{from: plants}'),
        'no column onset_day',
    ),
    'treatment': (SMALL.replace('dry:', 'dri:'), "did you mean 'dri'?"),
    'leave_out': (SMALL + 'leave_out: blok\n', "did you mean 'block'?"),
    'with': (SMALL.replace('label: drought', 'with: {lights: a}'), "unknown column 'lights'"),
    'table': (SMALL.replace('size.csv', 'sise.csv'), 'sise.csv: the file is missing'),
    'column': (
        SMALL.replace('size.csv', '{table: size.csv, columns: [aera]}'),
        "did you mean 'area'?",
    ),
    'rename': (
        SMALL.replace('plants.csv', '{table: plants.csv, rename: {pot: plant_id}}'),
        'no column "pot"',
    ),
    'separator': (
        SMALL.replace('size.csv', '{table: size.csv, separator: ab}'),
        'nothing parts the cells',
    ),
    'date for days': (SMALL.replace('day: 3', 'day: 2024-05-03'), 'the tables have days'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_refused_in_one_line(tmp_path, case):
    text, part = REFUSED[case]
    assert part in refusal(made(tmp_path / 'x', text))


def test_plants_that_would_be_labelled_by_a_guess(tmp_path):
    folder = made(tmp_path / 'x')
    good = (folder / 'plants.csv').read_text()
    (folder / 'plants.csv').write_text(good.replace('1dry1,g1,dry', '1dry1,g1,'))
    assert 'plants.csv, row 4, column treatment: 1dry1 has no treatment' in refusal(folder)
    (folder / 'plants.csv').write_text(good + '1dry1,g2,dry,1\n')
    assert "row 26, column genotype: 1dry1 has genotype 'g2' here and another above" in refusal(
        folder
    )


# ---- identity ----
def test_21_pots_shifted_by_one_place(tmp_path):
    rng = np.random.default_rng(7)
    folder = made(tmp_path / 'x', groups=30, days=(0,))
    plants = pd.read_csv(folder / 'plants.csv')
    days = np.arange(0, 18, 2)
    start, speed = rng.normal(3, 0.3, (120, 1)), rng.normal(0.12, 0.02, (120, 1))
    logs = start + speed * days + rng.normal(0, 0.05, (120, len(days)))
    names = sorted(plants.plant_id, key=lambda p: (int(p[:-4]), p))

    def write(sizes):
        wide = pd.DataFrame(np.exp(sizes), index=names, columns=days)
        long = (
            wide.rename_axis('plant_id')
            .reset_index()
            .melt('plant_id', var_name='day', value_name='area')
        )
        long.to_csv(folder / 'size.csv', index=False)
        return said(folder, 'suspicious')

    assert 'fits the plant' not in write(logs)
    moved = logs.copy()
    moved[50:71, 5] = logs[51:72, 5]
    found = write(moved)
    assert 'area on day 10' in found and '+1 places on: rank agreement' in found
    assert f'{names[50]} … {names[70]} (21 plants)' in found


# ---- the built-in layout ----
def test_the_built_in_layout_is_as_before(tmp_path):
    from faba_nb.testing.example_experiment import write_example

    xp = Experiment(write_example(tmp_path / 'x'))
    assert type(xp) is Experiment and xp.facts.roles == {'WHC-80': 'control', 'WHC-30': 'stress'}
    assert 'role' not in xp.plants and xp.modality('vi') is xp.vi
    assert set(xp.facts.modalities) == {'fluor', 'env', 'vi', 'water', 'shape'}


def test_nothing_is_changed_and_the_fingerprint_follows(tmp_path):
    folder = made(tmp_path / 'x')
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    first = Experiment(folder).fingerprint
    check_described(folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert Experiment(folder).fingerprint == first
    (folder / 'size.csv').write_text((folder / 'size.csv').read_text().replace('10.0', '10.5'))
    assert Experiment(folder).fingerprint != first


def test_check_on_the_command_line(tmp_path, faba):
    text = SMALL.replace('{size: size.csv}', '{size: size.csv, leaf: leaf.csv}')
    sizes = (made(tmp_path / 'x') / 'size.csv').read_text()
    done = faba('check', made(tmp_path / 'x', text, tables={'leaf.csv': sizes}))
    assert done.returncode == 0 and 'nothing stands in the way' not in done.stdout
    assert "no modality 'image'" in done.stdout  # of the studies that come with the repository
    ready, arms = done.stdout.rstrip().splitlines()[-2:]
    assert ready == 'ready: starter'
    assert arms.endswith(
        f'compares size_alone, leaf_alone, all: faba run starter --data {tmp_path / "x"}'
    )
    clock = SMALL.replace('size.csv', 'w.csv')
    weather = {'w.csv': 'day,light\n0,100\n2,90\n4,50\n'}
    refused = faba('check', made(tmp_path / 'z', clock, tables=weather))
    assert refused.returncode == 2 and refused.stderr.count('\n') == 1
    assert 'nothing was measured on a plant' in refused.stdout
    assert 'faba run starter' not in refused.stdout
    failed = faba('check', made(tmp_path / 'y', days=(3,)))
    assert failed.returncode == 2 and failed.stderr.count('\n') == 1 and 'one day' in failed.stdout


# ---- onsets that raters agree on ----
LOOKS = range(0, 31, 3)


def rated(folder, raters, never='1dry1'):
    "A described experiment whose plants were rated; the truth, endless for one plant"
    made(folder, SMALL.replace('{from: exposure, day: 3}', '{from: annotations}'), days=LOOKS)
    plants = pd.read_csv(folder / 'plants.csv')
    dry = plants.treatment == 'dry'
    day = (8.5 + 2 * plants.genotype.str[1:].astype(int)).where(dry)
    truth = plants.assign(onset=day.where(plants.plant_id != never, 99.0))
    eyes = [Eye(f'rater {i}', bias=0.0, noise=0.5, unclear=0.0) for i in range(raters)]
    said = toy_annotations(truth, eyes, looks=LOOKS)
    said.to_csv(folder / 'annotations.csv', index=False)
    return truth.set_index('plant_id').onset


def test_onsets_from_annotations(tmp_path):
    truth = rated(tmp_path / 'x', 3)
    xp = Experiment(tmp_path / 'x')
    assert (xp.facts.task, xp.facts.onset_from) == ('onset detection', 'annotations')
    onset = xp.plants.set_index('plant_id').onset_dag
    assert onset[truth.index[truth.isna()]].isna().all()
    shown = truth[truth < 99]
    assert (onset[shown.index] - shown).abs().max() <= 2
    assert onset['1dry1'] > max(LOOKS)  # nothing was seen on it to the end
    labels = xp.measured.groupby('plant_id').label.max()
    assert labels['1dry1'] == 0 and labels[shown.index].eq(1).all()
    agreed = annotated_onsets(xp, 'consensus').set_axis(xp.plants.plant_id)
    pd.testing.assert_series_equal(agreed, onset, check_names=False)
    tables = annotation_tables(xp)
    assert tables['consensus'].published_dag.isna().all()


def test_new_answers_are_new_data(tmp_path):
    rated(tmp_path / 'x', 3)
    before = Experiment(tmp_path / 'x').fingerprint
    rated(tmp_path / 'x', 2)
    assert Experiment(tmp_path / 'x').fingerprint != before


def test_one_rater_makes_no_consensus(tmp_path):
    rated(tmp_path / 'x', 1)
    said = refusal(tmp_path / 'x')
    assert 'experiment.yaml, onset: a consensus needs onsets from two raters of one mode' in said


def test_without_answers_the_check_says_so_in_one_line(tmp_path, faba):
    made(tmp_path / 'x', SMALL.replace('{from: exposure, day: 3}', 'annotations'))
    done = faba('check', tmp_path / 'x')
    assert done.returncode == 2 and 'Traceback' not in done.stderr
    said = [l for l in (done.stdout + done.stderr).splitlines() if 'nobody has rated' in l]
    assert len(said) == 1 and 'write onset: unknown, rate the plants' in said[0]
