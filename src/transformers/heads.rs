//! Encoders with a head for a task.

use super::encoder::EncoderFamily;
use super::{Activation, Checkpoint, Config, Encoder, LoadOptions, Tokens, blank};
use crate::nn::{Dropout, Forward, LayerNorm, Module, Param, Slot, Tied, Walk};
use crate::{Error, Options, Result, Tensor};
use std::path::Path;

/// The constructors and the walk that all models of an encoder and a head have.
macro_rules! models {
    ($($(#[$doc:meta])* $name:ident, $head:ident, $pooler:expr;)*) => { $(
        $(#[$doc])*
        pub struct $name {
            encoder: Encoder,
            head: $head,
            labels: Vec<String>,
        }

        impl $name {
            /// A new model of the family and sizes that the config gives, to be trained.
            ///
            /// # Errors
            /// A config of another family, or with sizes that cannot be.
            pub fn new(config: &Config, options: impl Into<Options>) -> Result<$name> {
                let model = $name::blank(config, options.into())?;
                blank::draw(&model, config.number("initializer_range", 0.02)?)?;
                Ok(model)
            }

            /// Loads a folder. In evaluation mode.
            ///
            /// # Errors
            /// As [`Checkpoint::open`] and [`Checkpoint::fill`]; another family's folder.
            pub fn load(folder: impl AsRef<Path>, options: impl Into<LoadOptions>) -> Result<$name> {
                $name::from_checkpoint(&Checkpoint::open(folder)?, &options.into())
            }

            /// As `load`, from an open checkpoint.
            ///
            /// # Errors
            /// As [`Checkpoint::fill`]; another family's folder.
            pub fn from_checkpoint(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<$name> {
                let mut model = $name::blank(checkpoint.config(), options.device.into())?;
                let own = model.head.own(&model, checkpoint)?;
                model.head.set_own(own, options.device.into())?;
                checkpoint.fill(&model, model.encoder.family().names().prefix, options)?;
                model.eval();
                Ok(model)
            }

            fn blank(config: &Config, o: Options) -> Result<$name> {
                let pooler: fn(EncoderFamily) -> bool = $pooler;
                let mut encoder = Encoder::blank(config, true, o)?;
                if !pooler(encoder.family()) {
                    encoder.pooler = None;
                }
                Ok($name { head: $head::blank(&encoder, config, o)?, labels: config.labels()?, encoder })
            }

            /// The encoder.
            pub fn encoder(&self) -> &Encoder {
                &self.encoder
            }

            /// The names of the classes, as config.json has them.
            pub fn labels(&self) -> &[String] {
                &self.labels
            }
        }

        impl Module for $name {
            fn walk(&self, walk: &mut Walk<'_>) {
                walk.module(stringify!($name));
                walk.field(self.encoder.family().names().prefix, |walk| self.encoder.walk(walk));
                self.head.walk(walk);
            }
        }
    )* };
}

/// What heads do when they are loaded.
trait Head {
    /// What the file has for the head itself although it is tied in the model.
    fn own(&self, _model: &dyn Module, _checkpoint: &Checkpoint) -> Result<Own> {
        Ok(Own::default())
    }

    /// Makes places for that.
    fn set_own(&mut self, _own: Own, _o: Options) -> Result<()> {
        Ok(())
    }
}

/// Which weights of a head are not those that they are tied to.
#[derive(Clone, Copy, Default)]
struct Own {
    table: bool,
    bias: bool,
}

impl Head for ClassifierHead {}
impl Head for TokenHead {}
impl Head for AnswerHead {}
impl Head for NextHead {}

models! {
    /// An encoder that says which token stands behind a mask.
    MaskedLm, MaskedHead, |_| false;
    /// An encoder that gives a text one of several classes, or one number.
    SequenceClassifier, ClassifierHead, |family| family == EncoderFamily::Bert;
    /// An encoder that gives each token one of several classes: named entities, parts of speech.
    TokenClassifier, TokenHead, |_| false;
    /// An encoder that finds the first and the last token of an answer.
    QuestionAnswerer, AnswerHead, |_| false;
    /// An encoder that says whether one sentence follows another (class 0) or not (class 1). BERT's only.
    NextSentence, NextHead, |_| true;
}

/// A transformation, and the product with the table of tokens.
struct MaskedHead {
    family: EncoderFamily,
    dense: Slot,
    activation: Activation,
    norm: LayerNorm,
    table: Tied,
    bias: Param,
    /// Whether the file has the bias of the decoder for itself.
    own_bias: bool,
}

impl MaskedHead {
    fn blank(encoder: &Encoder, config: &Config, o: Options) -> Result<MaskedHead> {
        let (family, shape) = (encoder.family(), encoder.shape());
        let (eps, default) = (config.eps("layer_norm_eps", 1e-12)?, "gelu");
        let table = Tied::new(&encoder.embedding().weight);
        if !config.flag("tie_word_embeddings", true)? {
            table.set_own(Some(Param::new(Tensor::try_zeros([shape.vocabulary, shape.width], o)?)));
        }
        Ok(MaskedHead {
            family,
            dense: blank::linear(shape.width, shape.width, true, o)?,
            activation: match family {
                EncoderFamily::Bert => Activation::named(config, "hidden_act", default)?,
                EncoderFamily::DistilBert => Activation::named(config, "activation", default)?,
                EncoderFamily::Roberta => Activation::Gelu,
            },
            norm: blank::layer_norm(shape.width, eps, o)?,
            table,
            bias: Param::new(Tensor::try_zeros(shape.vocabulary, o)?),
            own_bias: false,
        })
    }

    /// The names of dense layer, norm, table and bias, and the other name of the bias.
    fn names(&self) -> [&'static str; 5] {
        match self.family {
            EncoderFamily::Bert => [
                "cls.predictions.transform.dense",
                "cls.predictions.transform.LayerNorm",
                "cls.predictions.decoder.weight",
                "cls.predictions.bias",
                "cls.predictions.decoder.bias",
            ],
            EncoderFamily::Roberta => {
                ["lm_head.dense", "lm_head.layer_norm", "lm_head.decoder.weight", "lm_head.bias", "lm_head.decoder.bias"]
            }
            EncoderFamily::DistilBert => {
                let bias = "vocab_projector.bias";
                ["vocab_transform", "vocab_layer_norm", "vocab_projector.weight", bias, bias]
            }
        }
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.norm.forward(&self.activation.apply(&self.dense.forward(x)?)?)?;
        y.try_linear(&self.table.get(), Some(&self.bias.get()))
    }
}

impl Module for MaskedHead {
    fn walk(&self, walk: &mut Walk<'_>) {
        let [dense, norm, table, bias, decoder_bias] = self.names();
        walk.field(dense, |walk| self.dense.walk(walk));
        walk.field(norm, |walk| self.norm.walk(walk));
        walk.field(table, |walk| self.table.walk(walk));
        walk.field(if self.own_bias { decoder_bias } else { bias }, |walk| self.bias.walk(walk));
    }
}

impl Head for MaskedHead {
    fn own(&self, model: &dyn Module, checkpoint: &Checkpoint) -> Result<Own> {
        let (prefix, [_, _, table, bias, decoder_bias]) = (self.family.names().prefix, self.names());
        Ok(Own {
            table: self.table.own().is_none() && checkpoint.unties(model, prefix, self.table.other(), table)?,
            bias: checkpoint.has(prefix, decoder_bias)
                && (!checkpoint.has(prefix, bias) || checkpoint.unties(model, prefix, &self.bias, decoder_bias)?),
        })
    }

    fn set_own(&mut self, own: Own, o: Options) -> Result<()> {
        if own.table {
            let shape = self.table.other().shape();
            self.table.set_own(Some(Param::new(Tensor::try_zeros(shape, o)?)));
        }
        self.own_bias = own.bias;
        Ok(())
    }
}

impl MaskedLm {
    /// The logits of each place, `[B, T, vocabulary]`.
    ///
    /// # Errors
    /// As [`Encoder::forward`].
    pub fn forward(&self, tokens: &Tokens) -> Result<Tensor> {
        self.head.forward(&self.encoder.forward(tokens)?.last)
    }
}

/// What the classes of a [`SequenceClassifier`] are to each other: `problem_type` in config.json.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemType {
    /// They are numbers.
    Regression,
    /// One of them is right.
    SingleLabel,
    /// Each is right or wrong for itself.
    MultiLabel,
}

impl ProblemType {
    pub(super) fn of(config: &Config) -> Result<Option<ProblemType>> {
        Ok(match config.text("problem_type", "")? {
            "" => None,
            "regression" => Some(ProblemType::Regression),
            "single_label_classification" => Some(ProblemType::SingleLabel),
            "multi_label_classification" => Some(ProblemType::MultiLabel),
            other => {
                return Err(config.error(format!(
                    "problem_type is {other:?}: known are regression, single_label_classification and multi_label_classification"
                )));
            }
        })
    }
}

/// One or two linear layers on the first token.
struct ClassifierHead {
    family: EncoderFamily,
    first: Option<Slot>,
    last: Slot,
    dropout: Dropout,
    problem: Option<ProblemType>,
}

impl ClassifierHead {
    fn blank(encoder: &Encoder, config: &Config, o: Options) -> Result<ClassifierHead> {
        let (family, width) = (encoder.family(), encoder.shape().width);
        let default = match family {
            EncoderFamily::DistilBert => config.probability("seq_classif_dropout", 0.2)?,
            _ => config.probability("hidden_dropout_prob", 0.1)?,
        };
        Ok(ClassifierHead {
            family,
            first: if family == EncoderFamily::Bert { None } else { Some(blank::linear(width, width, true, o)?) },
            last: blank::linear(width, config.labels()?.len(), true, o)?,
            dropout: blank::dropout(config, "classifier_dropout", default)?,
            problem: ProblemType::of(config)?,
        })
    }
}

impl Module for ClassifierHead {
    fn walk(&self, walk: &mut Walk<'_>) {
        let (first, last) = match self.family {
            EncoderFamily::Roberta => ("classifier.dense", "classifier.out_proj"),
            _ => ("pre_classifier", "classifier"),
        };
        if let Some(f) = &self.first {
            walk.field(first, |walk| f.walk(walk));
        }
        walk.field(last, |walk| self.last.walk(walk));
        self.dropout.walk(walk);
    }
}

impl SequenceClassifier {
    /// What the classes are to each other, where config.json says so.
    pub fn problem_type(&self) -> Option<ProblemType> {
        self.head.problem
    }

    /// The logits `[B, classes]`.
    ///
    /// # Errors
    /// As [`Encoder::forward`].
    pub fn forward(&self, tokens: &Tokens) -> Result<Tensor> {
        let (head, out) = (&self.head, self.encoder.forward(tokens)?);
        let x = match out.pooled {
            Some(p) => p,
            None => out.last.try_select(1, 0)?,
        };
        let Some(first) = &head.first else { return head.last.forward(&head.dropout.forward(&x)?) };
        let x = match head.family {
            EncoderFamily::Roberta => first.forward(&head.dropout.forward(&x)?)?.try_tanh()?,
            _ => first.forward(&x)?.try_relu()?,
        };
        head.last.forward(&head.dropout.forward(&x)?)
    }
}

/// A linear layer on each token.
#[derive(Module)]
struct TokenHead {
    classifier: Slot,
    dropout: Dropout,
}

impl TokenHead {
    fn blank(encoder: &Encoder, config: &Config, o: Options) -> Result<TokenHead> {
        let default = config.probability("hidden_dropout_prob", config.probability("dropout", 0.1)?)?;
        let classifier = blank::linear(encoder.shape().width, config.labels()?.len(), true, o)?;
        Ok(TokenHead { classifier, dropout: blank::dropout(config, "classifier_dropout", default)? })
    }
}

impl TokenClassifier {
    /// The logits `[B, T, classes]`.
    ///
    /// # Errors
    /// As [`Encoder::forward`].
    pub fn forward(&self, tokens: &Tokens) -> Result<Tensor> {
        self.head.classifier.forward(&self.head.dropout.forward(&self.encoder.forward(tokens)?.last)?)
    }
}

/// Two numbers for each token.
#[derive(Module)]
struct AnswerHead {
    qa_outputs: Slot,
}

impl AnswerHead {
    fn blank(encoder: &Encoder, _config: &Config, o: Options) -> Result<AnswerHead> {
        Ok(AnswerHead { qa_outputs: blank::linear(encoder.shape().width, 2, true, o)? })
    }
}

impl QuestionAnswerer {
    /// The logits of an answer's first and last token, each `[B, T]`.
    ///
    /// # Errors
    /// As [`Encoder::forward`].
    pub fn forward(&self, tokens: &Tokens) -> Result<(Tensor, Tensor)> {
        let y = self.head.qa_outputs.forward(&self.encoder.forward(tokens)?.last)?;
        Ok((y.try_select(-1, 0)?, y.try_select(-1, 1)?))
    }
}

/// Two numbers for a pair of sentences.
#[derive(Module)]
struct NextHead {
    #[module(name = "cls.seq_relationship")]
    relation: Slot,
}

impl NextHead {
    fn blank(encoder: &Encoder, config: &Config, o: Options) -> Result<NextHead> {
        if encoder.pooler.is_none() {
            return Err(config.error("the next-sentence task is BERT's: other families were not trained for it"));
        }
        Ok(NextHead { relation: blank::linear(encoder.shape().width, 2, true, o)? })
    }
}

impl NextSentence {
    /// The logits `[B, 2]`: the second segment follows the first, or does not.
    ///
    /// # Errors
    /// As [`Encoder::forward`].
    pub fn forward(&self, tokens: &Tokens) -> Result<Tensor> {
        let pooled = self.encoder.forward(tokens)?.pooled;
        self.head.relation.forward(&pooled.ok_or_else(|| Error::argument("NextSentence", "the encoder has no pooler"))?)
    }
}
