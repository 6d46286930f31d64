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


FOLDERS = [plantscreen, lemnatec, miappe, plantcv, photographed]


@pytest.mark.parametrize('make', FOLDERS, ids=lambda f: f.__name__)
def test_five_folders(tmp_path, make):
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


def test_details_of_the_five(tmp_path):
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
