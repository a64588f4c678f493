"""DeepLabV3 in small: torchvision's head on a narrow residual trunk (Chen et al., "Rethinking Atrous Convolution for
Semantic Image Segmentation", 2017), for pictures of a few hundred pixels.

Stride 8 throughout: the last group of blocks is dilated instead of strided, as in the paper. The atrous rates of the
pyramid are those of the paper's larger pictures, divided to the smaller grid.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ovsslib import (
    _torchvision,  # noqa: F401 - must come before anything that imports torchvision
)
from ovsslib.errors import ModelError

STRIDE = 8


class SmallDeepLab(nn.Module):
    """The network; called like torchvision's segmentation models, it answers {"out": logits}.

    Attributes:
        labels: number of labels. stem: channels of the first convolution. planes, blocks: width and number of the
            bottlenecks at stride 4, at stride 8, and dilated at stride 8 (each gives 4 * planes channels).
        rates: atrous rates of the pyramid, in cells of stride 8.

    Raises ModelError for numbers that make no network.
    """

    def __init__(
        self,
        labels: int,
        stem: int = 32,
        planes: Sequence[int] = (16, 32, 32),
        blocks: Sequence[int] = (2, 4, 6),
        rates: Sequence[int] = (4, 8, 12),
    ) -> None:
        from torchvision.models.resnet import Bottleneck
        from torchvision.models.segmentation.deeplabv3 import DeepLabHead
        from torchvision.ops.misc import Conv2dNormActivation

        super().__init__()
        numbers = (labels, stem, *planes, *blocks, *rates)
        if len(planes) != 3 or len(blocks) != 3 or not rates or min(numbers) < 1:
            raise ModelError(
                f"labels {labels}, stem {stem}, planes {list(planes)}, blocks {list(blocks)}, rates {list(rates)}: give "
                "three planes, three blocks and one or more rates, all 1 or more"
            )
        layers: list[nn.Module] = [Conv2dNormActivation(3, stem, 3, stride=2)]
        width = stem
        for narrow, count, stride, dilation in zip(
            planes, blocks, (2, 2, 1), (1, 1, 2), strict=True
        ):
            for index in range(count):
                step = stride if index == 0 else 1
                wide = narrow * Bottleneck.expansion
                skip = None
                if step != 1 or width != wide:
                    skip = Conv2dNormActivation(width, wide, 1, step, activation_layer=None)
                layers.append(Bottleneck(width, narrow, step, skip, dilation=dilation))
                width = wide
        self.trunk = nn.Sequential(*layers)
        self.head = DeepLabHead(width, labels, tuple(rates))

    def logits(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) normalised pixels -> (B, labels, H / 8, W / 8), rounded up."""
        return self.head(self.trunk(pixels))

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) normalised pixels -> {"out": logits (B, labels, H, W)}."""
        logits = self.logits(pixels)
        size = pixels.shape[-2:]
        return {"out": F.interpolate(logits, size=size, mode="bilinear", align_corners=False)}
