import numpy as np
import pytest
from PIL import Image

from maskgit_jax.configuration import InputError
from maskgit_jax.evaluation.plots import plot_posteriors


def test_plot_colors_active_and_inactive_units(tmp_path):
    kl, activity = np.array([2.0, 0.0, 1.0]), np.array([0.9, 0.0, 0.8])
    path = tmp_path / "new" / "posterior.png"
    colors = {}
    for name, values in (("mixed", activity), ("all", np.ones(3))):
        plot_posteriors(path, kl, values, np.array([1e-2, 1.0]), np.array([0.3, 0.6]))
        pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
        colors[name] = {tuple(pixel) for pixel in np.unique(pixels, axis=0).tolist()}
    red = (214, 39, 40)
    assert red in colors["mixed"] and red not in colors["all"]
    assert [file.name for file in path.parent.iterdir()] == ["posterior.png"]


@pytest.mark.parametrize("epsilons", [[0.0, 1.0], [0.1]])
def test_plot_refuses_invalid_epsilons(tmp_path, epsilons):
    with pytest.raises(InputError, match="epsilons"):
        plot_posteriors(
            tmp_path / "x.png", np.ones(2), np.ones(2), np.array(epsilons), np.array([0.5, 0.5])
        )
