//! What attention remembers between the tokens of a text, and where in the text a forward pass stands.

use super::tokens::integer;
use crate::nn::{Dropout, Embedding, Forward, Module};
use crate::{Attention, DType, Device, Error, Result, Tensor};

/// The keys and values of what a decoder has read, for each layer `[B, heads, capacity, width]`. The capacity doubles when it is full, and what lies behind
/// the length is hidden by the causal mask, so that a token needs no new plan; the update is in place. A layer whose tokens see a window of w tokens holds w
/// of them at most: the next one takes the place of the oldest.
///
/// Rows of a batch end together: shorter prompts are padded on the left.
///
/// ```
/// use fornax::transformers::KvCache;
/// let cache = KvCache::new();
/// assert_eq!((cache.len(), cache.capacity()), (0, 0));
/// ```
#[derive(Default)]
pub struct KvCache {
    layers: Vec<Option<(Tensor, Tensor)>>,
    cross: Vec<Option<(Tensor, Tensor)>>,
    len: usize,
    capacity: usize,
    /// The padding on the left of each row, `[B, 1]` in i32.
    pads: Option<Tensor>,
    /// The tokens of a [`Prefix`] before that.
    prefix: usize,
}

/// Keys and values that stand before every text, as if a model had read something: what prefix tuning learns. See [`CausalLm::set_prefix`](super::CausalLm::set_prefix).
pub trait Prefix: Module + Send + Sync {
    /// For each layer the keys and the values, each `[1, heads, n, width]`.
    ///
    /// # Errors
    /// What making them can give.
    fn layers(&self) -> Result<Vec<(Tensor, Tensor)>>;
}

/// The capacity that a cache starts with.
const FIRST: usize = 64;

impl KvCache {
    /// An empty cache for rows without padding.
    pub fn new() -> KvCache {
        KvCache::default()
    }

    /// An empty cache that holds so many tokens before it grows: a static one, if the text is no longer.
    pub fn with_capacity(capacity: usize) -> KvCache {
        KvCache { capacity, ..KvCache::default() }
    }

    /// An empty cache for rows whose first `pads[b]` tokens are padding.
    ///
    /// # Errors
    /// No memory.
    pub fn padded(pads: &[usize], device: Device) -> Result<KvCache> {
        let mut cache = KvCache::new();
        if pads.iter().any(|&p| p > 0) {
            let pads: Vec<i32> = pads.iter().map(|&p| integer(p as u32)).collect::<Result<_>>()?;
            let rows = pads.len();
            cache.pads = Some(Tensor::from_vec(pads, [rows, 1], device)?);
        }
        Ok(cache)
    }

    /// The number of tokens that it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number of tokens that fit before it grows.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Everything that it holds, to be evaluated with what is read: else each layer's update would be a root of its own.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.layers.iter().chain(&self.cross).flatten().flat_map(|(k, v)| [k, v])
    }

    /// Lets row `i` go on from what was row `rows[i]`, as a beam search does.
    ///
    /// # Errors
    /// No such row: an `Error::Index` when the result is read.
    pub fn reorder(&mut self, rows: &Tensor) -> Result<()> {
        for (k, v) in self.layers.iter_mut().chain(&mut self.cross).flatten() {
            let chosen = (k.try_index_select(0, rows)?, v.try_index_select(0, rows)?);
            (*k, *v) = chosen;
        }
        if let Some(p) = &mut self.pads {
            *p = p.try_index_select(0, rows)?;
        }
        Ok(())
    }

    /// Puts a prefix into an empty cache, for so many rows.
    pub(super) fn begin(&mut self, prefix: &[(Tensor, Tensor)], rows: usize) -> Result<()> {
        let n = prefix.first().map_or(0, |(k, _)| k.dims()[2]);
        self.reserve(n);
        for (i, (k, v)) in prefix.iter().enumerate() {
            let (k, v) = (for_rows(k, rows)?, for_rows(v, rows)?);
            self.update(i, 0, self.capacity, &k, &v)?;
        }
        (self.len, self.prefix) = (n, n);
        Ok(())
    }

    fn reserve(&mut self, more: usize) {
        if self.len + more > self.capacity {
            self.capacity = (self.len + more).next_power_of_two().max(FIRST);
        }
    }

    /// The window of a layer's tokens, where the cache holds no more than that. (What a prefix has put there, it holds in full.)
    fn ring(&self, window: Option<usize>) -> Option<usize> {
        window.filter(|&w| w > 0 && self.prefix == 0)
    }

    /// Writes the keys and values of the tokens from `start` on into a buffer of so many places, and gives all of them.
    fn update(&mut self, layer: usize, start: usize, capacity: usize, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        if self.layers.len() <= layer {
            self.layers.resize(layer + 1, None);
        }
        let held = self.layers[layer].clone();
        let write = |old: Option<Tensor>, new: &Tensor| -> Result<Tensor> {
            let mut shape = new.shape().clone();
            shape[2] = capacity;
            let blank = || Tensor::try_zeros(&shape, (new.dtype(), new.device()));
            let old = match old {
                None => blank()?,
                Some(t) if t.dims()[2] < capacity => blank()?.try_slice_assign_at(2, 0, &t)?,
                Some(t) => t,
            };
            if old.dims()[0] != shape[0] {
                let expected = format!("{} rows, as many as the cache holds", old.dims()[0]);
                return Err(Error::shape("KvCache", &[new.shape()], expected));
            }
            old.try_slice_assign_at(2, start, new)
        };
        let (old_k, old_v) = held.unzip();
        let now = (write(old_k, k)?, write(old_v, v)?);
        self.layers[layer] = Some(now.clone());
        Ok(now)
    }

    /// Adds several tokens from `start` on to a ring of `w` places, of which the last does not fit any more. Gives the keys and values that they look at: what
    /// the first of them sees of the ring, in order, and their own.
    fn turn(&mut self, layer: usize, start: usize, w: usize, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        if self.layers.len() <= layer {
            self.layers.resize(layer + 1, None);
        }
        let held = start.min(w - 1);
        let first = (start - held) % w;
        let turn = |old: Option<&Tensor>, new: &Tensor| -> Result<(Tensor, Tensor)> {
            let mut parts = Vec::new();
            if let Some(t) = old.filter(|_| held > 0) {
                let ahead = held.min(w - first);
                parts.push(t.try_narrow(2, first, ahead)?);
                if held > ahead {
                    parts.push(t.try_narrow(2, 0, held - ahead)?);
                }
            }
            parts.push(new.clone());
            let all = Tensor::try_cat(&parts.iter().collect::<Vec<_>>(), 2)?;
            let n = all.dims()[2];
            // Place p of the text lies at p mod w.
            let split = w - (start + new.dims()[2]) % w;
            let (older, newer) = (all.try_narrow(2, n - w, split)?, all.try_narrow(2, n - w + split, w - split)?);
            Ok((Tensor::try_cat(&[&newer, &older], 2)?, all))
        };
        let (old_k, old_v) = self.layers[layer].as_ref().map(|(k, v)| (k, v)).unzip();
        let ((ring_k, k), (ring_v, v)) = (turn(old_k, k)?, turn(old_v, v)?);
        self.layers[layer] = Some((ring_k, ring_v));
        Ok((k, v))
    }

    /// The keys and values of what a decoder looks at besides its own text: computed once.
    pub(super) fn cross(&mut self, layer: usize, make: impl FnOnce() -> Result<(Tensor, Tensor)>) -> Result<(Tensor, Tensor)> {
        if self.cross.len() <= layer {
            self.cross.resize(layer + 1, None);
        }
        if self.cross[layer].is_none() {
            self.cross[layer] = Some(make()?);
        }
        self.cross[layer].clone().ok_or_else(|| Error::argument("KvCache", "no keys"))
    }
}

/// The place of a forward pass: which tokens of the text it reads, what each of them may look at, and the cache, if there is one.
pub struct Step<'a> {
    pub(super) len: usize,
    pub(super) start: usize,
    /// Keys that attention sees: of the cache, or of this pass.
    pub(super) keys: usize,
    /// Positions `[B, T]` where rows differ.
    positions: Option<Tensor>,
    /// Keys that are no padding, `[B, 1, 1, keys]`.
    valid: Option<Tensor>,
    windowed: Option<(usize, Option<Tensor>)>,
    /// Keys and values of each layer that stand before those of this pass, where there is no cache.
    prefix: Vec<(Tensor, Tensor)>,
    pub(super) cache: Option<&'a mut KvCache>,
    pub(super) device: Device,
}

impl<'a> Step<'a> {
    /// A pass over `[B, len]` tokens; `mask` is `[B, 1, 1, T]`, for a pass without a cache.
    pub(super) fn new(len: usize, mask: Option<Tensor>, cache: Option<&'a mut KvCache>, device: Device) -> Result<Step<'a>> {
        let mut step =
            Step { len, start: 0, keys: len, positions: None, valid: mask, windowed: None, prefix: Vec::new(), cache: None, device };
        if let Some(cache) = cache {
            cache.reserve(len);
            (step.start, step.keys) = (cache.len, cache.capacity);
            if let Some(pads) = &cache.pads {
                let at = step.queries()?.try_unsqueeze(0)?.try_sub(pads)?;
                step.positions = Some(at.try_clamp(0, i32::MAX)?);
                let (places, prefix) = (step.places()?, cache.prefix);
                let mut valid = places.try_ge(pads.try_add(prefix)?)?;
                if prefix > 0 {
                    valid = valid.try_logical_or(places.try_lt(prefix)?)?;
                }
                step.valid = Some(valid.try_reshape([pads.dims()[0], 1, 1, step.keys])?);
            }
            step.cache = Some(cache);
        }
        Ok(step)
    }

    /// A pass without a cache after a prefix.
    pub(super) fn after(mut self, prefix: Vec<(Tensor, Tensor)>) -> Result<Step<'a>> {
        let n = prefix.first().map_or(0, |(k, _)| k.dims()[2]);
        if let Some(mask) = &self.valid {
            let mut shape = mask.shape().clone();
            shape[3] = n;
            self.valid = Some(Tensor::try_cat(&[&Tensor::try_ones(shape, (DType::Bool, self.device))?, mask], 3)?);
        }
        (self.start, self.keys, self.prefix) = (n, n + self.len, prefix);
        Ok(self)
    }

    /// A pass over rows `[B, len]` of several texts each, numbered by `segments` (0 is padding): a token sees its own text alone, and its position is that within it.
    pub(super) fn packed(segments: &Tensor) -> Result<Step<'a>> {
        let (op, expected) = ("CausalLm::forward_packed", "segments [B, T]: integers, the number of each token's text in its row");
        let &[b, t] = segments.dims() else { return Err(Error::shape(op, &[segments.shape()], expected)) };
        if !segments.dtype().is_int() {
            return Err(Error::dtype(op, &[segments.dtype()], expected));
        }
        let mut step = Step::new(t, None, None, segments.device())?;
        step.valid = Some(segments.try_reshape([b, 1, t, 1])?.try_eq(segments.try_reshape([b, 1, 1, t])?)?);
        let places = step.queries()?.try_unsqueeze(0)?;
        // A text begins where the number changes; the latest beginning is that of a token's own text.
        let (now, before) = (segments.try_narrow(1, t.min(1), t.saturating_sub(1))?, segments.try_narrow(1, 0, t.saturating_sub(1))?);
        let changes = now.try_ne(&before)?.try_where(places.try_narrow(1, t.min(1), t.saturating_sub(1))?, 0)?;
        let first = Tensor::try_zeros([b, t.min(1)], (DType::I32, step.device))?;
        let (begins, _) = Tensor::try_cat(&[&first, &changes], 1)?.try_cummax(1)?;
        // Padding may be longer than a table of positions.
        step.positions = Some(segments.try_ne(0)?.try_where(places.try_sub(begins)?, 0)?);
        Ok(step)
    }

    /// The vectors of a table of positions for the tokens: `[1 or B, T, width]`.
    ///
    /// # Errors
    /// A table of fewer places.
    pub fn positions(&self, table: &Embedding) -> Result<Tensor> {
        if table.hook.get().is_none() {
            return self.rows(&table.weight.get());
        }
        match &self.positions {
            Some(p) => table.forward(p),
            None => table.forward(&self.queries()?)?.try_unsqueeze(0),
        }
    }

    /// The rows of a table `[places, ..]` for the tokens: `[1 or B, T, ..]`.
    ///
    /// # Errors
    /// A table of fewer places.
    pub fn rows(&self, table: &Tensor) -> Result<Tensor> {
        if let Some(p) = &self.positions {
            return table.try_embedding(p);
        }
        let slice = table.try_narrow(0, self.start, self.len)?;
        // A slice that does not begin where a GPU can bind it is another plan for each token: from the second pass on the places are data.
        let rows = if self.start == 0 { slice } else { table.try_embedding(&self.queries()?)? };
        rows.try_unsqueeze(0)
    }

    /// The places of the tokens of this pass, `[T]`.
    ///
    /// # Errors
    /// No memory.
    pub fn queries(&self) -> Result<Tensor> {
        let from = self.start as i64;
        Tensor::try_arange(from, from + self.len as i64, 1, (DType::I32, self.device))
    }

    /// The places of the keys that attention sees, `[keys]`.
    ///
    /// # Errors
    /// No memory.
    pub fn places(&self) -> Result<Tensor> {
        Tensor::try_arange(0, self.keys as i64, 1, (DType::I32, self.device))
    }

    /// The positions of the keys, each within its text, `[1 or B, keys]`.
    ///
    /// # Errors
    /// No memory.
    pub fn key_positions(&self) -> Result<Tensor> {
        let places = self.places()?.try_unsqueeze(0)?;
        match (&self.cache, &self.positions, &self.valid) {
            (Some(c), ..) => match &c.pads {
                Some(pads) => places.try_lt(c.prefix)?.try_where(&places, places.try_sub(pads)?.try_clamp(0, i32::MAX)?),
                None => Ok(places),
            },
            (None, Some(p), _) if p.dims()[1] == self.keys => Ok(p.clone()),
            (None, None, Some(v)) if v.dims()[1..] == [1, 1, self.keys] => {
                let real = v.try_cast(DType::I32)?.try_reshape([v.dims()[0], self.keys])?;
                real.try_cumsum(1)?.try_sub(1)?.try_clamp(0, i32::MAX)
            }
            _ => Ok(places),
        }
    }

    /// What a token may look at, besides what the causal rule hides: the same for all layers of one window.
    fn mask(&mut self, window: Option<usize>, ring: Option<usize>) -> Result<Option<Tensor>> {
        let Some(w) = window.filter(|&w| w < self.start + self.len || ring.is_some()) else { return Ok(self.valid.clone()) };
        if let Some((known, mask)) = &self.windowed
            && *known == w
        {
            return Ok(mask.clone());
        }
        let mask = match ring {
            Some(w) => self.ring_mask(w)?,
            None => {
                let near = self.near(w, &self.places()?)?;
                Some(self.valid.as_ref().map_or(Ok(near.clone()), |valid| near.try_logical_and(valid))?)
            }
        };
        self.windowed = Some((w, mask.clone()));
        Ok(mask)
    }

    /// Whether a key at one of these places lies in a token's window, `[1, 1, T, keys]`.
    fn near(&self, w: usize, places: &Tensor) -> Result<Tensor> {
        let oldest = self.queries()?.try_sub(w)?.try_unsqueeze(1)?;
        places.try_unsqueeze(0)?.try_gt(&oldest)?.try_reshape([1, 1, self.len, places.numel()])
    }

    fn ring_mask(&self, w: usize) -> Result<Option<Tensor>> {
        let pads = self.cache.as_ref().and_then(|c| c.pads.as_ref());
        let valid = |places: &Tensor| -> Result<Option<Tensor>> {
            pads.map(|p| places.try_ge(p)?.try_reshape([p.dims()[0], 1, 1, places.numel()])).transpose()
        };
        let end = self.start + self.len;
        if end <= w {
            return self.valid.as_ref().map(|v| v.try_narrow(3, 0, w.min(self.keys))).transpose();
        }
        if self.len == 1 {
            // Place s of the ring holds the latest place of the text that is s more than a multiple of w.
            let back =
                Tensor::try_arange(0, w as i64, 1, (DType::I32, self.device))?.try_neg()?.try_add(self.start as i64)?.try_rem(w as i64)?;
            return valid(&back.try_neg()?.try_add(self.start as i64)?);
        }
        let first = self.start - self.start.min(w - 1);
        let places = Tensor::try_arange(first as i64, end as i64, 1, (DType::I32, self.device))?;
        let near = self.near(w, &places)?;
        Ok(Some(valid(&places)?.map_or(Ok(near.clone()), |v| near.try_logical_and(v))?))
    }

    /// Causal attention of a layer: q `[B, H, T, D]`, k and v `[B, G, T, D]`; the result is `[B, T, H·D]`.
    ///
    /// # Errors
    /// Shapes that do not belong together.
    pub fn attend(&mut self, layer: usize, q: &Tensor, k: &Tensor, v: &Tensor, how: &Attend) -> Result<Tensor> {
        let ring = self.cache.as_ref().and_then(|c| c.ring(how.window)).filter(|_| how.bias.is_none());
        let (start, end) = (self.start, self.start + self.len);
        let mut position = start;
        let (k, v) = match (&mut self.cache, ring) {
            (Some(c), None) => c.update(layer, start, c.capacity, k, v)?,
            (Some(c), Some(w)) if end <= w => c.update(layer, start, w.min(c.capacity), k, v)?,
            (Some(c), Some(w)) if self.len == 1 => {
                position = w - 1;
                c.update(layer, start % w, w, k, v)?
            }
            (Some(c), Some(w)) => {
                position = start.min(w - 1);
                c.turn(layer, start, w, k, v)?
            }
            (None, _) => match self.prefix.get(layer) {
                Some((pk, pv)) => {
                    let rows = k.dims()[0];
                    (Tensor::try_cat(&[&for_rows(pk, rows)?, k], 2)?, Tensor::try_cat(&[&for_rows(pv, rows)?, v], 2)?)
                }
                None => (k.clone(), v.clone()),
            },
        };
        let dropout = how.dropout.map_or(0.0, Dropout::rate);
        let mask = self.mask(how.window, ring)?;
        let options = Attention { mask, bias: how.bias.cloned(), causal: true, position, scale: how.scale, dropout };
        merged(&q.try_scaled_dot_product_attention(&k, &v, &options)?)
    }

    /// The tokens of this pass are in the cache.
    pub(super) fn finish(self) {
        if let Some(c) = self.cache {
            c.len += self.len;
        }
    }
}

/// The options of [`Step::attend`].
#[derive(Clone, Copy, Default)]
pub struct Attend<'a> {
    /// A token sees so many tokens, itself among them.
    pub window: Option<usize>,
    /// Numbers that broadcast to `[B, H, T, keys]` and are added to the scores.
    pub bias: Option<&'a Tensor>,
    /// The factor of the scores; 1/√D if not given.
    pub scale: Option<f64>,
    /// Drops weights in training.
    pub dropout: Option<&'a Dropout>,
}

/// Keys or values `[1, H, n, D]` for each row of a batch.
fn for_rows(t: &Tensor, rows: usize) -> Result<Tensor> {
    let mut shape = t.shape().clone();
    shape[0] = rows;
    t.try_broadcast_to(shape)
}

/// `[B, T, H·D]` as heads `[B, H, T, D]`.
pub(super) fn split(x: &Tensor, heads: usize) -> Result<Tensor> {
    let &[b, t, w] = x.dims() else {
        return Err(Error::shape("attention", &[x.shape()], "states [B, T, W]"));
    };
    x.try_reshape([b, t, heads, w / heads.max(1)])?.try_transpose(1, 2)
}

/// Heads `[B, H, T, D]` as `[B, T, H·D]`.
pub(super) fn merged(x: &Tensor) -> Result<Tensor> {
    let &[b, h, t, d] = x.dims() else {
        return Err(Error::shape("attention", &[x.shape()], "heads [B, H, T, D]"));
    };
    x.try_transpose(1, 2)?.try_reshape([b, t, h * d])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As transformers' `(attention_mask.cumsum(-1) - 1) * attention_mask` gives them where they count.
    #[test]
    fn positions_of_keys_begin_with_the_text() -> Result<()> {
        let cpu = Device::cpu();
        let mut cache = KvCache::padded(&[0, 2], cpu)?;
        let step = Step::new(4, None, Some(&mut cache), cpu)?;
        let positions = step.key_positions()?;
        assert_eq!(positions.dims(), [2, FIRST]);
        let rows = positions.to_vec::<i32>()?;
        assert_eq!((&rows[..4], &rows[FIRST..FIRST + 5]), (&[0, 1, 2, 3][..], &[0, 0, 0, 1, 2][..]));
        let packed = Step::packed(&Tensor::from_slice(&[1i32, 1, 1, 2, 2, 0], [1, 6], cpu)?)?;
        assert_eq!(packed.key_positions()?.to_vec::<i32>()?, [0, 1, 2, 0, 1, 0]);
        let mask = Tensor::from_slice(&[0i32, 1, 1], [1, 1, 1, 3], cpu)?.try_ne(0)?;
        assert_eq!(Step::new(3, Some(mask), None, cpu)?.key_positions()?.to_vec::<i32>()?, [0, 0, 1]);
        assert_eq!(Step::new(3, None, None, cpu)?.key_positions()?.to_vec::<i32>()?, [0, 1, 2]);
        Ok(())
    }
}
