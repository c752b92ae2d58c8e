"""Any open_clip model as one piece, for zero-shot and full fine-tuning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from petl_bench.backbones.base import Backbone, JointSpace, TextFeatures, VideoFeatures, mean_over_frames, require_patch
from petl_bench.backbones.clip import files
from petl_bench.backbones.clip.model import CLIP, create_open_clip, find_architecture, spec_of
from petl_bench.backbones.clip.weights import find_weights, load_weights, require_fit
from petl_bench.backbones.described import Pixels, tell_assumed
from petl_bench.backbones.weights import full_adapter, load_full, parameters_sha256
from petl_bench.errors import CheckpointError, UsageError
from petl_bench.hub.answers import from_hub
from petl_bench.inputs import Clips, Words
from petl_bench.nn.transformer import Block, Modality, Tower
from petl_bench.ranges import Seed, Size


class WholeTower(Tower):
    """A tower whose layers have no place for a method's modules; it only says which parameters are its own."""

    def __init__(
        self, name: str, reads: Modality, parameters: Sequence[nn.Parameter], modules: Iterable[nn.Module]
    ) -> None:
        super().__init__([], width=0)
        self.owner = name
        self.reads = frozenset({reads})  # type: ignore[misc]  # of one class are both
        self.members = nn.ParameterList(parameters)
        self._norms = [module for module in modules if isinstance(module, nn.LayerNorm)]

    def norms(self) -> list[nn.Module]:
        return [*self._norms]

    @property
    def blocks(self) -> tuple[Block, ...]:
        raise UsageError(
            f"{self.owner} is used as a whole (backbone WholeCLIP), so no method can place its modules: only ZeroShot "
            "and Full run on it; choose a ViT-* architecture and the backbone CLIP"
        )


class WholeCLIP(JointSpace, Backbone):
    """Any open_clip architecture, also with ResNet, ConvNeXt, timm or Hugging Face towers (SigLIP, CoCa, ...).

    No method that places modules runs on it: what `CLIP` gains by knowing the layers is not to be had here.

    Args:
        architecture: an open_clip name, or the path of an open_clip model configuration (JSON).
        pretrained: an open_clip tag, a local file, an open_clip folder, an `adapter.safetensors` of the method `Full`,
            a repository of the Hugging Face Hub (see `CLIP`), or null for random weights.
        image_size: side of a frame in pixels where it differs from the architecture's.
        init_seed: seed of random weights; unused with `pretrained`.

    Raises:
        UsageError: for an unknown architecture, or an activation that the weights were not trained with.
        CheckpointError: if weights or tokeniser cannot be had.
    """

    has_tokens = False

    def __init__(
        self, architecture: str, pretrained: str | None, image_size: Size | None = None, init_seed: Seed = 0
    ) -> None:
        super().__init__()
        config, name = find_architecture(architecture)
        self.config = config
        self.name = f"whole-clip-{name}".lower()
        adapter = full_adapter(pretrained)
        weights = None if pretrained is None or adapter else find_weights(name, pretrained)
        if weights is not None:
            require_fit(name, config, image_size, weights)
        require_patch(image_size, config["vision_cfg"])
        create = partial(create_open_clip, name, image_size, init_seed)
        tower = config["text_cfg"].get("hf_model_name")  # whose configuration open_clip fetches
        try:
            self.model = from_hub(create, tower) if tower else create()
        except CheckpointError as error:
            raise CheckpointError(
                f"{name} needs files of {tower} from the hub, which are not in the cache and could not be downloaded "
                f"({error}); download them where there is a network, and take HF_HOME along"
            ) from error
        self.weights = {"source": f"random, seed {init_seed}", "sha256": None}
        self.logit_scale = self.model.logit_scale
        self.embed_dim = int(config["embed_dim"])
        pixels = Pixels()
        if adapter is not None:
            self.weights, pixels = load_full(self, self.name, adapter)
        elif weights is not None:
            self.weights = load_weights(self.model, config, weights)
            pixels = weights.described.pixels
        elif not self.model.logit_scale.is_meta:
            self.weights["sha256"] = parameters_sha256(self.model)
        context_length = int(config["text_cfg"].get("context_length", 77))
        self.spec = spec_of(self.model.visual, pixels, context_length, WholeTokenizer(name, context_length))
        if pretrained is not None:
            assumed = pixels.assumed(self.spec) if weights is None else weights.assumed(self.spec, config)
            self.weights["assumed"] = tell_assumed(pretrained, assumed)

        self.train()

    def train(self, mode: bool = True) -> WholeCLIP:
        """Statistics of batch normalisation stay those of the weights.

        An adapter holds what is trained, and they are none of it; those of a batch would depend on the number of
        processes.
        """
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    @classmethod
    def tiny(cls, init_seed: int = 0) -> WholeCLIP:
        return cls("tiny", None, init_seed=init_seed)

    @classmethod
    def whereabouts(cls, architecture: str, pretrained: str | None) -> str:
        return CLIP.whereabouts(architecture, pretrained)

    @property
    def towers(self) -> dict[str, Tower]:
        vision = list(self.model.visual.parameters())
        mine = {id(parameter) for parameter in (*vision, self.logit_scale)}
        text = [parameter for parameter in self.model.parameters() if id(parameter) not in mine]
        seen = set(self.model.visual.modules())
        rest = [module for module in self.model.modules() if module not in seen]
        return {
            "vision": WholeTower(self.name, "vision", vision, seen),
            "text": WholeTower(self.name, "text", text, rest),
        }

    def published(self) -> dict[str, bytes]:
        weights = files.weights_file(self.model)
        return {files.WEIGHTS_NAME: weights, files.CONFIG_NAME: files.config_file(self.config, self.spec)}

    def encode_video(self, clips: Clips) -> VideoFeatures:
        frames = self.model.encode_image(self.normalise(clips.frames).flatten(0, 1)).unflatten(0, clips.mask.shape)
        return VideoFeatures(frames, mean_over_frames(frames, clips.mask))

    def encode_text(self, words: Words) -> TextFeatures:
        projected = self.model.encode_text(words.ids)
        return TextFeatures(nn.functional.normalize(projected, dim=-1), projected)


@dataclass(frozen=True)
class WholeTokenizer:
    """open_clip's own tokeniser of an architecture; picklable.

    Attributes:
        architecture: open_clip's name.
        context_length: what the text tower reads; ids are padded to it.
    """

    architecture: str
    context_length: int

    def __call__(self, captions: Sequence[str], max_words: int) -> tuple[Tensor, Tensor]:
        """Ids (M, context_length) cut to `max_words` tokens, and their mask."""
        tokenizer, padding = _tokenizer(self.architecture)
        words = tokenizer(list(captions), context_length=max_words)  # (M, max_words)
        ids = torch.full((len(words), self.context_length), padding, dtype=torch.long)
        ids[:, :max_words] = words
        return ids, ids != padding


@cache
def _tokenizer(architecture: str) -> tuple[Any, int]:
    import open_clip

    get = partial(open_clip.get_tokenizer, architecture)
    repository = (open_clip.get_model_config(architecture) or {}).get("text_cfg", {}).get("hf_tokenizer_name")
    try:
        tokenizer = from_hub(get, repository) if repository else get()
    except CheckpointError as error:
        raise CheckpointError(
            f"the tokeniser of {architecture}, {repository}, is not in the local cache and could not be downloaded "
            f"({error}): download it where there is a network, and take HF_HOME along"
        ) from error
    inner = getattr(tokenizer, "tokenizer", None)  # a Hugging Face tokeniser within
    return tokenizer, 0 if inner is None else inner.pad_token_id
