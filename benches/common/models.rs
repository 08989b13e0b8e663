//! The models that the benches train and run, in the peers' shapes.

use fornax::models::{ResNet, ResNetConfig};
use fornax::nn::{self, Conv2d, Embedding, Forward, LayerNorm, Linear, Module};
use fornax::quant::{self, Format, Quantized};
use fornax::{Attention, Device, Result, Tensor};

/// A perceptron, 784-512-512-10.
pub fn mlp(d: Device) -> Result<nn::Sequential> {
    let layer = |i, o| Linear::try_new(i, o, d);
    Ok(nn::Sequential::new().add(layer(784, 512)?).add(nn::ReLU).add(layer(512, 512)?).add(nn::ReLU).add(layer(512, 10)?))
}

/// Two convolutions, a pool, two linear layers, for 28×28.
pub fn cnn(d: Device) -> Result<nn::Sequential> {
    let conv = |i, o| Ok(Conv2d::try_new(i, o, 3, d)?.padding(1));
    let features = nn::Sequential::new().add(conv(1, 32)?).add(nn::ReLU).add(conv(32, 64)?).add(nn::ReLU).add(nn::MaxPool2d::new(2));
    let head = features.add(nn::Flatten::default()).add(Linear::try_new(64 * 14 * 14, 128, d)?).add(nn::ReLU);
    Ok(head.add(Linear::try_new(128, 10, d)?))
}

/// ResNet-18 with a 3×3 stem and ten classes, for 32×32.
pub fn resnet18(d: Device) -> Result<ResNet> {
    ResNet::try_new(ResNetConfig::resnet18().small_stem(true).num_classes(10), d)
}

/// An LSTM over [B, T, features] whose last output is classified.
#[derive(Module)]
pub struct Recurrent {
    lstm: nn::LSTM,
    head: Linear,
}

impl Recurrent {
    /// With ten classes.
    pub fn new(inputs: usize, hidden: usize, d: Device) -> Result<Recurrent> {
        Ok(Recurrent { lstm: nn::LSTM::try_new(inputs, hidden, d)?.batch_first(), head: Linear::try_new(hidden, 10, d)? })
    }
}

impl Forward for Recurrent {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.head.forward(&self.lstm.forward(x, None)?.0.try_select(1, -1)?)
    }
}

/// The sizes of a [`Gpt`].
#[derive(Clone, Copy)]
pub struct GptSize {
    pub layers: usize,
    pub width: usize,
    pub heads: usize,
    pub length: usize,
    pub vocabulary: usize,
}

#[derive(Module)]
struct Block {
    ln1: LayerNorm,
    qkv: Linear,
    out: Linear,
    ln2: LayerNorm,
    up: Linear,
    down: Linear,
    heads: usize,
}

/// A decoder of transformer blocks, from ids [B, T] to logits [B, T, V].
#[derive(Module)]
pub struct Gpt {
    tokens: Embedding,
    positions: Embedding,
    blocks: Vec<Block>,
    ln: LayerNorm,
    head: Linear,
}

impl Gpt {
    /// A model of this size; `positions` is a second table.
    pub fn new(s: GptSize, d: Device) -> Result<Gpt> {
        let w = s.width;
        let block = |_| -> Result<Block> {
            Ok(Block {
                ln1: LayerNorm::try_new(w, d)?,
                qkv: Linear::try_new(w, 3 * w, d)?,
                out: Linear::try_new(w, w, d)?,
                ln2: LayerNorm::try_new(w, d)?,
                up: Linear::try_new(w, 4 * w, d)?,
                down: Linear::try_new(4 * w, w, d)?,
                heads: s.heads,
            })
        };
        Ok(Gpt {
            tokens: Embedding::try_new(s.vocabulary, w, d)?,
            positions: Embedding::try_new(s.length, w, d)?,
            blocks: (0..s.layers).map(block).collect::<Result<_>>()?,
            ln: LayerNorm::try_new(w, d)?,
            head: Linear::try_new(w, s.vocabulary, d)?.no_bias(),
        })
    }
}

impl Forward for Block {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (b, t, w) = (x.dims()[0], x.dims()[1], x.dims()[2]);
        let heads = |y: &Tensor| y.try_reshape([b, t, self.heads, w / self.heads])?.try_transpose(1, 2);
        let qkv = self.qkv.forward(&self.ln1.forward(x)?)?.try_chunk(3, -1)?;
        let options = Attention { causal: true, ..Attention::default() };
        let y = heads(&qkv[0])?.try_scaled_dot_product_attention(&heads(&qkv[1])?, &heads(&qkv[2])?, &options)?;
        let x = x.try_add(&self.out.forward(&y.try_transpose(1, 2)?.try_reshape([b, t, w])?)?)?;
        x.try_add(&self.down.forward(&self.up.forward(&self.ln2.forward(&x)?)?.try_gelu()?)?)
    }
}

impl Forward for Gpt {
    fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let positions = self.positions.weight.get().try_narrow(0, 0, ids.dims()[1])?;
        let mut x = self.tokens.forward(ids)?.try_add(&positions)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        self.head.forward(&self.ln.forward(&x)?)
    }
}

/// A matrix of a [`Llama`].
enum Matrix {
    Dense(Tensor),
    Quantised(Quantized),
}

impl Matrix {
    fn of(self: &Matrix, x: &Tensor) -> Result<Tensor> {
        match self {
            Matrix::Dense(w) => x.try_linear(w, None),
            Matrix::Quantised(w) => x.try_qmatmul(w),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Matrix::Dense(w) => 4 * w.numel(),
            Matrix::Quantised(w) => w.bytes(),
        }
    }
}

/// One layer's weights of a [`Llama`].
struct LlamaLayer {
    norm1: Tensor,
    norm2: Tensor,
    q: Matrix,
    k: Matrix,
    v: Matrix,
    o: Matrix,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
    keys: nn::Buffer,
    values: nn::Buffer,
}

/// A Llama-like decoder with a cache of keys and values: 12 layers of 768, 12 heads, 2048 in the middle, 32,000 words.
pub struct Llama {
    embedding: Tensor,
    out: Matrix,
    norm: Tensor,
    layers: Vec<LlamaLayer>,
    cos: Tensor,
    sin: Tensor,
}

impl Llama {
    pub const WIDTH: usize = 768;
    pub const LAYERS: usize = 12;
    pub const HEADS: usize = 12;
    pub const MIDDLE: usize = 2048;
    pub const VOCABULARY: usize = 32_000;
    const LENGTH: usize = 256;
    const HEAD: usize = Llama::WIDTH / Llama::HEADS;

    /// Random weights.
    pub fn new(d: Device) -> Result<Llama> {
        Llama::with(d, None)
    }

    /// Random weights, quantised.
    pub fn quantised(d: Device, format: Format) -> Result<Llama> {
        Llama::with(d, Some(format))
    }

    /// Bytes of the matrices that each token reads.
    pub fn bytes(&self) -> usize {
        let layer = |l: &LlamaLayer| [&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down].iter().map(|m| m.bytes()).sum::<usize>();
        self.layers.iter().map(layer).sum::<usize>() + self.out.bytes()
    }

    fn with(d: Device, format: Option<Format>) -> Result<Llama> {
        let dense = |rows: usize, cols: usize| -> Result<Tensor> {
            let w = Tensor::try_normal([rows, cols], 0.0, 0.02, d)?;
            w.eval()?;
            Ok(w)
        };
        let weight = |rows: usize, cols: usize| -> Result<Matrix> {
            let w = dense(rows, cols)?;
            Ok(match format {
                None => Matrix::Dense(w),
                Some(Format::Int8) => Matrix::Quantised(quant::int8(&w)?),
                Some(Format::Nf4 { block_size, double }) => Matrix::Quantised(quant::nf4(&w, block_size, double)?),
            })
        };
        let (w, m) = (Llama::WIDTH, Llama::MIDDLE);
        let cache = || Ok(nn::Buffer::new(Tensor::try_zeros([1, Llama::HEADS, Llama::LENGTH, Llama::HEAD], d)?));
        let layer = |_| -> Result<LlamaLayer> {
            Ok(LlamaLayer {
                norm1: Tensor::try_ones(w, d)?,
                norm2: Tensor::try_ones(w, d)?,
                q: weight(w, w)?,
                k: weight(w, w)?,
                v: weight(w, w)?,
                o: weight(w, w)?,
                gate: weight(m, w)?,
                up: weight(m, w)?,
                down: weight(w, m)?,
                keys: cache()?,
                values: cache()?,
            })
        };
        let half = Llama::HEAD / 2;
        let angle = |p: usize, i: usize| p as f64 / 10_000f64.powf(i as f64 / half as f64);
        let table = |f: fn(f64) -> f64| {
            let v: Vec<f32> = (0..Llama::LENGTH * half).map(|at| f(angle(at / half, at % half)) as f32).collect();
            Tensor::from_vec(v, [Llama::LENGTH, half], d)
        };
        Ok(Llama {
            embedding: dense(Llama::VOCABULARY, w)?,
            out: weight(Llama::VOCABULARY, w)?,
            norm: Tensor::try_ones(w, d)?,
            layers: (0..Llama::LAYERS).map(layer).collect::<Result<_>>()?,
            cos: table(f64::cos)?,
            sin: table(f64::sin)?,
        })
    }

    /// Rotates pairs (i, i + half) of each head by the angles of the positions from `p` on.
    fn rope(&self, x: &Tensor, p: usize) -> Result<Tensor> {
        let t = x.dims()[2];
        let (cos, sin) = (self.cos.try_narrow(0, p, t)?, self.sin.try_narrow(0, p, t)?);
        let parts = x.try_chunk(2, -1)?;
        let (a, b) = (&parts[0], &parts[1]);
        let (first, second) = (a.try_mul(&cos)?.try_sub(b.try_mul(&sin)?)?, b.try_mul(&cos)?.try_add(a.try_mul(&sin)?)?);
        Tensor::try_cat(&[&first, &second], -1)
    }

    /// The logits [1, V] after the ids [1, T], which stand at the positions from `p` on.
    pub fn forward(&self, ids: &Tensor, p: usize) -> Result<Tensor> {
        let (w, t) = (Llama::WIDTH, ids.dims()[1]);
        let heads = |y: Tensor| y.try_reshape([1, t, Llama::HEADS, Llama::HEAD])?.try_transpose(1, 2);
        let mut x = self.embedding.try_embedding(ids)?;
        for l in &self.layers {
            let y = x.try_rms_norm(w, Some(&l.norm1), 1e-5)?;
            let q = self.rope(&heads(l.q.of(&y)?)?, p)?;
            let k = self.rope(&heads(l.k.of(&y)?)?, p)?;
            let v = heads(l.v.of(&y)?)?;
            l.keys.update(|cache| cache.try_slice_assign_at(2, p, &k))?;
            l.values.update(|cache| cache.try_slice_assign_at(2, p, &v))?;
            // The whole cache is handed over: what lies behind the position is causally hidden, so that one plan serves every position.
            let options = Attention { causal: true, position: p, ..Attention::default() };
            let a = q.try_scaled_dot_product_attention(&l.keys.get(), &l.values.get(), &options)?;
            x = x.try_add(l.o.of(&a.try_transpose(1, 2)?.try_reshape([1, t, w])?)?)?;
            let y = x.try_rms_norm(w, Some(&l.norm2), 1e-5)?;
            let y = l.gate.of(&y)?.try_silu()?.try_mul(l.up.of(&y)?)?;
            x = x.try_add(l.down.of(&y)?)?;
        }
        self.out.of(&x.try_select(1, -1)?.try_rms_norm(w, Some(&self.norm), 1e-5)?)
    }
}
