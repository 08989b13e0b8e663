//! bitsandbytes' description of an NF4 weight: JSON beside its tensors.

use crate::{Error, Result};
use serde_json::Value;

/// What the tensors do not say.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct State {
    pub shape: [usize; 2],
    pub block_size: usize,
    /// The dtype of the weight before.
    pub dtype: String,
    /// The nested block size and the offset.
    pub nested: Option<(usize, f32)>,
}

/// A description is some 200 bytes long.
const LONGEST: usize = 1 << 16;

impl State {
    /// As Python's `json.dumps` writes it.
    pub fn to_json(&self) -> String {
        let [n, k] = self.shape;
        let mut json =
            format!(r#"{{"quant_type": "nf4", "blocksize": {}, "dtype": "{}", "shape": [{n}, {k}]"#, self.block_size, self.dtype);
        if let Some((block, offset)) = self.nested {
            json += &format!(r#", "nested_blocksize": {block}, "nested_dtype": "float32", "nested_offset": {:?}"#, offset as f64);
        }
        json + "}"
    }

    pub fn parse(json: &[u8]) -> Result<State> {
        let wrong = |what: String| Error::argument("quant_state", what);
        if json.len() > LONGEST {
            return Err(wrong(format!("{} bytes: a description of a weight has some 200", json.len())));
        }
        let all: Value = serde_json::from_slice(json).map_err(|e| wrong(format!("not JSON: {e}")))?;
        let size = |name: &str| -> Result<usize> {
            let n = all.get(name).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
            n.ok_or_else(|| wrong(format!("`{name}` is {}, must be a whole number", all.get(name).unwrap_or(&Value::Null))))
        };
        match all.get("quant_type").and_then(Value::as_str) {
            Some("nf4") => {}
            other => return Err(wrong(format!("quant_type is {other:?}, known is nf4"))),
        }
        let shape: Option<Vec<usize>> = all
            .get("shape")
            .and_then(Value::as_array)
            .and_then(|s| s.iter().map(|n| n.as_u64().and_then(|n| usize::try_from(n).ok())).collect());
        let Some(&[n, k]) = shape.as_deref() else {
            return Err(wrong(format!("`shape` is {}, must be [outputs, inputs]", all.get("shape").unwrap_or(&Value::Null))));
        };
        let nested = match all.get("nested_offset") {
            None => None,
            Some(v) => {
                let offset = v.as_f64().filter(|v| (*v as f32).is_finite());
                Some((size("nested_blocksize")?, offset.ok_or_else(|| wrong(format!("`nested_offset` is {v}, must be a number")))? as f32))
            }
        };
        let dtype = all.get("dtype").and_then(Value::as_str).unwrap_or("float32");
        if !["float32", "float16", "bfloat16"].contains(&dtype) {
            return Err(wrong(format!("`dtype` is {dtype:?}, must be float32, float16 or bfloat16")));
        }
        Ok(State { shape: [n, k], block_size: size("blocksize")?, dtype: dtype.to_string(), nested })
    }
}

#[cfg(test)]
mod tests {
    use super::State;

    #[test]
    fn descriptions_are_pythons() {
        let s = State { shape: [8, 128], block_size: 64, dtype: "float32".into(), nested: Some((256, 0.056_772_303)) };
        let json = r#"{"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [8, 128], "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.05677230283617973}"#;
        assert_eq!(s.to_json(), json);
        assert_eq!(State::parse(json.as_bytes()).unwrap(), s);
    }

    #[test]
    fn bad_descriptions_are_errors() {
        let cases = [
            ("", "JSON"),
            ("[]", "nf4"),
            (r#"{"quant_type": "fp4"}"#, "fp4"),
            (r#"{"quant_type": "nf4", "shape": [1, 2, 3], "blocksize": 64}"#, "outputs"),
            (r#"{"quant_type": "nf4", "shape": [-1, 2], "blocksize": 64}"#, "outputs"),
            (r#"{"quant_type": "nf4", "shape": [1, 2], "blocksize": "x"}"#, "blocksize"),
            (r#"{"quant_type": "nf4", "shape": [1, 2], "blocksize": 64, "nested_offset": null}"#, "nested"),
            (r#"{"quant_type": "nf4", "shape": [1, 2], "blocksize": 64, "dtype": "int3"}"#, "int3"),
        ];
        for (json, part) in cases {
            let e = State::parse(json.as_bytes()).unwrap_err().to_string();
            assert!(e.contains(part), "{json}: {e}");
        }
        assert!(State::parse(&vec![b' '; 1 << 20]).is_err());
    }
}
