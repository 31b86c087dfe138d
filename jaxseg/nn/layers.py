"""Convolutions and batch norm as every network of this package uses them.

Images and features are (b, h, w, c); kernels are (h, w, in, out). Parameters and batch statistics are float32 always;
the computation runs in the ``dtype`` of the module.
"""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.typing import DTypeLike
from jaxtyping import Array, Float

Activation = Callable[[Array], Array]


@dataclasses.dataclass(frozen=True)
class Norm:
    """How batch norm normalizes.

    Attributes:
      axis_name: mapped axis over which the statistics of a training batch are averaged; None keeps them per device.
      frozen: use the running statistics in training too, and leave them as they are.
      momentum: weight of the old value in the running statistics, in [0, 1).
      epsilon: added to the variance, > 0.
    """

    axis_name: str | None = None
    frozen: bool = False
    momentum: float = 0.9
    epsilon: float = 1e-5


def freeze(norm: Norm, frozen: bool) -> Norm:
    """The same settings, with the running statistics frozen if so asked."""
    return dataclasses.replace(norm, frozen=True) if frozen else norm


def rematerialized(block: Any, remat: bool) -> Any:
    """A block's class, called with (x, train) or (x, skip, train); with ``remat`` one that keeps its inputs alone.

    What is inside is computed again when the gradient asks for it.

    Args:
      block: class of modules; its last argument, train, is static.
      remat: whether to.
    """
    last = len(inspect.signature(block.__call__).parameters) - 1
    return nn.remat(block, static_argnums=(last,)) if remat else block


def divisible(channels: float | int, divisor: int = 8) -> int:
    """Nearest multiple of the divisor that is not more than 10 % below the wanted number of channels.

    Args:
      channels: wanted number of channels, > 0.
      divisor: what the result is a multiple of.

    Returns:
      The multiple, at least one divisor.

    References:
      Sandler et al., MobileNetV2, CVPR 2018 (the rule of its published code).
    """
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * channels else nearest


class Stage(NamedTuple):
    """How one stage of an encoder runs at a given output stride.

    Attributes:
      stride: of its first convolution: what is left of the published one.
      first: dilation of its first convolution.
      rest: dilation of the others.
      total: stride of its features.
      published: stride of its first convolution, as published.
    """

    stride: int
    first: int
    rest: int
    total: int
    published: int


def stages(strides: Sequence[int], output: int) -> tuple[Stage, ...]:
    """Replaces strides beyond the output stride by dilation.

    The convolution that loses its stride keeps the dilation before it, and those after it take the greater one, so that
    every element of the coarse features is found, unchanged, among the finer ones.

    Args:
      strides: published stride of each stage.
      output: wanted output stride, 32, 16 or 8.

    Returns:
      One row a stage.

    Raises:
      ValueError: the output stride is none of 32, 16 and 8.

    References:
      Chen et al., DeepLab, TPAMI 2018.
    """
    if output not in (8, 16, 32):
        raise ValueError(f"`stride` must be 32, 16 or 8: got {output}.")
    rows, total, dilation = [], 1, 1
    for stride in strides:
        step = stride if total < output else 1
        first, dilation, total = dilation, dilation * stride // step, total * step
        rows.append(Stage(step, first, dilation, total, stride))
    return tuple(rows)


Pads = tuple[tuple[int, int], tuple[int, int]]
"""Zeros before and after: rows, then columns."""


def pads(
    size: tuple[int, int],
    window: int,
    stride: int = 1,
    dilation: int = 1,
    padding: str = "symmetric",
    published: int = 0,
) -> Pads:
    """Zeros around an input, so that a window of odd size gives ceil(h / stride) x ceil(w / stride) outputs.

    "symmetric" centers the window on every stride-th input, as PyTorch and Darknet pad. "same" is TensorFlow's: as few
    zeros as will do, and the odd one below and to the right, so that at stride 2 even sizes shift by one and odd sizes
    do not. Where a published stride became dilation, the size that the published network would have seen here decides,
    so that its features are found among the dilated ones.

    Args:
      size: (h, w) of the input.
      window: taps along each axis, odd.
      stride: distance between output positions, in input positions.
      dilation: distance between the taps, in input positions.
      padding: "symmetric" or "same".
      published: stride that the weights were trained with; 0 for ``stride``.

    Returns:
      Zeros before and after, for rows and columns.

    References:
      TensorFlow, tf.nn.convolution, "SAME" padding.
    """

    def along(n: int) -> tuple[int, int]:
        reach = dilation * (window - 1)
        before = reach // 2
        if padding == "same":
            seen, step = -(-n // dilation), published or stride
            before = max((-(-seen // step) - 1) * step + window - seen, 0) // 2 * dilation
        return before, max((-(-n // stride) - 1) * stride + reach + 1 - n - before, 0)

    return along(size[0]), along(size[1])


def standardized(
    images: Float[Array, "b H W 3"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "b H W 3"]:
    """Images as an encoder's weights expect them.

    Args:
      images: RGB in [0, 1].
      mean: of each channel, subtracted.
      std: of each channel, divided by.

    Returns:
      (images - mean) / std.
    """
    if not any(mean) and set(std) == {1.0}:
        return images
    return (images - jnp.array(mean)) / jnp.array(std)


def convolution(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw ci o"],
    stride: int = 1,
    dilation: int = 1,
    around: Pads | None = None,
    groups: int = 1,
) -> Float[Array, "b oh ow o"]:
    """Convolution; unless told otherwise it pads evenly, so that strides do not shift features as 'SAME' does.

    A 1x1 convolution is a product of matrices, and runs as one. On CPU an image's few channels run two columns at once,
    and a 3x3 window over many channels by Winograd's algorithm, within about 1e-6 of the plain sum.

    Args:
      x: features.
      kernel: one square window of odd size for each output channel; ci = c / groups.
      stride: distance between output positions, in input positions.
      dilation: distance between the taps of the window, in input positions.
      around: zeros around x, as `pads` gives them; None for its symmetric ones.
      groups: number of groups of channels that see only one another.

    Returns:
      Features of size ceil(h / stride), ceil(w / stride).
    """
    if kernel.shape[:2] == (1, 1) and stride == 1 and groups == 1:
        return x @ kernel[0, 0]
    around = around or pads(_size(x), kernel.shape[0], stride, dilation)
    plain = partial(_convolution, stride=(stride, stride), dilation=dilation, around=around, groups=groups)
    thin = x.shape[-1] <= 4 and x.shape[2] % 2 == 0 and stride <= 2 and dilation == groups == 1
    centered = kernel.shape[0] == 3 and around == ((dilation, dilation), (dilation, dilation))
    whole = all(n % (2 * dilation) == 0 for n in _size(x)) and x.dtype == jnp.float32
    if thin:
        cpu: Any = partial(_thin_convolution, stride=stride, around=around)
    elif centered and whole and stride == groups == 1 and min(kernel.shape[2:]) >= 64:
        cpu = partial(_winograd, dilation=dilation)
    else:
        return plain(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=cpu, default=plain)


def _convolution(x: Array, kernel: Array, stride: tuple[int, int], dilation: int, around: Pads, groups: int) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=stride,
        padding=around,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _thin_convolution(x: Array, kernel: Array, stride: int, around: Pads) -> Array:
    """Convolution of few channels: pairs of columns become one of twice the channels, in and out, with nothing moved.

    The window grows by zeros to whole pairs. XLA's convolution on CPU is three to four times faster for it at c = 3.
    """
    (b, h, w, c), (rows, taps, _, o), (above_below, (before, _)) = x.shape, kernel.shape, around
    outputs = 2 // stride
    first, last = -before, stride * (outputs - 1) - before + taps - 1
    left, right = -(first // 2), max(last // 2, 0)
    wide = jnp.zeros((rows, 2 * (left + 1 + right), c, outputs, o), kernel.dtype)
    for i in range(outputs):
        start = 2 * left + stride * i - before
        wide = wide.at[:, start : start + taps, :, i].set(kernel)
    wide = wide.reshape(rows, left + 1 + right, 2 * c, outputs * o)
    pairs = x.reshape(b, h, w // 2, 2 * c)
    y = _convolution(pairs, wide, (stride, 1), 1, (above_below, (left, right)), 1)
    return y.reshape(b, y.shape[1], w // stride, o)


def _winograd(x: Array, kernel: Array, dilation: int) -> Array:
    r"""3x3 convolution of even sizes at stride 1, padded by the dilation: F(2x2, 3x3), with 16 products for 36.

    .. math:: Y = A^T [(G k G^T) \odot (B^T d B)] A

    for tiles d of 4 x 4 elements that overlap by two, summed over channels as 16 products of matrices. Derivatives are
    those of the plain convolution.

    References:
      Lavin and Gray, Fast algorithms for convolutional neural networks, CVPR 2016, section 4.1.
    """

    def forward(x: Array, kernel: Array) -> Array:
        grids = _split_grids(x, dilation)
        (_, h, w, _), padded = grids.shape, _padded(grids, ((1, 1), (1, 1)))
        # Rows, then columns, of tiles and windows; then the same of products.
        tiles = [
            tile
            for row in _winograd_input([lax.slice_in_dim(padded, i, i + h - 1, 2, axis=1) for i in range(4)])
            for tile in _winograd_input([lax.slice_in_dim(row, i, i + w - 1, 2, axis=2) for i in range(4)])
        ]
        windows = [part for row in _winograd_kernel(kernel) for part in _winograd_kernel(row)]
        products = [tile @ window for tile, window in zip(tiles, windows, strict=True)]
        columns = [_winograd_output(products[j::4]) for j in range(4)]
        rows = [jnp.stack(_winograd_output([column[i] for column in columns]), axis=3) for i in range(2)]
        return _join_grids(jnp.stack(rows, axis=2).reshape(*grids.shape[:3], -1), dilation)

    plain = partial(_convolution, stride=(1, 1), dilation=dilation, around=((dilation,) * 2,) * 2, groups=1)
    run = jax.custom_jvp(forward)

    @partial(run.defjvp, symbolic_zeros=True)
    def _(given: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
        (x, k), (dx, dk) = given, tangents
        moved = [plain(dx, k)] if not isinstance(dx, SymbolicZero) else []
        moved += [plain(x, dk)] if not isinstance(dk, SymbolicZero) else []
        return forward(x, k), sum(moved[1:], moved[0])

    return run(x, kernel)


def _split_grids(x: Array, dilation: int) -> Array:
    """Every dilation-th row and column as an image of its own: a dilated window becomes a dense one."""
    b, h, w, c = x.shape
    parts = x.reshape(b, h // dilation, dilation, w // dilation, dilation, c).transpose(0, 2, 4, 1, 3, 5)
    return parts.reshape(b * dilation**2, h // dilation, w // dilation, c)


def _join_grids(x: Array, dilation: int) -> Array:
    """Undoes `_split_grids`."""
    b, h, w, c = x.shape
    parts = x.reshape(b // dilation**2, dilation, dilation, h, w, c).transpose(0, 3, 1, 4, 2, 5)
    return parts.reshape(b // dilation**2, h * dilation, w * dilation, c)


def _winograd_input(d: Sequence[Array]) -> tuple[Array, ...]:
    """B^T d along one axis."""
    return d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]


def _winograd_kernel(k: Array) -> tuple[Array, ...]:
    """G k along the first axis."""
    return k[0], (k[0] + k[1] + k[2]) / 2, (k[0] - k[1] + k[2]) / 2, k[2]


def _winograd_output(m: Sequence[Array]) -> tuple[Array, ...]:
    """A^T m along one axis."""
    return m[0] + m[1] + m[2], m[1] - m[2] - m[3]


def _size(x: Array) -> tuple[int, int]:
    return x.shape[1], x.shape[2]


def _padded(x: Array, around: Pads) -> Array:
    return jnp.pad(x, ((0, 0), *around, (0, 0)))


def _taps(x: Array, stride: int, dilation: int, around: Pads) -> list[Array]:
    """The nine shifted views of x that a 3x3 window multiplies, row by row."""
    b, h, w, c = x.shape
    padded = _padded(x, around)
    oh, ow = -(-h // stride), -(-w // stride)
    starts = [(dilation * i, dilation * j) for i in range(3) for j in range(3)]
    ends = [(i + (oh - 1) * stride + 1, j + (ow - 1) * stride + 1) for i, j in starts]
    return [
        lax.slice(padded, (0, *start, 0), (b, *end, c), (1, stride, stride, 1))
        for start, end in zip(starts, ends, strict=True)
    ]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _depthwise_shifted(x: Array, kernel: Array, stride: int, dilation: int, around: Pads) -> Array:
    return _shifted(x, kernel, stride, dilation, around)


def depthwise_shifted(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "3 3 1 c"],
    stride: int = 1,
    dilation: int = 1,
    around: Pads | None = None,
) -> Float[Array, "b oh ow c"]:
    """Depthwise 3x3 convolution as nine shifted multiply-adds, which CPUs run far faster than a grouped convolution."""
    return _depthwise_shifted(x, kernel, stride, dilation, around or pads(_size(x), 3, stride, dilation))


def _shifted(x: Array, kernel: Array, stride: int, dilation: int, around: Pads) -> Array:
    weights = kernel.astype(jnp.float32).reshape(9, 1, 1, 1, -1)
    taps = _taps(x, stride, dilation, around)
    return sum(tap * weight for tap, weight in zip(taps, weights, strict=True)).astype(x.dtype)


def _shifted_forward(
    x: Array, kernel: Array, stride: int, dilation: int, around: Pads
) -> tuple[Array, tuple[Array, Array]]:
    return _shifted(x, kernel, stride, dilation, around), (x, kernel)


def _shifted_backward(
    stride: int, dilation: int, around: Pads, saved: tuple[Array, Array], grad: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    if stride == 1:
        (top, bottom), (left, right) = around
        dx = _shifted(grad, kernel[::-1, ::-1], 1, dilation, ((bottom, top), (right, left)))
    else:
        (dx,) = jax.linear_transpose(lambda x: _shifted(x, kernel, stride, dilation, around), x)(grad)
    return dx, _kernel_gradient(x, grad, stride, dilation, around).astype(kernel.dtype)


def _kernel_gradient(x: Array, grad: Array, stride: int, dilation: int, around: Pads) -> Array:
    """Sums over rows first: elementwise, in cache. Nine reductions of whole features are up to 20 times slower."""
    b, _, _, c = x.shape
    _, oh, ow, _ = grad.shape
    padded = _padded(x, around)

    def add_row(row: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        g = lax.dynamic_slice_in_dim(grad, row, 1, axis=1)[:, 0].astype(jnp.float32)
        lines = [lax.dynamic_slice_in_dim(padded, row * stride + dilation * i, 1, axis=1)[:, 0] for i in range(3)]
        ends = [(dilation * j, dilation * j + (ow - 1) * stride + 1) for j in range(3)]
        taps = [lax.slice(line, (0, a, 0), (b, z, c), (1, stride, 1)) for line in lines for a, z in ends]
        return tuple(total + tap * g for total, tap in zip(sums, taps, strict=True))

    sums = lax.fori_loop(0, oh, add_row, (jnp.zeros((b, ow, c), jnp.float32),) * 9)
    return jnp.stack([total.sum((0, 1)) for total in sums]).reshape(3, 3, 1, c)


_depthwise_shifted.defvjp(_shifted_forward, _shifted_backward)


def depthwise_grouped(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "3 3 1 c"],
    stride: int = 1,
    dilation: int = 1,
    around: Pads | None = None,
) -> Float[Array, "b oh ow c"]:
    """Depthwise 3x3 convolution as a convolution of c groups, the form that accelerators have kernels for."""
    return convolution(x, kernel, stride, dilation, around, groups=x.shape[-1])


def depthwise(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "3 3 1 c"],
    stride: int = 1,
    dilation: int = 1,
    around: Pads | None = None,
) -> Float[Array, "b oh ow c"]:
    r"""Convolves every channel with a 3x3 window of its own, in the form that suits the platform it is compiled for.

    .. math:: y_{ijc} = \sum_{u,v \in \lbrace -1,0,1 \rbrace} k_{uvc} \, x_{si + du,\, sj + dv,\, c}

    Args:
      x: features.
      kernel: one window a channel, in the layout of a grouped convolution.
      stride: s, 1 or 2.
      dilation: d, in input positions.
      around: zeros around x; None for those of `pads`, symmetric, as the equation has it.

    Returns:
      Features of size ceil(h / stride), ceil(w / stride).
    """
    return lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: depthwise_shifted(x, kernel, stride, dilation, around),
        default=lambda x, kernel: depthwise_grouped(x, kernel, stride, dilation, around),
    )


def upsample(x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c"]:
    """Doubles height and width bilinearly; equal to ``jax.image.resize`` with half-pixel centers, without its matrices.

    Repeating each element and blurring with (1, 2, 1) / 4 gives bilinear weights (3, 1) / 4; edges are replicated.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        before = jnp.concatenate(
            [lax.slice_in_dim(x, 0, 1, axis=axis), lax.slice_in_dim(x, 0, size - 1, axis=axis)], axis
        )
        after = jnp.concatenate(
            [lax.slice_in_dim(x, 1, size, axis=axis), lax.slice_in_dim(x, size - 1, size, axis=axis)], axis
        )
        pair = jnp.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
        x = pair.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
    return x


def normalize(x: Float[Array, "b h w c"], train: bool, norm: Norm, dtype: DTypeLike) -> Float[Array, "b h w c"]:
    """Batch norm named "norm" inside the calling module, with float32 statistics.

    Args:
      x: features.
      train: use the batch's statistics, unless frozen, and update the running ones.
      norm: settings.
      dtype: of the result.

    Returns:
      Scaled and shifted features.
    """
    batch = train and not norm.frozen
    return nn.BatchNorm(
        use_running_average=not batch,
        axis_name=norm.axis_name if batch else None,
        momentum=norm.momentum,
        epsilon=norm.epsilon,
        dtype=dtype,
        name="norm",
    )(x)


class Convolution(nn.Module):
    """Convolution, batch norm and activation.

    Attributes:
      features: output channels.
      size: of the square window, odd.
      stride: distance between output positions.
      dilation: distance between taps.
      padding: of windows, see `pads`.
      published: stride that the weights were trained with, where another became dilation; 0 for ``stride``.
      depthwise: each channel has a 3x3 window of its own; ``features`` must be the input's.
      activation: applied last; None for a linear block.
      norm: batch norm's settings.
      dtype: of the computation; parameters are float32.
    """

    features: int
    size: int = 1
    stride: int = 1
    dilation: int = 1
    padding: str = "symmetric"
    published: int = 0
    depthwise: bool = False
    activation: Activation | None = nn.relu
    norm: Norm = Norm()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b oh ow o"]:
        """Runs the block; h and w shrink by the stride."""
        inputs = 1 if self.depthwise else x.shape[-1]
        shape = (self.size, self.size, inputs, self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape, jnp.float32).astype(self.dtype)
        apply = depthwise if self.depthwise else convolution
        around = pads(_size(x), self.size, self.stride, self.dilation, self.padding, self.published)
        x = apply(x.astype(self.dtype), kernel, self.stride, self.dilation, around)
        x = normalize(x, train, self.norm, self.dtype)
        return x if self.activation is None else self.activation(x)
