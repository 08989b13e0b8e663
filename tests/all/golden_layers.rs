//! Layers against PyTorch's, forward and backward (`tests/golden/gen_layers.py`).

use crate::golden::{Golden, on_all_devices};
use fornax::nn::{self, Forward, Module};
use fornax::{Error, Interpolation, PadMode, Resize, Tensor};

/// A layer of one input and one output.
fn layer(g: &mut Golden, name: &str, layer: impl Forward) {
    g.case(name, &layer, &|x| Ok(vec![layer.forward(&x[0])?]));
}

/// The same in evaluation mode.
fn idle(g: &mut Golden, name: &str, module: impl Forward) {
    module.eval();
    layer(g, name, module)
}

#[test]
fn layers_as_pytorch() {
    on_all_devices("layers", [2e-6, 2e-7, 5e-6], |g| {
        let o = g.options();
        layer(g, "linear", nn::Linear::new(5, 3, o));
        for (name, module) in [("bilinear", nn::Bilinear::new(3, 4, 5, o)), ("bilinear_no_bias", nn::Bilinear::new(2, 3, 1, o).no_bias())] {
            g.case(name, &module, &|x| Ok(vec![module.forward(&x[0], &x[1])?]));
        }
        layer(g, "embedding", nn::Embedding::new(7, 3, o));
        layer(g, "embedding_padding", nn::Embedding::new(5, 3, o).padding_idx(2));

        layer(g, "conv1d", nn::Conv1d::new(4, 6, 3, o).stride(2).padding(1).groups(2));
        layer(g, "conv1d_same", nn::Conv1d::new(2, 3, 4, o).same().dilation(2));
        layer(g, "conv1d_circular", nn::Conv1d::new(2, 3, 3, o).padding(2).padding_mode(PadMode::Circular));
        layer(g, "conv2d", nn::Conv2d::new(2, 3, 3, o).padding(1));
        layer(g, "conv2d_depthwise", nn::Conv2d::new(3, 6, [3, 2], o).stride([1, 2]).padding([1, 0]).groups(3).no_bias());
        layer(g, "conv2d_dilated", nn::Conv2d::new(2, 3, 3, o).dilation(2).padding(2));
        layer(g, "conv2d_same", nn::Conv2d::new(2, 2, [2, 3], o).same());
        layer(g, "conv2d_reflect", nn::Conv2d::new(2, 2, 3, o).padding([2, 1]).padding_mode(PadMode::Reflect));
        layer(g, "conv2d_replicate", nn::Conv2d::new(2, 2, 3, o).padding([1, 2]).padding_mode(PadMode::Replicate).stride(2));
        layer(g, "conv2d_circular", nn::Conv2d::new(2, 2, 3, o).padding(1).padding_mode(PadMode::Circular));
        layer(g, "conv2d_same_reflect", nn::Conv2d::new(2, 2, [4, 3], o).same().padding_mode(PadMode::Reflect));
        layer(g, "conv_transpose1d", nn::ConvTranspose1d::new(4, 6, 3, o).stride(2).padding(1).output_padding(1).groups(2));
        layer(g, "conv_transpose2d", nn::ConvTranspose2d::new(2, 3, [3, 2], o).stride(2).padding(1).output_padding([1, 0]));
        layer(g, "conv_transpose2d_dilated", nn::ConvTranspose2d::new(2, 2, 2, o).dilation(2).no_bias());

        layer(g, "max_pool1d", nn::MaxPool1d::new(3).stride(2).padding(1).dilation(2).ceil_mode());
        layer(g, "max_pool2d", nn::MaxPool2d::new([3, 2]).stride([2, 1]).padding([1, 0]));
        layer(g, "avg_pool1d", nn::AvgPool1d::new(3).padding(1).exclude_pad());
        layer(g, "avg_pool2d", nn::AvgPool2d::new(3).stride(2).padding(1).ceil_mode());
        layer(g, "adaptive_avg_pool1d", nn::AdaptiveAvgPool1d::new(3));
        layer(g, "adaptive_max_pool1d", nn::AdaptiveMaxPool1d::new(3));
        layer(g, "adaptive_avg_pool2d", nn::AdaptiveAvgPool2d::new([2, 3]));
        layer(g, "adaptive_max_pool2d", nn::AdaptiveMaxPool2d::new([2, 3]));

        layer(g, "upsample", nn::Upsample::new(2.0));
        layer(g, "upsample_bilinear", nn::Upsample::new([5, 6]).mode(Interpolation::Bilinear).align_corners());
        layer(g, "pixel_shuffle", nn::PixelShuffle { factor: 2 });
        layer(g, "pixel_unshuffle", nn::PixelUnshuffle { factor: 2 });

        layer(g, "batch_norm1d", nn::BatchNorm1d::new(3, o));
        layer(g, "batch_norm1d_sequence", nn::BatchNorm1d::new(3, o).eps(1e-3).momentum(0.3));
        layer(g, "batch_norm2d", nn::BatchNorm2d::new(3, o));
        idle(g, "batch_norm2d_eval", nn::BatchNorm2d::new(3, o));
        let norm = nn::BatchNorm2d::new(2, o).momentum(None).no_affine();
        g.case("batch_norm2d_average", &norm, &|x| Ok(vec![norm.forward(&x[0])?, norm.forward(&x[0].try_mul(2.0)?)?]));
        layer(g, "layer_norm", nn::LayerNorm::new([3, 4], o));
        // PyTorch's epsilon is that of the dtype it computed in.
        layer(g, "rms_norm", nn::RMSNorm::new(6, o).eps(f64::EPSILON));
        layer(g, "group_norm", nn::GroupNorm::new(2, 6, o));
        layer(g, "instance_norm1d", nn::InstanceNorm1d::new(3, o).affine());
        layer(g, "instance_norm2d", nn::InstanceNorm2d::new(3, o));
        layer(g, "instance_norm2d_running", nn::InstanceNorm2d::new(3, o).affine().track_running_stats());
        idle(g, "instance_norm2d_eval", nn::InstanceNorm2d::new(3, o).track_running_stats());

        layer(g, "celu", nn::CELU { alpha: 1.5 });
        layer(g, "elu", nn::ELU { alpha: 1.5 });
        layer(g, "gelu", nn::GELU::default());
        layer(g, "gelu_tanh", nn::GELU { tanh: true });
        layer(g, "glu", nn::GLU::default());
        layer(g, "hardshrink", nn::Hardshrink::default());
        layer(g, "hardsigmoid", nn::Hardsigmoid);
        layer(g, "hardswish", nn::Hardswish);
        layer(g, "hardtanh", nn::Hardtanh { min: -0.5, max: 1.5 });
        layer(g, "leaky_relu", nn::LeakyReLU::default());
        layer(g, "log_sigmoid", nn::LogSigmoid::default());
        layer(g, "log_softmax", nn::LogSoftmax { axis: 1 });
        layer(g, "mish", nn::Mish);
        layer(g, "prelu", nn::PReLU::new(8, o));
        layer(g, "prelu_one", nn::PReLU::new(1, o));
        layer(g, "relu", nn::ReLU);
        layer(g, "relu6", nn::ReLU6::default());
        idle(g, "rrelu_eval", nn::RReLU::default());
        layer(g, "selu", nn::SELU);
        layer(g, "silu", nn::SiLU);
        layer(g, "sigmoid", nn::Sigmoid);
        layer(g, "softmax", nn::Softmax { axis: 0 });
        layer(g, "softmin", nn::Softmin { axis: 1 });
        layer(g, "softplus", nn::Softplus { beta: 2.0, ..nn::Softplus::default() });
        layer(g, "softshrink", nn::Softshrink::default());
        layer(g, "softsign", nn::Softsign);
        layer(g, "tanh", nn::Tanh);
        layer(g, "tanhshrink", nn::Tanhshrink::default());
        layer(g, "threshold", nn::Threshold { threshold: 0.3, value: -2.0 });

        layer(g, "upsample_bicubic", nn::Upsample::new(Resize::By([2.0, 1.5])).mode(Interpolation::Bicubic));
        layer(g, "upsample_linear", nn::Upsample::new([1, 7]).mode(Interpolation::Bilinear));
        layer(g, "upsample_nearest1d", nn::Upsample::new(2.0));
        layer(g, "conv1d_reflect", nn::Conv1d::new(2, 3, 3, o).padding(2).padding_mode(PadMode::Reflect));
        layer(g, "conv1d_replicate", nn::Conv1d::new(2, 3, 5, o).padding(2).padding_mode(PadMode::Replicate));
        layer(g, "conv_transpose2d_depthwise", nn::ConvTranspose2d::new(4, 4, 3, o).stride(2).groups(4));
        idle(g, "batch_norm2d_untracked", nn::BatchNorm2d::new(3, o).no_running_stats());
        layer(g, "group_norm_plain", nn::GroupNorm::new(3, 6, o).no_affine());
        layer(g, "rms_norm_plain", nn::RMSNorm::new([2, 3], o).eps(f64::EPSILON).no_affine());
        layer(g, "layer_norm_no_bias", nn::LayerNorm::new(5, o).no_bias());
        layer(g, "unflatten", nn::Unflatten::new(1, [2, 3]));
    });
}

#[test]
fn wrong_layers_are_errors_that_say_what_is_right() {
    let cpu = fornax::Device::cpu();
    let x = Tensor::ones([2, 4, 6, 6], cpu);
    let s = Tensor::ones([2, 4, 6], cpu);
    fn message<T>(r: Result<T, Error>) -> String {
        r.err().expect("an error").to_string()
    }
    let cases = [
        (message(nn::Conv2d::try_new(4, 6, 3, cpu).and_then(|c| c.try_groups(4))), "divisor of the 4 input and the 6 output"),
        (message(nn::Conv1d::try_new(4, 6, 3, cpu).and_then(|c| c.try_groups(0))), "groups = 0"),
        (message(nn::ConvTranspose2d::try_new(4, 6, 3, cpu).and_then(|c| c.try_groups(3))), "divisor"),
        (message(nn::Conv2d::try_new(4, 6, [3, 0], cpu)), "at least 1"),
        (message(nn::Conv1d::try_new(4, 6, 0, cpu)), "at least 1"),
        (message(nn::ConvTranspose1d::try_new(4, 6, 0, cpu)), "at least 1"),
        (message(nn::Conv2d::new(4, 6, 3, cpu).stride(0).forward(&x)), "at least 1"),
        (message(nn::Conv2d::new(4, 6, 3, cpu).stride(2).same().forward(&x)), "needs stride 1"),
        (message(nn::Conv2d::new(4, 6, 3, cpu).padding(6).padding_mode(PadMode::Reflect).forward(&x)), "pad"),
        (message(nn::Conv2d::new(3, 6, 3, cpu).forward(&x)), "input of 3 channels"),
        (message(nn::ConvTranspose2d::new(4, 6, 3, cpu).output_padding(1).forward(&x)), "less than the stride"),
        (message(nn::MaxPool2d::new(0).forward(&x)), "at least 1"),
        (message(nn::MaxPool1d::new(2).padding(2).forward(&s)), "half the kernel"),
        (message(nn::AvgPool2d::new(9).forward(&x)), "window's reach"),
        (message(nn::Dropout::try_new(1.1)), "0..=1"),
        (message(nn::Dropout2d::try_new(f64::NAN)), "0..=1"),
        (message(nn::Dropout2d::new(0.5).forward(&Tensor::ones([2, 3], cpu))), "[N, C, ..]"),
        (message(nn::GroupNorm::try_new(3, 4, cpu)), "3 groups"),
        (message(nn::InstanceNorm2d::new(3, cpu).forward(&x)), "C = 3"),
        (message(nn::InstanceNorm1d::new(4, cpu).forward(&Tensor::ones([2, 4, 1], cpu))), "more than one position"),
        (message(nn::Embedding::try_new(4, 2, cpu).and_then(|e| e.try_padding_idx(4))), "below 4"),
        (message(nn::PixelShuffle { factor: 3 }.forward(&x)), "multiple of 9"),
        (message(nn::PixelShuffle { factor: 0 }.forward(&x)), "at least 1"),
        (message(nn::PixelUnshuffle { factor: 4 }.forward(&x)), "multiples of 4"),
        (message(nn::Upsample::new(-1.0).forward(&x)), "positive"),
        (message(nn::Bilinear::try_new(0, 2, 3, cpu)), "at least 1"),
        (message(nn::Bilinear::new(1, 2, 3, cpu).forward(&x, &x)), "[.., 1] and [.., 2]"),
        (message(nn::GLU { axis: 7 }.forward(&x)), "axis 7"),
        (message(nn::Unflatten::new(1, [2, 3]).forward(&x)), "axis 1 of as many"),
        (message(nn::Unflatten::new(4, [2, 3]).forward(&x)), "axis 4"),
        (message(nn::GLU::default().forward(&Tensor::ones(3, cpu))), "even size"),
        (message(nn::PReLU::new(3, cpu).forward(&x)), "C = 3"),
        (message(nn::RReLU::new(0.5, 0.1).forward(&x)), "lower"),
        (message(nn::Sequential::new().add(nn::ReLU).replace("head", nn::ReLU)), "no layer head"),
    ];
    for (i, (got, want)) in cases.iter().enumerate() {
        assert!(got.contains(want), "case {i}: {got:?} does not say {want:?}");
    }
}

#[test]
fn dropout_drops_whole_channels() -> fornax::Result<()> {
    let x = Tensor::ones([16, 8, 3, 3], fornax::Device::cpu()).requires_grad();
    let drop = nn::Dropout2d::new(0.25);
    let y = drop.forward(&x)?;
    let sums = y.sum([2, 3]).to_vec::<f32>()?;
    assert!(sums.iter().all(|&s| s == 0.0 || (s - 12.0).abs() < 1e-5));
    let dropped = sums.iter().filter(|&&s| s == 0.0).count();
    assert!((10..60).contains(&dropped), "{dropped} of 128");
    let grads = y.sum(()).backward()?;
    assert_eq!(grads.get(&x).unwrap().sum([2, 3]).to_vec::<f32>()?, sums);
    drop.eval();
    assert_eq!(drop.forward(&x)?.to_vec::<f32>()?, [1.0; 16 * 8 * 9]);
    Ok(())
}
