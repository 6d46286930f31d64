"`faba init`: what it recognises in folders that differ as public data sets do, and what it leaves open"

import json

import numpy as np
import pandas as pd
import pytest

from faba_nb.core.config import read_yaml
from faba_nb.core.errors import BadInput
from faba_nb.experiment.described_check import check_described
from faba_nb.experiment.experiment_folder import Experiment
from faba_nb.experiment.guessing import guess_pattern, write_guess

GENOTYPES = ['Col-0', 'ht1-2', 'MES5', 'Ler', 'abi1', 'Cvi']


def picture(path, colour='white', mode='RGB'):
    "A small photograph"
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (8, 8), colour).save(path)


def plantscreen(folder):
    "Semicolons, decimal commas, a factorial treatment inside a name, empty places, repeated plants"
    rows = ['Measuring Date;Measuring Time;Tray ID;Plant ID;Plant Name;Treatment Name;Area']
    for d in (1, 3, 6):
        for i, g in enumerate([*GENOTYPES, 'empty']):
            for w in ('HW', 'LW'):
                for l in ('HL', 'LL'):
                    rows.append(
                        f'0{d}.08.2018;10:{i:02d}:00;T_{w}_{l};P{i}{w}{l};{g};X_{w}_{l};{d},{i}5'
                    )
    (folder / 'export.csv').write_text('\n'.join(rows))
    return dict(plants=24, days=3, controls={'X_HW_HL', 'X_HW_LL'}, modalities={'export'}, images=0)


def lemnatec(folder):
    "SnapshotInfo.csv with tiles, and a table of barcodes"
    barcodes, snapshots = (
        ['barcode,accession,condition'],
        ['experiment,id,plant barcode,timestamp,tiles'],
    )
    number = 0
    for i, g in enumerate(GENOTYPES):
        for t in ('well-watered', 'drought'):
            plant = f'Ca{i}{t[0]}'
            barcodes.append(f'{plant},{g},{t}')
            for d in (22, 25):
                number += 1
                tiles = [f'VIS_SV_{a}_z1_{number}' for a in (0, 90)]
                for tile in tiles:
                    picture(folder / f'snapshot{number}' / f'{tile}.png')
                snapshots.append(f'P,{number},{plant},2014-10-{d} 17:49:35.187,{";".join(tiles)};')
    (folder / 'SnapshotInfo.csv').write_text('\n'.join(snapshots))
    (folder / 'barcodes.csv').write_text('\n'.join(barcodes))
    return dict(plants=12, days=2, controls={'well-watered'}, modalities=set(), images=48)


def miappe(folder):
    "Observation units in one table, a row for each value in another"
    units = ['observationUnitDbId\tgermplasmName\ttreatments.modality\tblock']
    values = ['observationUnitDbId\tobservationTimeStamp\tobservationVariableName\tvalue']
    for i, g in enumerate(GENOTYPES):
        for t in ('0 mM NaCl', '100 mM NaCl'):
            units.append(f'u{i}{t[0]}\t{g}\t{t}\tB{i % 2}')
            for d in (2, 9, 16):
                for name in ('leaf area', 'height'):
                    values.append(f'u{i}{t[0]}\t2020-05-{d:02d}T08:00:00Z\t{name}\t{d}.{i}')
    (folder / 'units.tsv').write_text('\n'.join(units))
    (folder / 'observations.tsv').write_text('\n'.join(values))
    return dict(plants=12, days=3, controls={'0 mM NaCl'}, modalities={'observations'}, images=0)


def plantcv(folder):
    "Results of an image analysis, and a workbook of plants with onsets"
    from faba_nb.testing.example_experiment import write_workbook

    rows = []
    for i, g in enumerate(GENOTYPES):
        for t in ('control', 'stress'):
            plant = f'{i}-{t[0]}'
            rows.append(
                dict(Plant=plant, Line=g, Treatment=t, Onset=2 + i if t == 'stress' else None)
            )
            for d in (1, 4, 8):
                result = {
                    'metadata': {
                        'plantbarcode': {'value': plant},
                        'timestamp': {'value': f'2021-06-0{d}'},
                    },
                    'observations': {
                        'default': {'area': {'value': d * 100}, 'width': {'value': d + 1}}
                    },
                }
                (folder / 'json').mkdir(exist_ok=True)
                (folder / 'json' / f'{plant}_{d}.json').write_text(json.dumps(result))
    write_workbook(folder / 'plants.xlsx', {'plants': pd.DataFrame(rows)})
    return dict(plants=12, days=3, controls={'control'}, modalities={'plantcv'}, images=0)


def photographed(folder):
    "Photographs with plant, day and view in their names, a plain table and a climate log"
    rows = ['pot,cultivar,water']
    for i, g in enumerate(GENOTYPES):
        for t in ('80%', '30%'):
            rows.append(f'pot{i}{t[0]},{g},{t}')
            for d in (3, 10):
                for v in ('top', 'side'):
                    picture(
                        folder / 'photos' / f'pot{i}{t[0]}' / f'DAS{d}_{v}_{i}{d}.png',
                        (0, 0, 0, 0),
                        'RGBA',
                    )
    (folder / 'pots.csv').write_text('\n'.join(rows))
    (folder / 'climate.csv').write_text('DAS,temperature,humidity\n3,20.5,60\n4,21,61\n10,22,55\n')
    (folder / 'notes.txt').write_text('looked fine')
    return dict(plants=12, days=2, controls={'80%'}, modalities={'climate'}, images=48)


def german(folder):
    "A list of plants and two exports of a German spreadsheet, in its own encoding"
    plants = ['Pflanzen-ID;Genotyp;Behandlung;Wiederholung']
    values = ['Pflanzen-ID;Datum;Uhrzeit;Blattfläche (cm²);Bemerkung']
    for i, g in enumerate(GENOTYPES):
        for t in ('Kontrolle', 'Trockenstress'):
            plants.append(f'G{i}{t[0]};{g};{t};1')
            for d in (3, 7, 12):
                values.append(f'G{i}{t[0]};{d:02d}.05.2023;09:0{i};{d},{i}5;etwas gelb')
    climate = ['Datum;Lufttemperatur (°C)', *(f'{d:02d}.05.2023;21,{d}' for d in range(1, 15))]
    for name, lines in (('Liste', plants), ('Messwerte', values), ('Klima', climate)):
        (folder / f'{name}.csv').write_bytes('\r\n'.join(lines).encode('cp1252'))
    modalities = {'messwerte', 'klima'}
    return dict(plants=12, days=3, controls={'Kontrolle'}, modalities=modalities, images=0)


def sheets(folder):
    "One workbook: a note, the plants, and a sheet for each of two measurements"
    from faba_nb.testing.example_experiment import write_workbook

    plants, height, spad = [], [], []
    for i, g in enumerate(GENOTYPES):
        for t in ('WW', 'WS'):
            plants.append({'Pot no.': len(plants) + 1, 'Accession': g, 'Water regime': t})
            for d in (14, 21):
                height.append({'Pot no.': len(plants), 'DAS': d, 'Height (cm)': d + i})
                spad.append({'Pot no.': len(plants), 'DAS': d + 1, 'SPAD': 40 + i})
    named = {'Plant list': plants, 'Height': height, 'Chlorophyll': spad}
    frames = {name: pd.DataFrame(rows) for name, rows in named.items()}
    note = pd.DataFrame({'Trial 7, glasshouse 3': ['sown in May']})
    write_workbook(folder / 'trial.xlsx', {'README': note, **frames})
    modalities = {'height', 'chlorophyll'}
    return dict(plants=12, days=4, controls={'WW'}, modalities=modalities, images=0)


def barcoded(folder):
    "SnapshotInfo.csv as a weighing and imaging system writes it, and a list with a plural heading"
    lists = ['Barcodes,Genotype,Water level']
    head = 'experiment,id,plant barcode,car tag,timestamp,weight before,weight after,tiles'
    snapshots, number = [head], 0
    for i, g in enumerate(GENOTYPES):
        for t in ('100% FC', '33% FC'):
            plant = f'Hv{i}AA{t[:2]}'
            lists.append(f'{plant},{g},{t}')
            for d in (5, 8):
                number += 1
                tiles = [f'VIS_SV_0_z500_{number}', f'VIS_TV_z500_{number}']
                for tile in tiles:
                    picture(folder / f'snapshot{number}' / f'{tile}.png')
                when = f'2015-03-0{d} 11:00:11.5'
                snapshots.append(f'D,{number},{plant},{i},{when},400.5,450,{";".join(tiles)};')
    snapshots.append(f'D,{number + 1},EMPTY01,99,2015-03-05 12:00:00,-1,-1,;')
    (folder / 'SnapshotInfo.csv').write_text('\n'.join(snapshots))
    (folder / 'Genotypes.csv').write_text('\n'.join(lists))
    return dict(plants=12, days=2, controls={'100% FC'}, modalities=set(), images=48)


def table_set(folder):
    "The tables of a MIAPPE archive, of which two are wanted"
    units = ['Observation unit ID\tBiological material ID\tObservation Unit factor value']
    data = ['Observation unit ID\tDate\tLeafArea']
    events = ['Event type\tDate\tObservation unit ID']
    material = ['Biological material ID\tGenus\tSpecies']
    for i, g in enumerate(GENOTYPES):
        material.append(f'BM{i}\tZea\tmays {g}')
        for t in ('Well-watered', 'Water deficit'):
            unit = f'plant:{len(units)}'
            units.append(f'{unit}\tBM{i}\t{t}')
            events.append(f'Transplanting\t2019-04-10\t{unit}')
            for d in (12, 16, 20):
                data.append(f'{unit}\t2019-04-{d}T10:00:00+02:00\t{d}.{i}')
    study = ['Study unique ID\tStart date of study', 'VIB1\t2019-04-01']
    named = dict(units=units, data=data, event=events, material=material, study=study)
    for name, lines in named.items():
        (folder / f'{name}.txt').write_text('\n'.join(lines))
    modalities = {'data'}
    return dict(plants=12, days=3, controls={'Well-watered'}, modalities=modalities, images=0)


FOLDERS = [
    plantscreen,
    lemnatec,
    miappe,
    plantcv,
    photographed,
    german,
    sheets,
    barcoded,
    table_set,
]


@pytest.mark.parametrize('make', FOLDERS, ids=lambda f: f.__name__)
def test_folders(tmp_path, make):
    wanted = make(tmp_path)
    path, guess = write_guess(tmp_path)
    assert not guess.undecided, guess.undecided
    xp = Experiment(tmp_path)
    assert (len(xp.plants), len(xp.rounds)) == (wanted['plants'], wanted['days']), guess.text
    assert xp.plants.genotype.nunique() == len(GENOTYPES)
    assert {t for t, r in xp.facts.roles.items() if r == 'control'} == wanted['controls']
    assert set(xp.facts.modalities) == wanted['modalities'] and len(xp.images) == wanted['images']
    assert not check_described(tmp_path).fatal
    reasoned = [
        l
        for l in path.read_text().splitlines()
        if l.startswith(('plants', 'images', 'onset', '  '))
    ]
    assert all('  # ' in line for line in reasoned)


def test_details_of_the_folders(tmp_path):
    for make in FOLDERS:
        (tmp_path / make.__name__).mkdir()
        make(tmp_path / make.__name__)
        write_guess(tmp_path / make.__name__)
    read = {make.__name__: Experiment(tmp_path / make.__name__) for make in FOLDERS}
    assert read['plantscreen'].facts.treatments['X_LW_LL'].shares == {'factor_3': 'LL'}
    assert read['plantscreen'].modality('export').Area.max() == 6.55
    assert read['lemnatec'].images['view'].unique().tolist() == ['VIS_SV_0', 'VIS_SV_90']
    assert list(read['miappe'].modality('observations'))[3:] == ['height', 'leaf area']
    assert read['plantcv'].facts.onset_from == 'plants'
    assert read['plantcv'].plants.onset_dag.max() == 7
    assert read['photographed'].facts.clocks == ('climate',)
    assert read['photographed'].rounds.dag.tolist() == [3, 10]
    assert read['photographed'].description.images.mask == 'alpha'


def test_a_column_that_may_be_the_treatment_is_asked_about(tmp_path):
    "Photographs with day and time in their names, and groups A and B without a word for them"
    rows = ['pot;variety;group;bench']
    for i, g in enumerate(GENOTYPES):
        for t in ('A', 'B'):
            rows.append(f'{t}{i:02d};{g};{t};{i}')
            for d in (1, 4):
                name = f'{t}{i:02d}_cam1_2021070{d}T101{i}00.jpg'
                picture(tmp_path / 'img' / f'2021-07-0{d}' / name, 'green')
    (tmp_path / 'pots.csv').write_text('\n'.join(rows))
    path, guess = write_guess(tmp_path)
    assert [u.partition(':')[0] for u in guess.undecided] == [
        'whether "group" is the treatment',
        'the roles of the treatments A, B',
    ]
    said = read_yaml(path)
    assert said['plants']['rename'] == {'group': 'treatment'}
    for value, role in (('A', 'control'), ('B', 'stress')):
        said['treatments'][value] = role
    path.write_text(json.dumps(said))
    xp = Experiment(tmp_path)
    assert (len(xp.images), xp.rounds.dag.tolist()) == (24, [0, 3])
    assert 'time is' not in ' '.join(check_described(tmp_path).findings.what)


def test_the_genotype_is_no_treatment(tmp_path):
    table_set(tmp_path)
    assert 'may also be' not in write_guess(tmp_path)[1].text


def test_a_parquet_table_is_named(tmp_path):
    miappe(tmp_path)
    (tmp_path / 'more.parquet').write_bytes(b'PAR1')
    notes = write_guess(tmp_path)[1].notes
    assert any(n.startswith('more.parquet is not used: ') for n in notes)


def test_tables_of_one_name_are_two_modalities(tmp_path):
    wanted = miappe(tmp_path)
    (tmp_path / 'again').mkdir()
    (tmp_path / 'again' / 'observations.tsv').write_text(
        (tmp_path / 'observations.tsv').read_text()
    )
    write_guess(tmp_path)
    names = wanted['modalities'] | {'observations_2'}
    assert set(Experiment(tmp_path).facts.modalities) == names


def test_never_writes_over(tmp_path):
    miappe(tmp_path)
    write_guess(tmp_path)
    (tmp_path / 'experiment.yaml').write_text('title: mine\n')
    with pytest.raises(BadInput, match='there is a description already'):
        write_guess(tmp_path)
    assert (tmp_path / 'experiment.yaml').read_text() == 'title: mine\n'


def test_the_built_in_layout_needs_none(tmp_path):
    (tmp_path / '00-Misc').mkdir()
    with pytest.raises(BadInput, match='built-in experiment and needs no description'):
        write_guess(tmp_path)


def test_what_cannot_be_decided_is_printed(tmp_path, faba):
    rows = [f'p{i}{t},g{i},{t},{d},{d * 2}' for i in range(6) for t in ('T1', 'T2') for d in (1, 2)]
    (tmp_path / 'a.csv').write_text('\n'.join(['plant,line,treatment,day,height', *rows]))
    done = faba('init', tmp_path)
    assert done.returncode == 0 and 'undecided: the roles of the treatments T1, T2' in done.stdout
    assert 'then `faba check' in done.stdout
    assert '"T1"' not in (tmp_path / 'experiment.yaml').read_text()
    assert {t['role'] for t in read_yaml(tmp_path / 'experiment.yaml')['treatments'].values()} == {
        'other'
    }
    again = faba('init', tmp_path)
    assert again.returncode == 2 and again.stderr.count('\n') == 1
    assert 'no plant with the role control' in faba('check', tmp_path).stdout


def test_a_folder_without_plants(tmp_path):
    (tmp_path / 'a.csv').write_text('x,y\n1,2\n')
    with pytest.raises(BadInput, match='no table names plants'):
        write_guess(tmp_path)


def test_tartu_from_nothing(shared, tmp_path):
    for name in ('Ir', 'Morpho', 'Measure'):
        (tmp_path / f'{name}.csv').symlink_to(shared / 'tartu' / f'{name}.csv')
    _, guess = write_guess(tmp_path)
    xp = Experiment(tmp_path)
    assert guess.undecided == [] and (len(xp.plants), xp.plants.genotype.nunique()) == (432, 6)
    assert {t for t, r in xp.facts.roles.items() if r == 'control'} == {
        'LC_LT_HW_HL',
        'LC_LT_HW_LL',
    }
    assert xp.facts.treatments['LC_LT_LW_LL'].shares == {'factor_4': 'LL'}
    assert len(guess.lines) <= 25


def test_brassica_from_nothing(shared, tmp_path):
    for path in (shared / 'images' / 'brassica').iterdir():
        (tmp_path / path.name).symlink_to(path)
    _, guess = write_guess(tmp_path)
    xp = Experiment(tmp_path)
    assert guess.undecided == ['the roles of the treatments 2']
    assert (len(xp.plants), len(xp.images)) == (2, 32) and set(xp.images['mask']) == {'black'}


def test_patterns_of_names():
    rng = np.random.default_rng(0)
    plants = [f'A{i}' for i in range(12)]
    paths = [
        f'2024-05-{d:02d}/{p}/cam{c}-{rng.integers(1e6)}.tif'
        for p in plants
        for d in (1, 2)
        for c in (1, 2)
    ]
    pattern, fits = guess_pattern(paths, plants)
    assert pattern == '{date}/{plant_id}/{view}-*.tif' and fits == len(paths)
