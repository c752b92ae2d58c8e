"""BLIP through transformers: its configurations and weights, our blocks."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from petl_bench.backbones.base import (
    Backbone,
    TextFeatures,
    TextTokens,
    VideoFeatures,
    VideoTokens,
    mean_of_real,
    require_patch,
    video_memory,
)
from petl_bench.backbones.blip.text import pre_caption, pre_question
from petl_bench.backbones.blip.weights import Purpose, find_weights, load_weights, require_fit
from petl_bench.backbones.blip.wordpiece import WordPiece
from petl_bench.backbones.described import MEAN, STD, Pixels, tell_assumed
from petl_bench.backbones.weights import full_adapter, load_full, parameters_sha256
from petl_bench.configurable import given_arguments
from petl_bench.errors import UsageError
from petl_bench.inputs import Clips, InputSpec, Words
from petl_bench.nn.transformer import Attention, Block, Context, CrossAttention, Memory, PreNormBlock, Tower
from petl_bench.ranges import Seed, ShareBelowOne, Size
from petl_bench.storage.descriptions import TextFile
from petl_bench.storage.untrusted import expanded, is_file, shown

_ARCHITECTURES = Path(__file__).parents[1] / "architectures"
_QUESTION_WORDS = 50
#: bounds of the temperature in BLIP's training (specs/uniadapter.md section 5)
_TEMPERATURES = (0.001, 0.5)


class BERTBlock(Block):
    """A post-norm BERT layer with cross-attention.

    a = LN1(x + Attention(x)); c = LNc(a + CrossAttention(a, memory)), or a where there is no memory;
    z = LN2(c + MLP(c)). Built from a transformers `BlipTextLayer`, whose parameters it takes over.

    Args:
        native: the layer.
        causal: a token reads only itself and those before it.
        dropout: of attention weights and of each branch, in training only.
    """

    token_wise = True

    def __init__(self, native: Any, causal: bool, dropout: float) -> None:
        super().__init__()
        own, cross = native.attention.self, native.crossattention.self
        width, heads = own.query.in_features, own.num_attention_heads
        with torch.device("meta"):  # their own weights are not wanted: no memory, and no draw from the generator
            self.self_attention = Attention(width, heads, causal, dropout)
            self.memory_attention = CrossAttention(width, cross.key.in_features, heads, dropout)
        self.self_attention.qkv = _fused(own.query, own.key, own.value)
        self.self_attention.out = native.attention.output.dense
        self.ln_1 = native.attention.output.LayerNorm
        self.memory_attention.query = cross.query
        self.memory_attention.key_value = _fused(cross.key, cross.value)
        self.memory_attention.out = native.crossattention.output.dense
        self.ln_cross = native.crossattention.output.LayerNorm
        self.fc = native.intermediate.dense
        self.activation = native.intermediate.intermediate_act_fn
        self.proj = native.output.dense
        self.ln_2 = native.output.LayerNorm
        self.dropout = nn.Dropout(dropout)

    @property
    def attention(self) -> Attention:
        return self.self_attention

    @property
    def cross_attention(self) -> CrossAttention:
        return self.memory_attention

    @property
    def mlp(self) -> nn.Module:
        return nn.Sequential(self.fc, self.activation, self.proj)

    def attention_norm(self, x: Tensor) -> Tensor:
        return x

    def feed_forward_norm(self, x: Tensor) -> Tensor:
        return x

    def attend(self, x: Tensor, context: Context, row: Tensor | None = None) -> Tensor:
        return self.dropout(self.self_attention(x, context.attention_mask, row))

    def cross_attend(self, x: Tensor, context: Context) -> Tensor | None:
        return None if context.memory is None else self.dropout(self.memory_attention(x, context.memory))

    def feed_forward(self, x: Tensor, context: Context) -> Tensor:
        return self.dropout(self.proj(self.activation(self.fc(x))))

    def after_attention(self, x: Tensor, branch: Tensor) -> Tensor:
        return self.ln_1(x + branch)

    def after_cross_attention(self, x: Tensor, branch: Tensor) -> Tensor:
        return self.ln_cross(x + branch)

    def after_feed_forward(self, x: Tensor, branch: Tensor) -> Tensor:
        return self.ln_2(x + branch)


class BLIPVisionTower(Tower):
    """Patches and a [CLS] token of each frame; frames do not interact."""

    kind = "vision"

    def __init__(self, vision: Any) -> None:
        blocks = [_vision_block(layer) for layer in vision.encoder.layers]
        side = vision.config.image_size // vision.config.patch_size
        super().__init__(blocks, vision.config.hidden_size, (side, side))
        self.patch_embedding = vision.embeddings.patch_embedding
        self.class_embedding = vision.embeddings.class_embedding
        self.positional_embedding = vision.embeddings.position_embedding
        self.ln_post = vision.post_layernorm

    def embed(self, frames: Tensor) -> Tensor:
        """(R, 3, H, W) -> (R, 1 + P, D): [CLS], then patches row by row."""
        patches = self.patch_embedding(frames).flatten(2).transpose(1, 2)  # (R, P, D)
        cls = self.class_embedding.to(patches.dtype).expand(len(patches), -1, -1)
        return torch.cat([cls, patches], 1) + self.positional_embedding.to(patches.dtype)


class BLIPTextTower(Tower):
    """BERT with cross-attention: encodes texts alone, or fuses them with what they read.

    Both are one tower with the same self-attention and feed-forward weights. A module that a method puts into one of
    its blocks acts in both; `context.memory` tells which it is.
    """

    kind = "text"
    causal = False

    def __init__(self, bert: Any, dropout: float) -> None:
        blocks = [BERTBlock(layer, self.causal, dropout) for layer in bert.encoder.layer]
        super().__init__(blocks, bert.config.hidden_size)
        self.token_embedding = bert.embeddings.word_embeddings
        self.positional_embedding = bert.embeddings.position_embeddings.weight
        self.ln_pre = bert.embeddings.LayerNorm
        self.dropout = nn.Dropout(dropout)

    def embed(self, ids: Tensor) -> Tensor:
        """(M, N) -> (M, N, D)."""
        x = self.token_embedding(ids)
        return self.dropout(self.ln_pre(x + self.positional_embedding[: ids.shape[1]]))

    def embeddings(self) -> list[nn.Parameter]:
        """The parameters in front of the first block."""
        return [self.positional_embedding, *self.token_embedding.parameters(), *self.ln_pre.parameters()]


class BLIPDecoder(BLIPTextTower):
    """Causal BERT that reads question states and predicts the next token; weights of its own."""

    kind = "decoder"
    causal = True

    def __init__(self, native: Any, dropout: float) -> None:
        super().__init__(native.bert, dropout)
        head = native.cls.predictions
        self.transform = head.transform.dense
        self.activation = head.transform.transform_act_fn
        self.ln_head = head.transform.LayerNorm
        self.bias = head.bias

    def head(self, x: Tensor) -> Tensor:
        """(..., D) -> logits (..., V); the output layer is the token embedding's."""
        with torch.autocast(x.device.type, enabled=False):  # in low precision many answers would tie
            x = self.ln_head(self.activation(self.transform(x.to(self.bias.dtype))))
            return nn.functional.linear(x, self.token_embedding.weight, self.bias)


class BLIP(Backbone):
    """BLIP (Li et al., ICML 2022, arXiv 2201.12086) on video: frames are encoded one by one, text reads them all.

    Source: specs/uniadapter.md sections 4, 5 and 11. The drop path of the vision tower in the released VQA training
    is left out.

    Args:
        architecture: `base`, `tiny` (ours, for tests and the demo), or the path of a transformers `BlipConfig` (JSON).
        pretrained: a local file (BLIP's `.pth`, safetensors or bin of transformers, an `adapter.safetensors` of the
            method `Full`), a local transformers folder, or null for random weights.
        purpose: `retrieval` has projections into a joint space and a matching head, `qa` an answer decoder.
        vocabulary: BERT's `vocab.txt`, a folder with a tokeniser, or a hub name; null takes the architecture's own.
        image_size: side of a frame in pixels where it differs from the architecture's; positions are interpolated.
        caption_words: words of a caption that are kept before it is tokenised (BLIP: 30, its video evaluation: 40).
        dropout: in the text towers, in training only; also where they are frozen (BLIP and UniAdapter: 0.1).
        gradient_checkpointing: recompute blocks in the backward pass: less memory, more time.
        init_seed: seed of random weights; unused with `pretrained`.

    Attributes:
        dec_token: id of [DEC], the first token of an answer.
        enc_token: id of [ENC], the first token of a text that reads video.
        sep_token: id of [SEP], the end of every text.
        pad_token: id of padding.
        temp: temperature of the contrastive loss (retrieval only).

    Raises:
        UsageError: for an unknown architecture.
        CheckpointError: if the weights cannot be read, were trained for something else or do not fit.
    """

    operational = frozenset({"gradient_checkpointing"})

    def __init__(
        self,
        architecture: str,
        pretrained: str | None,
        purpose: Purpose = "retrieval",
        vocabulary: str | None = None,
        image_size: Size | None = None,
        caption_words: Size = 30,
        dropout: ShareBelowOne = 0.1,
        gradient_checkpointing: bool = False,
        init_seed: Seed = 0,
    ) -> None:
        super().__init__()
        config, name = _architecture(architecture)
        self.name = f"blip-{name}".lower()
        self.purpose: Purpose = purpose
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
            model = _create(config, purpose, init_seed, torch.get_default_device())
            self.weights = {"source": f"random, seed {init_seed}", "sha256": None}
        else:
            model = _create(config, purpose, init_seed, torch.device("meta"))
            self.weights, temperature = load_weights(model, purpose, weights)
            pixels = weights.described.pixels
        self._take_over(model, dropout, temperature)
        if adapter is not None:
            self.weights, pixels = load_full(self, self.name, adapter)
        elif self.weights["sha256"] is None and not self.vision.class_embedding.is_meta:
            self.weights["sha256"] = parameters_sha256(self)
        text = model.config.text_config
        self.dec_token, self.enc_token = int(text.bos_token_id), int(text.bos_token_id) + 1
        self.sep_token, self.pad_token = int(text.sep_token_id), int(text.pad_token_id)
        clean, text_words = (pre_caption, caption_words) if purpose == "retrieval" else (pre_question, _QUESTION_WORDS)
        beside = None if weights is None else weights.vocabulary
        tokenizer = WordPiece(
            vocabulary or str(beside or own_vocabulary),
            partial(clean, max_words=text_words),
            self.dec_token,
            self.sep_token,
            self.pad_token,
        )
        if expanded(tokenizer.vocabulary).exists():  # a hub's is looked at when it is first read
            tokenizer.check()
        self.spec = InputSpec(
            image_size=model.config.vision_config.image_size,
            mean=pixels.mean or MEAN,
            std=pixels.std or STD,
            resize=pixels.resize or "squash",
            context_length=text.max_position_embeddings,
            tokenizer=tokenizer,
            text_words=text_words,
        )
        if pretrained is not None:
            assumed = pixels.assumed(self.spec) if weights is None else weights.assumed(self.spec)
            taken = {} if vocabulary or beside else {"tokenizer": f"of {Path(own_vocabulary).name}"}
            self.weights["assumed"] = tell_assumed(pretrained, assumed | taken)
        self.set_gradient_checkpointing(gradient_checkpointing)

    def _take_over(self, model: Any, dropout: float, temperature: float) -> None:
        """Our towers and heads with the parameters of a transformers model."""
        self.vision = BLIPVisionTower(model.vision_model)
        self.text = BLIPTextTower(model.text_encoder, dropout)
        if self.purpose == "qa":
            self.decoder = BLIPDecoder(model.text_decoder, dropout)
            self.vision_proj, self.text_proj = nn.Identity(), nn.Identity()
            self.embed_dim = self.text.width
            return
        self.vision_proj, self.text_proj, self.itm_head = model.vision_proj, model.text_proj, model.itm_head
        self.temp = nn.Parameter(torch.tensor(temperature))
        self.embed_dim = self.vision_proj.out_features

    def contents(self) -> dict[str, Any]:
        assert isinstance(self.spec.tokenizer, WordPiece)
        return super().contents() | {"vocabulary": f"sha256:{self.spec.tokenizer.sha256}"}

    def carried(self) -> dict[str, Any]:
        carried, tokenizer = super().carried(), self.spec.tokenizer
        assert isinstance(tokenizer, WordPiece)
        own = carried or given_arguments(self).get("vocabulary") is not None
        if own and is_file(expanded(tokenizer.vocabulary)):
            carried["vocabulary"] = TextFile("vocab.txt", tokenizer.text)
        return carried

    @property
    def logit_scale(self) -> Tensor:  # type: ignore[override]  # BLIP's parameter is the temperature itself
        """The logarithm of what multiplies cosines, log(1 / temp)."""
        self._require_joint_space()
        return -self.temp.log()

    def scale_parameters(self) -> list[nn.Parameter]:
        self._require_joint_space()
        return [self.temp]

    def limit_logit_scale(self) -> None:
        self._require_joint_space()
        with torch.no_grad():
            self.temp.clamp_(*_TEMPERATURES)

    @property
    def towers(self) -> dict[str, Tower]:
        """`vision`, `text` (which also fuses text with video, see `BLIPTextTower`), and `decoder` for answers."""
        towers: dict[str, Tower] = {"vision": self.vision, "text": self.text}
        return towers | {"decoder": self.decoder} if self.purpose == "qa" else towers

    def projections(self) -> list[nn.Parameter]:
        self._require_joint_space()
        return [*self.vision_proj.parameters(), *self.text_proj.parameters()]

    def heads(self) -> list[nn.Parameter]:
        return [*self.projections(), *self.itm_head.parameters()]

    def embeddings(self) -> list[nn.Parameter]:
        vision = self.vision
        found = [vision.class_embedding, vision.positional_embedding, *vision.patch_embedding.parameters()]
        found += self.text.embeddings()
        return found + self.decoder.embeddings() if self.purpose == "qa" else found

    def fusion_parameters(self) -> list[nn.Parameter]:
        blocks = [block for block in self.text.modules() if isinstance(block, BERTBlock)]
        readers = [module for block in blocks for module in (block.memory_attention, block.ln_cross)]
        inside = {id(module) for reader in readers for module in reader.modules()}
        # A method may put one module into several towers: what the two encoders read, too, is not the fusion's alone.
        encoders = [m for tower in (self.vision, self.text) for m in tower.modules() if id(m) not in inside]
        read = {id(p) for module in encoders for p in module.parameters(recurse=False)}
        head = self.decoder if self.purpose == "qa" else self.itm_head
        found = {id(p): p for module in (*readers, head) for p in module.parameters()}
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
        context = Context(frames=clips.mask.shape[1], frame_mask=clips.mask)
        return self.vision.embed(self.normalise(clips.frames).flatten(0, 1)), context

    def _video_features(self, x: Tensor, clips: Clips) -> VideoFeatures:
        """Of (B * T, L, D), [CLS] first."""
        frames = self.vision_proj(x.unflatten(0, clips.mask.shape)[:, :, 0])  # (B, T, E)
        return VideoFeatures(frames, nn.functional.normalize(mean_of_real(frames, clips.mask), dim=-1))

    def encode_text(self, words: Words) -> TextFeatures:
        """Features of texts alone, read at [CLS]."""
        ids, mask = words.without_padding()
        x = self.text.embed(ids)
        return self._text_features(self.text.run(x, Context(attention_mask=mask[:, None, None]), _first(x)))

    def encode_text_tokens(self, words: Words) -> TextTokens:
        x = self.text.run(self.text.embed(words.ids), Context(attention_mask=words.mask[:, None, None]))
        return TextTokens(self._text_features(x), x)

    def _text_features(self, x: Tensor) -> TextFeatures:
        """Of (M, N, D), [CLS] first."""
        projected = self.text_proj(x[:, 0])  # (M, E)
        return TextFeatures(nn.functional.normalize(projected, dim=-1), projected)

    def fuse(self, words: Words, memory: Memory) -> Tensor:
        """States of texts that read a clip each, (B, N, D); the first token becomes [ENC]."""
        x = self.text.embed(_starting_with(self.enc_token, words.ids))
        return self.text.run(x, _reading(words.mask, memory))

    def match(self, words: Words, memory: Memory) -> Tensor:
        if self.purpose != "retrieval":
            raise UsageError(f"{self.name} with purpose {self.purpose} has no matching head: set purpose to retrieval")
        ids, mask = words.without_padding()
        x = self.text.embed(_starting_with(self.enc_token, ids))
        x = self.text.run(x, _reading(mask, memory), _first(x))
        with torch.autocast(x.device.type, enabled=False):  # in low precision many pairs would tie
            return self.itm_head(x[:, 0].to(self.itm_head.weight.dtype))

    def decode(self, words: Words, memory: Memory) -> Tensor:
        """Logits of the token after each one of the answers, (A, n, V).

        Args:
            words: answers (A, n); the first token becomes [DEC].
            memory: states (A, N, D) of the questions, as `fuse` gives them, and which are tokens of the question; of
                one question where all answers belong to it.

        Raises:
            UsageError: if the purpose is not `qa`.
        """
        self._require_decoder()
        x = self.decoder.embed(_starting_with(self.dec_token, words.ids))
        return self.decoder.head(self.decoder.run(x, _reading(words.mask, memory)))

    def decode_next(self, ids: Tensor, memory: Memory) -> Tensor:
        """Logits of the token after the last one, (A, V); ids (A, n) without padding, memory as in `decode`."""
        self._require_decoder()
        x = self.decoder.embed(_starting_with(self.dec_token, ids))
        context = _reading(torch.ones_like(ids, dtype=torch.bool), memory)
        last = torch.full_like(ids[:, 0], ids.shape[1] - 1)
        return self.decoder.head(self.decoder.run(x, context, last)[:, 0])

    def answer_words(self, answers: Sequence[str]) -> Words:
        """Answers as the decoder reads them, (A, n) with [DEC] first; on the decoder's device."""
        self._require_decoder()
        assert isinstance(self.spec.tokenizer, WordPiece)
        ids, mask = Words(*self.spec.tokenizer.encode(answers, self.spec.context_length)).without_padding()
        device = self.decoder.bias.device
        return Words(_starting_with(self.dec_token, ids).to(device), mask.to(device))

    def answer_texts(self, ids: Tensor) -> list[str]:
        """What ids (A, n) say, without special tokens."""
        assert isinstance(self.spec.tokenizer, WordPiece)
        return self.spec.tokenizer.decode(ids)

    def _require_decoder(self) -> None:
        if self.purpose != "qa":
            raise UsageError(f"{self.name} with purpose {self.purpose} has no answer decoder: set purpose to qa")

    def _require_joint_space(self) -> None:
        if self.purpose != "retrieval":
            raise UsageError(
                f"{self.name} with purpose {self.purpose} has no joint space of video and text: set purpose to "
                "retrieval, or choose another method"
            )


def _reading(mask: Tensor, memory: Memory) -> Context:
    return Context(attention_mask=mask[:, None, None], memory=memory)


def _first(x: Tensor) -> Tensor:
    """The row of each sequence that features are read at."""
    return torch.zeros(len(x), dtype=torch.long, device=x.device)


def _starting_with(token: int, ids: Tensor) -> Tensor:
    return torch.cat([torch.full_like(ids[:, :1], token), ids[:, 1:]], dim=1)


def _vision_block(native: Any) -> PreNormBlock:
    """A block with the parameters of a transformers `BlipEncoderLayer`."""
    with torch.device("meta"):
        attention = Attention(native.self_attn.embed_dim, native.self_attn.num_heads)
    attention.qkv, attention.out = native.self_attn.qkv, native.self_attn.projection
    mlp = native.mlp
    return PreNormBlock(attention, native.layer_norm1, native.layer_norm2, mlp.fc1, mlp.activation_fn, mlp.fc2)


def _fused(*layers: nn.Linear) -> nn.Linear:
    """One linear layer that gives the outputs of several, one after the other."""
    with torch.device("meta"):
        fused = nn.Linear(layers[0].in_features, sum(layer.out_features for layer in layers))
    fused.weight = nn.Parameter(torch.cat([layer.weight.detach() for layer in layers]))
    fused.bias = nn.Parameter(torch.cat([layer.bias.detach() for layer in layers]))
    return fused


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


def _create(config: dict[str, Any], purpose: Purpose, init_seed: int, device: torch.device) -> Any:
    """A transformers model with random weights that follow from `init_seed`; the global generator is not touched."""
    from transformers import BlipConfig, BlipForImageTextRetrieval, BlipForQuestionAnswering, BlipTextLMHeadModel

    with torch.random.fork_rng(devices=[]), device:
        torch.manual_seed(init_seed)
        if purpose == "retrieval":
            return BlipForImageTextRetrieval(BlipConfig.from_dict(config))
        model = BlipForQuestionAnswering(BlipConfig.from_dict(config))
        text: Any = copy.deepcopy(model.config.text_config)
        if text.encoder_hidden_size != text.hidden_size:  # transformers gives the decoder the width of vision
            text.encoder_hidden_size = text.hidden_size
            model.text_decoder = BlipTextLMHeadModel(text)
        return model


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
