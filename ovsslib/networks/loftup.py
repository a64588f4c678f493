"""LoftUp: a network that upsamples a vision tower's features, guided by the picture.

Source: Huang et al., "LoftUp: Learning a Coordinate-Based Feature Upsampler for Vision Foundation
Models", ICCV 2025, arXiv 2504.14032. Parameter names and shapes are those of the released weights
(`haiwen/loftup-clip` and kin), so that they load; the implementation is this project's own. Every
pixel of the guidance picture asks: Fourier codes of its place and colour, put through two
convolutions, attend to the low-resolution features in two layers.

The released network saw channel-normalised features while it was trained and ends in a
normalisation of its own, so its output does not live in CLIP's joint space with text;
`ovsslib.stages.upsampling` offers ways back.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovsslib import paths
from ovsslib.clip.checkpoints import read_state_dict
from ovsslib.errors import ModelError, RecipeError

_COLOUR_FREQUENCIES = 20
_GRID_FREQUENCIES = 5
_HEADS = 4
# Query pixels worked on at a time outside training: about 35 MB per tensor of activations at width
# 532.
_STRIP_PIXELS = 16384
_HUB_FILE = "pytorch_model.bin"


def _axis(length: int, like: Tensor) -> Tensor:
    """(length,) coordinates from -1 to 1, end points included."""
    return torch.linspace(-1, 1, length, device=like.device)


class FourierFeatures(nn.Module):
    """Sines and cosines of given maps at frequencies exp(-2) to exp(10), with learned phases.

    Args:
        maps: number of input maps. frequencies: number of frequencies.
        append: also give the input's colours (all maps but the two coordinates) unchanged at the
            end.
    """

    frequencies: Tensor

    def __init__(self, maps: int, frequencies: int, append: bool) -> None:
        super().__init__()
        self.append = append
        self.biases = nn.Parameter(torch.zeros(2, maps, frequencies))
        self.register_buffer(
            "frequencies", torch.exp(torch.linspace(-2, 10, frequencies)), persistent=False
        )

    def forward(self, maps: Tensor) -> Tensor:
        """(B, M, H, W) -> (B, 2 * F * M [+ M - 2], H, W): sines, then cosines, each frequency by
        frequency.
        """
        phases = (self.frequencies.view(1, -1, 1, 1, 1) * maps.unsqueeze(1)).flatten(1, 2)
        # The released code reshapes its (maps, frequencies) phases to (frequencies, maps) without
        # transposing.
        bias = self.biases.reshape(2, 1, -1, 1, 1)
        parts = [torch.sin(phases + bias[0]), torch.cos(phases + bias[1])]
        if self.append:
            parts.append(maps[:, 2:])
        return torch.cat(parts, 1)


class _ChannelNorm(nn.Module):
    """LayerNorm over the channels of a (B, C, H, W) map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, maps: Tensor) -> Tensor:
        return self.norm(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _Attention(nn.Module):
    """Cross-attention from pixels to patches, with the normalisation of both."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_q = nn.LayerNorm(width)
        self.norm_kv = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, _HEADS, batch_first=True)

    def keys_and_values(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, width) patches -> keys, values, each (B, heads, N, width / heads)."""
        width = patches.shape[-1]
        weight, bias = self.attention.in_proj_weight[width:], self.attention.in_proj_bias[width:]
        projected = F.linear(self.norm_kv(patches), weight, bias)
        k, v = projected.unflatten(-1, (2 * _HEADS, -1)).transpose(1, 2).chunk(2, 1)
        return k, v

    def forward(self, pixels: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, M, width) pixels -> what they gather, same shape."""
        gathered = F.scaled_dot_product_attention(self._queries(pixels), k, v)
        return self.attention.out_proj(gathered.transpose(1, 2).flatten(2))

    def weights(self, pixels: Tensor, k: Tensor) -> Tensor:
        """(B, M, N) attention weights, mean over heads; rows sum to 1."""
        q = self._queries(pixels)
        return (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1).mean(1)

    def _queries(self, pixels: Tensor) -> Tensor:
        width = pixels.shape[-1]
        weight, bias = self.attention.in_proj_weight[:width], self.attention.in_proj_bias[:width]
        q = F.linear(self.norm_q(pixels), weight, bias)
        return q.unflatten(-1, (_HEADS, -1)).transpose(1, 2)


class _FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Identity(),
            nn.Linear(hidden, width),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        return self.net(tokens)


class _CrossTransformer(nn.Module):
    def __init__(self, width: int, hidden: int, layers: int = 2) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(
            nn.ModuleList([_Attention(width), _FeedForward(width, hidden)]) for _ in range(layers)
        )

    def _pairs(self) -> list[tuple[_Attention, _FeedForward]]:
        layers: Any = self.layers  # a ModuleList does not tell what it holds
        return [(attention, feed) for attention, feed in layers]

    def prepare(self, patches: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of every layer; they are the same for all pixels."""
        return [attention.keys_and_values(patches) for attention, _ in self._pairs()]

    def forward(self, pixels: Tensor, prepared: list[tuple[Tensor, Tensor]]) -> Tensor:
        for (attention, feed), (k, v) in zip(self._pairs(), prepared, strict=True):
            pixels = pixels + attention(pixels, k, v)
            pixels = pixels + feed(pixels)
        return self.norm(pixels)

    def affinity(self, pixels: Tensor, prepared: list[tuple[Tensor, Tensor]]) -> Tensor:
        """(B, M, N) attention weights, mean over heads and layers."""
        total: Tensor | float = 0.0
        for (attention, feed), (k, v) in zip(self._pairs(), prepared, strict=True):
            total = total + attention.weights(pixels, k)
            pixels = pixels + attention(pixels, k, v)
            pixels = pixels + feed(pixels)
        return cast(Tensor, total) / len(self.layers)


class _ChannelNorm2d(nn.LayerNorm):
    """LayerNorm over channels with the released epsilon of the last layer."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, maps: Tensor) -> Tensor:
        return super().forward(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _Upsampler(nn.Module):
    """The network proper; :class:`LoftUp` adds the normalisation of its input."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        width = dim + 4 * _GRID_FREQUENCIES
        colour = 2 * 5 * _COLOUR_FREQUENCIES + 3
        self.lr_pe = FourierFeatures(2, _GRID_FREQUENCIES, append=False)
        # Index 0 stands for the guidance scaling, which has no parameters and needs the whole
        # picture.
        self.fourier_feat = nn.Sequential(
            nn.Identity(), FourierFeatures(5, _COLOUR_FREQUENCIES, append=True)
        )
        self.first_conv = nn.Sequential(
            _ChannelNorm(colour),
            nn.Conv2d(colour, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.final_conv = nn.Sequential(nn.Conv2d(width, dim, 1), _ChannelNorm2d(dim))
        self.ca_transformer = _CrossTransformer(width, dim)

    def patches(self, features: Tensor) -> Tensor:
        """(B, C, h, w) normalised features -> (B, h * w, C + 20) with their position codes."""
        batch, _, height, width = features.shape
        places = torch.meshgrid(_axis(height, features), _axis(width, features), indexing="ij")
        code = self.lr_pe(torch.stack(places)[None]).expand(batch, -1, -1, -1)
        return torch.cat([features, code], 1).flatten(2).transpose(1, 2)

    def queries(self, guidance: Tensor, start: int, stop: int) -> Tensor:
        """Rows start..stop of the convolved codes of scaled guidance (B, 3, H, W): (B, C + 20,
        rows, W).

        Only these rows and the two on either side that the convolutions look at are computed.
        """
        height, width = guidance.shape[-2:]
        norm, first, first_norm, first_act, second, second_norm, second_act = self.first_conv
        low, high = max(start - 2, 0), min(stop + 2, height)
        rows, columns = _axis(height, guidance)[low:high], _axis(width, guidance)
        places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]
        maps = torch.cat([places.expand(len(guidance), -1, -1, -1), guidance[:, :, low:high]], 1)
        code = norm(self.fourier_feat[1](maps))
        inner = slice(max(start - 1, 0), min(stop + 1, height))
        hidden = first_act(first_norm(_convolve(cast(nn.Conv2d, first), code, low, inner, height)))
        return second_act(
            second_norm(
                _convolve(cast(nn.Conv2d, second), hidden, inner.start, slice(start, stop), height)
            )
        )


def _convolve(
    layer: nn.Conv2d, rows: Tensor, first_row: int, target_rows: slice, height: int
) -> Tensor:
    """Rows `target_rows` of a 3x3 convolution with zero padding, given the input's rows from
    `first_row` on.
    """
    above, below = target_rows.start - 1, target_rows.stop + 1
    part = rows[:, :, max(above, 0) - first_row : min(below, height) - first_row]
    part = F.pad(part, (1, 1, max(-above, 0), max(below - height, 0)))
    return F.conv2d(part, layer.weight, layer.bias)


class LoftUp(nn.Module):
    """Upsamples features to the size of a guidance picture.

    Args:
        dim: channels of the features; dim + 20 must be a multiple of 4. 512 for CLIP ViT-B/16:
            7,165,462 parameters.
        guidance_scaling: colours are scaled to [-0.5, 0.5] by the least and greatest value per
            channel of each "image" (default: the answer for a picture does not depend on its
            neighbours in the batch), or of the whole "batch" (released).

    It starts in evaluation mode, which its batch normalisation needs; call `train()` to train it.

    Raises RecipeError for other arguments.
    """

    def __init__(
        self, dim: int = 512, guidance_scaling: Literal["image", "batch"] = "image"
    ) -> None:
        super().__init__()
        if dim < 4 or dim % 4:
            raise RecipeError(
                f"LoftUp dim={dim}: give a multiple of 4, so that 4 heads share dim + 20"
            )
        if guidance_scaling not in ("image", "batch"):
            raise RecipeError(f"guidance_scaling={guidance_scaling!r}: choose 'image' or 'batch'")
        self.dim = dim
        self.guidance_scaling = guidance_scaling
        self.upsampler = _Upsampler(dim)
        self.channelnorm = _ChannelNorm(dim)
        self.eval()

    def forward(self, features: Tensor, guidance: Tensor) -> Tensor:
        """Features at the guidance's size.

        Args:
            features: (B, dim, h, w) float, not L2-normalised.
            guidance: (B, 3, H, W) float RGB in any affine scale per channel.

        Returns:
            (B, dim, H, W) float32, in the network's own (channel-normalised) space.

        Raises RecipeError if shapes do not fit. Outside training memory is bounded: rows go through
        in strips, and no gradients are recorded unless the features ask for them.
        """
        with torch.set_grad_enabled(self._records(features)):
            strips = self._strips(features, guidance)
            if self._records(features) or self.training:
                return torch.cat([self._head(queries, kv) for _, queries, kv in strips], 2)
            size = (len(features), self.dim, *guidance.shape[-2:])
            result = torch.empty(size, dtype=torch.float32, device=features.device)
            for rows, queries, kv in strips:
                result[:, :, rows] = self._head(queries, kv)
            return result

    def interpolate(self, features: Tensor, guidance: Tensor, values: Tensor) -> Tensor:
        """Spread low-resolution values by the network's attention: each pixel gets a convex
        combination.

        The attention is the mean over heads and layers. Args as in :meth:`forward`; values (B, V,
        h, w), on the grid of the features. Returns (B, V, H, W) float32.
        """
        flat = values.float().flatten(2).transpose(1, 2)
        parts = []
        with torch.set_grad_enabled(self._records(features)):
            for _, queries, kv in self._strips(features, guidance):
                pixels = queries.flatten(2).transpose(1, 2)
                mixed = self.upsampler.ca_transformer.affinity(pixels, kv) @ flat
                parts.append(mixed.transpose(1, 2).unflatten(2, queries.shape[-2:]))
        return torch.cat(parts, 2)

    def scale_guidance(self, guidance: Tensor) -> Tensor:
        """(B, 3, H, W) -> the same, each channel from -0.5 to 0.5 over the image or the batch."""
        axes = (2, 3) if self.guidance_scaling == "image" else (0, 2, 3)
        guidance = guidance.float()
        low, high = guidance.amin(axes, keepdim=True), guidance.amax(axes, keepdim=True)
        return (guidance - low) / (high - low).clamp_min(1e-4) - 0.5

    def _records(self, features: Tensor) -> bool:
        """Whether gradients are recorded."""
        return torch.is_grad_enabled() and (self.training or features.requires_grad)

    def _head(self, queries: Tensor, kv: list[tuple[Tensor, Tensor]]) -> Tensor:
        pixels = self.upsampler.ca_transformer(queries.flatten(2).transpose(1, 2), kv)
        return self.upsampler.final_conv(pixels.transpose(1, 2).unflatten(2, queries.shape[-2:]))

    def _strips(
        self, features: Tensor, guidance: Tensor
    ) -> Iterator[tuple[slice, Tensor, list[tuple[Tensor, Tensor]]]]:
        """Per strip of rows: the rows, their queries (B, width, rows, W), keys and values of all
        layers.
        """
        if features.ndim != 4 or features.shape[1] != self.dim or guidance.shape[1:2] != (3,):
            raise RecipeError(
                f"LoftUp takes features (B, {self.dim}, h, w) and guidance (B, 3, H, W), not "
                f"{tuple(features.shape)} and {tuple(guidance.shape)}"
            )
        if len(features) != len(guidance):
            raise RecipeError(f"LoftUp: {len(features)} feature maps for {len(guidance)} pictures")
        guidance = self.scale_guidance(guidance)
        kv = self.upsampler.ca_transformer.prepare(
            self.upsampler.patches(self.channelnorm(features.float()))
        )
        batch, _, height, width = guidance.shape
        # Batch statistics need all rows at once, and gradients keep them all anyway.
        at_once = self.training or self._records(features)
        step = height if at_once else max(1, _STRIP_PIXELS // (batch * width))
        for start in range(0, height, step):
            stop = min(start + step, height)
            yield slice(start, stop), self.upsampler.queries(guidance, start, stop), kv


def load_loftup(
    source: str | Path,
    dim: int | None = None,
    guidance_scaling: Literal["image", "batch"] = "image",
    download: bool = False,
) -> LoftUp:
    """A LoftUp with weights, in evaluation mode.

    Args:
        source: file (`.safetensors`, or a PyTorch file that is read with weights only), or the name
            of a repository of the Hugging Face hub such as "haiwen/loftup-clip" (its
            `pytorch_model.bin` is used).
        dim: expected number of channels, checked; None takes that of the file.
        guidance_scaling: see :class:`LoftUp`.
        download: whether a repository that is not in the local cache may be downloaded (29 MB).

    Raises ModelError: file missing, damaged, incomplete, or of another width; hub not reachable.
    """
    file = weights_file(source, download)
    state = _released_names(read_state_dict(file)[0], file)
    width = state["upsampler.final_conv.0.weight"].shape[0]
    if dim is not None and width != dim:
        raise ModelError(
            f"{file} upsamples {width} channels, and {dim} are needed; choose other weights"
        )
    net = LoftUp(width, guidance_scaling)
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(f"{file} does not fit LoftUp({width}): {str(error)[:400]}") from None
    return net.eval().requires_grad_(False)


def weights_file(source: str | Path, download: bool = False) -> Path:
    """The file of LoftUp weights that `source` names (see :func:`load_loftup`). Raises ModelError if it is missing."""
    return Path(source) if paths.is_file(source) else _hub_file(str(source), download)


def _hub_file(name: str, download: bool) -> Path:
    looks_like_file = (
        name.endswith((".bin", ".pt", ".pth", ".ckpt", ".safetensors")) or name.count("/") != 1
    )
    if looks_like_file:
        raise ModelError(
            f"LoftUp weights {name!r} are not a file; give a path or 'haiwen/loftup-clip'"
        )
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, _HUB_FILE, local_files_only=not download))
    except Exception as error:  # noqa: BLE001 - the hub client raises its transport's own errors
        remedy = (
            "check the network and the name"
            if download
            else f"load_loftup({name!r}, download=True) fetches them, or give the path of a file"
        )
        raise ModelError(
            f"LoftUp weights {name!r}: {_HUB_FILE} is not to be had "
            f"({type(error).__name__}); {remedy}"
        ) from None


def _released_names(state: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Keys as in the released wrapper; older training checkpoints call `channelnorm` `model.1`."""
    names = {}
    for key, value in state.items():
        if key.startswith("model.1.norm."):
            key = "channelnorm" + key.removeprefix("model.1")
        if key.startswith(("upsampler.", "channelnorm.")):
            names[key] = value.float() if value.is_floating_point() else value
    if "upsampler.final_conv.0.weight" not in names or "channelnorm.norm.weight" not in names:
        bare = "final_conv.0.weight" in state
        raise ModelError(
            f"{file} lacks LoftUp's `upsampler.*` or `channelnorm.*` entries; "
            + (
                "it is the upsampler alone (`model.safetensors` of the hub): use pytorch_model.bin"
                if bare
                else "it is not a LoftUp checkpoint"
            )
        )
    return names
