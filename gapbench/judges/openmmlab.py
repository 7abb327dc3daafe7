"""OpenMMLab's Mask2Former checkpoints (mmdet 2.x and 3.x) as weights of transformers' Mask2Former.

Source: the state-dict names and the modules of mmdet 2.28 and 3.3. The networks are the same; names differ, some
projections are fused, and Swin's patch merging orders its input channels as torch.nn.Unfold does. Sizes are read off
the tensors. Names on our side are those of the published files, which every version of transformers reads.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gapbench.judges.mask2former import origin, pretrained
from gapbench.records import InputError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

Convert = Callable[["Tensor"], "list[Tensor]"]
Row = tuple[str, tuple[str, ...], Convert]  # a name of theirs, our names, how one tensor becomes ours

# What mmdet 2.x and 3.x call the same parts of a transformer layer; cross-attention comes first in a decoder's.
LAYOUTS = {
    "mmdet 2.x": {"pixels": "attentions.0", "cross": "attentions.0", "self": "attentions.1", "ffn": "ffns.0"},
    "mmdet 3.x": {"pixels": "self_attn", "cross": "cross_attn", "self": "self_attn", "ffn": "ffn"},
}
SWIN, DECODER, HEAD = "model.pixel_level_module.encoder", "model.pixel_level_module.decoder", "model.transformer_module"
TABLE, INDEX = "attn.w_msa.relative_position_bias_table", "attn.w_msa.relative_position_index"
THEIR_DECODER = "panoptic_head.pixel_decoder"
LEVELS, POINTS = 3, 4  # of deformable attention; fixed in transformers


def load_checkpoint(path: Path) -> tuple[Mask2FormerForUniversalSegmentation, dict[str, Any]]:
    """The network of an OpenMMLab checkpoint, and what describe() says of it."""
    from transformers import Mask2FormerForUniversalSegmentation

    state = read_state(path)
    source = origin(path)
    # Published files carry the first digits of their sha256.
    if (told := re.search(r"-([0-9a-f]{8})\.pth$", path.name)) and not source["weights"]["sha256"].startswith(told[1]):
        raise InputError(f"{path} is not the file that its name says (sha256 {source['weights']['sha256'][:8]}...)")
    try:
        config, converted, layout = convert(state)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    model = pretrained(Mask2FormerForUniversalSegmentation, path, config=config, state_dict=converted)
    return model, source | {"layout": layout}


def read_state(path: Path) -> dict[str, Tensor]:
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path} holds more than weights, which is not safe to read; save its state_dict alone "
            '(torch.save({"state_dict": ...}, file)) where you trust it'
        ) from None
    except (OSError, EOFError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0] or "it ends early"
        raise InputError(f"{path}: cannot be read ({reason})") from None
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"{path} has no state_dict, so it is no checkpoint of mmdet")
    return dict(state)


def convert(state: Mapping[str, Tensor]) -> tuple[Mask2FormerConfig, dict[str, Tensor], str]:
    """Config, weights and the layout's name. Raises InputError that names a tensor that is missing or unknown."""
    import torch

    layout = find_layout(state)
    try:
        config = config_of(state, layout)
    except KeyError as error:
        raise InputError(f"{error.args[0]} is missing; this is no Mask2Former on Swin of mmdet") from None
    wanted = list(rows(layout, config))
    indices = {name.replace(TABLE, INDEX) for name, _, _ in wanted if name.endswith(TABLE)}
    names = {name for name, _, _ in wanted}
    for kind, wrong in (("missing", names - state.keys()), ("unknown", state.keys() - names - indices)):
        if wrong:
            raise InputError(f"{min(wrong)} is {kind} ({len(wrong)} in all) for a Mask2Former of {layout}")
    for name in sorted(indices & state.keys()):
        expected = position_index(config.backbone_config.window_size)
        if state[name].shape != expected.shape or (not state[name].is_meta and not state[name].equal(expected)):
            raise InputError(f"{name} orders the window's positions unlike Swin does")

    converted: dict[str, Tensor] = {}
    for name, ours, change in wanted:
        converted |= zip(ours, change(state[name]), strict=True)
    # A weight of the training loss, which the network keeps as a tensor.
    weight = torch.ones(config.num_labels + 1)
    weight[-1] = config.no_object_weight
    return config, converted | {"criterion.empty_weight": weight}, layout


def find_layout(state: Mapping[str, Tensor]) -> str:
    marks = {
        layout: any(name.startswith(f"panoptic_head.transformer_decoder.layers.0.{parts['ffn']}.") for name in state)
        for layout, parts in LAYOUTS.items()
    }
    found = [layout for layout, there in marks.items() if there]
    if len(found) != 1:
        how = "both layouts" if found else "neither layout"
        raise InputError(f"it has names of {how} of mmdet's Mask2Former ({' and '.join(LAYOUTS)})")
    return found[0]


def config_of(state: Mapping[str, Tensor], layout: str) -> Mask2FormerConfig:
    """Sizes, from the tensors' shapes. Raises KeyError for a tensor that is not there."""
    from transformers import Mask2FormerConfig, SwinConfig

    def count(prefix: str) -> int:
        numbered = [re.match(rf"{re.escape(prefix)}(\d+)\.", name) for name in state]
        return max((int(found[1]) for found in numbered if found), default=-1) + 1

    parts = LAYOUTS[layout]
    stages = range(count("backbone.stages."))
    tables = [state[f"backbone.stages.{stage}.blocks.0.{TABLE}"].shape for stage in stages]
    embedding = state["backbone.patch_embed.projection.weight"].shape
    swin = SwinConfig(
        embed_dim=embedding[0],
        patch_size=embedding[-1],
        depths=[count(f"backbone.stages.{stage}.blocks.") for stage in stages],
        num_heads=[heads for _, heads in tables],
        window_size=(math.isqrt(tables[0][0]) + 1) // 2,  # a table has (2 window - 1)^2 rows
        mlp_ratio=state["backbone.stages.0.blocks.0.ffn.layers.0.0.weight"].shape[0] / embedding[0],
        out_features=[f"stage{stage + 1}" for stage in stages],
    )
    pixels = f"{THEIR_DECODER}.encoder.layers.0"
    offsets, features = state[f"{pixels}.{parts['pixels']}.sampling_offsets.weight"].shape
    queries, hidden = state["panoptic_head.query_feat.weight"].shape
    first = "panoptic_head.transformer_decoder.layers.0"
    return Mask2FormerConfig(
        backbone_config=swin,
        feature_size=features,
        mask_feature_size=state[f"{THEIR_DECODER}.mask_feature.weight"].shape[0],
        hidden_dim=hidden,
        num_queries=queries,
        num_attention_heads=offsets // (LEVELS * POINTS * 2),
        encoder_layers=count(f"{THEIR_DECODER}.encoder.layers."),
        encoder_feedforward_dim=state[f"{pixels}.{parts['ffn']}.layers.0.0.weight"].shape[0],
        decoder_layers=count("panoptic_head.transformer_decoder.layers.") + 1,
        dim_feedforward=state[f"{first}.{parts['ffn']}.layers.0.0.weight"].shape[0],
        num_labels=state["panoptic_head.cls_embed.weight"].shape[0] - 1,
    )


def rows(layout: str, config: Mask2FormerConfig) -> Iterator[Row]:
    """The whole table: every tensor of theirs that we need, ours that it becomes, and how."""
    parts, depths = LAYOUTS[layout], config.backbone_config.depths

    yield from _same("backbone.patch_embed.projection", f"{SWIN}.embeddings.patch_embeddings.projection")
    yield from _same("backbone.patch_embed.norm", f"{SWIN}.embeddings.norm")
    for stage, depth in enumerate(depths):
        theirs, ours = f"backbone.stages.{stage}", f"{SWIN}.encoder.layers.{stage}"
        for block in range(depth):
            yield from _swin_block(f"{theirs}.blocks.{block}", f"{ours}.blocks.{block}")
        if stage < len(depths) - 1:
            for leaf in ("norm.weight", "norm.bias", "reduction.weight"):
                yield f"{theirs}.downsample.{leaf}", (f"{ours}.downsample.{leaf}",), _concatenated
        yield from _same(f"backbone.norm{stage}", f"{SWIN}.hidden_states_norms.stage{stage + 1}")

    for level in range(LEVELS):
        yield from _same(f"{THEIR_DECODER}.input_convs.{level}.conv", f"{DECODER}.input_projections.{level}.0")
        yield from _same(f"{THEIR_DECODER}.input_convs.{level}.gn", f"{DECODER}.input_projections.{level}.1")
    for theirs, ours in (("lateral_convs.0", "adapter_1"), ("output_convs.0", "layer_1")):
        yield f"{THEIR_DECODER}.{theirs}.conv.weight", (f"{DECODER}.{ours}.0.weight",), _as_it_is
        yield from _same(f"{THEIR_DECODER}.{theirs}.gn", f"{DECODER}.{ours}.1")
    yield f"{THEIR_DECODER}.level_encoding.weight", (f"{DECODER}.level_embed",), _as_it_is
    yield from _same(f"{THEIR_DECODER}.mask_feature", f"{DECODER}.mask_projection")
    for layer in range(config.encoder_layers):
        theirs, ours = f"{THEIR_DECODER}.encoder.layers.{layer}", f"{DECODER}.encoder.layers.{layer}"
        for leaf in ("sampling_offsets", "attention_weights", "value_proj", "output_proj"):
            yield from _same(f"{theirs}.{parts['pixels']}.{leaf}", f"{ours}.self_attn.{leaf}")
        yield from _feed_forward(f"{theirs}.{parts['ffn']}", ours)
        for number, norm in enumerate(("self_attn_layer_norm", "final_layer_norm")):
            yield from _same(f"{theirs}.norms.{number}", f"{ours}.{norm}")

    for layer in range(config.decoder_layers - 1):
        theirs, ours = f"panoptic_head.transformer_decoder.layers.{layer}", f"{HEAD}.decoder.layers.{layer}"
        cross, own = f"{theirs}.{parts['cross']}.attn", f"{theirs}.{parts['self']}.attn"
        for leaf in ("weight", "bias"):
            yield f"{cross}.in_proj_{leaf}", (f"{ours}.cross_attn.in_proj_{leaf}",), _as_it_is
            yield f"{own}.in_proj_{leaf}", tuple(f"{ours}.self_attn.{part}_proj.{leaf}" for part in "qkv"), _thirds
        yield from _same(f"{cross}.out_proj", f"{ours}.cross_attn.out_proj")
        yield from _same(f"{own}.out_proj", f"{ours}.self_attn.out_proj")
        yield from _feed_forward(f"{theirs}.{parts['ffn']}", ours)
        for number, norm in enumerate(("cross_attn_layer_norm", "self_attn_layer_norm", "final_layer_norm")):
            yield from _same(f"{theirs}.norms.{number}", f"{ours}.{norm}")
    yield from _same("panoptic_head.transformer_decoder.post_norm", f"{HEAD}.decoder.layernorm")
    for theirs, ours in (
        ("query_embed", "queries_embedder"),
        ("query_feat", "queries_features"),
        ("level_embed", "level_embed"),
    ):
        yield f"panoptic_head.{theirs}.weight", (f"{HEAD}.{ours}.weight",), _as_it_is
    for number in range(3):  # theirs counts the activations in between
        ours = f"{HEAD}.decoder.mask_predictor.mask_embedder.{number}.0"
        yield from _same(f"panoptic_head.mask_embed.{2 * number}", ours)
    yield from _same("panoptic_head.cls_embed", "class_predictor")


def _swin_block(theirs: str, ours: str) -> Iterator[Row]:
    yield f"{theirs}.{TABLE}", (f"{ours}.attention.self.relative_position_bias_table",), _as_it_is
    for leaf in ("weight", "bias"):
        names = tuple(f"{ours}.attention.self.{part}.{leaf}" for part in ("query", "key", "value"))
        yield f"{theirs}.attn.w_msa.qkv.{leaf}", names, _thirds
    for part, our_part in (
        ("norm1", "layernorm_before"),
        ("attn.w_msa.proj", "attention.output.dense"),
        ("norm2", "layernorm_after"),
        ("ffn.layers.0.0", "intermediate.dense"),
        ("ffn.layers.1", "output.dense"),
    ):
        yield from _same(f"{theirs}.{part}", f"{ours}.{our_part}")


def _feed_forward(theirs: str, ours: str) -> Iterator[Row]:
    yield from _same(f"{theirs}.layers.0.0", f"{ours}.fc1")
    yield from _same(f"{theirs}.layers.1", f"{ours}.fc2")


def _same(theirs: str, ours: str) -> Iterator[Row]:
    for leaf in ("weight", "bias"):
        yield f"{theirs}.{leaf}", (f"{ours}.{leaf}",), _as_it_is


def _as_it_is(tensor: Tensor) -> list[Tensor]:
    return [tensor]


def _thirds(tensor: Tensor) -> list[Tensor]:
    """Query, key and value, one below the other."""
    return [part.clone() for part in tensor.chunk(3)]


def _concatenated(tensor: Tensor) -> list[Tensor]:
    """Inputs of a patch merging, from Unfold's order (channel, row, column) to Swin's (column, row, channel)."""
    return [tensor.unflatten(-1, (-1, 2, 2)).transpose(-3, -1).flatten(-3)]


def position_index(window: int) -> Tensor:
    """Which row of the bias table belongs to each pair of positions in a window, [window^2, window^2]."""
    import torch

    row, column = torch.arange(window * window) // window, torch.arange(window * window) % window
    down, right = row[:, None] - row + window - 1, column[:, None] - column + window - 1
    return down * (2 * window - 1) + right
