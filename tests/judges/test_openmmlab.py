"""The converter: modules as mmdet has them, written out here, against the converted network's; names and files."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import pickle
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, linear, relu

from gapbench.judges.mask2former import load
from gapbench.judges.openmmlab import convert, load_checkpoint
from gapbench.records import InputError

LAYOUTS = ("mmdet 2.x", "mmdet 3.x")
TINY = {"dim": 8, "depths": (2, 1, 1, 1), "heads": (1, 2, 2, 2), "window": 3, "wide": 32, "queries": 6, "decoders": 2}
SMALL = {
    "dim": 96, "depths": (2, 2, 18, 2), "heads": (3, 6, 12, 24), "window": 7, "wide": 256, "queries": 100,
    "decoders": 9, "encoders": 6, "encoder_ffn": 1024, "decoder_ffn": 2048, "decoder_heads": 8,
}  # fmt: skip
PIXELS, DECODER = "panoptic_head.pixel_decoder", "panoptic_head.transformer_decoder"
# Names and shapes of the published configuration's network (Swin-S), as mmdet 2.28.2 and 3.3.0 build it.
NAMED = {
    "mmdet 2.x": "312b4dc8cd10121b",
    "mmdet 3.x": "5495e395aa2f117a",
}


def shapes(
    layout: str, *, dim: int, depths: tuple, heads: tuple, window: int, wide: int, queries: int, decoders: int,
    encoders: int = 1, encoder_ffn: int = 16, decoder_ffn: int = 24, decoder_heads: int = 2, labels: int = 80,
) -> dict[str, tuple[int, ...]]:  # fmt: skip
    """Names and shapes of mmdet's network."""
    old = layout == "mmdet 2.x"
    found: dict[str, tuple[int, ...]] = {}

    def add(name: str, *shape: int, bias: bool = True) -> None:
        found[f"{name}.weight"] = shape
        if bias:
            found[f"{name}.bias"] = shape[:1]

    add("backbone.patch_embed.projection", dim, 3, 4, 4)
    add("backbone.patch_embed.norm", dim)
    for stage, depth in enumerate(depths):
        width = dim * 2**stage
        for block in range(depth):
            name = f"backbone.stages.{stage}.blocks.{block}"
            add(f"{name}.norm1", width)
            found[f"{name}.attn.w_msa.relative_position_bias_table"] = ((2 * window - 1) ** 2, heads[stage])
            found[f"{name}.attn.w_msa.relative_position_index"] = (window**2, window**2)
            add(f"{name}.attn.w_msa.qkv", 3 * width, width)
            add(f"{name}.attn.w_msa.proj", width, width)
            add(f"{name}.norm2", width)
            add(f"{name}.ffn.layers.0.0", 4 * width, width)
            add(f"{name}.ffn.layers.1", width, 4 * width)
        if stage < 3:
            add(f"backbone.stages.{stage}.downsample.norm", 4 * width)
            add(f"backbone.stages.{stage}.downsample.reduction", 2 * width, 4 * width, bias=False)
        add(f"backbone.norm{stage}", width)
    for level in range(3):
        add(f"{PIXELS}.input_convs.{level}.conv", wide, dim * 2 ** (3 - level), 1, 1)
        add(f"{PIXELS}.input_convs.{level}.gn", wide)
    for layer in range(encoders):
        name = f"{PIXELS}.encoder.layers.{layer}"
        attention, ffn = (f"{name}.attentions.0", f"{name}.ffns.0") if old else (f"{name}.self_attn", f"{name}.ffn")
        add(f"{attention}.sampling_offsets", decoder_heads * 24, wide)
        add(f"{attention}.attention_weights", decoder_heads * 12, wide)
        add(f"{attention}.value_proj", wide, wide)
        add(f"{attention}.output_proj", wide, wide)
        add(f"{ffn}.layers.0.0", encoder_ffn, wide)
        add(f"{ffn}.layers.1", wide, encoder_ffn)
        add(f"{name}.norms.0", wide)
        add(f"{name}.norms.1", wide)
    add(f"{PIXELS}.level_encoding", 3, wide, bias=False)
    add(f"{PIXELS}.lateral_convs.0.conv", wide, dim, 1, 1, bias=False)
    add(f"{PIXELS}.lateral_convs.0.gn", wide)
    add(f"{PIXELS}.output_convs.0.conv", wide, wide, 3, 3, bias=False)
    add(f"{PIXELS}.output_convs.0.gn", wide)
    add(f"{PIXELS}.mask_feature", wide, wide, 1, 1)
    for layer in range(decoders):
        name = f"{DECODER}.layers.{layer}"
        for attention in ("attentions.0", "attentions.1") if old else ("cross_attn", "self_attn"):
            found[f"{name}.{attention}.attn.in_proj_weight"] = (3 * wide, wide)
            found[f"{name}.{attention}.attn.in_proj_bias"] = (3 * wide,)
            add(f"{name}.{attention}.attn.out_proj", wide, wide)
        ffn = f"{name}.ffns.0" if old else f"{name}.ffn"
        add(f"{ffn}.layers.0.0", decoder_ffn, wide)
        add(f"{ffn}.layers.1", wide, decoder_ffn)
        for norm in range(3):
            add(f"{name}.norms.{norm}", wide)
    add(f"{DECODER}.post_norm", wide)
    for name, rows in (("query_embed", queries), ("query_feat", queries), ("level_embed", 3)):
        add(f"panoptic_head.{name}", rows, wide, bias=False)
    add("panoptic_head.cls_embed", labels + 1, wide)
    for number in (0, 2, 4):
        add(f"panoptic_head.mask_embed.{number}", wide, wide)
    return found


def index(window: int) -> Tensor:
    """mmdet's way to the table's rows: a doubly stepped sequence, added to itself turned around."""
    steps = torch.arange(window)
    sequence = (steps[:, None] * (2 * window - 1) + steps).reshape(1, -1)
    return (sequence + sequence.T).flip(1).contiguous()


def random_state(layout: str, sizes: dict) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        name: index(sizes["window"]) if name.endswith("_index") else torch.randn(shape) * 0.3 + 0.1
        for name, shape in shapes(layout, **sizes).items()
    }


@pytest.fixture(scope="module", params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def theirs(layout: str) -> dict[str, Tensor]:
    return random_state(layout, TINY)


@pytest.fixture(scope="module")
def ours(layout: str, theirs: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("checkpoint") / "detector.pth"
    torch.save({"meta": {"CLASSES": ("person",)}, "state_dict": theirs}, path)
    network, source = load_checkpoint(path)
    assert source["layout"] == layout
    return network.eval()


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


# --- Pieces -----------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_patch_merging(theirs, ours) -> None:
    image = torch.randn(2, 8, 6, 4)
    name = "backbone.stages.0.downsample"
    columns = nn.Unfold(kernel_size=2, stride=2)(image).transpose(1, 2)
    columns = layer_norm(columns, (32,), theirs[f"{name}.norm.weight"], theirs[f"{name}.norm.bias"])
    expected = linear(columns, theirs[f"{name}.reduction.weight"])
    stage = ours.model.pixel_level_module.encoder.swin.encoder.layers[0]
    close(stage.downsample(image.flatten(2).transpose(1, 2), (6, 4)), expected)


@torch.inference_mode()
def test_swin_block_with_shifted_windows(theirs, ours) -> None:
    """9 x 6 positions in windows of 3: the second block of a stage is shifted by 1."""
    height, width, window, shift, dim = 9, 6, 3, 1, 8
    name = "backbone.stages.0.blocks.1"
    tokens = torch.randn(1, height * width, dim)

    normed = layer_norm(tokens, (dim,), theirs[f"{name}.norm1.weight"], theirs[f"{name}.norm1.bias"])
    rolled = normed.view(height, width, dim).roll((-shift, -shift), (0, 1))
    zone = torch.zeros(height, width)  # what came around the edge is another zone
    zone[height - shift :] += 1
    zone[:, width - shift :] += 2
    table = theirs[f"{name}.attn.w_msa.relative_position_bias_table"]
    out = torch.zeros(height, width, dim)
    for top in range(0, height, window):
        for left in range(0, width, window):
            part = slice(top, top + window), slice(left, left + window)
            x, zones = rolled[part].reshape(-1, dim), zone[part].reshape(-1)
            q, k, v = linear(x, theirs[f"{name}.attn.w_msa.qkv.weight"], theirs[f"{name}.attn.w_msa.qkv.bias"]).chunk(
                3, 1
            )
            logits = q @ k.T * dim**-0.5 + table[index(window).reshape(-1), 0].view(9, 9)
            logits = logits.masked_fill(zones[:, None] != zones, -100.0) if (zones != zones[0]).any() else logits
            x = linear(
                logits.softmax(-1) @ v, theirs[f"{name}.attn.w_msa.proj.weight"], theirs[f"{name}.attn.w_msa.proj.bias"]
            )
            out[part] = x.view(window, window, dim)
    tokens_out = tokens + out.roll((shift, shift), (0, 1)).view(1, -1, dim)
    x = layer_norm(tokens_out, (dim,), theirs[f"{name}.norm2.weight"], theirs[f"{name}.norm2.bias"])
    x = gelu(linear(x, theirs[f"{name}.ffn.layers.0.0.weight"], theirs[f"{name}.ffn.layers.0.0.bias"]))
    expected = tokens_out + linear(x, theirs[f"{name}.ffn.layers.1.weight"], theirs[f"{name}.ffn.layers.1.bias"])

    block = ours.model.pixel_level_module.encoder.swin.encoder.layers[0].blocks[1]
    close(block(tokens, (height, width), always_partition=True)[0], expected)


@torch.inference_mode()
def test_decoder_layer(layout: str, theirs, ours) -> None:
    """Cross-attention, self-attention, feed-forward, each added and then normed; nn.MultiheadAttention as in mmdet."""
    wide, name = 32, f"{DECODER}.layers.1"
    cross, own, ffn = ("attentions.0", "attentions.1", "ffns.0") if layout == LAYOUTS[0] else (
        "cross_attn", "self_attn", "ffn",
    )  # fmt: skip

    def attention(part: str) -> nn.MultiheadAttention:
        module = nn.MultiheadAttention(wide, 2)
        prefix = f"{name}.{part}.attn."
        module.load_state_dict({k.removeprefix(prefix): v for k, v in theirs.items() if k.startswith(prefix)})
        return module.eval()

    def norm(number: int, x: Tensor) -> Tensor:
        return layer_norm(x, (wide,), theirs[f"{name}.norms.{number}.weight"], theirs[f"{name}.norms.{number}.bias"])

    query, place, memory, memory_place = (torch.randn(n, 1, wide) for n in (6, 6, 20, 20))
    hidden = torch.rand(2, 6, 20) < 0.3
    x = attention(cross)(query + place, memory + memory_place, memory, attn_mask=hidden)[0]
    x = norm(0, query + x)
    x = norm(1, x + attention(own)(x + place, x + place, x)[0])
    y = relu(linear(x, theirs[f"{name}.{ffn}.layers.0.0.weight"], theirs[f"{name}.{ffn}.layers.0.0.bias"]))
    y = linear(y, theirs[f"{name}.{ffn}.layers.1.weight"], theirs[f"{name}.{ffn}.layers.1.bias"])
    expected = norm(2, x + y)

    layer = ours.model.transformer_module.decoder.layers[1]
    close(layer(query, 0, None, [memory_place], place, [memory], encoder_attention_mask=hidden)[0], expected)


@torch.inference_mode()
def test_the_rest_is_where_it_belongs(theirs, ours) -> None:
    module = ours.model.transformer_module
    assert module.queries_features.weight.equal(theirs["panoptic_head.query_feat.weight"])
    assert module.queries_embedder.weight.equal(theirs["panoptic_head.query_embed.weight"])
    assert module.level_embed.weight.equal(theirs["panoptic_head.level_embed.weight"])
    assert module.decoder.layernorm.weight.equal(theirs[f"{DECODER}.post_norm.weight"])
    assert ours.class_predictor.weight.equal(theirs["panoptic_head.cls_embed.weight"])
    head = module.decoder.mask_predictor.mask_embedder
    assert [
        layer.layers[0].weight.equal(theirs[f"panoptic_head.mask_embed.{n}.weight"])
        for n, layer in zip((0, 2, 4), head.layers, strict=True)
    ] == [True] * 3
    decoder = ours.model.pixel_level_module.decoder
    assert decoder.level_embed.equal(theirs[f"{PIXELS}.level_encoding.weight"])
    assert decoder.input_projections[0][0].weight.equal(theirs[f"{PIXELS}.input_convs.0.conv.weight"])
    assert decoder.lateral_convolutions[0][1].bias.equal(theirs[f"{PIXELS}.lateral_convs.0.gn.bias"])
    assert decoder.output_convolutions[0][0].weight.equal(theirs[f"{PIXELS}.output_convs.0.conv.weight"])
    assert decoder.encoder.layers[0].final_layer_norm.bias.equal(theirs[f"{PIXELS}.encoder.layers.0.norms.1.bias"])
    norms = ours.model.pixel_level_module.encoder.hidden_states_norms
    assert norms["stage4"].weight.equal(theirs["backbone.norm3.weight"])
    assert ours(pixel_values=torch.randn(1, 3, 96, 64)).class_queries_logits.isfinite().all()


# --- The published network --------------------------------------------------------------------------------------------


def test_every_name_and_shape_of_swin_s(layout: str) -> None:
    from transformers import Mask2FormerForUniversalSegmentation
    from transformers.core_model_loading import revert_weight_conversion

    named = shapes(layout, **SMALL)
    assert len(named) == 649
    assert hashlib.sha256(json.dumps(sorted(named.items())).encode()).hexdigest()[:16] == NAMED[layout]
    state = {name: torch.empty(shape, device="meta") for name, shape in named.items()}
    config, converted, found = convert(state)
    assert found == layout
    swin = config.backbone_config
    assert (swin.depths, swin.num_heads, swin.window_size, swin.mlp_ratio) == ([2, 2, 18, 2], [3, 6, 12, 24], 7, 4)
    assert (config.num_labels, config.num_attention_heads, config.decoder_layers) == (80, 8, 10)
    with torch.device("meta"):
        network = Mask2FormerForUniversalSegmentation(config)
    published = revert_weight_conversion(network, network.state_dict())
    wanted = {name: tuple(tensor.shape) for name, tensor in published.items() if "swin.layernorm" not in name}
    assert {name: tuple(tensor.shape) for name, tensor in converted.items()} == wanted


# --- What is wrong ----------------------------------------------------------------------------------------------------


def test_wrong_names_are_told(theirs) -> None:
    for name in ("backbone.norm2.bias", f"{DECODER}.post_norm.weight", "panoptic_head.query_feat.weight"):
        with pytest.raises(InputError, match=f"{name} is missing"):
            convert({key: value for key, value in theirs.items() if key != name})
    with pytest.raises(InputError, match=r"neck.weight is unknown \(2 in all\)"):
        convert(theirs | {"neck.weight": torch.ones(1), "panoptic_head.more": torch.ones(1)})


def test_layouts_do_not_mix() -> None:
    old, new = (random_state(layout, TINY) for layout in LAYOUTS)
    with pytest.raises(InputError, match="both layouts"):
        convert(old | new)
    with pytest.raises(InputError, match="neither layout"):
        convert({"backbone.conv1.weight": torch.ones(1)})
    mixed = {key: value for key, value in new.items() if "pixel_decoder" not in key}
    mixed |= {key: value for key, value in old.items() if "pixel_decoder" in key}
    with pytest.raises(InputError, match=r"sampling_offsets\.weight is missing"):
        convert(mixed)


def test_another_order_of_positions_is_refused(theirs) -> None:
    name = "backbone.stages.0.blocks.0.attn.w_msa.relative_position_index"
    with pytest.raises(InputError, match="orders the window's positions"):
        convert(theirs | {name: theirs[name].flip(0)})


def test_broken_files_are_named(theirs, tmp_path: Path) -> None:
    path = tmp_path / "detector.pth"
    with pytest.raises(InputError, match=r"detector.pth: cannot be read"):
        load(str(path))
    torch.save({"state_dict": theirs}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"detector.pth: cannot be read"):
        load(str(path))
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(InputError, match=r"detector.pth"):
        load(str(path))
    torch.save({"state_dict": theirs, "hooks": pickle.Unpickler}, path)
    with pytest.raises(InputError, match="more than weights"):
        load(str(path))
    torch.save({"meta": {}}, path)
    with pytest.raises(InputError, match="no state_dict"):
        load(str(path))
    path.write_bytes(whole)
    path.rename(tmp_path / "swin-s-00000000.pth")
    with pytest.raises(InputError, match="not the file that its name says"):
        load(str(tmp_path / "swin-s-00000000.pth"))


def test_a_panoptic_checkpoint_is_refused(layout: str, tmp_path: Path) -> None:
    torch.save({"state_dict": random_state(layout, TINY | {"labels": 133})}, tmp_path / "panoptic.pth")
    with pytest.raises(InputError, match="133 classes"):
        load(str(tmp_path / "panoptic.pth"))


def test_describe_names_the_layout_and_the_file(layout: str, theirs, tmp_path: Path) -> None:
    path = tmp_path / "detector.pth"
    torch.save(theirs, path)
    told = load(str(path)).describe()
    assert told["layout"] == layout
    assert told["weights"] == {"file": "detector.pth", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


# --- Peer -------------------------------------------------------------------------------------------------------------


def mmdets_network():
    """mmdet's own, of the published configuration but Swin's depths. mmdet 2.28 with mmcv 1.7, or 3.3 with 2.1.

    Where mmcv has no compiled operators (mmcv-lite), stand-ins let it be imported; CPU runs need none of them.
    """
    mmdet = pytest.importorskip("mmdet")
    if importlib.util.find_spec("mmcv._ext") is None:
        absent = types.ModuleType("mmcv._ext")
        absent.__file__ = "none"

        def stand_in(name: str):
            if name.startswith("__"):
                raise AttributeError(name)
            return lambda *_: None

        absent.__getattr__ = stand_in
        sys.modules["mmcv._ext"] = absent
    folder = Path(mmdet.__file__).parent / ".mim" / "configs" / "mask2former"
    if mmdet.__version__.startswith("2."):
        from mmcv import Config
        from mmdet.models import build_detector as build

        config = Config.fromfile(folder / "mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco.py")
    else:
        from mmdet.registry import MODELS
        from mmdet.utils import register_all_modules
        from mmengine.config import Config

        register_all_modules()
        config, build = Config.fromfile(folder / "mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco.py"), MODELS.build
    config.model.backbone.init_cfg = None
    config.model.backbone.depths = [2, 2, 2, 2]
    return build(config.model).eval(), mmdet.__version__[0]


@pytest.mark.peer
@torch.inference_mode()
def test_mmdet_computes_the_same(tmp_path: Path) -> None:
    theirs, version = mmdets_network()
    torch.manual_seed(0)
    for parameter in theirs.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
        else:
            parameter += torch.randn_like(parameter) * 0.1
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "detector.pth")
    ours, source = load_checkpoint(tmp_path / "detector.pth")
    assert source["layout"] == f"mmdet {version}.x"

    for height, width in ((256, 256), (224, 352)):
        pixels = torch.randn(1, 3, height, width)
        size = dict.fromkeys(("batch_input_shape", "img_shape", "ori_shape", "pad_shape"), (height, width))
        features = theirs.extract_feat(pixels)
        for one, other in zip(ours.model.pixel_level_module.encoder(pixels).feature_maps, features, strict=True):
            close(one, other)
        if version == "2":
            classes, masks = theirs.panoptic_head.simple_test(features, [size])
        else:
            from mmdet.structures import DetDataSample

            classes, masks = theirs.panoptic_head.predict(features, [DetDataSample(metainfo=size)])
        out = ours.eval()(pixel_values=pixels)
        full = nn.functional.interpolate(out.masks_queries_logits, (height, width), mode="bilinear")
        # Rounding moves pixels across the decoder's mask thresholds, so a random network's logits agree less closely.
        assert (out.class_queries_logits - classes).abs().max() < 0.02 * classes.std()
        assert (full - masks).abs().max() < 0.02 * masks.std()
