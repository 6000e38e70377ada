"""Torsos: networks that turn observations into features.

Each part of an observation is read by its own kind, images and grids by a convolutional network;
what they give is put side by side and goes through one MLP.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from purejaxppo.assertions import chex
from purejaxppo.errors import ConfigError
from purejaxppo.policies.layers import bias_apart, convolve, orthogonal
from purejaxppo.spaces import (
    PIXELS,
    Box,
    Discrete,
    MultiDiscrete,
    Space,
    SpaceTree,
    entries,
    is_within,
    one_hot,
    without_mask,
)
from purejaxppo.types import Obs

Activation = Callable[[Array], Array]
"""A function of an array, number by number."""

GAIN = 2**0.5
"""The scale of initial weights in hidden layers."""

Dense = partial(nn.Dense, kernel_init=orthogonal(GAIN), promote_dtype=bias_apart)
"""A dense layer with our initial weights, of the dtype that it is given; its sums are float32."""

Conv = partial(
    nn.Conv,
    kernel_init=orthogonal(GAIN),
    conv_general_dilated=convolve,
    promote_dtype=bias_apart,
)
"""A convolution with our initial weights and gradients; its dtype and sums are as of `Dense`."""


class MLP(nn.Module):
    """Dense layers, each followed by a layer norm if there is one, and the activation.

    Attributes:
        sizes: outputs of each layer.
        activation: after each layer.
        layer_norm: whether there is one, before the activation.
        dtype: of products and activations; parameters are float32, and so are sums over features
            in a layer norm.
    """

    sizes: tuple[int, ...]
    activation: Activation
    layer_norm: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [..., F] to [..., sizes[-1]]."""
        for size in self.sizes:
            x = Dense(size, dtype=self.dtype)(x).astype(self.dtype)
            x = self.activation(nn.LayerNorm(dtype=self.dtype)(x) if self.layer_norm else x)
        return x


class GridCNN(nn.Module):
    """One 3 x 3 convolution of 16 features: the MinAtar network (arXiv:1903.03176)."""

    activation: Activation
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [B, height, width, channels] to [B, ...]."""
        conv = Conv(16, (3, 3), padding="VALID", dtype=self.dtype)
        return self.activation(conv(x).astype(self.dtype))


class NatureCNN(nn.Module):
    """Three convolutions for images of 84 x 84 (Mnih et al. 2015, doi:10.1038/nature14236)."""

    activation: Activation
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [B, height, width, channels] to [B, ...]."""
        for features, size, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
            conv = Conv(features, (size, size), (stride, stride), padding="VALID", dtype=self.dtype)
            x = self.activation(conv(x).astype(self.dtype))
        return x


class ImpalaCNN(nn.Module):
    """Three stages of a convolution, a pool and two residual blocks (arXiv:1802.01561, fig. 3)."""

    activation: Activation
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [B, height, width, channels] to [B, ...]."""
        for features in (16, 32, 32):
            conv = partial(Conv, features, (3, 3), dtype=self.dtype)
            # half the height and width, then two sums of the input and what was made of it
            x = nn.max_pool(conv()(x).astype(self.dtype), (3, 3), (2, 2), "SAME")
            for _ in range(2):
                y = conv()(self.activation(x)).astype(self.dtype)
                x = (x + conv()(self.activation(y))).astype(self.dtype)
        return self.activation(x)


IMAGE_TORSOS: dict[str, type[GridCNN] | type[NatureCNN] | type[ImpalaCNN]] = {
    "cnn": GridCNN,
    "nature": NatureCNN,
    "impala": ImpalaCNN,
}
"""Networks that read [height, width, channels], by the name in `PPOConfig.torso`."""

MOST_CHANNELS = 4
"""Of images whose channels come first: more would be a height."""

SMALLEST = {"cnn": 3, "nature": PIXELS, "impala": 3}
"""The least height and width that each can read, by the same names."""


class Torso(nn.Module):
    """A network from an observation, of one part or many, to features.

    Attributes:
        names: of the entries of the observation that are read; none: all, without a mask.
        spaces: of the arrays in them.
        kinds: what reads each of them: `mlp`, or a name in IMAGE_TORSOS, see `torso_for`.
        sizes: of the MLP.
        activation: of all layers.
        layer_norm: of the MLP.
        dtype: of products and activations, and of the features.
    """

    names: tuple[str, ...]
    spaces: tuple[Space, ...]
    kinds: tuple[str, ...]
    sizes: tuple[int, ...]
    activation: Activation
    layer_norm: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, obs: Obs) -> Array:
        """Maps [B, *O] to [B, sizes[-1]]; masks are left to the distributions."""
        parts = [part for name, part in entries(obs) if is_within(name, self.names)]
        given = zip(self.spaces, self.kinds, parts, strict=True)
        features = [self._read(*each) for each in given]
        mlp = MLP(self.sizes, self.activation, self.layer_norm, self.dtype)
        return mlp(jnp.concatenate(features, -1))

    def _read(self, space: Space, kind: str, x: Array) -> Array:
        """Maps one part of the observations [B, *O] to features [B, F]."""
        chex.assert_rank(x, 1 + len(space.shape))
        # names are neither near to nor far from each other, as numbers would say
        if isinstance(space, Discrete | MultiDiscrete):
            return one_hot(space, x).astype(self.dtype)
        # grids of bytes become 0 .. 1; other numbers are left to the run's normalisation
        x = x.astype(jnp.float32)
        if isinstance(space, Box) and space.dtype == jnp.uint8 and space.is_grid:
            x = x / float(space.high.max())
        if kind != "mlp":
            x = IMAGE_TORSOS[kind](self.activation, self.dtype)(x)
        return x.reshape(x.shape[0], -1).astype(self.dtype)


def torso_for(name: str, space: Space) -> str:
    """Returns which network reads a part of an observation.

    Args:
        name: of the torso; `auto`: the Nature CNN for images, the small one for other grids.
        space: of the part.

    Returns:
        `mlp`, or a name in IMAGE_TORSOS.
    """
    if not isinstance(space, Box) or not space.is_grid:
        return "mlp"
    return ("nature" if space.is_image else "cnn") if name == "auto" else name


def check_torso(name: str, observation: SpaceTree) -> None:
    """Checks that a torso can read the observations of an environment.

    Args:
        name: of the torso, as in `PPOConfig.torso`.
        observation: spaces (`EnvSpec.observation`).

    Raises:
        ConfigError: it cannot, or there is nothing to read.
    """
    parts = jax.tree.leaves(without_mask(observation))
    if not parts:
        raise ConfigError("the observation holds nothing but a mask: add what it depends on")
    for part in parts:
        _check_channels(name, part)
    if name in ("auto", "mlp"):
        return
    # a name asks for images: one at least must be there, and each large enough
    shapes = ", ".join(str(list(part.shape)) for part in parts)
    size = SMALLEST[name]
    if not any(isinstance(part, Box) and part.is_grid for part in parts):
        raise ConfigError(
            f"torso={name!r} needs observations [height, width, channels], not {shapes}: use "
            "torso='mlp'"
        )
    if any(torso_for(name, part) == name and min(part.shape[:2]) < size for part in parts):
        raise ConfigError(
            f"torso={name!r} needs images of at least {size} x {size}, not {shapes}: use "
            "torso='cnn'"
        )


def _check_channels(name: str, space: Space) -> None:
    """Checks that an image has its channels last, where a network is to read it.

    Raises:
        ConfigError: they come first, as in PyTorch.
    """
    if not isinstance(space, Box) or len(space.shape) != 3:
        return
    channels, *size = space.shape
    read = torso_for(name, space) != "mlp" or name in IMAGE_TORSOS
    if read and channels <= MOST_CHANNELS and min(size) >= PIXELS:
        raise ConfigError(
            f"an image {list(space.shape)} must be [height, width, channels]: transpose it to "
            f"{[*size, channels]}, or use torso='mlp'"
        )
