"""BLIP through transformers: its configurations and weights, our blocks."""

from __future__ import annotations

import copy
import json
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from petl_bench.backbones.base import (
    AnswerDecoder,
    Backbone,
    Fusion,
    JointSpace,
    Matching,
    TextFeatures,
    TextTokens,
    VideoFeatures,
    VideoTokens,
    mean_of_real,
    require_patch,
    video_memory,
)
from petl_bench.backbones.blip import files
from petl_bench.backbones.blip.towers import BERTBlock, BLIPDecoder, BLIPTextTower, BLIPVisionTower
from petl_bench.backbones.blip.weights import TIED, Start, find_weights, load_weights, require_fit, whereabouts
from petl_bench.backbones.blip.wordpiece import WordPiece
from petl_bench.backbones.described import MEAN, STD, Pixels, tell_assumed
from petl_bench.backbones.weights import full_adapter, load_full, parameters_sha256, take_over
from petl_bench.blip_words import pre_caption, pre_question
from petl_bench.configurable import given_arguments
from petl_bench.errors import UsageError
from petl_bench.inputs import Clips, InputSpec, Words
from petl_bench.nn.recomputation import Recomputation
from petl_bench.nn.transformer import Context, Memory, Tower
from petl_bench.ranges import Seed, ShareBelowOne, Size
from petl_bench.storage.descriptions import TextFile
from petl_bench.storage.untrusted import expanded, is_file, shown

_ARCHITECTURES = Path(__file__).parents[1] / "architectures"
_QUESTION_WORDS = 50
#: bounds of the temperature in BLIP's training (salesforce/BLIP, `models/blip_retrieval.py`)
_TEMPERATURES = (0.001, 0.5)


class BLIPBase(Backbone):
    """What BLIP for retrieval and BLIP for answers share: frames are encoded one by one, text reads them all.

    Source: BLIP (Li et al., ICML 2022, arXiv 2201.12086) and its released code. The drop path of the vision tower in
    the released VQA training is left out.

    Args:
        architecture: `base`, `tiny` (ours, for tests and the demo), or the path of a transformers `BlipConfig` (JSON).
        pretrained: a local file (BLIP's `.pth`, safetensors or bin of transformers, an `adapter.safetensors` of the
            method `Full`), a local transformers folder, a repository of the Hugging Face Hub with such a folder's files
            as safetensors (`hf-hub:owner/name`, with `@revision` or without), or null for random weights.
        vocabulary: BERT's `vocab.txt`, a folder with a tokeniser, or a hub name; null takes the architecture's own.
        image_size: side of a frame in pixels where it differs from the architecture's; positions are interpolated.
        dropout: in the text towers, in training only; also where they are frozen (BLIP and UniAdapter: 0.1).
        gradient_checkpointing: what is recomputed in the backward pass, for less memory and more time: `true` whole
            blocks, `activations` the activation of each block's feed-forward branch alone, `false` nothing.
        init_seed: seed of random weights; unused with `pretrained`.

    Attributes:
        dec_token: id of [DEC], the first token of an answer.
        enc_token: id of [ENC], the first token of a text that reads video.
        sep_token: id of [SEP], the end of every text.
        pad_token: id of padding.

    Raises:
        UsageError: for an unknown architecture.
        CheckpointError: if the weights cannot be read, were trained for something else or do not fit.
    """

    operational = frozenset({"gradient_checkpointing"})
    #: what of a checkpoint it starts from
    start: ClassVar[Start]

    def __init__(
        self,
        architecture: str,
        pretrained: str | None,
        vocabulary: str | None = None,
        image_size: Size | None = None,
        dropout: ShareBelowOne = 0.1,
        gradient_checkpointing: Recomputation = False,
        init_seed: Seed = 0,
    ) -> None:
        super().__init__()
        self.frame_attention: nn.Module | None = None
        config, name = _architecture(architecture)
        self.name = f"blip-{name}".lower()
        own_vocabulary = str(config.pop("vocabulary", "bert-base-uncased"))
        self.config = copy.deepcopy(config)
        adapter = full_adapter(pretrained)
        weights = None if pretrained is None or adapter else find_weights(pretrained)
        _require_config(config)
        if weights is not None:
            require_fit(name, config, image_size, weights)
        require_patch(image_size, config["vision_config"])
        if image_size is not None:
            config["vision_config"]["image_size"] = image_size
        pixels, temperature = Pixels(), 0.07
        if weights is None:
            model = self._create(config, init_seed, torch.get_default_device())
            self.weights = {"source": f"random, seed {init_seed}", "sha256": None}
        else:
            model = self._create(config, init_seed, torch.device("meta"))
            self.weights, temperature = load_weights(model, self.start, weights)
            pixels = weights.described.pixels
        self._take_over(model, dropout, temperature)
        if adapter is not None:
            self.weights, pixels = load_full(self, self.name, adapter)
        elif self.weights["sha256"] is None and not self.vision.class_embedding.is_meta:
            self.weights["sha256"] = parameters_sha256(self)
        text = model.config.text_config
        self.dec_token, self.enc_token = int(text.bos_token_id), int(text.bos_token_id) + 1
        self.sep_token, self.pad_token = int(text.sep_token_id), int(text.pad_token_id)
        beside = None if weights is None else weights.vocabulary
        clean, text_words = self._texts()
        self.tokenizer = WordPiece(
            vocabulary or str(beside or own_vocabulary),
            partial(clean, max_words=text_words),
            self.dec_token,
            self.sep_token,
            self.pad_token,
        )
        if expanded(self.tokenizer.vocabulary).exists():  # a hub's is looked at when it is first read
            self.tokenizer.check()
        self.spec = InputSpec(
            image_size=model.config.vision_config.image_size,
            mean=pixels.mean or MEAN,
            std=pixels.std or STD,
            resize=pixels.resize or "squash",
            context_length=text.max_position_embeddings,
            tokenizer=self.tokenizer,
            text_words=text_words,
        )
        if pretrained is not None:
            assumed = pixels.assumed(self.spec) if weights is None else weights.assumed(self.spec)
            taken = {} if vocabulary or beside else {"tokenizer": f"of {Path(own_vocabulary).name}"}
            self.weights["assumed"] = tell_assumed(pretrained, assumed | taken)
        self.set_gradient_checkpointing(gradient_checkpointing)

    @classmethod
    def whereabouts(cls, architecture: str, pretrained: str | None) -> str:
        if pretrained is None or full_adapter(pretrained):
            return super().whereabouts(architecture, pretrained)
        return whereabouts(pretrained)

    def _create(self, config: dict[str, Any], init_seed: int, device: torch.device) -> Any:
        """A transformers model with random weights; they follow from `init_seed`, not from the global generator."""
        with torch.random.fork_rng(devices=[]), device:
            torch.manual_seed(init_seed)
            return self.native(config)

    @abstractmethod
    def _texts(self) -> tuple[Callable[..., str], int]:
        """What is done to a text before it is tokenised, `(text, max_words) -> text`, and how many words are kept."""

    @staticmethod
    @abstractmethod
    def native(config: dict[str, Any]) -> Any:
        """A transformers model whose parts are taken over."""

    def _take_over(self, model: Any, dropout: float, temperature: float) -> None:
        """Our towers and heads with the parameters of a transformers model."""
        self.vision = BLIPVisionTower(model.vision_model)
        self.text = BLIPTextTower(model.text_encoder, dropout)

    def published(self) -> dict[str, bytes]:
        config = files.sized(self.config, self.spec)
        model = self._create(config, 0, torch.device("cpu"))
        plain = type(self).__new__(type(self))
        nn.Module.__init__(plain)
        plain._take_over(model, 0.0, 1.0)  # shares its parameters with the model, but for fused ones
        take_over(plain, self)
        return {
            files.WEIGHTS_NAME: files.weights_file(plain._given_back(model)),
            files.CONFIG_NAME: files.config_file(config),
            files.PIXELS_NAME: files.pixels_file(self.spec),
            files.VOCABULARY_NAME: self.tokenizer.text.encode(),
        }

    def _given_back(self, model: Any) -> dict[str, Tensor]:
        """Tensors by transformers' names, of a model that all parameters but the fused ones are shared with."""
        self.text.give_back(model.text_encoder)
        return {name: tensor for name, tensor in model.state_dict().items() if name not in TIED}

    def contents(self) -> dict[str, Any]:
        return super().contents() | {"vocabulary": f"sha256:{self.tokenizer.sha256}"}

    def carried(self) -> dict[str, Any]:
        carried = super().carried()
        own = carried or given_arguments(self).get("vocabulary") is not None
        if own and is_file(expanded(self.tokenizer.vocabulary)):
            carried["vocabulary"] = TextFile("vocab.txt", self.tokenizer.text)
        return carried

    @property
    def towers(self) -> dict[str, Tower]:
        """`vision`, and `text`, which also fuses text with video, see `BLIPTextTower`."""
        return {"vision": self.vision, "text": self.text}

    def embeddings(self) -> list[nn.Parameter]:
        vision = self.vision
        found = [vision.class_embedding, vision.positional_embedding, *vision.patch_embedding.parameters()]
        return found + self.text.embeddings()

    # --- text reads video -----------------------------------------------------------------------------------------

    @property
    def fusion(self) -> Fusion:
        return self

    def weigh_frames(self, memory: Memory, text: Tensor, frames: Tensor, mask: Tensor) -> Memory:
        if self.frame_attention is None:
            return memory
        tokens = memory.tokens.shape[1] // frames.shape[1]  # L, of a frame
        factors = self.frame_attention(text, frames, mask, tokens)  # (B, T, L)
        return memory if factors is None else memory._replace(key_scale=factors.flatten(1))

    @abstractmethod
    def _behind_fusion(self) -> nn.Module:
        """What reads nothing but fused states."""

    def fusion_parameters(self) -> list[nn.Parameter]:
        blocks = [block for block in self.text.modules() if isinstance(block, BERTBlock)]
        readers = [module for block in blocks for module in (block.memory_attention, block.ln_cross)]
        inside = {id(module) for reader in readers for module in reader.modules()}
        # A method may put one module into several towers: what the two encoders read, too, is not the fusion's alone.
        encoders = [m for tower in (self.vision, self.text) for m in tower.modules() if id(m) not in inside]
        read = {id(p) for module in encoders for p in module.parameters(recurse=False)}
        found = {id(p): p for module in (*readers, self._behind_fusion()) for p in module.parameters()}
        return [parameter for key, parameter in found.items() if key not in read]

    def encode_video(self, clips: Clips) -> VideoFeatures:
        """Features of clips: the clip's is the mean over real frames in the joint space (BLIP's video evaluation)."""
        x, context = self._embed(clips)
        return self._video_features(self.vision.ln_post(self.vision.run(x, context, _first(x))), clips)

    def encode_video_tokens(self, clips: Clips) -> VideoTokens:
        x = self.vision.ln_post(self.vision.run(*self._embed(clips)))
        return VideoTokens(self._video_features(x, clips), video_memory(x, clips.mask))

    def _embed(self, clips: Clips) -> tuple[Tensor, Context]:
        """What the first vision block reads, (B * T, L, D)."""
        context = Context(steps=clips.mask.shape[1], step_mask=clips.mask)
        return self.vision.embed(self.normalise(clips.frames).flatten(0, 1)), context

    def _video_features(self, x: Tensor, clips: Clips) -> VideoFeatures:
        """Of (B * T, L, D), [CLS] first."""
        frames = self._project_video(x.unflatten(0, clips.mask.shape)[:, :, 0])  # (B, T, E)
        return VideoFeatures(frames, nn.functional.normalize(mean_of_real(frames, clips.mask), dim=-1))

    def encode_text(self, words: Words) -> TextFeatures:
        """Features of texts alone, read at [CLS]."""
        ids, mask, _ = words.without_padding()
        x = self.text.embed(ids)
        return self._text_features(self.text.run(x, Context(attention_mask=mask[:, None, None]), _first(x)))

    def encode_text_tokens(self, words: Words) -> TextTokens:
        x = self.text.run(self.text.embed(words.ids), Context(attention_mask=words.mask[:, None, None]))
        return TextTokens(self._text_features(x), x)

    def _text_features(self, x: Tensor) -> TextFeatures:
        """Of (M, N, D), [CLS] first."""
        projected = self._project_text(x[:, 0])  # (M, E)
        return TextFeatures(nn.functional.normalize(projected, dim=-1), projected)

    def _project_video(self, x: Tensor) -> Tensor:
        """[CLS] of frames as features, (..., D) -> (..., E)."""
        return x

    def _project_text(self, x: Tensor) -> Tensor:
        """[CLS] of texts as features, (M, D) -> (M, E)."""
        return x

    def fuse(self, words: Words, memory: Memory) -> Tensor:
        """States of texts that read a clip each, (B, N, D); the first token becomes [ENC]."""
        x = self.text.embed(_starting_with(self.enc_token, words.ids))
        return self.text.run(x, _reading(words.mask, memory))


class BLIP(JointSpace, BLIPBase):
    """BLIP for retrieval: projections into a joint space of video and text, and a head that tells whether both match.

    Args:
        architecture: see `BLIPBase`.
        pretrained: see `BLIPBase`.
        caption_words: words of a caption that are kept before it is tokenised (BLIP: 30, its video evaluation: 40).
        **kwargs: see `BLIPBase`.

    Attributes:
        temp: temperature of the contrastive loss.
    """

    start = Start(
        ("vision_model", "text_encoder", "vision_proj", "text_proj", "itm_head"),
        "model_base.pth or a model_*_retrieval_*.pth",
    )

    def __init__(self, architecture: str, pretrained: str | None, caption_words: Size = 30, **kwargs: Any) -> None:
        self.caption_words = caption_words  # before the base makes a tokeniser that keeps so many
        super().__init__(architecture, pretrained, **kwargs)

    def _texts(self) -> tuple[Callable[..., str], int]:
        return pre_caption, self.caption_words

    @staticmethod
    def native(config: dict[str, Any]) -> Any:
        from transformers import BlipConfig, BlipForImageTextRetrieval

        return BlipForImageTextRetrieval(BlipConfig.from_dict(config))

    @classmethod
    def tiny(cls, init_seed: int = 0) -> BLIP:
        return cls("tiny", None, init_seed=init_seed)

    def _take_over(self, model: Any, dropout: float, temperature: float) -> None:
        super()._take_over(model, dropout, temperature)
        self.vision_proj, self.text_proj, self.itm_head = model.vision_proj, model.text_proj, model.itm_head
        self.temp = nn.Parameter(torch.tensor(temperature))
        self.embed_dim = self.vision_proj.out_features

    def _given_back(self, model: Any) -> dict[str, Tensor]:
        return super()._given_back(model) | {"temp": self.temp.detach()}

    def _project_video(self, x: Tensor) -> Tensor:
        return self.vision_proj(x)

    def _project_text(self, x: Tensor) -> Tensor:
        return self.text_proj(x)

    @property
    def logit_scale(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]  # nothing sets it
        """The logarithm of what multiplies cosines, log(1 / temp): BLIP's parameter is the temperature itself."""
        return -self.temp.log()

    def scale_parameters(self) -> list[nn.Parameter]:
        return [self.temp]

    def limit_logit_scale(self) -> None:
        with torch.no_grad():
            self.temp.clamp_(*_TEMPERATURES)

    def projections(self) -> list[nn.Parameter]:
        return [*self.vision_proj.parameters(), *self.text_proj.parameters()]

    def heads(self) -> list[nn.Parameter]:
        return [*self.projections(), *self.itm_head.parameters()]

    def _behind_fusion(self) -> nn.Module:
        return self.itm_head

    @property
    def matching(self) -> Matching:
        return self

    def match(self, words: Words, memory: Memory) -> Tensor:
        ids, mask, _ = words.without_padding()
        x = self.text.embed(_starting_with(self.enc_token, ids))
        x = self.text.run(x, _reading(mask, memory), _first(x))
        with torch.autocast(x.device.type, enabled=False):  # in low precision many pairs would tie
            return self.itm_head(x[:, 0].to(self.itm_head.weight.dtype))


class BLIPVQA(BLIPBase):
    """BLIP for answers: a decoder writes them, reading the states of a question that has read the frames.

    Features are the towers' own: there is no joint space. 50 words of a question are kept. Arguments are those of
    `BLIPBase`.
    """

    start = Start(("vision_model", "text_encoder", "text_decoder"), "model_base.pth or a model_*vqa*.pth")

    def _texts(self) -> tuple[Callable[..., str], int]:
        return pre_question, _QUESTION_WORDS

    @staticmethod
    def native(config: dict[str, Any]) -> Any:
        from transformers import BlipConfig, BlipForQuestionAnswering, BlipTextLMHeadModel

        model = BlipForQuestionAnswering(BlipConfig.from_dict(config))
        text: Any = copy.deepcopy(model.config.text_config)
        if text.encoder_hidden_size != text.hidden_size:  # transformers gives the decoder the width of vision
            text.encoder_hidden_size = text.hidden_size
            model.text_decoder = BlipTextLMHeadModel(text)
        return model

    @classmethod
    def tiny(cls, init_seed: int = 0) -> BLIPVQA:
        return cls("tiny", None, init_seed=init_seed)

    def _take_over(self, model: Any, dropout: float, temperature: float) -> None:
        super()._take_over(model, dropout, temperature)
        self.decoder = BLIPDecoder(model.text_decoder, dropout)
        self.embed_dim = self.text.width

    def _given_back(self, model: Any) -> dict[str, Tensor]:
        self.decoder.give_back(model.text_decoder.bert)
        return super()._given_back(model)

    @property
    def towers(self) -> dict[str, Tower]:
        return super().towers | {"decoder": self.decoder}

    def embeddings(self) -> list[nn.Parameter]:
        return super().embeddings() + self.decoder.embeddings()

    def _behind_fusion(self) -> nn.Module:
        return self.decoder

    @property
    def answers(self) -> AnswerDecoder:
        return self

    @property
    def start_token(self) -> int:
        return self.dec_token

    @property
    def end_token(self) -> int:
        return self.sep_token

    def decode(self, words: Words, memory: Memory) -> Tensor:
        x = self.decoder.embed(_starting_with(self.dec_token, words.ids))
        return self.decoder.head(self.decoder.run(x, _reading(words.mask, memory)))

    def decode_next(self, ids: Tensor, memory: Memory) -> Tensor:
        x = self.decoder.embed(_starting_with(self.dec_token, ids))
        context = _reading(torch.ones_like(ids, dtype=torch.bool), memory)
        last = torch.full_like(ids[:, 0], ids.shape[1] - 1)
        return self.decoder.head(self.decoder.run(x, context, last)[:, 0])

    def answer_words(self, answers: Sequence[str]) -> Words:
        words = Words(*self.tokenizer.encode(answers, self.spec.context_length)).without_padding()
        return words._replace(ids=_starting_with(self.dec_token, words.ids)).to(self.decoder.bias.device)

    def answer_texts(self, ids: Tensor) -> list[str]:
        return self.tokenizer.decode(ids)


def _reading(mask: Tensor, memory: Memory) -> Context:
    return Context(attention_mask=mask[:, None, None], memory=memory)


def _first(x: Tensor) -> Tensor:
    """The row of each sequence that features are read at."""
    return torch.zeros(x.shape[0], dtype=torch.long, device=x.device)


def _starting_with(token: int, ids: Tensor) -> Tensor:
    return torch.cat([torch.full_like(ids[:, :1], token), ids[:, 1:]], dim=1)


def _architecture(architecture: str) -> tuple[dict[str, Any], str]:
    """The configuration of an architecture and its name; a vocabulary beside the file becomes its path."""
    path = _ARCHITECTURES / f"blip_{architecture}.json"
    if architecture.endswith(".json"):
        path = Path(architecture)
    if not path.is_file():
        raise UsageError(f"unknown BLIP architecture '{architecture}': base, tiny, or the path of a BlipConfig (JSON)")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"BLIP architecture {path} is not JSON: {error}") from error
    if not isinstance(config, dict) or not all(isinstance(config.get(f"{k}_config"), dict) for k in ("vision", "text")):
        raise UsageError(f"BLIP architecture {path} is no BlipConfig: it needs vision_config and text_config")
    if not isinstance(config.get("vocabulary", ""), str):
        raise UsageError(f"BLIP architecture {path}: vocabulary is {shown(config['vocabulary'])}, not a name")
    if "vocabulary" in config and is_file(beside := path.parent / config["vocabulary"]):
        config["vocabulary"] = str(beside)
    return config, path.stem.removeprefix("blip_")


def _require_config(config: dict[str, Any]) -> None:
    """Refuses what transformers takes for no BlipConfig, and special tokens that the embeddings do not have."""
    from transformers import BlipConfig

    try:
        text = BlipConfig.from_dict(config).text_config
    except Exception as error:  # transformers checks types in ways of its own
        told = " ".join(str(error).split())[:150]
        raise UsageError(f"backbone.architecture is no BlipConfig that transformers takes: {told}") from error
    _require_tokens(text)


def _require_tokens(text: Any) -> None:
    """Refuses what is no token, and [DEC] without room for [ENC] behind it; the rest is up to the tokeniser's check."""
    for key in ("bos_token_id", "sep_token_id", "pad_token_id"):
        token = getattr(text, key)
        if not isinstance(token, int) or token < 0:
            raise UsageError(f"text_config.{key} of backbone.architecture is {token}: it must be the number of a token")
    if text.bos_token_id > text.vocab_size - 2:
        raise UsageError(
            f"text_config.bos_token_id of backbone.architecture is {text.bos_token_id}: [DEC], and [ENC] behind it, "
            f"must be within vocab_size {text.vocab_size}"
        )
