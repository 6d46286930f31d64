"The experiment's tables: the real plan, the simulated tree with its traps, spoilt trees, linked trees"

import os, shutil, subprocess, sys, time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from faba_nb.core.errors import BadInput
from faba_nb.experiment.raw_tree import check, line
from faba_nb.experiment.experiment_folder import Experiment
from faba_nb.testing.example_experiment import write_example, write_workbook
from faba_nb.experiment.labels import plant_days
from faba_nb.experiment.marks import add_mark
from faba_nb.experiment.plan import design, plan_rounds, read_plant_table, read_round_table
from faba_nb.experiment.plants import flag_plants
from faba_nb.experiment.tables import read_table


@pytest.fixture(autouse=True, scope='module')
def own_cache(tmp_path_factory):
    "Nothing is kept in the user's cache"
    before = os.environ.get('FABA_CACHE')
    os.environ['FABA_CACHE'] = str(tmp_path_factory.mktemp('cache'))
    yield
    os.environ.pop('FABA_CACHE') if before is None else os.environ.update(FABA_CACHE=before)


@pytest.fixture(scope='module')
def example(tmp_path_factory):
    return write_example(tmp_path_factory.mktemp('faba & co') / 'data')


@pytest.fixture
def spoilt(example, tmp_path):
    return shutil.copytree(example, tmp_path / 'spoilt')


def lines(folder, severity=None):
    c = check(folder)
    return [line(r) for r in c.findings.itertuples() if severity in (None, r.severity)], c


# ---- the real plan


def test_real_plan(shared):
    plants = read_plant_table(shared / 'faba' / 'plant_metadata.csv')
    rounds = read_round_table(shared / 'faba' / 'timepoint_metadata.csv')
    assert (len(plants), plants.genotype.nunique(), plants.accession_num.nunique()) == (264, 44, 44)
    assert plants.groupby(['genotype', 'treatment']).size().eq(3).all()
    single, merged = plant_days(plants, rounds, merge=False), plant_days(plants, rounds)
    assert (len(single), single.label.sum()) == (2907, 517)
    assert (len(merged), merged.label.sum()) == (2903, 514)
    onsets = (
        plants.drop_duplicates('genotype')
        .genotype_onset_dag.astype(int)
        .value_counts()
        .sort_index()
        .to_dict()
    )
    assert onsets == {
        10: 1,
        13: 3,
        14: 1,
        17: 1,
        19: 3,
        20: 5,
        24: 1,
        28: 12,
        29: 2,
        33: 5,
        34: 4,
        35: 1,
        38: 5,
    }
    assert plants.drop_duplicates('genotype').onset_class.value_counts().to_dict() == dict(
        Early=14, Mid=15, Late=15
    )
    drought = merged[merged.treatment == 'WHC-30']
    first = drought[drought.label == 1].groupby('plant_id').dag.min()
    delay = first - plants.set_index('plant_id').onset_dag[first.index]
    assert round(delay.mean(), 2) == 1.15 and delay.max() == 4


def test_real_plan_agrees_with_design(shared):
    plants, rounds = (
        read_plant_table(shared / 'faba' / 'plant_metadata.csv'),
        read_round_table(shared / 'faba' / 'timepoint_metadata.csv'),
    )
    pd.testing.assert_frame_equal(rounds, plan_rounds())
    real = plants.drop_duplicates('genotype').set_index('accession_num')
    plan = design('accessions').set_index('accession_num')
    assert (
        (real.genotype == plan.genotype).all()
        and (real.genotype_onset_dag == plan.onset_dag).all()
        and (real.onset_class == plan.onset_class).all()
    )
    planned = {(r.replicate, r.round) for r in design('replicate_rounds').itertuples()}
    assert {
        (p.replicate, r) for p in plants.itertuples() for r in p.available_timepoints
    } == planned


def test_real_suspects(shared):
    flags = flag_plants(read_plant_table(shared / 'faba' / 'plant_metadata.csv')).set_index(
        'plant_id'
    )['flags']
    flags.index = flags.index.str[-3:].astype(int)
    assert flags[flags != ''].to_dict() == {
        41: 'odd_ratio',
        95: 'odd_ratio',
        45: 'treatment_swapped',
        47: 'treatment_swapped',
        205: 'dead no_weight',
        240: 'no_weight',
        256: 'odd_ratio weights_swapped',
        259: 'odd_ratio weights_swapped',
    }


def test_owners_tables_alone_serve(shared, tmp_path):
    for name in ('plant_metadata.csv', 'timepoint_metadata.csv'):
        shutil.copy(shared / 'faba' / name, tmp_path)
    xp = Experiment(tmp_path)
    assert len(xp.plants) == 264 and len(xp.plant_rounds) == 264 * 22
    assert (xp.plant_rounds[xp.plant_rounds['round'] == 2].dag == 4).all()
    found, c = lines(tmp_path, 'fatal')
    assert (
        c.fatal and [x for x in found if x.startswith('img')] and len(found) == 4
    )  # photographs, fluorescence, indices, climate


# ---- the simulated tree


def test_twin_has_the_plan(twin):
    xp = Experiment(twin)
    assert xp.simulated['world'] == 'onset'
    assert len(xp.plants) == 72 and xp.plants.genotype.nunique() == 12
    assert (
        len(xp.fluor_known),
        len([c for c in xp.fluor if c not in ('plant_id', 'round', 'dag')]),
    ) == (90, 94)
    assert xp.fluor.iloc[:, 3:].dtypes.eq('float32').all()
    assert len(xp.fluor) == 72 * 5 and len(xp.env) == len(xp.water) == len(xp.measured)
    m = xp.measured
    assert not m.duplicated(['plant_id', 'dag']).any() and m.equals(
        m.sort_values(['plant_id', 'dag'], ignore_index=True)
    )
    assert set(zip(m.plant_id, m['round'])) <= set(zip(xp.images.plant_id, xp.images['round']))
    assert (m.label == (m.dag >= m.onset_dag)).all()
    r2 = m[m['round'] == 2].dag
    assert set(r2) == {3, 4}


def test_twin_weights_equal_its_truth(twin):
    truth = pd.read_csv(twin / 'truth' / 'plants.csv').set_index('plant_id')
    p = Experiment(twin).plants.set_index('plant_id')
    assert (p.genotype_onset_dag == truth.onset_dag.reindex(p.index)).all() and (
        p.treatment == truth.treatment.reindex(p.index)
    ).all()


def test_every_planted_trap_is_named(twin):
    "The list that the twin writes of its own traps, one pattern each"
    found, c = lines(twin)
    assert not c.fatal
    page = c.text()
    assert 'SIMULATED DATA' in page
    words = {
        'treatment named otherwise': 'WHC-70%, WHC-40% instead of WHC-80%, WHC-30% → read as WHC-80, WHC-30',
        'treatment without percent sign': 'Treatment is written WHC-80, WHC-30',
        'Tray ID instead of Plant ID': 'the column is called Tray ID',
        'date as text dd.mm.yyyy': 'dates as text',
        'slash as underscore in the folder name': 'have a slash that is an underscore',
        'accent decomposed (side) or dropped (top) in the folder name': "u0301lodie_2' in the folder name",
        'round 2 on two dates': 'round 2 took several days',
        'climate logger off': 'no record for',
        'text in a numeric cell': '→ taken as missing',
        'trailing blank in an id': 'with stray blanks',
        'decimal comma as text': 'as text, such as',
        'header repeated as a row': 'a heading stands among the data',
        'row repeated': 'is duplicated → the first row counts',
        'photograph without observation': 'has no line in the log',
        'outliers left out': 'missing for these',
        'photograph without height': 'was photographed and has no row',
    }
    plants = {
        'weight: died': 'died, and the tables list it',
        'plant: died': 'died, and the tables list it',
        'weight: fresh_weight_missing': 'has no fresh weight',
        'weight: fresh_weight_swapped': 'dry / fresh weight is',
        'weight: dry_share_high': 'dry / fresh weight is',
        'weight: dry_share_low': 'dry / fresh weight is',
        'plant: swapped_treatment': 'of water-holding capacity',
        'side views missing': 'the other views are used',
    }
    traps = pd.read_csv(twin / 'truth' / 'traps.csv', dtype=str, keep_default_na=False)
    assert len(traps) > 20
    for t in traps.itertuples():
        if t.what == 'outliers left out' and 'Biomass_Norm' in t.file:
            continue  # that table lacks rows for other reasons, too
        if t.what.startswith('outlier: '):
            hit = [x for x in found if f'"{t.what[9:]}"' in x and t.plant_id in x]
        elif t.what in plants:
            hit = [x for x in found if plants[t.what] in x and t.plant_id in x]
        elif t.what == 'photograph without observation':
            hit = [x for x in found if words[t.what] in x and t.plant_id in x]
        else:
            hit = [
                x
                for x in found
                if words[t.what] in x
                and t.file in x
                and (t.plant_id in x or not t.what.startswith(('row', 'photograph')))
            ]
        assert hit, t
    for t in traps[traps.what == 'text in a numeric cell'].itertuples():
        assert [x for x in found if f'{t.file}, sheet {t.sheet}, row {t.row}: ' in x], t


# ---- spoilt trees: one line each with file, sheet, row


def test_missing_workbook(spoilt):
    (spoilt / 'TimeCourse Datasets' / 'FCQ_FabaDr_Auto.xlsx').unlink()
    found, c = lines(spoilt, 'fatal')
    assert (
        c.fatal
        and len(found) == 1
        and found[0].startswith('TimeCourse Datasets/FCQ_FabaDr_Auto.xlsx: the file is missing')
    )
    with pytest.raises(BadInput, match='FCQ_FabaDr_Auto.xlsx: the file is missing'):
        Experiment(spoilt).fluor
    assert len(Experiment(spoilt).measured) == 132  # photographs still make the steps


def test_missing_optional_workbook(spoilt):
    (spoilt / 'TimeCourse Datasets' / 'SC_Watering_24_FabaDr_Auto.xlsx').unlink()
    found, c = lines(spoilt)
    assert not c.fatal and [
        x for x in found if 'SC_Watering' in x and 'only arms that ask for it' in x
    ]


def test_missing_observations(spoilt):
    (spoilt / '00-Misc' / 'FabaDr_Obs.xlsx').unlink()
    found, c = lines(spoilt, 'suspicious')
    assert (
        not c.fatal and len([x for x in found if 'FabaDr_Obs.xlsx: the file is missing' in x]) == 3
    )
    xp = Experiment(spoilt)
    assert (xp.measured[xp.measured['round'] == 2].dag == 3).all() and not xp.images.outlier.any()
    assert np.allclose(
        xp.env.iloc[:, 3:], xp.env_daily.set_index('dag').loc[xp.env.dag]
    )  # no time known: whole days


def rewrite(path, change):
    "Change the frames of a workbook"
    sheets = pd.read_excel(path, sheet_name=None, engine='calamine', dtype=object)
    write_workbook(path, {n: change(f) for n, f in sheets.items()})


def test_renamed_column(spoilt):
    rewrite(
        spoilt / 'TimeCourse Datasets' / 'VegIndex_FabaDr_RGB2.xlsx',
        lambda f: f.rename(columns={'CHROMA_BASE': 'CHROMA_BAS'}),
    )
    found, c = lines(spoilt, 'fatal')
    assert c.fatal and found == [
        'TimeCourse Datasets/VegIndex_FabaDr_RGB2.xlsx, sheet Sheet1: '
        'column "CHROMA_BASE" is missing (there is "CHROMA_BAS"); restore the heading → '
        'the default model needs it; only arms without it can run'
    ]


def test_text_in_a_number_cell(spoilt):
    def change(f):
        f.loc[10, 'QY_max'] = 'leaf in the way'
        return f

    rewrite(spoilt / 'TimeCourse Datasets' / 'FCQ_FabaDr_Auto.xlsx', change)
    found, c = lines(spoilt, 'suspicious')
    assert found == [
        'TimeCourse Datasets/FCQ_FabaDr_Auto.xlsx, sheet Sheet1, row 12: '
        "QY_max holds 'leaf in the way' → taken as missing"
    ]
    assert not c.fatal
    assert Experiment(spoilt).fluor.QY_max.isna().sum() == 1


def test_duplicated_plant_round(spoilt):
    rewrite(
        spoilt / 'TimeCourse Datasets' / 'VegIndex_FabaDr_RGB2.xlsx',
        lambda f: pd.concat([f, f.iloc[[20]].assign(TGI=99.0)]),
    )
    found, c = lines(spoilt, 'suspicious')
    assert found == [
        'TimeCourse Datasets/VegIndex_FabaDr_RGB2.xlsx, sheet Sheet1, row 138: '
        '24_FabaDr_002 round 20 is duplicated → the first row counts'
    ]
    assert not c.fatal
    assert (Experiment(spoilt).vi.TGI < 1).all()


def test_truncated_photograph(spoilt):
    photo = sorted(spoilt.rglob('124-14-24_FabaDr_009-RGB1-120*.png'))[0]
    photo.write_bytes(photo.read_bytes()[:100])
    found, c = lines(spoilt, 'suspicious')
    assert (
        found
        == [f'{photo.relative_to(spoilt)}: truncated → skipped and named in the feature manifest']
        and not c.fatal
    )


def test_broken_workbook(spoilt):
    path = spoilt / 'TimeCourse Datasets' / 'EnvData_FabaDr.xlsx'
    path.write_bytes(path.read_bytes()[:5000])
    found, c = lines(spoilt, 'fatal')
    assert (
        c.fatal and len(found) == 1 and 'EnvData_FabaDr.xlsx: not a readable workbook' in found[0]
    )


def test_wrong_date_and_unknown_plant(spoilt):
    def change(f):
        if 'Measuring Date' in f:
            f.loc[0, 'Measuring Date'] = '14.01.2024'
        f.loc[1, 'Plant ID'] = '24_FabaDr_999'
        return f

    rewrite(spoilt / '00-Misc' / 'FabaDr_Obs.xlsx', change)
    found, _ = lines(spoilt, 'suspicious')
    assert [x for x in found if 'round 2 is dated 2024-01-14' in x] and [
        x for x in found if '24_FabaDr_999: no such plant' in x
    ]
    xp = Experiment(spoilt)
    assert xp.days.dag.between(3, 38).all() and '24_FabaDr_999' not in set(xp.images.plant_id)


def test_many_faults_are_counted_not_listed(spoilt):
    def change(f):
        f['NPQ_Lss'] = [0.5] + ['broken'] * (len(f) - 1)
        return f

    rewrite(spoilt / 'TimeCourse Datasets' / 'FCQ_FabaDr_Auto.xlsx', change)
    found, _ = lines(spoilt, 'suspicious')
    assert len(found) <= 8 and [x for x in found if '54 more rows of this kind in NPQ_Lss' in x]


def test_wrong_folder(tmp_path):
    with pytest.raises(BadInput, match='there is no such folder'):
        Experiment(tmp_path / 'none')
    with pytest.raises(BadInput, match='holds no experiment'):
        Experiment(tmp_path)


# ---- trees as they come


def test_links_blanks_and_decomposed_names(example, tmp_path):
    "A tree of symbolic links with an ampersand in its path reads the same, and paths stay as written"
    linked = tmp_path / 'scratch & co' / 'my data'
    linked.mkdir(parents=True)
    for part in example.iterdir():
        (linked / part.name).symlink_to(part)
    a, b = Experiment(example), Experiment(linked)
    assert a.fingerprint == b.fingerprint
    pd.testing.assert_frame_equal(a.images, b.images)
    pd.testing.assert_frame_equal(a.measured, b.measured)
    assert b.image_path(b.images.iloc[0]).is_file() and not b.images.path.str.startswith('/').any()
    assert [x for x in lines(linked, 'info')[0] if 'symbolic links' in x]


def test_data_prefix_of_the_owner(example, tmp_path):
    "plant_metadata.csv writes data/img/…, and the folder given is data itself or the one above it"
    from faba_nb.experiment.plants import owners_form

    xp = Experiment(example)
    tree = tmp_path / 'data'
    shutil.copytree(example, tree, symlinks=True)
    owners_form(xp.plants, xp.listing[0]).to_csv(tree / 'plant_metadata.csv', index=False)
    again = Experiment(tree)
    pd.testing.assert_frame_equal(again.plants, xp.plants)
    pd.testing.assert_frame_equal(again.measured, xp.measured)
    assert (
        read_plant_table(tree / 'plant_metadata.csv')
        .image_side_dir.str.startswith('data/img/side_view/Acc-02')
        .any()
    )
    with pytest.raises(BadInput, match='give .*data'):
        Experiment(tmp_path)


def test_sheet_order_and_spelling_are_free(spoilt):
    path = spoilt / '00-Misc' / 'FabaDr_Obs.xlsx'
    sheets = pd.read_excel(path, sheet_name=None, engine='calamine', dtype=object)
    write_workbook(
        path,
        {
            'FC ': sheets['FC'],
            'rgb2': sheets['RGB2'],
            'RGB1': sheets['RGB1'].rename(
                columns={'Plant ID': 'plant_id ', 'Round Order': 'ROUND ORDER'}
            ),
        },
    )
    pd.testing.assert_frame_equal(Experiment(spoilt).observations, Experiment(spoilt).observations)
    assert len(read_table(spoilt, 'observations_side').frame) == len(sheets['RGB1'])


# ---- marks, cache, order


def test_marks(spoilt):
    whole = Experiment(spoilt)
    whole.measured, whole.fluor, whole.fingerprint
    add_mark(spoilt, '24_FabaDr_010', 11, mark='exclude', note='broken stem', author='A')
    add_mark(spoilt, '24_FabaDr_010', 7, 'fluor', 'exclude', author='A')
    add_mark(spoilt, '24_FabaDr_011', mark='doubtful', author='A')
    xp = Experiment(spoilt)
    assert (
        len(whole.measured) - len(xp.measured) == 1
        and len(whole.fluor) - len(xp.fluor) == 2
        and len(whole.images) - len(xp.images) == 4
    )
    assert len(xp.plants) == 12 and xp.fingerprint != whole.fingerprint
    found, _ = lines(spoilt, 'info')
    assert [x for x in found if '2 records are marked exclude → left out' in x] and [
        x for x in found if '1 records are marked doubtful → kept' in x
    ]
    (spoilt / 'marks.csv').write_text('plant_id,round,view,mark\n24_FabaDr_010,x,,exclude\n')
    found, c = lines(spoilt, 'fatal')
    assert c.fatal and found[0].startswith("marks.csv, row 2: round is 'x'")


def test_damaged_cache_is_made_again(example, tmp_path, monkeypatch):
    monkeypatch.setenv('FABA_CACHE', str(tmp_path))
    first = read_table(example, 'fluorescence').frame
    for p in (tmp_path / 'tables').iterdir():
        p.write_bytes(p.read_bytes()[:500])
    pd.testing.assert_frame_equal(read_table(example, 'fluorescence').frame, first)
    for p in (tmp_path / 'tables').iterdir():
        p.write_bytes(b'')
    pd.testing.assert_frame_equal(read_table(example, 'fluorescence').frame, first)


def test_cache_without_space_warns(example, tmp_path, monkeypatch):
    monkeypatch.setenv('FABA_CACHE', str(tmp_path))
    import faba_nb.core.kept as kept

    def full(path):
        raise OSError('No space left on device')

    monkeypatch.setattr(kept, 'whole_file', full)
    with pytest.warns(UserWarning, match='cannot keep what was read'):
        assert len(read_table(example, 'onsets').frame) == 2


def test_changed_content_is_read_again(spoilt):
    before = Experiment(spoilt).vi.TGI.max()
    rewrite(
        spoilt / 'TimeCourse Datasets' / 'VegIndex_FabaDr_RGB2.xlsx',
        lambda f: f.assign(TGI=f.TGI + 1),
    )
    assert np.isclose(Experiment(spoilt).vi.TGI.max(), before + 1)


def test_nothing_is_changed(spoilt):
    state = lambda: {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in spoilt.rglob('*')}
    before = state()
    check(spoilt).text()
    assert state() == before


def test_no_torch_no_figures():
    "Reading tables loads neither torch nor matplotlib"
    code = (
        'import faba_nb.experiment.raw_tree, sys; '
        'heavy = ("torch", "open_clip", "matplotlib", "openpyxl"); '
        'print([m for m in heavy if m in sys.modules])'
    )
    assert (
        subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout.strip()
        == '[]'
    )


# ---- the command line


def test_check_exit_codes(faba, example, spoilt):
    small = faba('check', example)  # whole, but with two accessions too small for any study
    assert small.returncode == 2 and 'The study cannot run' not in small.stdout
    assert 'each of Early, Mid and Late needs two genotypes' in ' '.join(small.stdout.split())
    (spoilt / 'TimeCourse Datasets' / 'FCQ_FabaDr_Auto.xlsx').unlink()
    bad = faba('check', spoilt)
    assert (
        bad.returncode == 2
        and 'FCQ_FabaDr_Auto.xlsx: the file is missing' in bad.stdout
        and 'Traceback' not in bad.stderr
    )
    nowhere = faba('check', spoilt / 'none')
    assert nowhere.returncode == 2 and len(nowhere.stderr.strip().splitlines()) == 1


# ---- properties


def test_numbers_survive_any_spelling():
    from hypothesis import given, strategies as st
    from faba_nb.experiment.cleaning import tidy_numbers

    @given(st.floats(-1e6, 1e6).map(lambda v: round(v, 3)))
    def spelled(v):
        for s in (f'{v:.3f}', f'{v:.3f}'.replace('.', ','), f' {v:.3f} ', f'{v:,.3f}'):
            value, bad = tidy_numbers([s])
            assert not bad[0] and np.isclose(value[0], v)

    spelled()


def test_dates_survive_any_spelling():
    from hypothesis import given, strategies as st
    from datetime import datetime
    from faba_nb.experiment.cleaning import tidy_dates

    @given(
        st.datetimes(datetime(2000, 1, 1), datetime(2040, 1, 1)).map(
            lambda d: d.replace(microsecond=0)
        )
    )
    def spelled(d):
        serial = (d - datetime(1899, 12, 30)).total_seconds() / 86400
        for s in (
            d,
            f'{d:%d.%m.%Y %H:%M:%S}',
            f'{d:%Y-%m-%d %H:%M:%S}',
            f'{d:%Y-%m-%dT%H:%M:%S}',
            serial,
        ):
            value, bad = tidy_dates([s])
            assert not bad[0] and pd.Timestamp(value[0]) == pd.Timestamp(d)

    spelled()
