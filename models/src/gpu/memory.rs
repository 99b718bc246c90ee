//! Keys and values of all sequences on the device, in pages of 16-bit floats.

use candle_core::{DType, Device, Result, Tensor};

use crate::decoder::config::DecoderConfig;
use crate::engine::PAGE;
use crate::engine::pages::PageMemory;

/// One tensor holds everything: layer by layer the keys' heads, then the values' heads; in a head, slot by slot.
pub(super) struct KvMemory {
    /// (layers · 2 · heads) × slots × columns.
    all: Tensor,
    /// A page's worth of nothing.
    empty: Tensor,
    heads: usize,
    pages: usize,
    /// Whether a page could not be wiped. Nothing is computed then any more.
    unwiped: bool,
}

impl KvMemory {
    /// Room for so many pages. One more follows them, which stays empty: what is looked at where there is nothing.
    pub(super) fn new(config: &DecoderConfig, pages: usize, device: &Device) -> Result<Self> {
        let heads = config.key_value_heads;
        let (all, columns) = (config.layers * 2 * heads, config.head_width);
        let zeros = |slots| Tensor::zeros((all, slots, columns), DType::F16, device);
        Ok(Self {
            all: zeros((pages + 1) * PAGE)?,
            empty: zeros(PAGE)?,
            heads,
            pages,
            unwiped: false,
        })
    }

    /// Bytes of so many pages.
    pub(super) fn byte_len(config: &DecoderConfig, pages: usize) -> u64 {
        let slot = (config.layers * 2 * config.key_value_width() * size_of::<u16>()) as u64;
        slot.saturating_mul((pages as u64 + 2) * PAGE as u64)
    }

    /// The page that stays empty.
    pub(super) fn empty_page(&self) -> u32 {
        self.pages as u32
    }

    /// Whether all that was to be wiped is.
    pub(super) fn is_sound(&self) -> bool {
        !self.unwiped
    }

    /// Stores a layer's keys and values (heads × rows × columns) in slots, one for each number that is stored.
    pub(super) fn store(
        &self,
        layer: usize,
        slots: &Tensor,
        keys: &Tensor,
        values: &Tensor,
    ) -> Result<()> {
        for (part, rows) in [(0, keys), (1, values)] {
            let rows = rows.to_dtype(DType::F16)?;
            self.part(layer, part)?.scatter_set(slots, &rows, 1)?;
        }
        Ok(())
    }

    /// A layer's keys in slots: heads × slots × columns, as 32-bit floats.
    pub(super) fn keys(&self, layer: usize, slots: &Tensor) -> Result<Tensor> {
        let found = self.part(layer, 0)?.index_select(slots, 1)?;
        found.to_dtype(DType::F32)
    }

    /// A layer's values in slots.
    pub(super) fn values(&self, layer: usize, slots: &Tensor) -> Result<Tensor> {
        let found = self.part(layer, 1)?.index_select(slots, 1)?;
        found.to_dtype(DType::F32)
    }

    /// All keys of a layer, heads × slots × columns, and its values behind them.
    pub(super) fn layer(&self, layer: usize) -> Result<Tensor> {
        self.all.narrow(0, layer * 2 * self.heads, 2 * self.heads)
    }

    fn part(&self, layer: usize, part: usize) -> Result<Tensor> {
        self.all
            .narrow(0, (layer * 2 + part) * self.heads, self.heads)
    }
}

impl PageMemory for KvMemory {
    fn len(&self) -> usize {
        self.pages
    }

    fn wipe(&mut self, page: u32) {
        let wiped = self.all.slice_set(&self.empty, 1, page as usize * PAGE);
        self.unwiped |= wiped.is_err();
    }
}
