//! The fused CPU kernels of convolutional networks equal plain candle operations, forward and
//! backward; their gradients equal finite differences; their bits do not depend on the number of
//! threads.

use candle_core::{Device, Result, Tensor, Var};
use erw::ml::kernels::avg_pool;
use erw::ml::kernels::avg_pool::{Pool, pool3x3};
use erw::ml::kernels::conv;
use erw::ml::kernels::conv::{Padding, conv2d, conv2d_relu};
use erw::ml::kernels::group_norm;
use erw::ml::kernels::group_norm::{Activation, group_norm};
use erw::ml::kernels::upsample;
use erw::ml::rng::{Purpose, normal_rows};

fn random(sample: u64, shape: &[usize]) -> Result<Tensor> {
    normal_rows(5, Purpose::Probe, 0, &[sample], shape, &Device::Cpu)?.squeeze(0)
}

/// max |a - b| / max(1, max |b|)
fn distance(a: &Tensor, b: &Tensor) -> Result<f32> {
    assert_eq!(a.dims(), b.dims());
    let scale = b.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?.max(1.0);
    Ok((a - b)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()? / scale)
}

/// The value of `f` and its gradients with respect to every variable under a fixed random linear
/// functional.
fn probe(vars: &[Var], f: &dyn Fn(&[Tensor]) -> Result<Tensor>) -> Result<(Tensor, Vec<Tensor>)> {
    let args: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let y = f(&args)?;
    let grads = (&y * random(99, y.dims())?)?.sum_all()?.backward()?;
    let grads = vars.iter().map(|v| grads.get(v).expect("every variable gets a gradient").clone()).collect();
    Ok((y, grads))
}

fn assert_twins(
    name: &str,
    vars: &[Var],
    fused: &dyn Fn(&[Tensor]) -> Result<Tensor>,
    plain: &dyn Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<()> {
    let (y, gy) = probe(vars, fused)?;
    let (z, gz) = probe(vars, plain)?;
    assert!(distance(&y, &z)? < 1e-5, "{name}: forward {}", distance(&y, &z)?);
    for (i, (a, b)) in gy.iter().zip(&gz).enumerate() {
        assert!(distance(a, b)? < 2e-5, "{name}: gradient {i} {}", distance(a, b)?);
    }
    Ok(())
}

fn vars(shapes: &[&[usize]]) -> Result<Vec<Var>> {
    shapes.iter().enumerate().map(|(i, s)| Var::from_tensor(&random(i as u64, s)?)).collect()
}

const DOWN: Padding = Padding { top: 0, bottom: 1, left: 0, right: 1 };

/// Shapes of input and weights, stride, padding.
type Case = ([usize; 4], [usize; 4], (usize, usize), Padding);

/// x, weight, stride, padding: every way through the kernels (several images per tile, several
/// tiles per image, pointwise, several channel blocks, kernels larger than the image, strides
/// beyond the kernel).
fn cases() -> Vec<Case> {
    let sym = Padding::symmetric;
    vec![
        ([2, 3, 7, 5], [4, 3, 3, 3], (1, 1), sym(1, 1)),
        ([9, 2, 4, 4], [3, 2, 3, 3], (1, 1), sym(1, 1)),
        ([1, 5, 33, 21], [2, 5, 3, 3], (1, 1), sym(1, 1)),
        ([3, 33, 6, 6], [7, 33, 3, 3], (1, 1), sym(1, 1)),
        ([2, 4, 9, 8], [6, 4, 3, 3], (2, 2), DOWN),
        ([2, 4, 8, 8], [6, 4, 3, 3], (2, 2), DOWN),
        ([2, 3, 11, 9], [2, 3, 1, 7], (1, 1), sym(0, 3)),
        ([2, 3, 11, 9], [2, 3, 7, 1], (1, 1), sym(3, 0)),
        ([2, 3, 9, 12], [2, 3, 2, 3], (1, 3), Padding { top: 2, bottom: 0, left: 1, right: 4 }),
        ([2, 3, 17, 19], [5, 3, 1, 1], (1, 1), Padding::NONE),
        ([3, 300, 2, 2], [5, 300, 1, 1], (1, 1), Padding::NONE),
        ([2, 3, 8, 6], [5, 3, 1, 1], (2, 2), Padding::NONE),
        ([2, 3, 2, 2], [5, 3, 5, 5], (1, 1), sym(2, 2)),
        ([1, 2, 3, 3], [1, 2, 3, 3], (4, 4), Padding { top: 0, bottom: 4, left: 5, right: 0 }),
    ]
}

#[test]
fn convolution_equals_plain_candle() -> Result<()> {
    for (x, w, stride, padding) in cases() {
        let name = format!("{x:?} {w:?} {stride:?} {padding:?}");
        let v = vars(&[&x, &w, &[w[0]]])?;
        assert_twins(&name, &v, &|a| conv2d(&a[0], &a[1], Some(&a[2]), stride, padding), &|a| {
            conv::plain(&a[0], &a[1], Some(&a[2]), stride, padding)
        })?;
        assert_twins(&name, &v[..2], &|a| conv2d(&a[0], &a[1], None, stride, padding), &|a| {
            conv::plain(&a[0], &a[1], None, stride, padding)
        })?;
    }
    Ok(())
}

#[test]
fn rectified_convolution_equals_plain_candle() -> Result<()> {
    for (x, w, stride, padding) in cases() {
        let name = format!("{x:?} {w:?} {stride:?} {padding:?}");
        let v = vars(&[&x, &w, &[w[0]]])?;
        assert_twins(&name, &v, &|a| conv2d_relu(&a[0], &a[1], &a[2], stride, padding), &|a| {
            conv::plain(&a[0], &a[1], Some(&a[2]), stride, padding)?.relu()
        })?;
    }
    Ok(())
}

/// Wide enough for Winograd's way: sides that are no multiple of a tile, tiles of several images in
/// a block and several blocks, each kind of padding.
#[test]
fn wide_convolution_equals_plain_candle() -> Result<()> {
    let uneven = Padding { top: 0, bottom: 2, left: 3, right: 1 };
    for (x, padding) in [
        ([5, 64, 33, 35], Padding::symmetric(1, 1)),
        ([1, 80, 34, 34], Padding::NONE),
        ([2, 64, 40, 29], uneven),
        ([1, 65, 4, 256], Padding::symmetric(1, 1)),
    ] {
        let v = vars(&[&x, &[70, x[1], 3, 3], &[70]])?;
        let name = format!("{x:?} {padding:?}");
        assert_twins(&name, &v, &|a| conv2d(&a[0], &a[1], Some(&a[2]), (1, 1), padding), &|a| {
            conv::plain(&a[0], &a[1], Some(&a[2]), (1, 1), padding)
        })?;
    }
    Ok(())
}

/// Both ways against sums in f64: Winograd's rounds more, but by less than an order of magnitude.
#[test]
fn wide_convolution_is_accurate() -> Result<()> {
    let (channels, side) = (256, 32);
    let (x, w) = (random(1, &[1, channels, side, side])?, random(2, &[64, channels, 3, 3])?);
    let same = Padding::symmetric(1, 1);
    let numbers = |t: Tensor| t.flatten_all()?.to_vec1::<f32>();
    let winograd = numbers(conv2d(&x, &w, None, (1, 1), same)?)?;
    // Too few output channels for Winograd.
    let direct = numbers(conv2d(&x, &w.narrow(0, 0, 32)?, None, (1, 1), same)?)?;
    let (x, w) = (x.squeeze(0)?.to_vec3::<f32>()?, w.flatten_from(2)?.to_vec3::<f32>()?);
    let (mut off, mut largest) = ([0f64; 2], 0f64);
    for (c, i, j) in (0..32).step_by(5).flat_map(|c| (0..side * side).map(move |p| (c, p / side, p % side))) {
        let mut sum = 0f64;
        for (tap, (di, dj)) in (0..9).map(|tap| (tap, (tap / 3, tap % 3))) {
            let (Some(i), Some(j)) = ((i + di).checked_sub(1), (j + dj).checked_sub(1)) else { continue };
            if i < side && j < side {
                sum += (0..channels).map(|k| f64::from(x[k][i][j]) * f64::from(w[c][k][tap])).sum::<f64>();
            }
        }
        let at = (c * side + i) * side + j;
        off = [off[0].max((sum - f64::from(winograd[at])).abs()), off[1].max((sum - f64::from(direct[at])).abs())];
        largest = largest.max(sum.abs());
    }
    let [winograd, direct] = off.map(|off| off / largest);
    assert!(winograd < 3e-6 && winograd < 10.0 * direct, "off by {winograd:e}, the direct sum by {direct:e}");
    assert_ne!(winograd, direct, "both went the same way");
    Ok(())
}

#[test]
fn pools_equal_plain_candle() -> Result<()> {
    for pool in [Pool::Average, Pool::Max, Pool::MaxHalving] {
        for shape in [[2, 3, 7, 9], [1, 2, 8, 3], [3, 1, 3, 3]] {
            let x = random(1, &shape)?;
            assert!(distance(&pool3x3(&x, pool)?, &avg_pool::plain(&x, pool)?)? < 1e-6, "{pool:?} {shape:?}");
        }
    }
    // A corner has four pixels inside.
    let x = Tensor::new(&[[[[1f32, 2.0], [3.0, 6.0]]]], &Device::Cpu)?;
    assert_eq!(pool3x3(&x, Pool::Average)?.flatten_all()?.to_vec1::<f32>()?, [3.0; 4]);
    assert!(pool3x3(&x, Pool::MaxHalving).is_err());
    Ok(())
}

#[test]
fn convolution_takes_strided_inputs() -> Result<()> {
    let v = vars(&[&[5, 2, 6, 3], &[3, 4, 3, 3]])?;
    let same = Padding::symmetric(1, 1);
    assert_twins(
        "strided",
        &v,
        &|a| {
            conv2d(&a[0].transpose(0, 3)?.narrow(1, 0, 2)?.transpose(1, 3)?.narrow(1, 1, 4)?, &a[1], None, (1, 1), same)
        },
        &|a| {
            let x = a[0].transpose(0, 3)?.narrow(1, 0, 2)?.transpose(1, 3)?.narrow(1, 1, 4)?.contiguous()?;
            conv::plain(&x, &a[1], None, (1, 1), same)
        },
    )
}

#[test]
fn impossible_convolutions_are_refused() -> Result<()> {
    let (x, w) = (random(0, &[1, 2, 4, 4])?, random(1, &[1, 3, 3, 3])?);
    let text = conv2d(&x, &w, None, (1, 1), Padding::NONE).unwrap_err().to_string();
    assert!(text.contains("needs 3 input channels"), "{text}");
    let w = random(1, &[1, 2, 5, 5])?;
    let text = conv2d(&x, &w, None, (1, 1), Padding::NONE).unwrap_err().to_string();
    assert!(text.contains("does not fit"), "{text}");
    assert!(conv2d(&x, &w, None, (0, 1), Padding::symmetric(1, 1)).is_err());
    Ok(())
}

#[test]
fn group_norm_equals_plain_candle() -> Result<()> {
    for activation in [Activation::None, Activation::Silu] {
        for (shape, groups) in [([2, 6, 5, 7], 3), ([3, 4, 1, 1], 2), ([1, 8, 33, 41], 1), ([2, 5, 3, 3], 5)] {
            let v = vars(&[&shape, &[shape[1]], &[shape[1]]])?;
            assert_twins(
                &format!("{shape:?} {groups} {activation:?}"),
                &v,
                &|a| group_norm(&a[0], &a[1], &a[2], groups, 1e-5, activation),
                &|a| group_norm::plain(&a[0], &a[1], &a[2], groups, 1e-5, activation),
            )?;
        }
    }
    Ok(())
}

#[test]
fn upsampling_equals_plain_candle() -> Result<()> {
    for shape in [[2, 3, 4, 5], [1, 1, 1, 1], [3, 2, 7, 1]] {
        let v = vars(&[&shape])?;
        assert_twins(&format!("{shape:?}"), &v, &|a| upsample::upsample2x(&a[0]), &|a| upsample::plain(&a[0]))?;
    }
    Ok(())
}

/// Central differences of the fused kernels, which no mistake shared with the twin can hide.
#[test]
fn gradients_equal_finite_differences() -> Result<()> {
    let v = vars(&[&[2, 3, 5, 4], &[4, 3, 3, 3], &[4], &[4], &[4]])?;
    let f = |a: &[Tensor]| {
        let y = conv2d(&a[0], &a[1], Some(&a[2]), (2, 2), DOWN)?;
        upsample::upsample2x(&group_norm(&y, &a[3], &a[4], 2, 1e-2, Activation::Silu)?)
    };
    let (y, grads) = probe(&v, &f)?;
    let functional = random(99, y.dims())?;
    for (k, (var, grad)) in v.iter().zip(&grads).enumerate() {
        let (base, grad) = (var.flatten_all()?.to_vec1::<f32>()?, grad.flatten_all()?.to_vec1::<f32>()?);
        for i in (0..base.len()).step_by(base.len().div_ceil(8)) {
            let value = |h: f32| -> Result<f64> {
                let mut moved = base.clone();
                moved[i] += h;
                let mut args: Vec<Tensor> = v.iter().map(|v| v.as_tensor().clone()).collect();
                args[k] = Tensor::from_vec(moved, var.shape(), &Device::Cpu)?;
                let y = (f(&args)? * &functional)?.flatten_all()?.to_vec1::<f32>()?;
                Ok(y.into_iter().map(f64::from).sum())
            };
            let want = (value(1e-2)? - value(-1e-2)?) / 2e-2;
            let got = f64::from(grad[i]);
            assert!((want - got).abs() < 2e-2 * want.abs().max(1.0), "argument {k}, entry {i}: {got} {want}");
        }
    }
    Ok(())
}

#[test]
fn bits_do_not_depend_on_threads() -> Result<()> {
    let run = |threads: usize| -> Result<Vec<Vec<f32>>> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
        pool.install(|| {
            let v = vars(&[&[5, 6, 20, 20], &[8, 6, 3, 3], &[8], &[8], &[8]])?;
            let (y, mut grads) = probe(&v, &|a| {
                let y = conv2d(&a[0], &a[1], Some(&a[2]), (1, 1), Padding::symmetric(1, 1))?;
                group_norm(&y, &a[3], &a[4], 4, 1e-6, Activation::Silu)
            })?;
            grads.push(y);
            grads.iter().map(|g| g.flatten_all()?.to_vec1()).collect()
        })
    };
    assert_eq!(run(1)?, run(3)?);
    Ok(())
}

/// Neither on threads nor on the images beside.
#[test]
fn bits_of_a_wide_convolution_do_not_depend_on_the_batch() -> Result<()> {
    let (x, w) = (random(1, &[4, 64, 32, 32])?, random(2, &[64, 64, 3, 3])?);
    let run = |threads: usize, first: usize, count: usize| -> Result<Vec<f32>> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
        let x = x.narrow(0, first, count)?;
        pool.install(|| conv2d(&x, &w, None, (1, 1), Padding::symmetric(1, 1))?.flatten_all()?.to_vec1())
    };
    let whole = run(1, 0, 4)?;
    assert_eq!(whole, run(3, 0, 4)?);
    let size = whole.len() / 4;
    for i in 0..4 {
        assert_eq!(whole[i * size..(i + 1) * size], run(2, i, 1)?, "image {i}");
    }
    Ok(())
}
