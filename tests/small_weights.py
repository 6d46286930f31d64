"""Small random weights under the real repository names, in a cache of their own, for tests only.

Every network has its true widths, input size and preprocessing, and a single block, so the libraries' own loading code
runs as it does on real weights, offline and in a second. Nothing here may ever be read outside a test: the cache lies in
a temporary folder, and the records say `test`."""

import hashlib, json, os, shutil
from contextlib import contextmanager
from pathlib import Path

import torch

from faba_nb.backbones.registry import get_backbone
from faba_nb.core.files import write_json

TEXT = dict(context_length=8, vocab_size=40, width=32, heads=2, layers=1)
IMAGENET = dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
OPENAI = dict(mean=[0.48145466, 0.4578275, 0.40821073], std=[0.26862954, 0.26130258, 0.27577711])
VIT = {
    'clip': dict(width=768, patch_size=16),
    'bioclip': dict(width=768, patch_size=16),
    'bioclip2': dict(width=1024, patch_size=14, head_width=64),
    'bioclip25': dict(width=1280, patch_size=14, head_width=80),
}
EMBED = dict(clip=512, bioclip=512, bioclip2=768, bioclip25=1024, siglip2=768, pe_core=1024)
TRUNKS = dict(siglip2='vit_base_patch16_siglip_224', pe_core='vit_pe_core_base_patch16_224')
TIMM = dict(
    dinov2=('vit_base_patch14_dinov2', 518),
    dinov2_reg=('vit_base_patch14_reg4_dinov2', 518),
    plantnet=('vit_base_patch14_reg4_dinov2', 518),
    dinov3=('vit_base_patch16_dinov3', 256),
)


def randomize(model, seed=1):
    "Values that make every parameter matter, norms and biases too"
    g = torch.Generator().manual_seed(seed)
    for v in model.parameters():
        v.data += torch.randn(v.shape, generator=g) * (0.02 if v.ndim > 1 else 0.1)
    return model.eval()


def snapshot(hub, repository, files, revision='a' * 40):
    "A repository as the hub's library lays it out: blobs, refs, snapshots of links"
    folder = Path(hub) / f'models--{repository.replace("/", "--")}'
    at = folder / 'snapshots' / revision
    if at.is_dir():
        shutil.rmtree(at)
    for d in (at, folder / 'blobs', folder / 'refs'):
        d.mkdir(parents=True, exist_ok=True)
    (folder / 'refs' / 'main').write_text(revision)
    for name, data in files.items():
        blob = folder / 'blobs' / hashlib.sha256(data).hexdigest()
        blob.write_bytes(data)
        (at / name).symlink_to(os.path.relpath(blob, at))
    return at


def as_bytes(model, suffix='.safetensors'):
    "A module's state as the bytes of a weights file"
    state = {k: v.contiguous().clone() for k, v in model.state_dict().items()}
    if suffix == '.bin':
        import io

        b = io.BytesIO()
        torch.save(state, b)
        return b.getvalue()
    from safetensors.torch import save

    return save(state)


@contextmanager
def small_towers(*names):
    "open_clip's built-in configurations of these backbones, shrunk to one block while the context lasts"
    import open_clip
    from open_clip import factory
    import timm
    from timm.models import _registry

    saved = {}
    try:
        for n in names:
            model = get_backbone(n).source.split(':', 1)[1].rpartition('/')[0]
            saved[model] = factory._MODEL_CONFIGS[model]
            cfg = dict(embed_dim=EMBED[n], text_cfg=TEXT)
            if n == 'clip':
                cfg |= dict(quick_gelu=True, vision_cfg=dict(image_size=224, layers=1, **VIT[n]))
            else:
                cfg |= dict(
                    custom_text=True,
                    vision_cfg=dict(
                        saved[model]['vision_cfg'], timm_model_name=one_block(TRUNKS[n])
                    ),
                )
            factory._MODEL_CONFIGS[model] = cfg
        yield
    finally:
        factory._MODEL_CONFIGS.update(saved)


def one_block(name):
    "Register a timm network like `name` with a single block, return its name"
    import timm
    from timm.models import _registry

    small = f'{name}_oneblock'
    if small not in _registry._model_entrypoints:
        make = timm.model_entrypoint(name)

        def entry(pretrained=False, **kw):
            return make(
                pretrained=False,
                depth=1,
                **{
                    k: v
                    for k, v in kw.items()
                    if k not in ('depth', 'pretrained_cfg', 'pretrained_cfg_overlay')
                },
            )

        _registry._model_entrypoints[small] = entry
    return small


def build(name):
    "Files of the repository of one backbone, and the module they hold"
    import open_clip, timm

    b = get_backbone(name)
    if name in TIMM:
        arch, size = TIMM[name]
        model = randomize(
            timm.create_model(
                arch, depth=1, img_size=size, num_classes=7 if name == 'plantnet' else 0
            )
        )
        cfg = dict(
            tag='test',
            input_size=[3, size, size],
            fixed_input_size=name != 'dinov3',
            interpolation='bicubic',
            crop_pct=1.0,
            crop_mode='center',
            num_classes=model.num_classes,
            first_conv='patch_embed.proj',
            classifier='head',
            **IMAGENET,
        )
        config = dict(
            architecture=arch,
            num_classes=model.num_classes,
            num_features=768,
            model_args=dict(depth=1),
            pretrained_cfg=cfg,
        )
        return {
            'config.json': json.dumps(config).encode(),
            'model.safetensors': as_bytes(model),
        }, model
    if b.source.split(':', 1)[1].startswith('hf-hub:'):
        cfg = dict(
            embed_dim=EMBED[name],
            vision_cfg=dict(image_size=224, layers=1, **VIT[name]),
            text_cfg=TEXT,
        )
        model = randomize(open_clip.CLIP(**cfg))
        pre = (
            {}
            if name == 'bioclip'
            else dict(preprocess_cfg=dict(OPENAI, interpolation='bicubic', resize_mode='shortest'))
        )
        suffix = '.bin' if name == 'bioclip' else '.safetensors'
        return {
            'open_clip_config.json': json.dumps(dict(model_cfg=cfg, **pre)).encode(),
            ('open_clip_pytorch_model' if suffix == '.bin' else 'open_clip_model')
            + suffix: as_bytes(model, suffix),
        }, model
    with small_towers(name):
        model = randomize(open_clip.create_model(b.source.split(':', 1)[1].rpartition('/')[0]))
    return {'open_clip_model.safetensors': as_bytes(model)}, model


def put(name, hub, record=True):
    "Small weights of one backbone in the cache at `hub`, recorded as `faba fetch` would; the module they hold"
    from faba_nb.backbones.fetching import record_path, repository

    b = get_backbone(name)
    files, model = build(name)
    snapshot(hub, repository(b), files)
    weights = next(n for n in files if n.endswith(('.safetensors', '.bin')))
    if record:
        write_json(
            dict(
                repository=repository(b),
                revision='a' * 40,
                file=weights,
                sha256=hashlib.sha256(files[weights]).hexdigest(),
                fetched='test',
            ),
            record_path(b),
        )
    return model
