//! Without CUDA there are no kernels of our own, and nothing here is ever called.

use candle_core::{Device, Result, Tensor};

use super::attention::{Look, Turn};

/// None exist.
pub(super) enum Kernels {}

impl Kernels {
    pub(super) fn of(_: &Device) -> Result<Option<Self>> {
        Ok(None)
    }

    pub(super) fn attend_with(_: usize, _: usize) -> bool {
        false
    }

    pub(super) fn add_norm(
        &self,
        _: (&Tensor, &Tensor),
        _: (&Tensor, f32),
    ) -> Result<(Tensor, Tensor)> {
        match *self {}
    }

    pub(super) fn product(&self, _: &Tensor, _: &Tensor) -> Result<Tensor> {
        match *self {}
    }

    pub(super) fn turn(
        &self,
        _: &Tensor,
        _: &Turn<'_>,
        _: f32,
        _: Option<&Tensor>,
    ) -> Result<Tensor> {
        match *self {}
    }

    pub(super) fn store(
        &self,
        _: (&Tensor, &Tensor),
        _: &Tensor,
        _: &Tensor,
        _: &Turn<'_>,
    ) -> Result<()> {
        match *self {}
    }

    pub(super) fn attend(&self, _: &Tensor, _: usize, _: &Tensor, _: &Look<'_>) -> Result<Tensor> {
        match *self {}
    }

    pub(super) fn soften(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: usize,
        _: (usize, Option<f32>),
    ) -> Result<Tensor> {
        match *self {}
    }

    pub(super) fn gated(&self, _: &Tensor, _: &Tensor) -> Result<Tensor> {
        match *self {}
    }
}
