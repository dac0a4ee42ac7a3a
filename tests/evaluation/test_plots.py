import numpy as np
import pytest
from PIL import Image

from maskgit_jax.configuration import InputError
from maskgit_jax.evaluation.evaluate import better
from maskgit_jax.evaluation.plots import posterior_plot


def test_a_plot_shows_active_and_inactive_units_in_their_colours(tmp_path):
    kl, active = np.array([2.0, 0.0, 1.0]), np.array([0.9, 0.0, 0.8])
    path = tmp_path / "new" / "posterior.png"
    colours = {}
    for name, statistic in (("mixed", active), ("all", np.ones(3))):
        posterior_plot(path, kl, statistic, np.array([1e-2, 1.0]), np.array([0.3, 0.6]))
        pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
        colours[name] = {tuple(pixel) for pixel in np.unique(pixels, axis=0).tolist()}
    red = (214, 39, 40)
    assert red in colours["mixed"] and red not in colours["all"]
    assert [file.name for file in path.parent.iterdir()] == ["posterior.png"]


@pytest.mark.parametrize("epsilons", [[0.0, 1.0], [0.1]])
def test_a_plot_refuses_epsilons_that_do_not_fit(tmp_path, epsilons):
    with pytest.raises(InputError, match="epsilons"):
        posterior_plot(
            tmp_path / "x.png", np.ones(2), np.ones(2), np.array(epsilons), np.array([0.5, 0.5])
        )


def test_figures_of_levels_have_the_direction_of_their_kind():
    assert better("codebook_usage") == better("codebook_perplexity_top") == "higher"
    assert better("reconstruction_mse_top_only") == better("token_cross_entropy") == "lower"
