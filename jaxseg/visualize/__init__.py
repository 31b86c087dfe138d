"""Pictures of maps and masks, for people. NumPy and OpenCV, on the host; Pillow, for text, is imported when needed.

Every function takes one image and returns a new uint8 RGB image (H, W, 3).
"""

from jaxseg.visualize.colors import class_colors, palette
from jaxseg.visualize.maps import embedding_colors, heatmap, marked, semantic_colors, side_by_side, superpixel_edges
from jaxseg.visualize.objects import overlay
from jaxseg.visualize.views import views

__all__ = [
    "class_colors",
    "embedding_colors",
    "heatmap",
    "marked",
    "overlay",
    "palette",
    "semantic_colors",
    "side_by_side",
    "superpixel_edges",
    "views",
]
