"The simulated experiment: bytes, worlds, kills, and what the reader makes of it"

import os, signal, subprocess, sys, time
from pathlib import Path

import cv2
import numpy as np, pandas as pd
import pytest

from faba_nb.core.errors import BadInput, Stopped
from faba_nb.core.files import sha256
from faba_nb.twin.design import planned_plants, planned_rounds
from faba_nb.twin.plant_drawing import photograph
from faba_nb.twin.fluorescence import fluorescence
from faba_nb.twin.form import plant_form
from faba_nb.twin.growth import grow, state_on
from faba_nb.twin.latent import course, with_onsets
from faba_nb.twin.measuring import plant_mask
from faba_nb.twin.writing import simulated, write_twin


def content(folder):
    "Every file with its hash, hidden ones too"
    return {
        str(p.relative_to(folder)): sha256(p)
        for p in sorted(Path(folder).rglob('*'))
        if p.is_file()
    }


@pytest.fixture(scope='module')
def one(tmp_path_factory):
    "A twin of one accession"
    return write_twin(
        tmp_path_factory.mktemp('one') / 't', genotypes=1, seed=5, height=64, workers=1
    )


def test_same_seed_same_bytes_with_other_workers(one, tmp_path):
    assert content(
        write_twin(tmp_path / 't', genotypes=1, seed=5, height=64, workers=3)
    ) == content(one)


def test_other_seed_other_plants(one, tmp_path):
    a, b = content(one), content(write_twin(tmp_path / 't', genotypes=1, seed=6, height=64))
    assert a.keys() == b.keys()
    assert not any(a[k] == b[k] for k in a if k.endswith('.png'))


def test_again_does_nothing_and_other_settings_are_refused(one):
    before = content(one)
    start = time.time()
    write_twin(one, genotypes=1, seed=5, height=64)
    assert time.time() - start < 5 and content(one) == before
    with pytest.raises(BadInput, match='another twin .seed=5'):
        write_twin(one, genotypes=1, seed=6, height=64)


def test_refuses_foreign_folders_and_nonsense(tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    with pytest.raises(BadInput, match='not empty'):
        write_twin(tmp_path, genotypes=1)
    for bad in (
        dict(genotypes=45),
        dict(genotypes=0),
        dict(world='flat'),
        dict(height=5),
        dict(seed=-1),
    ):
        with pytest.raises(BadInput):
            write_twin(tmp_path / 'x', **{'genotypes': 1, **bad})
    assert [p.name for p in tmp_path.iterdir()] == ['notes.txt']


@pytest.mark.parametrize(
    'after', [40, 'tables', *(pytest.param(n, marks=pytest.mark.full) for n in (1, 100, 200, 260))]
)
def test_killed_and_continued(one, tmp_path, after):
    "Killed after some photographs, or while workbooks are written, then repeated: the same bytes, nothing left over"
    code = (
        'from faba_nb.twin.writing import write_twin; '
        f"write_twin({str(tmp_path / 't')!r}, genotypes=1, seed=5, height=64, workers=2)"
    )
    p = subprocess.Popen(
        [sys.executable, '-c', code], start_new_session=True, stderr=subprocess.DEVNULL
    )
    reached = lambda: (
        (tmp_path / 't' / 'TimeCourse Datasets').exists()
        if after == 'tables'
        else len(list(tmp_path.rglob('*.png'))) >= after
    )
    while p.poll() is None and not reached():
        time.sleep(0.002)
    assert p.poll() is None, 'it finished before the kill'
    os.killpg(p.pid, signal.SIGKILL)
    p.wait()
    assert simulated(tmp_path / 't')['complete'] is False
    assert content(write_twin(tmp_path / 't', genotypes=1, seed=5, height=64)) == content(one)


def test_stop_file_leaves_it_in_good_order(one, tmp_path, monkeypatch):
    (tmp_path / 'stop').touch()
    with monkeypatch.context() as m, pytest.raises(Stopped):
        m.setenv('FABA_STOP_FILE', str(tmp_path / 'stop'))
        write_twin(tmp_path / 't', genotypes=1, seed=5, height=64, workers=1)
    assert content(write_twin(tmp_path / 't', genotypes=1, seed=5, height=64)) == content(one)


def test_links(one, tmp_path):
    "The same experiment behind symbolic links"
    t = write_twin(tmp_path / 't', genotypes=1, seed=5, height=64, links=True)
    assert (t / 'img').is_symlink() and (t / 'TimeCourse Datasets').is_symlink()
    seen = {
        str(Path(d).relative_to(t) / f): sha256(Path(d) / f)
        for d, _, fs in os.walk(t, followlinks=True)
        for f in fs
    }
    assert seen == content(one)


def test_importing_stays_light():
    code = (
        'import sys, faba_nb.twin.writing; '
        "heavy = {'torch', 'open_clip', 'timm', 'sklearn', 'matplotlib'}; "
        'assert not heavy & set(sys.modules)'
    )
    subprocess.run([sys.executable, '-c', code], check=True)


# what the plants do


def shots(world, plant, seed=1, days=range(3, 39, 5), height=128):
    plants = with_onsets(planned_plants(12), world, seed)
    p = plants[plants.plant_id == plant].iloc[0].to_dict()
    f, c = plant_form(p['genotype'], plant, seed, p['odd']), course(p, world, seed)
    return p, {
        d: photograph(grow(f, state_on(c, d)), 0, height, np.random.default_rng(d)) for d in days
    }


DROUGHT = ['24_FabaDr_023', '24_FabaDr_238', '24_FabaDr_010']


@pytest.mark.parametrize('plant', DROUGHT)
def test_late_world_shows_nothing_before_the_onset(plant):
    "In `late` a droughted plant is, before its onset, pixel for pixel the plant of `null`; afterwards it is not"
    p, late = shots('late', plant)
    _, null = shots('null', plant)
    for d in late:
        assert (late[d] == null[d]).all() == (d <= p['responds_dag']), d


def test_null_world_treats_all_alike():
    plants = with_onsets(planned_plants(44), 'null', 3)
    healthy = plants[plants.odd.map(lambda o: 'died' not in o)]
    assert not np.isfinite(healthy.responds_dag).any()
    assert all(
        (course(p, 'null', 3).stress == 0).all() for p in healthy.head(12).to_dict('records')
    )


def rho(world, seed):
    p = with_onsets(planned_plants(44), world, seed).query('grown_as == "WHC-30"')
    g = p.groupby('genotype')[['onset_dag', 'responds_dag']].mean()
    return g.onset_dag.corr(g.responds_dag, method='spearman')


@pytest.mark.parametrize(
    'world, expected', [('onset', 1), ('late', 1), ('dose', 0), ('permuted', 0)]
)
def test_worlds_tie_the_response_to_what_they_say(world, expected):
    r = np.mean([rho(world, s) for s in range(20)])
    assert r > 0.7 if expected else abs(r) < 0.12, r  # standard error of the mean of 20: 0.034


def test_fluorescence_leads_by_what_the_truth_says():
    "Half change of the mean curve over droughted plants, days before their own response, against the stated leads"
    plants = with_onsets(planned_plants(44), 'onset', 2)
    plants = plants[plants.odd == ()]
    mid = plants[plants.responds_dag.between(22, 30)]
    controls = plants[plants.grown_as == 'WHC-80'].head(40)
    offset = np.arange(-22, 9.0)
    for name, lead, full in (
        ('NPQ_Lss', 12, 0.327),
        ('Fv/Fm_Lss', 8, -0.172),
        ('Fo', 7, -0.148),
        ('Fm', 1, -0.235),
    ):
        base = np.mean(
            [
                fluorescence(p, [10.0, 20.0], 'onset', 2)[name].mean()
                for p in controls.to_dict('records')
            ]
        )
        curve = np.mean(
            [
                fluorescence(p, p['responds_dag'] + offset, 'onset', 2)[name] / base - 1
                for p in mid.to_dict('records')
            ],
            0,
        )
        change = (curve - curve[:4].mean()) / full
        half = offset[np.flatnonzero(change > 0.5)[0]]
        assert abs(-half - lead) <= 2, (name, half)


def test_plants_grow_wilt_and_keep_their_stake():
    _, well = shots('onset', '24_FabaDr_007', days=range(3, 39, 7))
    sizes = [plant_mask(im).sum() for im in well.values()]
    assert (np.diff(sizes) > 0).all()
    stakes = [((im[..., 3] > 0) & ~plant_mask(im)).any(1).sum() for im in well.values()]
    assert min(stakes) > 0.4 * 128
    p, dry = shots('onset', '24_FabaDr_238', days=(38,))
    assert plant_mask(dry[38]).sum() < 0.6 * sizes[-1]
    colour = lambda im: im[plant_mask(im)][:, :3].mean(0)
    (r, g, b), (r0, g0, b0) = colour(dry[38]), colour(well[24])
    assert (g - r) / (g + r) < (g0 - r0) / (g0 + r0)  # less green than the healthy control


# what the reader makes of it


def test_every_planted_oddity_is_named_and_nothing_else(twin):
    from faba_nb.experiment.raw_tree import check

    found = check(twin)
    text, traps = found.text(), pd.read_csv(twin / 'truth' / 'traps.csv', dtype={'row': 'Int64'})
    assert not found.fatal
    told = set()
    for t in traps.itertuples():
        if t.what.startswith('climate') or (
            t.what.startswith('outliers left') and 'Biomass_Norm' in t.file
        ):
            continue
        lines = [l for l in text.splitlines() if _names(l, t)]
        assert lines, f'not named: {t}'
        told |= set(lines)
    rest = [
        l
        for l in text.splitlines()
        if '→' in l and l not in told and not any(k in l for k in EXPECTED)
    ]
    assert not rest, rest


EXPECTED = (
    'no record for',
    'the column is called',
    'accessions are here',
    'stood at',
    'is written WHC-',
)


def _names(line, t):
    "Whether a line of the check is about a planted oddity"
    plant = isinstance(t.plant_id, str) and t.plant_id in line
    kinds = {
        'text in a numeric cell': lambda: f'row {t.row}:' in line and t.column in line,
        'trailing blank in an id': lambda: 'stray blanks' in line and Path(t.file).name in line,
        'decimal comma as text': lambda: 'as text' in line and t.column in line,
        'header repeated as a row': lambda: 'heading' in line and f'row {t.row}:' in line,
        'row repeated': lambda: plant and 'is duplicated' in line,
        'photograph without observation': lambda: plant and 'no line in the log' in line,
        'photograph without height': lambda: Path(t.file).name in line and 'has no r' in line,
        'outliers left out': lambda: Path(t.file).name in line and 'missing for these' in line,
        'treatment named otherwise': lambda: 'WHC-70%' in line,
        'treatment without percent sign': lambda: 'is written WHC-80, WHC-30' in line,
        'Tray ID instead of Plant ID': lambda: 'Tray ID' in line,
        'date as text dd.mm.yyyy': lambda: 'dates as text' in line,
        'slash as underscore in the folder name': lambda: str(t.value) in line and 'slash' in line,
        'accent decomposed (side) or dropped (top) in the folder name': lambda: (
            str(t.value) in line
        ),
        'side views missing': lambda: plant and 'the other views are used' in line,
        'round 2 on two dates': lambda: 'round 2 took' in line,
        'plant: died': lambda: plant and 'died' in line,
        'plant: swapped_treatment': lambda: plant and 'swapped' in line,
    }
    if t.what.startswith('weight'):
        return plant and ('weight' in line)
    if t.what.startswith('outlier: '):
        return plant and t.what.removeprefix('outlier: ') in line
    return kinds[t.what]()


def test_tables_agree_with_the_truth(twin):
    from faba_nb.experiment.experiment_folder import Experiment

    xp, truth = Experiment(twin), pd.read_csv(twin / 'truth' / 'plants.csv')
    assert xp.simulated['seed'] == 1 and xp.simulated['world'] == 'onset'
    m = xp.plants.merge(truth, on='plant_id', suffixes=('', '_true'))
    assert (
        len(m) == 72
        and (m.genotype == m.genotype_true).all()
        and (m.treatment == m.treatment_true).all()
    )
    assert (m.genotype_onset_dag == m.onset_dag_true).all() and m.onset_class.eq(
        m.onset_class_true
    ).all()
    rounds = planned_rounds(planned_plants(12))
    got = xp.measured.merge(
        rounds.drop(columns='replicate'), on=['plant_id', 'round'], suffixes=('', '_plan')
    )
    assert (got.dag == got.dag_plan).all() and len(xp.images) == rounds.sides.sum() + len(rounds)
    assert xp.measured.groupby('plant_id').size().between(10, 12).all()


def test_pixels_and_tables_agree(twin):
    "Areas in the side table are those of the photographs; the stake is not counted"
    from faba_nb.experiment.experiment_folder import Experiment

    xp = Experiment(twin)
    row = xp.images.query('view == "top" and dag > 20').iloc[3]
    im = cv2.imread(str(xp.image_path(row)), cv2.IMREAD_UNCHANGED)[..., ::-1]
    area = plant_mask(im).sum() * (3476 / 128 / 29) ** 2
    table = xp.shape.merge(
        row.to_frame().T[['plant_id', 'round']].astype({'round': int}), on=['plant_id', 'round']
    )
    assert abs(table.top_area_cm2.iloc[0] - area) < 1e-3 * area
    r, g, b = im[plant_mask(im)].mean(0)
    vi = xp.vi.merge(
        row.to_frame().T[['plant_id', 'round']].astype({'round': int}), on=['plant_id', 'round']
    )
    assert abs(vi.ExG.iloc[0] - (2 * g - r - b)) < 1e-3
