"Full-size encoders with random weights: layers against hooks, encode_image and transformers"

import json

import numpy as np
import pytest
import torch

from faba_nb.backbones.encoders import dinov2_as_published, load_encoder
from small_weights import randomize, TEXT

pytestmark = pytest.mark.full
PIXELS = np.random.default_rng(0).integers(0, 255, (2, 224, 224, 3), dtype=np.uint8)


def local(folder, cfg, model):
    "A folder that open_clip loads"
    from safetensors.torch import save_file

    (folder / 'open_clip_config.json').write_text(
        json.dumps(dict(model_cfg=cfg, preprocess_cfg={}))
    )
    save_file(model.state_dict(), folder / 'open_clip_model.safetensors')
    return load_encoder(f'local:{folder}', 'cpu')


@pytest.mark.parametrize(
    'vision, embed, quick',
    [
        (dict(layers=12, width=768, patch_size=16), 512, True),
        (dict(layers=24, width=1024, patch_size=14), 768, False),
    ],
    ids=['ViT-B/16', 'ViT-L/14'],
)
def test_open_clip_layers_equal_hooks_and_encode_image(vision, embed, quick, tmp_path):
    import open_clip

    cfg = dict(
        embed_dim=embed, quick_gelu=quick, vision_cfg=dict(image_size=224, **vision), text_cfg=TEXT
    )
    model = randomize(open_clip.CLIP(**cfg))
    e = local(tmp_path, cfg, model)
    layers, x, seen = e.layers(PIXELS), e.prepare(PIXELS), {}
    model.visual.ln_post.register_forward_hook(lambda m, i, o: seen.update(before=i[0], after=o))
    with torch.inference_mode():
        image = model.encode_image(x)
    before, after = seen['before'], seen['after']
    assert np.array_equal(layers['proj'], image.numpy())
    assert np.array_equal(layers['cls'], before[:, 0].numpy())
    assert np.array_equal(layers['norm'], after[:, 0].numpy())
    assert np.array_equal(layers['mean'], after[:, 1:].mean(1).numpy())


def test_clip_cls_equals_transformers(tmp_path):
    transformers = pytest.importorskip('transformers')
    import open_clip

    cfg = dict(
        embed_dim=512,
        quick_gelu=True,
        vision_cfg=dict(image_size=224, layers=12, width=768, patch_size=16),
        text_cfg=TEXT,
    )
    model = randomize(open_clip.CLIP(**cfg))
    e = local(tmp_path, cfg, model)
    theirs = transformers.CLIPVisionModel(
        transformers.CLIPVisionConfig(
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            patch_size=16,
            image_size=224,
            hidden_act='quick_gelu',
        )
    ).eval()
    missing, unexpected = theirs.load_state_dict(
        _clip_names(model.visual.state_dict(), theirs), strict=False
    )
    assert not unexpected and not [k for k in missing if 'position_ids' not in k], (
        missing,
        unexpected,
    )
    with torch.inference_mode():
        out = theirs(e.prepare(PIXELS), output_hidden_states=True)
    ours = e.layers(PIXELS)
    for name, want in (('cls', out.hidden_states[-1][:, 0]), ('norm', out.pooler_output)):
        assert np.abs(ours[name] - want.numpy()).max() < 1e-5 * np.abs(ours[name]).max() + 1e-5, (
            name
        )


def _clip_names(s, theirs):
    "open_clip's parameters under transformers' names"
    head = (
        'vision_model.' if any(k.startswith('vision_model.') for k in theirs.state_dict()) else ''
    )
    d = {
        'embeddings.class_embedding': s['class_embedding'],
        'embeddings.position_embedding.weight': s['positional_embedding'],
        'embeddings.patch_embedding.weight': s['conv1.weight'],
        'pre_layrnorm.weight': s['ln_pre.weight'],
        'pre_layrnorm.bias': s['ln_pre.bias'],
        'post_layernorm.weight': s['ln_post.weight'],
        'post_layernorm.bias': s['ln_post.bias'],
    }
    for i in range(12):
        a, b = f'transformer.resblocks.{i}.', f'encoder.layers.{i}.'
        for kind in ('weight', 'bias'):
            for n, v in zip('qkv', s[f'{a}attn.in_proj_{kind}'].chunk(3)):
                d[f'{b}self_attn.{n}_proj.{kind}'] = v
            for old, new in (
                ('attn.out_proj', 'self_attn.out_proj'),
                ('ln_1', 'layer_norm1'),
                ('ln_2', 'layer_norm2'),
                ('mlp.c_fc', 'mlp.fc1'),
                ('mlp.c_proj', 'mlp.fc2'),
            ):
                d[f'{b}{new}.{kind}'] = s[f'{a}{old}.{kind}']
    return {head + k: v for k, v in d.items()}


def test_dinov2_at_224_equals_transformers_to_the_last_bit():
    transformers = pytest.importorskip('transformers')
    import timm
    from faba_nb.backbones.framing import Framing
    from faba_nb.backbones.encoders import Encoder, timm_layers

    model = randomize(timm.create_model('vit_base_patch14_dinov2', img_size=518, num_classes=0))
    cfg = transformers.Dinov2Config(
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        patch_size=14,
        image_size=518,
        attn_implementation='sdpa',
    )
    theirs = transformers.Dinov2Model(cfg).eval()
    missing, unexpected = theirs.load_state_dict(
        _dinov2_names(model.state_dict(), any('q_proj' in k for k in theirs.state_dict())),
        strict=False,
    )
    assert not unexpected and [k for k in missing if k != 'embeddings.mask_token'] == [], (
        missing,
        unexpected,
    )
    e = dinov2_as_published(
        Encoder(
            'dinov2',
            model,
            timm_layers,
            Framing('shortest', 518, 518),
            (0.485, 0.456, 0.406),
            (0.229, 0.224, 0.225),
            None,
        )
    )
    with torch.inference_mode():
        out = theirs(e.prepare(PIXELS)).last_hidden_state
    assert np.array_equal(e.layers(PIXELS)['norm'], out[:, 0].numpy())


def _dinov2_names(s, new):
    "timm's parameters under transformers' names, which changed in version 5"
    q, k, v, out = (
        ('q_proj', 'k_proj', 'v_proj', 'o_proj')
        if new
        else ('attention.query', 'attention.key', 'attention.value', 'output.dense')
    )
    d = {
        'embeddings.cls_token': s['cls_token'],
        'embeddings.position_embeddings': s['pos_embed'],
        'embeddings.patch_embeddings.projection.weight': s['patch_embed.proj.weight'],
        'embeddings.patch_embeddings.projection.bias': s['patch_embed.proj.bias'],
        'layernorm.weight': s['norm.weight'],
        'layernorm.bias': s['norm.bias'],
    }
    for i in range(12):
        a, b = f'blocks.{i}.', f'encoder.layer.{i}.'
        for kind in ('weight', 'bias'):
            for n, part in zip((q, k, v), s[f'{a}attn.qkv.{kind}'].chunk(3)):
                d[f'{b}attention.{n}.{kind}'] = part
            for old, name in (
                ('attn.proj', f'attention.{out}'),
                ('norm1', 'norm1'),
                ('norm2', 'norm2'),
                ('mlp.fc1', 'mlp.fc1'),
                ('mlp.fc2', 'mlp.fc2'),
            ):
                d[f'{b}{name}.{kind}'] = s[f'{a}{old}.{kind}']
        d |= {
            f'{b}layer_scale1.lambda1': s[f'{a}ls1.gamma'],
            f'{b}layer_scale2.lambda1': s[f'{a}ls2.gamma'],
        }
    return d
