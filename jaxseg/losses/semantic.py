"""Semantic losses: cross-entropy weighted by class and by nearness of a border, and overlaps of whole classes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxseg.losses import Scalar
from jaxseg.types import IGNORED, Outputs, Sum, Targets


def class_weights(frequencies: Float[Array, " c"], epsilon: Scalar = 1.02, power: Scalar = 1.0) -> Float[Array, " c"]:
    r"""Weight of each class by its frequency, bounded by epsilon.

    .. math:: w_c = \log(f_c + \epsilon)^{-\text{power}}

    Args:
      frequencies: share of each class among the labeled pixels of the training set, in [0, 1].
      epsilon: > 1; 1.02 bounds the weights by 50.
      power: 1 as in the paper, 0.5 for its root, 0 for uniform weights. High weights cost mask sharpness.

    Returns:
      Weights, all positive.

    References:
      Milioto et al., ICRA 2019, eq. 2; the exponent is ours.
    """
    return jnp.log(frequencies + epsilon) ** -power


def cross_entropy(
    outputs: Outputs, targets: Targets, class_weights: Float[Array, " c"], correction: Scalar = 0.0
) -> Sum:
    r"""Cross-entropy of each element's class, weighted by class.

    .. math:: -\frac{1}{P} \sum_p w_{c(p)} \log \mathrm{softmax}(z_p + \rho \log w)_{c(p)}

    Weights w make a network say a class w times as often as it is right, so that masks of rare classes grow. With a
    correction of 1 the bias stays inside the loss, and the logits z are those of the classes as they occur.

    Args:
      outputs: class logits z (h, w, c); the other heads are not read.
      targets: class ids on the same grid; 255 is left out.
      class_weights: weight w of each class, >= 0; > 0 where there is a correction.
      correction: rho, 0 for the paper's equation, 1 for unbiased logits.

    Returns:
      Summed loss and the number of elements that are not ignored (whatever their weights).

    References:
      Milioto et al., ICRA 2019, eq. 1 (rho = 0); Menon et al., Long-tail learning via logit adjustment, ICLR 2021,
      whose general loss has weights and adjustments.
    """
    return _weighted_cross_entropy(_biased(outputs, class_weights, correction), targets, class_weights[None, None])


def _biased(outputs: Outputs, class_weights: Float[Array, " c"], correction: Scalar) -> Float[Array, "h w c"]:
    """The logits with the bias that class weights bring, finite where a class weighs nothing."""
    bias = jnp.log(jnp.maximum(class_weights, jnp.finfo(class_weights.dtype).tiny))
    return outputs.semantic + correction * bias[None, None]


def boundary_cross_entropy(
    outputs: Outputs,
    targets: Targets,
    class_weights: Float[Array, " c"],
    weight: Scalar,
    radius: int = 1,
    correction: Scalar = 0.0,
) -> Sum:
    r"""Cross-entropy weighted by class, and more near the borders of instances and classes.

    .. math:: -\frac{1}{P} \sum_p w_{c(p)} (1 + w\,[p \text{ near a border}]) \log \hat{y}_{p, c(p)}

    An element is near a border where one within `radius` elements of it, diagonals included, is of another class or
    another instance. Ignored elements are no neighbors. Instances that found no row are told from others, but not from
    one another.

    Args:
      outputs: class logits (h, w, c); the other heads are not read.
      targets: class ids and instances on the same grid; 255 is left out.
      class_weights: weight of each class, >= 0.
      weight: w, what a border adds to the weight of 1, >= 0; with 0 it is `cross_entropy`.
      radius: how far a border reaches, in grid elements, >= 0 (static); 1 is the 3 x 3 neighbors.
      correction: of the class weights' bias, as in `cross_entropy`.

    Returns:
      Summed loss and the number of elements that are not ignored (whatever their weights).

    Raises:
      ValueError: `radius` is negative.

    References:
      Ronneberger et al., U-Net, MICCAI 2015, eq. 2, whose weights fall off smoothly with the distance to the two
      nearest cells; the step, and borders of classes, are ours.
    """
    if radius < 0:
        raise ValueError(f"`radius` must be at least 0: got {radius}.")
    border = _near_border(targets, radius)[..., None]
    weights = class_weights[None, None] * (1 + weight * border)
    return _weighted_cross_entropy(_biased(outputs, class_weights, correction), targets, weights)


def dice(outputs: Outputs, targets: Targets) -> Sum:
    r"""One less the soft Dice overlap of each class, averaged over the classes that the image shows.

    .. math:: \frac{1}{C} \sum_c \left( 1 - \frac{2 \sum_p y_{p,c}\, \hat{y}_{p,c}}{\sum_p y_{p,c}^2 + \sum_p
      \hat{y}_{p,c}^2} \right)

    Every class weighs the same, however few elements it has; background is one of them. A class that the image does
    not show has no overlap to speak of: what is predicted of it lacks in the others.

    Args:
      outputs: class logits (h, w, c); the other heads are not read.
      targets: class ids on the same grid; 255 is left out.

    Returns:
      (loss in [0, 1], 1), or (0, 0) with every element ignored.

    References:
      Milletari et al., V-Net, 3DV 2016, section 3, for one class; the mean over classes is ours. Sudre et al., DLMIA
      2017, weigh classes by the inverse of their squared size instead.
    """
    is_class = _is_class(outputs.semantic, targets)
    probs = jnp.where(_counted(targets)[..., None], jax.nn.softmax(outputs.semantic, axis=-1), 0.0)
    overlaps = 2 * jnp.sum(is_class * probs, axis=(0, 1))
    # At least 1 of a class that is there; the others are not looked at, but must not make 0 / 0.
    sizes = jnp.maximum(jnp.sum(is_class + probs**2, axis=(0, 1)), 1.0)
    return _mean_of_present(1 - overlaps / sizes, is_class)


def lovasz_softmax(outputs: Outputs, targets: Targets) -> Sum:
    r"""Lovász extension of one less the intersection over union, averaged over the classes that the image shows.

    .. math::
      \frac{1}{C} \sum_c \sum_i m_{\pi_i} (\Delta_c(\{\pi_1 .. \pi_i\}) - \Delta_c(\{\pi_1 .. \pi_{i-1}\})), \quad
      m_p = |y_{p,c} - \hat{y}_{p,c}|, \quad \Delta_c(M) = \frac{|M|}{|M \cup \{y_c = 1\}|}

    with pi the elements by falling error m. Of predictions that are certain it is one less the mean IoU of the image.

    Args:
      outputs: class logits (h, w, c); the other heads are not read.
      targets: class ids on the same grid; 255 is left out.

    Returns:
      (loss in [0, 1], 1), or (0, 0) with every element ignored.

    References:
      Berman, Triki and Blaschko, CVPR 2018, definition 2 and algorithm 1.
    """
    is_class, counted = _is_class(outputs.semantic, targets), _counted(targets)[..., None]
    probs = jax.nn.softmax(outputs.semantic, axis=-1)
    errors = jnp.where(is_class, 1 - probs, probs)
    # Between two orders the extension is linear, so its weights are constants, and no gradient passes the sort. Errors
    # are at least 0: with -1 the ignored come last, and leave the others' weights alone.
    order_by = jax.lax.stop_gradient(jnp.where(counted, errors, -1.0))
    elements = (-1, errors.shape[-1])
    weights = jax.vmap(_jaccard_weights, -1, -1)(order_by.reshape(elements), is_class.reshape(elements))
    terms = jnp.where(counted, weights.reshape(errors.shape) * errors, 0.0)
    return _mean_of_present(jnp.sum(terms, axis=(0, 1)), is_class)


def _jaccard_weights(errors: Float[Array, " p"], truth: Bool[Array, " p"]) -> Float[Array, " p"]:
    """What each element adds to one less the IoU, if elements turn wrong one after another by falling error."""
    order = jnp.argsort(-errors)
    hit = truth[order].astype(errors.dtype)
    kept = jnp.sum(hit) - jnp.cumsum(hit)
    union = jnp.sum(hit) + jnp.cumsum(1 - hit)
    # The differences in closed form: those of neighboring IoUs would cancel. One of the class that is missed takes an
    # element from the intersection; any other that is taken for it adds one to the union.
    steps = jnp.where(hit > 0, 1 / union, kept / (union * jnp.maximum(union - 1, 1.0)))
    return jnp.zeros_like(errors).at[order].set(steps, unique_indices=True)


def _near_border(targets: Targets, radius: int) -> Bool[Array, "h w"]:
    """Counted elements that have one of another class or instance within radius."""
    counted, largest = _counted(targets), jnp.iinfo(jnp.int32).max
    label = targets.instance.astype(jnp.int32) * (IGNORED + 1) + targets.semantic
    window = ((2 * radius + 1,) * 2, (1, 1), "SAME")
    low = jax.lax.reduce_window(jnp.where(counted, label, largest), largest, jax.lax.min, *window)
    high = jax.lax.reduce_window(jnp.where(counted, label, -1), -1, jax.lax.max, *window)
    return counted & ((low != label) | (high != label))


def _weighted_cross_entropy(logits: Float[Array, "h w c"], targets: Targets, weights: Float[Array, "_ _ c"]) -> Sum:
    """Cross-entropy with a weight for each class at each element, or at all."""
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    loss = -jnp.sum(jnp.where(_is_class(logits, targets), weights * log_probs, 0.0))
    return Sum(loss, jnp.sum(_counted(targets), dtype=loss.dtype))


def _counted(targets: Targets) -> Bool[Array, "h w"]:
    return targets.semantic != IGNORED


def _is_class(logits: Float[Array, "h w c"], targets: Targets) -> Bool[Array, "h w c"]:
    """One-hot labels. A mask, not an index: the gradient of indexing is a scatter, which is slow. 255 is no class."""
    return targets.semantic[..., None] == jnp.arange(logits.shape[-1])[None, None]


def _mean_of_present(losses: Float[Array, " c"], is_class: Bool[Array, "h w c"]) -> Sum:
    """Mean over the classes that the image shows, counted as one image where there is any."""
    present = jnp.any(is_class, axis=(0, 1))
    number = jnp.sum(present, dtype=losses.dtype)
    mean = jnp.sum(jnp.where(present, losses, 0.0)) / jnp.maximum(number, 1.0)
    return Sum(mean, (number > 0).astype(losses.dtype))
