"""An independent classifier: does an image show what was asked for?"""

import numpy as np
from sklearn.svm import SVC


class PixelClassifier:
    """A support vector machine on pixels, trained on real images; it knows no network of ours.

    Args:
        images: uint8 [N, H, W, C].
        labels: int [N].
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        self._machine = SVC(C=10.0, gamma="scale").fit(_flat(images), labels)

    def accuracy(self, images: np.ndarray, labels: np.ndarray) -> float:
        """Returns the share of images [M, H, W, C] recognised as their label."""
        return float((self._machine.predict(_flat(images)) == labels).mean())


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32) / 255.0
