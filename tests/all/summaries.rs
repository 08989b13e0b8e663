//! Summaries of models: shapes, parameters and multiply-adds of each layer, in the order in which they run.

use fornax::nn::{self, BatchNorm2d, Conv2d, Dropout, Flatten, Forward, LSTM, Linear, MaxPool2d, Module, ReLU, Sequential, Summary};
use fornax::{Device, Result, Tensor};

fn cnn(device: Device) -> Sequential {
    Sequential::new()
        .add_named("conv", Conv2d::new(3, 8, 3, device).padding(1))
        .add_named("norm", BatchNorm2d::new(8, device))
        .add_named("act", ReLU)
        .add_named("pool", MaxPool2d::new(2))
        .add_named("drop", Dropout::new(0.5))
        .add_named("flat", Flatten::default())
        .add_named("head", Linear::new(8 * 8 * 8, 10, device))
}

#[test]
fn layers_have_shapes_parameters_and_multiply_adds() -> Result<()> {
    for device in [Some(Device::cpu()), crate::harness::gpu()].into_iter().flatten() {
        let model = cnn(device);
        model.train();
        let before = model.state_dict()["norm.running_mean"].to_vec::<f32>()?;
        let summary = model.summary([2, 3, 16, 16])?;
        let layer = |path: &str| summary.layers.iter().find(|l| l.path == path).unwrap_or_else(|| panic!("no {path}:\n{summary}"));
        let conv = layer("conv");
        assert_eq!((conv.kind.as_str(), conv.output.to_string()), ("Conv2d", "[2, 8, 16, 16]".to_string()));
        assert_eq!((conv.parameters, conv.multiply_adds), (3 * 8 * 9 + 8, 2 * 16 * 16 * 8 * 27));
        assert_eq!((layer("norm").parameters, layer("norm").output.to_string()), (16, "[2, 8, 16, 16]".to_string()));
        let head = layer("head");
        assert_eq!((head.parameters, head.multiply_adds, head.output.to_string()), (5130, 2 * 512 * 10, "[2, 10]".to_string()));
        let order: Vec<&str> = summary.layers.iter().map(|l| l.path.as_str()).filter(|p| !p.is_empty()).collect();
        assert_eq!(order, ["conv", "norm", "head"]);
        // What has no parameters stands between, under the names of its ops.
        let between: Vec<&str> = summary.layers.iter().filter(|l| l.path.is_empty()).map(|l| l.kind.as_str()).collect();
        assert!(between.contains(&"relu") && between.iter().any(|op| op.contains("pool")), "{summary}");
        assert_eq!(summary.parameters, model.num_params());
        assert_eq!(summary.multiply_adds, conv.multiply_adds + head.multiply_adds);
        // f32 parameters and the two running statistics.
        assert_eq!(summary.parameter_bytes, 4 * (model.num_params() + 16));
        assert!(summary.activation_bytes >= 4 * (2 * 8 * 256 * 2 + 2 * 8 * 64 + 20), "{summary}");
        let text = summary.to_string();
        assert!(text.contains("5,370 parameters, 5,370 trained; 120,832 multiply-adds"), "{text}");
        // Nothing ran, and nothing has changed.
        assert_eq!(model.state_dict()["norm.running_mean"].to_vec::<f32>()?, before);
        model.freeze();
        assert_eq!(model.summary([1, 3, 16, 16])?.trained, 0);
        assert!(model.summary([1, 4, 16, 16]).is_err());
        let drop = model.forward(&Tensor::ones([2, 3, 16, 16], device))?;
        assert_eq!(drop.dims(), [2, 10]);
    }
    Ok(())
}

/// A block with a skip, a shared layer, and a layer that is called twice.
#[derive(Module)]
struct Odd {
    a: Linear,
    b: Linear,
    lstm: LSTM,
}

impl Forward for Odd {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.a.forward(x)?.try_relu()?;
        let y = self.a.forward(&y)?.try_add(x)?;
        let y = self.b.forward(&y)?.try_relu()?;
        Ok(self.lstm.forward(&y, None)?.0)
    }
}

#[test]
fn shared_layers_count_once_and_run_twice() -> Result<()> {
    let cpu = Device::cpu();
    let mut model = Odd { a: Linear::new(4, 4, cpu), b: Linear::new(4, 4, cpu), lstm: LSTM::new(4, 6, cpu) };
    model.b.weight = model.a.weight.clone();
    let summary = model.summary([3, 2, 4])?;
    assert_eq!(summary.parameters, model.num_params());
    assert_eq!(summary.layers.iter().map(|l| l.parameters).sum::<usize>(), model.num_params());
    // Three products with a 4×4 weight over 6 rows, and the LSTM's over 3 steps of 2 rows.
    assert_eq!(summary.multiply_adds, 3 * 6 * 16 + 6 * (4 * 6 * 4 + 4 * 6 * 6));
    assert!(summary.layers.iter().any(|l| l.path == "lstm" && l.kind == "LSTM"), "{summary}");
    // Whatever comes in.
    let ids = Tensor::zeros([2, 7], (fornax::DType::I32, cpu));
    let table = nn::Embedding::new(11, 5, cpu);
    let summary = Summary::of(&table, || table.forward(&ids))?;
    assert_eq!((summary.layers[0].parameters, &summary.layers[0].output[..]), (55, &[2, 7, 5][..]));
    assert!(Summary::of(&table, || table.forward(&Tensor::ones([2], cpu))).is_err());
    Ok(())
}
