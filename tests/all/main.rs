//! All integration tests in one binary: building and linking several would cost more than running them.

mod align;
mod checkpoints;
mod data;
mod edges;
mod faults;
mod folders;
mod generation;
mod golden;
mod golden_cases;
mod golden_conv;
mod golden_display;
mod golden_layers;
mod golden_losses;
mod golden_norm;
mod golden_ops;
mod golden_rnn;
mod golden_special;
mod graphs;
mod harness;
mod indexing;
mod limits;
mod loaders;
mod lora;
mod lora_bad;
mod lr_scheduler;
mod metrics;
mod mixed_precision;
mod models;
mod models_small;
mod models_training;
mod modules;
mod ops_fused;
mod ops_images;
mod ops_movement;
mod ops_pointwise;
mod ops_products;
mod ops_quantised;
mod ops_reduce;
mod ops_values;
mod ops_views;
mod optim;
mod programs;
mod quantised;
#[cfg(feature = "image")]
mod readers;
mod reads;
mod registry;
mod regressions;
mod regressions_kit;
#[cfg(feature = "wgpu")]
mod shaders;
mod snapshots;
mod summaries;
#[cfg(feature = "text")]
mod text;
#[cfg(feature = "text")]
mod text_golden;
mod train_tools;
mod trainer;
mod trainer_numbers;
mod training;
mod transformers;
mod transformers_bad;
mod transforms;
