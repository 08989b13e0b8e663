//! Multi-head attention and small models against PyTorch, with all their gradients, on both backends (`tests/golden/gen_models_small.py`).

use crate::golden::{Golden, on_all_devices};
use fornax::models::{Activation, Autoencoder, AutoencoderConfig, Likelihood, Mlp, MlpConfig, MlpNorm, Vae, ViTConfig, VisionTransformer};
use fornax::nn::{Forward, Module, MultiheadAttention};
use fornax::{Attention, Device, Result, Tensor};

fn model(g: &mut Golden, name: &str, model: impl Forward) {
    g.case(name, &model, &|x| Ok(vec![model.forward(&x[0])?]));
}

#[test]
fn small_models_as_pytorch() {
    on_all_devices("models_small", [5e-6, 2e-7, 1e-5], |g| {
        let o = g.options();
        model(g, "attention_self", MultiheadAttention::new(12, 3, o));
        model(g, "attention_self_flat", MultiheadAttention::new(12, 3, o).no_bias());
        let cross = MultiheadAttention::new(8, 2, o);
        g.case("attention_cross", &cross, &|x| Ok(vec![cross.attend(&x[0], &x[1], &x[2], &Attention::default())?]));
        let causal = MultiheadAttention::new(8, 4, o);
        g.case("attention_causal", &causal, &|x| Ok(vec![causal.self_attend(&x[0], &Attention { causal: true, ..Attention::default() })?]));

        let mlp = |config: MlpConfig| Mlp::new(config, o);
        model(g, "mlp", mlp(MlpConfig::new(5, &[7, 6, 3])));
        model(g, "mlp_batch_norm", mlp(MlpConfig::new(5, &[7, 3]).norm(Some(MlpNorm::BatchNorm)).activation(Activation::Tanh)));
        let config = MlpConfig::new(5, &[7, 6, 3]).norm(Some(MlpNorm::LayerNorm)).activation(Activation::SiLU).bias(false);
        model(g, "mlp_layer_norm", mlp(config));
        model(g, "mlp_one", mlp(MlpConfig::new(5, &[3])));

        let config = ViTConfig::vit_b_16().image_size(8).patch_size(4).num_layers(2).num_heads(2).hidden_dim(8).mlp_dim(12).num_classes(3);
        model(g, "vit", VisionTransformer::new(config, o));

        let image = [2, 8, 4];
        let (flat, conv) = (AutoencoderConfig::mlp(image, &[6, 5], 3), AutoencoderConfig::conv(image, &[3, 4], 3));
        model(g, "autoencoder", Autoencoder::new(flat.clone(), o));
        model(g, "autoencoder_conv", Autoencoder::new(conv.clone(), o));
        vae(g, "vae", Vae::new(flat, o), 1.0, 1.0);
        vae(g, "vae_conv", Vae::new(conv, o).likelihood(Likelihood::Gaussian), 0.5, 4.0);
    });
}

/// In evaluation mode, where nothing is drawn; images come as integers, of which each is `scale` bright.
fn vae(g: &mut Golden, name: &str, model: Vae, scale: f64, beta: f64) {
    model.eval();
    let dtype = g.options().0;
    g.case(name, &model, &|x| {
        let x = x[0].try_cast(dtype)?.try_mul(scale)?;
        let e = model.elbo(&x, beta)?;
        Ok(vec![Tensor::try_stack(&[&e.loss, &e.reconstruction, &e.kl], 0)?, model.forward(&x)?])
    });
}

#[test]
fn a_vae_draws_from_the_seeded_stream_and_its_gradients_are_those_of_the_draw() -> Result<()> {
    let cpu = Device::cpu();
    let model = Vae::new(AutoencoderConfig::mlp([1, 4, 4], &[8], 3), cpu);
    let x = Tensor::uniform([5, 1, 4, 4], 0.0, 1.0, cpu);
    let (mu, log_var) = model.encode(&x)?;
    let _seed = fornax::testing::seed(5);
    let z = model.reparameterise(&mu, &log_var)?.to_vec::<f32>()?;
    let _seed = fornax::testing::seed(5);
    let by_hand = &mu + (&log_var * 0.5).exp() * Tensor::normal([5, 3], 0.0, 1.0, cpu);
    assert_eq!(z, by_hand.to_vec::<f32>()?);
    assert_ne!(z, mu.to_vec::<f32>()?);
    // Over many draws the mean is μ and the deviation σ.
    let wide = |v: f64| Tensor::full([20_000, 1], v, cpu);
    let draws = model.reparameterise(&wide(2.0), &wide(2.0 * 0.5f64.ln()))?;
    assert!((draws.mean(()).item::<f64>()? - 2.0).abs() < 0.02);
    assert!((draws.std((), 1.0).item::<f64>()? - 0.5).abs() < 0.02);
    // dz/dμ = 1 and dz/d log σ² = ½ (z − μ).
    let (m, v) = (mu.detach().requires_grad(), log_var.detach().requires_grad());
    let z = model.reparameterise(&m, &v)?;
    let grads = z.sum(()).backward_retain()?;
    assert_eq!(grads.get(&m).unwrap().to_vec::<f32>()?, [1.0; 15]);
    let want = ((&z - &mu) * 0.5).to_vec::<f32>()?;
    assert!(grads.get(&v).unwrap().to_vec::<f32>()?.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6));
    let _seed = fornax::testing::seed(9);
    let first = model.sample(4)?.to_vec::<f32>()?;
    let _seed = fornax::testing::seed(9);
    assert_eq!(first, model.sample(4)?.to_vec::<f32>()?);
    assert!(first.iter().all(|p| (0.0..=1.0).contains(p)));
    Ok(())
}

#[test]
fn attention_drops_weights_in_training_only() -> Result<()> {
    let cpu = Device::cpu();
    let layer = MultiheadAttention::new(8, 2, cpu).dropout(0.5);
    let x = Tensor::normal([2, 6, 8], 0.0, 1.0, cpu);
    let run = || layer.forward(&x)?.to_vec::<f32>();
    assert_ne!(run()?, run()?);
    layer.eval();
    assert_eq!(run()?, run()?);
    for wrong in [
        MultiheadAttention::try_new(8, 3, cpu),
        MultiheadAttention::try_new(8, 0, cpu),
        MultiheadAttention::new(8, 2, cpu).try_dropout(1.5),
    ] {
        assert!(wrong.is_err());
    }
    let message = layer.forward(&Tensor::ones([2, 6, 7], cpu)).unwrap_err().to_string();
    assert!(message.contains("[2, 6, 7]"), "{message}");
    assert!(layer.forward(&Tensor::ones(8, cpu)).is_err());
    Ok(())
}
