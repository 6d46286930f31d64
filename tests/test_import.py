"Earlier checkpoints and summaries: read from their weights alone, imported whole or not at all"

import json, os, shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from faba_nb.backbones.store import write_features
from faba_nb.core.errors import BadInput
from faba_nb.core.studies import read_study
from faba_nb.evaluation.predictions import check_all_rounds, read_predictions
from faba_nb.experiment.experiment_folder import Experiment
from faba_nb.legacy.checkpoints import FULL, STATE, read_checkpoint
from faba_nb.legacy.importing import find_source, import_results
from faba_nb.legacy.old_configuration import read_configuration
from faba_nb.legacy.old_inputs import AsItWas, OldFeatures, earlier_bundle, filled, inputs_of
from faba_nb.legacy.old_network import Variant, forward
from faba_nb.testing.example_checkpoints import invented_checkpoint
from faba_nb.training.bundle import load_bundle, published_moments
from faba_nb.training.folds import make_folds

WIDTHS = dict(image=16)
HUBS = dict(clip='openai/clip-vit-base-patch16', dinov2='facebook/dinov2-base')


@pytest.fixture(scope='module', autouse=True)
def own_cache(tmp_path_factory):
    before = os.environ.get('FABA_CACHE')
    os.environ['FABA_CACHE'] = str(tmp_path_factory.mktemp('cache'))
    yield
    os.environ.pop('FABA_CACHE') if before is None else os.environ.update(FABA_CACHE=before)


@pytest.fixture(scope='module')
def twin(tmp_path_factory):
    "Six genotypes, so six folds"
    from faba_nb.twin.writing import write_twin

    folder = tmp_path_factory.mktemp('twin') / 'twin'
    write_twin(folder, genotypes=6, seed=1, height=32)
    return folder


@pytest.fixture(scope='module')
def features(twin, tmp_path_factory):
    "Features of random numbers under the earlier name, without attributes"
    import h5py

    path = tmp_path_factory.mktemp('features') / 'clip_features.h5'
    images = Experiment(twin).images
    x = np.random.default_rng(0).normal(size=(len(images), WIDTHS['image'])).astype(np.float32)
    with h5py.File(path, 'w') as f:
        for row, v in zip(images.itertuples(), x):
            f[f'{row.plant_id}/{row.round}/{row.view}'] = v
    return path


def configuration(**ablation):
    return dict(
        model=dict(
            image_encoder=HUBS['clip'],
            ablation=dict(
                dict(
                    enabled_modalities=['image', 'fluor', 'env', 'vi'],
                    fusion_mode='gating',
                    temporal_mode='transformer',
                    causal_mask=False,
                ),
                **ablation,
            ),
        ),
        training=dict(lr=1e-4, cv=dict(n_folds=6, seed=42)),
        data=dict(fluor_normalize=True),
    )


def write_results(folder, variant=Variant(), seeds=(42, 123), folds=6, **ablation):
    "An old-style results folder with networks that were never trained"
    for s in seeds:
        for f in range(folds):
            at = Path(folder) / (f'fold_{f}' if s == 42 else f'seed_{s}/fold_{f}')
            at.mkdir(parents=True)
            torch.save(invented_checkpoint(WIDTHS, variant, seed=100 * s + f), at / STATE)
            (at / 'metrics.json').write_text(json.dumps(dict(fold_id=f, best_epoch=3)))
    (Path(folder) / 'config.yaml').write_text(yaml.safe_dump(configuration(**ablation)))
    return Path(folder)


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    return write_results(tmp_path_factory.mktemp('plain') / 'clip')


def bundle_of(results, twin, features):
    "The experiment as these networks saw it"
    source = find_source(results, twin, features)
    return earlier_bundle(
        source.arm, AsItWas(twin), OldFeatures(features), source.configuration.scaled
    )[0]


@pytest.fixture
def copy(plain, tmp_path):
    return shutil.copytree(plain, tmp_path / 'clip')


# ---- the network


def test_golden(shared):
    z = np.load(shared / 'golden' / 'stress_model.npz')
    part = lambda p: {k[len(p) :]: torch.from_numpy(z[k]) for k in z.files if k.startswith(p)}
    w, i = part('param/'), part('input/')
    x = dict(
        image=i['images'],
        image_there=i['image_mask'],
        fluor=i['fluorescence'],
        fluor_there=i['fluor_mask'],
        env=i['environment'],
        vi=i['vi'],
        dag=i['temporal_positions'],
        active=i['image_mask'].any(-1) | i['fluor_mask'],
    )
    logits, gates = forward(w, Variant(), x)
    assert logits.shape == (3, 22)
    np.testing.assert_allclose(logits, z['output/stress_logits'], atol=1e-5)
    np.testing.assert_allclose(gates, z['output/modality_gates'], atol=1e-5)


# ---- a whole folder


def test_import(plain, twin, features, tmp_path):
    record = import_results(plain, twin, tmp_path, 'clip', features)
    assert (record['checkpoints'], record['folds'], record['seeds']) == (
        12,
        6,
        [42, 123],
    ) and record['configuration'].endswith('config.yaml')
    p = read_predictions(tmp_path / 'arms' / 'clip' / 'predictions.csv')
    steps = Experiment(twin).measured
    test = p[p.split == 'test']
    assert len(test) == 2 * 2 * len(steps)
    one = test[(test.protocol == 'online') & (test.init_seed == 123)].sort_values(
        ['plant_id', 'dag']
    )
    assert (
        one[['plant_id', 'round', 'dag', 'label']]
        .reset_index(drop=True)
        .equals(
            steps[['plant_id', 'round', 'dag', 'label']].astype(
                one[['plant_id', 'round', 'dag', 'label']].dtypes.to_dict()
            )
        )
    )
    np.testing.assert_allclose(p[[c for c in p if c.startswith('gate_')]].sum(1), 1, atol=1e-5)
    rounds = check_all_rounds(tmp_path / 'arms' / 'clip' / 'predictions_all_rounds.csv')
    assert (
        rounds[rounds.split == 'test']
        .groupby(['protocol', 'init_seed', 'plant_id'])['round']
        .nunique()
        .between(21, 22)
        .all()
    )
    again = (tmp_path / 'arms' / 'clip' / 'predictions.csv').read_bytes()
    assert import_results(plain, twin, tmp_path, 'clip', features) == record
    (
        tmp_path / 'arms' / 'clip' / 'predictions.csv'
    ).unlink()  # as after a kill before the last file
    import_results(plain, twin, tmp_path, 'clip', features)
    assert (tmp_path / 'arms' / 'clip' / 'predictions.csv').read_bytes() == again


def test_imported_probabilities_are_the_networks_own(plain, twin, features, tmp_path):
    "Two test plants, straight from weights and inputs"
    import_results(plain, twin, tmp_path, 'clip', features)
    p = pd.read_csv(tmp_path / 'arms' / 'clip' / 'predictions.csv')
    bundle = bundle_of(plain, twin, features)
    fold = make_folds(bundle.plants)[5]
    at = np.flatnonzero(bundle.plants.genotype == fold.test)[[0, 4]]
    w = torch.load(plain / 'fold_5' / STATE, weights_only=True)
    logits, _ = forward(
        w, Variant(), filled(inputs_of(bundle, at), dict(WIDTHS, fluor=94, env=5, vi=11))
    )
    mine = (
        p[
            (p.fold == 5)
            & (p.init_seed == 42)
            & (p.protocol == 'retrospective')
            & (p.split == 'test')
        ]
        .set_index(['plant_id', 'round'])
        .probability
    )
    for i, plant in enumerate(bundle.plants.plant_id.iloc[at]):
        for j, r in enumerate(bundle.rounds.round[at[i]]):
            if (plant, r) in mine.index:
                assert abs(mine[plant, r] - torch.sigmoid(logits[i, j]).item()) < 1e-5


@pytest.mark.parametrize(
    'variant,ablation',
    [
        (Variant(fusion='concat'), dict(fusion_mode='concat')),
        (Variant(temporal='mlp'), dict(temporal_mode='mlp')),
        (Variant(temporal='none'), dict(temporal_mode='none')),
        (Variant(causal=True), dict(causal_mask=True)),
        (Variant(('fluor', 'env', 'vi')), dict(enabled_modalities=['fluor', 'env', 'vi'])),
    ],
    ids=['concat', 'mlp', 'none', 'causal', 'no_image'],
)
def test_variants(variant, ablation, twin, features, tmp_path):
    results = write_results(tmp_path / 'r', variant, seeds=(42,), **ablation)
    import_results(results, twin, tmp_path / 'out', 'x', features)
    p = read_predictions(tmp_path / 'out' / 'arms' / 'x' / 'predictions.csv')
    assert p.probability.between(0, 1).all() and p.gate_env.isna().all() == (
        variant.fusion == 'concat'
    )
    if (
        variant.temporal != 'transformer'
    ):  # nothing looks at other rounds, and only the climate differs between protocols
        assert set(p.protocol) == {'retrospective', 'online'}


def test_summary_alone(twin, tmp_path):
    summary = dict(
        per_seed_per_fold=dict(seed_42=dict(fold_0=dict(f1=0.5))),
        aggregated=dict(f1=dict(mean=0.5, ci_lower=0.4, ci_upper=0.6)),
    )
    (tmp_path / 'bioclip_ablation_evaluation.json').write_text(json.dumps(summary))
    record = import_results(
        tmp_path / 'bioclip_ablation_evaluation.json', twin, tmp_path / 'out', 'bioclip'
    )
    assert record['checkpoints'] == 0 and pd.read_csv(
        tmp_path / 'out' / 'tables' / 'earlier.csv'
    ).value.tolist() == [0.5]
    (tmp_path / 'out' / 'study.yaml').unlink()
    (tmp_path / 'out' / 'tables' / 'earlier.csv').unlink()  # as if killed in between
    import_results(tmp_path / 'bioclip_ablation_evaluation.json', twin, tmp_path / 'out', 'bioclip')
    assert (
        list(read_study(tmp_path / 'out' / 'study.yaml').arms) == ['bioclip']
        and (tmp_path / 'out' / 'tables' / 'earlier.csv').is_file()
    )


def _import_summary(path, data, out, name):
    import_results(path, data, out, name)
    os._exit(0)


def test_imports_side_by_side(twin, tmp_path):
    "Four imports at once, as four jobs would do it: each arm is in the study afterwards"
    import multiprocessing

    names, context = ['dinov2', 'clip', 'bioclip', 'bioclip2'], multiprocessing.get_context('fork')
    for i, n in enumerate(names):
        summary = dict(
            per_seed_per_fold=dict(seed_42=dict(fold_0=dict(f1=i / 10))),
            aggregated=dict(f1=dict(mean=i / 10, ci_lower=0.0, ci_upper=0.6)),
        )
        (tmp_path / f'{n}_ablation_evaluation.json').write_text(json.dumps(summary))
    Experiment(twin).fingerprint
    jobs = [
        context.Process(
            target=_import_summary,
            args=(tmp_path / f'{n}_ablation_evaluation.json', twin, tmp_path / 'out', n),
        )
        for n in names
    ]
    for p in jobs:
        p.start()
    for p in jobs:
        p.join()
    assert [p.exitcode for p in jobs] == [0] * 4
    assert set(read_study(tmp_path / 'out' / 'study.yaml').arms) == set(names)
    assert set(pd.read_csv(tmp_path / 'out' / 'tables' / 'earlier.csv').arm) == set(names)


# ---- one line each, nothing half imported


class Evil:
    def __reduce__(self):
        return os.system, ('false',)


def spoil_width(r):
    torch.save(invented_checkpoint(dict(image=32)), r / 'fold_1' / STATE)


def spoil_missing(r):
    shutil.rmtree(r / 'seed_123' / 'fold_5')


def spoil_extra(r):
    shutil.copytree(r / 'fold_1', r / 'fold_40')


def spoil_cut(r):
    p = r / 'fold_1' / STATE
    p.write_bytes(p.read_bytes()[:5000])


def spoil_code(r):
    torch.save(dict(w=Evil()), r / 'fold_1' / STATE)


def spoil_configuration(r):
    (r / 'config.yaml').write_text(yaml.safe_dump(configuration(fusion_mode='concat')))


def spoil_modality(r):
    (r / 'config.yaml').write_text(
        yaml.safe_dump(configuration(enabled_modalities=['fluor', 'env', 'vi']))
    )


def spoil_record(r):
    (r / 'fold_1' / 'metrics.json').write_text('{"fold_id": 4}')


def spoil_summary(r):
    (r / 'x_ablation_evaluation.json').write_text('{"per_seed')


def spoil_numbers(r):
    w = invented_checkpoint(WIDTHS)
    w['stress_head.mlp.3.bias'][:] = np.nan
    torch.save(w, r / 'fold_1' / STATE)


@pytest.mark.parametrize(
    'spoil,says',
    [
        (spoil_width, 'wants 32 values of image, the data have 16'),
        (spoil_missing, 'seed 123 lacks 1 of 6 folds: 5'),
        (spoil_extra, 'fold 40, this experiment has 6 genotypes'),
        (spoil_cut, 'not a whole checkpoint'),
        (spoil_code, 'holds more than weights'),
        (spoil_configuration, "the configuration says 'concat'"),
        (spoil_modality, 'trained with image'),
        (spoil_record, 'metrics.json says fold 4'),
        (spoil_summary, 'not a whole JSON file'),
        (spoil_numbers, 'not finite'),
    ],
    ids=lambda x: getattr(x, '__name__', None),
)
def test_refused(spoil, says, copy, twin, features, tmp_path):
    spoil(copy)
    with pytest.raises(BadInput, match=says) as e:
        import_results(copy, twin, tmp_path / 'out', 'clip', features)
    assert '\n' not in str(e.value) and not list((tmp_path / 'out').rglob('*'))


def test_gates_of_another_fold_are_refused(copy, twin, features, tmp_path):
    "Gate weights stored beside a checkpoint say which plants it was tested on"
    bundle = bundle_of(copy, twin, features)
    folds, w = make_folds(bundle.plants), torch.load(copy / 'fold_2' / STATE, weights_only=True)
    gates = lambda g: forward(
        w,
        Variant(),
        filled(
            inputs_of(bundle, np.flatnonzero(bundle.plants.genotype == g)),
            dict(WIDTHS, fluor=94, env=5, vi=11),
        ),
    )[1]
    torch.save(gates(folds[2].test), copy / 'fold_2' / 'modality_gates.pt')
    record = import_results(copy, twin, tmp_path / 'good', 'clip', features)
    assert record['gates_compared'] == 1 and record['gates_largest_gap'] < 1e-5
    torch.save(gates(folds[4].test), copy / 'fold_2' / 'modality_gates.pt')
    with pytest.raises(
        BadInput, match=f'those of {folds[4].test}; fold 2 of this split leaves out {folds[2].test}'
    ):
        import_results(copy, twin, tmp_path / 'bad', 'clip', features)
    assert not (tmp_path / 'bad').exists()


def test_names_that_are_taken(plain, twin, features, tmp_path):
    from faba_nb.core.files import write_text
    from faba_nb.core.studies import read_study

    write_text(read_study('backbones').to_yaml(), tmp_path / 'study.yaml')
    with pytest.raises(BadInput, match="has an arm 'clip' of its own"):
        import_results(plain, twin, tmp_path, 'clip', features)
    import_results(plain, twin, tmp_path, 'earlier_clip', features)
    assert read_study(tmp_path / 'study.yaml').name == 'backbones'


def test_earlier_repository_is_searched(plain, tmp_path):
    top = tmp_path / 'earlier'
    shutil.copytree(
        plain,
        top / 'results' / 'clip' / 'checkpoints',
        ignore=shutil.ignore_patterns('config.yaml'),
    )
    (top / 'configs').mkdir()
    (top / 'configs' / 'clip.yaml').write_text(
        yaml.safe_dump(
            configuration(temporal_mode='none')
            | dict(logging=dict(checkpoint_dir='results/clip/checkpoints/'))
        )
    )
    source = find_source(top / 'results' / 'clip', tmp_path, features=tmp_path / 'clip_features.h5')
    assert (
        source.arm.temporal == 'none'
        and source.configuration.path.name == 'clip.yaml'
        and len(source.checkpoints) == 12
    )


# ---- what the earlier system computed is what is computed here


def test_published_moments_leave_missing_cells_out():
    "One empty cell must not move a column's SD; a constant column is divided by 1"
    x = np.array([[5.0, 7], [6, 7], [7, 7], [np.nan, 7]])
    mean, sd = published_moments(x)
    np.testing.assert_allclose([mean, sd], [[6, 7], [np.nanstd([5, 6, 7]), 1]], rtol=1e-6)


def test_missing_cells_are_minus_mean_over_sd(twin):
    "Training with the published preparation uses the same numbers, and a missing cell is raw 0"
    from faba_nb.core.studies import Arm
    from faba_nb.training.bundle import BatchSource, scaling

    arm = Arm(preparation='published', modalities=('fluor',))
    b = load_bundle(arm, Experiment(twin))
    at = np.argwhere(b.steps.present['fluor'])[3]
    b.steps.values['fluor'] = b.steps.values['fluor'].copy()
    b.steps.values['fluor'][at[0], at[1], 2] = np.nan
    rows = b.steps.values['fluor'][b.steps.present['fluor']]
    z = (
        BatchSource(b, arm, [scaling(b, arm, [])])
        .batch(torch.tensor([[int(at[0])]]))
        .values['fluor'][0, 0, at[1], 2]
    )
    assert z.item() == pytest.approx(-np.nanmean(rows[:, 2]) / np.nanstd(rows[:, 2]), rel=1e-4)


def test_configuration_is_followed_or_named(tmp_path):
    def read(**d):
        (tmp_path / 'c.yaml').write_text(
            yaml.safe_dump(dict(model=dict(image_encoder=HUBS['clip']), **d))
        )
        return read_configuration(tmp_path / 'c.yaml')

    assert (
        not read().scaled
        and not read(data=dict(fluor_normalize=False)).scaled
        and read(data=dict(fluor_normalize=True)).scaled
    )
    assert (
        read().automatic
        and read(training=dict(pos_weight=None)).automatic
        and not read(training=dict(pos_weight=2)).automatic
    )
    c = read(training=dict(scheduler='cosine', lr='1e-3', cv=dict(seed=7)), seed=5, num_workers=4)
    assert (c.split_seed, c.init_seed, c.arm.lr, c.arm.max_epochs) == (7, 5, 1e-3, 200) and set(
        c.ignored
    ) == {'training.scheduler', 'num_workers'}
    with pytest.raises(BadInput, match="training.lr is 'fast'"):
        read(training=dict(lr='fast'))


def test_raw_fluorescence_stays_raw(plain, twin, features):
    "Without data.fluor_normalize the network is given the numbers of the workbook"
    source = find_source(plain, twin, features)
    raw, scaled = (
        earlier_bundle(source.arm, AsItWas(twin), OldFeatures(features), s)[0].rounds.values[
            'fluor'
        ]
        for s in (False, True)
    )
    there = np.abs(raw) > 0
    assert there.any() and np.abs(raw).max() > 1000 and np.abs(scaled).max() < 200


def test_sizes_must_be_those_of_the_network(copy, twin, features, tmp_path):
    d = configuration()
    d['model']['temporal'] = dict(num_heads=8)
    (copy / 'config.yaml').write_text(yaml.safe_dump(d))
    with pytest.raises(BadInput, match='num_heads is 8 in the configuration and 4 in the network'):
        import_results(copy, twin, tmp_path / 'out', 'clip', features)


def test_columns_of_the_workbook_keep_their_order(twin, tmp_path):
    "The earlier reader took columns as they were written, whatever they are called"
    from faba_nb.legacy.old_inputs import earlier_fluorescence

    _, columns, left_out = earlier_fluorescence(AsItWas(twin))
    sheet = pd.read_excel(next(twin.glob('*/FCQ_FabaDr_Auto.xlsx')), engine='calamine')
    assert (
        columns == [c for c in sheet.columns[15:] if c in columns]
        and len(columns) == 94
        and left_out == []
    )
    numeric = [c for c in sheet.columns[15:] if pd.api.types.is_numeric_dtype(sheet[c])]
    assert earlier_fluorescence(AsItWas(twin), len(numeric))[1] == numeric


# ---- the data as they were


def test_marks_and_later_features_change_nothing(plain, twin, features, tmp_path):
    "A mark set since, and features extracted since, are told and not used"
    from faba_nb.backbones.store import gaps_path

    source = find_source(plain, twin, features)
    before = earlier_bundle(source.arm, AsItWas(twin), OldFeatures(features))[0]
    data, file = tmp_path / 'twin', tmp_path / 'clip_features.h5'
    data.mkdir()
    for p in twin.iterdir():
        (data / p.name).symlink_to(p)
    shutil.copy(features, file)
    images = Experiment(twin).images
    (data / 'marks.csv').write_text(
        f'plant_id,round,view,mark,note,author,time\n{images.plant_id[0]},,,exclude,,,\n'
    )
    write_features(
        gaps_path(file),
        images[:1].assign(view='side_999'),
        np.zeros((1, WIDTHS['image'])),
        dict(backbone='clip', layer='published', framing='published'),
    )
    after = earlier_bundle(source.arm, AsItWas(data), OldFeatures(file))[0]
    assert after.digest() == before.digest()
    from faba_nb.legacy.importing import _set_aside

    assert _set_aside(find_source(plain, data, file), Experiment(data)) == dict(
        marks_not_used=1, gaps_not_used=True
    )


# ---- seeds and configurations


def test_seed_folder_keeps_its_seed_and_configuration(plain, tmp_path):
    top = tmp_path / 'earlier'
    shutil.copytree(
        plain,
        top / 'results' / 'clip' / 'checkpoints',
        ignore=shutil.ignore_patterns('config.yaml'),
    )
    (top / 'configs').mkdir()
    (top / 'configs' / 'a.yaml').write_text(
        yaml.safe_dump(
            configuration(causal_mask=True)
            | dict(logging=dict(checkpoint_dir='results/clip/checkpoints/'))
        )
    )
    source = find_source(top / 'results' / 'clip' / 'checkpoints' / 'seed_123', tmp_path)
    assert (
        source.arm.init_seeds == (123,)
        and source.arm.attention == 'causal'
        and len(source.checkpoints) == 6
    )
    shutil.copy(top / 'configs' / 'a.yaml', top / 'configs' / 'b.yaml')
    with pytest.raises(BadInput, match='a.yaml and b.yaml'):
        find_source(top / 'results' / 'clip', tmp_path)
    shutil.rmtree(top / 'configs')
    with pytest.raises(BadInput, match='no configuration was found'):
        find_source(top / 'results' / 'clip', tmp_path)
    with pytest.raises(BadInput, match='1 variants lie here: clip'):
        find_source(top / 'results', tmp_path)
    with pytest.raises(BadInput, match='folder of one fold'):
        find_source(top / 'results' / 'clip' / 'checkpoints' / 'fold_1', tmp_path)


def test_folds_without_a_seed_have_the_seed_of_the_configuration(copy, tmp_path):
    (copy / 'config.yaml').write_text(yaml.safe_dump(configuration() | dict(seed=7)))
    assert find_source(copy, tmp_path).arm.init_seeds == (7, 123)


@pytest.mark.parametrize(
    'name,content,says',
    [
        ('metrics.json', '{"fold_id": 0, "best_val_loss": 1}', 'the losses of one fold'),
        ('x.json', '{"per_fold": {}, "aggregated": {}}', 'the evaluation of a single seed'),
        ('x.json', '[{"best_val_loss": 1}]', 'the losses of all folds'),
        ('ranking_results.json', '{}', 'a ranking of accessions'),
    ],
)
def test_other_files_are_named(name, content, says, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(BadInput, match=says):
        find_source(tmp_path / name, tmp_path)


# ---- damage


def test_no_flipped_bit_gives_other_numbers(tmp_path):
    "64 positions over a checkpoint: refused, or exactly the same weights"
    small = tmp_path / STATE
    torch.save(w := invented_checkpoint(WIDTHS), small)
    whole, refused = small.read_bytes(), 0
    for at in np.linspace(0, len(whole) - 1, 64).astype(int):
        small.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        try:
            again = read_checkpoint(small)
        except BadInput as e:
            refused += 1
            assert '\n' not in str(e)
        else:
            assert again.keys() == w.keys() and all(torch.equal(again[k], w[k]) for k in w)
    assert refused >= 55


def test_full_checkpoint_alone_is_read(copy, twin, tmp_path):
    for p in copy.rglob(STATE):
        torch.save(
            dict(
                epoch=1,
                model_state_dict=torch.load(p, weights_only=True),
                optimizer_state_dict=dict(state={}, param_groups=[]),
                best_val_loss=0.3,
            ),
            p.with_name(FULL),
        )
        p.unlink()
    assert len(find_source(copy, twin).checkpoints) == 12 and len(
        read_checkpoint(copy / 'fold_1' / FULL)
    ) == len(invented_checkpoint(WIDTHS))


def test_checkpoints_without_checksums_are_refused(tmp_path):
    torch.save(invented_checkpoint(WIDTHS), tmp_path / STATE, _use_new_zipfile_serialization=False)
    with pytest.raises(BadInput, match='no archive with checksums'):
        read_checkpoint(tmp_path / STATE)


# ---- features and losses


def test_features_of_another_training_are_refused(copy, twin, features, tmp_path):
    "White noise for the features: gates that are stored tell, and so does the loss"
    import h5py
    from faba_nb.legacy.old_folds import _answers, check_fold

    bundle, fold = (
        bundle_of(copy, twin, features),
        make_folds(bundle_of(copy, twin, features).plants)[0],
    )
    path = copy / 'fold_0' / STATE
    v, said = Variant(('image',)), read_configuration(copy / 'config.yaml')
    w = invented_checkpoint(WIDTHS, v)
    logits, gates = _answers(w, v, bundle, fold.test)
    torch.save(gates, path.with_name('modality_gates.pt'))
    assert check_fold(w, v, bundle, fold, path, said)[0] == 0
    noise = shutil.copy(features, tmp_path / 'noise_features.h5')
    with h5py.File(noise, 'r+') as f:
        f.visititems(
            lambda n, d: (
                d.write_direct(np.random.default_rng(5).normal(size=16).astype(np.float32))
                if hasattr(d, 'shape')
                else None
            )
        )
    other = bundle_of(copy, twin, noise)
    with pytest.raises(BadInput, match='gates differ from those computed here by up to'):
        check_fold(w, v, other, fold, path, said)
    path.with_name('modality_gates.pt').unlink()
    at = np.flatnonzero(bundle.plants.genotype == fold.test)
    seen = torch.from_numpy(bundle.rounds.observed[at])
    y = torch.from_numpy(bundle.rounds.dag[at] >= bundle.plants.onset_dag.to_numpy()[at, None])[
        seen
    ].float()
    n, p = (y == 0).sum(), (y == 1).sum()
    z = logits[seen].double()
    loss = (
        (
            torch.nn.functional.softplus(z) * (1 - y)
            + n / (p + 1e-6) * torch.nn.functional.softplus(-z) * y
        )
        .mean()
        .item()
    )
    path.with_name('metrics.json').write_text(json.dumps(dict(fold_id=0, test_loss=loss)))
    assert check_fold(w, v, bundle, fold, path, said)[1] < 1e-5
    with pytest.raises(BadInput, match='its stored test loss is'):
        check_fold(w, v, other, fold, path, said)


# ---- two rounds of one day


def test_two_rounds_of_one_day_are_two_rows(plain, twin, features, tmp_path):
    "F1, AUC and accuracy as published count rounds, as scikit-learn does on the rows of the earlier evaluator"
    from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
    from faba_nb.evaluation.evaluating import read_arm
    from faba_nb.evaluation.metrics import fold_values

    e = Experiment(twin)
    twice = e.images[e.images['round'].isin([22, 23])].groupby('plant_id')['round'].nunique()
    assert (twice == 2).any(), 'the twin has plants that were photographed in both'
    b = bundle_of(plain, twin, features)
    assert b.rounds.observed.sum() == len(e.measured) + (twice == 2).sum()
    import_results(plain, twin, tmp_path, 'clip', features)
    (s, wide), *_ = read_arm(tmp_path, 'clip', 'imported')[0]
    v = fold_values(s, wide)
    d = pd.read_csv(tmp_path / 'arms' / 'clip' / 'predictions_all_rounds.csv').query(
        'protocol == "retrospective" and split == "test" and measured == 1 and init_seed == 42'
    )
    assert len(d) == b.rounds.observed.sum()
    for j, g in enumerate(s.genotypes):
        r = d[d.genotype == g]
        said = r.probability > 0.5
        assert v['f1'][0, j] == pytest.approx(
            f1_score(r.label, said, zero_division=0), abs=1e-12
        ) and v['accuracy'][0, j] == pytest.approx(accuracy_score(r.label, said), abs=1e-12)
        assert v['auc'][0, j] == pytest.approx(roc_auc_score(r.label, r.probability), abs=1e-12)


def test_changed_predictions_are_refused(plain, twin, features, tmp_path):
    "A digit changed by hand, or by a disk, is not evaluated; importing again fixes it"
    from faba_nb.evaluation.evaluating import read_arm

    import_results(plain, twin, tmp_path, 'clip', features)
    path = tmp_path / 'arms' / 'clip' / 'predictions.csv'
    whole = path.read_bytes()
    path.write_bytes(whole[:-30] + whole[-30:].replace(b'1', b'2', 1))
    if path.read_bytes() == whole:
        path.write_bytes(whole[:-1])
    with pytest.raises(BadInput, match='not what was written here .changed.*import'):
        read_arm(tmp_path, 'clip', 'imported')
    import_results(plain, twin, tmp_path, 'clip', features)
    assert path.read_bytes() == whole


# ---- killed, then again


def _import(results, data, out, features):
    "As a process of its own would do it; forked, so that no time goes into loading libraries"
    torch.set_num_threads(1)
    import_results(results, data, out, 'clip', features)
    os._exit(0)


def _content(out):
    "Every file under its final name, but not the log, which tells of every attempt"
    return {
        str(p.relative_to(out)): p.read_bytes()
        for p in sorted(Path(out).rglob('*'))
        if p.is_file() and p.name != 'log.jsonl' and not p.name.startswith('.')
    }


def _grows(name):
    return name.endswith('sha256.json')  # every file that is written adds a line


@pytest.mark.full
def test_killed_at_random_instants_and_again(twin, features, tmp_path, capsys, monkeypatch):
    "At least 20 SIGKILLs over an import: never half an arm, and in the end the files of an undisturbed one"
    import multiprocessing, random, time
    from faba_nb.core.files import write_json

    monkeypatch.setattr(
        'faba_nb.legacy.importing.commit', lambda: 'the same'
    )  # somebody may commit meanwhile
    results = write_results(tmp_path / 'clip', seeds=(42,))
    write_json(
        dict(
            per_seed_per_fold=dict(seed_42=dict(fold_0=dict(f1=0.5))),
            aggregated=dict(f1=dict(mean=0.5, ci_lower=0.4, ci_upper=0.6)),
        ),
        results / 'clip_ablation_evaluation.json',
    )
    import_results(results, twin, tmp_path / 'first', 'clip', features)  # which fills the cache
    start = time.monotonic()
    import_results(results, twin, tmp_path / 'calm', 'clip', features)
    took, calm = time.monotonic() - start, _content(tmp_path / 'calm')
    r, kills, seen, out = random.Random(1), 0, set(), tmp_path / 'out'
    while kills < 20:
        p = multiprocessing.get_context('fork').Process(
            target=_import, args=(results, twin, out, features)
        )
        p.start()
        p.join(took * r.uniform(0.1, 1))
        kills += p.is_alive()
        p.kill()
        p.join()
        assert p.exitcode in (0, -9)
        found = _content(out)
        seen.add(len(found))
        assert all(calm[name] == data for name, data in found.items() if not _grows(name)), (
            'what has its final name is complete'
        )
        if 'arms/clip/predictions.csv' in found:
            assert set(found) == set(calm), (
                'the predictions, by which others know the arm, come last'
            )
            shutil.rmtree(out)
    import_results(results, twin, out, 'clip', features)
    assert _content(out) == calm
    with capsys.disabled():
        print(
            f'\n  {kills} kills of an import of {took:.1f} s, {sorted(seen)} files found after them: '
            'in the end every file as in an undisturbed import',
            end='',
        )


# ---- the page


@pytest.fixture(scope='module')
def evaluated(plain, twin, features, tmp_path_factory):
    "Two imported arms, one with a summary, evaluated without training"
    from faba_nb.core.studies import read_study
    from faba_nb.evaluation.evaluating import evaluate_study
    from faba_nb.training.study_training import train_study

    out, results = (
        tmp_path_factory.mktemp('evaluated') / 'out',
        shutil.copytree(plain, tmp_path_factory.mktemp('results') / 'clip'),
    )
    summary = dict(
        ablation_name='clip',
        seeds=['42'],
        per_seed_per_fold=dict(seed_42={f'fold_{i}': dict(f1=0.5, auc=0.9) for i in range(6)}),
        aggregated=dict(
            f1=dict(mean=0.5, ci_lower=0.4, ci_upper=0.6),
            auc=dict(mean=0.9, ci_lower=0.8, ci_upper=0.95),
        ),
    )
    (results / 'clip_ablation_evaluation.json').write_text(json.dumps(summary))
    import_results(results, twin, out, 'clip', features)
    (results / 'config.yaml').write_text(
        (results / 'config.yaml').read_text().replace(HUBS['clip'], HUBS['dinov2'])
    )
    (results / 'clip_ablation_evaluation.json').unlink()
    import_results(results, twin, out, 'dinov2', features)
    assert train_study(read_study(out / 'study.yaml'), twin, features.parent, out)['trained'] == 0
    evaluate_study(out, draws=200)
    return out


def test_evaluates_like_any_arm(evaluated):
    m = pd.read_csv(evaluated / 'tables' / 'metrics.csv')
    assert {'clip', 'dinov2', 'treatment_clock'} <= set(m.arm) and set(
        m.kind[m.arm.isin(['clip', 'dinov2'])]
    ) == {'imported'}
    c = pd.read_csv(evaluated / 'tables' / 'contrasts.csv')
    stated = c[(c.stated == 1) & (c.metric == 'f1') & (c.arm_a == 'clip') & (c.arm_b == 'dinov2')]
    assert len(stated) and (stated.difference == 0).all()  # the same networks under two names
    told = m[m.group == 'summary'].set_index(['arm', 'metric']).value
    assert told.to_dict() == {('clip', 'f1'): 0.5, ('clip', 'auc'): 0.9}
    assert (evaluated / 'tables' / 'summary' / 'clip_ablation_evaluation.json').is_file()


def test_page(evaluated):
    "The page answers, shows what is missing, and is there only where something was imported"
    from faba_nb.core.studies import read_study
    from faba_nb.reporting.report_steps import run_report
    from faba_nb.reporting.site import reports

    run_report(evaluated, 'earlier_results')
    text = (evaluated / 'report' / 'earlier_results.html').read_text()
    assert (
        'No. By F1 the order is' in text
        and 'does not come out again for CLIP (0.500 in its summary' in text
    )
    assert (
        'faba fetch bioclip' in text
        and '--arms bioclip,bioclip2,no_image' in text
        and '[FAILED' not in text
        and 'Needs ' not in text
    )
    s = read_study(evaluated / 'report' / 'complete.yaml')
    assert (
        s.name == 'earlier'
        and list(s.arms) == ['clip', 'dinov2', 'bioclip', 'bioclip2', 'no_image']
        and s.arms['bioclip2'].init_seeds == (42, 123)
    )
    assert 'earlier_results' not in reports(out=evaluated / 'arms')
