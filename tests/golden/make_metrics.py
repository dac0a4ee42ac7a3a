"""Writes metrics.npz: metrics of published programs on the inputs below.

Needs torch, torchvision, torch-fidelity 0.4.0, prdc 0.2, scikit-image and scipy, none of which
the package needs:  python tests/golden/make_metrics.py
Only the metrics are stored; the tests generate the same inputs from the seed.
"""

from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("metrics.npz")


def features() -> tuple[np.ndarray, np.ndarray]:
    """Returns float64 [600, 16] and [600, 16], correlated, with means apart."""
    rng = np.random.default_rng(1)
    mixing = rng.normal(size=(16, 16)) / 4.0
    one = rng.normal(size=(600, 16)) @ mixing
    other = 1.1 * rng.normal(size=(600, 16)) @ mixing + 0.1 * rng.normal(size=16)
    return one, other


def logits() -> np.ndarray:
    """Returns float64 [500, 10]."""
    return 2.0 * np.random.default_rng(2).normal(size=(500, 10))


def images() -> tuple[np.ndarray, np.ndarray]:
    """Returns float32 [4, 24, 20, 3] in [-1, 1] and the same with noise, not smooth nor flat."""
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[0:24, 0:20] / 6.0
    waves = [np.sin(rows + i) * np.cos(columns * i) for i in range(4)]
    image = np.stack(waves)[..., None] * np.asarray([0.9, 0.5, 0.2])
    noise = np.asarray([0.01, 0.05, 0.2, 0.5])[:, None, None, None] * rng.normal(size=image.shape)
    return image.astype(np.float32), np.clip(image + noise, -1, 1).astype(np.float32)


def feature_metrics() -> dict[str, object]:
    """Metrics of torch-fidelity, scipy and prdc."""
    import torch

    # torchvision's compiled half is not needed, and missing where it does not fit torch.
    register, torch.library.register_fake = torch.library.register_fake, lambda *_, **__: id
    import torch_fidelity.metric_fid
    import torch_fidelity.metric_isc
    import torch_fidelity.metric_kid
    from prdc import compute_prdc
    from scipy.linalg import sqrtm

    torch.library.register_fake = register
    one, other = (torch.from_numpy(array) for array in features())
    statistics = [torch_fidelity.metric_fid.fid_features_to_statistics(x) for x in (one, other)]
    first, second = statistics
    difference = first["mu"] - second["mu"]
    root = sqrtm(first["sigma"] @ second["sigma"]).real
    kid = torch_fidelity.metric_kid.kid_features_to_metric(
        one, other, kid_subsets=1, kid_subset_size=len(one), verbose=False
    )
    kid_subsets = torch_fidelity.metric_kid.kid_features_to_metric(
        one, other, kid_subsets=400, kid_subset_size=100, verbose=False
    )
    score = torch_fidelity.metric_isc.isc_features_to_metric(
        torch.from_numpy(logits()), splits=5, shuffle=False
    )
    balls = compute_prdc(*features(), nearest_k=3)
    density = compute_prdc(*features(), nearest_k=5)
    return dict(
        frechet_fidelity=torch_fidelity.metric_fid.fid_statistics_to_metric(*statistics, False)[
            "frechet_inception_distance"
        ],
        frechet_sqrtm=difference @ difference
        + np.trace(first["sigma"] + second["sigma"] - 2.0 * root),
        kernel=kid["kernel_inception_distance_mean"],
        kernel_subsets=[kid_subsets[f"kernel_inception_distance_{k}"] for k in ("mean", "std")],
        score=[score[f"inception_score_{k}"] for k in ("mean", "std")],
        manifold=[balls["precision"], balls["recall"], density["density"], density["coverage"]],
    )


def image_metrics() -> dict[str, object]:
    """Metrics of scikit-image, each [4]."""
    from skimage import metrics

    pairs = [
        tuple((x.astype(np.float64) + 1) / 2 for x in pair) for pair in zip(*images(), strict=True)
    ]
    settings = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    return dict(
        mean_squared_error=[metrics.mean_squared_error(*pair) for pair in pairs],
        psnr=[metrics.peak_signal_noise_ratio(*pair, data_range=1) for pair in pairs],
        ssim=[
            metrics.structural_similarity(*pair, data_range=1, channel_axis=-1, **settings)
            for pair in pairs
        ],
    )


if __name__ == "__main__":
    values = feature_metrics() | image_metrics()
    np.savez(FILE, **{name: np.asarray(value, np.float64) for name, value in values.items()})
    for name, value in values.items():
        print(name, np.asarray(value))
