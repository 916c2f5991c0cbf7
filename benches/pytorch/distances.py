#!/usr/bin/env python3
"""The cases of benches/distances.rs in SciPy, PyTorch and torch-fidelity 0.4.

    pip install torch scipy torch-fidelity
    benches/pytorch/distances.py [CASE...] [--threads 2]

`frechet` computes the general matrix square root, as pytorch-fid and the ADM suite do.
`frechet-eigh` solves two symmetric eigenproblems in PyTorch; erw has no separate case for it.
`pr-half` computes distances like the ADM suite, in PyTorch.
"""
import harness

WIDE = 2048


def features(seed, n, dim):
    import torch
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)).abs()


def gaussian(seed):
    import numpy as np
    x = features(seed, 3000, WIDE).double().numpy()
    return x.mean(0), np.cov(x, rowvar=False)


def frechet():
    import numpy as np
    from scipy import linalg
    (m1, s1), (m2, s2) = gaussian(0), gaussian(1)
    return lambda: ((m1 - m2) ** 2).sum() + np.trace(s1 + s2 - 2 * linalg.sqrtm(s1 @ s2).real)


def frechet_eigh():
    import torch
    (m1, s1), (m2, s2) = (tuple(torch.from_numpy(v) for v in gaussian(seed)) for seed in (0, 1))

    def run():
        w, v = torch.linalg.eigh(s1)
        half = v * w.clamp_min(0).sqrt()
        roots = torch.linalg.eigvalsh(half.T @ s2 @ half).clamp_min(0).sqrt()
        return (m1 - m2).square().sum() + s1.trace() + s2.trace() - 2 * roots.sum()

    return run


def covariance():
    import numpy as np
    x = features(0, 1024, WIDE).double().numpy()
    return lambda: np.cov(x, rowvar=False)


def precision_recall(half):
    import torch
    from torch_fidelity.metric_prc import calculate_precision_recall_full
    a, b = features(0, 10_000, WIDE), features(1, 4000, WIDE)
    if not half:
        return lambda: calculate_precision_recall_full(a, b, 3, 10_000)

    def distances(u, v):
        norms = [x.square().sum(1) for x in (u, v)]
        return (norms[0][:, None] - 2 * (u @ v.T) + norms[1]).clamp_min(0)

    def run():
        u, v = a.half(), b.half()
        radii = [distances(x, x).kthvalue(4).values for x in (u, v)]
        between = distances(v, u)
        return (between <= radii[1][:, None]).any(0).float().mean(), (between <= radii[0]).any(1).float().mean()

    return run


def kid():
    from torch_fidelity.metric_kid import kid_features_to_metric
    a, b = features(0, 5000, WIDE), features(1, 5000, WIDE)
    return lambda: kid_features_to_metric(
        a, b, kid_subsets=100, kid_subset_size=1000, rng_seed=2020, verbose=False, kid_kernel="poly",
        kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1.0)


def cmmd():
    import torch
    a, b = (torch.nn.functional.normalize(features(seed, 5000, 768)) for seed in (0, 1))

    def mean(x, y):
        return torch.exp(-(x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T) / 200).mean()

    return lambda: 1000 * (mean(a, a) + mean(b, b) - 2 * mean(a, b))


CASES = {
    "frechet": frechet, "frechet-eigh": frechet_eigh, "covariance": covariance,
    "pr-half": lambda: precision_recall(True), "pr-single": lambda: precision_recall(False), "kid": kid, "cmmd": cmmd,
}


def measure(case, threads, repeats):
    import torch
    torch.set_num_threads(threads)
    # Slow cases are repeated only once: their first run is no slower than the next.
    repeats = 1 if case in ("frechet", "pr-half", "pr-single", "kid") else repeats
    with torch.inference_mode():
        run = CASES[case]()
        seconds = harness.best(run, repeats)
    peak = harness.peak_mib()
    return dict(seconds=seconds, peak_mib=peak, matmul_gflops=harness.matmul_gflops())


if __name__ == "__main__":
    harness.main(__file__, __doc__, CASES, "samples/s", measure)
