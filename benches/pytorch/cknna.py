#!/usr/bin/env python3
"""The PyTorch counterpart of benches/cknna.rs: the same metrics of two random representations.

    benches/pytorch/cknna.py [CASE...] [--threads 2] [--repeats 3]

Written to save memory: similarities are computed one block of rows at a time, followed by `topk`;
masked matrices are sparse tensors; CKA needs no Gram matrices.
"""
from harness import best, main, matmul_gflops, peak_mib

SAMPLES, DIM, K, BLOCK, EPS = 10_000, 768, 10, 512, 1e-6


def nearest(x):
    """Similarities and indices `[n, k]` of the k nearest neighbours, excluding the row itself."""
    import torch
    values, indices = [], []
    for start in range(0, len(x), BLOCK):
        block = x[start:start + BLOCK] @ x.T
        own = torch.arange(len(block))
        block[own, start + own] = -torch.inf
        value, index = block.topk(K, dim=1)
        values.append(value)
        indices.append(index)
    return torch.cat(values), torch.cat(indices)


def sparse(indices, values):
    import torch
    rows = torch.arange(SAMPLES).repeat_interleave(K)
    return torch.sparse_coo_tensor(torch.stack([rows, indices.flatten()]), values.flatten().double(),
                                   (SAMPLES, SAMPLES)).coalesce()


def hsic(a, b):
    """Unbiased HSIC of sparse matrices with zero diagonals."""
    import torch
    m = SAMPLES
    sums = torch.sparse.sum(a) * torch.sparse.sum(b)
    crossed = torch.sparse.sum(a, 0).to_dense() @ torch.sparse.sum(b, 1).to_dense()
    both = torch.sparse.sum(a * b.t().coalesce())
    return (both + sums / ((m - 1) * (m - 2)) - 2 * crossed / (m - 2)) / (m * (m - 3))


def cknna(x, y):
    import torch
    (kx, ix), (ky, iy) = nearest(x), nearest(y)
    k, l = sparse(ix, kx), sparse(iy, ky)
    mask_k, mask_l = sparse(ix, torch.ones_like(kx)), sparse(iy, torch.ones_like(ky))
    return hsic(k * mask_l, l * mask_k) / ((hsic(k, k) * hsic(l, l)).sqrt() + EPS)


def mutual_knn(x, y):
    (_, a), (_, b) = nearest(x), nearest(y)
    return (a[:, :, None] == b[:, None, :]).sum() / (SAMPLES * K)


def cka(x, y):
    """Unbiased CKA in double precision, from centred features."""
    x, y = x.double(), y.double()
    x, y = x - x.mean(0), y - y.mean(0)
    m = SAMPLES

    def of(x, y):
        p, q = (x * x).sum(1), (y * y).sum(1)
        both, sums = (p * q).sum(), p.sum() * q.sum()
        cross = (x.T @ y).square().sum()
        return (cross - both + sums / ((m - 1) * (m - 2)) - 2 * both / (m - 2)) / (m * (m - 3))

    return of(x, y) / ((of(x, x) * of(y, y)).sqrt() + EPS)


CASES = {"cknna": cknna, "cka": cka, "mutual-knn": mutual_knn}


def measure(case, threads, repeats):
    import torch
    from torch.nn.functional import normalize
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    with torch.inference_mode():
        x, y = torch.randn(SAMPLES, DIM), torch.randn(SAMPLES, DIM)
        seconds = best(lambda: CASES[case](normalize(x), normalize(y)), repeats)
        return dict(seconds=seconds, count=SAMPLES, peak_mib=peak_mib(), matmul_gflops=matmul_gflops())


if __name__ == "__main__":
    main(__file__, __doc__, list(CASES), "images/s", measure)
