"""Top-k accuracy of classifiers: sums that merge, one division at the end."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from jaxseg.metrics.sums import Sums

K = 5


@dataclasses.dataclass(frozen=True)
class TopK(Sums):
    """Images and right answers of each class.

    Attributes:
      images: of each class.
      first: those whose class has the largest logit.
      fifth: those whose class is among the five largest.
      loss: summed cross-entropy, without smoothing.
    """

    images: Float[np.ndarray, "c"]
    first: Float[np.ndarray, "c"]
    fifth: Float[np.ndarray, "c"]
    loss: float

    @classmethod
    def empty(cls, classes: int) -> "TopK":
        """No images."""
        return cls(np.zeros(classes), np.zeros(classes), np.zeros(classes), 0.0)

    @classmethod
    def of(cls, logits: Float[np.ndarray, "b c"], labels: Int[np.ndarray, "b"]) -> "TopK":
        """Counts of a batch.

        A class that ties with others for the k-th place counts as right only where fewer than k of all classes have a
        logit at least as large, so that a constant answer earns nothing.

        Args:
          logits: of each image.
          labels: class ids of the images.
        """
        classes = logits.shape[1]
        exact = logits.astype(np.float64)
        own = exact[np.arange(len(labels)), labels]
        # NaN is larger than nothing: a rank of 0, which is none.
        rank = (exact >= own[:, None]).sum(1)
        top = exact.max(1)
        loss = top + np.log(np.exp(exact - top[:, None]).sum(1)) - own

        def count(which: np.ndarray) -> np.ndarray:
            return np.bincount(labels[which], minlength=classes).astype(np.float64)

        images = count(np.ones(len(labels), bool))
        return cls(images, count(rank == 1), count((rank >= 1) & (rank <= K)), float(loss.sum()))

    def compute(self) -> dict[str, float]:
        """Shares "top1" and "top5" of all images, and their mean "loss"; NaN without images."""
        images = self.images.sum()
        with np.errstate(invalid="ignore", divide="ignore"):
            values = np.array([self.first.sum(), self.fifth.sum(), self.loss]) / images
        return dict(zip(("top1", "top5", "loss"), map(float, values), strict=True))

    def by_class(self) -> tuple[list[float], list[float], list[float]]:
        """Top-1 and top-5 shares of each class (NaN without images), and its number of images."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return (self.first / self.images).tolist(), (self.fifth / self.images).tolist(), self.images.tolist()
