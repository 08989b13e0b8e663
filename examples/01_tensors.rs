//! Tensors: making, computing, indexing, reading. `cargo run --example 01_tensors`

use fornax::{DType, Device, Result, Tensor, s};

fn main() -> Result<()> {
    let device = Device::from_env()?;

    // A tensor has a shape, a dtype and a device.
    let a = Tensor::from_vec(vec![1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], [2, 3], device)?;
    println!("{a}\n");

    // Operators work element by element, and stretch sizes of 1 as NumPy does.
    let row = Tensor::arange(0, 3, 1, device);
    println!("a * 10 + row =\n{}\n", &a * 10.0 + &row);

    // Reductions take axes; () stands for all of them.
    println!("sum {}  mean of columns {}  norm of rows {}\n", a.sum(()), a.mean(0), a.square().sum(1).sqrt());

    // Views cost nothing: they are another way to walk the same memory.
    println!("transposed:\n{}\nlast column: {}\nrows backward:\n{}\n", a.t(), a.index(s![.., -1]), a.flip(0));

    // Products.
    println!("a aᵀ =\n{}\n", a.matmul(&a.t()));

    // Masks and dtypes.
    let large = a.gt(2.5);
    println!("a > 2.5:\n{large}\nhow many: {}\n", large.cast(DType::I32).sum(()));

    // Nothing above ran before it was printed, and then only what the print needed, in as few kernels as possible.
    let x = Tensor::linspace(0.0, 1.0, 1_000_000, device);
    let y = ((&x * 3.0).sin() + 1.0).sqrt().sum(());
    println!("Σ √(sin 3x + 1) = {}", y.item::<f32>()?);

    // Wrong use panics at its line, or is an error that says what would have been right.
    println!("an error: {}", a.try_matmul(&a).unwrap_err());
    Ok(())
}
