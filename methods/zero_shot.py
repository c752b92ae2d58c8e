"""Zero-shot: the backbone as it is."""

from petl_bench.backbones.base import Backbone
from petl_bench.method import Method


class ZeroShot(Method):
    """The pretrained backbone with mean pooling over frames; nothing is trained."""

    trainable = False

    def inject(self, backbone: Backbone) -> None:
        """Adds nothing."""
