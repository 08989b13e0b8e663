use fornax::*;
use std::time::Instant;
fn main() -> Result<()> {
    let cpu = Device::cpu();
    for n in [8000usize, 16000, 32000, 64000] {
        let b = stats();
        let t = Instant::now();
        let w = Tensor::try_eye(2, cpu)?;
        let x = Tensor::try_ones([2, 2], cpu)?.requires_grad();
        let mut y = x.clone();
        for _ in 0..n {
            y = y.try_matmul(&w)?;
        }
        let t1 = t.elapsed();
        let g = y.try_sum(())?.backward()?;
        let t2 = t.elapsed();
        g.get(&x).unwrap().eval()?;
        let s = stats().since(&b);
        println!("matmul {n}: {t1:?} {t2:?} {:?} flushes {} dispatches {} recorded {}", t.elapsed(), s.flushes, s.dispatches, s.recorded);
    }
    for n in [4000usize, 8000, 16000] {
        let b = stats();
        let t = Instant::now();
        let x = Tensor::scalar(0.5f64, cpu)?.requires_grad();
        let mut y = x.clone();
        for _ in 0..n {
            y = y.try_mul(1.00001)?.try_sin()?;
        }
        let g = grad(&[&y], &[&x])?[0].clone().unwrap();
        let h = grad(&[&g], &[&x])?[0].clone().unwrap();
        h.eval()?;
        let s = stats().since(&b);
        println!("second order {n}: {:?} flushes {} dispatches {} recorded {}", t.elapsed(), s.flushes, s.dispatches, s.recorded);
    }
    println!("{:?}", Tensor::from_slice(&[2.0f64, 4., 1., 1., 2., 0., 4., 8., 3.], [3, 3], cpu)?.det().item::<f64>()?);
    println!("{:?}", Tensor::try_zeros([64, 64], cpu)?.det().item::<f64>()?);
    println!("{:?}", Tensor::from_slice(&[1.0f64, 2., 3., 4.], [2, 2], cpu)?.det().item::<f64>()?);
    println!("{:?}", Tensor::from_slice(&[0.0f64, 2., 0., 0., 0., 3., 4., 0., 0.], [3, 3], cpu)?.det().item::<f64>()?);
    Ok(())
}
