"""Makes image_metrics.safetensors: what the published tools say of features that `hashed` of tests/support/golden.rs repeats.

    python make.py EVALUATOR DISTANCE

EVALUATOR is evaluations/evaluator.py of openai/guided-diffusion (22e0df8), DISTANCE is distance.py of
sayakpaul/cmmd-pytorch (f7673a9). Made with tensorflow-cpu 2.21.0, torch 2.15.0, torch-fidelity 0.4.0, prdc 0.2, numpy 2.4.6.
"""

import multiprocessing
import sys

import numpy as np
from safetensors.numpy import save_file


def module(path):
    names = {"__name__": "module"}
    # numpy has dropped this alias since.
    exec(open(path).read().replace("np.bool)", "bool)"), names)
    return names


def hashed(name, *shape):
    base = 0xCBF29CE484222325
    for byte in name.encode():
        base = (base ^ byte) * 0x100000001B3 % 2**64
    with np.errstate(over="ignore"):
        # Seed 1 of the golden set.
        golden = np.uint64(0x9E3779B97F4A7C15)
        z = np.arange(np.prod(shape), dtype=np.uint64) + np.uint64(base) + golden + golden
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return ((z >> np.uint64(40)).astype(np.float32) / np.float32(2**23) - np.float32(1)).reshape(shape)


def features(name, n, d, scale, narrow, shift):
    """On a plane of six dimensions, so that neighbours are much nearer than others."""
    plane = hashed(f"{name}_plane", n, 6) * np.float32(narrow) + np.float32(shift)
    return (plane[:, np.arange(d) % 6] + np.float32(1)) * (hashed("weights", d) + np.float32(1)) * np.float32(scale)


def pair(tag, n, m, d, scale):
    return features(f"{tag}_samples", n, d, scale, 0.875, 0.25), features(f"{tag}_reference", m, d, scale, 1, 0)


# Of more than one tile; as wide as Inception's features; so long that half precision overflows.
SETS = {"tiles": pair("tiles", 300, 260, 64, 1), "wide": pair("wide", 60, 50, 2048, 1), "long": pair("long", 40, 40, 64, 100)}
LOGITS = hashed("logits", 130, 20) * np.float32(6)


def adm(path):
    import tensorflow.compat.v1 as tf

    evaluator, out = module(path), {}
    tf.disable_eager_execution()
    with tf.Session() as session:
        manifold = evaluator["ManifoldEstimator"](session)
        for tag, (samples, reference) in SETS.items():
            radii = manifold.manifold_radii(reference), manifold.manifold_radii(samples)
            precision, recall = manifold.evaluate_pr(reference, radii[0], samples, radii[1])
            out[f"{tag}_half"] = np.array([precision[0], recall[0]])

        class Softmax:
            def run(self, _, feed_dict):
                return session.run(tf.nn.softmax(feed_dict["x"]))

        score = evaluator["Evaluator"].__new__(evaluator["Evaluator"])
        score.softmax_batch_size, score.sess, score.softmax, score.softmax_input = 512, Softmax(), None, "x"
        out["isc_consecutive"] = np.array([score.compute_inception_score(LOGITS, split_size=50)])
    return out


def others(path):
    import torch
    from prdc import compute_prdc
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    out = {}
    for tag, (samples, reference) in SETS.items():
        prc = prc_features_to_metric(
            torch.from_numpy(samples), torch.from_numpy(reference),
            prc_neighborhood=3, prc_batch_size=10000, save_cpu_ram=False, verbose=False,
        )
        out[f"{tag}_single"] = np.array([prc["precision"], prc["recall"]])
        more = compute_prdc(real_features=reference, fake_features=samples, nearest_k=3)
        out[f"{tag}_density"] = np.array([more["density"], more["coverage"]])

    samples, reference = SETS["tiles"]
    kid = kid_features_to_metric(
        torch.from_numpy(samples), torch.from_numpy(reference), kid_subsets=7, kid_subset_size=50, rng_seed=2020,
        verbose=False, kid_kernel="poly", kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1.0,
    )
    out["kid"] = np.array([kid["kernel_inception_distance_mean"], kid["kernel_inception_distance_std"]])

    isc = isc_features_to_metric(torch.from_numpy(LOGITS), splits=10, shuffle=True, rng_seed=2020)
    out["isc_shuffled"] = np.array([isc["inception_score_mean"], isc["inception_score_std"]])

    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (samples, reference))
    out["cmmd"] = np.array([module(path)["mmd"](x, y).item()])
    x, y = (v.astype(np.float64) for v in (x, y))
    kernel = lambda a, b: np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / 200).mean()
    # The same formula without the rounding.
    out["cmmd_f64"] = np.array([1000 * (kernel(x, x) + kernel(y, y) - 2 * kernel(x, y))])
    return out


if __name__ == "__main__":
    out = {}
    for part, path in zip((adm, others), sys.argv[1:]):
        # TensorFlow and torch do not load into one process.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            out |= pool.apply(part, (path,))
    save_file(out, "image_metrics.safetensors")
    for name, value in out.items():
        print(name, value)
