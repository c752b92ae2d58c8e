"""CLIP through open_clip: its weights and configurations, our blocks."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn

from petl_bench.backbones.base import (
    Backbone,
    JointSpace,
    TextFeatures,
    TextTokens,
    VideoFeatures,
    VideoTokens,
    mean_over_frames,
    require_patch,
    video_memory,
)
from petl_bench.backbones.clip import files
from petl_bench.backbones.clip.weights import facts_of, find_weights, load_weights, require_fit, whereabouts
from petl_bench.backbones.described import MEAN, STD, Pixels, pixels_of_open_clip, tell_assumed
from petl_bench.backbones.weights import full_adapter, load_full, parameters_sha256, take_over
from petl_bench.bpe import VOCABULARY, clip_tokenize
from petl_bench.configurable import given_arguments
from petl_bench.errors import UsageError
from petl_bench.inputs import Clips, InputSpec, Tokenizer, Words
from petl_bench.nn.layers import QuickGELU
from petl_bench.nn.mixed_precision import linear, taken_over
from petl_bench.nn.recomputation import Recomputation
from petl_bench.nn.transformer import Attention, Context, PreNormBlock, Tower, select_row
from petl_bench.ranges import Seed, Size
from petl_bench.storage.untrusted import shown

_ARCHITECTURES = Path(__file__).parents[1] / "architectures"


class CLIPBlock(PreNormBlock):
    """A pre-norm CLIP layer, with the layer scale of some open_clip models on both branches.

    Built from an open_clip `ResidualAttentionBlock`, whose parameters it takes over.
    """

    def __init__(self, native: Any, causal: bool) -> None:
        width = native.attn.out_proj.in_features
        with torch.device("meta"):  # its own weights are not wanted: no memory, and no draw from the global generator
            attention = Attention(width, native.attn.num_heads, causal)
        attention.qkv.weight = native.attn.in_proj_weight
        attention.qkv.bias = native.attn.in_proj_bias
        attention.out = native.attn.out_proj
        activation = QuickGELU() if _is_quick_gelu(native.mlp.gelu) else native.mlp.gelu
        ln_1, ln_2 = (taken_over(norm, as_given=True) for norm in (native.ln_1, native.ln_2))
        super().__init__(attention, ln_1, ln_2, native.mlp.c_fc, activation, native.mlp.c_proj)
        self.ls_1, self.ls_2 = native.ls_1, native.ls_2  # layer scale, or identity

    def after_attention(self, x: Tensor, branch: Tensor) -> Tensor:
        return x + self.ls_1(branch)

    def after_feed_forward(self, x: Tensor, branch: Tensor) -> Tensor:
        return x + self.ls_2(branch)


class CLIPVisionTower(Tower):
    """Patches and a [CLS] token of each frame."""

    reads = frozenset({"vision"})

    def __init__(self, visual: Any) -> None:
        super().__init__(
            [CLIPBlock(b, causal=False) for b in visual.transformer.resblocks],
            visual.class_embedding.shape[0],
            visual.grid_size,
        )
        self.conv1 = visual.conv1
        self.class_embedding = visual.class_embedding
        self.positional_embedding = visual.positional_embedding
        self.ln_pre = taken_over(visual.ln_pre, as_given=True)
        self.ln_post = taken_over(visual.ln_post, as_given=True)
        self.proj = visual.proj

    def embed(self, frames: Tensor) -> Tensor:
        """(R, 3, H, W) -> (R, 1 + P, D): [CLS], then patches row by row."""
        patches = rearrange(self.conv1(frames), "r d h w -> r (h w) d")
        cls = self.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
        x = torch.cat([cls, patches], 1) + self.positional_embedding.to(patches.dtype)
        return self.ln_pre(x)

    def outer_norms(self) -> list[nn.Module]:
        return [self.ln_pre, self.ln_post]

    def head(self, cls: Tensor) -> Tensor:
        """(..., D) -> (..., E)."""
        return linear(self.ln_post(cls), self.proj.t())


class CLIPTextTower(Tower):
    """Causal text tower, read at the end token."""

    reads = frozenset({"text"})
    class_token = False  # the end token is read, which stands behind the words

    def __init__(self, clip: Any) -> None:
        super().__init__([CLIPBlock(b, causal=True) for b in clip.transformer.resblocks], clip.ln_final.weight.shape[0])
        self.token_embedding = clip.token_embedding
        self.positional_embedding = clip.positional_embedding
        self.ln_final = taken_over(clip.ln_final, as_given=True)
        self.proj = clip.text_projection

    def embed(self, ids: Tensor) -> Tensor:
        """(M, N) -> (M, N, D)."""
        x = self.token_embedding(ids)
        return x + self.positional_embedding[: ids.shape[1]]

    def outer_norms(self) -> list[nn.Module]:
        return [self.ln_final]

    def head(self, end: Tensor) -> Tensor:
        """(..., D) -> (..., E)."""
        return linear(self.ln_final(end), self.proj.t())


class CLIP(JointSpace, Backbone):
    """CLIP in any open_clip architecture whose two towers are plain transformers (all `ViT-*` with CLIP text).

    Args:
        architecture: an open_clip name such as `ViT-B-16-quickgelu`, `tiny` (ours, for tests and the demo), or the
            path of an open_clip model configuration (JSON).
        pretrained: an open_clip tag (`openai`, `laion2b_s34b_b88k`), a local file (open_clip safetensors or bin,
            OpenAI TorchScript .pt, an `adapter.safetensors` of the method `Full`), a local folder (open_clip or
            transformers `CLIPModel`), a repository of the Hugging Face Hub with such files as safetensors
            (`hf-hub:openai/clip-vit-large-patch14`, with `@revision` or without), or null for random weights.
        image_size: side of a frame in pixels where it differs from the architecture's; positions are interpolated.
        gradient_checkpointing: what is recomputed in the backward pass, for less memory and more time: `true` whole
            blocks, `activations` the activation of each block's feed-forward branch alone, `false` nothing.
        init_seed: seed of random weights; unused with `pretrained`. Runs with different training seeds thus share
            one backbone.

    Raises:
        UsageError: for an unknown architecture, one whose towers are of another kind, or an activation that the
            weights were not trained with.
        CheckpointError: if the weights cannot be read or do not fit.
    """

    operational = frozenset({"gradient_checkpointing"})

    def __init__(
        self,
        architecture: str,
        pretrained: str | None,
        image_size: Size | None = None,
        gradient_checkpointing: Recomputation = False,
        init_seed: Seed = 0,
    ) -> None:
        super().__init__()
        config, name = find_architecture(architecture)
        self.config = config
        if "hf_model_name" in config["text_cfg"]:
            raise _other_towers(name)  # before open_clip downloads the tower's configuration
        self.name = f"clip-{name}".lower()
        adapter = full_adapter(pretrained)
        weights = None if pretrained is None or adapter else find_weights(name, pretrained)
        if weights is not None:
            require_fit(name, config, image_size, weights)
        require_patch(image_size, config["vision_cfg"])
        model = create_open_clip(name, image_size, init_seed)
        _refuse_other_towers(name, model)
        self.weights = {"source": f"random, seed {init_seed}", "sha256": None}
        pixels = Pixels()
        if weights is not None:
            self.weights = load_weights(model, config, weights)
            pixels = weights.described.pixels
        self.vision = CLIPVisionTower(model.visual)
        self.text = CLIPTextTower(model)
        self.logit_scale = model.logit_scale
        if adapter is not None:
            self.weights, pixels = load_full(self, self.name, adapter)
        if self.weights["sha256"] is None and not self.logit_scale.is_meta:
            self.weights["sha256"] = parameters_sha256(self)
        self.embed_dim = self.vision.proj.shape[1]
        self.spec = spec_of(model.visual, pixels, model.context_length, tokenizer_of(model.vocab_size))
        if pretrained is not None:
            assumed = pixels.assumed(self.spec) if weights is None else weights.assumed(self.spec, config)
            self.weights["assumed"] = tell_assumed(pretrained, assumed)
        self.set_gradient_checkpointing(gradient_checkpointing)

    @classmethod
    def tiny(cls, init_seed: int = 0) -> CLIP:
        return cls("tiny", None, init_seed=init_seed)

    @classmethod
    def whereabouts(cls, architecture: str, pretrained: str | None) -> str:
        if pretrained is None or full_adapter(pretrained):
            return super().whereabouts(architecture, pretrained)
        return whereabouts(find_architecture(architecture)[1], pretrained)

    def published(self) -> dict[str, bytes]:
        _, name = find_architecture(str(given_arguments(self)["architecture"]))
        model = create_open_clip(name, self.spec.image_size, 0)
        # These towers share their parameters with the model, which thereby gets ours.
        for own, theirs in ((self.vision, CLIPVisionTower(model.visual)), (self.text, CLIPTextTower(model))):
            take_over(theirs, own)
        model.logit_scale.data.copy_(self.logit_scale)
        return {
            files.WEIGHTS_NAME: files.weights_file(model),
            files.CONFIG_NAME: files.config_file(self.config, self.spec),
        }

    @property
    def towers(self) -> dict[str, Tower]:
        return {"vision": self.vision, "text": self.text}

    def projections(self) -> list[nn.Parameter]:
        return [self.vision.proj, self.text.proj]

    def embeddings(self) -> list[nn.Parameter]:
        vision, text = self.vision, self.text
        modules = (vision.conv1, vision.ln_pre, text.token_embedding)
        loose = [vision.class_embedding, vision.positional_embedding, text.positional_embedding]
        return [*loose, *(parameter for module in modules for parameter in module.parameters())]

    def encode_video(self, clips: Clips) -> VideoFeatures:
        x, context = self._embed(clips)
        cls = torch.zeros(x.shape[0], dtype=torch.long, device=x.device)
        return self._video_features(self.vision.run(x, context, cls), clips)

    def encode_video_tokens(self, clips: Clips) -> VideoTokens:
        x = self.vision.run(*self._embed(clips))
        return VideoTokens(self._video_features(x, clips), video_memory(x, clips.mask))

    def _embed(self, clips: Clips) -> tuple[Tensor, Context]:
        """What the first vision block reads, (B * T, L, D)."""
        context = Context(steps=clips.mask.shape[1], step_mask=clips.mask)
        return self.vision.embed(self.normalise(clips.frames).flatten(0, 1)), context

    def _video_features(self, x: Tensor, clips: Clips) -> VideoFeatures:
        """Of (B * T, L, D), [CLS] first."""
        frames = self.vision.head(x[:, 0]).unflatten(0, clips.mask.shape)  # (B, T, E)
        return VideoFeatures(frames, mean_over_frames(frames, clips.mask))

    def encode_text(self, words: Words) -> TextFeatures:
        end = _end_of(words)
        if words.most is None and not torch.compiler.is_exporting():
            words = words._replace(most=int(end.max()) + 1)
        # Exact: nothing before the end token reads what follows it.
        ids = words.without_padding().ids
        return self._text_features(self.text.run(self.text.embed(ids), Context(), end))

    def encode_text_tokens(self, words: Words) -> TextTokens:
        x = self.text.run(self.text.embed(words.ids), Context())
        return TextTokens(self._text_features(select_row(x, _end_of(words))), x)

    def _text_features(self, end: Tensor) -> TextFeatures:
        """Of the end tokens, (M, 1, D)."""
        projected = self.text.head(end)[:, 0]  # (M, E)
        return TextFeatures(nn.functional.normalize(projected, dim=-1), projected)


def _end_of(words: Words) -> Tensor:
    """The place of each text's end token, (M,): it has the highest id."""
    return words.ids.argmax(-1)


def spec_of(visual: Any, pixels: Pixels, context_length: int, tokenizer: Tokenizer) -> InputSpec:
    """The input of an open_clip model: as said of its weights, else open_clip's defaults."""
    default = pixels_of_open_clip(visual.preprocess_cfg, "open_clip")
    size = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[0]
    return InputSpec(
        image_size=size,
        mean=pixels.mean or default.mean or MEAN,
        std=pixels.std or default.std or STD,
        resize=pixels.resize or default.resize or "shorter_side_crop",
        context_length=context_length,
        tokenizer=tokenizer,
    )


def tokenizer_of(vocabulary: int) -> Tokenizer:
    """The tokenizer of a text tower whose embedding has so many rows."""
    return clip_tokenize if vocabulary == VOCABULARY else partial(clip_tokenize, vocabulary=vocabulary)


def find_architecture(architecture: str) -> tuple[dict[str, Any], str]:
    """The open_clip configuration of an architecture and the name open_clip knows it by."""
    import open_clip

    for path in (Path(architecture), _ARCHITECTURES / f"{architecture}.json"):
        if path.suffix == ".json" and path.is_file():
            _require_architecture(path)
            open_clip.add_model_config(path)
            architecture = path.stem
    # `hf-hub:` and `local-dir:` would fetch a configuration from elsewhere, and weights beside it are `pretrained`'s.
    config = None if ":" in architecture else open_clip.get_model_config(architecture)
    if config is None:
        from difflib import get_close_matches

        close = get_close_matches(architecture, [*open_clip.list_models(), "tiny"], 3)
        hint = f"did you mean {', '.join(close)}?" if close else "open_clip.list_models() lists them"
        raise UsageError(f"unknown CLIP architecture '{architecture}': {hint}")
    return config, architecture


def _require_architecture(path: Path) -> None:
    """Refuses a broken file before open_clip registers it, since it reads all registered files each time."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"CLIP architecture {path} is not JSON: {error}") from error
    keys = ("embed_dim", "vision_cfg", "text_cfg")
    if not isinstance(config, dict) or any(key not in config for key in keys):
        raise UsageError(f"CLIP architecture {path} is no open_clip model configuration: it needs {', '.join(keys)}")
    for key in keys[1:]:
        if not isinstance(config[key], dict):
            told = f"{key} is {shown(config[key])}"
            raise UsageError(f"CLIP architecture {path} is no open_clip model configuration: {told}")
    try:
        facts_of(config)
    except ValueError as error:
        raise UsageError(f"CLIP architecture {path} is no open_clip model configuration: {error}") from error


#: what open_clip and torch raise for widths, depths and names that cannot be
_UNBUILDABLE = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, AssertionError, RuntimeError)


def create_open_clip(name: str, image_size: int | None, init_seed: int) -> Any:
    """An open_clip model with random weights that follow from `init_seed`; the global generator is not touched.

    Raises:
        UsageError: if open_clip cannot build it.
    """
    import open_clip

    with torch.random.fork_rng(devices=[]), _without_warnings():
        torch.manual_seed(init_seed)
        device = torch.get_default_device()  # `meta` where only shapes are wanted
        try:
            return open_clip.create_model(name, device=device, force_image_size=image_size, pretrained_text=False)
        except _UNBUILDABLE as error:
            told = " ".join(str(error).split())[:150] or type(error).__name__
            raise UsageError(f"open_clip cannot build the architecture '{name}': {told}") from error


@contextmanager
def _without_warnings() -> Iterator[None]:
    """open_clip warns of random weights whenever it is not the one who loads them."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _refuse_other_towers(name: str, model: Any) -> None:
    from open_clip.model import CLIP as OpenCLIP
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

    plain = isinstance(model, OpenCLIP) and isinstance(model.visual, VisionTransformer)
    if plain:
        visual, text = cast(Any, model.visual), cast(Any, model.transformer)  # torch leaves attributes untyped
        blocks = [*visual.transformer.resblocks, *text.resblocks]
        plain = (
            all(type(block) is ResidualAttentionBlock for block in blocks)
            and (visual.attn_pool, visual.pool_type, visual.final_ln_after_pool) == (None, "tok", False)
            and isinstance(visual.patch_dropout, nn.Identity)
            and (model.text_pool_type, model.logit_bias) == ("argmax", None)
            and isinstance(model.text_projection, nn.Parameter)
            and model.attn_mask is not None
        )
    if not plain:
        raise _other_towers(name)


def _other_towers(name: str) -> UsageError:
    return UsageError(
        f"CLIP architecture '{name}' has towers that are not plain CLIP transformers (a ResNet, timm or Hugging "
        "Face tower, or another pooling), so no method can place its modules: choose a ViT-* architecture, or for "
        "zero-shot and full fine-tuning the backbone petl_bench.backbones.clip.WholeCLIP"
    )


def _is_quick_gelu(activation: nn.Module) -> bool:
    return type(activation).__name__ == "QuickGELU"
